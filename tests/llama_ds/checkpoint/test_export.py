"""Exports: what is in them, in bounded memory; and no file of a run folder is ever unpickled."""

from __future__ import annotations

import ast
import ctypes
import gc
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from data_pipeline.files.checksum import file_checksum
from data_pipeline.release import hub_login
from llama_ds.checkpoint import hub
from llama_ds.checkpoint.__main__ import main
from llama_ds.checkpoint.engine_state import EngineState
from llama_ds.checkpoint.exchange import Snapshot
from llama_ds.checkpoint.export import export
from llama_ds.checkpoint.kinds import KINDS, index_path
from llama_ds.checkpoint.random_state import random_state
from llama_ds.checkpoint.resuming import resume
from llama_ds.checkpoint.saving import CheckpointSaver
from llama_ds.checkpoint.tensor_files import (
    SafetensorsWriter,
    TensorReader,
    index_of,
    plan_files,
)
from llama_ds.checkpoint.verification import damage_of, encode_run
from llama_ds.config import CheckpointConfig
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.tensor import Sharding
from tests.support.checkpoints import SmallEngine, description, tokenizer_folder
from tests.support.pool_groups import pool_groups

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]
ROOT = Path(__file__).resolve().parents[3]
WHOLE = Sharding(1, 2)


def save_one(run_dir: Path, *steps: int) -> None:
    torch.manual_seed(0)
    engine = SmallEngine()
    saver = CheckpointSaver(
        engine,
        run_dir,
        CheckpointConfig(),
        description(tokenizer_folder(run_dir / "tokenizer"), run="test"),
        pool_groups(),
        WHOLE,
        shard_bytes=8_000,
    )
    for step in steps or (3,):
        with torch.no_grad():
            for parameter in engine.module.parameters():
                parameter.normal_()
        saver.save(step)
        saver.settle()
    saver.close()


@pytest.fixture
def run_dir(gloo: Gloo, tmp_path: Path) -> Path:
    gloo(1, save_one, tmp_path / "run")
    return tmp_path / "run"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    return state


def test_an_average_is_the_mean_of_the_checkpoints_named(gloo: Gloo, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gloo(1, save_one, run, 3, 5, 7)
    all_steps = {step: weights_of(run / f"checkpoints/step_{step:08d}") for step in (3, 5, 7)}
    for words, steps in ((["--last", "3"], (3, 5, 7)), (["--steps", "7", "3"], (3, 7))):
        out = tmp_path / f"mean of {len(steps)}"
        assert main(["average", str(run), str(out), *words]) == 0
        for name, mean in weights_of(out).items():
            parts = torch.stack([all_steps[step][name].double() for step in steps])
            assert torch.equal(mean, parts.mean(0).float()), name
    (run / "checkpoints/step_00000005/config.json").write_text("{}")
    assert main(["average", str(run), str(tmp_path / "last"), "--last", "2"]) == 0  # 7 and 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--last", "1"], "a mean takes two checkpoints or more, not those of steps [3]"),
        (["--last", "2"], "has 1 complete checkpoints, not 2"),
        (["--steps", "3", "4"], "has no complete checkpoint of step 4 (missing)"),
    ],
)
def test_an_average_of_nothing_is_refused(
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert main(["average", str(run_dir), str(tmp_path / "mean"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("dtype", [None, "fp32", "bf16"])
def test_an_export_has_the_weights_in_the_dtype_asked_for(
    run_dir: Path, tmp_path: Path, dtype: str | None
) -> None:
    source = export(run_dir, tmp_path / "model", dtype=dtype)
    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).state_dict()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == (torch.bfloat16 if dtype == "bf16" else torch.float32)
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n].to(model.dtype)) for n in expected)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
        "training.json",
    }
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(w.nbytes for w in found.values())


def test_the_command_exports(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert main(["export", str(run_dir), str(out), "--step", "3", "--dtype", "bf16"]) == 0
    assert "step_00000003 -> " in capsys.readouterr().out
    assert main(["export", str(run_dir), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(run_dir), str(tmp_path / "b"), "--step", "9"]) == 2
    assert "no complete checkpoint of step 9 (missing)" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_push_is_checked_before_and_made_after_the_export(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        logged_in = False

        def whoami(self) -> None:
            if not self.logged_in:
                raise LocalTokenNotFoundError

        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, repo_id: str, folder_path: Path, **options: Any) -> None:
            assert (folder_path / "config.json").is_file()
            calls.append((repo_id, options))

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub_login, "HfApi", Api)
    words = ["export", str(run_dir), str(tmp_path / "model"), "--push-to-hub"]
    assert main([*words, "name"]) == 2
    assert "(name) must have the form USER/NAME" in capsys.readouterr().err
    assert main([*words, "me/name"]) == 2
    assert "run `hf auth login` to push to me/name" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    Api.logged_in = True
    assert main([*words, "me/name"]) == 0
    assert f"{tmp_path / 'model'} -> https://huggingface.co/me/name" in capsys.readouterr().out
    assert [name for name, _ in calls] == ["me/name", "me/name"]
    assert calls[0][1] == {"repo_type": "model", "private": True, "exist_ok": True}
    assert calls[1][1]["commit_message"] == "Step 3"
    words[2] = str(tmp_path / "second")
    assert main([*words, "me/name", "--public"]) == 0
    assert calls[2][1]["private"] is False


