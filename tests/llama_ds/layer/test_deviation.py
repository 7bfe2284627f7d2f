"""Whatever is changed on a module acts as in transformers' class: same loss, same gradients.

Attributes are not listed here. They are found on the modules, changed one by one on our model and
on stock transformers', and both train one step.
"""
# transformers' functions and classes carry few types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from llama_ds.layer.deviation import DeviationFinder
from tests.support.llama_pair import GQA, V, pair

# Rounding of fp32 sums in another order, and of norms that are rounded at other places.
LOSS_BOUND, GRADIENT_BOUND = 1e-6, 2e-5
PARTS = (
    "self_attn",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "mlp.act_fn",
    "input_layernorm",
    "post_attention_layernorm",
)
MODULES = (
    *("lm_head", "model.embed_tokens", "model.norm", "model.rotary_emb", "model.layers.0"),
    *(f"model.layers.0.{part}" for part in PARTS),
)
OURS_ALONE = {"tp", "sp", "own"}
"""What stock modules have nothing like: a rank's place, which is no user's to change."""
NOT_CHANGED = OURS_ALONE | {"config", "compute_default_rope_parameters"}
"""A configuration's fields have tests of their own; transformers reads the other while loading."""


def batch() -> dict[str, Any]:
    ids = torch.randint(0, V, (2, 24), generator=torch.Generator().manual_seed(0))
    # Stock makes a cache in training too, in which every layer has its place.
    return {"input_ids": ids, "labels": ids, "use_cache": False}


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """Ours and stock's, which every test leaves as they were."""
    ours, theirs = pair(**GQA)
    return ours.train(), theirs.train()


def trained(model: Any) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Loss and gradients of one step; None where the model refuses."""
    model.zero_grad()
    torch.manual_seed(0)  # dropout
    try:
        loss = model(**batch()).loss
        loss.backward()
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None
    named = model.named_parameters()
    found = {name: p.grad.to_dense() for name, p in named if p.grad is not None}
    return loss.detach(), found


def assert_equal(models: tuple[Any, Any], what: str) -> Tensor | None:
    """Both models train alike, or both refuse; returns stock's loss."""
    got, want = (trained(model) for model in models)
    if got is None or want is None:
        assert got is want, f"{what}: {'stock' if got is None else 'ours'} alone trains"
        return None
    torch.testing.assert_close(
        got[0], want[0], rtol=LOSS_BOUND, atol=0, msg=lambda text: f"{what}: {text}"
    )
    assert got[1].keys() == want[1].keys(), what
    for name, gradient in want[1].items():
        error = (got[1][name] - gradient).abs().max()
        assert error <= GRADIENT_BOUND * gradient.abs().max(), f"{what}: {name}"
    return want[0]


halved = partial(tree_map_only, Tensor, lambda x: x * 0.5 if x.is_floating_point() else x)


class Halving(nn.Module):
    """A module in another's place."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return halved(self.base(*arguments, **keywords))


def another(value: Any) -> Any:
    """A value of the same kind that differs."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return 2 * value + 0.5
        case str():
            return value + "_other"
        case None:
            return 1
        case nn.Parameter():
            return nn.Parameter(value.detach() * 1.5)
        case Tensor():
            return value * 1.5
        case nn.Module():
            return Halving(value)
    assert callable(value), f"{value!r} is of no kind that this test changes"
    return lambda *arguments, **keywords: halved(value(*arguments, **keywords))


def names_on(module: nn.Module) -> list[str]:
    """Attributes, parameters, buffers, parts and methods that a user may set on `module`."""
    own = [name for name in vars(module) if not name.startswith("_")]
    return [*own, *module._parameters, *module._buffers, *module._modules, "forward"]


@contextmanager
def changed(module: nn.Module, name: str) -> Iterator[None]:
    before, was_own = getattr(module, name), name in vars(module)
    value = another(before)
    if name in module._parameters and before is None:
        value = nn.Parameter(torch.linspace(0, 1, len(module.weight)))  # type: ignore[arg-type]
    weights = [weight.detach().clone() for weight in module.parameters()]
    setattr(module, name, value)
    try:
        yield
    finally:
        if was_own or name != "forward":
            setattr(module, name, before)
        else:
            delattr(module, name)
        # An embedding with a largest norm shortens its weights.
        for weight, old in zip(module.parameters(), weights, strict=True):
            weight.data.copy_(old)


