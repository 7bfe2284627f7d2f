"""Interleaved comparison of contenders, timed by CPU time of the process."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Work = Callable[[], object]
T = TypeVar("T")


def shuffled(contenders: Mapping[str, T], round_number: int) -> list[tuple[str, T]]:
    """Names and contenders in the order of a round: each round has another, the same in every run.

    In a fixed order each contender would always find caches and the allocator as the same one left
    them, which is worth 1 % of a layer's step on a CPU.
    """
    order = list(contenders.items())
    random.Random(round_number).shuffle(order)
    return order


def compare(
    title: str, contenders: dict[str, Work], amount: float, rounds: int, *, unit: str = "MB"
) -> None:
    """Print each contender's throughput in `unit`s per second (medians over rounds), and the
    speedup of the first over each other: the median over rounds of ratios within a round.

    `amount` is the work of one call, in `unit`s.
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