# -- memory ---------------------------------------------------------------------------------------

ROWS, COLUMNS, COUNT = 1_024, 2_048, 24  # tensors of 8 MiB in fp32
TENSOR_BYTES = ROWS * COLUMNS * 4
SHARD_BYTES = 8 * TENSOR_BYTES


def write_large(run_dir: Path) -> None:
    """A complete checkpoint of 192 MiB of weights (and of moments that are one row)."""
    path = run_dir / "checkpoints" / "step_00000001"
    (path / "optimizer").mkdir(parents=True)
    shapes = {f"layers.{number}.weight": (ROWS, COLUMNS) for number in range(COUNT)}
    files = plan_files(shapes, SHARD_BYTES)
    entries = {}
    for file in files:
        if file.kind == "weight":
            with SafetensorsWriter(path / file.path, file.shapes, torch.float32) as writer:
                for name, shape in file.shapes.items():
                    writer.add(name, torch.rand(shape))
            entries[file.path] = writer.entry
            assert writer.entry["xxh3_64"] == file_checksum(path / file.path)
    for kind in KINDS:
        of_kind = [file for file in files if file.kind == kind]
        (path / index_path(kind)).write_bytes(index_of(of_kind, torch.float32))
    config = {"dtype": "bfloat16", "max_position_embeddings": 8}
    (path / "config.json").write_text(json.dumps(config))
    for name in ("config.json", *map(index_path, KINDS)):
        size = (path / name).stat().st_size
        entries[name] = {"bytes": size, "xxh3_64": file_checksum(path / name)}
    run = {"step": 1, "num_updates": 1, "rows": 8, "identity": {}, "random_state": random_state()}
    (path / "run.json").write_bytes(encode_run({**run, "files": entries}))
    assert damage_of(path) is None


