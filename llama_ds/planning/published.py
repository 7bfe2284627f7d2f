"""Published training speeds, one row of a CSV file each, as workloads that can be predicted.

Columns: id, arch, gpu, n (GPUs), seq, gbs (rows per step), mbs (rows per micro-batch), tp, pp, vp
(virtual pipeline stages), cp, dp (how states are sharded), rec (recomputation), attn, net,
tok_s_gpu, mfu_noncausal, flags, source. A row that lacks a column gets the usual value and says so.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ParallelConfig
from llama_ds.planning.hardware import A100, H100, H200, Cluster, Gpu
from llama_ds.planning.step_time import Workload
from llama_ds.planning.traffic import ShardingTraffic
from llama_ds.save_policy import PRESETS, SavePolicy


class Architecture(NamedTuple):
    """Sizes of a transformer."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    mlp_matrices: int
    """3 with a gate, else 2."""


# From each model's configuration file or paper.
ARCHITECTURES: dict[str, Architecture] = {
    "llama7": Architecture(4096, 32, 32, 32, 11008, 32000, 3),
    "llama13": Architecture(5120, 40, 40, 40, 13824, 32000, 3),
    "llama33": Architecture(6656, 60, 52, 52, 17920, 32000, 3),
    "llama65": Architecture(8192, 80, 64, 64, 22016, 32000, 3),
    "llama2-34": Architecture(8192, 48, 64, 8, 22016, 32000, 3),
    "llama2-70": Architecture(8192, 80, 64, 8, 28672, 32000, 3),
    "l3-8": Architecture(4096, 32, 32, 8, 14336, 128256, 3),
    "l3-70": Architecture(8192, 80, 64, 8, 28672, 128256, 3),
    "l3-405": Architecture(16384, 126, 128, 8, 53248, 128256, 3),
    "mpt1": Architecture(2048, 24, 16, 16, 8192, 50432, 2),
    "mpt3": Architecture(2560, 32, 20, 20, 10240, 50432, 2),
    "mpt7": Architecture(4096, 32, 32, 32, 16384, 50432, 2),
    "mpt13": Architecture(5120, 40, 40, 40, 20480, 50432, 2),
    "mpt30": Architecture(7168, 48, 56, 56, 28672, 50432, 2),
    "mpt70": Architecture(8192, 80, 64, 64, 32768, 50432, 2),
    "mlm1.7": Architecture(2048, 24, 16, 16, 8192, 131072, 2),
    "mlm7": Architecture(4096, 30, 32, 32, 16384, 131072, 2),
    "mlm16": Architecture(6144, 32, 48, 48, 24576, 131072, 2),
    "mlm32": Architecture(7168, 48, 56, 56, 28672, 131072, 2),
    "mlm70": Architecture(8192, 84, 64, 64, 32768, 131072, 2),
    "gpt22": Architecture(6144, 48, 64, 64, 24576, 51200, 2),
    "gpt175": Architecture(12288, 96, 96, 96, 49152, 51200, 2),
    "gpt175k": Architecture(12288, 96, 96, 96, 49152, 51200, 2),
    "nemo15": Architecture(6144, 32, 48, 8, 24576, 256000, 2),
    "olmo7": Architecture(4096, 32, 32, 32, 11008, 100352, 3),
    "olmo13": Architecture(5120, 40, 40, 40, 13824, 100352, 3),
}
# A power limit slows the clock, and this H100 has HBM2e of 2.4 TB/s (torchtitan's report).
H100_500W = replace(
    H100,
    name="H100-500W",
    memory_bandwidth=2_400e9,
    watts=500,
    matmul_efficiency=0.537,
    attention={
        name: replace(rate, limit=rate.limit * 0.86) for name, rate in H100.attention.items()
    },
)
GPUS: dict[str, Gpu] = {"a100": A100, "h100": H100, "h200": H200, "h100-500w": H100_500W}

