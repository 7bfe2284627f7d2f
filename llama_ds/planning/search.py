"""The fastest layouts of a model that fit on a cluster, by prediction:

    python -m llama_ds.planning.search --model 65b --gpus 2048 --cluster a100-80gb

Tries every tp, sp, ZeRO stage, micro-batch and save policy that divides, keeps those whose memory
estimate leaves room on the device, and prints the fastest with memory and time.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_ds.config import DataConfig, OptimizerConfig, Recipe, TrainConfig
from llama_ds.model_config import ModelConfig, require
from llama_ds.parallel_config import ZeroConfig
from llama_ds.planning.hardware import CLUSTERS, GIB, Cluster, calibrated, read_cluster
from llama_ds.planning.memory import USABLE_SHARE, estimate_memory
from llama_ds.planning.prediction import Prediction, predict_recipe
from llama_ds.planning.published import ARCHITECTURES
from llama_ds.save_policy import PRESETS
from llama_ds.stock_config import model_config_of

MODELS = {"7b": "llama7", "13b": "llama13", "33b": "llama33", "65b": "llama65"}
SMALL_TOKENS, LARGE_TOKENS = 1_000_000_000_000, 1_400_000_000_000
"""The paper's, of 7B and 13B, and of the larger ones (its table 2)."""
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
BUCKETS = (500_000_000, 100_000_000)
"""Gradient elements per reduce bucket to try; smaller saves memory."""


@dataclass(frozen=True)
class Found:
    """A layout that fits."""

    recipe: Recipe
    prediction: Prediction
    memory_share: float
    """Of the device's memory."""

    @property
    def options(self) -> str:
        """What to give on the command line."""
        recipe = self.recipe
        words = [
            f"--parallel.tp {recipe.parallel.tp}",
            f"--parallel.sp {recipe.parallel.sp}" if recipe.parallel.sp > 1 else "",
            f"--zero.stage {recipe.zero.stage}",
            f"--train.micro-batch-size {recipe.train.micro_batch_size}",
            f"--train.save-policy {recipe.train.save_policy}",
            f"--zero.reduce-bucket-elements {recipe.zero.reduce_bucket_elements}"
            if recipe.zero.reduce_bucket_elements != BUCKETS[0]
            else "",
        ]
        return " ".join(word for word in words if word)


def search(recipe: Recipe, world_size: int, cluster: Cluster) -> list[Found]:
    """Every layout of `recipe` that divides and fits, the fastest first; empty where none does.

    Of layouts that differ in the reduce bucket alone, the one with the larger bucket.
    """
    found: dict[tuple[object, ...], Found] = {}
    for candidate in _candidates(recipe, world_size, cluster):
        parallel, train = candidate.parallel, candidate.train
        key = (
            *(parallel.tp, parallel.sp, candidate.zero.stage),
            *(train.micro_batch_size, train.save_policy),
        )
        if key in found:
            continue
        dp_size = world_size // (parallel.tp * parallel.sp)
        memory = estimate_memory(candidate, dp_size).total / cluster.gpu.memory_bytes
        if memory > USABLE_SHARE:
            continue
        prediction = predict_recipe(candidate, world_size, cluster)
        if prediction is not None:
            found[key] = Found(candidate, prediction, memory)
    return sorted(found.values(), key=lambda one: -one.prediction.tokens_per_second)


def _candidates(recipe: Recipe, world_size: int, cluster: Cluster) -> Iterator[Recipe]:
    rows = recipe.train.batches.common_divisor // recipe.train.sequence_length
    for tp, sp in _layouts(recipe, world_size, cluster):
        dp_size = world_size // (tp * sp)
        for size in MICRO_BATCHES:
            if rows % (dp_size * size) != 0:
                continue
            for choice in itertools.product(PRESETS, (1, 2, 3), BUCKETS):
                candidate = _candidate(recipe, tp, sp, size, *choice)
                if candidate is not None:
                    yield candidate


def _candidate(
    recipe: Recipe, tp: int, sp: int, micro_batch_size: int, policy: str, stage: Any, bucket: int
) -> Recipe | None:
    """`recipe` with these choices; None where its other fields do not go with them."""
    size: dict[str, Any] = {"micro_batch_size": micro_batch_size, "save_policy": policy}
    try:
        return dataclasses.replace(
            recipe,
            parallel=dataclasses.replace(recipe.parallel, tp=tp, sp=sp),
            train=dataclasses.replace(recipe.train, **size),
            zero=dataclasses.replace(recipe.zero, stage=stage, reduce_bucket_elements=bucket),
        )
    except ValueError:
        return None


def _layouts(recipe: Recipe, world_size: int, cluster: Cluster) -> list[tuple[int, int]]:
    """(tp, sp) that divide the model, the sequence and the ranks; tp within a node, and sequences
    split over ranks only where a rank would have no whole one."""
    found = []
    rows = recipe.train.batches.common_divisor // recipe.train.sequence_length
    for tp in range(1, min(cluster.gpus_per_node, world_size) + 1):
        for sp in (1, 2, 4, 8):
            dp_size, rest = divmod(world_size, tp * sp)
            if rest or dp_size == 0 or rows % dp_size or cluster.gpus_per_node % tp:
                continue
            try:
                parallel = dataclasses.replace(recipe.parallel, tp=tp, sp=sp)
                parallel.require_divisible(recipe.model, recipe.train.sequence_length)
            except ValueError:
                continue
            found.append((tp, sp))
    return found


