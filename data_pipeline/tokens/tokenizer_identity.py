"""Identity of a tokenizer: a hash of what it does, equal for all files that do the same.

`tokenizer.model` and `tokenizer.json` are two forms of one tokenizer, and a `tokenizer.json` can be
written in many ways. So not the files are hashed, but the vocabulary with its ids, and the ids of
probe texts: every piece of the vocabulary, alone and among others, and texts whose spaces, line
ends, digits, scripts and bytes tokenizers treat differently. BOS and EOS are not part of it;
special tokens in a text are characters, as everywhere in this package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipeline.tokens.huggingface_encoder import load_tokenizer

_PIECES_PER_PROBE = 64
_PROBES = (
    *("", " ", "a", " a", "  a", "a ", "a  b", "\n", "\n\n", " \n a", "\ta", "a\r\nb", "a\n  b\n"),
    *("The 1234567890 numbers, 3.14 and 1,000.", "it's I'LL we'Ve don't", "!!?? ... --- <<>>"),
    *("def f(x):\n    return x  # y\n", "<s> </s> <unk> <|endoftext|> <|begin_of_text|> [CLS]"),
    *(
        "naïve café Ångström",
        "Привет мир",
        "你好\uff0c世界。",
        "こんにちは",
        "안녕",
        "שלום",
        "مرحبا",
        "हिन्दी",
    ),
    *(
        "🙂👩‍👩‍👧‍👦",
        "▁x ▁ y",
        "\u00a0x\u200by\u3000z",
        "ﬁ \uff21 ① ½",
        "e\u0301 \u00e9",
        "\x00\x01\x7f",
    ),
)
_Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]


def tokenizer_identity(folder: Path) -> str | None:
    """Hash of the tokenizer in `folder`, 32 hexadecimal digits; None where it has none.

    tokenizer.model counts where there are both files, if it is SentencePiece's (tiktoken's files
    have the same name). ValueError where a tokenizer.json is invalid.
    """
    found = _sentencepiece(folder) or _huggingface(folder)
    if found is None:
        return None
    vocabulary, encode = found
    content = [sorted(vocabulary.items()), list(encode(_probes(vocabulary)))]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def vocabulary_of(folder: Path) -> dict[int, str]:
    """Piece of each id; empty where the folder has no tokenizer."""
    found = _sentencepiece(folder) or _huggingface(folder)
    return {} if found is None else found[0]


def _probes(vocabulary: dict[int, str]) -> list[str]:
    texts = [_text(vocabulary[number]) for number in sorted(vocabulary)]
    probes = [*_PROBES, *texts]
    for start in range(0, len(texts), _PIECES_PER_PROBE):
        chunk = texts[start : start + _PIECES_PER_PROBE]
        probes += [" ".join(chunk), "".join(chunk)]
    return probes


def _text(piece: str) -> str:
    """About the text that a piece stands for, from the piece alone."""
    return piece.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")


def _sentencepiece(folder: Path) -> tuple[dict[int, str], _Encode] | None:
    path = folder / "tokenizer.model"
    try:
        import sentencepiece
    except ModuleNotFoundError:  # training needs only tokenizers, and has the other form
        return None
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (RuntimeError, OSError):
        return None
    size = processor.vocab_size()
    pieces = {number: str(processor.id_to_piece(number)) for number in range(size)}
    return pieces, lambda texts: [processor.encode(text, out_type=int) for text in texts]


def _huggingface(folder: Path) -> tuple[dict[int, str], _Encode] | None:
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = load_tokenizer(folder)
    pieces = {n: piece for piece, n in tokenizer.get_vocab(with_added_tokens=True).items()}

    def encode(texts: Sequence[str]) -> list[list[int]]:
        # One at a time, because a batch starts threads, which a process that forks must not have.
        found = (tokenizer.encode_batch_fast([t], add_special_tokens=False)[0] for t in texts)
        return [encoding.ids for encoding in found]

    return pieces, encode
