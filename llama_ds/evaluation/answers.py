"""What the model has answered, kept on disk batch by batch, so that an evaluation continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from data_pipeline.files.atomic import write_atomic


class Answers:
    """Answers by request; with a path they outlive the process."""

    def __init__(self, path: Path | None = None) -> None:
        self._found: dict[str, Any] = {}
        self._file: TextIO | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = b""
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            try:
                batch = json.loads(line)
            except ValueError:
                break
            if not isinstance(batch, dict) or not line.endswith(b"\n"):
                break
            self._found |= batch
            whole += line
        if path.exists() and len(whole) < path.stat().st_size:
            write_atomic(path, whole)  # what a killed writer has left
        self._file = path.open("a", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def add(self, batch: Mapping[str, Any]) -> None:
        """The answers of a whole batch, in one line: a cut line is a batch that is asked again."""
        self._found |= batch
        if self._file is not None:
            self._file.write(json.dumps(batch) + "\n")
            self._file.flush()

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
