"""Macro expansion: one row per form of definition and use, ends for every input."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.sources.arxiv.expansion_input import MacroExplosionError
from data_pipeline.sources.arxiv.macros import expand_macros
from tests.support.nasty_arxiv import soup

ROWS = {
    # What macros are defined by.
    r"\newcommand{\R}{\mathbb{R}}$\R$": r"$\mathbb{R}$",
    r"\newcommand\R{\mathbb{R}}$\R$": r"$\mathbb{R}$",
    "\\newcommand{\\bug}\n    {\\rule{2mm}{2mm}}\n\\bug": r"\rule{2mm}{2mm}",
    r"\newcommand*{\R}{r}\R": "r",
    r"\newcommand {\R} [1] {(#1)}\R{x}": "(x)",
    r"\renewcommand{\vec}[1]{\mathbf{#1}}$\vec{x}$": r"$\mathbf{x}$",
    r"\providecommand{\x}{a}\providecommand{\x}{b}\x": "a",
    r"\DeclareRobustCommand{\x}{a}\x": "a",
    r"\DeclareMathOperator{\Tr}{Tr}$\Tr A$": r"$\operatorname{Tr}A$",
    r"\DeclareMathOperator*\argmin{arg\,min}$\argmin_x$": r"$\operatorname*{arg\,min}_x$",
    r"\def\x{a}\x": "a",
    r"\gdef\x{a}\x": "a",
    r"\long\def\x#1{a#1}\x{b}": "ab",
    r"\global\long\def\x{a}\x": "a",
    r"\let\x\alpha$\x$": r"$\alpha$",
    # AMS-TeX's own; in LaTeX they are names that many papers give to a macro of theirs.
    r"\input amstex \define\R{\Bbb R}\redefine \x#1{(#1)}$\R\x a$": r"\input amstex $\Bbb R(a)$",
    r"\newcommand{\define}[1]{\emph{#1}}\define{ring}": r"\emph{ring}",
    r"\let\x=\alpha$\x$": r"$\alpha$",
    r"\let\x= a\x": "a",
    r"\DeclarePairedDelimiter\abs{|}{|}$\abs{x}\abs*{y}\abs[\big]{z}$": (
        r"$| x |\left| y \right|\big| z \big|$"
    ),
    r"\NewDocumentCommand\x{s O{d} m o}{\IfBooleanTF#1{S}{P}#2#3\IfNoValueF{#4}{!#4}}"
    r"\x{a}\x*[e]{b}[c]": "PdaSeb!c",
    # Arguments.
    r"\newcommand{\x}[2]{#2#1}\x{a}{b}": "ba",
    r"\newcommand{\x}[9]{#9#1}\x123456789": "91",
    r"\newcommand{\x}[1]{<#1>}\x\alpha b": r"<\alpha>b",
    r"\newcommand{\x}[1]{<#1>}\x {a}": "<a>",
    r"\newcommand{\x}[1]{<#1>}\x{a{b}\}c}": r"<a{b}\}c>",
    r"\newcommand{\x}[2][d]{#1,#2}\x{a}\x[b]{c}": "d,ab,c",
    r"\newcommand{\x}[1][d]{(#1)}\x \x[e{]}f]": "(d)(e{]}f)",
    r"\def\p(#1,#2){#1+#2}\p(1,2)\p({3,4},5)": "1+23,4+5",
    r"\def\b#1\e{[#1]}\b a{\e}c\e\b{d}\e": r"[a{\e}c][d]",
    r"\def\x#1#2.{#1|#2}\x abc.": "a|bc",
    r"\def\x#1{(#1)}\def\y{\x}\y{a}": "(a)",
    r"\newcommand{\x}[1]{(#1)}{\x}": r"{\x}",
    "\\newcommand{\\x}[1]{(#1)}\\x\n\na": "\\x\n\na",
    # Macros in macros, and definitions by macros.
    r"\newcommand{\C}{c\A}\newcommand{\A}{a}\C": "ca",
    r"\newcommand{\x}[1]{(#1)}\newcommand{\y}[1]{\x{\x{#1}}}\y{\x{a}}": "(((a)))",
    r"\newcommand{\nc}{\newcommand}\nc{\x}[1]{(#1)}\x{a}": "(a)",
    r"\let\nc\newcommand\nc\x{a}\x": "a",
    r"\def\mk#1#2{\def#1##1{#2##1}}\mk\x{a}\x b": "ab",
    r"\newcommand{\name}[1]{\def\thename{#1}}\name{Ann}\thename\name{Bob}\thename": "AnnBob",
    r"\def\x{a}\x\def\x{b}\x": "ab",
    # A redefinition ends with its group of braces, unless it is global.
    r"\def\x{a}{\def\x{b}\x{\let\x=c\x}\x}\x": "{b{c}b}a",
    r"\def\x{a}{\gdef\x{b}\x}\x{\global\let\x=c\x}\x": "{b}b{c}c",
    r"\def\x{a}\newcommand{\y}[1]{{\renewcommand{\x}{#1}\x}}\y{b}\x": "{b}a",
    r"\def\x{a}{\let\x\relax\x}\x{\def\x{b}": r"{\x}a{",
    # The meaning at the time of \let; a swap does not go round in a circle.
    r"\def\x{a}\let\y\x\def\x{b}\y\x": "ab",
    r"\let\old\phi\let\phi\varphi\let\varphi\old$\phi\varphi$": r"$\varphi\phi$",
    r"\let\oldvec\vec\renewcommand{\vec}[1]{\oldvec{\mathbf#1}}$\vec x$": r"$\vec{\mathbf x}$",
    r"\let\x\relax\x\def\x{a}\let\x\undefined\x": r"\x\x",
    # What stands around a use. TeX skips spaces after a control word; line ends stay.
    r"\newcommand{\R}{\mathbb{R}}$\R\R$": r"$\mathbb{R}\mathbb{R}$",
    r"\newcommand{\x}{a}\x b \x\ b \x{} b \x, b": r"ab a\ b a b a, b",
    "\\newcommand{\\x}{a}\\x\nb": "a\nb",
    r"\newcommand{\x}{\alpha}$\x b\x1$": r"$\alpha b\alpha1$",
    r"\newcommand{\x}[1]{\bf#1}\x{a}": r"\bf a",
    r"\newcommand{\X}{x}\Xi \X": r"\Xi x",
    r"\newcommand{\B}{\textsc{b}\xspace}\B is \B, \B{} (\B)": (
        r"\textsc{b} is \textsc{b}, \textsc{b} (\textsc{b})"
    ),
    r"\newcommand{\B}{b\xspace}\B \cite{x} \B $x$ \B\footnote{y} \B\ z \B-\B": (
        r"b \cite{x} b $x$ b\footnote{y} b\ z b-b"
    ),
    r"\def\1{\bm{1}}$\1_A$": r"$\bm{1}_A$",
    r"\def\x{a}\x@y": "a@y",
    # Where nothing is expanded.
    r"\def\x{a}\begin{verbatim}\x\end{verbatim}\verb|\x|\lstinline{\x}\x": (
        r"\begin{verbatim}\x\end{verbatim}\verb|\x|\lstinline{\x}a"
    ),
    r"\def\x{a}\begin{lstlisting}[language=C]\x\end{lstlisting}": (
        r"\begin{lstlisting}[language=C]\x\end{lstlisting}"
    ),
    r"\def\x{a}\lstnewenvironment{code}{}{}\begin{code}\x\end{code}\x": (
        r"\lstnewenvironment{code}{}{}\begin{code}\x\end{code}a"
    ),
    r"\renewcommand{\section}{\@startsection{}}\section{A}": r"\section{A}",
    # Definitions go, with the line that they had to themselves.
    "a\n\\newcommand{\\x}{b}\nc": "a\nc",
    "a\n  \\newcommand{\\x}{b}  \n\nc": "a\n  \nc",
    r"\newcommand{\x": r"\newcommand{\x",
    r"\def\x#1": r"\def\x#1",
    # Environments.
    r"\newenvironment{e}{\begin{center}}{\end{center}}\begin{e}a\end{e}": (
        r"\begin{center}a\end{center}"
    ),
    r"\newenvironment{e}[2][d]{<#1#2>}{!}\begin{e}{x}a\end{e}\begin{e}[y]{z}\end{e}": "<dx>a!<yz>!",
    r"\renewenvironment{equation}[1]{#1}{}\begin{equation}{a}\end{equation}": (
        r"\begin{equation}{a}\end{equation}"
    ),
    # Decisions.
    r"a\iffalse b\iftrue c\fi d\else e\fi f": "aef",
    r"\iftrue a\else b\fi": "a",
    r"\newif\ifd\dtrue\ifd a\else b\fi\dfalse\ifd a\else b\fi": "ab",
    r"\ifx\a\b c\else d\fi": r"\ifx\a\b c\else d\fi",
    r"\iffalse a $x \iff y$ \ifthenelse{a}{b}{c} d\fi e": "e",
    r"\iffalse a": r"\iffalse a",
    # Computed names, as programs write them into files of results.
    r"\expandafter\newcommand\csname foo1\endcsname{X}\csname foo1\endcsname.": "X.",
    r"\expandafter\def\csname x\endcsname#1{(#1)}\x{a}": "(a)",
    r"\expandafter\newcommand\expandafter{\csname x\endcsname}{a}\x": "a",
    r"\expandafter\newcommand*{\csname a-b\endcsname}[1]{#1!}\csname a-b\endcsname{c}": "c!",
    r"\expandafter\def\csname var:acc\endcsname{93.1}"
    r"\newcommand{\variable}[1]{\csname var:#1\endcsname}\variable{acc}\% or": r"93.1\% or",
    r"\@namedef{n 1}{7}\@nameuse{n 1}": "7",
    r"\csname other\endcsname here": r"\csname other\endcsname here",
    r"\csname section\endcsname{a}": r"\section{a}",
    r"\expandafter\foo\bar": r"\expandafter\foo\bar",
    r"\csname a": r"\csname a",
    r"\newcommand{\x}{\@ifstar{\y}{\z}}\newcommand\y[1]{s#1}\newcommand\z[1]{n#1}\x{a}\x*{b}": (
        "nasb"
    ),
    r"\newcommand{\u}[1]{(#1)\more}\newcommand{\more}{\@ifnextchar\bgroup{\u}{}}\u{a}{b}{c}d": (
        "(a)(b)(c)d"
    ),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\def\v#1{\mathbf{#1}}\def\t{\v\theta}$\t x$", r"$\mathbf{\theta}x$"),
        (r"\def\ket#1{#1|}\def\p{\ket\psi}$\p A$", r"$\psi|A$"),
        (r"\newif\ifa\newif\ifb\atrue\ifa A\ifb x\else y\fi\fi w", "Ayw"),
        (r"\newif\iff\ftrue\def\full#1{\iff#1\fi}We \full{see} it.", "We see it."),
        (r"\def\v#1{[#1]}\def\h#1{\v\theta}the \h{1} bar", r"the [\theta] bar"),
    ],
)
def test_control_words_of_expansions_end_with_them(text: str, expected: str) -> None:
    assert expand_macros(text, max_growth=10) == expected


@pytest.mark.parametrize("let", [r"\let\ifx@y\iftrue", r"\let\ifx@y=\iftrue"])
def test_switches_may_be_other_names_of_true_and_false(let: str) -> None:
    assert expand_macros(let + r"\ifx@y a\else b\fi", max_growth=10) == "a"
    assert expand_macros(let.replace("true", "false") + r"\ifx@y a\else b\fi", max_growth=10) == "b"


@pytest.mark.parametrize(("text", "expected"), ROWS.items())
def test_expansion(text: str, expected: str) -> None:
    assert expand_macros(text, max_growth=10) == expected
    assert expand_macros(expected, max_growth=10) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\def\a{\a}x\a y", r"x\a y"),
        (r"\def\a{\a\a}\def\b{b}\a\b", r"\a b"),
        (r"\renewcommand{\vec}[1]{\mathbf{\vec{#1}}}$\vec x$", r"$\vec x$"),
    ],
)
def test_a_macro_that_expands_to_itself_stays_and_others_do_not(text: str, expected: str) -> None:
    assert expand_macros(text, max_growth=10) == expected


def test_a_macro_that_doubles_its_argument_is_refused() -> None:
    with pytest.raises(MacroExplosionError, match="write more than"):
        expand_macros(r"\def\a#1{\a{#1#1}}\a{x}", max_growth=10)


def test_mutual_recursion_ends() -> None:
    text = r"\def\a{1\b}\def\b{2\a}\def\c{c}\a\c"
    assert expand_macros(text, max_growth=10) in (r"\a c", r"1\b c", r"2\a c", r"12\a c")


def test_a_macro_may_nest_in_its_own_argument() -> None:
    depth = 20
    text = r"\newcommand{\p}[1]{(#1)}" + r"\p{" * depth + "x" + "}" * depth
    assert expand_macros(text, max_growth=10) == "(" * depth + "x" + ")" * depth


@pytest.mark.parametrize("last", ["ha", ""])
def test_billion_laughs_are_refused(last: str) -> None:
    names = [chr(97 + i) * 2 for i in range(26)]
    chain = "".join(rf"\def\{a}{{\{b}\{b}}}" for a, b in pairwise(names))
    with pytest.raises(MacroExplosionError, match="write more than"):
        expand_macros(chain + rf"\def\{names[-1]}{{{last}}}\{names[0]}", max_growth=10)


def test_long_arguments_are_found_and_lost_ones_are_not_waited_for() -> None:
    paragraph = "word {\\bf bold} " * 3_000
    text = rf"\newcommand{{\x}}[1]{{[#1]}}\x{{{paragraph}}}"
    assert expand_macros(text, max_growth=10) == f"[{paragraph}]"
    # A quadratic search would take minutes here.
    unclosed = r"\newcommand{\x}[1]{[#1]}" + r"\x{a" * 30_000
    assert expand_macros(unclosed, max_growth=10).count(r"\x{a") == 30_000


def test_many_redefinitions_hold_as_few_do() -> None:
    assert expand_macros(r"\let\a\b" * 3_000 + r"\a", max_growth=10) == r"\b"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_soup_is_expanded_once_and_for_all(seed: int, length: int) -> None:
    text = soup(Random(seed), length)
    try:
        expanded = expand_macros(text, max_growth=10)
    except MacroExplosionError:
        return
    assert expand_macros(expanded, max_growth=10) == expanded


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="\\", exclude_categories=["Cs"])))
def test_text_without_commands_stays(text: str) -> None:
    assert expand_macros(text, max_growth=10) == text


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["va", "vb", "vc", "vd", "ve"]),
        st.lists(st.sampled_from(["1", "2", "va", "vb", "vc", "vd", "ve"]), max_size=4),
    )
)
def test_macros_without_arguments_expand_as_a_grammar(bodies: dict[str, list[str]]) -> None:
    """Against substitution by hand; names that lead back to themselves are left out."""

    def written(parts: list[str]) -> str:
        return "".join(part if part.isdigit() else rf"\{part}{{}}" for part in parts)

    def value(name: str, below: tuple[str, ...]) -> str | None:
        if name in below:
            return None
        if name not in bodies:
            return rf"\{name}{{}}"
        parts = [p if p.isdigit() else value(p, (*below, name)) for p in bodies[name]]
        return None if None in parts else "".join(filter(None, parts))

    values = {name: value(name, ()) for name in bodies}
    finite = {name: text for name, text in values.items() if text is not None}
    definitions = "".join(rf"\def\{n}{{{written(p)}}}" for n, p in bodies.items() if n in finite)
    uses = ";".join(rf"\{name}{{}}" for name in finite)
    assert expand_macros(definitions + uses, max_growth=10) == ";".join(finite.values())
