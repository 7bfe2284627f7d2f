"""LLaMA as a Hugging Face class: stock `LlamaConfig`, stock parameter names, stock checkpoints.

What differs from the class in transformers:

- `LlamaHead` fuses the output head with the loss, so that training never holds all logits;
- every initial weight depends on the seed and its own name only (`initial_weight`);
- documents packed into one row never see each other when `position_ids` restart at 0 and no
  `attention_mask` is given, also where a cache is asked for; training makes no cache;
- training runs on the fused layer of `layer/fused.py`, wherever nothing needs its modules;
- given `ParallelGroups`, a rank has its part of the weights (`parallel/tensor.py`) and of the
  sequence (`parallel/sequence.py`); without, this is one whole model.

Shapes in names: B rows, S sequence, D hidden, V vocabulary.
"""
# transformers' base classes, decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# transformers reads lists and dicts from class attributes.
# ruff: noqa: RUF012

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import GenerationMixin, LlamaConfig
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel, local_torch_dtype
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from llama_ds import weights
from llama_ds.config import AttentionName, ElementwiseName
from llama_ds.layer import elementwise
from llama_ds.layer.attention import choose
from llama_ds.layer.attention_kernels import Documents
from llama_ds.layer.eligibility import against_fusing
from llama_ds.layer.functional import initial_weight, kept_positions
from llama_ds.layer.modules import LlamaAttention, LlamaDecoderLayer, LlamaRMSNorm
from llama_ds.layer.offload import Offload
from llama_ds.layer.recomputation import Recomputation, run_layers
from llama_ds.layer.tensors import FusedOptions
from llama_ds.loss import IGNORE_INDEX, LlamaHead
from llama_ds.model_config import ModelConfig
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import TensorParallel, VocabParallelEmbedding
from llama_ds.save_policy import PRESETS, SavePolicy

logger = logging.getLogger(__name__)


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
    tp: TensorParallel
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
            self._full_shape(name, weight),
            self.config.initializer_range,
            torch.initial_seed(),
            weight.dtype,
            torch.device("cpu"),
        )
        value = self.tp.sharding.shard(name, value, self.tp.rank).to(weight.device)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            value[module.padding_idx] = 0.0
        if isinstance(weight, DTensor):
            # Every rank has drawn the same full weight and keeps its own part.
            value = distribute_tensor(
                value, weight.device_mesh, weight.placements, src_data_rank=None
            )
        init.copy_(weight, value)

    def _full_shape(self, name: str, weight: Tensor) -> tuple[int, ...]:
        """Shape of the whole weight of which this rank has `weight`."""
        shape = list(weight.shape)
        dim = self.tp.sharding.dim(name)
        if dim is not None:
            shape[dim] *= self.tp.size // self.tp.sharding.replicas(name)
        return tuple(shape)

    def _initial_name(self, module: nn.Module) -> str:
        names: dict[nn.Module, str] = {child: name for name, child in self.named_modules()}
        if module in names:
            return names[module].removeprefix("model.")
        # `resize_token_embeddings` initialises the new embedding and head before they are attached.
        return "embed_tokens" if isinstance(module, nn.Embedding) else "lm_head"


