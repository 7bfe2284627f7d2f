#!/usr/bin/env bash
# Your own text -> clean documents -> token store: bash recipes/build_text.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m recipes.build_text "$@"
