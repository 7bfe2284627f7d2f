"""Builds a recipe's model and its DeepSpeed engine on this rank's device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.ops
import deepspeed.utils
import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from transformers import GenerationConfig, LlamaConfig
from transformers.initialization import no_init_weights
from transformers.modeling_utils import local_torch_dtype
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from data_pipeline.tokens.store import TokenStore
from llama_ds import weights
from llama_ds.config import Recipe
from llama_ds.gradient_reduction import reduce_scatter_gradients
from llama_ds.hf_config import carried_config, hf_config
from llama_ds.layer.modules import LlamaDecoderLayer
from llama_ds.layer.options import LayerOptions
from llama_ds.layer.recomputation import Recomputation
from llama_ds.model import LlamaForCausalLM
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.schedule import learning_rate

TORCH_DTYPE = {"bf16": torch.bfloat16, "fp32": torch.float32}


def init_distributed(local_rank: int) -> torch.device:
    """Initialize the launcher's process group; returns this rank's device."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        device = torch.device("cpu")
        # DeepSpeed would compile its shared-memory collectives for the CPU; gloo needs no compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(
            dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False
        )
    return device


def build_model(
    recipe: Recipe,
    groups: ParallelGroups,
    store: TokenStore,
    ds_config: dict[str, Any],
    device: torch.device,
) -> LlamaForCausalLM:
    """This rank's shard of the model, with its initial weights or those of `train.init_from`.

    Under ZeRO-3 each module is sharded as soon as it exists. ValueError where `train.init_from` has
    another architecture than the recipe.
    """
    torch.manual_seed(recipe.train.seed)
    dtype = TORCH_DTYPE[recipe.train.dtype]
    config = _hf_config(recipe, store, dtype)
    options = _layer_options(recipe, groups, ds_config, device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_init_weights())
        stack.enter_context(local_torch_dtype(dtype))
        stack.enter_context(device)  # otherwise every rank holds a full model in host memory
        if recipe.zero.stage == 3:
            stack.enter_context(
                deepspeed.zero.Init(
                    data_parallel_group=groups.replica_group,
                    config_dict_or_path=dict(ds_config),
                    mpu=groups,
                )
            )
        model = LlamaForCausalLM(
            config,
            groups,
            sequence_parallel=recipe.parallel.sequence_parallel,
            layer_options=options,
            loss_chunk_tokens=recipe.train.loss_chunk_tokens,
            z_loss=recipe.optimizer.z_loss,
        )
    model.tie_weights()
    if recipe.train.init_from is None:
        weights.initialize(model, groups)
    else:
        may_grow = recipe.train.new_rows == "mean"
        weights.load(model, recipe.train.init_from, model.tp, groups, may_grow=may_grow)
        _carry_generation_config(model, recipe.train.init_from)
    if recipe.zero.stage == 3:
        # zero.Init makes all floating-point tensors bf16, also the rotary frequencies.
        model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
        # The fused layer reads all its weights at once, so they are all-gathered at once.
        deepspeed.utils.set_z3_leaf_modules(model, [LlamaDecoderLayer])
    model.train()
    return model


def _hf_config(recipe: Recipe, store: TokenStore, dtype: torch.dtype) -> LlamaConfig:
    train = recipe.train
    if train.init_from is not None:
        return carried_config(
            train.init_from, recipe.model, dtype, may_grow=train.new_rows == "mean"
        )
    return hf_config(
        recipe.model,
        bos_token_id=store.manifest.bos_token_id,
        eos_token_id=store.manifest.eos_token_id,
        dtype=dtype,
    )


def _carry_generation_config(model: LlamaForCausalLM, folder: Path) -> None:
    """Generate as the model in `folder` does; without such a file, as its config.json says."""
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def _layer_options(
    recipe: Recipe, groups: ParallelGroups, ds_config: dict[str, Any], device: torch.device
) -> LayerOptions:
    train, overlap = recipe.train, recipe.parallel.overlap
    section = ds_config.get("activation_checkpointing")
    return LayerOptions(
        save_policy=train.resolved_save_policy,
        attention=train.attention,
        elementwise=train.elementwise,
        # On a CPU gloo's threads take the cores that the matmuls need.
        overlap=overlap == "on" or (overlap == "auto" and device.type == "cuda"),
        overlap_chunks=recipe.parallel.overlap_chunks,
        mlp_tiles=train.mlp_tiles,
        recomputation=None if section is None else _deepspeed_recomputation(groups, section),
    )


