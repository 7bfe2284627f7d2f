"""Malformed and hostile arXiv packages: bombs, include cycles, corruption, random LaTeX."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from random import Random

from tests.support.archives import nasty_archives
from tests.support.damage import cut, mutated, noisy

SIZE = 15_000
"""Characters of one hostile text: enough that a quadratic reader would take minutes."""

_SOUP = (
    *(
        "\\",
        "{",
        "}",
        "[",
        "]",
        "%",
        "\n",
        "\n\n",
        " ",
        "#1",
        "##",
        "#",
        "$",
        "&",
        "~",
        "*",
        "=",
        "@",
    ),
    *("\\\\", "\\%", "\\{", "\\begin{document}", "\\end{document}", "\\begin{verbatim}"),
    *("\\end{verbatim}", "\\begin{comment}", "\\end{comment}", "\\verb|", "|", "\\verb+%+"),
    *(
        "\\newcommand",
        "\\renewcommand{\\a}[1]",
        "\\providecommand*",
        "\\def\\a",
        "\\def\\b#1.{",
        "\\let",
    ),
    *("\\a", "\\b", "\\cc", "\\let\\a=\\b", "\\DeclareMathOperator{\\op}", "\\long", "\\global"),
    *("\\newenvironment{e}[1][x]", "\\begin{e}", "\\end{e}", "\\newif\\ifq", "\\ifq", "\\qtrue"),
    *("\\iffalse", "\\iftrue", "\\else", "\\fi", "\\ifx", "\\xspace", "\\@ifnextchar", "\\@ifstar"),
    *(
        "\\section{",
        "\\section*",
        "\\paragraph{x}",
        "\\bibliography{r}",
        "\\begin{thebibliography}{9}",
    ),
    *(
        "\\end{thebibliography}",
        "\\appendix",
        "\\title{",
        "\\input{main}",
        "\\input x",
        "\\endinput",
    ),
    *("\\usepackage{s}", "\\makeatletter", "\\a@b", "word", "é", "\u0301", "\x00", "\r", "1", "."),
    *(
        "\\NewDocumentCommand\\a{s o m}",
        "\\IfBooleanTF",
        "\\DeclarePairedDelimiter\\p",
        "\\url{a%b}",
    ),
)


def soup(rng: Random, length: int) -> str:
    """Pieces of LaTeX in no order."""
    return "".join(rng.choices(_SOUP, k=length))


def hostile_texts(size: int = SIZE) -> Iterator[tuple[str, str]]:
    """TeX files that ask for more time or memory than they are worth, by name."""
    many = size // 10
    yield "doubles_itself", r"\def\a{\a\a}\begin{document}\section{x}\a"
    yield "two_double_each_other", r"\def\a{\b\b}\def\b{\a\a}\section{x}\a"
    letters = [chr(97 + i) for i in range(26)]
    chain = (rf"\def\x{a}{{\x{b}\x{b}}}" for a, b in pairwise(letters))
    yield "billion_laughs", "".join(chain) + r"\section{x}\xa"
    yield (
        "billion_nothings",
        "".join(rf"\def\x{a}{{\x{b}\x{b}}}" for a, b in pairwise(letters))
        + r"\def\xz{}\section{x}\xa",
    )
    yield "argument_doubles", r"\def\a#1{\a{#1#1}}\section{x}\a{xx}"
    yield "wide_argument", r"\newcommand{\a}[1]{#1#1}\section{x}" + r"\a{" * 30 + "x" + "}" * 30
    yield "unclosed_arguments", r"\newcommand{\a}[1]{(#1)}\section{x}" + r"\a{" * many
    yield "nested_arguments", r"\newcommand{\a}[1]{(#1)}" + r"\a{" * many + "}" * many
    yield "unclosed_options", r"\newcommand{\a}[2][]{(#2)}" + r"\a[" * many
    yield "no_delimiter", r"\def\a#1\stop{(#1)}" + r"\a " * many
    yield "delimiter_in_groups", r"\def\a#1;{(#1)}" + r"\a{;}" * many
    yield "definitions", "".join(rf"\def\a{'x' * (i % 50)}{{{i}}}" for i in range(many // 4))
    yield "unclosed_definitions", r"\newcommand{\a}{" * many
    yield "parameter_text", r"\def\a" + "#1" * many
    yield "aliases", r"\let\a\b" * many + r"\a" * many
    yield "conditionals", r"\iffalse " * many
    yield "switches", r"\newif\ifa " + r"\ifa x\else " * many + r"\fi" * many
    yield "verbatims", r"\begin{verbatim}" * many
    yield "comments", r"\begin{comment}" * many
    yield "percents", "%" * size
    yield "percent_lines", "%\n" * size
    yield "inline_code", r"\verb!\verb|\lstinline[" * many
    yield "backslashes", "\\" * size
    yield "open_braces", "{" * size
    yield "closed_braces", "}" * size
    yield "one_line", "word " * size
    yield "one_word", "x" * size
    yield "blanks", r"\section{" + " " * size + "\t" * size + "x"
    yield "stars", r"\section" + "*" * size
    yield "titles", r"\title[" * many + r"\title{" * many
    yield "headings", r"\section{References}" * many
    yield "bibliographies", r"\begin{thebibliography}" * many
    yield "brackets", r"\printbibliography[" * many
    yield "web_addresses", r"\url{" * many
    yield "style_options", r"\usepackage[" * many
    yield "inputs", r"\input{x}" * many + r"\input " * many
    yield "file_names", r"\input{" + "x/../" * many + "}"
    yield "next_character", r"\def\a{\@ifnextchar[{\a}{\a}}\a["
    yield "blank_runs", ("x" + " " * 1000 + "\n") * (size // 1000)


def hostile_projects(size: int = SIZE) -> Iterator[tuple[str, dict[str, str]]]:
    """Files that include one another in ways that do not end, by name."""
    head = "\\documentclass{article}\\begin{document}\\section{x}"
    yield (
        "cycle",
        {"main.tex": head + "\\input{a}", "a.tex": "\\input{b}", "b.tex": "\\input{main}\\input a"},
    )
    yield "itself", {"main.tex": head + "\\input{main}" * 100}
    fan = {f"f{i}.tex": f"\\input{{f{i + 1}}}" * 10 for i in range(18)}
    yield "fan_out", {"main.tex": head + "\\input{f0}", **fan}
    yield "many_mains", {f"m{i}.tex": head + "x" * i for i in range(300)}
    yield (
        "styles",
        {"main.tex": "\\usepackage{" + ",".join(["s"] * (size // 10)) + "}", "s.sty": ""},
    )
    yield (
        "deep",
        {
            "main.tex": head + "\\input{d0}",
            **{f"d{i}.tex": f"\\input{{d{i + 1}}}" for i in range(500)},
        },
    )


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar archive of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def odd_archive() -> bytes:
    """Every kind of member that is no file, names that lead out, and one honest paper."""
    buffer = io.BytesIO()
    head = b"\\documentclass{article}\\begin{document}"
    paper = head + b"\\section{x}ok\\input{/etc/passwd}\\input{../p}\\end{document}"
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        kinds = (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
        )
        for number, kind in enumerate((*kinds, tarfile.DIRTYPE, tarfile.CONTTYPE)):
            info = tarfile.TarInfo(f"odd{number}.tex")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        for name in ("/etc/passwd", "../p.tex", "a/../../q.tex", "é" * 120 + ".tex", "paper.tex"):
            info = tarfile.TarInfo(name)
            info.size = len(paper)
            archive.addfile(info, io.BytesIO(paper))
    return buffer.getvalue()


def header_bomb(kind: bytes, size: int) -> bytes:
    """A tar archive whose first header announces `size` bytes of extended header, all there."""
    info = tarfile.TarInfo("x")
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(size)


def nasty_arxiv(rng: Random) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of packages and bulk files; every call gives others of some kinds."""
    for number, (name, text) in enumerate(hostile_texts()):
        yield f"{name}.gz", gzip.compress(text.encode(), 1)
        yield f"2001.{number:05}.gz", gzip.compress(soup(rng, 400).encode(), 1)
    for name, texts in hostile_projects():
        files = {path: text.encode() for path, text in texts.items()}
        yield f"{name}.tar.gz", gzip.compress(tar_of(files), 1)
    files = {
        "main.tex": soup(rng, 200).encode(),
        "s.sty": soup(rng, 200).encode(),
        "x.tex": b"\xff\xfe\x00",
    }
    yield "soup.tar", tar_of(files)
    yield "odd.tar", odd_archive()
    yield "gzip_bomb.gz", gzip.compress(bytes(8_000_000), 1)
    yield (
        "tar_bomb.gz",
        gzip.compress(tar_of({"a.tex": bytes(4_000_000), "b.pdf": bytes(4_000_000)}), 1),
    )
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE):
        yield f"header_bomb_{kind.decode()}.gz", gzip.compress(header_bomb(kind, 3_000_000), 1)
    whole = tar_of(
        {f"2001/2001.0000{i}.gz": gzip.compress(soup(rng, 50).encode()) for i in range(5)}
    )
    yield "arXiv_src_2001_001.tar", whole
    yield "arXiv_src_2001_002.tar", cut(whole, rng)
    yield "arXiv_src_2001_003.tar", noisy(whole, rng)
    packed = gzip.compress(tar_of({"main.tex": soup(rng, 2000).encode()}))
    yield "cut.gz", cut(packed, rng)
    files["main.tex.gz"] = mutated(gzip.compress(files.pop("main.tex")), rng)
    yield from nasty_archives(rng, "2001.00002", files, (".zip", ".tar.gz", ".tar.bz2"))
    yield "gzips.gz", gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"\\section{x}"))))
    yield "random.gz", rng.randbytes(3_000)
    yield "random.tar", rng.randbytes(3_000)
    yield "nothing.gz", b""
    yield "nothing_packed.gz", gzip.compress(b"")
    yield "nuls.gz", gzip.compress(b"\\documentclass{article}\0\\begin{document}\\section{x}\0\0a")
    yield "2001.00001.pdf", b"%PDF-1.5 " + rng.randbytes(100)
