"""The quick tests: those that no marker of longer ones is on."""

from __future__ import annotations

LEFT_OUT = frozenset({"dist", "golden", "gpu", "nightly", "slow"})
"""Markers of the tests that `--quick` leaves out."""


def is_quick(markers: set[str]) -> bool:
    return not markers & LEFT_OUT
