"""The server that processes of tests are forked from: it has imported what they would."""

from __future__ import annotations

from multiprocessing import forkserver, get_context

import pytest

# DeepSpeed imports the second when an engine is built, and with it torch's compiler: two seconds.
_PRELOAD = [
    "llama_ds.train",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "data_pipeline.commands.build_text",
]


def start_fork_server() -> None:
    """Start it, unless it runs. An import that fails is made, and reported, by the processes."""
    get_context("forkserver").set_forkserver_preload(_PRELOAD)
    with pytest.MonkeyPatch.context() as environment:
        # The server hands its environment on.
        environment.setenv("DS_ACCELERATOR", "cpu")
        environment.setenv("CUDA_VISIBLE_DEVICES", "")
        forkserver.ensure_running()
