"""Evaluation of the model that is being trained, where it is: under every layout and ZeRO stage."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import pad

from llama_ds.evaluation import harness_tasks, outcomes, table
from llama_ds.evaluation.crew import Crew, open_crew
from llama_ds.evaluation.harness_tasks import Loaded
from llama_ds.evaluation.paper_tasks import chosen
from llama_ds.evaluation.scored_model import ScoredModel
from llama_ds.loaded_model import tokenizer_of
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.sequence import SequenceParallel


class LiveModel(ScoredModel):
    """A DeepSpeed engine's model, sharded as it is trained; it scores, and writes no text."""

    def __init__(
        self, engine: Any, groups: ParallelGroups, tokenizer: Any, batch_tokens: int, crew: Crew
    ) -> None:
        was_training = engine.module.training
        super().__init__(engine.module, tokenizer, batch_tokens=batch_tokens, crew=crew)
        engine.module.train(was_training)
        self._engine = engine
        self._sp = SequenceParallel.of(groups)
        # What ranks shard along the sequence must divide it.
        self._multiple = groups.sp_size * groups.tp_size

    @torch.no_grad()
    def _model_call(
        self,
        inps: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits [B, S, V] of ids [B, S]; tokens that are added behind change none before them."""
        length = inps.shape[1]
        ids_BS = pad(inps, (0, -length % self._multiple))
        shard_Bs = self._sp.shard(ids_BS) if self._sp.size > 1 else ids_BS
        logits = self._engine(input_ids=shard_Bs, use_cache=False).logits
        logits_BSV: torch.Tensor = self._sp.whole(logits) if self._sp.size > 1 else logits
        return logits_BSV[:, :length]


class LiveEvaluation:
    """Tasks that are asked again and again while a run trains."""

    def __init__(self, model: LiveModel, loaded: list[list[Loaded]]) -> None:
        self._model = model
        self._loaded = loaded

    def accuracies(self) -> dict[str, dict[str, float]] | None:
        """Percent, standard error and n by row of the table, on rank 0. Collective."""
        engine = self._model._engine
        engine.eval()
        try:
            if dist.get_rank():
                self._model.follow()
                return None
            try:
                found = [outcomes.ask(self._model, parts, {}) for parts in self._loaded]
            finally:
                self._model.release()
        finally:
            engine.train()
        lines = table.lines(found, table.SIZES[0])
        known = [line for line in lines if line.ours is not None]
        return {
            "accuracy": {line.name: line.ours or 0.0 for line in known},
            "standard_error": {line.name: line.standard_error or 0.0 for line in known},
            "questions": {line.name: line.n for line in known},
        }


@contextlib.contextmanager
def open_live_evaluation(
    engine: Any,
    groups: ParallelGroups,
    *,
    tasks: str,
    data: Path | None,
    limit: int,
    tokenizer_dir: Path,
    batch_tokens: int,
    is_zero3: bool,
) -> Iterator[LiveEvaluation]:
    """The tasks' data is read at once, on rank 0. Collective; ValueError on every rank."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded: list[list[Loaded]] = []
    fault: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            loaded = _loaded(tasks, data, limit)
        except (ValueError, OSError) as error:
            fault = [f"train.evaluate_tasks, train.evaluate_data: {error}"]
    dist.broadcast_object_list(fault, src=0)
    if fault[0] is not None:
        raise ValueError(fault[0])
    with open_crew(groups, lockstep=is_zero3) as crew:
        model = LiveModel(engine, groups, tokenizer_of(tokenizer_dir), batch_tokens, crew)
        yield LiveEvaluation(model, loaded)


def _loaded(words: str, data: Path | None, limit: int) -> list[list[Loaded]]:
    asked = chosen(words)
    writing = [task.name for task in asked if task.generates]
    if writing:
        raise ValueError(
            f"{', '.join(writing)} write text, which a sharded model cannot while it trains; name "
            "tasks of choices, and evaluate checkpoints with recipes/evaluate.sh"
        )
    harness_tasks.require_data(asked, data)
    return [
        harness_tasks.load(task, shots, data, limit=limit) for task in asked for shots in task.shots
    ]