_FSDP = ShardingTraffic(forward=2, backward=6)
_ONCE = ShardingTraffic(first_forward=2, last_backward=4)
SHARDINGS = {
    "fsdp": _FSDP,
    "zero3": _FSDP,
    "dist_opt": _ONCE,
    "zero1": _ONCE,
    "zero2": ShardingTraffic(first_forward=2, backward=4),
    "ddp": ShardingTraffic(last_backward=8, shards_optimizer=False),
}
"""How other programs share the states: fully sharded weights, gathered for each pass and gradients
reduce-scattered in fp32; or an optimizer sharded over replicas of the weights, once per step."""
POLICIES = {
    "none": PRESETS["keep_all"],
    "selective": PRESETS["keep_all"],  # of attention's scores, which no kernel here saves
    "linear": PRESETS["linear_outputs"],
    "full": PRESETS["layer_input"],
    # torchtitan's selective checkpointing saves attention and every second matmul.
    "sac": SavePolicy(
        attn_in="recompute",
        k="recompute",
        o_in="recompute",
        mid="recompute",
        mlp_in="recompute",
        up="recompute",
        product="recompute",
    ),
}
ATTENTION = {"fa2": "flash", "fa3": "cudnn", "cudnn": "cudnn", "unfused": "unfused"}


Value = TypeVar("Value")

_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_MOST = 1e12
"""Above every number of a row."""


@dataclass(frozen=True)
class PublishedSpeed:
    """A row that can be predicted."""

    name: str
    workload: Workload
    cluster: Cluster
    tokens_per_second: float
    """Per GPU."""
    notes: str
    """What was assumed, and the row's own flags."""


@dataclass(frozen=True)
class UnusableRow:
    name: str
    missing: str


class _Row:
    """A row's cells; remembers what it had to assume."""

    def __init__(self, cells: Mapping[str | None, object]) -> None:
        self._cells = {str(k).strip(): str(v or "").strip() for k, v in cells.items()}
        self.assumed: list[str] = []

    def text(self, column: str, default: str | None = None) -> str:
        if value := self._cells.get(column, ""):
            return value
        if default is None:
            raise ValueError(f"lacks {column}")
        return default

    def choice(self, column: str, table: Mapping[str, Value], default: str | None) -> Value:
        if default is not None and not self._cells.get(column):
            self.assumed.append(f"{column} {default}")
        value = self.text(column, default).lower()
        if value not in table:
            raise ValueError(f"{column} ({value}) must be one of {', '.join(table)}")
        return table[value]

    def number(self, column: str, default: float | None = None) -> float:
        text = self.text(column, "" if default is not None else None)
        if not text and default is not None:
            return default
        try:
            value = float(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text)
        except ValueError:
            raise ValueError(f"{column} ({text[:40]}) must be a number") from None
        if not 0 < value < _MOST:
            raise ValueError(f"{column} ({text[:40]}) must be positive, and below {_MOST:g}")
        return value

    def count(self, column: str, default: int | None = None) -> int:
        value = self.number(column, default)
        if value != int(value):
            raise ValueError(f"{column} ({value}) must be a whole number")
        return int(value)


