"""Going back and passing over data, and repeating all of it from the run's events."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.files.atomic import move_directory
from llama_ds import rewind as module
from llama_ds.checkpoint.verification import checkpoint_path
from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from llama_ds.replay import Segment, replay, segments
from llama_ds.run_events import RunEvents, read_events
from llama_ds.step_log import FILE
from tests.support.tiny_run import make_store, run_training, run_with_nan, tiny_recipe

Gloo = Callable[..., list[Any]]
ROOT = Path(__file__).parents[2]
KEEP_ALL = {"checkpoint.every_steps": 1, "checkpoint.keep_last": 0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def steps(run_dir: Path) -> list[tuple[float, float | None]]:
    return [(r["loss"], r["grad_norm"]) for r in read_metrics(run_dir / FILE, "step")]


def tensors(run_dir: Path, step: int) -> dict[str, bytes]:
    folder = checkpoint_path(run_dir, step)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def training_error(recipe: Recipe) -> str:
    try:
        run_training(recipe)
    except ValueError as error:
        return str(error)
    return "no error"


# -- a rewind -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rewound(gloo: Gloo, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run that went to its end, and then back to step 3 and on without two steps of the data."""
    run_dir = tmp_path_factory.mktemp("rewound")
    gloo(2, run_training, tiny_recipe(store, run_dir, **KEEP_ALL))
    options = {"train.rewind_to": 3, "data.skip_steps": ("4-5",)}
    recipe = tiny_recipe(store, run_dir, **KEEP_ALL, **options)
    assert gloo(2, run_training, recipe) == [(6, None)] * 2
    return recipe


@pytest.mark.dist
def test_it_is_the_run_that_never_saw_that_data(
    gloo: Gloo, store: Path, tmp_path: Path, rewound: Recipe
) -> None:
    straight = tiny_recipe(store, tmp_path, **{"data.skip_steps": ("4-5",)})
    gloo(2, run_training, straight)
    assert steps(rewound.run_dir) == steps(tmp_path)
    assert tensors(rewound.run_dir, 6) == tensors(tmp_path, 6)
    first = steps(rewound.run_dir / "rewound/001_to_step_00000003")
    assert first[:3] == steps(tmp_path)[:3]
    assert all(a != b for a, b in zip(first[3:], steps(tmp_path)[3:], strict=True))
    (last,) = [r for r in read_metrics(tmp_path / "metrics.jsonl", "train") if r["step"] == 6]
    assert last["tokens"] == 6 * 256


@pytest.mark.dist
def test_what_came_after_is_kept_and_a_restart_goes_on(gloo: Gloo, rewound: Recipe) -> None:
    aside = rewound.run_dir / "rewound/001_to_step_00000003"
    names = [path.name for path in sorted((aside / "checkpoints").iterdir())]
    assert names == ["step_00000004", "step_00000005", "step_00000006"]
    assert gloo(2, run_training, rewound) == [(6, None)] * 2  # which is where it was
    kinds = [event["kind"] for event in read_events(rewound.run_dir)]
    assert kinds.count("rewind") == 1
    assert kinds[-3:] == ["end", "resume", "end"]
    assert [path.name for path in (rewound.run_dir / "rewound").iterdir()] == [aside.name]


@pytest.mark.dist
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train.rewind_to": 7}, "must be the step of a checkpoint, or 0, and .* has 1, 2, 3, 4"),
        ({"data.skip_steps": ("2-3", "4-5")}, "has passed 8 steps of the data, and skipped of th"),
        ({"data.skip_steps": ()}, r"these 4-5; data.skip_steps \(none\) says none. Keep the rang"),
    ],
)
def test_data_that_was_seen_cannot_be_skipped_without_a_rewind(
    gloo: Gloo, rewound: Recipe, options: dict[str, Any], message: str
) -> None:
    recipe = tiny_recipe(rewound.data.store, rewound.run_dir, **{**KEEP_ALL, **options})
    errors = gloo(2, training_error, recipe)
    assert errors[0] == errors[1]
    with pytest.raises(ValueError, match=message):
        raise ValueError(errors[0])


