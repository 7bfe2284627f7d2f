"""Comments, front matter, bibliography and titles of LaTeX: one row per rule."""

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.sources.arxiv.sections import (
    with_tidy_lines,
    without_comments,
    without_front_matter_and_bibliography,
)
from data_pipeline.sources.arxiv.title import plain_words, title_of
from tests.support.nasty_arxiv import hostile_texts, soup

COMMENTS = {
    "a % b\nc": "a\nc",
    "50\\% of A% x\nb": "50\\% of A\nb",
    "a\\\\% b\nc": "a\\\\\nc",
    "a\\\\\\% b\nc": "a\\\\\\% b\nc",
    "% a\nb\n  % c\n%d": "b\n",
    "a\n% b\n\n% c\nd": "a\n\nd",
    # TeX drops the line end after a comment: kept where people wrote words, joined where they
    # meant TeX to.
    "a%\n  b": "ab",
    "a %\n  b": "a\n  b",
    "{% a\n  b}%\n  % c\n  d": "{b}d",
    "\\alpha%\nb": "\\alpha b",
    "a%\n\nb": "a\n\nb",
    "a%%%\nb": "ab",
    "a%": "a",
    # Where `%` is a character.
    "\\begin{verbatim}\n% a\n\\end{verbatim}% b\nc": "\\begin{verbatim}\n% a\n\\end{verbatim}\nc",
    "\\begin{lstlisting}[x]\n%d\\end{lstlisting}": "\\begin{lstlisting}[x]\n%d\\end{lstlisting}",
    "\\begin{minted}{c}%d\\end{minted}": "\\begin{minted}{c}%d\\end{minted}",
    "\\DefineVerbatimEnvironment{V}{}{}\\begin{V}%d\\end{V}% a": (
        "\\DefineVerbatimEnvironment{V}{}{}\\begin{V}%d\\end{V}"
    ),
    "\\verb|%| % a": "\\verb|%|",
    "\\verb*+%+\\verb!a % b! % c": "\\verb*+%+\\verb!a % b!",
    "\\lstinline[x]!%!\\mintinline{c}{%d} % a": "\\lstinline[x]!%!\\mintinline{c}{%d}",
    "\\url{http://a/%20b} % c": "\\url{http://a/%20b}",
    "\\href{a%20b}{c} % d": "\\href{a%20b}{c}",
    "\\verbatimfont % a": "\\verbatimfont",
    # What looks like verbatim text in a comment begins none, and one without end is none.
    "% \\begin{verbatim}\na % b": "a",
    "\\begin{verbatim} % a": "\\begin{verbatim}",
    "% \\verb|\na % b|": "a",
    # Environments.
    "a\n\\begin{comment}\nb\n\\end{comment}\nc": "a\n\n\nc",
    "a\\begin{comment}%\\end{comment}b % c": "a\nb",
    # Environments that the paper hides, or shows.
    "\\excludecomment{x}a\\begin{x}b\\end{x}c": "\\excludecomment{x}a\nc",
    "\\excludeversion{long}a\\begin{long}b\\end{long}": "\\excludeversion{long}a\n",
    "\\excludecomment{x}\n\\includecomment{x}\n\\begin{x}b\\end{x}": (
        "\\excludecomment{x}\n\\includecomment{x}\n\\begin{x}b\\end{x}"
    ),
    "% \\excludecomment{x}\n\\begin{x}b\\end{x}": "\\begin{x}b\\end{x}",
}


@pytest.mark.parametrize(("text", "expected"), COMMENTS.items())
def test_comments(text: str, expected: str) -> None:
    assert without_comments(text) == expected
    assert without_comments(expected) == expected


