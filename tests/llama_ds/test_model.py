"""The model against transformers' own class, with equal weights."""
# transformers' functions and classes carry few types.
# mypy: disable-error-code="no-untyped-call"

import copy
import subprocess
import sys
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache

from llama_ds import LlamaForCausalLM
from llama_ds.hf_config import hf_config
from llama_ds.layer.options import LayerOptions
from llama_ds.model_config import ModelConfig
from tests.support.llama_pair import GQA, ROPE, pair, tokens


def left_padded() -> dict[str, Tensor]:
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, :7] = 0
    return {"input_ids": tokens() * mask, "attention_mask": mask}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_gradients(ours: nn.Module, theirs: nn.Module, bound: float) -> None:
    """Each parameter's gradients differ by at most `bound` of the largest."""
    got, want = gradients(ours), gradients(theirs)
    assert got.keys() == want.keys() != set()
    for name, gradient in want.items():
        assert (got[name] - gradient).abs().max() <= bound * gradient.abs().max(), name


# --- Parity of the forward pass


@pytest.mark.parametrize("rope", ROPE)
@pytest.mark.parametrize("heads", [{}, GQA], ids=["mha", "gqa"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits(attention: str, heads: dict[str, int], rope: str) -> None:
    parameters = {"rope_type": rope, "rope_theta": 10_000.0, **ROPE[rope]}
    ours, theirs = pair(attention=attention, rope_parameters=parameters, **heads)
    # 40 positions are more than the configuration's 32, where dynamic and longrope change.
    for inputs in ({"input_ids": tokens(length=40)}, left_padded()):
        got, want = ours(**inputs).logits, theirs(**inputs).logits
        assert want.std() > 0.5
        # The same operations in the same order; kernels may round a last bit differently.
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"hidden_act": "gelu"},
        {"head_dim": 16},
        {"tie_word_embeddings": True},
        {"pretraining_tp": 2},
        {"pad_token_id": 0},
        {"rms_norm_eps": 0.1},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_configuration_is_honoured(overrides: dict[str, Any]) -> None:
    ours, theirs = pair(**overrides)
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if parameter.dim() == 1:  # biases are zero and norms one at first, which would hide them
            parameter.data = 1 + torch.randn(parameter.shape)
            other.data = parameter.data.clone()
    got, want = ours(tokens()).logits, theirs(tokens()).logits
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)  # as in test_logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_recorded_outputs(attention: str) -> None:
    ours, theirs = pair(attention=attention, **GQA)
    wanted = {"output_hidden_states": True, "output_attentions": attention == "eager"}
    got, want = ours(tokens(), **wanted), theirs(tokens(), **wanted)
    assert len(got.hidden_states) == 3
    for name in ("hidden_states", "attentions") if attention == "eager" else ("hidden_states",):
        for a, b in zip(got[name], want[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # as in test_logits
    ours.set_attn_implementation("eager")
    assert ours(tokens(), output_attentions=True).attentions[0].shape == (2, 4, 24, 24)
    as_tuple = ours(tokens(), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], ours(tokens()).logits)


def test_logits_to_keep_and_embeddings_as_input() -> None:
    ours, _ = pair()
    whole = ours(tokens()).logits
    # A matmul of fewer rows may sum in another order.
    torch.testing.assert_close(
        ours(tokens(), logits_to_keep=2).logits, whole[:, -2:], rtol=0, atol=1e-5
    )
    embeddings = ours.get_input_embeddings()(tokens())
    assert torch.equal(ours(inputs_embeds=embeddings).logits, whole)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        ours(input_ids=tokens(), inputs_embeds=embeddings)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"do_sample": True, "top_k": 5},
    ],
    ids=["greedy", "beams", "static_cache", "no_cache", "sampled"],
)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left_padded"])
def test_generate(how: dict[str, Any], padded: bool) -> None:
    inputs = left_padded() if padded else {"input_ids": tokens(length=6)}
    written = []
    for model in pair(**GQA):
        torch.manual_seed(0)
        how = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0} | how
        written.append(model.generate(**inputs, **how))
    assert torch.equal(*written)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_cache_is_taken_by_either_name(name: str) -> None:
    """transformers 5.24 calls it `cache`; not to hear of it would generate from the last token."""
    ours, _ = pair()
    whole = ours(tokens()).logits[:, -1:]
    for model in (ours, ours.model):
        cache = DynamicCache(config=model.config)
        model(tokens()[:, :-1], **{name: cache})
        assert cache.get_seq_length() == 23
    last = ours(tokens()[:, -1:], **{name: cache}).logits
    torch.testing.assert_close(last, whole, rtol=0, atol=1e-5)  # as with embeddings as input


