"""Repeated paragraphs: which go, in any number of tasks, and what stays of the texts."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.dedup.paragraph_hashes import write_paragraph_hashes
from data_pipeline.dedup.paragraphs import (
    BYTES_PER_PARAGRAPH,
    PARAGRAPHS_AT_ONCE,
    Keep,
    ParagraphKeeper,
    keep_masks,
    num_paragraphs,
)
from data_pipeline.document import Document, Rejected
from data_pipeline.executors.local import Processes
from data_pipeline.text.normal_forms import paragraph_key

LARGE = 1 << 30
ONE = Processes(1)


class Backwards:
    """An executor that runs every task twice, the last first."""

    def map(self, function: Any, tasks: Sequence[Any], sizes: Sequence[int], *, label: str) -> Any:
        assert len(sizes) == len(tasks)
        assert label
        for task in tasks:
            function(task)
        return [function(task) for task in reversed(tasks)][::-1]


def hashed(parts: Sequence[Sequence[str]], folder: Path) -> list[Path]:
    folders = [folder / f"part-{index}" for index in range(len(parts))]
    for texts, path in zip(parts, folders, strict=True):
        path.mkdir(parents=True)
        write_paragraph_hashes(texts, path)
    return folders


def removed(
    parts: Sequence[Sequence[str]],
    folder: Path,
    *,
    executor: Any = ONE,
    memory_budget: int = LARGE,
    keep: Keep = "first",
    paragraphs_at_once: int = PARAGRAPHS_AT_ONCE,
) -> list[list[str]]:
    """The parts' texts without the repeated paragraphs, all parts in one group."""
    (masks,) = keep_masks(
        [hashed(parts, folder / "hashes")],
        folder / "masks",
        executor=executor,
        memory_budget=memory_budget,
        keep=keep,
        paragraphs_at_once=paragraphs_at_once,
    )
    result = []
    for texts, mask in zip(parts, masks, strict=True):
        keeper = ParagraphKeeper(mask)
        result.append([keeper.remaining(text).text for text in texts])
        keeper.check_finished()
    return result


def defined(parts: Sequence[Sequence[str]], keep: Keep = "first") -> list[list[str]]:
    """The same by the rule's words, paragraph by paragraph."""
    lines = [line for texts in parts for text in texts for line in text.split("\n")]
    keys = [paragraph_key(line) for line in lines]
    seen: set[str] = set()
    result = []
    for texts in parts:
        stays_of_part = []
        for text in texts:
            fates: list[bool | None] = []
            for line in text.split("\n"):
                key = paragraph_key(line)
                if key == "":
                    fates.append(fates[-1] if fates else None)
                else:
                    fates.append(key not in seen if keep == "first" else keys.count(key) == 1)
                    seen.add(key)
            first = next((fate for fate in fates if fate is not None), True)
            stays = [first if fate is None else fate for fate in fates]
            stays_of_part.append("\n".join(itertools.compress(text.split("\n"), stays)))
        result.append(stays_of_part)
    return result


