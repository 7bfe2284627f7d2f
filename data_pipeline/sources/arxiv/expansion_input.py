"""Input stack of the macro expander: the paper's text, with expansions pushed in front of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from data_pipeline.sources.arxiv.tex_tokens import closing_brace, ends_with_word, skip_spaces

_MAX_DEPTH = 400
_MAX_GROUP = 20_000
_MAX_WRITTEN = 50_000_000
"""Maximum characters written by expansions, whatever the text's length; bounds the memory."""
ARGUMENT_WINDOWS = (2_000, 200_000)
"""Lookahead for an argument, in characters: first try, and second try."""
ALL_WINDOWS = (*ARGUMENT_WINDOWS, 1 << 40)

_Reading = TypeVar("_Reading")


class MacroExplosionError(ValueError):
    """The macros of a text expand beyond the limits on size or depth."""


@dataclass(frozen=True)
class Chain:
    """Names of the macros whose expansion a text is part of, innermost first."""

    name: str
    outer: Chain | None
    depth: int

    def count(self, name: str) -> int:
        """How often `name` is among them (recursion depth)."""
        number, chain = 0, self
        while True:
            number += chain.name == name
            if chain.outer is None:
                return number
            chain = chain.outer


@dataclass
class Frame:
    """A text being read: the paper itself, or an expansion."""

    text: str
    position: int
    chain: Chain | None
    at_end: Callable[[], None] | None = None
    """Called when it has been read."""


class Input:
    """A stack of texts. The last is read first; lookahead may cross their borders."""

    def __init__(self, text: str, max_growth: int) -> None:
        self.frames = [Frame(text, 0, None)]
        self._max_written = min(250_000 + max_growth * len(text), _MAX_WRITTEN)
        self._written = 0
        # Budget of characters for lookahead without a match: far ahead until half of it is used up.
        self._max_vain = 250_000 + 4 * len(text)
        self._vain = 0
        self._vain_groups = 0

    def push(self, text: str, name: str | None = None) -> None:
        """Read `text` next, as part of the expansion of macro `name`.

        MacroExplosionError if too much has been pushed in total, or macros nest too deep.
        """
        # TeX's tokens have borders of their own: \theta before "x" is not \thetax.
        if ends_with_word(text) and self.ahead(1)[0].isalpha():
            text += " "
        # An empty expansion counts, too.
        self._written += len(text) + 32
        if self._written > self._max_written:
            raise MacroExplosionError(f"expansions write more than {self._max_written} characters")
        chain = self.frames[-1].chain
        if name is not None:
            chain = Chain(name, chain, chain.depth + 1 if chain else 1)
            if chain.depth > _MAX_DEPTH:
                raise MacroExplosionError(f"expansions nest deeper than {_MAX_DEPTH}")
        # Finished texts are popped, else a tail-recursive macro would pile them up.
        while (last := self.frames[-1]).position == len(last.text) and last.at_end is None:
            self.frames.pop()
            if not self.frames:
                break
        self.frames.append(Frame(text, 0, chain))

    def pop(self) -> None:
        """Pop the text that was read last."""
        frame = self.frames.pop()
        if frame.at_end is not None:
            frame.at_end()

    def at_group_end(self, action: Callable[[], None]) -> None:
        """Call `action` where the current group of braces closes; never outside groups, or where it
        closes far away or in another text than it was opened in.
        """
        text, _ = self.ahead(_MAX_GROUP if self._vain_groups <= self._max_vain else 0)
        size = closing_brace(text)
        frame = self.frames[-1]
        # Found or not: many definitions in one group would read its rest again and again.
        self._vain_groups += len(text) if size is None else size
        if size is None:
            return
        if frame.position + size <= len(frame.text):
            inner = frame.text[frame.position : frame.position + size]
            frame.position += size
            self.frames.append(Frame(inner, 0, frame.chain, action))

    def ahead(self, size: int) -> tuple[str, bool]:
        """The next `size` characters, and whether that is all there is."""
        frame = self.frames[-1]
        piece = frame.text[frame.position : frame.position + size]
        if len(piece) == size:
            return piece, False
        pieces = [piece]
        for frame in reversed(self.frames[:-1]):
            left = size - sum(map(len, pieces))
            if left == 0:
                return "".join(pieces), False
            pieces.append(frame.text[frame.position : frame.position + left])
        return "".join(pieces), frame.position + len(pieces[-1]) == len(frame.text)

    def advance(self, size: int) -> None:
        """Skip the next `size` characters."""
        for frame in reversed(self.frames):
            step = min(size, len(frame.text) - frame.position)
            frame.position += step
            size -= step
            if size == 0:
                return

    def take(
        self,
        read: Callable[[str, bool], tuple[_Reading, int] | None],
        windows: tuple[int, ...] = ARGUMENT_WINDOWS,
    ) -> _Reading | None:
        """Result of `read` on the upcoming text, which is then consumed.

        `read` gets as much text as it needs, with whether that is all, and returns a result and its
        end. None, with nothing consumed, where there is no complete match.
        """
        for size in windows:
            if self._vain > self._max_vain:
                break
            text, is_all = self.ahead(size)
            result = read(text, is_all)
            if result is not None:
                self.advance(self._own_end(text, result[1]))
                return result[0]
            if text.lstrip()[:1] not in ("", "}"):  # nothing is searched there
                self._vain += len(text)
            if is_all or self._vain > self._max_vain // 2:
                break
        return None

    def _own_end(self, text: str, end: int) -> int:
        """`end` in the upcoming `text`, without spaces at its end that are of another text.

        TeX skips spaces behind a control word where it reads a file, none that follow an expansion.
        """
        last = end
        while last > 0 and text[last - 1] in " \t":
            last -= 1
        if last == end:
            return end
        border = 0
        for frame in reversed(self.frames):
            border += len(frame.text) - frame.position
            if border >= last:
                break
        return min(border, end)

    def skip_spaces(self) -> None:
        frame = self.frames[-1]
        frame.position = skip_spaces(frame.text, frame.position)
