"""Rows on their way to their shard: each once, whatever fills up when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from apache_beam.transforms.window import GlobalWindow

import transforms.index
from tests.graphs import config_of
from transforms.examine import new_row
from transforms.index import PackFn
from transforms.lake.index_files import hash_of
from transforms.lake.schema import IndexRow, unpack_rows
from transforms.refs import ObjectRef

SHARDS = 2


def rows(count: int) -> list[IndexRow]:
    config = config_of()
    made = (new_row(ObjectRef(f"gs://a/{n}", "1", 1), config) for n in range(count))
    return [replace(row, content_sha256=f"{n:064d}") for n, row in enumerate(made)]


@pytest.mark.parametrize("max_waiting", [1, 256])
def test_each_row_is_in_one_pack_of_its_shard(monkeypatch, max_waiting: int) -> None:
    monkeypatch.setattr(transforms.index, "PACK_ROWS", 4)
    monkeypatch.setattr(transforms.index, "SLICES", 3)
    monkeypatch.setattr(transforms.index, "MAX_WAITING", max_waiting)
    given, fn = rows(100), PackFn(SHARDS)
    fn.start_bundle()
    full = [pack for row in given for pack in fn.process(row)]
    left = list(fn.finish_bundle())
    assert full and left
    assert all(one.windows == (GlobalWindow(),) for one in left)
    found: Counter[str] = Counter()
    for shard, (number, pack) in [*full, *(one.value for one in left)]:
        unpacked = unpack_rows(pack)
        assert len(unpacked) <= 4
        for row in unpacked:
            rest, own = divmod(hash_of(row.identity), SHARDS)
            assert (own, rest % 3) == (shard, number)
            found[row.source_uri] += 1
    assert found == Counter(row.source_uri for row in given)


def test_a_bundle_that_failed_leaves_nothing_to_the_next() -> None:
    fn = PackFn(SHARDS)
    fn.start_bundle()
    assert list(fn.process(rows(1)[0])) == []
    fn.start_bundle()
    assert list(fn.finish_bundle()) == []
