"""Groups of layers of which only the input is kept, and which run again for their backward pass.

The save policy (`save_policy.py`) chooses within a layer, this between layers. How the inputs are
kept is the `checkpoint` function's business: DeepSpeed's divides them over ranks, or sends them to
the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Layers = Sequence[nn.Module]


@dataclass(frozen=True)
class Recomputation:
    """`num_groups` groups of layers, each run by `checkpoint(function, hidden_states)`."""

    num_groups: int
    checkpoint: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
    """`function(hidden_states)` without its graph; it calls `function` again for the backward pass.

    It may take `hidden_states` for its own: afterwards nothing else may read them.
    """

    def run(self, layers: Layers, hidden_states: Tensor, **arguments: Any) -> Tensor:
        """As `run_layers`; the number of layers must be a multiple of `num_groups`."""
        length, rest = divmod(len(layers), self.num_groups)
        assert rest == 0, f"{len(layers)} layers do not divide into {self.num_groups} groups"
        for start in range(0, len(layers), length):
            group = layers[start : start + length]

            def run_group(x: Tensor, group: Layers = group) -> Tensor:
                return run_layers(group, x, **arguments)

            hidden_states = self.checkpoint(run_group, hidden_states)
        return hidden_states


def run_layers(layers: Layers, hidden_states: Tensor, **arguments: Any) -> Tensor:
    """The layers one after the other, each with the same `arguments`."""
    for layer in layers:
        hidden_states = layer(hidden_states, **arguments)
    return hidden_states
