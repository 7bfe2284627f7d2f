"""Renders inline wikitext templates whose arguments are part of the surrounding sentence.

Templates are programs that are stored in each wiki; a dump of articles does not contain them, and
most are boxes, notes and references, which are dropped. Dropping these too would leave holes in
sentences: foreign words, numbers with units, marked-up words, quotations, special characters.
`template_tables` has the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_pipeline.sources.wikipedia.italian_biography import first_sentence
from data_pipeline.sources.wikipedia.template_tables import (
    ACCIDENTALS,
    CITED_AUTHORS,
    COMMAS,
    CONVERTED,
    DATES,
    DATES_IN_WORDS,
    FIRST,
    FORMULAS,
    FRACTIONS,
    JOINED,
    LAST,
    LINES,
    NUMBER_AND_UNIT,
    OWN_LINES,
    PREFIXED,
    RANGE_WORDS,
    SECOND,
    SYMBOLS,
    TEXT_ARGUMENTS,
    WORDS,
    WRAPPED,
)
from data_pipeline.text.decoding import name_set

# An argument's name contains no tag, link or URL: those are text with an equals sign.
_ARGUMENT_NAME = re.compile(r"[\w -]{1,40}")
_LANGUAGE_TEMPLATE = re.compile(r"(?:lang|ipa|ipac|јез)-\w[\w-]{1,12}")
_GERMAN_LANGUAGE = re.compile(r"[a-z]{2,3}S[1-3]?")
_CENTURY = re.compile(r"(-)?(s|sp|siècle|-s|s2)(-)?")
_ORDINAL = re.compile(
    r"[ivxlcdm\d]{1,8}(?:er|re|e|ère|ème|nd|nde|o|a)s?(?: siècle)?", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+−–]?[\d.,'  \u2009]*\d(?:(?:\.?\s*|\+)\d+//?\d+)?|\d+//?\d+")
_ROMAN = re.compile(r"[IVXLC]{1,8}")
_ABBREVIATION = re.compile(r"[^\W\d_]{1,7}\.")
"""Polish {{ang.}}, French {{p.|12}}: the name itself is shown."""
_MAX_NUMBER_CHARACTERS = 40
_MAX_CONVERTED = 40
"""Arguments of a conversion that are looked at; it needs ten at most."""
_DIGITS = re.compile(r"\d{1,4}")
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(?:-\w{2,8})?")
_FRACTION_SIGN = re.compile(r"(?<=\d)(?:\+|//)(?=\d)")
"""In a conversion: "8+1/2" is eight and a half, "3//4" three quarters."""
_FRACTION_NAME = re.compile(r"\d{1,2}/\d{1,3}")
_CHARGE = re.compile(r"\d{0,2}[-+−–]")


@dataclass(frozen=True)
class Arguments:
    """Arguments of a template."""

    positional: list[str]
    named: dict[str, str]

    def at(self, index: int) -> str:
        """The positional argument, or the empty string."""
        return self.positional[index] if index < len(self.positional) else ""


def render(parts: Sequence[str]) -> str | None:
    """The text of a template given as its name and arguments: empty where it shows no text of the
    sentence, None if it is unknown.
    """
    name = parts[0].replace("_", " ").strip()
    head, colon, value = name.partition(":")
    if colon:
        return _parser_function(head.strip().lower(), value.strip())
    if len(parts) == 1:
        return _without_arguments(name)
    arguments = split_arguments(parts[1:])
    if _GERMAN_LANGUAGE.fullmatch(name):
        return arguments.at(0)
    lower = name.lower()
    if (rule := _RULES.get(lower)) is not None:
        return rule(arguments)
    if _LANGUAGE_TEMPLATE.fullmatch(lower):
        return "" if lower.startswith("ipac") else first_text(arguments)
    if lower in WRAPPED:
        before, after = WRAPPED[lower]
        return f"{before}{arguments.at(0)}{after}" if arguments.at(0) else ""
    if lower in PREFIXED:
        return _prefixed(PREFIXED[lower], arguments)
    if lower in SYMBOLS:
        return SYMBOLS[lower] + arguments.at(0)
    if _CENTURY.fullmatch(lower) and _ROMAN.fullmatch(arguments.at(0)):
        return _century(lower, arguments)
    if _ABBREVIATION.fullmatch(name) or (name[:1].isdigit() and _ORDINAL.fullmatch(name)):
        return f"{name} {arguments.at(0)}".rstrip()
    return arguments.at(0) if lower == "s" else None  # Russian: no break


def _parser_function(name: str, value: str) -> str:
    return value if name in {"formatnum", "lc", "uc", "lcfirst", "ucfirst", "nowrap"} else ""


def _without_arguments(name: str) -> str | None:
    symbol = SYMBOLS.get(name.lower())
    if symbol is not None:
        return symbol
    shows_name = (_ORDINAL, _ABBREVIATION, _FRACTION_NAME)
    return name if any(pattern.fullmatch(name) for pattern in shows_name) else None


def split_arguments(parts: Sequence[str]) -> Arguments:
    """The arguments of a template, without spaces around them; names are in lower case."""
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
    return Arguments(positional, named)


def first_text(arguments: Arguments) -> str:
    """The first argument, or the named one that has the text."""
    for name in TEXT_ARGUMENTS:
        if not arguments.at(0) and arguments.named.get(name):
            return arguments.named[name]
    return arguments.at(0)


def _second(arguments: Arguments) -> str:
    return (
        arguments.at(1)
        if len(arguments.positional) > 1
        else first_text(Arguments([], arguments.named))
    )


def _last(arguments: Arguments) -> str:
    return arguments.positional[-1] if arguments.positional else ""


def _joined(arguments: Arguments) -> str:
    return "".join(arguments.positional)


def _formula(arguments: Arguments) -> str:
    """Chemical: "H2O", "SO4^2-"."""
    *parts, last = arguments.positional or [""]
    mark = "^" if parts and _CHARGE.fullmatch(last) else ""
    return "".join([*parts, mark, last])


def _pronounced(arguments: Arguments) -> str:
    """IPA: the sounds, behind the code of a language where there is one."""
    has_code = arguments.at(1) and _LANGUAGE_CODE.fullmatch(arguments.at(0))
    return arguments.at(1) if has_code else first_text(arguments)


def _own_lines(arguments: Arguments) -> str:
    return f"\n{first_text(arguments)}\n"


def _commas(arguments: Arguments) -> str:
    return ", ".join(filter(None, arguments.positional))


def _lines(arguments: Arguments) -> str:
    return "\n" + "\n".join(f"* {item}" for item in arguments.positional if item) + "\n"


def _words(arguments: Arguments) -> str:
    return " ".join(filter(None, arguments.positional))


def _prefixed(prefix: str, arguments: Arguments) -> str:
    value = first_text(arguments)
    return prefix + value if value else ""


def _circa(arguments: Arguments) -> str:
    return " – ".join(f"c. {year}" for year in arguments.positional[:2] if year)


def _active(arguments: Arguments) -> str:
    years = "–".join(filter(None, arguments.positional[:2]))
    return f"fl. {years}" if years else ""


def _as_of(arguments: Arguments) -> str:
    """English: year, month and day; "In 2009" of `alt`."""
    named = arguments.named
    if named.get("alt"):
        return named["alt"]
    words = "since" if named.get("since") else "as of"
    words = words if named.get("lc") else words.capitalize()
    when = " ".join(filter(None, reversed(arguments.positional[:3])))
    return f"{words} {when}" if when else ""


def _spanish_century(arguments: Arguments) -> str:
    """{{siglo|V|a}}: siglo V a. C."""
    before = {"a": " a. C.", "d": " d. C."}.get(arguments.at(1), "")
    return f"siglo {arguments.at(0)}{before}" if arguments.at(0) else ""


def _old_style_date(arguments: Arguments) -> str:
    """Day, year, and day of the Julian calendar."""
    day, year, old = (arguments.at(index) for index in range(3))
    return " ".join(filter(None, (day, f"[O.S. {old}]" if old else "", year)))


def _fraction(arguments: Arguments) -> str:
    """1/2 from (1, 2), 3 1/2 from (3, 1, 2), 1/2 from (2)."""
    *whole, top, bottom = (["1"] if len(arguments.positional) == 1 else []) + (
        arguments.positional[:3] or ["", ""]
    )
    return " ".join([*whole, f"{top}/{bottom}"]) if bottom else ""


def _date(arguments: Arguments) -> str:
    """Three numbers as 1950-01-02, also where the day is the first; with the month in words, as
    given: "2 janvier 1950"."""
    parts = [part for part in arguments.positional[:3] if part]
    if any(not _DIGITS.fullmatch(part) for part in parts):
        return " ".join(parts)
    if len(parts) == 3 and len(parts[0]) < 3 < len(parts[2]):
        parts.reverse()
    return "-".join(number.zfill(2) for number in parts)


def _is_number(text: str) -> bool:
    return len(text) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(text) is not None


def _converted(arguments: Arguments) -> str:
    """The measured value, without the converted one: "5 to 10 km", "6 ft 2 in".

    A number without a unit at the end is the precision of the conversion.
    """
    words: list[str] = []
    rest = arguments.positional[:_MAX_CONVERTED]
    while rest and _is_number(rest[0]) and (not words or len(rest) > 1):
        words.append(rest.pop(0))
        while len(rest) > 1 and rest[0] in RANGE_WORDS and _is_number(rest[1]):
            words += [RANGE_WORDS[rest.pop(0)], rest.pop(0)]
        if rest and not _is_number(rest[0]):
            words.append(rest.pop(0))
    shown = " ".join(filter(None, words)).replace(" – ", "–")
    return _FRACTION_SIGN.sub(lambda sign: " " if sign[0] == "+" else "/", shown)


def _date_in_words(arguments: Arguments) -> str:
    return " ".join(filter(None, arguments.positional[:3]))


def _number_and_unit(arguments: Arguments) -> str:
    """French and Spanish: number, then units, each with its exponent: "12 km^2", "5 m·s^-1"."""
    number, *rest = arguments.positional or [""]
    powers = [*rest[1::2], ""]
    units = [
        f"{unit}^{power}" if power else unit
        for unit, power in zip(rest[::2], powers, strict=False)
        if unit
    ]
    return f"{number} {'·'.join(units)}".strip()


def _value(arguments: Arguments) -> str:
    """A measured value of the template Val: number, uncertainty, power of ten and unit."""
    named = arguments.named
    unit = named.get("u") or named.get("ul") or ""
    per = named.get("up") or named.get("upl") or ""
    measured = _measured(arguments.at(0), arguments.at(1), named.get("e", ""))
    before, after = named.get("p", ""), named.get("s", "") or named.get("end", "")
    return f"{before}{measured}{after} {unit}{'/' if per else ''}{per}".strip()


def _as_unit(arguments: Arguments) -> str:
    """Italian M: number, error, unit."""
    named = arguments.named
    unit = named.get("ul") or named.get("u") or arguments.at(2)
    return f"{_measured(arguments.at(0), arguments.at(1), named.get('e', ''))} {unit}".strip()


def _measured(number: str, error: str, power: str) -> str:
    """ "(1.5±0.2)×10^3"; "1.00794(7)" where the error is of the last digits."""
    if error:
        number += error if error.startswith("(") else f"±{error}"
    if not power:
        return number
    return f"({number})×10^{power}" if "±" in number else f"{number}×10^{power}"


def _nihongo(arguments: Arguments) -> str:
    """English (Japanese, romanized)."""
    inner = ", ".join(filter(None, arguments.positional[1:3]))
    if not arguments.at(0):
        return inner
    return f"{arguments.at(0)} ({inner})" if inner else arguments.at(0)


def _century(name: str, arguments: Arguments) -> str:
    """French {{s|XIX|e}}: XIXe siècle; {{sp|XVI|e|et|XVII|e}}: XVIe et XVIIe siècles."""
    words = "".join(
        f"{' ' if i else ''}{part}" if len(part) != 1 or part in "àaIVXLC" else part
        for i, part in enumerate(arguments.positional)
    )
    if name.startswith("sp"):
        return f"{words} siècles"
    return f"{words} siècle" + (" av. J.-C." if name.startswith("-") else "")


def _ship(arguments: Arguments) -> str:
    """Prefix and name, without the disambiguator."""
    return " ".join(filter(None, arguments.positional[:2]))


def _ship_class(arguments: Arguments) -> str:
    return f"{arguments.at(0)}-class {arguments.at(1)}".strip()


def _reign(arguments: Arguments) -> str:
    return f"r. {'–'.join(arguments.positional[:2])}"


def _height(arguments: Arguments) -> str:
    """German: metres above a sea level, which is omitted."""
    return f"{arguments.at(0)} m" if arguments.at(0) else ""


def _hour(arguments: Arguments) -> str:
    """French: "12 h 30"."""
    return f"{arguments.at(0)} h {arguments.at(1)}".strip()


def _harvard(arguments: Arguments) -> tuple[str, str]:
    """Authors and year of a citation in the text, with its page: "Stone & Hill", "1966, p. 5"."""
    *authors, year = arguments.positional or [""]
    if len(authors) > 3:
        names = f"{authors[0]} et al."
    else:
        names = " & ".join([", ".join(authors[:-1]), *authors[-1:]]).removeprefix(" & ")
    page, pages = arguments.named.get("p", ""), arguments.named.get("pp", "")
    place = f", p. {page}" if page else f", pp. {pages}" if pages else ""
    return names, f"{year}{place}"


def _cited_author(arguments: Arguments) -> str:
    names, year = _harvard(arguments)
    return f"{names} ({year})".strip()


def _cited(arguments: Arguments) -> str:
    return " ".join(filter(None, _harvard(arguments)))


def _ordinal(arguments: Arguments) -> str:
    """English: "5th"."""
    number = arguments.at(0)
    if not number.isascii() or not number.isdigit():
        return number
    is_teen = number[-2:-1] == "1"
    return number + ("th" if is_teen else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th"))


def _music(arguments: Arguments) -> str:
    """Signs of musical notation: accidentals, time signatures, and others by their argument."""
    sign, *rest = arguments.positional or [""]
    if sign.lower() in ACCIDENTALS:
        return ACCIDENTALS[sign.lower()]
    return "/".join(rest[:2]) if sign.lower() == "time" else "".join(rest[:1])


_Rule = Callable[[Arguments], str]
_RULES: dict[str, _Rule] = {
    name: rule
    for names, rule in (
        (FIRST, first_text),
        (LAST, _last),
        (JOINED, _joined),
        (FORMULAS, _formula),
        (COMMAS, _commas),
        (OWN_LINES, _own_lines),
        (LINES, _lines),
        (WORDS, _words),
        (DATES, _date),
        (DATES_IN_WORDS, _date_in_words),
        (FRACTIONS, _fraction),
        (SECOND, _second),
        (CONVERTED, _converted),
        (NUMBER_AND_UNIT, _number_and_unit),
        (CITED_AUTHORS, _cited_author),
        (name_set("harvnb, harvard citation no brackets, harvsp, harvcol, harvcolnb"), _cited),
        (name_set("harv, harvard citation, harvard"), lambda found: f"({_cited(found)})"),
        (name_set("ordinal"), _ordinal),
        (name_set("ipa, api"), _pronounced),
        (name_set("circa, c., ca."), _circa),
        (name_set("fl., floruit"), _active),
        (name_set("as of"), _as_of),
        (name_set("siglo"), _spanish_century),
        (name_set("oldstyledate, oldstyledatedy"), _old_style_date),
        (name_set("music, musik"), _music),
        (name_set("val"), _value),
        (name_set("m"), _as_unit),
        (name_set("nihongo, japonais, giapponese, nihongo3, nihongo4"), _nihongo),
        (name_set("ship"), _ship),
        (name_set("sclass, sclass-, sclass2, sclass2-"), _ship_class),
        (name_set("reign"), _reign),
        (name_set("höhe"), _height),
        (name_set("heure"), _hour),
        (name_set("bio"), lambda arguments: first_sentence(arguments.named)),
    )
    for name in names
}
