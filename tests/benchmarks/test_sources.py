"""The benchmarks of the sources run to their end in a small size."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.data.reader_memory import earlier_results

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.data.{script}", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.nightly
@pytest.mark.slow
def test_reader_memory_measures_and_keeps_what_it_has(tmp_path: Path) -> None:
    formats = ("--formats", "arxiv", "stack_exchange")
    ran = run("reader_memory", "--rehearse", *formats, "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,) = (list(tmp_path.glob(f"reader_memory_cpu_*.{e}")) for e in ("json", "md"))
    assert report.read_text(encoding="utf-8") in ran.stdout
    results = json.loads(raw.read_text(encoding="utf-8"))
    assert [result["format"] for result in results] == ["stack_exchange", "arxiv"]
    for result in results:
        assert result["num_bytes"] == 300_000
        assert result["num_kept"] == result["num_read"] > 0
        assert result["peak_bytes"] > result["idle_bytes"] > 10 << 20
    # Every third row of about 512 bytes is a question.
    assert 180 < results[0]["num_read"] < 220
    # A later run for other formats keeps these, if size and code are the same.
    commit = results[0]["commit"]
    assert set(earlier_results(raw, 300_000, commit)) == {"stack_exchange", "arxiv"}
    assert not earlier_results(raw, 300_001, commit)
    assert not earlier_results(raw, 300_000, "another")
    assert not earlier_results(tmp_path / "none.json", 300_000, commit)


@pytest.mark.nightly
@pytest.mark.slow
def test_decontamination_compares_with_the_plain_form() -> None:
    ran = run("decontamination", "--rehearse")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("documents with items: ours 0, plain Python 0") == 3


@pytest.mark.nightly
@pytest.mark.slow
def test_sources_runs_each_script_and_says_what_failed(tmp_path: Path) -> None:
    # `github` needs no peer; `wikipedia` needs one that may not be installed.
    ran = run(
        *("sources", "--rehearse", "--scripts", "wikipedia", "github"),
        *("--out", str(tmp_path)),
    )
    (result,) = tmp_path.glob("sources_cpu_*.md")
    text = result.read_text(encoding="utf-8")
    before, github, wikipedia = re.split(r"(?m)^## source_.*\n", text)
    assert "| WARC reading | fastwarc |" in before
    for output in (ran.stdout, github):
        assert "rows to documents" in output
    if importlib.util.find_spec("mwparserfromhell") is None:
        assert ran.returncode == 1
        assert "not installed: mwparserfromhell" in ran.stdout
        assert "mwparserfromhell not installed" in wikipedia
        assert "**Failed** with exit code 1" in wikipedia
    else:
        assert ran.returncode == 0, ran.stdout
        assert "residue of mwparserfromhell" in wikipedia
