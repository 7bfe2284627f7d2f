"""Trains n-gram LMs with interpolated modified Kneser-Ney smoothing, in numpy.

Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98,
Harvard 1998), sections 3 and 4.1.6; as Heafield et al. 2013 (KenLM's lmplz) estimate them:

    p(w | context) = (a(context w) - D(a)) / sum_v a(context v)
                     + gamma(context) p(w | context without its first word)

where a is the count for n-grams of the highest order and for those that begin a sentence, else the
continuation count (number of distinct words seen before the n-gram); D(a) is the discount D1, D2 or
D3+ for a = 1, 2 and more; and gamma(context) is the probability mass that the discounts free, so
that the probabilities sum to one. Unigrams are interpolated with the uniform distribution over all
words but <s>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipeline.filters.ngram import NEVER, Ints, NGramModel, Order

Doubles = npt.NDArray[np.float64]

_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Discounts if there are too few n-grams to estimate them: lmplz's --discount_fallback."""


@dataclass(frozen=True)
class _Grams:
    """The distinct n-grams of one order, sorted by key (see `ngram`)."""

    keys: Ints
    counts: Ints
    suffixes: Ints
    """Index, among the n-grams one order lower, of all words but the first."""
    begins_sentence: npt.NDArray[np.bool_]


def train_model(ids: Ints, words: Sequence[str], *, order: int, begin: int, end: int) -> NGramModel:
    """A model of the sentences in `ids` (word ids, each sentence from `begin` to `end`).

    Memory: about 200 bytes per word of `ids`. ValueError if `ids` holds no sentence.
    """
    if order < 1:
        raise ValueError(f"order ({order}) must be at least 1")
    if len(ids) < 2 or ids[0] != begin or ids[-1] != end:
        raise ValueError("there is no text to train an n-gram model on")
    grams = _count(ids, len(words), order, begin)
    return _smooth(grams, tuple(words), begin)


def _count(ids: Ints, num_words: int, order: int, begin: int) -> list[_Grams]:
    """The n-grams of each order up to `order`; none crosses a sentence's begin."""
    is_begin = ids == begin
    sentence = np.cumsum(is_begin, dtype=np.int32)
    unigrams = np.arange(num_words)
    counts = np.bincount(ids, minlength=num_words)
    grams = [_Grams(unigrams, counts, np.zeros(num_words, np.int64), unigrams == begin)]
    place = ids.copy()  # index of the n-gram that begins at each position
    starts = np.arange(len(ids))
    for length in range(2, order + 1):
        starts = starts[starts <= len(ids) - length]
        starts = starts[sentence[starts] == sentence[starts + length - 1]]
        keys = place[starts] * num_words + ids[starts + length - 1]
        by_key = np.argsort(keys)
        keys, sorted_starts = keys[by_key], starts[by_key]
        is_new = np.empty(len(keys), bool)
        is_new[:1] = True
        np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
        bounds = np.flatnonzero(is_new)
        first = sorted_starts[bounds]
        suffixes = place[first + 1]
        counts = np.diff(bounds, append=len(keys))
        grams.append(_Grams(keys[bounds], counts, suffixes, is_begin[first]))
        place[sorted_starts] = np.cumsum(is_new) - 1
    return grams


def _smooth(grams: list[_Grams], words: tuple[str, ...], begin: int) -> NGramModel:
    """Probabilities from unigrams up; each order sets the back-off weights of the one below."""
    orders: list[Order] = []
    num_words = len(words)
    lower = np.full(1, 1 / (num_words - 1))
    log_backoffs: list[Doubles] = []
    for length, own in enumerate(grams, start=1):
        adjusted = _adjusted_counts(own, grams[length] if length < len(grams) else None)
        if length == 1:
            adjusted[begin] = 0
        contexts = own.keys // num_words if length > 1 else np.zeros(num_words, np.int64)
        num_contexts = len(grams[length - 2].keys) if length > 1 else 1
        discounts = _discounts(adjusted)[np.minimum(adjusted, 3)]
        total = np.bincount(contexts, adjusted, num_contexts)
        freed = np.bincount(contexts, discounts, num_contexts)
        has_text = total > 0
        gamma = np.ones(num_contexts)
        np.divide(freed, total, out=gamma, where=has_text)
        probs = (adjusted - discounts) / np.where(has_text, total, 1.0)[contexts]
        probs += gamma[contexts] * lower[own.suffixes]
        log_backoffs.append(np.log10(gamma))
        orders.append(Order(own.keys, _log10(probs), np.zeros(len(own.keys), np.float32)))
        lower = probs
    orders[0].log_probs[begin] = NEVER
    with_backoffs = [
        Order(own.keys, own.log_probs, backoffs.astype(np.float32))
        for own, backoffs in zip(orders[:-1], log_backoffs[1:], strict=True)
    ]
    return NGramModel(words, (*with_backoffs, orders[-1]))


def _log10(probs: Doubles) -> npt.NDArray[np.float32]:
    return np.log10(probs).astype(np.float32)


def _adjusted_counts(own: _Grams, longer: _Grams | None) -> Ints:
    if longer is None:
        return own.counts.copy()
    num_left = np.bincount(longer.suffixes, minlength=len(own.keys))
    return np.where(own.begins_sentence, own.counts, num_left)


def _discounts(adjusted: Ints) -> Doubles:
    """Discounts D of counts 0, 1, 2, 3+, from the numbers of n-grams with count 1, 2, 3 and 4."""
    t = np.bincount(np.minimum(adjusted, 5), minlength=6)[:5].astype(np.float64)
    if (t[1:] > 0).all():
        y = t[1] / (t[1] + 2 * t[2])
        found = np.array([0.0, *(k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3))])
        if (found >= 0).all() and (found <= np.arange(4)).all():
            return found
    return np.array([0.0, *_FALLBACK_DISCOUNTS])
