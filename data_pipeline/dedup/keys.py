"""Deduplication keys of a document, and the tie-breaking: which copy of a duplicate is kept.

Of documents that a rule finds equal one is kept: that of the source that comes first in the corpus;
within a source, the one with the lowest perplexity, then with the highest reference score, then the
earliest timestamp (missing values sort last), then the smallest id, then the first in reading
order. The order never depends on which worker finished first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_pipeline.document import Document, Source, content_id, whole_text

KEYS_DTYPE = np.dtype(
    [
        ("id", "S16"),
        ("text", "S16"),
        ("url", "S16"),
        ("num_bytes", "<i8"),
        ("perplexity", "<f4"),
        ("reference_score", "<f4"),
        ("timestamp", "S20"),
    ]
)
"""Keys of one document. `id`: its content id; `text`: 128-bit hash of its exact-deduplication key;
`url`: the same for its URL, zeros where there is none; `num_bytes`: UTF-8 bytes of its text."""
PREFERENCE_FIELDS = ("id", "perplexity", "reference_score", "timestamp")
"""Fields that `preference_order` reads."""
Keys = npt.NDArray[np.void]

_LATEST = b"~"


def key_of(document: Document, source: Source) -> Keys:
    """One row of `KEYS_DTYPE`, shape ()."""
    text_id = content_id(document.text)
    is_whole = source.same_text is whole_text
    same = text_id if is_whole else content_id(source.same_text(document.text))
    url = b""
    if document.url is not None and source.same_url is not None:
        url = xxhash.xxh3_128_digest(source.same_url(document.url).encode("utf-8"))
    return np.array(
        (
            bytes.fromhex(text_id),
            bytes.fromhex(same),
            url,
            len(document.text.encode("utf-8")),
            np.inf if document.perplexity is None else document.perplexity,
            -np.inf if document.reference_score is None else document.reference_score,
            document.timestamp.encode() if document.timestamp else _LATEST,
        ),
        KEYS_DTYPE,
    )


def preference_order(keys: Keys, source: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """The order that sorts preferred documents first (tie-breaking); `source` is the index of each
    document's source in the corpus. Stable for equal documents."""
    columns: Sequence[npt.NDArray[Any]] = (
        keys["id"],
        keys["timestamp"],
        -keys["reference_score"],
        keys["perplexity"],
        source,
    )
    return np.lexsort(columns)


def hexadecimal(ids: npt.NDArray[np.bytes_]) -> list[str]:
    """Content ids in the hexadecimal form of `Document` rows."""
    # NumPy strips trailing zero bytes.
    return [value.ljust(16, b"\0").hex() for value in ids.tolist()]
