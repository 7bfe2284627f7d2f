"""Which license a text is under: SPDX ids from package metadata and from license texts.

Recognition of free text is heuristic, so it is conservative: what is not recognized is None, and
where several licenses are named all of them count ("A AND B").
"""

from __future__ import annotations

import re
from email.message import Message

_EXPRESSION = re.compile(r"\(*[\w.+-]+\)*(?: (?:AND|OR|WITH) \(*[\w.+-]+\)*)+")

_NAMES = {
    "Apache-2.0": r"\bapache\b",
    "MIT": r"\bmit\b(?!-)|\bexpat\b",
    "MIT-CMU": r"\bmit-cmu\b|\bhpnd\b",
    "BSD-3-Clause": r"\b(?:bsd.3|(?:3|three).clause|new bsd|modified bsd)",
    "BSD-2-Clause": r"\b(?:bsd.2|(?:2|two).clause|simplified bsd)",
    "0BSD": r"\b0bsd\b",
    "ISC": r"\bisc\b|\biscl\b",
    "PSF-2.0": r"\bpsf|\bpython software foundation\b",
    "MPL-2.0": r"\bmpl|\bmozilla public\b",
    "LGPL": r"\blgpl|\blesser general public\b",
    "AGPL": r"\bagpl|\baffero\b",
    "GPL": r"\bgpl|\bgnu general public\b",
    "Unlicense": r"\bunlicense\b",
    "Zlib": r"\bzlib\b",
    "CC0-1.0": r"\bcc0\b",
    "BSL-1.0": r"\bboost\b|\bbsl-1",
}
"""Common names of a license in one line, lower case."""

_APACHE = re.compile(r"\bapache\b")
_OLD_APACHE = re.compile(r"\b1\.[01]\b")
"""In a name of a license: a version of Apache's that is none of the 2.0 license."""

_ANY_BSD = re.compile(r"\b(?<!0)bsd\b")

_PHRASES = {
    # Some copies of the text begin after its title.
    "Apache-2.0": r"apache license,? version 2\.0"
    r"|version 2\.0, january 2004 https?://www\.apache\.org/licenses",
    "MIT": r"permission is hereby granted, free of charge, to any person obtaining a copy",
    "MIT-CMU": r"by obtaining, using, and/or copying this software",
    "ISC": r"permission to use, copy, modify,? and/?(?:or)? distribute this software for any "
    r"purpose with or without fee is hereby granted, provided",
    "PSF-2.0": r"python software foundation license version 2",
    "MPL-2.0": r"mozilla public license,? (?:version|v\.) ?2\.0",
    "LGPL": r"gnu lesser general public license version [23]",
    "AGPL": r"gnu affero general public license version 3",
    "GPL": r"gnu general public license version [123]",
    "Unlicense": r"this is free and unencumbered software released into the public domain",
    "Zlib": r"provided 'as-is', without any express or implied warranty",
    "CC0-1.0": r"cc0 1\.0 universal",
    "BSL-1.0": r"boost software license - version 1\.0",
}
"""Characteristic phrases of license texts: lower case, whitespace as single spaces."""

_HEADER_NAMES = {
    "Apache-2.0": r"\bapache(?: software)? licen[cs]e(?!.{0,20}\b1\.[01]\b)",
    "MIT": r"\b(?:mit|expat)(?:[ -]style)? licen[cs]e",
    "BSD": r"(?<!0)\bbsd(?:[ -]style)?(?: [23]-clause)? licen[cs]e|\b[23]-clause bsd\b",
    "LGPL": r"\bgnu (?:lesser|library) general public\b|\blgpl\b|\blgplv?[23]",
    "AGPL": r"\baffero\b|\bagpl\b|\bagplv?[23]",
    "GPL": r"\bgnu general public\b|\bgpl\b|\bgplv?[23]",
    "MPL": r"\bmozilla public\b|\bmpl\b",
    "EPL": r"\beclipse public\b",
    "CDDL": r"\bcommon development and distribution licen[cs]e",
    "CC": r"\bcreative commons\b|creativecommons\.org",
    "LicenseRef-Proprietary": r"\bproprietary\b|\bunauthori[sz]ed copying\b"
    r"|\bcommunity licen[cs]e agreement\b",
}
"""Names of licenses in the header comment of a source file."""

