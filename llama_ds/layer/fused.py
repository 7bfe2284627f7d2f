"""The decoder layer as one autograd function with a hand-written backward pass.

`docs/layer.md` draws its ten steps: attention is 1 to 6, the MLP 7 to 10. Every backward function
stands under its forward. `_attend`, `_gate_and_up` and the `_start_..._in` functions compute
whatever `Activations` lacks: everything in the forward pass, and in the backward pass what was not
saved. So recomputation runs the forward's own code.

Every collective is started before computation that does not depend on it, and waited for after it.
In the backward pass that computation is the gradient of a weight, which nothing waits for.

Shapes in names: B sequences of the micro-batch, S sequence length, D hidden, H heads, K kv heads,
E head dim, F intermediate. Lower case is a rank's shard: s of the sequence outside the blocks
(S / tp with Megatron's sequence parallelism), h, k, f of what tensor parallelism shards. Under
Ulysses S is itself a shard, and attention sees T = S * sp positions of g = h / sp heads and j kv
heads. Within a tile of the MLP, S and s are lengths of the tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_ds.layer.context import LayerContext
from llama_ds.layer.functional import (
    accumulation_dtype,
    first_derivative_only,
    repeat_heads,
    repeat_heads_backward,
)
from llama_ds.layer.tensors import (
    Activations,
    LayerWeights,
    add_matmul_,
    not_none,
    pipelined,
    wait_and_concat,
    weight_gradient,
)
from llama_ds.parallel.collectives import Pending
from llama_ds.parallel.tensor import SEQUENCE_DIM

Tables = tuple[Tensor, Tensor]
"""cos and sin [B, S, E] of the rotary embedding."""


class FusedLayer(torch.autograd.Function):
    """`LlamaDecoderLayer` as a function of its input and weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BsD: Tensor,
        cos_BSE: Tensor,
        sin_BSE: Tensor,
        context: LayerContext,
        *weights: Tensor,
    ) -> Tensor:
        w, saved = LayerWeights(*weights), context.options.save_policy.saved()
        needed = saved + context.offloaded
        a = Activations(x=x_BsD)
        a.mid = attention_forward(a, w, (cos_BSE, sin_BSE), context, needed)
        a.keep_only(("x", "mid", *needed))
        out_BsD = mlp_forward(a, w, context, needed)

        ctx.context, ctx.saved, ctx.host = context, saved, None
        ctx.save_for_backward(cos_BSE, sin_BSE, *weights, *(getattr(a, name) for name in saved))
        if context.forward.offload is not None and any(ctx.needs_input_grad):
            tensors = {name: getattr(a, name) for name in context.offloaded}
            ctx.host = context.forward.offload.begin(tensors)
        return out_BsD

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout_BsD: Tensor) -> tuple[Tensor | None, ...]:
        context: LayerContext = ctx.context
        num_weights = len(LayerWeights._fields)
        cos_BSE, sin_BSE, *tensors = ctx.saved_tensors
        tables = (cos_BSE, sin_BSE)
        w = LayerWeights(*tensors[:num_weights])
        from_host = {} if ctx.host is None else ctx.host.take()
        a = Activations(**dict(zip(ctx.saved, tensors[num_weights:], strict=True)), **from_host)
        if a.mid is None:
            attention_forward(a, w, tables, context, needed=("attn_in",))
        dmid_BsD, do_out, mlp = mlp_backward(dout_BsD, a, w, context)
        dx_BsD, attention = attention_backward(dmid_BsD, do_out, a, w, tables, context)
        # The all-reduces of weight gradients have had all this time.
        dweights = {name: pending.wait() for name, pending in {**attention, **mlp}.items()}
        return dx_BsD, None, None, None, *LayerWeights(**dweights)


# -- steps 1 to 6: norm, attention, output projection ---------------------------------------------


