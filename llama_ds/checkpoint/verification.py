"""Whether a checkpoint is complete: one answer for resuming, exporting, deleting and listing.

`run.json` names every other file of the folder with its size and checksum, and holds a checksum of
its own content. Whatever cannot be read, does not parse or differs is damage, told in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipeline.files.checksum import bytes_checksum, file_checksum
from llama_ds.checkpoint.kinds import KINDS, index_path

RUN_FILE = "run.json"
FORMAT_VERSION = 2
OLD_FORMAT_FILE = "manifest.json"
"""What a folder of format version 1 has in place of `run.json`: DeepSpeed's own files, pickled."""
_NAME = re.compile(r"step_(\d{8})")

# What the program reads of `run.json`; the checksum vouches for the rest.
_CONTENT = {
    "step": int,
    "num_updates": int,
    "rows": int,
    "identity": dict,
    "random_state": dict,
    "files": dict,
}

Damage = Callable[[Path], str | None]


def checkpoints_folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def checkpoint_path(run_dir: Path, step: int) -> Path:
    return checkpoints_folder(run_dir) / f"step_{step:08d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, f"{path} is not named like a checkpoint"
    return int(match[1])


def all_checkpoints(run_dir: Path) -> list[Path]:
    """Published checkpoints, newest first, complete or not."""
    folder = checkpoints_folder(run_dir)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: path.name, reverse=True)


# -- run.json -------------------------------------------------------------------------------------


def encode_run(content: dict[str, Any]) -> bytes:
    """`run.json` with the format's version and the checksum of everything else in it."""
    return _encoded({"format_version": FORMAT_VERSION, **content})


def _encoded(run: dict[str, Any]) -> bytes:
    return (json.dumps({**run, "checksum": _checksum_of(run)}, indent=1) + "\n").encode()


def read_run(path: Path) -> dict[str, Any]:
    """The `run.json` of a checkpoint; ValueError, in words, where it is not one or was changed."""
    file = path / RUN_FILE
    if not file.is_file():
        if (path / OLD_FORMAT_FILE).is_file():
            raise ValueError(
                f"format version 1, this program reads version {FORMAT_VERSION}; resume or export "
                "it with the release that wrote it"
            )
        raise ValueError(f"{RUN_FILE}: missing")
    data = file.read_bytes()
    try:
        run = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{RUN_FILE}: not valid JSON: {error}") from None
    if not isinstance(run, dict):
        raise ValueError(f"{RUN_FILE}: not a JSON object")
    if run.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{RUN_FILE}: format version {run.get('format_version')}, this program reads "
            f"version {FORMAT_VERSION}; resume or export it with the release that wrote it"
        )
    stated = run.pop("checksum", None)
    if stated != _checksum_of(run) or data != _encoded(run):
        raise ValueError(f"{RUN_FILE}: its own checksum differs")
    for key, type_ in _CONTENT.items():
        if not isinstance(run.get(key), type_):
            raise ValueError(f"{RUN_FILE}: {key} is missing or of the wrong type")
    for kind in KINDS:
        if index_path(kind) not in run["files"]:
            raise ValueError(f"{RUN_FILE}: {index_path(kind)} is not among its files")
    return run


def _checksum_of(run: dict[str, Any]) -> str:
    canonical = json.dumps(run, sort_keys=True, separators=(",", ":"))
    return bytes_checksum(canonical.encode())


# -- damage ---------------------------------------------------------------------------------------


def damage_of(path: Path, share: int = 0, num_shares: int = 1) -> str | None:
    """What is wrong with a checkpoint; None where it is complete.

    The checksums can be shared out: share number `share` takes every `num_shares`-th file, and the
    checkpoint is complete where every share says so.
    """
    try:
        run = read_run(path)
        # A copy may have any name, but one that tells of a step has to tell of its own.
        if _NAME.fullmatch(path.name) is not None and run["step"] != step_of(path):
            return f"{RUN_FILE}: step {run['step']} in a folder named {path.name}"
        for name, entry in run["files"].items():
            damage = _wrong_size(path, name, entry)
            if damage is not None:
                return damage
        for name in sorted(run["files"])[share::num_shares]:
            if file_checksum(path / name) != run["files"][name]["xxh3_64"]:
                return f"{name}: the checksum differs"
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _wrong_size(path: Path, name: str, entry: Any) -> str | None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return f"{RUN_FILE}: {name} lies outside the checkpoint"
    file = path / name
    size = file.stat().st_size if file.is_file() else None
    if not isinstance(entry, dict) or not entry.keys() >= {"bytes", "xxh3_64"}:
        return f"{RUN_FILE}: no size or checksum of {name}"
    if size == entry["bytes"]:
        return None
    found = "missing" if size is None else f"{size} bytes"
    return f"{name}: {found}, expected {entry['bytes']} bytes"


def newest_complete(run_dir: Path, damage: Damage, on_damage: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint of a run; None where it has no checkpoint at all.

    Every damaged one that is passed over is reported. ValueError where all are damaged: a run that
    has got somewhere must not silently begin again.
    """
    found = all_checkpoints(run_dir)
    reasons = []
    for path in found:
        reason = damage(path)
        if reason is None:
            return path
        on_damage(f"checkpoint {path} is damaged ({reason}); trying an older one")
        reasons.append(f"{path.name}: {reason}")
    if found:
        raise ValueError(
            f"{run_dir} has {len(found)} checkpoints and none is complete ({'; '.join(reasons)}); "
            "restore one of them, or use a new run_dir"
        )
    return None
