"""Geometry of the report's flow diagram (Sankey): sources as bands through the pipeline's stages.

A source has a lane. The thickness of its band is what is left after a stage; what a stage drops
branches off below and fades. This computes SVG path data only; the page's template draws
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.report.account import BuildAccount, SourceAccount, StageAccount
from data_pipeline.report.formatting import count, percent, size

NODE = 5.0
"""Thickness of the bar at a stage."""
MIN_BAND = 1.5
"""Minimum thickness, so that a source that is small beside the others remains visible."""


@dataclass(frozen=True)
class Layout:
    """Dimensions of the diagram, in pixels; `along` is the direction from stage to stage."""

    down: bool
    """Vertical layout, for narrow screens; else horizontal."""
    along: float
    """Length from the first stage to the last."""
    across: float
    """Width of all lanes together."""
    before: float
    """Margin before the first stage, for names ..."""
    after: float
    """... and after the last."""
    side: float
    """Margin beside the lanes, for the stages' names."""
    gap: float
    """Between lanes."""
    min_lane: float
    rest: float
    """Margin beyond the last lane."""


WIDE = Layout(
    False, along=640, across=420, before=170, after=140, side=50, gap=14, min_lane=30, rest=0
)
NARROW = Layout(
    True, along=500, across=204, before=112, after=92, side=74, gap=6, min_lane=14, rest=36
)


@dataclass(frozen=True)
class Band:
    path: str
    kind: str
    """"kept", "lost" or "node"."""
    tip: str
    """Tooltip text."""


@dataclass(frozen=True)
class Lane:
    source: str
    number: int
    bands: tuple[Band, ...]
    at: float
    """Center of its band, across, at the first stage ..."""
    end: float
    """... and at the last."""
    tip: str
    before: str
    """Label of its input ..."""
    after: tuple[str, ...]
    """... and of its output."""


@dataclass(frozen=True)
class Head:
    """Label of a stage, with the total that is left after it."""

    name: str
    left: str
    at: float


@dataclass(frozen=True)
class Flow:
    measure: str
    """"documents" or "text"."""
    scale: str
    """"corpus": all sources on one scale; "source": each relative to its own total."""
    layout: Layout
    width: float
    height: float
    heads: tuple[Head, ...]
    lanes: tuple[Lane, ...]


def flows(account: BuildAccount) -> list[Flow]:
    """The diagram for both measures, both scales, and wide and narrow screens."""
    return [
        _flow(account, measure, scale, layout)
        for measure in ("text", "documents")
        for scale in ("corpus", "source")
        for layout in (WIDE, NARROW)
    ]


def _flow(account: BuildAccount, measure: str, scale: str, layout: Layout) -> Flow:
    num_stages, num_lanes = len(account.stages), len(account.sources)
    step = layout.along / max(1, num_stages - 1)
    places = [layout.before + step * index for index in range(num_stages)]
    largest = [max(_value(stage, measure) for stage in s.stages) for s in account.sources]
    min_lane = min(layout.min_lane, 0.8 * layout.across / max(1, num_lanes))
    lanes, start = [], layout.side
    for number, (source, most) in enumerate(zip(account.sources, largest, strict=True)):
        if scale == "corpus":
            factor = _common_factor(largest, min_lane, layout.across)
            lane = max(min_lane, most * factor)
        else:
            lane = layout.across / num_lanes
            factor = (lane - layout.gap / 2) / max(1, most)
        lanes.append(_lane(source, number, measure, factor, (places, start, lane), layout.down))
        start += lane + layout.gap
    totals = [
        sum(_value(source.stages[index], measure) for source in account.sources)
        for index in range(num_stages)
    ]
    heads = tuple(
        Head(name, _words(total, measure), place)
        for name, total, place in zip(account.stages, totals, places, strict=True)
    )
    length, breadth = (
        layout.before + layout.along + layout.after,
        start - layout.gap + 10 + layout.rest,
    )
    width, height = (breadth, length) if layout.down else (length, breadth)
    return Flow(measure, scale, layout, width, height, heads, tuple(lanes))


