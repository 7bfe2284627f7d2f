"""Reduce-scatters the gradients of ZeRO-1 in bf16, which DeepSpeed all-reduces, once per step.

DeepSpeed 0.19 accumulates in fp32 at stage 1 with its `BF16_Optimizer` only. That all-reduces the
gradients of all weights (engine.py, `buffered_allreduce_fallback`), though a rank updates only its
partition of them: twice the bytes of a reduce-scatter. At the end of the accumulation DeepSpeed
asks an optimizer of stage 1 for `reduce_gradients`, which `BF16_Optimizer` has not; here is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from llama_ds.parallel.collectives import reduce_scatter_no_grad
from llama_ds.parallel.groups import ParallelGroups


@dataclass(frozen=True)
class NormGroups:
    """The `mpu` of an optimizer whose gradients are partitioned: norms are summed over all ranks.

    Over the tp ranks, as before, and over the replicas, each of which has the norm of its own
    partition. Weights that tp replicates still count on tp rank 0 only.
    """

    groups: ParallelGroups

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """Every rank: dp x sp x tp."""
        world: dist.ProcessGroup = dist.group.WORLD  # type: ignore[assignment]
        return world

    def get_tensor_model_parallel_rank(self) -> int:
        return self.groups.tp_rank


def reduce_scatter_gradients(engine: Any, groups: ParallelGroups) -> None:
    """Let `engine`, at ZeRO-1 with DeepSpeed's `BF16_Optimizer`, reduce-scatter its gradients.

    Of two replicas or more: the partition of one is the whole, which would be zeroed.
    """
    optimizer = engine.optimizer
    assert groups.num_replicas > 1, "there is nothing to reduce"

    @torch.no_grad()
    def reduce_gradients(pipeline_parallel: bool = False) -> None:
        """Mean over the replicas, in fp32, of this rank's partition; zero elsewhere."""
        assert not pipeline_parallel, "the engine has no pipeline"
        for whole, own in zip(
            optimizer.fp32_groups_gradients_flat,
            optimizer.fp32_groups_gradient_flat_partition,
            strict=True,
        ):
            partition = reduce_scatter_no_grad(whole, 0, groups.replica_group)
            whole.zero_()  # the rest must not count in the norm
            own.copy_(partition).div_(groups.num_replicas)

    optimizer.reduce_gradients = reduce_gradients
    optimizer.mpu = NormGroups(groups)
