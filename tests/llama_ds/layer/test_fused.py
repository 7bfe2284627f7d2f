"""The fused layer against the plain one, whose backward pass is autograd's."""
# transformers' classes carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from llama_ds import LlamaForCausalLM
from llama_ds.layer.attention_kernels import CPU, MATH, Documents
from llama_ds.layer.context import ForwardContext
from llama_ds.layer.modules import LlamaDecoderLayer
from llama_ds.layer.offload import Offload
from llama_ds.layer.options import LayerOptions
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import SINGLE_RANK
from llama_ds.save_policy import PRESETS, SavePolicy
from tests.support.nightly import at_night

Gloo = Callable[..., list[Any]]

V, S = 64, 16
POLICIES: dict[str, SavePolicy] = {
    **{str(name): policy for name, policy in PRESETS.items()},
    "regather": SavePolicy.of("linear_outputs", attn_in="regather", mlp_in="regather"),
    # Each tensor that others are computed from, missing alone.
    "no_mid": SavePolicy.of("keep_all", mid="recompute"),
    "no_attention": SavePolicy.of(
        "keep_all", attn_out="recompute", lse="recompute", o_in="recompute"
    ),
    "no_qkv": SavePolicy.of("linear_outputs", q="recompute", k="recompute", v="recompute"),
    "no_gate": SavePolicy.of("linear_outputs", gate="recompute"),
    "offload_input": SavePolicy.of("layer_input", x="offload"),
    "offload": SavePolicy.of(
        "keep_all",
        x="offload",
        attn_in="offload",
        q="offload",
        attn_out="offload",
        lse="offload",
        o_in="offload",
        mid="offload",
        up="offload",
    ),
}
# Overlap, chunks and tiles: the policies take turns, so that every policy meets several of these.
SCHEDULES: list[dict[str, Any]] = [
    {"overlap": False, "mlp_tiles": 1},
    {"overlap": True, "overlap_chunks": 1, "mlp_tiles": 1},
    {"overlap": True, "overlap_chunks": 2, "mlp_tiles": 1},
    # Neither divides a sequence of 16, nor a rank's part of 4 or 8.
    {"overlap": True, "overlap_chunks": 3, "mlp_tiles": 3},
    {"overlap": False, "mlp_tiles": 4},
]
# Roundings of each dtype over a few hundred terms. fp32 and float64 are the promise; in bf16
# the modules round after every operation, the fused layer's functions once.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 4e-2}


def config(num_key_value_heads: int, num_layers: int = 2) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
        max_position_embeddings=S,
        initializer_range=0.2,
    )


