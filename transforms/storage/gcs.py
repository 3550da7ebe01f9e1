"""Google Cloud Storage: versions are generations, and a write requires that there is none.

The client honours `STORAGE_EMULATOR_HOST`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from urllib3.exceptions import HTTPError

from transforms.storage.base import ObjectChanged, ObjectInfo, already_stored, remaining_bytes
from transforms.storage.names import folder_prefix, is_folder_marker, match_objects, split_uri
from transforms.storage.permissions import FILE_MODE
from transforms.storage.selection import ALL, Selection, Skipped

TIMEOUT_S: Final = (10, 60)
"""To connect, and between two reads; the client retries transient failures for two minutes."""
BRIEF_TIMEOUT_S: Final = (5, 5)
BRIEF_RETRY: Final = DEFAULT_RETRY.with_timeout(10)
"""For locks, whose holder must soon learn that it cannot renew; and for copies, which have a fallback."""
MAX_CONNECTIONS: Final = 64
"""Connections that are kept; the client would keep ten, and make new ones for further requests."""
CHUNK_BYTES: Final = 16 << 20
"""Of an upload, this much is in memory; smaller objects take one request."""
CONTENT_TYPE: Final = "application/dicom"
LISTED_FIELDS: Final = "items(name,generation,size,metadata,updated),nextPageToken"
NO_CREDENTIALS: Final = (
    "no Google Cloud credentials; set GOOGLE_APPLICATION_CREDENTIALS, or run "
    "'gcloud auth application-default login'"
)


class GoogleStorage:
    """Objects in `gs://` buckets. Thread-safe.

    Raises:
        PermissionError: there are no credentials.
    """

    def __init__(self) -> None:
        try:
            self._client = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))
        except DefaultCredentialsError as error:
            raise PermissionError(errno.EACCES, NO_CREDENTIALS, "gs://") from error
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=MAX_CONNECTIONS)
        for scheme in ("https://", "http://"):
            self._client._http.mount(scheme, adapter)

    def stat(self, uri: str) -> ObjectInfo | None:
        with _os_errors(uri):
            bucket, name = split_uri(uri)
            blob = self._client.bucket(bucket).get_blob(name, timeout=TIMEOUT_S)
            return None if blob is None else _info(bucket, blob)

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        return self._list(folder_prefix(uri))

    def match(
        self, pattern: str, selection: Selection = ALL
    ) -> Iterator[ObjectInfo | OSError | Skipped]:
        return match_objects(pattern, self.stat, self._list, selection)

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        """As `Storage.copy_to`; the stored bytes, even of objects with `Content-Encoding: gzip`."""
        with _os_errors(uri):
            condition = {} if version is None else {"if_generation_match": int(version)}
            self._blob(uri).download_to_file(
                sink, raw_download=True, timeout=TIMEOUT_S, **condition
            )

    def read_range(self, uri: str, version: str, start: int, length: int) -> bytes:
        return self.read_part(uri, version, start, start + length)

    def read_part(self, uri: str, version: str, start: int = 0, end: int | None = None) -> bytes:
        """As `SupportsParallelReads.read_part`, in one read from the connection.

        The client would otherwise read blocks of 8 KiB, which takes twice the processor time.
        """
        received = _Received()
        with _os_errors(uri):
            self._blob(uri).download_to_file(
                received,
                start=start or None,
                end=None if end is None else end - 1,
                raw_download=True,
                single_shot_download=True,
                if_generation_match=int(version),
                timeout=TIMEOUT_S,
            )
        return received.data()

    def put(
        self, uri: str, source: BinaryIO, sha256: str, scratch: str, file_mode: int = FILE_MODE
    ) -> bool:
        """As `Storage.put`.

        A failed condition need not mean another writer: where a response was lost, the client's
        retry finds the object that its first request wrote.
        """
        blob = self._blob_with_sha256(uri, sha256)
        try:
            with _os_errors(uri):
                blob.upload_from_file(
                    source,
                    size=remaining_bytes(source),  # a known size takes one request, not two
                    content_type=CONTENT_TYPE,
                    if_generation_match=0,
                    timeout=TIMEOUT_S,
                )
        except ObjectChanged:
            if not already_stored(self, uri, sha256):
                raise OSError(errno.EAGAIN, "write refused, but no such object", uri) from None
            return False
        return True

    def copy_server_side(self, uri: str, source: str, version: str, sha256: str) -> bool:
        """As `SupportsServerSideCopy.copy_server_side`, in as many requests as the store asks for."""
        blob, token = self._blob_with_sha256(uri, sha256), None
        blob.content_type = CONTENT_TYPE
        try:
            with _os_errors(source):
                while True:
                    token, _written, _total = blob.rewrite(
                        self._blob(source),
                        token=token,
                        if_generation_match=0,
                        if_source_generation_match=int(version),
                        timeout=TIMEOUT_S,
                        retry=BRIEF_RETRY,
                    )
                    if token is None:
                        return True
        except ObjectChanged:
            if not already_stored(self, uri, sha256):
                raise
            return False

    def remove(self, uri: str) -> None:
        with contextlib.suppress(FileNotFoundError), _os_errors(uri):
            self._blob(uri).delete(timeout=TIMEOUT_S)

    def compare_and_swap(self, uri: str, data: bytes, version: str | None) -> str | None:
        blob = self._blob(uri)
        try:
            with _os_errors(uri):
                blob.upload_from_file(
                    io.BytesIO(data),
                    if_generation_match=int(version or 0),
                    timeout=BRIEF_TIMEOUT_S,
                    retry=BRIEF_RETRY,
                )
        except ObjectChanged:
            return None
        except FileNotFoundError:
            if version is None:  # the bucket is missing
                raise
            return None
        return str(blob.generation)

    def _blob_with_sha256(self, uri: str, sha256: str) -> Any:
        blob = self._blob(uri, chunk_size=CHUNK_BYTES)
        blob.metadata = {"sha256": sha256}
        return blob

    def _blob(self, uri: str, chunk_size: int | None = None) -> Any:
        bucket, name = split_uri(uri)
        return self._client.bucket(bucket).blob(name, chunk_size=chunk_size)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        bucket, name = split_uri(prefix)
        with _os_errors(prefix):
            for blob in self._client.list_blobs(
                bucket, prefix=name, fields=LISTED_FIELDS, timeout=TIMEOUT_S
            ):
                found = _info(bucket, blob)
                if not is_folder_marker(found):
                    yield found


class _Received:
    """What the client writes, without a copy."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._blocks.append(data)
        return len(data)

    def data(self) -> bytes:
        return self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)


