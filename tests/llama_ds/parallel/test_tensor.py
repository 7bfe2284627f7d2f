"""The model in parts against the whole model, in float64: outputs, loss and every gradient."""
# PyTorch's `backward` and transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as StockLlama

from llama_ds import LlamaForCausalLM
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.tensor import Sharding, TensorParallel, padded_to
from tests.support.pool_groups import pool_groups
from tests.support.stock_checkpoints import write

Gloo = Callable[..., list[Any]]

B, S, V = 3, 16, 64
IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Case:
    tp: int
    sp: int = 1
    megatron: bool = True
    kv_heads: int = 4
    biases: bool = False
    tied: bool = False
    packed: bool = False

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=self.kv_heads,
            attention_bias=self.biases,
            mlp_bias=self.biases,
            tie_word_embeddings=self.tied,
            pad_token_id=5,
            initializer_range=0.2,
        )

    def groups(self) -> ParallelGroups:
        replicas = max(1, self.tp // self.kv_heads)
        return pool_groups(tp_size=self.tp, sp_size=self.sp, kv_replicas=replicas)


CASES = [
    Case(2),
    Case(2, megatron=False, kv_heads=2, tied=True),
    Case(2, kv_heads=1, biases=True),
    Case(2, kv_heads=1, biases=True, megatron=False, packed=True),
    Case(4, kv_heads=2, biases=True),
    Case(4, kv_heads=1, megatron=False),
    Case(1, 2, kv_heads=1, packed=True),
    Case(2, 2, kv_heads=2, packed=True, biases=True),
]


def batch(packed: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Token ids, shifted labels, position ids [B, S]."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(V, (B, S + 1), generator=generator)
    labels = ids[:, 1:].clone()
    labels[0, 3] = labels[2, 9:] = IGNORED
    starts = torch.tensor([0, 5, 9])  # the last two documents meet inside and at slices' ends
    positions = torch.arange(S).expand(B, S).clone()
    for start in starts:
        positions[:, start:] = torch.arange(S - start)
    return ids[:, :-1], labels, positions if packed else None


def fill_biases(model: Any) -> None:
    """Initial biases are zero, which would hide that one is added twice."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator).double())


def summed_loss(logits: Tensor, labels: Tensor | None) -> Tensor:
    assert labels is not None
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED
    )


def whole(case: Case) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(loss, logits, gradients by name) of the whole model.

    Transformers' own takes norms in fp32; that ours equals it is tested in `test_model.py`.
    """
    torch.manual_seed(7)
    model: Any = LlamaForCausalLM(case.config()).double()
    fill_biases(model)
    ids, labels, positions = batch(case.packed)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    loss = summed_loss(logits, labels)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), logits.detach(), gradients


def part(case: Case) -> dict[str, Any]:
    """Loss, logits and gradients of this rank's part of the model and of the rows."""
    groups = case.groups()
    torch.manual_seed(7)
    model: Any = LlamaForCausalLM(
        case.config(), groups, sequence_parallel=case.megatron, loss_chunk_tokens=7
    )
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    full = LlamaForCausalLM(case.config())
    full.double()
    fill_biases(full)
    model.double()
    values = dict(full.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data.copy_(model.tp.sharding.shard(name, values[name], groups.tp_rank))
    ids, labels, positions = (None if x is None else model.sp.shard(x) for x in batch(case.packed))
    arguments = {"input_ids": ids, "position_ids": positions, "shift_labels": labels}
    loss = model.train()(**arguments, num_items_in_batch=1).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    for gradient in gradients.values():
        dist.all_reduce(gradient, group=groups.replica_group)
    model.zero_grad()
    # Also through the logits, which are whole on every tp rank.
    logits = model(input_ids=ids, position_ids=positions).logits
    summed_loss(logits, labels).backward()
    through_logits = {name: p.grad.clone() for name, p in model.named_parameters()}
    for gradient in through_logits.values():
        dist.all_reduce(gradient, group=groups.replica_group)
    return {
        "place": (groups.dp_rank, groups.sp_rank, groups.tp_rank),
        "initial": initial,
        "loss": loss.detach(),
        "logits": logits.detach(),
        "gradients": gradients,
        "through_logits": through_logits,
        "is_counted": {
            name: getattr(p, "tensor_model_parallel", False) or groups.tp_rank == 0
            for name, p in model.named_parameters()
        },
    }


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def parts(gloo: Gloo, case: Case) -> list[dict[str, Any]]:
    return gloo(case.tp * case.sp, part, case)


@pytest.mark.dist
def test_parts_equal_the_whole(parts: list[dict[str, Any]], case: Case) -> None:
    loss, logits, gradients = whole(case)
    of_tp_rank = {p["place"][2]: p for p in parts if p["place"][1] == 0}
    of_sp_rank = {p["place"][1]: p for p in parts if p["place"][2] == 0}
    sharding = Sharding(case.tp, case.kv_heads)
    # Float64 rounding, through two layers.
    close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-11}
    slices = [of_sp_rank[rank] for rank in range(case.sp)]
    torch.testing.assert_close(torch.stack([p["loss"] for p in slices]).sum(), loss, **close)
    torch.testing.assert_close(torch.cat([p["logits"] for p in slices], 1), logits, **close)
    for kind in ("gradients", "through_logits"):
        for name, expected in gradients.items():
            shards = [of_tp_rank[rank][kind][name] for rank in range(case.tp)]
            torch.testing.assert_close(
                sharding.unshard(name, shards), expected, msg=f"{kind} {name}", **close
            )
            for rank, shard in enumerate(shards):  # and every copy of a part
                mine = sharding.shard(name, expected, rank)
                torch.testing.assert_close(shard, mine, msg=f"{kind} {name} {rank}", **close)
    # What DeepSpeed adds up for the gradient norm.
    square = sum(
        float(p["gradients"][name].square().sum())
        for p in of_tp_rank.values()
        for name in gradients
        if p["is_counted"][name]
    )
    expected_square = sum(float(g.square().sum()) for g in gradients.values())
    assert square == pytest.approx(expected_square, rel=1e-10)


@pytest.mark.dist
def test_initial_weights_are_those_of_the_whole_model(
    parts: list[dict[str, Any]], case: Case
) -> None:
    torch.manual_seed(7)
    full = dict(LlamaForCausalLM(case.config()).named_parameters())
    sharding = Sharding(case.tp, case.kv_heads)
    for rank in parts:
        for name, parameter in rank["initial"].items():
            mine = sharding.shard(name, full[name].detach(), rank["place"][2])
            assert torch.equal(parameter, mine), name


# -- which part -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("tp", "kv_heads"), [(1, 4), (2, 4), (4, 4), (4, 2), (8, 1)])
def test_unshard_undoes_shard(tp: int, kv_heads: int) -> None:
    sharding = Sharding(tp, kv_heads)
    full = {
        "model.layers.0.self_attn.q_proj.weight": torch.randn(16, 8),
        "model.layers.0.self_attn.k_proj.weight": torch.randn(kv_heads * 2, 8),
        "model.layers.0.self_attn.v_proj.bias": torch.randn(kv_heads * 2),
        "model.layers.0.self_attn.o_proj.weight": torch.randn(8, 16),
        "model.layers.0.self_attn.o_proj.bias": torch.randn(8),
        "model.layers.0.mlp.down_proj.weight": torch.randn(8, 24),
        "model.layers.0.input_layernorm.weight": torch.randn(8),
        "model.embed_tokens.weight": torch.randn(32, 8),
        "lm_head.weight": torch.randn(32, 8),
    }
    for name, weight in full.items():
        parts = [sharding.shard(name, weight, rank) for rank in range(tp)]
        assert torch.equal(sharding.unshard(name, parts), weight), name
        elements = sum(part.numel() for part in parts)
        assert elements == weight.numel() * sharding.replicas(name), name
    assert sharding.dim("lm_head.weight") == 0
    assert sharding.dim("model.layers.0.mlp.down_proj.weight") == 1
    assert sharding.dim("model.norm.weight") is None


def test_a_weight_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"up_proj.weight: dim 0 of length 33 .* 2 shards"):
        Sharding(2, 1).shard("mlp.up_proj.weight", torch.ones(33, 2), 0)


