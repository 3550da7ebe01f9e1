"""A second run over objects that changed, were lost, or were decided or placed otherwise."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, counts, write
from tests.synthetic import dicom_bytes, image


@pytest.mark.slow
def test_an_object_that_changed_is_routed_again(route: Route, lake: Lake, source: Path) -> None:
    path = write(source, "a.dcm", dicom_bytes(image(1)))
    route()
    write(source, "a.dcm", dicom_bytes(image(2)))
    assert counts(route())  # not unchanged
    first, second = sorted(lake.rows(), key=lambda r: r["run_id"])
    assert first["source_version"] != second["source_version"]
    assert second["conflict"] is True
    assert first["object_uri"] != second["object_uri"]
    assert lake.path(second).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_reprocess_all_brings_back_a_lost_object(route: Route, lake: Lake, source: Path) -> None:
    path = write(source, "a.dcm", dicom_bytes())
    route()
    before = lake.tree()
    lake.path(lake.row(path)).unlink()
    assert main(["verify", str(lake.root)]) == 1
    assert counts(route("--reprocess", "all")) == {"unchanged": 1}
    assert lake.tree() == before


@pytest.mark.slow
def test_reprocess_all_supersedes_a_row_that_other_limits_decided(
    route: Route, lake: Lake, source: Path
) -> None:
    """What was too large once is decided now: one current row, one object, the old row in history."""
    small = dicom_bytes(image(1, (60, 40)))
    path = write(source, "small.dcm", small)
    route("--max_object_bytes", "1000")
    (quarantined,) = lake.rows()
    assert quarantined["reason"] == "too_large"
    assert counts(route("--reprocess", "all")) == {"review": 1}
    assert lake.row(path)["status"] == "review"
    assert lake.path(lake.row(path)).read_bytes() == small
    assert not lake.path(quarantined).exists()
    history = ds.dataset(lake.root / "history", format="parquet", partitioning="hive")
    (old,) = history.to_table().to_pylist()
    assert (old["reason"], old["superseded_by"]) == ("too_large", lake.row(path)["run_id"])
    assert counts(route("--reprocess", "all")) == {"unchanged": 1}
    assert main(["verify", str(lake.root), "--deep"]) == 0


@pytest.mark.slow
def test_copying_after_indexing_only_keeps_the_bytes(
    route: Route, lake: Lake, source: Path
) -> None:
    path = write(source, "a.dcm", dicom_bytes())
    route("--placement", "index_only")
    twin = write(source, "b.dcm", path.read_bytes())
    route()
    assert lake.row(twin)["status"] != "duplicate"
    assert lake.path(lake.row(twin)).read_bytes() == path.read_bytes()
    assert main(["verify", str(lake.root), "--deep"]) == 0
