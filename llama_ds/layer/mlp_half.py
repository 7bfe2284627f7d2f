"""The second half of the fused layer, steps 7 to 10: norm and MLP.

Every position is independent of the others here, so the sequence may be worked on tile by tile, and
the wide tensors, [B, S, f], exist for one tile at a time. In the forward pass the same loop hides
what is sent: a tile is gathered and summed while another is multiplied.

Shapes in names: see `layer/fused.py`; in a tile, S and s are lengths of the tile.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_ds.layer.functional import accumulation_dtype
from llama_ds.layer.tensors import (
    Activations,
    Fixed,
    LayerWeights,
    arrived,
    one_ahead,
    present,
    weight_gradient,
)
from llama_ds.parallel.collectives import Pending
from llama_ds.parallel.tensor import SEQUENCE_DIM

_OUTSIDE = ("mid", "mlp_normed")
_INSIDE = ("mlp_in", "gate", "up", "product")


def mlp_half(a: Activations, w: LayerWeights, fixed: Fixed, kept: tuple[str, ...]) -> Tensor:
    """`out` from `a.mid`; of the tensors between, fill in those that are `kept`."""
    mid_BsD = present(a.mid)
    # Tiles that save memory and chunks that hide what is sent are the same ranges: the finer serve.
    tiles = _tiles(a, max(fixed.options.mlp_tiles, fixed.num_chunks), fixed)
    terms = []
    for tile, mlp_in in one_ahead((tile, _start_input(tile, w, fixed)) for tile in tiles):
        _widen(tile, mlp_in, w, fixed)
        # 10. Down projection, summed over the ranks.
        terms.append(fixed.sum(F.linear(present(tile.product), w.down), "out"))
        tile.mlp_in = mlp_in.wait()
        _drop(tile, kept)
    for name in _OUTSIDE[1:] + _INSIDE:
        if name in kept:
            setattr(a, name, _joined(name, [getattr(tile, name) for tile in tiles], fixed))
    # 10. Onto the residual stream.
    return mid_BsD + arrived(terms)


def _start_input(tile: Activations, w: LayerWeights, fixed: Fixed) -> Pending:
    """Step 7, begun: `mlp_in`."""
    # 7. Norm; the ranks' parts of the sequence come together.
    if tile.mlp_in is not None:
        return Pending(tile.mlp_in)
    if tile.mlp_normed is None:
        tile.mlp_normed = fixed.elementwise.rms_norm(present(tile.mid), w.mlp_norm, fixed.eps)
    return fixed.gather(tile.mlp_normed, "mlp_in")


def _widen(tile: Activations, mlp_in: Pending, w: LayerWeights, fixed: Fixed) -> None:
    """Fill in what `tile` lacks from `gate` to `product`, waiting for `mlp_in` only if needed."""
    # 8. The two wide projections.
    if tile.gate is None:
        tile.gate = F.linear(mlp_in.wait(), w.gate)
    if tile.up is None:
        tile.up = F.linear(mlp_in.wait(), w.up)
    # 9. SwiGLU.
    if tile.product is None:
        tile.product = fixed.elementwise.swiglu(tile.gate, tile.up)


def mlp_half_backward(
    dout_BsD: Tensor, a: Activations, w: LayerWeights, fixed: Fixed
) -> tuple[Tensor, list[Pending], dict[str, Pending]]:
    """dmid; the same being gathered, tile by tile; the gradients of the MLP's weights by name.

    It drops the MLP's tensors from `a`.
    """
    tiles = _tiles(a, fixed.options.mlp_tiles, fixed)
    # The gradient that comes from above sees every position; the input is gathered again behind it.
    begun = (
        (tile, dout, fixed.gather(dout, "ddown_out"), _start_input(tile, w, fixed))
        for tile, dout in zip(tiles, dout_BsD.chunk(len(tiles), SEQUENCE_DIM), strict=True)
    )
    dmids: list[Tensor] = []
    gathering: list[Pending] = []
    # Over tiles the weights' gradients are long sums.
    dtype = dout_BsD.dtype if len(tiles) == 1 else accumulation_dtype(dout_BsD.dtype)
    sums: dict[str, Tensor] = {}
    for tile, dout, ddown_out, mlp_in in one_ahead(begun):
        dmid, do_out, dweights = _tile_backward(tile, dout, ddown_out, mlp_in, w, fixed)
        dmids.append(dmid)
        gathering.append(do_out)
        for name, dweight in dweights.items():
            if name in sums:
                sums[name] += dweight
            else:
                sums[name] = dweight.to(dtype)
        _drop(tile, kept=())
    pending = {name: Pending(total.to(dout_BsD.dtype)) for name, total in sums.items()}
    pending["mlp_norm"] = fixed.sum_replicated(pending["mlp_norm"].wait(), "weight mlp_norm")
    return torch.cat(dmids, SEQUENCE_DIM) if len(dmids) > 1 else dmids[0], gathering, pending


def _tile_backward(
    tile: Activations,
    dout_BsD: Tensor,
    ddown_out: Pending,
    mlp_in: Pending,
    w: LayerWeights,
    fixed: Fixed,
) -> tuple[Tensor, Pending, dict[str, Tensor]]:
    """dmid of a tile; the same being gathered; the tile's terms of the weights' gradients."""
    _widen(tile, mlp_in, w, fixed)
    mid_BsD, gate_BSf, up_BSf = present(tile.mid), present(tile.gate), present(tile.up)
    # 10. and 9.
    dgate_BSf, dup_BSf = fixed.elementwise.swiglu_backward(
        ddown_out.wait() @ w.down, gate_BSf, up_BSf
    )
    # 8.
    dmlp_in_BSD = dgate_BSf @ w.gate
    dmlp_in_BSD += dup_BSf @ w.up
    # 7. The sum runs under the gradients of gate and up.
    dnormed = fixed.sum(dmlp_in_BSD, "dmlp_in")
    dgate = weight_gradient("gate", dgate_BSf, mlp_in.wait())
    dup = weight_gradient("up", dup_BSf, mlp_in.wait())
    dmid_BsD, dnorm = fixed.elementwise.rms_norm_backward(
        dnormed.wait(), mid_BsD, w.mlp_norm, fixed.eps
    )
    # The residual stream passes dout on.
    dmid_BsD += dout_BsD
    # 6. What attention's backward pass begins with comes under the gradient of down.
    do_out = fixed.gather(dmid_BsD, "do_out")
    ddown = weight_gradient("down", ddown_out.wait(), present(tile.product))
    return dmid_BsD, do_out, {"gate": dgate, "up": dup, "down": ddown, "mlp_norm": dnorm}


def _tiles(a: Activations, count: int, fixed: Fixed) -> list[Activations]:
    """The MLP's tensors of `a` in `count` ranges of every rank's part of the sequence."""
    if count == 1:
        return [a]
    parts: dict[str, Iterator[Tensor]] = {}
    for name in _OUTSIDE + _INSIDE:
        tensor: Tensor | None = getattr(a, name)
        if tensor is not None:
            inside = name in _INSIDE
            ranges = fixed.tp.chunks(tensor, count) if inside else tensor.chunk(count, SEQUENCE_DIM)
            parts[name] = iter(ranges)
    num_tiles = len(present(a.mid).chunk(count, SEQUENCE_DIM))
    return [
        Activations(x=a.x, **{name: next(ranges) for name, ranges in parts.items()})
        for _ in range(num_tiles)
    ]


def _joined(name: str, parts: list[Tensor], fixed: Fixed) -> Tensor:
    """The inverse of `_tiles` for the tensor `name`."""
    if name in _INSIDE or len(parts) == 1:
        return fixed.tp.joined(parts)
    return torch.cat(parts, SEQUENCE_DIM)


def _drop(tile: Activations, kept: tuple[str, ...]) -> None:
    for name in _OUTSIDE + _INSIDE:
        if name not in kept:
            setattr(tile, name, None)
