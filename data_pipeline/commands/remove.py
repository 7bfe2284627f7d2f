"""Applies removal requests to a built dataset.

build_dataset.sh remove --out OUT --ids 0f3a... --urls https://example.org/a --licenses GPL-3.0
build_dataset.sh remove --out OUT --requests FILE --dry-run
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.commands.executor_options import ExecutorOptions
from data_pipeline.removal.dataset import REQUESTS, remove


@dataclass(frozen=True)
class RemoveDocuments:
    """Apply removal (take-down) requests to a dataset in place; later builds apply them, too."""

    out: Path
    """Dataset folder, with documents/ and store/, or one of them."""
    ids: tuple[str, ...] = ()
    """Content ids to remove."""
    urls: tuple[str, ...] = ()
    """URLs to remove; exact match."""
    licenses: tuple[str, ...] = ()
    """SPDX license expressions to remove; exact match."""
    requests: Path | None = None
    """JSON file with further requests: any of the lists ids, urls, licenses."""
    dry_run: bool = False
    """Only report what would be removed."""
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)

    def run(self) -> str:
        """Apply the requests; returns a summary. ValueError where nothing is requested."""
        requests = RemovalRequests(*map(frozenset, (self.ids, self.urls, self.licenses)))
        if self.requests is not None:
            if not self.requests.is_file():
                raise ValueError(f"--requests: there is no file {self.requests}")
            requests |= RemovalRequests.load(self.requests)
        if not requests and not (self.out / REQUESTS).exists():
            raise ValueError("nothing is requested: give --ids, --urls, --licenses or --requests")
        with self.executor.started(self.out) as executor:
            account = remove(self.out, requests, executor=executor, dry_run=self.dry_run)
        if self.dry_run:
            return f"{account}\nnothing was changed (--dry-run)".lstrip()
        return (
            f"{account}\nrequests: {self.out / REQUESTS}; later builds honor them. Raw files, and "
            f"the parts in {self.out}/documents/.parts, still contain these documents; the next "
            "build updates the report"
        ).lstrip()
