"""Activation checkpointing of groups of layers: only a group's input is saved, the rest recomputed.

The save policy (`save_policy.py`) chooses within a layer, this between layers. How the inputs are
saved is up to the `checkpoint` function: DeepSpeed's can shard them across ranks or offload them.
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
    """Runs `function(hidden_states)` without saving activations; backward recomputes it.

    It may overwrite `hidden_states`: the caller must not read them afterwards.
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
    """Run the layers in sequence, all with the same `arguments`."""
    for layer in layers:
        hidden_states = layer(hidden_states, **arguments)
    return hidden_states
