"""Every layout trains as one process does: losses, gradient norms and updated weights.

The reference is stock transformers under plain PyTorch (`reference.py`). The cases cover, of the
product
dp x tp x sp x Megatron's sequence parallelism x ZeRO stage x accumulation x dtype x kind of heads:
every layout of up to four ranks meets every ZeRO stage, and every other choice meets every layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import Reference
from tiny_run import make_store, tiny_recipe
from transformers import AutoModelForCausalLM

from llama_ds.checkpoint import export
from llama_ds.config import ModelConfig, Recipe
from llama_ds.metrics import read_metrics

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]

HEADS = {"mha": 4, "gqa": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    dp: int
    tp: int
    sp: int
    megatron: bool = False
    stage: int = 1
    accum: int = 1
    heads: str = "mha"
    masking: bool = False
    policy: str = "keep_all"
    dtype: str = "fp32"

    def __str__(self) -> str:
        parts = [f"dp{self.dp}-tp{self.tp}-sp{self.sp}-zero{self.stage}-accum{self.accum}"]
        parts += [self.heads, "megatron"] if self.megatron else [self.heads]
        parts += ["masking"] if self.masking else []
        return "-".join([*parts, self.policy, self.dtype])

    def recipe(self, store: Path, run_dir: Path) -> Recipe:
        kv_heads = HEADS[self.heads]
        recipe = tiny_recipe(
            store,
            run_dir,
            **{
                "model.num_key_value_heads": kv_heads,
                "train.max_steps": 4,
                "train.micro_batch_size": 8 // (self.dp * self.accum),
                "train.eval_rows": 0,
                "train.dtype": self.dtype,
                "train.save_policy": self.policy,
                "data.document_masking": self.masking,
                "zero.stage": self.stage,
                "parallel.replicate_kv_heads": kv_heads % (self.tp * self.sp) != 0,
                "parallel.tp": self.tp,
                "parallel.sp": self.sp,
                "parallel.sequence_parallel": self.megatron,
            },
        )
        return recipe


LAYOUTS = [  # dp, tp, sp, megatron
    (1, 2, 1, False),
    (1, 2, 1, True),
    (2, 2, 1, False),
    (2, 2, 1, True),
    (1, 4, 1, True),
    (1, 1, 2, False),
    (2, 1, 2, False),
    (1, 1, 4, False),
    (1, 2, 2, False),
    (1, 2, 2, True),
]


def cases() -> list[Case]:
    found = []
    for number, (dp, tp, sp, megatron) in enumerate(LAYOUTS):
        for stage in range(4):
            turn = number + stage
            found.append(
                Case(
                    dp,
                    tp,
                    sp,
                    megatron,
                    stage,
                    accum=1 + turn % 2,
                    # Four ranks have to share two key/value heads.
                    heads="gqa" if (turn // 2) % 2 else "mha",
                    masking=stage == (number + 1) % 4,
                    policy="layer_input" if stage == (number + 2) % 4 else "keep_all",
                )
            )
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reference(store: Path) -> Callable[[Case], Reference]:
    made: dict[tuple[str, bool], Reference] = {}

    def of(case: Case) -> Reference:
        key = (case.heads, case.masking)
        if key not in made:
            plain = Case(1, 1, 1, heads=case.heads, masking=case.masking)
            made[key] = Reference(plain.recipe(store, Path("unused")))
        return made[key]

    return of


def run_training(recipe: Recipe) -> int:
    """One rank of a training job."""
    from llama_ds.train import train

    return train(recipe, local_rank=0).step


def column(recipe: Recipe, name: str, kind: str = "train") -> list[float]:
    return [record[name] for record in read_metrics(recipe.run_dir / "metrics.jsonl", kind)]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_every_layout_equals_plain_pytorch(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Callable[[Case], Reference], case: Case
) -> None:
    expected = reference(case)
    recipe = case.recipe(store, tmp_path / "run")
    gloo(case.dp * case.tp * case.sp, run_training, recipe)
    # fp32 sums in another order: a few ulp of a loss near 6, of a norm near 1.
    assert column(recipe, "loss") == pytest.approx(expected.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(expected.grad_norms, rel=3e-6)
    export(recipe.run_dir, tmp_path / "model")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    for name, weight in expected.model.state_dict().items():
        # Adam divides by the gradient's root mean square, which enlarges rounding where a
        # gradient is near zero; the weights have moved by up to 4 steps of 1e-2.
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=2e-5, msg=name)