@pytest.mark.parametrize(("tp", "vocab_size"), [(1, 7), (2, 7), (4, 7), (4, 9), (4, 8), (3, 3)])
def test_a_vocabulary_that_does_not_divide_differs_by_a_row(tp: int, vocab_size: int) -> None:
    sharding, name = Sharding(tp, 1, vocab_size), "lm_head.weight"
    full = torch.rand(vocab_size, 2)
    shards = [sharding.shard(name, full, rank) for rank in range(tp)]
    parameters = [torch.rand(-(-vocab_size // tp), 2) for _ in shards]
    assert {len(shard) for shard in shards} <= {len(parameters[0]) - 1, len(parameters[0])}
    padded = [padded_to(p, shard) for p, shard in zip(parameters, shards, strict=True)]
    assert all(shard.shape == parameters[0].shape for shard in padded)
    assert all(not shard[len(own) :].any() for shard, own in zip(padded, shards, strict=True))
    assert torch.equal(sharding.unshard(name, padded), full)
    assert sharding.full_shape(name, tuple(padded[0].shape)) == full.shape
    ranges = [sharding.vocabulary_range(rank, len(padded[0])) for rank in range(tp)]
    assert [token for own in ranges for token in own] == list(range(vocab_size))


def odd_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = LlamaForCausalLM.from_pretrained(folder, groups=pool_groups(tp_size=2))
    assert len(model.lm_head.weight) * 2 == model.config.vocab_size + 1
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


@pytest.mark.dist
def test_logits_of_a_padded_vocabulary_are_stocks(
    gloo: Callable[..., list[Any]], tmp_path: Path
) -> None:
    folder = write(tmp_path / "stock", vocab_size=97)
    ids = torch.arange(2 * 24).view(2, 24) * 5 % 97
    with torch.no_grad():
        expected = StockLlama.from_pretrained(folder)(ids).logits
    for logits in gloo(2, odd_logits, folder, ids):
        # fp32 sums in another order, of logits up to 10.
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


def kv_replicas_error() -> str:
    groups = pool_groups(tp_size=2)
    try:
        TensorParallel.of(groups, sequence_parallel=True, num_key_value_heads=1)
    except ValueError as error:
        return str(error)
    return "no error"


def slice_error(labels: str) -> str:
    case = Case(1, 2)
    model: Any = LlamaForCausalLM(case.config(), case.groups())
    ids = torch.zeros(1, 4, dtype=torch.long)
    try:
        model(input_ids=ids, **{labels: ids})
    except ValueError as error:
        return str(error)
    return "no error"


@pytest.mark.dist
def test_what_would_be_wrong_is_refused(gloo: Gloo) -> None:
    for error in gloo(2, kv_replicas_error):
        assert "kv_replicas (1) must be 2 for 1 key/value heads on 2 tp ranks" in error
    for labels in ("labels", "shift_labels"):
        for error in gloo(2, slice_error, labels):
            assert "pass pre-shifted shift_labels" in error
