"""Merges the files of a LaTeX project into one text: finds the main file, inlines included files.

A project is a mapping from path, relative to the package, to content. Nothing outside it is ever
read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from data_pipeline.sources.arxiv.tex_tokens import (
    INLINE_VERBATIM,
    VERBATIM_ENVIRONMENTS,
    tokens_outside_verbatim,
    without_verbatim,
)
from data_pipeline.text.decoding import NotTextError, decode

TEX_SUFFIXES = frozenset({".tex", ".ltx", ".latex"})
_NEVER_MAIN = frozenset({".sty", ".cls", ".bbl", ".bst", ".bib", ".clo", ".def", ".cfg"})
_NEVER_INCLUDED = frozenset({".bbl", ".pgf", ".tikz", ".pstex_t", ".pdf_t", ".eps_tex", ".pdf_tex"})
"""The bibliography, and generated drawings: coordinates, not text."""

_MAX_DEPTH = 20
_MAX_CANDIDATES = 20
_COST_OF_INCLUDING = 4_000
"""Characters charged per inclusion: empty files may include one another millions of times."""
_MAX_INTERNAL_SHARE = 0.25

_TOKEN = re.compile(
    r"%[^\n]*|\\(?:"
    r"begin[ \t]*\{(?P<verbatim>(?:" + "|".join((*VERBATIM_ENVIRONMENTS, "comment")) + r")\*?)\}"
    rf"|(?P<inline>{INLINE_VERBATIM})"
    r"|(?:input|include|subfile|subfileinclude|InputIfFileExists|loadglsentries)(?![A-Za-z@])\s*"
    r"(?:\{(?P<braced>[^{}%\n]{1,300})\}|(?P<bare>(?:\\[A-Za-z@]+)?[^\s{}\\%]{1,300})[ \t]?)"
    # A macro that may be part of the path of a file.
    r"|(?:(?:re)?newcommand\*?|providecommand\*?|[gex]?def)\s*(?:\{\s*)?\\(?P<macro>[A-Za-z@]+)"
    r"\s*(?:\}\s*)?\{(?P<body>(?:[^{}%\n\\]|\\(?!in(?:put|clude))){1,200})\}"
    r"|(?:import|subimport|includefrom|inputfrom|subincludefrom|subinputfrom)\*?[ \t]*"
    r"\{(?P<folder>[^{}%\n]{0,300})\}[ \t]*\{(?P<imported>[^{}%\n]{1,300})\}"
    r"|(?:usepackage|RequirePackage|documentclass|LoadClass|(?P<old>documentstyle))\s*"
    r"(?:\[(?P<options>[^\[\]]{0,2000})\]\s*)?\{(?P<styles>[^{}]{1,1000})\}"
    r"|(?P<stop>endinput)(?![A-Za-z@])"
    r"|[\\%])"
)
_NO_FILE = ("verbatim", "inline", "delimiter", "body")
"""Last groups of tokens that load no file; of most tokens there is none."""
_PATH_MACRO = re.compile(r"\\([A-Za-z@]+)[ \t]*")
_MAX_PATH, _MAX_PATH_MACROS = 1_000, 5
_CLASS = re.compile(r"^[^%\n]*\\document(?:class|style)(?![A-Za-z])", re.MULTILINE)
_BEGIN = re.compile(r"^[^%\n]*\\begin\s*\{document\}", re.MULTILINE)
_INNER = re.compile(r"\\begin\s*\{document\}(.*?)(?:\\end\s*\{document\}|\Z)", re.DOTALL)
_TEX = re.compile(
    r"\\(?:documentclass|documentstyle|begin\s*\{|input\b|magnification\b|def\\|bye\b)"
)
_AUTO_IGNORE = re.compile(r"\s*%\s*auto-ignore")
_README = re.compile(r"^[ \t]*(\S+)[ \t]+(toplevelfile|ignore)\b", re.MULTILINE)
_README_JSON = re.compile(
    # Between two fields at most a list's dash: with `[\s,]*-?\s*` n spaces take n^2 steps.
    r"filename[\"']?\s*:\s*[\"']?([^\"'\s,}]{1,100})[\"']?[\s,]*(?:-\s*)?"
    r"[\"']?usage[\"']?\s*:\s*[\"']?(\w{1,30})|"
    r"usage[\"']?\s*:\s*[\"']?(\w{1,30})[\"']?[\s,]*(?:-\s*)?"
    r"[\"']?filename[\"']?\s*:\s*[\"']?([^\"'\s,}]{1,100})"
)
_DEFINITION = re.compile(
    r"\\(?:(?:new|renew|provide)command\*?|DeclareRobustCommand\*?|[egx]?def|let)\s*(?:\{\s*)?\\"
)
_DECLARED_ENCODING = re.compile(
    rb"^[^%\n]*\\(?:usepackage\s*\[([\w\s,-]{1,40})\]\s*\{inputenc\}|inputencoding\s*\{(\w{1,20})\})",
    re.MULTILINE,
)
_MAX_PREAMBLE = 100_000
"""Bytes in which an encoding is declared."""
_ENCODINGS = {
    # inputenc's option -> Python's name; the Windows superset where there is one.
    **{"latin1": "cp1252", "ansinew": "cp1252", "cp1252": "cp1252", "latin9": "iso8859-15"},
    **{"latin2": "iso8859-2", "latin3": "iso8859-3", "latin4": "iso8859-4", "latin5": "cp1254"},
    **{"latin10": "iso8859-16", "cp1250": "cp1250", "cp1251": "cp1251", "cp1257": "cp1257"},
    **{"cp437": "cp437", "cp850": "cp850", "cp852": "cp852", "cp855": "cp855", "cp866": "cp866"},
    **{"koi8-r": "koi8-r", "koi8-u": "koi8-u", "applemac": "mac-roman", "macce": "mac-latin2"},
    **{"utf8": "utf-8", "utf8x": "utf-8"},
}


class ProjectTooLargeError(ValueError):
    """The merged text exceeds its limit, e.g. because files include one another."""


def decode_file(data: bytes, declared: str | None = None) -> str:
    r"""A file's text; NotTextError if it is binary.

    UTF-8 if all of it is valid, else the encoding that `\usepackage[…]{inputenc}` names here or
    (`declared`) in the paper's main file, else UTF-8 with single bytes replaced if most non-ASCII
    characters are valid, else as `text.decode`. So one invalid byte costs one character.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        own = declared_encoding(data) or declared
    if b"\0" in data or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return decode(data)
    if own is not None:
        return data.decode(own, "replace")
    lenient = data.decode("utf-8", "replace")
    num_bad = lenient.count("\ufffd")
    if sum(character > "\x7f" for character in lenient) > 2 * num_bad:
        return lenient
    return decode(data)