def test_training_makes_no_cache() -> None:
    ours, _ = pair()
    for model in (ours, ours.model):
        assert model.eval()(tokens()).past_key_values is not None
        assert model.train()(tokens(), use_cache=True).past_key_values is None


# --- Documents packed into one row

LENGTHS = [5, 9, 10]


def packed() -> dict[str, Tensor]:
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    return {"input_ids": tokens(), "position_ids": positions.expand(2, -1)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("use_cache", [None, False], ids=["cache_by_default", "no_cache"])
def test_packed_documents_do_not_see_each_other(attention: str, use_cache: bool | None) -> None:
    ours, _ = pair(attention=attention, **GQA)
    logits = ours(**packed(), use_cache=use_cache).logits
    apart = [ours(part).logits for part in torch.split(tokens(), LENGTHS, dim=1)]
    # Attention over a longer row sums in another order.
    torch.testing.assert_close(logits, torch.cat(apart, dim=1), rtol=0, atol=1e-5)
    assert (ours(tokens()).logits - logits).abs().max() > 0.1, "unpacked rows must differ"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_documents_train_as_if_apart(attention: str) -> None:
    ours, other = (pair(attention=attention)[0].train() for _ in range(2))
    documents = torch.split(tokens(), LENGTHS, dim=1)
    num_items = 2 * sum(n - 1 for n in LENGTHS)
    shifted = [nn.functional.pad(part[:, 1:], (0, 1), value=-100) for part in documents]
    loss = ours(**packed(), shift_labels=torch.cat(shifted, dim=1)).loss
    apart = [other(part, labels=part, num_items_in_batch=num_items).loss for part in documents]
    torch.testing.assert_close(loss, sum(apart), rtol=1e-5, atol=0)  # fp32 sums in another order
    loss.backward()
    sum(apart).backward()
    assert_gradients(ours, other, 1e-5)  # the same


# --- Loss and gradients


@pytest.mark.parametrize(
    ("dtype", "bound"),
    # Both differ in the order of fp32 sums; transformers' norm and rotary tables stay fp32 in
    # float64, and ours keeps float64 in the norm.
    [(torch.float32, 2e-5), (torch.float64, 2e-6)],
    ids=str,
)
@pytest.mark.parametrize("overrides", [{}, GQA, {"tie_word_embeddings": True}], ids=str)
@pytest.mark.parametrize("num_items", [None, 40], ids=str)
def test_loss_and_gradients(
    dtype: torch.dtype, bound: float, overrides: dict[str, Any], num_items: int | None
) -> None:
    ours, theirs = (model.to(dtype) for model in pair(loss_chunk_tokens=10, **overrides))
    labels = tokens().masked_fill(tokens() % 5 == 0, -100)
    for training in (True, False):
        losses = []
        for model in (ours, theirs):
            out = model.train(training)(tokens(), labels=labels, num_items_in_batch=num_items)
            assert (out.logits is None) == (training and model is ours)
            out.loss.backward()
            losses.append(out.loss.detach().float())
        torch.testing.assert_close(*losses, rtol=1e-6, atol=0)  # fp32 sums in another order
        assert_gradients(ours, theirs, bound)


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    ours, _ = pair(**GQA)
    plain, checkpointed = ours.train(), copy.deepcopy(ours).train()
    plain.model.layer_options = LayerOptions(fused=False)  # the modules, as under checkpointing
    with warnings.catch_warnings():
        # Newer transformers prefer a name that older ones lack.
        warnings.simplefilter("ignore", FutureWarning)
        checkpointed.gradient_checkpointing_enable()
    calls = []
    checkpointed.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for model in (plain, checkpointed):
        model(tokens(), labels=tokens()).loss.backward()
    assert len(calls) == 2, "the layer must have been computed again"
    assert_gradients(checkpointed, plain, 0.0)


def test_shift_labels_win_and_logits_on_request() -> None:
    ours, theirs = pair()
    shifted = nn.functional.pad(tokens()[:, 1:], (0, 1), value=-100)
    expected = theirs(tokens(), labels=tokens()).loss
    calls: list[dict[str, Any]] = [
        {"shift_labels": shifted},
        {"shift_labels": shifted, "labels": torch.zeros_like(shifted)},
        {"labels": tokens()},
    ]
    for training, skip, arguments in product((True, False), (None, True, False), calls):
        out = ours.train(training)(tokens(), skip_logits=skip, **arguments)
        assert (out.logits is None) == (training if skip is None else skip)
        # fp32 sums in another order.
        torch.testing.assert_close(out.loss, expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="skip_logits=True needs labels"):
        ours(tokens(), skip_logits=True)


def test_the_z_loss_is_in_the_loss_of_training_alone() -> None:
    ours, theirs = pair()
    ours.z_loss = 0.5
    stock = theirs(tokens(), labels=tokens())
    squares = stock.logits[:, :-1].logsumexp(-1).square().mean()
    for training, skip in product((True, False), (True, False)):
        loss = ours.train(training)(tokens(), labels=tokens(), skip_logits=skip).loss
        expected = stock.loss + 0.5 * squares if training else stock.loss
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # as above


def test_a_replaced_head_or_loss_is_used() -> None:
    ours, _ = pair()
    ours.train().loss_function = lambda **_: torch.tensor(7.0)
    assert ours(tokens(), labels=tokens()).loss == 7
    ours, theirs = pair()
    ours.lm_head = nn.Sequential(ours.lm_head)  # as adapters wrap it
    out = ours.train()(tokens(), labels=tokens())
    assert out.logits is not None
    torch.testing.assert_close(out.loss, theirs(tokens(), labels=tokens()).loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer(tmp_path: Path, checkpointing: bool) -> None:
    rows = [{"input_ids": row, "labels": row} for row in tokens(rows=12)]
    results = []
    for name, model in zip(("ours", "theirs"), pair(**GQA), strict=True):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / name),
            max_steps=2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=checkpointing,
            # Adam would turn the rounding of gradients near zero into full steps.
            optim="sgd",
            learning_rate=0.5,
            logging_steps=1,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            report_to=[],
        )
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=rows, eval_dataset=rows
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        results.append((losses, trainer.evaluate()["eval_loss"]))
    (ours, ours_eval), (theirs, theirs_eval) = results
    assert len(ours) == 2
    assert ours == pytest.approx(theirs, abs=1.1e-4)  # Trainer may round losses to 4 digits
    # fp32 sums in another order, over two steps.
    assert ours_eval == pytest.approx(theirs_eval, rel=1e-5)
    assert ours_eval < ours[0] - 0.1, "it must have learned"


# --- The recipe's side


def test_hf_config_holds_every_field_of_the_recipe() -> None:
    # In the order of the fields; every value differs from LlamaConfig's default.
    recipe = ModelConfig(24, 40, 3, 6, 2, 50, 77, 1e-3, 123.0, 0.5)
    made = hf_config(recipe, bos_token_id=7, eos_token_id=8, dtype=torch.bfloat16)
    values = made.to_dict()
    assert values["head_dim"] == recipe.head_size == 4
    for name in recipe.__dataclass_fields__.keys() - {"rope_theta", "rope_scaling", "head_dim"}:
        assert values[name] == getattr(recipe, name), name
    assert values["rope_parameters"] == {"rope_type": "default", "rope_theta": 123.0}
    assert (made.bos_token_id, made.eos_token_id, made.dtype) == (7, 8, torch.bfloat16)
    assert made.use_cache
    model = LlamaForCausalLM._from_config(made)
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == recipe.num_parameters


def test_importing_the_recipe_does_not_load_torch() -> None:
    command = "import sys, llama_ds.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
