"""Initial weights: a function of seed, name and shape, however the model is made."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig

from llama_ds import LlamaForCausalLM, LlamaModel
from llama_ds.layer.functional import initial_weight
from llama_ds.loss import LlamaHead

V = 97


def config(**overrides: Any) -> LlamaConfig:
    values = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2}
    return LlamaConfig(
        **(values | {"num_attention_heads": 4, "initializer_range": 0.2} | overrides)
    )


def _weight(name: str = "a", *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return initial_weight(name, (256, 128), 0.02, seed, dtype, torch.device("cpu"))


def test_initial_weight_depends_on_name_and_seed_only() -> None:
    first = _weight()
    torch.manual_seed(99)
    assert torch.equal(_weight(), first)
    assert not torch.equal(_weight("b"), first)
    assert not torch.equal(_weight(seed=2), first)
    with torch.device("meta"):
        assert torch.equal(_weight(), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_initial_weight_in_another_dtype_is_the_rounded_fp32_weight(dtype: torch.dtype) -> None:
    assert torch.equal(_weight(dtype=dtype), _weight().to(dtype))


def test_initial_weight_distribution() -> None:
    weight = _weight() / 0.02
    # 32,768 draws: the mean's standard error is 0.0055 and the deviation's 0.0039; 4 of each.
    assert abs(weight.mean().item()) < 0.022
    assert abs(weight.std().item() - 1) < 0.016


def test_initial_weights_stay_what_they_are() -> None:
    """A change here changes every run from scratch; the changelog must say so."""
    weight = initial_weight("lm_head.weight", (4, 8), 1.0, 0, torch.float32, torch.device("cpu"))
    expected = torch.tensor([-0.0036740, 0.7645996, 0.1848865])
    # Processors differ in the last bits of logarithm and cosine.
    torch.testing.assert_close(weight[0, :3], expected, rtol=1e-5, atol=1e-6)


def test_initial_weights_are_drawn_by_name() -> None:
    torch.manual_seed(5)
    model: Any = LlamaForCausalLM(config(attention_bias=True))
    std, device = model.config.initializer_range, torch.device("cpu")
    for name, parameter in model.named_parameters():
        name, shape = name.removeprefix("model."), tuple(parameter.shape)
        if parameter.dim() == 2:
            expected = initial_weight(name, shape, std, 5, torch.float32, device)
        else:
            expected = torch.ones(shape) if "norm" in name else torch.zeros(shape)
        assert torch.equal(parameter, expected), name


def test_initial_weights_do_not_depend_on_how_the_model_is_made() -> None:
    torch.manual_seed(5)
    expected = LlamaForCausalLM(config()).state_dict()
    torch.rand(3)  # draws in between change nothing
    alone = LlamaModel(config()).state_dict()
    assert all(torch.equal(alone[name], expected[f"model.{name}"]) for name in alone)
    deeper = LlamaForCausalLM(config(num_hidden_layers=3)).state_dict()
    assert all(torch.equal(deeper[name], expected[name]) for name in expected)
    for dtype in (torch.float32, torch.bfloat16):
        made = LlamaForCausalLM._from_config(config(), dtype=dtype).state_dict()
        assert all(torch.equal(made[name], expected[name].to(dtype)) for name in expected)
    with torch.device("meta"):
        empty = LlamaForCausalLM(config())
    assert all(p.is_meta for p in empty.parameters())
    empty.to_empty(device="cpu").init_weights()
    assert all(torch.equal(empty.state_dict()[name], expected[name]) for name in expected)
    torch.manual_seed(6)
    other = LlamaForCausalLM(config()).state_dict()
    assert not torch.equal(other["lm_head.weight"], expected["lm_head.weight"])


def test_padding_row_is_zero_and_loaded_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = LlamaForCausalLM(config(pad_token_id=4))
    embedding = model.model.embed_tokens.weight
    assert embedding[4].abs().max() == 0
    assert embedding[3].abs().max() > 0
    embedding.data.fill_(1.0)
    embedding._is_hf_initialized = True
    # Nor is a loaded weight drawn in vain, which takes minutes for a large model.
    monkeypatch.delattr("llama_ds.pretrained_model.initial_weight")
    model._init_weights(model.model.embed_tokens)
    assert embedding.min() == 1


@pytest.mark.parametrize("mean_resizing", [False, True])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_resize_token_embeddings(mean_resizing: bool, tied: bool) -> None:
    model: Any = LlamaForCausalLM(config(tie_word_embeddings=tied)).train()
    before = model.model.embed_tokens.weight.clone()
    model.resize_token_embeddings(V + 5, mean_resizing=mean_resizing)
    assert torch.equal(model.model.embed_tokens.weight[:V], before)
    assert torch.isfinite(model.model.embed_tokens.weight).all()
    assert isinstance(model.lm_head, LlamaHead)
    assert model.lm_head.weight.shape == (V + 5, 32)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    tokens = torch.arange(V + 5).reshape(2, -1)
    out = model(tokens, labels=tokens)
    assert out.logits is None
    expected = model(tokens, labels=tokens, skip_logits=False).loss
    torch.testing.assert_close(out.loss, expected, rtol=1e-6, atol=0)  # fp32 sums


def test_a_sharded_weight_gets_its_part() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    try:
        model: Any = LlamaForCausalLM(config())
        layer = model.model.layers[0].mlp.up_proj
        expected = layer.weight.detach().clone()
        mesh = init_device_mesh("cpu", (2,))
        empty = distribute_tensor(torch.zeros_like(expected), mesh, [Shard(0)], src_data_rank=None)
        layer.weight = nn.Parameter(empty)
        model._init_weights(layer)
        assert torch.equal(layer.weight.to_local(), expected[44:])
    finally:
        dist.destroy_process_group()


def test_a_weight_partitioned_too_early_is_refused() -> None:
    model: Any = LlamaForCausalLM(config())
    model.lm_head.weight = nn.Parameter(torch.empty(0))
    with pytest.raises(ValueError, match=r"lm_head\.weight was sharded by ZeRO-3 before"):
        model._init_weights(model.lm_head)
