"""Keys of `--deepspeed-json` that change memory: which ones the plan counts, and which it names."""

from __future__ import annotations

from typing import Any

from llama_ds.planning.state_memory import Offload

_SECTIONS = ("zero_optimization", "bf16", "data_types", "communication_data_type")
"""Of the generated JSON, those that decide what DeepSpeed allocates."""
_FEATURES = ("compile", "compression_training", "torch_autocast", "curriculum_learning")
"""DeepSpeed's, which the generated JSON leaves off."""
_HOW_TO_COPY = {"device", "pin_memory", "buffer_count", "fast_init", "pipeline_read"}
_HOW_TO_COPY |= {"pipeline_write", "pipeline"}
"""Keys of an offload section that move no state to another device."""


def offload_of(deepspeed_json: dict[str, Any], stage: int) -> Offload:
    """What is kept in host memory. DeepSpeed ignores optimizer states at stage 0, and weights below
    stage 3."""
    zero = deepspeed_json.get("zero_optimization", {})
    return Offload(
        optimizer=stage >= 1 and _is_on_host(zero.get("offload_optimizer")),
        weights=stage == 3 and _is_on_host(zero.get("offload_param")),
    )


def uncounted_keys(deepspeed_json: dict[str, Any], generated: dict[str, Any]) -> list[str]:
    """Paths of the keys that can change memory, differ from the `generated` JSON, and are in no
    estimate."""
    found = [name for name in _FEATURES if deepspeed_json.get(name)]
    for name in _SECTIONS:
        if name in deepspeed_json:
            found += _changed(name, deepspeed_json[name], generated.get(name))
    return found


def _changed(path: str, value: Any, generated: Any) -> list[str]:
    if path in ("zero_optimization.offload_optimizer", "zero_optimization.offload_param"):
        if _is_on_host(value):
            return [f"{path}.{key}" for key in value if key not in _HOW_TO_COPY]
        return [path] if _device(value) != "none" else []
    if isinstance(value, dict):
        known = generated if isinstance(generated, dict) else {}
        found = (_changed(f"{path}.{key}", value[key], known.get(key)) for key in value)
        return [name for names in found for name in names]
    # Without a generated value, what is off is DeepSpeed's default.
    return [path] if value != generated and (generated is not None or value) else []


def _is_on_host(section: Any) -> bool:
    return _device(section) == "cpu"


def _device(section: Any) -> str:
    return str(section.get("device", "none")) if isinstance(section, dict) else "none"