def attention_forward(
    a: Activations, w: LayerWeights, tables: Tables, context: LayerContext, needed: tuple[str, ...]
) -> Tensor:
    """Compute what `a` lacks up to `mid`, which is returned; `attn_in` only if it is `needed`."""
    inputs = _start_attn_in(a, w, context, context.num_chunks)
    a.o_in = _attend(a, inputs, w, tables, context).wait().flatten(2)
    if a.attn_in is None and "attn_in" in needed:
        a.attn_in = context.tp.concat_chunks([attn_in.wait() for attn_in in inputs])
    # 6. Output projection, reduced over tp, added to the residual stream. The reduction of a chunk
    # overlaps with the matmul of the next.
    if a.mid is None:
        o_in_chunks = context.tp.chunks(a.o_in, context.num_chunks)
        partial_sums = [context.reduce(F.linear(o_in, w.o), "mid") for o_in in o_in_chunks]
        a.mid = a.x + wait_and_concat(partial_sums)
    return a.mid


def attention_backward(
    dmid_BsD: Tensor,
    do_out: list[Pending],
    a: Activations,
    w: LayerWeights,
    tables: Tables,
    context: LayerContext,
) -> tuple[Tensor, dict[str, Pending]]:
    """dx, and the gradients of attention's weights by name; `do_out`: all-gathers of `dmid`."""
    # The all-gather of the input overlaps with steps 6 to 3, the all-to-all of o_in with 6.
    (attn_in,) = _start_attn_in(a, w, context, num_chunks=1)
    o_in = _attend(a, [attn_in], w, tables, context)
    q, k, v, attn_out, lse = map(not_none, (a.q, a.k, a.v, a.attn_out, a.lse))
    # 6. The residual stream passes dmid on; the projection takes the gradient of every position.
    do_out_BSD = context.tp.concat_chunks([chunk.wait() for chunk in do_out])
    do_in_BSd = do_out_BSD @ w.o
    # 5. The all-to-all overlaps with the gradient of o.
    dattn_out = context.to_heads(do_in_BSd.unflatten(2, (-1, context.head_dim)), "dattn_out")
    do = weight_gradient("o", do_out_BSD, o_in.wait().flatten(2))
    # 4.
    dq_BTgE, dk_BTjE, dv_BTjE = context.forward.attention.backward(
        dattn_out.wait(), q, k, v, attn_out, lse, context.forward.documents
    )
    # 3. and 2. The all-to-alls of keys and values overlap with the matmul of queries.
    dq = context.to_sequence(dq_BTgE, "dq")
    dk = context.to_sequence(dk_BTjE, "dk")
    dv = context.to_sequence(dv_BTjE, "dv")
    dq_BSh = _split_heads_backward("q", dq.wait(), w, tables, context)
    dattn_in_BSD = dq_BSh @ w.q
    dk_BSk = _split_heads_backward("k", dk.wait(), w, tables, context)
    add_matmul_(dattn_in_BSD, dk_BSk, w.k)
    dv_BSk = _split_heads_backward("v", dv.wait(), w, tables, context)
    add_matmul_(dattn_in_BSD, dv_BSk, w.v)
    # 1. The reduction overlaps with the gradients of k, v and q, and the all-reduces of replicated
    # kv heads' gradients with what follows.
    dnormed = context.reduce(dattn_in_BSD, "dattn_in")
    attn_in_BSD = attn_in.wait()
    dweights = {
        "k": context.reduce_key_value(weight_gradient("k", dk_BSk, attn_in_BSD), "weight k"),
        "v": context.reduce_key_value(weight_gradient("v", dv_BSk, attn_in_BSD), "weight v"),
        "q": Pending(weight_gradient("q", dq_BSh, attn_in_BSD)),
        "o": Pending(do),
    }
    dx_BsD, dnorm = context.elementwise.rms_norm_backward(
        dnormed.wait(), a.x, w.attn_norm, context.eps
    )
    dweights["attn_norm"] = context.reduce_replicated(dnorm, "weight attn_norm")
    dx_BsD += dmid_BsD
    return dx_BsD, dweights


