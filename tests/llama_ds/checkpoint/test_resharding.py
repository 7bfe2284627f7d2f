"""A run that changes its layout, ZeRO stage or dtype at every resume trains as one process does.

Two kinds of test. A journey resumes a run in another layout after each step, and its losses,
gradient norms and final weights must be those of plain PyTorch. A round trip loads a checkpoint in
a layout and saves it at once: every file of tensors must come out byte for byte.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_ds.checkpoint.export import export
from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from llama_ds.planning.memory import checkpoint_host_bytes
from tests.support.layouts import Layout
from tests.support.reference import Reference
from tests.support.tiny_run import make_store, run_training

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]


# Consecutive layouts are what a checkpoint moves between: every stage follows every stage, and dp,
# tp, sp and their numbers grow and shrink. There are two key/value heads: tp 4 holds each twice.
JOURNEYS = [
    [
        Layout(0),
        Layout(0, tp=2),
        Layout(1, dp=4),
        Layout(1, tp=2, sp=2, megatron=True),
        Layout(0, dp=2, sp=2),
    ],
    [
        Layout(0, dp=2, tp=2),
        Layout(2, dp=2, accum=2),
        Layout(2, tp=4, megatron=True),
        Layout(1, sp=2, accum=4),
        Layout(2),
    ],
    [
        Layout(2, dp=2, sp=2),
        Layout(0, dp=4),
        Layout(3, tp=2, megatron=True, persistent=100),
        Layout(3, dp=4),
        Layout(1, tp=4),
    ],
    [
        Layout(1, dp=2, accum=2),
        Layout(3, dp=2, tp=2, megatron=True),
        Layout(2, sp=4),
        Layout(3, sp=2, tp=2, persistent=5_000),
        Layout(0),
    ],
]
BF16_JOURNEYS = [
    [
        Layout(1, dp=2, dtype="bf16"),
        Layout(3, tp=2, dtype="bf16", megatron=True, persistent=100),
        Layout(0, dp=2, sp=2, dtype="bf16"),
        Layout(2, sp=2, dtype="bf16"),
        Layout(1, dp=2, tp=2, dtype="bf16"),
    ],
    [
        Layout(1, dp=2),
        Layout(3, dp=2, dtype="bf16"),
        Layout(0, tp=2),
        Layout(0, dp=2, dtype="bf16"),
        Layout(3, tp=2),
    ],
]


def test_the_journeys_cover_every_change() -> None:
    pairs = [pair for journey in JOURNEYS for pair in itertools.pairwise(journey)]
    assert {(a.stage, b.stage) for a, b in pairs} == set(itertools.product(range(4), repeat=2))
    for size in ("dp", "tp", "sp", "num_ranks"):
        changes = {(getattr(a, size), getattr(b, size)) for a, b in pairs}
        assert any(a < b for a, b in changes), size
        assert any(a > b for a, b in changes), size
    for at, stages in ((0, "sources"), (1, "targets")):
        parallel = {pair[at].stage for pair in pairs if pair[at].tp > 1}
        assert parallel == {0, 1, 2, 3}, stages
    bf16 = [pair for journey in BF16_JOURNEYS for pair in itertools.pairwise(journey)]
    assert {(a.dtype, b.dtype) for a, b in bf16} >= {("fp32", "bf16"), ("bf16", "fp32")}
    assert {a.stage for a, _ in bf16 if a.dtype == "bf16"} == {0, 1, 2, 3}
    assert {b.stage for _, b in bf16 if b.dtype == "bf16"} >= {0, 2, 3}


def tiered(journeys: list[list[Layout]]) -> Iterator[Any]:
    """The last journey every time, the others at night."""
    for journey in journeys:
        at_night = journey is not journeys[-1]
        name = "_".join(map(str, journey))
        yield pytest.param(journey, id=name, marks=[pytest.mark.nightly] if at_night else [])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reference(store: Path) -> Reference:
    return Reference(Layout(0).recipe(store, Path("unused"), **{"train.max_steps": 5}))


def travel(gloo: Gloo, store: Path, run_dir: Path, journey: list[Layout]) -> Recipe:
    """One step in each layout; the last recipe."""
    for step, layout in enumerate(journey, start=1):
        overrides = {"train.max_steps": 5, "train.stop_after_step": step}
        recipe = layout.recipe(store, run_dir, **overrides)
        assert gloo(layout.num_ranks, run_training, recipe) == [(step, None)] * layout.num_ranks
    return recipe


def column(recipe: Recipe, name: str) -> list[float]:
    return [record[name] for record in read_metrics(recipe.run_dir / "metrics.jsonl", "train")]


@pytest.mark.parametrize("journey", list(tiered(JOURNEYS)))
def test_a_run_in_many_layouts_equals_plain_pytorch(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Reference, journey: list[Layout]
) -> None:
    recipe = travel(gloo, store, tmp_path / "run", journey)
    # The tolerances of the parallel matrix: fp32 sums in another order.
    assert column(recipe, "loss") == pytest.approx(reference.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(reference.grad_norms, rel=3e-6)
    rates = [Reference.rate(step, recipe) for step in range(5)]
    assert column(recipe, "learning_rate") == pytest.approx(rates, rel=1e-12)
    trained = AutoModelForCausalLM.from_pretrained(
        recipe.run_dir / "checkpoints" / "step_00000005"
    ).state_dict()
    for name, weight in reference.model.state_dict().items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("journey", list(tiered(BF16_JOURNEYS)))
def test_a_run_that_changes_its_dtype_stays_near_fp32(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Reference, journey: list[Layout]
) -> None:
    recipe = travel(gloo, store, tmp_path / "run", journey)
    # As in the parallel matrix.
    assert column(recipe, "loss") == pytest.approx(reference.losses, abs=2e-2)
    assert column(recipe, "grad_norm") == pytest.approx(reference.grad_norms, rel=3e-2)
    export(recipe.run_dir, tmp_path / "model", dtype="fp32")
    assert reference.update_missed_by(tmp_path / "model") < 0.1


# -- round trips ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(gloo: Gloo, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint after two steps every layout loads."""
    layout = Layout(1, dp=2, tp=2)
    run_dir = tmp_path_factory.mktemp("trained")
    gloo(4, run_training, layout.recipe(store, run_dir, **{"train.stop_after_step": 2}))
    return run_dir


