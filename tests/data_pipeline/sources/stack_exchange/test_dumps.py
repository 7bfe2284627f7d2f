"""Stack Exchange's dumps: sites, threads, order of answers, archives, damage, memory."""

import gzip
import os
import random
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.document import Document, Rejected
from data_pipeline.files.inputs import InputFile, walk
from data_pipeline.sources import stack_exchange
from data_pipeline.sources.stack_exchange.dumps import site_of
from recipes.llama1_corpus import STACK_EXCHANGE_SITES, stack_exchange_source
from tests.support.nasty_stack_exchange import (
    answer,
    archive,
    nasty_stack_exchange,
    posts,
    question,
    row,
)

Item = Document | Rejected
RULES: dict[str, Any] = {
    "min_question_score": None,
    "min_answer_score": None,
    "min_answers": 0,
    "max_post_bytes": 100_000,
    "max_memory_bytes": 1 << 20,
    "work_folder": None,
}


def read(path: Path, **rules: Any) -> list[Item]:
    info = path.stat()
    file = InputFile(path, f"site/{path.name}", info.st_size, info.st_mtime_ns)
    return list(stack_exchange.read(file, **(RULES | rules)))


def read_posts(folder: Path, *rows: str, **rules: Any) -> list[Item]:
    site = folder / "math.stackexchange.com"
    site.mkdir(exist_ok=True)
    (site / "Posts.xml").write_text(posts(*rows))
    return read(site / "Posts.xml", **rules)


def summary(items: list[Item]) -> list[tuple[str, int | None]]:
    return [(i.text if isinstance(i, Document) else i.reason, i.offset) for i in items]


def test_a_question_with_its_answers(tmp_path: Path) -> None:
    (document,) = read_posts(
        tmp_path,
        question(1, "<p>Why &amp; <code>how</code>?</p>", Title="What is <b>?"),
        answer(3, 1, 5, "<ul><li>x</li></ul>", CreationDate="2011-04-07T23:59:59"),
        answer(4, 1, 2, "<p>y</p>", ContentLicense="CC BY-SA 3.0"),
    )
    assert document == Document(
        text="Q: What is <b>?\n\nWhy & how?\n\nA: - x\n\nA: y",
        source_file="site/Posts.xml",
        offset=1,
        url="https://math.stackexchange.com/questions/1",
        title="What is <b>?",
        license="CC-BY-SA-2.5 AND CC-BY-SA-3.0 AND CC-BY-SA-4.0",
        timestamp="2020-01-01T00:00:00.000",
    )


def test_answers_are_ordered_by_score_as_a_number(tmp_path: Path) -> None:
    """As text 9 comes before 100 and 15: the mistake of earlier reproductions."""
    scores = [9, 2, 15, 100, 10, -1, -20]
    (document,) = read_posts(
        tmp_path,
        *(answer(10 + i, 1, score, f"s{score}") for i, score in enumerate(scores)),
        question(1),
    )
    assert isinstance(document, Document)
    assert re.findall(r"s(-?\d+)", document.text) == ["100", "15", "10", "9", "2", "-1", "-20"]


