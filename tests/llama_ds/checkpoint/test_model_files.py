"""What an export's configuration and card say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from llama_ds.checkpoint.model_card import data_of, model_card, public
from llama_ds.checkpoint.model_files import complete_config, complete_tokenizer_config
from tests.support.llama_pair import ROPE, config


@pytest.mark.parametrize("kind", ROPE)
def test_rope_is_written_in_both_forms(tmp_path: Path, kind: str) -> None:
    stock = config(rope_parameters={"rope_type": kind, "rope_theta": 5e5, **ROPE[kind]})
    tree = complete_config(stock.to_dict())
    assert tree["rope_theta"] == 5e5
    scaling = {**tree["rope_parameters"]}
    del scaling["rope_theta"]
    assert tree["rope_scaling"] == (None if kind == "default" else scaling)
    # Each form by itself, and both, are the same configuration.
    for left_out in ((), ("rope_parameters",), ("rope_theta", "rope_scaling")):
        form = {name: value for name, value in tree.items() if name not in left_out}
        (tmp_path / "config.json").write_text(json.dumps(form))
        assert LlamaConfig.from_pretrained(tmp_path).to_dict() == stock.to_dict()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"unk_token": "<unk>", "eos_token": "</s>"}, ("<unk>", 64)),
        (
            {"eos_token": {"content": "<end>"}, "model_max_length": 10**30},
            ({"content": "<end>"}, 64),
        ),
        ({"pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 8}, ("<pad>", 8)),
        ({}, (None, 64)),
    ],
)
def test_tokenizers_can_pad(settings: dict[str, Any], expected: tuple[Any, int]) -> None:
    found = complete_tokenizer_config(settings, 64)
    assert (found.get("pad_token"), found["model_max_length"]) == expected
    assert found["model_input_names"] == ["input_ids", "attention_mask"]
    own = {"model_input_names": ["input_ids"]}
    assert complete_tokenizer_config(own, 64)["model_input_names"] == ["input_ids"]


def test_a_card_says_what_is_known(tmp_path: Path) -> None:
    run = {"step": 40, "rows": 320, "identity": {}}
    assert "after 40 steps on 320 sequences" in model_card(tmp_path, run, 1_234)
    source = {"documents": 3, "tokens": 5_000, "share": 1.0, "licenses": {"MIT": 2, "": 1}}
    (tmp_path / "data.json").write_text(json.dumps({"store": "x", "sources": {"web|x": source}}))
    records = [{"kind": "eval", "step": s, "loss": 9 - s / 10, "rows": 5} for s in range(0, 60, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    identity: dict[str, Any] = {
        "name": "mine",
        "train.init_from": "/home/me/base",
        "run_dir": "/home/me/r",
    }
    identity |= {"data.store": "/home/me/s", "tokenizer": "abc", "optimizer.eps": 1e-8}
    card = model_card(tmp_path, {**run, "identity": identity, "versions": {"torch": "2"}}, 1_234)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# mine\n\nA LLaMA model with 1,234 parameters" in card
    assert "| web\\|x | 3 | 5,000 | 100.0% |" in card
    assert "| web\\|x | MIT | 2 |\n| web\\|x | not known | 1 |" in card
    assert "Identity `abc`" in card
    assert "| 0 | 9.0000 | 5 |" in card
    assert "| 40 | 5.0000 | 5 |" in card
    assert "| 42 |" not in card
    assert '| train.init_from | "base" |' in card
    assert "| optimizer.eps | 1e-08 |" in card
    assert "Trained with torch 2." in card
    assert "/home/me" not in card
    assert public(identity).keys() == identity.keys() - {"run_dir", "data.store"}


def test_shares_are_of_the_whole() -> None:
    class Split:
        num_tokens, num_documents = 10, 2

    class Manifest:
        fingerprint = "f"
        licenses = {"a": {"MIT": 2}}  # noqa: RUF012
        sources = {"a": {"train": Split}, "b": {"train": Split}}  # noqa: RUF012

    found = data_of(Manifest, {"a": 3})["sources"]  # type: ignore[arg-type]
    assert found["a"] == {"tokens": 10, "documents": 2, "share": 1.0, "licenses": {"MIT": 2}}
    assert (found["b"]["share"], found["b"]["licenses"]) == (0.0, {})
