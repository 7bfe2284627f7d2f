"""Whether a store was made with the tokenizer of the model that a run starts from."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from data_pipeline.tokens.store import TokenStore
from data_pipeline.tokens.tokenizer_identity import tokenizer_identity, vocabulary_of
from llama_ds.config import TrainConfig

NOT_CHECKED = (
    "train.init_from has no tokenizer.model or tokenizer.json: whether data.store was made with "
    "the model's tokenizer is not known"
)


def checked_tokenizer(store: TokenStore, train: TrainConfig) -> str:
    """Identity of the store's tokenizer (`tokenizer_identity`). Collective.

    ValueError, on every rank, where it is not that of the tokenizer in `train.init_from`, nor, with
    `train.new_rows`, one that has more tokens behind those.
    """
    answers: list[str] = ["", ""]
    if dist.get_rank() == 0:
        answers[0] = store.manifest.tokenizer_identity
        answers[0] = answers[0] or tokenizer_identity(store.tokenizer_dir) or ""
        if train.init_from is not None:
            may_grow = train.new_rows == "mean"
            answers[1] = _difference(store, answers[0], train.init_from, may_grow)
    dist.broadcast_object_list(answers, src=0)
    identity, difference = answers
    if difference:
        raise ValueError(difference)
    return identity


def has_tokenizer(folder: Path) -> bool:
    """Whether there is anything to compare with."""
    return any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))


def _difference(store: TokenStore, identity: str, init_from: Path, may_grow: bool) -> str:
    """What is wrong; empty where nothing is."""
    try:
        given = tokenizer_identity(init_from)
    except ValueError as error:
        return f"train.init_from: {error}"
    if given in (None, identity):
        return ""
    if may_grow:
        own, more = vocabulary_of(init_from), vocabulary_of(store.tokenizer_dir)
        changed = sorted(number for number, piece in own.items() if more.get(number) != piece)
        if not changed:
            return ""
        return (
            f"the tokenizer of data.store {store.path} has {more.get(changed[0])!r} as token "
            f"{changed[0]}, that of train.init_from {init_from} has {own[changed[0]]!r}; "
            "train.new_rows is for tokenizers that only add tokens behind"
        )
    return (
        f"data.store {store.path} was tokenized with another tokenizer (identity {identity[:12]}…) "
        f"than that of train.init_from {init_from} ({str(given)[:12]}…); set data.store to a store "
        "made with the model's tokenizer"
    )
