"""The first half of the fused layer, steps 1 to 6: norm, attention, output projection.

Shapes in names: see `layer/fused.py`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from llama_ds.layer.functional import (
    repeat_heads,
    repeat_heads_backward,
)
from llama_ds.layer.tensors import (
    Activations,
    Fixed,
    LayerWeights,
    arrived,
    present,
    weight_gradient,
)
from llama_ds.parallel.collectives import Pending
from llama_ds.parallel.tensor import SEQUENCE_DIM

Tables = tuple[Tensor, Tensor]
"""cos and sin [B, S, E] of the rotary embedding."""


def attention_half(
    a: Activations, w: LayerWeights, tables: Tables, fixed: Fixed, kept: tuple[str, ...]
) -> Tensor:
    """Fill in what `a` lacks up to `mid`, which is returned; `attn_in` only if among `kept`."""
    inputs = _start_inputs(a, w, fixed, fixed.num_chunks)
    a.o_in = _attend(a, inputs, w, tables, fixed).wait().flatten(2)
    if a.attn_in is None and "attn_in" in kept:
        a.attn_in = fixed.tp.joined([attn_in.wait() for attn_in in inputs])
    # 6. Output projection, summed over the ranks, onto the residual stream. The sum of a chunk runs
    # under the matmul of the next.
    if a.mid is None:
        o_in_chunks = fixed.tp.chunks(a.o_in, fixed.num_chunks)
        terms = [fixed.sum(F.linear(o_in, w.o), "mid") for o_in in o_in_chunks]
        a.mid = a.x + arrived(terms)
    return a.mid


def _start_inputs(a: Activations, w: LayerWeights, fixed: Fixed, num_chunks: int) -> list[Pending]:
    """Step 1, begun: `attn_in` in chunks that arrive one after another."""
    # 1. Norm; the ranks' parts of the sequence come together.
    if a.attn_in is not None:
        return [Pending(a.attn_in)]
    if a.attn_normed is None:
        a.attn_normed = fixed.elementwise.rms_norm(a.x, w.attn_norm, fixed.eps)
    if not fixed.tp.sequence_parallel:
        return [Pending(a.attn_normed)]
    chunks = a.attn_normed.chunk(num_chunks, SEQUENCE_DIM)
    return [fixed.gather(chunk, "attn_in") for chunk in chunks]


def _attend(
    a: Activations, inputs: list[Pending], w: LayerWeights, tables: Tables, fixed: Fixed
) -> Pending:
    """Fill in what `a` lacks from `q` up to `attn_out`; step 5, begun: `o_in`, [B, S, h, E]."""
    # 2. Queries, keys and values of this rank's heads; a chunk arrives under the matmuls of the one
    # before. 3. The exchange of the queries runs under what is left of keys and values.
    missing = [name for name in ("q", "k", "v") if getattr(a, name) is None]
    projected: dict[str, list[Tensor]] = {name: [] for name in missing}
    exchanged: dict[str, Pending] = {}
    for attn_in in inputs if missing else ():
        for name in missing:
            projected[name].append(F.linear(attn_in.wait(), getattr(w, name)))
            if attn_in is inputs[-1]:
                whole_BSh = fixed.tp.joined(projected.pop(name))
                exchanged[name] = fixed.to_heads(_heads(name, whole_BSh, tables, fixed), name)
    for name, pending in exchanged.items():
        setattr(a, name, pending.wait())
    # 4. Attention.
    if a.attn_out is None:
        a.attn_out, a.lse = fixed.options.attention.forward(
            present(a.q), present(a.k), present(a.v), fixed.options.documents
        )
    # 5. All heads of this rank's positions again.
    return fixed.to_sequence(a.attn_out, "o_in") if a.o_in is None else Pending(a.o_in)


def _heads(name: str, projected_BSh: Tensor, tables: Tables, fixed: Fixed) -> Tensor:
    """[B, S, heads, E] as the exchange takes queries ("q"), keys ("k") or values ("v")."""
    x_BSHE: Tensor = projected_BSh.unflatten(-1, (-1, fixed.head_dim))
    if name != "v":
        x_BSHE = fixed.elementwise.rotary(x_BSHE, *tables)
    if name != "q":
        # The exchange gives every rank as many heads.
        num_kv_heads = x_BSHE.shape[2]
        x_BSHE = repeat_heads(x_BSHE, num_kv_heads * fixed.sp.kv_repeats(num_kv_heads))
    return x_BSHE


def _heads_backward(
    name: str, dx_BSHE: Tensor, w: LayerWeights, tables: Tables, fixed: Fixed
) -> Tensor:
    """Gradient of `projected_BSh`."""
    if name != "q":
        dx_BSHE = repeat_heads_backward(dx_BSHE, w.k.shape[0] // fixed.head_dim)
    if name != "v":
        dx_BSHE = fixed.elementwise.rotary_backward(dx_BSHE, *tables)
    return dx_BSHE.flatten(2)


def attention_half_backward(
    dmid_BsD: Tensor,
    do_out: list[Pending],
    a: Activations,
    w: LayerWeights,
    tables: Tables,
    fixed: Fixed,
) -> tuple[Tensor, dict[str, Pending]]:
    """dx, and the gradients of attention's weights by name; `do_out` is `dmid`, being gathered."""
    # The input is gathered again while steps 6 to 3 are taken back, o_in exchanged under 6.
    (attn_in,) = _start_inputs(a, w, fixed, num_chunks=1)
    o_in = _attend(a, [attn_in], w, tables, fixed)
    q, k, v, attn_out, lse = map(present, (a.q, a.k, a.v, a.attn_out, a.lse))
    # 6. The residual stream passes dmid on; the projection sees the gradient of every position.
    do_out_BSD = fixed.tp.joined([chunk.wait() for chunk in do_out])
    do_in_BSd = do_out_BSD @ w.o
    # 5. The exchange runs under the gradient of o.
    dattn_out = fixed.to_heads(do_in_BSd.unflatten(2, (-1, fixed.head_dim)), "dattn_out")
    do = weight_gradient("o", do_out_BSD, o_in.wait().flatten(2))
    # 4.
    dq_BTgE, dk_BTjE, dv_BTjE = fixed.options.attention.backward(
        dattn_out.wait(), q, k, v, attn_out, lse, fixed.options.documents
    )
    # 3. and 2. The exchanges of keys and values run under the matmul of queries.
    dq = fixed.to_sequence(dq_BTgE, "dq")
    dk = fixed.to_sequence(dk_BTjE, "dk")
    dv = fixed.to_sequence(dv_BTjE, "dv")
    dq_BSh = _heads_backward("q", dq.wait(), w, tables, fixed)
    dattn_in_BSD = dq_BSh @ w.q
    dk_BSk = _heads_backward("k", dk.wait(), w, tables, fixed)
    dattn_in_BSD += dk_BSk @ w.k
    dv_BSk = _heads_backward("v", dv.wait(), w, tables, fixed)
    dattn_in_BSD += dv_BSk @ w.v
    # 1. The sum runs under the gradients of k, v and q, and theirs over ranks that hold the same
    # heads under what follows.
    dnormed = fixed.sum(dattn_in_BSD, "dattn_in")
    attn_in_BSD = attn_in.wait()
    dweights = {
        "k": fixed.sum_key_value(weight_gradient("k", dk_BSk, attn_in_BSD), "weight k"),
        "v": fixed.sum_key_value(weight_gradient("v", dv_BSk, attn_in_BSD), "weight v"),
        "q": Pending(weight_gradient("q", dq_BSh, attn_in_BSD)),
        "o": Pending(do),
    }
    dx_BsD, dnorm = fixed.elementwise.rms_norm_backward(dnormed.wait(), a.x, w.attn_norm, fixed.eps)
    dweights["attn_norm"] = fixed.sum_replicated(dnorm, "weight attn_norm")
    dx_BsD += dmid_BsD
    return dx_BsD, dweights
