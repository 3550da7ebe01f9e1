"""A lake whose images wait for people: in review, and routed against their header."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Lake, counts, route_into
from tests.review.reviews import Review
from tests.synthetic import dicom_bytes, image

STRICT = """\
thresholds: {abdominal: 0, adult_chest: 0, pediatric_chest: 0, spine: 0, others: 0}
ood_threshold: 1000
min_long_side: 100
"""
IMAGES = 6
"""Images in review; as many more are routed, of which half disagree with their header."""
HOSTILE = {
    "Manufacturer": "<script>document.title='hacked'</script>",
    "ManufacturerModelName": '"><img src=x onerror="document.title=\'hacked\'">',
}
"""Header values that are text for people and spreadsheets, but not for browsers."""
FORMULA = {"Manufacturer": '=HYPERLINK("http://evil")', "ManufacturerModelName": "@SUM(1)"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this folder in one process, which routes `waiting` once."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("review"))


@pytest.fixture(scope="session")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, `policy.yaml` and the lake of its run."""
    folder = tmp_path_factory.mktemp("waiting")
    (folder / "source").mkdir()
    (folder / "policy.yaml").write_text(STRICT)
    for number in range(2 * IMAGES):
        side = 96 if number < IMAGES else 128
        data = dicom_bytes(
            image(number, (side, 64)),
            name=str(number),
            PatientAge="050Y",
            WindowCenter="2048",
            WindowWidth="4096",
            BodyPartExamined="FOOT" if number % 2 else None,
            **(HOSTILE if number % 3 == 0 else FORMULA if number % 3 == 1 else {}),
        )
        (folder / "source" / f"{number}.dcm").write_bytes(data)
    (folder / "source" / "copy of 0.dcm").write_bytes((folder / "source" / "0.dcm").read_bytes())
    policy = ("--policy", str(folder / "policy.yaml"))
    summary = route_into(Lake(folder / "lake"), *policy, inputs=(str(folder / "source"),))
    assert counts(summary) == {"routed": IMAGES, "review": IMAGES, "duplicate": 1}
    return folder


@pytest.fixture
def copied(waiting: Path, tmp_path: Path) -> Lake:
    """A copy of the lake of `waiting`."""
    shutil.copytree(waiting / "lake", tmp_path / "lake")
    return Lake(tmp_path / "lake")


@pytest.fixture(scope="module")
def shared_lake(waiting: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A copy of the lake of `waiting` for all tests of a module."""
    root = tmp_path_factory.mktemp("shared") / "lake"
    shutil.copytree(waiting / "lake", root)
    return Lake(root)


@pytest.fixture(scope="module")
def review(shared_lake: Lake) -> Iterator[Review]:
    """A review of `shared_lake` that applies nothing before it ends."""
    with Review(shared_lake.root, "--apply_interval=1000") as running:
        yield running
