#!/usr/bin/env bash
''':'
# bash recipes/pretrain_tiny.sh [options], or deepspeed [launcher flags] recipes/pretrain_tiny.sh [options]
# bash ends in launch.sh and reads no further; to Python these lines are a string.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
'''
from recipes.launch import main
from recipes.llama import llama_tiny
from recipes.quickstart import build_builtin_store

if __name__ == "__main__":
    main(llama_tiny, build_default_store=build_builtin_store)
