"""What documents are compared by without their texts, and which of equals is preferred.

Of documents that are the same by some rule one stays: that of the source that comes first in the
corpus; of one source's, the one with the lowest perplexity, then with the highest probability of
being a reference, then the earliest (documents without these come last), then the one with the
smallest id, then the first in reading order. It never depends on which process was faster.
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
"""Of one document. `id`: its content id; `text`: hash of what makes it the same as another (128
bits each); `url`: the same for its address, zeros where there is none; `num_bytes` of its text in
UTF-8."""
PREFERENCE_FIELDS = ("id", "perplexity", "reference_score", "timestamp")
"""What `preferred_first` looks at."""
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


def preferred_first(keys: Keys, source: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """The order that puts preferred documents first; `source` is the place of each document's
    source in the corpus. Equal documents stay in the order that they have."""
    columns: Sequence[npt.NDArray[Any]] = (
        keys["id"],
        keys["timestamp"],
        -keys["reference_score"],
        keys["perplexity"],
        source,
    )
    return np.lexsort(columns)


def hexadecimal(ids: npt.NDArray[np.bytes_]) -> list[str]:
    """Content ids as they are written in documents."""
    # NumPy takes zeros off the end of bytes.
    return [value.ljust(16, b"\0").hex() for value in ids.tolist()]
