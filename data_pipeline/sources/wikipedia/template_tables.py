"""Tables of Wikipedia's inline templates, by what they show of their arguments.

Names are those of the Wikipedias of the paper, in lower case with spaces for underscores; the large
ones have more of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from data_pipeline.text.decoding import name_set

FIRST = name_set("""
    nowrap, nobr, nobreak, nobold, noitalic, noitalics, italic, ital, bold, em, strong, small,
    smaller, petit, petite, big, large, larger, resize, center, centre, uc, lc, ucfirst, lcfirst,
    smallcaps, sc, sc1, sc2, petites capitales, underline, abbr, abbrlink, tooltip, tip, mvar,
    math, code, tt, mono, kbd, samp, poemquote, poem, unicode, q, bquote, bq, term, defn,
    polytonic, grc, hebrew, nts, num, ill, interlanguage link, ilm, lien, flag, flagcountry,
    flagu, formatnum, число, szám, sic, not a typo, proper name, as written, nihongo2,
    нп, нп2, нп3, нп4, нп5, не переведено, не переведено 2, не переведено 3, не переведено 5,
    не перекладено, ілм, ilc, ilink, citat, quote, cquote, blockquote, quotation, zitat,
    citation bloc, cita, citazione, cytat, цитата, citaat, citát, citação, idézet, navedek,
    keypress, мфа, esd, iw, comment, j, maiuscoletto, versalita, versaleta, kapitälchen,
    tutto attaccato, refnec, référence nécessaire, référence souhaitée, terme défini, zitat-en,
    zitat-fr, zitat-it, zitat-es, zitat-la,
    visible anchor, vanchor, citation needed span, cn span, clarify span, dubious span, fact span,
    citation-needed span, cn-span, tq, highlight, strikethrough, var,
    senza fonte, citazione necessaria, cn, chiarire, quando, chi, dubbio, non chiaro,
    sans source, passage à vérifier, passage non neutre, passage évasif, quand, quoi, souligner,
    surligner, cita requerida, нет аи 2, ta,
    railgauge, track gauge, msapi, ipa2, ipaslink, nq, script/arabic, souverain2, souverain-,
    latin, russo
    """)
"""Shown: the first argument, or a named one of `TEXT_ARGUMENTS`."""

SECOND = name_set("""
    lang, langx, langue, cizojazyčně, vjazyce2, color, colour, font color, fontcolor, farbe, cor,
    script, wikt-lang, јез, rtl-lang
    """)
"""Shown: the second argument; the first is a language or a color."""

LAST = name_set("""
    sort, sorteer, sort-as, transl, transliteration, translit, translitération
    """)
"""Shown: the last argument, behind a language and a scheme, or a key."""

JOINED = name_set("chem2, ce, gaps, linktext")
"""Shown: all arguments, concatenated."""
FORMULAS = name_set("chem, formule chimique, fchim, химия")
"""Shown: all arguments, concatenated, the last as a charge where it is one."""

OWN_LINES = name_set("""
    plainlist, plain list, flatlist, flat list, columns-list, columns list, colonnes,
    mehrspaltige liste, cassetto
    """)
"""Shown: the first argument, on separate lines."""
COMMAS = name_set("hlist, comma separated entries")
LINES = name_set("""
    ubl, ublist, unbulleted list, unordered list, bulleted list, ordered list, list, blist
    """)
CONVERTED = name_set("convert, cvt, dunité, converter, converti, conversie")
NUMBER_AND_UNIT = name_set("unité, nombre, nb, unidad, unitats, fmtn, tmp")
DATES = name_set("""
    birth date, birth date and age, bda, birth-date, birth-date and age, death date,
    death date and age, death-date, start date, start date and age, end date, film date,
    release date, dts, date table sorting, date de naissance, date de décès, date de naissance-,
    date de décès-, fecha, data
    """)
DATES_IN_WORDS = name_set("date, date-, дата, date sport, date rapide")
"""Shown: day, month and year; what follows is for the link."""
WORDS = name_set("currency, bibleref, bibleverse, passo biblico")
"""Shown: all arguments with spaces between them."""
CITED_AUTHORS = name_set(
    "harvtxt, harvcoltxt, harvp, harvcolp, harvard citation text, harvard citations text, citet"
)
"""Shown: "Stone & Hill (1966)"."""
ACCIDENTALS: Mapping[str, str] = {
    **dict.fromkeys(("flat", "b", "♭"), "♭"),
    **dict.fromkeys(("sharp", "#", "♯"), "♯"),
    **dict.fromkeys(("natural", "n", "♮"), "♮"),
    **dict.fromkeys(("doubleflat", "double flat", "bb"), "𝄫"),
    **dict.fromkeys(("doublesharp", "double sharp", "##", "x"), "𝄪"),
}
FRACTIONS = name_set("frac, fraction, sfrac, дробь, дріб")

SYMBOLS: Mapping[str, str] = {
    "!": "|",
    "=": "&#61;",
    "equals": "&#61;",
    "(": "{",
    ")": "}",
    # As entities, so that they are neither emphasis nor the sign after an argument's name.
    "'": "&#39;",
    "apostrophe": "&#39;",
    "`": "`",
    "'s": "&#39;s",
    "' \"": "&#39; ”",
    "'\"": "&#39;”",
    "\" '": "“ &#39;",
    "\"'": "“&#39;",
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
    "mdashb": "—",
    "emdash": "—",
    "endash": "–",
    "mdsh": "—",
    "ndashb": "–",
    "nsndns": "–",
    "spaced mdash": " — ",
    "spaced em dash": " — ",
    "nsmdns": "—",
    "snds": " – ",
    "smd": " — ",
    "shy": "\u00ad",
    "soft hyphen": "\u00ad",
    "wbr": "\u00ad",
    "zwsp": "\u00ad",
    "zwj": "\u200d",
    "zwnj": "\u200c",
    "sic": "[sic]",
    "m s.l.m.": "m s.l.m.",
    "co2": "CO2",
    "h2o": "H2O",
    "flat": "♭",
    "sharp": "♯",
    "natural": "♮",
    "bémol": "♭",
    "dièse": "♯",
    "bécarre": "♮",
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
    "euro": "€",
    "dollar": "$",
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
    **dict.fromkeys(("circa", "c.", "ca."), "c."),
    "av jc": "av. J.-C.",
    "av. j.-c.": "av. J.-C.",
    "pb": "\n\n",
    "paragraph break": "\n\n",
}
"""Templates that render a character, followed by their argument, if any."""

PREFIXED: Mapping[str, str] = {
    "née": "née ",
    "isbn": "ISBN ",
    "issn": "ISSN ",
    "oclc": "OCLC ",
    "us$": "US$",
    "$": "$",
    "dollar": "$",
    "usd": "US$",
    "gbp": "£",
    "£": "£",
    "eur": "€",
    "€": "€",
    "euro": "€",
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

WRAPPED: Mapping[str, tuple[str, str]] = {
    '"': ("„", "“"),  # German
    **dict.fromkeys(("citation", "guil"), ("« ", " »")),  # French; in English of named arguments
    "incise": ("– ", " –"),
    "angbr": ("⟨", "⟩"),
    **dict.fromkeys(("sup", "exp"), ("<sup>", "</sup>")),
    **dict.fromkeys(("sub", "ind"), ("<sub>", "</sub>")),
}
"""Shown: the first argument between these."""

TEXT_ARGUMENTS = (
    *("text", "texte", "texto", "testo", "tekst", "textus", "szöveg", "текст", "1"),
    *("quote", "citat", "citation", "zitat", "cita", "cytat", "citace", "citát", "цитата"),
    *("content", "inhalt", "contenu", "contenido", "fr", "trad", "liste"),
)
RANGE_WORDS: Mapping[str, str] = {
    **{word: word for word in ("to", "and", "or", "by", "x", "×", "+/-", "±", "à", "et", "ou")},
    **{"-": "–", "–": "–", "—": "–", "to(-)": "to", "and(-)": "and", "a": "a", "y": "y", "e": "e"},
}
