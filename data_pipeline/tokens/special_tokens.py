"""Finds the BOS and EOS tokens of a Hugging Face tokenizer.

In this order: the options; the result of an earlier build; `tokenizer_config.json`,
`special_tokens_map.json`, `config.json`; then `tokenizer.json` itself: its post-processor template,
or its only special token that is known as EOS (`END_TOKENS`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers

Role = Literal["bos", "eos"]
END_TOKENS = frozenset(
    {"</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "[EOS]", "<|eos|>", "<|end_of_document|>"}
)
"""Names of EOS tokens in published tokenizers that are used for nothing else."""


@dataclass(frozen=True)
class SpecialToken:
    id: int
    token: str
    rule: str
    """Where it was found."""

    def __str__(self) -> str:
        return f"{self.id} {self.token} ({self.rule})"


@dataclass(frozen=True)
class SpecialTokens:
    bos: SpecialToken
    eos: SpecialToken


def special_tokens(
    folder: Path,
    tokenizer: tokenizers.Tokenizer,
    *,
    bos_token: str | None = None,
    eos_token: str | None = None,
) -> SpecialTokens:
    """BOS and EOS of the tokenizer in `folder`; ValueError where one of them is undefined, or a
    file names a token that the tokenizer does not have."""
    return SpecialTokens(
        _token(folder, tokenizer, "bos", bos_token), _token(folder, tokenizer, "eos", eos_token)
    )


def _token(
    folder: Path, tokenizer: tokenizers.Tokenizer, role: Role, chosen: str | None
) -> SpecialToken:
    option = f"--tokenizer.{role}-token"
    if chosen is not None:
        if (found := tokenizer.token_to_id(chosen)) is None:
            raise ValueError(f"{option}: {folder}/tokenizer.json has no token {chosen!r}")
        return SpecialToken(found, chosen, option)
    for name, value in _named(folder, role):
        number = value if isinstance(value, int) else tokenizer.token_to_id(value)
        token = None if number is None else tokenizer.id_to_token(number)
        if number is None or token is None:
            raise ValueError(
                f"{folder}/{name} names {value!r} as {role}_token, which {folder}/tokenizer.json "
                f"does not have; name another with {option}"
            )
        return SpecialToken(number, token, name)
    settings = read_object(folder / "tokenizer.json")
    for rule, token in _of_tokenizer(settings, role):
        if (number := tokenizer.token_to_id(token)) is not None:
            return SpecialToken(number, token, rule)
    special = ", ".join(_special(settings)) or "none"
    what = "begins" if role == "bos" else "ends"
    raise ValueError(
        f"{folder}: no file says which token {what} a document; name it with {option} (special "
        f"tokens of tokenizer.json: {special})"
    )


def _named(folder: Path, role: Role) -> Iterator[tuple[str, str | int]]:
    """(file, token or id) of each file that defines it."""
    for name in ("manifest.json", "tokenizer_config.json", "special_tokens_map.json"):
        value = read_object(folder / name).get(f"{role}_token")
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str) and value:
            yield name, value
    value = read_object(folder / "config.json").get(f"{role}_token_id")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int) and not isinstance(value, bool):
        yield "config.json", value


def _of_tokenizer(settings: dict[str, Any], role: Role) -> Iterator[tuple[str, str]]:
    for before, after in _templates(settings.get("post_processor")):
        around = before if role == "bos" else after[::-1]
        if around:
            yield "template of tokenizer.json", around[0]
    if role == "eos":
        ends = [token for token in _special(settings) if token in END_TOKENS]
        if len(ends) == 1:
            yield "the only token of tokenizer.json that is known to end documents", ends[0]


def _templates(processor: Any) -> Iterator[tuple[list[str], list[str]]]:
    """Special tokens before and after a text, by the post-processor's templates."""
    if not isinstance(processor, dict):
        return
    kind = processor.get("type")
    if kind == "Sequence":
        for inner in processor.get("processors", []):
            yield from _templates(inner)
    elif kind == "TemplateProcessing":
        template = processor.get("single", [])
        texts = [index for index, piece in enumerate(template) if "Sequence" in piece]
        if texts:
            names = [piece.get("SpecialToken", {}).get("id", "") for piece in template]
            yield names[: texts[0]], names[texts[0] + 1 :]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        yield [processor["cls"][0]], [processor["sep"][0]]


def _special(settings: dict[str, Any]) -> list[str]:
    return [added["content"] for added in settings.get("added_tokens", []) if added.get("special")]


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty where there is no file. ValueError for anything else."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found
