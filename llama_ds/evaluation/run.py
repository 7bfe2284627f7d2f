"""An evaluation from a folder of a model to a folder of results, on one rank or many."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from data_pipeline.files.atomic import write_atomic
from llama_ds.checkpoint.saving import versions
from llama_ds.evaluation import comparison, harness_tasks, outcomes, page, table
from llama_ds.evaluation.answers import Answers
from llama_ds.evaluation.batches import tokens_that_fit
from llama_ds.evaluation.crew import open_crew
from llama_ds.evaluation.harness_tasks import Loaded
from llama_ds.evaluation.outcomes import Outcome
from llama_ds.evaluation.paper_tasks import PaperTask, all_tasks, chosen
from llama_ds.evaluation.rows import find_file
from llama_ds.evaluation.sandbox import CodeJudge, Sandbox
from llama_ds.evaluation.scored_model import ScoredModel
from llama_ds.loaded_model import load, model_folder, require_divisible, tokenizer_of, tp_groups
from llama_ds.planning.generation_memory import free_bytes, weight_shapes
from llama_ds.torchrun_ranks import Ranks

AVAILABLE = "available"
ALL = ("paper", AVAILABLE)
MIB = 2**20


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, on what, and where to put it."""

    model: Path
    tasks: str = "paper"
    data: Path | None = None
    limit: int | None = None
    shots: tuple[int, ...] | None = None
    out: Path = Path("evaluation")
    samples: int | None = None
    """Texts of each question where several are drawn; by default the paper's numbers."""
    tp: int = 1
    dtype: str | None = None
    batch_tokens: int | None = None
    seed: int = 0
    size: str | None = None
    """The paper's model to compare with; by default the nearest in parameters."""
    against: Path | None = None
    sandbox: Sandbox | None = None
    """None: no program of the model is executed."""
    commit: str | None = None
    """Of this project's code, for the record."""

    def __post_init__(self) -> None:
        for name in ("limit", "samples", "batch_tokens", "tp"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} ({value}) must be positive")
        if self.shots is not None and min(self.shots, default=-1) < 0:
            raise ValueError(f"--shots {self.shots} must be numbers from 0 on, as 0,1,5,64")
        if self.size is not None and self.size not in table.SIZES:
            raise ValueError(f"--size {self.size} must be one of {', '.join(table.SIZES)}")


@dataclass(frozen=True)
class Plan:
    """Tasks with their numbers of shots, and those that are left out, with the reason."""

    asked: tuple[tuple[PaperTask, int], ...]
    not_run: dict[str, str]


def plan(evaluation: Evaluation) -> Plan:
    """ValueError for what cannot be evaluated; nothing heavy is loaded."""
    words, data = evaluation.tasks, evaluation.data
    if words == AVAILABLE:
        if data is None:
            raise ValueError(f"--tasks {AVAILABLE} are those with files in --data; name a folder")
        tasks = [task for task in all_tasks().values() if _has_files(task, data)]
        if not tasks:
            raise ValueError(f"{data} has no file of a task; see docs/how-to/evaluate.md")
    else:
        tasks = chosen(words)
    if data is not None and not data.is_dir():
        raise ValueError(f"--data {data} is not a folder")
    not_run = {}
    if evaluation.sandbox is None:
        reason = "executes programs that the model writes, which needs --run-code"
        for task in [task for task in tasks if task.kind == "code"]:
            if words not in ALL:
                raise ValueError(f"--tasks {words}: {task.name} {reason}")
            not_run[task.title] = reason
            tasks.remove(task)
    else:
        evaluation.sandbox.require()
    harness_tasks.require_data(tasks, data)
    asked = [(task, shots) for task in tasks for shots in shots_of(task, evaluation.shots)]
    return Plan(tuple(asked), not_run)


