"""Fused output head and cross-entropy, in chunks of tokens.

The logits of a LLaMA batch are larger than any other activation (2,048 tokens of 32,000 in fp32 are
262 MB), and are needed for one number. Here a chunk's loss and gradients are computed from its
logits, which are freed before the next chunk's; so at most `chunk_tokens * V` exist, and none is
recomputed in the backward pass. What is saved for backward are the gradients: one tensor of the
hidden states' shape and one of the head's.

Under tensor parallelism each rank has the logits of its shard of the vocabulary, v = V / tp. Ranks
all-gather two numbers per token: the log-sum-exp of their logits, and the target's logit where it
is in their shard. The loss is the same on every rank; the gradient of the hidden states is a
partial sum, which the backward of `TensorParallel.enter` reduces.

Shapes in names: B sequences of the micro-batch, S sequence length, D hidden, V vocabulary,
T = B * S tokens, C a chunk's tokens.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_ds.layer.deviation import DeviationFinder, deviation, has_active_hooks, is_transforming
from llama_ds.layer.functional import accumulation_dtype, first_derivative_only
from llama_ds.parallel.collectives import all_gather_no_grad
from llama_ds.parallel.tensor import (
    SINGLE_RANK,
    ColumnParallelLinear,
    TensorParallel,
    gather_vocabulary,
    mark_padding,
    padded_rows,
)

IGNORE_INDEX = -100
"""Label that is ignored by the loss, as in PyTorch and Hugging Face."""
DEFAULT_LOSS_CHUNK_TOKENS = 1024


class Targets(NamedTuple):
    """What the loss is computed from, beside the hidden states."""

    labels: Tensor | None
    shift_labels: Tensor | None
    """Pre-shifted, and in place of `labels`."""
    num_items: Tensor | float | None
    """Divisor of the summed token losses; None: their number."""

    @property
    def are_given(self) -> bool:
        return self.labels is not None or self.shift_labels is not None

    def shifted(self) -> Tensor:
        """The label of each position is the token that follows it."""
        if self.shift_labels is not None:
            return self.shift_labels
        assert self.labels is not None, "neither labels nor shift_labels are given"
        return F.pad(self.labels, (0, 1), value=IGNORE_INDEX)[..., 1:]


class LlamaHead(ColumnParallelLinear):
    """The output head; with labels it returns the loss, and never holds all logits.

    The loss is computed inside this module's forward, so that what all-gathers a module's weights
    just before its forward (ZeRO-3, FSDP, offloading) has gathered the head's.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        tp: TensorParallel = SINGLE_RANK,
    ) -> None:
        super().__init__(hidden_size, padded_rows(vocab_size, tp) * tp.size, False, tp)
        self.tp = tp
        if tp.size > 1:
            rows = tp.sharding.vocabulary_range(tp.rank, len(self.weight))
            mark_padding(self.weight, len(rows))

    def forward(
        self,
        input: Tensor,
        labels: Tensor | None = None,
        num_items: Tensor | float | None = None,
        chunk_tokens: int = DEFAULT_LOSS_CHUNK_TOKENS,
        z_loss: float = 0.0,
    ) -> Tensor:
        """Logits [..., V]; with `labels` (shifted, see `chunked_cross_entropy`) the scalar loss."""
        hidden_states = self.tp.enter(input)
        if labels is None:
            return gather_vocabulary(super().forward(hidden_states), self.tp)
        return chunked_cross_entropy(
            hidden_states, self.weight, labels, num_items, chunk_tokens, self.tp, z_loss
        )


class LossEligibility:
    """Whether the loss may be computed in chunks: nothing acts on a head's logits but the loss."""

    def __init__(self) -> None:
        self._finder = DeviationFinder()

    def computes_loss(self, head: LlamaHead) -> bool:
        """False where hooks would see the loss in place of logits, or `forward` was replaced.

        torch.func cannot differentiate a function with a backward pass of its own; torch.compile
        fuses head and loss itself.
        """
        if torch.compiler.is_compiling() or is_transforming():
            return False

        def built() -> nn.Module:
            with torch.device("meta"):
                return LlamaHead(head.in_features, head.out_features * head.tp.size, head.tp)

        return self._finder.find([head], built, _in_head) is None