def load_and_save(recipe: Recipe, shard_bytes: int) -> dict[str, Any]:
    """Resume, and save to `again` at once; what stands in the model and the optimizer."""
    with job_of(recipe) as (job, step):
        return save_again(job, step, shard_bytes)


@contextlib.contextmanager
def job_of(recipe: Recipe) -> Iterator[tuple[Any, int]]:
    """A training job that has resumed, and its step."""
    from llama_ds import job as jobs
    from llama_ds.engine import init_distributed

    device = init_distributed(0)
    with jobs.build_groups(recipe) as groups, contextlib.ExitStack() as stack:
        yield jobs.build_job(recipe, groups, device, {}, stack)


def save_again(job: Any, step: int, shard_bytes: int) -> dict[str, Any]:
    from llama_ds.checkpoint import saving

    recipe = job.recipe
    engine, sharding = job.engine, job.engine.module.tp.sharding
    description = saving.RunDescription(
        {},
        {},
        lambda step: 8 * step,
        lambda step: 256 * step,
        recipe.data.store / "tokenizer",
    )
    saver = saving.CheckpointSaver(
        engine,
        recipe.run_dir / "again",
        recipe.checkpoint,
        description,
        job.groups,
        sharding,
        shard_bytes=shard_bytes,
    )
    saver.save(step)
    saver.settle()
    saver.close()
    steps = {int(state["step"]) for state in engine.basic_optimizer.state.values()}
    return {
        "steps": steps,
        "live": live_weights(engine.module),
        "tp_rank": job.groups.tp_rank,
        "sharding": sharding,
        "snapshot": saver._snapshot._buffer.nbytes,
        "predicted": checkpoint_host_bytes(recipe, job.groups.dp_size),
    }


