"""Encodes a long text in overlapping windows, in bounded memory, with any tokenizer.

The only assumption about the tokenizer is locality: a token depends on nearby text only, because
pre-tokenizers look a few characters ahead, models work on pre-tokens, and normalizers on
neighboring characters. So two overlapping windows give the same tokens at the same offsets, except
near their ends. They are joined in the middle of a run of equal tokens. Where no run is long enough
(say, one pre-token of a hundred thousand characters), the window is enlarged until there is one, or
the text ends: memory then grows, and the ids are still exact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""Character offsets (start, end) of a token; tokens of the same character have equal spans."""
EncodeWindow = Callable[[str], tuple[Sequence[int], Sequence[Span]]]


@dataclass(frozen=True)
class WindowSizes:
    """Sizes in characters, except the last."""

    window: int = 1 << 18
    """About 50 MB of memory in `tokenizers`."""
    overlap: int = 1 << 13
    agreeing_tokens: int = 32
    """Equal tokens that are required on each side of a join."""


@dataclass(frozen=True)
class _Window:
    start: int
    end: int
    """Character range in the text."""
    ids: Sequence[int]
    spans: Sequence[Span]
    """Offsets in the whole text."""

    def token(self, index: int) -> tuple[int, Span]:
        return self.ids[index], self.spans[index]

    def is_place(self, index: int) -> bool:
        """Whether the token starts at a character boundary, where the text can be split."""
        return self.spans[index][0] >= self.spans[index - 1][1]


DEFAULT_SIZES = WindowSizes()


def ids_by_windows(
    text: str, encode: EncodeWindow, sizes: WindowSizes = DEFAULT_SIZES
) -> Iterator[Sequence[int]]:
    """Ids equal to those of `encode` on the whole text, in chunks."""
    left, first = _window(text, 0, sizes.window, encode), 0
    while left.end < len(text):
        joined = _next_window(text, left, first, encode, sizes)
        if joined is None:
            left = _window(text, left.start, 2 * (left.end - left.start), encode)
            # Ids that were yielded are the same in the larger window: they were far from its end.
            continue
        right, last, first_of_right = joined
        yield left.ids[first:last]
        left, first = right, first_of_right
    yield left.ids[first:]


def _window(text: str, start: int, size: int, encode: EncodeWindow) -> _Window:
    end = min(start + size, len(text))
    ids, spans = encode(text[start:end])
    return _Window(start, end, ids, [(a + start, b + start) for a, b in spans])


def _next_window(
    text: str, left: _Window, first: int, encode: EncodeWindow, sizes: WindowSizes
) -> tuple[_Window, int, int] | None:
    """The window after `left`, and the index in each of the token at which they are joined.

    It starts at a token boundary of `left`, so that runs of one character are tokenized in phase.
    None where no run of equal tokens is long enough.
    """
    begin = bisect_left(left.spans, (left.end - sizes.overlap, 0), lo=max(first, 1))
    while begin < len(left.ids) and not left.is_place(begin):
        begin += 1
    if begin + 2 * sizes.agreeing_tokens > len(left.ids):
        return None
    right = _window(text, left.spans[begin][0], sizes.window, encode)
    found = _agreeing_place(left, begin, right, sizes.agreeing_tokens)
    return None if found is None else (right, *found)


def _agreeing_place(
    left: _Window, begin: int, right: _Window, agreeing: int
) -> tuple[int, int] | None:
    """Indices of the same token in both windows, with `agreeing` equal ones before and after."""
    place_of: dict[tuple[int, Span], int] = {}
    for index in range(min(len(right.ids), 2 * (len(left.ids) - begin) + agreeing)):
        place_of.setdefault(right.token(index), index)
    index = begin
    while index < len(left.ids):
        other = place_of.get(left.token(index))
        if other is None:
            index += 1
            continue
        run = 0
        while (
            index + run < len(left.ids)
            and other + run < len(right.ids)
            and left.token(index + run) == right.token(other + run)
        ):
            run += 1
        for step in range(agreeing, run - agreeing):
            if left.is_place(index + step):
                return index + step, other + step
        index += run
    return None