def _start_attn_in(
    a: Activations, w: LayerWeights, context: LayerContext, num_chunks: int
) -> list[Pending]:
    """Step 1, started: `attn_in` in chunks that arrive one after another."""
    # 1. Norm; all-gather of the sequence shards.
    if a.attn_in is not None:
        return [Pending(a.attn_in)]
    if a.attn_normed is None:
        a.attn_normed = context.elementwise.rms_norm(a.x, w.attn_norm, context.eps)
    if not context.tp.sequence_parallel:
        return [Pending(a.attn_normed)]
    chunks = a.attn_normed.chunk(num_chunks, SEQUENCE_DIM)
    return [context.all_gather(chunk, "attn_in") for chunk in chunks]


def _attend(
    a: Activations, inputs: list[Pending], w: LayerWeights, tables: Tables, context: LayerContext
) -> Pending:
    """Compute what `a` lacks from `q` up to `attn_out`; step 5, started: `o_in`, [B, S, h, E]."""
    # 2. Queries, keys and values of this rank's heads; the all-gather of a chunk overlaps with the
    # matmuls of the one before. 3. The all-to-all of queries overlaps with the rest of k and v.
    missing = [name for name in ("q", "k", "v") if getattr(a, name) is None]
    projected: dict[str, list[Tensor]] = {name: [] for name in missing}
    exchanged: dict[str, Pending] = {}
    for attn_in in inputs if missing else ():
        for name in missing:
            projected[name].append(F.linear(attn_in.wait(), getattr(w, name)))
            if attn_in is inputs[-1]:
                whole_BSh = context.tp.concat_chunks(projected.pop(name))
                heads = _split_heads(name, whole_BSh, tables, context)
                exchanged[name] = context.to_heads(heads, name)
    for name, pending in exchanged.items():
        setattr(a, name, pending.wait())
    # 4. Attention.
    if a.attn_out is None:
        a.attn_out, a.lse = context.forward.attention.forward(
            not_none(a.q), not_none(a.k), not_none(a.v), context.forward.documents
        )
    # 5. All-to-all back to all heads of this rank's positions.
    return context.to_sequence(a.attn_out, "o_in") if a.o_in is None else Pending(a.o_in)


def _split_heads(name: str, projected_BSh: Tensor, tables: Tables, context: LayerContext) -> Tensor:
    """[B, S, heads, E] of "q", "k" or "v": q, k rotated, kv heads repeated for the all-to-all."""
    x_BSHE: Tensor = projected_BSh.unflatten(-1, (-1, context.head_dim))
    if name != "v":
        x_BSHE = context.elementwise.rotary(x_BSHE, *tables)
    if name != "q":
        # The all-to-all gives every rank equally many heads.
        num_kv_heads = x_BSHE.shape[2]
        x_BSHE = repeat_heads(x_BSHE, num_kv_heads * context.sp.kv_repeats(num_kv_heads))
    return x_BSHE


