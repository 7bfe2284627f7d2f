"""Deviations of modules from freshly built ones: what code that does not call them would ignore.

The fused layer reads weights, and the chunked loss the head's; neither calls the module that owns
them. So whatever else is set on a module (an activation, a number, a hook, a method, a class) acts
only where the module is called. Nothing here knows single attributes: a module is compared with one
that its class builds from the same configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

# What every module has; of these only hooks, parts and parameters act in a forward pass.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# transformers installs these permanently; they act only with output_attentions.
_INACTIVE_HOOKS = "transformers.utils.output_capturing"
# These all-gather weights around a call, and change neither its arguments nor its result. DeepSpeed
# wraps some of ZeRO-3's in a decorator, which leaves them its own name.
_SHARDING_HOOKS = ("deepspeed.runtime.zero.", "deepspeed.utils.nvtx", "torch.distributed.fsdp.")
# Read elsewhere: the place in a cache; gradient checkpointing, which the model asks for.
_NOT_COMPARED = frozenset({"layer_idx", "gradient_checkpointing"})

_ABSENT = object()


class DeviationFinder:
    """Says how modules deviate; compares them again only when something on them has changed."""

    def __init__(self) -> None:
        self._snapshot: _Snapshot | None = None
        self._found: str | None = None

    def __reduce__(self) -> tuple[type[DeviationFinder], tuple[()]]:
        # A copy of a model has other modules.
        return DeviationFinder, ()

    def find(
        self,
        roots: Sequence[nn.Module],
        build: Callable[[], nn.Module],
        compare: Callable[[nn.Module, nn.Module], str | None],
    ) -> str | None:
        """The first that `compare(root, build())` says of one of `roots`, if anything.

        It must depend on nothing that can change but what is set on a root and the modules below.
        """
        if self._snapshot is None or not self._snapshot.is_current(roots):
            built = build()
            snapshot = _Snapshot(roots, {name for part in built.modules() for name in vars(part)})
            found = (compare(root, built) for root in roots)
            self._found = next((reason for reason in found if reason is not None), None)
            self._snapshot = snapshot
        return self._found

    def parameters(self) -> list[Tensor]:
        """All parameters of the roots of the last `find`."""
        return [] if self._snapshot is None else self._snapshot.parameters


class _Snapshot:
    """What is set on modules and all below them, at one point in time."""

    def __init__(self, roots: Sequence[nn.Module], known: set[str]) -> None:
        """`known`: names of attributes that count, beside those that a module's class has."""
        self._roots = list(roots)
        self._modules = [module for root in roots for module in root.modules()]
        self._types = [*map(type, self._modules)]
        self._known = known
        names = (
            *_HOOKS,
            "_forward_pre_hooks_with_kwargs",
            "_forward_hooks_with_kwargs",
            "_modules",
        )
        own = [vars(module) for module in self._modules]
        parts: list[dict[Any, Any]] = [attributes[name] for attributes in own for name in names]
        # The modules' own attributes first, in the modules' order.
        self._tables: list[dict[Any, Any]] = [*own, *parts]
        # Comparing two dicts compares identities first, all in C.
        self._copies = [dict(table) for table in self._tables]
        self._owners = [attributes for attributes in own if attributes["_parameters"]]
        self.parameters = self._current_parameters()

    def _current_parameters(self) -> list[Tensor]:
        return [p for own in self._owners for p in own["_parameters"].values() if p is not None]

    def is_current(self, roots: Sequence[nn.Module]) -> bool:
        """Whether `roots` are the same modules, and nothing that counts on them was set since."""
        if self._roots != [*roots] or [*map(type, self._modules)] != self._types:
            return False
        if not _is_equal(self._tables, self._copies) and not self._only_notes_changed():
            return False
        parameters = self._current_parameters()
        return len(parameters) == len(self.parameters) and all(
            now is then for now, then in zip(parameters, self.parameters, strict=True)
        )

    def _only_notes_changed(self) -> bool:
        """Whether only others' notes on modules have changed, as ZeRO-3 counts on them."""
        for number, (table, copy) in enumerate(zip(self._tables, self._copies, strict=True)):
            if _is_equal(table, copy):
                continue
            if number >= len(self._modules):
                return False
            module_class = self._types[number]
            for name in table.keys() | copy.keys():
                if table.get(name, _ABSENT) is not copy.get(name, _ABSENT) and (
                    name in self._known or hasattr(module_class, name)
                ):
                    return False
            self._copies[number] = dict(table)
        return True


def _is_equal(found: Any, expected: Any) -> bool:
    try:
        return bool(found == expected)
    except (RuntimeError, ValueError):
        # Somebody keeps tensors or arrays on a module, which have no one truth value.
        return False


