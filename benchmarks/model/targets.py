"""What the fused layer with `linear_outputs` saved should reach against stock transformers."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.measuring import results as report


class Targets(NamedTuple):
    step_of_stock: float
    """Step time over stock's, at most."""
    checkpointed_of_step: float
    """Step time of stock with gradient checkpointing over ours, at least. A layer that recomputes
    its forward pass in backward does 4/3 of the computation."""
    saved_of_stock: float
    """Saved bytes over stock's, at most. Stock saves more in bf16, RMSNorm's fp32 copies."""


TARGETS = {"float32": Targets(1.0, 1.2, 0.55), "bfloat16": Targets(1.0, 1.3, 0.501)}


def target_table(
    contender: str, dtype: str, step_of_stock: float, checkpointed_of_step: float, saved: float
) -> str:
    """Markdown: the targets of `dtype`, what was measured, and whether it meets them.

    Compared to three digits, as shown.
    """
    targets = TARGETS[dtype]
    at_most, at_least = targets.step_of_stock, targets.checkpointed_of_step
    saved_at_most = targets.saved_of_stock
    slower, faster, kept = (round(x, 3) for x in (step_of_stock, checkpointed_of_step, saved))
    rows = [
        ["step time / stock", f"at most {at_most:.2f}", f"{slower:.3f}", _met(slower <= at_most)],
        [
            "checkpointed step time / ours",
            f"at least {at_least:.2f}",
            f"{faster:.3f}",
            _met(faster >= at_least),
        ],
        [
            "saved bytes / stock",
            f"at most {saved_at_most:.3f}",
            f"{kept:.3f}",
            _met(kept <= saved_at_most),
        ],
    ]
    return report.table((f"`{contender}`", "target", "measured", ""), rows)


def _met(is_met: bool) -> str:
    return "met" if is_met else "not met"