def _common_factor(values: Sequence[int], min_lane: float, across: float) -> float:
    """The scale at which lanes, none thinner than `min_lane`, fill the width `across`."""
    wide = sorted(values, reverse=True)
    while wide and wide[-1] > 0:
        free = across - min_lane * (len(values) - len(wide))
        factor = free / sum(wide)
        if wide[-1] * factor >= min_lane:
            return factor
        wide.pop()
    return min_lane / max(1, *values) if values else 0.0


def _lane(
    source: SourceAccount,
    number: int,
    measure: str,
    factor: float,
    place: tuple[Sequence[float], float, float],
    down: bool,
) -> Lane:
    places, start, breadth = place
    values = [_value(stage, measure) for stage in source.stages]
    thick = [max(MIN_BAND, value * factor) if value else 0.0 for value in values]
    # A thin band stands beside its label, which is at the center of the lane.
    top = start + max(0.0, (breadth - max(thick)) / 2)
    bands = []
    for index, (stage, at) in enumerate(zip(source.stages, places, strict=True)):
        if index + 1 < len(places):
            following, end = source.stages[index + 1], places[index + 1]
            goes_on = min(thick[index], thick[index + 1])
            if thick[index + 1]:
                edges = (top, top + goes_on, top, top + thick[index + 1])
                path = _ribbon(at + NODE, end, edges, down)
                bands.append(Band(path, "kept", _stage_tip(source, following)))
            if thick[index] - goes_on > 0.05:
                # Bend the dropped part away, but not into the lane below.
                bend = 7.0
                edges = (top + goes_on, top + thick[index], top + goes_on + bend, 0.0)
                edges = (*edges[:3], top + thick[index] + bend)
                path = _ribbon(at + NODE, at + NODE + (end - at) * 0.72, edges, down)
                bands.append(Band(path, "lost", _loss_tip(source, stage, following)))
        if thick[index]:
            edges = (top, top + thick[index]) * 2
            path = _ribbon(at, at + NODE, edges, down)
            bands.append(Band(path, "node", _stage_tip(source, stage)))
    return Lane(
        source.name,
        number,
        tuple(bands),
        at=top + thick[0] / 2,
        end=top + thick[-1] / 2,
        tip=_source_tip(source),
        before=f"{count(source.num_input_files)} files, {size(source.num_input_bytes)}",
        after=_outcome(source, measure),
    )


def _ribbon(start: float, end: float, edges: tuple[float, float, float, float], down: bool) -> str:
    """Path of a band from `start` to `end` along; edges: upper, lower at the start and the end."""
    middle = (start + end) / 2
    upper, lower, upper_end, lower_end = edges

    def point(along: float, across: float) -> str:
        x, y = (across, along) if down else (along, across)
        return f"{x:.1f} {y:.1f}"

    return (
        f"M{point(start, upper)}"
        f"C{point(middle, upper)} {point(middle, upper_end)} {point(end, upper_end)}"
        f"L{point(end, lower_end)}"
        f"C{point(middle, lower_end)} {point(middle, lower)} {point(start, lower)}Z"
    )


def _value(stage: StageAccount, measure: str) -> int:
    return stage.documents if measure == "documents" else stage.text_bytes


def _words(value: float, measure: str) -> str:
    return count(value) if measure == "documents" else size(value)


def _outcome(source: SourceAccount, measure: str) -> tuple[str, ...]:
    kept, read = _value(source.stages[-1], measure), _value(source.stages[0], measure)
    tokens = () if source.num_tokens is None else (f"{count(source.num_tokens)} tokens",)
    return (f"{_words(kept, measure)}, {percent(kept, read)}", *tokens)


def _stage_tip(source: SourceAccount, stage: StageAccount) -> str:
    return (
        f"{source.name}, after {stage.name}: "
        f"{stage.documents:,} documents, {size(stage.text_bytes)} of text"
    )


def _loss_tip(source: SourceAccount, before: StageAccount, after: StageAccount) -> str:
    documents = before.documents - after.documents
    removed = before.text_bytes - after.text_bytes
    return (
        f"{source.name}, dropped at {after.name}: {documents:,} documents "
        f"({percent(documents, before.documents)}), {size(removed)} of text "
        f"({percent(removed, before.text_bytes)})"
    )


def _source_tip(source: SourceAccount) -> str:
    stages = "; ".join(
        f"{stage.name} {stage.documents:,} documents, {size(stage.text_bytes)}"
        for stage in source.stages
    )
    return f"{source.name}: {stages}"
