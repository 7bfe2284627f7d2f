"""Liger's kernels where there is no GPU: called as we call them, they compute what PyTorch does."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

from tests.llama_ds.layer.test_elementwise import NAMES


@pytest.mark.slow
def test_kernels_in_the_interpreter_equal_eager_functions() -> None:
    for package in ("triton", "liger_kernel"):
        pytest.importorskip(package, reason=f"{package} is not installed (docs/layer.md)")
    if not importlib.metadata.version("liger-kernel").startswith("0.7."):
        pytest.skip("Triton's interpreter runs the kernels of liger-kernel 0.7 (docs/layer.md)")
    # Triton decides on its import whether it interprets.
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.interpreted_liger"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == NAMES
