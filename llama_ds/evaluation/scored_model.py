"""The model as the harness asks it: its own scoring, in batches that the ranks share."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from llama_ds.evaluation.answers import Answers
from llama_ds.evaluation.batches import Request, in_batches
from llama_ds.evaluation.crew import Crew

Scored = tuple[tuple[str, str], list[int], list[int]]
"""A context and its continuation, as texts and as tokens."""


@dataclass
class Counts:
    """Of the requests of a task."""

    requests: int = 0
    truncated: int = 0
    """Whose context lost its beginning, because it is longer than the model's."""


class ScoredModel(HFLM):  # type: ignore[misc]  # lm_eval has no types
    """The harness's model, whose batches are the same for every number of ranks.

    The leader calls it through the harness; the other ranks call `follow`. All of the arithmetic is
    the harness's own.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_tokens: int,
        crew: Crew | None = None,
        seed: int = 0,
        shows_progress: bool = False,
    ) -> None:
        _name_special_tokens(tokenizer, model.config)
        # Log-likelihoods of bf16 logits are summed in fp32.
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=1, softmax_dtype="float32"
        )
        self.scope = ""
        """Name of the task that is asked; part of the key under which an answer is kept."""
        self.counts = Counts()
        self.lengths: dict[tuple[str, str], tuple[int, int]] = {}
        """Tokens of context and continuation."""
        self.batch_tokens = batch_tokens
        self._crew = crew or Crew()
        self._answers = Answers()
        self._seed = seed
        self._shows_progress = shows_progress

    @contextlib.contextmanager
    def asked(self, scope: str, answers: Answers | None = None) -> Iterator[Counts]:
        """A task's turn, with its own counts, and the answers that are known and will be."""
        self.scope, self.counts, self.lengths = scope, Counts(), {}
        self._answers = Answers() if answers is None else answers  # an empty one is falsy
        yield self.counts

    def follow(self) -> None:
        self._crew.follow(self._compute)

    def release(self) -> None:
        self._crew.release()

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: list[Scored], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """As the harness's; called by it with the requests of a task."""
        asked = []
        for words, context, continuation in requests:
            self.lengths[words] = len(context), len(continuation)
            kept = continuation[: self.max_length]
            total = len(context) + len(continuation)
            self._count(total > self.max_length + 1)
            key = self._key("loglikelihood", words, 0)
            length = min(total, self.max_length)
            asked.append(Request(key, length, (words, context, kept)))
        return [(value, bool(greedy)) for value, greedy in self._ask("loglikelihood", asked)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """As the harness's; `requests` repeats those of which several texts are drawn."""
        asked: list[Request] = []
        draws: dict[int, int] = {}
        for request in requests:
            context, kwargs = request.args
            new = min(kwargs.get("max_gen_toks", self.max_gen_toks), self.max_length // 2)
            kwargs = {**kwargs, "max_gen_toks": new}
            draw = draws[id(request)] = draws.get(id(request), -1) + 1
            length = self._length(context)
            self._count(length + new > self.max_length)
            self.lengths[(context, "")] = length, new
            key = self._key("generate_until", (context, json.dumps(kwargs, sort_keys=True)), draw)
            total = min(length + new, self.max_length)
            asked.append(Request(key, total, (context, kwargs)))
        return list(map(str, self._ask("generate_until", asked)))

    def _length(self, context: str) -> int:
        known = self.lengths.get((context, ""))
        return len(self.tok_encode(context)) if known is None else known[0]

    def _count(self, is_truncated: bool) -> None:
        self.counts.requests += 1
        self.counts.truncated += is_truncated

    def _key(self, kind: str, words: Sequence[str], draw: int) -> str:
        told = json.dumps([self.scope, kind, *words, draw, self._seed])
        return hashlib.sha256(told.encode("utf-8")).hexdigest()[:32]

    def _ask(self, kind: str, requests: list[Request]) -> list[Any]:
        """Answers in the order of `requests`; those that are known are not asked again."""
        unique = list({one.key: one for one in requests}.values())
        # Of all requests, so that what was answered before an interruption changes no batch.
        batches = in_batches(unique, self.batch_tokens)
        left = [b for b in batches if not all(one.key in self._answers for one in b)]
        total = sum(one.length for b in batches for one in b)
        missing = sum(one.length for b in left for one in b)
        with tqdm(
            total=total,
            initial=total - missing,
            desc=self.scope,
            unit="token",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None if self._shows_progress else True,
        ) as bar:
            for start in range(0, len(left), self._crew.num_teams):
                together = left[start : start + self._crew.num_teams]
                found = self._crew.answer(kind, together, self._compute)
                for batch, answers in zip(together, found, strict=True):
                    keys = [one.key for one in batch]
                    self._answers.add(dict(zip(keys, answers, strict=True)))
                    bar.update(sum(one.length for one in batch))
        return [self._answers[one.key] for one in requests]

    def _compute(self, kind: str, batch: list[Request]) -> list[Any]:
        """The answers of a batch, by the harness; of its halves where memory does not suffice."""
        try:
            return self._computed(kind, batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        torch.cuda.empty_cache()
        middle = len(batch) // 2
        return self._compute(kind, batch[:middle]) + self._compute(kind, batch[middle:])

    def _computed(self, kind: str, batch: list[Request]) -> list[Any]:
        self.batch_size_per_gpu = len(batch)
        payloads = [one.payload for one in batch]
        if kind == "loglikelihood":
            ask: Callable[..., list[Any]] = super()._loglikelihood_tokens
            return ask(payloads, disable_tqdm=True, override_bs=len(batch))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(int(batch[0].key[:15], 16))
            write: Callable[..., list[Any]] = super().generate_until
            return write([SimpleNamespace(args=one) for one in payloads], disable_tqdm=True)


def _name_special_tokens(tokenizer: Any, config: Any) -> None:
    """Tell the tokenizer which tokens begin and end a text where only the model's folder says it.

    ValueError where neither does: a text that is written could not end, nor an empty context begin.
    """
    for name in ("bos_token", "eos_token"):
        given = getattr(config, f"{name}_id", None)
        token_id = given[0] if isinstance(given, list) else given
        if getattr(tokenizer, name) is None and token_id is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    if tokenizer.eos_token is None:
        raise ValueError(
            "neither the tokenizer nor config.json names a token that ends texts; set eos_token_id "
            "in config.json"
        )
