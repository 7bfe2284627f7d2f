"""Model architecture: sizes, their rules, parameter counts and FLOPs."""

from __future__ import annotations

from dataclasses import dataclass


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
            self.hidden_size % (2 * self.num_attention_heads) == 0,
            f"model.hidden_size ({self.hidden_size}) must be a multiple of 2 x "
            f"model.num_attention_heads ({self.num_attention_heads}): rotary embedding needs an "
            "even head dim",
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
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of one decoder layer: four attention and three MLP matrices, two norms."""
        kv_size = self.num_key_value_heads * self.head_dim
        attention = 2 * self.hidden_size * self.hidden_size + 2 * self.hidden_size * kv_size
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters: layers, final norm, untied embedding and output head."""
        embeddings = 2 * self.vocab_size * self.hidden_size
        return self.num_hidden_layers * self.num_layer_parameters + self.hidden_size + embeddings

    def flops_per_token(self, sequence_length: int, *, causal: bool) -> float:
        """FLOPs per trained token, forward and backward, without recomputation.

        6 per weight that takes part in a matmul (the input embedding does not) plus
        12 * layers * hidden_size * sequence_length for attention scores and values, as in
        PaLM (arXiv 2204.02311, appendix B). The causal count halves the attention term,
        because masked scores need not be computed.
        """
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        matmul_parameters = self.num_parameters - self.vocab_size * self.hidden_size - norms
        attention = 12 * self.num_hidden_layers * self.hidden_size * sequence_length
        return 6.0 * matmul_parameters + (attention / 2 if causal else attention)
