"""Implementations of the layer's elementwise functions: PyTorch eager, torch.compile, or Liger.

RMSNorm, rotary embedding and SwiGLU are memory-bound. Eager PyTorch passes over memory once per
operation; torch.compile and Liger's fused kernels once per function. A recipe names one in
`train.elementwise`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llama_ds.config import ElementwiseName
from llama_ds.layer import functional


class Elementwise(NamedTuple):
    """Pairs of forward and backward functions, with the signatures of `functional.py`."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rms_norm_backward: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rotary: Callable[[Tensor, Tensor, Tensor], Tensor]
    rotary_backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    swiglu_backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    swiglu_backward_with_product: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


EAGER = Elementwise(
    "eager",
    functional.rms_norm,
    functional.rms_norm_backward,
    functional.rotary,
    functional.rotary_backward,
    functional.swiglu,
    functional.swiglu_backward,
    functional.swiglu_backward_with_product,
)


def choose(name: ElementwiseName, device: torch.device) -> Elementwise:
    """The implementation `name`; ValueError where it is not installed or not for this device.

    `auto` is `compile` on a GPU with Triton. On a CPU compiled functions are faster too, but need a
    C++ compiler and a minute at start, so they are opt-in.
    """
    if name == "auto":
        has_triton = importlib.util.find_spec("triton") is not None
        name = "compile" if device.type == "cuda" and has_triton else "eager"
    if name == "eager":
        return EAGER
    if name == "liger":
        if device.type != "cuda":
            raise ValueError(
                f"train.elementwise liger needs a GPU, but the model is on {device.type}; set it "
                "to auto, eager or compile"
            )
        return liger()
    _require_compiler(device)
    return compiled()


@functools.cache
def compiled() -> Elementwise:
    """The eager functions under torch.compile, each compiled on its first call."""
    _, *functions = EAGER
    compile_function: Any = torch.compile
    return Elementwise("compile", *map(compile_function, functions))


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        package = "triton"
        missing = importlib.util.find_spec(package) is None
    else:
        package = "g++"
        missing = not has_cpp_compiler()
    if missing:
        raise ValueError(
            f"train.elementwise compile needs {package}, which is not installed; install it, or "
            "set train.elementwise to eager"
        )


def has_cpp_compiler() -> bool:
    """Whether torch.compile can compile for a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


@functools.cache
def liger() -> Elementwise:
    """Liger's Triton kernels (`liger_kernels.py`)."""
    if importlib.util.find_spec("liger_kernel") is None:
        raise ValueError(
            "train.elementwise liger needs the package liger-kernel, which is not installed; "
            "install it, or set train.elementwise to auto"
        )
    from llama_ds.layer import liger_kernels

    return Elementwise(
        "liger",
        liger_kernels.rms_norm,
        liger_kernels.rms_norm_backward,
        liger_kernels.rotary,
        liger_kernels.rotary_backward,
        liger_kernels.swiglu,
        liger_kernels.swiglu_backward,
        liger_kernels.swiglu_backward_with_product,
    )
