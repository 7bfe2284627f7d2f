"""The table can tell: a model that was taught the answers has them all, and chance on others."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW
from transformers import LlamaConfig

from llama_ds.evaluation import outcomes, table
from llama_ds.evaluation.harness_tasks import load
from llama_ds.evaluation.paper_tasks import all_tasks
from llama_ds.evaluation.scored_model import ScoredModel
from llama_ds.loaded_model import tokenizer_of
from llama_ds.model import LlamaForCausalLM
from tests.support.prompted_models import write_tokenizer

WORDS = ("water", "river", "stone", "house", "paper", "light")
NUM_ROWS = 24


def rows(labels: list[int]) -> list[dict[str, Any]]:
    pairs = random.Random(0)
    found = []
    for number, label in enumerate(labels):
        first, second = pairs.sample(WORDS, 2)
        found.append({"goal": f"Item {number}", "sol1": first, "sol2": second, "label": label})
    return found


def taught(tokenizer: Any, texts: list[str]) -> LlamaForCausalLM:
    """A model that continues `texts`, and no others, as they go on."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    sizes |= {"bos_token_id": 0, "eos_token_id": 1}
    config = LlamaConfig(vocab_size=704, num_attention_heads=4, **sizes)
    model = LlamaForCausalLM(config)
    ids = [tokenizer.encode(text) for text in texts]
    longest = max(map(len, ids))
    inputs = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in ids])
    optimizer = AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        model(inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()  # type: ignore[no-untyped-call]
    return model


@pytest.mark.slow
def test_a_taught_model_scores_all_and_chance_on_shuffled_labels(tmp_path: Path) -> None:
    draws = random.Random(1)
    labels = [draws.randrange(2) for _ in range(NUM_ROWS)]
    shuffled = draws.sample(labels, NUM_ROWS)
    asked = {"right": rows(labels), "shuffled": rows(shuffled)}
    tokenizer = tokenizer_of(write_tokenizer(tmp_path / "tokenizer"))
    texts = [
        f"Question: {row['goal']}\nAnswer: {row['sol1'] if row['label'] == 0 else row['sol2']}"
        for row in asked["right"]
    ]
    model = ScoredModel(taught(tokenizer, texts), tokenizer, batch_tokens=512)
    found = {}
    for name, data in asked.items():
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in data)
        (tmp_path / name / "piqa.validation.jsonl").write_text(lines, encoding="utf-8")
        outcome = outcomes.ask(model, load(all_tasks()["piqa"], 0, tmp_path / name), {})
        (line,) = table.lines([outcome], "7B")
        found[name] = line.ours
    agreeing = sum(one == other for one, other in zip(labels, shuffled, strict=True)) / NUM_ROWS
    assert found == {"right": 100.0, "shuffled": pytest.approx(100 * agreeing)}
    assert 0.25 < agreeing < 0.75
