"""From the command line to `train`: parse, validate, then plan (`--dry-run`) or start.

Started once per process by `deepspeed`, `torchrun` or plain `python`. Options are read before torch
is imported, so that a wrong one is reported at once, in one line, with exit code 2.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, get_args

import tyro

from data_pipeline.commands.one_line_errors import errors_in_one_line
from llama_ds.batch import BatchPlan, batch_plan
from llama_ds.config import Recipe
from llama_ds.deepspeed_config import deepspeed_config, merge_overrides, read_overrides
from llama_ds.parallel.layout import layout_of
from recipes.command_line import bad_input
from recipes.llama import (
    DEVICE_BYTES,
    PAPER_TOKENS_PER_SECOND,
    Cluster,
    intended_world_size,
)

RecipeFunction = Callable[[Cluster], Recipe]


@dataclass(frozen=True)
class Launch:
    """What the command line says beside the recipe's own fields."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    cluster: Cluster
    """GPUs that the recipe's sizes are chosen for."""
    dry_run: bool = False
    """Print the plan and end; needs no GPU, no data and no weights."""
    world_size: int | None = None
    """Processes that a dry run plans for; the recipe's intended number by default."""
    deepspeed_json: Path | None = None
    """DeepSpeed keys to merge over the generated configuration."""
    local_rank: Annotated[int | None, tyro.conf.arg(help_behavior_hint="set by the launcher")] = (
        field(default=None)
    )


def main(
    recipe_function: RecipeFunction,
    *,
    build_default_store: Callable[[Path], None] | None = None,
    arguments: list[str] | None = None,
) -> None:
    """Entry point of every `pretrain_*.sh`; ends the process with an exit code.

    `build_default_store` makes the store that the recipe names by itself, where it does not exist.

    0: done; 2: bad input; 3: training diverged and was given up; 143 or 130: stopped by SIGTERM or
    SIGINT after saving a checkpoint.
    """
    try:
        launch = parse(recipe_function, sys.argv[1:] if arguments is None else arguments)
        if launch.dry_run:
            code = _plan(launch)
        else:
            default_store = recipe_function(launch.cluster).data.store
            if build_default_store is not None and launch.recipe.data.store == default_store:
                _build_once(default_store, build_default_store)
            code = _train(launch)
    except BrokenPipeError:  # whoever reads the plan has seen enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError) as error:
        code = bad_input(error)
    sys.exit(code)


def _build_once(store: Path, build: Callable[[Path], None]) -> None:
    """The first rank builds; a store appears when it is whole, and the others wait for that."""
    if os.environ.get("RANK", "0") == "0":
        if not (store / "manifest.json").exists():
            build(store)
        return
    while not (store / "manifest.json").exists():  # if the build fails, the launcher ends us
        time.sleep(0.5)


def _train(launch: Launch) -> int:
    _stand_alone_defaults()
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # The launcher makes GPUs visible again; torch would then take them.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # More threads than cores make a CPU run several times slower, and DeepSpeed sets no limit.
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_ranks)))
    world_size = int(os.environ["WORLD_SIZE"])
    _batch_plan(launch.recipe, world_size)  # refuses before torch is loaded
    overrides = read_overrides(launch.deepspeed_json) if launch.deepspeed_json else None

    from llama_ds.train import train

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 is retiring.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    result = train(launch.recipe, int(os.environ["LOCAL_RANK"]), overrides)
    if result.step == result.first_step and os.environ["RANK"] == "0":
        print(
            f"{launch.recipe.run_dir} is at step {result.step} of {result.num_steps} already; "
            "train further with more --train.max-steps, or anew in another --run-dir"
        )
    if result.divergence is not None:
        if os.environ["RANK"] == "0":
            print(f"error: {result.divergence}", file=sys.stderr)
        return 3
    if result.signal_number is not None:
        if os.environ["RANK"] == "0":
            print(
                f"stopped by a signal after step {result.step} of {result.num_steps}; "
                "run the same command again to continue"
            )
        return 128 + result.signal_number
    return 0


def parse(recipe_function: RecipeFunction, arguments: list[str]) -> Launch:
    """Options -> Launch; ValueError naming the nearest option for one that does not exist."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--cluster", nargs="?", default="a100-80gb")
    cluster = early.parse_known_args(arguments)[0].cluster
    if cluster not in get_args(Cluster):
        raise ValueError(f"--cluster ({cluster}) must be one of {', '.join(get_args(Cluster))}")
    recipe = recipe_function(cluster)
    if any(argument.split("=")[0] == "--data.epochs" for argument in arguments):
        # In place of the recipe's own shares; shares on the command line are refused beside them.
        recipe = replace(recipe, data=replace(recipe.data, shares={}))
    default = Launch(recipe=recipe, cluster=cluster)
    with errors_in_one_line():
        launch, unknown = tyro.cli(
            Launch,
            args=arguments,
            default=default,
            prog=Path(sys.argv[0]).name,
            description=recipe_function.__doc__,
            return_unknown_args=True,
        )
    if unknown:
        raise ValueError(_unknown_option(unknown[0], default))
    return launch


def _unknown_option(option: str, default: Launch) -> str:
    known = [f"--{name}" for name in _option_names(default)]
    near = difflib.get_close_matches(option.split("=")[0].replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown option {option}{hint} (--help lists all)"


def _option_names(default: Launch) -> list[str]:
    import dataclasses

    names = [field.name for field in dataclasses.fields(default) if field.name != "recipe"]
    for section in dataclasses.fields(default.recipe):
        value = getattr(default.recipe, section.name)
        if dataclasses.is_dataclass(value):
            names += [f"{section.name}.{field.name}" for field in dataclasses.fields(value)]
        else:
            names.append(section.name)
    return [name.replace("_", "-") for name in names]


def _plan(launch: Launch) -> int:
    if os.environ.get("RANK", "0") != "0":
        return 0
    from llama_ds.planning import dry_run

    recipe = launch.recipe
    world_size = launch.world_size or intended_world_size(recipe, launch.cluster)
    config = deepspeed_config(recipe, _batch_plan(recipe, world_size), "cuda")
    if launch.deepspeed_json is not None:
        config = merge_overrides(config, read_overrides(launch.deepspeed_json))
    plan = dry_run.plan_text(
        recipe,
        world_size,
        dry_run.DeviceType(launch.cluster, DEVICE_BYTES[launch.cluster]),
        config,
        paper_tokens_per_second=PAPER_TOKENS_PER_SECOND.get(recipe.name),
    )
    print(plan)
    return 0


def _batch_plan(recipe: Recipe, world_size: int) -> BatchPlan:
    parallel = recipe.parallel
    layout = layout_of(world_size, tp_size=parallel.tp, sp_size=parallel.sp)
    return batch_plan(recipe, layout.dp_size)


def _stand_alone_defaults() -> None:
    """Without a launcher this is a run of one process on this machine."""
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
