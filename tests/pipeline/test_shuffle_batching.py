"""Batching for a shuffle: every record in one batch of its group, whatever fills up when."""

from __future__ import annotations

from collections import Counter

import apache_beam as beam
import pytest

import transforms.shuffle_batching
from tests.eager import eager
from transforms.core.object_ref import ObjectRef
from transforms.shuffle_batching import BatchForShuffleFn, records_of


def key_of(ref: ObjectRef) -> tuple[int, int]:
    return ref.size % 6, ref.size % 2


def refs(count: int) -> list[ObjectRef]:
    return [ObjectRef(f"gs://a/{n}", str(n), n) for n in range(count)]


def batch_refs() -> BatchForShuffleFn[ObjectRef]:
    return BatchForShuffleFn(ObjectRef, "refs", key_of)


@pytest.mark.parametrize("max_incomplete", [1, 256])
def test_each_record_is_in_one_batch_of_its_group(
    monkeypatch: pytest.MonkeyPatch, max_incomplete: int
) -> None:
    monkeypatch.setattr(transforms.shuffle_batching, "SHUFFLE_BATCH", 4)
    monkeypatch.setattr(transforms.shuffle_batching, "MAX_INCOMPLETE", max_incomplete)
    given = refs(100)
    found: Counter[ObjectRef] = Counter()
    for key, batch in eager(beam.ParDo(batch_refs()), given):
        records = list(records_of([batch], "refs", ObjectRef))
        assert len(records) <= 4
        assert {key_of(ref) for ref in records} == {(key, batch.part)}
        found.update(records)
    assert found == Counter(given)


def test_a_failed_bundle_leaves_nothing_for_the_next() -> None:
    fn = batch_refs()
    fn.start_bundle()
    assert list(fn.process(refs(1)[0])) == []
    fn.start_bundle()
    assert list(fn.finish_bundle()) == []


def test_only_records_of_the_kind_are_returned() -> None:
    batches = [batch for _, batch in eager(beam.ParDo(batch_refs()), refs(3))]
    assert sorted(records_of(batches, "refs", ObjectRef), key=lambda ref: ref.size) == refs(3)
    assert list(records_of(batches, "existing", ObjectRef)) == []
