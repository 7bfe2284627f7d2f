"""The ids of a long text by overlapping windows, in bounded memory.

Of any tokenizer the only thing known is that a token depends on the text around it and not on the
whole: pre-tokenizers look a few characters ahead, models work on pre-tokens, and normalisers on
neighbouring characters. So two windows that overlap agree on tokens and on their places, but near
their ends. They are joined in the middle of a stretch on which they agree. Where they agree on no
stretch long enough (one pre-token of a hundred thousand characters, say), the window is made larger
until it meets one, or the end: memory then grows, and the ids stay right.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""Where a token's characters are in a text; several tokens of one character have the same."""
EncodeWindow = Callable[[str], tuple[Sequence[int], Sequence[Span]]]


@dataclass(frozen=True)
class WindowSizes:
    """In characters, but for the last."""

    window: int = 1 << 18
    """About 50 MB of memory in `tokenizers`."""
    overlap: int = 1 << 13
    agreeing_tokens: int = 32
    """On each side of a place where two windows are joined."""


@dataclass(frozen=True)
class _Window:
    start: int
    end: int
    """Characters of the text that it holds."""
    ids: Sequence[int]
    spans: Sequence[Span]
    """In the whole text."""

    def token(self, index: int) -> tuple[int, Span]:
        return self.ids[index], self.spans[index]

    def is_place(self, index: int) -> bool:
        """Whether a character ends before the token, so that text can be cut there."""
        return self.spans[index][0] >= self.spans[index - 1][1]


DEFAULT_SIZES = WindowSizes()


def ids_by_windows(
    text: str, encode: EncodeWindow, sizes: WindowSizes = DEFAULT_SIZES
) -> Iterator[Sequence[int]]:
    """The ids that `encode` gives for the whole text, a part at a time."""
    left, first = _window(text, 0, sizes.window, encode), 0
    while left.end < len(text):
        joined = _next_window(text, left, first, encode, sizes)
        if joined is None:
            left = _window(text, left.start, 2 * (left.end - left.start), encode)
            # What was given out is the same in the larger window: it was far from this one's end.
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
    """The window after `left`, and the token of each at which they are joined.

    It begins with a token of `left`, so that both see runs of one character in the same step. None
    where they agree on too little.
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
    """Tokens of both windows, at the same place, with so many equal ones before and after."""
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
