"""Layouts of a tiny run: how its model, data and optimizer are cut over one to four processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from llama_ds.config import Recipe
from tests.support.tiny_run import tiny_recipe


@dataclasses.dataclass(frozen=True)
class Layout:
    stage: int
    dp: int = 1
    tp: int = 1
    sp: int = 1
    dtype: str = "fp32"
    accum: int = 1
    megatron: bool = False
    persistent: int = 0

    def __str__(self) -> str:
        return f"zero{self.stage}-dp{self.dp}-tp{self.tp}-sp{self.sp}-{self.dtype}"

    @property
    def num_ranks(self) -> int:
        return self.dp * self.tp * self.sp

    def recipe(self, store: Path, run_dir: Path, **overrides: Any) -> Recipe:
        return tiny_recipe(
            store,
            run_dir,
            **{
                "train.dtype": self.dtype,
                "train.allow_change": ("train.dtype",),
                "train.micro_batch_size": 8 // (self.dp * self.accum),
                "train.eval_rows": 0,
                "zero.stage": self.stage,
                "zero.param_persistence_elements": self.persistent,
                "parallel.tp": self.tp,
                "parallel.sp": self.sp,
                "parallel.sequence_parallel": self.megatron,
                "parallel.replicate_kv_heads": self.tp * self.sp > 2,
                **overrides,
            },
        )
