"""Malformed and hostile GitHub rows and checkouts, generated at random."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.archives import nasty_archives
from tests.support.damage import cut, noisy

_PIECES = (
    *("/*", "*/", "//", "#", "--", "<!--", "-->", '"""', "'''", "(*", "*)", "{-", "-}", "{", "}"),
    *("Copyright (c) 2020 me", "MIT license", "SPDX-License-Identifier: ", "All rights reserved"),
    *("#!/bin/sh", "<?php", "//go:build x", "# -*- coding: utf-8 -*-", "=begin", "=end", "x = 1;"),
    *("\n", "\n\n", "\r", "\t", " ", "\ufeff", "\0", "é", "\u2028", "\ud800", "漢字", "a" * 2_000),
)
_NAMES = ("a.py", "b.c", "c.html", "d.lua", "e", "f.xyz", "g.rb", "h.md", "i.pas", "LICENSE", "")
_PATHS = (*_NAMES, "vendor/a.go", "a/../../b.py", "/etc/passwd", "x" * 5_000, "é.py", None, 2)
_LICENSES = (
    "mit",
    "apache-2.0",
    "gpl-3.0",
    "",
    None,
    3,
    ["mit", "bsd-3-clause"],
    [None],
    "MIT OR GPL",
    "\ud800",
)


def nasty_source(rng: random.Random) -> str:
    """A text that may be code with comments of any language."""
    return "".join(rng.choice(_PIECES) for _ in range(rng.randrange(60)))


def nasty_row(rng: random.Random) -> dict[str, object]:
    """A row with fields missing, of wrong types, under other names; or a good one."""
    if rng.random() < 0.2:
        code = f"x = 1  # {rng.random()}\n" + nasty_source(rng)
        return {"content": code, "path": rng.choice(_NAMES), "license": "mit"}
    row: dict[str, object] = {
        "content": rng.choice([nasty_source(rng), nasty_source(rng), None, 7, ["x"], {}]),
        rng.choice(["repo_name", "sample_repo_name"]): rng.choice(
            ["a/b", "", None, 5, "../..", "é"]
        ),
        rng.choice(["path", "sample_path"]): rng.choice(
            [
                *_NAMES,
                f"vendor/{rng.choice(_NAMES)}",
                "a/../../b.py",
                "/etc/passwd",
                "x" * 5_000,
                None,
            ]
        ),
        rng.choice(["license", "license", "licenses"]): rng.choice(_LICENSES),
        "binary": rng.choice([False, True, "true", None]),
        "mode": rng.choice([33188, "33188", 40960, None]),
    }
    for name in rng.sample(sorted(row), rng.randrange(3)):
        del row[name]
    return row


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut, or with bytes changed, or as it is."""
    return rng.choice([cut(data, rng), noisy(data, rng, 5), data])


def nasty_github(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of rows, good and damaged, and of a checkout."""
    rows = [nasty_row(rng) for _ in range(20)]
    lines = [json.dumps(row).encode() for row in rows]
    lines += [b"[1]", b"null", b"{", b"\xff", b'{"content": "' + b"[" * 5_000, b"[" * 100_000, b""]
    rng.shuffle(lines)
    data = b"\n".join(lines)
    yield "rows.jsonl", _damaged(data, rng)
    yield "rows.jsonl.gz", _damaged(gzip.compress(data), rng)
    # Sixteen megabytes of one line in sixteen kilobytes.
    yield "bomb.jsonl.gz", gzip.compress(b'{"content": "' + b"a" * (17 << 20), compresslevel=1)
    table = pa.table(
        {
            "content": pa.array([nasty_source(rng).encode("utf-8", "replace") for _ in range(9)]),
            "path": pa.array([rng.choice(_NAMES) for _ in range(9)]),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    yield "rows.parquet", _damaged(buffer.getvalue(), rng)
    members = {f"a-1/{name}": nasty_source(rng).encode("utf-8", "replace") for name in _NAMES[:4]}
    members["a-1/LICENSE"] = b"Permission is hereby granted, free of charge"
    yield from nasty_archives(rng, "a-1", members, (".zip", ".tar.gz", ".tar"))
    nested = {"path": rng.choice(_NAMES), "repo_name": rng.choice(["a/b", 1]), "license": "mit"}
    meta: Any = rng.choice([nested, json.dumps(nested), "{", None, []])
    yield "redpajama.jsonl", json.dumps({"text": nasty_source(rng), "meta": meta}).encode()
    tables = [{"id": 1, "content": "x"}, {"repo_name": "a/b", "license": "mit"}, {"code": 1}]
    yield "export/tables-0.json.gz", gzip.compress(json.dumps(rng.choice(tables)).encode())
    yield "checkout/LICENSE", _damaged(b"Permission is hereby granted, free of charge", rng)
    for name in _NAMES[:-2]:
        text = nasty_source(rng).encode("utf-8", "surrogatepass")
        yield (
            f"checkout/{name}",
            rng.choice(
                [text, rng.randbytes(300), b"", text.decode("utf-8", "replace").encode("utf-16")]
            ),
        )
    yield "checkout/data.json", b"{}"
