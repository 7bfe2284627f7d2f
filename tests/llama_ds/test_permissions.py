"""Whatever is published may be read by whom the umask allows."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.report import page
from llama_ds.checkpoint.export import export
from llama_ds.metrics import plot_losses
from tests.support.nightly import at_night
from tests.support.sample_account import sample_account
from tests.support.tiny_run import make_store, run_training, tiny_recipe

pytestmark = pytest.mark.dist


def with_umask(umask: int, function: Callable[..., Any], *arguments: Any) -> Any:
    before = os.umask(umask)
    try:
        return function(*arguments)
    finally:
        os.umask(before)


def save_in_parts(source: Path, target: Path) -> None:
    from llama_ds import LlamaForCausalLM
    from tests.support.pool_groups import pool_groups

    model = LlamaForCausalLM.from_pretrained(source, groups=pool_groups(tp_size=2))
    model.save_pretrained(target, max_shard_size=50_000)


@pytest.mark.parametrize(
    "umask",
    [
        0o077,
        *(at_night(mask) for mask in (0o022, 0o002)),
    ],
)
def test_permissions_are_those_of_the_umask(
    gloo: Callable[..., list[Any]], tmp_path: Path, umask: int
) -> None:
    folder = tmp_path / "all"
    with_umask(umask, folder.mkdir)
    store = with_umask(umask, make_store, folder)
    recipe = tiny_recipe(store, folder / "run")
    gloo(2, with_umask, umask, run_training, recipe)
    with_umask(umask, export, recipe.run_dir, folder / "export")
    gloo(2, with_umask, umask, save_in_parts, folder / "export", folder / "in_parts")
    with_umask(umask, plot_losses, recipe.run_dir)
    with_umask(umask, page.write, sample_account(), folder / "report.html")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert names >= {
        "documents/books/manifest.json",
        "export/model-00001-of-00001.safetensors",
        "export/tokenizer.model",
        "in_parts/model.safetensors.index.json",
        "report.html",
        "run/checkpoints/step_00000006/run.json",
        "run/checkpoints/step_00000006/optimizer/exp_avg-00001-of-00001.safetensors",
        "run/loss.png",
        "run/metrics.jsonl",
        "run/recipe.json",
        "run/tokenizer/tokenizer.json",
        "store/books/train/state.json",
        "tokenizer/tokenizer.model",
    }
    wrong = {
        name: f"{mode:o}"
        for name in names
        if (mode := stat.S_IMODE((folder / name).stat().st_mode))
        != ((0o777 if (folder / name).is_dir() else 0o666) & ~umask)
    }
    assert not wrong
