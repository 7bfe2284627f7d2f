"""The recipe's choices for the decoder layers, on their way from the recipe to the layer."""

from __future__ import annotations

from dataclasses import dataclass

from llama_ds.config import AttentionName, ElementwiseName
from llama_ds.layer.recomputation import Recomputation
from llama_ds.save_policy import PRESETS, SavePolicy


@dataclass(frozen=True)
class LayerOptions:
    """How a model runs its decoder layers; `engine.build_model` makes it from the recipe.

    All but `recomputation` concern the fused layer (`layer/fused.py`) only.
    """

    fused: bool = True
    """Run `FusedLayer` wherever it is eligible (`layer/eligibility.py`); False: the modules."""
    save_policy: SavePolicy = PRESETS["linear_outputs"]
    """Activations that the fused layer saves for backward."""
    attention: AttentionName = "auto"
    """Attention kernel; the modules use transformers' attn_implementation."""
    elementwise: ElementwiseName = "auto"
    """Implementation of RMSNorm, rotary embedding and SwiGLU."""
    overlap: bool = False
    """Overlap collectives with computation; False: wait for every collective where it starts."""
    overlap_chunks: int = 2
    """With `overlap`, sequence chunks of the forward pass's tensor-parallel collectives."""
    mlp_tiles: int = 1
    """Sequence tiles that the MLP is computed in, one after another."""
    recomputation: Recomputation | None = None
    """Groups of layers to recompute in the backward pass (activation checkpointing)."""
