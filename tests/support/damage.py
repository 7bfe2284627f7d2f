"""Random corruption of bytes (replaced, truncated, mutated), for robustness tests of readers."""

from __future__ import annotations

import gzip
from random import Random


def noisy(data: bytes, rng: Random, max_changes: int = 20) -> bytes:
    """At least one byte replaced, at most so many; nothing stays nothing."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, max_changes) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut(data: bytes, rng: Random) -> bytes:
    """The beginning, anywhere from nothing to all but the last byte."""
    return data[: rng.randrange(max(1, len(data)))]


def mutated(data: bytes, rng: Random) -> bytes:
    """Some bytes changed, removed or inserted, or the end cut off; sometimes nothing."""
    changed = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 3, 10])):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[place : place + 1] = rng.randbytes(1)
            case 1:
                del changed[place : place + rng.choice([1, 2, 100])]
            case 2:
                changed[place:place] = rng.randbytes(rng.choice([1, 2, 100]))
            case _:
                del changed[len(changed) - min(place, 200) :]
    return bytes(changed)


def gzipped(data: bytes, level: int = 9) -> bytes:
    """A gzip member without the time of day: equal bytes, and test ids, in every process."""
    return gzip.compress(data, level, mtime=0)
