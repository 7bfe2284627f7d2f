"""Acronyms of the packages glossaries, acronym and acro: one row per rule."""

from __future__ import annotations

import pytest

from data_pipeline.sources.arxiv.acronyms import expand_acronyms
from data_pipeline.sources.arxiv.expansion_input import MacroExplosionError

GLS = "\\newacronym{nn}{NN}{neural net}\n"
ODD = "\\newacronym[longplural={analyses}, shortplural=ANs]{an}{AN}{analysis}\n"
AC = "\\usepackage{acronym}\\newacro{nn}[NN]{neural net}"
ROWS = {
    GLS + "A \\gls{nn}, two \\glspl{nn}.": "A neural net (NN), two NNs.",
    GLS + "\\Gls{nn} and \\gls{nn}.": "Neural net (NN) and NN.",
    GLS + "\\Glspl{nn}.": "Neural nets (NNs).",
    GLS + "\\acrshort{nn}, \\acrlong{nn}, \\Acrlong{nn}, \\acrfull{nn}, \\acrlongpl{nn}": (
        "NN, neural net, Neural net, neural net (NN), neural nets"
    ),
    GLS + "\\glsentryshort{nn} \\glsxtrlong{nn}": "NN neural net",
    GLS + "\\gls*[hyper=false]{nn}['s] use": "neural net (NN)'s use",
    GLS + "\\gls{nn} \\glsresetall \\gls{nn}": "neural net (NN) neural net (NN)",
    ODD + "\\glspl{an} \\glspl{an}": "analyses (ANs) ANs",
    "\\gls{nn}" + GLS: "neural net (NN)",
    "\\newabbreviation{nn}{NN}{neural net}\\gls{nn}": "neural net (NN)",
    "\\newglossaryentry{ox}{name={ox}, plural=oxen, description={a, b}}\\gls{ox} \\glspl{ox}": (
        "ox oxen"
    ),
    # acronym
    AC + "\\ac{nn}, \\acp{nn}, \\acl{nn}, \\acf{nn}, \\acs{nn}, \\Ac{nn}": (
        "\\usepackage{acronym}neural net (NN), NNs, neural net, neural net (NN), NN, NN"
    ),
    "\\acrodef{NN}{neural net}\\ac{NN} \\ac{NN}": "neural net (NN) NN",
    "\\begin{acronym}\\acro{nn}[NN]{neural net}\\end{acronym}\\ac{nn}": (
        "\\begin{acronym}\\item[NN] neural net\\end{acronym}neural net (NN)"
    ),
    # acro
    "\\DeclareAcronym{nn}{\n short = NN ,\n long = {neural net}, short-plural = es\n}\n\\acp{nn}": (
        "neural nets (NNes)"
    ),
    # No acronyms: unknown keys, commands of the paper, what is only shown.
    GLS + "\\gls{other} \\ac{nn}": "\\gls{other} neural net (NN)",
    "\\newcommand{\\acro}[1]{\\textsc{#1}}\\acro{nasa}{x} \\ac{nasa}": (
        "\\newcommand{\\acro}[1]{\\textsc{#1}}\\acro{nasa}{x} \\ac{nasa}"
    ),
    GLS + "\\verb|\\gls{nn}| \\gls{nn}": "\\verb|\\gls{nn}| neural net (NN)",
    "\\newacronym{nn}{NN} \\gls{nn}": "\\newacronym{nn}{NN} \\gls{nn}",
    "\\newacronym{nn}{NN}{neural": "\\newacronym{nn}{NN}{neural",
    GLS + "\\glsadd{nn}\\account{nn}": "\\glsadd{nn}\\account{nn}",
}


@pytest.mark.parametrize(("text", "expected"), ROWS.items())
def test_acronyms(text: str, expected: str) -> None:
    assert expand_acronyms(text, max_growth=10) == expected


def test_long_forms_do_not_blow_up_a_text() -> None:
    long = "\\newacronym{a}{A}{" + "x" * 290 + "}"
    with pytest.raises(MacroExplosionError, match="acronyms write more than"):
        expand_acronyms(long + "\\acl{a}" * 20_000, max_growth=1)
    glossary = "\\newacronym{a}{A}{" + "x" * 1_000 + "}\\gls{a}"
    assert expand_acronyms(glossary, max_growth=10) == glossary
