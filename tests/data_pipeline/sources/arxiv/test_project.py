"""Main file, included files, styles and encodings of a LaTeX paper."""

import pytest

from data_pipeline.sources.arxiv.project import (
    ProjectTooLargeError,
    decode_file,
    decode_project,
    is_authors_own,
    is_withdrawn,
    main_file,
    merged,
)
from data_pipeline.text.decoding import NotTextError
from tests.support.nasty_arxiv import hostile_projects

HEAD = "\\documentclass{article}\n\\begin{document}\n"
LIMIT = 1_000_000


def whole(texts: dict[str, str]) -> str:
    """The text of a project whose main file is main.tex."""
    return merged(texts, "main.tex", max_characters=LIMIT)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"a.tex": HEAD, "b.tex": "\\section{x}" * 99}, "a.tex"),
        ({"a.tex": "\\input{b}\\input c", "b.tex": HEAD, "c.tex": "x"}, "a.tex"),
        # Of several, the longest with its included files; then by name.
        ({"a.tex": HEAD + "x" * 50, "b.tex": HEAD + "\\input{c}", "c.tex": "y" * 90}, "b.tex"),
        ({"b.tex": HEAD + "1", "a.tex": HEAD + "2"}, "a.tex"),
        ({"a.tex": HEAD + "x" * 50, "b.tex": "% " + HEAD}, "a.tex"),
        (
            {"a.tex": "\\documentstyle[12pt]{article}\\begin{document}", "b.tex": "\\def\\x{}"},
            "a.tex",
        ),
        # A file that another one includes is not the main one, though it could be.
        ({"a.tex": HEAD + "\\subfile{b}", "b.tex": HEAD + "x" * 99}, "a.tex"),
        ({"a.tex": HEAD + "% \\input{b}", "b.tex": HEAD + "x" * 99}, "b.tex"),
        ({"a.tex": HEAD + "\\input{b}", "b.tex": HEAD + "\\input{a}", "c": "x"}, "a.tex"),
        # What the archive's own file says goes first.
        ({"a.tex": HEAD, "b.tex": HEAD + "x", "00README.XXX": "a.tex toplevelfile\n"}, "a.tex"),
        ({"a.tex": HEAD, "b.tex": HEAD + "x", "00README.XXX": "b.tex ignore\n"}, "a.tex"),
        (
            {
                "a.tex": HEAD,
                "b.tex": HEAD + "x",
                "00README.json": '{"sources": [{"filename": "a.tex", "usage": "toplevel"}]}',
            },
            "a.tex",
        ),
        (
            {
                "a.tex": HEAD,
                "b.tex": HEAD + "x",
                "00README.yaml": "sources:\n  - usage: toplevel\n    filename: a.tex\n",
            },
            "a.tex",
        ),
        ({"a.tex": "%auto-ignore\n" + HEAD, "b.tex": HEAD}, "b.tex"),
        # Plain TeX and AMS-TeX, and files without an ending.
        ({"a.tex": "\\input b\n\\beginsection 1\n\nx\\bye", "b.tex": "\\def\\x{}"}, "a.tex"),
        ({"paper": "\\magnification=1200\nx\\bye", "fig.dat": "1 2"}, "paper"),
        ({"fig.dat": "1 2", "refs.bib": "@article{}", "x.sty": "\\documentclass"}, None),
        ({}, None),
    ],
)
def test_main_file(texts: dict[str, str], expected: str | None) -> None:
    assert main_file(texts, max_characters=LIMIT) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"main.tex": "a\\input{b}c", "b.tex": "B"}, "aB\nc"),
        ({"main.tex": "a\\input{b.tex}\nc", "b.tex": "B\n\n"}, "aB\nc"),
        ({"main.tex": "a\\input b\nc", "b.tex": "B % x"}, "aB % x\nc"),
        ({"main.tex": "\\include{b}\\include{c}", "c.tex": "C", "b.tex": "B"}, "B\nC\n"),
        ({"main.tex": '\\input{"b"}', "b.tex": "B"}, "B\n"),
        ({"main.tex": "\\input{t.txt}", "t.txt": "T"}, "T\n"),
        ({"main.tex": "\\input{b}", "b.tex": "x\\endinput y"}, "x\n"),
        # Folders: from where TeX runs, from the package, from the including file, by \import.
        ({"main.tex": "\\input{s/a}", "s/a.tex": "\\input{s/b}", "s/b.tex": "B"}, "B\n"),
        ({"main.tex": "\\input{s/a}", "s/a.tex": "\\input{b}", "s/b.tex": "B"}, "B\n"),
        ({"main.tex": "\\import{s/}{a}\\subimport*{s}{a.tex}", "s/a.tex": "A"}, "A\nA\n"),
        ({"main.tex": "\\input{./s/../b}", "b.tex": "B"}, "B\n"),
        # Paths with macros in them.
        (
            {"main.tex": "\\newcommand{\\d}{s}\\input{\\d/a}", "s/a.tex": "A"},
            "\\newcommand{\\d}{s}A\n",
        ),
        (
            {"main.tex": "\\def\\r{s}\\def\\d{\\r/t}\\input \\d/a\nb", "s/t/a.tex": "A"},
            "\\def\\r{s}\\def\\d{\\r/t}A\nb",
        ),
        (
            {
                "main.tex": "\\def\\d{s/}\\import{\\d}{a}\\include{\\d b}",
                "s/a.tex": "A",
                "s/b.tex": "B",
            },
            "\\def\\d{s/}A\nB\n",
        ),
        ({"main.tex": "\\input{\\d/a}\\def\\d{s}", "s/a.tex": "A"}, "\\input{\\d/a}\\def\\d{s}"),
        ({"main.tex": "\\def\\d{\\d\\d}\\input{\\d}"}, "\\def\\d{\\d\\d}\\input{\\d}"),
        ({"main.tex": "\\def\\x{\\input b }\\x", "b.tex": "B"}, "\\def\\x{B\n}\\x"),
        ({"main.tex": "\\verb|\\input{b}| c", "b.tex": "B"}, "\\verb|\\input{b}| c"),
        ({"main.tex": "\\loadglsentries{b}", "b.tex": "B"}, "B\n"),
        (
            {
                "main.tex": HEAD + "\\subfile{b}",
                "b.tex": HEAD + "B \\verb|\\end{document}| C\n\\end{document}\nz",
            },
            HEAD + "\nB \\verb|\\end{document}| C\n",
        ),
        # A document of its own gives what is in it.
        (
            {"main.tex": HEAD + "\\subfile{b}", "b.tex": HEAD + "B\n\\end{document}\nz"},
            HEAD + "\nB\n",
        ),
        # Not followed: comments, verbatim text, what is not there, what leads out, circles.
        ({"main.tex": "% \\input{b}\nc", "b.tex": "B"}, "% \\input{b}\nc"),
        (
            {"main.tex": "\\begin{verbatim}\\input{b}\\end{verbatim}%", "b.tex": "B"},
            "\\begin{verbatim}\\input{b}\\end{verbatim}%",
        ),
        ({"main.tex": "\\input{c}\\input{#1}"}, "\\input{c}\\input{#1}"),
        ({"main.tex": "\\input{/etc/passwd}\\input{../b}"}, "\\input{/etc/passwd}\\input{../b}"),
        ({"main.tex": "a\\input{b}", "b.tex": "\\input{main}"}, "a\\input{main}\n"),
        ({"main.tex": "\\input{main.bbl}", "main.bbl": "x"}, "\\input{main.bbl}"),
        ({"main.tex": "\\input{f.pgf}\\inputenc{f}", "f.pgf": "x"}, "\\input{f.pgf}\\inputenc{f}"),
        # Styles: the authors' own stand after the command, a publisher's do not.
        (
            {"main.tex": "\\usepackage{a,my}x", "my.sty": "\\newcommand{\\x}{y}"},
            "\\usepackage{a,my}\n\\newcommand{\\x}{y}\nx",
        ),
        (
            {"main.tex": "\\documentstyle[12pt,my]{article}", "my.sty": "\\def\\x{y}"},
            "\\documentstyle[12pt,my]{article}\n\\def\\x{y}\n",
        ),
        (
            {"main.tex": "\\documentclass{p}", "p.cls": "\\def\\@x{y}\\newcommand\\z{\\@x}"},
            "\\documentclass{p}",
        ),
        ({"main.tex": "\\input psfig", "psfig.tex": "\\def\\psfig{\\ps@fig}"}, "\\input psfig"),
    ],
)
def test_included_files(files: dict[str, str], expected: str) -> None:
    assert whole(files) == expected


