"""Whatever is wrong with a checkpoint, in whichever file, is seen by all who use checkpoints."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from llama_ds.checkpoint.__main__ import main
from llama_ds.checkpoint.export import export, newest
from llama_ds.checkpoint.resuming import resume
from llama_ds.checkpoint.retention import superseded
from llama_ds.checkpoint.saving import CheckpointSaver
from llama_ds.checkpoint.verification import all_checkpoints, damage_of, encode_run, read_run
from llama_ds.config import CheckpointConfig
from llama_ds.parallel.tensor import Sharding
from tests.support.checkpoints import (
    SmallEngine,
    damaged_versions,
    description,
    tokenizer_folder,
)
from tests.support.pool_groups import pool_groups

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]
WHOLE = Sharding(1, 2)
IDENTITY = {"run": "test"}


def save_steps(run_dir: Path, steps: list[int]) -> None:
    groups = pool_groups()
    saver = CheckpointSaver(
        engine := SmallEngine(),
        run_dir,
        CheckpointConfig(keep_last=0),
        description(tokenizer_folder(run_dir / "tokenizer"), **IDENTITY),
        groups,
        WHOLE,
        shard_bytes=8_000,
    )
    for step in steps:
        engine.fill(float(step))
        saver.save(step)
        saver.settle()
    saver.close()


@pytest.fixture(scope="module")
def saved(gloo: Gloo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three checkpoints."""
    run_dir = tmp_path_factory.mktemp("saved")
    gloo(2, save_steps, run_dir, [2, 4, 6])
    return run_dir


@pytest.fixture
def run_dir(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def checkpoint(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step_{step:08d}"


def test_a_checkpoint_says_what_it_is(run_dir: Path) -> None:
    path = checkpoint(run_dir, 4)
    assert damage_of(path) is None
    run = read_run(path)
    assert (run["format_version"], run["step"], run["rows"]) == (2, 4, 32)
    assert run["identity"] == IDENTITY
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert files == {*run["files"], "run.json"}
    assert files >= {
        "config.json",
        "generation_config.json",
        "model-00001-of-00003.safetensors",
        "model.safetensors.index.json",
        "optimizer/exp_avg-00001-of-00003.safetensors",
        "optimizer/exp_avg_sq-00002-of-00003.safetensors",
        "optimizer/exp_avg_sq.safetensors.index.json",
        "tokenizer.model",
    }
    assert "manifest.json" not in files


def test_any_damage_to_any_file_is_seen_and_named(run_dir: Path) -> None:
    path = checkpoint(run_dir, 6)
    seen = 0
    for kind, names in damaged_versions(path):
        damage = damage_of(path)
        assert damage is not None, (kind, names)
        # Exchanged with another file, `run.json` can no longer speak of that one.
        assert any(name in damage for name in names), (kind, names, damage)
        # Shared out, one of the shares sees it.
        assert any(damage_of(path, share, 3) for share in range(3))
        assert newest(run_dir) == checkpoint(run_dir, 4), (kind, names)
        with pytest.raises(ValueError, match="no complete checkpoint of step 6"):
            newest(run_dir, 6)
        # It is not counted among those to keep, and is not deleted either.
        found = all_checkpoints(run_dir)
        assert superseded(found, 2, 0, damage_of) == []
        assert superseded(found, 1, 0, damage_of) == [checkpoint(run_dir, 2)]
        seen += 1
    assert seen >= 6 * 14
    assert damage_of(path) is None


def test_an_export_is_made_of_the_newest_whole_checkpoint(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (_, names) in enumerate(damaged_versions(checkpoint(run_dir, 6))):
        if number % 7 == 0:  # each kind of damage, and every file
            source = export(run_dir, tmp_path / f"model{number}")
            assert source == checkpoint(run_dir, 4)
            message = capsys.readouterr().err
            assert "step_00000006 is damaged" in message
            assert any(name in message for name in names)


def resume_over_damage(run_dir: Path) -> int:
    """Resume next to every kind of damage; how many there were. A process of a pool runs this."""
    engine, groups, number = SmallEngine(), pool_groups(), 0
    path = checkpoint(run_dir, 6)
    versions = damaged_versions(path) if dist.get_rank() == 0 else iter(())
    while True:
        found: list[Any] = [next(versions, None)]
        dist.broadcast_object_list(found, src=0)
        if found[0] is None:
            return number
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert resume(engine, run_dir, IDENTITY, groups, WHOLE).step == 4
        # The first rank speaks for all.
        said = [str(warning.message) for warning in caught if "damaged" in str(warning.message)]
        assert len(said) == (dist.get_rank() == 0)
        assert all("step_00000006 is damaged" in message for message in said)
        assert {float(p.mean()) for p in engine.module.parameters()} == {4.0}
        dist.barrier()
        number += 1


def test_no_damaged_checkpoint_is_resumed(gloo: Gloo, run_dir: Path) -> None:
    numbers = gloo(2, resume_over_damage, run_dir)
    assert numbers[0] == numbers[1] >= 6 * 14


def resuming_error(run_dir: Path) -> str:
    try:
        return str(resume(SmallEngine(), run_dir, IDENTITY, pool_groups(), WHOLE))
    except ValueError as error:
        return str(error)


def test_a_run_of_damaged_checkpoints_does_not_begin_again(gloo: Gloo, run_dir: Path) -> None:
    for step in (2, 4, 6):
        (checkpoint(run_dir, step) / "run.json").write_text("{")
    for error in gloo(2, resuming_error, run_dir):
        assert "has 3 checkpoints and none is complete" in error
        assert "step_00000002: run.json: not valid JSON" in error
        assert "\n" not in error
    assert len(all_checkpoints(run_dir)) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "format version None, this program reads version 2"),
        ('{"format_version": 3}', "format version 3, this program reads version 2"),
        ('{"format_version": 2}', "its own checksum differs"),
        ('{"format_version": 2, "step": 6, "files": {}, "checksum": "0"}', "checksum differs"),
    ],
)
def test_a_torn_or_edited_description_is_damage(run_dir: Path, text: str, reason: str) -> None:
    path = checkpoint(run_dir, 6)
    (path / "run.json").write_text(text)
    damage = damage_of(path)
    assert damage is not None
    assert reason in damage


