"""Communication under computation: the same numbers, the schedule as it ran, and tiles' memory."""
# PyTorch's `backward` carries no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from llama_ds import LlamaForCausalLM
from llama_ds.layer.options import LayerOptions
from llama_ds.parallel import collectives
from llama_ds.save_policy import PRESETS

Gloo = Callable[..., list[Any]]
Events = list[dict[str, Any]]

ROOT = Path(__file__).resolve().parents[3]
HIDDEN, INTERMEDIATE, SEQUENCE = 32, 512, 512


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=SEQUENCE,
    )


def gradients(stack: Any, inputs: Tensor) -> list[Tensor]:
    """What the layers return, and all gradients."""
    stack.zero_grad()
    out = stack(inputs_embeds=inputs, use_cache=False).last_hidden_state
    out.backward(torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out.dtype))
    return [out.detach(), *(p.grad.clone() for p in stack.parameters() if p.grad is not None)]


# -- collectives that are begun and waited for ----------------------------------------------------


def pending_and_waited() -> list[tuple[Tensor, Tensor]]:
    """Several at once on one group, waited for in another order than begun, and their results."""
    group, rank = dist.group.WORLD, dist.get_rank()
    xs = [torch.arange(24.0).reshape(2, 4, 3) * (rank + number + 1) for number in range(8)]
    begun = [
        *(collectives.start_all_gather(x, 1, group) for x in xs[:2]),
        *(collectives.start_reduce_scatter(x, 1, group) for x in xs[2:4]),
        *(collectives.start_all_to_all(x, 1, 2, group) for x in xs[4:6]),
        *(collectives.start_all_reduce(x.clone(), group) for x in xs[6:]),
    ]
    found = [pending.wait() for pending in reversed(begun)][::-1]
    again = [pending.wait() for pending in begun]
    assert all(first is second for first, second in zip(found, again, strict=True))
    at_once = [
        *(collectives.all_gather_no_grad(x, 1, group) for x in xs[:2]),
        *(collectives.reduce_scatter_no_grad(x, 1, group) for x in xs[2:4]),
        *(collectives.all_to_all_no_grad(x, 1, 2, group) for x in xs[4:6]),
        *(collectives.start_all_reduce(x.clone(), group).wait() for x in xs[6:]),
    ]
    return list(zip(found, at_once, strict=True))


@pytest.mark.dist
def test_pending_results_are_those_of_waiting_at_once(gloo: Gloo) -> None:
    for rank in gloo(2, pending_and_waited):
        for found, expected in rank:
            # Sums of two small whole numbers.
            assert torch.equal(found, expected)


# -- the same numbers -----------------------------------------------------------------------------


