"""Stack Exchange: the HTML of posts to text, ours against BeautifulSoup.

    python -m benchmarks.data.source_stack_exchange [--samples FOLDER] [--rehearse]

The peer is BeautifulSoup on lxml, which earlier reproductions use (RedPajama v1);
both take turns in one process, and time is the process's own CPU time.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from bs4 import BeautifulSoup
from lxml import etree

from benchmarks.measuring.turns import Work, compare
from data_pipeline.sources.stack_exchange.post_html import to_text

_WORDS = "value of the loop is not what I expect when function returns early"


def made_post(rng: random.Random) -> str:
    words = _WORDS.split()
    text = " ".join(rng.choice(words) for _ in range(60))
    return (
        f"<p>{text} <code>f(x)</code> <a href='http://a.b'>here</a>.</p>\n\n<ul>\n<li>{text}</li>\n"
        f"<li>b</li>\n</ul>\n\n<pre><code>if x &lt; 1:\n    y = {rng.randrange(999)}\n</code></pre>"
        f"\n\n<blockquote>\n  <p>{text}</p>\n</blockquote>\n"
    )


def sample_posts(folder: Path) -> list[str]:
    """The HTML of all posts in the `Posts.xml` files under `folder`."""
    rows = (
        row for path in sorted(folder.rglob("Posts.xml")) for row in etree.parse(path).getroot()
    )
    return [str(row.get("Body", "")) for row in rows]


def soup_text(markup: str) -> str:
    return str(BeautifulSoup(markup, "lxml").get_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, help="folder with raw/stack_exchange")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    options = parser.parse_args()
    rng = random.Random(0)
    if options.samples is not None:
        posts = sample_posts(options.samples / "raw" / "stack_exchange")
    else:
        posts = [made_post(rng) for _ in range(2_000)]
    if options.rehearse:
        posts = posts[:50]
    size = sum(len(post.encode()) for post in posts) / 1e6
    work: dict[str, Work] = {
        "ours": lambda: [to_text(post) for post in posts],
        "BeautifulSoup": lambda: [soup_text(post) for post in posts],
    }
    title = f"HTML to text: {len(posts)} posts, {size:.1f} MB"
    compare(title, work, size, rounds=1 if options.rehearse else 3)


if __name__ == "__main__":
    main()
