"""URI schemes: which storage a URI means, and what all URIs have in common."""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Final

from transforms.storage.archive_names import SEPARATOR, is_member
from transforms.storage.base import Storage, SupportsConditionalWrites
from transforms.storage.extras import how_to_install, is_installed
from transforms.storage.local import LocalStorage, path_to_uri, uri_to_path
from transforms.storage.names import MAGIC, split_uri

if TYPE_CHECKING:
    from transforms.storage.archive_storage import ArchiveStorage
    from transforms.storage.dicomweb import DicomWebStorage

LOCAL: Final = "file"
GS: Final = "gs"
S3: Final = "s3"
DICOMWEB: Final = ("dicomweb+https", "dicomweb+http")
STORES: Final = {
    GS: ("google.cloud.storage", None),
    S3: ("boto3", "aws"),
    **dict.fromkeys(DICOMWEB, ("python_multipart", "dicomweb")),
}
"""Object stores by scheme: the client's module, and the extra that has it, or None."""


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI; that of a path is `file`."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator and "/" not in scheme else LOCAL


def is_local(uri: str) -> bool:
    """Return whether this is a path or a `file://` URI."""
    return scheme_of(uri) == LOCAL


def uri_problem(uri: str) -> str | None:
    """Return why a URI cannot be used and what to do about it, or None if it can."""
    scheme = scheme_of(uri)
    if scheme == LOCAL:
        intended = uri.partition(":/")[0]
        return f"write {intended}://" if intended in STORES else None
    if scheme in ("http", "https"):
        return f"write dicomweb+{scheme}:// for a DICOMweb server"
    if scheme not in STORES:
        return f"{scheme}:// is not supported; use a local path, gs:// or s3://"
    module, extra = STORES[scheme]
    if extra is not None and not is_installed(module):
        return f"{scheme}:// needs packages that are not installed: {how_to_install(extra)}"
    bucket, _ = split_uri(uri)
    if scheme in DICOMWEB:
        return None if bucket else f"{scheme}:// names no server"
    if not bucket:
        return f"{scheme}:// names no bucket"
    if MAGIC.search(bucket):
        return "the bucket must be named in full; patterns begin after it"
    return None


def root_problem(uri: str) -> str | None:
    """Return why a URI cannot be the root of a lake or a sink, or None."""
    scheme = scheme_of(uri)
    if scheme in DICOMWEB:
        return f"{scheme}:// is only read; use a local path, gs:// or s3://"
    return uri_problem(uri)


def storage_of(uri: str) -> Storage:
    """Return the storage that a URI means; each process has one client for each scheme.

    Raises:
        ValueError: the scheme is not supported.
    """
    if SEPARATOR in uri and is_member(uri):
        return archives()
    scheme = scheme_of(uri)
    if scheme in DICOMWEB:
        return dicomweb()
    return _LOCAL if scheme == LOCAL else object_store(scheme)


def dicomweb() -> DicomWebStorage:
    """Return the client of DICOMweb servers."""
    with _CONNECTING:
        return _connect_dicomweb()


@functools.cache
def archives() -> ArchiveStorage:
    """Return the storage of the members of archives; each process has one."""
    from transforms.storage.archive_storage import ArchiveStorage
    from transforms.storage.seekable import open_seekable

    return ArchiveStorage(storage_of, open_seekable)


def object_store(scheme: str) -> SupportsConditionalWrites:
    """Return the object store of a scheme.

    Raises:
        ValueError: the scheme is not supported.
    """
    with _CONNECTING:  # functools.cache does not wait for a thread that is filling it
        return _connect(scheme)


def reset_clients() -> None:
    """Make new clients on the next use, as the environment that configures them has changed."""
    archives().close()
    _connect.cache_clear()
    _connect_dicomweb.cache_clear()


@functools.cache
def _connect_dicomweb() -> DicomWebStorage:
    from transforms.storage.dicomweb import DicomWebStorage

    return DicomWebStorage()


@functools.cache
def _connect(scheme: str) -> SupportsConditionalWrites:
    if scheme == GS:
        from transforms.storage.gcs import GoogleStorage

        return GoogleStorage()
    if scheme == S3:
        from transforms.storage.s3 import S3Storage

        return S3Storage()
    raise ValueError(f"{scheme}:// is not supported")


def canonical(root: str) -> str:
    """Return the one name of a root: its real path, or its URI without a trailing slash."""
    if not is_local(root):
        scheme, separator, name = root.partition("://")
        return scheme + separator + name.rstrip("/")
    return path_to_uri(os.path.realpath(uri_to_path(root)))


def absolute(uri: str) -> str:
    """Return a URI, or the absolute path of a local file; links are not followed."""
    return path_to_uri(os.path.abspath(uri_to_path(uri))) if is_local(uri) else uri


def join(root: str, *parts: str) -> str:
    """Return the name of something below a root, a path or a URI."""
    return "/".join((root.rstrip("/"), *parts))


def is_below(uri: str, root: str) -> bool:
    """Return whether a path or URI is below a root of the same storage."""
    return uri.startswith(root.rstrip("/") + "/")


_LOCAL: Final = LocalStorage()
_CONNECTING: Final = threading.Lock()
