"""The model card (README.md) of an export: what it was trained on, with which recipe, how well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.tokens.store import StoreManifest
from llama_ds.energy import energy_of
from llama_ds.metrics import read_metrics

CARD = "README.md"
DATA_FILE = "data.json"
"""In a run's folder: its sources, as `data_of` says."""
_HELD_OUT_ROWS = 12

Row = tuple[object, ...]


def data_of(manifest: StoreManifest, weights: Mapping[str, float]) -> dict[str, Any]:
    """What a card says about the data: of each source tokens, share of the run and licenses.

    `manifest` is the token store's; `weights` are proportions of the sources.
    """
    total = sum(weights.values())
    sources = {
        name: {
            "tokens": splits["train"].num_tokens,
            "documents": splits["train"].num_documents,
            "share": weights.get(name, 0.0) / total,
            "licenses": dict(manifest.licenses.get(name, {})),
        }
        for name, splits in manifest.sources.items()
    }
    return {"store": manifest.fingerprint, "sources": sources}


def model_card(run_dir: Path, run: Mapping[str, Any], num_parameters: int) -> str:
    """The card of the checkpoint whose `run.json` is `run`; parts that nothing is known of miss."""
    identity = run["identity"]
    name = identity.get("name", run_dir.resolve().name)
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- llama-ds\n---",
        f"# {name}\n\nA LLaMA model with {num_parameters:,} parameters, after "
        f"{run['step']:,} steps on {run['rows']:,} sequences.",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_NAME")\n'
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_NAME")\n```',
        *_data(run_dir / DATA_FILE),
        *_tokenizer(identity),
        *_losses(run_dir / "metrics.jsonl", run["step"]),
        *_energy(run_dir, run["step"]),
        *_recipe(identity),
        *_versions(run),
    ]
    return "\n\n".join(parts) + "\n"


def _data(path: Path) -> Iterable[str]:
    if not path.is_file():
        return
    sources = json.loads(path.read_text(encoding="utf-8"))["sources"]
    rows = [
        (name, f"{s['documents']:,}", f"{s['tokens']:,}", f"{s['share']:.1%}")
        for name, s in sources.items()
    ]
    yield "## Data\n\n" + _table(("source", "documents", "tokens", "share of the run"), rows)
    licenses = [
        (name, license or "not known", f"{count:,}")
        for name, s in sources.items()
        for license, count in sorted(s["licenses"].items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    if licenses:
        head = "### Licenses of the data\n\nOf the documents; the model's own is not stated here."
        yield f"{head}\n\n" + _table(("source", "license", "documents"), licenses)


def _tokenizer(identity: Mapping[str, Any]) -> Iterable[str]:
    if identity.get("tokenizer"):
        yield f"## Tokenizer\n\nIdentity `{identity['tokenizer']}`, a hash of what it does."


def _losses(path: Path, step: int) -> Iterable[str]:
    if not path.is_file():
        return
    found = [r for r in read_metrics(path, "eval") if r["step"] <= step and r["loss"] is not None]
    if not found:
        return
    # The first, the last, and some between.
    stride = -(-len(found) // _HELD_OUT_ROWS)
    shown = found[:1] + found[1:-1][stride - 1 :: stride] + found[1:][-1:]
    rows = [(f"{r['step']:,}", f"{r['loss']:.4f}", r["rows"]) for r in shown]
    yield "## Held-out loss\n\n" + _table(("step", "loss per token (nats)", "sequences"), rows)


def _energy(run_dir: Path, step: int) -> Iterable[str]:
    spent = energy_of(run_dir, step)
    if spent is not None and spent.kwh is not None:
        yield f"## Energy\n\nTraining took {spent}, by section 6 of arXiv 2302.13971."


def _recipe(identity: Mapping[str, Any]) -> Iterable[str]:
    rows = [(name, json.dumps(value)) for name, value in public(identity).items()]
    if rows:
        yield "## Recipe\n\n" + _table(("field", "value"), rows)


def _versions(run: Mapping[str, Any]) -> Iterable[str]:
    if run.get("versions"):
        names = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        yield f"Trained with {names}."


def public(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A run's identity without paths of the machine."""
    private = {"run_dir", "data.store", "train.evaluate_data"}
    found = {name: value for name, value in identity.items() if name not in private}
    if found.get("train.init_from"):
        found["train.init_from"] = Path(found["train.init_from"]).name
    return found


def _table(head: tuple[str, ...], rows: Iterable[Row]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