def batch(rows: int = 2) -> tuple[Tensor, Tensor]:
    """Token ids, and positions of packed documents."""
    ids = torch.randint(0, V, (rows, S), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(S).repeat(rows, 1)
    positions[0, 7:] -= 7
    positions[-1, 12:] -= 12
    return ids, positions


MODULES = LayerOptions(fused=False)


def options_of(policy: str, turn: int = 0) -> LayerOptions:
    return LayerOptions(save_policy=POLICIES[policy], **SCHEDULES[turn % len(SCHEDULES)])


def gradients(model: Any, options: LayerOptions, **inputs: Any) -> list[Tensor]:
    """Loss and all gradients, in float64."""
    model.model.layer_options = options
    model.zero_grad()
    loss = model(num_items_in_batch=20, **inputs).loss
    loss.backward()
    return [loss.detach().double(), *(p.grad.double() for p in model.parameters())]


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest of all tensors' errors, each relative to its tensor's norm."""
    errors = [
        float((got - wanted).norm() / wanted.norm())
        for got, wanted in zip(found, expected, strict=True)
    ]
    return max(errors)


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("num_key_value_heads", [4, 2])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_policy_equals_autograd(
    dtype: torch.dtype, num_key_value_heads: int, packed: bool
) -> None:
    model: Any = LlamaForCausalLM(config(num_key_value_heads))
    model.to(dtype).train()
    ids, positions = batch()
    inputs = {"input_ids": ids, "labels": ids, "position_ids": positions if packed else None}
    expected = gradients(model, MODULES, **inputs)
    for turn, name in enumerate(POLICIES):
        found = gradients(model, options_of(name, turn + packed), **inputs)
        assert relative_error(found, expected) < TOLERANCE[dtype], name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("num_key_value_heads", [4, 2])
def test_every_policy_equals_autograd_on_a_gpu(num_key_value_heads: int, packed: bool) -> None:
    model: Any = LlamaForCausalLM(config(num_key_value_heads))
    model.to("cuda", torch.bfloat16).train()
    ids, positions = (x.to("cuda") for x in batch())
    inputs = {"input_ids": ids, "labels": ids, "position_ids": positions if packed else None}
    expected = gradients(model, MODULES, **inputs)
    for name in POLICIES:
        found = gradients(model, options_of(name), **inputs)
        assert relative_error(found, expected) < TOLERANCE[torch.bfloat16], name


def small_layer() -> tuple[LlamaDecoderLayer, list[Tensor]]:
    """A layer, and what it is a function of: its input, and its weights in their order."""
    torch.manual_seed(0)
    sizes = LlamaConfig(
        hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1
    )
    layer = LlamaDecoderLayer(sizes, 0, SINGLE_RANK, SequenceParallel()).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer, [torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kernel", [CPU, MATH], ids=lambda kernel: kernel.name)
def test_gradcheck(kernel: Any, policy: str) -> None:
    layer, (x,) = small_layer()
    angles = torch.rand(2, 5, 4, dtype=torch.float64)
    documents = Documents.of(torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]))
    names, weights = zip(*layer.named_parameters(), strict=True)

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        tables = angles.cos(), angles.sin()
        offload = Offload(torch.device("cpu"))
        context = ForwardContext(options_of(policy), kernel, documents, offload=offload)
        arguments = (x, tables, context)
        named = dict(zip(names, weights, strict=True))
        out: Tensor = torch.func.functional_call(layer, named, arguments)
        return out

    # The fast mode compares the Jacobians' products with random vectors, which a wrong entry
    # changes; element by element it takes 20 times as long. It multiplies atol by their sums.
    # Relative to their size, float64 differences are exact to 1e-8 or so.
    assert torch.autograd.gradcheck(
        function, (x, *weights), eps=1e-6, atol=1e-9, rtol=1e-5, fast_mode=True
    )


@pytest.mark.parametrize("policy", ["linear_outputs", "offload"])
def test_backward_runs_twice_where_the_graph_is_kept(policy: str) -> None:
    model: Any = LlamaForCausalLM(config(4), layer_options=options_of(policy)).train()
    ids, _ = batch()
    loss = model(input_ids=ids, labels=ids).loss
    weight = model.model.layers[0].mlp.up_proj.weight
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(loss, weight)
    # The same operations on tensors that nobody may have overwritten.
    assert torch.equal(first, second)


def test_frozen_weights_get_no_gradient() -> None:
    model: Any = LlamaForCausalLM(config(4)).train()
    frozen = model.model.layers[0].requires_grad_(False)
    model.model.embed_tokens.requires_grad_(False)
    ids, _ = batch()
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(parameter.grad is not None for parameter in model.model.layers[1].parameters())


def test_policies_save_less_and_less() -> None:
    model: Any = LlamaForCausalLM(config(4, num_layers=1)).train()
    ids, _ = batch()
    saved = {}
    for name in PRESETS:
        total: list[int] = []

        def count(tensor: Tensor, total: list[int] = total) -> Tensor:
            total.append(tensor.numel())
            return tensor

        model.model.layer_options = LayerOptions(save_policy=PRESETS[name])
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model.model(input_ids=ids)
        saved[name] = sum(total)
    assert list(saved) == sorted(saved, key=saved.__getitem__, reverse=True)
    assert len(set(saved.values())) == len(saved)


# -- layouts --------------------------------------------------------------------------------------


def errors_of_rank(
    tp: int, sp: int, sequence_parallel: bool, num_key_value_heads: int
) -> dict[tuple[torch.dtype, bool, str], float]:
    """Error of every case on this rank, against the plain layer in the same layout.

    Every policy in float64 on packed rows. Packing and dtype act inside single operations, which
    know nothing of the layout: rows of one document and fp32 under one policy each that keeps and
    one that computes again.
    """
    from tests.support.pool_groups import pool_groups

    groups = pool_groups(tp_size=tp, sp_size=sp, kv_replicas=max(1, tp // num_key_value_heads))
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        config(num_key_value_heads), groups, sequence_parallel=sequence_parallel
    ).train()
    ids, positions = batch()
    labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    shard = model.sp.shard
    worst: dict[tuple[torch.dtype, bool, str], float] = {}
    for dtype, packed, names in (
        (torch.float64, True, list(POLICIES)),
        (torch.float64, False, ["linear_outputs", "layer_input"]),
        (torch.float32, True, ["linear_outputs", "layer_input"]),
    ):
        model.to(dtype)
        inputs = {
            "input_ids": shard(ids),
            "shift_labels": shard(labels),
            "position_ids": shard(positions) if packed else None,
        }
        expected = gradients(model, MODULES, **inputs)
        for turn, name in enumerate(names):
            found = gradients(model, options_of(name, turn + 2 * packed + tp), **inputs)
            worst[dtype, packed, name] = relative_error(found, expected)
    return worst


@pytest.mark.dist
@pytest.mark.parametrize(
    ("tp", "sp", "sequence_parallel", "num_key_value_heads"),
    [
        at_night(2, 1, False, 4),
        (2, 1, True, 2),
        at_night(4, 1, True, 2),
        (1, 2, False, 4),
        at_night(1, 4, False, 2),
        at_night(2, 2, False, 2),
        (2, 2, True, 4),
    ],
)
def test_every_policy_in_every_layout(
    gloo: Gloo, tp: int, sp: int, sequence_parallel: bool, num_key_value_heads: int
) -> None:
    layout = (tp, sp, sequence_parallel, num_key_value_heads)
    for errors in gloo(tp * sp, errors_of_rank, *layout):
        for case, error in errors.items():
            assert error < TOLERANCE[case[0]], case
