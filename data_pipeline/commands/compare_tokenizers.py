"""Compares tokenizers on a built dataset: compression and vocabulary coverage per source."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.tokens.tokenizer_comparison import compare_tokenizers, table
from data_pipeline.tokens.tokenizer_folder import export_tokenizer


@dataclass(frozen=True)
class CompareTokenizers:
    """Compare tokenizers on the same documents: compression and vocabulary coverage per source."""

    out: Path
    """Dataset folder."""
    tokenizers: tuple[Path, ...]
    """Tokenizer folders (with tokenizer.model, or tokenizer.json alone) or SentencePiece models,
    such as LLaMA's tokenizer.model, to compare with OUT/tokenizer."""
    bytes_per_source: int = 10_000_000
    """Sample size per source, in bytes of text."""

    def run(self) -> str:
        """The table. ValueError for an invalid tokenizer folder, or a dataset without one."""
        report = json.loads((self.out / "report.json").read_bytes())
        names = [source["name"] for source in report["sources"]]
        documents = {name: self.out / "documents" / name for name in names}
        with tempfile.TemporaryDirectory() as temporary:
            folders = {}
            for index, path in enumerate((self._own(), *self.tokenizers)):
                folder = path.parent if path.name == "tokenizer.json" else path
                if folder.is_file():
                    folder = Path(temporary) / str(index)
                    export_tokenizer(path, folder)
                folders[str(path)] = folder
            fits = compare_tokenizers(documents, folders, bytes_per_source=self.bytes_per_source)
        return table(fits)

    def _own(self) -> Path:
        """The dataset's tokenizer; a user's SentencePiece folder is copied to the store only."""
        own = self.out / "tokenizer"
        return own if own.exists() else self.out / "store" / "tokenizer"
