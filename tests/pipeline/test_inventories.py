"""Inventories of object stores are manifests."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, write
from tests.stores import S3, Store
from tests.synthetic import dicom_bytes, image
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import storage_of

NAMES = ("a.dcm", "day 1/ä+b.dcm", "day 1/c.dcm")
OBJECTS = {
    name: dicom_bytes(image(number, (96, 64)), name=str(number))
    for number, name in enumerate(NAMES)
}
Rows = list[dict[str, Any]]


def as_csv(rows: Rows, *, header: bool, quote: int = csv.QUOTE_ALL) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), quoting=quote)  # type: ignore[arg-type]
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: Rows) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), data, row_group_size=2)
    return data.getvalue()


def listed(store: Store) -> list[ObjectInfo]:
    for name, data in OBJECTS.items():
        store.write(f"in/{name}", data)
    store.write("in/._a.dcm", b"Finder")
    store.write("in/lake/lake.json", b"{}")
    store.write("in/lake/objects/x.dcm", b"of another lake")
    return list(storage_of(store.root).list_below(f"{store.root}/in"))


def amazon_rows(store: Store, *, encoded: bool) -> Rows:
    from urllib.parse import quote

    bucket = store.root.removeprefix("s3://")
    rows = [
        {
            "Bucket": bucket,
            "Key": quote(name) if encoded else name,
            "VersionId": "1",
            "IsLatest": "true" if encoded else True,
            "IsDeleteMarker": "false" if encoded else False,
            "Size": one.size,
            "LastModifiedDate": "2026-11-28T01:02:03.000Z",
            "ETag": one.version,
        }
        for one in listed(store)
        for name in [one.uri.removeprefix(f"{store.root}/")]
    ]
    gone = {**rows[0], "Key": "in/gone.dcm"}
    return [*rows, {**gone, "IsLatest": "false"}, {**gone, "IsDeleteMarker": "true"}]


def amazon_csv(store: Store) -> str:
    rows = amazon_rows(store, encoded=True)
    store.write("inv/data/1.csv.gz", gzip.compress(as_csv(rows[:2], header=False)))
    store.write("inv/data/2.csv.gz", gzip.compress(as_csv(rows[2:], header=False)))
    return amazon_manifest(store, ["inv/data/1.csv.gz", "inv/data/2.csv.gz"], "CSV", list(rows[0]))


PARQUET_NAMES = {"ETag": "e_tag", "IsLatest": "is_latest", "IsDeleteMarker": "is_delete_marker"}


def amazon_parquet(store: Store) -> str:
    rows = [
        {PARQUET_NAMES.get(name, name.lower()): value for name, value in row.items()}
        for row in amazon_rows(store, encoded=False)
    ]
    for row in rows:
        row["is_latest"] = row["is_latest"] in (True, "true")
        row["is_delete_marker"] = row["is_delete_marker"] in (True, "true") and row["is_latest"]
    store.write("inv/data/1.parquet", as_parquet(rows))
    return amazon_manifest(store, ["inv/data/1.parquet"], "Parquet", [])


def amazon_manifest(store: Store, files: list[str], kind: str, schema: list[str]) -> str:
    bucket = store.root.removeprefix("s3://")
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "version": "2016-11-30",
        "fileFormat": kind,
        "fileSchema": ", ".join(schema) or "message s3.inventory { }",
        "files": [{"key": key, "size": 1, "MD5checksum": ""} for key in files],
    }
    return store.write("inv/2026-11-29T01-00Z/manifest.json", json.dumps(manifest).encode())


def google_rows(store: Store) -> Rows:
    return [
        {
            "project": "1",
            "bucket": store.root.removeprefix("gs://"),
            "name": one.uri.removeprefix(f"{store.root}/"),
            "size": one.size,
            "generation": int(one.version),
            "updated": "2026-11-28T01:02:03.123456789Z",
            "timeDeleted": None,
        }
        for one in listed(store)
    ]


def google_csv(store: Store) -> str:
    rows = google_rows(store)
    store.write("inv/r_0.csv", as_csv(rows[:2], header=False, quote=csv.QUOTE_MINIMAL))
    store.write("inv/r_1.csv", as_csv(rows[2:], header=False, quote=csv.QUOTE_MINIMAL))
    manifest = {
        "report_config": {
            "csv_options": {"delimiter": ",", "header_required": False},
            "object_metadata_report_options": {"metadata_fields": list(rows[0])},
        },
        "report_shards_file_names": ["r_0.csv", "r_1.csv"],
    }
    return store.write("inv/manifest.json", json.dumps(manifest).encode())


def google_parquet(store: Store) -> str:
    return store.write("inv/r_0.parquet", as_parquet(google_rows(store)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("amazon", "google"), [(amazon_csv, google_csv), (amazon_parquet, google_parquet)]
)
def test_the_objects_of_an_inventory_are_routed_without_a_lookup(
    store: Store,
    lake: Lake,
    route: Route,
    amazon: Callable[[Store], str],
    google: Callable[[Store], str],
) -> None:
    manifest = (amazon if store.scheme == S3 else google)(store)
    summary = route("--source", "manifest", inputs=(manifest,))
    assert {row["source_uri"] for row in lake.rows()} == {
        f"{store.root}/in/{name}" for name in NAMES
    }
    old = {"not_current": 2} if store.scheme == S3 else {}
    assert summary["skipped"] == {"excluded": 1, "lake": 2, **old}
    again = route(inputs=(f"{store.root}/in",))  # the versions are those of a listing
    assert again["counts"]["unchanged"] == len(NAMES)


AZURE = ["Name", "Creation-Time", "Content-Length", "Etag", "hdi_isfolder", "Deleted"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_inventory_of_azure_is_read_from_a_mount(
    source: Path, lake: Lake, route: Route, tmp_path: Path, kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, data in OBJECTS.items():
        write(source / "container", name, data)
    rows = [dict(zip(AZURE, (f"container/{n}", "x", "1", "e", "", ""), strict=True)) for n in NAMES]
    rows.append(dict(zip(AZURE, ("container/day 1", "x", "0", "e", "true", ""), strict=True)))
    data = as_csv(rows, header=True) if kind == "csv" else as_parquet(rows)
    (tmp_path / f"rule_0.{kind}").write_bytes(data)
    manifest = {
        "files": [{"blob": f"2026/11/29/rule_0.{kind}"}],
        "ruleDefinition": {"format": kind},
    }
    (tmp_path / "rule-manifest.json").write_text(json.dumps(manifest))
    command = ["--source", "manifest", "--input", str(tmp_path / "rule-manifest.json")]
    assert main(["route", *command, "--lake", str(lake.root)]) == 2
    assert "give --inventory_root" in capsys.readouterr().err
    summary = route(
        *("--source", "manifest", "--inventory_root", str(source)),
        inputs=(str(tmp_path / "rule-manifest.json"),),
    )
    assert summary["skipped"] == {"not_current": 1}
    assert {row["source_uri"] for row in lake.rows()} == {
        str(source / "container" / name) for name in NAMES
    }


@pytest.mark.slow
def test_a_missing_file_of_an_inventory_is_one_failure(
    source: Path, lake: Lake, route: Route, tmp_path: Path
) -> None:
    write(source, "a.dcm", OBJECTS["a.dcm"])
    (tmp_path / "1.csv").write_text('"b","a.dcm"\n')
    manifest = {
        "destinationBucket": "arn:aws:s3:::b",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key",
        "files": [{"key": "x/data/1.csv"}, {"key": "x/data/2.csv.gz"}],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    options = ("--source", "manifest", "--inventory_root", str(source))
    summary = route(*options, inputs=(str(tmp_path / "manifest.json"),), expect=1)
    assert [failure["reason"] for failure in summary["failures"]] == ["invalid_entry"]
    assert len(lake.rows()) == 1


def test_orc_is_refused(tmp_path: Path, lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = {"destinationBucket": "b", "fileFormat": "ORC", "fileSchema": "x", "files": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    command = ["route", "--source", "manifest", "--lake", str(lake.root), "--input"]
    assert main([*command, str(tmp_path / "manifest.json")]) == 2
    assert "configure the inventory as Parquet or CSV" in capsys.readouterr().err