@pytest.mark.parametrize("path", MODULES)
def test_every_attribute_acts_as_in_stock(models: tuple[Any, Any], path: str) -> None:
    ours, theirs = (model.get_submodule(path) for model in models)
    names = [name for name in names_on(theirs) if name not in NOT_CHANGED]
    assert {*names_on(ours)} - {*names_on(theirs)} <= OURS_ALONE
    if path != "model.layers.0":
        assert type(theirs) in (nn.Linear, nn.Embedding) or len(names) > 1
    base = assert_equal(models, "unchanged")
    effective = []
    for name in names:
        with changed(ours, name), changed(theirs, name):
            loss = assert_equal(models, f"{path}.{name}")
        if loss is None or loss != base:
            effective.append(name)
    assert "forward" in effective
    assert assert_equal(models, "changed back") == base


def test_the_modules_are_all() -> None:
    """A part that transformers adds to its layer must be added to ours, and to these tests."""
    _, theirs = pair()
    layer, outside = theirs.model.layers[0], {"", "model", "model.layers"}
    assert {name for name, _ in layer.named_modules()} == {"", *PARTS}
    names = {name for name, _ in theirs.named_modules() if ".layers." not in name}
    assert names - outside == {path for path in MODULES if ".layers." not in path}


# -- hooks ----------------------------------------------------------------------------------------


def hook_output(module: nn.Module) -> Any:
    return module.register_forward_hook(lambda module, inputs, output: halved(output))


def hook_input(module: nn.Module) -> Any:
    return module.register_forward_pre_hook(
        lambda module, inputs, keywords: (halved(inputs), halved(keywords)), with_kwargs=True
    )


def hook_gradient(module: nn.Module) -> Any:
    return module.register_full_backward_hook(lambda module, inputs, outputs: halved(inputs))


def hook_gradient_of_output(module: nn.Module) -> Any:
    return module.register_full_backward_pre_hook(lambda module, outputs: halved(outputs))


@pytest.mark.parametrize(
    "register", [hook_output, hook_input, hook_gradient, hook_gradient_of_output]
)
def test_hooks_on_every_module_act_as_in_stock(
    models: tuple[Any, Any], register: Callable[[nn.Module], Any]
) -> None:
    base = assert_equal(models, "unchanged")
    for path in MODULES:
        handles = [register(model.get_submodule(path)) for model in models]
        assert_equal(models, path)
        for handle in handles:
            handle.remove()
    assert assert_equal(models, "removed") == base


def test_hooks_on_all_modules_act_as_in_stock(models: tuple[Any, Any]) -> None:
    base = assert_equal(models, "unchanged")

    def of_activation(module: nn.Module, inputs: Any, output: Any) -> Any:
        return halved(output) if type(module).__name__.startswith("SiLU") else None

    handle = nn.modules.module.register_module_forward_hook(of_activation)
    assert assert_equal(models, "a hook on all modules") != base
    handle.remove()
    assert assert_equal(models, "removed") == base


# -- what users did -------------------------------------------------------------------------------


def set_activation(layer: Any) -> None:
    layer.mlp.act_fn = nn.GELU()


def set_scaling(layer: Any) -> None:
    layer.self_attn.scaling = 1 / 16


def set_causality(layer: Any) -> None:
    layer.self_attn.is_causal = False


def set_dropout(layer: Any) -> None:
    layer.self_attn.attention_dropout = 0.5


def set_first_epsilon(layer: Any) -> None:
    layer.input_layernorm.variance_epsilon = 1.0


def set_second_epsilon(layer: Any) -> None:
    layer.post_attention_layernorm.variance_epsilon = 1.0


def hook_activation(layer: Any) -> None:
    layer.mlp.act_fn.register_forward_hook(lambda module, inputs, output: output * 1.5)


def set_class(layer: Any) -> None:
    layer.mlp.act_fn.__class__ = nn.ReLU


def set_parametrization(layer: Any) -> None:
    nn.utils.parametrizations.weight_norm(layer.mlp.up_proj)
    layer.mlp.up_proj.parametrizations.weight.original0.data *= 2