def _split_heads_backward(
    name: str, dx_BSHE: Tensor, w: LayerWeights, tables: Tables, context: LayerContext
) -> Tensor:
    """Gradient of `projected_BSh`."""
    if name != "q":
        dx_BSHE = repeat_heads_backward(dx_BSHE, w.k.shape[0] // context.head_dim)
    if name != "v":
        dx_BSHE = context.elementwise.rotary_backward(dx_BSHE, *tables)
    return dx_BSHE.flatten(2)


# -- steps 7 to 10: norm, MLP ---------------------------------------------------------------------
#
# Every position is independent of the others here, so the MLP can run tile by tile along the
# sequence, with the wide activations, [B, S, f], of one tile at a time. In the forward pass the
# same loop overlaps communication: a tile is all-gathered and reduced during another's matmuls.

_SEQUENCE_SHARDED = ("mid", "mlp_normed")
_GATHERED = ("mlp_in", "gate", "up", "product")


def mlp_forward(
    a: Activations, w: LayerWeights, context: LayerContext, needed: tuple[str, ...]
) -> Tensor:
    """`out` from `a.mid`; of the activations between, store those that are `needed`."""
    mid_BsD = not_none(a.mid)
    # Tiles that save memory and chunks that overlap are the same ranges: the finer division serves.
    tiles = _split_tiles(a, max(context.options.mlp_tiles, context.num_chunks), context)
    started = ((tile, _start_mlp_in(tile, w, context)) for tile in tiles)
    partial_sums = []
    for tile, mlp_in in pipelined(started):
        partial_sums.append(_tile_forward(tile, mlp_in, w, context))
        _free(tile, needed)
    for name in _SEQUENCE_SHARDED[1:] + _GATHERED:
        if name in needed:
            setattr(a, name, _concat_tiles(name, [getattr(tile, name) for tile in tiles], context))
    # 10. Added to the residual stream.
    return mid_BsD + wait_and_concat(partial_sums)


def mlp_backward(
    dout_BsD: Tensor, a: Activations, w: LayerWeights, context: LayerContext
) -> tuple[Tensor, list[Pending], dict[str, Pending]]:
    """dmid; its all-gathers, tile by tile; the gradients of the MLP's weights by name.

    It frees the MLP's activations in `a`.
    """
    tiles = _split_tiles(a, context.options.mlp_tiles, context)
    # The gradient of the output is all-gathered, and behind it the input is again.
    started = (
        (tile, dout, context.all_gather(dout, "ddown_out"), _start_mlp_in(tile, w, context))
        for tile, dout in zip(tiles, dout_BsD.chunk(len(tiles), SEQUENCE_DIM), strict=True)
    )
    dmids: list[Tensor] = []
    do_outs: list[Pending] = []
    # Over tiles the weight gradients are long sums.
    dtype = dout_BsD.dtype if len(tiles) == 1 else accumulation_dtype(dout_BsD.dtype)
    sums: dict[str, Tensor] = {}
    for tile, dout, ddown_out, mlp_in in pipelined(started):
        dmid, do_out, dweights = _tile_backward(tile, dout, ddown_out, mlp_in, w, context)
        dmids.append(dmid)
        do_outs.append(do_out)
        for name, dweight in dweights.items():
            if name in sums:
                sums[name] += dweight
            else:
                sums[name] = dweight.to(dtype)
        _free(tile, needed=())
    pending = {name: Pending(total.to(dout_BsD.dtype)) for name, total in sums.items()}
    pending["mlp_norm"] = context.reduce_replicated(pending["mlp_norm"].wait(), "weight mlp_norm")
    return torch.cat(dmids, SEQUENCE_DIM) if len(dmids) > 1 else dmids[0], do_outs, pending


def _tile_forward(
    tile: Activations, mlp_in: Pending, w: LayerWeights, context: LayerContext
) -> Pending:
    """Steps 8 to 10 of a tile, started: its range of `out`, without the residual stream."""
    gate_BSf, up_BSf = _gate_and_up(tile, mlp_in, w)
    # 9. SwiGLU.
    tile.product = context.elementwise.swiglu(gate_BSf, up_BSf)
    # 10. Down projection, reduced over tp.
    out = context.reduce(F.linear(tile.product, w.down), "out")
    tile.mlp_in = mlp_in.wait()
    return out


def _tile_backward(
    tile: Activations,
    dout_BsD: Tensor,
    ddown_out: Pending,
    mlp_in: Pending,
    w: LayerWeights,
    context: LayerContext,
) -> tuple[Tensor, Pending, dict[str, Tensor]]:
    """dmid of a tile; its all-gather; the tile's terms of the weight gradients."""
    gate_BSf, up_BSf = _gate_and_up(tile, mlp_in, w)
    # 10. and 9.
    dproduct_BSf = ddown_out.wait() @ w.down
    elementwise = context.elementwise
    if tile.product is None:
        dgate_BSf, dup_BSf, product_BSf = elementwise.swiglu_backward_with_product(
            dproduct_BSf, gate_BSf, up_BSf
        )
    else:
        product_BSf = tile.product
        dgate_BSf, dup_BSf = elementwise.swiglu_backward(dproduct_BSf, gate_BSf, up_BSf)
    # 8.
    dmlp_in_BSD = dgate_BSf @ w.gate
    add_matmul_(dmlp_in_BSD, dup_BSf, w.up)
    # 7. The reduction overlaps with the gradients of gate and up.
    dnormed = context.reduce(dmlp_in_BSD, "dmlp_in")
    dgate = weight_gradient("gate", dgate_BSf, mlp_in.wait())
    dup = weight_gradient("up", dup_BSf, mlp_in.wait())
    dmid_BsD, dnorm = elementwise.rms_norm_backward(
        dnormed.wait(), not_none(tile.mid), w.mlp_norm, context.eps
    )
    # The residual stream passes dout on.
    dmid_BsD += dout_BsD
    # 6. The all-gather that attention's backward starts with overlaps with the gradient of down.
    do_out = context.all_gather(dmid_BsD, "do_out")
    ddown = weight_gradient("down", ddown_out.wait(), product_BSf)
    return dmid_BsD, do_out, {"gate": dgate, "up": dup, "down": ddown, "mlp_norm": dnorm}


def _start_mlp_in(tile: Activations, w: LayerWeights, context: LayerContext) -> Pending:
    """Step 7, started: `mlp_in`."""
    # 7. Norm; all-gather of the sequence shards.
    if tile.mlp_in is not None:
        return Pending(tile.mlp_in)
    if tile.mlp_normed is None:
        tile.mlp_normed = context.elementwise.rms_norm(not_none(tile.mid), w.mlp_norm, context.eps)
    return context.all_gather(tile.mlp_normed, "mlp_in")


def _gate_and_up(tile: Activations, mlp_in: Pending, w: LayerWeights) -> tuple[Tensor, Tensor]:
    """`gate` and `up` [B, S, f], computed where `tile` lacks them.

    It waits for `mlp_in` only where a matmul needs it.
    """
    # 8. The two up projections.
    if tile.gate is None:
        tile.gate = F.linear(mlp_in.wait(), w.gate)
    if tile.up is None:
        tile.up = F.linear(mlp_in.wait(), w.up)
    return tile.gate, tile.up


def _split_tiles(a: Activations, count: int, context: LayerContext) -> list[Activations]:
    """The MLP's activations of `a` in `count` ranges of every rank's sequence shard."""
    if count == 1:
        return [a]
    tiles_by_name: dict[str, Iterator[Tensor]] = {}
    for name in _SEQUENCE_SHARDED + _GATHERED:
        tensor: Tensor | None = getattr(a, name)
        if tensor is not None:
            is_gathered = name in _GATHERED
            tiles = (
                context.tp.chunks(tensor, count)
                if is_gathered
                else tensor.chunk(count, SEQUENCE_DIM)
            )
            tiles_by_name[name] = iter(tiles)
    num_tiles = len(not_none(a.mid).chunk(count, SEQUENCE_DIM))
    return [
        Activations(x=a.x, **{name: next(tiles) for name, tiles in tiles_by_name.items()})
        for _ in range(num_tiles)
    ]


def _concat_tiles(name: str, tiles: list[Tensor], context: LayerContext) -> Tensor:
    """The inverse of `_split_tiles` for the activation `name`."""
    if name in _GATHERED or len(tiles) == 1:
        return context.tp.concat_chunks(tiles)
    return torch.cat(tiles, SEQUENCE_DIM)


def _free(tile: Activations, needed: tuple[str, ...]) -> None:
    for name in _SEQUENCE_SHARDED + _GATHERED:
        if name not in needed:
            setattr(tile, name, None)
