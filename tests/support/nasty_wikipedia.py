"""Malformed and hostile Wikipedia dumps, generated for tests and fuzzing."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Iterator
from xml.sax.saxutils import escape

from tests.support.archives import nasty_archives
from tests.support.damage import cut, noisy

MARKUP = (
    *("[[", "]]", "{{", "}}", "{{{", "}}}", "{|\n", "\n|}", "\n|", "|", "[http://a ", "]", "[//"),
    *(
        "<ref>",
        "</ref>",
        "<ref name=a/>",
        "<ref",
        "<sup>",
        "</sup>",
        "<b>",
        "</b>",
        "<a ",
        "<br>",
        "<!--",
        "-->",
    ),
    *("<sup>", "</sup>", "<sub>", "</sub>"),
    *("<nowiki>", "</nowiki>", "<math>", "</math>", "<pre>\n", "</pre>", "<table>", "</table>"),
    *("''", "'''", "\n==", "==\n", "\n*", "\n#", "\n:", "\n;", "----", "__A__", "-{", "}-", "="),
    *("{{convert|1|", "{{lang|de|", "[[File:a|", "[[:a:", "[[w:", "{{!}}", "&lt;", "&#", "\x00"),
    *("(", ")", "( ,", ",", "; ", " ", "\t", "\u00a0", "„", "“", "«", "»", "http://", "1.1.", "×"),
)

_PAGE = (
    "<page><title>{title}</title><ns>{ns}</ns><id>{id}</id><revision><id>1</id>"
    "<timestamp>2022-07-01T00:00:00Z</timestamp><model>wikitext</model>"
    "<text>{text}</text></revision></page>\n"
)
_HEAD = (
    '<mediawiki xml:lang="de"><siteinfo><namespaces>'
    '<namespace key="6">Datei</namespace></namespaces></siteinfo>\n'
)


def nasty_wikitext(rng: random.Random, size: int = 2_000) -> str:
    """Markup at random, deep nesting, or a long run of one thing."""
    kind = rng.randrange(3)
    if kind == 0:
        return "".join(rng.choice([*MARKUP, "word ", "ж"]) for _ in range(size // 3))
    if kind == 1:
        depth = rng.randrange(1, 300)
        opening, closing = rng.choice(
            [("{{a|", "}}"), ("[[a|", "]]"), ("{|\n|", "\n|}"), ("<table>", "</table>")]
        )
        return opening * depth + "x" * rng.randrange(100) + closing * rng.randrange(depth + 5)
    return rng.choice(MARKUP) * rng.randrange(1, size)


def page(number: int, text: str, *, title: str | None = None, ns: int = 0) -> str:
    """A page as MediaWiki exports it."""
    return _PAGE.format(
        title=escape(title or f"Page {number}"), ns=ns, id=number, text=escape(text)
    )


def dump(*pages: str) -> str:
    """A whole dump."""
    return _HEAD + "".join(pages) + "</mediawiki>\n"


def nasty_wikipedia(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Names and contents of dumps: whole, cut, damaged, hostile."""
    good = "".join(
        page(i, nasty_wikitext(rng).replace("\x00", ""), ns=rng.choice([0, 0, 0, 1, 14]))
        for i in range(1, rng.randrange(2, 12))
    )
    whole = dump(good).encode()
    short, changed = cut(whole, rng), noisy(whole, rng)
    yield "dewiki-20220701-pages-articles.xml", whole
    yield "dewiki-20220702-pages-articles.xml.bz2", bz2.compress(whole) + bz2.compress(whole)
    yield "dewiki-20220703-pages-articles.xml.bz2", bz2.compress(whole)[: rng.randrange(60)]
    yield "dewiki-20220704-pages-articles.xml.gz", gzip.compress(short)[:-5]
    yield "dewiki-20220705-pages-articles.xml.xz", lzma.compress(changed)
    yield "dewiki-20220706-pages-articles.xml", short
    yield "dewiki-20220707-pages-articles.xml", changed
    yield "dewiki-fragment.xml", good.encode()
    yield from nasty_archives(rng, "dewiki-pages.xml", {"a.xml": whole}, (".zip", ".7z"))
    yield "dewiki-utf16.xml", whole.decode("utf-8", "replace").encode("utf-16")
    yield "dewiki-empty.xml", b""
    yield "dewiki-noise.xml.gz", rng.randbytes(200)
    yield "dewiki-bomb.xml", _entity_bomb()
    yield "dewiki-page-bomb.xml", b"<mediawiki><page><id>7</id>" + b"x" * 300_000
    yield "dewiki-attributes.xml", (_HEAD + "<page " + "a='1' " * 20_000 + "/>").encode()
    yield "dewiki-deep.xml", (_HEAD + "<page>" + "<a>" * 20_000).encode()


def _entity_bomb() -> bytes:
    """Entities that stand for ten of one another each: 10^9 letters, if they are expanded."""
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    text = '<!DOCTYPE mediawiki [<!ENTITY a0 "lol"><!ENTITY file SYSTEM "file:///etc/passwd">'
    pages = "".join(
        f"<page><title>{name}</title><ns>0</ns><id>{i}</id><revision><text>&{name};</text>"
        "</revision></page>"
        for i, name in enumerate(("a9", "file"))
    )
    return f"{text}{entities}]><mediawiki>{pages}</mediawiki>".encode()
