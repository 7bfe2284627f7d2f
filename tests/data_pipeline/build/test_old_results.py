"""What a build leaves of other code, thresholds and files."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from data_pipeline.build.build_corpus import build_documents
from data_pipeline.build.old_results import OldResults, num_bytes
from data_pipeline.build.parts import PartSizes
from data_pipeline.document import Document, Source
from data_pipeline.sources import folder

TEXT = Source(
    name="text",
    inputs=folder.inputs,
    read=partial(folder.read, text_field="text", max_document_bytes=1000),
)


def upper(document: Document) -> Document:
    return document.with_text(document.text.upper())


def test_old_results_stay_until_they_are_forgotten(tmp_path: Path) -> None:
    build = partial(build_documents, part_sizes=PartSizes(input_bytes=1))
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a", "b", "c"):
        (raw / f"{name}.txt").write_text(f"text {name}")
    out, found = tmp_path / "out", list[OldResults]()
    build(TEXT, raw, out, found_old=found.append)
    assert found == [OldResults()]
    before = {path: path.stat().st_ino for path in tmp_path.glob(".parts/out/*/*")}
    rules = set(tmp_path.glob(".rules/out/*-*"))
    # Of a build that was killed as it compared paragraphs; and of one that was writing.
    (tmp_path / ".parts/out/marked/other/hashes/00000").mkdir(parents=True)
    unfinished = next(iter(before)).with_name(".name.tmp-machine-1")
    unfinished.mkdir()
    changed = replace(TEXT, edits=(upper,))
    build(changed, raw, out, found_old=found.append)
    assert not unfinished.exists()
    assert set(found[1].parts) == {*before, tmp_path / ".parts/out/marked/other"}
    assert set(found[1].rules) == rules
    sizes = [path.stat().st_size for folder in before for path in folder.iterdir()]
    assert num_bytes(found[1].parts) == sum(sizes)
    # What is gone back to is found again.
    build(TEXT, raw, out)
    assert {path: path.stat().st_ino for path in before} == before
    build(changed, raw, out, found_old=OldResults.forget)
    left = set(tmp_path.glob(".parts/out/*/*"))
    assert len(left) == 3
    assert not left & set(before)
    assert len(set(tmp_path.glob(".rules/out/*-*"))) == 1
    build(changed, raw, out, found_old=found.append)
    assert found[-1] == OldResults()
