#!/usr/bin/env bash
''':'
# bash recipes/evaluate.sh --model FOLDER_OR_RUN [options]; on several ranks
# torchrun --nproc-per-node N recipes/evaluate.sh --model ..., or deepspeed in place of torchrun.
# bash ends in the line below and reads no further; to Python these lines are a string.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python "$0" "$@"
'''
from recipes.evaluate import main

if __name__ == "__main__":
    main()
