"""Recipes: the paper's numbers, sizes that fit their clusters, dry runs, and the scripts."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from llama_ds.batch import batch_plan
from llama_ds.config import Recipe
from llama_ds.parallel.layout import layout_of
from llama_ds.parallel_config import ZeroConfig
from llama_ds.planning.dry_run import check_memory, paper_count, plan_text
from llama_ds.planning.hardware import CLUSTERS as HARDWARE
from llama_ds.planning.hardware import GIB
from llama_ds.planning.memory import USABLE_SHARE, estimate_memory
from llama_ds.planning.prediction import predict_recipe
from llama_ds.planning.search import search
from recipes import llama
from recipes.llama import PAPER_TOKENS_PER_SECOND, Cluster, intended_world_size

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS: tuple[Cluster, ...] = get_args(Cluster)
A100 = HARDWARE["a100-80gb"]
NAMES = ("llama_tiny", "llama_7b", "llama_13b", "llama_33b", "llama_65b")

# Table 2 of the paper: count as printed there, hidden size, heads, layers, peak rate, tokens.
# The intermediate size follows from section 2.2: 2/3 of 4 d, rounded up to a multiple of 256.
TABLE_2 = {
    "llama_7b": ("6.7 B", 4096, 32, 32, 3.0e-4, 1.0e12),
    "llama_13b": ("13.0 B", 5120, 40, 40, 3.0e-4, 1.0e12),
    "llama_33b": ("32.5 B", 6656, 52, 60, 1.5e-4, 1.4e12),
    "llama_65b": ("65.2 B", 8192, 64, 80, 1.5e-4, 1.4e12),
}


def build(name: str, cluster: Cluster = "a100-80gb") -> Recipe:
    recipe: Recipe = getattr(llama, name)(cluster)
    return recipe


def changed(recipe: Recipe, **train: Any) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train))


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("name", TABLE_2)
def test_recipes_have_the_papers_numbers(name: str, cluster: Cluster) -> None:
    count, hidden_size, heads, layers, peak_learning_rate, train_tokens = TABLE_2[name]
    recipe = build(name, cluster)
    model, optimizer, train = recipe.model, recipe.optimizer, recipe.train
    assert recipe.name == name
    assert paper_count(model.num_parameters) == count
    assert (model.hidden_size, model.num_hidden_layers) == (hidden_size, layers)
    assert model.num_attention_heads == model.num_key_value_heads == heads
    assert model.intermediate_size == -(-8 * hidden_size // 3 // 256) * 256
    assert (model.vocab_size, model.max_position_embeddings) == (32_000, 2_048)
    assert (model.rms_norm_eps, model.rope_theta) == (1e-6, 10_000.0)
    assert optimizer.peak_learning_rate == peak_learning_rate
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (0.9, 0.95, 0.1)
    assert (optimizer.warmup_steps, optimizer.max_grad_norm) == (2_000, 1.0)
    assert optimizer.min_learning_rate_ratio == 0.1
    assert (train.sequence_length, train.tokens_per_step) == (2_048, 4 * 2**20)
    assert (train.train_tokens, train.max_steps) == (train_tokens, None)
    # The run stops at the last whole step.
    assert 0 <= train_tokens - train.num_steps * train.tokens_per_step < train.tokens_per_step


def test_shares_are_table_1() -> None:
    shares = build("llama_65b").data.shares
    assert sorted(shares.values()) == [0.02, 0.025, 0.045, 0.045, 0.045, 0.15, 0.67]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=lambda source: shares[source]) == "common_crawl"


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("name", NAMES)
def test_sizes_fit_their_cluster(name: str, cluster: Cluster) -> None:
    recipe = build(name, cluster)
    world_size = intended_world_size(recipe, cluster)
    parallel = recipe.parallel
    dp_size = layout_of(world_size, tp_size=parallel.tp, sp_size=parallel.sp).dp_size
    plan = batch_plan(recipe, dp_size)
    assert plan.tokens_of(0) == recipe.train.tokens_per_step
    available = HARDWARE[cluster].gpu.memory_bytes
    assert estimate_memory(recipe, dp_size).total < USABLE_SHARE * available


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("name", TABLE_2)
def test_placements_are_close_to_the_fastest_that_fit(name: str, cluster: Cluster) -> None:
    recipe = build(name, cluster)
    world_size = intended_world_size(recipe, cluster)
    prediction = predict_recipe(recipe, world_size, HARDWARE[cluster])
    assert prediction is not None
    best = search(recipe, world_size, HARDWARE[cluster])[0].prediction
    assert prediction.tokens_per_second >= 0.95 * best.tokens_per_second


def test_65b_on_the_papers_cluster_is_predicted_at_the_papers_rate() -> None:
    prediction = predict_recipe(build("llama_65b"), 2048, A100)
    assert prediction is not None
    assert prediction.tokens_per_second >= PAPER_TOKENS_PER_SECOND["llama_65b"]


def test_readme_has_the_predictions() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, paper in PAPER_TOKENS_PER_SECOND.items():
        recipe = build(name)
        prediction = predict_recipe(recipe, intended_world_size(recipe, "a100-80gb"), A100)
        assert prediction is not None
        script = f"`{name.replace('llama', 'pretrain')}.sh`"
        row = next(line for line in readme.splitlines() if line.startswith(f"| {script}"))
        assert row.endswith(f"| {prediction.tokens_per_second:,.0f} | {paper:,} |")


def test_docstrings_state_the_intended_numbers_of_gpus() -> None:
    for name in TABLE_2:
        stated = re.findall(r"\b\d{3,4}(?= (?:A100|H100|H200))", getattr(llama, name).__doc__)
        assert [int(number) for number in stated] == [
            intended_world_size(build(name, cluster), cluster) for cluster in CLUSTERS
        ]


def test_advice_names_only_what_is_left_to_change() -> None:
    recipe = changed(build("llama_65b"), save_policy="layer_input", micro_batch_size=1)
    recipe = dataclasses.replace(recipe, zero=ZeroConfig(stage=3))
    with pytest.raises(ValueError, match="more GPUs") as error:
        check_memory(estimate_memory(recipe, 1), recipe, A100)
    for exhausted in ("micro-batch", "zero.stage", "save-policy", "parallel.tp"):
        assert exhausted not in str(error.value)


def test_a_renamed_recipe_has_no_intended_size() -> None:
    recipe = dataclasses.replace(build("llama_7b"), name="mine")
    with pytest.raises(ValueError, match="'mine'; give --world-size"):
        intended_world_size(recipe, "a100-80gb")


@pytest.mark.parametrize(
    ("count", "text"),
    [(65_285_660_672, "65.2 B"), (6_999_999_999, "6.9 B"), (10_326_816, "10.3 M"), (999, "999")],
)
def test_counts_are_cut_as_the_paper_does(count: int, text: str) -> None:
    assert paper_count(count) == text


# -- the plan -------------------------------------------------------------------------------------


def test_plan_states_the_arithmetic() -> None:
    rate = PAPER_TOKENS_PER_SECOND["llama_7b"]
    json = {"zero_optimization": {"stage": 2}}
    text = plan_text(build("llama_7b"), 256, A100, json, paper_tokens_per_second=rate)
    for line in (
        "6,738,415,616 (6.7 B)",
        "global batch 4,194,304 tokens = 2,048 sequences of 2,048 tokens",
        "sequences per rank 8 = micro-batch 8 x accumulation steps 1, on 256 data-parallel ranks",
        "238,418 steps = 999,997,571,072 tokens (1.000 T)",
        "the paper's A100-80GB at 2,048 tokens: 3,370 tokens/s per GPU",
        "Speed on 256 GPUs (a100-80gb), predicted, not measured",
        "dp 256 x sp 1 x tp 1 = 256 ranks",
        '"stage": 2',
    ):
        assert line in text


def test_plan_states_the_host_memory_of_offloaded_activations() -> None:
    recipe = changed(build("llama_7b"), save_policy="layer_input", save_tensors={"x": "offload"})
    text = plan_text(recipe, 256, A100, {})
    # 32 layers of 8 rows of 2,048 tokens of 4,096 elements in bf16.
    assert re.search(r"host, activations +4.00 GiB of pinned memory per GPU", text)


def test_plan_names_what_it_does_not_count() -> None:
    recipe = build("llama_7b")
    text = plan_text(recipe, 256, A100, {"zero_optimization": {"mics_shard_size": 8}})
    assert "not counted, in memory and speed: zero_optimization.mics_shard_size" in text
    assert "not counted" not in plan_text(recipe, 256, A100, {})


def test_plan_counts_offloaded_states_on_the_host() -> None:
    recipe = build("llama_7b")
    assert (recipe.zero.stage, recipe.train.dtype) == (2, "bf16")
    offload = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    text = plan_text(recipe, 256, A100, offload)
    assert "not counted, in speed: zero_optimization.offload_optimizer" in text
    assert "not counted, in memory" not in text
    assert re.search(r"optimizer states +0.00 GiB", text)
    # 18 bytes of 6.738 B parameters / 256 ranks.
    assert re.search(r"host, offloaded states +0.44 GiB of host memory per GPU", text)


def test_plan_shows_the_phase_that_needs_most() -> None:
    recipe = build("llama_7b")
    estimate = estimate_memory(recipe, 256)
    text = plan_text(recipe, 256, A100, {})
    assert f"largest in the phase {estimate.binding_phase}" in text
    assert f"update {estimate.update.total / GIB:.2f}" in text


def test_memory_beyond_93_percent_is_refused() -> None:
    recipe = build("llama_7b")
    total = estimate_memory(recipe, 256).total
    for share, fits in ((0.92, True), (0.94, False)):
        gpu = dataclasses.replace(A100.gpu, memory_bytes=round(total / share))
        cluster = dataclasses.replace(A100, gpu=gpu)
        if fits:
            check_memory(estimate_memory(recipe, 256), recipe, cluster)
        else:
            with pytest.raises(ValueError, match="more than 93% of the"):
                check_memory(estimate_memory(recipe, 256), recipe, cluster)


def test_plan_states_the_host_memory_of_checkpoints() -> None:
    # 12 bytes of 6.738 B parameters / 256 ranks, and the embedding of 32,000 x 4,096 in fp32.
    text = plan_text(build("llama_7b"), 256, A100, {})
    assert re.search(r"host, checkpoint +0.78 GiB of host memory per GPU", text)


@pytest.mark.parametrize(
    ("recipe", "world_size", "numbers"),
    [
        (build("llama_7b"), 300, ["2048 sequences", "2400 sequences"]),
        (changed(build("llama_65b"), micro_batch_size=4), 8192, ["2048 sequ", "4096 sequ"]),
        (build("llama_65b"), 2044, ["2044", "parallel.tp (8)"]),
        (
            changed(build("llama_7b"), micro_batch_size=8, save_policy="keep_all"),
            256,
            ["80.4 GiB", "79 GiB"],
        ),
        (build("llama_65b"), 16, ["101.7 GiB", "79 GiB"]),
        (build("llama_7b"), 0, ["world size (0)"]),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    recipe: Recipe, world_size: int, numbers: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"GiB|sequences|world size") as error:
        plan_text(recipe, world_size, A100, {})
    assert all(number in str(error.value) for number in numbers), str(error.value)


# -- the scripts ----------------------------------------------------------------------------------


def run_script(name: str, *options: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The Python half of a recipe script, as its bash half starts it for a dry run."""
    return subprocess.run(
        [sys.executable, str(ROOT / "recipes" / name), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_65b_plan_from_the_command_line(tmp_path: Path) -> None:
    result = run_script("pretrain_65b.sh", "--dry-run", "--world-size", "2048", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "65,285,660,672 (65.2 B)" in result.stdout
    assert "333,786 steps" in result.stdout
    assert "2048 ranks" in result.stdout
    assert '"train_batch_size": 2048' in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_batch_that_grows_is_given_as_steps_and_tokens() -> None:
    words = ("--train.batch-schedule", "300001", "8388608", "--checkpoint.keep-every", "1000")
    result = run_script("pretrain_65b.sh", "--dry-run", *words)
    assert result.returncode == 0, result.stderr
    assert "s per step of 8,388,608 tokens, the last batch size:" in result.stdout
    assert "are kept for good, " in result.stdout


def test_command_line_refuses_in_one_line() -> None:
    result = run_script("pretrain_7b.sh", "--dry-run", "--world-size", "300")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: the global batch of 2048 sequences")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_python_after_bash(name: str) -> None:
    path = ROOT / "recipes" / f"{name.replace('llama', 'pretrain')}.sh"
    assert os.access(path, os.X_OK)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported >= {"main", name}
    bash_half = ast.literal_eval(ast.unparse(tree.body[0]))
    assert "launch.sh" in bash_half


# In place of recipes/launch.py: says that it runs, then waits for the signal.
STAND_IN = """
import os, signal, sys, time

def main(recipe_function):
    if sys.argv[1] == "check-options":
        sys.exit(0)
    folder = sys.argv[-1]
    def stop(number, frame):
        time.sleep(1)  # a checkpoint is being saved
        with open(os.path.join(folder, "stopped" + os.environ["RANK"]), "w") as file:
            file.write(f"{number} " + os.environ["WORLD_SIZE"] + " " + recipe_function.__name__)
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    open(os.path.join(folder, "started" + os.environ["RANK"]), "w").close()
    time.sleep(60)
"""


@pytest.mark.dist
def test_a_signal_reaches_every_process_and_is_waited_for(tmp_path: Path) -> None:
    clone = tmp_path / "a clone's copy"
    (clone / "recipes").mkdir(parents=True)
    for name in ("__init__.py", "llama.py", "launch.sh", "process_tree.py", "pretrain_7b.sh"):
        shutil.copy(ROOT / "recipes" / name, clone / "recipes")
    (clone / "recipes/setup.sh").touch()
    (clone / "recipes/launch.py").write_text(STAND_IN)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{clone}:{ROOT}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DS_ACCELERATOR": "cpu",
    }
    script = clone / "recipes/pretrain_7b.sh"
    process = subprocess.Popen([script, "--run-dir", str(clone)], env=environment, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(list(clone.glob("started*"))) < 2:
            assert process.poll() is None, "the launcher ended"
            assert time.monotonic() < deadline, "the launcher did not start two processes"
            time.sleep(0.1)
        process.terminate()
        assert process.wait(60) == 143
        stopped = {path.name: path.read_text() for path in clone.glob("stopped*")}
        assert stopped == {f"stopped{rank}": "15 2 llama_7b" for rank in (0, 1)}
    finally:
        process.kill()


@pytest.mark.parametrize(
    "path", ["recipes/setup.sh", "recipes/launch.sh", "tests/run.sh", ".ci/run"]
)
def test_shell_files_parse(path: str) -> None:
    parsed = subprocess.run(["bash", "-n", str(ROOT / path)], stderr=subprocess.PIPE, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, b"")


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with what setup.sh calls, and a `python3` that cannot start."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("dirname", "cat", "cksum"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    python = folder / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    return folder


def source_setup(bare_path: Path, root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, "-c", 'source "$0/recipes/setup.sh"; echo unreachable', str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(bare_path), **env},
    )


def test_set_up_without_a_python_ends_in_one_line(tmp_path: Path, bare_path: Path) -> None:
    clone = tmp_path / "a clone"
    (clone / "recipes").mkdir(parents=True)
    shutil.copy(ROOT / "recipes/setup.sh", clone / "recipes")
    result = source_setup(bare_path, clone)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "error: Python 3.10 or newer is needed, and none is on PATH\n"
    assert not (clone / ".venv").exists()


def test_set_up_in_an_environment_that_is_too_old(tmp_path: Path, bare_path: Path) -> None:
    result = source_setup(bare_path, ROOT, VIRTUAL_ENV=str(tmp_path / "old env"))
    assert result.returncode == 2
    assert str(tmp_path / "old env") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_set_up_twice_installs_once(tmp_path: Path, bare_path: Path) -> None:
    """A stand-in for Python counts the calls of pip."""
    environment = tmp_path / "an env"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin/python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@" >> "$VIRTUAL_ENV/calls"\n')
    python.chmod(0o755)
    mv = shutil.which("mv")
    assert mv is not None
    (bare_path / "mv").symlink_to(mv)
    for _ in range(2):
        result = source_setup(bare_path, ROOT, VIRTUAL_ENV=str(environment))
        assert result.returncode == 0, result.stderr
    calls = (environment / "calls").read_text().splitlines()
    assert len(calls) == 3
    assert calls[0].endswith(f"recipes/keep_torch.py {ROOT} {environment}")
    chosen = f"-r {environment}/llama-ds-requirements.txt -c {environment}/llama-ds-constraints.txt"
    assert calls[1].endswith(chosen)
    assert calls[2].endswith(f"--no-deps --no-build-isolation -e {ROOT}")


def test_recipes_load_without_torch() -> None:
    """A wrong option is then reported at once, not after seconds of imports."""
    code = "import sys, recipes.llama, llama_ds.config; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment) == b"False\n"
