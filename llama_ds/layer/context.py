"""What the fused layer needs beside tensors: options, kernels and this rank's process groups."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llama_ds.layer.attention_kernels import Documents, Kernel
from llama_ds.layer.elementwise import EAGER, Elementwise
from llama_ds.layer.offload import Offload
from llama_ds.layer.options import LayerOptions
from llama_ds.parallel.collectives import Pending, start_all_reduce
from llama_ds.parallel.sequence import SequenceParallel
from llama_ds.parallel.tensor import TensorParallel


@dataclass(frozen=True)
class ForwardContext:
    """What all layers of one forward pass share: the options, resolved for its inputs."""

    options: LayerOptions
    attention: Kernel
    documents: Documents | None
    """Document boundaries of the whole sequences, where several documents are packed into one."""
    elementwise: Elementwise = EAGER
    offload: Offload | None = None
    """None where the save policy offloads nothing, or there is no backward pass."""


@dataclass(frozen=True)
class LayerContext:
    """What one layer needs beside tensors.

    Its methods start a collective and return it as `Pending`, waited for at once unless overlap is
    on; `name` labels it in profiles.
    """

    forward: ForwardContext
    tp: TensorParallel
    sp: SequenceParallel
    head_dim: int
    eps: float

    @property
    def options(self) -> LayerOptions:
        return self.forward.options

    @property
    def elementwise(self) -> Elementwise:
        return self.forward.elementwise

    @property
    def offloaded(self) -> tuple[str, ...]:
        """Names of the activations that are offloaded to the host."""
        names = () if self.forward.offload is None else self.options.save_policy.offloaded()
        # Without Ulysses `o_in` is `attn_out` itself, and comes back with it.
        return tuple(name for name in names if name != "o_in" or self.sp.size > 1)

    @property
    def num_chunks(self) -> int:
        """Sequence chunks of the forward pass's tensor-parallel collectives."""
        return self.options.overlap_chunks if self.options.overlap and self.tp.size > 1 else 1

    def all_gather(self, x_BsD: Tensor, name: str) -> Pending:
        """[B, s, D] -> [B, S, D] over tp."""
        return self._started(self.tp.start_all_gather(x_BsD, name))

    def reduce(self, partial_BSD: Tensor, name: str) -> Pending:
        """Partial sums [B, S, D] of the tp ranks -> [B, s, D], by reduce-scatter or all-reduce."""
        return self._started(self.tp.start_reduce(partial_BSD, name))

    def reduce_replicated(self, dnorm_D: Tensor, name: str) -> Pending:
        """Gradient of a norm's weight, which is replicated over tp; all-reduce."""
        return self._started(self.tp.start_reduce_replicated(dnorm_D, name))

    def reduce_key_value(self, dweight: Tensor, name: str) -> Pending:
        """Gradient of k or v, all-reduced over the ranks that hold replicas of the same heads."""
        return self._started(start_all_reduce(dweight, self.tp.kv_group, name))

    def to_heads(self, x_BShE: Tensor, name: str) -> Pending:
        """Ulysses all-to-all: this rank's positions of all heads -> all positions of g heads."""
        return self._started(self.sp.start_to_heads(x_BShE, name))

    def to_sequence(self, x_BTgE: Tensor, name: str) -> Pending:
        """The inverse all-to-all, back to [B, S, h, E]."""
        return self._started(self.sp.start_to_sequence(x_BTgE, name))

    def _started(self, pending: Pending) -> Pending:
        if not self.options.overlap:
            pending.wait()
        return pending
