"""What a mixture means for a token budget, before anything is trained.

python -m data_pipeline.commands.plan_mixture                                # the paper's data, 1.4 T tokens
python -m data_pipeline.commands.plan_mixture --store OUT/store --tokens 20B # a built store, by the paper's shares
python -m data_pipeline.commands.plan_mixture --epochs books 2 wikipedia 3 --without c4
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.tokens.mixture_plan import (
    MixturePlan,
    as_json,
    as_text,
    available_tokens,
    parse_count,
    plan_mixture,
)
from data_pipeline.tokens.store import TokenStore
from recipes.launch import bad_input, errors_in_one_line
from recipes.llama import LLAMA1_EPOCHS, LLAMA1_SHARES, LLAMA1_TOKENS


@dataclass(frozen=True)
class PlanMixture:
    """Tokens and epochs per source for a token budget, and which source runs out first."""

    store: Path | None = None
    """Token store whose sizes count; by default those that follow from the paper's table 1."""
    tokens: str | None = None
    """The run's length, such as 1.4T or 20B; by default the paper's 1.4T, or what --epochs say."""
    shares: Annotated[dict[str, float], tyro.conf.arg(metavar="SOURCE SHARE ...")] = field(
        default_factory=dict
    )
    """Share of each source, in proportion; by default the paper's, of the sources there are."""
    epochs: Annotated[dict[str, float], tyro.conf.arg(metavar="SOURCE EPOCHS ...")] = field(
        default_factory=dict
    )
    """In place of shares: how often each source is seen; with --tokens, in proportion."""
    without: tuple[str, ...] = ()
    """Drop these sources; the others' shares grow in proportion."""
    json: bool = False
    """The numbers for programs."""

    def run(self) -> str:
        """The plan as text or JSON; ValueError where the options contradict the sources."""
        available = available_tokens(TokenStore.open(self.store)) if self.store else paper_tokens()
        tokens = parse_count(self.tokens) if self.tokens is not None else None
        if tokens is None and not self.epochs:
            tokens = LLAMA1_TOKENS
        shares = self.shares
        if not shares and not self.epochs:
            shares = {name: LLAMA1_SHARES[name] for name in LLAMA1_SHARES if name in available}
        before = plan_mixture(available, tokens, shares=shares, epochs=self.epochs)
        if not self.without:
            return self._shown(before, None, available)
        after = plan_mixture(
            available, before.num_tokens, shares=shares, epochs=self.epochs, without=self.without
        )
        return self._shown(after, before, available)

    def _shown(
        self, plan: MixturePlan, before: MixturePlan | None, available: dict[str, int]
    ) -> str:
        if self.json:
            return json.dumps(as_json(plan), indent=1)
        used = {source.name for source in plan.sources} | set(self.without)
        missing = [name for name in LLAMA1_SHARES if name not in available]
        notes = []
        if missing and not self.shares and not self.epochs:
            notes.append(f"not in the store: {', '.join(missing)}")
        if unused := [name for name in available if name not in used]:
            notes.append(f"in no share, and never seen: {', '.join(unused)}")
        return "\n".join([as_text(plan, before), *notes])


def paper_tokens() -> dict[str, int]:
    """Tokens of each source, as they follow from the paper's shares and epochs at 1.4 T tokens."""
    return {
        name: round(LLAMA1_TOKENS * share / LLAMA1_EPOCHS[name])
        for name, share in LLAMA1_SHARES.items()
    }


def main() -> None:
    try:
        with errors_in_one_line():
            plan = tyro.cli(PlanMixture, prog="python -m data_pipeline.commands.plan_mixture")
        print(plan.run())
    except (ValueError, OSError) as error:
        sys.exit(bad_input(error))


if __name__ == "__main__":
    main()
