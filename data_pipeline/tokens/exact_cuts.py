"""Split points of a text at which BPE encoding of the parts equals encoding of the whole.

SentencePiece's BPE starts from the text's characters and merges, again and again, the two
neighbors whose union is the token of the highest score, the leftmost among equals. So the merges
within a span of text are those, in the same order, that the span would see alone, as long as none
has crossed its borders. Two rules follow:

1. A text can be split between two characters that are adjacent in no token of the vocabulary: no
   merge crosses the split point.
2. Two parts can be encoded separately if the last token of the one and the first of the next are
   the tokens of these two encoded together, without context. For the first merge across the split
   point would join what had until then grown inside these two tokens alone, and would happen where
   they are encoded alone, too.

Both hold where the model is BPE, changes no text except for the dummy prefix and the blank symbol,
has byte fallback (adjacent unknown characters would become one token otherwise), and has neither
user-defined symbols, which are matched before all else, nor unused ones, which are split again.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data_pipeline.tokens.huggingface_tokenizer import BLANK

_proto: Any = sentencepiece_model_pb2  # generated, untyped


def can_be_cut(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether the two rules hold for a model."""
    model = _proto.ModelProto.FromString(processor.serialized_model_proto())
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    kinds = {piece.type for piece in model.pieces}
    kind = _proto.ModelProto.SentencePiece
    return (
        trainer.model_type == _proto.TrainerSpec.BPE
        and trainer.byte_fallback
        and not trainer.treat_whitespace_as_suffix
        and normalizer.add_dummy_prefix
        and normalizer.escape_whitespaces
        and not normalizer.remove_extra_whitespaces
        and not normalizer.precompiled_charsmap
        and not {kind.USER_DEFINED, kind.UNUSED} & kinds
    )


def literal_processor(
    processor: sentencepiece.SentencePieceProcessor,
) -> sentencepiece.SentencePieceProcessor:
    """The same model without the dummy prefix (blank in front of texts)."""
    model = _proto.ModelProto.FromString(processor.serialized_model_proto())
    model.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


class Cuts:
    """Rule 1 on UTF-8, one byte at a time: conservative, it finds a subset of the split points.

    For each byte there is the set of classes of characters that may follow it within a token: eight
    classes, the bits of a byte. So two lookup tables and one `&` decide whether two bytes may be
    split.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        followers = np.zeros(256, np.uint8)
        for i in range(processor.vocab_size()):
            if processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i):
                continue
            for left, right in itertools.pairwise(processor.id_to_piece(i).replace(BLANK, " ")):
                followers[left.encode()[-1]] |= _KINDS[right.encode()[0]]
        followers[0x80:] |= _CONTINUATION  # never split within a character
        self._followers = followers.tobytes()

    def between(self, text: bytes) -> npt.NDArray[np.bool_]:
        """For each byte of `text` but the first: whether the text may be split before it.

        `text` is UTF-8 without U+2581, which SentencePiece reserves for blanks.
        """
        followers = np.frombuffer(text.translate(self._followers), np.uint8)
        kinds = np.frombuffer(text.translate(_KINDS), np.uint8)
        is_place: npt.NDArray[np.bool_] = (followers[:-1] & kinds[1:]) == 0
        return is_place


_CONTINUATION = 1 << 7


def _kinds() -> bytes:
    """For each byte the class of the character that begins with it, as one bit."""
    kinds = bytearray(256)
    for byte in range(128):
        character = chr(byte)
        is_kind = (
            character == " ",
            character.isdigit(),
            character.isupper(),
            character.islower(),
            character == "\n",
            True,
        )
        kinds[byte] = 1 << is_kind.index(True)
    kinds[0x80:0xC0] = [_CONTINUATION] * 0x40
    kinds[0xC0:] = [1 << 6] * 0x40
    return bytes(kinds)


_KINDS = _kinds()


class LongCuts:
    """Rule 2, for spans of text in which rule 1 finds no split point."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        """`processor` is a `literal_processor`."""
        self._processor = processor
        pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
        self._lengths = [
            1 if processor.is_byte(i) else len(piece.replace(BLANK, " ").encode())
            for i, piece in enumerate(pieces)
        ]

    def places(self, text: bytes, size: int) -> list[int]:
        """Offsets that split `text` into parts of at most `size` bytes, and not much less.

        `text` is as for `Cuts.between`. Empty where no such split can be shown to be exact.
        """
        places: list[int] = []
        start = 0
        ids = self._ids(text, 0, size)
        while start + size < len(text):
            ends = list(itertools.accumulate((self._lengths[i] for i in ids), initial=start))
            for last in range(len(ids) - _UNSURE_TOKENS, max(0, len(ids) - _TRIED_TOKENS), -1):
                if not _is_inside_character(text, ends[last]):
                    following = self._ids(text, ends[last], size)
                    if self._are_apart(text, ids[last - 1], ends[last], following[0]):
                        break
            else:
                return []
            start, ids = ends[last], following
            places.append(start)
        return places

    def _ids(self, text: bytes, start: int, size: int) -> list[int]:
        end = min(start + size, len(text))
        while _is_inside_character(text, end):
            end -= 1
        return self._encode(text[start:end])

    def _are_apart(self, text: bytes, left: int, place: int, right: int) -> bool:
        """Whether rule 2 allows a split between the tokens `left` and `right`."""
        start, end = place - self._lengths[left], place + self._lengths[right]
        # Byte fallback gives one token per byte of an unknown character, but it is one symbol.
        while _is_inside_character(text, start):
            start -= 1
        while _is_inside_character(text, end):
            end += 1
        apart = self._encode(text[start:place]) + self._encode(text[place:end])
        return self._encode(text[start:end]) == apart

    def _encode(self, text: bytes) -> list[int]:
        ids: list[int] = self._processor.encode(text.decode(), out_type=int)
        return ids


# The last tokens of a part may differ where the text goes on; split points before them are tried,
# back to this many.
_UNSURE_TOKENS = 32
_TRIED_TOKENS = 128


def _is_inside_character(text: bytes, offset: int) -> bool:
    return offset < len(text) and text[offset] & 0xC0 == 0x80