_SPDX_LINE = re.compile(r"SPDX-License-Identifier:\s*([^\n*]+)", re.IGNORECASE)

_BSD_GRANT = "redistribution and use in source and binary forms"
_BSD_NO_ENDORSEMENT = re.compile(r"endorse or promote|name of .{0,80} may not be used")


def from_name(name: str) -> str | None:
    """SPDX expression for a license named in one line ("MIT License", "Apache 2.0").

    A BSD license of unknown kind is "BSD"; GNU licenses go without a version.
    """
    name = " ".join(name.split())
    if _EXPRESSION.fullmatch(name):
        return name
    lower = name.lower()
    found = [spdx for spdx, pattern in _NAMES.items() if re.search(pattern, lower)]
    if "Apache-2.0" in found and _last(_OLD_APACHE, lower) > _last(_APACHE, lower):
        found.remove("Apache-2.0")
    if _ANY_BSD.search(lower) and not any(spdx.startswith("BSD") for spdx in found):
        found.append("BSD")
    return _all_of(found)


def from_text(text: str) -> str | None:
    """SPDX expression for the full text of a license file, or of a file with several."""
    lower = " ".join(text.lower().split())
    found = [spdx for spdx, pattern in _PHRASES.items() if re.search(pattern, lower)]
    if _BSD_GRANT in lower:
        found.append("BSD-3-Clause" if _BSD_NO_ENDORSEMENT.search(lower) else "BSD-2-Clause")
    return _all_of(found)


def from_header(notice: str) -> str | None:
    """SPDX expression for the header comment of a source file, which may contain the license's
    text, name it, or have an SPDX line; where several are named, all of them.
    """
    if lines := _SPDX_LINE.findall(notice):
        named = [from_name(line.strip(" \t\"'/->")) for line in lines]
        if None not in named:
            return _all_of(sorted({name for name in named if name is not None}))
    lower = " ".join(notice.lower().split())
    found = {spdx for spdx, pattern in _HEADER_NAMES.items() if re.search(pattern, lower)}
    if text := from_text(notice):
        found |= set(text.split(" AND "))
    if any(spdx.startswith("BSD-") for spdx in found):
        found.discard("BSD")
    if "dual licen" in lower or "dual-licen" in lower or "dually licen" in lower:
        return " OR ".join(sorted(found)) or None
    return _all_of(list(found))


def from_metadata(metadata: Message, license_text: str) -> str | None:
    """License of a Python package from its METADATA (PyPA core metadata) and license file.

    In falling order of precision: the License-Expression field, the License field (a name or a
    whole text), the license file, the classifiers.
    """
    if expression := metadata.get("License-Expression"):
        return str(expression)
    field = str(metadata.get("License", ""))
    classifiers = [
        str(classifier).rsplit("::", maxsplit=1)[-1]
        for classifier in metadata.get_all("Classifier", [])
        if str(classifier).startswith("License :: OSI Approved ::")
    ]
    stated = from_name(field) if len(field) < 100 else from_text(field)
    if stated is not None and stated != "BSD":
        return stated
    return from_text(license_text) or stated or from_name(" ".join(classifiers))


def is_allowed(expression: str | None, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression permits use under the `allowed` ids; unknown licenses do not.

    Every part of an AND must be allowed, one part of an OR is enough; an exception after WITH only
    adds rights. Parentheses are not evaluated: with both AND and OR, every id must be allowed.
    """
    if expression is None:
        return False
    words = expression.replace("(", " ").replace(")", " ").split()
    names = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word not in ("AND", "OR", "WITH") and before != "WITH"
    ]
    if not names:
        return False
    combine = any if "OR" in words and "AND" not in words else all
    return combine(name in allowed for name in names)


def _last(pattern: re.Pattern[str], text: str) -> int:
    """Where the pattern matches last; -1 if nowhere."""
    return max((match.start() for match in pattern.finditer(text)), default=-1)


def _all_of(found: list[str]) -> str | None:
    return " AND ".join(sorted(found)) or None
