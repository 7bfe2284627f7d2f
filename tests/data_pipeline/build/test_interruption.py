"""Builds that are killed, and what starts them: nothing is lost, nothing half-made is kept."""

import os
import random
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from tqdm import tqdm

from data_pipeline.build.build_corpus import (
    build_documents,
)
from data_pipeline.documents_folder import read_manifest
from data_pipeline.executors.local import Processes, _set_up_worker
from tests.support.text_source import TEXT, checksums, many_files

SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from data_pipeline.document import Source
from data_pipeline.build.build_corpus import build_documents
from data_pipeline.sources import folder
from data_pipeline.executors.local import Processes
read = partial(folder.read, text_field="text", max_document_bytes=1000)
source = Source("text", folder.inputs, read)
build_documents(source, Path(sys.argv[1]), Path(sys.argv[2]), executor=Processes(2))
"""
# No guard against running as an imported module: the processes must not import the script again.


@pytest.mark.parametrize("how", ["build.sh", "-"])
def test_main_program_may_be_a_shell_script_or_standard_input(tmp_path: Path, how: str) -> None:
    root = many_files(tmp_path / "raw", num_bytes=5 << 20)
    (tmp_path / "build.sh").write_text(SCRIPT)
    program = how if how == "-" else str(tmp_path / how)
    done = subprocess.run(
        [sys.executable, program, str(root), str(tmp_path / "out")],
        input=SCRIPT if how == "-" else None,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "out").num_kept > 0
    assert "read text" in done.stderr  # the progress bar


def build_to_be_killed(root: Path, out: Path, jobs: int) -> None:
    # By default tqdm's lock is shared by forked processes: whoever is killed while holding it would
    # stop this process, too.
    tqdm.set_lock(threading.RLock())
    build_documents(TEXT, root, out, executor=Processes(jobs))


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_build_killed_ten_times_ends_with_the_same_bytes(tmp_path: Path, jobs: int) -> None:
    root = many_files(tmp_path / "raw", num_bytes=24 << 20)
    start = time.monotonic()
    build_documents(TEXT, root, tmp_path / "whole", executor=Processes(jobs))
    seconds = time.monotonic() - start
    out = tmp_path / "out"
    moments = random.Random(jobs)
    num_killed = 0
    for _ in range(10):
        # Forked, as the build's own processes: that needs no new interpreter.
        build = get_context("fork").Process(target=build_to_be_killed, args=(root, out, jobs))
        build.start()
        time.sleep(moments.uniform(0.0, seconds / 3))
        num_killed += build.is_alive()
        build.kill()
        build.join(10)
    assert num_killed > 0
    build_documents(TEXT, root, out, executor=Processes(jobs))
    assert checksums(out) == checksums(tmp_path / "whole")
    assert not [p for p in tmp_path.rglob(".*") if ".tmp-" in p.name or p.name.endswith(".old")]


def test_a_killed_build_leaves_no_process(tmp_path: Path) -> None:
    root = many_files(tmp_path / "raw", num_bytes=32 << 20)
    command = [sys.executable, "-c", SCRIPT, str(root), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    build = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".parts/out/*/*")):
        assert time.monotonic() < deadline, "the build did not start"
        assert build.poll() is None, "the build ended before it could be killed"
        time.sleep(0.01)
    build.kill()
    # Ends only when every process that holds the pipe has gone.
    build.communicate(timeout=10)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_worker_whose_parent_is_gone_before_it_begins_ends() -> None:
    worker = get_context("fork").Process(target=_set_up_worker, args=(os.getpid() + 1,))
    worker.start()
    worker.join(10)
    assert worker.exitcode == 1
