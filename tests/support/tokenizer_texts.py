"""Sample texts for tokenizer tests, and a documents folder of them."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from data_pipeline.tokens.huggingface_tokenizer import BLANK
from tests.support.written_documents import text_rows, write_documents

HOSTILE = [
    "",
    " ",
    "  ",
    "   leading spaces",
    "trailing spaces   ",
    "\t\ttabs\tand\n\nnewlines\r\n",
    "NUL \0 inside, \x1b control, \x7f",
    "emoji 🦙🏽‍🚀 and flags 🇫🇷",
    "漢字とかな 한국어 ไทย العربية",
    "combining e\u0301 and \u00e9, ligature \ufb01",
    f"literal {BLANK} blank {BLANK}{BLANK}",
    "a <s> in </s> text <unk> and <0x41>",
    "<s>",
    "1234567890 3.14159 2**64",
    "\ufeffBOM, \u200b zero width, \u2028 line separator, \U0010ffff last",
    " " * 777,
    "a" * 1_000,
    "word " * 5_000,
    "for i in range(10):\n        if i == 3:\n\t\treturn [[i] * 4]\n",
]


_FOLDERS = tempfile.TemporaryDirectory()


def corpus(texts: list[str], shards: int = 1) -> dict[str, Path]:
    """One source with these texts."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name))
    return {"a": write_documents(folder / "a", text_rows(texts), shards)}


def prose() -> list[str]:
    """Text with runs of blanks, digits, rare characters and repetition, the same every time."""
    rng = random.Random(0)
    words = [
        "the",
        "then",
        "hen",
        "aa",
        "aaa",
        "baab",
        "====",
        "x1984",
        "20375",
        "60",
        "naïve",
        "日",
    ]
    words += ["".join(rng.choices("aeiourstln", k=rng.randint(2, 8))) for _ in range(80)]
    documents = []
    for _ in range(60):
        lines = []
        for _ in range(20):
            indent = " " * rng.choice([0, 0, 1, 2, 4, 8, 12])
            lines.append(indent + " ".join(rng.choices(words, k=8)))
        documents.append("\n".join(lines))
    return documents
