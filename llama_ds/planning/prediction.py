"""A recipe's speed on a cluster: seconds of a step by term, tokens/s, MFU, and the run's cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llama_ds.batch import batch_plan
from llama_ds.config import Recipe
from llama_ds.parallel.layout import layout_of
from llama_ds.planning.hardware import CLUSTERS, Cluster
from llama_ds.planning.state_memory import rank_parameters
from llama_ds.planning.step_time import StepTime, Workload, predict
from llama_ds.planning.traffic import zero_traffic

BAND = 0.15
"""Seven in eight published speeds lie within this share of the prediction (`check.py`, whose test
asserts it)."""
PUE = 1.1
"""Power usage effectiveness of a data center, as the paper assumes (table 15)."""
CARBON_PER_KWH = 0.385
"""kg of CO2 equivalent per kWh, the US average that the paper takes (table 15)."""
HOST_COPY = 20e9
"""Bytes/s of a copy to pinned host memory, PCIe 4.0 x16 less its overhead."""
HOST_TOKENS = 2e6
"""Tokens/s per rank that the data loader prepares, in the background: of a local disk."""


@dataclass(frozen=True)
class Prediction:
    """Of a recipe on `world_size` GPUs of a cluster."""

    workload: Workload
    """Of the last steps, whose batch `train.batch_schedule` may have raised."""
    cluster: Cluster
    step: StepTime
    data_loading: float
    """Seconds per step that training waits for batches: loaded while the step before runs."""
    checkpoint: float
    """Seconds per step that snapshots of checkpoints stop training, on average."""
    run_seconds: float
    """Of all steps of the run, those of other batch sizes among them."""
    has_other_batches: bool = False
    """Whether the run begins with another batch size."""

    @property
    def seconds(self) -> float:
        """Of a step, with all that stops training."""
        return self.step.total + self.data_loading + self.checkpoint

    @property
    def tokens_per_second(self) -> float:
        """Per GPU."""
        tokens = self.workload.rows_per_step * self.workload.sequence_length
        return tokens / self.seconds / self.workload.world_size

    def terms(self) -> dict[str, float]:
        """Seconds by term, largest first."""
        terms = self.step.terms() | {
            "data loading": self.data_loading,
            "checkpoint": self.checkpoint,
        }
        return dict(sorted(terms.items(), key=lambda item: -item[1]))

    def mfu(self, *, causal: bool) -> float:
        """Share of the peak that the model's FLOPs are (`ModelConfig.flops_per_token`)."""
        flops = self.workload.flops_per_token(causal=causal)
        return self.tokens_per_second * flops / self.cluster.gpu.peak_flops

    @property
    def days(self) -> float:
        return self.run_seconds / 86_400

    @property
    def gpu_hours(self) -> float:
        return self.days * 24 * self.workload.world_size

    @property
    def kilowatt_hours(self) -> float:
        """GPU-hours x the GPU's thermal design power x PUE (paper, section 6)."""
        return self.gpu_hours * self.cluster.gpu.watts / 1e3 * PUE

    @property
    def carbon_tonnes(self) -> float:
        """Tonnes of CO2 equivalent."""
        return self.kilowatt_hours * CARBON_PER_KWH / 1e3


def workload_of(recipe: Recipe, world_size: int, tokens_per_step: int) -> Workload:
    """What a step of `recipe` computes with so large a batch.

    ValueError where the ranks do not divide.
    """
    train, parallel = recipe.train, recipe.parallel
    layout_of(world_size, tp_size=parallel.tp, sp_size=parallel.sp)
    return Workload(
        model=recipe.model,
        sequence_length=train.sequence_length,
        rows_per_step=tokens_per_step // train.sequence_length,
        micro_batch_size=train.micro_batch_size,
        world_size=world_size,
        policy=train.resolved_save_policy,
        sharding=zero_traffic(recipe.zero.stage, train.dtype),
        parallel=parallel,
        attention="cudnn" if train.attention == "cudnn" else "flash",
        fused_elementwise=train.elementwise != "eager",
        tp_overlapped=parallel.overlap != "off",
        repeated_forwards=int(recipe.activation_checkpointing.number_checkpoints > 0),
    )


def predict_recipe(recipe: Recipe, world_size: int, cluster: Cluster) -> Prediction | None:
    """The prediction; None in fp32, for which nothing is published to fit on.

    ValueError where ranks or batch do not divide.
    """
    if recipe.train.dtype != "bf16":
        return None
    phases = recipe.train.batches.phases(recipe.train.num_steps)
    found = [_predict_phase(recipe, world_size, cluster, *phase) for phase in phases]
    return dataclasses.replace(
        found[-1],
        run_seconds=sum(one.run_seconds for one in found),
        has_other_batches=len(found) > 1,
    )


def _predict_phase(
    recipe: Recipe, world_size: int, cluster: Cluster, num_steps: int, tokens_per_step: int
) -> Prediction:
    """Of `num_steps` steps with so large a batch."""
    workload = workload_of(recipe, world_size, tokens_per_step)
    batch_plan(recipe, workload.dp_size)  # refuses what does not divide
    step = predict(workload, cluster)
    loading = tokens_per_step / workload.dp_size / HOST_TOKENS
    snapshot = 12 * rank_parameters(recipe) / workload.sharding_ranks / HOST_COPY
    data_loading = max(0.0, loading - step.total)
    checkpoint = snapshot / recipe.checkpoint.every_steps
    run_seconds = num_steps * (step.total + data_loading + checkpoint)
    return Prediction(workload, cluster, step, data_loading, checkpoint, run_seconds)


def predicted_seconds(recipe: Recipe, world_size: int, device_name: str) -> dict[int, float]:
    """Tokens per step -> seconds of such a step on nodes of 8 such GPUs, as CUDA names them; empty
    where nothing is predicted."""
    for cluster in CLUSTERS.values():
        if cluster.gpu.name.partition("-")[0] in device_name and recipe.train.dtype == "bf16":
            return {
                tokens: _predict_phase(recipe, world_size, cluster, 1, tokens).seconds
                for tokens in recipe.train.batches.sizes
            }
    return {}
