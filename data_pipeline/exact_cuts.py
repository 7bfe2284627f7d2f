"""Where a text can be cut so that its parts, encoded one by one, have the ids of the whole.

SentencePiece's BPE starts from the text's characters and joins, again and again, the two
neighbours whose union is the piece of the highest score, the leftmost among equals. Two rules
follow:

1. Nothing is ever joined across a place whose two characters are neighbours in no piece of the
   vocabulary. What happens on one side of it does not depend on the other.
2. Let `left` be the last token of one part, and `right` the first of the next. If `left + right`
   encoded alone are these two, nothing is joined across this place either: the first such union
   would be one of parts of `left` and `right`, made of what the same unions in the same order had
   made of them, and would have been made as well when they were encoded alone.

Both hold where the model is BPE, changes no text but for the dummy prefix and the mark for a
blank, writes unknown characters as bytes (otherwise neighbours that are unknown become one token),
and has neither pieces that are matched before all else (user-defined) nor such that are taken
apart again (unused).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sentencepiece import sentencepiece_model_pb2

from data_pipeline.huggingface_tokenizer import BLANK

Model = sentencepiece_model_pb2.ModelProto
_Piece = Model.SentencePiece


def can_be_cut(model: Model) -> bool:
    """Whether the two rules hold for a model."""
    kinds = {piece.type for piece in model.pieces}
    normalizer = model.normalizer_spec
    return (
        model.trainer_spec.model_type == sentencepiece_model_pb2.TrainerSpec.BPE
        and model.trainer_spec.byte_fallback
        and not model.trainer_spec.treat_whitespace_as_suffix
        and not normalizer.precompiled_charsmap
        and not normalizer.remove_extra_whitespaces
        and normalizer.escape_whitespaces
        and normalizer.add_dummy_prefix
        and not kinds & {_Piece.USER_DEFINED, _Piece.UNUSED}
        and sum(piece.type == _Piece.BYTE for piece in model.pieces) == 256
    )


class Cuts:
    """Rule 1 on UTF-8, a byte at a time: it finds fewer places than there are, but none is wrong.

    Each byte has a set of kinds of characters that may follow it within a piece, eight kinds as
    the bits of a byte. Kinds are few and sets are of bytes, not characters, so that whether two
    bytes hold together is one `&` of what two tables have for them.
    """

    def __init__(self, model: Model) -> None:
        followers = np.zeros(256, np.uint8)
        for piece in model.pieces:
            if piece.type == _Piece.NORMAL:
                for left, right in itertools.pairwise(piece.piece):
                    for first in _forms(right):
                        for last in _forms(left):
                            followers[last[-1]] |= _KINDS[first[0]]
        # Bytes of one character are not parted.
        followers[0x80:] |= _CONTINUATION
        self._followers = followers.tobytes()

    def between(self, text: bytes) -> npt.NDArray[np.bool_]:
        """For each byte of valid UTF-8 but the first: whether the text may be cut before it."""
        followers = np.frombuffer(text.translate(self._followers), np.uint8)
        kinds = np.frombuffer(text.translate(_KINDS), np.uint8)
        return (followers[:-1] & kinds[1:]) == 0


def _forms(character: str) -> Iterator[bytes]:
    """A character of a piece as texts have it: the mark for a blank is the blank, or itself."""
    yield character.encode()
    if character == BLANK:
        yield b" "


_CONTINUATION = 1 << 7


def _kinds() -> bytes:
    """The kind of the character that begins with a byte, as one bit."""
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        character = chr(byte)
        order = (
            character == " ",
            character.isdigit(),
            character.isupper(),
            character.islower(),
            not character.isprintable(),
            True,
        )
        kinds[byte] = 1 << order.index(True)
    kinds[0xC0:] = 1 << 6
    kinds[0x80:0xC0] = _CONTINUATION
    return kinds.tobytes()


_KINDS = _kinds()