LINES = st.sampled_from(["a", "A.", "b 1", "b 2", "c", "\u00e9", "e", "", "...", " "])
TEXTS = st.lists(LINES, max_size=6).map("\n".join)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.lists(TEXTS, max_size=4), min_size=1, max_size=4),
    num_buckets=st.integers(1, 5),
    keep=st.sampled_from(["first", "none"]),
)
def test_what_stays_is_what_the_rule_says(
    parts: list[list[str]],
    num_buckets: int,
    keep: Keep,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    count = sum(text.count("\n") + 1 for texts in parts for text in texts)
    budget = max(1, count * BYTES_PER_PARAGRAPH // num_buckets)
    folder = tmp_path_factory.mktemp("case")
    assert removed(parts, folder, memory_budget=budget, keep=keep) == defined(parts, keep)


def boilerplate_corpus() -> tuple[list[list[str]], list[list[str]]]:
    """Parts whose texts have menus and notices around paragraphs of their own, and what stays."""
    drawn = random.Random(0)
    notices = [f"Notice {letter}: all rights reserved." for letter in "abcdefgh"]
    seen: set[str] = set()
    parts, stays = [], []
    for _ in range(5):
        texts, remaining = [], []
        for _ in range(40):
            name = "".join(drawn.choices("klmnopqrst", k=12))
            own = [f"{name} is what this text is about.", f"And that was {name}."]
            lines = [drawn.choice(notices), own[0], drawn.choice(notices).upper(), own[1]]
            texts.append("\n".join(lines))
            kept = []
            for line in lines:
                if paragraph_key(line) not in seen:
                    kept.append(line)
                seen.add(paragraph_key(line))
            remaining.append("\n".join(kept))
        parts.append(texts)
        stays.append(remaining)
    return parts, stays


@pytest.mark.parametrize(
    ("executor", "memory_budget"),
    [(ONE, LARGE), (ONE, 2_000), (Processes(2), 9_000), (Backwards(), 9_000)],
)
def test_planted_copies_go_and_nothing_else(
    tmp_path: Path, executor: Any, memory_budget: int
) -> None:
    parts, stays = boilerplate_corpus()
    assert removed(parts, tmp_path, executor=executor, memory_budget=memory_budget) == stays
    num_lines = sum(text.count("\n") + 1 for texts in stays for text in texts)
    assert num_lines == 5 * 40 * 2 + 8  # of each notice the first


def test_masks_are_the_same_bytes_for_every_budget_and_executor(tmp_path: Path) -> None:
    folders = hashed(boilerplate_corpus()[0], tmp_path / "hashes")
    groups = [folders[:2], folders[2:]]
    written = []
    ways: list[tuple[Any, int]] = [(ONE, LARGE), (Processes(2), 4_000), (Backwards(), 1_500)]
    for number, (executor, budget) in enumerate(ways):
        out = tmp_path / str(number)
        keep_masks(groups, out, executor=executor, memory_budget=budget)
        files = sorted(path for path in out.rglob("*") if path.is_file())
        written.append({str(path.relative_to(out)): path.read_bytes() for path in files})
    assert written[0] == written[1] == written[2]
    # Only masks are left, of 2 + 3 parts.
    assert len(written[0]) == 2 * 5


def test_groups_do_not_see_one_another(tmp_path: Path) -> None:
    folders = hashed([["a"], ["a"], ["a\nb"]], tmp_path / "hashes")
    groups = [folders[:2], folders[2:], []]
    masks = keep_masks(groups, tmp_path / "masks", executor=ONE, memory_budget=LARGE)
    first, second = ([ParagraphKeeper(mask) for mask in group] for group in masks[:2])
    assert [keeper.remaining("a").text for keeper in first] == ["a", ""]
    assert [keeper.remaining("a\nb").text for keeper in second] == ["a\nb"]
    assert masks[2] == []


def test_long_parts_are_read_in_pieces(tmp_path: Path) -> None:
    parts = [["a\n\nb\n...\na\n-", "\n\n", "-\nb\n\nc"], ["", "c\nd\n\n\n\n\nd\n\n\ne\n"]]
    assert removed(parts, tmp_path, paragraphs_at_once=3) == defined(parts)


# -- documents ------------------------------------------------------------------------------------


def keeper_of(texts: Sequence[str], folder: Path) -> ParagraphKeeper:
    folders = hashed([texts], folder / "hashes")
    ((mask,),) = keep_masks([folders], folder / "masks", executor=ONE, memory_budget=LARGE)
    return ParagraphKeeper(mask)


def test_documents_keep_their_fields_and_lose_their_copies(tmp_path: Path) -> None:
    texts = ["Menu\nFirst text.", "menu!\nSecond text.\n\nMENU", "Menu\n-\nmenu"]
    keeper = keeper_of(texts, tmp_path)
    documents = [Document(t, "file", i, url=f"u{i}") for i, t in enumerate(texts)]
    first, second = (keeper.edited(document) for document in documents[:2])
    assert first is documents[0]
    assert second == Document("Second text.\n", "file", 1, url="u1")
    assert keeper.edited(documents[2]) == Rejected(
        "duplicate_paragraphs", "file", 2, "all 3 paragraphs"
    )
    keeper.check_finished()
    assert keeper.num_removed == 2 + 3
    assert keeper.removed_characters == len("menu!\n") + len("\nMENU") + len(texts[2])


def test_how_much_went(tmp_path: Path) -> None:
    keeper = keeper_of(["abc\nabc\nxyz", ""], tmp_path)
    remaining = keeper.remaining("abc\nabc\nxyz")
    assert (remaining.text, remaining.num_paragraphs, remaining.num_removed) == ("abc\nxyz", 3, 1)
    assert remaining.removed_characters == 4
    assert remaining.removed_share == 4 / 11
    assert keeper.remaining("").removed_share == 0.0


def test_texts_that_are_not_those_that_were_hashed(tmp_path: Path) -> None:
    keeper = keeper_of(["a\nb", "c"], tmp_path)
    with pytest.raises(AssertionError, match="text 0 has 1 paragraphs, and had 2"):
        keeper.remaining("a")
    keeper.remaining("a\nb")
    with pytest.raises(AssertionError, match="1 texts are read, and 2 were hashed"):
        keeper.check_finished()
    keeper.remaining("c")
    with pytest.raises(AssertionError, match="more texts"):
        keeper.remaining("d")


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2, 1_000])
@pytest.mark.parametrize("keep", ["first", "none"])
def test_comparing_takes_the_memory_that_is_planned(
    tmp_path: Path, copies: int, keep: Keep
) -> None:
    count = 200_000
    drawn = np.random.default_rng(0)
    hashes = np.repeat(drawn.integers(0, 1 << 63, count // copies, np.uint64), copies)
    drawn.shuffle(hashes)
    np.save(tmp_path / "hashes.npy", hashes)
    np.save(tmp_path / "counts.npy", np.ones(count, np.uint32))
    assert num_paragraphs(tmp_path) == count
    tracemalloc.start()
    keep_masks(
        [[tmp_path]],
        tmp_path / "out",
        executor=ONE,
        memory_budget=LARGE,
        keep=keep,
        paragraphs_at_once=1 << 12,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Half a megabyte for everything that does not grow with the number of paragraphs.
    assert peak <= BYTES_PER_PARAGRAPH * count + (1 << 19)


def test_budget_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"memory_budget \(0\) must be at least 1 byte"):
        keep_masks([], tmp_path, executor=ONE, memory_budget=0)
