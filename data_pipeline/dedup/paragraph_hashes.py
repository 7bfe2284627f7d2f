"""Hashes of normalized paragraphs, for paragraph-level deduplication.

A paragraph is a line, as in CCNet (Wenzek et al., arXiv 1911.00359, section 3.1), and two are equal
if their `normal_forms.paragraph_key` is. The hash is 64-bit xxh3 of the key's UTF-8 bytes; CCNet
uses the first 64 bits of SHA-1, which is equivalent and slower. Among n distinct paragraphs,
n² / 2⁶⁵ hash collisions are expected: 0.03 in a group of a billion.

Lines are normalized in batches. ASCII lines are translated as bytes; the others become code points,
which are mapped by a lookup table. A line in which the mapping depends on neighboring characters
is left to `paragraph_key`.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.text.normal_forms import ascii_keys, paragraph_key

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]

NO_KEY = np.uint64(xxhash.xxh3_64_intdigest(b""))
"""Hash of a line whose key is empty: without letters, digits and symbols."""
HASHES = "hashes.npy"
COUNTS = "counts.npy"

BATCH_CHARACTERS = 1 << 20
"""Characters that are normalized at once."""
_NEWLINE = 10
_NUM_CODES = 0x110000
# Special values in the lookup table of code points.
_GONE = np.uint32(_NUM_CODES)
_BY_CONTEXT = np.uint32(_NUM_CODES + 1)


def paragraphs_of(text: str) -> list[str]:
    """The paragraphs of a text: its lines, empty ones included, so that they join to the text."""
    return text.split("\n")


def paragraph_hashes(
    texts: Iterable[str], *, batch_characters: int = BATCH_CHARACTERS
) -> Iterator[tuple[Hashes, Counts]]:
    """Per batch of texts, in order: the hashes of their paragraphs, and the number of paragraphs of
    each text. A batch ends with the text that makes it at least `batch_characters` long."""
    lines: list[str] = []
    counts: list[int] = []
    num_characters = 0
    for text in texts:
        own = paragraphs_of(text)
        lines += own
        counts.append(len(own))
        num_characters += len(text)
        if num_characters >= batch_characters:
            yield line_hashes(lines, batch_characters=batch_characters), np.array(counts, np.uint32)
            lines, counts, num_characters = [], [], 0
    if counts:
        yield line_hashes(lines, batch_characters=batch_characters), np.array(counts, np.uint32)


def write_paragraph_hashes(
    texts: Iterable[str], folder: Path, *, batch_characters: int = BATCH_CHARACTERS
) -> int:
    """Write the hashes of all paragraphs, in order, to `folder`; returns their number.

    `hashes.npy` holds an unsigned 64-bit integer per paragraph, `counts.npy` the number of
    paragraphs of each text. Memory does not depend on the number of texts, but on
    `batch_characters`, which are normalized at once.
    """
    with (
        _GrowingArray(folder / HASHES, np.dtype("<u8")) as hashes,
        _GrowingArray(folder / COUNTS, np.dtype("<u4")) as counts,
    ):
        for some_hashes, some_counts in paragraph_hashes(texts, batch_characters=batch_characters):
            hashes.append(some_hashes)
            counts.append(some_counts)
    return hashes.length


def line_hashes(lines: Sequence[str], *, batch_characters: int = BATCH_CHARACTERS) -> Hashes:
    """The hash of each line; no line may contain a newline."""
    hashes = np.empty(len(lines), np.uint64)
    start = 0
    for end in _ends_of_pieces(lines, batch_characters):
        _hash_piece(lines[start:end], hashes[start:end])
        start = end
    return hashes


def _ends_of_pieces(lines: Sequence[str], batch_characters: int) -> Iterator[int]:
    """Where to split the lines of a long document, so that memory is bounded."""
    num_characters = 0
    for end, line in enumerate(lines, 1):
        num_characters += len(line)
        if num_characters >= batch_characters:
            yield end
            num_characters = 0
    yield len(lines)


def _hash_piece(lines: Sequence[str], hashes: Hashes) -> None:
    """Fill `hashes` with the hashes of `lines`."""
    is_ascii = np.fromiter(map(str.isascii, lines), np.bool_, len(lines))
    if plain := list(itertools.compress(lines, is_ascii)):
        hashes[is_ascii] = _hashed(ascii_keys("\n".join(plain).encode("ascii")))
    if len(plain) < len(lines):
        others = list(itertools.compress(lines, ~is_ascii))
        hashes[~is_ascii] = _hashed(_unicode_keys(others))


def _hashed(keys: Sequence[bytes]) -> Hashes:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys))


def _unicode_keys(lines: Sequence[str]) -> list[bytes]:
    """`paragraph_key` of each line, as UTF-8."""
    # A capital sigma becomes another letter at a word's end: the only lower-casing rule that
    # depends on neighbors, and a newline ends a word.
    lower = "\n".join(lines).lower()
    codes = np.frombuffer(lower.encode("utf-32-le", "surrogatepass"), "<u4")
    mapped = _table()[codes]
    kept = mapped[mapped < _GONE]
    keys = list(map(str.strip, kept.tobytes().decode("utf-32-le", "surrogatepass").split("\n")))
    by_context = np.flatnonzero(mapped == _BY_CONTEXT)
    if len(by_context):
        newlines = np.flatnonzero(codes == _NEWLINE)
        for index in np.unique(np.searchsorted(newlines, by_context)):
            keys[index] = paragraph_key(lines[index])
    return "\n".join(keys).encode("utf-8", "surrogatepass").split(b"\n")


@functools.cache
def _table() -> npt.NDArray[np.uint32]:
    """Lookup table of `paragraph_key` for each code point of lower-case text: another code point,
    `_GONE`, or `_BY_CONTEXT` where adjacent characters matter."""
    table = np.arange(_NUM_CODES, dtype=np.uint32)
    attaching = _attaching_characters()
    for code in range(0x80):
        table[code] = _mapped(chr(code), attaching)
    for start in range(0x80, _NUM_CODES, 0x80):
        block = "".join(map(chr, range(start, start + 0x80)))
        # Nearly all blocks of the million code points are empty, or hold ideographs, and map to
        # itself.
        if attaching.isdisjoint(block) and paragraph_key(f"x{block}x") == f"x{block}x":
            continue
        for code, character in enumerate(block, start):
            table[code] = _mapped(character, attaching)
    table[_NEWLINE] = _NEWLINE
    table.flags.writeable = False  # cached, shared by all callers
    return table


def _mapped(character: str, attaching: frozenset[str]) -> np.uint32:
    if character in attaching:
        return _BY_CONTEXT
    key = paragraph_key(f"x{character}x")[1:-1]  # whitespace at the ends would be stripped
    if not key:
        return _GONE
    return np.uint32(ord(key)) if len(key) == 1 and key not in attaching else _BY_CONTEXT


def _attaching_characters() -> frozenset[str]:
    """Characters that remain in a key and may combine or be reordered with preceding ones: the
    second characters of canonical compositions, and those with a combining class."""
    attaching = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # Hangul
    for character in map(chr, range(_NUM_CODES)):
        if unicodedata.combining(character):
            attaching.add(character)
        decomposition = unicodedata.decomposition(character)
        if decomposition and not decomposition.startswith("<"):
            attaching.update(chr(int(code, 16)) for code in decomposition.split()[1:])
    # Accents never remain.
    return frozenset(c for c in attaching if unicodedata.category(c) != "Mn")


class _GrowingArray:
    """A one-dimensional `.npy` file that is written incrementally."""

    def __init__(self, path: Path, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.length = 0
        self._dtype = dtype
        self._file = path.open("wb")
        self._write_header()
        self._header_bytes = self._file.tell()

    def append(self, values: npt.NDArray[np.unsignedinteger]) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def __enter__(self) -> _GrowingArray:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                self._file.seek(0)
                self._write_header()
                # numpy reserves space in the header for an array that grows.
                assert self._file.tell() == self._header_bytes, "the header has grown into the data"

    def _write_header(self) -> None:
        described = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": described, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
