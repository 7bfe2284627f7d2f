"""The command that compares a token store with its manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes import build_dataset
from tests.support.tiny_run import make_store


def test_an_intact_store_and_every_damaged_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path)
    arguments = ["verify", "--store", str(store)]
    assert build_dataset.run(arguments) == 0
    assert "is intact: 8 files" in capsys.readouterr().out
    damaged = [next(store.rglob("*.arrow")), next(store.rglob("*.parquet"))]
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged shard") as caught:
        build_dataset.run(arguments)
    assert len(str(caught.value).splitlines()) == 2
    assert all(str(path) in str(caught.value) for path in damaged)
    with pytest.raises(ValueError, match=r"--num-threads \(0\) must be positive"):
        build_dataset.run([*arguments, "--num-threads", "0"])
