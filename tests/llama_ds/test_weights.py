"""Weights of a model in parts: stock checkpoint -> parts -> stock checkpoint, under every stage."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers import LlamaForCausalLM as StockLlama

from llama_ds import LlamaForCausalLM
from llama_ds.batch import batch_plan
from llama_ds.config import Recipe
from llama_ds.hf_config import hf_config
from tests.support.pool_groups import pool_groups
from tests.support.tiny_run import make_store, tiny_recipe

pytestmark = pytest.mark.dist

Gloo = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def recipe_of(store: Path, run_dir: Path, tp: int, sp: int, stage: int, **overrides: Any) -> Recipe:
    parallel = {"parallel.tp": tp, "parallel.sp": sp, "parallel.replicate_kv_heads": tp * sp > 2}
    return tiny_recipe(store, run_dir, **parallel, **{"zero.stage": stage}, **overrides)


def built(recipe: Recipe) -> Any:
    """The model as a training job builds it."""
    from data_pipeline.tokens.store import TokenStore
    from llama_ds.deepspeed_config import deepspeed_config
    from llama_ds.engine import build_model, init_distributed

    device = init_distributed(local_rank=0)
    tp, sp = recipe.parallel.tp, recipe.parallel.sp
    groups = pool_groups(
        tp_size=tp, sp_size=sp, kv_replicas=max(1, tp // recipe.model.num_key_value_heads)
    )
    plan = batch_plan(recipe, groups.dp_size)
    config = deepspeed_config(recipe, plan, device.type)
    return build_model(recipe, groups, TokenStore.open(recipe.data.store), config, device)


def build_and_save(recipe: Recipe, folder: Path, max_shard_size: int) -> set[bool]:
    """Writes `folder`; whether each parameter is partitioned by ZeRO-3."""
    model = built(recipe)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return {hasattr(parameter, "ds_id") for parameter in model.parameters()}


def stock_weights(folder: Path) -> dict[str, Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    return dict(model.state_dict())


LAYOUTS = [
    # ranks, tp, sp, stage
    (2, 2, 1, 0),
    (2, 1, 1, 3),
    (2, 2, 1, 3),
    (4, 2, 1, 3),
    (4, 4, 1, 1),
    (4, 2, 2, 3),
    (4, 1, 4, 2),
]


@pytest.mark.parametrize(("ranks", "tp", "sp", "stage"), LAYOUTS)
def test_initial_weights_are_bit_equal_for_every_layout(
    gloo: Gloo, store: Path, tmp_path: Path, ranks: int, tp: int, sp: int, stage: int
) -> None:
    recipe = recipe_of(store, tmp_path, tp, sp, stage)
    # A limit below the size of the whole, so that several files are written.
    partitioned = gloo(ranks, build_and_save, recipe, tmp_path / "model", 50_000)
    assert partitioned == [{stage == 3}] * ranks
    torch.manual_seed(recipe.train.seed)
    config = hf_config(recipe.model, bos_token_id=1, eos_token_id=2, dtype=torch.float32)
    expected = LlamaForCausalLM(config).state_dict()
    found = stock_weights(tmp_path / "model")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    assert not [name for name in files if name.startswith(".")]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that transformers has written, in several files."""
    torch.manual_seed(3)
    config = hf_config(
        tiny_recipe(Path("store"), Path("run")).model,
        bos_token_id=1,
        eos_token_id=2,
        dtype=torch.float32,
    )
    folder = tmp_path_factory.mktemp("stock") / "model"
    StockLlama(config).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.mark.parametrize(("ranks", "tp", "sp", "stage"), LAYOUTS)
def test_a_stock_checkpoint_comes_back_bit_equal(
    gloo: Gloo, store: Path, stock: Path, tmp_path: Path, ranks: int, tp: int, sp: int, stage: int
) -> None:
    recipe = recipe_of(store, tmp_path, tp, sp, stage, **{"train.init_from": stock})
    gloo(ranks, build_and_save, recipe, tmp_path / "model", 10**9)
    expected, found = stock_weights(stock), stock_weights(tmp_path / "model")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    configs = [LlamaConfig.from_pretrained(folder) for folder in (stock, tmp_path / "model")]
    assert configs[0].to_dict() == configs[1].to_dict()


def load_and_save(source: Path, target: Path, dtype: torch.dtype | None) -> tuple[str, int]:
    """`from_pretrained` and `save_pretrained` as a user of the class calls them."""
    groups = pool_groups(tp_size=2)
    model = LlamaForCausalLM.from_pretrained(source, groups=groups, dtype=dtype)
    model.save_pretrained(target)
    return str(model.dtype), sum(parameter.numel() for parameter in model.parameters())


def test_the_class_reads_and_writes_its_parts(gloo: Gloo, stock: Path, tmp_path: Path) -> None:
    whole = sum(weight.numel() for weight in stock_weights(stock).values())
    for dtype, size in gloo(2, load_and_save, stock, tmp_path / "model", torch.bfloat16):
        assert dtype == "torch.bfloat16"
        assert size < 0.51 * whole  # half, and the norms
    expected, found = stock_weights(stock), stock_weights(tmp_path / "model")
    assert all(torch.equal(found[name], expected[name].bfloat16()) for name in expected)


