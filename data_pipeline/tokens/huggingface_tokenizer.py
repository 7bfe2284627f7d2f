"""Converts a SentencePiece BPE model to a Hugging Face tokenizer with identical ids for any string.

What makes them identical:

- there is no pre-tokenizer; the normalizer is SentencePiece's dummy prefix (`Prepend`) and blank
  symbol (`Replace`), which are correct for text with leading spaces, too;
- there is one merge per token (`_merges` says why), so that ties cannot be broken differently.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping

import sentencepiece
import tokenizers
from tokenizers import decoders, normalizers, processors

BLANK = "\u2581"  # SentencePiece writes a space as this character


def to_huggingface(processor: sentencepiece.SentencePieceProcessor) -> tokenizers.Tokenizer:
    """The exact equivalent of `processor`, with BOS in front; ValueError if none exists."""
    _check_expressible(processor)
    num_pieces = processor.vocab_size()
    pieces = [processor.id_to_piece(i) for i in range(num_pieces)]
    scores = {
        pieces[i]: processor.get_score(i)
        for i in range(num_pieces)
        if not (processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i))
    }
    special = [pieces[i] for i in (processor.unk_id(), processor.bos_id(), processor.eos_id())]
    unk, bos, _ = special
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=_merges(scores),
            unk_token=unk,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(piece, special=True, normalized=False) for piece in special]
    )
    _compare(processor, tokenizer, list(scores))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, processor.bos_id())],
    )
    return tokenizer


def _check_expressible(processor: sentencepiece.SentencePieceProcessor) -> None:
    if min(processor.unk_id(), processor.bos_id(), processor.eos_id()) < 0:
        raise ValueError("the SentencePiece model lacks an unknown, BOS or EOS piece")
    if sum(processor.is_byte(i) for i in range(processor.vocab_size())) != 256:
        raise ValueError("the SentencePiece model has no byte fallback")
    normalized = processor.normalize("  a \ufb01\t")
    if normalized != f"{BLANK}{BLANK}{BLANK}a{BLANK}\ufb01\t":
        raise ValueError(
            "the SentencePiece model changes text (its normalizer is not identity with dummy "
            f"prefix and all spaces kept): two spaces, 'a ', a ligature, a tab gave {normalized!r}"
        )


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """BPE merges in order, from tokens with their scores, such that both libraries merge alike.

    SentencePiece merges the adjacent pair whose union has the highest score, the leftmost among
    equals; Hugging Face merges the pair of lowest rank, the leftmost among equals. With one pair
    per union, and no two unions of equal score, the two rules are one. And one pair is enough:
    as long as no merge has crossed the borders of a span of text, the merges inside it are those,
    in the same order, that the span would see alone. So whenever two symbols merge into a token,
    they are the two that it consists of last when it is encoded alone.

    LLaMA's own model gives one (lowest) score to all tokens of blanks; those get all their pairs,
    in order of id, and `_compare` tries runs of blanks.
    """
    unions = sorted((piece for piece in scores if len(piece) > 1), key=lambda p: -scores[p])
    counts = Counter(scores[piece] for piece in unions)
    tied = [piece for piece in unions if counts[scores[piece]] > 1]
    has_mixed = any(BLANK * 2 in piece and piece.strip(BLANK) for piece in unions)
    if any(piece.strip(BLANK) for piece in tied) or (tied and has_mixed):
        raise ValueError(
            f"the SentencePiece model gives several pieces one score ({', '.join(tied[:3])} …); "
            "this order of merges cannot be expressed in Hugging Face's tokenizers"
        )
    merges = []
    for piece in unions:
        if counts[scores[piece]] > 1:
            cuts = ((piece[:k], piece[k:]) for k in range(1, len(piece)))
            merges += [(left, right) for left, right in cuts if left in scores and right in scores]
        elif (pair := _last_pair(piece, scores)) is not None:
            merges.append(pair)
    return merges


def _last_pair(piece: str, scores: Mapping[str, float]) -> tuple[str, str] | None:
    """The last pair that SentencePiece merges in encoding `piece`; None if it never does."""
    symbols = list(piece)
    while len(symbols) > 2:
        unions = [left + right for left, right in itertools.pairwise(symbols)]
        known = [i for i, union in enumerate(unions) if union in scores]
        if not known:
            return None
        best = max(known, key=lambda i: scores[unions[i]])  # max returns the first, so the leftmost
        symbols[best : best + 2] = [unions[best]]
    left, right = symbols
    return left, right


def _compare(
    processor: sentencepiece.SentencePieceProcessor,
    tokenizer: tokenizers.Tokenizer,
    pieces: Iterable[str],
) -> None:
    """ValueError unless both give equal ids for every token, sequences of tokens, and blanks."""
    words = [piece.replace(BLANK, " ") for piece in pieces]
    chains = ["".join(words[begin : begin + 8]) for begin in range(0, len(words), 8)]
    blanks = [" " * count for count in range(1, 200)]
    samples = [*words, *chains, *blanks]
    expected = processor.encode(samples, out_type=int, num_threads=1)
    for text, ids in zip(samples, expected, strict=True):
        if tokenizer.encode(text, add_special_tokens=False).ids != ids:
            raise ValueError(
                f"the SentencePiece model is not BPE of LLaMA's kind: for {text!r} its ids differ "
                "from those of the exported tokenizer"
            )
