"""Correctness on this GPU in bf16: attention kernels, and the fused layer.

The reference is fp32 on the same rounded inputs. Errors are relative, in the Euclidean norm.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.gpu_worker import Bench
from benchmarks.measuring.results import seconds
from benchmarks.model.contenders import PLAIN, contenders, ours
from benchmarks.model.steppers import loss_of
from llama_ds.config import AttentionName
from llama_ds.hf_config import hf_config
from llama_ds.layer.attention import choose
from llama_ds.layer.attention_kernels import MATH
from llama_ds.model_config import ModelConfig
from llama_ds.save_policy import PRESETS

KERNEL_TOLERANCE = 0.02
"""bf16 has 8 bits, and inputs, weights, products and results are rounded, by up to 2^-9 each."""
LAYER_TOLERANCE = 1.5
"""Error of the fused layer relative to the plain layer's, which rounds as often elsewhere."""


def relative_error(got: Tensor, wanted: Tensor) -> float:
    wanted = wanted.float()
    return float((got.float() - wanted).norm() / wanted.norm())


# -- attention ------------------------------------------------------------------------------------


def check_kernel(
    bench: Bench,
    *,
    name: AttentionName,
    shape: tuple[int, int, int, int],
    num_kv_heads: int,
    timed_rows: int,
) -> None:
    """Errors of `name` on [B, S, H, E], and its time on `timed_rows` sequences with as many kv
    heads."""
    q, k, v, dout = _attention_inputs(shape, num_kv_heads, bench.device)
    try:
        kernel = choose(name, q, packed=False)
    except (ValueError, ImportError) as error:
        bench.emit({"kernel": name, "unavailable": str(error)})
        return
    got = _forward_and_backward(kernel, q, k, v, dout)
    wanted = _forward_and_backward(MATH, *(x.float() for x in (q, k, v, dout)))
    names = ("out", "dq", "dk", "dv")
    errors = {n: relative_error(a, b) for n, a, b in zip(names, got, wanted, strict=True)}
    del got, wanted
    rows, length, heads, width = timed_rows, *shape[1:]
    inputs = _attention_inputs((rows, length, heads, width), heads, bench.device)
    run = partial(_forward_and_backward, kernel, *inputs)
    run()
    duration = min(seconds(run, bench.device)[0] for _ in range(5))
    # Two matmuls forward and five backward, on half the score matrix (causal).
    flops = 7 * 2 * rows * heads * length**2 * width / 2
    bench.emit(
        {
            "kernel": name,
            "errors": errors,
            "is_right": max(errors.values()) <= KERNEL_TOLERANCE,
            "seconds": duration,
            "tflops": flops / duration / 1e12,
        }
    )


def _attention_inputs(
    shape: tuple[int, int, int, int], num_kv_heads: int, device: torch.device
) -> list[Tensor]:
    rows, length, heads, width = shape
    generator = torch.Generator(device).manual_seed(0)
    return [
        torch.randn(rows, length, h, width, generator=generator, device=device).bfloat16()
        for h in (heads, num_kv_heads, num_kv_heads, heads)
    ]


def _forward_and_backward(kernel: Any, q: Tensor, k: Tensor, v: Tensor, dout: Tensor) -> Any:
    out, lse = kernel.forward(q, k, v, None)
    return out, *kernel.backward(dout, q, k, v, out, lse, None)


# -- the layer ------------------------------------------------------------------------------------


def check_layer(bench: Bench, *, model: ModelConfig, rows: int, length: int) -> None:
    """Loss and weight gradients of a shallow model in bf16: plain, and fused with each save
    policy."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(model.vocab_size, (rows, length), generator=generator)
    input_ids = input_ids.to(bench.device)
    config = hf_config(model, bos_token_id=1, eos_token_id=2, dtype=torch.bfloat16)
    entrants = contenders(with_gpu_packages=False)
    reference = entrants[PLAIN].build(config, bench.device).float()
    wanted_loss, wanted = _loss_and_gradients(reference, input_ids)
    del reference
    plain_error = None
    for name in (PLAIN, *(ours(policy) for policy in PRESETS)):
        loss, got = _loss_and_gradients(entrants[name].build(config, bench.device), input_ids)
        errors = {weight: relative_error(got[weight], wanted[weight]) for weight in wanted}
        worst = max(errors, key=lambda weight: errors[weight])
        plain_error = plain_error or errors[worst]
        bench.emit(
            {
                "contender": name,
                "loss_error": abs(loss - wanted_loss) / wanted_loss,
                "gradient_error": errors[worst],
                "worst": worst,
                "is_right": errors[worst] <= LAYER_TOLERANCE * plain_error,
            }
        )


def _loss_and_gradients(model: Any, input_ids: Tensor) -> tuple[float, dict[str, Tensor]]:
    loss = loss_of(model, input_ids)
    loss.backward()
    return float(loss.detach()), {name: weight.grad for name, weight in model.named_parameters()}
