"""Amazon S3 and compatible stores: versions are ETags, and writes are conditional.

Endpoint, region and credentials come from the environment and the configuration files of all AWS
clients (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, `AWS_PROFILE`, …).
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from transforms.storage.base import (
    BLOCK_BYTES,
    ConditionalWritesUnsupported,
    ObjectChanged,
    ObjectInfo,
    already_stored,
    remaining_bytes,
    sha256_of,
)
from transforms.storage.names import folder_prefix, is_folder_marker, match_objects, split_uri
from transforms.storage.permissions import FILE_MODE
from transforms.storage.selection import ALL, Selection, Skipped

CONFIG: Final = Config(
    retries={"max_attempts": 5, "mode": "standard"},
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=64,
)
BRIEF: Final = CONFIG.merge(
    Config(retries={"max_attempts": 3, "mode": "standard"}, connect_timeout=5, read_timeout=5)
)
"""For locks, whose holder must soon learn that it cannot renew."""
MAX_READS: Final = 4
"""Requests of one download; each continues where the one before was interrupted."""
BACKOFF_S: Final = (0.2, 1.0, 5.0)
"""Between attempts of a write that was refused although there is no such object."""
CONTENT_TYPE: Final = "application/dicom"
PART_BYTES: Final = 64 << 20
"""Larger objects are sent in parts, each of which is in memory; S3 takes up to 10,000."""
NO_CREDENTIALS: Final = "no AWS credentials; set AWS_PROFILE, or run 'aws configure'"
CONDITIONS_UNSUPPORTED: Final = frozenset(
    {"501", "NotImplemented", "InvalidArgument", "InvalidRequest"}
)
"""Error codes of stores that have no conditional writes."""
MISSING: Final = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
FORBIDDEN: Final = frozenset(
    {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)
CONDITION_FAILED: Final = frozenset(
    {"409", "412", "PreconditionFailed", "ConditionalRequestConflict"}
)


class S3Storage:
    """Objects in `s3://` buckets. Thread-safe."""

    def __init__(self) -> None:
        self._client = boto3.client("s3", config=CONFIG)
        self._brief = boto3.client("s3", config=BRIEF)

    def stat(self, uri: str) -> ObjectInfo | None:
        bucket, name = split_uri(uri)
        try:
            with _os_errors(uri):
                head = self._client.head_object(Bucket=bucket, Key=name)
        except FileNotFoundError:
            return None
        sha256 = head["Metadata"].get("sha256")
        modified = head["LastModified"].timestamp()
        return ObjectInfo(uri, _unquoted(head["ETag"]), head["ContentLength"], sha256, modified)

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        return self._list(folder_prefix(uri))

    def match(
        self, pattern: str, selection: Selection = ALL
    ) -> Iterator[ObjectInfo | OSError | Skipped]:
        return match_objects(pattern, self.stat, self._list, selection)

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        position, attempts = 0, 0
        while True:
            try:
                for block, etag in self._read_blocks(uri, version, position):
                    version = etag  # the rest must have the same version
                    sink.write(block)
                    position += len(block)
                return
            except RequestFailed:
                attempts += 1
                if attempts == MAX_READS:
                    raise

    def _get(self, uri: str, version: str | None, start: int, end: int | None) -> dict[str, Any]:
        """Return the response with the bytes from a position on, up to another or all."""
        bucket, name = split_uri(uri)
        condition = {"IfMatch": version} if version else {}
        if start or end is not None:
            condition["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        with _os_errors(uri):
            response: dict[str, Any] = self._client.get_object(Bucket=bucket, Key=name, **condition)
        return response

    def _read_blocks(
        self, uri: str, version: str | None, start: int
    ) -> Iterator[tuple[bytes, str]]:
        """Yield the bytes from a position on, with their version."""
        response = self._get(uri, version, start, None)
        blocks = response["Body"].iter_chunks(BLOCK_BYTES)
        while True:
            with _os_errors(uri):
                block = next(blocks, None)
            if block is None:
                return
            yield block, _unquoted(response["ETag"])

    def read_range(self, uri: str, version: str, start: int, length: int) -> bytes:
        return self.read_part(uri, version, start, start + length)

    def read_part(self, uri: str, version: str, start: int = 0, end: int | None = None) -> bytes:
        """As `SupportsParallelReads.read_part`; an interrupted one is read again."""
        attempts = 0
        while True:
            try:
                body = self._get(uri, version, start, end)["Body"]
                with _os_errors(uri):
                    data: bytes = body.read()
                return data
            except RequestFailed:
                attempts += 1
                if attempts == MAX_READS:
                    raise

    def put(
        self, uri: str, source: BinaryIO, sha256: str, scratch: str, file_mode: int = FILE_MODE
    ) -> bool:
        """As `Storage.put`.

        The write requires that there is no object; where the store has no such condition, the
        object is read back. A failed condition need not mean another writer: where a response was
        lost, the client's retry finds the object that its first request wrote, and during a
        concurrent write of the same name there is no object yet.
        """
        start = source.tell()
        for backoff_s in BACKOFF_S:
            if already_stored(self, uri, sha256):
                return False
            source.seek(start)
            try:
                self._write(uri, source, sha256, {"IfNoneMatch": "*"})
                return True
            except ObjectChanged:
                time.sleep(backoff_s)
            except ConditionalWritesUnsupported:
                source.seek(start)
                self._write(uri, source, sha256, {})
                if sha256_of(self, uri) == sha256:
                    return True
                raise FileExistsError(
                    errno.EEXIST, "the object exists with other bytes", uri
                ) from None
        raise OSError(errno.EAGAIN, "write refused, but no such object", uri)

    def remove(self, uri: str) -> None:
        bucket, name = split_uri(uri)
        with _os_errors(uri):
            self._client.delete_object(Bucket=bucket, Key=name)

    def compare_and_swap(self, uri: str, data: bytes, version: str | None) -> str | None:
        bucket, name = split_uri(uri)
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            with _os_errors(uri):
                written = self._brief.put_object(Bucket=bucket, Key=name, Body=data, **condition)
        except ObjectChanged:
            return None
        except FileNotFoundError:
            if version is None:  # the bucket is missing
                raise
            return None
        return _unquoted(written["ETag"])

    def _write(self, uri: str, source: BinaryIO, sha256: str, condition: dict[str, str]) -> None:
        bucket, name = split_uri(uri)
        target = {"Bucket": bucket, "Key": name}
        attributes = {"ContentType": CONTENT_TYPE, "Metadata": {"sha256": sha256}}
        with _os_errors(uri):
            if remaining_bytes(source) <= PART_BYTES:
                self._client.put_object(**target, **attributes, Body=source, **condition)
            else:
                self._write_in_parts(target, attributes, source, condition)

    def _write_in_parts(
        self,
        target: dict[str, str],
        attributes: dict[str, Any],
        source: BinaryIO,
        condition: dict[str, str],
    ) -> None:
        upload = {
            **target,
            "UploadId": self._client.create_multipart_upload(**target, **attributes)["UploadId"],
        }
        parts: list[dict[str, Any]] = []
        try:
            while part := source.read(PART_BYTES):
                number = len(parts) + 1
                uploaded = self._client.upload_part(**upload, PartNumber=number, Body=part)
                parts.append({"PartNumber": number, "ETag": uploaded["ETag"]})
            self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}, **condition
            )
        except BaseException:
            self._client.abort_multipart_upload(**upload)
            raise

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        bucket, name = split_uri(prefix)
        with _os_errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=name
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    uri = f"s3://{bucket}/{entry['Key']}"
                    modified = entry["LastModified"].timestamp()
                    found = ObjectInfo(
                        uri, _unquoted(entry["ETag"]), entry["Size"], modified=modified
                    )
                    if not is_folder_marker(found):
                        yield found


class RequestFailed(OSError):
    """A request failed in a way that may be transient."""


def _unquoted(etag: str) -> str:
    return etag.strip('"')


@contextlib.contextmanager
def _os_errors(uri: str) -> Iterator[None]:
    """Translate the client's errors into `OSError`s."""
    try:
        yield
    except ClientError as error:
        raise _os_error(error, uri) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise PermissionError(errno.EACCES, NO_CREDENTIALS, uri) from error
    except BotoCoreError as error:
        raise RequestFailed(errno.EIO, type(error).__name__, uri) from error


def _os_error(error: ClientError, uri: str) -> OSError:
    code = error.response.get("Error", {}).get("Code", "")
    if code in MISSING:
        return FileNotFoundError(errno.ENOENT, "no such object or bucket", uri)
    if code in FORBIDDEN:
        return PermissionError(errno.EACCES, f"permission denied ({code})", uri)
    if code in CONDITION_FAILED:
        return ObjectChanged(errno.ESTALE, "the object has another version", uri)
    if code in CONDITIONS_UNSUPPORTED:
        return ConditionalWritesUnsupported(errno.EIO, code, uri)
    return RequestFailed(errno.EIO, code or type(error).__name__, uri)
