"""Google Cloud Storage: generations are versions, and a write is conditional on there being none.

`STORAGE_EMULATOR_HOST` is honoured, as by every client of Google's.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from transforms.storage.base import ObjectChanged, ObjectInfo, already_stored, bytes_left
from transforms.storage.names import below, is_folder_mark, matched, split

TIMEOUT_S: Final = (10, 60)
"""To connect, and between two bytes; failures that pass are tried again for two minutes."""
BRIEF_TIMEOUT_S: Final = (5, 5)
BRIEF_RETRY: Final = DEFAULT_RETRY.with_timeout(10)
"""For locks, since who cannot renew one must know soon; and for copies."""
CONTENT_TYPE: Final = "application/dicom"
LISTED: Final = "items(name,generation,size,metadata,updated),nextPageToken"
NO_CREDENTIALS: Final = (
    "no Google Cloud credentials; set GOOGLE_APPLICATION_CREDENTIALS, or run "
    "'gcloud auth application-default login'"
)


class GoogleStorage:
    """Objects in `gs://` buckets. Safe between threads.

    Raises:
        PermissionError: there are no credentials.
    """

    def __init__(self) -> None:
        try:
            self._client = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT"))
        except DefaultCredentialsError as error:
            raise PermissionError(errno.EACCES, NO_CREDENTIALS, "gs://") from error

    def stat(self, uri: str) -> ObjectInfo | None:
        with _os_errors(uri):
            bucket, name = split(uri)
            blob = self._client.bucket(bucket).get_blob(name, timeout=TIMEOUT_S)
            return None if blob is None else _found(bucket, blob)

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        return self._list(below(uri))

    def match(self, pattern: str, excluded: Sequence[str] = ()) -> Iterator[ObjectInfo | OSError]:
        return matched(pattern, self.stat, self._list, excluded)

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        """As `Storage.copy_to`; the stored bytes, also of objects that are stored gzipped."""
        with _os_errors(uri):
            condition = {} if version is None else {"if_generation_match": int(version)}
            self._blob(uri).download_to_file(
                sink, raw_download=True, timeout=TIMEOUT_S, **condition
            )

    def put(self, uri: str, source: BinaryIO, sha256: str, scratch: str) -> bool:
        """As `Storage.put`.

        A refusal need not mean that somebody else was there: where an answer was lost, the
        client's second try finds what the first has written.
        """
        blob = self._noted(uri, sha256)
        try:
            with _os_errors(uri):
                blob.upload_from_file(
                    source,
                    size=bytes_left(source),  # a small object takes one request then, not two
                    content_type=CONTENT_TYPE,
                    if_generation_match=0,
                    timeout=TIMEOUT_S,
                )
        except ObjectChanged:
            if not already_stored(self, uri, sha256):
                raise OSError(errno.EAGAIN, "refused, and nothing stands there", uri) from None
            return False
        return True

    def copy_server_side(self, uri: str, source: str, version: str, sha256: str) -> bool:
        """As `SupportsServerSideCopy.copy_server_side`: rewrites, as many as the store asks for."""
        blob, token = self._noted(uri, sha256), None
        blob.content_type = CONTENT_TYPE
        try:
            with _os_errors(source):
                while True:
                    token, _done, _bytes = blob.rewrite(
                        self._blob(source),
                        token=token,
                        if_generation_match=0,
                        if_source_generation_match=int(version),
                        timeout=TIMEOUT_S,
                        retry=BRIEF_RETRY,  # there is another way
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
            if version is None:  # it is the bucket that is not there
                raise
            return None
        return str(blob.generation)

    def _noted(self, uri: str, sha256: str) -> Any:
        blob = self._blob(uri)
        blob.metadata = {"sha256": sha256}
        return blob

    def _blob(self, uri: str) -> Any:
        bucket, name = split(uri)
        return self._client.bucket(bucket).blob(name)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        bucket, name = split(prefix)
        with _os_errors(prefix):
            for blob in self._client.list_blobs(
                bucket, prefix=name, fields=LISTED, timeout=TIMEOUT_S
            ):
                found = _found(bucket, blob)
                if not is_folder_mark(found):
                    yield found


def _found(bucket: str, blob: Any) -> ObjectInfo:
    note = (blob.metadata or {}).get("sha256")
    modified = None if blob.updated is None else blob.updated.timestamp()
    uri = f"gs://{bucket}/{blob.name}"
    return ObjectInfo(uri, str(blob.generation), blob.size or 0, note, modified)


@contextlib.contextmanager
def _os_errors(uri: str) -> Iterator[None]:
    """Raise what the client raises as the `OSError` that it means."""
    try:
        yield
    except exceptions.NotFound as error:
        raise FileNotFoundError(errno.ENOENT, "no such object or bucket", uri) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        raise PermissionError(errno.EACCES, "permission denied", uri) from error
    except exceptions.PreconditionFailed as error:
        raise ObjectChanged(errno.ESTALE, "another generation stands there", uri) from error
    except InvalidResponse as error:
        if error.response.status_code == requests.codes.precondition_failed:
            raise ObjectChanged(errno.ESTALE, "another generation stands there", uri) from error
        raise OSError(errno.EIO, type(error).__name__, uri) from error
    except (exceptions.GoogleAPIError, requests.RequestException, DataCorruption) as error:
        raise OSError(errno.EIO, type(error).__name__, uri) from error
