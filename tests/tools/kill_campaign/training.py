"""Scenarios of training: a run that is killed and resumed until its end, and what must hold then.

A scenario follows from its seed: layouts, dtype, when checkpoints are written, which processes are
killed at which moment. (Moments are aimed at, and how far a job is then differs from try to try.)
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_ds.checkpoint.export import export
from llama_ds.checkpoint.verification import (
    all_checkpoints,
    checkpoint_path,
    damage_of,
    read_run,
    step_of,
)
from llama_ds.config import Recipe
from llama_ds.run_lock import LOCK_FILE
from tests.support.layouts import Layout
from tests.support.reference import Reference
from tests.tools.kill_campaign.jobs import Aim, Moment, Victims, run_job
from tests.tools.kill_campaign.record import Kill, Record, Wrong

SAME_STEPS = 20
CHANGING_STEPS = 5  # the reshard matrix's, and its tolerances (tests/llama_ds/checkpoint)
# Few of four ranks: they share the cores of the machine.
SIZES: list[dict[str, Any]] = [
    *({}, {"dp": 2}, {"dp": 2, "accum": 2}, {"tp": 2}, {"tp": 2, "megatron": True}, {"sp": 2}),
    *({"dp": 2, "tp": 2}, {"tp": 2, "sp": 2, "megatron": True}),
]
# Each is also run once without a kill.
SAME_LAYOUTS = [
    Layout(stage, **size, dtype=dtype)
    for stage in range(4)
    for number, size in enumerate(SIZES)
    for dtype in ("fp32", "bf16")
    # Every stage with dp, tp and sp; the others at one of the stages.
    if size in ({"dp": 2}, {"tp": 2}, {"sp": 2}) or number % 4 == stage
    # At stage 0 tensor parallelism has no bf16.
    if not (stage == 0 and dtype == "bf16" and "tp" in size)
]
# A job that is not killed at "any time" in this span has ended, or is at its last steps.
SECONDS = 1.5
CHANGES_OF_A_JOB = 80


def any_layout(moments: random.Random, dtypes: Sequence[str]) -> Layout:
    size, dtype = moments.choice(SIZES), moments.choice(dtypes)
    lowest = 1 if dtype == "bf16" and "tp" in size else 0
    return Layout(moments.randint(lowest, 3), **size, dtype=dtype)


def an_aim(moments: random.Random, num_ranks: int) -> Aim:
    moment: Moment = moments.choice(get_args(Moment))
    seconds = {"any time": SECONDS, "in a save": 0.05, "at a change": 0.0}[moment]
    counts = {"any time": 1, "in a save": 2, "at a change": CHANGES_OF_A_JOB}
    victims: Victims = moments.choice(get_args(Victims))
    return Aim(
        victims,
        moment,
        seconds=moments.uniform(0.0, seconds),
        count=moments.randint(1, counts[moment]),
        # The one that publishes and logs is half of the victims.
        rank=moments.choice([0, moments.randrange(num_ranks)]),
    )


@dataclass
class Campaign:
    """What scenarios share: the token store, runs that were left alone, and a folder."""

    store: Path
    folder: Path
    straight_runs: Path
    """A folder of runs that nobody has killed, which several campaigns may share."""

    def __post_init__(self) -> None:
        self._reference: Reference | None = None

    def straight(self, layout: Layout) -> Path:
        """The folder of a run of SAME_STEPS in this layout that nobody has killed."""
        name = f"{layout}-{layout.accum}-{layout.megatron}"
        whole = self.straight_runs / name
        if not whole.exists():
            folder = self.folder / name
            folder.mkdir(parents=True)
            recipe = same_recipe(layout, self.store, folder / "run")
            ended = run_job(recipe, layout.num_ranks, folder / "log", None)
            assert ended.exit_code == 0, (folder / "log").read_text()
            self.straight_runs.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another campaign has been faster
                folder.rename(whole)
        return whole / "run"

    @property
    def reference(self) -> Reference:
        """Plain PyTorch's run of CHANGING_STEPS."""
        if self._reference is None:
            recipe = changing_recipe(Layout(0), self.store, Path("unused"))
            self._reference = Reference(recipe)
        return self._reference


def same_recipe(layout: Layout, store: Path, run_dir: Path, **overrides: Any) -> Recipe:
    every = {"train.eval_rows": 3, "train.eval_every_steps": 5, "train.log_every_steps": 3}
    return layout.recipe(store, run_dir, **{"train.max_steps": SAME_STEPS, **every, **overrides})