BEGIN, END = "\\begin{document}", "\\end{document}"
ABSTRACT = "\\maketitle\\begin{abstract}a\\end{abstract}"
B = "body " * 20
LONG = "word " * 100
SECTIONS = {
    # Every heading counts, with and without a star.
    **{
        f"x{BEGIN}t{ABSTRACT}\\{name}{star}{{A}}{B}{END}z": f"\\{name}{star}{{A}}{B}"
        for name in (
            *("part", "chapter", "section", "subsection", "subsubsection", "paragraph"),
            "subparagraph",
        )
        for star in ("", "*")
    },
    f"{BEGIN}t\\section[s]{{A}}{B}": f"\\section[s]{{A}}{B}",
    f"{BEGIN}t\\section\n  {{A}}{B}": f"\\section\n  {{A}}{B}",
    f"\\titleformat{{\\section}}{{}}{{\\subsection{{}}}}{BEGIN}t\\section{{A}}{B}": (
        f"\\section{{A}}{B}"
    ),
    f"{BEGIN}t\\sectionmark{{x}}\\section{{A}}{B}": f"\\section{{A}}{B}",
    # No heading: after the title block, the abstract, or from the beginning.
    f"x{BEGIN}t{ABSTRACT}{B}{END}z": B,
    f"x{BEGIN}t\\begin{{abstract}}a\\end{{abstract}}\\maketitle {B}{END}": f" {B}",
    f"x{BEGIN}\\begin{{frontmatter}}a\\end{{frontmatter}}{B}{END}": B,
    f"x{BEGIN}{B}{END}z": B,
    f"x{BEGIN}{B}": B,
    B: B,
    # A heading that closes the paper, or comes late, does not begin it.
    f"{BEGIN}t{ABSTRACT}{B}\\section*{{Acknowledgments}}c{LONG}": (
        f"{B}\\section*{{Acknowledgments}}c{LONG}"
    ),
    f"{BEGIN}t{ABSTRACT}{B}\\appendix\\section{{A}}{LONG}": f"{B}\\appendix\\section{{A}}{LONG}",
    f"{BEGIN}t{ABSTRACT}{LONG}\\section{{Methods}}{B}": f"{LONG}\\section{{Methods}}{B}",
    # Plain TeX and AMS-TeX have headings and ends of their own.
    f"\\magnification1200 t\\beginsection 1. A\n{B}\n\\bye": f"\\beginsection 1. A\n{B}\n",
    f"\\input harvmac t\\newsec{{A}}{B}\n\\end\nz": f"\\newsec{{A}}{B}\n",
    f"t\\newsec{{A}}{B}\\listrefs \\vfill\\end": f"\\newsec{{A}}{B} \\vfill",
    f"t\\newsec{{A}}{B}\\bye z": f"\\newsec{{A}}{B}",
    f"\\topmatter t\\endtopmatter\\document {B}\n\\enddocument\n": f"\\document {B}\n",
    f"t\\head A \\endhead {B}": f"\\head A \\endhead {B}",
    # What verbatim text shows ends nothing, and begins nothing.
    **{
        f"{BEGIN}t\\section{{A}}{B}{shown} {B}{END}z": f"\\section{{A}}{B}{shown} {B}"
        for shown in (
            *(f"\\verb|{END}|", "\\verb+\\begin{thebibliography}{9}+", "\\lstinline{\\appendix}"),
            *(f"\\lstinline!{END}!", "\\mintinline{tex}|\\section{References}|"),
            f"\\begin{{verbatim}}\n{BEGIN}\nx\n{END}\n\\end{{verbatim}}",
            f"\\begin{{lstlisting}}[language=TeX]\n{END}\n\\end{{lstlisting}}",
            f"\\begin{{minted}}{{latex}}\n\\bibliography{{a}}{END}\n\\end{{minted}}",
            f"\\lstnewenvironment{{code}}{{}}{{}}\\begin{{code}}{END}\\end{{code}}",
        )
    },
    f"\\verb|{BEGIN}|{BEGIN}t\\verb|\\section{{x}}|\\section{{A}}{B}": f"\\section{{A}}{B}",
    # Appendices stay.
    f"{BEGIN}t\\section{{A}}{B}\\appendix\\section{{C}}d": (
        f"\\section{{A}}{B}\\appendix\\section{{C}}d"
    ),
}
A = f"\\section{{A}}{B}"
BIBLIOGRAPHY = {
    "\\begin{thebibliography}{9}\\bibitem x y\\end{thebibliography}c": "c",
    "\\begin{thebibliography}{9}\\bibitem x y": "",
    "\\begin{references}x\\end{references}c": "c",
    "\\begin{bibdiv}x\\end{bibdiv}c\\begin{bibdiv}y\\end{bibdiv}": "c",
    "\\bibliographystyle{plain}\\bibliography{a,b}c\\nocite{*}": "c",
    "\\printbibliography[heading=none]c": "c",
    "\\input{main.bbl}c\\input main.bbl": "c",
    "\\section*{References}\\begin{thebibliography}x\\end{thebibliography}": "",
    "\\section{References}[1] x\\section{C}d": "\\section{C}d",
    "\\section*{Bibliography}[1] x\\appendix d": "\\appendix d",
    "\\section{References and reading}c": "\\section{References and reading}c",
    "\\Refs x \\endRefs c": " c",
    "\\refstepcounter{x}": "\\refstepcounter{x}",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [*SECTIONS.items(), *((f"{BEGIN}t{A}{t}", A + e) for t, e in BIBLIOGRAPHY.items())],
)
def test_front_matter_and_bibliography(text: str, expected: str) -> None:
    kept = without_front_matter_and_bibliography(text, max_front_share=0.5)
    assert kept == expected
    assert without_front_matter_and_bibliography(kept, max_front_share=0.5) == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n\na  \n \t\n\n\nb\t", "a\n\nb"),
        ("  a\n b\n", "  a\n b"),
        ("", ""),
        ("\n \n", ""),
    ],
)
def test_tidy_lines(text: str, expected: str) -> None:
    assert with_tidy_lines(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\title{A \\textbf{bold}\n  claim}", "A bold claim"),
        ("\\title[short]{Long}", "Long"),
        ("\\title\n {A\\thanks{To {all}.}~B\\footnote{c}}", "A B"),
        ("\\title{A \\\\[2pt] B\\vspace{2em} \\textcolor{red}{C}\\label{t}}", "A B C"),
        (
            '\\title{Schr\\"odinger, \\\'{E}tale, \\v Cech, na\\"{\\i}ve}',
            "Schrödinger, Étale, Čech, naïve",
        ),
        ("\\title{On $\\mathbb{Z}_2$ and 50\\% \\LaTeX}", "On $\\mathbb{Z}_2$ and 50% LaTeX"),
        ("\\titleformat{x}\\title{}\\title{B}", "B"),
        ("\\title{A", None),
        ("no title", None),
    ],
)
def test_title(text: str, expected: str | None) -> None:
    assert title_of(text) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 80))
