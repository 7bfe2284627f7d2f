"""Selects hand-written source files of a code repository by path (extension, vendored,
generated)."""

from __future__ import annotations

import os
import re

DOCUMENT_SUFFIXES = frozenset({".md", ".rst", ".txt"})
CODE_SUFFIXES = frozenset(
    {
        *(".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh"),
        *(".java", ".kt", ".scala", ".go", ".rs", ".swift", ".cs", ".m", ".mm"),
        *(".js", ".jsx", ".ts", ".tsx", ".vue", ".css", ".scss", ".html"),
        *(".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".hs", ".ml", ".ex", ".erl", ".clj"),
        *(".sh", ".bash", ".ps1", ".sql", ".proto", ".tex", ".f90", ".vim", ".el", ".lisp"),
        *(".toml", ".cfg", ".ini", ".yaml", ".yml", ".cmake", ".mk", ".gradle"),
    }
)
GITHUB_KINDS = CODE_SUFFIXES | frozenset(
    {
        *(".md", ".markdown", ".rst", "cmakelists.txt", "makefile", "dockerfile", "rakefile"),
        *(".pxd", ".hh", ".hxx", ".h++", ".c++", ".inl", ".kts", ".groovy", ".sbt", ".mjs"),
        *(".cjs", ".less", ".svelte", ".dart", ".d", ".hx", ".pas", ".pp", ".dpr", ".thrift"),
        *(".graphql", ".exs", ".hrl", ".cljs", ".scm", ".rkt", ".mli", ".fs", ".fsi", ".fsx"),
        *(".elm", ".purs", ".nim", ".zig", ".v", ".sv", ".vhd", ".vhdl", ".adb", ".ads", ".asm"),
        *(".s", ".f", ".f95", ".f03", ".vb", ".vbs", ".bas", ".bat", ".cmd", ".zsh", ".psm1"),
        *(".psd1", ".tcl", ".awk", ".coffee", ".cr", ".gd", ".glsl", ".sol", ".sty", ".bzl"),
        *(".htm", ".t", ".pod", ".m4", ".ac", ".am", ".erb", ".cls", ".pro"),
    }
)
"""File types of the GitHub source: programming and markup languages, by suffix or whole name in
lower case. Data (JSON, XML, CSV, SVG, lock files, source maps, certificates) is excluded."""

NOT_OWN_FOLDERS = frozenset(
    {
        *("__pycache__", "node_modules", "site-packages", "dist-packages", "bower_components"),
        # Vendored packages are not under the license of the package that contains them.
        *("_vendor", "vendor", "vendored", "third_party", "3rdparty", "extern", "externals"),
    }
)
TEST_FOLDERS = frozenset(
    {"test", "tests", "testing", "testdata", "test_data", "idle_test", "fixtures"}
)

_LICENSE_FILE = re.compile(
    # Includes "MIT-LICENSE", as in Rails and its plugins.
    r"(?:(?:mit|bsd|apache|[al]?gpl|mpl)[\w.]{0,5}[-_ ])?(?:licen[cs]es?|copying|unlicense)"
    r"(?:[-._].*)?",
    re.IGNORECASE,
)
_NOT_HAND_WRITTEN = re.compile(
    r"[.-]min\.\w+$|\.bundle\.js$|_pb2(?:_grpc)?\.pyi?$|\.pb(?:\.gw)?\.(?:h|cc|go)$"
    r"|\.(?:g|freezed|pb\w*)\.dart$|\.(?:designer|generated|g)\.cs$|^__editable__",
    re.IGNORECASE,
)
_TABLES = re.compile(r"^(?:requirements.*|top_level|entry_points|SOURCES|RECORD)\.txt$")


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def is_license_file(name: str) -> bool:
    """Whether a file name (without folder) is that of a license file for the files around it."""
    return _LICENSE_FILE.fullmatch(name) is not None and suffix_of(name) not in CODE_SUFFIXES


def why_not_code(name: str, kinds: frozenset[str]) -> str | None:
    """The reason to ignore a file with this name (without folder), or None.

    `kinds` are suffixes, and whole file names, in lower case.
    """
    if is_license_file(name):
        return "license_file"
    if _NOT_HAND_WRITTEN.search(name) or _TABLES.fullmatch(name):
        return "not_hand_written"
    if suffix_of(name) not in kinds and name.lower() not in kinds:
        return "unknown_kind"
    return None
