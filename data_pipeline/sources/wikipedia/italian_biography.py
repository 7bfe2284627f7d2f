"""Renders the Italian template Bio: the first sentence of a biography.

Parameters and wording: its documentation, https://it.wikipedia.org/wiki/Template:Bio. Without it
some 400,000 articles would lack their first sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNO = re.compile(r"s[^aeiouàèéìòù\W]|z|gn|ps|pn|x|y", re.IGNORECASE)
_VOWEL = re.compile(r"[aeiouàèéìòù]", re.IGNORECASE)


def first_sentence(parameters: Mapping[str, str]) -> str:
    """ "NAME (PLACE, DATE – PLACE, DATE) è stato un ACTIVITY NATIONALITY."; "" without a name.

    `parameters` have lower-case names.
    """
    name = _words(parameters, "titolo", "nome", "cognome", "postcognome")
    if not name:
        return ""
    dates = " – ".join(filter(None, (_event(parameters, "nascita"), _event(parameters, "morte"))))
    sentence = f"{name} ({dates})" if dates else name
    if end := parameters.get("fineincipit"):
        return f"{sentence} {end}."
    activities = [parameters.get(key, "") for key in ("attività", "attività2", "attività3")]
    *others, last = [activity for activity in activities if activity] or [""]
    activity = f"{', '.join(others)} e {last}" if others else last
    activity += parameters.get("attivitàaltre", "")
    if not activity:
        return f"{sentence}."
    is_woman = parameters.get("sesso", "").upper() == "F"
    was = ("è stata" if is_woman else "è stato") if parameters.get("annomorte") else "è"
    rest = _words(parameters, "nazionalità", "postnazionalità")
    return f"{sentence} {was} {_article(activity, is_woman)}{activity} {rest}".rstrip() + "."


def _words(parameters: Mapping[str, str], *names: str) -> str:
    return " ".join(filter(None, (parameters.get(name, "") for name in names)))


def _event(parameters: Mapping[str, str], kind: str) -> str:
    """Place and date of birth or death, where given."""
    place = parameters.get(f"luogo{kind}alt") or parameters.get(f"luogo{kind}", "")
    day = _words(parameters, f"giornomese{kind}", f"anno{kind}")
    return ", ".join(filter(None, (place, day)))


def _article(noun: str, is_woman: bool) -> str:
    if is_woman:
        return "un'" if _VOWEL.match(noun) else "una "
    return "uno " if _UNO.match(noun) else "un "