def growth_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Bytes by which this process grows at most during a call."""
    gc.collect()
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc_trim(0)
    libc.mallopt(-3, 2**20)  # M_MMAP_THRESHOLD: what is freed goes back at once
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    function(*arguments)
    return status("VmHWM") - before


def status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def export_twice(small: Path, large: Path, out: Path) -> int:
    export(small, out / "small")  # pages of libraries that are touched first are not counted
    return growth_of(export, large, out / "model")


def test_an_export_holds_a_tensor_at_a_time(gloo: Gloo, run_dir: Path, tmp_path: Path) -> None:
    write_large(tmp_path / "large")
    (growth,) = gloo(1, export_twice, run_dir, tmp_path / "large", tmp_path)
    # A tensor's pages of the file, its copy, the same in bf16, and a block that is checksummed.
    assert growth < 2.5 * TENSOR_BYTES + 12 * 2**20 < SHARD_BYTES
    weights = load_file(tmp_path / "model" / "model-00003-of-00003.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert len(weights) == COUNT // 3


class LargeEngine(SmallEngine):
    """One with matrices of 8 MiB."""

    def __init__(self) -> None:
        super().__init__()
        weights = [torch.nn.Linear(COLUMNS, ROWS, bias=False) for _ in range(COUNT // 3)]
        self.module = torch.nn.Sequential(*weights)  # type: ignore[assignment]
        self.optimizer = self.basic_optimizer = torch.optim.AdamW(self.module.parameters())


def growth_of_writing(folder: Path) -> tuple[int, int]:
    """(bytes of a rank's snapshot, growth while it writes its files)."""
    from llama_ds.checkpoint.exchange import Exchange

    state, groups = EngineState(LargeEngine(), WHOLE), ParallelGroups.build()
    snapshot = Snapshot(state, WHOLE, groups)
    snapshot.take()
    files = plan_files({part.name: part.shape for part in state.parts}, SHARD_BYTES)
    assert groups.dp_group is not None
    exchange = Exchange(snapshot, state.parts, files, WHOLE, groups, groups.dp_group)

    def write(file: Any) -> None:
        with SafetensorsWriter(folder / Path(file.path).name, file.shapes, torch.float32) as writer:
            for name, shape in file.shapes.items():
                writer.add(name, exchange.receive(name, file.kind, shape))

    def write_all() -> None:
        sent = exchange.start_sending()
        for file in exchange.own_files():
            write(file)
        for work in sent:
            work.wait()

    size = 12 * sum(length for _, length in snapshot.ranges)
    growth = growth_of(write_all)
    groups.close()
    return size, growth


def test_a_rank_writes_with_one_tensor_beside_its_snapshot(gloo: Gloo, tmp_path: Path) -> None:
    for size, growth in gloo(2, growth_of_writing, tmp_path):
        assert size == 12 * ROWS * COLUMNS * COUNT // 3 // 2
        # One that is received, one that is written, and gloo's own buffers.
        assert growth < 2.5 * TENSOR_BYTES + 12 * 2**20 < size


# -- pickles --------------------------------------------------------------------------------------


class Crafted:
    """Unpickled, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def resume_and_list(run_dir: Path) -> int:
    return resume(SmallEngine(), run_dir, {"run": "test"}, pool_groups(), WHOLE).step


def test_a_crafted_pickle_is_never_loaded(gloo: Gloo, run_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "ran"
    data = pickle.dumps(Crafted(place))
    checkpoint = run_dir / "checkpoints" / "step_00000003"
    older = run_dir / "checkpoints" / "step_00000002"
    for folder in (run_dir, checkpoint, checkpoint / "optimizer", older, older / "state"):
        folder.mkdir(exist_ok=True)
        for name in (
            "pytorch_model.bin",
            "training_args.bin",
            "mp_rank_00_model_states.pt",
            "zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "random_state_00000.pt",
            "latest",
        ):
            (folder / name).write_bytes(data)
    assert gloo(1, resume_and_list, run_dir) == [3]
    assert export(run_dir, tmp_path / "model") == checkpoint
    AutoModelForCausalLM.from_pretrained(checkpoint)
    assert main(["verify", str(run_dir)]) == 1
    # And where it stands in for a file that is read, it is damage.
    names = ["run.json", "model-00001-of-00003.safetensors", "config.json"]
    for name in names:
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(data)
        with pytest.raises(ValueError, match="none is complete"):
            export(run_dir, tmp_path / f"model-{name}")
        (checkpoint / name).write_bytes(content)
    assert not place.exists()
    pickle.loads(data)
    assert place.exists()


def test_no_module_of_the_package_reads_or_writes_pickles() -> None:
    for path in (ROOT / "llama_ds").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not called & {"torch.load", "torch.save", "engine.save_checkpoint"}, path
        assert not called & {"engine.load_checkpoint", "np.load", "numpy.load"}, path
        assert not imported & {"pickle", "dill", "cloudpickle", "joblib", "marshal"}, path


# -- files ----------------------------------------------------------------------------------------


def test_a_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(3, 5), "b.c": torch.rand(7), "d": torch.rand(2, 3, 4)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for dtype in (torch.float32, torch.bfloat16):
        path = tmp_path / "file.safetensors"
        with SafetensorsWriter(path, shapes, dtype) as writer:
            for name, tensor in tensors.items():
                writer.add(name, tensor.to(dtype))
        assert writer.entry == {
            "bytes": path.stat().st_size,
            "xxh3_64": file_checksum(path),
        }
        found = load_file(path)
        assert list(found) == list(tensors)
        assert all(torch.equal(found[name], tensors[name].to(dtype)) for name in tensors)


def test_any_range_of_any_shard_is_read(tmp_path: Path) -> None:
    full = {"m.weight": torch.arange(6 * 8.0).view(6, 8), "n.weight": torch.arange(12.0)}
    files = plan_files({name: tuple(tensor.shape) for name, tensor in full.items()})
    with SafetensorsWriter(tmp_path / files[0].path, files[0].shapes, torch.float32) as writer:
        for name, tensor in full.items():
            writer.add(name, tensor)
    (tmp_path / index_path("weight")).write_bytes(index_of(files[:1], torch.float32))
    reader = TensorReader(tmp_path, "weight")
    shards = [
        ("m.weight", (slice(0, 6), slice(0, 8))),
        ("m.weight", (slice(2, 5), slice(0, 8))),
        ("m.weight", (slice(0, 6), slice(4, 8))),
        ("n.weight", (slice(3, 9),)),
    ]
    for name, index in shards:
        flat = full[name][index].reshape(-1)
        for start in range(len(flat)):
            for end in range(start + 1, len(flat) + 1):
                found = reader.flat_range(name, index, start, end - start)
                assert torch.equal(found, flat[start:end])
