"""Block lists of URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.document import Document, Rejected
from data_pipeline.filters.url_blocklist import block_list, drop_blocked

LIST = """\
# domains
bad.example      # with a comment
www.worse.example
1.2.3.4

casino
Größe
"""


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://bad.example/page", "bad.example"),
        ("http://user@a.b.BAD.example.:8080?x", "bad.example"),
        ("https://worse.example", "worse.example"),
        ("http://1.2.3.4/x", "1.2.3.4"),
        ("https://good.example/casino-night", "casino"),
        ("https://casino.example/", "casino"),
        ("https://good.example/Größe", "größe"),
        ("https://notbad.example/", None),
        ("https://bad.example.org/", None),
        ("https://good.example/?u=bad.example", None),
        ("https://good.example/casinos", None),
        ("no url at all", None),
        (None, None),
    ],
)
def test_urls(tmp_path: Path, url: str | None, found: str | None) -> None:
    path = tmp_path / "list.txt"
    path.write_text(LIST)
    result = drop_blocked(Document("text", "file", url=url), blocked=block_list(path))
    if found is None:
        assert result == Document("text", "file", url=url)
    else:
        assert isinstance(result, Rejected)
        assert (result.reason, result.detail) == ("blocked_url", f"{found}: {url}")


def test_invalid_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    with pytest.raises(ValueError, match="is missing"):
        block_list(path)
    path.write_text("good.example\nhttps://a.example/b\n")
    with pytest.raises(ValueError, match=r"line 2: 'https://a\.example/b' is neither"):
        block_list(path)