def declared_encoding(data: bytes) -> str | None:
    """Python's name of the encoding that a file declares; None if absent or unknown."""
    if data.find(b"inputenc", 0, _MAX_PREAMBLE) < 0:  # far faster than the pattern, of images too
        return None
    match = _DECLARED_ENCODING.search(data, 0, _MAX_PREAMBLE)
    if match is None:
        return None
    names = (match[1] or match[2]).decode("ascii").split(",")
    return _ENCODINGS.get(names[-1].strip())


def decode_project(files: Mapping[str, bytes]) -> dict[str, str]:
    """The files that are text. NotTextError if there are files and none is text."""
    declared = next(filter(None, map(declared_encoding, files.values())), None)
    texts: dict[str, str] = {}
    failure: NotTextError | None = None
    for name, data in files.items():
        try:
            texts[name] = decode_file(data, declared).replace("\r\n", "\n").replace("\r", "\n")
        except NotTextError as error:
            failure = error if failure is None or _suffix(name) in TEX_SUFFIXES else failure
    if failure is not None and not any(_can_be_main(*item) for item in texts.items()):
        raise failure
    return texts


def is_withdrawn(texts: Mapping[str, str]) -> bool:
    """Whether every TeX file is marked `%auto-ignore`, arXiv's mark of withdrawn papers."""
    marks = [_AUTO_IGNORE.match(t) is not None for n, t in texts.items() if _can_be_main(n, t)]
    return bool(marks) and all(marks)


