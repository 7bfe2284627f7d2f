"""What a checkpoint holds of each parameter, by kind, and the file that finds it; needs no torch.

`launch.sh` asks for the newest checkpoint of a run that has ended, in a process of its own: that
must not take the second in which torch is imported.
"""

from __future__ import annotations

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)
"""What a checkpoint holds of each parameter: its fp32 master and Adam's moments."""


def index_path(kind: str) -> str:
    """The index of a kind's files; that of the weights is where Hugging Face looks for it."""
    stem = "model" if kind == WEIGHT else f"optimizer/{kind}"
    return f"{stem}.safetensors.index.json"
