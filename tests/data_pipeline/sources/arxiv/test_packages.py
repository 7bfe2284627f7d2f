"""arXiv: packages of every kind, bulk files, and the mistakes that others made with them."""

import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import pytest

from data_pipeline.document import Document, Rejected, Source
from data_pipeline.files.inputs import InputFile
from data_pipeline.sources import arxiv
from data_pipeline.sources.arxiv.packages import paper_id
from recipes.llama1_corpus import arxiv_source
from tests.support.damage import gzipped
from tests.support.nasty_arxiv import hostile_texts, nasty_arxiv, odd_archive, tar_of

SOURCE = arxiv_source()
HEAD = "\\documentclass{article}\n\\title{A title}\n\\begin{document}\n\\maketitle\n"
PAPER = f"{HEAD}\\section{{One}}\nBody.\n\\end{{document}}\n"
small_read = partial(arxiv.read, max_package_bytes=1_000_000, max_text_bytes=100_000)


def edited(item: Document | Rejected, source: Source = SOURCE) -> Document | Rejected:
    """After all edits; filters are left out, as these papers are short."""
    for edit in source.edits:
        if isinstance(item, Rejected):
            break
        item = edit(item)
    return item


def read_all(folder: Path, files: dict[str, bytes]) -> list[Document | Rejected]:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = arxiv.inputs(folder)
    assert not found.ignored
    return [item for file in found.files for item in small_read(file)]


def text_of(folder: Path, files: dict[str, str | bytes]) -> str:
    """The cleaned text of a package of these files."""
    data = {n: d.encode() if isinstance(d, str) else d for n, d in files.items()}
    (item,) = read_all(folder, {"p.tar.gz": gzipped(tar_of(data))})
    result = edited(item)
    assert isinstance(result, Document), result
    return result.text


# The mistakes of earlier reproductions (RedPajama v1 and what was copied from it).


def test_macros_with_arguments_are_expanded(tmp_path: Path) -> None:
    definitions = (
        "\\newcommand{\\a}[1]{<#1>} % with a comment\n\\newcommand\\b{bb}\n"
        "\\renewcommand{\\vec}[1]{\\mathbf{#1}}\n\\DeclareMathOperator{\\Tr}{Tr} % trace\n"
    )
    text = text_of(
        tmp_path, {"m.tex": definitions + HEAD + "\\section{A}\n\\a{\\b} $\\Tr\\vec{x}$"}
    )
    assert text == "\\section{A}\n<bb> $\\operatorname{Tr}\\mathbf{x}$"


def test_macros_side_by_side_and_in_any_order_are_expanded(tmp_path: Path) -> None:
    definitions = "\\newcommand{\\C}{c\\A}\\newcommand{\\A}{a}\\newcommand{\\R}{\\mathbb{R}}"
    text = text_of(tmp_path, {"m.tex": definitions + HEAD + "\\section{A}$\\R\\R$ \\C"})
    assert text == "\\section{A}$\\mathbb{R}\\mathbb{R}$ ca"


@pytest.mark.parametrize("body", ["\\paragraph{P} a", "\\subparagraph{P} a", "a letter"])
def test_papers_without_a_section_are_not_emptied(tmp_path: Path, body: str) -> None:
    assert text_of(tmp_path, {"m.tex": HEAD + body}) == body


def test_included_text_without_a_heading_is_kept_in_order(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.tex": "second",
        "m.tex": HEAD + "\\section{A}\n\\input{z}\n\\input{a}\n\\end{document}",
        "z.tex": "first",
    }
    assert text_of(tmp_path, files) == "\\section{A}\nfirst\nsecond"


def test_appendices_are_kept(tmp_path: Path) -> None:
    body = "\\section{A}\na\n\\appendix\n\\section{Proofs}\nb"
    bibliography = "\n\\begin{thebibliography}{9}\\bibitem x\\end{thebibliography}"
    assert text_of(tmp_path, {"m.tex": HEAD + body + bibliography}) == body


def test_only_comments_are_removed(tmp_path: Path) -> None:
    text = text_of(tmp_path, {"m.tex": HEAD + "\\section{A}\n50\\% of A% x\n\\\\% y\nz"})
    assert text == "\\section{A}\n50\\% of A\n\\\\\nz"


def test_one_file_that_is_not_utf8_costs_nothing(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "m.tex": HEAD + "\\section{Á}\n\\input{b}",
        "b.tex": "naïve".encode("latin-1"),
    }
    assert text_of(tmp_path, files) == "\\section{Á}\nnaïve"