def nearest_world_sizes(recipe: Recipe, world_size: int, cluster: Cluster) -> list[int]:
    """The numbers of GPUs next to `world_size`, below and above, over which some layout divides."""
    rows = recipe.train.batches.common_divisor // recipe.train.sequence_length
    limit = 64 * max(rows, world_size)
    below = (n for n in range(world_size - 1, 0, -1) if _layouts(recipe, n, cluster))
    above = (n for n in range(world_size + 1, limit) if _layouts(recipe, n, cluster))
    return [n for n in (next(below, None), next(above, None)) if n is not None]


def best_layouts(recipe: Recipe, world_size: int, cluster: Cluster, count: int) -> list[Found]:
    """The `count` fastest; ValueError where none divides, with the nearest numbers of GPUs that do,
    or none fits."""
    if not _layouts(recipe, world_size, cluster):
        rows = recipe.train.batches.common_divisor // recipe.train.sequence_length
        near = " and ".join(str(n) for n in nearest_world_sizes(recipe, world_size, cluster))
        raise ValueError(
            f"no layout divides {rows} sequences of the global batch over {world_size} GPUs; the "
            f"nearest numbers that do are {near}"
        )
    found = search(recipe, world_size, cluster)
    if not found:
        raise ValueError(
            f"no layout of {recipe.name} on {world_size} x {cluster.name} stays below "
            f"{USABLE_SHARE:.0%} of {cluster.gpu.memory_bytes / GIB:.0f} GiB: use more GPUs, over "
            "which ZeRO shards the states"
        )
    return found[:count]


def table(found: Sequence[Found]) -> str:
    """A line per layout."""
    lines = [f"{'tokens/s/GPU':>12} {'s/step':>7} {'MFU':>6} {'memory':>7} {'days':>6}  options"]
    lines += [
        f"{one.prediction.tokens_per_second:>12,.0f} {one.prediction.seconds:>7.2f} "
        f"{one.prediction.mfu(causal=False):>6.1%} {one.memory_share:>7.0%} "
        f"{one.prediction.days:>6.1f}  {one.options}"
        for one in found
    ]
    return "\n".join(lines)


# -- command line ---------------------------------------------------------------------------------


def model_of(name: str) -> ModelConfig:
    """A LLaMA size, an architecture of `published.py`, or a Hugging Face folder or config.json."""
    path = Path(name)
    if path.exists():
        return _model_of_file(path / "config.json" if path.is_dir() else path)
    sizes = ARCHITECTURES.get(MODELS.get(name.lower().removeprefix("llama_"), name))
    if sizes is None or sizes.mlp_matrices != 3:
        known = [*MODELS, *(n for n, one in ARCHITECTURES.items() if one.mlp_matrices == 3)]
        raise ValueError(f"--model ({name}) must be a folder or one of {', '.join(known)}")
    return ModelConfig(
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        vocab_size=sizes.vocab_size,
    )


def _model_of_file(path: Path) -> ModelConfig:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        require(isinstance(tree, dict), f"{path} is not a JSON object")
        return model_config_of({"model_type": "llama", **tree}, path)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).removeprefix("train.init_from: ")
        raise ValueError(f"--model: {path} is no configuration of a LLaMA: {reason}") from None


def cluster_of(name: str, calibration: Path | None = None) -> Cluster:
    """A cluster by name, or of a JSON file (`read_cluster`)."""
    if name not in CLUSTERS and not Path(name).is_file():
        raise ValueError(f"--cluster ({name}) must be a JSON file or one of {', '.join(CLUSTERS)}")
    cluster = CLUSTERS[name] if name in CLUSTERS else read_cluster(Path(name))
    return cluster if calibration is None else calibrated(cluster, calibration)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 2, with one line, where nothing divides or fits."""
    parser = argparse.ArgumentParser(
        prog="python -m llama_ds.planning.search", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", required=True, help="7b, 13b, 33b, 65b, or a model folder")
    parser.add_argument("--gpus", required=True, type=int)
    parser.add_argument("--cluster", required=True, help="a name, or a JSON file")
    parser.add_argument("--sequence-length", type=int, default=2_048)
    parser.add_argument("--tokens-per-step", type=int, default=4 * 1024 * 1024)
    parser.add_argument("--train-tokens", type=int, help="by default as many as the paper's")
    parser.add_argument("--calibrate", type=Path, help="JSON result of benchmarks/gpu.sh")
    parser.add_argument("--count", type=int, default=5, help="layouts to print")
    options = parser.parse_args(arguments)
    try:
        for name in ("gpus", "count"):
            if getattr(options, name) <= 0:
                raise ValueError(f"--{name} ({getattr(options, name)}) must be positive")
        cluster = cluster_of(options.cluster, options.calibrate)
        recipe = _recipe(options, model_of(options.model))
        found = best_layouts(recipe, options.gpus, cluster, options.count)
        sys.stdout.write(
            f"{options.model} on {options.gpus} x {cluster.name}, "
            f"{recipe.train.train_tokens:,} tokens, predicted, not measured:\n"
            f"{table(found)}\n"
        )
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _recipe(options: argparse.Namespace, model: ModelConfig) -> Recipe:
    length, small = options.sequence_length, options.model.lower() in ("7b", "13b")
    return Recipe(
        name=options.model,
        run_dir=Path("unused"),
        model=dataclasses.replace(model, max_position_embeddings=length),
        optimizer=OptimizerConfig(peak_learning_rate=1e-4, warmup_steps=0),
        train=TrainConfig(
            sequence_length=length,
            tokens_per_step=options.tokens_per_step,
            train_tokens=options.train_tokens or (SMALL_TOKENS if small else LARGE_TOKENS),
        ),
        data=DataConfig(store=Path("unused")),
        zero=ZeroConfig(),
    )


if __name__ == "__main__":
    main()