def changing_recipe(layout: Layout, store: Path, run_dir: Path, **overrides: Any) -> Recipe:
    return layout.recipe(store, run_dir, **{"train.max_steps": CHANGING_STEPS, **overrides})


def run_scenario(campaign: Campaign, seed: int) -> Record:
    """Kill and resume one run until its end; the record says what was found wrong."""
    moments = random.Random(seed)
    changing = moments.random() < 0.4
    dtypes, layout = ["fp32"], moments.choice(SAME_LAYOUTS)
    if changing:
        dtypes = moments.choice([["fp32"], ["bf16"], ["fp32", "bf16"]])
        layout = any_layout(moments, dtypes)
    overrides = {
        "checkpoint.asynchronous": moments.random() < 0.5,
        "checkpoint.every_steps": 1 if changing else moments.randint(1, 3),
        "checkpoint.keep_last": moments.randint(1, 2),
        "checkpoint.keep_every": moments.choice([0, 4]),
    }
    what = f"changing layouts, {' and '.join(dtypes)}, " if changing else f"{layout}, "
    what += "asynchronous" if overrides["checkpoint.asynchronous"] else "synchronous"
    record = Record("training", seed, what)
    folder = campaign.folder / f"training-{seed}"
    folder.mkdir(parents=True)
    run = _Run(folder, record)
    make = changing_recipe if changing else same_recipe
    num_kills = moments.randint(4, 8) if changing else moments.randint(6, 14)
    try:
        for _ in range(100):
            recipe = make(layout, campaign.store, folder / "run", **overrides)
            aim = an_aim(moments, layout.num_ranks) if len(record.kills) < num_kills else None
            if run.job(recipe, layout, aim):
                break
            if changing:
                layout = any_layout(moments, dtypes)
        else:
            raise Wrong("a hundred jobs did not end the run")
        run.check_end(recipe.train.num_steps)
        if changing:
            is_fp32 = dtypes == ["fp32"]
            compare_with_reference(campaign.reference, recipe, folder, is_fp32=is_fp32)
        else:
            compare_with_straight(campaign.straight(layout), recipe.run_dir)
    except Wrong as wrong:
        record.wrong = f"{wrong} ({run.last}; {folder})"
    else:
        shutil.rmtree(folder)
    return record