def shots_of(task: PaperTask, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Those of the paper; `wanted` in their place where the paper has several."""
    return wanted if wanted is not None and len(task.shots) > 1 else task.shots


def _has_files(task: PaperTask, data: Path) -> bool:
    return any(find_file(data, task.files, one.name) for one in harness_tasks.subjects(task))


def evaluate(evaluation: Evaluation, ranks: Ranks, say: Callable[[str], None]) -> None:
    """Evaluate and write the results. Collective; ValueError on every rank for bad input."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if ranks.size % evaluation.tp:
        raise ValueError(f"--tp {evaluation.tp} must divide the number of ranks, {ranks.size}")
    folder = ranks.agreed(lambda: model_folder(evaluation.model))
    loaded: list[list[Loaded]] = []
    not_run: dict[str, str] = {}

    def open_data() -> None:
        planned = plan(evaluation)
        not_run.update(planned.not_run)
        loaded.extend(_loaded(evaluation, planned, not_run))

    ranks.agreed(open_data)  # before minutes of loading weights
    with contextlib.ExitStack() as stack:
        model, size = _open_model(evaluation, folder, ranks, stack, say)
        if ranks.rank:
            model.follow()
            return
        try:
            found = _ask_all(evaluation, folder, model, loaded, say)
        finally:
            model.release()
        _write(evaluation, folder, found, not_run, evaluation.size or size, say)


def _loaded(
    evaluation: Evaluation, planned: Plan, not_run: dict[str, str]
) -> Iterator[list[Loaded]]:
    for task, shots in planned.asked:
        samples = (evaluation.samples or task.samples) if task.samples > 1 else 1
        judge = None
        if evaluation.sandbox is not None:
            judge = CodeJudge(evaluation.sandbox, task.pass_at)
        if task.pass_at and samples < max(task.pass_at):
            not_run[task.title] = f"needs {max(task.pass_at)} samples, and --samples is {samples}"
            continue
        try:
            yield harness_tasks.load(
                task,
                shots,
                evaluation.data,
                limit=evaluation.limit,
                samples=samples,
                judge=judge,
            )
        except harness_tasks.TooFewShots as error:
            not_run[f"{task.title} {shots}-shot"] = str(error)


def _open_model(
    evaluation: Evaluation,
    folder: Path,
    ranks: Ranks,
    stack: contextlib.ExitStack,
    say: Callable[[str], None],
) -> tuple[ScoredModel, str]:
    """The model on every rank, and the paper's size that is nearest to it."""
    whole: Any = AutoConfig.from_pretrained(folder)
    config = whole.get_text_config()
    dtype = getattr(torch, evaluation.dtype) if evaluation.dtype else whole.dtype or torch.float32
    groups = None
    if evaluation.tp > 1:
        require_divisible(config, evaluation.tp)
        groups = stack.enter_context(tp_groups(config, evaluation.tp))
    tokenizer = tokenizer_of(folder)
    model = load(folder, config, dtype, ranks.device, groups)
    crew = stack.enter_context(open_crew(groups))
    free = ranks.least(free_bytes(ranks.device))
    is_cpu = ranks.device.type == "cpu"
    tokens = evaluation.batch_tokens or tokens_that_fit(
        free, config, dtype.itemsize, evaluation.tp, is_cpu=is_cpu
    )
    scored = ScoredModel(
        model,
        tokenizer,
        batch_tokens=ranks.agreed(lambda: tokens),
        crew=crew,
        seed=evaluation.seed,
        shows_progress=ranks.rank == 0,
    )
    count = sum(map(prod, weight_shapes(folder).values()))
    say(
        f"{folder}: {count:,} parameters, {dtype}, {crew.num_teams} x tp {evaluation.tp}, batches "
        f"of {tokens:,} tokens"
    )
    return scored, table.nearest_size(count)


def _ask_all(
    evaluation: Evaluation,
    folder: Path,
    model: ScoredModel,
    loaded: Sequence[Sequence[Loaded]],
    say: Callable[[str], None],
) -> list[Outcome]:
    """Every task that has not been asked with these settings before."""
    of_model = identity(folder, str(model.model.dtype))
    found = []
    for index, parts in enumerate(loaded, 1):
        name = outcomes.name_of(parts[0].task.name, parts[0].shots)
        settings = {
            "model": of_model,
            "seed": evaluation.seed,
            "batch_tokens": model.batch_tokens,
            "rows": outcomes.fingerprint(parts),
            "lm_eval": metadata.version("lm_eval"),
        }
        path = evaluation.out / "samples" / f"{name}.jsonl"
        if path.exists() and (earlier := outcomes.read(path)).settings == settings:
            say(f"[{index}/{len(loaded)}] {name}: kept from before")
            found.append(earlier)
            continue
        say(f"[{index}/{len(loaded)}] {name}")
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        kept = evaluation.out / "answers" / f"{name}_{digest}.jsonl"
        with Answers(kept) as answers:
            if len(answers):
                say(f"{len(answers)} answers of an interrupted evaluation are kept")
            outcome = outcomes.ask(model, parts, settings, answers)
        outcomes.write(outcome, evaluation.out / "samples")
        kept.unlink()
        found.append(outcome)
    return found


def identity(folder: Path, dtype: str) -> str:
    """Of the weights, without reading all of them: names, sizes, beginnings and ends of files."""
    digest = hashlib.sha256(dtype.encode())
    names = ("config.json", "tokenizer.json", "tokenizer.model")
    for path in sorted([*folder.glob("*.safetensors"), *(folder / name for name in names)]):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read(MIB))
            file.seek(max(0, path.stat().st_size - MIB))
            digest.update(file.read(MIB))
    return digest.hexdigest()[:32]


def _write(
    evaluation: Evaluation,
    folder: Path,
    found: Sequence[Outcome],
    not_run: dict[str, str],
    size: str,
    say: Callable[[str], None],
) -> None:
    """results.json, results.md and results.html; against.md where there is something to compare."""
    out, lines = evaluation.out, table.lines(found, size)
    out.mkdir(parents=True, exist_ok=True)
    title = f"Evaluation of {evaluation.model}"
    tokenizers = [
        path for name in ("tokenizer.json", "tokenizer.model") for path in [folder / name]
    ]
    record = {
        "model": str(evaluation.model),
        "checkpoint": str(folder),
        "compared_with": size,
        "versions": {**versions(), "lm_eval": metadata.version("lm_eval")},
        "commit": evaluation.commit,
        "tokenizer_sha256": {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tokenizers if p.is_file()
        },
        "options": {key: _plain(value) for key, value in asdict(evaluation).items()},
        "rows": table.as_json(lines),
        "tasks": {
            one.name: {k: v for k, v in asdict(one).items() if k not in ("samples", "settings")}
            | {"num_samples": len(one.samples), "samples": f"samples/{one.name}.jsonl"}
            for one in found
        },
        "not_run": not_run,
    }
    _put(out / "results.json", json.dumps(record, indent=2) + "\n")
    text = table.markdown(lines, size, title, not_run)
    _put(out / "results.md", text)
    _put(out / "results.html", page.render(lines, size, title, record))
    if evaluation.against is not None:
        own = {one.name: one for one in found}
        pairings = comparison.compare(own, outcomes.read_all(evaluation.against))
        versus = comparison.markdown(pairings, str(evaluation.against))
        _put(out / "against.md", versus)
        _put(out / "against.json", json.dumps([asdict(one) for one in pairings], indent=2) + "\n")
        text += "\n" + versus
    say(text)
    say(f"{out}: results.json, results.md, results.html, samples/")


def _put(path: Path, text: str) -> None:
    write_atomic(path, text.encode("utf-8"))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
