"""Training under DeepSpeed against plain PyTorch, and the runs' life: resume, stop, export."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_pipeline.tokens.store import TokenStore
from llama_ds.checkpoint.export import export, newest
from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from llama_ds.save_policy import PRESETS
from tests.support.nightly import at_night
from tests.support.reference import Reference
from tests.support.tiny_run import make_store, run_training, tiny_recipe

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]
Straight = Callable[..., Recipe]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def straight(gloo: Gloo, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """`straight(stage, dtype)` -> a run of two ranks that nobody stopped, for several tests."""

    @functools.cache
    def run(stage: int = 1, dtype: str = "fp32") -> Recipe:
        overrides = {"zero.stage": stage, "train.dtype": dtype}
        recipe = tiny_recipe(store, tmp_path_factory.mktemp("straight"), **overrides)
        gloo(2, run_training, recipe)
        return recipe

    return run


def records(recipe: Recipe, kind: str = "train") -> list[dict[str, Any]]:
    return list(read_metrics(recipe.run_dir / "metrics.jsonl", kind))


def column(recipe: Recipe, name: str, kind: str = "train") -> list[float]:
    return [record[name] for record in records(recipe, kind)]


# -- against plain PyTorch ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(store: Path) -> Reference:
    return Reference(tiny_recipe(store, Path("unused")))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2], ids=["1rank", "2ranks-2accum"])
def test_every_zero_stage_equals_plain_pytorch(
    gloo: Gloo,
    store: Path,
    tmp_path: Path,
    reference: Reference,
    straight: Straight,
    stage: int,
    world_size: int,
) -> None:
    if world_size == 2:
        recipe = straight(stage)
    else:
        overrides = {"zero.stage": stage, "train.micro_batch_size": 8}
        recipe = tiny_recipe(store, tmp_path / "run", **overrides)
        gloo(1, run_training, recipe)
    # fp32 sums in another order: a few ulp of a loss near 6, of a norm near 1.
    assert column(recipe, "loss") == pytest.approx(reference.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(reference.grad_norms, rel=2e-6)
    export(recipe.run_dir, tmp_path / "model")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    for name, expected in reference.model.state_dict().items():
        # Adam divides by the gradient's root mean square, which enlarges rounding where a
        # gradient is near zero; the weights have moved by up to 6 steps of 1e-2.
        torch.testing.assert_close(trained[name], expected, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("stage", [at_night(0), 1, at_night(2), 3])
def test_bf16_stays_near_fp32(
    tmp_path: Path, reference: Reference, straight: Straight, stage: int
) -> None:
    recipe = straight(stage, "bf16")
    # bf16 has 8 bits: activations are off by 2^-9 each, a loss near 6 by some 1e-2.
    assert column(recipe, "loss") == pytest.approx(reference.losses, abs=2e-2)
    assert column(recipe, "grad_norm") == pytest.approx(reference.grad_norms, rel=3e-2)
    export(recipe.run_dir, tmp_path / "model", dtype="fp32")
    assert reference.update_missed_by(tmp_path / "model") < 0.1  # measured: 0.04


def test_bf16_on_one_rank_stays_near_fp32(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Reference
) -> None:
    recipe = tiny_recipe(store, tmp_path / "run", **{"train.dtype": "bf16"})
    gloo(1, run_training, recipe)
    assert column(recipe, "loss") == pytest.approx(reference.losses, abs=2e-2)  # as above


@pytest.fixture(scope="module")
def masked_reference(store: Path) -> Reference:
    return Reference(tiny_recipe(store, Path("unused"), **{"data.document_masking": True}))


@pytest.mark.parametrize(
    "save_policy", ["linear_outputs", *(at_night(p) for p in PRESETS if p != "linear_outputs")]
)
def test_document_masking_equals_plain_pytorch(
    gloo: Gloo, store: Path, tmp_path: Path, masked_reference: Reference, save_policy: str
) -> None:
    overrides = {"data.document_masking": True, "train.save_policy": save_policy, "zero.stage": 3}
    recipe = tiny_recipe(store, tmp_path / "run", **overrides)
    gloo(2, run_training, recipe)
    assert column(recipe, "loss") == pytest.approx(masked_reference.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(masked_reference.grad_norms, rel=2e-6)


def test_held_out_loss_equals_stock_transformers(
    straight: Straight, store: Path, tmp_path: Path
) -> None:
    from llama_ds.data import HeldOutData

    recipe = straight()
    export(recipe.run_dir, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").requires_grad_(False)
    opened = TokenStore.open(store)
    sums: dict[str, list[float]] = {"books": [0.0, 0.0], "web": [0.0, 0.0]}
    for source, batch in HeldOutData(opened, 32, 5).micro_batches(0, 1, 1):
        logits = model(input_ids=batch.input_ids_BS).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels_BS.flatten(), reduction="sum"
        )
        sums[source][0] += float(loss)
        sums[source][1] += batch.num_targets
    assert sum(count for _, count in sums.values()) > 4 * 32
    record = records(recipe, "eval")[-1]
    # fp32 sums in another order.
    losses = {
        source: pytest.approx(nats / count, rel=1e-6) for source, (nats, count) in sums.items()
    }
    assert {source: values["loss"] for source, values in record["sources"].items()} == losses
    total = sum(nats for nats, _ in sums.values()) / sum(count for _, count in sums.values())
    assert record["loss"] == pytest.approx(total, rel=1e-6)
    assert sum(values["rows"] for values in record["sources"].values()) == record["rows"] == 5
    for source, values in record["sources"].items():
        split = opened.manifest.sources[source]["validation"]
        # All of the split's tokens but the first are predicted.
        nats = values["loss"] * (split.num_tokens - 1)
        bits_per_byte = pytest.approx(nats / math.log(2) / split.num_text_bytes)
        assert values["bits_per_byte"] == bits_per_byte
    assert record["bits_per_byte"] == pytest.approx(
        record["loss"] * _targets_per_byte(opened, sums) / math.log(2)
    )


def _targets_per_byte(store: TokenStore, sums: dict[str, list[float]]) -> float:
    """Of the rows that were evaluated, each with the bytes per token of its split."""
    splits = {source: store.manifest.sources[source]["validation"] for source in sums}
    num_bytes = sum(
        count * splits[source].num_text_bytes / (splits[source].num_tokens - 1)
        for source, (_, count) in sums.items()
    )
    return sum(count for _, count in sums.values()) / num_bytes


# -- the life of a run ----------------------------------------------------------------------------


def stop_at(recipe: Recipe, step: int) -> tuple[int, int | None]:
    """Train, and send SIGTERM to rank 1 only, while it works on `step`."""
    import torch.distributed as dist

    from llama_ds import train as module
    from llama_ds.step import train_step as plain_step

    calls = 0

    def step_with_signal(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_step(*arguments)

    module.train_step = step_with_signal  # type: ignore[attr-defined, assignment]
    try:
        return run_training(recipe)
    finally:
        module.train_step = plain_step  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        *((0, "fp32"), (3, "fp32"), (1, "bf16")),
        *(at_night(*case) for case in ((1, "fp32"), (2, "fp32"), (0, "bf16"), (3, "bf16"))),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    gloo: Gloo, store: Path, tmp_path: Path, straight: Straight, stage: int, dtype: str
) -> None:
    whole = straight(stage, dtype)
    overrides = {"zero.stage": stage, "train.dtype": dtype}
    stopped = tiny_recipe(store, tmp_path / "stopped", **overrides)
    assert gloo(2, stop_at, stopped, 3) == [(3, signal.SIGTERM)] * 2
    assert newest(stopped.run_dir).name == "step_00000003"
    assert gloo(2, run_training, stopped) == [(6, None)] * 2
    # Bit for bit: the same operations in the same order on the same numbers.
    for name in ("loss", "grad_norm", "learning_rate", "tokens"):
        assert column(stopped, name) == column(whole, name)
    assert column(stopped, "loss", "eval") == column(whole, "loss", "eval")
    assert len(column(stopped, "loss")) == 6
    # So are the weights and both moments at the end.
    ends = [newest(recipe.run_dir) for recipe in (stopped, whole)]
    files = [json.loads((path / "run.json").read_text())["files"] for path in ends]
    assert len([name for name in files[0] if name.endswith(".safetensors")]) == 3
    assert files[0] == files[1]


def test_a_torn_or_damaged_checkpoint_is_passed_over(
    gloo: Gloo, store: Path, tmp_path: Path, straight: Straight
) -> None:
    recipe = tiny_recipe(store, tmp_path / "run", **{"checkpoint.every_steps": 2})
    gloo(2, run_training, recipe)
    checkpoints = recipe.run_dir / "checkpoints"
    # What a kill in the middle of a save leaves: a hidden folder with half a file.
    partial = checkpoints / ".partial_step_00000006"
    (checkpoints / "step_00000006").rename(partial)
    (partial / "run.json").unlink()
    # And a disk error: one flipped byte, size unchanged.
    weights = next((checkpoints / "step_00000004").glob("model-*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step_00000004 is damaged .* checksum differs"):
        assert newest_in_this_process(gloo, recipe) == [(6, None)] * 2
    assert not partial.exists()
    assert column(recipe, "loss") == column(straight(), "loss")


def newest_in_this_process(gloo: Gloo, recipe: Recipe) -> list[Any]:
    """Run in the pool, and raise its rank 0's warnings here."""
    import warnings

    answers = gloo(2, run_training_with_warnings, recipe)
    for message in answers[0][1]:
        warnings.warn(message, stacklevel=1)
    return [result for result, _ in answers]


