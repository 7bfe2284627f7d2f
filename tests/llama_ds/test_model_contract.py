"""What transformers asks of every model, on the fused layer: ours and stock side by side.

Its own tests of models run with another activation, and so on the modules. These stand for them
where the fused layer runs, which each of them makes sure of.
"""
# transformers' functions and classes carry few types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.models.llama import modeling_llama as stock

from llama_ds import LlamaForCausalLM
from tests.support.llama_pair import GQA, num_fused_layers, pair, tokens

Gloo = Callable[..., list[Any]]

# Rounding of fp32 sums in another order, and of norms that are rounded at other places.
LOSS_BOUND, GRADIENT_BOUND = 1e-6, 2e-5
LAYERS = 2


def packed() -> dict[str, Any]:
    positions = torch.cat([torch.arange(n) for n in (5, 9, 10)])
    # Stock looks for documents only where there is no cache, which it makes in training too.
    return {"position_ids": positions.expand(2, -1)}


def step(
    model: Any, num_fused: int | None = None, **inputs: Any
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step in training; on `num_fused` fused layers where it is given."""
    model.train().zero_grad()
    loss = model(**{"input_ids": tokens(), "labels": tokens(), "use_cache": False} | inputs).loss
    if num_fused is not None:
        assert num_fused_layers(loss) == num_fused
    loss.backward()
    return loss.item(), {n: whole(p.grad) for n, p in model.named_parameters()}


def whole(gradient: Any) -> Tensor:
    """A gradient, also one that ranks hold shards of."""
    full: Tensor = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return full.clone()


def difference(
    got: tuple[float, dict[str, Tensor]], want: tuple[float, dict[str, Tensor]]
) -> float:
    """The largest of the errors of loss and gradients, in units of their bounds."""
    assert got[1].keys() == want[1].keys()
    errors = [abs(got[0] - want[0]) / abs(want[0]) / LOSS_BOUND]
    for name, gradient in want[1].items():
        largest = gradient.abs().max() * GRADIENT_BOUND
        errors.append(float((got[1][name] - gradient).abs().max() / largest))
    return float(torch.tensor(errors).max())  # nan where one is


def assert_same_step(ours: Any, theirs: Any, num_fused: int | None = LAYERS, **inputs: Any) -> None:
    assert difference(step(ours, num_fused, **inputs), step(theirs, **inputs)) <= 1


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [{}, packed()], ids=["rows", "packed"])
@pytest.mark.parametrize("overrides", [{}, GQA, {"tie_word_embeddings": True}], ids=str)
def test_training(overrides: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Three steps of SGD, whose updates have the size of the gradients."""
    models = pair(**overrides)
    assert_same_step(*models, **inputs)
    losses: list[list[float]] = [[], []]
    for model, curve in zip(models, losses, strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(3):
            num_fused = LAYERS if model is models[0] else 0
            curve.append(step(model, num_fused, **inputs)[0])
            optimizer.step()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # roundings of three steps
    assert losses[0][2] < losses[0][0] - 0.1, "it must have learned"


def test_packed_documents_differ_from_rows() -> None:
    ours, _ = pair()
    assert abs(step(ours)[0] - step(ours, **packed())[0]) > 1e-3


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    """It takes the modules; switched off, the fused layer is back."""
    ours, theirs = pair(**GQA)
    for model in (ours, theirs):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    assert_same_step(ours, theirs, num_fused=0)
    for model in (ours, theirs):
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
    assert_same_step(ours, theirs)


@pytest.mark.parametrize("size", [80, 112])
def test_resize(size: int) -> None:
    """Fewer or more tokens; the head keeps its loss, also after the change."""
    ours, theirs = pair(**GQA)
    for model in (ours, theirs):
        model.resize_token_embeddings(size, mean_resizing=False)
        assert model.lm_head.weight.shape[0] == model.config.vocab_size == size
    kept = min(size, 97)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(ours.get_parameter(name)[:kept], theirs.get_parameter(name)[:kept])
    theirs.load_state_dict(ours.state_dict())  # new rows are random, from other generators
    ids = tokens() % size
    assert ours.train()(ids, labels=ids).logits is None
    assert_same_step(ours, theirs, input_ids=ids, labels=ids)


# -- saving and loading ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saving", "loading"),
    [
        ({}, {}),
        ({"max_shard_size": "20KB"}, {}),
        ({}, {"dtype": torch.float64}),
        ({}, {"device_map": "cpu"}),
        ({}, {"device_map": {"": "cpu"}, "low_cpu_mem_usage": True}),
        ({"variant": "half"}, {"variant": "half"}),
    ],
    ids=["one_file", "shards", "float64", "device_map", "low_memory", "variant"],
)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_saved_models_train_on(
    tmp_path: Path, saving: dict[str, Any], loading: dict[str, Any], tied: bool
) -> None:
    saved, _ = pair(tie_word_embeddings=tied, **GQA)
    saved.save_pretrained(tmp_path, **saving)
    ours, theirs = (
        model_class.from_pretrained(tmp_path, **loading)
        for model_class in (LlamaForCausalLM, stock.LlamaForCausalLM)
    )
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, saved.state_dict()[name].to(weight.dtype)), name
    assert_same_step(ours, theirs)