class _Run:
    """The run of a scenario, job after job."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.run_dir = folder / "run"
        self.last = "no job yet"
        self._record = record
        self._log = folder / "log"
        self._newest = 0

    def job(self, recipe: Recipe, layout: Layout, aim: Aim | None) -> bool:
        """One job, killed as `aim` says; whether it has come to the end of the run."""
        self.last = f"{layout}, {aim}"
        before = self._log.stat().st_size if self._log.exists() else 0
        ended = run_job(recipe, layout.num_ranks, self._log, aim)
        said = self._log.read_bytes()[before:].decode(errors="replace")
        if ended.left:
            raise Wrong(f"{len(ended.left)} processes were left")
        if not ended.fired and ended.exit_code != 0:
            raise Wrong(f"a job that was not killed ended with {ended.exit_code}")
        self._check_start(said)
        self._check_checkpoints(said)
        check_lines(self.run_dir, may_be_cut=True)
        if ended.exit_code == 0:
            return True
        assert aim is not None, "fired"
        self._record.kills.append(Kill(aim.victims, aim.moment, ended.seconds_to_end))
        return False

    def _check_start(self, said: str) -> None:
        """A job resumes from the newest checkpoint."""
        found = re.search(r"(?:resuming after step (\d+)|starting): ", said)
        if found is None:  # killed before
            return
        step = int(found[1] or 0)
        if step != self._newest:
            raise Wrong(f"a job began at step {step}, the newest checkpoint was {self._newest}")
        self._record.num_resumes += step > 0

    def _check_checkpoints(self, said: str) -> None:
        """None is damaged, and the newest is not older than what was there or was reported."""
        found = all_checkpoints(self.run_dir)
        for path in found:
            if (damage := damage_of(path)) is not None:
                raise Wrong(f"{path.name} is there and not whole: {damage}")
        newest = max(map(step_of, found), default=0)
        reported = [int(step) for step in re.findall(r"checkpoint \S*/step_(\d+)  stall", said)]
        if newest < max([self._newest, *reported]):
            raise Wrong(f"the newest checkpoint is {newest}, there was one of {self._newest}")
        self._newest = newest

    def check_end(self, num_steps: int) -> None:
        """Every step has its record, and nothing of killed jobs is left."""
        if self._newest != num_steps:
            raise Wrong(f"the run ended at step {self._newest} of {num_steps}")
        steps = check_lines(self.run_dir, may_be_cut=False)
        if steps != list(range(1, num_steps + 1)):
            raise Wrong(f"steps.jsonl has the steps {steps}")
        left = [path for path in self.run_dir.rglob("*") if path.name.startswith(".")]
        left += self.run_dir.glob(LOCK_FILE)
        if left:
            raise Wrong(f"left in the run folder: {', '.join(map(str, left))}")


def check_lines(run_dir: Path, *, may_be_cut: bool) -> list[int]:
    """Valid JSON, each kind of record once for a step; the steps in `steps.jsonl`, in order.

    A kill may cut the last line, until the next job.
    """
    steps: list[int] = []
    for name in ("metrics.jsonl", "steps.jsonl"):
        path, seen = run_dir / name, set()
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                if may_be_cut and number == len(lines):
                    break
                raise Wrong(f"{name}: line {number} is not valid JSON") from None
            key = (record["kind"], record["step"])
            if key in seen:
                raise Wrong(f"{name} has {key} twice")
            seen.add(key)
            if name == "steps.jsonl":
                steps.append(record["step"])
    if steps != sorted(steps):
        raise Wrong(f"steps.jsonl has the steps {steps}")
    return steps


# -- comparisons ----------------------------------------------------------------------------------


def records(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """The records of a log, without what depends on time and memory."""
    found = [json.loads(line) for line in (run_dir / name).read_text().splitlines()]
    measured = re.compile("seconds|per_second|mfu|memory")
    return [{k: v for k, v in one.items() if not measured.search(k)} for one in found]


def compare_with_straight(straight: Path, run_dir: Path) -> None:
    """Bit for bit: the same operations in the same order on the same numbers."""
    for name in ("steps.jsonl", "metrics.jsonl"):
        expected, found = records(straight, name), records(run_dir, name)
        if expected != found:
            pairs = zip(expected, found, strict=False)
            first = next(
                (pair for pair in pairs if pair[0] != pair[1]), (len(expected), len(found))
            )
            raise Wrong(f"{name} differs from the straight run's: {first}")
    runs = [read_run(checkpoint_path(one, SAME_STEPS)) for one in (straight, run_dir)]
    for key in ("num_updates", "rows"):
        if runs[0][key] != runs[1][key]:
            raise Wrong(f"{key} of the last checkpoint differs from the straight run's")
    if runs[0]["random_state"]["torch"] != runs[1]["random_state"]["torch"]:
        raise Wrong("torch's generator differs from the straight run's")
    for name, entry in runs[0]["files"].items():
        if ".safetensors" in name and runs[1]["files"].get(name) != entry:
            raise Wrong(f"{name} of the last checkpoint differs from the straight run's")


def compare_with_reference(
    reference: Reference, recipe: Recipe, folder: Path, *, is_fp32: bool
) -> None:
    """With the tolerances of the reshard matrix, whose reasons are there."""
    losses, norms = zip(
        *((one["loss"], one["grad_norm"]) for one in records(recipe.run_dir, "steps.jsonl")),
        strict=True,
    )
    near = pytest.approx(
        reference.losses, rel=1e-6 if is_fp32 else 0, abs=None if is_fp32 else 2e-2
    )
    if list(losses) != near:
        raise Wrong(f"losses {losses} are not near {reference.losses}")
    if list(norms) != pytest.approx(reference.grad_norms, rel=3e-6 if is_fp32 else 3e-2):
        raise Wrong(f"gradient norms {norms} are not near {reference.grad_norms}")
    if not is_fp32:
        export(recipe.run_dir, folder / "model", dtype="fp32")
        if (missed := reference.update_missed_by(folder / "model")) >= 0.1:
            raise Wrong(f"the update missed the reference's by {missed:.3f}")
        return
    path = checkpoint_path(recipe.run_dir, CHANGING_STEPS)
    trained = AutoModelForCausalLM.from_pretrained(path).state_dict()
    for name, weight in reference.model.state_dict().items():
        if not torch.allclose(trained[name], weight, rtol=0, atol=2e-5):
            raise Wrong(f"{name} is not near the reference's")
