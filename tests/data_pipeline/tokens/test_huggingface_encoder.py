"""A folder with tokenizer.json alone: its own ids for every text, BOS and EOS, bounded memory."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer

from data_pipeline.tokens import huggingface_encoder
from data_pipeline.tokens.overlapping_windows import (
    DEFAULT_SIZES,
    EncodeWindow,
    WindowSizes,
    ids_by_windows,
)
from data_pipeline.tokens.special_tokens import special_tokens
from data_pipeline.tokens.tokenizer_comparison import compare_tokenizers
from data_pipeline.tokens.tokenizer_folder import (
    export_tokenizer,
    import_huggingface,
    load_encoder,
    tokenizer_folder,
)
from tests.support.huggingface_tokenizers import BEGIN, END, KINDS, byte_level_bpe, write
from tests.support.tokenizer_texts import HOSTILE, corpus, prose

SPECIAL_AS_TEXT = [f"{BEGIN}a{END} <|eot_id|> <s></s><unk> [CLS] [UNK][SEP]", END, f" {END} "]
LONG = [
    "".join(text + " \n" for text in prose()),
    "x" * 3_000,
    "ab" * 2_000,
    " " * 5_000,
    "\n" * 2_000 + "a",
    "日本語" * 1_000,
    "🦙🏽‍🚀" * 500,
    "e\u0301" * 1_500,
    "== " * 1_500,
]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(KINDS[request.param](), tmp_path_factory.mktemp("tokenizer") / request.param)


def own_ids(folder: Path, texts: list[str]) -> list[list[int]]:
    """What the library itself gives, special tokens in texts taken for text."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def test_ids_are_the_tokenizers_own(folder: Path, tmp_path: Path) -> None:
    texts = [*HOSTILE, *prose(), *SPECIAL_AS_TEXT, *LONG]
    special = import_huggingface(folder, tmp_path / "imported")
    expected = [[special.bos.id, *ids, special.eos.id] for ids in own_ids(folder, texts)]
    for place in (folder, tmp_path / "imported"):
        encoded = load_encoder(place).encode(texts)
        found = np.split(encoded.tokens, encoded.offsets[1:-1])
        assert [ids.tolist() for ids in found] == expected
    assert load_encoder(folder).encode([]).tokens.tolist() == []
    auto: Any = AutoTokenizer.from_pretrained(tmp_path / "imported", split_special_tokens=True)
    for text, ids in zip(texts, expected, strict=True):
        assert auto(text, add_special_tokens=False)["input_ids"] == ids[1:-1], repr(text[:99])
    assert (auto.bos_token_id, auto.eos_token_id) == (special.bos.id, special.eos.id)


@pytest.mark.parametrize("kind", ["byte_level_bpe", "wordpiece"])
def test_special_tokens_in_a_text_are_text(tmp_path: Path, kind: str) -> None:
    """A Unigram model has them as pieces, and gives these where transformers does."""
    encoder = load_encoder(write(KINDS[kind](), tmp_path))
    identity = encoder.identity
    for text in SPECIAL_AS_TEXT:
        inner = encoder.encode([text]).tokens.tolist()[1:-1]
        assert not {identity.bos_token_id, identity.eos_token_id} & set(inner)
        assert len(inner) > 1


