"""Pushes built documents to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi

from data_pipeline.release.dataset_card import CARD

PUBLISHED = (CARD, "*manifest.json", "*documents-*.parquet", "*dropped-*.parquet")
"""Files that are uploaded. Dropped texts are not (examples.parquet, the report): the drop reason
may be a license or a removal request."""
PRIVATE = (".*", "*/.*", "cache/*", "*/cache/*")
"""Never uploaded: parts, caches, and temporary files of killed processes."""


class Hub(Protocol):
    """The methods of `huggingface_hub.HfApi` that are used."""

    def create_repo(
        self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool
    ) -> object: ...
    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        repo_type: str,
        commit_message: str,
        allow_patterns: list[str],
        ignore_patterns: list[str],
        delete_patterns: list[str],
    ) -> object: ...


def push_to_hub(folder: Path, repo_id: str, *, private: bool = True, hub: Hub | None = None) -> str:
    """Push a folder with a dataset card to the repository USER/NAME; returns its URL.

    The repository is created if it does not exist, private unless `private` is False. An
    interrupted push is resumed. Files of an earlier push that no longer exist are deleted, so that
    removals here take effect there. Requires `hf auth login` (`hub_login`). ValueError where the
    folder has no card.
    """
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} has no dataset card ({CARD}); finish the build first")
    hub = HfApi() if hub is None else hub
    hub.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    hub.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        repo_type="dataset",
        commit_message="Documents and their card",
        allow_patterns=list(PUBLISHED),
        ignore_patterns=list(PRIVATE),
        delete_patterns=["*documents-*.parquet", "*dropped-*.parquet", "*manifest.json"],
    )
    return f"https://huggingface.co/datasets/{repo_id}"