# Packages


def gz(text: str) -> bytes:
    return gzipped(text.encode())


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("one.gz", gz(PAPER), "\\section{One}\nBody."),
        ("tar.gz", gzipped(tar_of({"a/m.tex": PAPER.encode()})), "\\section{One}\nBody."),
        ("plain.tar", tar_of({"m.tex": PAPER.encode()}), "\\section{One}\nBody."),
        ("tgz.tgz", gzipped(tar_of({"m.tex": PAPER.encode()})), "\\section{One}\nBody."),
        ("twice.gz", gzipped(gz(PAPER)), "\\section{One}\nBody."),
        ("odd.tar", odd_archive(), "\\section{x}ok\\input{/etc/passwd}\\input{../p}"),
        ("2001.00001", gz(PAPER), "\\section{One}\nBody."),
        ("crlf.gz", gz(PAPER.replace("\n", "\r\n")), "\\section{One}\nBody."),
        ("a.pdf", b"%PDF-1.4 x", "pdf_only"),
        ("pdf.gz", gzipped(b"%PDF-1.4 x"), "pdf_only"),
        ("pdf.tar", tar_of({"a.pdf": b"%PDF", "b.png": b"x"}), "pdf_only"),
        ("html.gz", gz("<html><body>"), "not_tex"),
        (
            "uu.gz",
            gz("#!/bin/csh\n# uudecode\nbegin 644 a.tar.Z\n" + f"M{'A' * 60}\n" * 50),
            "not_tex",
        ),
        ("uu_figure.gz", gz(PAPER + f"begin 644 a.ps\nM{'A' * 60}\n"), "\\section{One}\nBody."),
        ("ps.gz", gz("%!PS-Adobe-3.0"), "postscript_only"),
        ("withdrawn.gz", gz("%auto-ignore\r\nThis paper has been withdrawn."), "withdrawn"),
        ("unmarked.gz", gz("This paper has been withdrawn by the authors."), "withdrawn"),
        ("notex.tar", tar_of({"a.dat": b"1 2 3"}), "no_tex"),
        ("figures.tar", tar_of({"a.png": b"x"}), "no_tex"),
        ("empty.gz", gzipped(b""), "empty"),
        ("zero.gz", b"", "empty"),
        ("blank.gz", gz(" \n"), "empty"),
        ("empty.tar", bytes(10_240), "empty"),
        ("cut.gz", gz(PAPER * 50)[:-20], "damaged"),
        ("cut.tar", tar_of({"m.tex": PAPER.encode()})[:600], "damaged"),
        ("cut.tar.gz", gzipped(tar_of({"m.tex": PAPER.encode()})[:600]), "damaged"),
        ("binary.gz", gzipped(b"\xff\x00" * 99), "binary"),
        ("large.gz", gz(PAPER + "x" * 200_000), "too_large"),
        ("bomb.gz", gzipped(tar_of({"a.png": bytes(2_000_000)})), "too_large"),
        ("bomb2.gz", gzipped(gzipped(bytes(20_000_000))), "too_large"),
        ("gzips.gz", gzipped(gzipped(gz(PAPER))), "not_tex"),
        (
            "title.gz",
            gz("\\documentclass{a}\\begin{document}\\maketitle\\end{document}"),
            "no_body",
        ),
        (
            "laughs.gz",
            gz(dict(hostile_texts())["billion_laughs"]),
            "macro_explosion",
        ),
        (
            "inputs.tar",
            tar_of({"m.tex": (HEAD + "\\input{a}" * 99).encode(), "a.tex": b"x" * 5_000}),
            "too_large",
        ),
    ],
)
def test_package(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    (item,) = read_all(tmp_path, {name: data})
    result = edited(item)
    assert (result.text if isinstance(result, Document) else result.reason) == expected
    assert (result.source_file, result.offset) == (name, None)


def test_large_members_are_left_out_and_the_paper_stays(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"data{i}.txt": b"1 " * 10_000 for i in range(9)}
    files |= {"data.dat": b"1 " * 80_000, "m.tex": PAPER + "%" * 80_000}
    assert text_of(tmp_path, files) == "\\section{One}\nBody."


def test_bulk_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("0001")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in (
            ("0001/hep-th0001001.gz", gz(PAPER)),
            ("0001/math0001002.pdf", b"%PDF-1.2"),
            ("0001/cs0001003.gz", gz(PAPER * 10)[:-9]),
            ("0001/2001.00004.gz", gz("%auto-ignore")),
            ("0001/2001.00005.gz", gz(PAPER.replace("Body", "Other"))),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("0001/2001.00006.gz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    whole = buffer.getvalue()
    items = read_all(tmp_path, {"arXiv_src_0001_001.tar": whole})
    reasons = [item.reason if isinstance(item, Rejected) else item.url for item in items]
    assert reasons == [
        "https://arxiv.org/abs/hep-th/0001001",
        "pdf_only",
        "damaged",
        "withdrawn",
        "https://arxiv.org/abs/2001.00005",
        "not_a_file",
    ]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        offsets = [member.offset for member in archive if not member.isdir()]
    assert [item.offset for item in items] == offsets
    assert "cs0001003" in str(items[2].detail if isinstance(items[2], Rejected) else "")
    # A cut, and damage in the middle: what was before is read, the place is reported.
    (tmp_path / "arXiv_src_0001_001.tar").write_bytes(whole[: offsets[4] + 100])
    *before, last = read_all(tmp_path, {})
    assert [item.offset for item in before] == offsets[:4]
    assert isinstance(last, Rejected)
    assert (last.reason, last.offset) == ("damaged", offsets[3])


def test_bulk_file_by_its_members(tmp_path: Path) -> None:
    data = tar_of({"0001/math0001002.gz": gz(PAPER), "0001/math0001003.gz": gz(PAPER)})
    assert len(read_all(tmp_path, {"some.tar": data})) == 2


@pytest.mark.parametrize(
    ("name", "url", "month"),
    [
        ("2310.03240v1.gz", "2310.03240v1", "2023-10"),
        ("bulk/0704/0704.0001.gz", "0704.0001", "2007-04"),
        ("2310.03240.tar.gz", "2310.03240", "2023-10"),
        ("arXiv-2310.03240v2.tar.gz", "2310.03240v2", "2023-10"),
        ("arxiv_2310.03240.gz", "2310.03240", "2023-10"),
        ("2310.03240" + ".gz" * 400_000, None, None),
        ("hep-th9901001.gz", "hep-th/9901001", "1999-01"),
        ("math0301001.gz", "math/0301001", "2003-01"),
        ("math.AG_0301001v2.gz", "math/0301001v2", "2003-01"),
        ("arXiv-2301.00005v1.tar.gz", "2301.00005v1", "2023-01"),
        ("papers/arXiv-hep-th9901001v3.tar.gz", "hep-th/9901001v3", "1999-01"),
        ("arXiv-2301.00005v1 (1).tar.gz", "2301.00005v1", "2023-01"),
        ("arxiv_2301.00005.gz", "2301.00005", "2023-01"),
        ("arXiv_src_2301_001.gz", None, None),
        ("2313.03240.gz", None, None),
        ("thrift-whitepaper.gz", None, None),
    ],
)
def test_identity_comes_from_the_name(name: str, url: str | None, month: str | None) -> None:
    found = paper_id(name)
    assert (found and found.url) == (url and f"https://arxiv.org/abs/{url}")
    assert (found and found.month) == month


def test_what_a_document_says(tmp_path: Path) -> None:
    (item,) = read_all(tmp_path, {"1909.00001.gz": gz(PAPER)})
    result = edited(item)
    assert isinstance(result, Document)
    assert result == Document(
        "\\section{One}\nBody.",
        "1909.00001.gz",
        url="https://arxiv.org/abs/1909.00001",
        title="A title",
        timestamp="2019-09",
    )


def test_files_that_are_no_packages_are_ignored(tmp_path: Path) -> None:
    for name in ("arXiv_src_manifest.xml", "notes.txt", "2001.00001.gz", "2001.00002"):
        (tmp_path / name).write_bytes(b"x")
    found = arxiv.inputs(tmp_path)
    assert [file.source_file for file in found.files] == ["2001.00001.gz", "2001.00002"]
    assert {item.source_file: item.reason for item in found.ignored} == {
        "arXiv_src_manifest.xml": "not_a_package",
        "notes.txt": "unknown_kind",
    }


def test_a_file_that_is_gone_is_counted(tmp_path: Path) -> None:
    (item,) = small_read(InputFile(tmp_path / "a.gz", "a.gz", 1, 1))
    assert isinstance(item, Rejected)
    assert item.reason == "unreadable"


# Hostile input


def test_nasty_packages_are_accounted_for(tmp_path: Path) -> None:
    names = []
    for name, data in nasty_arxiv(Random(0)):
        (tmp_path / name).write_bytes(data)
        names.append(name)
    found = arxiv.inputs(tmp_path)
    assert sorted(file.source_file for file in found.files) == sorted(names)
    for file in found.files:
        items = list(small_read(file))
        assert items, file.source_file
        for item in items:
            result = edited(item)
            assert result.source_file == file.source_file
            if isinstance(result, Document):
                assert len(result.text) < 2_000_000


def test_memory_stays_flat_in_a_large_bulk_file(tmp_path: Path) -> None:
    """100 MB of packages with large figures, none of which is ever held."""
    figure = Random(0).randbytes(1 << 20)
    package = gzipped(tar_of({"m.tex": PAPER.encode(), "f.pdf": figure * 5}), 0)
    info = tarfile.TarInfo()
    info.size = len(package)
    with (tmp_path / "arXiv_src_0001_001.tar").open("wb") as bulk:
        for number in range(20):
            info.name = f"2001.{number:05}.gz"
            bulk.write(info.tobuf())
            bulk.write(package)
            bulk.write(bytes(-len(package) % 512))
        bulk.write(bytes(1024))
    script = (
        "import resource, sys; from pathlib import Path; from data_pipeline.sources import arxiv;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "(file,) = arxiv.inputs(Path(sys.argv[1])).files;"
        "n = sum(1 for _ in arxiv.read(file, max_package_bytes=1 << 30, max_text_bytes=1 << 25));"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count, grown = map(int, run.stdout.split())
    assert count == 20
    # In KiB. A package unpacks to 5 MiB; buffers and the interpreter's caches take less than that.
    assert grown < 4 * 1024


# Real papers


@pytest.fixture(scope="session")
def papers(samples: Path) -> list[tuple[Document, Document | Rejected]]:
    """Every sample paper as read, and after all edits."""
    found = SOURCE.inputs(samples / "raw" / "arxiv")
    assert not found.ignored
    items = [item for file in found.files for item in SOURCE.read(file)]
    return [(item, edited(item)) for item in items if isinstance(item, Document)]


def defined_names(latex: str) -> set[str]:
    """What a paper defines, by a search of its own that knows nothing of the expander."""
    latex = re.sub(r"(?m)(?<!\\)%.*", "", latex)
    named = r"\\(?:(?:new|renew|provide)command|DeclareMathOperator|[gex]?def|let)\*?"
    return set(re.findall(named + r"\s*\{?\s*\\([A-Za-z@]+)", latex))


def test_no_macro_and_no_comment_is_left_in_sample_papers(
    papers: list[tuple[Document, Document | Rejected]],
) -> None:
    uses = left = 0
    for before, after in papers:
        assert isinstance(after, Document), after
        # One paper redefines \\section and \\subsection to space them: they keep their names.
        names = defined_names(before.text) - {"section", "subsection"}
        counts = Counter(re.findall(r"\\([A-Za-z@]+)", before.text))
        uses += sum(counts[name] for name in names)
        found = Counter(re.findall(r"\\([A-Za-z@]+)", after.text))
        residue = {name: found[name] for name in names if found[name]}
        left += sum(residue.values())
        assert not residue, before.source_file
        assert not re.search(
            r"\\(?:newcommand|renewcommand|def|begin\{thebibliography)\b", after.text
        )
        assert not re.search(r"(?<!\\)%", after.text), before.source_file
        assert "\\begin{document}" not in after.text
    assert uses > 1_000
    assert left == 0


def test_sample_papers_begin_with_a_section_and_keep_their_text(
    papers: list[tuple[Document, Document | Rejected]],
) -> None:
    for before, after in papers:
        assert isinstance(after, Document)
        assert re.match(r"\\section\*?\{", after.text), before.source_file
        if len(before.text) > 10_000:
            assert 0.75 < len(after.text) / len(before.text) < 1.1, before.source_file


def test_bulk_members_give_what_their_packages_give(
    papers: list[tuple[Document, Document | Rejected]],
) -> None:
    bulk = {a.url: a for b, a in papers if b.offset is not None and isinstance(a, Document)}
    singles = {a.url: a for b, a in papers if b.offset is None and isinstance(a, Document)}
    assert len(bulk) >= 5
    assert all(bulk[u].text == singles[u].text for u in bulk if u in singles)


def test_edits_of_sample_papers_are_idempotent(
    papers: list[tuple[Document, Document | Rejected]],
) -> None:
    for before, _ in papers:
        document = before
        for edit in SOURCE.edits:
            once = edit(document)
            assert isinstance(once, Document)
            if edit is not arxiv.with_title:
                assert edit(once) == once, (before.source_file, edit)
            document = once
