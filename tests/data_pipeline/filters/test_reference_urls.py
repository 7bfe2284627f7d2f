"""URLs that Wikipedia cites."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.filters.reference_urls import (
    ReferenceUrls,
    collect_reference_urls,
    normalize_url,
    reference_urls,
)

A, B = "http://a.org/x", "https://b.org/y?z=1"


@pytest.mark.parametrize(
    ("wikitext", "urls"),
    [
        (f"Text.<ref>{A}</ref>", [A]),
        (f"<ref>[{A} The title]</ref>", [A]),
        (f"<ref>See {A}, and {B}.</ref>", [A, B]),
        # What a pattern for bare <ref> on one line misses.
        (f'<ref name="x">{A}</ref>', [A]),
        (f"<ref name=x group='n'>{A}</ref> <REF>{B}</REF >", [A, B]),
        (f"<ref>{{{{cite web\n| title = T\n| url = {A}\n| date = 2019\n}}}}</ref>", [A]),
        (f"<ref>one {A}</ref> two <ref>three {B}</ref>", [A, B]),
        (f"* {{{{Cite book\n|title=T\n|url={A}\n}}}}", [A]),
        (f"{{{{citation|url={A}|publisher={{{{lang|fr|X}}}}|other={B}}}}}", [A, B]),
        (f"{{{{reflist|refs=\n<ref name=a>{A}</ref>\n}}}}", [A]),
        (f"{{{{Internetquelle |url={A} |titel=T}}}} {{{{Lien web|url={B}}}}}", [A, B]),
        (f"{{{{Cytuj stronę|url={A}}}}} {{{{Cita web|url={B}}}}}", [A, B]),
        # Archived copies stand for the original.
        (f"<ref>https://web.archive.org/web/20190101000000/{A}</ref>", [A]),
        (f"<ref>//web.archive.org/web/2019id_/{B}</ref>", [B]),
        ("<ref>[//c.org/x protocol-relative]</ref>", ["//c.org/x"]),
        ("<ref>http://a.org/?x=1&amp;y=2</ref>", ["http://a.org/?x=1&y=2"]),
        ("<ref>(http://a.org/x)</ref>", ["http://a.org/x"]),
        ("<ref>http://a.org/x_(y)</ref>", ["http://a.org/x_(y)"]),
        # No references.
        (f"Text {A} and [{B} link].", []),
        (f"== External links ==\n* [{A} Home]", []),
        (f"{{{{Infobox town|website={A}}}}}", []),
        (f"{{{{City data|url={A}}}}}", []),
        (f"<!-- <ref>{A}</ref> --> <nowiki><ref>{B}</ref></nowiki>", []),
        (f'<ref name="x" /> {A}', []),
        (f"<references /> {A}", []),
        # Never closed: up to the next heading at most.
        (f"<ref>{A}\n== Next ==\n{B}", [A]),
        (f"{{{{cite web|url={A}\n== Next ==\n{B}", [A]),
        (f"<!-- never closed <ref>{A}</ref>", []),
        ("", []),
    ],
)
def test_reference_urls(wikitext: str, urls: list[str]) -> None:
    assert list(reference_urls(wikitext)) == urls


@pytest.mark.parametrize(
    "piece",
    ["<ref", "<ref>", "{{cite web|", "{{", "<!--", "http://a", "<nowiki>", "<ref name=", "[["],
)
def test_long_hostile_text_is_read_once(piece: str) -> None:
    """Megabytes of what opens and never closes: a rule that looks ahead would take hours."""
    assert len(list(reference_urls(piece * 200_000))) <= 400_000


@pytest.mark.parametrize(
    "same",
    [
        (
            "http://e.org/a",
            "https://www.E.org:443/a/",
            "//e.org/a#part",
            " http://e.org/a ",
        ),
        ("http://e.org", "https://e.org/", "http://e.org:80/", "http://www.e.org"),
        ("http://e.org/%7euser/a%20b", "http://e.org/~user/a b", "http://e.org/%7Euser/a%20b"),
        ("http://m\u00fcnchen.de/x", "http://xn--mnchen-3ya.de/x"),
        ("http://e.org/caf\u00e9", "http://e.org/caf%C3%A9", "http://e.org/caf%c3%a9"),
        ("http://user:secret@e.org/a", "http://e.org/a"),
        ("http://e.org/a?x=1", "https://e.org/a?x=1#top"),
        ("http://e.org/a%3Fb", "https://e.org/a%3fb"),
    ],
)
def test_forms_of_one_address(same: tuple[str, ...]) -> None:
    assert len({normalize_url(url) for url in same}) == 1
    assert normalize_url(same[0]) is not None


def test_different_addresses_stay_apart() -> None:
    urls = (
        "e.org/a",
        "e.org/A",
        "e.org/a?x=1",
        "e.org/a?x=2",
        "e.org:8080/a",
        "f.org/a",
        "e.org/a/b",
    )
    assert len({normalize_url(f"http://{url}") for url in urls}) == len(urls)


@pytest.mark.parametrize(
    "url",
    ["", "mailto:a@b.org", "ftp://e.org/a", "http://", "http://[x", "http://e.org:x/", "word"],
)
def test_no_addresses(url: str) -> None:
    assert normalize_url(url) is None
    assert url not in ReferenceUrls.of([url])


@pytest.mark.slow
@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text: str) -> None:
    normal = normalize_url(f"http://e.org/{text}")
    assert normal is None or normalize_url(f"//{normal}") == normal
    normalize_url(text)


def test_sets(tmp_path: Path) -> None:
    articles = (
        f"<ref>{A}</ref> {B}",
        f"<ref name=x>[{A}/ again]</ref>",
        "<ref>mailto:a@b.org</ref>",
    )
    found = collect_reference_urls(articles)
    assert len(found) == 1
    assert "https://www.a.org/x#top" in found
    assert B not in found
    found.save(tmp_path / "urls.bin")
    loaded = ReferenceUrls.load(tmp_path / "urls.bin")
    assert A in loaded
    assert B not in loaded
    assert (tmp_path / "urls.bin").stat().st_size == 8
    assert A not in collect_reference_urls([])


def test_samples(samples: Path) -> None:
    """Real articles: a pattern for bare <ref> on one line finds a part of their references."""
    folder = samples / "reference" / "wikipedia" / "raw-wikitext"
    articles = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*-en-*"))]
    ours = sum(len(list(reference_urls(text))) for text in articles)
    bare = sum("http" in ref for text in articles for ref in re.findall("<ref>(.*)</ref>", text))
    assert ours > 2.5 * bare > 200
