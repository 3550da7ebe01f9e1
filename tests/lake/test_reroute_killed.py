"""SIGKILL to `reroute --apply` at 20 moments loses and doubles nothing; the next one completes it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

pytestmark = [pytest.mark.kill, pytest.mark.slow]

KILLS = 20
STEPS_BETWEEN = 4
"""Steps between two kills, so that they spread over the whole change."""
AFTER = {"review": 3, "not_xray": 1, "quarantine": 1}


@pytest.fixture(scope="module")
def killed(routed: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The lakes of processes that were killed."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.lake.kill_reroutes", str(routed / "lake"), str(folder)]
    steps = [str(1 + STEPS_BETWEEN * number) for number in range(KILLS)]
    done = subprocess.run(
        [*command, str(routed / "strict.yaml"), *steps], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == steps
    return [folder / step for step in steps]


def test_each_image_has_one_destination_and_the_next_reroute_moves_all(
    killed: list[Path], routed: Path
) -> None:
    before = Lake(routed / "lake")
    objects = {path.read_bytes() for path in before.root.glob("objects/**/*.dcm")}
    states = Counter[str]()
    policy = ("--policy", str(routed / "strict.yaml"))
    for root in killed:
        lake, layout = Lake(root), Layout(str(root))
        assert verify_lake(layout, deep=True).violations == []
        rows = [row for row in lake.rows() if row["status"] != "duplicate"]
        assert len(rows) == 5
        assert len(lake.rows()) == len(before.rows())
        in_review = sum(row["destination"] == "review" for row in rows)
        states["moved" if in_review == 3 else "not moved" if not in_review else "between"] += 1
        assert main(["reroute", str(root), *policy, "--apply", "--quiet"]) == 0
        assert verify_lake(layout, deep=True).violations == []
        assert violations(root) == []
        found = Counter(r["destination"] for r in lake.rows() if r["status"] != "duplicate")
        assert found == AFTER
        assert {path.read_bytes() for path in root.glob("objects/**/*.dcm")} == objects
        assert len([*root.glob("objects/**/*.dcm")]) == len(objects)
        assert not [*root.glob("journal/*")]
    assert states["moved"]
    assert states["not moved"]
