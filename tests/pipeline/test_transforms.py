"""Single transforms in memory: what each makes of its elements, whatever the graph around it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pytest

import transforms.existing_rows
from pipeline.cli.resolve_config import route_config
from pipeline.sources.files import MatchFiles
from pipeline.sources.outputs import REFS
from tests.conftest import Lake, route_into, write
from tests.eager import eager, eager_outputs
from tests.graphs import route_parser
from tests.lake.rows import FINGERPRINT, new_lake, place
from tests.synthetic import dicom_bytes, image
from transforms.batch_refs import BatchRefs
from transforms.core.choices import REPROCESS_ALL, REPROCESS_MODEL, REPROCESS_NONE, REPROCESS_POLICY
from transforms.core.labels import DEFAULT_LABELS
from transforms.core.object_ref import FAILED, ObjectRef, object_key
from transforms.core.reasons import Status
from transforms.existing_rows import ReadExistingRows, ReadExistingVersions
from transforms.filter_ingested import (
    COUNTS,
    TO_PROCESS,
    FilterIngested,
    RedistributeRefs,
    Reprocessing,
)
from transforms.lake.existing_rows import ExistingVersion
from transforms.lake.index_files import list_index
from transforms.lake.journal import list_journal, read_journal
from transforms.lake.layout import Layout
from transforms.lake.run_counts import RunCounts
from transforms.open_lake import JOURNALED, OpenLake

A, B = ObjectRef("/in/a", "1-1", 1), ObjectRef("/in/b", "2-2", 2)


def version(ref: ObjectRef, **columns: str) -> ExistingVersion:
    default = {"status": Status.ROUTED, "model_id": "model", "policy_id": "policy"}
    return ExistingVersion(source_uri=ref.uri, source_version=ref.version, **{**default, **columns})


def filtered(
    mode: str, refs: list[ObjectRef], existing: list[ExistingVersion]
) -> tuple[list[ObjectRef], Counter[str]]:
    """What needs work, and the counts of the rest."""
    transform = FilterIngested(Reprocessing(mode, model_id="model", policy_id="policy"))
    outputs = eager_outputs(transform, {"refs": refs, "existing": existing, "journaled": []})
    left = eager(RedistributeRefs(), outputs[TO_PROCESS]) if outputs[TO_PROCESS] else []
    counts = RunCounts.sum(outputs[COUNTS]).counts
    return sorted(left, key=lambda ref: ref.uri), +counts


def test_what_the_lake_has_is_filtered_out_and_counted() -> None:
    other = ObjectRef("/in/never routed here", "3-3", 3)
    assert filtered(REPROCESS_NONE, [A, B], [version(A), version(other)]) == (
        [B],
        Counter(unchanged=1),
    )


def test_another_version_of_a_source_needs_work() -> None:
    changed = replace(A, version="1-2")
    assert filtered(REPROCESS_NONE, [changed], [version(A)]) == ([changed], Counter())


def test_an_object_that_two_inputs_name_is_one_object() -> None:
    transform = FilterIngested(Reprocessing(REPROCESS_NONE, "model", "policy"))
    outputs = eager_outputs(
        transform, {"refs": [A, A, B], "existing": [version(B)], "journaled": []}
    )
    counts = RunCounts.sum(outputs[COUNTS]).counts
    assert (counts["discovered"], counts["unchanged"]) == (-1, 1)
    assert eager(RedistributeRefs(), outputs[TO_PROCESS]) == [A]


@pytest.mark.parametrize(
    ("mode", "columns", "needs_work"),
    [
        (REPROCESS_ALL, {}, True),
        (REPROCESS_MODEL, {}, False),
        (REPROCESS_MODEL, {"model_id": "other"}, True),
        (REPROCESS_POLICY, {}, False),
        (REPROCESS_POLICY, {"policy_id": "other"}, True),
        (REPROCESS_POLICY, {"policy_id": "other", "status": Status.QUARANTINED}, False),
    ],
)
def test_reprocessing_decides_which_rows_count(
    mode: str, columns: dict[str, str], needs_work: bool
) -> None:
    left, counts = filtered(mode, [A], [version(A, **columns)])
    assert left == ([A] if needs_work else [])
    assert counts == ({} if needs_work else {"unchanged": 1})


@pytest.mark.slow
def test_references_are_batched_and_none_is_lost() -> None:
    refs = [ObjectRef(f"/in/{number}", "1-1", number) for number in range(50)]
    found = eager(BatchRefs(batch_size=8, max_wait_s=1), refs)
    assert sorted(found, key=lambda ref: ref.size) == refs


def test_folders_are_listed_recursively(source: Path, lake: Lake) -> None:
    paths = [write(source, name, b"x") for name in ("a.dcm", "sub/b.dcm", "star[1].dcm")]
    arguments = ["--input", str(source), "--lake", str(lake.root)]
    config = route_config(route_parser().parse_args(arguments))
    outputs = eager_outputs(MatchFiles(config))
    assert {ref.uri for ref in outputs[REFS]} == {str(path) for path in paths}
    assert outputs[FAILED] == []


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with three images; not to be changed."""
    folder = tmp_path_factory.mktemp("indexed")
    for number in range(3):
        data = dicom_bytes(image(number, (64, 64)), name=str(number))
        write(folder / "source", f"{number}.dcm", data)
    lake = Lake(folder / "lake")
    route_into(lake, inputs=(str(folder / "source"),))
    return lake


