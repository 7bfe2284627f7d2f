#!/usr/bin/env bash
''':'
# bash recipes/pretrain_7b.sh [options], or deepspeed [launcher flags] recipes/pretrain_7b.sh [options]
# bash ends in launch.sh and reads no further; to Python these lines are a string.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
'''
from recipes.launch import main
from recipes.llama import llama_7b

if __name__ == "__main__":
    main(llama_7b)
