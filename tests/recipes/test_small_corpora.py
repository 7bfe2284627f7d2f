"""The corpora that the recipes offer, on what this machine has."""

import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.documents_folder import load_documents
from data_pipeline.text.licenses import is_allowed
from recipes.small_corpora import PERMISSIVE, builtin_corpus


@pytest.mark.slow
def test_builtin_corpus(tmp_path: Path) -> None:
    corpus = builtin_corpus(max_bytes=2_000_000)
    manifests = build_corpus(corpus.sources, tmp_path)
    assert list(manifests) == ["python_library", "python_packages"]
    for name, manifest in manifests.items():
        # Files are taken whole, and some are dropped: less than the budget, though not by much.
        assert 500_000 < manifest.num_text_bytes <= 1_000_000
        documents = load_documents(tmp_path / name)
        assert all(is_allowed(license, PERMISSIVE) for license in documents["license"])
        assert all(documents["title"])
        largest = max(map(len, documents["text"]))
        assert largest < 400_000
    packages = Counter(load_documents(tmp_path / "python_packages")["title"])
    assert len(packages) > 5


@pytest.mark.slow
def test_builtin_corpus_is_the_same_every_time() -> None:
    for (source, root), (again, _) in zip(
        builtin_corpus().sources, builtin_corpus().sources, strict=True
    ):
        found = source.inputs(root)
        assert found == again.inputs(root)
        assert sum(file.size for file in found.files) <= 12_000_000


def test_builtin_corpus_reads_this_python() -> None:
    roots = [root for _, root in builtin_corpus().sources]
    assert (roots[0] / "argparse.py").exists()
    assert roots[1] == Path(sysconfig.get_path("purelib"))