def test_soup_is_cleaned_once_and_for_all(seed: int, length: int) -> None:
    text = soup(Random(seed), length)
    cleaned = without_comments(text)
    assert without_comments(cleaned) == cleaned
    tidy = with_tidy_lines(cleaned)
    assert with_tidy_lines(tidy) == tidy
    title_of(cleaned)
    plain_words(cleaned)
    body = without_front_matter_and_bibliography(cleaned, max_front_share=0.5)
    assert len(body) <= len(cleaned)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["Intro", "References", "Acknowledgements", "Methods"]), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_cutting_a_paper_again_changes_nothing(
    titles: list[str], appendix: bool, bibliography: bool
) -> None:
    """For papers, that is: texts with one document environment and headings outside the front."""
    sections = "".join(f"\\section{{{title}}}\n{LONG}\n" for title in titles)
    text = f"\\documentclass{{a}}{BEGIN}{ABSTRACT}\n{LONG}{sections}"
    text += "\\appendix\\section{Proofs} x\n" if appendix else ""
    text += "\\begin{thebibliography}{9} x \\end{thebibliography}" if bibliography else ""
    once = without_front_matter_and_bibliography(text + END, max_front_share=0.5)
    assert without_front_matter_and_bibliography(once, max_front_share=0.5) == once


def seconds_to_clean(text: str) -> float:
    """CPU time of all steps; each may only take away."""
    start = time.process_time()
    cleaned = without_comments(text)
    title = title_of(cleaned)
    body = without_front_matter_and_bibliography(cleaned, max_front_share=0.5)
    tidy = with_tidy_lines(body)
    seconds = time.process_time() - start
    assert len(tidy) <= len(body) <= len(cleaned) <= len(text)
    assert title is None or len(title) <= len(text)
    return seconds


def test_hostile_texts_are_linear() -> None:
    """Ten times the text takes ten times the time, not a hundred."""
    pairs = zip(hostile_texts(10_000), hostile_texts(100_000), strict=True)
    for (name, small), (_, large) in pairs:
        seconds = seconds_to_clean(small)
        # 0.2 s for noise; the slowest of them takes 0.1 s, and with a quadratic step seconds.
        assert seconds_to_clean(large) <= 40 * seconds + 0.2, name
