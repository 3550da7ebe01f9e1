"""Sets of digests are those of Python, in a tenth of the memory."""

from __future__ import annotations

import hashlib

import numpy as np

from transforms.lake.digest_set import DigestSet, digests_of


def test_a_set_of_digests_is_a_set() -> None:
    generator = np.random.default_rng(7)
    found, expected = DigestSet(), set[int]()
    for size in (0, 1, 500, 3, 90, 0, 700, 1):
        some = generator.integers(0, 1000, size, np.uint64)
        is_new = found.add_new(some)
        firsts = {int(one): at for at, one in reversed(list(enumerate(some)))}
        assert set(np.flatnonzero(is_new)) == {
            at for one, at in firsts.items() if one not in expected
        }
        expected |= set(firsts)
        assert len(found) == len(expected)
    everything = np.arange(1001, dtype=np.uint64)
    assert set(everything[found.contains(everything)]) == expected
    assert sum(one.nbytes for one in found._sorted) == 8 * len(expected)


def test_a_digest_is_the_beginning_of_a_sha256() -> None:
    sha256 = [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)]
    assert [f"{one:016x}" for one in digests_of(sha256)] == [one[:16] for one in sha256]
    assert len(digests_of([])) == 0
