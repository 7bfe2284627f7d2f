"""Every layout trains as one process does: losses, gradient norms and updated weights.

The reference is stock transformers under plain PyTorch (`reference.py`). The product of dp, tp, sp,
Megatron's sequence parallelism, ZeRO stage, accumulation, kind of heads, document masking, saved
activations, overlap and dtype is covered so: every layout of up to four ranks meets every ZeRO
stage and every save policy, every stage every policy, and there every other choice in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_ds.checkpoint.export import export
from llama_ds.config import Recipe
from llama_ds.metrics import read_metrics
from llama_ds.save_policy import PRESETS
from tests.support.llama_pair import ROPE
from tests.support.reference import Reference
from tests.support.tiny_run import make_store, run_training, tiny_recipe

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]

POLICIES = list(PRESETS)
HEADS = {"mha": 4, "gqa": 2}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    "padded": {"vocab_size": 325},
    "padded_tied": {"vocab_size": 321, "tie_word_embeddings": True},
    "head_dim": {"head_dim": 12, "tie_word_embeddings": True},
    **{
        kind: {"rope_scaling": {"rope_type": kind, **ROPE[kind]}}
        for kind in ("llama3", "yarn", "longrope")
    },
}


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
    policy: str = "linear_outputs"
    overlap: bool = False
    mlp_tiles: int = 1
    dtype: str = "fp32"
    model: str = "plain"
    z_loss: float = 0.0

    def __str__(self) -> str:
        parts = [f"dp{self.dp}-tp{self.tp}-sp{self.sp}-zero{self.stage}-accum{self.accum}"]
        parts += [self.heads, "megatron"] if self.megatron else [self.heads]
        parts += ["masking"] if self.masking else []
        parts += ["overlap"] if self.overlap else []
        parts += [f"tiles{self.mlp_tiles}"] if self.mlp_tiles > 1 else []
        parts += [self.model] if self.model != "plain" else []
        parts += ["z_loss"] if self.z_loss else []
        return "-".join([*parts, self.policy, self.dtype])

    def recipe(self, store: Path, run_dir: Path) -> Recipe:
        kv_heads = HEADS[self.heads]
        return tiny_recipe(
            store,
            run_dir,
            **{
                "model.num_key_value_heads": kv_heads,
                **{f"model.{name}": value for name, value in MODELS[self.model].items()},
                "optimizer.z_loss": self.z_loss,
                "train.max_steps": 4,
                "train.micro_batch_size": 8 // (self.dp * self.accum),
                "train.eval_rows": 0,
                "train.dtype": self.dtype,
                "train.save_policy": self.policy,
                "train.mlp_tiles": self.mlp_tiles,
                "data.document_masking": self.masking,
                "zero.stage": self.stage,
                "parallel.replicate_kv_heads": kv_heads % (self.tp * self.sp) != 0,
                "parallel.tp": self.tp,
                "parallel.sp": self.sp,
                "parallel.sequence_parallel": self.megatron,
                "parallel.overlap": "on" if self.overlap else "off",
            },
        )


LAYOUTS = [  # dp, tp, sp, megatron; test_train.py has those of one and two data-parallel ranks
    (4, 1, 1, False),
    (1, 2, 1, False),
    (1, 2, 1, True),
    (2, 2, 1, False),
    (2, 2, 1, True),
    (1, 4, 1, False),
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
            policy = POLICIES[(number + 2 * stage + stage // 2) % 4]
            found.append(
                Case(
                    dp,
                    tp,
                    sp,
                    megatron,
                    stage,
                    accum=1 + turn % 2,
                    # Four ranks have to hold the same two key/value heads twice.
                    heads="gqa" if (turn // 2) % 2 else "mha",
                    masking=stage == (number // 3) % 4,
                    policy=policy,
                    # Every layout has it on at two of the stages, and off at two.
                    overlap=turn % 4 < 2,
                    mlp_tiles=2 if policy in ("no_mlp", "layer_input") else 1,
                )
            )
    return found


def test_the_cases_cover_every_pair_of_choices() -> None:
    layouts = {(c.dp, c.tp, c.sp, c.megatron) for c in cases()}
    # Megatron's sequence parallelism is a choice wherever there is tp.
    assert layouts == {
        (dp, tp, sp, megatron)
        for dp, tp, sp in itertools.product((1, 2, 4), repeat=3)
        for megatron in ((False, True) if tp > 1 else (False,))
        if 2 < dp * tp * sp <= 4 or (dp == 1 and dp * tp * sp == 2)
    }
    choices: dict[str, Callable[[Case], Any]] = {
        "layout": lambda c: (c.dp, c.tp, c.sp, c.megatron),
        "stage": lambda c: c.stage,
        "accum": lambda c: c.accum,
        "heads": lambda c: c.heads,
        "masking": lambda c: c.masking,
        "policy": lambda c: c.policy,
    }
    for one, other in itertools.combinations(choices.values(), 2):
        seen = {(one(c), other(c)) for c in cases()}
        values = [{choice(c) for c in cases()} for choice in (one, other)]
        assert seen == set(itertools.product(*values))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def reference(store: Path) -> Callable[[Case], Reference]:
    made: dict[tuple[str, bool, str, float], Reference] = {}

    def of(case: Case) -> Reference:
        key = (case.heads, case.masking, case.model, case.z_loss)
        if key not in made:
            heads, masking, model, z_loss = key
            plain = Case(1, 1, 1, heads=heads, masking=masking, model=model, z_loss=z_loss)
            made[key] = Reference(plain.recipe(store, Path("unused")))
        return made[key]

    return of


def column(recipe: Recipe, name: str, kind: str = "train") -> list[float]:
    return [record[name] for record in read_metrics(recipe.run_dir / "metrics.jsonl", kind)]


def tiered() -> Iterator[Any]:
    """Every layout once, every stage three times, every policy; the others at night."""
    for number, case in enumerate(cases()):
        layout, stage = divmod(number, 4)
        at_night = stage != (layout + layout // 4) % 4
        yield pytest.param(case, id=str(case), marks=[pytest.mark.nightly] if at_night else [])


@pytest.mark.parametrize("case", list(tiered()))
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


OTHER_MODELS = [  # what LLaMA-1 does not have, each under tp, sp and a ZeRO stage
    Case(1, 2, 1, megatron=True, stage=1, accum=2, heads="gqa", model="tied"),
    Case(2, 1, 1, stage=3, model="tied"),
    Case(1, 1, 2, stage=2, heads="gqa", model="tied"),
    Case(1, 2, 1, megatron=True, stage=3, heads="gqa", model="biases"),
    Case(1, 2, 1, stage=0, model="biases"),
    Case(1, 1, 2, stage=2, accum=2, heads="gqa", model="biases"),
    Case(1, 4, 1, megatron=True, stage=2, heads="gqa", model="biases"),
    Case(1, 2, 1, megatron=True, stage=2, heads="gqa", policy="no_mlp", model="head_dim"),
    Case(1, 1, 2, stage=3, accum=2, heads="gqa", model="head_dim"),
    Case(1, 2, 2, megatron=True, stage=3, heads="gqa", model="head_dim"),
    Case(1, 2, 1, megatron=True, stage=1, heads="gqa", model="padded"),
    Case(1, 2, 1, stage=0, model="padded_tied"),
    Case(1, 4, 1, stage=2, heads="gqa", model="padded"),
    Case(2, 2, 1, megatron=True, stage=3, model="padded"),
    Case(1, 4, 1, megatron=True, stage=3, heads="gqa", model="padded_tied"),
    Case(1, 2, 1, megatron=True, stage=1, heads="gqa", model="llama3"),
    Case(1, 1, 2, stage=3, heads="gqa", masking=True, model="yarn"),
    Case(1, 1, 2, stage=1, overlap=True, heads="gqa", model="longrope"),
    Case(2, 1, 1, stage=3, model="longrope"),
    # So large that leaving it out, or one rank's part of the log-sum-exp, would show.
    Case(1, 2, 1, megatron=True, stage=1, heads="gqa", model="padded", z_loss=1e-2),
    Case(1, 1, 2, stage=3, accum=2, masking=True, z_loss=1e-2),
]


@pytest.mark.parametrize("case", OTHER_MODELS, ids=str)
def test_what_llama_1_lacks_trains_as_in_plain_pytorch(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Callable[[Case], Reference], case: Case
) -> None:
    expected = reference(case)
    recipe = case.recipe(store, tmp_path / "run")
    gloo(case.dp * case.tp * case.sp, run_training, recipe)
    # As above.
    assert column(recipe, "loss") == pytest.approx(expected.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(expected.grad_norms, rel=3e-6)
    export(recipe.run_dir, tmp_path / "model")
    # Measured: up to 1e-5. Adam enlarges the rounding of gradients near zero, as above.
    assert expected.update_missed_by(tmp_path / "model") < 3e-5


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 2, 1, megatron=True, stage=1, accum=2, heads="gqa", dtype="bf16"),
        Case(2, 2, 1, megatron=True, stage=3, accum=1, heads="mha", dtype="bf16"),
        Case(2, 1, 2, stage=2, accum=1, heads="gqa", dtype="bf16"),
        Case(2, 1, 2, stage=0, accum=2, heads="mha", dtype="bf16"),
        Case(1, 2, 2, megatron=True, stage=1, accum=1, heads="gqa", dtype="bf16"),
        Case(1, 2, 2, megatron=True, stage=2, accum=2, heads="mha", dtype="bf16"),
        Case(1, 4, 1, stage=3, accum=2, heads="gqa", dtype="bf16"),
    ],
    ids=str,
)
def test_bf16_stays_near_fp32(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Callable[[Case], Reference], case: Case
) -> None:
    expected = reference(case)
    recipe = case.recipe(store, tmp_path / "run")
    gloo(case.dp * case.tp * case.sp, run_training, recipe)
    # bf16 has 8 bits: activations are off by 2^-9 each, a loss near 6 by some 1e-2.
    assert column(recipe, "loss") == pytest.approx(expected.losses, abs=2e-2)
    assert column(recipe, "grad_norm") == pytest.approx(expected.grad_norms, rel=3e-2)
    export(recipe.run_dir, tmp_path / "model", dtype="fp32")
    # Measured: 0.04. Adam enlarges the rounding of gradients near zero, as above.
    assert expected.update_missed_by(tmp_path / "model") < 0.1


@pytest.mark.nightly
def test_eight_ranks_of_every_kind(
    gloo: Gloo, store: Path, tmp_path: Path, reference: Callable[[Case], Reference]
) -> None:
    case = Case(2, 2, 2, megatron=True, stage=3, heads="gqa", masking=True)
    expected = reference(case)
    recipe = case.recipe(store, tmp_path / "run")
    gloo(8, run_training, recipe)
    # As above.
    assert column(recipe, "loss") == pytest.approx(expected.losses, rel=1e-6)
    assert column(recipe, "grad_norm") == pytest.approx(expected.grad_norms, rel=3e-6)


# -- the life of a run ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(
    gloo: Gloo, store: Path, tmp_path: Path, stage: int
) -> None:
    def recipe(name: str, **overrides: Any) -> Recipe:
        case = Case(1, 2, 2, megatron=True, stage=stage, heads="gqa")
        made = case.recipe(store, tmp_path / name)
        train = dataclasses.replace(made.train, eval_rows=5, **overrides)
        return dataclasses.replace(made, train=train)

    gloo(4, run_training, recipe("straight"))
    gloo(4, run_training, recipe("stopped", stop_after_step=2))
    gloo(4, run_training, recipe("stopped"))
    straight, stopped = recipe("straight"), recipe("stopped")
    # Bit for bit: the same operations in the same order on the same numbers.
    for name in ("loss", "grad_norm", "learning_rate", "tokens"):
        assert column(stopped, name) == column(straight, name)
    assert column(stopped, "loss", "eval")[-1] == column(straight, "loss", "eval")[-1]


def test_held_out_loss_does_not_depend_on_the_layout(
    gloo: Gloo, store: Path, tmp_path: Path
) -> None:
    losses = []
    for case in (Case(1, 1, 1), Case(2, 2, 1, megatron=True), Case(1, 1, 4), Case(1, 2, 2)):
        recipe = case.recipe(store, tmp_path / str(case))
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, eval_rows=5))
        gloo(case.dp * case.tp * case.sp, run_training, recipe)
        losses.append(column(recipe, "loss", "eval"))
    for other in losses[1:]:
        # fp32 sums in another order.
        assert other == pytest.approx(losses[0], rel=1e-6)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"parallel.tp": 3}, r"num_attention_heads \(4\) .* parallel\.tp \(3\)"),
        ({"parallel.sp": 8}, r"num_attention_heads \(4\) .* parallel\.sp \(8\)"),
        ({"parallel.tp": 4}, r"num_key_value_heads \(2\) .* parallel\.tp \(4\)"),
        ({"parallel.sp": 4}, r"num_key_value_heads \(2\) .* parallel\.sp \(4\)"),
        (
            {"parallel.tp": 2, "model.intermediate_size": 97},
            r"intermediate_size \(97\) .* parallel\.tp \(2\)",
        ),
        ({"parallel.tp": 2, "model.vocab_size": 1}, r"vocab_size \(1\) must not be below .* \(2"),
        (
            {"parallel.sp": 2, "train.sequence_length": 31, "train.tokens_per_step": 31},
            r"sequence_length \(31\) .* parallel\.sp \(2\)",
        ),
        (
            {"parallel.tp": 2, "train.sequence_length": 31, "train.tokens_per_step": 31},
            r"sequence_length \(31\) .* parallel\.tp \(2\); or set parallel\.sequence_parallel ",
        ),
        (
            {"parallel.tp": 2, "train.dtype": "bf16", "zero.stage": 0},
            r"bf16 with parallel\.tp \(2\) needs zero\.stage 1, 2 or 3: at stage 0",
        ),
        (
            {"parallel.tp": 2, "train.save_policy": "no_mlp", "train.mlp_tiles": 17},
            r"mlp_tiles \(17\) must not exceed the positions of a rank's sequence shard \(16\)",
        ),
        ({"parallel.tp": 0}, r"parallel\.tp \(0\) must be positive"),
        ({"parallel.sp": -1}, r"parallel\.sp \(-1\) must be positive"),
        (
            {
                "parallel.tp": 4,
                "parallel.replicate_kv_heads": True,
                "model.num_attention_heads": 12,
                "model.num_key_value_heads": 6,
                "model.hidden_size": 48,
            },
            r"num_key_value_heads \(6\) and parallel\.tp \(4\): one must be a multiple",
        ),
    ],
)
def test_what_does_not_divide_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_recipe(Path("store"), Path("run"), **overrides)
