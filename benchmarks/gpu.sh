#!/usr/bin/env bash
# Measures on a machine with one large GPU, within 8 minutes: bash benchmarks/gpu.sh [--help]
# The active Python is used as it is, with whatever packages it has: nothing is installed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Segments that grow keep the search's many sizes from fragmenting the memory.
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-expandable_segments:True}"
export HF_HUB_OFFLINE=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python="$(command -v python || command -v python3)"
exec "$python" -m benchmarks.gpu.gpu "$@"
