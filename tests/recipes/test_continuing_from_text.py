"""The how-to's commands: a model of Llama 3's kind goes on with a user's text, and is exported."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from data_pipeline.commands import build_text
from data_pipeline.tokens.store import TokenStore
from llama_ds.checkpoint.__main__ import main as checkpoint_command
from llama_ds.data import HeldOutData
from llama_ds.metrics import read_metrics
from recipes.launch import parse
from recipes.llama import llama_tiny
from tests.support.huggingface_tokenizers import byte_level_bpe
from tests.support.huggingface_tokenizers import write as write_tokenizer
from tests.support.recipe_run import ROOT
from tests.support.stock_checkpoints import rope, write
from tests.support.tiny_run import run_training
from tests.support.tokenizer_texts import prose

pytestmark = pytest.mark.dist

PAGE = ROOT / "docs" / "how-to" / "continue-from-a-model.md"
SIZES = {"2048": "32", "65536": "256", "100": "4", "50": "2"}
"""Numbers of the page -> those of a run of a second."""


def commands(names: dict[str, Path]) -> list[list[str]]:
    """The page's lines, with folders for its names and small sizes."""
    block = PAGE.read_text().split("## A model of Llama 3's kind")[1].split("```")[1]
    found = []
    for line in block.removeprefix("bash\n").replace("\\\n", " ").splitlines():
        words = [SIZES.get(word, word) for word in shlex.split(line)]
        first = [str(names.get(w.partition("/")[0], w.partition("/")[0])) for w in words]
        rest = [w.partition("/")[1] + w.partition("/")[2] for w in words]
        found.append([a + b for a, b in zip(first, rest, strict=True)])
    return found


def test_two_commands_continue_a_model_of_llama_3s_kind(
    gloo: Callable[..., list[Any]], tmp_path: Path
) -> None:
    tokenizer = byte_level_bpe()
    size = tokenizer.get_vocab_size()
    fields: dict[str, Any] = {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 1}
    fields |= {"tie_word_embeddings": True, **rope("llama3")}
    model = write(tmp_path / "model", **fields)
    write_tokenizer(tokenizer, model)
    assert not (model / "tokenizer_config.json").exists()
    (tmp_path / "text").mkdir()
    for number, text in enumerate(prose()):
        (tmp_path / "text" / f"{number}.txt").write_text(text)
    names = {"MODEL": model, "TEXT": tmp_path / "text", "OUT": tmp_path / "out"}
    names |= {"RUN": tmp_path / "run", "EXPORT": tmp_path / "export"}

    build, train, export = commands(names)
    assert build[:2] == ["bash", "recipes/build_text.sh"]
    assert build_text.run([*build[2:], "--holdout", "0.1"], prog="build_text.sh") == 0
    assert train[:2] == ["bash", "recipes/pretrain_tiny.sh"]
    small = ["--train.eval-rows", "6", "--metrics.no-tensorboard", "--metrics.peak-tflops", "1"]
    recipe = parse(llama_tiny, [*train[2:], *small]).recipe
    assert gloo(1, run_training, recipe) == [(4, None)]
    assert checkpoint_command(export[1:]) == 0

    stock: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert type(stock).__module__ == "transformers.models.llama.modeling_llama"
    assert stock.config.rope_parameters["rope_type"] == "llama3"
    assert stock.lm_head.weight is stock.model.embed_tokens.weight
    store = TokenStore.open(tmp_path / "out" / "store")
    _, held_out = next(HeldOutData(store, 32, 6, document_masking=False).micro_batches(0, 1, 6))
    with torch.no_grad():
        logits = stock(held_out.input_ids_BS).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), held_out.labels_BS.flatten())
    logged = list(read_metrics(tmp_path / "run" / "metrics.jsonl", "eval"))
    assert [record["step"] for record in logged] == [0, 2, 4]
    # fp32 sums in another order.
    assert loss.item() == pytest.approx(logged[-1]["loss"], rel=1e-6)
    assert logged[-1]["loss"] < logged[0]["loss"]

    # What people do next.
    auto: Any = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert auto.pad_token == auto.eos_token == "<|end_of_text|>"
    assert auto.model_max_length == 32
    inputs = auto("the then", return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    stock.generate(**inputs, max_new_tokens=2)
    generator: Any = pipeline("text-generation", str(tmp_path / "export"), device="cpu")
    texts = generator(["the", "then hen aa"], batch_size=2, max_new_tokens=2)
    assert len(texts) == 2
    card = (tmp_path / "export" / "README.md").read_text()
    assert "| text |" in card
    assert f"| 4 | {logged[-1]['loss']:.4f} | 6 |" in card
    identity = json.loads((tmp_path / "export" / "training.json").read_text())["identity"]
    assert identity["tokenizer"] == store.manifest.tokenizer_identity != ""
