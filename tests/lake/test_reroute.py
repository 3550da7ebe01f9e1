"""`dicom-router reroute`: what it prints is what --apply does, and each image has one destination."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from models.default_bundle import DEFAULT_BUNDLE
from pipeline.cli import main
from pipeline.reroute import apply as apply_module
from pipeline.reroute.classify import _write_list
from pipeline.reroute.predictions import folder_of, write_predictions
from tests.conformance import violations
from tests.conftest import Lake, Route, counts, route_into
from tests.format1 import unpack_format1_lakes
from tests.lake.conftest import STRICT
from tests.lake.rows import erase, index_row, lake_of
from tests.leftovers import abandon, kill_at
from tests.stores import Store
from transforms.lake import change_decisions as change_module
from transforms.lake import supersede as supersede_module
from transforms.lake.erasure_places import erase_forgotten_predictions
from transforms.lake.layout import Layout
from transforms.lake.lock import lock_lake
from transforms.lake.verify import verify_lake


@pytest.fixture
def strict(routed: Path) -> tuple[str, str]:
    """The option for a policy that sends every image to review."""
    return "--policy", str(routed / "strict.yaml")


@pytest.fixture
def lenient(routed: Path) -> tuple[str, str]:
    """The option for the policy of the lake."""
    return "--policy", str(routed / "lenient.yaml")


def reroute(
    lake: Lake, capsys: pytest.CaptureFixture[str], *options: str, expect: int = 0
) -> dict[str, Any]:
    capsys.readouterr()
    code = main(["reroute", str(lake.root), "--json", *options])
    out, err = capsys.readouterr()
    assert code == expect, err
    found: dict[str, Any] = json.loads(out)
    return found


def destinations(lake: Lake) -> Counter[str]:
    """Return the number of images by destination, as a plain query counts them."""
    return Counter(row["destination"] for row in lake.rows() if row["status"] != "duplicate")


def assert_sound(lake: Lake, sources: int = 6) -> None:
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert violations(lake.root) == []
    assert len(lake.rows()) == sources
    assert not [*lake.root.glob("journal/*"), *lake.root.glob(".tmp/*")]
    sinks = Counter(
        p.parents[2].name.removeprefix("body_part=") for p in lake.root.glob("objects/**/*.dcm")
    )
    assert sinks == {s: n for s, n in destinations(lake).items() if s != "quarantine"}


def everything(lake: Lake) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(lake.root.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_a_policy_takes_effect_with_apply_only(
    copied: Lake, strict: tuple[str, str], lenient: tuple[str, str], capsys: Any
) -> None:
    before, files = destinations(copied), everything(copied)
    planned = reroute(copied, capsys, *strict)
    assert everything(copied) == files
    assert {change["to"]: change["images"] for change in planned["destinations"]} == {"review": 3}
    (change,) = planned["destinations"]
    keys = {row["object_key"]: row["sop_instance_uid"] for row in copied.rows()}
    assert {
        e["object_key"]: e["sop_instance_uid"] for e in change["examples"]
    }.items() <= keys.items()
    assert (planned["moving"], planned["applied"]) == (3, None)

    applied = reroute(copied, capsys, *strict, "--apply")
    assert applied["destinations"] == planned["destinations"]
    assert (applied["applied"]["changed"], applied["applied"]["moved"]) == (3, 3)
    assert destinations(copied) == {"review": 3, "not_xray": 1, "quarantine": 1}
    assert_sound(copied)
    assert {row["reason"] for row in copied.rows() if row["status"] == "review"} == {"too_small"}
    (summary,) = (
        json.loads(path.read_text())
        for path in copied.root.glob("runs/*.json")
        if path.stem == applied["applied"]["run_id"]
    )
    assert (counts(summary), summary["kind"]) == ({"review": 3}, "reroute")
    capsys.readouterr()
    assert main(["status", str(copied.root)]) == 0
    status = capsys.readouterr().out
    assert ": 3 decided again (3 review)" in status and "  reroute, complete, " in status
    assert main(["report", str(copied.root), "--text", f"--run={summary['run_id']}"]) == 0
    text = capsys.readouterr().out
    assert ", reroute, " in text and "input" not in text.splitlines()[1]
    assert "3 images decided again: 3 review" in text

    again = reroute(copied, capsys, *strict, "--apply")
    assert (again["changed"], again["applied"]["changed"]) == (0, 0)
    reroute(copied, capsys, *lenient, "--apply")
    assert destinations(copied) == before
    assert_sound(copied)


def test_a_condition_selects_rows(copied: Lake, strict: tuple[str, str], capsys: Any) -> None:
    first = next(row for row in copied.rows() if row["status"] == "routed")
    where = f"sop_instance_uid = '{first['sop_instance_uid']}' AND ingest_date IS NOT NULL"
    reroute(copied, capsys, *strict, "--where", where, "--apply")
    same = [r for r in copied.rows() if r["sop_instance_uid"] == first["sop_instance_uid"]]
    assert {row["destination"] for row in same} == {"review"}
    assert destinations(copied)["review"] == sum(row["status"] != "duplicate" for row in same)
    assert_sound(copied)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("colour = 'red'", "colour"),
        ("confidence <", "syntax error"),
        ("1 = 1) UNION SELECT * FROM (SELECT 1", "syntax error"),
        ("CAST(source_uri AS INT) = 1", "cannot be evaluated (ConversionException)"),
        ("(SELECT count(*) FROM read_csv('/etc/passwd')) > 0", "--where"),
        ("(SELECT count(*) FROM '/etc/passwd') > 0", "--where"),
        ("(SELECT count(*) FROM rows) > 0", "--where"),
        ("true; SET enable_external_access = true", "--where"),
    ],
)
def test_a_condition_can_neither_read_files_nor_print_values(
    copied: Lake, strict: tuple[str, str], capsys: Any, where: str, message: str
) -> None:
    assert main(["reroute", str(copied.root), *strict, "--where", where]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert str(copied.root) not in error
    assert "source/" not in error


@pytest.mark.slow
def test_another_model_classifies_the_objects_of_the_lake(
    copied: Lake,
    lenient: tuple[str, str],
    other_model: tuple[str, str],
    capsys: Any,
    routed: Path,
    tmp_path: Path,
) -> None:
    before = {row["source_uri"]: row for row in copied.rows()}
    options = (*lenient, *other_model)
    tree = copied.tree()
    planned = reroute(copied, capsys, *options)
    assert (planned["decided"], planned["changed"]) == (3, 3)
    assert copied.tree() == tree
    (routed / "source").rename(routed / "moved away")
    try:
        assert reroute(copied, capsys, *options, "--apply")["applied"]["changed"] == 3
    finally:
        (routed / "moved away").rename(routed / "source")
    assert_sound(copied)
    assert not list(copied.root.glob(".predictions/*/*"))
    for row in copied.rows():
        old = before[row["source_uri"]]
        changed = row["status"] == "routed"
        assert (row["model_id"] != old["model_id"]) == changed
        assert (row["confidence"] != old["confidence"]) == changed
    left = reroute(copied, capsys, *lenient)
    assert left["kept"]["other_models"] == {planned["model_id"]: 3}
    assert main(["reroute", str(copied.root), *lenient]) == 0
    text = capsys.readouterr().out
    assert f"3 images were decided by {planned['model_id']} and keep their decision." in text
    assert "add --model with the folder of that bundle" in text
    assert reroute(copied, capsys, *options)["changed"] == 0

    expected = Lake(tmp_path / "expected")
    route_into(expected, *options, inputs=(str(routed / "source"),))
    names = ("status", "destination", "reason", "model_id", "policy_id", "confidence", "ood_score")
    for row, wanted in zip(copied.rows(), expected.rows(), strict=False):
        if row["status"] == "routed":
            assert [row[n] for n in names] == [wanted[n] for n in names]


@pytest.mark.slow
def test_a_damaged_object_keeps_its_decision(
    copied: Lake, lenient: tuple[str, str], other_model: tuple[str, str], capsys: Any
) -> None:
    row = next(row for row in copied.rows() if row["status"] == "routed")
    copied.path(row).write_bytes(b"damaged")
    planned = reroute(copied, capsys, *lenient, *other_model, expect=1)
    assert planned["kept"]["unclassified_keys"] == [row["object_key"]]
    assert planned["decided"] == 2


@pytest.mark.slow
def test_linked_and_indexed_objects_stay_so(
    lake: Lake, route: Route, routed: Path, strict: tuple[str, str], lenient: Any, capsys: Any
) -> None:
    source = routed / "source" / "1.dcm"
    route("--placement", "link", *lenient, inputs=(str(source),))
    route("--placement", "index_only", *lenient, inputs=(str(routed / "source" / "0.dcm"),))
    reroute(lake, capsys, *strict, "--apply")
    linked, indexed = lake.row(source), lake.row(routed / "source" / "0.dcm")
    assert lake.path(linked).stat().st_ino == source.stat().st_ino
    assert indexed["object_uri"] == indexed["source_uri"]
    assert {linked["destination"], indexed["destination"]} == {"review"}
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert counts(route(*lenient, inputs=(str(source),))) == {"unchanged": 1}


def test_a_running_command_is_named(
    copied: Lake, strict: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_lake(Layout(str(copied.root))):
        assert main(["reroute", str(copied.root), *strict, "--quiet"]) == 0, "it only reads"
        options = (*strict, "--apply", "--lock_timeout", "0.1")
        assert main(["reroute", str(copied.root), *options]) == 1
    assert "another run is still writing to this lake (process" in capsys.readouterr().err


@pytest.mark.slow
def test_a_shadow_model_is_recorded_and_decides_nothing(
    copied: Lake,
    lenient: Any,
    other_model: tuple[str, str],
    routed: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    bundle = Path(other_model[1])
    info = json.loads((bundle / "bundle.json").read_text())

    def resize(side: int) -> None:
        resized = {**info, "input_size": side, "members": [side] * len(info["members"])}
        (bundle / "bundle.json").write_text(json.dumps(resized))

    resize(96)
    lake = Lake(tmp_path / "shadowed")
    source = str(routed / "source")
    summary = route_into(lake, *lenient, "--shadow_model", other_model[1], inputs=(source,))
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert violations(lake.root) == []
    columns = ("status", "destination", "confidence", "model_id")
    for row, plain in zip(lake.rows(), copied.rows(), strict=True):
        assert [row[c] for c in columns] == [plain[c] for c in columns]
        assert (row["shadow_label"] is not None) == (row["model_id"] is not None)
        if row["shadow_label"]:
            assert 0.2 <= row["shadow_confidence"] <= 1
            assert row["shadow_model_id"] == summary["options"]["shadow_model_id"]
            assert row["shadow_model_id"] != row["model_id"]
    resize(512)
    command = ["route", "--input", source, "--lake", str(tmp_path / "new"), "--shadow_model"]
    assert main([*command, other_model[1]]) == 2
    assert "compare it with 'dicom-router reroute --model'" in capsys.readouterr().err


STEPS: dict[str, Any] = {
    "_spill": apply_module,
    "change_decisions": apply_module,
    "current_rows": change_module,
    "write_journal": change_module,
    "put_link": change_module,
    "_write_intent": supersede_module,
    "put_if_absent": supersede_module,
    "rewrite": supersede_module,
    "remove_unreferenced": supersede_module,
    "remove_journal_files": change_module,
}


@pytest.mark.kill
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_and_doubles_nothing(
    copied: Lake, strict: tuple[str, str], step: str, after: bool, capsys: Any
) -> None:
    """20 moments; the second of two objects to move is placed, or one of them is."""
    module, before = STEPS[step], destinations(copied)
    command = ["reroute", str(copied.root), *strict, "--apply", "--quiet"]
    assert kill_at(module, step, 0, after, lambda: main(command))
    layout = Layout(str(copied.root))
    assert verify_lake(layout, deep=True).violations == []
    assert destinations(copied) in (before, {"review": 3, "not_xray": 1, "quarantine": 1})
    abandon(copied.root / ".tmp")
    reroute(copied, capsys, *strict, "--apply")
    assert destinations(copied) == {"review": 3, "not_xray": 1, "quarantine": 1}
    assert_sound(copied)


@pytest.mark.slow
def test_a_lake_in_a_store_is_rerouted(
    store: Store, routed: Path, lenient: Any, strict: Any, capsys: Any, lake: Lake, tmp_path: Path
) -> None:
    there = f"{store.root}/lake"
    source = str(routed / "source")
    assert main(["route", "--input", source, "--lake", there, *lenient, "--quiet"]) == 0
    assert main(["reroute", there, *strict, "--apply", "--quiet"]) == 0
    copy = Lake(store.download(tmp_path / "copy", "lake"))
    assert destinations(copy) == {"review": 3, "not_xray": 1, "quarantine": 1}
    assert_sound(copy)
    assert main(["reroute", there, *lenient, "--apply", "--quiet"]) == 0
    assert main(["verify", there, "--deep"]) == 0


@pytest.mark.slow
def test_objects_move_to_a_sink_of_the_policy(
    copied: Lake, lenient: Any, tmp_path: Path, capsys: Any
) -> None:
    sink, policy = tmp_path / "sink", tmp_path / "elsewhere.yaml"
    policy.write_text(f"{STRICT}sinks: {{review: {sink}}}\n")
    reroute(copied, capsys, "--policy", str(policy), "--apply")
    assert len(list(sink.rglob("*.dcm"))) == 3
    assert main(["verify", str(copied.root), "--deep", "--policy", str(policy)]) == 0
    reroute(copied, capsys, *lenient, "--apply")
    assert not list(sink.rglob("*.dcm"))
    assert_sound(copied)


@pytest.mark.slow
def test_a_full_disk_changes_nothing(
    routed: Path, strict: Any, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(small_disk / "lake")
    shutil.copytree(routed / "lake", lake.root)
    rows = lake.rows()
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"\0" * (free - 8192))
    assert main(["reroute", str(lake.root), *strict, "--apply"]) == 1
    error = capsys.readouterr().err
    assert "free space" in error
    assert "Traceback" not in error
    assert lake.rows() == rows
    assert verify_lake(Layout(str(lake.root)), deep=True).violations == []
    (small_disk / "filler").unlink()
    reroute(lake, capsys, *strict, "--apply")
    assert_sound(lake)


@pytest.mark.slow
def test_a_lake_of_format_1_is_migrated_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each image of this lake is in two sinks, those of two models."""
    lakes = unpack_format1_lakes(tmp_path)
    lake = Lake(lakes.lake("two_models"))
    options = ("--policy", str(lakes.policy()), "--model", str(DEFAULT_BUNDLE))
    assert main(["reroute", str(lake.root), *options]) == 2
    assert "has format 1" in capsys.readouterr().err
    reroute(lake, capsys, *options, "--apply")
    assert_sound(lake, sources=12)
    assert reroute(lake, capsys, *options)["changed"] == 0


def test_an_erasure_reaches_what_a_killed_classification_has_left(tmp_path: Path) -> None:
    erased, kept = "a" * 64, "b" * 64
    rows = [index_row("/in/a", erased), index_row("/in/b", kept, sop_instance_uid="1.2.4")]
    layout = lake_of(tmp_path / "lake", rows)
    folder = folder_of(layout, "m2", 1)
    columns = {name: [getattr(row, name) for row in rows] for name in ("object_uri", "object_key")}
    listed = _write_list(layout, folder, [pa.table(columns)])

    def predict(content: str) -> None:
        write_predictions(layout, folder, [(content, (0.0,) * 10, ("", 0.0, ""))])

    def predicted() -> list[str]:
        found = ds.dataset(folder, exclude_invalid_files=True).to_table()["content_sha256"]
        return sorted(found.to_pylist())

    predict(erased)
    predict(kept)
    erase(layout, erased)
    assert not Path(listed).exists()  # it has UIDs in the names of objects
    assert predicted() == [kept]
    predict(erased)  # by a classification that had begun before
    erase_forgotten_predictions(layout)
    assert predicted() == [kept]
