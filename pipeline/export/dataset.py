"""Write images as a data set: a file each, or tar files in the format of WebDataset; and a manifest.

The rows are exported in chunks, which depend on the selection alone. After the files of a chunk, its part
of the manifest is written: an interrupted export continues after the last one. At the end the parts
become the manifest and `SHA256SUMS`; `croissant.json` is the last file of a complete export.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from pipeline.export.columns import exported_values
from pipeline.export.croissant import CROISSANT, croissant
from pipeline.export.manifest import Manifest, open_manifest
from pipeline.export.options import DICOM, WEBDATASET, ExportOptions
from pipeline.export.output import PARTS, Output
from pipeline.export.selection import Selection
from pipeline.images import Renderer
from transforms.core.reasons import (
    QUARANTINE_REASONS,
    ObjectError,
    ProcessingFailure,
    Reason,
    Stage,
    Status,
)
from transforms.core.storage_failures import read_failure
from transforms.core.worker_resources import processors
from transforms.lake.files import read_bytes
from transforms.lake.layout import Layout
from transforms.lake.thumbnails import read_thumbnails

CHUNK_ROWS: Final = 1000
"""Rows of a chunk of files."""
CHUNK_BYTES: Final = 512 << 20
"""Size of the objects of a chunk, which ends before the one that would exceed it."""
IN_FLIGHT: Final = 4
"""Images in memory together, for each thread."""
SUMS: Final = "SHA256SUMS"
SUMMARY: Final = "summary.json"
"""How many images there are, and which objects could not be decoded, by object_key."""
TAR_MODE: Final = 0o644


class Chunk(NamedTuple):
    """Rows that are exported together.

    Attributes:
        number: from 0.
        of_split: number among the chunks of its split, from 0.
        rows: of `Selection`, of one split.
    """

    number: int
    of_split: int
    rows: list[dict[str, Any]]


@dataclass
class Exported:
    """Result of an export of images.

    Attributes:
        images: number of exported images.
        skipped: reason by object key of images that cannot be decoded.
        failed: reason by object key of objects that could not be read; the export is then incomplete.
    """

    images: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def export_dataset(
    layout: Layout, selection: Selection, output: Output, options: ExportOptions
) -> Exported:
    """Write the images of selected rows, and what describes them. Idempotent.

    Raises:
        ProcessingFailure: the storage of the export refused a write.
        OSError: a folder cannot be listed.
    """
    if output.has(CROISSANT):
        output.clean()
        return Exported(**json.loads(output.read(SUMMARY)))
    result = Exported()
    chunks = 0
    threads = options.threads or processors()
    with Renderer(threads) as renderer, ThreadPoolExecutor(threads) as pool:
        writer = _Writer(layout, output, options, renderer, pool)
        for chunk in _chunks(selection.rows(), options):
            chunks += 1
            if not output.has(_part(chunk.number)):
                result.failed |= writer.write(chunk)
    if result.failed:
        return result
    parts = [_part(number) for number in range(chunks)]
    with open_manifest(output, options) as manifest:
        for part in parts:
            _add_rows(_records(output, part), manifest, result)
    name = f"manifest.{options.manifest}"
    with output.open(SUMS) as sums:
        for part in parts:
            for record in _records(output, part):
                for path, sha256 in record["files"].items():
                    sums.write(f"{sha256}  {path}\n".encode())
        sums.write(f"{output.sha256[name]}  {name}\n".encode())
    output.put(SUMMARY, _encode({"images": result.images, "skipped": result.skipped}))
    description = croissant(options, selection.labels(), output.sha256[name])
    output.put(CROISSANT, _encode(description))
    output.clean()
    return result


def _chunks(rows: Iterable[dict[str, Any]], options: ExportOptions) -> Iterator[Chunk]:
    limit = options.shard_rows if options.to == WEBDATASET else CHUNK_ROWS
    found: list[dict[str, Any]] = []
    number = of_split = size = 0
    for row in rows:
        of_row = row["source_size_bytes"] if options.images == DICOM else 0
        is_other_split = bool(found) and row["split"] != found[0]["split"]
        if found and (is_other_split or len(found) == limit or size + of_row > CHUNK_BYTES):
            yield Chunk(number, of_split, found)
            number, of_split = number + 1, 0 if is_other_split else of_split + 1
            found, size = [], 0
        found.append(row)
        size += of_row
    if found:
        yield Chunk(number, of_split, found)


def _part(number: int) -> str:
    return f"{PARTS}/{number:08d}.jsonl"


class _Writer:
    """Writes the files of chunks, and their parts of the manifest."""

    def __init__(
        self,
        layout: Layout,
        output: Output,
        options: ExportOptions,
        renderer: Renderer,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._layout, self._output, self._options = layout, output, options
        self._renderer, self._pool = renderer, pool
        self._in_flight = IN_FLIGHT * (options.threads or processors())
        self._suffix = "dcm" if options.images == DICOM else "png"

    def write(self, chunk: Chunk) -> dict[str, str]:
        """Write a chunk; return the reason by object key of objects that could not be read.

        Such a chunk has no part, so that the next run writes it again.
        """
        contents = [row["content_sha256"] for row in chunk.rows]
        thumbnails = read_thumbnails(self._layout, contents)
        failed: dict[str, str] = {}
        images = self._images(chunk.rows, failed)
        if self._options.to == WEBDATASET:
            records = self._write_shard(chunk, images, thumbnails, failed)
        else:
            records = self._write_files(images, thumbnails)
        if not failed:
            lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in records]
            self._output.put(_part(chunk.number), "".join(lines).encode())
        return failed

    def _images(
        self, rows: Sequence[dict[str, Any]], failed: dict[str, str]
    ) -> Iterator[tuple[dict[str, Any], bytes | Reason]]:
        """Yield rows with their images, or why there is none."""
        for start in range(0, len(rows), self._in_flight):
            batch = rows[start : start + self._in_flight]
            for row, image in zip(batch, self._pool.map(self._image, batch), strict=True):
                if isinstance(image, Reason) and image not in QUARANTINE_REASONS:
                    failed[row["object_key"]] = image
                else:
                    yield row, image

    def _image(self, row: dict[str, Any]) -> bytes | Reason:
        uri = self._layout.absolute(row["object_uri"])
        try:
            if self._options.images == DICOM:
                return _read_object(uri, row["content_sha256"])
            image = self._renderer.image(uri, self._options.size)
            return image if isinstance(image, Reason) else _encode_png(image)
        except ObjectError as error:
            return error.reason

    def _write_files(
        self,
        images: Iterable[tuple[dict[str, Any], bytes | Reason]],
        thumbnails: dict[str, bytes],
    ) -> list[dict[str, Any]]:
        records = []
        for row, image in images:
            if isinstance(image, Reason):
                records.append(_skipped(row, image))
                continue
            path = f"{row['split']}/{row['destination']}/{row['name']}.{self._suffix}"
            self._output.put(path, image)
            record = self._record(row, image, path)
            if thumbnail := thumbnails.get(row["content_sha256"]):
                record["row"]["thumbnail"] = f"thumbnails/{row['name']}.webp"
                self._output.put(record["row"]["thumbnail"], thumbnail)
                record["files"][record["row"]["thumbnail"]] = _sha256(thumbnail)
            records.append(record)
        return records

    def _write_shard(
        self,
        chunk: Chunk,
        images: Iterable[tuple[dict[str, Any], bytes | Reason]],
        thumbnails: dict[str, bytes],
        failed: dict[str, str],
    ) -> list[dict[str, Any]]:
        """Write a tar file, whose bytes depend on its members alone."""
        name = f"shards/{chunk.rows[0]['split']}-{chunk.of_split:06d}.tar"
        records = []
        try:
            with self._output.open(name) as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                    for row, image in images:
                        if isinstance(image, Reason):
                            records.append(_skipped(row, image))
                            continue
                        record = self._record(row, image, name)
                        thumbnail = thumbnails.get(row["content_sha256"])
                        record["row"]["member"] = f"{row['name']}.{self._suffix}"
                        self._add_sample(tar, row["name"], record["row"], image, thumbnail)
                        records.append(record)
                if failed:
                    raise _Incomplete
        except _Incomplete:
            return []
        sums = {name: self._output.sha256[name]}
        return [{"files": sums}, *({**one, "files": {}} for one in records)]

    def _add_sample(
        self,
        tar: tarfile.TarFile,
        key: str,
        values: dict[str, Any],
        image: bytes,
        thumbnail: bytes | None,
    ) -> None:
        _add(tar, f"{key}.{self._suffix}", image)
        columns = {name: value for name, value in values.items() if name not in ("path", "member")}
        _add(tar, f"{key}.json", json.dumps(columns, ensure_ascii=False).encode())
        if thumbnail is not None:
            _add(tar, f"{key}.thumbnail.webp", thumbnail)

    def _record(self, row: dict[str, Any], image: bytes, path: str) -> dict[str, Any]:
        """Return the row of the manifest of an image, and the checksums of files."""
        values: dict[str, Any] = {
            "path": path,
            "label": row["destination"] if row["status"] == Status.ROUTED else "",
            "split": row["split"],
            "source": self._options.name,
            "group": row["group"],
            "license": self._options.license,
            "age": None,
            "region": row["predicted_region"] or "",
            "sha256": _sha256(image),
            "size_bytes": len(image),
            "thumbnail": None,
            **exported_values(row, self._options),
        }
        values["age"] = values["patient_age_years"]
        if values["probabilities"] is not None:
            values["probabilities"] = dict(values["probabilities"])
        return {"row": values, "files": {path: values["sha256"]}}


class _Incomplete(Exception):
    """A tar file lacks an object that could not be read, and is not kept."""


def _read_object(uri: str, sha256: str) -> bytes:
    """Return the bytes of a stored object.

    Raises:
        ProcessingFailure: it cannot be read, or has changed.
    """
    try:
        data = read_bytes(uri)
    except OSError as error:
        raise read_failure(error, Stage.FETCH) from error
    if _sha256(data) != sha256:
        raise ProcessingFailure(Stage.FETCH, Reason.CHANGED)
    return data


def _encode_png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(encoded, "png")
    return encoded.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), TAR_MODE
    tar.addfile(member, io.BytesIO(data))


def _skipped(row: dict[str, Any], reason: Reason) -> dict[str, Any]:
    return {"skipped": [row["object_key"], str(reason)], "files": {}}


def _encode(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _records(output: Output, part: str) -> Iterator[dict[str, Any]]:
    return map(json.loads, output.read(part).decode().splitlines())


def _add_rows(records: Iterable[dict[str, Any]], manifest: Manifest, result: Exported) -> None:
    rows = []
    for record in records:
        if "row" in record:
            rows.append(record["row"])
        elif "skipped" in record:
            key, reason = record["skipped"]
            result.skipped[key] = reason
    result.images += len(rows)
    manifest.write(rows)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
