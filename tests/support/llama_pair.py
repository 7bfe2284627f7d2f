"""This project's model and stock transformers', small and with equal weights."""
# transformers' functions and classes carry few types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama as stock

from llama_ds import LlamaForCausalLM
from llama_ds.layer.fused import FusedLayer

V = 97
GQA: dict[str, Any] = {"num_key_value_heads": 2}
ROPE: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "longrope": {
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "factor": 2.0,
        "original_max_position_embeddings": 16,
    },
}


def config(**overrides: Any) -> LlamaConfig:
    """A model small enough for exhaustive tests; weights large enough for logits of order one."""
    sizes = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2}
    more = {"num_attention_heads": 4, "max_position_embeddings": 32, "initializer_range": 0.2}
    return LlamaConfig(**(sizes | more | overrides))


def pair(
    *, attention: str = "sdpa", loss_chunk_tokens: int = 1024, **overrides: Any
) -> tuple[Any, Any]:
    """Our model and transformers', with equal weights, in evaluation mode.

    Always the same ones: a gradient's rounding depends on the weights, and with sharp attention, as
    some tests make it, comes near their bounds.
    """
    torch.manual_seed(1)
    # Models that share a configuration object would share the choice of the attention back end.
    first, second = config(**overrides), config(**overrides)
    ours = LlamaForCausalLM._from_config(
        first, attn_implementation=attention, loss_chunk_tokens=loss_chunk_tokens
    )
    theirs = stock.LlamaForCausalLM._from_config(second, attn_implementation=attention)
    theirs.load_state_dict(ours.state_dict())
    return ours.eval(), theirs.eval()


def tokens(rows: int = 2, length: int = 24, seed: int = 0) -> Tensor:
    return torch.randint(3, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def num_fused_layers(output: Tensor) -> int:
    """Fused layers that `output` was computed by: the nodes of autograd's graph, each once."""
    nodes, found = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in found:
            found.add(node)
            nodes += [parent for parent, _ in node.next_functions]
    return sum(node.name() == f"{FusedLayer.__name__}Backward" for node in found)