def read_published(path: Path) -> list[PublishedSpeed | UnusableRow]:
    """The rows of a CSV file, in order; ValueError where it has no header with these columns.

    Architectures beyond `ARCHITECTURES` come from `published_architectures.json` beside the file,
    where there is one: an object of lists in the order of `Architecture`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    # Only "\r" and "\n" end lines, and not within quotes; the header may stand below blank ones.
    reader = csv.DictReader(io.StringIO(text.lstrip("\r\n"), newline=""))
    architectures = ARCHITECTURES | _neighbours(path.with_name("published_architectures.json"))
    try:
        if "arch" not in (name.strip() for name in reader.fieldnames or ()):
            raise ValueError(f"{path} has no header with a column arch")
        return [_parsed(cells, number, architectures) for number, cells in enumerate(reader, 1)]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _neighbours(path: Path) -> dict[str, Architecture]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: Architecture(*map(int, sizes)) for name, sizes in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is no object of lists of seven sizes: {error}") from None


def _parsed(
    cells: Mapping[str | None, object], number: int, architectures: Mapping[str, Architecture]
) -> PublishedSpeed | UnusableRow:
    row = _Row(cells)
    name = row.text("id", f"row {number}")
    try:
        workload, gpu = _workload(row, architectures), row.choice("gpu", GPUS, None)
        cluster = Cluster(gpu.name, gpu, nic_bandwidth=_nic(row, gpu))
        speed = _speed(row, workload, gpu)
    except ValueError as error:
        return UnusableRow(name, str(error))
    notes = [f"{', '.join(row.assumed)} assumed"] if row.assumed else []
    if flags := row.text("flags", ""):
        notes.append(flags)
    return PublishedSpeed(name, workload, cluster, speed, "; ".join(notes))


def _workload(row: _Row, architectures: Mapping[str, Architecture]) -> Workload:
    sizes = row.choice("arch", architectures, None)
    sequence_length, tp = row.count("seq"), row.count("tp", 1)
    model = ModelConfig(
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        vocab_size=sizes.vocab_size,
        max_position_embeddings=sequence_length,
    )
    if not row.text("mbs", ""):
        row.assumed.append("mbs 1")
    workload = Workload(
        model=model,
        sequence_length=sequence_length,
        rows_per_step=row.count("gbs"),
        micro_batch_size=row.count("mbs", 1),
        world_size=row.count("n"),
        policy=row.choice("rec", POLICIES, "none"),
        sharding=_sharding(row),
        parallel=ParallelConfig(tp=tp),
        attention=row.choice("attn", ATTENTION, "fa2"),
        # Megatron, NeMo, MaxText and LLaMA's own program have fused kernels.
        fused_elementwise=not _is_program(row, "foundry", "titan", "olmo", "fms"),
        tp_overlapped="tp-not-overlapped" not in row.text("flags", ""),
        mlp_matrices=sizes.mlp_matrices,
        pipeline_stages=row.count("pp", 1),
        virtual_stages=row.count("vp", 1),
        context_parallel=row.count("cp", 1),
    )
    if sizes.num_heads % tp:
        raise ValueError(f"tp ({tp}) does not divide {sizes.num_heads} heads")
    if sequence_length % workload.context_parallel:
        raise ValueError(f"cp ({workload.context_parallel}) does not divide seq")
    if workload.world_size % workload.replica_size:
        raise ValueError(
            f"n ({workload.world_size}) is no multiple of tp x pp x cp ({workload.replica_size})"
        )
    if workload.rows_per_step % (workload.dp_size * workload.micro_batch_size):
        raise ValueError(
            f"gbs ({workload.rows_per_step}) is no multiple of mbs ({workload.micro_batch_size}) x "
            f"{workload.dp_size} data-parallel ranks"
        )
    return workload


def _is_program(row: _Row, *names: str) -> bool:
    known = f"{row.text('id', '')} {row.text('source', '')}".lower()
    return any(name in known for name in names)


def _sharding(row: _Row) -> ShardingTraffic:
    usual = "dist_opt" if row.count("tp", 1) > 1 else "fsdp"
    sharding = row.choice("dp", SHARDINGS, usual)
    if sharding is _FSDP and row.count("pp", 1) > 1:
        # Between the stages of a pipeline, weights stay gathered over the micro-batches.
        return _ONCE
    if sharding is _FSDP and _is_program(row, "foundry"):
        return replace(_FSDP, backward=4)  # its gradients are reduced in bf16
    return sharding


def _nic(row: _Row, gpu: Gpu) -> float:
    """Bytes/s per GPU from names such as ib200, in Gbit/s."""
    usual = "200" if gpu is A100 else "400"
    if not row.text("net", ""):
        row.assumed.append(f"net {usual}")
    gigabits = re.fullmatch(r"[^\d]*(\d{1,5})[^\d]*", row.text("net", usual))
    if gigabits is None or not int(gigabits[1]):
        raise ValueError(f"net ({row.text('net')}) must end with Gbit/s per GPU, as in ib200")
    return float(gigabits[1]) * 1e9 / 8


def _speed(row: _Row, workload: Workload, gpu: Gpu) -> float:
    if row.text("tok_s_gpu", ""):
        return row.number("tok_s_gpu")
    if not row.text("mfu_noncausal", ""):
        raise ValueError("lacks tok_s_gpu and mfu_noncausal")
    row.assumed.append("tok_s_gpu from mfu_noncausal")
    share = row.number("mfu_noncausal")
    if share > 1:
        raise ValueError(f"mfu_noncausal ({share:g}) must be a share, up to 1")
    return share * gpu.peak_flops / workload.flops_per_token()
