"""Model architecture: sizes, their rules, parameter counts and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def require(condition: bool, message: str) -> None:
    """ValueError with `message` unless `condition`."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture, in Hugging Face's names; defaults are LLaMA-1's (section 2.2, table 2)."""

    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width of the SwiGLU layer; LLaMA: 2/3 * 4 * hidden_size, rounded up to a multiple of 256."""
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    """Equal to num_attention_heads in LLaMA-1; smaller for grouped-query attention."""
    vocab_size: int = 32_000
    """Rows of the embedding and of the output head; must cover the token store's tokenizer."""
    max_position_embeddings: int = 2_048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    initializer_range: float = 0.02
    """Standard deviation of every initial weight matrix."""
    head_dim: int | None = None
    """Width of an attention head; None: hidden_size / num_attention_heads."""
    hidden_act: str = "silu"
    """Activation of the gate, by transformers' name; all but silu run unfused."""
    tie_word_embeddings: bool = False
    """One matrix is the embedding and the output head."""
    attention_bias: bool = False
    """Biases of the four attention matrices; runs unfused, as does mlp_bias."""
    mlp_bias: bool = False
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    """Scaling of the rotary embedding: config.json's `rope_parameters` without the base. No option:
    train.init_from or a recipe sets it."""

    def __post_init__(self) -> None:
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
        ):
            require(
                getattr(self, name) > 0, f"model.{name} ({getattr(self, name)}) must be positive"
            )
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"model.hidden_size ({self.hidden_size}) must be a multiple of "
            f"model.num_attention_heads ({self.num_attention_heads})",
        )
        require(
            self.head_size > 0 and self.head_size % 2 == 0,
            f"model.head_dim ({self.head_size}, by default model.hidden_size / "
            "model.num_attention_heads) must be even and positive, for the rotary embedding",
        )
        require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"model.num_attention_heads ({self.num_attention_heads}) must be a multiple of "
            f"model.num_key_value_heads ({self.num_key_value_heads})",
        )
        require(self.rms_norm_eps > 0, f"model.rms_norm_eps ({self.rms_norm_eps}) must be positive")
        require(self.rope_theta > 0, f"model.rope_theta ({self.rope_theta}) must be positive")
        require(
            self.initializer_range > 0,
            f"model.initializer_range ({self.initializer_range}) must be positive",
        )

    @property
    def head_size(self) -> int:
        """Width of an attention head."""
        if self.head_dim is not None:
            return self.head_dim
        return self.hidden_size // self.num_attention_heads

    @property
    def is_fusable(self) -> bool:
        """Whether the fused layer computes it; else training runs on the layer's modules."""
        return self.hidden_act == "silu" and not (self.attention_bias or self.mlp_bias)

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of one decoder layer: seven matrices with their biases, two norms."""
        return self.layer_parameters(
            self.num_attention_heads, self.num_key_value_heads, self.intermediate_size
        )

    def layer_parameters(self, heads: int, kv_heads: int, intermediate: int) -> int:
        """Parameters of one decoder layer with so many heads and features, as a tp rank has it."""
        hidden, query, key = self.hidden_size, heads * self.head_size, kv_heads * self.head_size
        count = 2 * hidden * (query + key) + 3 * hidden * intermediate + 2 * hidden
        if self.attention_bias:
            count += query + 2 * key + hidden
        if self.mlp_bias:
            count += 2 * intermediate + hidden
        return count

    @property
    def num_embeddings(self) -> int:
        """Matrices of vocab_size rows: embedding and output head."""
        return 1 if self.tie_word_embeddings else 2

    @property
    def num_parameters(self) -> int:
        """All parameters: layers, final norm, embedding and output head."""
        embeddings = self.num_embeddings * self.vocab_size * self.hidden_size
        return self.num_hidden_layers * self.num_layer_parameters + self.hidden_size + embeddings

    def flops_per_token(self, sequence_length: int, *, causal: bool) -> float:
        """FLOPs per trained token, forward and backward, without recomputation.

        6 per weight that takes part in a matmul (the input embedding, norms and biases do not) plus
        12 * layers * query width * sequence_length for attention scores and values, as in
        PaLM (arXiv 2204.02311, appendix B). The causal count halves the attention term,
        because masked scores need not be computed.
        """
        query = self.num_attention_heads * self.head_size
        key = self.num_key_value_heads * self.head_size
        layer = 2 * self.hidden_size * (query + key) + 3 * self.hidden_size * self.intermediate_size
        weights = self.num_hidden_layers * layer + self.vocab_size * self.hidden_size
        attention = 12 * self.num_hidden_layers * query * sequence_length
        return 6.0 * weights + (attention / 2 if causal else attention)
