"""Stack Exchange: rate and memory of making documents of a large site; the HTML of posts.

    python benchmarks/source_stack_exchange.py [--samples FOLDER] [--rehearse]

The peer for the HTML is BeautifulSoup on lxml, which earlier reproductions use (RedPajama v1);
both take turns in one process, and time is the process's own CPU time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from bs4 import BeautifulSoup
from lxml import etree
from peak_memory import peak_bytes

from data_pipeline.post_html import to_text
from recipes.llama1_corpus import stack_exchange_source

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


def compare(posts: Sequence[str], rounds: int) -> float:
    """Print both rates; the median ratio of ours to BeautifulSoup's."""
    num_bytes = sum(len(post.encode()) for post in posts)
    ratios: list[float] = []
    for _ in range(rounds):
        ours, theirs = _seconds(to_text, posts), _seconds(_soup_text, posts)
        ratios.append(theirs / ours)
    print(f"{len(posts)} posts, {num_bytes / 1e6:.1f} MB of HTML")
    for name, seconds in (("ours", ours), ("BeautifulSoup", theirs)):
        rate = num_bytes / seconds / 1e6
        print(f"{name:>14}: {rate:6.2f} MB/s, {len(posts) / seconds:,.0f} posts/s")
    print(f"ours / BeautifulSoup: {(ratio := statistics.median(ratios)):.2f}")
    return ratio


def _soup_text(markup: str) -> str:
    return str(BeautifulSoup(markup, "lxml").get_text())


def _seconds(convert: Callable[[str], str], posts: Sequence[str]) -> float:
    start = time.process_time()
    for post in posts:
        convert(post)
    return time.process_time() - start


def write_site(folder: Path, num_bytes: int) -> None:
    """A `Posts.xml` of about this size whose answers come anywhere after their questions."""
    rng = random.Random(0)
    bodies = [quoteattr(made_post(rng)) for _ in range(200)]
    folder.mkdir()
    with (folder / "Posts.xml").open("w") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<posts>\n')
        number = num_questions = 0
        while file.tell() < num_bytes:
            number += 1
            is_question = number == 1 or rng.random() < 0.4
            if is_question:
                num_questions = number
                kind = f'PostTypeId="1" Title="Title {number}"'
            else:
                kind = f'PostTypeId="2" ParentId="{rng.randrange(1, num_questions + 1)}"'
            file.write(
                f'  <row Id="{number}" {kind} Score="{rng.randrange(-5, 200)}" '
                f'CreationDate="2020-01-01T00:00:00.000" Body={bodies[number % 200]} />\n'
            )
        file.write("</posts>")


def read_folder(folder: Path, work_folder: Path) -> tuple[int, float]:
    """Number of items that the reader gives, and its CPU seconds."""
    source = stack_exchange_source(work_folder=work_folder)
    start = time.process_time()
    count = sum(1 for file in source.inputs(folder).files for _ in source.read(file))
    return count, time.process_time() - start


def memory(num_bytes: int) -> int:
    """Print and give the peak resident set of reading a site of this size."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "raw"
        root.mkdir()
        _, base = peak_bytes(read_folder, root, Path(name))
        write_site(root / "gis", num_bytes)
        (count, seconds), peak = peak_bytes(read_folder, root, Path(name))
    print(
        f"reading {num_bytes / 1e6:.0f} MB ({count} documents and drops, "
        f"{num_bytes / seconds / 1e6:.1f} MB/s): peak {peak / 1e6:.0f} MB, of which "
        f"{base / 1e6:.0f} MB are the interpreter and its libraries (target: under 1,074 MB)"
    )
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--memory-mb", type=int, default=300, help="size of the site that is read")
    options = parser.parse_args()
    rng = random.Random(0)
    if options.samples is not None:
        posts = sample_posts(options.samples / "raw" / "stack_exchange")
    else:
        posts = [made_post(rng) for _ in range(2_000)]
    compare(posts[:50] if options.rehearse else posts, rounds=1 if options.rehearse else 3)
    memory(2_000_000 if options.rehearse else options.memory_mb * 1_000_000)


if __name__ == "__main__":
    main()
