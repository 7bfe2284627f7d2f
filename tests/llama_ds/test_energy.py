"""GPU-hours, energy and carbon, against the paper's table 15."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_ds.checkpoint.model_card import model_card
from llama_ds.energy import Energy, energy, energy_of, hours_by_device, watts_of
from llama_ds.plot import main, smoothed


@pytest.mark.parametrize(
    ("gpu_hours", "mwh", "tons"),
    [(82_432, 36, 14), (135_168, 59, 23), (530_432, 233, 90), (1_022_362, 449, 173)],
)
def test_the_papers_table_follows(gpu_hours: float, mwh: float, tons: float) -> None:
    kwh = energy(gpu_hours, watts=400)
    # The table's numbers are whole, and those for 65B were cut, not rounded.
    assert kwh / 1000 == pytest.approx(mwh, abs=1)
    kg = Energy(gpu_hours, kwh, ("A100",)).kg_co2
    assert kg is not None
    assert kg / 1000 == pytest.approx(tons, abs=1)


def record(step: int, seconds: float, device: str = "NVIDIA A100-SXM4-80GB") -> dict[str, Any]:
    return {
        **{"kind": "train", "step": step, "tokens": step * 100, "loss": 1.0},
        **{"seconds_per_step": seconds, "device": device, "devices": 8},
    }


def test_a_record_stands_for_the_steps_since_the_one_before() -> None:
    hours = hours_by_device([record(10, 360.0), record(30, 90.0), record(40, 36.0, "cpu")])
    assert hours == {"NVIDIA A100-SXM4-80GB": pytest.approx(8 + 4), "cpu": pytest.approx(0.8)}


def write_run(folder: Path, *records: dict[str, Any]) -> Path:
    folder.mkdir()
    lines = "".join(json.dumps(one) + "\n" for one in records)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_a_run_says_what_it_took_up_to_a_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", record(10, 360.0), record(20, 360.0))
    spent = energy_of(run, last_step=10)
    assert spent is not None
    assert spent.kwh == pytest.approx(8 * 0.4 * 1.1)
    assert str(spent) == (
        "8 GPU-hours on NVIDIA A100-SXM4-80GB: 3.52 kWh (PUE 1.1), 1.355 kg CO2eq (0.385 kg/kWh)"
    )
    card = model_card(run, {"identity": {}, "step": 10, "rows": 80}, 1000)
    assert f"## Energy\n\nTraining took {spent}, by section 6 of arXiv 2302.13971." in card
    unknown = write_run(tmp_path / "other", record(10, 360.0, "cpu"))
    assert str(energy_of(unknown)).endswith("the power of the device is not known")
    assert energy_of(write_run(tmp_path / "empty")) is None


def test_gpus_are_known_by_their_drivers_names() -> None:
    assert watts_of("NVIDIA H200") == 700
    assert watts_of("NVIDIA A100-SXM4-80GB") == 400
    assert watts_of("Tesla T4") is None


def test_the_loss_is_averaged_over_what_went_before() -> None:
    assert smoothed([4.0, 2.0]) == [4.0, 2.0]
    values = [float(n) for n in range(200)]
    assert smoothed(values)[100] == 99.5  # of two records, one in a hundred


@pytest.mark.slow
def test_curves_of_two_runs_are_drawn_and_their_energy_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"kind": "task", "step": 10, "tokens": 1000, "accuracy": {"PIQA": 60.0}}
    task |= {"standard_error": {"PIQA": 5.0}, "questions": {"PIQA": 100}}
    first = write_run(tmp_path / "first", record(10, 360.0), task)
    second = write_run(tmp_path / "second", record(10, 36.0))
    assert main([str(first), str(second), "--out", str(tmp_path / "figures")]) == 0
    said = capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["loss_over_tokens.png", "tasks_over_tokens.png"]
    assert f"{second}: 0.8 GPU-hours on NVIDIA A100-SXM4-80GB: 0.352 kWh" in said
    assert main([str(tmp_path)]) == 2
    assert "has no metrics.jsonl; name the folder of a run" in capsys.readouterr().err
