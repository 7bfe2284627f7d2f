"""The main job, end to end, on a built-in corpus or your own text.

Every stage publishes a folder when it is complete and reuses one that is up to date, so the same
command continues after an interruption and does nothing twice:

    OUT/documents/  ->  OUT/tokenizer/  ->  OUT/store/  ->  OUT/run/  ->  OUT/model/
"""

from __future__ import annotations

import difflib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from llama_ds.config import Recipe
from recipes.launch import parse
from recipes.llama import llama_tiny

PROMPTS = ("def ", "The ")


@dataclass(frozen=True)
class TokenizerOptions:
    vocab_size: int = 4096


@dataclass(frozen=True)
class Quickstart:
    """Train a small LLaMA from text to a Hugging Face model. Options that are not listed here go to
    the training recipe, for example --train.max-steps 300."""

    corpus: Path | None = None
    """Folder (or file) of text, JSON lines or Parquet; by default the source files and documents of
    the Python installation."""
    out: Path = Path("runs/quickstart")
    """Everything is written here; a folder of an earlier run is continued."""
    text_field: str = "text"
    """Field of JSON lines, or column of Parquet, that holds the text."""
    holdout: float = 0.02
    """Share of the documents kept out of training, chosen by document hash."""
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    jobs: int = os.cpu_count() or 1
    """Processes for reading and tokenizing."""