def deviation(module: nn.Module, built: nn.Module) -> str | None:
    """The first thing by which `module` deviates from `built`, apart from hooks on itself.

    `built` is of the class and configuration that `module` should have, and may be on the meta
    device. `module` itself is called and may be FSDP2's; the modules below it are not called.
    """
    return next(_deviations(module, built, "", is_sharded=isinstance(module, FSDPModule)), None)


def has_active_hooks(module: nn.Module, *, only_with_keywords: bool = False) -> bool:
    """Whether calls of `module` have hooks, other than those that all-gather its weights.

    `only_with_keywords`: hooks that are given the call's keyword arguments.
    """
    with_keywords = (
        module._forward_hooks_with_kwargs.keys() | module._forward_pre_hooks_with_kwargs.keys()
    )
    return any(
        not _module_of(hook).startswith((_INACTIVE_HOOKS, *_SHARDING_HOOKS))
        for name in _HOOKS
        for key, hook in getattr(module, name).items()
        if key in with_keywords or not only_with_keywords
    )


def is_transforming() -> bool:
    """Whether torch.func or forward-mode differentiation is at work.

    They have no rules for a `torch.autograd.Function` with a backward pass of its own.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _deviations(
    module: nn.Module, built: nn.Module, path: str, *, is_sharded: bool
) -> Iterator[str]:
    prefix = f"{path}: " if path else ""
    if _class_of(module, path) is not type(built):
        yield f"{prefix}it was replaced by a {type(module).__name__}"
        return
    for reason in (*_in_attributes(module, built), *_in_parameters(module, built, is_sharded)):
        yield prefix + reason
    hooks = [hook for name in _HOOKS for hook in getattr(module, name).values()]
    # A call of a module below the root is left out, with the all-gathers around it.
    if path and any(_module_of(hook) != _INACTIVE_HOOKS for hook in hooks):
        yield f"{prefix}it has hooks"
    for name, part in built.named_children():
        # Not get_submodule: what is in the place of a module need not be one.
        found = getattr(module, name, None)
        below = f"{path}.{name}" if path else name
        yield from _deviations(found, part, below, is_sharded=is_sharded)  # type: ignore[arg-type]


def _class_of(module: nn.Module, path: str) -> type[Any]:
    found = type(module)
    # FSDP2 gives a module a class derived from its own, and acts by hooks on its calls.
    return found.__bases__[1] if not path and found.__bases__[0] is FSDPModule else found


def _in_attributes(module: nn.Module, built: nn.Module) -> Iterator[str]:
    own, expected = vars(module), vars(built)
    for name in expected.keys() - _OF_EVERY_MODULE - _NOT_COMPARED:
        if name not in own:
            yield f"its {name} was deleted"
        elif not _is_same(own[name], expected[name]):
            yield f"its {name} is {_short(own[name])}, not {_short(expected[name])}"
    for name in own.keys() - expected.keys() - _NOT_COMPARED:
        # What no class knows, no code of a class reads.
        known = hasattr(type(built), name)
        if known and not _is_same(own[name], getattr(type(built), name)):
            yield f"its {name} was replaced"


def _in_parameters(module: nn.Module, built: nn.Module, is_sharded: bool) -> Iterator[str]:
    # The table and not the attribute, whose access ZeRO-3 may answer by an all-gather.
    own, expected = vars(module)["_parameters"], vars(built)["_parameters"]
    present = [name for name, parameter in own.items() if parameter is not None]
    wanted = [name for name, parameter in expected.items() if parameter is not None]
    if sorted(present) != sorted(wanted):
        yield f"its parameters are {', '.join(present)}, not {', '.join(wanted)}"
        return
    for name in wanted:
        parameter = own[name]
        # A fake tensor is a plain one without data, for tracing.
        is_plain = type(parameter) in (nn.Parameter, Tensor, FakeTensor)
        if not is_plain and not (is_sharded and _is_sharded_by_fsdp(parameter)):
            yield f"its {name} is a {type(parameter).__name__}"
        # What ZeRO-3 has sharded has its full shape as an attribute.
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if shape != expected[name].shape:
            yield f"its {name} is {shape}, not {tuple(expected[name].shape)}"


def _is_sharded_by_fsdp(parameter: Tensor) -> bool:
    """Whether FSDP2 all of it all-gathers; the other mesh dimensions may hold replicas only."""
    if not isinstance(parameter, DTensor):
        return False
    *outer, last = parameter.placements
    return isinstance(last, Shard) and all(placement.is_replicate() for placement in outer)


def _short(value: Any) -> str:
    return (
        repr(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"
    )


def _is_same(found: Any, expected: Any) -> bool:
    # Configurations may be equal and differ in what is not compared: only plain values are.
    is_plain = isinstance(expected, bool | int | float | str) and type(found) is type(expected)
    return found is expected or (is_plain and bool(found == expected))


def _module_of(hook: Any) -> str:
    return getattr(hook, "__module__", None) or ""
