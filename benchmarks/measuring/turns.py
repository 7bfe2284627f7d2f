"""Contenders that take turns, measured on the process's own CPU time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


def compare(
    title: str, contenders: dict[str, Work], amount: float, rounds: int, *, unit: str = "MB"
) -> None:
    """Print how many `unit`s a second every contender does (medians over rounds), and the ratio of
    the first to each other: the median over rounds of ratios within a round.

    `amount` is what each does when it is called once, in `unit`s.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            start = time.process_time()
            work()
            rates[name].append(amount / max(time.process_time() - start, 1e-9))
    print(f"\n{title}")
    first = next(iter(rates.values()))
    for name, values in rates.items():
        line = f"  {name:<36} {statistics.median(values):12,.2f} {unit}/s"
        if values is not first:
            ratio = statistics.median(a / b for a, b in zip(first, values, strict=True))
            line += f"   ours is {ratio:.2f} times as fast"
        print(line)
