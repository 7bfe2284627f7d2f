"""The recipe's rules: what is refused, with which words, and the batch arithmetic."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_ds.batch import batch_plan
from llama_ds.config import Recipe, from_dict
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides, read_overrides
from llama_ds.model_config import ModelConfig
from tests.support.tiny_run import tiny_recipe

LLAMA_65B = ModelConfig(
    hidden_size=8192,
    intermediate_size=22016,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=64,
)
BF16_MOMENTS = {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_recipe(tmp_path / "store", tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "model.num_attention_heads",
            5,
            r"hidden_size \(32\) must be a multiple of .* \(5\)",
        ),
        ("model.num_key_value_heads", 3, r"num_attention_heads \(4\) must be a multiple .* \(3\)"),
        ("model.vocab_size", 0, r"model.vocab_size \(0\) must be positive"),
        ("model.rms_norm_eps", 0.0, r"model.rms_norm_eps \(0.0\) must be positive"),
        ("train.sequence_length", 64, r"sequence_length \(64\) must not exceed .* \(32\)"),
        ("train.tokens_per_step", 100, r"\(100\) must be a multiple of .* \(32\)"),
        ("train.micro_batch_size", 0, r"train.micro_batch_size \(0\) must be positive"),
        ("train.mlp_tiles", 0, r"train.mlp_tiles \(0\) must be positive"),
        ("parallel.overlap_chunks", 0, r"parallel.overlap_chunks \(0\) must be positive"),
        ("parallel.overlap", "yes", r"parallel.overlap \(yes\) must be auto, on or off"),
        ("train.mlp_tiles", 2, r"mlp_tiles > 1 saves no .* gate, up of .* save_policy to no_mlp"),
        ("train.max_steps", -1, r"train.max_steps \(-1\) must be positive"),
        ("train.seed", -1, r"train.seed \(-1\) must not be negative"),
        ("train.hang_timeout_seconds", -1.0, r"hang_timeout_seconds \(-1.0\) must not be negative"),
        ("zero.stage", 4, r"zero.stage \(4\) must be 0, 1, 2 or 3"),
        ("optimizer.beta2", 1.0, r"optimizer.beta2 \(1.0\) must lie in \[0, 1\)"),
        ("optimizer.peak_learning_rate", 0.0, r"peak_learning_rate \(0.0\) must be positive"),
        ("optimizer.min_learning_rate_ratio", 1.5, r"\(1.5\) must lie in \[0, 1\]"),
        ("data.shares", {"web": 0.0}, r"data.shares: web \(0.0\) must be positive"),
        (
            "data.epochs",
            {"web": 2.0},
            r"data.epochs \({'web': 2.0}\) and data.shares .* give one ",
        ),
        ("checkpoint.every_steps", 0, r"checkpoint.every_steps \(0\) must be positive"),
        ("metrics.peak_tflops", -1.0, r"metrics.peak_tflops \(-1.0\) must be positive"),
    ],
)
def test_a_wrong_value_is_refused_with_its_rule(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_recipe(tmp_path, tmp_path, **{field: value})


def test_a_run_shorter_than_its_warm_up_is_refused_unless_asked_for(recipe: Recipe) -> None:
    optimizer = dataclasses.replace(recipe.optimizer, warmup_steps=2000)
    train = dataclasses.replace(recipe.train, max_steps=None, train_tokens=1000 * 256)
    with pytest.raises(ValueError, match=r"warmup_steps \(2000\) must be fewer .* \(1000\)"):
        dataclasses.replace(recipe, optimizer=optimizer, train=train)
    smoke = dataclasses.replace(recipe.train, max_steps=5)
    assert dataclasses.replace(recipe, optimizer=optimizer, train=smoke).train.num_steps == 5


def test_the_recipe_survives_json(recipe: Recipe) -> None:
    assert from_dict(json.loads(recipe.to_json())) == recipe


@pytest.mark.parametrize(
    ("dp_size", "micro_batch_size", "accumulation"), [(1, 1, 8), (1, 8, 1), (2, 2, 2), (4, 2, 1)]
)
def test_batch_plan_is_exact(
    tmp_path: Path, dp_size: int, micro_batch_size: int, accumulation: int
) -> None:
    recipe = tiny_recipe(tmp_path, tmp_path, **{"train.micro_batch_size": micro_batch_size})
    plan = batch_plan(recipe, dp_size)
    assert plan.grad_accum_steps(0) == plan.most_grad_accum_steps == accumulation
    assert plan.num_rows(1) == 8
    assert plan.num_tokens(1) == recipe.train.tokens_per_step


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"8 sequences .* 3 data-parallel ranks .*\(2\) = 6 "):
        batch_plan(recipe, 3)


def test_flops_per_token_are_those_published_for_65b() -> None:
    # 6 * matmul weights + 12 * 80 * 8192 * 2048: 406.2 GFLOP, 398.2 counting causal scores only.
    assert LLAMA_65B.flops_per_token(2048, causal=False) == pytest.approx(406.2e9, rel=1e-3)
    assert LLAMA_65B.flops_per_token(2048, causal=True) == pytest.approx(398.2e9, rel=1e-3)
    assert LLAMA_65B.num_parameters == 65_285_660_672


def test_the_recipe_is_read_without_torch() -> None:
    code = "import sys, llama_ds.config, llama_ds.deepspeed_config; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


# -- DeepSpeed JSON -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_deepspeed_accepts_the_generated_configuration(
    tmp_path: Path, stage: int, dtype: str, device_type: str
) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    overrides = {"zero.stage": stage, "train.dtype": dtype, "train.micro_batch_size": 8}
    recipe = tiny_recipe(tmp_path, tmp_path, **overrides)
    generated = deepspeed_config(recipe, batch_plan(recipe, 1), device_type)
    config = DeepSpeedConfig(generated)
    assert config.train_batch_size == 8
    assert config.zero_optimization_stage == stage
    assert config.gradient_clipping == 0.3
    assert config.bfloat16_config.enabled == (dtype == "bf16")
    assert generated["optimizer"]["params"]["fused"] == (device_type == "cuda")


def test_users_keys_are_merged_deep(recipe: Recipe) -> None:
    generated = deepspeed_config(recipe, batch_plan(recipe, 2), "cpu")
    users = {
        "zero_optimization": {"round_robin_gradients": True},
        "comms_logger": {"enabled": True},
    }
    merged = merge_overrides(generated, users)
    assert merged["zero_optimization"]["round_robin_gradients"] is True
    assert merged["zero_optimization"]["stage"] == 1
    assert merged["comms_logger"] == {"enabled": True}
    assert generated["zero_optimization"]["round_robin_gradients"] is False


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (
            {"zero_optimization": {"stage": 3}},
            r"zero_optimization.stage to 3, .* to 1; .* zero.stage instead",
        ),
        (
            {"gradient_clipping": 5},
            r"gradient_clipping to 5, .* to 0.3; .* optimizer.max_grad",
        ),
        ({"train_batch_size": 64}, r"train_batch_size to 64, .* to 8; "),
        ({"fp16": {"enabled": True}}, r"fp16.enabled to true, .* to false; .* train.dtype "),
        ({"scheduler": {"type": "WarmupLR"}}, r"scheduler to .* optimizer.warmup_steps"),
        ({"tensor_parallel": {"autotp_size": 2}}, r"tensor_parallel to .* parallel.tp"),
        ({"sequence_parallel_size": 2}, r"sequence_parallel_size to 2, .* parallel.sp"),
        (
            {"activation_checkpointing": {"partition_activations": True}},
            r"activation_checkpointing to .* to null; .* recipe's activation_checkpointing ",
        ),
        ({"zero_optimization": True}, r"zero_optimization to a single value"),
    ],
)
def test_a_key_that_contradicts_the_recipe_is_refused(
    recipe: Recipe, users: dict[str, Any], message: str
) -> None:
    generated = deepspeed_config(recipe, batch_plan(recipe, 2), "cpu")
    with pytest.raises(ValueError, match=message):
        merge_overrides(generated, users)


@pytest.mark.parametrize(
    ("stage", "dtype", "keys", "message"),
    [
        (2, "bf16", {"bf16_optimizer_states": True}, "to false and .* to true: .* set both keys"),
        (2, "bf16", {"bf16_master_weights_and_grads": True}, "to true and .* to false: .* both in"),
        (1, "bf16", BF16_MOMENTS, "which DeepSpeed ignores at zero.stage 1 or in fp32"),
        (3, "fp32", BF16_MOMENTS, "set zero.stage to 2 or 3 and train.dtype to bf16"),
    ],
)
def test_a_key_without_effect_is_refused(
    tmp_path: Path, stage: int, dtype: str, keys: dict[str, bool], message: str
) -> None:
    options = {"zero.stage": stage, "train.dtype": dtype}
    recipe = tiny_recipe(tmp_path / "store", tmp_path / "run", **options)
    generated = deepspeed_config(recipe, batch_plan(recipe, 2), "cpu")
    with pytest.raises(ValueError, match=message):
        merge_overrides(generated, {"bf16": keys})


def test_deepspeeds_own_adam_gets_its_own_keywords(recipe: Recipe) -> None:
    generated = deepspeed_config(recipe, batch_plan(recipe, 2), "cuda")
    merged = merge_overrides(generated, {"optimizer": {"params": {"torch_adam": False}}})
    assert generated["optimizer"]["params"].keys() - merged["optimizer"]["params"] == {"fused"}


def test_a_key_that_agrees_with_the_recipe_is_accepted(recipe: Recipe) -> None:
    generated = deepspeed_config(recipe, batch_plan(recipe, 2), "cpu")
    assert merge_overrides(generated, {"zero_optimization": {"stage": 1}}) == generated


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_deepspeed_file_that_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "extra.json"
    with pytest.raises(ValueError, match=r"file .*extra.json does not exist"):
        read_overrides(path)
    path.write_text(content)
    with pytest.raises(ValueError, match="JSON"):
        read_overrides(path)
