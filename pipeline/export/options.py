"""The options of `export`; imports nothing heavy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from transforms.core.choices import SPLITS
from transforms.core.errors import UsageError
from transforms.core.option import Group, option, range_problems
from transforms.core.reasons import Status

FOLDER: Final = "folder"
WEBDATASET: Final = "webdataset"
FHIR: Final = "fhir"
OMOP: Final = "omop"
DATASETS: Final = (FOLDER, WEBDATASET)
"""Kinds of exports with images."""
DICOM: Final = "dicom"
PNG: Final = "png"
CSV: Final = "csv"
PARQUET: Final = "parquet"
UIDS: Final = "uids"
PATIENT_KEY: Final = "patient_key"
SOURCE_URI: Final = "source_uri"
OBJECTS: Final = "objects"
IDENTIFIERS: Final = (UIDS, PATIENT_KEY, SOURCE_URI, OBJECTS)
STATUSES: Final = (Status.ROUTED.value, Status.REVIEW.value, Status.NOT_XRAY.value)
DEFAULT_SHARES: Final = (0.7, 0.15, 0.15)
NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `export`; the help of each option describes its field."""

    to: Literal["folder", "webdataset", "fhir", "omop"] = option(
        FOLDER,
        group=Group.INPUT_OUTPUT,
        choices=(FOLDER, WEBDATASET, FHIR, OMOP),
        help="folder: an image file for each row, in a folder for each label; webdataset: tar files; "
        "fhir: ImagingStudy resources as NDJSON; omop: tables of the medical imaging extension",
    )
    where: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="SQL",
        help="export only rows that fulfil this condition over the columns of the index, such as "
        "\"modality = 'DX' AND confidence > 0.95\"",
    )
    status: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        choices=STATUSES,
        help="export rows of these statuses; images in review, and other objects, have no label",
        default_text=Status.ROUTED.value,
    )
    identifiers: tuple[str, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        choices=IDENTIFIERS,
        help="export these identifiers, too: UIDs and sha256 of the objects, patient_key, source_uri, "
        "and whole objects with all that is in their headers",
        default_text="none",
    )
    images: Literal["png", "dicom"] = option(
        PNG,
        group=Group.INPUT_OUTPUT,
        choices=(PNG, DICOM),
        help="png: images as the network sees them, 8 bits; dicom: the objects, which needs "
        "--identifiers objects",
    )
    size: int = option(
        512,
        group=Group.INPUT_OUTPUT,
        unit="pixels",
        at_least=16,
        at_most=8192,
        help="length of the long side of PNG images",
    )
    manifest: Literal["csv", "parquet"] = option(
        CSV, group=Group.INPUT_OUTPUT, choices=(CSV, PARQUET), help="format of the manifest"
    )
    shares: tuple[float, ...] = option(
        (),
        group=Group.INPUT_OUTPUT,
        metavar="SHARE",
        help=f"shares of the splits {', '.join(SPLITS)}; 1 0 0 makes one split",
        default_text=" ".join(map(str, DEFAULT_SHARES)),
    )
    split_key: str = option(
        "0",
        group=Group.INPUT_OUTPUT,
        metavar="TEXT",
        help="key of the hash of patient_key, else of the Study Instance UID, that decides the split",
    )
    shard_rows: int = option(
        1000, group=Group.INPUT_OUTPUT, above=0, help="maximum number of images in a tar file"
    )
    name: str = option(
        "lake-export",
        group=Group.INPUT_OUTPUT,
        metavar="NAME",
        help="name of the data set in its metadata",
    )
    license: str = option(
        "",
        group=Group.INPUT_OUTPUT,
        metavar="TEXT",
        help="licence of the data set, such as an SPDX identifier or a URL",
    )
    fhir_version: Literal["R4", "R5"] = option(
        "R4", group=Group.INPUT_OUTPUT, choices=("R4", "R5"), help="release of FHIR"
    )
    concepts: Path | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="CSV file with the columns vocabulary_id, concept_code and concept_id, such as OMOP's "
        "CONCEPT.csv; without it, concept ids are 0, and source codes are written",
    )
    persons: Path | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="CSV file with the columns patient_key and person_id of OMOP; rows of other patients are "
        "left out",
    )
    threads: int | None = option(
        None,
        group=Group.SPEED,
        above=0,
        help="images decoded at the same time",
        default_text="processors",
    )

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses of exported rows."""
        return tuple(dict.fromkeys(self.status)) or (Status.ROUTED.value,)

    @property
    def split_shares(self) -> tuple[float, ...]:
        """The shares of `SPLITS`."""
        return self.shares or DEFAULT_SHARES

    def check(self) -> None:
        """Check the options.

        Raises:
            UsageError: with every problem found.
        """
        problems = range_problems(self)
        shares = self.split_shares
        if len(shares) != len(SPLITS) or min(shares) < 0 or not math.isclose(sum(shares), 1):
            problems.append(
                f"--shares: give {len(SPLITS)} shares that add up to 1 ({', '.join(SPLITS)})"
            )
        if not NAME.fullmatch(self.name):
            problems.append("--name: write letters, digits, '.', '_' and '-'")
        if self.to in DATASETS and self.images == DICOM and OBJECTS not in self.identifiers:
            problems.append(
                "--images dicom exports whole objects, with the names, dates and ids in their headers: "
                "add --identifiers objects if the recipient may have them, or export PNG images"
            )
        if self.to in (FHIR, OMOP) and UIDS not in self.identifiers:
            problems.append(
                f"--to {self.to} exports the UIDs of studies and series: add --identifiers uids if the "
                "recipient may have them"
            )
        if self.to != OMOP and (self.concepts or self.persons):
            problems.append("--concepts and --persons need --to omop")
        if problems:
            raise UsageError("; ".join(problems))
