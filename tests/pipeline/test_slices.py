"""A run in one process lists and routes many objects in slices, and is one run nevertheless."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.pvalue import TaggedOutput

import pipeline.known_refs
import pipeline.run_batch
import pipeline.slices
from pipeline.audit.destinations import deliver
from pipeline.cli import main
from pipeline.graph import build
from pipeline.slices import KNOWN_REFS, Slice, write_slices
from pipeline.sources.outputs import SKIPPED, SourceOutput
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into, write
from tests.pipeline.test_archives import decisions
from tests.pipeline.test_header_evidence import policy_file
from tests.receive.test_same_decisions import as_zip
from tests.synthetic import dicom_bytes, image
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.core.reasons import Reason, Stage
from transforms.lake import header_reliability, index_replica
from transforms.lake.run_counts import RunCounts

LIMIT = 3
MEMBERS = {f"{n}.dcm": dicom_bytes(image(n, (64, 64)), name=str(n)) for n in range(20, 25)}


def refs(number: int, folder: str = "/in") -> list[ObjectRef]:
    return [ObjectRef(f"{folder}/{n}.dcm", "1-1", 1) for n in range(number)]


def elements(part: Slice) -> list[str]:
    """URIs, and tags of other elements."""
    return [one.tag if isinstance(one, TaggedOutput) else one.uri for one in part.elements()]


def test_the_inputs_are_listed_as_far_as_one_slice(tmp_path: Path) -> None:
    listed: list[ObjectRef] = []

    def listing() -> Iterator[SourceOutput]:
        for ref in refs(10):
            listed.append(ref)
            yield ref

    slices = write_slices(listing(), tmp_path, LIMIT)
    first = next(slices)
    assert len(listed) == LIMIT + 1  # it is known whether a slice follows
    assert elements(first) == [ref.uri for ref in refs(LIMIT)]
    found = [elements(part) for part in slices]
    assert [uri for some in found for uri in some] == [ref.uri for ref in refs(10)[LIMIT:]]
    assert list(tmp_path.iterdir()) == []  # one file at a time


def test_a_slice_ends_neither_before_counts_nor_within_an_archive(tmp_path: Path) -> None:
    failure = Failure("0" * 12, Stage.FETCH, Reason.DISAPPEARED, "")
    members = refs(4, "/in/x.zip!")
    counted = TaggedOutput(SKIPPED, RunCounts.of_skipped("hidden"))
    listed: list[SourceOutput] = [TaggedOutput(FAILED, failure), *refs(1), *members, counted]
    (only,) = [(elements(part), part.is_last) for part in write_slices(iter(listed), tmp_path, 2)]
    assert only == ([*(one.uri for one in (*refs(1), *members)), FAILED, SKIPPED], True)
    (none,) = write_slices(iter(()), tmp_path, 2)
    assert (none.number, none.is_last) == (1, True)


def test_a_new_object_does_not_wait_for_all_known_ones(tmp_path: Path) -> None:
    known = Counter({"discovered": KNOWN_REFS, "unchanged": KNOWN_REFS})
    (new,) = refs(1)
    listed: list[SourceOutput] = [new]
    listed += [TaggedOutput(SKIPPED, RunCounts(known))] * (2 * LIMIT)
    slices = write_slices(iter(listed), tmp_path, LIMIT)
    first = next(slices)
    assert (elements(first), first.is_last) == ([new.uri, *[SKIPPED] * (LIMIT - 1)], False)
    (second,) = [(elements(part), part.is_last) for part in slices]  # no work: none after it
    assert second == ([SKIPPED] * (LIMIT + 1), True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects with a duplicate, a conflict, an archive and a file that is no DICOM."""
    source = tmp_path_factory.mktemp("in")
    for n in range(5):
        write(source, f"{n}.dcm", dicom_bytes(image(n, (64, 64)), name=str(n)))
    write(source, "again/0.dcm", dicom_bytes(image(0, (64, 64)), name="0"))
    write(source, "other.dcm", dicom_bytes(image(9, (64, 64)), name="4"))
    write(source, "notes.txt", b"no DICOM")
    write(source, "x.zip", as_zip(MEMBERS))
    write(source, "DICOMDIR", b"directory")
    return source


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Path:
    """The objects in order of their names, one of them twice, and a name that nothing has."""
    names = [str(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    path = folder.parent / f"{folder.name}.txt"
    path.write_text("\n".join([*names, str(folder / "0.dcm")]))
    return path


@pytest.fixture(scope="module")
def in_one(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The lake of a run that is not divided."""
    lake = Lake(tmp_path_factory.mktemp("one") / "lake")
    summary = route_into(lake, "--source", "manifest", inputs=(str(manifest),))
    assert [row["run_id"] for row in lake.rows()] == [summary["run_id"]] * len(lake.rows())
    return lake


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.slices, "SLICE_REFS", LIMIT)


def test_a_divided_run_is_one_run_with_the_same_lake(
    divided: None,
    manifest: Path,
    in_one: Lake,
    lake: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    delivered: list[int] = []

    def deliver_some(messages: list[bytes], *args: Any) -> None:
        delivered.append(len(messages))
        deliver(messages, *args)

    monkeypatch.setattr("pipeline.audit.trail.deliver", deliver_some)
    audit = tmp_path / "audit.xml"
    options = ("--source", "manifest", "--audit_file", str(audit))
    summary = route_into(lake, *options, inputs=(str(manifest),))
    assert len(delivered) == 4 and all(delivered)  # after each slice
    assert len(audit.read_bytes().splitlines()) == sum(delivered)
    assert decisions(lake) == decisions(in_one)
    assert sorted({row["run_id"] for row in lake.rows()}) == [
        f"{summary['run_id']}.{number}" for number in range(1, 4)
    ]
    rows = len(lake.rows())
    assert summary["counts"]["discovered"] == rows + 1  # the second mention of an object
    assert counts(summary)["unchanged"] == 1
    assert sum(summary["skipped"].values()) == 1
    assert summary["metrics"]["counters"]["discovered"] == rows + 1
    (found,) = (lake.root / "runs").glob("*.json")
    assert json.loads(found.read_bytes())["counts"] == summary["counts"]
    assert not list((lake.root / "journal").glob("*"))
    assert violations(lake.root) == []
    assert main(["verify", str(lake.root), "--deep"]) == 0
    again = route_into(lake, "--source", "manifest", inputs=(str(manifest),))
    assert counts(again) == {"unchanged": rows + 1}
    capsys.readouterr()


def test_an_interrupted_run_keeps_its_slices(
    divided: None,
    manifest: Path,
    in_one: Lake,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built: list[int] = []

    def build_two(*args: Any, **options: Any) -> Any:
        built.append(options["part"].number)
        if len(built) == 3:
            raise RuntimeError("interrupted")
        return build(*args, **options)

    monkeypatch.setattr(pipeline.run_batch, "build", build_two)
    arguments = ["--source", "manifest", "--input", str(manifest), "--lake", str(lake.root)]
    assert main(["route", *arguments, "--json"]) == 1
    assert built == [1, 2, 3]
    rows = len(lake.rows())
    assert rows >= 2 * LIMIT
    assert not list((lake.root / "runs").glob("*.json"))
    assert main(["verify", str(lake.root)]) == 0
    monkeypatch.undo()
    summary = route_into(lake, "--source", "manifest", inputs=(str(manifest),))
    assert counts(summary)["unchanged"] == rows
    assert decisions(lake) == decisions(in_one)
    assert violations(lake.root) == []
    capsys.readouterr()


KILLED = f"""
import os, signal, sys
import pipeline.run_batch, pipeline.slices
from pipeline.cli import main

build, pipeline.slices.SLICE_REFS = pipeline.run_batch.build, {LIMIT}

def build_two(*args, part, **options):
    if part.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return build(*args, part=part, **options)

pipeline.run_batch.build = build_two
main(sys.argv[1:])
"""


@pytest.mark.kill
@pytest.mark.slow
def test_a_run_that_was_killed_between_slices_learns_from_them(
    divided: None,
    manifest: Path,
    lake: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = ("--policy", str(policy_file(tmp_path, "on", 0.01)))
    options = ("--source", "manifest", *policy)
    command = ["route", *options, "--input", str(manifest), "--lake", str(lake.root)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = {row["object_key"]: row for row in lake.rows()}
    assert len(kept) >= 2 * LIMIT
    assert not list((lake.root / "runs").glob("*.json"))
    assert not list((lake.root / "header_reliability").glob("*"))

    monkeypatch.setattr(header_reliability, "MIN_OBJECTS", 1)
    monkeypatch.setattr(header_reliability, "CONFIDENT_PIXELS", 0.0)
    summary = route_into(lake, *options, inputs=(str(manifest),))
    assert counts(summary)["unchanged"] == len(kept) + 1  # the second mention of an object
    learned = summary["header_reliability"]
    assert learned["generation"] == 1
    assert learned["objects"] == sum(row["reason"] == Reason.CONFIDENT for row in kept.values()) > 0
    rows = {row["object_key"]: row for row in lake.rows()}
    assert kept.items() <= rows.items()
    assert len({row["policy_id"] for row in rows.values()} - {None}) == 2
    never_killed = Lake(tmp_path / "never killed")
    route_into(never_killed, *options, inputs=(str(manifest),))
    assert decisions(lake) == decisions(never_killed)  # by pixels alone
    assert violations(lake.root) == []
    assert main(["verify", str(lake.root), "--deep", *policy]) == 0


def test_a_failure_in_one_slice_makes_the_whole_run_incomplete(
    divided: None, manifest: Path, lake: Lake, tmp_path: Path
) -> None:
    listed = manifest.read_text().splitlines()
    with_missing = tmp_path / "list.txt"
    with_missing.write_text("\n".join([str(tmp_path / "gone.dcm"), *listed[:5]]))
    summary = route_into(lake, "--source", "manifest", inputs=(str(with_missing),), expect=1)
    assert (summary["complete"], summary["counts"]["failed"]) == (False, 1)
    assert len(lake.rows()) == 5
    with_missing.write_text("\n".join(listed[:5]))
    again = route_into(lake, "--source", "manifest", inputs=(str(with_missing),))
    assert counts(again) == {"unchanged": len(lake.rows())}


def test_a_run_that_decides_again_is_not_divided(divided: None, folder: Path, lake: Lake) -> None:
    inputs = (str(folder / "[0-4].dcm"),)
    summary = route_into(lake, "--reprocess", "all", inputs=inputs)
    assert {row["run_id"] for row in lake.rows()} == {summary["run_id"]}
    assert len(lake.rows()) == 5


def test_a_replica_without_memory_is_an_error_with_a_remedy(
    manifest: Path,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pipeline.known_refs, "BATCH_REFS", 2)
    monkeypatch.setattr(index_replica, "MEMORY_LIMIT", "100KB")
    arguments = ["--source", "manifest", "--input", str(manifest), "--lake", str(lake.root)]
    assert main(["route", *arguments]) == 1
    error = capsys.readouterr().err
    assert "temporary database has failed (OutOfMemoryException); give it more memory" in error
    assert "Traceback" not in error


def test_the_known_members_of_a_large_archive_do_not_enter_a_pipeline(
    folder: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (str(folder / "x.zip"),)
    route_into(lake, inputs=inputs)
    monkeypatch.setattr(pipeline.known_refs, "BATCH_REFS", 2)
    slices: list[list[str]] = []

    def build_and_note(*args: Any, **options: Any) -> Any:
        slices.append(elements(options["part"]))
        return build(*args, **options)

    monkeypatch.setattr(pipeline.run_batch, "build", build_and_note)
    again = route_into(lake, inputs=inputs)
    assert slices == [[SKIPPED]]
    assert counts(again) == {"unchanged": len(MEMBERS)}


def test_a_full_temporary_folder_is_an_error_with_a_remedy(
    manifest: Path,
    lake: Lake,
    full_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    arguments = ["--source", "manifest", "--input", str(manifest), "--lake", str(lake.root)]
    assert main(["route", *arguments]) == 1
    error = capsys.readouterr().err
    assert "free space, then run again" in error and "ENOSPC, temporary folder" in error
    assert "Traceback" not in error


def test_what_a_long_list_has_known_does_not_enter_a_pipeline(
    divided: None, folder: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lake.root.parent / "in"
    shutil.copytree(folder, source)
    known = [*sorted(source.glob("[0-4].dcm")), source / "x.zip"]
    rows = 5 + len(MEMBERS)
    monkeypatch.setattr(pipeline.known_refs, "BATCH_REFS", 2)
    manifest = source.parent / "list.txt"
    manifest.write_text("\n".join(map(str, known)))
    first = route_into(lake, "--source", "manifest", inputs=(str(manifest),))
    assert "unchanged" not in counts(first) and len(lake.rows()) == rows
    before = decisions(lake)
    source.joinpath("1.dcm").chmod(0o600)  # another state, and the same content
    write(source, "2.dcm", dicom_bytes(image(30, (64, 64)), name="30"))
    listed = [source / "notes.txt", *known, source / "gone.dcm", known[0], source / "other.dcm"]
    manifest.write_text("\n".join(map(str, listed)))
    slices: list[list[str]] = []

    def build_and_note(*args: Any, **options: Any) -> Any:
        slices.append(elements(options["part"]))
        return build(*args, **options)

    monkeypatch.setattr(pipeline.run_batch, "build", build_and_note)
    again = route_into(lake, "--source", "manifest", inputs=(str(manifest),), expect=1)
    found = [one for part in slices for one in part if one not in (SKIPPED, FAILED)]
    names = ("notes.txt", "1.dcm", "2.dcm", "other.dcm")
    assert sorted(found) == sorted(str(source / name) for name in names)
    assert again["counts"]["failed"] == 1
    assert counts(again)["unchanged"] == rows - 1
    assert again["counts"]["discovered"] == rows + 2
    assert len(lake.rows()) == rows + 3
    assert again["metrics"]["counters"]["unchanged"] == rows - 1
    assert set(before) < set(decisions(lake))
    assert violations(lake.root) == []
