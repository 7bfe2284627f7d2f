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
from data_pipeline.report import formatting
from data_pipeline.report import page as report_page
from data_pipeline.report.account import (
    BuildAccount,
    DropExample,
    FileAccount,
    KeptSample,
    SourceAccount,
    StageAccount,
)
from data_pipeline.report.flow import flows
from tests.support.browser import Browser, missing_browser
from tests.support.sample_account import sample_account, with_more_books
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


@pytest.mark.slow
def test_reasons_open_to_examples(browser: Browser) -> None:
    assert not browser.visible(".example")
    browser.click(".reason[data-reason=license] summary")
    (example,) = browser.visible(".example")
    assert "GPL-3.0-only is none of the licenses" in example.text
    assert "contents-000000000311.json.gz" in example.text
    assert "for row in rows():" in example.text
    browser.click(".reason[data-reason=license] summary")
    assert not browser.visible(".example")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, PHONE[0], 768])
def test_nothing_is_wider_than_a_phone(browser: Browser, width: int) -> None:
    browser.resize(width, 844)
    assert browser.run(WIDTH_OF_CONTENT) == width
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run(WIDTH_OF_CONTENT) == width


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def shown_rows(browser: Browser, table: str) -> list[str]:
    return [row.text.split()[0] for row in browser.visible(f"#{table} tbody tr")]


@pytest.mark.slow
def test_tables_are_searched_sorted_and_saved(browser: Browser, tmp_path: Path) -> None:
    assert len(shown_rows(browser, "files-table")) == 21
    browser.find(".tools[data-for=files-table] input").send_keys("books GZ")
    assert shown_rows(browser, "files-table") == ["books-001.gz", "books-002.gz", "books-012.gz"]
    browser.click("#files-table th:nth-child(4) button")
    assert shown_rows(browser, "files-table") == ["books-012.gz", "books-002.gz", "books-001.gz"]
    browser.click("#files-table th:nth-child(4) button")
    assert shown_rows(browser, "files-table") == ["books-001.gz", "books-002.gz", "books-012.gz"]
    saved = browser.saved(".csv[data-for=files-table]", tmp_path)
    assert saved.read_text().splitlines() == [
        '"File","Source","Size","Read","Dropped","Kept","Text"',
        '"books-001.gz","books","1000000000","1000","90","0.91","100000000"',
        '"books-002.gz","books","500000000","2000","180","0.91","100000000"',
        '"books-012.gz","books","83333333","12000","1080","0.91","100000000"',
    ]


@pytest.mark.slow
def test_a_saved_table_has_no_formulas(browser: Browser, tmp_path: Path) -> None:
    saved = browser.saved(".csv[data-for=domains-table]", tmp_path).read_text()
    assert '"\'=1+1.example","c4","12000"' in saved


@pytest.mark.slow
def test_reasons_are_searched(browser: Browser) -> None:
    box = browser.find("#search-reasons")
    box.send_keys("gpl-3.0-only")
    assert [r.get_attribute("data-reason") for r in browser.visible(".reason")] == ["license"]
    box.clear()
    box.send_keys("to amsterdam wiki")
    assert [r.get_attribute("data-reason") for r in browser.visible(".reason")] == ["redirect"]


@pytest.mark.slow
def test_small_reasons_show_on_a_log_scale(browser: Browser) -> None:
    def width() -> float:
        return float(browser.find(".reason[data-reason=book_overlap] .bar span").rect["width"])

    before = width()
    assert before <= 3
    browser.click("#log")
    assert width() > 20 * before


@pytest.mark.slow
def test_kept_documents_are_shown(browser: Browser) -> None:
    assert not browser.visible(".sample .example")
    browser.click(".sample[data-source=wikipedia] summary")
    (sample,) = browser.visible(".sample .example")
    assert "A heron stands in the shallow water." in sample.text
    assert "https://en.wikipedia.org/wiki/Heron" in sample.text
    assert "enwiki.xml.bz2 : 17" in sample.text
    titles = [part.text for part in browser.visible("#documents .score")]
    assert titles == ["Probability of the language", "Perplexity"]


@pytest.mark.slow
def test_what_is_no_document_is_outside_of_the_kept_rate(browser: Browser) -> None:
    read, kept = browser.visible(".facts div")[1:3]
    assert "with 1.72 M records that are none" in read.text
    account = sample_account()
    documents = sum(s.stages[0].documents - s.num_no_documents for s in account.sources)
    share = sum(s.num_documents for s in account.sources) / documents
    assert f"{100 * share:.1f} % of those read" in kept.text


@pytest.mark.slow
def test_difference_of_two_builds(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "difference.html"
    report_page.write(sample_account(), path, before=with_more_books())
    browser.open(path)
    rows = [row.text for row in browser.visible("#difference-table tbody tr")]
    assert rows == [
        "books read 62,300 61,300 -1,000 -1.61 %",
        "books dropped: language 12,647 11,647 -1,000 -7.91 %",
    ]
    browser.requests()  # of this page


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
        {"1": 1}, {name: 1}, {name: 1}, {}, origin=name, terms=name, advice={name: name},
        domains={name: 1}, files=(FileAccount(name, 1, 1, 1, 1),),
    )  # fmt: skip
    example = DropExample(name, name, name, name, 1, name, name, name)
    sample = KeptSample(name, name, name, name, name, name, name, name, 1)
    member = Member(name, name, name, 1, name, "same", 1, 0.5)
    return BuildAccount(
        name, name, (source,), (name,), (name,), examples=(example,), samples=(sample,),
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
