"""A later model or policy decides again: rows and objects move, and what was decided before is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, Route, counts, route_into
from tests.lake.conftest import STRICT
from tests.lake.rows import history
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import BY_PERSON, Status
from transforms.lake import supersede
from transforms.lake.change_decisions import change_decisions
from transforms.lake.index_files import list_index, read_table
from transforms.lake.layout import Layout
from transforms.lake.schema import from_table

pytestmark = pytest.mark.usefixtures("copied")


@pytest.fixture
def again(route: Route, routed: Path, tmp_path: Path) -> Route:
    """Route the sources once more; the first word names the policy."""

    def run(policy: str, *options: str, inputs: tuple[str, ...] = ()) -> dict[str, Any]:
        folder = tmp_path if (tmp_path / f"{policy}.yaml").exists() else routed
        given = ("--policy", str(folder / f"{policy}.yaml"), *options)
        return route(*given, inputs=(str(routed / "source"), *inputs))

    return run


def sinks(lake: Lake) -> Counter[str]:
    """Return the number of objects in each sink."""
    return Counter(p.parents[2].name for p in lake.root.glob("objects/**/*.dcm"))


def assert_sound(lake: Lake) -> None:
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert violations(lake.root) == []
    assert not [*lake.root.glob("journal/*"), *lake.root.glob(".tmp/*")]


@pytest.mark.slow
def test_a_changed_policy_takes_effect_only_when_asked(lake: Lake, again: Route) -> None:
    before = lake.tree()
    assert counts(again("strict")) == {"unchanged": 6}
    assert lake.tree() == before
    assert counts(again("lenient", "--reprocess", "policy")) == {"unchanged": 6}
    assert lake.tree() == before


@pytest.mark.slow
def test_rows_move_to_the_new_sink_and_old_rows_to_the_history(lake: Lake, again: Route) -> None:
    old = {row["source_uri"]: row for row in lake.rows()}
    summary = again("strict", "--reprocess", "policy")
    assert counts(summary) == {"review": 3, "duplicate": 1, "not_xray": 1, "unchanged": 1}
    assert_sound(lake)
    assert sinks(lake) == {"body_part=review": 3, "body_part=not_xray": 1}
    rows = {row["source_uri"]: row for row in lake.rows()}
    assert rows.keys() == old.keys()
    superseded = {row["source_uri"]: row for row in history(lake.root)}
    assert len(history(lake.root)) == len(superseded) == 5
    for source, row in superseded.items():
        stamps = row.pop("superseded_at"), row.pop("superseded_by")
        assert row == old[source]
        assert all(stamps)
        assert stamps[1] == rows[source]["run_id"] == summary["run_id"]
        assert rows[source]["policy_id"] != row["policy_id"]
        assert rows[source]["ingest_date"] == row["ingest_date"]
    unread = [row for row in rows.values() if row["status"] == "quarantined"]
    assert unread == [old[row["source_uri"]] for row in unread], "no policy decides it"


@pytest.mark.slow
def test_a_repeat_changes_nothing(lake: Lake, again: Route) -> None:
    again("strict", "--reprocess", "policy")
    before = lake.tree()
    assert counts(again("strict", "--reprocess", "policy")) == {"unchanged": 6}
    assert counts(again("strict")) == {"unchanged": 6}
    assert lake.tree() == before


@pytest.mark.slow
def test_a_lake_can_go_back_and_keeps_both_histories(lake: Lake, again: Route) -> None:
    decided = [(r["source_uri"], r["status"], r["object_uri"]) for r in lake.rows()]
    again("strict", "--reprocess", "policy")
    summary = again("lenient", "--reprocess", "policy")
    assert counts(summary) == {"routed": 3, "duplicate": 1, "not_xray": 1, "unchanged": 1}
    assert_sound(lake)
    assert [(r["source_uri"], r["status"], r["object_uri"]) for r in lake.rows()] == decided
    assert len(history(lake.root)) == 10


@pytest.mark.slow
def test_new_sources_of_the_same_run_are_resolved_with_rows_that_it_replaces(
    lake: Lake, again: Route, routed: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "another copy of 0.dcm").write_bytes((routed / "source" / "0.dcm").read_bytes())
    (new / "conflict with 0.dcm").write_bytes(dicom_bytes(image(9, (96, 64)), name="0"))
    (new / "5.dcm").write_bytes(dicom_bytes(image(5, (96, 64)), name="5"))
    summary = again("strict", "--reprocess", "policy", inputs=(str(new),))
    assert summary["counts"]["discovered"] == 9
    assert counts(summary) == {"review": 5, "duplicate": 2, "not_xray": 1, "unchanged": 1}
    assert_sound(lake)
    assert sinks(lake) == {"body_part=review": 5, "body_part=not_xray": 1}


@pytest.mark.slow
def test_duplicates_follow_a_first_that_alone_is_decided_again(lake: Lake, routed: Path) -> None:
    first = str(routed / "source" / "0.dcm")
    policy = ("--policy", str(routed / "strict.yaml"), "--reprocess", "policy")
    assert counts(route_into(lake, *policy, inputs=(first,))) == {"review": 1}
    assert_sound(lake)
    (follower,) = [row for row in lake.rows() if row["status"] == "duplicate"]
    assert follower["object_uri"] == lake.row(Path(first))["object_uri"]
    assert follower["destination"] == "review"
    assert len(history(lake.root)) == 2


@pytest.mark.slow
def test_a_duplicate_that_alone_is_decided_again_stays_with_its_first(
    lake: Lake, routed: Path
) -> None:
    """The first in order of source is "0.dcm"; "copy of 0.dcm" is its duplicate."""
    (copy,) = [row for row in lake.rows() if row["status"] == "duplicate"]
    policy = ("--policy", str(routed / "strict.yaml"), "--reprocess", "policy")
    summary = route_into(lake, *policy, inputs=(copy["source_uri"],))
    assert counts(summary) == {"duplicate": 1}
    assert_sound(lake)
    assert not sinks(lake)["body_part=review"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["model", "policy"])
def test_another_model_decides_again(
    lake: Lake, again: Route, other_model: tuple[str, str], mode: str
) -> None:
    old = {row["source_uri"]: row for row in lake.rows()}
    model = (*other_model, "--reprocess", mode)
    assert counts(again("lenient", *model)) == {"routed": 3, "duplicate": 1, "unchanged": 2}
    assert_sound(lake)
    assert {row["source_uri"] for row in history(lake.root)} == {
        source for source, row in old.items() if row["model_id"]
    }
    for row in lake.rows():
        assert (row["model_id"] != old[row["source_uri"]]["model_id"]) == bool(row["model_id"])
    assert counts(again("lenient", *model)) == {"unchanged": 6}


@pytest.mark.slow
def test_all_restores_a_lost_object(lake: Lake, again: Route) -> None:
    before = lake.tree()
    lost = min(lake.root.glob("objects/**/*.dcm"))
    lost.unlink()
    assert main(["verify", str(lake.root)]) == 1
    summary = again("lenient", "--reprocess", "all")
    assert counts(summary) == {"unchanged": 6}
    assert summary["counts"]["restored"] == 1
    assert lake.tree() == before
    assert again("lenient", "--reprocess", "all")["counts"]["restored"] == 0
    assert_sound(lake)


@pytest.mark.slow
def test_objects_move_between_sinks_with_roots_of_their_own(
    lake: Lake, again: Route, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "review sink"
    (tmp_path / "elsewhere.yaml").write_text(f"{STRICT}sinks: {{review: {elsewhere}}}\n")
    again("elsewhere", "--reprocess", "policy")
    assert violations(lake.root) == []
    assert main(["verify", str(lake.root), "--policy", str(tmp_path / "elsewhere.yaml")]) == 0
    assert len(list(elsewhere.rglob("*.dcm"))) == 3
    assert sinks(lake) == {"body_part=not_xray": 1}
    again("lenient", "--reprocess", "policy")
    assert_sound(lake)
    assert not list(elsewhere.rglob("*.dcm"))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["put_if_absent", "rewrite", "remove_unreferenced"])
def test_a_run_that_ends_while_it_replaces_rows_is_completed_or_undone(
    lake: Lake, again: Route, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """See `test_supersede.py` for kills at every step."""
    called = getattr(supersede, step)

    def end(*args: Any, **kwargs: Any) -> None:
        called(*args, **kwargs)
        raise RuntimeError("the run ends here")

    with monkeypatch.context() as ending:
        ending.setattr(supersede, step, end)
        with pytest.raises(AssertionError, match="the run ends here"):
            again("strict", "--reprocess", "policy")
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert counts(again("lenient")) == {"unchanged": 6}
    assert_sound(lake)
    again("strict", "--reprocess", "policy")
    assert_sound(lake)
    assert sinks(lake) == {"body_part=review": 3, "body_part=not_xray": 1}
    assert len(history(lake.root)) == 5


@pytest.mark.slow
def test_a_decision_by_a_person_is_kept_unless_asked(lake: Lake, again: Route) -> None:
    row = next(row for row in lake.rows() if row["status"] == "routed" and not row["conflict"])
    key, duplicates = row["object_key"], [r for r in lake.rows() if r["status"] == "duplicate"]
    decide_by_person(lake, key, "others")
    again("strict", "--reprocess", "policy")
    kept = next(row for row in lake.rows() if row["object_key"] == key)
    assert (kept["destination"], kept["decided_by"]) == ("others", BY_PERSON)
    assert_sound(lake)
    lake.path(kept).unlink()
    assert again("strict", "--reprocess", "all")["counts"]["restored"] == 1
    assert next(row for row in lake.rows() if row["object_key"] == key) == kept
    assert {r["destination"] for r in lake.rows() if r["status"] == "duplicate"} <= {
        "others",
        "review",
    }
    assert duplicates
    assert_sound(lake)
    again("strict", "--reprocess", "all", "--overrule_people")
    assert sinks(lake) == {"body_part=review": 3, "body_part=not_xray": 1}
    assert_sound(lake)


def decide_by_person(lake: Lake, object_key: str, label: str) -> None:
    """Change a decision as the review of an image does."""
    layout = Layout(str(lake.root))
    rows = [r for uri in list_index(layout) for r in from_table(read_table(uri), "")]
    decided = [
        replace(r, destination=label, status=Status.ROUTED, decided_by=BY_PERSON)
        for r in rows
        if r.object_key == object_key
    ]
    assert change_decisions(layout, decided, "review").changed