def _in_head(head: nn.Module, built: nn.Module) -> str | None:
    if has_active_hooks(head):
        return "it has hooks"
    if _only_moves_weights(head):
        built.forward = head.forward
    return deviation(head, built)


def _only_moves_weights(head: nn.Module) -> bool:
    """Whether accelerate has replaced `forward` by one that fetches the weights (`device_map`), and
    nothing else: inside of it the loss is computed as ever."""
    own = vars(head)
    hook, replaced = own.get("_hf_hook"), own.get("_old_forward")
    names = {
        f"{type(one).__module__}.{type(one).__name__}" for one in getattr(hook, "hooks", [hook])
    }
    is_own_forward = getattr(replaced, "__func__", None) is type(head).forward
    return names == {"accelerate.hooks.AlignDevicesHook"} and is_own_forward


def z_loss_of(logits_BSV: Tensor, targets: Targets) -> Tensor:
    """Mean of the squared log-sum-exp of whole logits, over the tokens that have a label.

    The sum is divided by `targets.num_items` where it is given.
    """
    labels_BS = targets.shifted().to(logits_BSV.device)
    lse_BS = logits_BSV.to(accumulation_dtype(logits_BSV.dtype)).logsumexp(-1)
    counted_BS = labels_BS != IGNORE_INDEX
    num_items = counted_BS.sum() if targets.num_items is None else targets.num_items
    return lse_BS.square().masked_fill(~counted_BS, 0.0).sum() / num_items


