"""The dataset job on one's own text and tokenizer, and on one's own corpus function."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
from transformers import AutoTokenizer

from data_pipeline.build.old_results import num_bytes
from data_pipeline.commands import build_text, console
from data_pipeline.commands.build import LOCK_FILE
from data_pipeline.commands.build_text import corpus_function
from data_pipeline.documents_folder import load_documents, read_manifest
from data_pipeline.files.folder_lock import FolderLock
from data_pipeline.report.account import BuildAccount
from data_pipeline.tokens.store import SPLITS, TokenStore
from tests.support.huggingface_tokenizers import KINDS, byte_level_bpe, write
from tests.support.tokenizer_texts import HOSTILE, prose

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "recipes" / "build_text.sh"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Every kind of file: 60 documents of prose, the hostile ones, a copy and an empty text."""
    root, texts = tmp_path / "raw", prose()
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_text(texts[0])
    (root / "deep" / "b.md").write_text(texts[1])
    (root / "c.txt.gz").write_bytes(gzip.compress(texts[2].encode()))
    rows = [{"body": text, "license": "MIT"} for text in (*texts[3:30], texts[0], "")]
    (root / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pa.table({"body": [*texts[30:], *HOSTILE]})
    pq.write_table(table, root / "deep" / "e.parquet")
    (root / "f.png").write_bytes(b"\x89PNG")
    return root


def build(raw: Path | str, out: Path, *more: str) -> int:
    options = ("--raw", str(raw), "--out", str(out), "--text-field", "body", "--holdout", "0.1")
    return build_text.run([*options, *more], prog="recipes/build_text.sh")


def ids_by_document(out: Path) -> dict[str, list[int]]:
    """Of the store: the document's text -> its ids."""
    store = TokenStore.open(out / "store")
    store.verify()
    texts = load_documents(out / "documents" / "text")
    text_of = dict(zip(texts["id"], texts["text"], strict=True))
    found: dict[str, list[int]] = {}
    for split in SPLITS:
        for file in store.manifest.sources["text"][split].files:
            with pa.memory_map(str(store.path / file.path)) as source:
                table = pa.ipc.open_stream(source).read_all()
            for row in table.to_pylist():
                found[text_of[row["id"]]] = row["input_ids"]
    return found


def test_a_new_tokenizer_is_trained(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert build(raw, out, "--tokenizer.vocab-size", "400", "--executor", "local") == 0
    shown = capsys.readouterr().out
    assert f"--data.store {out}/store" in shown
    assert "--model.vocab-size 400" in shown
    assert "--data.shares" not in shown
    assert f"bash recipes/build_text.sh plan --store {out}/store" in shown
    account = BuildAccount.from_json((out / "report.json").read_bytes())
    (source,) = account.sources
    assert (account.corpus, source.name, source.ignored) == ("raw", "text", {"unknown_kind": 1})
    assert [file.name for file in source.files][-1] in {"a.txt", "c.txt.gz", "deep/b.md"}
    assert len(account.samples) == 6
    known = {text[:2_000] for text in (*prose(), *HOSTILE)}
    assert {sample.text for sample in account.samples} <= known
    costs = {row.stage: row for row in account.costs}
    assert (costs["read"].memory_bytes or 0) > 30 << 20
    assert costs["tokenize"].disk_bytes == num_bytes([out / "store"])
    assert account.mixture[0].share == 1.0
    assert account.mixture[0].stated_share is None
    assert account.token_budget is None
    assert "Stated" not in (out / "report.html").read_text()
    dropped = read_manifest(out / "documents" / "text").dropped
    assert dropped["duplicate"] == 1
    assert "# raw" in (out / "documents" / "README.md").read_text()
    processor = sentencepiece.SentencePieceProcessor(
        model_file=str(out / "tokenizer" / "tokenizer.model")
    )
    assert TokenStore.open(out / "store").manifest.tokenizer_kind == "sentencepiece"
    for text, ids in ids_by_document(out).items():
        assert ids == processor.encode(text, add_bos=True, add_eos=True)

    again = ["plan", "--store", str(out / "store"), "--tokens", "1M"]
    assert build_text.run(again, prog="llama-ds-build") == 0
    assert "text" in capsys.readouterr().out
    assert build(raw, out, "--inspect", "text", "--reason", "duplicate") == 0
    assert "== duplicate" in capsys.readouterr().out


def test_a_second_build_in_one_folder_is_refused(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FolderLock(out / LOCK_FILE, advice="wait"):
        with pytest.raises(ValueError, match=r"out is in use by another job.*another --out"):
            build(raw, out, "--documents-only")
        assert [path.name for path in out.iterdir()] == [LOCK_FILE]
    assert build(raw, out, "--documents-only") == 0
    assert not (out / LOCK_FILE).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_tokenizer_json_alone(raw: Path, tmp_path: Path, kind: str) -> None:
    given = write(KINDS[kind](), tmp_path / "given")
    (given / "model.safetensors").write_bytes(b"weights, which nobody copies")
    out = tmp_path / "out"
    assert build(raw, out, "--tokenizer.path", str(given), "--jobs", "2") == 0
    store = TokenStore.open(out / "store")
    manifest = store.manifest
    names = ["manifest.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in store.tokenizer_dir.iterdir()) == names
    assert (store.tokenizer_dir / "tokenizer.json").read_bytes() == (
        given / "tokenizer.json"
    ).read_bytes()
    assert manifest.tokenizer_kind == "huggingface"
    tokenizer: Any = AutoTokenizer.from_pretrained(store.tokenizer_dir, split_special_tokens=True)
    assert manifest.vocab_size == len(tokenizer)
    assert (manifest.bos_token_id, manifest.eos_token_id) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    )
    found = ids_by_document(out)
    assert len(found) > 70
    for text, ids in found.items():
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == [manifest.bos_token_id, *own, manifest.eos_token_id], repr(text[:99])
    account = BuildAccount.from_json((out / "report.json").read_bytes())
    assert account.tokenizer is not None
    assert account.tokenizer.kind.startswith("Hugging Face tokenizers; BOS ")


@pytest.mark.slow
def test_a_sentencepiece_model_and_a_tokenizer_json_file(
    raw: Path, tmp_path: Path, samples: Path
) -> None:
    model = samples / "tokenizer" / "tokenizer.model"
    assert build(raw, tmp_path / "model", "--tokenizer.path", str(model)) == 0
    folder = tmp_path / "model" / "tokenizer"
    only_json = tmp_path / "json"
    shutil.copytree(folder, only_json)
    (only_json / "tokenizer.model").unlink()
    (only_json / "manifest.json").unlink()
    file = str(only_json / "tokenizer.json")
    assert build(raw, tmp_path / "out", "--tokenizer.path", file) == 0
    stores = [TokenStore.open(tmp_path / name / "store") for name in ("model", "out")]
    assert [store.manifest.tokenizer_kind for store in stores] == ["sentencepiece", "huggingface"]
    streams = [store.stream("text", "train") for store in stores]
    assert streams[0].num_tokens == streams[1].num_tokens
    first, second = (stream.window(0, stream.num_tokens) for stream in streams)
    np.testing.assert_array_equal(first, second)
    compare = ["compare-tokenizers", "--out", str(tmp_path / "out"), "--tokenizers", str(model)]
    assert build_text.run([*compare, str(only_json)], prog="llama-ds-build") == 0


def files_of(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for folder in ("documents", "store", "tokenizer")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file() and not {"README.md", ".parts", "cache"}.intersection(path.parts)
    }


@pytest.mark.slow
def test_any_number_of_processes_and_a_url_give_the_same(raw: Path, tmp_path: Path) -> None:
    given = str(write(byte_level_bpe(), tmp_path / "given"))
    for jobs in ("1", "2"):
        options = ("--tokenizer.path", given, "--jobs", jobs)
        assert build(raw, tmp_path / jobs, *options, "--executor", "local") == 0
    one = files_of(tmp_path / "1")
    assert one == files_of(tmp_path / "2")
    assert len(one) > 10
    assert build(f"file://{raw}", tmp_path / "url", "--tokenizer.path", given) == 0
    assert files_of(tmp_path / "url") == one


@pytest.mark.slow
def test_another_end_of_documents_makes_another_store(raw: Path, tmp_path: Path) -> None:
    given, out = write(byte_level_bpe(), tmp_path / "given"), tmp_path / "out"
    for name, number in (("<|eot_id|>", 2), ("<|end_of_text|>", 1)):
        options = ("--tokenizer.path", str(given), "--tokenizer.eos-token", name)
        assert build(raw, out, *options) == 0
        store = TokenStore.open(out / "store")
        assert store.manifest.eos_token_id == number
        assert all(ids[-1] == number for ids in ids_by_document(out).values())


@pytest.mark.parametrize("kind", KINDS)
def test_removal_counts_what_it_takes_out(raw: Path, tmp_path: Path, kind: str) -> None:
    given, out = write(KINDS[kind](), tmp_path / "given"), tmp_path / "out"
    assert build(raw, out, "--tokenizer.path", str(given)) == 0
    documents = load_documents(out / "documents" / "text")
    number = documents["text"].index(prose()[7])
    before = TokenStore.open(out / "store").manifest.sources["text"]
    assert (
        build_text.run(
            ["remove", "--out", str(out), "--ids", documents["id"][number]], prog="llama-ds-build"
        )
        == 0
    )
    found = ids_by_document(out)
    assert prose()[7] not in found
    after = TokenStore.open(out / "store").manifest.sources["text"]
    lost = sum(before[s].num_text_bytes - after[s].num_text_bytes for s in SPLITS)
    assert lost == len(prose()[7].encode())


@pytest.mark.slow
def test_a_killed_build_continues(tmp_path: Path) -> None:
    raw, text = tmp_path / "raw", "\n".join(prose())
    raw.mkdir()
    for number in range(40):
        (raw / f"{number}.txt").write_text(f"{number} {text}")
    given = str(write(byte_level_bpe(), tmp_path / "given"))
    command = [sys.executable, "-m", "recipes.build_text", "--raw", str(raw)]
    options = ["--tokenizer.path", given, "--jobs", "2", "--out"]
    process = subprocess.Popen(
        [*command, *options, str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parts, deadline = tmp_path / "out" / "documents" / ".parts", time.monotonic() + 100
    while process.poll() is None and not parts.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert parts.exists()
    assert not (tmp_path / "out" / "store").exists()
    for out in ("out", "whole"):
        done = subprocess.run(
            [*command, *options, str(tmp_path / out)], cwd=ROOT, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_documents_that_have_evaluation_items_go(raw: Path, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "quiz.jsonl").write_text(json.dumps({"question": " ".join(prose()[5].split()[:40])}))
    options = ("--decontaminate.sets", str(sets), "--documents-only")
    assert build(raw, tmp_path / "out", *options) == 0
    manifest = read_manifest(tmp_path / "out" / "documents" / "text")
    assert manifest.contaminated == {"quiz": 1}
    assert not (tmp_path / "out" / "tokenizer").exists()
    near = ("--deduplication.near-duplicates", "0.8", "--documents-only")
    assert build(raw, tmp_path / "out", *near) == 0


# -- one's own corpus -----------------------------------------------------------------------------

OWN = """
from dataclasses import replace
from functools import partial
from data_pipeline.corpus import Corpus, text_corpus
from data_pipeline.document import Document

def no_letter_z(document: Document) -> str | None:
    return "has_z" if "z" in document.text else None

def own_corpus(raw):
    (source, _), = text_corpus(raw).sources
    notes = replace(source, name="notes", filters=(no_letter_z,), origin="my desk", terms="mine")
    return Corpus("mine", ((notes, raw / "notes"), (replace(notes, name="more"), raw / "more")),
                  shares={"notes": 3, "more": 1}, token_budget=1_000_000)

def nothing(raw):
    return raw
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / f"own_corpus_{tmp_path.name.replace('-', '_')}.py"
    file.write_text(OWN)
    for name, texts in (("notes", ["a note", "a puzzle"]), ("more", ["more of it", "the last"])):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number, text in enumerate(texts):
            (tmp_path / "raw" / name / f"{number}.txt").write_text(text)
    return file


def test_a_corpus_of_ones_own(own: Path, tmp_path: Path) -> None:
    given = write(byte_level_bpe(), tmp_path / "given")
    out = tmp_path / "out"
    options = ["--raw", str(tmp_path / "raw"), "--out", str(out), "--corpus", f"{own}:own_corpus"]
    options += ["--tokenizer.path", str(given), "--holdout", "0", "--jobs", "2"]
    assert build_text.run(options, prog="llama-ds-build") == 0
    account = BuildAccount.from_json((out / "report.json").read_bytes())
    assert (account.corpus, account.token_budget) == ("mine", 1_000_000)
    assert [row.share for row in account.mixture] == [0.75, 0.25]
    assert account.sources[0].origin == "my desk"
    assert read_manifest(out / "documents" / "notes").dropped == {"has_z": 1}
    with pytest.raises(ValueError, match="--text-field and --max-document-bytes have no effect"):
        build_text.run([*options, "--text-field", "body"], prog="llama-ds-build")
    with pytest.raises(ValueError, match=r"--corpus .*:nothing returned a PosixPath, not a"):
        build_text.run([*options, "--corpus", f"{own}:nothing"], prog="llama-ds-build")


def test_corpora_that_are_none(own: Path, tmp_path: Path) -> None:
    for place in ("gone.py:corpus", str(own), f"{own.parent}:own_corpus"):
        with pytest.raises(ValueError, match=r"is not FILE.py:FUNCTION of a file that exists"):
            corpus_function(place)
    with pytest.raises(ValueError, match="has no function missing"):
        corpus_function(f"{own}:missing")
    shutil.copy(own, tmp_path / "json.py")
    with pytest.raises(ValueError, match=r"another module is called json .*; rename"):
        corpus_function(f"{tmp_path / 'json.py'}:own_corpus")
    shutil.copy(own, tmp_path / "my-corpus.py")
    with pytest.raises(ValueError, match=r"my-corpus.py cannot be imported by its name"):
        corpus_function(f"{tmp_path / 'my-corpus.py'}:own_corpus")


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing value for --raw|Required options|--raw"),
        (("--raw", "/no/such/folder"), "--raw: there is no /no/such/folder; put the files there"),
        (("--tokenizer.path", "/no/tokenizer"), "there is no tokenizer /no/tokenizer"),
        (("--tokenizer.bos-token", "<s>"), "--tokenizer.bos-token and --tokenizer.eos-token name"),
        (("--corpus", "nothing"), "--corpus: nothing is not FILE.py:FUNCTION"),
        (("--executer", "ray"), "--executer"),
        (("--deduplication.same-url",), "deduplication.same_url: no source of the corpus raw has"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(
    raw: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = () if not arguments or "--raw" in arguments else ("--raw", str(raw))
    done = subprocess.run(
        ["bash", str(SCRIPT), *given, "--out", str(tmp_path / "out"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.slow
def test_the_console_command_needs_no_recipes(raw: Path, tmp_path: Path) -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="llama-ds-build")
    assert command.load() is console.main
    code = "import sys; sys.modules['recipes'] = None; from data_pipeline.commands import console"
    started = [sys.executable, "-c", f"{code}; console.main()"]
    options = ["--raw", str(raw), "--out", str(tmp_path / "out"), "--documents-only", "--jobs", "1"]
    done = subprocess.run(
        [*started, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    # Without --text-field there is no text but that of plain-text files.
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "out" / "documents" / "text").num_kept == 3
    refused = subprocess.run(
        [*started, "--raw", "gone", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (refused.returncode, refused.stderr) == (
        2,
        "error: --raw: there is no gone; put the files there\n",
    )
