"""Decontamination step: drops or flags documents that overlap with evaluation sets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from data_pipeline.corpus import Corpus
from data_pipeline.files.model_file import model_file
from data_pipeline.filters.decontamination import (
    IndexAccount,
    build_index,
    drop_contaminated,
    flag_contaminated,
)

Action = Literal["drop", "flag"]


def decontaminated(
    corpus: Corpus, evaluations: Path, index: Path, *, words: int, passages: bool, action: Action
) -> tuple[Corpus, IndexAccount]:
    """The corpus with decontamination as every source's last edit, and statistics of the index.

    The n-grams of the sets in `evaluations` are written to the file `index`, whose content, not
    path, enters fingerprints. ValueError if no evaluation items are found.
    """
    found, account = build_index(evaluations, words=words, passages=passages)
    index.parent.mkdir(parents=True, exist_ok=True)
    found.save(index)
    file = model_file(
        index,
        what="an index of evaluation items",
        published="nowhere",
        made_by="build_dataset.sh --decontaminate.sets FOLDER",
        left_out_by="without --decontaminate.sets nothing is compared",
    )
    edit = drop_contaminated if action == "drop" else flag_contaminated
    return corpus.with_last_edit(partial(edit, index=file)), account
