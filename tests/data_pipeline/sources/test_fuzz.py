"""The fuzz run goes through every source, and notices each way in which one can fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from data_pipeline.document import Document, Rejected, Source
from data_pipeline.files.inputs import InputFile, Inputs, walk
from data_pipeline.files.remote import Root
from tests.support.watched import Limits, read_whole, watch

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_every_source_survives_for_a_moment(tmp_path: Path) -> None:
    """Less than a second each: a run that is worth the name takes minutes, by hand."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "tests.tools.fuzz_readers", "--seconds", "2.5"),
            # Of this one even the first file of every source has something to reject.
            *("--seed", "2", "--save", str(tmp_path / "bad")),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not (tmp_path / "bad").exists()
    rows = re.findall(r"(?m)^(\w+) +([\d,]+) +[\d,]+ +[\d,]+ +([\d,]+) +[\d,]+  \S+ \(", ran.stdout)
    assert [name for name, _, _ in rows] == [
        *("wikipedia", "books", "arxiv", "stack_exchange", "github", "c4", "common_crawl")
    ]
    assert all(files != "0" and rejected != "0" for _, files, rejected in rows), ran.stdout


# -- sources that fail ----------------------------------------------------------------------------

Read = Callable[[InputFile], Iterator[Document | Rejected]]


def some_files(rng: Random) -> Iterator[tuple[str, bytes]]:
    for number in range(60):
        yield f"{number}/bad.txt", rng.randbytes(10)


def all_files(root: Root) -> Inputs:
    return walk(root, follow_symlinks=False)


def well(file: InputFile) -> Iterator[Document | Rejected]:
    yield Document("a text", file.source_file)
    yield Rejected("damaged", file.source_file)


def raises(file: InputFile) -> Iterator[Document | Rejected]:
    yield from well(file)
    raise KeyError("a bug")


def ends(file: InputFile) -> Iterator[Document | Rejected]:
    yield from well(file)
    os._exit(3)


def hangs(file: InputFile) -> Iterator[Document | Rejected]:
    yield from well(file)
    time.sleep(600)


LEAK: list[bytes] = []


def leaks(file: InputFile) -> Iterator[Document | Rejected]:
    # More than what this process may have held and freed before.
    LEAK.append(b"x" * (8 << 20))
    yield from well(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "failure"),
    [
        (well, None),
        (raises, r"crash: \d+/bad.txt\n(?s:.*)KeyError: 'a bug'"),
        (ends, r"crash: the process ended in \d+/bad.txt"),
        (hangs, r"hang: \d+/bad.txt takes more than 1 s"),
        (leaks, r"growth: \d+ MiB after \d+/bad.txt"),
    ],
)
def test_a_failure_is_named_and_its_input_kept(
    tmp_path: Path, read: Read, failure: str | None
) -> None:
    source = Source("odd", inputs=all_files, read=read)
    # On a busy machine any file may take a second.
    limits = Limits(seconds_per_file=1.0 if read is hangs else 60.0, growth_bytes=10 << 20)
    # What fails ends there; growth is looked for after thirty files only.
    seconds = 0.3 if failure is None else 60.0
    save = tmp_path / "bad"
    account = watch(source, some_files, seed="1", seconds=seconds, limits=limits, save=save)
    kept = tmp_path / "bad" / "odd"
    if failure is None:
        assert account.failure is None
        assert account.num_files == account.num_documents == account.reasons["damaged"] > 0
        assert not kept.exists()
        return
    assert account.failure is not None
    assert re.match(failure, account.failure), account.failure
    (name,) = set(re.findall(r"\d+/bad\.txt", account.failure.splitlines()[0]))
    assert (kept / name).is_file()
    assert str(kept) in account.failure


def is_silent(file: InputFile) -> Iterator[Document | Rejected]:
    yield from ()


def tells_all(file: InputFile) -> Iterator[Document | Rejected]:
    yield Rejected("no such thing: x", file.source_file)


def tells_of_another(file: InputFile) -> Iterator[Document | Rejected]:
    yield Rejected("damaged", "another")


def has_half_a_character(file: InputFile) -> Iterator[Document | Rejected]:
    yield Document("a text", file.source_file, title="\ud800")


@pytest.mark.parametrize(
    ("read", "error", "words"),
    [
        (is_silent, AssertionError, "neither read nor rejected"),
        (tells_all, AssertionError, "no such thing"),
        (tells_of_another, AssertionError, "another is not the file"),
        (has_half_a_character, UnicodeEncodeError, "surrogates"),
    ],
)
def test_every_item_is_asked_for(read: Read, error: type[Exception], words: str) -> None:
    file = InputFile(Path("a.txt"), "a.txt", 0, 0)
    with pytest.raises(error, match=words):
        read_whole(Source("odd", inputs=all_files, read=read), file)
