"""Elementwise functions through torch.compile and Liger against PyTorch's operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llama_ds.layer.elementwise import EAGER, Elementwise, choose, compiled, has_cpp_compiler, liger

CPU = torch.device("cpu")
# A fused function rounds once at its end, where PyTorch's operations round each; sums over 40 and
# over 10 terms may have another order.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-6}


def arguments(dtype: torch.dtype, device: str) -> dict[str, tuple[Any, ...]]:
    """Of every function, by its name."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    x_BSD, weight_D, gate_BSF, up_BSF = draw(2, 5, 40), draw(40), draw(2, 5, 24), draw(2, 5, 24)
    half_BSe = draw(2, 5, 4)
    # LLaMA's tables, whose halves are equal; Liger relies on it.
    cos_BSE, sin_BSE = half_BSe.cos().repeat(1, 1, 2), half_BSe.sin().repeat(1, 1, 2)
    # Gradients of attention come in its kernel's order.
    dq_BSHE = draw(2, 3, 5, 8).transpose(1, 2)
    return {
        "rms_norm": (x_BSD, weight_D, 1e-5),
        "rms_norm_backward": (draw(2, 5, 40), x_BSD, weight_D, 1e-5),
        "rotary": (draw(2, 5, 3, 8), cos_BSE, sin_BSE),
        "rotary_backward": (dq_BSHE, cos_BSE, sin_BSE),
        "swiglu": (gate_BSF, up_BSF),
        "swiglu_backward": (draw(2, 5, 24), gate_BSF, up_BSF),
        "swiglu_backward_with_product": (draw(2, 5, 24), gate_BSF, up_BSF),
    }


def check(functions: Elementwise, names: list[str], dtype: torch.dtype, device: str) -> None:
    with torch.no_grad():  # as inside the fused layer
        for name in names:
            given = arguments(dtype, device)[name]
            copies = [x.clone() if isinstance(x, Tensor) else x for x in given]
            found, expected = getattr(functions, name)(*given), getattr(EAGER, name)(*copies)
            if isinstance(found, Tensor):
                found, expected = (found,), (expected,)
            for got, wanted in zip(found, expected, strict=True):
                tolerance = TOLERANCE[dtype]
                scale = float(wanted.abs().mean())
                torch.testing.assert_close(
                    got, wanted, rtol=tolerance, atol=tolerance * scale, msg=f"{name} {dtype}"
                )
            for x, copy in zip(given, copies, strict=True):
                assert not isinstance(x, Tensor) or torch.equal(x, copy), f"{name} wrote to {x}"


NAMES = [name for name in Elementwise._fields if name != "name"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "names"),
    # Compiling takes seconds a time: all in the dtype that rounds most, and one with sums in fp32.
    [
        pytest.param(torch.bfloat16, NAMES, id="bf16", marks=pytest.mark.nightly),
        pytest.param(torch.float32, ["rms_norm_backward"], id="fp32"),
    ],
)
def test_compiled_functions_equal_eager_ones(dtype: torch.dtype, names: list[str]) -> None:
    if not has_cpp_compiler():
        pytest.skip("torch.compile finds no C++ compiler")
    check(compiled(), names, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["compile", "liger"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gpu_functions_equal_eager_ones(dtype: torch.dtype, name: Any) -> None:
    pytest.importorskip({"compile": "triton", "liger": "liger_kernel"}[name])
    check(choose(name, torch.device("cuda")), NAMES, dtype, "cuda")


# -- choice ---------------------------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in packages else None)


def test_auto_compiles_where_triton_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", CPU) is EAGER
    installed(monkeypatch)
    assert choose("auto", torch.device("cuda")) is EAGER
    installed(monkeypatch, "triton")
    assert choose("auto", torch.device("cuda")).name == "compile"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    monkeypatch.setattr("llama_ds.layer.elementwise.has_cpp_compiler", lambda: False)
    liger.cache_clear()
    for name, device, message in (
        ("liger", "cpu", r"elementwise liger needs a GPU, but the model is on cpu"),
        ("liger", "cuda", r"needs the package liger-kernel, which is not installed"),
        ("compile", "cpu", r"elementwise compile needs g\+\+, which is not installed"),
        ("compile", "cuda", r"elementwise compile needs triton, which is not installed"),
    ):
        with pytest.raises(ValueError, match=message):
            choose(name, torch.device(device))  # type: ignore[arg-type]