def test_published_vectors(samples: Path, tmp_path: Path) -> None:
    """LLaMA's own tokenizer, of whose folder only tokenizer.json is left."""
    export_tokenizer(samples / "tokenizer" / "tokenizer.model", tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.model").unlink()
    encoder = load_encoder(tmp_path / "llama")
    assert encoder.identity.kind == "huggingface"
    for name in ("llama-spm-vectors.jsonl", "spm-reference-ids.jsonl"):
        rows = [json.loads(line) for line in (samples / "tokenizer" / name).open()]
        encoded = encoder.encode([row["text"] for row in rows])
        found = np.split(encoded.tokens, encoded.offsets[1:-1])
        for row, ids in zip(rows, found, strict=True):
            assert ids.tolist() == [1, *row["ids"], 2], row["text"]


# -- long texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [WindowSizes(400, 200, 8), WindowSizes(3_000, 1_000, 16)])
def test_windows_give_the_ids_of_the_whole(folder: Path, sizes: WindowSizes) -> None:
    tokenizer = huggingface_encoder.load_tokenizer(folder)

    def encode(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    rng = random.Random(0)
    mixed = ["".join(rng.choices([*LONG, *HOSTILE, *prose()], k=6)) for _ in range(10)]
    for text in [*LONG, *mixed]:
        found = [i for part in ids_by_windows(text, encode, sizes) for i in part]
        assert found == encode(text)[0], repr(text[:99])


def test_windows_do_not_grow_with_the_text(folder: Path) -> None:
    tokenizer = huggingface_encoder.load_tokenizer(folder)
    lengths = []

    def encode(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        lengths.append(len(text))
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    text = "".join(text + " \n" for text in prose()) * 5
    parts = list(ids_by_windows(text, encode, WindowSizes(20_000, 1_000, 16)))
    assert len(text) > 15 * 20_000
    assert max(lengths) == 20_000
    assert max(map(len, parts)) < 20_000
    assert len(lengths) < 2 * len(text) / 20_000


def test_a_long_document_goes_through_windows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(text + " \n" for text in prose()) * 10
    assert len(text) > 2 * DEFAULT_SIZES.window
    called = []

    def watched(text: str, encode: EncodeWindow) -> Iterator[Sequence[int]]:
        called.append(len(text))
        return ids_by_windows(text, encode)

    monkeypatch.setattr(huggingface_encoder, "ids_by_windows", watched)
    tokens = load_encoder(folder).encode(["short", text]).tokens.tolist()
    expected = own_ids(folder, ["short", text])
    assert called == [len(text)]
    bos, eos = tokens[0], tokens[-1]
    assert tokens == [bos, *expected[0], eos, bos, *expected[1], eos]


# -- BOS and EOS ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "options", "bos", "eos"),
    [
        ({}, {}, (BEGIN, "template of tokenizer.json"), (END, "the only token of tokenizer.json")),
        (
            {"tokenizer_config": {"bos_token": {"content": END}, "eos_token": "<|eot_id|>"}},
            {},
            (END, "tokenizer_config.json"),
            ("<|eot_id|>", "tokenizer_config.json"),
        ),
        (
            {
                "tokenizer_config": {"bos_token": None, "eos_token": "<|eot_id|>"},
                "special_tokens_map": {"bos_token": END, "eos_token": END},
            },
            {},
            (END, "special_tokens_map.json"),
            ("<|eot_id|>", "tokenizer_config.json"),
        ),
        (
            {"config": {"bos_token_id": 1, "eos_token_id": [2]}},
            {},
            (END, "config.json"),
            ("<|eot_id|>", "config.json"),
        ),
        (
            {"config": {"bos_token_id": 0, "eos_token_id": [1, 2]}},
            {},
            (BEGIN, "config.json"),
            (END, "the only token of tokenizer.json"),
        ),
        (
            {"tokenizer_config": {"bos_token": END}},
            {"bos_token": "<|eot_id|>", "eos_token": "e"},
            ("<|eot_id|>", "--tokenizer.bos-token"),
            ("e", "--tokenizer.eos-token"),
        ),
    ],
)
def test_what_begins_and_ends_a_document(
    tmp_path: Path,
    files: dict[str, Any],
    options: dict[str, str],
    bos: tuple[str, str],
    eos: tuple[str, str],
) -> None:
    folder = write(byte_level_bpe(), tmp_path / "given", **files)
    found = import_huggingface(folder, tmp_path / "out", **options)
    assert (found.bos.token, found.eos.token) == (bos[0], eos[0])
    assert found.bos.rule.startswith(bos[1])
    assert found.eos.rule.startswith(eos[1])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["bos_token_id"], manifest["eos_token_id"]) == (found.bos.id, found.eos.id)
    auto: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (auto.bos_token, auto.eos_token) == (bos[0], eos[0])
    again = special_tokens(tmp_path / "out", huggingface_encoder.load_tokenizer(tmp_path / "out"))
    assert (again.bos.id, again.eos.id) == (found.bos.id, found.eos.id)


def test_a_template_may_end_documents_too(tmp_path: Path) -> None:
    folder = write(KINDS["wordpiece"](), tmp_path / "bert")
    found = special_tokens(folder, huggingface_encoder.load_tokenizer(folder))
    assert (found.bos.token, found.eos.token) == ("[CLS]", "[SEP]")


@pytest.mark.parametrize(
    ("change", "files", "message"),
    [
        ({"post_processor": None}, {}, r"which token begins a document; .*--tokenizer.bos-token"),
        (
            {"added_tokens": []},
            {},
            r"which token ends a document; name it with --tokenizer.eos-token .*: none",
        ),
        ({}, {"config": {"eos_token_id": 9_999}}, r"config.json names 9999 as eos_token, which"),
        ({}, {"tokenizer_config": {"bos_token": "<x>"}}, r"names '<x>' as bos_token, .*bos-token"),
        ({}, {"tokenizer_config": []}, r"tokenizer_config.json is not a JSON object"),
        ({"model": {"type": "Nonsense"}}, {}, r"tokenizer.json is not a valid Hugging Face"),
    ],
)
def test_refused(
    tmp_path: Path, change: dict[str, Any], files: dict[str, Any], message: str
) -> None:
    folder = write(byte_level_bpe(), tmp_path / "given", **files)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        import_huggingface(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_tokenizer(tmp_path: Path, samples: Path) -> None:
    with pytest.raises(ValueError, match=r"neither tokenizer.model nor tokenizer.json"):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match=r"there is no tokenizer .*gone"):
        tokenizer_folder(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(ValueError, match=r"tokenizer.model is not a SentencePiece model \(tiktok"):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match=r"--tokenizer.bos-token and .* are for a folder with tok"):
        tokenizer_folder(samples / "tokenizer" / "tokenizer.model", tmp_path / "o", bos_token="a")


# -- counts ---------------------------------------------------------------------------------------


def test_bytes_and_words_without_a_token(tmp_path: Path) -> None:
    encoder = load_encoder(write(byte_level_bpe(), tmp_path / "bpe"))
    assert encoder.identity.dtype == "uint16"
    # Two characters of three bytes that it was not trained on; the other texts are ASCII.
    assert encoder.encode(["\u6f22\u5b57\n", "then"]).num_byte_tokens == 6
    wordpiece = load_encoder(write(KINDS["wordpiece"](), tmp_path / "wordpiece"))
    assert wordpiece.encode(["then \u6f22 \u5b57 hen"]).num_byte_tokens == 2
    unigram = load_encoder(write(KINDS["unigram"](), tmp_path / "unigram"))
    assert unigram.encode(["then \u6f22 hen"]).num_byte_tokens == 1


def test_tokenizers_without_bos_and_eos_can_be_compared(tmp_path: Path) -> None:
    tokenizer = byte_level_bpe()
    tokenizer.post_processor = None
    folder = write(tokenizer, tmp_path / "no_bos")
    (fit,) = compare_tokenizers(corpus(prose()), {"given": folder}, bytes_per_source=10_000_000)
    assert fit.num_tokens == sum(map(len, own_ids(folder, prose())))
