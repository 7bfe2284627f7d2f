"""DeepSpeed configuration (JSON) from a recipe.

Every key that the training loop relies on is set explicitly, also where it is DeepSpeed's default,
so that a new DeepSpeed cannot change a run silently. A user's own keys (`--deepspeed-json`) are
merged over the result; one that contradicts the recipe is an error, because the recipe stored in
the run folder would no longer describe the run.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

from llama_ds.batch import BatchPlan
from llama_ds.config import Recipe

# DeepSpeed key -> the recipe field that decides it.
OWNED_BY_RECIPE = {
    "train_batch_size": "train.tokens_per_step / train.sequence_length",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.tokens_per_step, train.micro_batch_size",
    "gradient_clipping": "optimizer.max_grad_norm",
    "bf16.enabled": "train.dtype",
    "bf16.check_grad_overflow": "train.max_skipped_steps",
    "fp16.enabled": "train.dtype",
    "zero_optimization.stage": "zero.stage",
    "zero_optimization.reduce_bucket_size": "zero.reduce_bucket_elements",
    "zero_optimization.stage3_param_persistence_threshold": "zero.param_persistence_elements",
    "optimizer.type": "optimizer",
    "optimizer.params.lr": "optimizer.peak_learning_rate",
    "optimizer.params.betas": "optimizer.beta1, optimizer.beta2",
    "optimizer.params.eps": "optimizer.eps",
    "optimizer.params.weight_decay": "optimizer.weight_decay",
    # DeepSpeed's own parallelism would shard in addition to the recipe's: the model shards itself.
    "tensor_parallel": "parallel.tp",
    "sequence_parallel_size": "parallel.sp",
    "activation_checkpointing": "activation_checkpointing",
    "scheduler": "optimizer.warmup_steps, optimizer.min_learning_rate_ratio",
}


def deepspeed_config(recipe: Recipe, plan: BatchPlan, device_type: str) -> dict[str, Any]:
    """The DeepSpeed configuration of a run on `device_type` ("cuda" or "cpu")."""
    bf16 = recipe.train.dtype == "bf16"
    rows = plan.dp_size * plan.micro_batch_size * plan.most_grad_accum_steps
    config: dict[str, Any] = {
        # DeepSpeed counts the sp ranks as data-parallel ranks (see `ParallelGroups`), and requires
        # this to be the product of the next two and the number of these ranks. The accumulation is
        # that of the largest batch; `train_step` says where each step ends.
        "train_batch_size": rows * recipe.parallel.sp,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.most_grad_accum_steps,
        "gradient_clipping": recipe.optimizer.max_grad_norm,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        # Without the check a norm that is not finite can be reported as 1 and applied.
        # At stage 1 a micro-batch's bf16 gradient is freed once it is added to the fp32 sum.
        "bf16": {"enabled": bf16, "check_grad_overflow": True, "immediate_grad_update": True},
        "fp16": {"enabled": False},
        # Gradients are reduced in fp32: bf16 has 8 bits of mantissa, the sum thousands of terms.
        "communication_data_type": "fp32",
        "optimizer": _optimizer(recipe, device_type),
        "zero_optimization": _zero(recipe, device_type),
        "zero_allow_untested_optimizer": False,
        "checkpoint": {"tag_validation": "Fail", "load_universal": False},
        "steps_per_print": 2**31 - 1,  # metrics.py reports instead
        "wall_clock_breakdown": False,
        "dump_state": False,
    }
    if bf16 and recipe.zero.stage > 0:
        # Gradient accumulation in fp32, which stage 0 of DeepSpeed 0.19 does not support.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if recipe.activation_checkpointing.number_checkpoints:
        config["activation_checkpointing"] = dataclasses.asdict(recipe.activation_checkpointing)
    return config


def _optimizer(recipe: Recipe, device_type: str) -> dict[str, Any]:
    settings = recipe.optimizer
    return {
        "type": "AdamW",
        "params": {
            "lr": settings.peak_learning_rate,
            "betas": [settings.beta1, settings.beta2],
            "eps": settings.eps,
            "weight_decay": settings.weight_decay,
            # torch's AdamW: no compiler needed at start, and fused on a GPU.
            "torch_adam": True,
            "fused": device_type == "cuda",
        },
    }


def _zero(recipe: Recipe, device_type: str) -> dict[str, Any]:
    zero = recipe.zero
    config: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": device_type == "cuda" and zero.stage > 0,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        # Reduced to the rank that owns it: an all-reduce to all would be twice the bytes.
        "use_multi_rank_bucket_allreduce": False,
        "reduce_bucket_size": zero.reduce_bucket_elements,
        "allgather_partitions": True,
        "allgather_bucket_size": zero.reduce_bucket_elements,
        "round_robin_gradients": False,
    }
    if zero.stage == 3:
        config |= {
            "stage3_param_persistence_threshold": zero.param_persistence_elements,
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
            "sub_group_size": 1_000_000_000,
        }
    return config


def read_overrides(path: Path) -> dict[str, Any]:
    """A user's DeepSpeed JSON; ValueError where it is missing or not a JSON object."""
    try:
        overrides = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--deepspeed-json: file {path} does not exist") from None
    except ValueError as error:
        raise ValueError(f"--deepspeed-json: {path} is not valid JSON: {error}") from None
    if not isinstance(overrides, dict):
        raise ValueError(f"--deepspeed-json: {path} must hold a JSON object")
    return overrides


