"""The job that removes documents from a built dataset because somebody asks for it.

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
    """Remove documents from a dataset in place; later builds leave them out too."""

    out: Path
    """The dataset: documents/ and store/, or one of them."""
    ids: tuple[str, ...] = ()
    """Content ids."""
    urls: tuple[str, ...] = ()
    """Addresses, exactly as the documents have them."""
    licenses: tuple[str, ...] = ()
    """SPDX expressions, exactly as the documents have them."""
    requests: Path | None = None
    """JSON file with any of the lists ids, urls, licenses: these too."""
    dry_run: bool = False
    """Only say what would go."""
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)

    def run(self) -> str:
        """Remove; what went, and what to do next. ValueError where nothing is requested."""
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
            f"{account}\nrequests: {self.out / REQUESTS}; later builds honour them. Raw files, and "
            f"what was read from them in {self.out}/documents/.parts, still hold these documents; "
            "the report is renewed by the next build"
        ).lstrip()
