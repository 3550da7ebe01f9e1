"""Shared by all tests: real runs of the command line, real readers of what they wrote."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.dataset as ds
import pytest
from hypothesis import HealthCheck, settings

from pipeline.cli import main
from pipeline.exit_codes import DONE, UNEXPECTED
from tests import fast_pipelines
from tests.disks import full_disk, small_disk
from tests.stores import store, store_servers
from transforms.core.reasons import FORGOTTEN, TERMS

__all__ = ["full_disk", "small_disk", "store", "store_servers"]

fast_pipelines.install()

# Neither a deadline nor a limit on the time to generate data: both fail on a busy machine.
# `--hypothesis-profile=thorough` tries more examples.
for profile, examples in {"tests": 30, "thorough": 1000}.items():
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the store servers, and let one process run all tests of a module.

    Modules share lakes and servers among their tests, and kinds of modules (`xdist_group`) engines.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
        if "store_servers" in getattr(item, "fixturenames", ()):
            item.add_marker("store")


Route: TypeAlias = Callable[..., dict[str, Any]]
"""The fixture `route`."""


class Lake:
    """A lake as the outside sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def rows(self) -> list[dict[str, Any]]:
        """All rows of the index, in order of source."""
        data = ds.dataset(self.root / "index", format="parquet", partitioning="hive")
        return sorted(data.to_table().to_pylist(), key=lambda r: (r["source_uri"], r["run_id"]))

    def row(self, path: Path) -> dict[str, Any]:
        """The only row of a source."""
        (row,) = [r for r in self.rows() if r["source_uri"] == str(path)]
        return row

    def path(self, row: dict[str, Any]) -> Path:
        """Where a row's object is."""
        return self.root / str(row["object_uri"])

    def tree(self) -> dict[str, str]:
        """sha256 of each file; run summaries, locks and other hidden names are left out."""
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
            and not any(p == "runs" or p.startswith(".") for p in path.relative_to(self.root).parts)
        }


def write(folder: Path, name: str, data: bytes) -> Path:
    """Write a file, folders and all."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def route_into(
    lake: Lake, *options: str, inputs: tuple[str, ...], expect: int = DONE
) -> dict[str, Any]:
    """Run `dicom-router route --json` in this process; returns its summary.

    A complete run may also end with 3, if all that it found is quarantined, which no test is about.
    """
    command = ["route", "--input", *inputs, "--lake", str(lake.root), "--json", *options]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    assert out.getvalue(), err.getvalue()
    summary: dict[str, Any] = json.loads(out.getvalue())
    unmet = [one["key"] for one in summary["expectations"] if not one["met"]]
    if expect == DONE and unmet == ["expect.not_all_quarantined"]:
        expect = UNEXPECTED
    assert code == expect, err.getvalue()
    return summary


def counts(summary: dict[str, Any]) -> dict[str, int]:
    """The terms of a summary's equation that are not zero."""
    found = summary["counts"]
    return {term: found[term] for term in (*TERMS, FORGOTTEN) if found.get(term)}


def pytest_sessionfinish() -> None:
    """Give back to the collector what `route`, run in this process, took from it."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def baseline_lakes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a lake of uninterrupted runs by number of objects; `source` beside it has the objects."""
    from tests import soak  # which reads lakes as this module shows them

    @functools.cache
    def lake_of(objects: int) -> Path:
        folder = tmp_path_factory.mktemp("baseline")
        soak.build(folder / "source", objects)
        summary, _ = soak.finish(folder / "source", folder / "lake")
        assert summary["counts"]["discovered"] == objects
        assert summary["counts"]["duplicate"] and summary["counts"]["conflicts"]
        return folder / "lake"

    return lake_of


@pytest.fixture(scope="module")
def baseline_lake(request: pytest.FixtureRequest, baseline_lakes: Callable[[int], Path]) -> Path:
    """The lake of an uninterrupted run over the module's `OBJECTS`."""
    return baseline_lakes(request.module.OBJECTS)


@pytest.fixture(scope="module")
def images(baseline_lake: Path) -> Path:
    """The folder that `baseline_lake` was routed from."""
    return baseline_lake.parent / "source"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def route(lake: Lake, source: Path) -> Route:
    """Run `dicom-router route` over `source` into `lake`; returns the JSON summary."""

    def run(*options: str, expect: int = 0, inputs: tuple[str, ...] = ()) -> dict[str, Any]:
        return route_into(lake, *options, expect=expect, inputs=inputs or (str(source),))

    return run
