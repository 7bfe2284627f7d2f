"""Pushes an exported model to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi


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
        delete_patterns: list[str],
    ) -> object: ...


def push_to_hub(
    folder: Path, repo_id: str, *, message: str, private: bool = True, hub: Hub | None = None
) -> str:
    """Push an exported model to the repository USER/NAME, which is created; returns its URL.

    Weights of an earlier push in other files are deleted there.
    """
    hub = HfApi() if hub is None else hub
    hub.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
    hub.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        repo_type="model",
        commit_message=message,
        delete_patterns=["*.safetensors", "*.safetensors.index.json"],
    )
    return f"https://huggingface.co/{repo_id}"
