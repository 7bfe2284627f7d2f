"""Compares Liger's kernels, in Triton's interpreter on the CPU, with PyTorch's operations in fp32.

    TRITON_INTERPRET=1 python -m tests.support.interpreted_liger

The interpreter computes wrongly in bf16 and does not run kernels of liger-kernel 0.8, which convert
scalar arguments. Prints the functions that were compared.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from liger_kernel.ops import rms_norm

from llama_ds.layer.elementwise import liger
from tests.llama_ds.layer.test_elementwise import NAMES, check


@triton.jit
def rsqrt(x):  # type: ignore[no-untyped-def]
    return tl.rsqrt(x)


def main() -> None:
    # libdevice's functions are those of a GPU, and return None in the interpreter.
    rms_norm.rsqrt = rsqrt
    check(liger(), NAMES, torch.float32, "cpu")
    print(*NAMES)  # noqa: T201


if __name__ == "__main__":
    main()
