"""A lake with a patient to forget, and a search of its bytes that uses nothing of the router."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from pipeline.cli import main
from tests.conftest import Lake, counts, route_into, write
from tests.synthetic import dicom_bytes, image
from transforms.core.patient_key import patient_key_of
from transforms.lake.index_files import list_index, read_table
from transforms.lake.labels import append_label, new_label
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow, from_table

KEY: Final = b"0123456789abcdef0123456789abcdef"
PATIENT, OTHER = "PAT-4711", "PAT-0815"
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
POLICY: Final = """\
thresholds: {abdominal: 0, adult_chest: 0, pediatric_chest: 0, spine: 0, others: 0}
ood_threshold: 1000
min_long_side: 10
thumbnails: all
"""
UID: Final = re.compile(r"study=([0-9.]+)|series=([0-9.]+)|/([0-9.]+)~([0-9a-f]{16})")
SEARCHED: Final = (
    "object_key", "source_uri", "content_sha256", "sop_instance_uid", "series_instance_uid",
    "study_instance_uid", "patient_key",
)  # fmt: skip


@dataclass(frozen=True)
class Hospital:
    """A lake of two patients.

    Attributes:
        lake: its root.
        source: folder that it was routed from.
        key_file: key of the patient keys.
        policy: policy of the run.
    """

    lake: Path
    source: Path
    key_file: Path
    policy: Path

    @property
    def options(self) -> tuple[str, ...]:
        """Options of runs into the lake."""
        return "--patient_key_file", str(self.key_file), "--policy", str(self.policy)

    @property
    def patient_key(self) -> str:
        """Key of the patient to forget."""
        return patient_key_of(PATIENT, KEY)

    def copy(self, root: Path) -> Hospital:
        """Return a copy of the lake."""
        shutil.copytree(self.lake, root)
        return Hospital(root, self.source, self.key_file, self.policy)

    def forget(self, *options: str, who: tuple[str, ...] = ()) -> int:
        """Run `forget` about the patient, or about others."""
        chosen = who or ("--patient_key", self.patient_key)
        return main(["forget", str(self.lake), *chosen, *options])

    def apply(self, *options: str, who: tuple[str, ...] = ()) -> int:
        """Run `forget --apply`."""
        return self.forget("--apply", "--ordered_by", "data protection", *options, who=who)


def write_sources(folder: Path, patient: str, first: int, images: int) -> None:
    """Write the objects of a patient: images, a copy, a CT, a truncated and a conflicting object."""
    for number in range(first, first + images):
        names = dict(
            PatientID=patient,
            StudyInstanceUID=f"1.2.77.{first}",
            SeriesInstanceUID=f"1.2.78.{number}",
        )
        data = dicom_bytes(image(number, (64, 48)), name=str(number), **names)
        write(folder, f"{patient}^NAME {number}.dcm", data)
    names["SeriesInstanceUID"] = f"1.2.78.{first}9"
    write(folder, f"{patient} copy.dcm", data)
    other = dicom_bytes(image(first + 90, (64, 48)), name=str(first), **names)
    write(folder, f"{patient} conflict.dcm", other)
    ct = dicom_bytes(image(first + 91, (64, 48)), name=f"{first}8", SOPClassUID=CT, **names)
    write(folder, f"{patient} ct.dcm", ct)
    cut = dicom_bytes(image(first + 92, (64, 48)), name=f"{first}9", **names)
    write(folder, f"{patient} cut.dcm", cut[: len(cut) // 2])


def rows_of(layout: Layout) -> list[IndexRow]:
    """The current rows of a lake."""
    return [row for uri in list_index(layout) for row in from_table(read_table(uri), "")]


def hospital(folder: Path, images: int = 3) -> Hospital:
    """Route a lake of two patients, each with `images` + 4 objects, and decide some of them again.

    It has thumbnails, structured reports, answers, superseded rows, duplicates, conflicts and quarantined
    objects of both.
    """
    found = Hospital(folder / "lake", folder / "source", folder / "key", folder / "policy.yaml")
    found.source.mkdir(parents=True)
    found.key_file.write_bytes(KEY)
    found.policy.write_text(POLICY)
    write_sources(found.source, PATIENT, 100, images)
    write_sources(found.source, OTHER, 200, images)
    summary = route_into(
        Lake(found.lake), *found.options, "--write_sr", inputs=(str(found.source),)
    )
    assert counts(summary)["quarantined"] == 2
    assert counts(summary)["duplicate"] == 2
    layout = Layout(str(found.lake))
    routed = [row for row in rows_of(layout) if row.status == "routed"]
    for number, row in enumerate(sorted(routed, key=lambda row: row.source_uri)):
        append_label(layout, new_label(row, "spine", "ann", 1_000_000 + number))
    strict = folder / "strict.yaml"
    strict.write_text(POLICY.replace("min_long_side: 10", "min_long_side: 4000"))
    where = "source_uri LIKE '%NAME %00.dcm' OR source_uri LIKE '% copy.dcm'"
    command = ["reroute", str(found.lake), "--policy", str(strict), "--where", where, "--apply"]
    assert main([*command, "--quiet"]) == 0
    assert pq.read_table(found.lake / "history").num_rows
    return found


def identifiers(root: Path, patient_key: str = "") -> set[str]:
    """What the rows of a patient name, current and superseded."""
    found: set[str] = set()
    for part in ("index", "history"):
        for path in (root / part).rglob("*.parquet"):
            for row in pq.ParquetFile(path).read().to_pylist():
                if row["patient_key"] == patient_key or PATIENT in row["source_uri"]:
                    found |= {str(row[name]) for name in SEARCHED if row[name]}
                    found.add(row["content_sha256"][:16])
    return found


def files_with(root: Path, wanted: Iterable[str]) -> list[str]:
    """Names of the files of a lake whose name or decoded content has one of some texts."""
    needles = [text.encode() for text in wanted]
    assert needles
    found = []
    for path in sorted(root.rglob("*")):
        data = str(path.relative_to(root)).encode()
        if path.is_file():
            data += b"\n" + path.read_bytes()
            if path.suffix == ".parquet":
                data += repr(pq.ParquetFile(path).read().to_pylist()).encode()
        if any(needle in data for needle in needles):
            found.append(str(path.relative_to(root)))
    return found


def content_of(root: Path) -> dict[str, Any]:
    """What a lake has of all others: the rows of Parquet files, and the bytes of other files."""
    of_patient = {
        row["content_sha256"]
        for part in ("index", "history")
        for path in (root / part).rglob("*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
        if PATIENT in row["source_uri"]
    }
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or name.startswith((".", "forgotten/")):
            continue
        if path.suffix == ".parquet":
            rows = pq.ParquetFile(path).read().to_pylist()
            kept = [row for row in rows if row["content_sha256"] not in of_patient]
            table = found.setdefault(name.rpartition("/")[0], [])
            table += sorted(map(repr, kept))
        else:
            found[name] = path.read_bytes()
    prefixes = tuple(content[:16] for content in of_patient)
    return {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in found.items()
        if value and not any(prefix in name for prefix in prefixes)
    }
