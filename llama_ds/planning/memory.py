"""Memory estimate of a training step from a recipe, by phase: the largest phase is what must fit.

A step has no moment at which everything lives: activations are gone when the last gradients are
reduced, and buckets are free when the optimizer updates. So each phase is added up on its own
(`activation_memory.py`, `state_memory.py`), and the estimate is the largest one.

It leaves out what has no formula: the allocator's rounding and fragmentation, the CUDA context and
NCCL's buffers. `USABLE_SHARE` leaves room for these. Compared with an allocator's live bytes in
`benchmarks/model/memory.py`.

Tensor parallelism shards matrices, ZeRO shards states over the N ranks that hold the same weight
shards (dp x sp), and sequence parallelism shards tokens; all results are bytes per rank.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from llama_ds.config import Recipe
from llama_ds.planning.activation_memory import (
    ActivationMemory,
    LossMemory,
    activation_memory,
    element_width,
    loss_memory,
    offloaded_bytes,
)
from llama_ds.planning.state_memory import (
    NO_OFFLOAD,
    Offload,
    StateMemory,
    StepStates,
    rank_parameters,
    step_states,
)

USABLE_SHARE = 0.93
"""Share of the device's memory that an estimate may take: fragments, the CUDA context and NCCL's
buffers need the rest."""


@dataclass(frozen=True)
class PhaseMemory:
    """Bytes on one device at a phase's largest moment."""

    weights: int
    gradients: int
    optimizer_states: int
    buffers: int
    """DeepSpeed's communication buckets, and the weights that ZeRO-3 has all-gathered."""
    activations: int = 0
    loss: int = 0
    """Logits, and the gradients that the fused loss computes in the forward pass."""

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by the name of each part."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer states": self.optimizer_states,
            "communication buffers": self.buffers,
            "activations": self.activations,
            "loss": self.loss,
        }


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device, in each phase of a step."""

    forward: PhaseMemory
    """Of the step's last micro-batch, as is backward."""
    loss: PhaseMemory
    """The forward pass of output head and loss."""
    backward: PhaseMemory
    reduction: PhaseMemory
    """Of the last gradients, when no activations are left."""
    update: PhaseMemory
    """The optimizer's."""

    def phases(self) -> dict[str, PhaseMemory]:
        """In order, by name."""
        return {
            "forward": self.forward,
            "loss": self.loss,
            "backward": self.backward,
            "gradient reduction": self.reduction,
            "update": self.update,
        }

    @property
    def binding_phase(self) -> str:
        """The one that needs most."""
        phases = self.phases()
        return max(phases, key=lambda name: phases[name].total)

    @property
    def total(self) -> int:
        return self.phases()[self.binding_phase].total

    def parts(self) -> dict[str, int]:
        """Bytes by the name of each part, in the binding phase."""
        return self.phases()[self.binding_phase].parts()


def estimate_memory(recipe: Recipe, dp_size: int, offload: Offload = NO_OFFLOAD) -> MemoryEstimate:
    """Memory of one rank that trains `recipe` with data-parallel degree `dp_size`."""
    states = step_states(recipe, dp_size, offload)
    return add_up(states, activation_memory(recipe), loss_memory(recipe))


def add_up(states: StepStates, activations: ActivationMemory, loss: LossMemory) -> MemoryEstimate:
    """Each phase at its largest moment."""
    kept, normed = activations.kept(), activations.final_norm
    return MemoryEstimate(
        forward=_phase(states.forward_layer, kept + activations.forward_layer),
        loss=_phase(states.loss, kept + normed + activations.head_input, loss.forward),
        backward=max(
            _phase(states.loss, kept + normed, loss.backward),
            _phase(
                states.loss, kept + normed + activations.final_norm_backward, loss.head_gradient
            ),
            _phase(states.first_backward, kept + activations.backward_layer),
            _phase(states.reduced_in_backward, activations.kept(states.layers_left)),
            _phase(states.last_backward, activations.kept(1) + activations.backward_layer),
            key=lambda moment: moment.total,
        ),
        reduction=_phase(states.reduction),
        update=_phase(states.update),
    )


def _phase(states: StateMemory, activations: int = 0, loss: int = 0) -> PhaseMemory:
    return PhaseMemory(**asdict(states), activations=activations, loss=loss)


def host_bytes(recipe: Recipe) -> int:
    """Pinned host memory of one rank: the offloaded activations of all layers."""
    model, train = recipe.model, recipe.train
    tokens = train.micro_batch_size * train.sequence_length
    layer = offloaded_bytes(
        train.resolved_save_policy, model, recipe.parallel, tokens, element_width(recipe)
    )
    return model.num_hidden_layers * layer


def checkpoint_host_bytes(recipe: Recipe, dp_size: int) -> int:
    """Host memory of one rank for saving: a snapshot of its shard, and one full tensor.

    The snapshot, pinned, has the fp32 master weights and both moments that the rank holds; at stage
    0 the replicas divide it. The full tensor is put together for the file that the rank writes;
    of a row-parallel one, a tp rank's shard is received beside it.
    """
    model, tp = recipe.model, recipe.parallel.tp
    snapshot = 12 * math.ceil(rank_parameters(recipe) / (dp_size * recipe.parallel.sp))
    column_parallel = model.hidden_size * max(model.vocab_size, model.intermediate_size)
    row_parallel = model.hidden_size * model.intermediate_size
    if tp > 1:
        row_parallel += row_parallel // tp
    return snapshot + 4 * max(column_parallel, row_parallel)
