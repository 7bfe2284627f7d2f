"""LLaMA as a Hugging Face class: stock `LlamaConfig`, stock parameter names, stock checkpoints.

What differs from the class in transformers:

- `LlamaHead` fuses the output head with cross-entropy, so that training never holds all logits;
- every initial weight depends on the seed and its own name only (`initial_weight`);
- attention is masked across packed documents when `position_ids` restart at 0 and no
  `attention_mask` is given, also where a cache is asked for; training makes no cache;
- training runs on the fused layer of `layer/fused.py`, wherever nothing needs its modules;
- given `ParallelGroups`, a rank holds its shards of the weights (`parallel/tensor.py`) and of the
  sequence (`parallel/sequence.py`); without, this is one whole model.

Shapes in names: B sequences of the micro-batch, S sequence length, D hidden, V vocabulary.
"""
# transformers' base classes, decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# transformers reads dicts from class attributes.
# ruff: noqa: RUF012

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaConfig
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import local_torch_dtype
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from llama_ds import weights
from llama_ds.layer import attention, elementwise
from llama_ds.layer.attention_kernels import Documents
from llama_ds.layer.context import ForwardContext
from llama_ds.layer.eligibility import Eligibility
from llama_ds.layer.functional import kept_positions
from llama_ds.layer.modules import LlamaDecoderLayer, LlamaRMSNorm
from llama_ds.layer.offload import Offload
from llama_ds.layer.options import LayerOptions
from llama_ds.layer.recomputation import run_layers
from llama_ds.loss import DEFAULT_LOSS_CHUNK_TOKENS, LlamaHead, LossEligibility, Targets, z_loss_of
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import TensorParallel, VocabParallelEmbedding
from llama_ds.pretrained_model import LlamaPreTrainedModel
from llama_ds.stock_config import ROPE_BY_LENGTH

logger = logging.getLogger(__name__)


DEFAULT_LAYER_OPTIONS = LayerOptions()