def prune(layer: Any) -> None:
    """Every other feature of the MLP."""
    for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
        linear.weight = nn.Parameter(linear.weight[::2].detach().clone())
    layer.mlp.down_proj.weight = nn.Parameter(layer.mlp.down_proj.weight[:, ::2].detach().clone())


@pytest.mark.parametrize(
    "change",
    [
        *(set_activation, set_scaling, set_causality, hook_activation, set_dropout),
        *(set_first_epsilon, set_second_epsilon, set_class, set_parametrization, prune),
    ],
)
def test_changes_of_every_layer_train_as_in_stock(change: Callable[[Any], None]) -> None:
    """Also where they are made after steps on the fused layer."""
    models = pair(**GQA)
    for model in models:
        model.train()
    base = assert_equal(models, "unchanged")
    for model in models:
        for layer in model.model.layers:
            change(layer)
    assert assert_equal(models, change.__name__) != base


def test_a_module_that_is_switched_to_evaluation_does_not_drop_out() -> None:
    models = pair(attention_dropout=0.5)
    for model in models:
        model.train()
    base = assert_equal(models, "dropout")
    for model in models:
        model.model.layers[0].self_attn.eval()
    assert assert_equal(models, "dropout in one layer") != base
    for model in models:
        model.eval()
        model.model.layers[1].self_attn.train()
    assert_equal(models, "dropout while evaluating")


def test_hooks_on_the_head_see_logits(models: tuple[Any, Any]) -> None:
    base = assert_equal(models, "unchanged")
    shapes: list[tuple[int, ...]] = []

    def halve(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        shapes.append(tuple(output.shape))
        return output * 0.5

    handles = [model.lm_head.register_forward_hook(halve) for model in models]
    assert assert_equal(models, "a hook on the head") != base
    assert shapes == 2 * [(2, 24, V)]
    for handle in handles:
        handle.remove()
    assert assert_equal(models, "removed") == base


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0), 5], ids=str)
def test_a_batch_without_labels_trains_as_in_stock(models: tuple[Any, Any], num_items: Any) -> None:
    inputs = batch() | {"labels": torch.full((2, 24), -100), "num_items_in_batch": num_items}
    losses = []
    for model in models:
        model.zero_grad()
        losses.append(model(**inputs).loss)
        losses[-1].backward()
        assert all(not p.grad.any() for p in model.parameters())
    torch.testing.assert_close(*losses, rtol=0, atol=0, equal_nan=True)


# -- the finder -----------------------------------------------------------------------------------


def tree() -> Any:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.SiLU()))


class Counting:
    """Finds modules that are not in training, and counts how often it compared."""

    def __init__(self) -> None:
        self.calls = 0
        self.finder = DeviationFinder()

    def find(self, *roots: nn.Module) -> str | None:
        return self.finder.find(roots, tree, self.compare)

    def compare(self, root: nn.Module, built: nn.Module) -> str | None:
        self.calls += 1
        return None if root.training else "it evaluates"


def test_modules_are_compared_again_only_after_changes() -> None:
    found, counting = tree(), Counting()
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: setattr(found[1][0], "inplace", True),
        lambda: setattr(found[0], "weight", nn.Parameter(torch.ones(2, 2))),
        lambda: setattr(found[0], "forward", found[0].forward),
        lambda: found[1][0].register_forward_hook(lambda *_: None),
        lambda: found[1].append(nn.SiLU()),
        lambda: setattr(found[1][1], "__class__", nn.GELU),
        lambda: found.eval(),
    ]
    for number, change in enumerate(changes, start=1):
        change()
        for note in range(3):
            assert counting.find(found) == (None if number < 8 else "it evaluates")
            assert counting.calls == number
            # What no class knows: numbers, and tensors that cannot be compared.
            found[1][0].note = note
            found[0].notes = torch.ones(2)
    assert counting.find(nn.SiLU()) is None
    assert counting.find(found) == "it evaluates"


def test_a_copy_of_a_model_has_its_own_state(models: tuple[Any, Any]) -> None:
    ours, theirs = models
    base = assert_equal(models, "unchanged")
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert assert_equal((copied, theirs), "a copy") == base
        copied.model.layers[0].mlp.act_fn = nn.GELU()
        other = copy.deepcopy(theirs)
        other.model.layers[0].mlp.act_fn = nn.GELU()
        assert assert_equal((copied, other), "a changed copy") != base
    assert assert_equal(models, "the original") == base
