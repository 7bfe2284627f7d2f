"""Launcher of training: parses and validates the command line, then plans (`--dry-run`) or trains.

Started once per rank by `deepspeed`, `torchrun`, `srun`, `mpirun` or plain `python`. Options are
parsed before torch is imported, so that an invalid one is reported at once, in one line, with exit
code 2.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import math
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, get_args

import tyro

from data_pipeline.commands.one_line_errors import errors_in_one_line
from llama_ds.batch import BatchPlan, batch_plan
from llama_ds.config import Recipe
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides, read_overrides
from llama_ds.parallel.layout import layout_of
from recipes.command_line import bad_input, end_on_interrupt
from recipes.config_file import expand_config
from recipes.init_from import following, require_followed
from recipes.llama import PAPER_TOKENS_PER_SECOND, Cluster, intended_world_size
from recipes.process_tree import end_with_launchers
from recipes.scheduler import rank_variables

RecipeFunction = Callable[[Cluster], Recipe]


@dataclass(frozen=True)
class Launch:
    """Command-line options: the recipe's fields, and those of the launcher."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    cluster: Cluster
    """GPU type; selects the recipe's parallelism, micro-batch size and save policy."""
    dry_run: bool = False
    """Print the plan (batch, process groups, memory, predicted speed and cost, DeepSpeed JSON) and
    exit; needs no GPU, data or weights."""
    world_size: int | None = None
    """Number of ranks to plan for in a dry run; by default the recipe's intended number."""
    config: Path | None = None
    """JSON or YAML file with fields of the recipe, such as a run's recipe.json; options on the
    command line win."""
    cluster_file: Path | None = None
    """JSON file of your own cluster, to plan for: gpu (a name of --cluster), nic_gbit_per_second,
    gpus_per_node and others (`llama_ds/planning/hardware.py`)."""
    calibrate: Path | None = None
    """JSON result of benchmarks/gpu.sh: plan with the ceilings measured there."""
    price_per_gpu_hour: float | None = None
    """In a dry run, also print the price of the run."""
    deepspeed_json: Path | None = None
    """JSON file with DeepSpeed keys to merge over the generated configuration."""
    local_rank: Annotated[int | None, tyro.conf.arg(help_behavior_hint="set by the launcher")] = (
        field(default=None)
    )


def main(
    recipe_function: RecipeFunction,
    *,
    build_default_store: Callable[[Path], None] | None = None,
    arguments: list[str] | None = None,
) -> None:
    """Entry point of every `pretrain_*.sh`; exits the process.

    `build_default_store` builds the recipe's default token store where it does not exist.
    `launch.sh` passes a word before the options: `check-options` parses them, and prints `rank` in
    a process that is one of several already; `check-end` tells whether the run has reached its end.

    Exit codes: 0: done; 1: a bug, or an end before the run's; 2: invalid input; 3: training
    diverged and was given up; 4: a step hung; 130, 138, 143: stopped by SIGINT, SIGUSR1 or SIGTERM
    after saving a checkpoint.
    """
    end_on_interrupt()
    words = sys.argv[1:] if arguments is None else arguments
    question = words[0] if words[:1] in (["check-options"], ["check-end"]) else None
    try:
        os.environ |= rank_variables(os.environ)
        launch = parse(recipe_function, words[1:] if question else words)
        if question is not None:
            code = _answer(question, launch)
        elif launch.dry_run:
            code = _plan(launch)
        else:
            end_with_launchers(os.environ)
            default_store = recipe_function(launch.cluster).data.store
            if build_default_store is not None and launch.recipe.data.store == default_store:
                _build_once(default_store, build_default_store)
            code = _train(launch)
    except BrokenPipeError:  # the reader of the plan closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError) as error:
        code = bad_input(error)
    sys.exit(code)


def _answer(question: str, launch: Launch) -> int:
    """One of the questions that `launch.sh` asks."""
    if question == "check-options":
        if launch.deepspeed_json is not None:
            read_overrides(launch.deepspeed_json)
        print("rank" if "RANK" in os.environ else "")
        return 0

    from llama_ds.checkpoint.verification import all_checkpoints, step_of

    train = launch.recipe.train
    last_step = min(train.num_steps, train.stop_after_step or train.num_steps)
    step = max((step_of(path) for path in all_checkpoints(launch.recipe.run_dir)), default=0)
    if step >= last_step:
        return 0
    print(
        f"error: a process of the launcher was killed: {launch.recipe.run_dir} has checkpoints up "
        f"to step {step} of {last_step}; rerun the command to resume",
        file=sys.stderr,
    )
    return 1


def _build_once(store: Path, build: Callable[[Path], None]) -> None:
    """Rank 0 builds; the other ranks wait for the store, which is published atomically."""
    if os.environ.get("RANK", "0") == "0":
        if not (store / "manifest.json").exists():
            build(store)
        return
    while not (store / "manifest.json").exists():  # if the build fails, the launcher ends us
        time.sleep(0.5)


def prepare_rank() -> None:
    """The environment that torch and DeepSpeed read, before they are imported."""
    _stand_alone_defaults()
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # The launcher makes GPUs visible again; torch would then take them.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # More threads than cores make a CPU run several times slower, and DeepSpeed sets no limit.
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_ranks)))


