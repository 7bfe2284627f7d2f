"""The processes that share a model by tensor parallelism, as torchrun has started them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all of them; alone where size is 1."""

    rank: int
    size: int
    device: torch.device

    def agreed(self, compute: Callable[[], T]) -> T:
        """What rank 0 computes, on every rank; so are its ValueError, OSError and EOFError."""
        if self.size == 1:
            return compute()
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = compute()
            except (ValueError, OSError, EOFError) as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        result: T = answer[0]
        return result

    def least(self, number: int | None) -> int | None:
        """The smallest of the ranks' numbers; None where one is unknown."""
        if self.size == 1:
            return number
        found: list[int | None] = [None] * self.size
        dist.all_gather_object(found, number)
        known = [one for one in found if one is not None]
        return min(known) if len(known) == self.size else None


@contextlib.contextmanager
def open_ranks(device_type: str | None, *, are_launched: bool = False) -> Iterator[Ranks]:
    """The ranks of torchrun, whose process group is open meanwhile; without torchrun one rank.

    `are_launched` says that another launcher has set torchrun's variables. On GPUs where there are
    any, unless `device_type` says "cpu". ValueError where there are none, or fewer than ranks.
    """
    num_gpus = torch.cuda.device_count() if device_type != "cpu" else 0
    if device_type == "cuda" and num_gpus == 0:
        raise ValueError("--device cuda: torch finds no GPU; leave it out to use the CPU")
    type_ = "cuda" if num_gpus else "cpu"
    if not (are_launched or dist.is_torchelastic_launched()):
        yield Ranks(0, 1, torch.device(type_))
        return
    local_rank = dist.get_node_local_rank()
    if num_gpus:
        if local_rank >= num_gpus:
            raise ValueError(
                f"this machine has {num_gpus} GPUs and more processes than that; start as many "
                "(--nproc-per-node), or use --device cpu"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if num_gpus else "gloo")
    device = torch.device("cuda", local_rank) if num_gpus else torch.device("cpu")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield ranks
    except (ValueError, OSError) as error:
        if ranks.rank > 0:
            # torchrun ends all processes when one ends: rank 0 gets time to say what all have met.
            time.sleep(5)
            raise ValueError(f"rank {ranks.rank}: {error}") from None
        raise
    finally:
        dist.destroy_process_group()
