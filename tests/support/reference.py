"""Reference training run in plain PyTorch, with stock transformers' model."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from data_pipeline.tokens.store import TokenStore
from llama_ds import model as llama_model
from llama_ds.batch import batch_plan
from llama_ds.config import Recipe
from llama_ds.data import TrainingData
from llama_ds.hf_config import hf_config


class Reference:
    """The same run in one process, with stock transformers' model and torch's own optimizer."""

    def __init__(self, recipe: Recipe, skipped: Collection[int] = ()) -> None:
        """`skipped`: steps, from 0, that make no update."""
        torch.manual_seed(recipe.train.seed)
        store = TokenStore.open(recipe.data.store)
        config = hf_config(recipe.model, bos_token_id=1, eos_token_id=2, dtype=torch.float32)
        ours = llama_model.LlamaForCausalLM(config)
        self.model = LlamaForCausalLM(config)
        self.model.load_state_dict(ours.state_dict())
        self.model.train()
        self.initial = {name: weight.clone() for name, weight in ours.state_dict().items()}
        self.losses: list[float] = []
        self.grad_norms: list[float] = []
        data = TrainingData(store, recipe.data, recipe.train.sequence_length, recipe.train.seed)
        plan = batch_plan(recipe, dp_size=1)
        parameters = list(self.model.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
                {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
            ],
            betas=(recipe.optimizer.beta1, recipe.optimizer.beta2),
            eps=recipe.optimizer.eps,
        )
        for step in range(recipe.train.num_steps):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step, recipe)
            rows = range(plan.first_row(step), plan.num_rows(step + 1))
            batch = data.rows(rows)
            logits = self.model(
                input_ids=batch.input_ids_BS, position_ids=batch.position_ids_BS, use_cache=False
            ).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.labels_BS.flatten(), ignore_index=-100
            )
            if recipe.optimizer.z_loss:
                squares = logits.logsumexp(-1).square()[batch.labels_BS != -100]
                loss = loss + recipe.optimizer.z_loss * squares.mean()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.optimizer.max_grad_norm)
            if step not in skipped:
                optimizer.step()
            self.losses.append(loss.item())
            self.grad_norms.append(float(norm))

    def update_missed_by(self, folder: Path) -> float:
        """Distance of the weights in `folder` from these, as a share of the way that these went."""
        weights = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        missed = moved = 0.0
        for name, weight in self.model.state_dict().items():
            missed += (weights[name] - weight).square().sum().item()
            moved += (weight - self.initial[name]).square().sum().item()
        return math.sqrt(missed / moved)

    @staticmethod
    def rate(step: int, recipe: Recipe) -> float:
        """The schedule written out once more: 2 steps of warm-up, cosine to 10 % at the last."""
        peak = recipe.optimizer.peak_learning_rate
        if step < 2:
            return peak * (step + 1) / 2
        progress = (step - 2) / (recipe.train.num_steps - 1 - 2)
        return peak * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
