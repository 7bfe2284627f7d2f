"""Selection of the attention kernel.

A recipe names one in `train.attention`; `auto` is PyTorch's own for the device: the CPU flash
attention kernel, FlashAttention-2 for bf16 on a GPU, else plain tensor operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama_ds.config import AttentionName
from llama_ds.layer import attention_kernels as built_in
from llama_ds.layer import attention_packages as packages
from llama_ds.layer.attention_kernels import Kernel


def choose(name: AttentionName, q: Tensor, *, packed: bool) -> Kernel:
    """The kernel for queries like `q` (last dimension E); `packed`: sequences of several documents.

    ValueError where the kernel's package is not installed, or it does not support this.
    """
    if name == "auto":
        name = _automatic(q)
    _require_support(name, q, packed)
    if name == "xformers":
        return packages.xformers()
    if name == "flash_attn":
        return packages.flash_attn()
    kernels = (built_in.MATH, built_in.CPU, built_in.FLASH, built_in.CUDNN)
    return next(kernel for kernel in kernels if kernel.name == name)


def _automatic(q: Tensor) -> AttentionName:
    if q.device.type == "cpu":
        return "cpu"
    return "flash" if q.device.type == "cuda" and _fits_flash(q) else "math"


def _fits_flash(q: Tensor) -> bool:
    is_half = q.dtype in (torch.bfloat16, torch.float16)
    return is_half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def _require_support(name: AttentionName, q: Tensor, packed: bool) -> None:
    needed = {"math": q.device.type, "cpu": "cpu"}.get(name, "cuda")
    if q.device.type != needed:
        raise ValueError(
            f"train.attention {name} runs on {needed}, but the model is on {q.device.type}; set it "
            "to auto, which selects a supported kernel"
        )
    if name in ("flash", "cudnn", "flash_attn") and not _fits_flash(q):
        raise ValueError(
            f"train.attention {name} needs bf16 and a head dim that is a multiple of 8 up to 256, "
            f"but the model has {q.dtype} and {q.shape[-1]}; set it to auto, which selects a "
            "supported kernel"
        )
    if name == "cudnn" and packed:
        raise ValueError(
            "train.attention cudnn does not support document masking; set it to flash, or "
            "data.document_masking to False"
        )
