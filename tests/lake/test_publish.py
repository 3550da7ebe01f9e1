"""`publish`, and runs whose policy publishes tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conftest import Lake, route_into, write
from tests.lake.published_lakes import (
    delta_of,
    expected,
    iceberg_of,
    rows_of_day,
    settings_of,
    sorted_rows,
    sources,
    two_days,
)
from tests.lake.rows import append_rows, lake_of
from tests.synthetic import dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.published_tables import table_states
from transforms.lake.table_settings import recorded_settings


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A lake of two days that publishes both tables."""
    return two_days(tmp_path)


def test_a_moved_lake_is_published_again(layout: Layout, tmp_path: Path, capsys: Any) -> None:
    moved = Layout(str(tmp_path / "moved"))
    shutil.move(layout.root, moved.root)
    assert sources(delta_of(moved)) == expected(0, 1)
    (iceberg,) = (state for state in table_states(moved) if "Iceberg" in state.name)
    assert iceberg.problem is not None
    assert f"dicom-router publish {moved.root}" in iceberg.problem
    assert main(["publish", moved.root]) == 0
    assert sources(iceberg_of(moved)) == expected(0, 1)


def test_a_table_of_another_lake_is_refused(layout: Layout, capsys: Any) -> None:
    other = lake_of(Path(layout.root).parent / "other", rows_of_day(2))
    catalog = settings_of(layout).iceberg
    assert catalog is not None
    assert main(["publish", other.root, "--iceberg", catalog.catalog]) == 2
    assert "belongs to another lake" in capsys.readouterr().err
    assert not Path(other.tables).exists(), "nothing is recorded for later runs"
    options = ["--iceberg", catalog.catalog, "--table", "dicom_router.other"]
    assert main(["publish", other.root, *options]) == 0
    assert sources(iceberg_of(layout)) == expected(0, 1)


def test_a_copy_does_not_take_the_table_of_its_lake(layout: Layout, capsys: Any) -> None:
    copy = Layout(f"{layout.root}-copy")
    shutil.copytree(layout.root, copy.root)
    assert main(["publish", copy.root]) == 2
    message = f"belongs to the lake at {layout.root}, which has the same id"
    assert message in capsys.readouterr().err
    assert all(state.in_step for state in table_states(layout))
    Path(f"{layout.root}-link").symlink_to(layout.root)
    assert main(["publish", f"{layout.root}-link"]) == 0
    assert sources(iceberg_of(layout)) == expected(0, 1)


def test_a_catalog_that_cannot_be_reached_is_not_recorded(layout: Layout, capsys: Any) -> None:
    before = settings_of(layout)
    assert main(["publish", layout.root, "--iceberg", "sqlite:////nowhere/c.db"]) == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert recorded_settings(layout) == before
    assert all(state.in_step for state in table_states(layout))


@pytest.mark.parametrize(
    ("name", "option"), [("a#b", "--iceberg=sqlite:////c.db"), ("a%20b", "--delta")]
)
def test_roots_that_a_format_cannot_read_are_refused(
    tmp_path: Path, name: str, option: str, capsys: Any
) -> None:
    layout = lake_of(tmp_path / name, rows_of_day(0))
    assert main(["publish", layout.root, option]) == 2
    assert "move the lake" in capsys.readouterr().err
    assert not Path(layout.tables).exists()


def test_publish_is_recorded_until_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    layout = lake_of(tmp_path / "lake", rows_of_day(0))
    assert main(["publish", layout.root]) == 2
    assert "publishes no table yet" in capsys.readouterr().err
    assert main(["publish", layout.root, "--delta", "--json"]) == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["name"], state["files"], state["missing"]) == ("Delta", 1, 0)
    assert main(["publish", layout.root, "--stop"]) == 0
    append_rows(layout, *rows_of_day(1))
    open_lake(layout)
    assert sources(delta_of(layout)) == expected(0)
    assert main(["publish", layout.root]) == 0
    assert sources(delta_of(layout)) == expected(0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iceberg", "postgresql://user:secret@host/db"], "has a password"),
        (["--iceberg", "ftp://host"], "not ftp"),
        (["--delta", "--table", "a.b"], "give --iceberg too"),
        (["--iceberg", "sqlite:////x.db", "--table", "index"], "a namespace, a dot and a name"),
        (["--iceberg", "sqlite:///x.db"], "absolute path"),
        (["--delta", "--stop"], "cannot be combined"),
        (["--delta", "--keep_hours", "-1"], "at least 0"),
    ],
)
def test_wrong_usage_is_explained(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = lake_of(tmp_path / "lake", rows_of_day(0))
    assert main(["publish", layout.root, *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path(layout.tables).exists()


@pytest.mark.slow
def test_runs_keep_the_tables_of_their_policy_in_step(
    routed: Path, copied: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    policy = tmp_path / "policy.yaml"
    section = f"publish: {{delta: true, iceberg: {{catalog: '{catalog}'}}}}\n"
    policy.write_text(f"{(routed / 'lenient.yaml').read_text()}{section}")
    source = tmp_path / "source"
    write(source, "new.dcm", dicom_bytes(image(9, (96, 64)), name="9"))
    route_into(copied, "--policy", str(policy), inputs=(str(source),))
    layout = Layout(str(copied.root))
    strict = tmp_path / "strict.yaml"
    strict.write_text((routed / "strict.yaml").read_text())
    assert _decisions(layout) == [row["destination"] for row in copied.rows()]
    command = ["reroute", layout.root, "--policy", str(strict), "--apply", "--quiet"]
    assert main(command) == 0
    assert "review" in _decisions(layout)
    assert _decisions(layout) == [row["destination"] for row in copied.rows()]
    capsys.readouterr()
    assert main(["status", layout.root]) == 0
    lines = [one for one in capsys.readouterr().out.splitlines() if "in step" in one]
    assert ["Delta" in lines[0], "Iceberg" in lines[1]] == [True, True]
    assert main(["verify", layout.root, "--deep"]) == 0


@pytest.mark.slow
def test_a_complete_run_says_that_a_table_is_behind(
    routed: Path, copied: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    section = "publish: {delta: true, iceberg: {catalog: 'sqlite:////no/such.db'}}\n"
    policy.write_text(f"{(routed / 'lenient.yaml').read_text()}{section}")
    source = write(tmp_path, "in/new.dcm", dicom_bytes(image(9, (96, 64)), name="9"))
    inputs = (str(source.parent),)
    assert route_into(copied, "--policy", str(policy), inputs=inputs, expect=1)["complete"]
    layout = Layout(str(copied.root))
    assert len(delta_of(layout).to_pyarrow_table()) == len(copied.rows())
    assert main(["verify", layout.root]) == 1
    assert "published table that cannot be read" in capsys.readouterr().out


def _decisions(layout: Layout) -> list[str]:
    """Return the destinations in both tables, which are the same, in order of source."""
    tables = delta_of(layout).to_pyarrow_table(), iceberg_of(layout).scan().to_arrow()
    delta, iceberg = ([row["destination"] for row in sorted_rows(table)] for table in tables)
    assert delta == iceberg
    return delta


def test_a_run_does_not_start_without_the_packages_of_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transforms.lake.table_settings.is_installed", lambda module: False)
    policy = write(tmp_path, "policy.yaml", b"publish: {delta: true}\n")
    source = write(tmp_path, "in/1.dcm", b"x")
    command = ["route", "--input", str(source.parent), "--lake", str(tmp_path / "lake")]
    assert main([*command, "--policy", str(policy)]) == 2
    assert "Delta tables need a package" in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()