def _deepspeed_recomputation(groups: ParallelGroups, section: dict[str, Any]) -> Recomputation:
    """DeepSpeed's activation checkpointing, configured by its JSON section.

    DeepSpeed parses this section but ignores it until `checkpointing.configure`, whose settings are
    global to the process; `reset` frees the buffers of an earlier engine.
    """
    deepspeed.checkpointing.configure(
        groups,
        partition_activations=section["partition_activations"],
        contiguous_checkpointing=section["contiguous_memory_optimization"],
        num_checkpoints=section["number_checkpoints"],
        checkpoint_in_cpu=section["cpu_checkpointing"],
        synchronize=section["synchronize_checkpoint_boundary"],
        profile=section["profile"],
    )
    deepspeed.checkpointing.reset()
    return Recomputation(section["number_checkpoints"], deepspeed.checkpointing.checkpoint)


def build_engine(
    model: LlamaForCausalLM, recipe: Recipe, groups: ParallelGroups, ds_config: dict[str, Any]
) -> Any:
    """The DeepSpeed engine: AdamW with weight decay on matrices only, at the peak learning rate."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def is_matrix(parameter: torch.nn.Parameter) -> bool:
        return len(getattr(parameter, "ds_shape", parameter.shape)) > 1

    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[
            {"params": [p for p in parameters if is_matrix(p)]},
            {"params": [p for p in parameters if not is_matrix(p)], "weight_decay": 0.0},
        ],
        config=ds_config,
        mpu=groups,
        dist_init_required=False,
    )
    if recipe.zero.stage == 0 and recipe.train.dtype == "bf16":
        _undo_step_at_start(engine)
    is_bf16_optimizer = isinstance(engine.optimizer, BF16_Optimizer)
    if recipe.zero.stage == 1 and is_bf16_optimizer and groups.num_replicas > 1:
        reduce_scatter_gradients(engine, groups)
    return engine


@contextlib.contextmanager
def open_engine(
    model: LlamaForCausalLM, recipe: Recipe, groups: ParallelGroups, ds_config: dict[str, Any]
) -> Iterator[Any]:
    """`build_engine`'s engine, released at the end."""
    engine = build_engine(model, recipe, groups, ds_config)
    try:
        yield engine
    except BaseException:
        # Releasing waits for the device, and the device for ranks that may never come.
        groups.abort()
        raise
    finally:
        release_engine(engine)


def release_engine(engine: Any) -> None:
    """Release what DeepSpeed still references of a finished engine. Synchronizes with the device.

    DeepSpeed 0.19 references a ZeRO-3 engine until the process ends (the model in a stack of
    modules, the rest as keys of an unbounded cache), so the engine is emptied: its model has no
    weights after this. Two things stay: threads of the group that ZeRO-3 gathers over, and the
    group of activation checkpointing until the next `configure`.
    """
    engine.destroy()
    if engine.module in FWD_MODULE_STACK:
        FWD_MODULE_STACK.remove(engine.module)
        for parameter in engine.module.parameters():
            vars(parameter).clear()
        vars(engine.optimizer).clear()
        engine.optimizer = None


@torch.no_grad()
def _undo_step_at_start(engine: Any) -> None:
    """Undo the optimizer step by which DeepSpeed 0.19 allocates states at stage 0 in bf16.

    Its gradients are zero, but it applies weight decay to the fp32 master weights and counts as
    Adam's first step, which shifts the bias correction of every later step by one. The other stages
    do not do this (`tests/llama_ds/test_train.py` compares all of them with plain PyTorch).
    """
    wrapper = engine.optimizer
    wrapper.optimizer.state.clear()
    for live, masters in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True):
        for weight, master in zip(live, masters, strict=True):
            master.copy_(weight)


def set_learning_rate(engine: Any, recipe: Recipe, step: int) -> None:
    """Give the optimizer the rate of `step`, counted from 0.

    It is set before every step and never stored: after a resume, in another layout, or after steps
    that were passed over, it is a function of the step alone.
    """
    rate = learning_rate(step, recipe.optimizer, recipe.train.num_steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
