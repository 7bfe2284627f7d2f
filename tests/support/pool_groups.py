"""Process groups that the jobs of a gloo pool share: a process builds those of a layout once.

The processes of the pool (`tests/conftest.py`) own them, and close them behind each file of tests.
"""

from __future__ import annotations

from llama_ds.parallel.groups import ParallelGroups

_by_layout: dict[tuple[int, int, int], ParallelGroups] = {}


def pool_groups(*, tp_size: int = 1, sp_size: int = 1, kv_replicas: int = 1) -> ParallelGroups:
    """As `ParallelGroups.build`; every rank asks for the same layouts in the same order."""
    layout = (tp_size, sp_size, kv_replicas)
    if layout not in _by_layout:
        _by_layout[layout] = ParallelGroups.build(
            tp_size=tp_size, sp_size=sp_size, kv_replicas=kv_replicas
        )
    return _by_layout[layout]


def close_pool_groups() -> None:
    for groups in _by_layout.values():
        groups.close()
    _by_layout.clear()
