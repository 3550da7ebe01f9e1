"""Elements on their way to one place: each once, whatever fills up when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from apache_beam.transforms.window import GlobalWindow

import transforms.shuffle_batching
from tests.graphs import config_of
from transforms.core.object_ref import ObjectRef
from transforms.lake.schema import IndexRow, pack_rows, unpack_rows
from transforms.sandbox.examine import ExamineOptions, new_row
from transforms.shuffle_batching import BatchForShuffleFn


def place_of(row: IndexRow) -> int:
    return int(row.source_version) % 6


def rows(count: int) -> list[IndexRow]:
    options = ExamineOptions.from_config(config_of())
    made = (new_row(ObjectRef(f"gs://a/{n}", str(n), 1), options) for n in range(count))
    return [replace(row, content_sha256=f"{n:064d}") for n, row in enumerate(made)]


def in_packs() -> BatchForShuffleFn:
    return BatchForShuffleFn(place_of, lambda place, several: (place, pack_rows(several)))


@pytest.mark.parametrize("max_waiting", [1, 256])
def test_each_element_is_in_one_pack_of_its_place(monkeypatch, max_waiting: int) -> None:
    monkeypatch.setattr(transforms.shuffle_batching, "SHUFFLE_BATCH", 4)
    monkeypatch.setattr(transforms.shuffle_batching, "MAX_WAITING", max_waiting)
    given, fn = rows(100), in_packs()
    fn.start_bundle()
    full = [pack for row in given for pack in fn.process(row)]
    left = list(fn.finish_bundle())
    assert full and left
    assert all(one.windows == (GlobalWindow(),) for one in left)
    found: Counter[str] = Counter()
    for place, pack in [*full, *(one.value for one in left)]:
        unpacked = unpack_rows(pack)
        assert len(unpacked) <= 4
        assert {place_of(row) for row in unpacked} == {place}
        found.update(row.source_uri for row in unpacked)
    assert found == Counter(row.source_uri for row in given)


def test_a_bundle_that_failed_leaves_nothing_to_the_next() -> None:
    fn = in_packs()
    fn.start_bundle()
    assert list(fn.process(rows(1)[0])) == []
    fn.start_bundle()
    assert list(fn.finish_bundle()) == []


def test_references_come_out_of_a_pack_as_they_went_in() -> None:
    refs = [ObjectRef(f"gs://a/\u00fc{n}", "7", 2**40 + n) for n in range(3)]
    assert ObjectRef.unpack(ObjectRef.pack(refs)) == refs
