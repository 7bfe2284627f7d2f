"""How the paper judges what the harness's own metrics do not: four measures and a class.

Each function has the harness's signature (row, answers of the model) -> values by metric.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

ANSWER_CONTEXT = "Answer:"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_GSM8K_ANSWER = re.compile(r"The answer is \$?(-?[0-9.,]*[0-9])")

Row = dict[str, Any]


class AnswerNormalised(ConfigurableTask):  # type: ignore[misc]  # lm_eval has no types
    """Choices judged by P(choice | context) / P(choice | "Answer:"), beside the harness's ways.

    The paper's section 3.1 for OpenBookQA and BoolQ, as GPT-3's section 2.4. The harness's
    acc_mutual_info divides by the likelihood after an empty context.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config=config)
        self._aggregation_list["acc_answer"] = mean
        self._higher_is_better["acc_answer"] = True

    def construct_requests(self, doc: Row, ctx: str, **kwargs: Any) -> list[Instance]:
        """The choices after the context, then each after "Answer:"."""
        kwargs = {
            k: v for k, v in kwargs.items() if k not in ("apply_chat_template", "chat_template")
        }
        requests: list[Instance] = super().construct_requests(doc, ctx, **kwargs)
        count = len(requests)
        for index, request in enumerate(requests[:count]):
            arguments = (ANSWER_CONTEXT, request.args[1])
            requests.append(Instance("loglikelihood", doc, arguments, count + index, **kwargs))
        return requests

    def process_results(self, doc: Row, results: Sequence[tuple[float, bool]]) -> Row:
        count = len(results) // 2
        judged: Row = super().process_results(doc, results[:count])
        after_answer = [likelihood for likelihood, _ in results[count:]]
        gains = [own - other for (own, _), other in zip(results, after_answer, strict=False)]
        best = max(range(count), key=gains.__getitem__)
        return {**judged, "acc_answer": float(best == self.doc_to_target(doc))}


def normalised(answer: str) -> str:
    """Lower case, without articles, punctuation and repeated spaces (the paper's appendix A)."""
    words = _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()
    return " ".join(words)


def closed_book(row: Row, texts: Sequence[str]) -> Row:
    """Whether the text is one of the row's answers, both normalized."""
    answer = normalised(re.split(r"[\n.,]", texts[0])[0])
    return {"exact_match": float(answer in map(normalised, row["answer"]))}


def majority(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, of several the one that came first; None where there is none."""
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def math_answers(row: Row, drawn: Sequence[Sequence[str]]) -> Row:
    """MATH: the first text's answer and the majority's, as Minerva compares them."""
    from lm_eval.tasks.minerva_math import utils as minerva

    found = []
    for text in drawn[0]:
        raw = minerva.get_unnormalized_answer(text)
        found.append(None if raw == "[invalidanswer]" else minerva.normalize_final_answer(raw))
    return _judged(found, lambda answer: bool(minerva.is_equiv(answer, row["answer"])))


def gsm8k_answers(row: Row, drawn: Sequence[Sequence[str]]) -> Row:
    """GSM8k: the number behind "The answer is", of the first text and of the majority."""
    matches = [_GSM8K_ANSWER.search(text) for text in drawn[0]]
    found = [None if match is None else _number(match[1]) for match in matches]
    gold = _number(row["answer"].split("####")[-1].strip())
    return _judged(found, lambda answer: answer == gold)


def _number(text: str) -> str:
    plain = text.replace(",", "").replace("$", "").rstrip(".")
    try:
        value = float(plain)
    except ValueError:
        return plain
    return str(int(value)) if value == int(value) else plain


def _judged(found: Sequence[str | None], is_right: Callable[[str], bool]) -> Row:
    chosen = majority(found)
    first = found[0]
    return {
        "exact_match": float(first is not None and is_right(first)),
        "majority": float(chosen is not None and is_right(chosen)),
    }


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The probability that one of k samples passes, estimated without bias from n of which c do.

    1 - C(n - c, k) / C(n, k): arXiv 2107.03374, equation 1. ValueError for fewer samples than k.
    """
    if num_samples < k:
        raise ValueError(f"pass@{k} needs {k} samples or more, not {num_samples}; raise --samples")
    if num_samples - num_passed < k:
        return 1.0
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)
