"""Base class of the model: what it declares to transformers, and its weight initialization."""
# transformers' base classes, decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# transformers reads lists and dicts from class attributes.
# ruff: noqa: RUF012

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import LlamaConfig
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from llama_ds.layer.functional import initial_weight
from llama_ds.layer.modules import LlamaAttention, LlamaDecoderLayer
from llama_ds.parallel.tensor import TensorParallel, padded_to


class LlamaPreTrainedModel(PreTrainedModel):
    """What `LlamaModel` and `LlamaForCausalLM` share: transformers' class attributes, init."""

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
        """Initialize one module's own parameters, where no checkpoint has loaded them.

        Matrices by `initial_weight` with the seed of `torch.manual_seed`, biases zero; norms and
        rotary frequencies as in transformers. ValueError for a parameter that ZeRO-3 has sharded.
        """
        if not isinstance(module, nn.Linear | nn.Embedding):
            super()._init_weights(module)
            return
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)
        weight = module.weight
        # The meta device has no data, and sampling a large model takes minutes.
        if weight.is_meta or getattr(weight, "_is_hf_initialized", False):
            return
        name = f"{self._initial_name(module)}.weight"
        if weight.numel() == 0:
            raise ValueError(
                f"{name} was sharded by ZeRO-3 before it was initialized; replace "
                "deepspeed.zero.Init by from_config or from_pretrained while an HfDeepSpeedConfig "
                "exists"
            )
        value = initial_weight(
            name,
            self.tp.sharding.full_shape(name, tuple(weight.shape)),
            self.config.initializer_range,
            torch.initial_seed(),
            weight.dtype,
            torch.device("cpu"),
        )
        value = self.tp.sharding.shard(name, value, self.tp.rank).to(weight.device)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            value[module.padding_idx] = 0.0
        value = padded_to(weight, value)
        if isinstance(weight, DTensor):
            # Every rank has sampled the same full weight and keeps its own shard.
            value = distribute_tensor(
                value, weight.device_mesh, weight.placements, src_data_rank=None
            )
        init.copy_(weight, value)

    def _initial_name(self, module: nn.Module) -> str:
        names: dict[nn.Module, str] = {child: name for name, child in self.named_modules()}
        if module in names:
            return names[module].removeprefix("model.")
        # `resize_token_embeddings` initializes the new embedding and head before they are attached.
        return "embed_tokens" if isinstance(module, nn.Embedding) else "lm_head"