def test_a_kill_between_two_moves_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3, 4):
        checkpoint_path(tmp_path, step).mkdir(parents=True)
    (tmp_path / FILE).write_text("all four steps")

    def killed_at_the_second(path: Path, target: Path) -> None:
        if path.name != "step_00000004":
            raise KeyboardInterrupt
        move_directory(path, target)

    monkeypatch.setattr(module, "move_directory", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        module._set_aside(tmp_path, 1, {})
    monkeypatch.undo()
    (tmp_path / FILE).write_text("what a job without the rewind would leave")
    module._set_aside(tmp_path, 1, {})
    (aside,) = (tmp_path / "rewound").iterdir()
    assert len(list((aside / "checkpoints").iterdir())) == 3
    assert (aside / FILE).read_text() == "all four steps"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


# -- events ---------------------------------------------------------------------------------------


def test_events_survive_a_cut_line(tmp_path: Path) -> None:
    events = RunEvents(tmp_path)
    events.add("checkpoint", 3)
    events.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind": "checkp')
    events = RunEvents(tmp_path)
    events.add("end", 4, signal=15)
    events.close()
    assert [(event["kind"], event["step"]) for event in read_events(tmp_path)] == [
        ("checkpoint", 3),
        ("end", 4),
    ]


def begin(step: int, world_size: int = 2, **train: Any) -> dict[str, Any]:
    return {
        "kind": "resume" if step else "start",
        "step": step,
        "world_size": world_size,
        "recipe": {"run_dir": "x", "train": train},
        "deepspeed_json": {},
        "versions": {},
    }


def saved(step: int) -> dict[str, Any]:
    return {"kind": "checkpoint", "step": step}


def skipped(step: int) -> dict[str, Any]:
    return {"kind": "skipped", "step": step, "is_finite": False}


def summary(*events: dict[str, Any]) -> list[tuple[int, int, int, set[int]]]:
    return [
        (found.first_step, found.last_step, found.world_size, set(found.withheld))
        for found in segments(events)
    ]


def test_what_was_undone_is_left_out_of_the_chain() -> None:
    # A crash at step 9, found again at 5; jobs that differ in nothing are one segment.
    same = summary(begin(0), saved(5), skipped(7), begin(5), skipped(8), saved(10))
    assert same == [(0, 10, 2, {8})]
    # Another layout from 10 on, of which the part after 15 is undone with its change.
    other = summary(
        begin(0), skipped(4), saved(10), begin(10, 4), saved(15), saved(20),
        begin(20, 4, seed=1), skipped(22), saved(25), begin(15, 2), saved(18),
    )  # fmt: skip
    assert other == [(0, 10, 2, {4}), (10, 15, 4, set()), (15, 18, 2, set())]
    # Back to before a change, and no way from there that was saved.
    assert summary(begin(0), saved(10), begin(10, 4), saved(20), begin(5)) == [(0, 5, 2, set())]


def test_a_run_without_a_checkpoint_has_nothing_to_repeat() -> None:
    with pytest.raises(ValueError, match="tells of no checkpoint that a job has saved"):
        segments([begin(0), skipped(1)])


@pytest.mark.dist
def test_a_run_is_repeated_bit_for_bit_from_its_events(
    gloo: Gloo, store: Path, tmp_path: Path
) -> None:
    """A NaN, a changed learning rate, a rewind, data passed over, and another number of ranks."""
    run, out = tmp_path / "run", tmp_path / "again"

    def recipe(**options: Any) -> Recipe:
        every = {"checkpoint.every_steps": 1, "checkpoint.keep_last": 0}
        return tiny_recipe(store, run, **{**every, **options})

    gloo(2, run_with_nan, recipe(**{"train.stop_after_step": 3}), 2, 1, "gradient")
    slower = {"optimizer.peak_learning_rate": 5e-3}
    gloo(2, run_training, recipe(**slower, **{"train.stop_after_step": 5}))
    skip = {**slower, "data.skip_steps": ("5",)}
    gloo(2, run_training, recipe(**skip, **{"train.rewind_to": 4, "train.stop_after_step": 5}))
    gloo(1, run_training, recipe(**skip, **{"zero.stage": 3}))

    chain = segments(read_events(run))
    assert [(s.first_step, s.last_step, s.world_size) for s in chain] == [
        (0, 3, 2),
        (3, 4, 2),
        (4, 5, 2),
        (5, 6, 1),
    ]
    assert chain[0].withheld == {2}
    assert gloo(2, run_replay, run, out, 2) == [[chain[-1]]] * 2
    assert gloo(1, run_replay, run, out, 1) == [[]]
    before, after = steps(run), steps(out)
    assert before[1] == (before[1][0], None)  # it was not finite, and is now withheld
    assert before[:1] + before[2:] == after[:1] + after[2:]
    assert tensors(run, 6) == tensors(out, 6)
    described = [json.loads(line)["kind"] for line in (out / "events.jsonl").open()]
    assert described.count("end") == 4


@pytest.mark.nightly
@pytest.mark.dist
def test_the_command_repeats_a_run(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "again"
    gloo(1, run_training, tiny_recipe(store, run, **{"train.max_steps": 2}))
    command = [sys.executable, "recipes/replay.py", str(run), "--out", str(out)]
    # The store has moved, which the events cannot know.
    moved = store.rename(tmp_path / "moved")
    try:
        done = subprocess.run(
            [*command, "--store", str(moved)], cwd=ROOT, capture_output=True, text=True, check=True
        )
    finally:
        moved.rename(store)
    assert "steps 1-2 on 1 rank" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == f"{out}: done"
    assert tensors(run, 2) == tensors(out, 2)


def test_a_folder_without_events_is_refused_by_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "recipes/replay.py", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} has no events.jsonl; name the folder of a run\n"


def run_replay(run: Path, out: Path, world_size: int) -> list[Segment]:
    return replay(run, out, 0, world_size)