def test_input_order_is_kept_and_bodies_without_headings_stay() -> None:
    files = {"main.tex": HEAD + "\\input{z}\\input{a}", "a.tex": "second", "z.tex": "first"}
    assert whole(files).index("first") < whole(files).index("second")


@pytest.mark.parametrize(
    ("style", "own"),
    [
        ("\\newcommand{\\R}{\\mathbb{R}}\n\\def\\x#1{(#1)}", True),
        ("\\RequirePackage{amsmath}", True),
        ("\\newcommand{\\R}{r}" * 8 + "\\def\\y{\\@ifstar{a}{b}}", True),
        ("\\def\\@maketitle{}\\newcommand{\\x}{\\@y}\\newcommand{\\z}{}", False),
    ],
)
def test_whose_style_it_is(style: str, own: bool) -> None:
    assert is_authors_own(style) is own


def test_inclusion_ends() -> None:
    for name, texts in hostile_projects():
        try:
            merged(texts, "main.tex" if "main.tex" in texts else "m0.tex", max_characters=LIMIT)
        except ProjectTooLargeError:
            assert name == "fan_out"


LATIN1 = "\\usepackage[latin1]{inputenc} Möbius"


@pytest.mark.parametrize(
    ("data", "declared", "expected"),
    [
        ("Möbius".encode(), None, "Möbius"),
        ("\ufeffMöbius".encode(), None, "Möbius"),
        ("Möbius".encode("utf-16"), None, "Möbius"),
        (LATIN1.encode("latin-1"), None, LATIN1),
        (LATIN1.encode(), None, LATIN1),
        (
            LATIN1.replace("latin1", "utf8").encode() + b"\xff",
            None,
            LATIN1.replace("latin1", "utf8") + "\ufffd",
        ),
        ("Möbius".encode("latin-1"), None, "Möbius"),
        ("Erdős".encode("iso8859-2"), "iso8859-2", "Erdős"),
        ("Эйлер".encode("koi8-r"), "koi8-r", "Эйлер"),
        ("Möbius, Poincaré, Erdős".encode() + b"\xe9", None, "Möbius, Poincaré, Erdős\ufffd"),
    ],
)
def test_decoding(data: bytes, declared: str | None, expected: str) -> None:
    assert decode_file(data, declared) == expected


