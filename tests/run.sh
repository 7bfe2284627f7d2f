#!/usr/bin/env bash
# Sets up what is missing and runs the tests this machine can run: bash tests/run.sh [pytest options]
# With --quick, in under two minutes, some of every package: what is marked neither dist, golden, gpu,
# nightly nor slow. With --nightly, those that repeat in more layouts, under more launchers and at
# length what the others cover, and the rehearsals of the benchmarks, too.
# Tests for GPUs, and for sample files (LLAMA_DS_SAMPLES), are skipped by name where there are none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/setup.sh

# No test needs the network: an attempt to use it fails at once. One thread per process keeps the
# multi-process tests from fighting over the cores.
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Without bytecode on disk every worker would rewrite the assertions of all tests, for five seconds, and
# every process that tests start would compile the project.
unset PYTHONDONTWRITEBYTECODE
# The whole suite, and the quick one, in as many workers as there are cores. Tests of one file stay
# together, and share the processes that their worker starts once. What is asked for by name runs in
# one process.
workers=()
case "$*" in
  "" | --quick | --nightly)
    workers=(-n "$(python -c 'import os; print(min(4, os.cpu_count() or 1))')")
    workers+=(--dist loadfile --no-loadscope-reorder)
    ;;
esac
case "$*" in
  "") set -- -m "not nightly" ;;
  --nightly) set -- ;;
esac
exec python -m pytest --durations=15 --durations-min=0.5 ${workers[@]+"${workers[@]}"} "$@"
