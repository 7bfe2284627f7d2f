"""Builds a dataset from your own text; implemented in `data_pipeline.commands.build_text`."""

from __future__ import annotations

from functools import partial

from data_pipeline.commands import command_line
from data_pipeline.commands.build_text import run

if __name__ == "__main__":
    command_line.main(partial(run, prog="recipes/build_text.sh"))
