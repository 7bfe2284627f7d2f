"""Input files: what is read is what was listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.files.inputs import LinkedFolder, local_copy, walk


@pytest.mark.parametrize("change", [lambda path: path.write_text("longer text"), Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    (tmp_path / "a.txt").write_text("text")
    (file,) = walk(tmp_path, follow_symlinks=False).files
    with local_copy(file) as here:
        assert here.path.read_text() == "text"
    with pytest.raises(OSError, match=r"a\.txt"), local_copy(file) as here:
        change(here.path)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder of raw files, with links in it and out of it."""
    raw, other = tmp_path / "raw" / "books", tmp_path / "raw-other"
    (raw / "sub").mkdir(parents=True)
    other.mkdir()
    (raw / "a.txt").write_text("a")
    (raw / "sub" / "b.txt").write_text("b")
    (other / "secret.txt").write_text("secret")
    (raw / "inside.txt").symlink_to("sub/b.txt")
    (raw / "out.txt").symlink_to(other / "secret.txt")
    (raw / "folder").symlink_to(other)
    (raw / "sub" / "up.txt").symlink_to("../../../raw-other/secret.txt")
    (raw / "twice.txt").symlink_to("out.txt")
    (raw / "gone.txt").symlink_to(other / "gone.txt")
    return raw


def test_links_may_not_lead_out_of_the_folder(linked: Path) -> None:
    found = walk(linked, follow_symlinks=True)
    assert [file.source_file for file in found.files] == ["a.txt", "inside.txt", "sub/b.txt"]
    assert {item.source_file: item.reason for item in found.ignored} == {
        **dict.fromkeys(("out.txt", "folder", "sub/up.txt", "twice.txt"), "symlink_outside"),
        "gone.txt": "unreadable",
    }


def test_links_lead_anywhere_where_that_is_asked_for(linked: Path) -> None:
    found = walk(LinkedFolder(linked.parent) / linked.name, follow_symlinks=True)
    names = [file.source_file for file in found.files]
    assert names == [
        *("a.txt", "folder/secret.txt", "inside.txt", "out.txt", "sub/b.txt", "sub/up.txt"),
        "twice.txt",
    ]
    assert [(item.source_file, item.reason) for item in found.ignored] == [
        ("gone.txt", "unreadable")
    ]


def test_the_folder_itself_may_be_a_link(linked: Path, tmp_path: Path) -> None:
    (tmp_path / "books").symlink_to(linked)
    found = walk(tmp_path / "books", follow_symlinks=True)
    assert [file.source_file for file in found.files] == ["a.txt", "inside.txt", "sub/b.txt"]
