"""Plans a data mixture for a token budget: sampling shares and epochs per source.

build_dataset.sh plan                                 # the paper's data, 1.4 T tokens
build_dataset.sh plan --store OUT/store --tokens 20B  # a built store, by the corpus's shares
build_dataset.sh plan --epochs books 2 wikipedia 3 --without c4
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.corpus import Corpus
from data_pipeline.tokens.mixture_plan import (
    MixturePlan,
    as_json,
    as_text,
    available_tokens,
    parse_count,
    plan_mixture,
)
from data_pipeline.tokens.store import TokenStore


@dataclass(frozen=True)
class PlanMixture:
    """Tokens and epochs per source for a token budget, and which source runs out first."""

    store: Path | None = None
    """Token store that gives the sources' sizes; by default they follow from the corpus's shares,
    epochs and token budget (LLaMA: the paper's table 1)."""
    tokens: str | None = None
    """Token budget of the run, such as 1.4T or 20B; by default the corpus's (LLaMA: 1.4T), or
    determined by --epochs."""
    shares: Annotated[dict[str, float], tyro.conf.arg(metavar="SOURCE SHARE ...")] = field(
        default_factory=dict
    )
    """Sampling share of each source, normalized; by default the corpus's shares."""
    epochs: Annotated[dict[str, float], tyro.conf.arg(metavar="SOURCE EPOCHS ...")] = field(
        default_factory=dict
    )
    """Instead of shares: epochs of each source; with --tokens, relative weights."""
    without: tuple[str, ...] = ()
    """Drop these sources; the others' shares are renormalized."""
    json: bool = False
    """Print the plan as JSON."""

    def run(self, corpus: Corpus) -> str:
        """The plan as text or JSON; ValueError where the options do not match the sources, or there
        is no token budget."""
        available = (
            available_tokens(TokenStore.open(self.store)) if self.store else stated_tokens(corpus)
        )
        tokens = parse_count(self.tokens) if self.tokens is not None else None
        if tokens is None and not self.epochs:
            tokens = corpus.token_budget
            if tokens is None:
                raise ValueError(
                    f"the corpus {corpus.name} states no token budget; give --tokens or --epochs"
                )
        shares = self.shares
        if not shares and not self.epochs:
            shares = {name: corpus.shares[name] for name in corpus.shares if name in available}
        before = plan_mixture(available, tokens, shares=shares, epochs=self.epochs)
        if not self.without:
            return self._shown(before, None, available, corpus)
        after = plan_mixture(
            available, before.num_tokens, shares=shares, epochs=self.epochs, without=self.without
        )
        return self._shown(after, before, available, corpus)

    def _shown(
        self,
        plan: MixturePlan,
        before: MixturePlan | None,
        available: dict[str, int],
        corpus: Corpus,
    ) -> str:
        if self.json:
            return json.dumps(as_json(plan), indent=1)
        used = {source.name for source in plan.sources} | set(self.without)
        missing = [name for name in corpus.shares if name not in available]
        notes = []
        if missing and not self.shares and not self.epochs:
            notes.append(f"not in the store: {', '.join(missing)}")
        if unused := [name for name in available if name not in used]:
            notes.append(f"without a share, never sampled: {', '.join(unused)}")
        return "\n".join([as_text(plan, before), *notes])


def stated_tokens(corpus: Corpus) -> dict[str, int]:
    """Tokens of each source, computed from the corpus's shares, epochs and token budget.

    ValueError where it does not state all three.
    """
    if corpus.token_budget is None or not corpus.shares or not corpus.epochs:
        raise ValueError(
            f"the corpus {corpus.name} does not state shares, epochs and a token budget, from "
            "which the sizes of its sources would follow; name a token store with --store"
        )
    return {
        name: round(corpus.token_budget * share / corpus.epochs[name])
        for name, share in corpus.shares.items()
    }
