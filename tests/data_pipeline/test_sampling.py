"""Samples chosen by hash."""

import random

import pytest

from data_pipeline.sampling import SmallestHashes


def sample(names: list[str], size: int, seed: int = 0) -> list[str]:
    chosen: SmallestHashes[str] = SmallestHashes(size, seed)
    for name in names:
        chosen.add(name, name)
    return chosen.items()


NAMES = [str(n) for n in range(2000)]


def test_order_and_repetition_make_no_difference() -> None:
    shuffled = random.Random(0).sample(NAMES * 2, 4000)
    assert sample(shuffled, 50) == sample(NAMES, 50)
    assert sample(NAMES, 50, seed=1) != sample(NAMES, 50)


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 1), (2000, 2000), (9999, 2000)])
def test_sizes(size: int, expected: int) -> None:
    chosen = sample(NAMES, size)
    assert len(chosen) == len(set(chosen)) == expected


def test_wanted_is_what_would_be_kept() -> None:
    chosen: SmallestHashes[str] = SmallestHashes(50, 0)
    for name in NAMES:
        wanted, before = chosen.wants(name), chosen.items()
        chosen.add(name, name)
        assert (chosen.items() != before) == wanted


def test_every_part_of_the_stream_is_in_the_sample() -> None:
    """Not the first ones: a tenth of the stream gives about a tenth of the sample."""
    tenths = [sum(int(n) // 200 == tenth for n in sample(NAMES, 500)) for tenth in range(10)]
    # Binomial(500, 0.1) has standard deviation 6.7; the seed is fixed, so this cannot flicker.
    assert all(30 <= count <= 70 for count in tenths)
