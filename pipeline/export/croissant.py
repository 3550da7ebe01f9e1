"""Describe exported images for machines: Croissant 1.0 metadata, as JSON-LD.

Source: MLCommons, Croissant Format Specification 1.0 (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from pipeline.export.manifest import manifest_schema
from pipeline.export.options import DICOM, PARQUET, PNG, ExportOptions

CROISSANT: Final = "croissant.json"
CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"
CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of the specification."""


def croissant(
    options: ExportOptions, labels: Sequence[str], manifest_sha256: str
) -> dict[str, Any]:
    """Return the description of an export.

    Args:
        options: of the export.
        labels: of its images.
        manifest_sha256: of its manifest, hex.
    """
    is_parquet = options.manifest == PARQUET
    manifest = f"manifest.{options.manifest}"
    described: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": options.name,
        "conformsTo": CONFORMS_TO,
        "description": f"{_FORMATS[options.images]} of {', '.join(labels) or 'no label'}, selected "
        "from a lake of DICOM Imaging Router; labels are decisions of its model, its policy and its "
        "reviewers.",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "manifest",
                "name": "manifest",
                "description": "A row for each image.",
                "contentUrl": manifest,
                "encodingFormat": "application/x-parquet" if is_parquet else "text/csv",
                "sha256": manifest_sha256,
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "key": {"@id": "images/sha256"},
                "field": [_field(one) for one in manifest_schema(options)],
            }
        ],
    }
    if options.license:
        described["license"] = options.license
    return described


def _field(column: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"images/{column.name}",
        "name": column.name,
        "description": column.metadata[b"description"].decode(),
        "dataType": _data_type(column.type),
        "source": {"fileObject": {"@id": "manifest"}, "extract": {"column": column.name}},
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_floating(kind):
        return "sc:Float"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Boolean" if pa.types.is_boolean(kind) else "sc:Text"


_FORMATS: Final = {DICOM: "DICOM objects", PNG: "PNG images"}
