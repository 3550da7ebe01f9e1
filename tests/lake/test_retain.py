"""`retain` erases by age and destination, and keeps what is under a legal hold."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conftest import Lake, counts, route_into, write
from tests.lake.rows import rows_in
from tests.synthetic import dicom_bytes, image
from transforms.config.policy_file import PolicyError, parse_policy
from transforms.lake.erasure_selection import select_by_age
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

DAY_NS = 86_400_000_000_000
POLICY = """\
min_long_side: 4000
retention:
  days: {review: 90, quarantine: 7}
"""


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A lake with two images in review and a quarantined object, and its source."""
    folder = tmp_path_factory.mktemp("retain")
    source = folder / "source"
    for number in range(2):
        write(source, f"{number}.dcm", dicom_bytes(image(number, (64, 48)), name=str(number)))
    write(source, "broken", b"not DICOM")
    (folder / "policy.yaml").write_text(POLICY)
    policy = ("--policy", str(folder / "policy.yaml"))
    route_into(Lake(folder / "lake"), *policy, inputs=(str(source),))
    return folder / "lake", source


def retain(
    root: Path,
    days: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *more: str,
) -> dict[str, Any]:
    """Run `retain --json` so many days later."""

    now = time.time_ns() + days * DAY_NS
    with monkeypatch.context() as later:
        later.setattr("pipeline.erasure.time.time_ns", lambda: now)
        policy = str(root.parent / "policy.yaml")
        assert main(["retain", str(root), "--policy", policy, "--json", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_age_and_destination_decide(
    routed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, source = routed
    assert retain(root, 1, monkeypatch, capsys)["by_sink"] == {}
    assert retain(root, 8, monkeypatch, capsys)["by_sink"] == {"quarantine": 1}
    assert retain(root, 91, monkeypatch, capsys)["by_sink"] == {"quarantine": 1, "review": 2}
    layout = Layout(str(root))
    kept, gone = (row for row in rows_in(layout) if row["status"] == "review")
    (root / "legal_holds.txt").write_text(f"{kept['study_instance_uid']}\n")
    found = retain(root, 91, monkeypatch, capsys, "--apply")
    assert (found["contents"], found["held"]) == (2, 1)
    assert [row["object_key"] for row in rows_in(layout)] == [kept["object_key"]]
    assert gone["study_instance_uid"] not in str([*root.rglob("*")])
    (report,) = root.glob("forgotten/reports/*")
    content = json.loads(report.read_text())
    assert content["kind"] == "retain"
    assert content["asked"] == {"days": {"review": 90, "quarantine": 7}}
    again = route_into(Lake(root), inputs=(str(source),))
    assert counts(again) == {"unchanged": 1, "forgotten": 2}
    assert verify_lake(layout, deep=True).violations == []


def test_a_content_is_as_old_as_its_last_ingestion(
    routed: tuple[Path, Path], tmp_path: Path
) -> None:
    root, source = routed
    lake = Lake(tmp_path / "lake")
    data = (source / "0.dcm").read_bytes()
    write(tmp_path / "in", "a.dcm", data)
    policy = ("--policy", str(root.parent / "policy.yaml"))
    route_into(lake, *policy, inputs=(str(tmp_path / "in"),))
    layout = Layout(str(lake.root))
    (row,) = rows_in(layout)
    later = int(row["ingested_at"].timestamp() * 1e6) + 1
    assert select_by_age(layout, {"review": later})[1] == {"review": 1}
    write(tmp_path / "in", "b.dcm", data)
    route_into(lake, *policy, inputs=(str(tmp_path / "in"),))
    assert select_by_age(layout, {"review": later})[1] == {}


def test_a_policy_without_rules_is_refused(
    routed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write(tmp_path, "policy.yaml", b"min_long_side: 10\n")
    assert main(["retain", str(routed[0]), "--policy", str(policy)]) == 2
    assert "has no retention.days" in capsys.readouterr().err


def test_rules_are_checked_and_change_no_policy_id() -> None:
    assert parse_policy(POLICY).policy_id == parse_policy("min_long_side: 4000\n").policy_id
    with pytest.raises(PolicyError) as error:
        parse_policy("retention: {days: {knee: 3, review: 0}, hold: x}\n", None)
    assert "retention" in str(error.value)
    assert "hold" in str(error.value)
