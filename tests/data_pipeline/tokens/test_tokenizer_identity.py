"""The identity of a tokenizer: the same for every form of one, another for every other one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.tokens.tokenizer_folder import export_tokenizer
from data_pipeline.tokens.tokenizer_identity import tokenizer_identity, vocabulary_of
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer
from tests.support.huggingface_tokenizers import KINDS, write
from tests.support.tokenizer_texts import prose
from tests.support.written_documents import write_documents


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    from tests.support.tiny_run import documents

    texts = write_documents(folder / "documents", list(documents(1, 60, 200)))
    train_tokenizer({"text": texts}, folder / "tokenizer", TokenizerConfig(vocab_size=320))
    return folder / "tokenizer"


def only(folder: Path, name: str, into: Path) -> Path:
    into.mkdir()
    shutil.copy(folder / name, into / name)
    return into


def test_both_forms_are_one_tokenizer(trained: Path, tmp_path: Path) -> None:
    identity = tokenizer_identity(trained)
    assert identity is not None
    assert len(identity) == 32
    for name in ("tokenizer.model", "tokenizer.json"):
        folder = only(trained, name, tmp_path / name)
        assert tokenizer_identity(folder) == identity
        assert vocabulary_of(folder) == vocabulary_of(trained)


@pytest.mark.slow
def test_both_forms_of_llamas_own_tokenizer(samples: Path, tmp_path: Path) -> None:
    export_tokenizer(samples / "tokenizer" / "tokenizer.model", tmp_path / "out")
    expected = tokenizer_identity(only(tmp_path / "out", "tokenizer.model", tmp_path / "model"))
    json_only = only(tmp_path / "out", "tokenizer.json", tmp_path / "json")
    assert tokenizer_identity(json_only) == expected


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert tokenizer_identity(tmp_path) is None
    assert vocabulary_of(tmp_path) == {}
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\n")  # tiktoken's
    assert tokenizer_identity(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a valid Hugging Face tokenizer"):
        tokenizer_identity(tmp_path)


SAME: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the order of keys": lambda t: dict(reversed(t.items())),
    "the order of the vocabulary": lambda t: t["model"].update(
        vocab=dict(reversed(t["model"]["vocab"].items()))
    ),
    "merges as strings": lambda t: t["model"].update(
        merges=[m if isinstance(m, str) else " ".join(m) for m in t["model"]["merges"]]
    ),
    "a truncation": lambda t: t.update(
        truncation={"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    ),
    "the version": lambda t: t.update(version="1.0"),
    "BOS in front of every text": lambda t: t.update(post_processor=None),
}
OTHER: dict[str, Callable[[dict[str, Any]], Any]] = {
    "merges in another order": lambda t: t["model"].update(merges=t["model"]["merges"][::-1]),
    "the last merge gone": lambda t: t["model"].update(merges=t["model"]["merges"][:-1]),
    "two ids exchanged": lambda t: t["model"].update(vocab=exchanged(t["model"]["vocab"])),
    "spaces lost": lambda t: t.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    "lower case": lambda t: t.update(normalizer={"type": "Lowercase"}),
    "a token behind": lambda t: t["added_tokens"].append(
        {**t["added_tokens"][0], "id": len(t["model"]["vocab"]), "content": "<new>"}
    ),
}


def exchanged(vocabulary: dict[str, int]) -> dict[str, int]:
    one, other = list(vocabulary)[-2:]
    return {**vocabulary, one: vocabulary[other], other: vocabulary[one]}


def changed(folder: Path, change: Callable[[dict[str, Any]], Any], into: Path) -> Path:
    tree = json.loads((folder / "tokenizer.json").read_text())
    new = change(tree) or tree
    into.mkdir()
    (into / "tokenizer.json").write_text(json.dumps(new, indent=3))
    return into


@pytest.fixture(scope="module", params=["trained", "byte_level_bpe"])
def bpe(
    request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with tokenizer.json alone."""
    if request.param == "trained":
        return only(trained, "tokenizer.json", tmp_path_factory.mktemp("bpe") / "trained")
    return write(KINDS[request.param](), tmp_path_factory.mktemp("bpe") / "given")


@pytest.mark.parametrize("what", SAME)
def test_another_way_of_writing_is_the_same(bpe: Path, tmp_path: Path, what: str) -> None:
    other = changed(bpe, SAME[what], tmp_path / "other")
    assert tokenizer_identity(other) == tokenizer_identity(bpe)


@pytest.mark.parametrize("what", OTHER)
def test_another_behaviour_is_another_tokenizer(bpe: Path, tmp_path: Path, what: str) -> None:
    other = changed(bpe, OTHER[what], tmp_path / "other")
    assert tokenizer_identity(other) != tokenizer_identity(bpe)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_identity_of_its_own(tmp_path: Path, kind: str) -> None:
    folder = write(KINDS[kind](), tmp_path / kind)
    assert tokenizer_identity(folder) == tokenizer_identity(folder)
    others = [tokenizer_identity(write(KINDS[o](), tmp_path / o)) for o in KINDS if o != kind]
    assert tokenizer_identity(folder) not in others
    assert prose(), "the texts that these are trained on"