def test_declaration_of_the_main_file_holds_for_the_others() -> None:
    main = b"\\documentclass{a}\\usepackage[T1]{fontenc}\\usepackage[latin2]{inputenc}"
    texts = decode_project({"a.tex": "Erdős".encode("iso8859-2"), "main.tex": main})
    assert texts["a.tex"] == "Erdős"
    commented = decode_project({"a.tex": "naïve".encode("latin-1"), "m.tex": b"% " + main[17:]})
    assert commented["a.tex"] == "naïve"


def test_files_that_are_no_text_are_left_out_unless_nothing_else_is_there() -> None:
    texts = decode_project({"a.tex": b"a\r\nb\rc", "b.dat": b"\xff\x00\x01" * 50})
    assert texts == {"a.tex": "a\nb\nc"}
    with pytest.raises(NotTextError, match="NUL"):
        decode_project({"b.tex": b"\xff\x00\x01" * 50})


@pytest.mark.parametrize(
    ("texts", "withdrawn"),
    [
        ({"main.tex": "%auto-ignore\r\nWithdrawn by the author."}, True),
        ({"a.tex": "%auto-ignore", "b.tex": HEAD}, False),
        ({"a.dat": "%auto-ignore"}, False),
        ({}, False),
    ],
)
def test_withdrawn(texts: dict[str, str], withdrawn: bool) -> None:
    assert is_withdrawn(texts) is withdrawn
