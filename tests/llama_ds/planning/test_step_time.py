"""Predicted step times: bounds that physics sets, and what moves which term."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from llama_ds.config import Recipe
from llama_ds.metrics import Throughput
from llama_ds.planning.hardware import CLUSTERS, Cluster
from llama_ds.planning.prediction import (
    CARBON_PER_KWH,
    PUE,
    Prediction,
    predict_recipe,
    predicted_seconds,
    workload_of,
)
from llama_ds.planning.roofline import Roofline
from llama_ds.planning.step_time import predict
from llama_ds.save_policy import PRESETS
from recipes.llama import PAPER_TOKENS_PER_SECOND, llama_7b, llama_33b, llama_65b, llama_tiny

A100, H100 = CLUSTERS["a100-80gb"], CLUSTERS["h100-80gb"]


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    """`fields` by "section.field", with two underscores for the dot."""
    for name, value in fields.items():
        section, field = name.split("__")
        part = dataclasses.replace(getattr(recipe, section), **{field: value})
        recipe = dataclasses.replace(recipe, **{section: part})
    return recipe


def prediction(recipe: Recipe, world_size: int, cluster: Cluster = A100) -> Prediction:
    found = predict_recipe(recipe, world_size, cluster)
    assert found is not None
    return found


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=lambda cluster: cluster.name)
@pytest.mark.parametrize(("recipe", "world_size"), [(llama_7b(), 256), (llama_65b(), 2048)])
def test_no_step_beats_the_hardware(recipe: Recipe, world_size: int, cluster: Cluster) -> None:
    found = prediction(recipe, world_size, cluster)
    assert 0 < found.mfu(causal=True) < found.mfu(causal=False) < 1
    assert found.step.matmuls + found.step.attention + found.step.head >= (
        recipe.train.tokens_per_step
        / world_size
        * recipe.model.flops_per_token(recipe.train.sequence_length, causal=True)
        / cluster.gpu.peak_flops
    )
    assert sum(found.terms().values()) == pytest.approx(found.seconds)


def test_policies_repeat_what_they_do_not_save() -> None:
    recipe = changed(llama_7b(), train__micro_batch_size=1)
    steps = {
        name: predict(
            dataclasses.replace(workload_of(recipe, 256, 2**22), policy=PRESETS[name]), A100
        )
        for name in PRESETS
    }
    times = {name: step.recomputation for name, step in steps.items()}
    assert times["keep_all"] == 0
    assert times["keep_all"] < times["linear_outputs"] < times["no_mlp"] < times["layer_input"]
    # Gate and up have 2 x 45.1 M of the 202.4 M weights of a layer of 7B; wide matmuls are up to
    # 5 % faster than square ones.
    matmuls = steps["no_mlp"].matmuls / 3  # of forward and backward pass, which is twice as much
    repeated = times["no_mlp"] - times["linear_outputs"]
    assert repeated / matmuls == pytest.approx(2 * 45.1 / 202.4, rel=0.05)


def test_a_slower_network_shows_in_zeros_collectives_only() -> None:
    recipe = changed(llama_65b(), zero__stage=1, train__micro_batch_size=1)
    slow = dataclasses.replace(A100, nic_bandwidth=A100.nic_bandwidth / 2)
    fast, slower = (prediction(recipe, 2048, cluster).step for cluster in (A100, slow))
    assert slower.zero_collectives == pytest.approx(2 * fast.zero_collectives, rel=0.02)
    assert slower.matmuls == fast.matmuls
    assert slower.tp_collectives == fast.tp_collectives


def test_collectives_within_a_node_need_no_network() -> None:
    roofline = Roofline(A100)
    inside = roofline.collective(235e9, ranks=8, ranks_per_node=8)
    assert inside == pytest.approx(1.0, rel=1e-3)
    # One rank per node has a NIC of 25 GB/s for itself, of which collectives reach 79 %.
    between = roofline.collective(25e9, ranks=16, ranks_per_node=1)
    assert between == pytest.approx(1 / 0.79, rel=1e-3)
    assert roofline.collective(1e9, ranks=1, ranks_per_node=8) == 0.0


def test_small_matmuls_are_bound_by_latency_and_large_ones_by_arithmetic() -> None:
    roofline = Roofline(A100)
    assert roofline.matmul(1, 1, 1) < 1e-5
    size = 16_384
    rate = 2 * size**3 / roofline.matmul(size, size, size)
    assert 0.65 < rate / A100.gpu.peak_flops < A100.gpu.matmul_efficiency


def test_cost_is_the_papers_formula() -> None:
    """Its table 15: 65B took 1,022,362 GPU-hours, 449 MWh and 173 t of CO2 equivalent."""
    assert pytest.approx(449, abs=1) == 1_022_362 * 0.4 * PUE / 1e3
    assert pytest.approx(173, abs=1) == 449 * CARBON_PER_KWH
    found = prediction(llama_65b(), 2048)
    assert found.kilowatt_hours == pytest.approx(found.gpu_hours * 0.4 * 1.1)
    assert found.carbon_tonnes == pytest.approx(found.kilowatt_hours * 0.385 / 1e3)
    # At the paper's rate its GPU-hours would come out.
    hours = 1.4e12 / PAPER_TOKENS_PER_SECOND["llama_65b"] / 3600
    assert found.gpu_hours == pytest.approx(hours * 380 / found.tokens_per_second, rel=1e-4)


def test_data_that_comes_too_slowly_is_waited_for() -> None:
    tiny = changed(llama_tiny(), train__dtype="bf16", train__tokens_per_step=2**24)
    tiny = changed(tiny, train__micro_batch_size=64)
    found = prediction(tiny, 2, H100)
    assert found.data_loading > 0
    assert prediction(llama_7b(), 256).data_loading == 0


def test_fp32_is_not_predicted() -> None:
    assert predict_recipe(llama_tiny(), 2, A100) is None


def test_tp_that_waits_costs_more_than_tp_under_matmuls() -> None:
    on, off = (
        prediction(changed(llama_33b(), parallel__overlap=overlap), 1024).step
        for overlap in ("on", "off")
    )
    assert 0 < on.tp_collectives < off.tp_collectives


@pytest.mark.parametrize(
    ("device_name", "cluster"),
    [("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA H200", "h200-141gb"), ("Tesla V100", None)],
)
def test_runs_know_the_prediction_for_their_gpus(device_name: str, cluster: str | None) -> None:
    recipe = llama_7b()
    expected = None if cluster is None else prediction(recipe, 256, CLUSTERS[cluster]).seconds
    assert predicted_seconds(recipe, 256, device_name) == (
        {} if expected is None else {2**22: expected}
    )
    assert predicted_seconds(llama_tiny(), 2, device_name) == {}


def test_records_have_predicted_beside_measured_seconds() -> None:
    record = Throughput(llama_7b(), 256, 312.0, predicted={2**22: 3.5}).of(4.0, 2**22)
    assert (record["predicted_seconds"], record["seconds_per_step"]) == (3.5, 4.0)
    assert "predicted_seconds" not in Throughput(llama_7b(), 256, 312.0).of(4.0, 2**22)
