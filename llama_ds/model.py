"""LLaMA as a Hugging Face class: stock `LlamaConfig`, stock parameter names, stock checkpoints.

What differs from the class in transformers:

- `LlamaHead` fuses the output head with the loss, so that training never holds all logits;
- every initial weight depends on the seed and its own name only (`initial_weight`);
- documents packed into one row never see each other when `position_ids` restart at 0 and no
  `attention_mask` is given, also where a cache is asked for; training makes no cache.

Shapes in names: B rows, S sequence, D hidden, H heads, K kv heads, E head dim, V vocabulary.
"""
# transformers' base classes, decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# transformers reads lists and dicts from class attributes.
# ruff: noqa: RUF012

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, LlamaConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, eager_attention_forward
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from llama_ds.config import ModelConfig
from llama_ds.functional import initial_weight, kept_positions, rms_norm, rotary, swiglu
from llama_ds.loss import IGNORE_INDEX, chunked_cross_entropy


def hf_config(
    model: ModelConfig, *, bos_token_id: int, eos_token_id: int, dtype: torch.dtype
) -> LlamaConfig:
    """The Hugging Face configuration of a recipe's model."""
    return LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        max_position_embeddings=model.max_position_embeddings,
        rms_norm_eps=model.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        initializer_range=model.initializer_range,
        use_cache=True,
        tie_word_embeddings=False,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        dtype=dtype,
    )


class LlamaRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class LlamaMLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        hidden, intermediate, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)
        # LLaMA's own activation has a function of its own, which a fused backward can replace.
        self.act_fn = None if config.hidden_act == "silu" else ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
        product = swiglu(gate, up) if self.act_fn is None else self.act_fn(gate) * up
        return cast(Tensor, self.down_proj(product))


class LlamaAttention(nn.Module):
    """Causal self-attention; the scores are computed by transformers' chosen attention back end."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim: int = config.head_dim or config.hidden_size // config.num_attention_heads
        num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
        # Read from this module by the attention back ends.
        self.num_key_value_groups = config.num_attention_heads // num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        query_size = config.num_attention_heads * self.head_dim
        key_size = num_key_value_heads * self.head_dim
        hidden, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(hidden, query_size, bias=bias)
        self.k_proj = nn.Linear(hidden, key_size, bias=bias)
        self.v_proj = nn.Linear(hidden, key_size, bias=bias)
        self.o_proj = nn.Linear(query_size, hidden, bias=bias)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        rows_and_sequence = hidden_states.shape[:-1]
        # -1 heads: under tensor parallelism a projection gives this rank's heads only.
        heads_last = (*rows_and_sequence, -1, self.head_dim)
        q_BHSE = self.q_proj(hidden_states).view(heads_last).transpose(1, 2)
        k_BKSE = self.k_proj(hidden_states).view(heads_last).transpose(1, 2)
        v_BKSE = self.v_proj(hidden_states).view(heads_last).transpose(1, 2)
        q_BHSE = rotary(q_BHSE, *position_embeddings)
        k_BKSE = rotary(k_BKSE, *position_embeddings)
        if past_key_values is not None:
            k_BKSE, v_BKSE = past_key_values.update(k_BKSE, v_BKSE, self.layer_idx)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        out_BSHE, scores = attend(
            self,
            q_BHSE,
            k_BKSE,
            v_BKSE,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(out_BSHE.reshape(*rows_and_sequence, -1).contiguous()), scores


class LlamaDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
    ) -> Tensor:
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states), position_embeddings=position_embeddings, **kwargs
        )
        hidden_states = hidden_states + attended
        normed = self.post_attention_layernorm(hidden_states)
        return hidden_states + cast(Tensor, self.mlp(normed))


class LlamaHead(nn.Linear):
    """The output head; with labels it gives the loss and never holds all logits.

    The loss is computed inside this module's forward, so that whoever gathers a module's weights
    just before its forward (ZeRO-3, FSDP, offloading) has gathered the head's.
    """

    def forward(
        self,
        input: Tensor,
        labels: Tensor | None = None,
        num_items: Tensor | float | None = None,
        chunk_tokens: int = 1024,
    ) -> Tensor:
        """Logits [..., V]; with `labels` (shifted, see `chunked_cross_entropy`) the scalar loss."""
        if labels is None:
            return super().forward(input)
        return chunked_cross_entropy(input, self.weight, labels, num_items, chunk_tokens)


class LlamaPreTrainedModel(PreTrainedModel):
    config_class = LlamaConfig
    config: LlamaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LlamaDecoderLayer, "attentions": LlamaAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initial values of one module's own parameters, where no checkpoint has given them.

        Matrices by `initial_weight` with the seed of `torch.manual_seed`, biases zero; norms one
        and rotary frequencies as transformers does.
        """
        if not isinstance(module, nn.Linear | nn.Embedding):
            super()._init_weights(module)
            return
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)
        weight = module.weight
        # On the meta device there is nothing to fill, and drawing a large model takes minutes.
        if weight.is_meta or getattr(weight, "_is_hf_initialized", False):
            return
        name = f"{self._initial_name(module)}.weight"
        if weight.numel() == 0:
            raise ValueError(
                f"{name} is partitioned by DeepSpeed before it has its initial value; build the "
                "model with from_config or from_pretrained while an HfDeepSpeedConfig exists, in "
                "place of deepspeed.zero.Init"
            )
        value = initial_weight(
            name,
            tuple(weight.shape),
            self.config.initializer_range,
            torch.initial_seed(),
            weight.dtype,
            weight.device,
        )
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            value[module.padding_idx] = 0.0
        if isinstance(weight, DTensor):
            # Every rank has drawn the same full weight and keeps its own part.
            value = distribute_tensor(
                value, weight.device_mesh, weight.placements, src_data_rank=None
            )
        init.copy_(weight, value)

    def _initial_name(self, module: nn.Module) -> str:
        names: dict[nn.Module, str] = {child: name for name, child in self.named_modules()}
        if module in names:
            return names[module].removeprefix("model.")
        # `resize_token_embeddings` initialises the new embedding and head before they are attached.
        return "embed_tokens" if isinstance(module, nn.Embedding) else "lm_head"


