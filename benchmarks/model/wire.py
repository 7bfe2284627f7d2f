"""Counts the bytes that this rank sends, at PyTorch's collective operators (c10d dispatch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operator of c10d -> (display name, the argument whose bytes count, its share for r ranks).
_COUNTED: dict[str, tuple[str, int, Callable[[int], float]]] = {
    "_allgather_base_": ("all_gather", 0, lambda r: (r - 1) / r),
    "_reduce_scatter_base_": ("reduce_scatter", 1, lambda r: (r - 1) / r),
    "allreduce_": ("all_reduce", 0, lambda r: 2 * (r - 1) / r),
    "alltoall_base_": ("all_to_all", 1, lambda r: (r - 1) / r),
    # All ranks but the one that gets the sum send theirs; the mean over roots.
    "reduce_": ("reduce", 0, lambda r: (r - 1) / r),
    "allgather_into_tensor_coalesced_": ("all_gather", 0, lambda r: (r - 1) / r),
    "broadcast_": ("broadcast", 0, lambda r: 1 / r),
}


class Sent(NamedTuple):
    """A kind of call, as `Calls` counts it."""

    collective: str
    dtype: str
    phase: str
    """What the caller said is going on."""
    ranks: int
    """Of its group."""


class Calls(TorchDispatchMode):
    """Context manager that counts bytes and calls, by `phase()` at the time of the call."""

    def __init__(self, phase: Callable[[], str] = str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: Counter[Sent] = Counter()
        self.calls: Counter[Sent] = Counter()
        self._phase = phase

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            operator = func._schema.name.removeprefix("c10d::")
            assert operator in _COUNTED, f"the collective {operator} is not counted: add it here"
            name, position, share = _COUNTED[operator]
            tensors = args[position] if isinstance(args[position], list) else [args[position]]
            group = next(dist.ProcessGroup.unbox(a) for a in args if _is_group(a))
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            dtype = str(tensors[0].dtype).removeprefix("torch.")
            kind = Sent(name, dtype, self._phase(), group.size())
            self.sent[kind] += round(size * share(group.size()))
            self.calls[kind] += 1
        return func(*args, **(kwargs or {}))


def _is_group(argument: Any) -> bool:
    is_object = not isinstance(argument, Tensor | list | int | float | type(None))
    return is_object and "ProcessGroup" in str(argument._type())


def sent_bytes(run: Callable[[], Any]) -> tuple[Counter[str], Any]:
    """(bytes by collective, result) of `run`, by the lower bounds of `planning/traffic.py`."""
    with Calls() as counting:
        result = run()
    sent: Counter[str] = Counter()
    for kind, size in counting.sent.items():
        sent[kind.collective] += size
    return +sent, result