M_MMAP_THRESHOLD = -3  # malloc.h


def peak_while_loading(recipe: Recipe, small: Recipe) -> int:
    """Bytes by which this process grows at most while a training job builds its part."""
    built(small)  # what is imported and set up once is not counted
    # Memory that earlier tests have freed goes back, or the weights would fit into it unseen; and
    # the C library keeps no large block that is freed from now on, which would count as held.
    gc.collect()
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc_trim(0)
    libc.mallopt(M_MMAP_THRESHOLD, 2**20)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    model = built(recipe)
    peak = _status("VmHWM") - before
    assert model.training
    return peak


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


@pytest.mark.parametrize(("ranks", "tp", "stage"), [(2, 2, 0), (4, 2, 3)])
def test_no_rank_ever_holds_the_whole_model(
    gloo: Gloo, store: Path, stock: Path, tmp_path: Path, ranks: int, tp: int, stage: int
) -> None:
    sizes = {
        "vocab_size": 16_000,
        "hidden_size": 512,
        "intermediate_size": 1_536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    overrides = {f"model.{name}": size for name, size in sizes.items()}
    recipe = recipe_of(store, tmp_path, tp, 1, stage, **overrides, **{"train.init_from": tmp_path})
    config = hf_config(recipe.model, bos_token_id=1, eos_token_id=2, dtype=torch.float32)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in StockLlama(config).state_dict().items()}
    save_file({n: torch.zeros(s) for n, s in shapes.items()}, tmp_path / "model.safetensors")
    config.save_pretrained(tmp_path)
    whole = sum(4 * shape.numel() for shape in shapes.values())
    largest = max(4 * shape.numel() for shape in shapes.values())
    share = whole / (ranks if stage == 3 else tp)
    # It reads a checkpoint, too: pages of libraries that a process touches first are its memory.
    small = recipe_of(store, tmp_path, tp, 1, stage, **{"train.init_from": stock})
    for peak in gloo(ranks, peak_while_loading, recipe, small):
        print(  # noqa: T201
            f"whole {whole / 2**20:.0f} MiB, share {share / 2**20:.0f}, peak {peak / 2**20:.0f}"
        )
        # Its share, and the pages of one matrix, of which a row-parallel part touches all. ZeRO-3
        # holds a tp rank's half of a matrix thrice: its pages, gathered, and on its way to the
        # ranks. 10 % for what the allocator keeps.
        beside = 3 * largest / tp if stage == 3 else largest
        # And some MiB of libraries' pages that a forked process touches for the first time.
        assert share < peak < 1.1 * (share + beside) + 12 * 2**20


# -- refusals -------------------------------------------------------------------------------------


def loading_error(folder: Path) -> str:
    try:
        LlamaForCausalLM.from_pretrained(folder, groups=pool_groups())
    except ValueError as error:
        return str(error)
    return "no error"


def damaged(stock: Path, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    weights: dict[str, Tensor] = {}
    for file in stock.glob("*.safetensors"):
        weights |= load_file(file)
    change(weights)
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text((stock / "config.json").read_text())
    return folder


def test_a_checkpoint_that_does_not_fit_is_refused(gloo: Gloo, stock: Path, tmp_path: Path) -> None:
    def error(name: str, change: Callable[[dict[str, Tensor]], None]) -> str:
        (message,) = gloo(1, loading_error, damaged(stock, tmp_path / name, change))
        return str(message)

    assert "1 missing keys, first lm_head.weight" in error(
        "missing", lambda w: w.__delitem__("lm_head.weight")
    )
    assert "1 unexpected keys, first lm_head.bias" in error(
        "extra", lambda w: w.update({"lm_head.bias": torch.ones(2)})
    )
    assert "model.norm.weight has shape (5,), the model expects (32,)" in error(
        "shape", lambda w: w.update({"model.norm.weight": torch.ones(5)})
    )
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert error("old", lambda w: w.update(old)) == "no error"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text((stock / "config.json").read_text())
    assert "has neither model.safetensors nor" in gloo(1, loading_error, empty)[0]


def saving_error(stock: Path, folder: Path) -> str:
    model = LlamaForCausalLM.from_pretrained(stock, groups=pool_groups(tp_size=2))
    try:
        model.save_pretrained(folder)
    except ValueError as error:
        return str(error)
    return "no error"


def test_nothing_is_overwritten(gloo: Gloo, stock: Path, tmp_path: Path) -> None:
    for error in gloo(2, saving_error, stock, tmp_path):
        assert f"{tmp_path} exists already" in error


def test_the_index_names_every_weight(gloo: Gloo, store: Path, tmp_path: Path) -> None:
    recipe = recipe_of(store, tmp_path, 2, 1, 1)
    gloo(2, build_and_save, recipe, tmp_path / "model", 50_000)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    total = sum(4 * w.numel() for w in stock_weights(tmp_path / "model").values())
    assert index["metadata"]["total_size"] == total
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "model" / file)
