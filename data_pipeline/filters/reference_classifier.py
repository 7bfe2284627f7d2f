"""Quality classifier of web pages: cited as a Wikipedia reference, or a random page (fastText).

LLaMA (arXiv 2302.13971, section 2.1): "we trained a linear model to classify pages used as
references in Wikipedia v.s. randomly sampled pages, and discarded pages not classified as
references". The paper gives no details; the features (unigrams, fastText) and the threshold are
those of RedPajama v1.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, BinaryIO

import fasttext

from data_pipeline.document import Document, content_id
from data_pipeline.files.atomic import write_atomic
from data_pipeline.files.model_file import ModelFile, model_file
from data_pipeline.sampling import SmallestHashes, keyed_hash

_REFERENCE, _RANDOM = "__label__reference", "__label__random"


@dataclass(frozen=True)
class ClassifierConfig:
    """Training settings; fastText's defaults unless stated."""

    max_pages: int = 300_000
    """Maximum pages per class (RedPajama v1: 300,000 references)."""
    max_characters: int = 10_000
    """Per page, the rest is truncated, in training and in scoring."""
    dim: int = 100
    epoch: int = 5
    lr: float = 0.1
    word_ngrams: int = 1
    min_count: int = 1
    seed: int = 0
    """Seed for sampling pages and for fastText's initial weights."""

    def __post_init__(self) -> None:
        for name in (
            "max_pages",
            "max_characters",
            "dim",
            "epoch",
            "lr",
            "word_ngrams",
            "min_count",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"classifier.{name} ({getattr(self, name)}) must be positive")


@dataclass(frozen=True)
class _Example:
    """A page in the spool file."""

    identity: str
    label: str
    place: int
    size: int


def reference_model(path: Path) -> ModelFile:
    """The classifier at `path`; ValueError if it is missing."""
    return model_file(
        path,
        what="a fastText classifier of pages that Wikipedia cites versus random pages",
        published="nowhere; RedPajama v1 published how it was made, not the model",
        made_by="`build_dataset.sh train-references`, from references and crawled pages",
        left_out_by="leave --models.reference out",
    )


def score_reference(document: Document, *, model: ModelFile, max_characters: int) -> Document:
    """Edit: the probability of being a page that Wikipedia cites."""
    labels, scores = _load(model).predict(_one_line(document.text, max_characters), k=2)
    probability = dict(zip(labels, map(float, scores), strict=True)).get(_REFERENCE, 0.0)
    return replace(document, reference_score=min(probability, 1.0))


def not_reference(document: Document, *, min_score: float) -> str | None:
    """Filter: not classified as a reference. RedPajama v1: 0.25, which gives LLaMA's size."""
    score = document.reference_score
    return "not_reference" if score is not None and score < min_score else None


def train_reference_classifier(
    references: Container[str], pages: Iterable[Document], out: Path, *, config: ClassifierConfig
) -> dict[str, int]:
    """Train on crawled `pages` and publish the model file `out`; returns the number of pages used.

    Positives are pages whose URL is among `references`, negatives as many of the others; each class
    is a random sample, and equal texts count once. Deterministic: equal pages in any order give
    equal bytes, on one kind of CPU. ValueError where no page, or every page, is a reference.
    """
    positives: SmallestHashes[_Example] = SmallestHashes(config.max_pages, config.seed)
    negatives: SmallestHashes[_Example] = SmallestHashes(config.max_pages, config.seed)
    num_pages = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out.parent) as spool:
        for page in pages:
            num_pages += 1
            is_reference = page.url is not None and page.url in references
            sample = positives if is_reference else negatives
            identity = content_id(page.text)
            if sample.wants(identity):
                text = _one_line(page.text, config.max_characters).encode()
                label = _REFERENCE if is_reference else _RANDOM
                sample.add(identity, _Example(identity, label, spool.seek(0, 2), len(text)))
                spool.write(text)
        if not len(positives) or not len(negatives):
            raise ValueError(
                f"of {num_pages} crawled pages {len(positives)} are references of Wikipedia and "
                f"{len(negatives)} are not; the classifier needs both. Give more crawled pages, or "
                "the references of a Wikipedia that cites them"
            )
        chosen = positives.items()
        others = negatives.items()[: len(chosen)]
        data = _train(spool, chosen + others, out.parent, config)
    write_atomic(out, data)
    return {"num_pages": num_pages, "num_references": len(chosen), "num_random": len(others)}


def _train(
    spool: BinaryIO, examples: list[_Example], folder: Path, config: ClassifierConfig
) -> bytes:
    """The bytes of the trained model; temporary files are written to `folder`."""
    # fastText reads examples in file order, so they must be shuffled across classes. The other
    # seed makes the order independent of the sampling.
    examples = sorted(examples, key=lambda e: keyed_hash(e.identity, config.seed + 1))
    with TemporaryDirectory(dir=folder) as own:
        input_file, model = Path(own, "examples.txt"), Path(own, "model.bin")
        with input_file.open("wb") as file:
            for example in examples:
                spool.seek(example.place)
                file.write(example.label.encode() + b" " + spool.read(example.size) + b"\n")
        settings: dict[str, Any] = asdict(config)
        trained = fasttext.train_supervised(
            input=str(input_file),
            **{name: settings[name] for name in ("dim", "epoch", "lr", "seed")},
            wordNgrams=config.word_ngrams,
            minCount=config.min_count,
            # With more threads the weights differ from run to run.
            thread=1,
            verbose=0,
        )
        trained.save_model(str(model))
        return model.read_bytes()


def _one_line(text: str, max_characters: int) -> str:
    # fastText would parse a word of a page that looks like a label as one.
    return " ".join(text[:max_characters].replace("__label__", " ").split())


@lru_cache(maxsize=2)
def _load(model: ModelFile) -> Any:
    """The model, loaded once per process."""
    return fasttext.load_model(str(model.path))
