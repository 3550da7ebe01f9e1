"""Placement overlaps with later decisions; a row is emitted after its object is placed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apache_beam import pvalue
from apache_beam.transforms.window import IntervalWindow
from apache_beam.utils.timestamp import Timestamp

import transforms.place
from pipeline.cli.resolve_config import route_config
from tests.graphs import route_parser
from tests.synthetic import dicom_bytes, image
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, ObjectRef
from transforms.core.read_object import read_ref
from transforms.core.reasons import Reason, Status
from transforms.lake.schema import IndexRow
from transforms.place import PlaceFn
from transforms.sandbox.describe import describe, parse_description
from transforms.sandbox.examine import ExamineOptions, apply_description, new_row
from transforms.storage.schemes import storage_of

EARLY, LATE = IntervalWindow(0, 10), IntervalWindow(10, 20)


@pytest.fixture
def config(tmp_path: Path, source: Path) -> RouteConfig:
    arguments = ["--input", str(source), "--lake", str(tmp_path / "lake")]
    return route_config(route_parser().parse_args(arguments))


def decided_row(config: RouteConfig, source: Path, number: int) -> IndexRow:
    path = source / f"{number}.dcm"
    path.write_bytes(dicom_bytes(image(number, (64, 48)), name=str(number)))
    found = storage_of(str(path)).stat(str(path))
    assert found is not None
    ref = ObjectRef.of(found)
    options = ExamineOptions.from_config(config)
    with read_ref(ref) as data:
        row = replace(new_row(ref, options), content_sha256=data.sha256())
        described = describe(data.file.fileno(), options.describing)
        description = parse_description(described, options.describing)
        row = apply_description(row, description, options).row
    return replace(row, status=Status.REVIEW, destination="review")


@pytest.fixture
def place_fn(config: RouteConfig) -> Iterator[PlaceFn]:
    fn = PlaceFn(config.layout, config.placement, config.fingerprint(), config.concurrency)
    fn.setup()
    fn.start_bundle()
    yield fn
    fn.teardown()


def test_rows_keep_their_window_and_timestamp(
    place_fn: PlaceFn, config: RouteConfig, source: Path
) -> None:
    first = [decided_row(config, source, n) for n in (1, 2)]
    second = [decided_row(config, source, 3)]
    assert list(place_fn.process(first, 4, EARLY)) == []
    emitted = [*place_fn.process(second, 14, LATE), *place_fn.finish_bundle()]
    assert [(e.value.source_uri, e.timestamp, e.windows) for e in emitted] == [
        *((row.source_uri, 4, (EARLY,)) for row in first),
        *((row.source_uri, 14, (LATE,)) for row in second),
    ]
    assert all((Path(config.layout.root) / e.value.object_uri).is_file() for e in emitted)


def test_a_row_is_emitted_after_its_object_is_placed(
    place_fn: PlaceFn, config: RouteConfig, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, original = threading.Event(), transforms.place.place

    def slow(*args: Any) -> None:
        assert released.wait(600)
        original(*args)

    monkeypatch.setattr(transforms.place, "place", slow)
    rows = [decided_row(config, source, 1)]
    threading.Timer(0.5, released.set).start()
    assert list(place_fn.process(rows, 4, EARLY)) == []
    (emitted,) = place_fn.finish_bundle()
    assert (Path(config.layout.root) / emitted.value.object_uri).is_file()


def test_a_failed_journal_write_fails_only_its_batch(
    place_fn: PlaceFn, config: RouteConfig, source: Path
) -> None:
    good, bad = [decided_row(config, source, 1)], [decided_row(config, source, 2)]
    assert list(place_fn.process(good, 4, EARLY)) == []
    (emitted,) = place_fn.finish_bundle()
    assert emitted.value.source_uri == good[0].source_uri

    journal = Path(config.layout.journal)
    journal.rename(journal.with_name("journal of the first batch"))
    journal.touch()  # not a folder
    assert list(place_fn.process(bad, 14, LATE)) == []
    (failed,) = place_fn.finish_bundle()
    assert isinstance(failed, pvalue.TaggedOutput)
    assert failed.tag == FAILED
    lake = Path(config.layout.root)
    assert len(list(lake.rglob("*.dcm"))) == 1, "an object was placed without a journal entry"


def test_a_failure_keeps_its_window_and_timestamp(
    place_fn: PlaceFn, config: RouteConfig, source: Path
) -> None:
    row = decided_row(config, source, 1)
    Path(row.source_uri).unlink()
    assert list(place_fn.process([row], 4, EARLY)) == []
    (failed,) = place_fn.finish_bundle()
    assert isinstance(failed, pvalue.TaggedOutput)
    assert failed.value.timestamp == Timestamp(4)
    assert failed.value.windows == (EARLY,)
    assert failed.value.value.reason == Reason.DISAPPEARED