def test_accepted_answer_goes_first_among_equals_only(tmp_path: Path) -> None:
    (document,) = read_posts(
        tmp_path,
        question(1, AcceptedAnswerId=5),
        answer(2, 1, 7, "best"),
        answer(3, 1, 3, "late", CreationDate="2021"),
        answer(4, 1, 3, "early", CreationDate="2019"),
        answer(5, 1, 3, "accepted", CreationDate="2022"),
        answer(7, 1, 3, "same time, higher id", CreationDate="2021"),
    )
    assert isinstance(document, Document)
    order = document.text.split("\n\nA: ")[1:]
    assert order == ["best", "accepted", "early", "late", "same time, higher id"]


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        (answer(5, 4, 1), ("orphan_answer", 5)),
        (answer(5, 6, 1) + answer(6, 1, 1, "A6"), ("orphan_answer", 5)),
        (row(Id=5, PostTypeId=4, Body="x"), ("other_post_type", 5)),
        (row(Id=5, PostTypeId=1, Score=1), ("missing_attribute", 5)),
        (row(Id=5, PostTypeId=2, Score=1, Body="x"), ("missing_attribute", 5)),
        (row(PostTypeId=1, Score=1, Body="x"), ("missing_attribute", None)),
        (row(Id="5.0", PostTypeId=1, Score=1, Body="x"), ("bad_attribute", None)),
        (answer(5, 1, "many"), ("bad_attribute", 5)),
        (answer(5, 1, 1, DeletionDate="2020"), ("deleted", 5)),
        (question(1), ("duplicate_post", 1)),
        (answer(5, 1, 1, "<b>" * 5000), ("too_deeply_nested", 5)),
        ('<row Id="5" PostTypeId="1" Score="1" Body="&nope;" />', ("damaged_post", 5)),
        ('<row Id="5" PostTypeId="1"\n', ("damaged_post", 5)),
        (answer(5, 1, 1, "x" * 200_000), ("post_too_large", 5)),
    ],
)
def test_what_is_no_document(tmp_path: Path, post: str, expected: tuple[str, int]) -> None:
    items = read_posts(tmp_path, question(1), post, answer(9, 1, 1))
    assert expected in summary(items)
    documents = [item for item in items if isinstance(item, Document)]
    assert [document.offset for document in documents] == [1]
    assert documents[0].text.endswith("A: Answer 9")


def test_thresholds(tmp_path: Path) -> None:
    rows = (question(1, Score=0), question(2, Score=4), answer(3, 2, 2), answer(4, 2, 5))
    assert [o for _, o in summary(read_posts(tmp_path, *rows))] == [1, 2]
    kept = read_posts(tmp_path, *rows, min_question_score=1, min_answer_score=3)
    assert [(text[:10], offset) for text, offset in summary(kept)] == [
        ("low_score", 1),
        ("answer_low", 3),
        ("Q: Title 2", 2),
    ]
    kept = read_posts(tmp_path, *rows, min_answers=1)
    assert [(text[:10], offset) for text, offset in summary(kept)] == [
        ("few_answer", 1),
        ("Q: Title 2", 2),
    ]


def make_site(root: Path, name: str, size: int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_which_sites_are_read(tmp_path: Path) -> None:
    make_site(tmp_path, "stackoverflow.com-Posts.7z", 1)
    make_site(tmp_path, "stackoverflow.com-Comments.7z", 9)
    make_site(tmp_path, "math.stackexchange.com.7z", 2)
    make_site(tmp_path, "matheducators/Posts.xml", 50)
    make_site(tmp_path, "matheducators/Users.xml", 5)
    make_site(tmp_path, "matheducators.stackexchange.com.7z", 5)
    make_site(tmp_path, "small.stackexchange.com/Posts.xml.bz2", 3)
    make_site(tmp_path, "readme.txt", 3)
    listed = ("math.stackexchange.com", "stackoverflow.com", "superuser.com")
    found = stack_exchange.inputs(tmp_path, sites=listed, max_sites=3)
    assert [file.source_file for file in found.files] == [
        "math.stackexchange.com.7z",
        "matheducators/Posts.xml",
        "stackoverflow.com-Posts.7z",
    ]
    assert {item.source_file: item.reason for item in found.ignored} == {
        "stackoverflow.com-Comments.7z": "other_table",
        "matheducators/Users.xml": "other_table",
        "matheducators.stackexchange.com.7z": "unpacked_beside_it",
        "small.stackexchange.com/Posts.xml.bz2": "site_not_among_largest",
        "readme.txt": "unknown_kind",
    }
    everything = stack_exchange.inputs(tmp_path, sites=(), max_sites=None)
    assert len(everything.files) == 4
    # The sites that the list names come first, whatever their sizes.
    two = stack_exchange.inputs(tmp_path, sites=listed, max_sites=2)
    assert {site_of(file) for file in two.files} == set(listed[:2])


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("stackoverflow.com-Posts.7z", "stackoverflow.com"),
        ("math.stackexchange.com.7z", "math.stackexchange.com"),
        ("mathoverflow.net.7z", "mathoverflow.net"),
        ("superuser/Posts.xml", "superuser.com"),
        ("pt.stackoverflow/Posts.xml", "pt.stackoverflow.com"),
        ("meta.mathoverflow/Posts.xml", "meta.mathoverflow.net"),
        ("meta.stackexchange/Posts.xml", "meta.stackexchange.com"),
        ("gis/Posts.xml", "gis.stackexchange.com"),
        ("gis.meta/Posts.xml", "gis.meta.stackexchange.com"),
        # Folders that are named for what they hold are those of no site.
        ("gis.stackexchange.com/data/Posts.xml", "gis.stackexchange.com"),
        ("dumps/gis/2024-04/xml/Posts.xml", "gis.stackexchange.com"),
        ("data/Posts.xml", "data"),
        ("dump/Posts.xml.bz2", "dump"),
        ("v1.2/Posts.xml", "v1_2"),
        ("posts.7z", "posts"),
    ],
)
def test_site_of(tmp_path: Path, name: str, site: str) -> None:
    make_site(tmp_path, name, 1)
    (file,) = walk(tmp_path, follow_symlinks=False).files
    assert site_of(file) == site


