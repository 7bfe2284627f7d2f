"""The console command `llama-ds-build`; a missing package is one line that names the extra."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Build a dataset; exit code 2 where the extra `data` is not installed."""
    try:
        from data_pipeline.commands.build_text import main as build
    except ModuleNotFoundError as error:
        message = f"the package {error.name} is not installed; pip install 'llama-ds[data]'"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    build()