def test_bytes_that_are_no_text_are_damage(run_dir: Path) -> None:
    path = checkpoint(run_dir, 6)
    (path / "run.json").write_bytes(b"\xff\xfe\x00")
    assert "not valid JSON" in str(damage_of(path))


def test_a_number_edited_in_the_description_is_damage(run_dir: Path) -> None:
    path = checkpoint(run_dir, 6)
    text = (path / "run.json").read_text()
    (path / "run.json").write_text(text.replace('"num_updates": 0', '"num_updates": 1'))
    assert damage_of(path) == "run.json: its own checksum differs"


def test_a_checkpoint_named_by_another_step_is_damage(run_dir: Path) -> None:
    checkpoint(run_dir, 6).rename(checkpoint(run_dir, 8))
    assert damage_of(checkpoint(run_dir, 8)) == "run.json: step 6 in a folder named step_00000008"


def test_a_copy_may_have_any_name(run_dir: Path, tmp_path: Path) -> None:
    copied = tmp_path / "best"
    shutil.copytree(checkpoint(run_dir, 6), copied)
    assert damage_of(copied) is None
    (copied / "config.json").write_text("{}")
    assert "config.json" in str(damage_of(copied))


def test_a_description_names_files_of_its_folder_only(run_dir: Path) -> None:
    path = checkpoint(run_dir, 6)
    run = read_run(path)
    for name in ("../step_00000004/config.json", "/etc/hostname"):
        files = {**run["files"], name: {"bytes": 1, "xxh3_64": "0"}}
        (path / "run.json").write_bytes(encode_run({**run, "files": files}))
        assert f"{name} lies outside" in str(damage_of(path))


@pytest.mark.parametrize("content", [{}, {"step": 6}, {"step": 6, "files": []}, {"files": {}}])
def test_a_description_that_lacks_something_is_damage(
    run_dir: Path, content: dict[str, Any]
) -> None:
    path = checkpoint(run_dir, 6)
    (path / "run.json").write_bytes(encode_run(content))
    assert damage_of(path) is not None


def test_an_older_format_is_named(gloo: Gloo, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run", 100)
    (path / "state").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"version": 1, "step": 100}))
    for error in gloo(2, resuming_error, tmp_path / "run"):
        assert "format version 1, this program reads version 2" in error
        assert "the release that wrote it" in error
    with pytest.raises(ValueError, match="format version 1"):
        newest(tmp_path / "run")


def test_verify_lists_all(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"step_0000000{step}  complete" for step in (6, 4, 2)
    ]
    (checkpoint(run_dir, 4) / "tokenizer.model").write_bytes(b"")
    assert main(["verify", str(run_dir)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("step_00000004  damaged: tokenizer.model: 0 bytes, expected")
    assert main(["verify", str(run_dir / "none")]) == 2
    assert "has no checkpoint" in capsys.readouterr().err
