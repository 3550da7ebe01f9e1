"""Amazon S3 and stores that speak as it does: ETags are versions, writes are conditional.

Endpoint, region and credentials come from the environment and the files that all of Amazon's clients
read (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, `AWS_PROFILE`, …).
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
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
    bytes_left,
    sha256_of,
)
from transforms.storage.names import below, is_folder_mark, matched, split

CONFIG: Final = Config(
    retries={"max_attempts": 5, "mode": "standard"},
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=32,
)
BRIEF: Final = CONFIG.merge(
    Config(retries={"max_attempts": 3, "mode": "standard"}, connect_timeout=5, read_timeout=5)
)
"""For locks: who cannot renew one must know soon."""
READS: Final = 4
"""How often a download goes on where it broke off."""
WAITS_S: Final = (0.2, 1.0, 5.0)
"""Between tries of a write that was refused although nothing stands there."""
CONTENT_TYPE: Final = "application/dicom"
PART_BYTES: Final = 256 << 20
"""Larger objects are sent in parts; S3 takes up to 5 GiB at once."""
NO_CREDENTIALS: Final = "no AWS credentials; set AWS_PROFILE, or run 'aws configure'"
NO_CONDITIONS: Final = frozenset({"501", "NotImplemented", "InvalidArgument", "InvalidRequest"})
"""What stores without conditional writes answer to one."""
MISSING: Final = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
FORBIDDEN: Final = frozenset(
    {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)
CONDITION_FAILED: Final = frozenset(
    {"409", "412", "PreconditionFailed", "ConditionalRequestConflict"}
)


class S3Storage:
    """Objects in `s3://` buckets. Safe between threads."""

    def __init__(self) -> None:
        self._client = boto3.client("s3", config=CONFIG)
        self._brief = boto3.client("s3", config=BRIEF)

    def stat(self, uri: str) -> ObjectInfo | None:
        bucket, name = split(uri)
        try:
            with _os_errors(uri):
                head = self._client.head_object(Bucket=bucket, Key=name)
        except FileNotFoundError:
            return None
        note = head["Metadata"].get("sha256")
        modified = head["LastModified"].timestamp()
        return ObjectInfo(uri, _plain(head["ETag"]), head["ContentLength"], note, modified)

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        return self._list(below(uri))

    def match(self, pattern: str, excluded: Sequence[str] = ()) -> Iterator[ObjectInfo | OSError]:
        return matched(pattern, self.stat, self._list, excluded)

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        done, tries = 0, 0
        while True:
            try:
                for block, etag in self._blocks(uri, version, done):
                    version = etag  # what follows is of the same version
                    sink.write(block)
                    done += len(block)
                return
            except Interrupted:
                tries += 1
                if tries == READS:
                    raise

    def _blocks(self, uri: str, version: str | None, start: int) -> Iterator[tuple[bytes, str]]:
        """The bytes from a position on, with the version that they are of."""
        bucket, name = split(uri)
        condition = {"IfMatch": version} if version else {}
        if start:
            condition["Range"] = f"bytes={start}-"
        with _os_errors(uri):
            answer = self._client.get_object(Bucket=bucket, Key=name, **condition)
        blocks = answer["Body"].iter_chunks(BLOCK_BYTES)
        while True:
            with _os_errors(uri):
                block = next(blocks, None)
            if block is None:
                return
            yield block, _plain(answer["ETag"])

    def put(self, uri: str, source: BinaryIO, sha256: str, scratch: str) -> bool:
        """As `Storage.put`.

        It looks first, writes on condition that there is nothing, and where a store knows no such
        condition, reads back what stands there in the end. A refusal need not mean that somebody
        else was there: where an answer was lost, the client's second try finds what the first has
        written; and while another write of the name goes on, there is nothing yet.
        """
        start = source.tell()
        for wait_s in WAITS_S:
            if already_stored(self, uri, sha256):
                return False
            source.seek(start)
            try:
                self._write(uri, source, sha256, {"IfNoneMatch": "*"})
                return True
            except ObjectChanged:
                time.sleep(wait_s)
            except ConditionalWritesUnsupported:
                source.seek(start)
                self._write(uri, source, sha256, {})
                if sha256_of(self, uri) == sha256:
                    return True
                raise FileExistsError(errno.EEXIST, "other bytes stand there", uri) from None
        raise OSError(errno.EAGAIN, "refused again and again, and nothing stands there", uri)

    def remove(self, uri: str) -> None:
        bucket, name = split(uri)
        with _os_errors(uri):
            self._client.delete_object(Bucket=bucket, Key=name)

    def compare_and_swap(self, uri: str, data: bytes, version: str | None) -> str | None:
        bucket, name = split(uri)
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            with _os_errors(uri):
                done = self._brief.put_object(Bucket=bucket, Key=name, Body=data, **condition)
        except ObjectChanged:
            return None
        except FileNotFoundError:
            if version is None:  # it is the bucket that is not there
                raise
            return None
        return _plain(done["ETag"])

    def _write(self, uri: str, source: BinaryIO, sha256: str, condition: dict[str, str]) -> None:
        bucket, name = split(uri)
        target = {"Bucket": bucket, "Key": name}
        kept = {"ContentType": CONTENT_TYPE, "Metadata": {"sha256": sha256}}
        with _os_errors(uri):
            if bytes_left(source) <= PART_BYTES:
                self._client.put_object(**target, **kept, Body=source, **condition)
            else:
                self._write_in_parts(target, kept, source, condition)

    def _write_in_parts(
        self,
        target: dict[str, str],
        kept: dict[str, Any],
        source: BinaryIO,
        condition: dict[str, str],
    ) -> None:
        upload = {
            **target,
            "UploadId": self._client.create_multipart_upload(**target, **kept)["UploadId"],
        }
        parts: list[dict[str, Any]] = []
        try:
            while part := source.read(PART_BYTES):
                number = len(parts) + 1
                sent = self._client.upload_part(**upload, PartNumber=number, Body=part)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": parts}, **condition
            )
        except BaseException:
            self._client.abort_multipart_upload(**upload)
            raise

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        bucket, name = split(prefix)
        with _os_errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=name
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    uri = f"s3://{bucket}/{entry['Key']}"
                    modified = entry["LastModified"].timestamp()
                    found = ObjectInfo(uri, _plain(entry["ETag"]), entry["Size"], modified=modified)
                    if not is_folder_mark(found):
                        yield found


class Interrupted(OSError):
    """A request broke off, and might not another time."""


def _plain(etag: str) -> str:
    return etag.strip('"')


@contextlib.contextmanager
def _os_errors(uri: str) -> Iterator[None]:
    """Raise what the client raises as the `OSError` that it means."""
    try:
        yield
    except ClientError as error:
        raise _os_error(error, uri) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise PermissionError(errno.EACCES, NO_CREDENTIALS, uri) from error
    except BotoCoreError as error:
        raise Interrupted(errno.EIO, type(error).__name__, uri) from error


def _os_error(error: ClientError, uri: str) -> OSError:
    code = error.response.get("Error", {}).get("Code", "")
    if code in MISSING:
        return FileNotFoundError(errno.ENOENT, "no such object or bucket", uri)
    if code in FORBIDDEN:
        return PermissionError(errno.EACCES, f"permission denied ({code})", uri)
    if code in CONDITION_FAILED:
        return ObjectChanged(errno.ESTALE, "another version stands there", uri)
    if code in NO_CONDITIONS:
        return ConditionalWritesUnsupported(errno.EIO, code, uri)
    return Interrupted(errno.EIO, code or type(error).__name__, uri)
