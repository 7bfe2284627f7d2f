"""Search over layouts, clusters of one's own, and the speed section of the plan."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from llama_ds.planning.hardware import CLUSTERS, GIB, calibrated, read_cluster
from llama_ds.planning.memory import USABLE_SHARE, estimate_memory
from llama_ds.planning.search import (
    best_layouts,
    cluster_of,
    main,
    model_of,
    nearest_world_sizes,
    search,
)
from llama_ds.planning.speed_report import speed_lines
from recipes.llama import llama_7b, llama_65b

A100 = CLUSTERS["a100-80gb"]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_what_is_found_divides_fits_and_is_in_order() -> None:
    recipe, world_size = llama_65b(), 2048
    found = search(recipe, world_size, A100)
    speeds = [one.prediction.tokens_per_second for one in found]
    assert len(found) > 20
    assert speeds == sorted(speeds, reverse=True)
    for one in found:
        parallel = one.recipe.parallel
        memory = estimate_memory(one.recipe, world_size // (parallel.tp * parallel.sp)).total
        assert one.memory_share == memory / A100.gpu.memory_bytes <= USABLE_SHARE
        assert one.prediction.workload.rows_per_step * 2_048 == recipe.train.tokens_per_step


def test_five_layouts_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "65b", "--gpus", "2048", "--cluster", "a100-80gb"])
    head, header, *rows = capsys.readouterr().out.splitlines()
    assert "predicted, not measured" in head
    assert "tokens/s/GPU" in header
    assert len(rows) == 5
    assert all("--parallel.tp" in row and "--zero.stage" in row for row in rows)


def test_gpus_that_do_not_divide_are_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--model", "7b", "--gpus", "300", "--cluster", "a100-80gb"])
    assert end.value.code == 2
    assert "the nearest numbers that do are 256 and 512" in capsys.readouterr().err
    assert nearest_world_sizes(llama_7b(), 300, A100) == [256, 512]


def test_too_few_gpus_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"no layout of llama_65b on 2 x a100-80gb stays below 93%"
    ):
        best_layouts(llama_65b(), 2, A100, 5)


def test_models_are_sizes_names_or_folders(tmp_path: Path) -> None:
    assert model_of("65b").num_parameters == 65_285_660_672
    assert model_of("l3-8").num_key_value_heads == 8
    config = {
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256},
    }
    write(tmp_path / "config.json", config)
    assert model_of(str(tmp_path)).num_key_value_heads == 2
    write(tmp_path / "config.json", {**config, "attention_bias": True})
    assert not model_of(str(tmp_path)).is_fusable
    write(tmp_path / "config.json", {"hidden_size": 64})
    with pytest.raises(
        ValueError, match=r"no configuration of a LLaMA: .* has no intermediate_size"
    ):
        model_of(str(tmp_path))
    with pytest.raises(ValueError, match=r"--model \(66b\) must be a folder or one of 7b"):
        model_of("66b")


def test_own_clusters_are_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    write(path, {"gpu": "h100-80gb", "nic_gbit_per_second": 100, "gpus_per_node": 4})
    cluster = cluster_of(str(path))
    assert (cluster.name, cluster.gpus_per_node) == ("mine", 4)
    assert cluster.nic_bandwidth == pytest.approx(12.5e9)
    assert cluster.gpu == CLUSTERS["h100-80gb"].gpu
    write(path, {"gpu": "a100-80gb", "memory_gib": 39, "peak_tflops": 300})
    assert read_cluster(path).gpu.memory_bytes == 39 * GIB
    gpu, base = read_cluster(path).gpu, CLUSTERS["a100-80gb"].gpu
    assert gpu.peak_flops == pytest.approx(300e12)
    assert gpu.attention["flash"].limit == pytest.approx(
        base.attention["flash"].limit * 300e12 / base.peak_flops
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gpu": "abacus"}, "gpu must be one of a100-80gb"),
        ({"gpu": "a100-80gb", "speed": 1}, "unknown key speed"),
        ({"gpu": "a100-80gb", "watts": "many"}, r"watts \(many\) must be a positive number"),
        ({"gpu": "a100-80gb", "gpus_per_node": 7.5}, r"gpus_per_node \(7.5\) must be a whole"),
        ({"gpu": "a100-80gb", "gpus_per_node": 1e300}, "must be a whole number up to 1024"),
        ({"gpu": "a100-80gb", "nic_gbit_per_second": math.inf}, "must be a positive number"),
        ({"gpu": "a100-80gb", "watts": 10**400}, "must be a positive number"),
        ({"gpu": "a100-80gb", "matmul_efficiency": 1.5}, "is a share of peak_tflops, up to 1"),
        ({"gpu": "a100-80gb", "memory_gib": 1e300}, "is not of one GPU"),
        ([1], "must hold a JSON object"),
    ],
)
def test_wrong_cluster_files_are_an_error(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_cluster(write(tmp_path / "mine.json", content))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ceilings": {"matmul_tflops": 720, "copy_gb_per_second": 2_800}}, "on another GPU"),
        ({"kernels": 5}, "kernels must be a list of objects"),
        ({"kernels": ["flash"]}, "kernels must be a list of objects"),
        ({"kernels": [{"kernel": "flash", "tflops": "150"}]}, "tflops .* positive number"),
        ({"kernels": [{"kernel": "flash", "tflops": -150}]}, "tflops .* positive number"),
        ({"kernels": [{"kernel": "flash", "tflops": 900}]}, "is above the peak"),
        ({"sequence_length": -600}, "sequence_length .* positive number"),
    ],
)
def test_wrong_measurements_are_an_error(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    result = {
        "ceilings": {"matmul_tflops": 270, "copy_gb_per_second": 1_700},
        "sequence_length": 2_048,
        "kernels": [{"kernel": "flash", "tflops": 150}],
    }
    calibrated(A100, write(tmp_path / "gpu.json", result))
    with pytest.raises(ValueError, match=message):
        calibrated(A100, write(tmp_path / "gpu.json", {**result, **changed}))


def test_candidates_that_the_recipe_does_not_allow_are_left_out() -> None:
    recipe = llama_7b("a100-80gb")
    tiled = dataclasses.replace(recipe.train, mlp_tiles=4, save_policy="no_mlp")
    found = search(dataclasses.replace(recipe, train=tiled), 64, A100)
    assert found
    assert {one.recipe.train.save_policy for one in found} <= {"no_mlp", "layer_input"}


def test_unknown_clusters_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"--cluster \(v100\) must be a JSON file or one of"):
        cluster_of("v100")


def test_measured_ceilings_take_the_place_of_the_table(tmp_path: Path) -> None:
    result = {
        "sequence_length": 2048,
        "ceilings": {"matmul_tflops": 200.0, "copy_gb_per_second": 1_000.0},
        "kernels": [{"kernel": "flash", "tflops": 100.0}, {"kernel": "xformers"}],
    }
    gpu = calibrated(A100, write(tmp_path / "gpu.json", result)).gpu
    assert gpu.matmul_efficiency == pytest.approx(0.86 * 200 / 312)
    assert gpu.memory_bandwidth == pytest.approx(1e12 / 0.85)
    assert gpu.attention["flash"].at(2048) == pytest.approx(100e12)
    with pytest.raises(ValueError, match="has no ceilings"):
        calibrated(A100, write(tmp_path / "other.json", {}))


def test_the_plan_says_what_one_wants_to_know() -> None:
    slow = llama_65b()
    lines = speed_lines(slow, 2048, A100, price_per_gpu_hour=2.0, paper_tokens_per_second=380)
    text = "\n".join(lines)
    for part in (
        *("tokens/s per GPU, likely", "s per step:", "matmuls", "MFU", "GPU-hours", "MWh"),
        *("CO2 equivalent", "at 2 per GPU-hour", "a checkpoint has 783 GB", "token store: 2.80 TB"),
        *("the paper's A100-80GB at 2,048 tokens: 380", "% of the step is"),
    ):
        assert part in text, part


def test_a_slow_layout_is_told_what_is_faster() -> None:
    recipe = llama_65b()
    best = search(recipe, 2048, A100)[0]
    slow = search(recipe, 2048, A100)[-1]
    (advice,) = speed_lines(slow.recipe, 2048, A100)[-1:]
    ratio = best.prediction.tokens_per_second / slow.prediction.tokens_per_second
    assert f"{best.options} is predicted {ratio:.2f} x as fast" in advice
    (advice,) = speed_lines(best.recipe, 2048, A100)[-1:]
    assert advice.endswith("no layout that fits is predicted 3 % faster")
