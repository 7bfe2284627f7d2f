"""LaTeX cleaning: ours against pylatexenc's parser and regular expressions without arguments.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.data.source_arxiv [--samples FOLDER] [--rehearse]

Every contender works on the same texts in one process on one thread; throughput is the text's UTF-8
bytes per CPU second of the process, the best of several rounds; "ours by" is the speedup of ours
over the contender. "left" counts remaining uses of macros that the paper itself defines, found by a
search that is independent of our expander. pylatexenc parses and does not expand: it represents the
cost of a full parse. Without `--samples` the paper is synthetic; with it, every paper under FOLDER
is measured.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pylatexenc.latexwalker import LatexWalker

from data_pipeline.document import Document
from recipes.llama1_corpus import arxiv_source

SOURCE = arxiv_source()
_WORDS = ("the", "kernel", "of", "a", "linear", "map", "is", "closed", "under", "addition", "and")
_FORMS = (
    (r"\newcommand{{\{name}}}{{\mathbb{{R}}}}", r"\{name}"),
    (r"\newcommand{{\{name}}}[1]{{\mathbf{{#1}}}}", r"\{name}{{x}}"),
    (r"\newcommand{{\{name}}}[2][p]{{\left\|#2\right\|_{{#1}}}}", r"\{name}[q]{{f - g}}"),
    (r"\def\{name}#1#2{{\langle#1,#2\rangle}}", r"\{name}{{u}}{{v}}"),
    (r"\DeclareMathOperator{{\{name}}}{{tr}}", r"\{name} A"),
)


@dataclass(frozen=True)
class Result:
    contender: str
    seconds: float
    num_bytes: int
    num_left: int | None

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.num_bytes / self.seconds / 1e6


def made_paper(rng: Random, num_characters: int) -> str:
    """A synthetic paper with fifty macros, a use about every 150 characters, comments, a
    bibliography."""
    names = [f"my{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(50)]
    forms = {name: rng.choice(_FORMS) for name in names}
    lines = ["\\documentclass{article}"]
    lines += [definition.format(name=name) for name, (definition, _) in forms.items()]
    lines += ["\\begin{document}", "\\section{Introduction}"]
    size = 0
    while size < num_characters:
        line = " ".join(rng.choices(_WORDS, k=12))
        name = rng.choice(names)
        use = forms[name][1].format(name=name)
        line += f" ${use} = \\alpha_{{i}}$" if rng.random() < 0.5 else " $x \\in \\mathcal{C}$"
        line += "% a remark" if rng.random() < 0.1 else ""
        lines.append(line)
        size += len(line) + 1
    lines += ["\\begin{thebibliography}{9}\\bibitem{a} A.\\end{thebibliography}", "\\end{document}"]
    return "\n".join(lines)


def ours(text: str) -> str:
    document = Document(text, "paper.tex")
    for edit in SOURCE.edits:
        result = edit(document)
        assert isinstance(result, Document), f"the paper was dropped: {result}"
        document = result
    return document.text


def regexes_without_arguments(text: str) -> str:
    """Cleaning by regular expressions alone: macros with a braced name and without arguments, each
    replaced where a non-letter follows; comments from a percent sign on; from the first section to
    the bibliography.
    """
    definition = (
        r"\\newcommand\*?\{\\([a-zA-Z0-9]+)\}\{(.*)\}\s*$|\\def\\([a-zA-Z0-9]+)\{(.*)\}\s*$"
    )
    macros = {m[1] or m[3]: m[2] or m[4] or "" for m in re.finditer(definition, text, re.MULTILINE)}
    heading = re.search(r"\\(?:chapter|section|subsection)\*?\{", text)
    text = text[heading.start() :] if heading else ""
    text = re.sub(r"(?m)^%.*\n?", "", text)
    text = re.sub(r"(?m)(?<!\\)%.+$", "", text)
    text = re.split(r"\\begin\{thebibliography\}|\\bibliography\{|\\appendix", text)[0]
    for name, body in macros.items():
        text = re.sub(rf"\\{name}(?![a-zA-Z])", body.replace("\\", r"\\"), text)
    return text


def parsed(text: str) -> None:
    LatexWalker(text, tolerant_parsing=True).get_latex_nodes()


def defined_names(text: str) -> set[str]:
    text = re.sub(r"(?m)(?<!\\)%.*", "", text)
    named = r"\\(?:(?:new|renew|provide)command|DeclareMathOperator|[gex]?def|let)\*?"
    found = set(re.findall(named + r"\s*\{?\s*\\([A-Za-z@]+)", text))
    return found - {"section", "subsection"}  # kept on purpose, even if redefined


def num_uses(text: str, names: set[str]) -> int:
    counts = Counter(re.findall(r"\\([A-Za-z@]+)", text))
    return sum(counts[name] for name in names)


def measured(name: str, clean: Callable[[str], str | None], text: str, rounds: int) -> Result:
    best = float("inf")
    cleaned: str | None = None
    for _ in range(rounds):
        start = time.process_time()
        cleaned = clean(text)
        best = min(best, time.process_time() - start)
    left = None if cleaned is None else num_uses(cleaned, defined_names(text))
    return Result(name, best, len(text.encode()), left)


def latex_target(papers: dict[str, str], rounds: int) -> None:
    """The target of this source: at least 5 MB/s, and no user macro left."""
    print(
        f"{'paper':<28}{'kB':>6}{'uses':>7}  {'contender':<27}{'MB/s':>8}{'ours by':>9}{'left':>6}"
    )
    for name, text in papers.items():
        results = [
            measured("ours", ours, text, rounds),
            measured("regexes without arguments", regexes_without_arguments, text, rounds),
            measured("pylatexenc (parse only)", parsed, text, max(1, rounds // 5)),
        ]
        body = text[text.find("\\begin{document}") :]
        uses = num_uses(body, defined_names(text))
        for result in results:
            left = "-" if result.num_left is None else str(result.num_left)
            print(
                f"{name:<28}{len(text) / 1e3:>6.0f}{uses:>7}  {result.contender:<27}"
                f"{result.rate:>8.2f}{results[0].rate / result.rate:>9.2f}{left:>6}"
            )


def sample_papers(folder: Path) -> dict[str, str]:
    found = SOURCE.inputs(folder / "raw" / "arxiv")
    items = (item for file in found.files for item in SOURCE.read(file))
    return {
        item.source_file: item.text
        for item in items
        if isinstance(item, Document) and item.offset is None and len(item.text) > 1_000
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=Path, help="folder with raw/arxiv")
    parser.add_argument("--rehearse", action="store_true", help="everything, in a small size")
    options = parser.parse_args()
    size, rounds = (2_000, 1) if options.rehearse else (118_000, 10)
    papers = {"made": made_paper(Random(0), size)}
    if options.samples:
        papers |= sample_papers(options.samples)
    latex_target(papers, rounds)


if __name__ == "__main__":
    main()