def test_pickled_models_and_state_dicts_train_on(tmp_path: Path) -> None:
    ours, theirs = pair(**GQA)
    step(ours)
    torch.save(ours, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert_same_step(loaded, theirs)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt"), assign=True)
    assert_same_step(loaded, theirs)


# -- compilers ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_compile() -> None:
    """One graph, of the modules; the model itself is as before."""
    ours, theirs = pair(**GQA, num_hidden_layers=1)
    got, want = (torch.compile(m, backend="eager", fullgraph=True) for m in (ours, theirs))
    assert_same_step(got, want, num_fused=0)
    assert_same_step(ours, theirs, num_fused=1)
    torch.compiler.reset()


def test_compiled_modules_are_called() -> None:
    ours, theirs = pair(**GQA)
    graphs: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    for model in (ours, theirs):
        model.model.layers[0].mlp.compile(backend=count)
    assert_same_step(ours, theirs, num_fused=0)
    assert len(graphs) == 2
    torch.compiler.reset()


def test_export() -> None:
    ours, theirs = (model.eval() for model in pair(**GQA, num_hidden_layers=1))
    inputs = {"input_ids": tokens(), "use_cache": False}
    with torch.no_grad():
        got, want = (
            torch.export.export(model, (), inputs).module()(**inputs).logits
            for model in (ours, theirs)
        )
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # fp32 sums in another order
        torch.testing.assert_close(got, ours(**inputs).logits, rtol=0, atol=1e-5)
    assert_same_step(ours, theirs, num_fused=1)


# -- several ranks --------------------------------------------------------------------------------


def fsdp_differences(parameter_dtype: torch.dtype) -> dict[str, float]:
    """Differences of steps on the fused layer under FSDP2 from others."""
    mesh = init_device_mesh("cpu", (2,))
    policy = MixedPrecisionPolicy(param_dtype=parameter_dtype)

    def sharded(models: tuple[Any, Any], *paths: str) -> tuple[Any, Any]:
        for model in models:
            for path in (*paths, ""):
                fully_shard(model.get_submodule(path), mesh=mesh, mp_policy=policy)
        return models

    torch.manual_seed(0)  # the same weights on both ranks
    want = step(pair(**GQA)[0], LAYERS)
    layers = [f"model.layers.{index}" for index in range(LAYERS)]
    ours, theirs = sharded(pair(**GQA), "lm_head", *layers)
    found = step(ours, LAYERS)
    # A submodule that FSDP2 shards has to be called, or its weights would not be gathered.
    partly, _ = sharded(pair(**GQA), "model.layers.0.mlp", "model.layers.1.self_attn.q_proj")
    return {
        "stock": difference(found, step(theirs)),
        "one process": difference(found, want),
        "the next step": difference(step(ours, LAYERS), found),
        "submodules": difference(step(partly, 0), found),
    }


@pytest.mark.dist
@pytest.mark.parametrize(
    ("dtype", "bound"),
    # In units of fp32's bounds; bf16 has 2^16 times its rounding errors.
    [(torch.float32, 1.0), (torch.bfloat16, 2.0**16)],
    ids=str,
)
def test_fsdp(gloo: Gloo, dtype: torch.dtype, bound: float) -> None:
    for found in gloo(2, fsdp_differences, dtype):
        assert len(found) == 4
        assert max(found.values()) <= bound, found


def native_tp_differences(folder: str) -> list[float]:
    """Differences of steps under transformers' own tensor parallelism from one process."""
    want = step(stock.LlamaForCausalLM.from_pretrained(folder))
    two, classes = DistributedConfig(tp_size=2), (LlamaForCausalLM, stock.LlamaForCausalLM)
    models = [
        model_class.from_pretrained(folder, distributed_config=two) for model_class in classes
    ]
    return [difference(step(model, 0), want) for model in models]


@pytest.mark.dist
def test_native_tensor_parallelism(gloo: Gloo, tmp_path: Path) -> None:
    """It makes weights DTensors, which takes the modules."""
    pair(**GQA)[0].save_pretrained(tmp_path)
    for found in gloo(2, native_tp_differences, str(tmp_path)):
        assert max(found) <= 1
