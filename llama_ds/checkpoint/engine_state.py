"""Master weights and Adam's moments of a DeepSpeed engine, by parameter, for every ZeRO stage.

DeepSpeed keeps them in other places at each stage: whole tensors (stage 0), a flat tensor per
parameter group of which each rank has a contiguous part (stages 1 and 2), a part of every parameter
(stage 3). In all cases a rank holds one contiguous range of its tensor-parallel part of a
parameter, flattened, and this range is a view into a tensor that torch's AdamW updates. `Part` says
which, and is all that saving and loading need.

DeepSpeed's own functions for this (`deepspeed.utils.safe_get_full_fp32_param` and the others) are
not used. In 0.19 those of stages 1 and 2 fail for every parameter group but the first, and before
the first step for all; the setters of stage 3 fail where a parameter does not divide by the ranks;
no setter refreshes the weights that the model computes with; and the getters put together tensors
of full size on every rank's device, where a copy of the rank's own range to the host is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama_ds.checkpoint.kinds import MOMENTS, WEIGHT
from llama_ds.parallel.tensor import Sharding


@dataclass(frozen=True)
class Part:
    """What this rank holds of one parameter."""

    name: str
    """Stock name."""
    shape: tuple[int, ...]
    """Of the full parameter, as in stock checkpoints."""
    start: int
    """First element held, in the flattened part of the tensor-parallel rank."""
    length: int
    master: Tensor
    """fp32, the tensor that the optimizer updates; it may hold other parameters too."""
    offset: int
    """Where in it, flattened, the range begins."""


class EngineState:
    """Parts of all parameters in the model's order, and views of their values."""

    def __init__(self, engine: Any, sharding: Sharding) -> None:
        self._engine = engine
        self._masters = _masters(engine)
        self.parts = _parts(engine, sharding)
        self.is_partitioned = engine.zero_optimization_stage() > 0
        """Whether the ranks of a replica group hold different ranges."""

    def view(self, part: Part, kind: str) -> Tensor:
        """The rank's values of a part, fp32 [length]; writing into it changes the state.

        `make_moments` must have been called for moments.
        """
        tensor = part.master if kind == WEIGHT else self._optimizer.state[part.master][kind]
        flat: Tensor = tensor.detach().view(-1)
        return flat.narrow(0, part.offset, part.length)

    def make_moments(self) -> None:
        """Zero moments where there are none; torch's AdamW makes them in its first step only."""
        settings = self._optimizer.param_groups[0]
        counts_on_device = settings["fused"] or settings["capturable"]
        for master in self._masters:
            state = self._optimizer.state[master]
            if "step" not in state:
                device = master.device if counts_on_device else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                for moment in MOMENTS:
                    state[moment] = torch.zeros_like(master, requires_grad=False)

    @property
    def num_updates(self) -> int:
        """Updates that Adam has made: the steps, but those with a gradient that was not finite."""
        return int(self._optimizer.state[self._masters[0]]["step"])

    @torch.no_grad()
    def finish_loading(self, step: int, num_updates: int) -> None:
        """After every view is filled: set the counters, and the weights that the model computes
        with, from the masters. Collective."""
        for master in self._masters:
            # Adam corrects the bias of its moments by this count, which each tensor has of its own.
            self._optimizer.state[master]["step"].fill_(num_updates)
        engine = self._engine
        engine.global_steps = step
        engine.global_samples = step * engine.train_batch_size()
        engine.skipped_steps = step - num_updates
        _refresh_live_weights(engine)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        """torch's AdamW inside DeepSpeed's wrapper."""
        optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        return optimizer


def _masters(engine: Any) -> list[Tensor]:
    """The tensors that torch's AdamW updates."""
    wrapper = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        return list(wrapper.fp32_partitioned_groups_flat)
    if _is_bf16_optimizer(wrapper):
        return list(wrapper.fp32_groups_flat_partition)
    if engine.zero_optimization_stage() > 0:
        return list(wrapper.single_partition_of_fp32_groups)
    return [parameter for group in wrapper.param_groups for parameter in group["params"]]


def _is_bf16_optimizer(wrapper: Any) -> bool:
    """DeepSpeed's choice for bf16 at stage 1 where micro-batches accumulate in fp32."""
    return hasattr(wrapper, "fp32_groups_flat_partition")


def _parts(engine: Any, sharding: Sharding) -> list[Part]:
    wrapper, stage = engine.optimizer, engine.zero_optimization_stage()
    whole = _whole_masters(engine) if stage == 0 else {}
    masters = _masters(engine)
    parts = []
    for name, parameter in engine.module.named_parameters():
        local_shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        shape = sharding.full_shape(name, local_shape)
        # Rows that pad the vocabulary are the last ones, and of no full parameter.
        rows = local_shape[0] - getattr(parameter, "num_padding_rows", 0)
        size = rows * math.prod(local_shape[1:])
        if stage == 0:
            part = Part(name, shape, 0, size, whole[id(parameter)], 0)
        elif stage == 3:
            group, offset, length = wrapper.grad_position[wrapper.get_param_id(parameter)]
            # Every rank has as much: the last ones' ranges go beyond the parameter's end.
            start = dist.get_rank(parameter.ds_process_group) * length
            part = Part(name, shape, *_within(size, start, length), masters[group], offset)
        elif parameter._hp_mapping is None:  # all of it lies in other ranks' parts of the group
            part = Part(name, shape, 0, 0, masters[0], 0)
        else:
            link = parameter._hp_mapping
            own, flat = link.lp_fragment_address, link.hp_fragment_address
            master = masters[link.param_group_index]
            part = Part(name, shape, *_within(size, own.start, own.numel), master, flat.start)
        parts.append(part)
    return parts


def _within(size: int, start: int, length: int) -> tuple[int, int]:
    """(start, length) of a range, without what lies beyond `size`."""
    start = min(size, start)
    return start, min(length, size - start)


def _whole_masters(engine: Any) -> dict[int, Tensor]:
    """At stage 0: id of each parameter -> its master, which is itself in fp32."""
    wrapper = engine.optimizer
    if not hasattr(wrapper, "fp32_groups"):
        return {id(parameter): parameter for parameter in engine.module.parameters()}
    return {
        id(live): master
        for lives, masters in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        for live, master in zip(lives, masters, strict=True)
    }


def _refresh_live_weights(engine: Any) -> None:
    wrapper, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 3:
        wrapper.checkpoint_event_prologue()  # small parameters are whole on every rank: let go
        flats = zip(
            wrapper.fp16_partitioned_groups_flat, wrapper.fp32_partitioned_groups_flat, strict=True
        )
        for live, master in flats:
            live.copy_(master)
        wrapper.checkpoint_event_epilogue()  # and gather them again
    elif stage > 0:
        wrapper.update_lp_params()
    elif hasattr(wrapper, "fp32_groups"):
        for lives, masters in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True):
            for live, master in zip(lives, masters, strict=True):
                live.copy_(master)
