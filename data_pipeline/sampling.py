"""Order-independent random sampling of a stream, by a keyed hash of each item (bottom-k sample)."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

import xxhash

Item = TypeVar("Item")


def keyed_hash(identity: str, seed: int) -> int:
    """64-bit pseudorandom hash of `identity` and `seed`."""
    return xxhash.xxh3_64_intdigest(identity.encode("utf-8"), seed)


class SmallestHashes(Generic[Item]):
    """The `size` items with the smallest keyed hashes among all that were added: a uniform random
    sample without repetition. An identity that is already there is not added again.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._heap: list[int] = []  # negated hashes: the largest that is kept is on top
        self._items: dict[int, Item] = {}

    def wants(self, identity: str) -> bool:
        """Whether `add` would keep an item of this identity."""
        key = keyed_hash(identity, self._seed)
        return key not in self._items and (
            len(self._heap) < self._size or (self._size > 0 and key < -self._heap[0])
        )

    def add(self, identity: str, item: Item) -> None:
        """Add the item if its hash is small enough, evicting the largest hash if full."""
        if not self.wants(identity):
            return
        key = keyed_hash(identity, self._seed)
        self._items[key] = item
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, -key)
        else:
            del self._items[-heapq.heappushpop(self._heap, -key)]

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> list[Item]:
        """The sample, in the (random) order of the hashes."""
        return [self._items[key] for key in sorted(self._items)]
