"""What the decoder layer keeps for its backward pass, tensor by tensor.

A tensor is kept on the device, kept in the host's memory (`offload.py`), or computed again. The
presets, dearest in memory first:

- `keep_all`: nothing is computed or sent a second time;
- `linear_outputs`: the paper's choice (arXiv 2302.13971, section 2.4). What the linear layers and
  attention return is kept; elementwise functions are computed again, and what tensor or sequence
  parallelism brings together is sent again: no matmul is repeated and no attention;
- `no_mlp`: as that, but the MLP's two wide matmuls are repeated;
- `layer_input`: the layer is computed again (activation checkpointing).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

Choice = Literal["keep", "regather", "recompute", "offload"]
SavePolicyName = Literal["keep_all", "linear_outputs", "no_mlp", "layer_input"]

_INPUTS = ("attn_in", "mlp_in")


@dataclass(frozen=True)
class SavePolicy:
    """A choice for every tensor of the layer, in the order of the forward pass (`layer/fused.py`).

    `regather` exists for the two inputs of column-parallel matrices only: this rank's part of the
    sequence, the result of the norm, is kept, and the whole is gathered again. Where nothing is
    gathered it keeps as much as `keep`.
    """

    x: Choice = "keep"
    """The layer's input, from which the others follow: it cannot be computed again."""
    attn_in: Choice = "keep"
    """The normalised input of attention."""
    q: Choice = "keep"
    """Queries, keys and values as attention takes them: rotated, and exchanged under Ulysses."""
    k: Choice = "keep"
    v: Choice = "keep"
    attn_out: Choice = "keep"
    lse: Choice = "keep"
    """Log-sum-exp of attention's scores; attention gives it with `attn_out`."""
    o_in: Choice = "keep"
    """`attn_out` as the output projection takes it: the same tensor but under Ulysses."""
    mid: Choice = "keep"
    """The residual stream between attention and MLP."""
    mlp_in: Choice = "keep"
    """The normalised input of the MLP."""
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
                    f"train.save_tensors: {field.name} cannot be {choice!r}, only "
                    + " or ".join(possible)
                )
        if (self.attn_out == "recompute") != (self.lse == "recompute"):
            raise ValueError(
                f"train.save_tensors: attn_out ({self.attn_out}) and lse ({self.lse}): recompute "
                "both or neither, because one attention gives both"
            )
        if self.o_in not in ("recompute", self.attn_out):
            raise ValueError(
                f"train.save_tensors: o_in ({self.o_in}) must be recompute or as attn_out "
                f"({self.attn_out}), of which it is a copy that attention's backward pass needs"
            )

    @classmethod
    def of(cls, preset: SavePolicyName, **choices: Choice) -> SavePolicy:
        """A preset, with other `choices` for some tensors; ValueError where they contradict."""
        unknown = sorted(set(choices) - {field.name for field in fields(cls)})
        if unknown:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"train.save_tensors: {unknown[0]} is none of {names}")
        return replace(PRESETS[preset], **choices)

    def kept(self) -> tuple[str, ...]:
        """The tensors kept on the device, by their names in `layer_tensors.Activations`."""
        part = {"attn_in": "attn_normed", "mlp_in": "mlp_normed"}
        names = []
        for field in fields(self):
            choice = getattr(self, field.name)
            if choice in ("keep", "regather"):
                names.append(part[field.name] if choice == "regather" else field.name)
        return tuple(names)

    def require_tiles_pay(self) -> None:
        """ValueError where the MLP's tiles would save little: what is kept is there for all."""
        kept = [name for name in ("gate", "up", "product") if getattr(self, name) != "recompute"]
        if kept:
            raise ValueError(
                f"train.mlp_tiles is to hold {', '.join(kept)} of one tile at a time, but "
                f"train.save_policy and save_tensors keep {'it' if len(kept) == 1 else 'them'} of "
                "all; set save_policy to no_mlp or layer_input, or mlp_tiles to 1"
            )

    def offloaded(self) -> tuple[str, ...]:
        """The tensors kept in the host's memory, by the same names."""
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
