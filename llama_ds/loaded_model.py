"""Models for inference: of a run, a checkpoint or a Hugging Face folder, whole or sharded by tp."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_ds.model import LlamaForCausalLM
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.torchrun_ranks import Ranks


def model_folder(path: Path) -> Path:
    """The Hugging Face folder of a model: of a run, that of its newest complete checkpoint.

    ValueError where there is none. Damaged ones that are passed over are named on stderr.
    """
    if (path / "checkpoints").is_dir():
        from llama_ds.checkpoint.export import newest

        return newest(path)
    if not (path / "config.json").is_file():
        what = "has neither checkpoints/ nor config.json" if path.is_dir() else "is not a folder"
        raise ValueError(f"{path} {what}; name a run, a checkpoint or a Hugging Face model folder")
    if (path / "run.json").is_file():
        from llama_ds.checkpoint.verification import damage_of

        damage = damage_of(path.resolve())
        if damage is not None:
            raise ValueError(f"{path} is damaged ({damage}); name its run to take an older one")
    return path


@contextlib.contextmanager
def loaded_model(folder: Path, config: Any, dtype: torch.dtype, ranks: Ranks) -> Iterator[Any]:
    """The model in evaluation mode; several ranks share it by tensor parallelism. Collective.

    `config` is the folder's, of the language model. ValueError where weights do not match it.
    """
    with contextlib.ExitStack() as stack:
        groups = None
        if ranks.size > 1:
            groups = stack.enter_context(tp_groups(config, ranks.size))
        yield load(folder, config, dtype, ranks.device, groups)


def tp_groups(config: Any, tp_size: int) -> ParallelGroups:
    """Groups in which `tp_size` adjacent ranks share the model; the caller closes them."""
    kv_heads = config.num_key_value_heads or config.num_attention_heads
    return ParallelGroups.build(tp_size=tp_size, kv_replicas=max(1, tp_size // kv_heads))


def load(
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    groups: ParallelGroups | None = None,
) -> Any:
    """The model in evaluation mode on `device`; with `groups` this rank's shards of it."""
    try:
        if groups is None:
            model, missing = _whole(folder, config, dtype)
        else:  # a weight that is missing is refused
            model, missing = _sharded(folder, dtype, groups), set()
    except RuntimeError as error:  # shapes that differ
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be loaded: {reason}") from None
    if missing:
        raise ValueError(
            f"config.json does not match the weights of {folder}: {len(missing)} are "
            f"missing, first {min(missing)}"
        )
    return model.to(device).eval()


def _whole(folder: Path, config: Any, dtype: torch.dtype) -> tuple[Any, set[str]]:
    """The model, and the names of weights that were not found."""
    model_class: Any = LlamaForCausalLM if config.model_type == "llama" else AutoModelForCausalLM
    model, info = model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    return model, set(info["missing_keys"])


def _sharded(folder: Path, dtype: torch.dtype, groups: ParallelGroups) -> Any:
    return LlamaForCausalLM.from_pretrained(
        folder, groups=groups, sequence_parallel=False, dtype=dtype
    )


def tokenizer_of(folder: Path) -> Any:
    """ValueError where the folder has none that can be read."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever a broken file makes of it
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} has no tokenizer that transformers reads: {reason}") from None


def require_divisible(config: Any, size: int) -> None:
    """ValueError where the model cannot be sharded over `size` processes."""
    if config.model_type != "llama":
        raise ValueError(
            f"several processes share LLaMA models, and this one's model_type is "
            f"{config.model_type}; start one process"
        )
    for name in ("num_attention_heads", "intermediate_size", "vocab_size"):
        value = getattr(config, name)
        if value % size:
            raise ValueError(
                f"{name} ({value}) must be a multiple of the {size} processes; start another "
                "number (--nproc-per-node)"
            )
    kv_heads = config.num_key_value_heads or config.num_attention_heads
    if kv_heads % size and size % kv_heads:
        raise ValueError(
            f"num_key_value_heads ({kv_heads}) must be a multiple of the {size} processes or "
            "divide them; start another number (--nproc-per-node)"
        )
