"""GPU-hours of a run, and energy and carbon by the paper's section 6 (arXiv 2302.13971)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_ds.metrics import read_metrics
from llama_ds.planning.hardware import CLUSTERS

PUE = 1.1
"""Power usage effectiveness: the data center's power for each watt of a GPU."""
KG_PER_KWH = 0.385
"""CO2 equivalent, the average of the United States."""


@dataclass(frozen=True)
class Energy:
    """Of the steps of a run: evaluations, checkpoints and repeated steps are not in its metrics."""

    gpu_hours: float
    kwh: float | None
    """None where the power of a device is not known."""
    devices: tuple[str, ...]

    @property
    def kg_co2(self) -> float | None:
        return None if self.kwh is None else KG_PER_KWH * self.kwh

    def __str__(self) -> str:
        unit = "hours of processes" if self.devices == ("cpu",) else "GPU-hours"
        said = f"{self.gpu_hours:,.4g} {unit} on {', '.join(self.devices)}"
        if self.kwh is None:
            return f"{said}; the power of the device is not known"
        return (
            f"{said}: {self.kwh:,.4g} kWh (PUE {PUE}), {self.kg_co2:,.4g} kg CO2eq "
            f"({KG_PER_KWH} kg/kWh)"
        )


def energy(gpu_hours: float, watts: float) -> float:
    """kWh: GPU-hours x power x PUE."""
    return gpu_hours * watts / 1000 * PUE


def energy_of(run_dir: Path, last_step: int | None = None) -> Energy | None:
    """Of a run's steps up to `last_step`; None where no step was timed."""
    path = run_dir / "metrics.jsonl"
    records = read_metrics(path, "train") if path.is_file() else ()
    hours = hours_by_device(one for one in records if last_step is None or one["step"] <= last_step)
    if not hours:
        return None
    watts = {name: watts_of(name) for name in hours}
    kwh = None
    if all(value is not None for value in watts.values()):
        kwh = sum(energy(count, watts[name] or 0.0) for name, count in hours.items())
    return Energy(sum(hours.values()), kwh, tuple(hours))


def hours_by_device(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """GPU-hours by name of the device; a record stands for the steps since the one before."""
    hours: dict[str, float] = {}
    before = 0
    for record in records:
        if "device" in record and record["seconds_per_step"] is not None:
            seconds = (record["step"] - before) * record["seconds_per_step"] * record["devices"]
            hours[record["device"]] = hours.get(record["device"], 0.0) + seconds / 3600
        before = record["step"]
    return hours


def watts_of(device: str) -> float | None:
    """Thermal design power of a GPU that the plan knows, by the name that its driver gives."""
    for cluster in CLUSTERS.values():
        if cluster.gpu.name.split("-")[0] in device:
            return cluster.gpu.watts
    return None
