"""The benchmark of near-duplicates: what it takes for the truth is true, and it runs to its end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.data.exact_jaccard import NgramSets
from benchmarks.data.near_duplicate_texts import edited
from benchmarks.data.near_duplicate_tools import TOOLS, word_ngrams

ROOT = Path(__file__).resolve().parents[2]


def made_texts() -> list[str]:
    """Families of similar texts from few words, so that n-grams occur in many of them."""
    rng = random.Random(0)
    texts = []
    for _ in range(25):
        text = " ".join(rng.choices("abcdefg", k=rng.randrange(5, 60)))
        texts.append(text)
        texts += [edited(text, rng.uniform(0.5, 1), 3, rng) for _ in range(rng.randrange(3))]
    return texts


@pytest.mark.parametrize("min_similarity", [0.2, 0.5, 0.8, 1.0])
def test_exact_pairs_are_those_of_pythons_sets(min_similarity: float) -> None:
    texts = made_texts()
    sets = [{tuple(t.split()[i : i + 3]) for i in range(len(t.split()) - 2)} for t in texts]
    expected = {}
    for one, other in combinations(range(len(texts)), 2):
        similarity = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if similarity >= min_similarity:
            expected[one, other] = similarity
    found = NgramSets(texts, 3).similar_pairs(min_similarity)
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert dict(zip(pairs, found.similarity.tolist(), strict=True)) == expected


def test_edits_leave_the_similarity_that_they_are_for() -> None:
    rng = random.Random(1)
    text = " ".join(f"w{number}" for number in range(20_000))
    sets = [set(word_ngrams(some)) for some in (text, edited(text, 0.8, 5, rng))]
    # Of 20,000 n-grams, each lost edit takes five: a standard deviation of about 0.006.
    assert len(sets[0] & sets[1]) / len(sets[0] | sets[1]) == pytest.approx(0.8, abs=0.025)


@pytest.mark.nightly
@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.data.dedup"),
            *("--rehearse", "--out", str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (raw,), (report,), (picture,) = (
        list(tmp_path.glob(f"dedup_cpu_*.{ending}")) for ending in ("json", "md", "png")
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert report.read_text(encoding="utf-8") in ran.stdout
    results = json.loads(raw.read_text(encoding="utf-8"))
    installed = [tool.name for tool in TOOLS if tool.is_installed()]
    assert {result["tool"] for result in results["tools"] + results["part"]} == set(installed)
    own = results["tools"][0]["accuracy"]
    assert own["num_removed"] > 0
    # Every removal is verified: a miss is possible, a mistake is not.
    assert own["precision"] == own["planted_precision"] == 1
    assert own["left"] <= 0.1
    lower, _, higher = results["curve"].values()
    assert lower["planted_precision"] < 1
    assert higher["planted_recall"] < 1
    assert all(memory["peak_bytes"] > memory["idle_bytes"] for memory in results["memory"])
