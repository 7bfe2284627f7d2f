#!/usr/bin/env bash
# The whole main job on this machine: text -> tokenizer -> token store -> pre-training -> Hugging
# Face model -> generated sample. `bash recipes/quickstart.sh --help` lists the options.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m recipes.quickstart "$@"
