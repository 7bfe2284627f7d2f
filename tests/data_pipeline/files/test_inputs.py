"""Input files: what is read is what was listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.files.inputs import local_copy, walk


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
