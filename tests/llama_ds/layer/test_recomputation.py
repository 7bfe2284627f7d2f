"""DeepSpeed's activation checkpointing: equal numbers, less kept; what it does wrong is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_ds.batch import batch_plan
from llama_ds.config import Recipe
from llama_ds.deepspeed_config import deepspeed_config
from llama_ds.layer.recomputation import Recomputation
from llama_ds.metrics import read_metrics
from llama_ds.parallel_config import ParallelConfig
from tests.support.nightly import at_night
from tests.support.reference import Reference
from tests.support.tiny_run import make_store, run_training, tiny_recipe

Gloo = Callable[..., list[Any]]

PARTITION = {"partition_activations": True}
HOST = {**PARTITION, "cpu_checkpointing": True}
BUFFERS = {**PARTITION, "contiguous_memory_optimization": True}
ALL = {**HOST, **BUFFERS, "profile": True, "synchronize_checkpoint_boundary": True}


def checkpointed(
    store: Path,
    run_dir: Path,
    parallel: dict[str, Any],
    settings: dict[str, Any],
    **overrides: Any,
) -> Recipe:
    """Two layers, in two checkpoints unless `settings` say otherwise."""
    values = {"number_checkpoints": 2, **settings}
    sections = {f"activation_checkpointing.{name}": value for name, value in values.items()}
    sections |= {f"parallel.{name}": value for name, value in parallel.items()}
    fields = {
        "train.max_steps": 4,
        "train.micro_batch_size": 2,
        "train.eval_rows": 3,
        "train.save_policy": "keep_all",
        "parallel.replicate_kv_heads": True,
    }
    return tiny_recipe(store, run_dir, **{**fields, **sections, **overrides})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reference(store: Path) -> Callable[[bool], Reference]:
    made: dict[bool, Reference] = {}

    def of(masking: bool) -> Reference:
        if masking not in made:
            recipe = checkpointed(
                store, Path("unused"), {}, {}, **{"data.document_masking": masking}
            )
            made[masking] = Reference(recipe)
        return made[masking]

    return of


def column(recipe: Recipe, name: str) -> list[float]:
    return [record[name] for record in read_metrics(recipe.run_dir / "metrics.jsonl", "train")]


TP, MEGATRON = {"tp": 2, "sequence_parallel": False}, {"tp": 2}


@pytest.mark.dist
@pytest.mark.parametrize(
    ("ranks", "parallel", "settings", "overrides"),
    [
        (1, {}, {"number_checkpoints": 1}, {"zero.stage": 2}),
        at_night(1, {}, HOST, {"train.save_policy": "linear_outputs", "zero.stage": 3}),
        at_night(2, TP, PARTITION, {"zero.stage": 0, "data.document_masking": True}),
        at_night(2, TP, {**BUFFERS, "number_checkpoints": 1}, {"train.save_policy": "layer_input"}),
        (2, MEGATRON, {}, {"zero.stage": 3}),
        at_night(2, {"sp": 2}, {"number_checkpoints": 1}, {"data.document_masking": True}),
        at_night(4, TP, PARTITION, {"zero.stage": 1}),
        at_night(4, TP, HOST, {"zero.stage": 3}),
        at_night(4, TP, ALL, {"zero.stage": 2, "train.micro_batch_size": 4}),
        (4, {**TP, "sp": 2}, ALL, {"zero.stage": 3, "data.document_masking": True}),
    ],
)
def test_it_trains_as_plain_pytorch(
    gloo: Gloo,
    store: Path,
    tmp_path: Path,
    reference: Callable[[bool], Reference],
    ranks: int,
    parallel: dict[str, Any],
    settings: dict[str, Any],
    overrides: dict[str, Any],
) -> None:
    recipe = checkpointed(store, tmp_path / "run", parallel, settings, **overrides)
    expected = reference(recipe.data.document_masking)
    gloo(ranks, run_training, recipe)
    # fp32 sums in another order: a few ulp of a loss near 6, of a norm near 1.
    assert column(recipe, "loss") == pytest.approx(expected.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(expected.grad_norms, rel=3e-6)


# -- what is kept ---------------------------------------------------------------------------------


def kept_between_passes(recipe: Recipe) -> tuple[list[tuple[int, bool]], int, int]:
    """(elements, emptied) of each input after a forward pass; times printed of both directions."""

    from data_pipeline.tokens.store import TokenStore
    from llama_ds.engine import build_engine, build_model, init_distributed, release_engine
    from tests.support.pool_groups import pool_groups

    device = init_distributed(local_rank=0)
    groups = pool_groups(tp_size=recipe.parallel.tp)
    plan = batch_plan(recipe, groups.dp_size)
    config = deepspeed_config(recipe, plan, device.type)
    model = build_model(recipe, groups, TokenStore.open(recipe.data.store), config, device)
    engine = build_engine(model, recipe, groups, config)
    options = model.model.layer_options
    recomputation: Recomputation | None = options.recomputation
    assert recomputation is not None
    inputs: list[Tensor] = []
    checkpoint = recomputation.checkpoint

    def recorded(function: Any, hidden_states: Tensor) -> Tensor:
        inputs.append(hidden_states)
        return checkpoint(function, hidden_states)

    model.model.layer_options = dataclasses.replace(
        options, recomputation=dataclasses.replace(recomputation, checkpoint=recorded)
    )
    tokens, printed = torch.zeros(2, 32, dtype=torch.long), io.StringIO()
    with contextlib.redirect_stdout(printed):
        loss = engine(input_ids=tokens, labels=tokens).loss
        kept = [
            (getattr(x, "saved_data", x).numel(), x.untyped_storage().nbytes() <= 4) for x in inputs
        ]
        engine.backward(loss)
    release_engine(engine)
    return kept, printed.getvalue().count("fwd:"), printed.getvalue().count("backward:")


@pytest.mark.dist
def test_what_is_kept_and_printed(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    whole = 2 * 32 * 32  # rows, sequence, hidden
    for settings, expected in (
        ({}, [(whole, False)] * 2),
        ({"number_checkpoints": 1}, [(whole, False)]),
        (PARTITION, [(whole // 2, True)] * 2),
        (ALL, [(whole // 2, True)] * 2),
    ):
        recipe = checkpointed(store, tmp_path, TP, settings)
        times = len(expected) if settings.get("profile") else 0
        assert gloo(2, kept_between_passes, recipe) == [
            (expected, times, times),
            (expected, 0, 0),  # the first rank prints
        ]


# -- the configuration ----------------------------------------------------------------------------


def test_deepspeed_reads_the_section_as_the_recipe_says(store: Path, tmp_path: Path) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    recipe = checkpointed(store, tmp_path, {}, ALL)
    read = DeepSpeedConfig(
        deepspeed_config(recipe, batch_plan(recipe, 1), "cpu")
    ).activation_checkpointing_config
    for name, value in {"number_checkpoints": 2, **ALL}.items():
        assert getattr(read, name) == value
    plain = tiny_recipe(store, tmp_path)
    assert "activation_checkpointing" not in deepspeed_config(plain, batch_plan(plain, 1), "cpu")


@pytest.mark.parametrize(
    ("parallel", "settings", "overrides", "message"),
    [
        ({}, {"number_checkpoints": -1}, {}, r"number_checkpoints \(-1\) must not be negative"),
        ({}, {"number_checkpoints": 0, "profile": True}, {}, r"profile has no effect with"),
        (
            {},
            {"number_checkpoints": 0, **HOST},
            {},
            r"has no effect with .*number_checkpoints",
        ),
        ({}, {"number_checkpoints": 3}, {}, r"layers \(2\) must be a multiple of .* \(3\)"),
        (TP, {"cpu_checkpointing": True}, {}, r"cpu_checkpointing needs .*partition_activations"),
        (
            TP,
            {"contiguous_memory_optimization": True},
            {},
            r"contiguous_memory_optimization needs .*partition_activations",
        ),
        (
            MEGATRON,
            PARTITION,
            {},
            r"over the parallel\.tp \(2\) ranks, but parallel\.sequence_parallel .* wrongly",
        ),
        ({}, PARTITION, {}, r"has no effect with parallel\.tp \(1\)"),
        (
            {},
            {},
            {"train.save_policy": "layer_input"},
            r"layer_input .*number_checkpoints \(2\) .*recomputes every layer twice and saves no",
        ),
    ],
)
def test_what_would_be_wrong_is_refused(
    parallel: dict[str, Any], settings: dict[str, Any], overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        checkpointed(Path("store"), Path("run"), parallel, settings, **overrides)


@pytest.mark.dist
def test_deepspeed_is_still_wrong_where_it_is_refused(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Callable[[bool], Reference]
) -> None:
    """Should this fail, DeepSpeed has learned it, and `config.py` need not refuse it."""
    recipe = checkpointed(store, tmp_path / "run", TP, PARTITION)
    object.__setattr__(recipe, "parallel", ParallelConfig(tp=2, replicate_kv_heads=True))
    gloo(2, run_training, recipe)
    assert column(recipe, "loss")[1:] != pytest.approx(reference(False).losses[1:], rel=1e-3)
