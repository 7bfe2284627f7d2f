"""The report page, opened and clicked through as a person does."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.build.duplicate_samples import Cluster, Member
from data_pipeline.documents_folder import MANIFEST_VERSION, DropCount, Manifest
from data_pipeline.report import formatting
from data_pipeline.report import page as report_page
from data_pipeline.report.account import (
    BuildAccount,
    DropExample,
    SourceAccount,
    StageAccount,
    source_account,
)
from data_pipeline.report.flow import flows
from tests.support.browser import Browser, missing_browser
from tests.support.sample_account import RULES, sample_account
from tests.support.sample_clusters import HOSTILE

PHONE, SCREEN = (390, 844), (1200, 900)
WIDTH_OF_CONTENT = "return document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report_page.write(sample_account(), path)
    return path


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    missing = missing_browser()
    if missing:
        pytest.skip(missing)
    with Browser(tmp_path_factory.mktemp("profile"), *SCREEN) as browser:
        yield browser


@pytest.fixture
def browser(window: Browser, page: Path) -> Iterator[Browser]:
    """The page as it is when it has just been opened; afterwards, that nothing went wrong in it."""
    window.resize(*SCREEN)
    window.prefer("light")
    window.complaints(), window.requests()
    window.open(page)
    window.run("localStorage.clear()")
    window.open(page)
    yield window
    assert window.complaints() == []
    asked = {url for url in window.requests() if not url.startswith("data:")}
    assert asked <= {page.resolve().as_uri()}


def test_reasons_open_to_examples(browser: Browser) -> None:
    assert not browser.visible(".example")
    browser.click(".reason[data-reason=license] summary")
    (example,) = browser.visible(".example")
    assert "GPL-3.0-only is none of the licenses" in example.text
    assert "contents-000000000311.json.gz" in example.text
    assert "for row in rows():" in example.text
    browser.click(".reason[data-reason=license] summary")
    assert not browser.visible(".example")


def test_reasons_of_one_source(browser: Browser) -> None:
    reasons = browser.visible(".reason")
    browser.click(".chip[data-source=books]")
    names = [reason.get_attribute("data-reason") for reason in browser.visible(".reason")]
    assert names == ["language", "book_overlap", "no_text"]
    browser.click(".reason[data-reason=language] summary")
    assert not browser.visible(".example"), "those of another source"
    assert [part.text.split()[0] for part in browser.visible(".reason[open] li")] == ["books"]
    browser.click(".chip[data-source='']")
    assert len(browser.visible(".reason")) == len(reasons)
    assert len(browser.visible(".example")) == 2


def test_duplicates_stand_side_by_side(browser: Browser) -> None:
    browser.click(".cluster[data-rule=near_duplicate] summary")
    kept, first, second = browser.visible(".member")
    assert kept.location["y"] == first.location["y"] == second.location["y"]
    assert kept.location["x"] < first.location["x"] < second.location["x"]
    assert [mark.text for mark in browser.visible(".member.kept mark")][:2] == ["forty", "eleven"]
    assert "0.913" in first.text
    assert "2 of 7 removed documents are shown" in browser.find(".cluster[open]").text
    browser.resize(*PHONE)
    assert kept.location["x"] == first.location["x"]
    assert kept.location["y"] < first.location["y"]


def test_flow_shows_numbers_where_it_is_pointed_at(browser: Browser) -> None:
    assert len(browser.visible(".flow")) == 1
    lane = browser.visible(".flow .lane")[4]
    browser.run("arguments[0].querySelector('.node').dispatchEvent(new MouseEvent("
                "'click', {bubbles: true, clientX: 300, clientY: 300}))", lane)  # fmt: skip
    tip = browser.find("#tip")
    assert tip.text == "books, after read: 61,300 documents, 24.3 GB of text"
    browser.click("[data-measure=documents]")
    browser.click("[data-scale=source]")
    (flow,) = browser.visible(".flow")
    assert flow.get_attribute("data-flow") == "documents source"
    assert "46.8 k, 76.3 %" in flow.text
    browser.resize(*PHONE)
    (narrow,) = browser.visible(".flow")
    assert "narrow" in str(narrow.get_attribute("class"))
    assert narrow.get_attribute("data-flow") == "documents source"


def test_theme(browser: Browser) -> None:
    def paper() -> str:
        return str(browser.run("return getComputedStyle(document.body).backgroundColor"))

    light = paper()
    browser.prefer("dark")
    dark = paper()
    assert light != dark
    browser.click("#theme")
    assert (browser.find("#theme").text, paper()) == ("Theme: light", light)
    browser.click("#theme")
    browser.prefer("light")
    assert (browser.find("#theme").text, paper()) == ("Theme: dark", dark)


@pytest.mark.parametrize("width", [320, PHONE[0], 768])
def test_nothing_is_wider_than_a_phone(browser: Browser, width: int) -> None:
    browser.resize(width, 844)
    assert browser.run(WIDTH_OF_CONTENT) == width
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run(WIDTH_OF_CONTENT) == width


def test_keyboard_is_enough(browser: Browser) -> None:
    reachable = browser.run(
        "return [...document.querySelectorAll('button, summary, .lane, nav a')]"
        ".filter(e => e.checkVisibility()).filter(e => e.tabIndex < 0).length"
    )
    assert reachable == 0
    summary = browser.find(".reason[data-reason=generated] summary")
    browser.run("arguments[0].focus()", summary)
    summary.send_keys("\ue007")  # Enter
    assert len(browser.visible(".example")) == 1


def test_texts_cannot_act(browser: Browser) -> None:
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.title == "llama1: report of the build"
    assert browser.run("return document.scripts.length") == 1
    assert (
        browser.run("return document.querySelectorAll('img, [onerror], a[href^=java]').length") == 0
    )
    shown = browser.find(".reason[data-reason=generated] pre").text
    assert "</pre></details><script>document.title = 'owned'</script>" in shown
    assert "{{ 7 * 7 }} {% raw %} &amp;" in shown
    assert "nul:␀ escape:␛ bell:␇ override:[U+202E]" in shown
    assert "שלום עולם" in shown


def test_content_policy_stops_what_would_get_past_the_escaping(browser: Browser) -> None:
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'document.title = \"owned\"';"
        "document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\">');"
    )
    assert browser.title == "llama1: report of the build"
    complaints = browser.complaints()
    assert any("script-src" in line for line in complaints)
    assert any("img-src" in line for line in complaints)
    browser.requests()  # with the one that was stopped


# -- without a browser ----------------------------------------------------------------------------


def test_page_needs_nothing_from_elsewhere() -> None:
    page = report_page.render(sample_account())
    head = page.split("</head>")[0]
    assert not re.search(r"(src|href)=\"(?!data:,|#)", page)
    assert "@import" not in head
    assert "url(" not in head
    assert HOSTILE not in page
    assert "\x00" not in page


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(), max_size=60) | st.sampled_from([HOSTILE, "</p>", "\"'><x"]))
def test_any_text_is_escaped(text: str) -> None:
    """The page with the text in every place has the tags of the page without it."""

    def tags(account: BuildAccount) -> list[str]:
        return re.findall(r"<[a-zA-Z/!][^\s>]*", report_page.render(account))

    # Names of stages are written in lines, at their underscores.
    plain = re.sub("[^_]+", "plain", text)
    assert tags(_with_text(text)) == tags(_with_text(plain))


def _with_text(text: str) -> BuildAccount:
    """An account with the same parts whatever the text is."""
    name = f"s{text}"
    source = SourceAccount(
        name, 1, 1, (StageAccount(f"r{text}", 1, 1),), (), {name: 1},
        {"1": 1}, {name: 1}, {name: 1}, {}, origin=name, terms=name,
    )  # fmt: skip
    example = DropExample(name, name, name, name, 1, name, name, name)
    member = Member(name, name, name, 1, name, "same", 1, 0.5)
    return BuildAccount(
        name, name, (source,), (name,), (name,), examples=(example,),
        clusters=(Cluster(name, member, (member,), 1),), versions={name: name},
    )  # fmt: skip


def test_nothing_was_built() -> None:
    """A build of no source, and one of a source without documents, have a page too."""
    assert "Nothing was dropped" in report_page.render(BuildAccount("empty", "now", ()))
    source = SourceAccount("a", 0, 0, (StageAccount("read", 0, 0),), (), {}, {}, {}, {}, {})
    assert "not tokenized" in report_page.render(BuildAccount("empty", "now", (source,)))


def test_examples_are_limited() -> None:
    account = sample_account()
    example = account.examples[0]
    many = tuple(dataclasses.replace(example, offset=10_000 + n) for n in range(50))
    page = report_page.render(dataclasses.replace(account, examples=many))
    assert page.count(" : 100") == report_page.MAX_EXAMPLES
    cluster = account.clusters[2]
    clusters = (dataclasses.replace(cluster, removed=cluster.removed * 9, num_removed=9),) * 50
    page = report_page.render(dataclasses.replace(account, clusters=clusters))
    assert page.count('class="cluster"') == report_page.MAX_CLUSTERS
    assert page.count("member removed") == report_page.MAX_CLUSTERS * report_page.MAX_REMOVED


def test_account_survives_json() -> None:
    account = sample_account()
    assert BuildAccount.from_json(account.to_json()) == account
    with pytest.raises(ValueError, match="corpus"):
        BuildAccount.from_json(b'{"created": ""}')
    later = account.to_json().replace(b'"version": 2', b'"version": 99')
    with pytest.raises(ValueError, match="version 99"):
        BuildAccount.from_json(later)


def test_account_of_a_documents_folder() -> None:
    manifest = Manifest(
        version=MANIFEST_VERSION,
        source="web",
        fingerprint="",
        versions={},
        num_input_files=2,
        num_input_bytes=500,
        num_read=100,
        num_kept=60,
        num_read_bytes=10_000,
        drops=(
            DropCount("compare", "near_duplicate", 5, 400),
            DropCount("compare", "exact", 15, 1_500),
            DropCount("filter", "short", 18, 90),
            DropCount("filter", "damaged", 1, 0),
            DropCount("read", "damaged", 1, 0),
        ),
        contaminated={},
        ignored={},
        advice={},
        num_paragraphs_removed=7,
        num_paragraph_characters_removed=300,
        num_text_bytes=5_000,
        lengths={"7": 60},
        languages={"en": 60},
        licenses={"": 60},
        license_bytes={"": 6_000},
        files=(),
    )
    source = source_account(manifest, RULES)
    assert [(s.name, s.documents, s.text_bytes) for s in source.stages] == [
        ("read", 100, 10_000),
        ("clean", 80, 6_900),
        ("exact", 65, 5_400),
        ("url", 65, 5_400),
        ("book_overlap", 65, 5_400),
        ("near_duplicate", 60, 5_000),
    ]
    assert sum(drop.documents for drop in source.dropped) == 40
    assert source.paragraphs_removed == 7
    damaged = [drop for drop in source.dropped if drop.reason == "damaged"]
    assert [(drop.stage, drop.documents) for drop in damaged] == [("clean", 2)]
    # Examples are as a documents folder has them.
    examples = tuple(
        DropExample("web", stage, reason, "a", 1, None, None, "its text")
        for stage, reason in (("filter", "short"), ("read", "damaged"), ("compare", "exact"))
    )
    page = report_page.render(BuildAccount("web", "now", (source,), examples=examples))
    assert page.count("its text") == 3


def test_bands_are_as_thick_as_what_is_left() -> None:
    """At the last stage against the first, in the picture with each source in full."""
    account = sample_account()
    for flow in flows(account):
        if (flow.measure, flow.scale) != ("documents", "source"):
            continue
        for lane, source in zip(flow.lanes, account.sources, strict=True):
            nodes = [band.path for band in lane.bands if band.kind == "node"]
            first, last = (_thickness(path, flow.layout.down) for path in (nodes[0], nodes[-1]))
            left = source.num_documents / source.stages[0].documents
            # Coordinates have one decimal.
            assert last / first == pytest.approx(left, abs=0.2 / first)


def _thickness(path: str, down: bool) -> float:
    points = [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
    across = [point[0 if down else 1] for point in points]
    return max(across) - min(across)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.00 kB"), (999_600, "1.00 MB"), (12_345, "12.3 kB")],
)
def test_sizes(value: int, shown: str) -> None:
    assert formatting.size(value) == shown


@given(st.lists(st.sampled_from(["a", "b", " ", "\n", "é"])), st.lists(st.sampled_from("ab \n")))
def test_marking_keeps_the_text(first: list[str], second: list[str]) -> None:
    text, other = "".join(first), "".join(second)
    runs = formatting.differing(text, [other])
    assert "".join(run.text for run in runs) == text
    assert not any(run.marked for run in formatting.differing(text, [text]))
    if not set(text.split()) & set(other.split()):
        marked = [word for run in runs if run.marked for word in run.text.split()]
        assert marked == text.split()
