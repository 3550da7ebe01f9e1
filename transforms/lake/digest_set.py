"""Sets of many digests in eight bytes each, where a Python set takes about ninety."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint64]


class DigestSet:
    """A set of 64-bit digests, in sorted arrays of which each is at least twice as long as the next."""

    def __init__(self) -> None:
        self._sorted: list[Digests] = []

    def __len__(self) -> int:
        return sum(map(len, self._sorted))

    def add(self, digests: Digests) -> None:
        """Add digests; shape [n]."""
        new = np.unique(digests[~self.contains(digests)])
        while self._sorted and len(self._sorted[-1]) < 2 * len(new):
            new = np.sort(np.concatenate([self._sorted.pop(), new]))
        if len(new):
            self._sorted.append(new)

    def contains(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Return which digests are in the set; both shape [n]."""
        found = np.zeros(len(digests), np.bool_)
        for some in self._sorted:
            at = np.minimum(np.searchsorted(some, digests), len(some) - 1)
            found |= some[at] == digests
        return found

    def add_new(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Add digests, and return which of them are the first of their kind; both shape [n]."""
        first = np.zeros(len(digests), np.bool_)
        first[np.unique(digests, return_index=True)[1]] = True
        first &= ~self.contains(digests)
        self.add(digests[first])
        return first


def digests_of(sha256: Iterable[str]) -> Digests:
    """Return the first 64 bits of hex digests.

    With a probability of 3e-6, two of ten million are equal.
    """
    data = bytes.fromhex("".join(one[:16] for one in sha256))
    return np.frombuffer(data, ">u8").astype(np.uint64)