@pytest.mark.slow
@pytest.mark.parametrize("max_keys", [1, 10])
def test_existing_versions_are_read_for_the_sources_of_a_run(
    indexed: Lake, monkeypatch: pytest.MonkeyPatch, max_keys: int
) -> None:
    monkeypatch.setattr(transforms.existing_rows, "MAX_KEYS", max_keys)
    wanted = [row["source_uri"] for row in indexed.rows()][:2]
    files = list_index(Layout(str(indexed.root)))
    keys = [object_key(uri) for uri in wanted]
    found = eager(ReadExistingVersions(), {"files": files, "keys": keys})
    sources = {one.source_uri for one in found}
    if max_keys < len(keys):  # nothing is dropped; the join does it
        wanted = [row["source_uri"] for row in indexed.rows()]
    assert sources == set(wanted)


@pytest.mark.slow
def test_existing_rows_are_read_for_the_identities_of_a_run(indexed: Lake) -> None:
    (_, wanted, _) = indexed.rows()
    files = list_index(Layout(str(indexed.root)))
    identities = [wanted["sop_instance_uid"]]
    (found,) = eager(ReadExistingRows(), {"files": files, "identities": identities})
    assert (found.source_uri, found.object_uri) == (wanted["source_uri"], wanted["object_uri"])


@pytest.mark.parametrize("opened", [True, False])
def test_a_restarted_run_recovers_what_it_has_placed(tmp_path: Path, opened: bool) -> None:
    layout = new_lake(tmp_path / "lake")
    earlier = place(layout, "/in/a", sop_instance_uid="1.1", run_id="earlier")
    own = place(layout, "/in/b", sop_instance_uid="1.2", run_id="run")
    killed = place(layout, "/in/c", sop_instance_uid="1.3", run_id="run")
    Path(layout.absolute(str(killed.object_uri))).unlink()  # between the journal and the object
    for _ in range(2):
        outputs = eager_outputs(
            OpenLake(layout, "run", "2026-02-02", FINGERPRINT, DEFAULT_LABELS, opened)
        )
        rows = sorted(outputs[JOURNALED], key=lambda row: row.source_uri)
        assert [row.source_uri for row in rows] == [earlier.source_uri, own.source_uri]
        assert {(row.run_id, row.ingest_date) for row in rows} == {("run", "2026-02-02")}
    journaled = {
        e.row.source_uri for uri in list_journal(layout) for e in read_journal(uri, layout)
    }
    assert killed.source_uri in journaled, "the run may be about to place it"


def test_eager_runs_roots_and_functions_with_one_output() -> None:
    assert eager(beam.Create([1, 2])) in ([1, 2], [2, 1])
    assert sorted(eager(beam.Map(str), [1, 2])) == ["1", "2"]
