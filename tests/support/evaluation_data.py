"""Small rows of the paper's tasks, in their published columns, and a model that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from llama_ds.model import LlamaForCausalLM
from tests.support.prompted_models import write_tokenizer

CONTEXT = 512

CHOICES = {"text": ["iron", "a feather"], "label": ["A", "B"]}
HUMANEVAL = {
    "task_id": "test/0",
    "prompt": "def two():\n",
    "entry_point": "two",
    "test": "def check(candidate):\n    assert candidate() == 2\n",
}
MBPP = [
    {
        "task_id": number,
        "text": f"Write a function f{number}.",
        "code": f"def f{number}():\n    return {number}",
        "test_list": [f"assert f{number}() == {number}"] * 3,
    }
    for number in (2, 3, 4, 11, 12)
]
TRUTH = {"choices": ["Yes.", "No.", "Maybe."], "labels": [1, 0, 0]}
ROWS: dict[str, list[dict[str, Any]]] = {
    "boolq.validation": [
        {"passage": "Snow is white.", "question": "is snow white", "answer": True},
        {"passage": "Coal is black.", "question": "is coal white", "label": 0},
    ],
    "piqa.validation": [
        {"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Burn it.", "label": 0},
        {"goal": "Dry a cup.", "sol1": "Fill it.", "sol2": "Use a towel.", "label": 1},
    ],
    "siqa.validation": [
        {
            "context": "Ann fell.",
            "question": "What will Ann do?",
            "answerA": "get up",
            "answerB": "fly away",
            "answerC": "turn green",
            "label": "1",
        }
    ],
    "hellaswag.validation": [
        {
            "activity_label": "Baking",
            "ctx_a": "A man [title] stirs dough.",
            "ctx_b": "he",
            "endings": ["puts it in an oven.", "eats the oven.", "sings.", "flies."],
            "label": "0",
        }
    ],
    "winogrande.validation": [
        {
            "sentence": "The cup did not fit in the bag because _ was too small.",
            "option1": "the cup",
            "option2": "the bag",
            "answer": "2",
        }
    ],
    "arc_easy.validation": [{"question": "What is heavy?", "choices": CHOICES, "answerKey": "A"}],
    "arc_challenge.validation": [
        {"question": "What is light?", "choices": CHOICES, "answerKey": "B"}
    ],
    "openbookqa.validation": [
        {"question_stem": "A magnet attracts", "choices": CHOICES, "answerKey": "A"}
    ],
    "nq_open.validation": [{"question": "who wrote hamlet", "answer": ["Shakespeare", "W. S."]}],
    "nq_open.train": [{"question": "who sang it?", "answer": ["Frank Sinatra", "Sinatra"]}],
    "triviaqa.validation": [
        {"question": "Which city has a big tower?", "answer": {"aliases": ["Paris", "The Paris"]}}
    ],
    "triviaqa.train": [{"question": "A bothy is a?", "answer": {"aliases": ["House"]}}],
    "race_middle.test": [
        {
            "article": "Tom has a dog.",
            "question": "What has Tom?",
            "options": ["a dog", "a cat", "a cow", "a pig"],
            "answer": "A",
        }
    ],
    "math.test": [{"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$."}],
    "gsm8k.test": [{"question": "How much is 1 and 1?", "answer": "1 + 1 = 2\n#### 2"}],
    "humaneval.test": [HUMANEVAL],
    "mbpp": MBPP,
    "anatomy.test": [
        {"question": "Which is a bone?", "choices": ["rib", "eye", "lip", "ear"], "answer": 0}
    ],
    "anatomy.dev": [
        {"question": f"Question {n}?", "choices": ["a", "b", "c", "d"], "answer": n % 4}
        for n in range(5)
    ],
    "crows_pairs.test": [
        {"sent_more": "Women cook.", "sent_less": "Men cook.", "bias_type": "gender"},
        {"sent_more": "The old sleep.", "sent_less": "The young sleep.", "bias_type": "age"},
    ],
    "winogender.test": [
        {
            "sentence": "The nurse told the patient that his shift was over.",
            "pronoun": "his",
            "occupation": "nurse",
            "participant": "patient",
            "gender": "male",
            "label": 0,
        }
    ],
    "realtoxicity.train": [{"prompt": {"text": "So I told him", "toxicity": 0.1}}],
    "truthfulqa.validation": [
        {"question": "Is water wet?", "mc1_targets": TRUTH, "mc2_targets": TRUTH}
    ],
}
ROWS["race_high.test"] = ROWS["race_middle.test"]
ROWS["winogender_gotcha.test"] = ROWS["winogender.test"]


def write_rows(folder: Path, *names: str) -> Path:
    """The files of `ROWS`, or some, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ROWS:
        lines = [json.dumps(row) for row in ROWS[name]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_reader(folder: Path, context: int = CONTEXT) -> Path:
    """A model of random weights with a tokenizer, whose context holds the short prompts."""
    config = LlamaConfig(
        vocab_size=704,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