def run_training_with_warnings(recipe: Recipe) -> tuple[tuple[int, int | None], list[str]]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run_training(recipe)
    return result, [str(w.message) for w in caught if "damaged" in str(w.message)]


def test_keep_last_leaves_the_newest_checkpoints(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        store, tmp_path / "run", **{"checkpoint.every_steps": 1, "checkpoint.keep_last": 2}
    )
    gloo(2, run_training, recipe)
    names = sorted(path.name for path in (recipe.run_dir / "checkpoints").iterdir())
    assert names == ["step_00000005", "step_00000006"]


def test_a_longer_schedule_may_be_cut_into_jobs(
    gloo: Gloo, store: Path, tmp_path: Path, straight: Straight
) -> None:
    first = tiny_recipe(store, tmp_path / "jobs", **{"train.stop_after_step": 2})
    assert gloo(2, run_training, first) == [(2, None)] * 2
    second = tiny_recipe(store, tmp_path / "jobs")
    assert gloo(2, run_training, second) == [(6, None)] * 2
    assert column(second, "loss") == column(straight(), "loss")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.seed": 1}, r"has train.seed = 0, but this run has 1; set train.seed back to 0"),
        ({"train.tokens_per_step": 512}, r"train.tokens_per_step = 256, but this run has 512"),
        ({"data.block_rows": 5}, r"data.block_rows = 10, but this run has 5"),
        ({"data.shares": {"web": 1.0}}, r"data.shares = .*books.*, but this run has .*web"),
    ],
)
def test_another_run_is_not_resumed(
    gloo: Gloo,
    store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    change: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "not_resumed"
    recipe = tiny_recipe(store, folder, **{"train.stop_after_step": 1})
    if not folder.exists():
        gloo(2, run_training, recipe)
    errors = gloo(2, training_error, tiny_recipe(store, folder, **change))
    assert errors[0] == errors[1]
    with pytest.raises(ValueError, match=message):
        raise ValueError(errors[0])


def training_error(recipe: Recipe) -> str:
    try:
        run_training(recipe)
    except ValueError as error:
        return str(error)
    return "no error"


def test_a_disk_without_room_is_an_error_that_says_so(
    gloo: Gloo, store: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(store, tmp_path / "run")
    for error in gloo(2, training_error_on_a_full_disk, recipe):
        assert "a checkpoint needs" in error
        assert "the disk has 0.00 GiB free" in error
    assert list((recipe.run_dir / "checkpoints").iterdir()) == []
    assert records(recipe) == []  # it is said before the first step


def training_error_on_a_full_disk(recipe: Recipe) -> str:
    import shutil

    plain = shutil.disk_usage

    def full(path: Any) -> Any:
        usage = plain(path)
        return usage._replace(free=1000)

    shutil.disk_usage = full
    try:
        run_training(recipe)
    except OSError as error:
        return str(error)
    finally:
        shutil.disk_usage = plain
    return "no error"


def test_the_run_folder_tells_what_ran(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    from llama_ds.config import from_dict

    recipe = tiny_recipe(store, tmp_path / "run", **{"metrics.tensorboard": True})
    gloo(2, run_training, recipe)
    saved = from_dict(json.loads((recipe.run_dir / "recipe.json").read_text()))
    assert saved == recipe
    deepspeed = json.loads((recipe.run_dir / "deepspeed.json").read_text())
    assert deepspeed["train_batch_size"] == 8
    assert deepspeed["gradient_accumulation_steps"] == 2
    assert list((recipe.run_dir / "tensorboard").glob("events.*"))
    record = records(recipe)[-1]
    flops = recipe.model.flops_per_token(32, causal=False)
    per_device = record["tokens_per_second_per_device"]
    assert record["mfu_noncausal"] == pytest.approx(per_device * flops / 0.1e12)
    assert record["tokens_per_second"] == pytest.approx(2 * per_device)
    assert record["mfu_causal"] < record["mfu_noncausal"]


def test_export_gives_a_stock_model_and_tokenizer(straight: Straight, tmp_path: Path) -> None:
    recipe = straight()
    export(recipe.run_dir, tmp_path / "bf16", dtype="bf16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16")
    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bf16")
    ids = tokenizer("the cat")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat"
    with pytest.raises(ValueError, match="exists already"):
        export(recipe.run_dir, tmp_path / "bf16")
    with pytest.raises(ValueError, match="no complete checkpoint of step 5"):
        export(recipe.run_dir, tmp_path / "other", step=5)


def test_training_starts_from_a_hugging_face_model(
    gloo: Gloo, store: Path, tmp_path: Path, straight: Straight
) -> None:
    first = straight()
    export(first.run_dir, tmp_path / "model")
    for stage in (1, 3):
        overrides = {"train.init_from": tmp_path / "model", "zero.stage": stage}
        second = tiny_recipe(store, tmp_path / f"second{stage}", **overrides)
        gloo(2, run_training, second)
        # Before its first step the second run scores the held-out rows as the first did at its end.
        expected = column(first, "loss", "eval")[-1]
        assert column(second, "loss", "eval")[0] == pytest.approx(expected, rel=1e-6)
    # Without tokenizer.model, tokenizer.json says which tokenizer the model has.
    (tmp_path / "model" / "tokenizer.model").unlink()
    file = tmp_path / "model" / "tokenizer.json"
    tree = json.loads(file.read_text())
    tree["normalizer"] = None
    file.write_text(json.dumps(tree))
    errors = gloo(2, training_error, second)
    assert "was tokenized with another tokenizer" in errors[0]
    assert errors[1] == errors[0]
    file.unlink()
    wrong = {"train.init_from": tmp_path / "model", "model.num_hidden_layers": 3}
    errors = gloo(2, training_error, tiny_recipe(store, tmp_path / "third", **wrong))
    assert "has num_hidden_layers 2, but the recipe has model.num_hidden_layers 3" in errors[0]
