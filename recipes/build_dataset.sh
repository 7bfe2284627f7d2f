#!/usr/bin/env bash
# The public sources' raw files -> clean documents: bash recipes/build_dataset.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m recipes.build_dataset "$@"