def is_bit_equal(tp: int, sp: int, sequence_parallel: bool, policy: Any) -> bool:
    from tests.support.pool_groups import pool_groups

    groups = pool_groups(tp_size=tp, sp_size=sp, kv_replicas=max(1, tp // 2))
    torch.manual_seed(0)
    stack: Any = LlamaForCausalLM(config(), groups, sequence_parallel=sequence_parallel).model
    stack.train().bfloat16()
    inputs = torch.randn(2, 16 // sp, HIDDEN).bfloat16()
    found = []
    for overlap in (False, True):
        stack.layer_options = LayerOptions(
            save_policy=PRESETS[policy], overlap=overlap, overlap_chunks=1
        )
        found.append(gradients(stack, inputs))
    return all(torch.equal(off, on) for off, on in zip(*found, strict=True))


@pytest.mark.dist
@pytest.mark.parametrize("policy", ["linear_outputs", "layer_input"])
@pytest.mark.parametrize(
    ("tp", "sp", "sequence_parallel"), [(2, 1, True), (2, 1, False), (1, 2, False), (4, 1, True)]
)
def test_overlap_changes_no_bit(
    gloo: Gloo, tp: int, sp: int, sequence_parallel: bool, policy: str
) -> None:
    """Without chunks it moves operations in time only.

    In chunks a matmul has fewer rows, for which the library may sum in another order:
    `test_fused.py` compares these with autograd.
    """
    assert all(gloo(tp * sp, is_bit_equal, tp, sp, sequence_parallel, policy))


# -- tiles ----------------------------------------------------------------------------------------


def small_stack(mlp_tiles: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    options = LayerOptions(save_policy=PRESETS["no_mlp"], mlp_tiles=mlp_tiles)
    model: Any = LlamaForCausalLM(config(), layer_options=options)
    return model.to(dtype).train().model


def test_tiles_sum_weight_gradients_in_fp32() -> None:
    inputs = torch.randn(1, SEQUENCE, HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()
    whole, tiled = (gradients(small_stack(n, torch.bfloat16), inputs) for n in (1, 64))
    for expected, found in zip(whole, tiled, strict=True):
        error = (found.double() - expected.double()).norm() / expected.double().norm()
        # Every tile's term is rounded to bf16 once, by 2^-9 at most, and the sum once more. Summed
        # in bf16, 64 terms would be rounded 64 times: 0.02 is what one finds then.
        assert error < 2**-8


def peak_bytes(mlp_tiles: int, folder: Path) -> int:
    """Of a forward and backward pass, above what was there before."""
    stack, inputs = small_stack(mlp_tiles, torch.float32), torch.randn(1, SEQUENCE, HIDDEN)
    gradients(stack, inputs)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        gradients(stack, inputs)
    path = folder / f"memory{mlp_tiles}.json"
    profiler.export_chrome_trace(str(path))
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Total Allocated"], event["args"]["Bytes"])
        for event in events
        if event["name"] == "[memory]"
    )
    before: int = changes[0][1] - changes[0][2]
    return max(int(total) for _, total, _ in changes) - before


def test_wide_tensors_exist_for_one_tile_at_a_time(tmp_path: Path) -> None:
    wide = SEQUENCE * INTERMEDIATE * 4
    saved = peak_bytes(1, tmp_path) - peak_bytes(8, tmp_path)
    # At the peak there are gate, up and product, the gradients of these, and silu(gate); all but an
    # eighth of them is gone.
    assert saved > (6 - 1) * wide * 7 / 8


# -- the schedule, as a trace shows it ------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what the benchmark wrote."""
    folder = tmp_path_factory.mktemp("overlap")
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.model.overlap",
            "--rehearse",
            "--out",
            str(folder),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert next(folder.glob("overlap_cpu_*.md")).read_text(encoding="utf-8") in ran.stdout
    return folder


def events_of(folder: Path, label: str) -> Events:
    (path,) = folder.glob(f"overlap_cpu_*_{label}.trace.json.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    return sorted((event for event in events if event.get("ph") == "X"), key=lambda e: e["ts"])


def under(events: Events, collective: str) -> list[list[str]]:
    """For every collective of this name, what runs between its start and the wait for it."""
    starts, waits = (
        [event for event in events if event["name"] == f"{kind}: {collective}"]
        for kind in ("start", "wait")
    )
    assert len(starts) == len(waits) > 0, collective
    return [
        [
            event["name"]
            for event in events
            if event["ts"] >= start["ts"] + start["dur"]
            and event["ts"] + event["dur"] <= wait["ts"]
        ]
        for start, wait in zip(starts, waits, strict=True)
    ]


BACKWARD = {  # layout -> collective -> weight gradients that it runs under
    "megatron_on_2_chunks": {
        "dmlp_in": {"gate", "up"},
        "do_out": {"down"},
        "dattn_in": {"k", "v", "q"},
        "weight mlp_norm": {"o", "k", "v", "q"},
    },
    "tp_on_2_chunks": {"dmlp_in": {"gate", "up"}, "dattn_in": {"k", "v", "q"}},
    "ulysses_on_1_chunk": {"dattn_out": {"o"}},
}


@pytest.mark.nightly
@pytest.mark.dist
@pytest.mark.parametrize("label", BACKWARD)
def test_backward_sends_under_weight_gradients(rehearsal: Path, label: str) -> None:
    events = events_of(rehearsal, label)
    for collective, weights in BACKWARD[label].items():
        for between in under(events, collective):
            assert {f"weight gradient: {weight}" for weight in weights} <= set(between), collective


@pytest.mark.nightly
@pytest.mark.dist
def test_forward_sends_a_chunk_under_the_matmuls_of_another(rehearsal: Path) -> None:
    events = events_of(rehearsal, "megatron_on_2_chunks")
    first_backward = next(e["ts"] for e in events if e["name"] == "start: ddown_out")
    forward = [event for event in events if event["ts"] < first_backward]
    for collective, hidden in {"attn_in": 3, "mlp_in": 3, "mid": 1, "out": 3}.items():
        matmuls = [between.count("aten::mm") for between in under(forward, collective)]
        # In each of two layers, the second chunk comes and the first chunk goes under matmuls.
        assert sum(count >= hidden for count in matmuls) == 2, (collective, matmuls)


@pytest.mark.nightly
@pytest.mark.dist
def test_ulysses_sends_under_matmuls(rehearsal: Path) -> None:
    events = events_of(rehearsal, "ulysses_on_1_chunk")
    # Each time in two layers. Forward: queries under the matmuls of keys and values, keys under
    # that of values; backward: o_in under that of W_o, values under those of W_q and W_k.
    for collective, hidden in {"q": 2, "k": 1, "o_in": 1, "dv": 2, "dk": 1}.items():
        matmuls = [between.count("aten::mm") for between in under(events, collective)]
        assert sum(count >= hidden for count in matmuls) == 2, (collective, matmuls)


@pytest.mark.nightly
@pytest.mark.dist
def test_without_overlap_nothing_runs_while_a_collective_is_under_way(rehearsal: Path) -> None:
    for layout, collective in (("megatron", "dmlp_in"), ("tp", "mid"), ("ulysses", "dattn_out")):
        for between in under(events_of(rehearsal, f"{layout}_off"), collective):
            assert not [name for name in between if name.startswith(("aten::", "weight"))]


@pytest.mark.nightly
@pytest.mark.dist
def test_shares_follow_from_what_was_measured(rehearsal: Path) -> None:
    (raw,) = rehearsal.glob("overlap_cpu_*.json")
    results = json.loads(raw.read_text(encoding="utf-8"))
    assert len(results) == 4 + 4 + 2
    for result in results:
        assert 0 <= result["covered_seconds"] <= result["traced_seconds"]
        assert min(result["communication_seconds"] + result["step_seconds"]) > 0