def main_file(texts: Mapping[str, str], *, max_characters: int) -> str | None:
    r"""The main file of the paper; None if no file is TeX.

    The first that arXiv's 00README names as top level; else, among the files that no other
    includes, those with \documentclass and \begin{document}; else those with one of them; else
    (plain TeX) any. Tie-break: the one whose text with its included files is the longest, then the
    first by name.
    """
    top, ignored = _readme(texts)
    for name in top:
        if name in texts:
            return name
    found = [
        name
        for name, text in texts.items()
        if name not in ignored and _can_be_main(name, text) and not _AUTO_IGNORE.match(text)
    ]
    own: dict[str, bool] = {}
    included = {n for name in found for n in _included(texts, name, own) if n != name}
    free = [name for name in found if name not in included] or found
    whole = [n for n in free if _CLASS.search(texts[n]) and _BEGIN.search(texts[n])]
    partly = [n for n in free if _CLASS.search(texts[n]) or _BEGIN.search(texts[n])]
    candidates = sorted(whole or partly or free, key=lambda name: (-len(texts[name]), name))
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    lengths = {
        name: len(merged(texts, name, max_characters=max_characters))
        for name in candidates[:_MAX_CANDIDATES]
    }
    return min(lengths, key=lambda name: (-lengths[name], name))


def merged(texts: Mapping[str, str], main: str, *, max_characters: int) -> str:
    r"""The text of `main` with the files it includes inlined, recursively.

    \input, \include, \subfile and \import are followed inside the project, with or without the
    suffix .tex; of a file that is a document of its own, the content of its `document` environment.
    The authors' own style files are inlined after the commands that load them (not publishers':
    those in which more than half of the definitions use internals, marked by an @). A command whose
    file is missing, or would include itself, is kept.

    ProjectTooLargeError beyond `max_characters`.
    """
    return _Merger(texts, posixpath.dirname(main), max_characters).text_of(main)


def is_authors_own(style: str) -> bool:
    """Whether a style file defines words of a paper, rather than a layout."""
    starts = [match.end() for match in _DEFINITION.finditer(style)]
    ends = [*starts[1:], len(style)]
    internal = sum("@" in style[a : min(b, a + 300)] for a, b in zip(starts, ends, strict=False))
    return internal <= _MAX_INTERNAL_SHARE * len(starts)


