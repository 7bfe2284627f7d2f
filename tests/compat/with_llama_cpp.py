"""The export as GGUF, by llama.cpp's own converter: ids and greedy text in llama.cpp."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.compat.expected import held, read_expected


def converter(out: Path, release: str) -> Path:
    """`convert_hf_to_gguf.py` of the sources of that release, which the wheel does not have."""
    sources = out / "packages" / "llama.cpp-sources"
    found = sorted(sources.glob("*/vendor/llama.cpp/convert_hf_to_gguf.py"))
    if not found:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
        ]
        command += [f"llama-cpp-python=={release}", "-d", str(sources)]
        subprocess.run(command, check=True)
        (archive,) = sources.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(sources, filter="data")
        found = sorted(sources.glob("*/vendor/llama.cpp/convert_hf_to_gguf.py"))
    return found[0]


def main(out: Path) -> None:
    import llama_cpp

    release = version("llama-cpp-python")
    gguf = out / "model.gguf"
    script = converter(out, release)
    command = [sys.executable, str(script), str(out / "model"), "--outfile", str(gguf)]
    # It imports modules that lie beside it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run(
        [*command, "--outtype", "f32"], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    held(f"llama-cpp-python {release}: its converter writes a GGUF file in fp32")
    model: Any = llama_cpp.Llama(str(gguf), n_ctx=64, verbose=False)
    for case in read_expected(out):
        ids = model.tokenize(case.prompt.encode(), add_bos=True)
        assert ids == case.ids, (ids, case.ids)
        answer = model(case.prompt, max_tokens=len(case.greedy) - len(case.ids), temperature=0.0)
        written = case.prompt + answer["choices"][0]["text"]
        assert written == case.text, (written, case.text)
    held("the same ids and greedy text")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