class LlamaModel(LlamaPreTrainedModel):
    """The decoder without an output head."""

    def __init__(
        self,
        config: LlamaConfig,
        groups: ParallelGroups | None = None,
        *,
        sequence_parallel: bool = True,
        layer_options: LayerOptions = DEFAULT_LAYER_OPTIONS,
    ) -> None:
        """With `groups`, this rank's shards; `sequence_parallel` is Megatron's, within tp.

        Under sp, `input_ids`, `position_ids` and `attention_mask` are this rank's sequence shards.
        """
        super().__init__(config)
        # Read in every forward pass; may be replaced between passes.
        self.layer_options = layer_options
        num_kv_heads = config.num_key_value_heads or config.num_attention_heads
        self.tp = TensorParallel.of(
            groups,
            sequence_parallel=sequence_parallel,
            num_key_value_heads=num_kv_heads,
            vocab_size=config.vocab_size,
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
        self._eligibility = Eligibility()
        self._logged_reasons: set[str] = set()
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
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            hidden_states = self.embed_tokens(input_ids)
        else:
            hidden_states = self.tp.outside(inputs_embeds)
        # The mask is made before any cache and from the caller's position_ids: transformers detects
        # packed documents only without a cache, and detecting them synchronizes with the GPU.
        uses_cache = past_key_values is not None or bool(use_cache and not self.training)
        fused = self._fused_context(hidden_states, attention_mask, position_ids, uses_cache, kwargs)
        rows, s = hidden_states.shape[0], self.tp.sequence_length(hidden_states.shape[1])
        mask = None
        if fused is None:
            # By position, here and in the outputs: the cache has another name from 5.24 on.
            mask = create_causal_mask(
                self.config,
                # Attention sees whole sequences; only shape, dtype and device of this are read.
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
        position_embeddings = self._rotary_tables(hidden_states, position_ids)
        hidden_states = self._runner()(
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

    def _rotary_tables(self, hidden_states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of this rank's positions."""
        if self.sp.size == 1 or self.rotary_emb.rope_type not in ROPE_BY_LENGTH:
            cos, sin = self.rotary_emb(hidden_states, position_ids=position_ids)
            return cos, sin
        # The frequencies follow from the last position, which another rank has.
        cos, sin = self.rotary_emb(hidden_states, position_ids=self.sp.whole(position_ids))
        return self.sp.shard(cos), self.sp.shard(sin)

    def _runner(self) -> Callable[..., Tensor]:
        """What calls the layers one after another, with activation checkpointing or without."""
        recomputation = self.layer_options.recomputation
        if recomputation is not None and self.training and torch.is_grad_enabled():
            return recomputation.run
        return run_layers

    def _fused_context(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        uses_cache: bool,
        kwargs: dict[str, Any],
    ) -> ForwardContext | None:
        """The fused layers' context of this forward pass; None where the modules must be called.

        The reason is logged once; not without gradients, where nothing is saved for backward.
        """
        options = self.layer_options
        # torch.compile and torch.export trace the modules, and could trace no warning.
        if not options.fused or torch.compiler.is_compiling():
            return None
        reason = self._reason_not_fusable(hidden_states, attention_mask, uses_cache, kwargs)
        if reason is not None:
            if torch.is_grad_enabled() and reason not in self._logged_reasons:
                self._logged_reasons.add(reason)
                logger.warning("decoder layers run unfused, without a save policy: %s", reason)
            return None
        # As in transformers, with an attention mask packed documents are not looked for.
        packed = None if attention_mask is not None else self._whole(position_ids)
        documents = None if packed is None else Documents.of(packed)
        head_dim = self.config.head_dim or (
            self.config.hidden_size // self.config.num_attention_heads
        )
        queries = hidden_states.new_empty(0, head_dim)
        offloads = torch.is_grad_enabled() and bool(options.save_policy.offloaded())
        return ForwardContext(
            options,
            attention.choose(options.attention, queries, packed=documents is not None),
            documents,
            elementwise.choose(options.elementwise, hidden_states.device),
            Offload(hidden_states.device) if offloads else None,
        )

    def _reason_not_fusable(
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
        # all() synchronizes with the GPU; without padding no mask need be given.
        if attention_mask is not None and not (attention_mask.ndim == 2 and attention_mask.all()):
            return "attention_mask masks positions"
        return self._eligibility.reason_not_fusable(
            list(self.layers), self.config, hidden_states, self.tp, self.sp
        )

    def _whole(self, x_Bs: Tensor | None) -> Tensor | None:
        return None if x_Bs is None else self.sp.whole(x_Bs)


class LlamaForCausalLM(LlamaPreTrainedModel, GenerationMixin):
    """The language model; reads and writes the checkpoints of transformers' class of this name.

    In training with labels it returns the loss and no logits (`outputs.logits` is None), which
    would be the largest activation. Pass `skip_logits=False` to have both, as in transformers; the
    loss is the same.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[dict-item]
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(
        self,
        config: LlamaConfig,
        groups: ParallelGroups | None = None,
        *,
        sequence_parallel: bool = True,
        layer_options: LayerOptions = DEFAULT_LAYER_OPTIONS,
        loss_chunk_tokens: int = DEFAULT_LOSS_CHUNK_TOKENS,
        z_loss: float = 0.0,
    ) -> None:
        """As `LlamaModel`; under sp the loss is that of this rank's sequence shard.

        `loss_chunk_tokens`: tokens whose logits exist at once in training. `z_loss`: coefficient of
        the squared log-sum-exp of the logits, in the loss of training only.
        """
        super().__init__(config)
        self.model = LlamaModel(
            config, groups, sequence_parallel=sequence_parallel, layer_options=layer_options
        )
        self.loss_chunk_tokens = loss_chunk_tokens
        self.z_loss = z_loss
        self.groups = groups
        self.tp, self.sp = self.model.tp, self.model.sp
        self.vocab_size = config.vocab_size
        self.lm_head = LlamaHead(config.hidden_size, config.vocab_size, self.tp)
        self._loss_eligibility = LossEligibility()
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any
    ) -> "LlamaForCausalLM":
        """As in transformers, with the constructor's keywords.

        With `groups`, this rank's shards of a stock checkpoint folder, of which it reads nothing
        else; further keywords are then the constructor's and `dtype` (the checkpoint's by default).
        Collective; the files must be safetensors.
        """
        groups = kwargs.pop("groups", None)
        if groups is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        return cls._from_sharded_read(Path(pretrained_model_name_or_path), groups, **kwargs)

    @classmethod
    def _from_sharded_read(
        cls,
        folder: Path,
        groups: ParallelGroups,
        *,
        dtype: torch.dtype | None = None,
        **model_kwargs: Any,
    ) -> "LlamaForCausalLM":
        config = LlamaConfig.from_pretrained(folder)
        model_dtype: Any = dtype or config.dtype or torch.float32
        config.dtype = model_dtype
        with init.no_init_weights(), local_torch_dtype(model_dtype):
            model = cls(config, groups, **model_kwargs)
        model.tie_weights()
        weights.load(model, folder, model.tp, groups)
        model.eval()
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; a sharded model writes the stock checkpoint of the full model.

        That is collective, and rank 0 holds at most one file of `max_shard_size` bytes.
        """
        if self.groups is None:
            super().save_pretrained(save_directory, *args, **kwargs)
        else:
            weights.save_pretrained(self, Path(save_directory), self.tp, self.groups, **kwargs)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output head, as `resize_token_embeddings` does."""
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

        `labels` are aligned with `input_ids`, -100 where ignored. Keywords: `shift_labels` are
        labels shifted by the caller and override `labels`; `num_items_in_batch` divides the summed
        token losses (default: their number); `skip_logits` True computes the loss in chunks and no
        logits (default: when training with labels). ValueError for labels that contradict these.
        """
        # `shift_labels` is no parameter, because Trainer requires every parameter with "label" in
        # its name, and would compute no evaluation loss.
        targets = Targets(
            labels, kwargs.pop("shift_labels", None), kwargs.pop("num_items_in_batch", None)
        )
        skip_logits = self._skips_logits(targets, kwargs.pop("skip_logits", None), logits_to_keep)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache if past_key_values is None else past_key_values,
            inputs_embeds=inputs_embeds,
            # The configuration's default, True, makes transformers warn when checkpointing.
            use_cache=False if self.training else use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = logits = None
        z_loss = self.z_loss if self.training else 0.0
        if skip_logits and self._head_computes_loss():
            chunk, num_items = self.loss_chunk_tokens, targets.num_items
            loss = self.lm_head(hidden_states, targets.shifted(), num_items, chunk, z_loss)
        else:
            logits = self.lm_head(kept_positions(hidden_states, logits_to_keep))
            if targets.are_given:
                loss = self.loss_function(
                    logits=logits,
                    labels=targets.labels,
                    vocab_size=self.config.vocab_size,
                    num_items_in_batch=targets.num_items,
                    shift_labels=targets.shift_labels,
                    **kwargs,
                )
                loss = loss + z_loss * z_loss_of(logits, targets) if z_loss else loss
        cached = outputs.get("past_key_values")
        return CausalLMOutputWithPast(
            loss, logits, cached, outputs.hidden_states, outputs.attentions
        )

    def _skips_logits(
        self, targets: Targets, requested: bool | None, logits_to_keep: int | Tensor
    ) -> bool:
        """Whether only the loss is computed; ValueError where `targets` do not allow it."""
        if requested and not targets.are_given:
            raise ValueError(
                "skip_logits=True needs labels or shift_labels: there is no other output"
            )
        is_pre_shifted = targets.labels is None and targets.num_items is not None
        if self.sp.size > 1 and targets.are_given and not is_pre_shifted:
            raise ValueError(
                f"with sequence parallelism (sp {self.sp.size}), pass pre-shifted shift_labels in "
                "place of labels, and the global num_items_in_batch"
            )
        if requested is not None:
            return requested
        wants_all_logits = isinstance(logits_to_keep, int) and logits_to_keep == 0
        return self.training and targets.are_given and wants_all_logits

    def _head_computes_loss(self) -> bool:
        """False where the loss was replaced, or something acts on the head's output.

        transformers' own tensor parallelism all-gathers it along the vocabulary.
        """
        return (
            isinstance(self.lm_head, LlamaHead)
            and self.loss_function is ForCausalLMLoss
            and self.tp_size in (None, 1)
            and self._loss_eligibility.computes_loss(self.lm_head)
        )
