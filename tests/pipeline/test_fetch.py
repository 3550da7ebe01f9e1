"""Objects are read ahead of the decoders: in bounded memory, in order, and none is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindow

from tests.graphs import config_of
from tests.stores import GS, Store
from tests.synthetic import dicom_bytes, image
from transforms.core import read_object
from transforms.core.choices import INDEX_ONLY
from transforms.core.object_ref import FAILED, ObjectRef
from transforms.core.read_ahead import shared_read_ahead
from transforms.core.reasons import Reason
from transforms.core.worker_resources import Concurrency
from transforms.fetch import DECIDED, ExamineFn
from transforms.lake.layout import Layout
from transforms.sandbox.examine import ExamineOptions
from transforms.sandbox.object_cache import OBJECT_CACHE
from transforms.storage.schemes import storage_of

OBJECTS = 20
WINDOW = GlobalWindow()
pytestmark = pytest.mark.parametrize("store", [GS], indirect=True)


@contextmanager
def examine_fn(lake: Path, concurrency: Concurrency, placement: str) -> Iterator[ExamineFn]:
    config = replace(config_of(), layout=Layout(str(lake)), placement=placement)
    fn = ExamineFn(ExamineOptions.from_config(config), concurrency, None, False)
    fn.setup()
    try:
        fn.start_bundle()
        yield fn
    finally:
        fn.teardown()


def write(store: Store, number: int) -> ObjectRef:
    pixels = image(number, (160, 128))
    uri = store.write(f"in/{number:02d}.dcm", dicom_bytes(pixels, name=str(number)))
    found = storage_of(uri).stat(uri)
    assert found is not None
    return ObjectRef.of(found)


def outcomes(emitted: Iterator[Any]) -> list[tuple[str, Any]]:
    """Return the tag and the value of each output; that of the main output is its row."""
    found = []
    for one in emitted:
        if isinstance(one, pvalue.TaggedOutput):
            found.append((one.tag, one.value.value))
        else:
            row, pixels = one.value
            assert pixels.dtype == np.uint8
            found.append(("", row))
    return found


@pytest.mark.parametrize("part_bytes", [1 << 20, 10_000], ids=["whole", "in parts"])
def test_many_objects_are_read_in_bounded_memory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr(read_object, "PART_BYTES", part_bytes)
    refs = [write(store, number) for number in range(OBJECTS)]
    limit = (
        5 * refs[0].size + part_bytes
    )  # a value of its own: memory of other tests does not count
    concurrency = Concurrency(threads=2, read_ahead_bytes=limit, max_reads=8)
    with examine_fn(tmp_path / "lake", concurrency, INDEX_ONLY) as fn:
        emitted = [*fn.process(refs, 4, WINDOW), *fn.finish_bundle()]
    rows = [row for tag, row in outcomes(iter(emitted)) if tag == ""]
    assert [row.source_uri for row in rows] == [ref.uri for ref in refs]
    contents = store.read_all()
    assert [row.content_sha256 for row in rows] == [
        hashlib.sha256(contents[f"in/{number:02d}.dcm"]).hexdigest() for number in range(OBJECTS)
    ]
    ahead = shared_read_ahead(limit, 8)
    assert 2 * refs[0].size <= ahead.peak_bytes <= limit
    assert ahead.used_bytes == 0


def test_failures_are_those_of_their_objects(store: Store, tmp_path: Path) -> None:
    refs = [write(store, number) for number in range(4)]
    store.write("in/01.dcm", b"another version")
    storage_of(refs[2].uri).remove(refs[2].uri)
    text = store.write("in/no.txt", b"no DICOM")
    found = storage_of(text).stat(text)
    assert found is not None
    refs.append(ObjectRef.of(found))
    concurrency = Concurrency(threads=1, read_ahead_bytes=1, max_reads=3)
    with examine_fn(tmp_path / "lake", concurrency, "copy") as fn:
        emitted = outcomes(iter([*fn.process(refs, 4, WINDOW), *fn.finish_bundle()]))
    assert [tag for tag, _ in emitted] == ["", FAILED, FAILED, "", DECIDED]
    assert [failure.reason for tag, failure in emitted if tag == FAILED] == [
        Reason.CHANGED, Reason.DISAPPEARED,
    ]  # fmt: skip
    assert [failure.object_key for tag, failure in emitted if tag == FAILED] == [
        ref.key for ref in refs[1:3]
    ]
    for tag, row in emitted:
        if tag != FAILED:
            cached = OBJECT_CACHE.pop(row.content_sha256)
            assert cached is not None
            cached.close()
    assert shared_read_ahead(1, 3).used_bytes == 0


def test_a_step_that_ends_early_gives_its_memory_back(store: Store, tmp_path: Path) -> None:
    refs = [write(store, number) for number in range(OBJECTS)]
    concurrency = Concurrency(threads=1, read_ahead_bytes=2, max_reads=4)
    with examine_fn(tmp_path / "lake", concurrency, INDEX_ONLY) as fn:
        assert list(fn.process(refs[:10], 4, WINDOW)) == []
    with examine_fn(tmp_path / "lake", concurrency, INDEX_ONLY) as fn:
        emitted = [*fn.process(refs, 4, WINDOW), *fn.finish_bundle()]
    assert len(emitted) == OBJECTS
    assert shared_read_ahead(2, 4).used_bytes == 0
