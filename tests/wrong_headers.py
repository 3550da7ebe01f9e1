"""Route, report, review and decide again real radiographs of which some have wrong headers.

    python -m tests.wrong_headers --data MANIFEST --other_model BUNDLE --folder NEW_FOLDER [--images 600]

The radiographs are those of the split `val` of a training manifest (docs/model.md), written as DICOM;
Body Part Examined is missing in 20 % and wrong in 15 %. Each step runs the command line; a reviewer
answers in a headless browser. After each step the index must count each image once, and the lake must
keep its contract.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks.header_evidence import BODY_PARTS
from models.training.data.dataset import read_dataset, select_split
from models.training.data.images import LabeledImage, load_image, to_uint8
from pipeline.report.database import Scope, open_report_data
from pipeline.report.queries import disagreements
from tests.conformance import violations
from tests.review.browsers import enter, open_pages, wait_for_image
from tests.review.reviews import Review
from tests.synthetic import dicom_bytes
from transforms.core.labels import DEFAULT_LABELS, LABELS
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

LONG_SIDE: Final = 1024
WRONG, MISSING = 0.15, 0.20
ANSWERS: Final = 10
LENIENT: Final = json.dumps({"thresholds": dict.fromkeys(LABELS, 0.3)})
FIRST: Final = 50
"""Disagreements of which the precision is reported."""


@dataclass(frozen=True)
class Planted:
    """An image and its header.

    Attributes:
        label: the true label.
        is_wrong: whether Body Part Examined names another region.
    """

    label: str
    is_wrong: bool


class Walkthrough:
    """A lake, and what is true of its images.

    Attributes:
        lake: root of the lake.
        planted: what is true of each object, by its SOP Instance UID.
        steps: what was found after each step.
    """

    def __init__(self, lake: Path, planted: dict[str, Planted]) -> None:
        self.lake, self.planted = lake, planted
        self.steps: list[dict[str, Any]] = []

    def run(self, name: str, *command: str) -> str:
        """Run a command; check the lake; return its output."""
        program = [sys.executable, "-m", "pipeline", *command]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr}")
        self.check(name)
        return done.stdout

    def check(self, step: str) -> None:
        """Check that each image counts once, and the contract of the lake."""
        query = f"SELECT destination, count(*) FROM '{self.lake}/index/**/*.parquet' GROUP BY 1"
        counts: dict[str, int] = dict(sorted(duckdb.sql(query).fetchall()))
        found = verify_lake(Layout(str(self.lake)), deep=True).violations
        problems = [*map(str, found), *violations(self.lake)]
        right = sum(
            row["destination"] == self.planted[row["sop_instance_uid"]].label for row in self.rows()
        )
        self.steps.append({"step": step, "right": right, "problems": problems, **counts})
        print(json.dumps(self.steps[-1]), flush=True)
        if problems or sum(counts.values()) != len(self.planted):
            raise SystemExit(f"{step}: {sum(counts.values())} of {len(self.planted)}, {problems}")

    def rows(self) -> list[dict[str, Any]]:
        """Return the current rows."""
        found = duckdb.sql(f"SELECT * FROM '{self.lake}/index/**/*.parquet'")
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def main() -> None:
    """Run all steps; exit with 1 at the first that does not keep the contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--other_model", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    generator = random.Random(23)
    images = select_split(read_dataset(given.data), "val")
    images = generator.sample(images, given.images)
    source, lake = given.folder / "source", given.folder / "lake"
    source.mkdir(parents=True)
    walk = Walkthrough(lake, write_objects(images, source, generator))
    policy = given.folder / "lenient.yaml"
    policy.write_text(LENIENT)
    report = str(given.folder / "report.html")

    walk.run("route", "route", "--input", str(source), "--lake", str(lake), "--report", report)
    precision = precision_of_disagreements(walk)
    walk.run("report", "report", str(lake), "--out", report)
    reviewed = review(walk)
    again = ["reroute", str(lake), "--policy", str(policy)]
    walk.run("reroute, lenient, shown only", *again)
    walk.run("reroute, lenient", *again, "--apply")
    again = ["reroute", str(lake), "--model", given.other_model]
    walk.run("reroute, other model, shown only", *again)
    walk.run("reroute, other model", *again, "--apply")
    assert_answers_are_kept(walk, reviewed)
    result = {
        "images": len(walk.planted),
        "wrong_headers": sum(planted.is_wrong for planted in walk.planted.values()),
        **precision,
        "report_bytes": Path(report).stat().st_size,
        "steps": walk.steps,
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def write_objects(
    images: Sequence[LabeledImage], folder: Path, generator: random.Random
) -> dict[str, Planted]:
    """Write images as DICOM objects with planted headers; return what is true, by SOP Instance UID."""
    planted = {}
    for number, image in enumerate(images):
        truth = str(DEFAULT_LABELS.header_region_of(image.label))
        chance = generator.random()
        named: str | None = truth
        if chance < WRONG:
            named = generator.choice([region for region in BODY_PARTS if region != truth])
        elif chance < WRONG + MISSING:
            named = None
        age = image.age_years
        data = dicom_bytes(
            to_uint8(load_image(image.path, LONG_SIDE)),
            name=str(number),
            BodyPartExamined=None if named is None else generator.choice(BODY_PARTS[named]),
            PatientAge=None if age is None else f"{min(999, round(age)):03d}Y",
            Manufacturer=generator.choice(["ALPHA", "BETA", "GAMMA"]),
        )
        path = folder / f"{number}.dcm"
        path.write_bytes(data)
        uid = f"1.2.826.0.1.3680043.10.1473.3.{number}"
        planted[uid] = Planted(image.label, named not in (None, truth))
    return planted


def precision_of_disagreements(walk: Walkthrough) -> dict[str, Any]:
    """Return how many of the report's disagreements have a planted wrong header."""
    planted = {row["object_key"]: walk.planted[row["sop_instance_uid"]] for row in walk.rows()}
    with open_report_data(Scope(Layout(str(walk.lake)))) as data:
        listed = disagreements(data, len(planted))
    wrong = [planted[row["object_key"]].is_wrong for row in listed]
    return {
        "first": len(wrong[:FIRST]),
        "first_wrong": sum(wrong[:FIRST]),
        "disagreements": len(wrong),
        "disagreements_wrong": sum(wrong),
    }


def review(walk: Walkthrough) -> dict[str, str]:
    """Answer in a browser what the images show; return the answers by content."""
    truth = {row["content_sha256"]: walk.planted[row["sop_instance_uid"]] for row in walk.rows()}
    waiting = sum(row["status"] == "review" for row in walk.rows())
    answers: dict[str, str] = {}
    with Review(walk.lake) as running, open_pages() as ((page,), problems):
        shown: str | None = None
        for _ in range(min(ANSWERS, waiting)):
            shown = wait_for_image(page, shown) if shown else enter(page, running, "ann")
            answers[shown] = truth[shown].label
            page.keyboard.press(str(1 + LABELS.index(answers[shown])))
        if answers:
            page.get_by_text(f"{len(answers)} answered by you").wait_for()
        running.end()
        if problems:
            raise SystemExit(f"review: {problems}")
    walk.check("review")
    assert_answers_are_kept(walk, answers)
    return answers


def assert_answers_are_kept(walk: Walkthrough, answers: dict[str, str]) -> None:
    """Check that rows and objects are as people decided."""
    rows = {row["content_sha256"]: row for row in walk.rows()}
    for content, answer in answers.items():
        row = rows[content]
        if (row["destination"], row["decided_by"]) != (answer, "person"):
            raise SystemExit(f"{row['object_key']}: an answer was overruled")
        if not (walk.lake / row["object_uri"]).is_file() or answer not in row["object_uri"]:
            raise SystemExit(f"{row['object_key']}: the object was not moved")


if __name__ == "__main__":
    main()