class LlamaModel(LlamaPreTrainedModel):
    """The decoder without an output head."""

    save_policy: SavePolicy | None = PRESETS["linear_outputs"]
    """What the fused layer keeps for its backward pass; None: the layer's modules are called."""
    attention: AttentionName = "auto"
    """The fused layer's attention kernel; the modules use transformers' attn_implementation."""
    elementwise: ElementwiseName = "auto"
    """What runs the fused layer's norms, rotary embedding and SwiGLU."""
    overlap: bool = False
    """The fused layer computes while tensors are sent, in `overlap_chunks` where it must cut."""
    overlap_chunks: int = 2
    mlp_tiles: int = 1
    """Parts of the sequence that the fused layer's MLP works on one after another."""
    recomputation: Recomputation | None = None
    """Groups of layers that training runs again before their backward pass."""

    def __init__(
        self,
        config: LlamaConfig,
        groups: ParallelGroups | None = None,
        *,
        sequence_parallel: bool = True,
    ) -> None:
        """With `groups`, this rank's part; `sequence_parallel` is Megatron's, within tp.

        Under sp, `input_ids`, `position_ids` and `attention_mask` are this rank's slices.
        """
        super().__init__(config)
        num_kv_heads = config.num_key_value_heads or config.num_attention_heads
        self.tp = TensorParallel.of(
            groups, sequence_parallel=sequence_parallel, num_key_value_heads=num_kv_heads
        )
        self.sp = SequenceParallel.of(groups)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, self.padding_idx, self.tp
        )
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config, index, self.tp, self.sp)
            for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps, self.tp)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self._reasons_told: set[str] = set()
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
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, S, D] after the final norm; arguments as in transformers' LlamaModel.

        `cache` is the name of `past_key_values` from transformers 5.24 on; either is taken.
        ValueError unless exactly one of `input_ids` and `inputs_embeds` is given.
        """
        past_key_values = cache if past_key_values is None else past_key_values
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            hidden_states = self.embed_tokens(input_ids)
        else:
            hidden_states = self.tp.outside(inputs_embeds)
        # The mask is made before any cache and from the caller's position_ids: transformers looks
        # for packed documents only without a cache, and looking makes the host wait for a GPU.
        uses_cache = past_key_values is not None or bool(use_cache and not self.training)
        fused = self._fused(hidden_states, attention_mask, position_ids, uses_cache, kwargs)
        rows, s = hidden_states.shape[0], self.tp.sequence_length(hidden_states.shape[1])
        mask = None
        if fused is None:
            # By position, here and in the outputs: the cache has another name from 5.24 on.
            mask = create_causal_mask(
                self.config,
                # Attention sees whole rows; only shape, dtype and device are read of this argument.
                hidden_states.new_empty(1).expand(rows, s * self.sp.size, 1),
                self._whole(attention_mask),
                past_key_values,
                position_ids=self._whole(position_ids),
            )
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            positions = self.sp.positions(s, hidden_states.device)
            position_ids = (positions + seen).unsqueeze(0)
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        run = run_layers
        if self.recomputation is not None and self.training and torch.is_grad_enabled():
            run = self.recomputation.run
        hidden_states = run(
            list(self.layers[: self.config.num_hidden_layers]),
            hidden_states,
            position_embeddings=position_embeddings,
            fused=fused,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return BaseModelOutputWithPast(self.norm(hidden_states), past_key_values)

    def _fused(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        uses_cache: bool,
        kwargs: dict[str, Any],
    ) -> FusedOptions | None:
        """Options for the fused layer; None where the layer's modules must be called.

        The reason is logged once; not without gradients, where there is nothing to save.
        """
        if self.save_policy is None:
            return None
        reason = self._against_fusing(hidden_states, attention_mask, uses_cache, kwargs)
        if reason is not None:
            if torch.is_grad_enabled() and reason not in self._reasons_told:
                self._reasons_told.add(reason)
                logger.warning("decoder layers run unfused, without a save policy: %s", reason)
            return None
        # As in transformers, an attention mask ends the search for packed documents.
        packed = None if attention_mask is not None else self._whole(position_ids)
        documents = None if packed is None else Documents.of(packed)
        head_dim = self.config.head_dim or (
            self.config.hidden_size // self.config.num_attention_heads
        )
        queries = hidden_states.new_empty(0, head_dim)
        kernel = choose(self.attention, queries, packed=documents is not None)
        return FusedOptions(
            self.save_policy,
            kernel,
            documents,
            elementwise.choose(self.elementwise, hidden_states.device),
            Offload(hidden_states.device) if self._offloads() else None,
            overlap=self.overlap,
            overlap_chunks=self.overlap_chunks,
            mlp_tiles=self.mlp_tiles,
        )

    def _offloads(self) -> bool:
        return torch.is_grad_enabled() and bool(self.save_policy and self.save_policy.offloaded())

    def _against_fusing(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        uses_cache: bool,
        kwargs: dict[str, Any],
    ) -> str | None:
        if uses_cache:
            return "a key/value cache is in use"
        if kwargs.get("output_attentions", self.config.output_attentions):
            return "output_attentions is set"
        # Looking makes the host wait for a GPU; without padding nothing need be given.
        if attention_mask is not None and not (attention_mask.ndim == 2 and attention_mask.all()):
            return "attention_mask hides positions"
        layers = list(self.layers)
        return against_fusing(layers, self.config, hidden_states, training=self.training)

    def _whole(self, x_Bs: Tensor | None) -> Tensor | None:
        return None if x_Bs is None else self.sp.whole(x_Bs)


class LlamaForCausalLM(LlamaPreTrainedModel, GenerationMixin):
    """The language model; reads and writes the checkpoints of transformers' class of this name."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    loss_chunk_tokens: int = 1024
    """Tokens whose logits exist at once while training."""

    def __init__(
        self,
        config: LlamaConfig,
        groups: ParallelGroups | None = None,
        *,
        sequence_parallel: bool = True,
    ) -> None:
        """As `LlamaModel`; under sp the loss is that of this rank's slice."""
        super().__init__(config)
        self.model = LlamaModel(config, groups, sequence_parallel=sequence_parallel)
        self.groups = groups
        self.tp, self.sp = self.model.tp, self.model.sp
        self.vocab_size = config.vocab_size
        self.lm_head = LlamaHead(config.hidden_size, config.vocab_size, self.tp)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any
    ) -> "LlamaForCausalLM":
        """As in transformers; with `groups`, this rank's part of a stock checkpoint folder.

        A rank then reads only what it holds. Keywords beside `groups`: `sequence_parallel`, `dtype`
        (the checkpoint's by default). Collective; the files must be safetensors.
        """
        groups = kwargs.pop("groups", None)
        if groups is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        return cls._from_slices(Path(pretrained_model_name_or_path), groups, **kwargs)

    @classmethod
    def _from_slices(
        cls,
        folder: Path,
        groups: ParallelGroups,
        *,
        sequence_parallel: bool = True,
        dtype: torch.dtype | None = None,
    ) -> "LlamaForCausalLM":
        config = LlamaConfig.from_pretrained(folder)
        made_in: Any = dtype or config.dtype or torch.float32
        config.dtype = made_in
        with init.no_init_weights(), local_torch_dtype(made_in):
            model = cls(config, groups, sequence_parallel=sequence_parallel)
        weights.load(model, folder, model.tp, groups)
        model.eval()
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; a model in parts writes the stock checkpoint of the whole.

        That is collective, and rank 0 holds no more than one file of `max_shard_size` bytes.
        """
        if self.groups is None:
            super().save_pretrained(save_directory, *args, **kwargs)
        else:
            weights.save_pretrained(self, Path(save_directory), self.tp, self.groups, **kwargs)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another output head in place, as `resize_token_embeddings` does."""
        if type(new_embeddings) is nn.Linear and new_embeddings.bias is None:
            rows, columns = new_embeddings.weight.shape
            with torch.device("meta"):
                head = LlamaHead(columns, rows)
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
        cache: Cache | None = None,
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
        if self.sp.size > 1 and (labels is not None or num_items is None) and has_labels:
            raise ValueError(
                "a slice of the sequence needs shift_labels, shifted before the cut, and "
                "num_items_in_batch, which counts all slices' labels"
            )
        if skip_logits is None:
            keeps_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
            skip_logits = self.training and has_labels and keeps_all
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache if past_key_values is None else past_key_values,
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
        cached = outputs.get("past_key_values")
        return CausalLMOutputWithPast(
            loss, logits, cached, outputs.hidden_states, outputs.attentions
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
