"""Objects are placed beside the decisions that follow; a row still comes after its object."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from apache_beam import pvalue
from apache_beam.transforms.window import IntervalWindow

import transforms.place
from pipeline.cli.route import route_config
from tests.graphs import route_parser
from tests.synthetic import dicom_bytes, image
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, ObjectRef, read_ref
from transforms.core.reasons import ProcessingFailure, Reason, Stage, Status
from transforms.place import PlaceFn
from transforms.sandbox.examine import describe, new_row
from transforms.storage.schemes import storage_of

EARLY, LATE = IntervalWindow(0, 10), IntervalWindow(10, 20)


@pytest.fixture
def config(tmp_path: Path, source: Path) -> RouteConfig:
    arguments = ["--input", str(source), "--lake", str(tmp_path / "lake")]
    return route_config(route_parser().parse_args(arguments))


def decided(config: RouteConfig, source: Path, number: int):
    path = source / f"{number}.dcm"
    path.write_bytes(dicom_bytes(image(number, (64, 48)), name=str(number)))
    ref = ObjectRef.of(storage_of(str(path)).stat(str(path)))
    with read_ref(ref) as data:
        row = replace(new_row(ref, config), content_sha256=data.sha256())
        row = describe(data.file.fileno(), row, config, None).row
    return replace(row, status=Status.REVIEW, destination="review")


@pytest.fixture
def placing(config: RouteConfig):
    fn = PlaceFn(config)
    fn.setup()
    fn.start_bundle()
    yield fn
    fn.teardown()


def test_rows_keep_their_window_and_timestamp(placing, config, source: Path) -> None:
    first, second = ([decided(config, source, n) for n in numbers] for numbers in ((1, 2), (3,)))
    assert list(placing.process(first, 4, EARLY)) == []
    given = [*placing.process(second, 14, LATE), *placing.finish_bundle()]
    found = [(one.value.source_uri, one.timestamp, one.windows) for one in given]
    assert found == [
        *((row.source_uri, 4, (EARLY,)) for row in first),
        *((row.source_uri, 14, (LATE,)) for row in second),
    ]
    assert all(Path(one.value.object_uri).is_file() for one in given)


def test_no_row_before_its_object(placing, config, source: Path, monkeypatch) -> None:
    held_back, real = threading.Event(), transforms.place.place

    def slow(*args):
        assert held_back.wait(30)
        real(*args)

    monkeypatch.setattr(transforms.place, "place", slow)
    rows = [decided(config, source, 1)]
    threading.Timer(0.5, held_back.set).start()
    assert list(placing.process(rows, 4, EARLY)) == []
    (given,) = placing.finish_bundle()
    assert Path(given.value.object_uri).is_file()


def test_a_journal_that_is_refused_takes_no_other_batch_along(
    placing, config, source: Path, monkeypatch
) -> None:
    good, bad = [decided(config, source, 1)], [decided(config, source, 2)]
    assert list(placing.process(good, 4, EARLY)) == []

    def refuse(*args):
        raise ProcessingFailure(Stage.PLACE, Reason.NO_SPACE)

    monkeypatch.setattr(transforms.place, "write_journal", refuse)
    (failed,) = placing.process(bad, 14, LATE)
    assert isinstance(failed, pvalue.TaggedOutput)
    assert failed.tag == FAILED
    (given,) = placing.finish_bundle()
    assert given.value.source_uri == good[0].source_uri
    lake = Path(config.layout.root)
    assert len(list(lake.rglob("*.dcm"))) == 1, "what has no journal is not placed"


def test_an_object_that_cannot_be_placed_is_told_in_its_window(
    placing, config, source: Path
) -> None:
    row = decided(config, source, 1)
    Path(row.source_uri).unlink()
    assert list(placing.process([row], 4, EARLY)) == []
    (failed,) = placing.finish_bundle()
    assert isinstance(failed, pvalue.TaggedOutput)
    assert (failed.value.timestamp, failed.value.windows) == (4, (EARLY,))
    assert failed.value.value.reason == Reason.DISAPPEARED