def _info(bucket: str, blob: Any) -> ObjectInfo:
    sha256 = (blob.metadata or {}).get("sha256")
    modified = None if blob.updated is None else blob.updated.timestamp()
    uri = f"gs://{bucket}/{blob.name}"
    return ObjectInfo(uri, str(blob.generation), blob.size or 0, sha256, modified)


@contextlib.contextmanager
def _os_errors(uri: str) -> Iterator[None]:
    """Translate the client's errors into `OSError`s."""
    try:
        yield
    except exceptions.NotFound as error:
        raise FileNotFoundError(errno.ENOENT, "no such object or bucket", uri) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        raise PermissionError(errno.EACCES, "permission denied", uri) from error
    except exceptions.PreconditionFailed as error:
        raise ObjectChanged(errno.ESTALE, "the object has another generation", uri) from error
    except InvalidResponse as error:
        if error.response.status_code == requests.codes.precondition_failed:
            raise ObjectChanged(errno.ESTALE, "the object has another generation", uri) from error
        raise OSError(errno.EIO, type(error).__name__, uri) from error
    except (
        exceptions.GoogleAPIError,
        requests.RequestException,
        DataCorruption,
        HTTPError,
    ) as error:
        raise OSError(errno.EIO, type(error).__name__, uri) from error
