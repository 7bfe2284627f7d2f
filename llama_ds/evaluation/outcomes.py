"""Asks a task's questions through the harness, and keeps what it judged of every sample."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import unittest.mock
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lm_eval.api.task
from lm_eval.evaluator import evaluate

from data_pipeline.files.atomic import write_atomic
from llama_ds.evaluation.answers import Answers
from llama_ds.evaluation.harness_tasks import Loaded
from llama_ds.evaluation.paper_tasks import PaperTask
from llama_ds.evaluation.scored_model import ScoredModel


@dataclass(frozen=True)
class Outcome:
    """A task with one number of shots, asked and judged."""

    task: str
    shots: int
    samples: list[dict[str, Any]]
    left_out: dict[str, int]
    """Rows of the data that were not asked, by reason."""
    origins: list[str]
    notes: list[str]
    requests: int
    truncated: int
    """Requests whose context lost its beginning."""
    settings: dict[str, Any]
    """What decides about the numbers; the same settings need not be asked again."""

    @property
    def name(self) -> str:
        return name_of(self.task, self.shots)


def name_of(task: str, shots: int) -> str:
    return f"{task}_{shots}_shots"


def ask(
    model: ScoredModel,
    loaded: Sequence[Loaded],
    settings: dict[str, Any],
    answers: Answers | None = None,
) -> Outcome:
    """Ask every subject of a task; all of its requests share batches. `answers` are known."""
    task, shots = loaded[0].task, loaded[0].shots
    with model.asked(name_of(task.name, shots), answers) as counts, _quiet_harness():
        parts = {one.name: one.harness for one in loaded}
        found = evaluate(
            model,
            {"tasks": parts, "groups": {}},
            bootstrap_iters=0,
            log_samples=True,
            confirm_run_unsafe_code=True,  # `harness_tasks` judges code, in the sandbox
        )
        assert found is not None
        samples = [
            _sample(task, one.name, raw, model.lengths)
            for one in loaded
            for raw in found["samples"][one.name]
        ]
    left_out: Counter[str] = sum((one.left_out for one in loaded), Counter())
    return Outcome(
        task.name,
        shots,
        samples,
        dict(left_out),
        list(dict.fromkeys(one.origin for one in loaded)),
        list(dict.fromkeys([*([task.note] if task.note else []), *loaded[0].notes])),
        counts.requests,
        counts.truncated,
        settings,
    )


def fingerprint(loaded: Sequence[Loaded]) -> str:
    """Of the rows that are asked and shown, in their order, and of how they are asked."""
    digest = hashlib.sha256()
    for one in loaded:
        for row in one.harness.eval_docs:
            digest.update(json.dumps([row, one.harness.doc_to_text(row)], default=str).encode())
        config = one.harness.config
        shown = [] if one.harness.fewshot_docs() is None else list(one.harness.fewshot_docs())
        how = [config.description, config.generation_kwargs, config.repeats, shown[:1000]]
        digest.update(json.dumps(how, default=str).encode())
    return digest.hexdigest()[:32]


def _sample(
    task: PaperTask,
    subject: str,
    raw: Mapping[str, Any],
    lengths: Mapping[tuple[str, str], tuple[int, int]],
) -> dict[str, Any]:
    """What is kept of a sample: no text of the data, but what it takes to check the table."""
    metrics = {name: float(raw[name]) for name in raw["metrics"]}
    # How programs ended stands beside the measures.
    ends = {name: metrics.pop(name) for name in list(metrics) if name.startswith("programs ")}
    sample: dict[str, Any] = {
        "subject": subject,
        "id": raw["doc_id"],
        "prompt_hash": raw["prompt_hash"],
        "metrics": metrics,
        "where": {key: raw["doc"][key] for row in task.rows for key in row.where},
    }
    if task.generates:
        context = raw["arguments"][0][0]
        texts = raw["resps"][0]
        answers = {"text": texts[0]} if len(texts) == 1 else {"texts": texts}
        programs = {"programs": ends} if ends else {}
        return sample | {"tokens": lengths[(context, "")][0], **answers, **programs}
    scores = [pair[0] for pair in raw["resps"]]
    likelihoods = [score[0] for score in scores]
    own = likelihoods[: len(likelihoods) // 2] if task.kind == "answer_normalised" else likelihoods
    rest = {"after_answer": likelihoods[len(own) :]} if len(own) < len(likelihoods) else {}
    pairs = [tuple(pair) for pair in raw["arguments"][: len(own)]]
    return sample | {
        "tokens": [sum(lengths[pair]) for pair in pairs],
        "log_likelihoods": own,
        **rest,
        "answer": max(range(len(own)), key=own.__getitem__),
        "target": raw["target"],
    }


@contextlib.contextmanager
def _quiet_harness() -> Iterator[None]:
    """Its bars over the making of prompts would come between ours."""
    with unittest.mock.patch.object(lm_eval.api.task, "tqdm", lambda rows, **_: rows):
        yield


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; None for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


# -- on disk --------------------------------------------------------------------------------------


def write(outcome: Outcome, folder: Path) -> None:
    """One line about the task, then one a sample."""
    about = {key: value for key, value in asdict(outcome).items() if key != "samples"}
    lines = [about, *outcome.samples]
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomic(folder / f"{outcome.name}.jsonl", text.encode("utf-8"))


def read(path: Path) -> Outcome:
    """ValueError for a file that `write` has not written."""
    try:
        about, *samples = map(json.loads, path.read_text("utf-8").splitlines())
        return Outcome(samples=samples, **about)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no result of an evaluation ({error}); delete it") from None


def read_all(folder: Path) -> dict[str, Outcome]:
    """The outcomes of a folder of results by name; ValueError where it has none."""
    found = {path.stem: read(path) for path in sorted((folder / "samples").glob("*.jsonl"))}
    if not found:
        raise ValueError(f"{folder} has no samples/*.jsonl; name the --out folder of an evaluation")
    return found