def test_a_site_in_a_folder_of_other_bytes_has_a_name_that_can_be_written(tmp_path: Path) -> None:
    make_site(tmp_path, os.fsdecode(b"x\xff.com/Posts.xml"), 1)
    (file,) = walk(tmp_path, follow_symlinks=False).files
    assert site_of(file).encode() == b"x\\xff.com"


def test_the_list_has_28_sites() -> None:
    assert len(set(STACK_EXCHANGE_SITES)) == 28


GOOD = posts(question(1), answer(2, 1, 1)).encode()
THREAD = ("Q: Title 1\n\nBody\n\nA: Answer 2", 1)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("Posts.xml", b"\xef\xbb\xbf" + GOOD, [THREAD]),
        ("Posts.xml.gz", gzip.compress(GOOD), [THREAD]),
        ("Posts.xml", GOOD.decode().encode("utf-16"), [THREAD]),
        ("Posts.xml", GOOD.replace(b" />", b"></row>"), [THREAD]),
        ("a.7z", archive(Posts__xml=GOOD, Users__xml=b"x"), [THREAD]),
        ("a.7z", archive(Users__xml=b"x"), [("damaged", None)]),
        ("a.7z", b"7z", [("damaged", None)]),
        ("Posts.xml", GOOD[:-5], [("truncated", 2), THREAD]),
        (
            "Posts.xml",
            GOOD[:-30],
            [("damaged_post", 2), ("truncated", 2), ("Q: Title 1\n\nBody", 1)],
        ),
        ("Posts.xml.gz", gzip.compress(GOOD)[:-4], [("damaged", 2), THREAD]),
        ("Posts.xml", b"", [("no_posts", None)]),
        ("Posts.xml", b"<users></users>", [("no_posts", None)]),
    ],
)
def test_containers_and_damage(
    tmp_path: Path, name: str, data: bytes, expected: list[tuple[str, int | None]]
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert summary(read(path)) == expected


def test_missing_file(tmp_path: Path) -> None:
    for name in ("Posts.xml", "site.7z"):
        file = InputFile(tmp_path / name, name, 0, 0)
        (item,) = stack_exchange.read(file, **RULES)
        assert isinstance(item, Rejected)
        assert item.reason == "unreadable"


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_every_input_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("nasty")
    for name, data in nasty_stack_exchange(random.Random(seed)):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        items = read(path)
        assert items, name
        ids = [item.offset for item in items if isinstance(item, Document)]
        assert len(ids) == len(set(ids))


def many_rows(num_questions: int, words: int = 50) -> list[str]:
    """Each question with two answers that come much later, in no order."""
    rng = random.Random(0)
    answers = [
        answer(num_questions + i, i // 2 + 1, i % 7, f"<p>{'text' * words}</p>")
        for i in range(1, 2 * num_questions + 1)
    ]
    rng.shuffle(answers)
    return [*(question(i + 1) for i in range(num_questions + 1)), *answers]


def test_the_result_does_not_depend_on_memory(tmp_path: Path) -> None:
    rows = many_rows(499)
    by_memory = [
        read_posts(tmp_path, *rows, max_memory_bytes=size) for size in (1 << 24, 1 << 16, 1 << 14)
    ]
    first, *others = [sorted(summary(items), key=lambda i: i[1] or 0) for items in by_memory]
    assert [offset for _, offset in first] == list(range(1, 501))
    assert others == [first, first]
    in_memory = summary(by_memory[0])
    assert in_memory == sorted(in_memory, key=lambda i: i[1] or 0)


def test_a_thread_that_fits_nowhere_is_counted(tmp_path: Path) -> None:
    huge = (answer(10 + i, 1, 1, "x" * 1000) for i in range(100))
    items = read_posts(tmp_path, question(1), *huge, question(2), max_memory_bytes=20_000)
    assert sorted(summary(items)) == [("Q: Title 2\n\nBody", 2), ("thread_too_large", 1)]


def test_memory_stays_flat_and_nothing_is_left_behind(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    rows = many_rows(399, words=12_000)
    site = tmp_path / "gis"
    site.mkdir()
    with gzip.open(site / "Posts.xml.gz", "wt", compresslevel=1) as file:
        file.write(posts(*rows))
    del rows
    info = (site / "Posts.xml.gz").stat()
    file_ = InputFile(site / "Posts.xml.gz", "gis/Posts.xml.gz", info.st_size, info.st_mtime_ns)
    tracemalloc.start()
    num_documents = 0
    limits = {"max_memory_bytes": 1 << 20, "work_folder": work}
    for _ in stack_exchange.read(file_, **(RULES | limits)):
        num_documents += 1
        assert not os.listdir(work), "temporary files have no names"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_documents == 400
    # 40 MB of text go through 64 blocks of 128 KiB that wait to be written.
    assert peak < 16 << 20


def test_a_full_disk_is_an_error_and_not_a_damaged_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match=r"missing: .* choose a work_folder"):
        read_posts(tmp_path, *many_rows(200), max_memory_bytes=1 << 14, work_folder=missing)


TAG = re.compile(
    r"</?(?:p|a|b|i|em|strong|code|pre|ul|ol|li|blockquote|h[1-6]|br|hr|img|div|span)\b"
)


def test_samples(samples: Path) -> None:
    """Every real post is in a document or counted, and no tag is left that HTML made."""
    root = samples / "raw" / "stack_exchange"
    source = stack_exchange_source()
    found = source.inputs(root)
    assert len(found.files) == 3
    assert Counter(item.reason for item in found.ignored) == {"other_table": 4}
    counts: Counter[str] = Counter()
    num_shown = num_tags = 0
    for file in found.files:
        raw = file.path.read_text("utf-8-sig")
        # Tags that posts show as text are escaped twice in the attribute.
        num_shown += len(re.findall(r"&amp;lt;/?\w", raw))
        for item in source.read(file):
            counts[item.reason if isinstance(item, Rejected) else "kept"] += 1
            if isinstance(item, Document):
                num_tags += len(TAG.findall(item.text))
                assert item.text.startswith("Q: ")
    assert counts == {"kept": 274 + 397 + 254, "other_post_type": 20 + 157 + 26}
    assert num_tags <= num_shown
    assert num_tags < 20
