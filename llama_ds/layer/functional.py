"""RMSNorm, rotary embedding, SwiGLU and initial weights, as pure tensor functions.

Each function of the layer has its backward directly below, from the gradient of the output and the
forward's inputs to the gradients of the inputs: autograd's gradients without autograd's saved
tensors. `dx` is the gradient of `x`. They are memory-bound, so results are built in place in as few
passes as PyTorch's operations allow; autograd must not record them.

Shapes in names: B sequences of the micro-batch, S sequence length, D hidden, H heads, E head dim,
F intermediate; a bare name may have any leading dimensions.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def first_derivative_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a backward pass whose own derivative nobody has written.

    RuntimeError where it is asked for: to leave it out would give a wrong second derivative.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Tensor) -> Any:
        # Autograd enables gradients in a backward pass under create_graph=True alone.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: fused layer and chunked loss have no second derivative, "
                "but the modules have, with layer_options=LayerOptions(fused=False) and "
                "skip_logits=False in the call of the model"
            )
        return backward(ctx, *gradients)

    return checked


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of statistics and sums over `dtype`: fp32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def rms_norm(x_BSD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (arXiv 1910.07467).

    The result is rounded to x's dtype before it is multiplied by the weight, as in Hugging Face.
    """
    x = x_BSD.to(accumulation_dtype(x_BSD.dtype))
    return (x * _inverse_rms(x, eps)).to(x_BSD.dtype).mul_(weight_D)


def rms_norm_backward(
    dout_BSD: Tensor, x_BSD: Tensor, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(dx, dweight) of `rms_norm`; sums over positions and over D run in the accumulation dtype.

    With r = 1 / sqrt(mean(x^2) + eps), n = r x and dn = weight dout: dx = r (dn - n mean(n dn)),
    because n depends on x directly and through r. The mean is that of (n dout) weight, and n dout
    is what dweight sums.
    """
    dtype = accumulation_dtype(x_BSD.dtype)
    x, dout, weight = x_BSD.to(dtype), dout_BSD.to(dtype), weight_D.to(dtype)
    r = _inverse_rms(x, eps)
    n = x * r
    products = n * dout
    mean = (products @ weight).div_(x.shape[-1]).unsqueeze_(-1)
    dweight = products.flatten(0, -2).sum(0)
    dx = torch.mul(dout, weight, out=products).addcmul_(n, mean, value=-1).mul_(r)
    return dx.to(x_BSD.dtype), dweight.to(weight_D.dtype)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    # vector_norm is one pass over x, squaring and averaging would be three.
    sum_of_squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return sum_of_squares.div_(x.shape[-1]).add_(eps).rsqrt_()


def rotary(x_BSHE: Tensor, cos_BSE: Tensor, sin_BSE: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of queries or keys.

    Hugging Face's layout: element i is paired with i + E/2, where the paper and the original LLaMA
    pair adjacent elements; the rows of `q_proj` and `k_proj` are permuted to match.
    """
    cos, sin = cos_BSE.unsqueeze(2), sin_BSE.unsqueeze(2)
    out = x_BSHE * cos
    (x1, x2), (sin1, sin2), (out1, out2) = (x.chunk(2, dim=-1) for x in (x_BSHE, sin, out))
    out1.addcmul_(x2, sin1, value=-1)
    out2.addcmul_(x1, sin2)
    return out


def rotary_backward(dout_BSHE: Tensor, cos_BSE: Tensor, sin_BSE: Tensor) -> Tensor:
    """dx of `rotary`, contiguous: its transpose, the inverse rotation."""
    cos, sin = cos_BSE.unsqueeze(2), sin_BSE.unsqueeze(2)
    dx = torch.empty_like(dout_BSHE, memory_format=torch.contiguous_format)
    torch.mul(dout_BSHE, cos, out=dx)
    (dout1, dout2), (sin1, sin2), (dx1, dx2) = (x.chunk(2, dim=-1) for x in (dout_BSHE, sin, dx))
    dx1.addcmul_(dout2, sin2)
    dx2.addcmul_(dout1, sin1, value=-1)
    return dx


def swiglu(gate_BSF: Tensor, up_BSF: Tensor) -> Tensor:
    """`silu(gate) * up` (arXiv 2002.05202)."""
    return F.silu(gate_BSF).mul_(up_BSF)


def swiglu_backward(dout_BSF: Tensor, gate_BSF: Tensor, up_BSF: Tensor) -> tuple[Tensor, Tensor]:
    """(dgate, dup) of `swiglu`."""
    dgate = torch.ops.aten.silu_backward(dout_BSF * up_BSF, gate_BSF)
    return dgate, F.silu(gate_BSF).mul_(dout_BSF)


def swiglu_backward_with_product(
    dout_BSF: Tensor, gate_BSF: Tensor, up_BSF: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(dgate, dup, product): `swiglu_backward`, and `swiglu` once more, of one silu."""
    dgate = torch.ops.aten.silu_backward(dout_BSF * up_BSF, gate_BSF)
    silu = F.silu(gate_BSF)
    return dgate, silu * dout_BSF, silu.mul_(up_BSF)


def repeat_heads(k_BSKE: Tensor, num_heads: int) -> Tensor:
    """Each of K heads repeated `num_heads / K` times (GQA): [B, S, num_heads, E]."""
    repeats = num_heads // k_BSKE.shape[2]
    return k_BSKE if repeats == 1 else k_BSKE.repeat_interleave(repeats, dim=2)


def repeat_heads_backward(dout_BSHE: Tensor, num_kv_heads: int) -> Tensor:
    """dk of `repeat_heads`: the sum over the repeats of each of `num_kv_heads`."""
    if dout_BSHE.shape[2] == num_kv_heads:
        return dout_BSHE
    return dout_BSHE.unflatten(2, (num_kv_heads, -1)).sum(3)  # type: ignore[no-any-return]


def kept_positions(hidden_BSD: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The positions whose logits are needed, in the forms that transformers' `generate` uses.

    The last n (0: all); those of an index [n] or [B, n]; flattened, those of a bool mask [B, S].
    """
    if isinstance(logits_to_keep, int):
        return hidden_BSD[:, -logits_to_keep:]
    if logits_to_keep.ndim == 1:
        return hidden_BSD[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_BSD[logits_to_keep]
    return torch.take_along_dim(hidden_BSD, logits_to_keep[..., None], dim=1)


def initial_weight(
    name: str,
    shape: tuple[int, ...],
    std: float,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The full weight `name` of a model with this seed: normal(0, std).

    `name` is the parameter's name in `LlamaModel` ("layers.0.mlp.up_proj.weight"), or
    "lm_head.weight". Each weight has its own generator, seeded by seed and name, and is sampled on
    the CPU in fp32, then cast and moved: it is the same for every order of construction, device,
    dtype (up to rounding) and parallel layout, whose ranks take their shards of it.
    """
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # PyTorch's CPU generator uses 32 bits of its seed.
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(key[:4], "big"))
    weight = torch.empty(shape, dtype=torch.float32, device="cpu")
    return weight.normal_(0.0, std, generator=generator).to(device=device, dtype=dtype)
