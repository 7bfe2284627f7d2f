"""A token store whose bytes have changed does not train silently."""

from __future__ import annotations

import gc
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.tokens.store import TokenStore
from llama_ds import store_verification
from llama_ds.store_verification import StoreVerification
from tests.support.nightly import at_night
from tests.support.tiny_run import make_store, run_training, tiny_recipe

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]
THREAD = "store-verification"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(intact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(intact, tmp_path / "store")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def train_and_look(
    recipe: Any, sample_bytes: int, bytes_per_second: float, damaged: Path | None = None
) -> tuple[str, list[str], list[str]]:
    """Train as two machines and with other bounds; the error, threads that are left, open or mapped
    files of the store.

    `damaged` loses a byte once what is read at once is read.
    """
    plain = store_verification.SAMPLE_BYTES
    init = StoreVerification.__init__

    def then_damage(self: StoreVerification, *args: Any, **options: Any) -> None:
        rank = torch.distributed.get_rank()
        options |= {"machine": f"machine {rank}", "bytes_per_second": bytes_per_second}
        init(self, *args, **options)
        torch.distributed.barrier()
        if damaged is not None and rank == 0:
            flip_a_byte(damaged)
        torch.distributed.barrier()

    store_verification.SAMPLE_BYTES = sample_bytes
    StoreVerification.__init__ = then_damage  # type: ignore[method-assign]
    try:
        run_training(recipe)
        error = ""
    except ValueError as caught:
        error = str(caught)
    finally:
        store_verification.SAMPLE_BYTES = plain
        StoreVerification.__init__ = init  # type: ignore[method-assign]
    threads = [thread.name for thread in threading.enumerate() if THREAD in thread.name]
    gc.collect()
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    files = [str(link) for link in links if link.is_relative_to(recipe.data.store)]
    mapped = Path("/proc/self/maps").read_text().splitlines()
    return error, threads, files + [line for line in mapped if str(recipe.data.store) in line]


def losses(recipe: Any) -> list[float]:
    lines = (recipe.run_dir / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]


def shards_of(store: Path) -> list[Path]:
    return [store / file.path for file in TokenStore.open(store).shards]


@pytest.mark.parametrize("mode", ["full", "sample"])
def test_a_flipped_byte_is_found_before_the_first_step(
    gloo: Gloo, store: Path, tmp_path: Path, mode: str
) -> None:
    for damaged in shards_of(store):
        flip_a_byte(damaged)
        recipe = tiny_recipe(store, tmp_path / "run", **{"data.verify": mode})
        for error, threads, files in gloo(2, train_and_look, recipe, 1 << 30, 1e9):
            assert error.startswith("data.store: damaged shard: ")
            assert str(damaged) in error
            assert (threads, files) == ([], [])
        assert not list(recipe.run_dir.rglob("*"))  # nor the lock, which is released
        flip_a_byte(damaged)


def test_a_changed_tokenizer_is_found(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    flip_a_byte(store / "tokenizer" / "tokenizer.model")
    recipe = tiny_recipe(store, tmp_path / "run")
    for error, _, _ in gloo(2, train_and_look, recipe, 1 << 30, 1e9):
        assert "damaged tokenizer" in error


def test_a_flipped_byte_is_found_while_the_run_goes_on(
    gloo: Gloo, store: Path, tmp_path: Path
) -> None:
    """Each rank reads one file before the start; no checkpoint follows a finding."""
    found = 0
    for number, damaged in enumerate(shards_of(store)):
        recipe = tiny_recipe(
            store,
            tmp_path / f"run-{number}",
            **{"train.max_steps": 60, "checkpoint.every_steps": 1_000_000},
            **{"train.micro_batch_size": 4, "train.eval_every_steps": 1_000_000},  # fast steps
        )
        answers = gloo(2, train_and_look_at_most, recipe, damaged)
        flip_a_byte(damaged)
        errors = {error for error, _, _ in answers}
        assert len(errors) == 1, "all ranks end with the same error"
        if str(damaged) in errors.pop():
            found += 1
            assert not any((recipe.run_dir / "checkpoints").iterdir())
        assert [answer[1:] for answer in answers] == [([], []), ([], [])]
    # The two files that were read before the damage are not read twice.
    assert found == len(shards_of(store)) - 2


def train_and_look_at_most(recipe: Any, damaged: Path) -> Any:
    return train_and_look(recipe, 1, 1e9, damaged)


@pytest.mark.parametrize("mode", ["sample", at_night("off")])
def test_only_what_is_asked_for_is_read(gloo: Gloo, store: Path, tmp_path: Path, mode: str) -> None:
    for damaged in shards_of(store):
        recipe = tiny_recipe(store, tmp_path / damaged.parent.name, **{"data.verify": mode})
        for error, threads, _ in gloo(2, train_and_look, recipe, 1, 1e9, damaged):
            assert (error, threads) == ("", [])
        flip_a_byte(damaged)


def test_an_intact_store_gives_the_same_losses(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    found = {}
    for mode in ("full", "sample", "off"):
        recipe = tiny_recipe(store, tmp_path / mode, **{"data.verify": mode})
        for error, threads, files in gloo(2, train_and_look, recipe, 1, 1e9):
            assert (error, threads, files) == ("", [], [])
        found[mode] = losses(recipe)
    assert len(found["off"]) == 6
    assert found["full"] == found["sample"] == found["off"]


def test_a_run_does_not_wait_for_the_rest(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    """At a rate at which reading would take days, that it ends at all says that it did not wait."""
    recipe = tiny_recipe(store, tmp_path / "run")
    for error, threads, files in gloo(2, train_and_look, recipe, 1, 0.1):
        assert (error, threads, files) == ("", [], [])


def shares(store: Path, other: Path) -> tuple[list[str], int]:
    """What this rank, one of four, reads of one of two copies of a store: two machines have one
    copy, and one machine, with two ranks, another."""
    import torch.distributed as dist

    copy = (store, other)[dist.get_rank() // 2]
    machine = ("a", "b", "c", "c")[dist.get_rank()]
    verification = StoreVerification(
        TokenStore.open(copy), "sample", machine=machine, device=torch.device("cpu")
    )
    own = store_verification._own_files(TokenStore.open(copy), machine)
    assert verification.num_checked == verification.num_files
    return [file.path for file in own], verification.num_files


def test_processes_share_the_files_of_a_copy(gloo: Gloo, intact: Path, store: Path) -> None:
    everything = sorted(file.path for file in TokenStore.open(store).shards)
    answers = gloo(4, shares, intact, store)
    read = [own for own, _ in answers]
    assert sorted(read[0] + read[1]) == everything
    assert read[0]
    assert read[1]
    # The other copy has one reader.
    assert (sorted(read[2]), read[3]) == (everything, [])
    assert {number for _, number in answers} == {2 * len(everything)}


def test_a_wrong_mode_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.verify \(half\) must be one of full, sample, off"):
        tiny_recipe(store, tmp_path, **{"data.verify": "half"})
