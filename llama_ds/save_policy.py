"""Save policy of the decoder layer: which activations it saves for backward, which it recomputes.

An activation is saved in device memory, offloaded to host memory (`layer/offload.py`), or
recomputed in the backward pass (selective recomputation, arXiv 2205.05198). Presets, from most to
least activation memory:

- `keep_all`: saves everything; no recomputation, no repeated communication;
- `linear_outputs`: the paper's choice (arXiv 2302.13971, section 2.4). Saves the outputs of linear
  layers and attention, recomputes elementwise functions, and repeats the all-gathers and
  all-to-alls of tensor and sequence parallelism: no matmul and no attention is recomputed;
- `no_mlp`: the same, but recomputes the MLP's gate and up projections;
- `layer_input`: saves the layer's input only and recomputes the layer (activation checkpointing).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

Choice = Literal["keep", "regather", "recompute", "offload"]
SavePolicyName = Literal["keep_all", "linear_outputs", "no_mlp", "layer_input"]

_INPUTS = ("attn_in", "mlp_in")


@dataclass(frozen=True)
class SavePolicy:
    """A choice for every activation of the layer, in forward order (`layer/fused.py`).

    `regather` exists for the two inputs of column-parallel matrices only: this rank's sequence
    shard, the output of the norm, is saved, and all-gathered again in the backward pass. Where
    nothing is all-gathered it saves as much as `keep`.
    """

    x: Choice = "keep"
    """The layer's input, from which the others are recomputed; cannot be recomputed itself."""
    attn_in: Choice = "keep"
    """The normalized input of attention."""
    q: Choice = "keep"
    """Queries, keys and values as attention takes them: after rotary and Ulysses' all-to-all."""
    k: Choice = "keep"
    v: Choice = "keep"
    attn_out: Choice = "keep"
    lse: Choice = "keep"
    """Log-sum-exp of the attention scores, computed together with `attn_out`."""
    o_in: Choice = "keep"
    """Input of the output projection: `attn_out`, after the all-to-all under Ulysses."""
    mid: Choice = "keep"
    """The residual stream between attention and MLP."""
    mlp_in: Choice = "keep"
    """The normalized input of the MLP."""
    gate: Choice = "keep"
    up: Choice = "keep"
    product: Choice = "keep"
    """silu(gate) * up."""

    def __post_init__(self) -> None:
        for field in fields(self):
            choice, possible = getattr(self, field.name), ["keep", "recompute", "offload"]
            if field.name in _INPUTS:
                possible.insert(1, "regather")
            if field.name == "x":
                possible.remove("recompute")
            if choice not in possible:
                raise ValueError(
                    f"train.save_tensors: {field.name} ({choice}) must be " + " or ".join(possible)
                )
        if (self.attn_out == "recompute") != (self.lse == "recompute"):
            raise ValueError(
                f"train.save_tensors: attn_out ({self.attn_out}) and lse ({self.lse}) must both be "
                "recompute or neither: one attention call computes both"
            )
        if self.o_in not in ("recompute", self.attn_out):
            raise ValueError(
                f"train.save_tensors: o_in ({self.o_in}) must be recompute or the same as attn_out "
                f"({self.attn_out}), of which it is a copy that attention's backward needs"
            )

    @classmethod
    def of(cls, preset: SavePolicyName, **choices: Choice) -> SavePolicy:
        """A preset with exceptions by activation; ValueError where they contradict each other."""
        unknown = sorted(set(choices) - {field.name for field in fields(cls)})
        if unknown:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(
                f"train.save_tensors: unknown activation {unknown[0]}; must be one of {names}"
            )
        return replace(PRESETS[preset], **choices)

    def saved(self) -> tuple[str, ...]:
        """Activations saved in device memory, by their names in `layer.tensors.Activations`."""
        shard = {"attn_in": "attn_normed", "mlp_in": "mlp_normed"}
        names = []
        for field in fields(self):
            choice = getattr(self, field.name)
            if choice in ("keep", "regather"):
                names.append(shard[field.name] if choice == "regather" else field.name)
        return tuple(names)

    def require_tiles_save_memory(self) -> None:
        """ValueError where tiling the MLP saves no memory: its wide activations are all saved."""
        saved = [name for name in ("gate", "up", "product") if getattr(self, name) != "recompute"]
        if saved:
            raise ValueError(
                "train.mlp_tiles > 1 saves no memory while train.save_policy and save_tensors keep "
                f"{', '.join(saved)} of the whole sequence; set save_policy to no_mlp or "
                "layer_input, or mlp_tiles to 1"
            )

    def offloaded(self) -> tuple[str, ...]:
        """Activations offloaded to host memory, by the same names."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) == "offload")


PRESETS: dict[SavePolicyName, SavePolicy] = {
    "keep_all": SavePolicy(),
    "linear_outputs": SavePolicy(
        attn_in="recompute", o_in="recompute", mlp_in="recompute", product="recompute"
    ),
    "no_mlp": SavePolicy(
        attn_in="recompute",
        o_in="recompute",
        mlp_in="recompute",
        gate="recompute",
        up="recompute",
        product="recompute",
    ),
    "layer_input": SavePolicy(
        **{field.name: "recompute" for field in fields(SavePolicy) if field.name != "x"}  # type: ignore[arg-type]
    ),
}
