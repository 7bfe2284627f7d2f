#!/usr/bin/env bash
# Takes an exported model where people take it: bash tests/compat/run.sh [--out FOLDER] [--only NAME ...]
# NAMEs: transformers-4.57.1, transformers-5.9.0, llama.cpp, lm-eval, vllm. Each is installed into a
# folder of its own in FOLDER (default: /tmp/llama-ds-compat), which is kept and used again. llama.cpp
# compiles for ten minutes on two cores, vllm takes 3 GB. Prints a table, and writes it to
# FOLDER/compat.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/setup.sh

export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m tests.compat.run_all "$@"