@dataclass
class _Merger:
    texts: Mapping[str, str]
    home: str
    """Folder of the main file, TeX's working directory."""
    max_characters: int
    num_characters: int = 0
    open_files: list[str] = field(default_factory=list)
    macros: dict[str, str] = field(default_factory=dict)
    """Macros without arguments: name -> text."""
    own: dict[str, bool] = field(default_factory=dict)
    """Whether a style is the authors' own: read once, however often it is named."""

    def text_of(self, name: str) -> str:
        text = self.texts[name]
        if self.open_files and _CLASS.search(text):
            inner = _INNER.search(without_verbatim(text))
            text = text[slice(*inner.span(1))] if inner else text
        self.num_characters += len(text) + _COST_OF_INCLUDING
        if self.num_characters > self.max_characters:
            raise ProjectTooLargeError(
                f"with its included files it has more than {self.max_characters} characters"
            )
        self.open_files.append(name)
        pieces: list[str] = []
        start = 0
        for match in tokens_outside_verbatim(_TOKEN, text):
            if match.lastgroup is None:  # nearly all
                continue
            if match["macro"]:
                self.macros[match["macro"]] = match["body"]
            if match.lastgroup in _NO_FILE:
                continue
            if match["stop"]:
                text = text[: match.start()]
                break
            for file, keeps_command in self.loaded(match):
                pieces.append(text[start : match.end() if keeps_command else match.start()])
                if keeps_command:
                    pieces.append("\n")
                pieces.append(self.text_of(file).rstrip())
                start = match.end()
                if text[start : start + 1] != "\n":
                    pieces.append("\n")
        pieces.append(text[start:])
        self.open_files.pop()
        return "".join(pieces)

    def loaded(self, match: re.Match[str]) -> Iterator[tuple[str, bool]]:
        """The files to inline at a command, each with whether the command itself is kept."""
        if len(self.open_files) > _MAX_DEPTH:
            return
        if match["styles"]:
            names = match["styles"].split(",")
            names += (match["options"] or "").split(",") if match["old"] else []
            for name in names:
                style = self.find(name.strip(), (".sty", ".cls"), "")
                if style is not None and self.is_own(style):
                    yield style, True
            return
        folder = self.expanded(match["folder"] or "")
        target = self.expanded(match["braced"] or match["bare"] or match["imported"])
        file = self.find(target.strip(' "'), (".tex", "", ".ltx"), folder)
        if file is None or _suffix(file) in _NEVER_INCLUDED:
            return
        if _suffix(file) in TEX_SUFFIXES and not self.is_own(file):
            return
        yield file, False

    def is_own(self, file: str) -> bool:
        if file not in self.own:
            self.own[file] = is_authors_own(self.texts[file])
        return self.own[file]

    def expanded(self, path: str) -> str:
        """A path with the macros in it that have been defined so far."""
        for _ in range(_MAX_PATH_MACROS if "\\" in path else 0):
            path = _PATH_MACRO.sub(lambda m: self.macros.get(m[1], m[0]), path)[:_MAX_PATH]
        return path

    def find(self, name: str, suffixes: tuple[str, ...], folder: str) -> str | None:
        """The project's file of a name, relative to the main file's folder, the package, or the
        including file; None if it is missing or already open (recursive).
        """
        here = posixpath.dirname(self.open_files[-1]) if self.open_files else ""
        for place in dict.fromkeys((self.home, "", here)):
            for suffix in suffixes:
                path = posixpath.normpath(posixpath.join(place, folder, name + suffix))
                if path in self.texts:
                    return None if path in self.open_files else path
        return None


def _included(texts: Mapping[str, str], name: str, own: dict[str, bool]) -> set[str]:
    """The files that one file includes directly. `own`: as `_Merger.own`, for all files."""
    merger = _Merger(texts, posixpath.dirname(name), 0, open_files=[name], own=own)
    files: set[str] = set()
    for match in tokens_outside_verbatim(_TOKEN, texts[name]):
        if match.lastgroup is None:  # nearly all
            continue
        if match["macro"]:
            merger.macros[match["macro"]] = match["body"]
        elif match.lastgroup not in (*_NO_FILE, "stop"):
            files.update(file for file, _ in merger.loaded(match))
    return files


def _readme(texts: Mapping[str, str]) -> tuple[list[str], set[str]]:
    """00README.XXX (or .json, .yaml): (top-level files, files to ignore)."""
    uses: list[tuple[str, str]] = []
    for name, text in texts.items():
        if posixpath.basename(name).lower().startswith("00readme"):
            uses += [(match[1], match[2]) for match in _README.finditer(text)]
            found = _README_JSON.finditer(text)
            uses += [(m[1] or m[4], m[2] or m[3]) for m in found]
    top = [file for file, use in uses if use in ("toplevelfile", "toplevel")]
    return top, {file for file, use in uses if use == "ignore"}


def _can_be_main(name: str, text: str) -> bool:
    suffix = _suffix(name)
    if posixpath.basename(name).lower().startswith("00readme"):
        return False
    return suffix in TEX_SUFFIXES or (suffix not in _NEVER_MAIN and _TEX.search(text) is not None)


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()
