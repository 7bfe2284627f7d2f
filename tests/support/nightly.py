"""Parameters of tests that are run at night only (`--nightly`)."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet


def at_night(*values: Any) -> ParameterSet:
    return pytest.param(*values, marks=pytest.mark.nightly)