class LlamaModel(LlamaPreTrainedModel):
    """The decoder without an output head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, S, D] after the final norm; arguments as in transformers' LlamaModel.

        ValueError unless exactly one of `input_ids` and `inputs_embeds` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        # The mask is made before any cache and from the caller's position_ids: transformers looks
        # for packed documents only without a cache, and looking makes the host wait for a GPU.
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            positions = torch.arange(hidden_states.shape[1], device=hidden_states.device)
            position_ids = (positions + seen).unsqueeze(0)
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


class LlamaForCausalLM(LlamaPreTrainedModel, GenerationMixin):
    """The language model; reads and writes the checkpoints of transformers' class of this name."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    loss_chunk_tokens: int = 1024
    """Tokens whose logits exist at once while training."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = LlamaHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another output head in place, as `resize_token_embeddings` does."""
        if type(new_embeddings) is nn.Linear and new_embeddings.bias is None:
            rows, columns = new_embeddings.weight.shape
            head = LlamaHead(columns, rows, bias=False, device="meta")
            head.weight = new_embeddings.weight
            new_embeddings = head
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, S, V], and the loss where labels are given; arguments as in transformers.

        `labels` are aligned with `input_ids`, -100 where nothing is to be predicted. Keywords:
        `shift_labels` are labels shifted by the caller and win over `labels`; `num_items_in_batch`
        divides the sum over tokens (default: their number); `skip_logits` True gives the loss in
        chunks and no logits (default: when training with labels).
        """
        # `shift_labels` is no parameter, because Trainer takes every parameter with "label" in its
        # name for required, and would give no evaluation loss.
        shift_labels = kwargs.pop("shift_labels", None)
        num_items = kwargs.pop("num_items_in_batch", None)
        skip_logits = kwargs.pop("skip_logits", None)
        has_labels = labels is not None or shift_labels is not None
        if skip_logits and not has_labels:
            raise ValueError("skip_logits=True without labels or shift_labels leaves no output")
        if skip_logits is None:
            keeps_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
            skip_logits = self.training and has_labels and keeps_all
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            # The configuration's default is True, of which transformers warns when checkpointing.
            use_cache=False if self.training else use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = logits = None
        if skip_logits and self._head_gives_loss():
            if labels is not None and shift_labels is None:
                shift_labels = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
            loss = self.lm_head(hidden_states, shift_labels, num_items, self.loss_chunk_tokens)
        else:
            logits = self.lm_head(kept_positions(hidden_states, logits_to_keep))
            if has_labels:
                loss = self.loss_function(
                    logits=logits,
                    labels=labels,
                    vocab_size=self.config.vocab_size,
                    num_items_in_batch=num_items,
                    shift_labels=shift_labels,
                    **kwargs,
                )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _head_gives_loss(self) -> bool:
        """False where somebody has replaced the head or the loss, or has sharded the head's rows.

        transformers' own tensor parallelism gathers what the head returns along the vocabulary.
        """
        return (
            isinstance(self.lm_head, LlamaHead)
            and self.loss_function is ForCausalLMLoss
            and self.tp_size in (None, 1)
        )


_AUTO_CLASSES = ((AutoModel, LlamaModel), (AutoModelForCausalLM, LlamaForCausalLM))


def register() -> None:
    """Make AutoModel and AutoModelForCausalLM (so `pipeline` too) build these classes.

    It acts on this process only. A checkpoint does not show which class wrote it.
    """
    for auto_class, model_class in _AUTO_CLASSES:
        auto_class.register(LlamaConfig, model_class, exist_ok=True)
        mapping: Any = auto_class._model_mapping
        # Up to 5.17 transformers silently ignores a registration for one of its own configurations.
        if mapping[LlamaConfig] is not model_class:
            mapping._extra_content[LlamaConfig] = model_class
        assert mapping[LlamaConfig] is model_class, f"{auto_class} does not know {model_class}"


def unregister() -> None:
    """Undo `register`: the automatic classes build transformers' own models again."""
    for auto_class, model_class in _AUTO_CLASSES:
        extra = auto_class._model_mapping._extra_content
        if extra.get(LlamaConfig) is model_class:
            del extra[LlamaConfig]
