"""Renders inline wikitext templates whose arguments are part of the surrounding sentence.

Templates are programs that are stored in each wiki; a dump of articles does not contain them, and
most are boxes, notes and references, which are dropped. Dropping these too would leave holes in
sentences: foreign words, numbers with units, marked-up words, quotations, special characters. Names
are those of the Wikipedias of the paper, in lower case with spaces for underscores; the large ones
have more of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data_pipeline.sources.wikipedia.italian_biography import first_sentence
from data_pipeline.text.decoding import name_set

_FIRST = name_set("""
    nowrap, nobr, nobreak, nobold, noitalic, noitalics, italic, ital, bold, em, strong, small,
    smaller, petit, petite, big, large, larger, resize, center, centre, uc, lc, ucfirst, lcfirst,
    smallcaps, sc, sc1, sc2, petites capitales, underline, abbr, abbrlink, tooltip, tip, mvar,
    math, code, tt, mono, kbd, samp, poemquote, poem, ipa, api, unicode,
    polytonic, grc, hebrew, nts, num, ill, interlanguage link, ilm, lien, flag, flagcountry,
    flagu, ordinal, formatnum, число, szám, sic, not a typo, proper name, as written, nihongo2,
    нп, нп2, нп3, нп4, нп5, не переведено, не переведено 2, не переведено 3, не переведено 5,
    не перекладено, ілм, ilc, ilink, citat, quote, cquote, blockquote, quotation, zitat,
    citation bloc, cita, citazione, cytat, цитата, citaat, citát, citação, idézet, navedek,
    keypress, мфа, esd, iw, comment, j, maiuscoletto, versalita, versaleta, kapitälchen,
    tutto attaccato, refnec, référence nécessaire, référence souhaitée, terme défini, zitat-en,
    zitat-fr, zitat-it, zitat-es, zitat-la
    """)
"""Shown: the first argument, or a named one of `_TEXT_ARGUMENTS`."""

_SECOND = name_set("""
    lang, langx, langue, cizojazyčně, vjazyce2, transl, transliteration, translit,
    translitération, color, colour, font color, fontcolor, farbe, cor, script, wikt-lang,
    јез
    """)
"""Shown: the second argument; the first is a language or a color."""

_LAST = name_set("sort, sorteer, sort-as")
"""Shown: the last argument."""

_JOINED = name_set("chem, chem2, formule chimique, fchim, химия, ce, gaps")
"""Shown: all arguments, concatenated."""

_OWN_LINES = name_set("plainlist, plain list, flatlist, flat list")
"""Shown: the first argument, on separate lines."""
_COMMAS = name_set("hlist, comma separated entries")
_LINES = name_set("""
    ubl, ublist, unbulleted list, unordered list, bulleted list, ordered list, list, blist
    """)
_CONVERTED = name_set("convert, cvt, dunité, converter, converti")
_NUMBER_AND_UNIT = name_set("unité, nombre, nb, unidad, unitats, fmtn")
_DATES = name_set("""
    birth date, birth date and age, bda, birth-date, birth-date and age, death date,
    death date and age, death-date, start date, start date and age, end date, film date,
    release date, dts, date table sorting, date de naissance, date de décès, fecha, data
    """)
_WORDS = name_set("date, date-, дата, date sport, date rapide")
"""Shown: all arguments with spaces between them."""
_FRACTIONS = name_set("frac, fraction, sfrac, дробь, дріб")

_SYMBOLS: Mapping[str, str] = {
    "!": "|",
    "=": "=",
    "(": "{",
    ")": "}",
    "'": "'",
    "`": "`",
    "'s": "'s",
    "nbsp": " ",
    "space": " ",
    "spaces": " ",
    "thinsp": " ",
    "thin space": " ",
    "hair space": " ",
    "ndash": "–",
    "en dash": "–",
    "–": "–",
    "snd": " – ",
    "spnd": " – ",
    "spaced ndash": " – ",
    "spaced en dash": " – ",
    "mdash": "—",
    "em dash": "—",
    "—": "—",
    "·": " · ",
    "dot": " · ",
    "middot": " · ",
    "•": " • ",
    "bull": " • ",
    "bullet": " • ",
    "\\": " / ",
    "°": "°",
    "okina": "ʻ",
    "ʻ": "ʻ",
    "hamza": "ʾ",
    "ayin": "ʿ",
    "€": "€",
    "pound": "£",
    "pi": "π",
    "×": "×",
    "sqrt": "√",
    "n°": "no",
    "numéro": "no",
    **{ending: ending for ending in ("e", "er", "re", "ère", "nd", "nde")},
    "nnbsp": " ",
    "тире": " — ",
    "nº": "nº",
    "br": "\n",
    "crlf": "\n",
    "pb": "\n\n",
    "paragraph break": "\n\n",
}
"""Templates that render a character, followed by their argument, if any."""

_PREFIXED: Mapping[str, str] = {
    "circa": "c. ",
    "c.": "c. ",
    "ca.": "c. ",
    "fl.": "fl. ",
    "floruit": "fl. ",
    "us$": "US$",
    "usd": "US$",
    "gbp": "£",
    "£": "£",
    "eur": "€",
    "€": "€",
    "¥": "¥",
    "jpy": "¥",
    "a$": "A$",
    "aud": "A$",
    "c$": "C$",
    "cad": "C$",
    "₹": "₹",
    "inr": "₹",
    "indian rupee": "₹",
    "e": "×10^",
    "esp": "×10^",
    "x10^": "×10^",
    "10^": "10^",
    "sup": "^",
    "exp": "^",
    "sub": "",
    "ind": "",
    "as of": "As of ",
    "siglo": "siglo ",
    "segle": "segle ",
    "sqrt": "√",
    "séc": "século ",
    "§": "§ ",
    **{
        kind: f"{kind.upper()} "
        for kind in ("uss", "hms", "hmas", "hmcs", "rms", "ss", "ms", "mv", "sms", "ins", "usns")
    },
}
"""Shown: these characters and then the first argument."""

_WRAPPED: Mapping[str, tuple[str, str]] = {
    '"': ("„", "“"),  # German
    **dict.fromkeys(("citation", "guil"), ("« ", " »")),  # French; in English of named arguments
    "incise": ("– ", " –"),
    "angbr": ("⟨", "⟩"),
}
"""Shown: the first argument between these."""

_TEXT_ARGUMENTS = (
    *("text", "texte", "texto", "testo", "tekst", "textus", "szöveg", "текст", "1"),
    *("quote", "citat", "citation", "zitat", "cita", "cytat", "citace", "citát", "цитата"),
    *("content", "inhalt", "contenu", "contenido", "fr", "trad"),
)
_RANGE_WORDS: Mapping[str, str] = {
    **{word: word for word in ("to", "and", "or", "by", "x", "×", "+/-", "±", "à", "et", "ou")},
    **{"-": "–", "–": "–", "—": "–", "to(-)": "to", "and(-)": "and", "a": "a", "y": "y", "e": "e"},
}
# An argument's name contains no tag, link or URL: those are text with an equals sign.
_ARGUMENT_NAME = re.compile(r"[\w -]{1,40}")
_LANGUAGE_TEMPLATE = re.compile(r"(?:lang|ipa|ipac|јез)-\w[\w-]{1,12}")
_GERMAN_LANGUAGE = re.compile(r"[a-z]{2,3}S[1-3]?")
_CENTURY = re.compile(r"(-)?(s|sp|siècle|-s|s2)(-)?")
_ORDINAL = re.compile(
    r"[ivxlcdm\d]{1,8}(?:er|re|e|ère|ème|nd|nde|o|a)s?(?: siècle)?", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+−–]?[\d.,'  \u2009]*\d(?:\.?\s*\d+/\d+)?|\d+/\d+")
_ROMAN = re.compile(r"[IVXLC]{1,8}")
_ABBREVIATION = re.compile(r"[^\W\d_]{1,7}\.")
"""Polish {{ang.}}, French {{p.|12}}: the name itself is shown."""
_MAX_NUMBER_CHARACTERS = 40
_MAX_CONVERTED = 40
"""Arguments of a conversion that are looked at; it needs ten at most."""
_DIGITS = re.compile(r"\d{1,4}")


@dataclass(frozen=True)
class _Arguments:
    positional: list[str]
    named: dict[str, str]

    def at(self, index: int) -> str:
        """The positional argument, or the empty string."""
        return self.positional[index] if index < len(self.positional) else ""


def render(parts: Sequence[str]) -> str:
    """The text of a template given as its name and arguments; empty where it shows no text of the
    sentence, or is unknown.
    """
    name = parts[0].replace("_", " ").strip()
    head, colon, value = name.partition(":")
    if colon:
        return _parser_function(head.strip().lower(), value.strip())
    if len(parts) == 1:
        return _without_arguments(name)
    arguments = _split(parts[1:])
    if _GERMAN_LANGUAGE.fullmatch(name):
        return arguments.at(0)
    lower = name.lower()
    for names, rule in _RULES:
        if lower in names:
            return rule(arguments)
    if _LANGUAGE_TEMPLATE.fullmatch(lower):
        return "" if lower.startswith("ipac") else _first(arguments)
    if lower in _WRAPPED:
        before, after = _WRAPPED[lower]
        return f"{before}{arguments.at(0)}{after}" if arguments.at(0) else ""
    if lower in _PREFIXED:
        return _prefixed(_PREFIXED[lower], arguments)
    if lower in _SYMBOLS:
        return _SYMBOLS[lower] + arguments.at(0)
    if _CENTURY.fullmatch(lower) and _ROMAN.fullmatch(arguments.at(0)):
        return _century(lower, arguments)
    if _ABBREVIATION.fullmatch(name) or (name[:1].isdigit() and _ORDINAL.fullmatch(name)):
        return f"{name} {arguments.at(0)}".rstrip()
    return arguments.at(0) if lower == "s" else ""  # Russian: no break


def _parser_function(name: str, value: str) -> str:
    return value if name in {"formatnum", "lc", "uc", "lcfirst", "ucfirst", "nowrap"} else ""


def _without_arguments(name: str) -> str:
    symbol = _SYMBOLS.get(name.lower())
    if symbol is not None:
        return symbol
    return name if _ORDINAL.fullmatch(name) or _ABBREVIATION.fullmatch(name) else ""


def _split(parts: Sequence[str]) -> _Arguments:
    positional: list[str] = []
    named: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not _ARGUMENT_NAME.fullmatch(key.strip()):
            positional.append(part.strip())
        elif key.strip() == str(len(positional) + 1):
            positional.append(value.strip())
        else:
            named[key.strip().lower()] = value.strip()
    return _Arguments(positional, named)


def _first(arguments: _Arguments) -> str:
    for name in _TEXT_ARGUMENTS:
        if not arguments.at(0) and arguments.named.get(name):
            return arguments.named[name]
    return arguments.at(0)


def _second(arguments: _Arguments) -> str:
    return (
        arguments.at(1)
        if len(arguments.positional) > 1
        else _first(_Arguments([], arguments.named))
    )


def _last(arguments: _Arguments) -> str:
    return arguments.positional[-1] if arguments.positional else ""


def _joined(arguments: _Arguments) -> str:
    return "".join(arguments.positional)


def _own_lines(arguments: _Arguments) -> str:
    return f"\n{_first(arguments)}\n"


def _commas(arguments: _Arguments) -> str:
    return ", ".join(filter(None, arguments.positional))


def _lines(arguments: _Arguments) -> str:
    return "\n" + "\n".join(f"* {item}" for item in arguments.positional if item) + "\n"


def _words(arguments: _Arguments) -> str:
    return " ".join(filter(None, arguments.positional))


def _prefixed(prefix: str, arguments: _Arguments) -> str:
    value = _first(arguments)
    if prefix == "As of " and arguments.named.get("lc"):
        prefix = "as of "
    if prefix == "^" and not _is_number(value):
        prefix = ""
    return prefix + value if value else ""


def _fraction(arguments: _Arguments) -> str:
    """1/2 from (1, 2), 3 1/2 from (3, 1, 2), 1/2 from (2)."""
    *whole, top, bottom = (["1"] if len(arguments.positional) == 1 else []) + (
        arguments.positional[:3] or ["", ""]
    )
    return " ".join([*whole, f"{top}/{bottom}"]) if bottom else ""


def _date(arguments: _Arguments) -> str:
    """Three numbers as 1950-01-02; with the month in words, as given: "2 janvier 1950"."""
    parts = [part for part in arguments.positional[:3] if part]
    if any(not _DIGITS.fullmatch(part) for part in parts):
        return " ".join(parts)
    return "-".join(number.zfill(2) for number in parts)


def _is_number(text: str) -> bool:
    return len(text) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(text) is not None


def _converted(arguments: _Arguments) -> str:
    """The measured value, without the converted one: "5 to 10 km", "6 ft 2 in".

    A number without a unit at the end is the precision of the conversion.
    """
    words: list[str] = []
    rest = arguments.positional[:_MAX_CONVERTED]
    while rest and _is_number(rest[0]) and (not words or len(rest) > 1):
        words.append(rest.pop(0))
        while len(rest) > 1 and rest[0] in _RANGE_WORDS and _is_number(rest[1]):
            words += [_RANGE_WORDS[rest.pop(0)], rest.pop(0)]
        if rest and not _is_number(rest[0]):
            words.append(rest.pop(0))
    return " ".join(filter(None, words)).replace(" – ", "–")


def _number_and_unit(arguments: _Arguments) -> str:
    """French and Spanish: number, then units, each with its exponent: "12 km^2", "5 m·s^-1"."""
    number, *rest = arguments.positional or [""]
    powers = [*rest[1::2], ""]
    units = [
        f"{unit}^{power}" if power else unit
        for unit, power in zip(rest[::2], powers, strict=False)
        if unit
    ]
    return f"{number} {'·'.join(units)}".strip()


def _value(arguments: _Arguments) -> str:
    """A measured value of the template Val: number, power of ten and unit."""
    power = f"×10^{arguments.named['e']}" if arguments.named.get("e") else ""
    unit = arguments.named.get("u") or arguments.named.get("ul") or ""
    number = arguments.at(0)
    if arguments.at(1):
        number += f"±{arguments.at(1)}"
    return f"{number}{power} {unit}".strip()


def _as_unit(arguments: _Arguments) -> str:
    """Italian M: number, error, unit."""
    unit = arguments.named.get("ul") or arguments.named.get("u") or arguments.at(2)
    return f"{arguments.at(0)} {unit}".strip()


def _nihongo(arguments: _Arguments) -> str:
    """English (Japanese, romanized)."""
    inner = ", ".join(filter(None, arguments.positional[1:3]))
    if not arguments.at(0):
        return inner
    return f"{arguments.at(0)} ({inner})" if inner else arguments.at(0)


def _century(name: str, arguments: _Arguments) -> str:
    """French {{s|XIX|e}}: XIXe siècle; {{sp|XVI|e|et|XVII|e}}: XVIe et XVIIe siècles."""
    words = "".join(
        f"{' ' if i else ''}{part}" if len(part) != 1 or part in "àaIVXLC" else part
        for i, part in enumerate(arguments.positional)
    )
    if name.startswith("sp"):
        return f"{words} siècles"
    return f"{words} siècle" + (" av. J.-C." if name.startswith("-") else "")


def _ship(arguments: _Arguments) -> str:
    """Prefix and name, without the disambiguator."""
    return " ".join(filter(None, arguments.positional[:2]))


def _ship_class(arguments: _Arguments) -> str:
    return f"{arguments.at(0)}-class {arguments.at(1)}".strip()


def _reign(arguments: _Arguments) -> str:
    return f"r. {'–'.join(arguments.positional[:2])}"


def _height(arguments: _Arguments) -> str:
    """German: metres above a sea level, which is omitted."""
    return f"{arguments.at(0)} m" if arguments.at(0) else ""


def _hour(arguments: _Arguments) -> str:
    """French: "12 h 30"."""
    return f"{arguments.at(0)} h {arguments.at(1)}".strip()


_Rule = Callable[[_Arguments], str]
_RULES: tuple[tuple[frozenset[str], _Rule], ...] = (
    (_SECOND, _second),
    (_CONVERTED, _converted),
    (_NUMBER_AND_UNIT, _number_and_unit),
    (_FIRST, _first),
    (_LAST, _last),
    (_JOINED, _joined),
    (_COMMAS, _commas),
    (_OWN_LINES, _own_lines),
    (_LINES, _lines),
    (_WORDS, _words),
    (_DATES, _date),
    (_FRACTIONS, _fraction),
    (name_set("val"), _value),
    (name_set("m"), _as_unit),
    (name_set("nihongo, japonais, giapponese, nihongo3"), _nihongo),
    (name_set("ship"), _ship),
    (name_set("sclass, sclass-, sclass2, sclass2-"), _ship_class),
    (name_set("reign"), _reign),
    (name_set("höhe"), _height),
    (name_set("heure"), _hour),
    (name_set("bio"), lambda arguments: first_sentence(arguments.named)),
)
