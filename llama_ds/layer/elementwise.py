"""What runs the layer's elementwise functions: PyTorch's operations, torch.compile, or Liger.

They cost passes over memory and no arithmetic worth the name. PyTorch makes a pass per operation;
torch.compile and Liger's kernels make one per function. A recipe names one in `train.elementwise`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from llama_ds.config import ElementwiseName
from llama_ds.layer import functional


class Elementwise(NamedTuple):
    """Pairs of a forward and a backward function, each as described in `functional.py`."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rms_norm_backward: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rotary: Callable[[Tensor, Tensor, Tensor], Tensor]
    rotary_backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    swiglu_backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


EAGER = Elementwise(
    "eager",
    functional.rms_norm,
    functional.rms_norm_backward,
    functional.rotary,
    functional.rotary_backward,
    functional.swiglu,
    functional.swiglu_backward,
)


def choose(name: ElementwiseName, device: torch.device) -> Elementwise:
    """ValueError where what `name` needs is not installed, or is not for this device.

    `auto` compiles on a GPU that Triton can compile for. On a CPU compiled functions are faster,
    too, but take a C++ compiler and a minute at the start, so they must be asked for.
    """
    if name == "auto":
        has_triton = importlib.util.find_spec("triton") is not None
        name = "compile" if device.type == "cuda" and has_triton else "eager"
    if name == "eager":
        return EAGER
    if name == "liger":
        if device.type != "cuda":
            raise ValueError(
                f"train.elementwise liger runs on cuda, this model is on {device.type}; set it to "
                "auto, eager or compile"
            )
        return liger()
    _require_compiler(device)
    return compiled()


@functools.cache
def compiled() -> Elementwise:
    """The eager functions through torch.compile, each compiled when it is first called."""
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
    """Liger's Triton kernels (arXiv 2410.10989), which take contiguous tensors."""
    if importlib.util.find_spec("liger_kernel") is None:
        raise ValueError(
            "train.elementwise liger needs the package liger-kernel, which is not installed; "
            "install it, or set train.elementwise to auto"
        )
    from liger_kernel.ops import rms_norm as norm
    from liger_kernel.ops import rope
    from liger_kernel.ops import swiglu as mlp

    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out: Tensor = norm.rms_norm_forward(x.contiguous(), weight, eps, 0.0, "llama", None)[0]
        return out

    def rms_norm_backward(
        dout: Tensor, x: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        # The forward kernel again, for its inverse roots and settings.
        _, rows, inverse_rms, block_size, num_warps, mode = norm.rms_norm_forward(
            x.contiguous(), weight, eps, 0.0, "llama", None
        )
        dx, dweight = norm.rms_norm_backward(
            dout.contiguous(),
            rows,
            weight,
            inverse_rms,
            0.0,
            mode,
            block_size,
            num_warps,
            False,
            None,
        )
        return dx, dweight

    def rotated(kernel: Callable[..., Any], x_BSHE: Tensor, *tables: Tensor) -> Tensor:
        # A kernel turns queries and keys at once, in place; here they come one at a time.
        others = x_BSHE.new_zeros(*x_BSHE.shape[:2], 1, x_BSHE.shape[3])
        copy = x_BSHE.clone(memory_format=torch.contiguous_format)
        out, *_ = kernel(copy.transpose(1, 2), others.transpose(1, 2), *tables)
        return cast(Tensor, out.transpose(1, 2))

    def swiglu(gate: Tensor, up: Tensor) -> Tensor:
        product: Tensor = mlp.swiglu_forward(gate.contiguous(), up.contiguous())[2]
        return product

    def swiglu_backward(dout: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        # The kernel puts the gradients in the place of gate and up, which others may need.
        dgate, dup = (x.clone(memory_format=torch.contiguous_format) for x in (gate, up))
        width = dout.shape[-1]
        mlp.swiglu_backward(dgate.view(-1, width), dup.view(-1, width), dout.contiguous())
        return dgate, dup

    return Elementwise(
        "liger",
        rms_norm,
        rms_norm_backward,
        functools.partial(rotated, rope.rope_forward),
        functools.partial(rotated, rope.rope_backward),
        swiglu,
        swiglu_backward,
    )
