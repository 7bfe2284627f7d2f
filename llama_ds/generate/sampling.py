"""How the next token is chosen: transformers' options, checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda value: value > 0, "be positive"),
    "temperature": (lambda value: value > 0, "be positive; --greedy is its limit at 0"),
    "top_k": (lambda value: value >= 0, "not be negative; 0 keeps all tokens"),
    "top_p": (lambda value: 0 < value <= 1, "lie above 0 and not above 1"),
    "repetition_penalty": (lambda value: value > 0, "be positive; 1 is no penalty"),
    "num_beams": (lambda value: value > 0, "be positive"),
    "seed": (lambda value: 0 <= value < 2**63, "lie between 0 and 2**63"),
}
_DRAWING = ("temperature", "top_k", "top_p")


@dataclass(frozen=True)
class Sampling:
    """Options by transformers' names; None leaves the choice to the model's folder."""

    max_new_tokens: int
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    num_beams: int | None = None
    seed: int | None = None
    """Drawn by the caller where it is None."""

    def __post_init__(self) -> None:
        for name, (holds, rule) in _RULES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"--{name.replace('_', '-')} ({value}) must {rule}")
        given = [name for name in _DRAWING if getattr(self, name) is not None]
        if self.do_sample is False and given:
            option = given[0].replace("_", "-")
            raise ValueError(
                f"--greedy draws no tokens, so that --{option} has no effect; leave out one"
            )

    def changes(self) -> dict[str, Any]:
        """Fields of transformers' GenerationConfig that differ from those of the model's folder."""
        other = ("max_new_tokens", "seed")
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in other and getattr(self, field.name) is not None
        }
        if self.do_sample is False:
            # The folder's have no effect either, and transformers warns of them.
            return given | dict.fromkeys(_DRAWING)
        if given.keys() & set(_DRAWING):
            given["do_sample"] = True
        return given
