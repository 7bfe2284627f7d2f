"""Contenders: stock transformers in its usual configurations, and this project's model.

All of them are Hugging Face causal language models of one configuration with the same weights, so
that their losses are equal up to rounding.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as StockLlama
from transformers.initialization import no_init_weights
from transformers.modeling_utils import local_torch_dtype
from transformers.models.llama import modeling_llama

from llama_ds.layer.options import LayerOptions
from llama_ds.model import LlamaForCausalLM
from llama_ds.save_policy import PRESETS

STOCK, CHECKPOINTED = "stock sdpa", "stock + checkpointing"
LIGER, COMPILED = "stock + Liger", "stock + torch.compile"
PLAIN = "ours, plain"
OURS_COMPILED = "ours, linear_outputs, compiled"


def ours(policy_name: str) -> str:
    return f"ours, {policy_name}"


@dataclass(frozen=True)
class Contender:
    name: str
    build: Callable[[LlamaConfig, torch.device], Any]
    """The model in training mode, in the configuration's dtype."""
    missing: str = ""
    """Why it cannot run here; empty where it can."""
    surroundings: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """Context manager for its steps."""


def contenders(*, with_gpu_packages: bool, with_compiled: bool = False) -> dict[str, Contender]:
    """By name, stock first. `with_gpu_packages`: also stock with Liger and with torch.compile;
    `with_compiled`: also ours with compiled elementwise functions, which a GPU has anyhow.
    """
    chosen = [Contender(STOCK, _stock), Contender(CHECKPOINTED, _checkpointed)]
    if with_gpu_packages:
        chosen += [_liger(), Contender(COMPILED, _compiled)]
    chosen.append(Contender(PLAIN, _ours(LayerOptions(fused=False))))
    for name, policy in PRESETS.items():
        chosen.append(Contender(ours(name), _ours(LayerOptions(save_policy=policy))))
    if with_compiled:
        chosen.append(Contender(OURS_COMPILED, _ours(LayerOptions(elementwise="compile"))))
    return {contender.name: contender for contender in chosen}


# -- building -------------------------------------------------------------------------------------


def _stock(config: LlamaConfig, device: torch.device) -> Any:
    return _built(StockLlama, config, device)


def _checkpointed(config: LlamaConfig, device: torch.device) -> Any:
    model = _stock(config, device)
    # transformers is renaming it: 5.17 has only the second, 5.23 warns of it.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(model, name) for name in names if hasattr(model, name))()
    return model


def _compiled(config: LlamaConfig, device: torch.device) -> Any:
    model = _stock(config, device)
    # A CPU only rehearses, and may have no compiler.
    model.compile(backend="inductor" if device.type == "cuda" else "aot_eager")
    return model


def _ours(options: LayerOptions) -> Callable[[LlamaConfig, torch.device], Any]:
    model_class = functools.partial(LlamaForCausalLM, layer_options=options)
    return functools.partial(_built, model_class)


def _built(model_class: Any, config: LlamaConfig, device: torch.device) -> Any:
    """Initialized on the device: a large model's weights would take minutes on the host."""
    dtype: Any = config.dtype
    with no_init_weights(), local_torch_dtype(dtype), device:
        model = model_class(config)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
            else:
                parameter.fill_(1.0)
    return model.train()


# -- Liger ----------------------------------------------------------------------------------------


def _liger() -> Contender:
    if importlib.util.find_spec("liger_kernel") is None:
        return Contender(LIGER, _stock, missing="liger_kernel is not installed")
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llama
    except ImportError as error:
        return Contender(LIGER, _stock, missing=f"liger_kernel cannot be imported: {error}")
    patched: dict[str, Any] = {}

    def build(config: LlamaConfig, device: torch.device) -> Any:
        model = _stock(config, device)
        before = dict(vars(modeling_llama))
        apply_liger_kernel_to_llama(model=model)
        patched.update({k: v for k, v in vars(modeling_llama).items() if before.get(k) is not v})
        vars(modeling_llama).update({name: before[name] for name in patched})
        return model

    return Contender(LIGER, build, surroundings=lambda: _replaced(modeling_llama, patched))


@contextlib.contextmanager
def _replaced(module: Any, names: dict[str, Any]) -> Iterator[None]:
    """Liger replaces names of transformers' module, which every stock model looks up at run time;
    here they are replaced during its own steps only."""
    before = {name: vars(module)[name] for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)