def merge_overrides(generated: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`overrides` deep-merged over `generated`.

    ValueError for a key that the recipe decides, and for one that would not do what it says.
    """
    merged = copy.deepcopy(generated)
    _merge_into(merged, overrides, prefix="")
    adam = merged["optimizer"]["params"]
    if not adam["torch_adam"]:
        adam.pop("fused", None)  # a keyword of torch's AdamW, which DeepSpeed's do not know
    _require_effective(merged)
    return merged


def _require_effective(config: dict[str, Any]) -> None:
    """ValueError for choices about moments that DeepSpeed 0.19 ignores, or ends with a traceback.

    Moments in bf16 halve the optimizer's memory, and lose updates below 1/256 of a weight.
    """
    names = ("bf16_master_weights_and_grads", "bf16_optimizer_states")
    weights, moments = (bool(config["bf16"].get(name, False)) for name in names)
    stage = config["zero_optimization"]["stage"]
    if weights != moments:
        raise ValueError(
            f"--deepspeed-json sets bf16.{names[0]} to {str(weights).lower()} and bf16.{names[1]} "
            f"to {str(moments).lower()}: DeepSpeed has master weights and moments both in fp32 or "
            "both in bf16 on a GPU; set both keys"
        )
    if weights and (stage < 2 or not config["bf16"]["enabled"]):
        raise ValueError(
            f"--deepspeed-json sets bf16.{names[0]} and bf16.{names[1]}, which DeepSpeed ignores "
            f"at zero.stage {stage} or in fp32; set zero.stage to 2 or 3 and train.dtype to bf16"
        )


def _merge_into(target: dict[str, Any], overrides: dict[str, Any], prefix: str) -> None:
    for key, value in overrides.items():
        path = f"{prefix}{key}"
        if path in OWNED_BY_RECIPE and target.get(key) != value:
            raise ValueError(
                f"--deepspeed-json sets {path} to {json.dumps(value)}, but the recipe sets it to "
                f"{json.dumps(target.get(key))}; remove the key, and set the recipe's "
                f"{OWNED_BY_RECIPE[path]} instead"
            )
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge_into(target[key], value, prefix=f"{path}.")
        else:
            _refuse_replaced_section(target, key, path)
            target[key] = copy.deepcopy(value)


def _refuse_replaced_section(target: dict[str, Any], key: str, path: str) -> None:
    """ValueError for a scalar in place of a section, which would drop the recipe's keys in it."""
    if isinstance(target.get(key), dict):
        raise ValueError(
            f"--deepspeed-json sets {path} to a single value, but it must be a JSON object; set "
            "the keys inside it"
        )