def quiet_libraries() -> None:
    """Silence what the libraries say on every start."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 is retiring.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def _train(launch: Launch) -> int:
    prepare_rank()
    if not may_compile(launch.recipe, os.environ):
        # DeepSpeed has torch.compile wrap an optimizer that no recipe uses (Muon), for which torch
        # loads its whole compiler.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    world_size = int(os.environ["WORLD_SIZE"])
    _batch_plan(launch.recipe, world_size)  # refuses before torch is loaded
    overrides = read_overrides(launch.deepspeed_json) if launch.deepspeed_json else None

    from llama_ds.train import train

    quiet_libraries()
    result = train(launch.recipe, int(os.environ["LOCAL_RANK"]), overrides)
    if result.step == result.first_step and os.environ["RANK"] == "0":
        print(
            f"{launch.recipe.run_dir} is at step {result.step} of {result.num_steps} already; "
            "train longer with more --train.max-steps, or start a new run in another --run-dir"
        )
    if result.divergence is not None:
        if os.environ["RANK"] == "0":
            print(f"error: {result.divergence}", file=sys.stderr)
        return 3
    if result.signal_number is not None:
        if os.environ["RANK"] == "0":
            name = signal.Signals(result.signal_number).name
            print(
                f"stopped by {name} after step {result.step} of {result.num_steps}; "
                "rerun the command to resume"
            )
        return 128 + result.signal_number
    return 0


def parse(recipe_function: RecipeFunction, arguments: list[str]) -> Launch:
    """Options -> Launch; ValueError for an unknown option, which suggests the closest match."""
    arguments, rope_scaling = expand_config(arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--cluster", nargs="?", default="a100-80gb")
    cluster = early.parse_known_args(arguments)[0].cluster
    if cluster not in get_args(Cluster):
        raise ValueError(f"--cluster ({cluster}) must be one of {', '.join(get_args(Cluster))}")
    recipe = recipe_function(cluster)
    if rope_scaling:
        recipe = replace(recipe, model=replace(recipe.model, rope_scaling=rope_scaling))
    # With shares as its default, tyro would want an option for each source of the default.
    shares = recipe.data.shares
    recipe = following(_with_shares(recipe, {}), arguments)
    default = Launch(recipe=recipe, cluster=cluster)
    with errors_in_one_line():
        launch, unknown = tyro.cli(
            Launch,
            args=arguments,
            default=default,
            prog=Path(sys.argv[0]).name,
            description=_description(recipe_function, shares),
            return_unknown_args=True,
        )
    if unknown:
        raise ValueError(_unknown_option(unknown[0], default))
    require_followed(launch.recipe, recipe)
    if {"--data.shares", "--data.epochs"} & {word.split("=")[0] for word in arguments}:
        return launch
    return replace(launch, recipe=_with_shares(launch.recipe, shares))


def _with_shares(recipe: Recipe, shares: dict[str, float]) -> Recipe:
    return replace(recipe, data=replace(recipe.data, shares=shares))


def _description(recipe_function: RecipeFunction, shares: dict[str, float]) -> str:
    mixture = " ".join(f"{name} {share}" for name, share in shares.items())
    default = f"\n\nWithout an option for the mixture: --data.shares {mixture}" if mixture else ""
    return (recipe_function.__doc__ or "") + default


def _unknown_option(word: str, default: Launch) -> str:
    option = word.split("=")[0]
    known = [f"--{name}" for name in _option_names(default)]
    near = difflib.get_close_matches(option.replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown option {option}{hint} (--help lists all)"


def _option_names(default: Launch) -> list[str]:
    import dataclasses

    names = [field.name for field in dataclasses.fields(default) if field.name != "recipe"]
    for section in dataclasses.fields(default.recipe):
        value = getattr(default.recipe, section.name)
        if dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
            # Lists of numbers, by config.json only.
            names += [f"{section.name}.{name}" for name in fields if name != "rope_scaling"]
        else:
            names.append(section.name)
    return [name.replace("_", "-") for name in names]


def _plan(launch: Launch) -> int:
    if os.environ.get("RANK", "0") != "0":
        return 0
    from llama_ds.planning import dry_run
    from llama_ds.planning.search import cluster_of

    recipe = launch.recipe
    world_size, price = launch.world_size, launch.price_per_gpu_hour
    if world_size is None:
        world_size = intended_world_size(recipe, launch.cluster)
    if world_size < 1:
        raise ValueError(f"--world-size ({world_size}) must be positive")
    if price is not None and not 0 <= price < math.inf:
        raise ValueError(f"--price-per-gpu-hour ({price:g}) must be a price, 0 or more")
    if launch.cluster_file is not None and not launch.cluster_file.is_file():
        raise ValueError(f"--cluster-file ({launch.cluster_file}) does not exist; name a JSON file")
    config = deepspeed_config(recipe, _batch_plan(recipe, world_size), "cuda")
    if launch.deepspeed_json is not None:
        config = merge_overrides(config, read_overrides(launch.deepspeed_json))
    cluster = str(launch.cluster_file or launch.cluster)
    plan = dry_run.plan_text(
        recipe,
        world_size,
        cluster_of(cluster, launch.calibrate),
        config,
        price_per_gpu_hour=price,
        paper_tokens_per_second=PAPER_TOKENS_PER_SECOND.get(recipe.name),
    )
    print(plan)
    return 0


def may_compile(recipe: Recipe, environment: Mapping[str, str]) -> bool:
    """Whether training may call torch.compile; `auto` does on a GPU."""
    eager = {"eager", "liger"} | ({"auto"} if environment.get("DS_ACCELERATOR") == "cpu" else set())
    return recipe.train.elementwise not in eager


def _batch_plan(recipe: Recipe, world_size: int) -> BatchPlan:
    parallel = recipe.parallel
    layout = layout_of(world_size, tp_size=parallel.tp, sp_size=parallel.sp)
    return batch_plan(recipe, layout.dp_size)


def _stand_alone_defaults() -> None:
    """Environment of a single-process run on this machine, where no launcher has set it."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
