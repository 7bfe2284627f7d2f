"""Decontamination: what is found, what is not, what is reported, and the dataset job's option."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.document import Document, Rejected
from data_pipeline.documents_folder import load_documents, read_manifest
from data_pipeline.files.model_file import ModelFile, model_file
from data_pipeline.filters.decontamination import (
    EvaluationIndex,
    IndexAccount,
    build_index,
    drop_contaminated,
    flag_contaminated,
)
from data_pipeline.filters.evaluation_sets import read_evaluations
from data_pipeline.report.account import BuildAccount
from recipes.build_dataset import run
from recipes.llama1_corpus import CrawlModels, llama1_corpus

QUESTION = (
    "Which harbour town exported most of the herring that northern monasteries bought before 1400?"
)
SHORT = "who painted the green door of the mill"
BEFORE, AFTER = "Some words that stand before it. ", " And some others that follow."


def written(folder: Path, name: str, *records: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def index_of(folder: Path, words: int = 13, *, passages: bool = False) -> EvaluationIndex:
    return build_index(folder, words=words, passages=passages)[0]


def account_of(folder: Path) -> IndexAccount:
    return build_index(folder, words=13)[1]


@pytest.fixture
def evaluations(tmp_path: Path) -> Path:
    folder = tmp_path / "eval"
    record = {"question": QUESTION, "choices": {"text": ["Bergen", "Danzig"], "label": ["A", "B"]}}
    written(folder, "history.test.jsonl", record, {"question": SHORT, "answer": ["Aalto"]})
    return folder


# -- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        (QUESTION, True),
        (BEFORE + QUESTION + AFTER, True),
        (BEFORE * 40_000 + QUESTION + AFTER, True),
        (QUESTION.upper(), True),
        (QUESTION.replace(" ", ",\n-- ").replace("?", " ..."), True),
        # 13 of its 14 words, and 12.
        (BEFORE + " ".join(QUESTION.split()[1:]), True),
        (BEFORE + " ".join(QUESTION.split()[2:]), False),
        (QUESTION.replace("herring", "herrings"), False),
        (" ".join(sorted(QUESTION.split())), False),
        (SHORT, True),
        (BEFORE + SHORT.title() + "?" + AFTER, True),
        (SHORT.replace("green", "red"), False),
        (SHORT.rpartition(" ")[0], False),
        ("", False),
        ("Word.", False),
    ],
)
def test_items_are_found_by_their_words(evaluations: Path, text: str, is_found: bool) -> None:
    assert bool(index_of(evaluations).hits(text)) == is_found


def test_how_much_of_which_item(evaluations: Path) -> None:
    written(evaluations, "mmlu/other.dev.jsonl.gz", {"q": SHORT.replace("mill", "barn")})
    index = index_of(evaluations)
    hits = index.hits(f"{SHORT}. {QUESTION} {SHORT.replace('mill', 'barn')}")
    assert list(hits) == ["history.test", "mmlu/other.dev"]
    assert hits["history.test"].num_items == 2
    assert hits["mmlu/other.dev"].number == 1
    hit = index.hits(QUESTION)["history.test"]
    assert (hit.num_items, hit.number, hit.found) == (1, 1, 2)
    # The question's two, and those that reach into the answers: 4 with labels, 2 without.
    assert hit.num_ngrams == 2 + 4


def test_fewer_words_find_more(evaluations: Path) -> None:
    text = BEFORE + " ".join(QUESTION.split()[4:])
    assert not index_of(evaluations, 13).hits(text)
    assert index_of(evaluations, 8).hits(text)
    with pytest.raises(ValueError, match=r"words \(4\) must be from 5"):
        index_of(evaluations, 4)


# -- what does not count --------------------------------------------------------------------------


def test_templates_do_not_count(tmp_path: Path) -> None:
    template = (
        "For which of these scenarios does the main character do something clearly wrong "
        "according to ordinary standards of this century?"
    )
    places = ("harbour", "orchard", "library", "station", "bakery")
    stories = [
        f"I walked from the {p} towards the old {p} keeper because he called." for p in places
    ]
    written(tmp_path, "moral.jsonl", *({"q": f"{template} {story}"} for story in stories))
    index = index_of(tmp_path)
    assert not index.hits(template)
    assert index.hits(stories[1])["moral"].number == 2


def test_equal_items_are_one(tmp_path: Path) -> None:
    written(tmp_path, "a.jsonl", *[{"q": QUESTION}] * 20, {"q": SHORT})
    assert account_of(tmp_path).sets["a"].items == 2
    assert index_of(tmp_path).hits(QUESTION)["a"].number == 1


def test_numbers_and_idioms_do_not_count(tmp_path: Path) -> None:
    idiom = "for i in range(2, int(math.sqrt(n)) + 1):\n    if n % i == 0:\n        return False"
    numbers = " ".join(map(str, range(30)))
    written(tmp_path, "code.jsonl", {"text": QUESTION, "code": idiom, "list": numbers})
    written(tmp_path, "short.jsonl", {"q": "Predators eat", "a": "grass"}, {"q": numbers})
    index, account = build_index(tmp_path, words=13)
    assert not index.hits(idiom)
    assert not index.hits(numbers)
    short = account.sets["short"]
    assert (short.items, short.indexed, short.too_short, short.not_distinctive) == (2, 0, 1, 1)


def test_passages_count_only_if_asked_for(tmp_path: Path) -> None:
    passage = "The bridge across the river was finished in spring by masons from three villages."
    written(tmp_path, "boolq.jsonl", {"question": SHORT, "answer": True, "passage": passage})
    assert not index_of(tmp_path).hits(passage)
    assert index_of(tmp_path).hits(SHORT)
    assert index_of(tmp_path).hits(f"the mill? {passage}")
    assert index_of(tmp_path, passages=True).hits(passage)


def test_urls_are_no_items(tmp_path: Path) -> None:
    url = "https://www.example.org/wiki/List_of_harbours_and_towns_of_the_northern_coast"
    written(tmp_path, "a.jsonl", {"q": QUESTION, "source": url})
    assert not index_of(tmp_path).hits(url)


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "num_items"),
    [
        ("a.json", '{"Data": [{"Q": {"deep": ["%s"]}}, {"Q": "x"}], "Version": 1.0}', 2),
        ("a.json", '[\n{"q": "%s"},\n"b"\n]', 2),
        ("a.json", '{"7": {"q": "%s"}, "8": {"q": "b"}}', 2),
        ("a.json", '{"q": "%s"}\n{"q": "b"}\n\n{"q": "c"}', 3),
        ("a.json", '{"q": "%s", "choices": ["x", "y"]}', 1),
        ("a.jsonl", '{"q": [{"text": "%s"}]}', 1),
        ("a.jsonl", '{\n"data": [{"q": "%s"}, {"q": "b"}]\n}', 2),
        ("a.ndjson", '\ufeff{"q": "%s"}\r\n{"q": "b"}\r\n', 2),
        ("a.csv", '"%s",A,B\n"b, c",C,D\n', 2),
        ("a.tsv", "%s\tA\nb\tC\n", 2),
    ],
)
def test_forms_of_files(tmp_path: Path, name: str, text: str, num_items: int) -> None:
    (tmp_path / name).write_text(text % QUESTION, encoding="utf-8")
    account = account_of(tmp_path)
    assert account.problems == ()
    assert account.sets["a"].items == num_items
    assert index_of(tmp_path).hits(QUESTION)["a"].number == 1


def test_parquet_and_sets_of_one_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": [QUESTION, "b"], "n": [1, 2]}), tmp_path / "a.parquet")
    written(tmp_path, "a.jsonl", {"q": SHORT})
    assert list(account_of(tmp_path).sets) == ["a", "a.parquet"]


def test_damage_and_unknown_files_are_reported(evaluations: Path) -> None:
    whole = written(evaluations, "cut.jsonl.gz", *({"q": f"{QUESTION} {n}"} for n in range(999)))
    whole.write_bytes(whole.read_bytes()[:-40])
    (evaluations / "noise.jsonl.gz").write_bytes(b"\x00noise")
    (evaluations / "notes.txt").write_text("What these are.")
    (evaluations / "lines.jsonl").write_text(f'{{"q": "{SHORT}"}}\n{{"q": "broken\n[]\n3\n')
    (evaluations / "none.json").write_bytes(b"")
    (evaluations / "bad.parquet").write_bytes(b"PAR1")
    (evaluations / ".hidden").write_bytes(b"")
    account = account_of(evaluations)
    reasons = {(p.file, p.reason.split(":")[0].split(" after")[0]) for p in account.problems}
    assert reasons >= {
        ("cut.jsonl.gz", "damaged"),
        ("noise.jsonl.gz", "damaged"),
        ("notes.txt", "unknown format; supported are .csv, .json, .jsonl, .ndjson, .parquet, .tsv, "
         "compressed or not"),
        ("lines.jsonl", "line 2 is not JSON"),
        ("lines.jsonl", "record 2 has no strings"),
        ("none.json", "empty"),
        ("bad.parquet", "damaged"),
        (".hidden", "hidden"),
    }  # fmt: skip
    assert account.sets["lines"].items == 1
    assert account.sets["cut"].items > 100  # all before the damage


def test_nothing_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone does not exist"):
        index_of(tmp_path / "gone")
    (tmp_path / "readme.md").write_text("none")
    with pytest.raises(ValueError, match=r"no evaluation items .*readme.md: unknown format"):
        index_of(tmp_path)


# -- edits and the option -------------------------------------------------------------------------


def saved(evaluations: Path, path: Path) -> ModelFile:
    index_of(evaluations).save(path)
    return model_file(path, what="index", published="", made_by="", left_out_by="")


def test_edits_drop_or_flag(evaluations: Path, tmp_path: Path) -> None:
    index = saved(evaluations, tmp_path / "a.npz")
    assert saved(evaluations, tmp_path / "b.npz").xxh3_64 == index.xxh3_64
    clean, dirty = Document("Other words.", "a", 1), Document(QUESTION, "a", 2)
    assert drop_contaminated(clean, index=index) == flag_contaminated(clean, index=index) == clean
    dropped = drop_contaminated(dirty, index=index)
    assert isinstance(dropped, Rejected)
    assert (dropped.reason, dropped.offset) == ("contaminated", 2)
    assert dropped.detail == '{"history.test": "2 of 6 n-grams of item 1"}'
    assert flag_contaminated(dirty, index=index) == replace(dirty, contamination=dropped.detail)


@pytest.mark.slow
def test_the_option(evaluations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prose = [
        f"The river rose slowly over field number {n}, and people watched it. " for n in (1, 2)
    ]
    texts = [
        *prose,
        f"{QUESTION} Nobody in this quiet valley ever asked it again.",
        f"{SHORT}. {QUESTION} Then came winter with long nights and little bread.",
    ]
    (tmp_path / "raw" / "books").mkdir(parents=True)
    for number, text in enumerate(texts):
        (tmp_path / "raw" / "books" / f"{number}.txt").write_text(text)
    (evaluations / "notes.txt").write_text("none")
    out = tmp_path / "out"
    command = ["--raw", str(tmp_path / "raw"), "--out", str(out), "--sources", "books"]
    command += ["--jobs", "1", "--documents-only"]

    def built(*more: str) -> dict[str, Any]:
        assert run([*command, *more]) == 0
        account = BuildAccount.from_json((out / "report.json").read_bytes())
        manifest = read_manifest(out / "documents" / "books")
        assert manifest.num_read == 4
        hits = {found.name: found.hits for found in account.evaluations}
        return {"num_kept": manifest.num_kept, "dropped": manifest.dropped, "hits": hits}

    assert built()["num_kept"] == 4
    assert not (out / "evaluations.npz").exists()
    options = ("--decontaminate.sets", str(evaluations))
    dropped = built(*options)
    assert (dropped["num_kept"], dropped["dropped"]) == (2, {"contaminated": 2})
    assert dropped["hits"] == {"history.test": 2}
    shown = capsys.readouterr().out
    assert shown.split("evaluation set")[1].splitlines()[1].split() == [
        *("history.test", "2", "2", "0", "0", "2")
    ]
    assert "not read: notes.txt: unknown format" in shown
    assert run([*command, "--inspect", "books", "--reason", "contaminated"]) == 0
    assert ', 2 items in all"}' in capsys.readouterr().out

    flagged = built(*options, "--decontaminate.flag-only")
    assert (flagged["num_kept"], flagged["hits"]) == (4, {"history.test": 2})
    table = load_documents(out / "documents" / "books")
    assert [flag is not None for flag in table["contamination"]] == [False, False, True, True]
    # Other items make another build, and so do fewer words.
    written(evaluations, "more.jsonl", {"q": prose[0]})
    assert built(*options)["num_kept"] == 1
    assert run([*command, *options, "--decontaminate.words", "5"]) == 1
    assert "no document was kept of: books" in capsys.readouterr().err


# -- real files -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_sample_item_is_found(samples: Path) -> None:
    index, account = build_index(samples / "eval", words=13)
    assert account.problems == ()
    missed: dict[str, int] = {}
    for file in read_evaluations(samples / "eval"):
        for item in file.items:
            text = BEFORE + "\n".join(string.text for string in item.strings) + AFTER
            if file.name not in index.hits(text):
                missed[file.name] = missed.get(file.name, 0) + 1
    expected = {n: s.too_short + s.not_distinctive for n, s in account.sets.items()}
    assert missed == {name: count for name, count in expected.items() if count}
    # Six-word questions, and six completions such as "return 1".
    assert sum(missed.values()) <= 5
    assert all(s.indexed for s in account.sets.values())


@pytest.mark.slow
def test_what_samples_of_the_sources_lose(samples: Path) -> None:
    """One book, for its first page, which an MMLU question quotes."""
    index, _ = build_index(samples / "eval", words=13)
    corpus = llama1_corpus(samples / "raw", CrawlModels(identify_language=False))
    hits = []
    for source, root in corpus.sources:
        for file in source.inputs(root).files:
            for item in source.read(file):
                if isinstance(item, Document) and (found := index.hits(item.text)):
                    hits.append((item.source_file.rpartition("/")[2], found))
    book = ("98-0.txt", "mmlu/high_school_world_history.test")
    assert {(name, *found) for name, found in hits} == {book}, hits
