"""Generates the code map in docs/architecture.md from the modules' docstrings.

    python -m tests.tools.code_map --write

A folder and a file are described by the first sentence of their docstring, so that each
description is written once, where it is needed first.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGES = ("recipes", "llama_ds", "data_pipeline", "benchmarks", "tests/support", "tests/tools")
BEGIN, END = "<!-- map: python -m tests.tools.code_map --write -->\n", "<!-- end of map -->\n"


def code_map() -> str:
    """A section per folder, with a row per file in it."""
    return "\n".join(line for name in PACKAGES for line in _folder(ROOT / name))


def parts_of(document: str) -> tuple[str, str, str]:
    """What stands before the map, the map, and what stands after it; ValueError without one."""
    before, begin, rest = document.partition(BEGIN)
    found, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} must have the lines {BEGIN.strip()} and {END.strip()}")
    return before + begin, found, end + after


def _folder(folder: Path) -> Iterator[str]:
    yield f"### `{folder.relative_to(ROOT)}/`\n\n{_sentence(folder / '__init__.py')}\n"
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    files += sorted(folder.glob("*.sh"))
    if files:
        yield "| file | what it does |\n|---|---|"
        yield "\n".join(f"| `{path.name}` | {_sentence(path)} |" for path in files) + "\n"
    for inner in sorted(path for path in folder.iterdir() if (path / "__init__.py").exists()):
        yield from _folder(inner)


def _sentence(path: Path) -> str:
    """The first sentence of a module's docstring, or of a script's first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sh":
        words = next(line for line in text.splitlines() if line.startswith("# "))[2:]
    else:
        words = ast.get_docstring(ast.parse(text)) or ""
    sentence = re.split(r"(?<=[.:])\s*\n\n|(?<=\w\.)\s+(?=[A-Z])", words)[0]
    assert sentence, f"{path} does not say what it does"
    return " ".join(sentence.split()).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help=f"renew the map in {DOCUMENT.name}")
    if parser.parse_args().write:
        before, _, after = parts_of(DOCUMENT.read_text(encoding="utf-8"))
        DOCUMENT.write_text(before + code_map() + after, encoding="utf-8")
    else:
        print(code_map())


if __name__ == "__main__":
    main()
