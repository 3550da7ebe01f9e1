"""Write rows of `image_occurrence`, of the medical imaging extension of the OMOP Common Data Model.

Source: Park et al. 2024, "Development of Medical Imaging Data Standardization for Imaging-Based
Observational Research: OMOP Common Data Model Extension", J Imaging Inform Med 37:899-908; the columns
are those of its DDL for CDM 5.4 (github.com/dr-you-group/ImageWG), and three source values after them.
Concept ids are those of a file of concepts; no vocabulary comes with the router.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.export.fhir import body_site
from pipeline.export.options import PATIENT_KEY, ExportOptions
from pipeline.export.output import Output
from pipeline.export.selection import Selection
from transforms.core.errors import UsageError
from transforms.lake.layout import is_relative

FILE: Final = "image_occurrence.csv"
COLUMNS: Final = (
    "image_occurrence_id", "person_id", "procedure_occurrence_id", "visit_occurrence_id",
    "anatomic_site_concept_id", "wadors_uri", "local_path", "image_occurrence_date",
    "image_study_uid", "image_series_uid", "modality_concept_id",
)  # fmt: skip
SOURCE_COLUMNS: Final = (
    "person_source_value",
    "anatomic_site_source_value",
    "modality_source_value",
)
"""Columns that the extension lacks: what `0` of no concept stands for. Drop them to load the table."""
NO_CONCEPT: Final = 0
"""No matching concept."""
ID_BITS: Final = 52
"""Of ids, which are hashes: programs that read numbers as float64 keep them exact."""
SNOMED, DICOM = "SNOMED", "DICOM"
"""Values of `vocabulary_id`."""
_ORDER: Final = (
    "study_instance_uid, series_instance_uid, destination, sop_instance_uid, content_sha256"
)


def export_omop(selection: Selection, output: Output, options: ExportOptions) -> int:
    """Write a row for each series and body part; return their number.

    Raises:
        UsageError: `--concepts` or `--persons` cannot be read.
        ProcessingFailure: the storage of the export refused the write.
    """
    concepts = _read_concepts(options.concepts) if options.concepts else {}
    persons = read_persons(options.persons) if options.persons else None
    number = 0
    with output.open(FILE) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.DictWriter(text, (*COLUMNS, *SOURCE_COLUMNS), lineterminator="\n")
        writer.writeheader()
        for rows in _occurrences(selection):
            person = None
            if persons is not None:
                person = persons.get(rows[0]["patient_key"])
                if person is None:
                    continue
            writer.writerow(_occurrence(rows, concepts, person, options))
            number += 1
        text.detach()
    output.clean()
    return number


def _occurrences(selection: Selection) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each series and sink."""
    key = ("study_instance_uid", "series_instance_uid", "destination")
    for _, rows in itertools.groupby(
        selection.rows(_ORDER), lambda row: tuple(row[name] for name in key)
    ):
        yield list(rows)


def _occurrence(
    rows: Sequence[dict[str, Any]],
    concepts: Mapping[tuple[str, str], int],
    person: int | None,
    options: ExportOptions,
) -> dict[str, Any]:
    first = rows[0]
    region = body_site(rows)
    site = region[0] if region else ""
    modality = first["modality"] or ""
    folder = first["object_uri"].rpartition("/")[0]
    identity = (
        f"{first['study_instance_uid']}\0{first['series_instance_uid']}\0{first['destination']}"
    )
    may_name = PATIENT_KEY in options.identifiers and first["patient_key"]
    return {
        "image_occurrence_id": _id_of(identity),
        "person_id": person,
        "anatomic_site_concept_id": concepts.get((SNOMED, site), NO_CONCEPT),
        "local_path": folder if is_relative(folder) else None,
        "image_study_uid": first["study_instance_uid"],
        "image_series_uid": first["series_instance_uid"],
        "modality_concept_id": concepts.get((DICOM, modality), NO_CONCEPT),
        "person_source_value": first["patient_key"] if may_name else first["patient_hash"],
        "anatomic_site_source_value": site,
        "modality_source_value": modality,
    }


def _id_of(identity: str) -> int:
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") >> (64 - ID_BITS)


def _read_concepts(path: Path) -> dict[tuple[str, str], int]:
    """Return concept ids by vocabulary and code, of the vocabularies SNOMED and DICOM."""
    return {
        (row["vocabulary_id"], row["concept_code"]): _number(path, row["concept_id"])
        for row in _read(path, "--concepts", ("vocabulary_id", "concept_code", "concept_id"))
        if row["vocabulary_id"] in (SNOMED, DICOM)
    }


def read_persons(path: Path) -> dict[str, int]:
    """Return the person id of each patient key.

    Raises:
        UsageError: `--persons` cannot be read.
    """
    return {
        row["patient_key"]: _number(path, row["person_id"])
        for row in _read(path, "--persons", ("patient_key", "person_id"))
    }


def _read(path: Path, flag: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the lines of a CSV file, separated by tabs if its header has one, as OMOP's files are."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            is_tabbed = "\t" in file.readline()
            file.seek(0)
            reader = csv.DictReader(file, dialect=_Tabbed if is_tabbed else csv.excel)
            if missing := sorted({*columns} - {*(reader.fieldnames or ())}):
                raise UsageError(f"{flag} {path}: has no column {', '.join(missing)}")
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{flag} {path}: cannot be read ({type(error).__name__})") from error


class _Tabbed(csv.excel_tab):
    """As Athena writes OMOP's vocabularies: quotation marks are part of names."""

    quoting = csv.QUOTE_NONE


def _number(path: Path, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{path}: an id is not a whole number") from None
