"""A model with its tokenizer, which continues prompts: on one device, or sharded over the ranks."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, TextStreamer

from llama_ds.generate.sampling import Sampling
from llama_ds.loaded_model import loaded_model, require_divisible, tokenizer_of
from llama_ds.planning.generation_memory import free_bytes, generation_memory, weight_shapes
from llama_ds.torchrun_ranks import Ranks

GIB = 2**30


class Writer:
    """`loaded` loads the weights; all else is known from the folder's small files."""

    def __init__(
        self, folder: Path, sampling: Sampling, ranks: Ranks, dtype: torch.dtype | None = None
    ) -> None:
        """ValueError for a folder that cannot be used, or not by so many ranks.

        `dtype` of the weights: by default that of the folder's configuration.
        """
        self._ranks = ranks
        self._folder = folder
        whole_config: Any = AutoConfig.from_pretrained(folder)
        self._config = whole_config.get_text_config()
        self._dtype: torch.dtype = dtype or whole_config.dtype or torch.float32
        self._tokenizer = tokenizer_of(folder)
        self._context: int | None = getattr(self._config, "max_position_embeddings", None)
        self._max_new_tokens = sampling.max_new_tokens
        self._generation = _generation_config(folder, whole_config, sampling)
        if ranks.size > 1:
            require_divisible(self._config, ranks.size)

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn at random."""
        return bool(self._generation.do_sample)

    def require_memory(self, prompt: str | None) -> str:
        """What is needed for `prompt` (None: for any) and what is free, in words.

        Collective. ValueError where it is too little, or where the model cannot continue `prompt`.
        """
        needed = generation_memory(
            weight_shapes(self._folder),
            self._config,
            self._dtype,
            num_positions=self._num_positions(prompt),
            num_sequences=self._generation.num_beams or 1,
            tp_size=self._ranks.size,
        )
        size, is_cpu = self._ranks.size, self._ranks.device.type == "cpu"
        free = self._ranks.least(free_bytes(self._ranks.device))
        # The processes of a machine share its memory.
        copies = size if is_cpu else 1
        total = needed.total * copies
        where = "the CPU" if is_cpu else f"each of {size} GPUs" if size > 1 else "the GPU"
        there = "an unknown amount is" if free is None else f"{_size(free)} are"
        if free is not None and total > free:
            narrower = "--dtype bf16, " if self._dtype.itemsize > 2 else ""
            raise ValueError(
                f"{self._folder} needs {_size(total)} on {where}, where {there} free; use "
                f"{narrower}fewer --max-new-tokens, or several GPUs "
                "(torchrun --nproc-per-node N -m llama_ds.generate)"
            )
        parts = ", ".join(
            f"{name} {_size(part * copies)}" for name, part in dataclasses.asdict(needed).items()
        )
        return f"{_size(total)} needed on {where} ({parts}), {there} free"

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Load the weights, to `write` meanwhile; collective.

        ValueError where they do not match the configuration.
        """
        with loaded_model(self._folder, self._config, self._dtype, self._ranks) as model:
            self._model = model
            yield

    def write(self, prompt: str) -> str:
        """Print the prompt and its continuation, as it grows unless beams are searched.

        Returns a line about it. Collective; rank 0 prints. ValueError for a prompt that the model
        cannot continue.
        """
        inputs = self._encoded(prompt).to(self._ranks.device)
        length = inputs["input_ids"].shape[1]
        config = copy.copy(self._generation)
        config.max_new_tokens = self._num_new_tokens(length)
        is_first, is_streamed = self._ranks.rank == 0, config.num_beams in (None, 1)
        streamer = None
        if is_first and is_streamed:
            streamer = TextStreamer(self._tokenizer, skip_special_tokens=True)
        start = time.perf_counter()
        # Every rank has the same logits, and draws with the same seed: the same tokens.
        ids = self._model.generate(**inputs, generation_config=config, streamer=streamer)[0]
        duration = time.perf_counter() - start
        if is_first and not is_streamed:
            print(self._tokenizer.decode(ids, skip_special_tokens=True), flush=True)  # noqa: T201
        number = len(ids) - length
        full = f"; the context of {self._context} tokens is full"
        return f"{number} tokens in {duration:.1f} s, {number / duration:.1f}/s" + (
            full if length + number == self._context else ""
        )

    def _encoded(self, prompt: str) -> Any:
        """Ids [1, S] and their mask; ValueError where the model cannot continue them."""
        inputs = self._tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        ids = inputs["input_ids"]
        if ids.shape[1] == 0:
            raise ValueError("the prompt is empty, and the tokenizer begins a text with no token")
        if self._context is not None and ids.shape[1] >= self._context:
            raise ValueError(
                f"the prompt has {ids.shape[1]} tokens, and the model's context "
                f"(max_position_embeddings) of {self._context} holds prompt and continuation; "
                "shorten it"
            )
        if int(ids.max()) >= self._config.vocab_size:
            raise ValueError(
                f"the tokenizer of {self._folder} gives the id {int(ids.max())}, and the model's "
                f"vocab_size is {self._config.vocab_size}; put the model's own tokenizer there"
            )
        return inputs

    def _num_new_tokens(self, length: int) -> int:
        wanted = self._max_new_tokens
        return wanted if self._context is None else min(wanted, self._context - length)

    def _num_positions(self, prompt: str | None) -> int:
        """Tokens of prompt and continuation; where the prompt is not known yet, the context."""
        if prompt is None and self._context is not None:
            return self._context
        length = self._encoded(prompt)["input_ids"].shape[1] if prompt is not None else 0
        return length + self._num_new_tokens(length)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes > GIB / 4 else f"{num_bytes / 2**20:.1f} MiB"


def _generation_config(folder: Path, config: Any, sampling: Sampling) -> Any:
    """The folder's own, with what `sampling` changes."""
    if (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(folder)
    else:
        generation = GenerationConfig.from_model_config(config)
    if generation.pad_token_id is None:
        # One sequence has no padding; generate() would say each time that it takes this.
        end = generation.eos_token_id
        generation.pad_token_id = end[0] if isinstance(end, list) else end
    generation.update(**sampling.changes())
    generation.max_length = None  # beside max_new_tokens
    return generation