def chunked_cross_entropy(
    hidden_BSD: Tensor,
    head_weight_VD: Tensor,
    labels_BS: Tensor,
    num_items: Tensor | float | None,
    chunk_tokens: int,
    tp: TensorParallel = SINGLE_RANK,
    z_loss: float = 0.0,
) -> Tensor:
    """Sum of the tokens' cross-entropies divided once by `num_items`; a scalar, fp32 or wider.

    `z_loss` times the square of the log-sum-exp of its logits is added to each (PaLM, arXiv
    2204.02311, section 5).

    `labels_BS` are pre-shifted: each is the token to predict at its own position, or IGNORE_INDEX.
    `num_items` None means the number of labels that are not ignored. Where it is 0 the loss is nan
    and the gradients are zero, as in PyTorch where all labels are ignored.
    Under autocast the matmuls run in autocast's dtype, as `F.linear` would. ValueError for
    `chunk_tokens` below 1.
    """
    if chunk_tokens < 1:
        raise ValueError(f"loss_chunk_tokens ({chunk_tokens}) must be positive")
    assert labels_BS.shape == hidden_BSD.shape[:-1], (
        f"labels {tuple(labels_BS.shape)} must match hidden states {tuple(hidden_BSD.shape[:-1])}"
    )
    device = hidden_BSD.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        hidden_BSD, head_weight_VD = hidden_BSD.to(dtype), head_weight_VD.to(dtype)
    labels_T = labels_BS.reshape(-1).to(device)
    if num_items is None:
        num_items = (labels_T != IGNORE_INDEX).sum()
    # The value of a tensor is never read here, because that would synchronize with the GPU.
    items = torch.as_tensor(num_items, device=device, dtype=accumulation_dtype(hidden_BSD.dtype))
    items = items.reshape(())
    grad_enabled = torch.is_grad_enabled()
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_BSD.reshape(-1, hidden_BSD.shape[-1]),
        head_weight_VD,
        labels_T,
        items,
        chunk_tokens,
        tp,
        z_loss,
        grad_enabled and hidden_BSD.requires_grad,
        grad_enabled and head_weight_VD.requires_grad,
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        labels_T: Tensor,
        num_items: Tensor,
        chunk_tokens: int,
        tp: TensorParallel,
        z_loss: float,
        need_dhidden: bool,
        need_dweight: bool,
    ) -> Tensor:
        # Gradients of the sum are saved, not of the mean: they are of order one, which bf16 and
        # fp16 represent for every batch size.
        sum_dtype = accumulation_dtype(hidden_TD.dtype)
        loss_sum = torch.zeros((), dtype=sum_dtype, device=hidden_TD.device)
        dhidden_TD = torch.empty_like(hidden_TD) if need_dhidden else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=sum_dtype) if need_dweight else None
        # Rows behind these pad the vocabulary: they have no logit and no gradient.
        own = tp.sharding.vocabulary_range(tp.rank, weight_VD.shape[0])
        own_VD = weight_VD[: len(own)]
        for start in range(0, hidden_TD.shape[0], chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            hidden_CD, labels_C = hidden_TD[chunk], labels_T[chunk]
            logits_CV = F.linear(hidden_CD, own_VD).to(sum_dtype)
            counted_C = labels_C != IGNORE_INDEX
            row_C1 = (labels_C - own.start).unsqueeze(-1)
            is_own_C1 = counted_C.unsqueeze(-1)
            if tp.size > 1:
                is_own_C1 = (row_C1 >= 0) & (row_C1 < len(own))
            row_C1 = torch.where(is_own_C1, row_C1, 0)
            target_C1 = torch.where(is_own_C1, logits_CV.gather(-1, row_C1), 0.0)
            lse_C1, target_C1 = _over_vocabulary(
                torch.logsumexp(logits_CV, dim=-1, keepdim=True), target_C1, tp
            )
            losses_C = (lse_C1 - target_C1).squeeze(-1)
            if z_loss:
                losses_C += z_loss * lse_C1.squeeze(-1).square()
            loss_sum += losses_C.masked_fill(~counted_C, 0.0).sum()
            if not (need_dhidden or need_dweight):
                continue
            # d loss / d logits = softmax - one_hot(target), in place of the logits.
            dlogits_CV = logits_CV.sub_(lse_C1).exp_()
            if z_loss:  # of which each logit has a share of 2 z lse softmax
                dlogits_CV.mul_(1 + 2 * z_loss * lse_C1)
            dlogits_CV.scatter_add_(-1, row_C1, -is_own_C1.to(sum_dtype))
            dlogits_CV.masked_fill_(~counted_C.unsqueeze(-1), 0.0)
            dlogits_CV = dlogits_CV.to(hidden_TD.dtype)
            if dhidden_TD is not None:
                torch.mm(dlogits_CV, own_VD, out=dhidden_TD[chunk])
            if dweight_VD is not None:
                _add_matmul(dweight_VD[: len(own)], dlogits_CV.t(), hidden_CD)
        ctx.save_for_backward(
            dhidden_TD, None if dweight_VD is None else dweight_VD.to(weight_VD.dtype), num_items
        )
        return loss_sum / num_items

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        dhidden_TD, dweight_VD, num_items = ctx.saved_tensors
        # Without items the gradients of the sum are zero, and must not become nan.
        scale = dloss / torch.where(num_items == 0, torch.ones_like(num_items), num_items)
        return _scaled(dhidden_TD, scale), _scaled(dweight_VD, scale), *[None] * 7


def _over_vocabulary(
    lse_C1: Tensor, target_C1: Tensor, tp: TensorParallel
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and target logit over all ranks' vocabulary shards; one all-gather."""
    if tp.size == 1:
        return lse_C1, target_C1
    ranks_C2R = all_gather_no_grad(
        torch.cat((lse_C1, target_C1), dim=-1).unsqueeze(-1), -1, tp.group
    )
    lse_CR, target_CR = ranks_C2R.unbind(1)
    return lse_CR.logsumexp(-1, keepdim=True), target_CR.sum(-1, keepdim=True)


def _add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b`, where total may be of a wider dtype."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _scaled(grad: Tensor | None, scale: Tensor) -> Tensor | None:
    # Scaled in scale's dtype: rounding the scale to bf16 would bias all gradients by one factor.
    return None if grad is None else (grad.to(scale.dtype) * scale).to(grad.dtype)
