"""When a process is taken for hung; whole runs that hang: `tests/recipes/test_process_tree.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SETUP = """
import sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from llama_ds.hang_watch import HangWatch

run_dir = Path(sys.argv[1])
store = dist.FileStore(sys.argv[1] + ".store", 1)
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
engine = torch.nn.Identity()
"""
BEATS = """
with HangWatch(engine, run_dir, 1.5):
    for _ in range(30):  # twice the timeout
        engine(torch.zeros(1))
        time.sleep(0.1)
with HangWatch(engine, run_dir, 0.5) as watch:
    watch.begin("the checkpoint", patience=10)
    time.sleep(2)
with HangWatch(engine, run_dir, 0):
    time.sleep(1)
print("no hang", flush=True)
with HangWatch(engine, run_dir, 0.5) as watch:
    watch.begin("step 7")
    time.sleep(30)
"""
CALLED = """
with HangWatch(engine, run_dir, 5) as watch:
    (run_dir / "hangs" / watch.folder.name).mkdir(parents=True)
    while True:
        watch.begin("step 8")
        time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "doing", "said"),
    [(BEATS, "step 7", "error: step 7 has stood still for 0.5 s"), (CALLED, "step 8", "")],
    ids=["no heartbeat", "another rank hangs"],
)
def test_a_process_ends_without_heartbeats_and_when_another_hangs(
    tmp_path: Path, script: str, doing: str, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + script, tmp_path / "run"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith(said)
    assert bool(done.stderr) == bool(said)  # who is called is silent
    assert done.stdout == ("no hang\n" if said else "")
    (folder,) = (tmp_path / "run" / "hangs").iterdir()
    stacks = (folder / "rank_0.txt").read_text()
    assert stacks.startswith("rank 0 on ")
    assert f", {doing}\n" in stacks
    assert 'File "<string>"' in stacks  # where the main thread stands
    assert (folder / "rank_0.collectives.json").read_bytes().startswith(b'{"comm_lib_version"')