def live_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What the rank computes with: its tensor-parallel shards."""
    live: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        with _whole(parameter):
            live[name] = parameter.detach().clone()
    return live


def _whole(parameter: torch.nn.Parameter) -> Any:
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


ROUND_TRIPS = [
    Layout(0),
    Layout(0, dp=2, tp=2),
    Layout(1, dp=4),
    Layout(1, tp=4, megatron=True),
    Layout(2, dp=2, sp=2),
    Layout(3, dp=4),
    Layout(3, dp=2, tp=2, persistent=100),
    Layout(3, tp=2, sp=2, megatron=True),
    Layout(0, dp=2, dtype="bf16"),
    Layout(1, dp=2, tp=2, dtype="bf16"),
    Layout(2, dp=4, dtype="bf16"),
    Layout(3, dp=2, tp=2, dtype="bf16", persistent=100),
]


@pytest.mark.parametrize("layout", ROUND_TRIPS, ids=str)
def test_what_is_loaded_is_saved_byte_for_byte(
    gloo: Gloo, store: Path, tmp_path: Path, trained: Path, layout: Layout
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    recipe = layout.recipe(store, tmp_path / "run")
    states = gloo(layout.num_ranks, load_and_save, recipe, 2 * 10**9)
    source, target = (
        json.loads((folder / "checkpoints" / "step_00000002" / "run.json").read_text())
        for folder in (trained, recipe.run_dir / "again")
    )
    for name, entry in source["files"].items():
        if ".safetensors" in name:
            assert target["files"][name] == entry
    assert target["num_updates"] == 2
    folder = trained / "checkpoints" / "step_00000002"
    full = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    dtype = torch.bfloat16 if layout.dtype == "bf16" else torch.float32
    # The dry run counts the largest tensor too, the embedding. Partitions are padded by elements.
    snapshot = max(state["snapshot"] for state in states) + 4 * full["lm_head.weight"].numel()
    assert 0.9 * states[0]["predicted"] <= snapshot <= states[0]["predicted"] + 12 * len(full)
    for state in states:
        assert state["steps"] == {2}
        for name, weight in state["live"].items():
            own = state["sharding"].shard(name, full[name], state["tp_rank"])
            assert torch.equal(weight, own.to(dtype)), name


def use_and_load(recipe: Recipe, path: Path) -> dict[str, torch.Tensor]:
    """Weights after a forward pass, in which ZeRO-3 makes small parameters whole, and a load."""
    from llama_ds.checkpoint.resuming import load
    from llama_ds.checkpoint.verification import read_run

    with job_of(recipe) as (job, step):
        assert step == 6
        job.engine.eval()
        with torch.no_grad():
            job.engine(input_ids=torch.arange(64).view(2, 32), use_cache=False)
        load(job.engine, path, read_run(path), job.groups, job.engine.module.tp.sharding)
        return live_weights(job.engine.module)


def test_an_engine_that_was_used_is_loaded_too(
    gloo: Gloo, store: Path, tmp_path: Path, trained: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    recipe = Layout(3, dp=2, persistent=5_000).recipe(store, tmp_path / "run")
    gloo(2, run_training, recipe)
    older = tmp_path / "run" / "checkpoints" / "step_00000002"
    expected = AutoModelForCausalLM.from_pretrained(older).state_dict()
    for live in gloo(2, use_and_load, recipe, older):
        assert all(torch.equal(live[name], expected[name]) for name in expected)


def test_many_small_files_are_dealt_over_the_ranks(
    gloo: Gloo, store: Path, tmp_path: Path, trained: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    recipe = Layout(3, dp=2, tp=2).recipe(store, tmp_path / "run")
    gloo(4, load_and_save, recipe, 20_000)
    again = recipe.run_dir / "again" / "checkpoints" / "step_00000002"
    assert len(list(again.glob("model-*.safetensors"))) > 4
    full, found = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (trained / "checkpoints" / "step_00000002", again)
    )
    assert found.keys() == full.keys()
    assert all(torch.equal(found[name], full[name]) for name in full)


def elements_read(recipe: Recipe) -> tuple[int, int]:
    """(elements that this rank read at its resume, elements that it holds)."""
    import safetensors

    from llama_ds.checkpoint import tensor_files
    from llama_ds.checkpoint.engine_state import EngineState

    read = 0

    class Counted:
        """A slice of a file, as safetensors gives it."""

        def __init__(self, entry: Any) -> None:
            self._entry = entry

        def get_shape(self) -> list[int]:
            return list(self._entry.get_shape())

        def __getitem__(self, index: Any) -> torch.Tensor:
            nonlocal read
            values: torch.Tensor = self._entry[index]
            read += values.numel()
            return values

    @contextlib.contextmanager
    def counted(path: Path, framework: str) -> Iterator[Any]:
        with safetensors.safe_open(path, framework) as file:
            yield SimpleNamespace(get_slice=lambda name: Counted(file.get_slice(name)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_files, "safe_open", counted)
        with job_of(recipe) as (job, step):
            assert step == 2
            state = EngineState(job.engine, job.engine.module.tp.sharding)
            return read, 3 * sum(part.length for part in state.parts)


@pytest.mark.parametrize(
    "layout", [Layout(1, dp=4), Layout(3, dp=2, tp=2), Layout(2, tp=4)], ids=str
)
def test_a_rank_reads_what_it_holds(
    gloo: Gloo, store: Path, tmp_path: Path, trained: Path, layout: Layout
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    recipe = layout.recipe(store, tmp_path / "run")
    for read, held in gloo(layout.num_ranks, elements_read, recipe):
        # A range may begin and end inside a row: up to two rows of 96 more, for 21 tensors.
        assert held <= read < held + 3 * 21 * 2 * 96
        assert read < 0.5 * 3 * recipe.model.num_parameters


# -- a checkpoint is a model ----------------------------------------------------------------------


def logits_of_the_run(recipe: Recipe) -> torch.Tensor:
    with job_of(recipe) as (job, _), torch.no_grad():
        job.engine.eval()
        rows: torch.Tensor = torch.arange(64).view(2, 32)
        logits: torch.Tensor = job.engine(input_ids=rows, use_cache=False).logits
        return logits


@pytest.mark.parametrize(
    ("layout", "tolerance"),
    # fp32 sums in another order; bf16 rounds every product's sum to 8 bits.
    [(Layout(1, dp=2), 1e-5), (Layout(3, dp=2), 1e-5), (Layout(1, dp=2, dtype="bf16"), 4e-2)],
    ids=str,
)
def test_stock_transformers_reads_the_step_folder(
    gloo: Gloo, store: Path, tmp_path: Path, trained: Path, layout: Layout, tolerance: float
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    overrides = {"train.stop_after_step": 4, "checkpoint.every_steps": 4}
    recipe = layout.recipe(store, tmp_path / "run", **overrides)
    gloo(layout.num_ranks, run_training, recipe)
    folder = recipe.run_dir / "checkpoints" / "step_00000004"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    assert str(model.dtype) == f"torch.{'bfloat16' if layout.dtype == 'bf16' else 'float32'}"
    with torch.no_grad():
        expected = model(input_ids=torch.arange(64).view(2, 32)).logits
    for logits in gloo(layout.num_ranks, logits_of_the_run, recipe):
        assert logits.dtype == expected.dtype
        torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
