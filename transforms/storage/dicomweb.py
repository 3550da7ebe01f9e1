"""DICOMweb servers, read only: QIDO-RS lists instances, WADO-RS retrieves them as they are stored.

The URI of an object is `dicomweb+https://HOST/ROOT/studies/UID/series/UID/instances/UID`.

Standard: PS3.18 sections 10.6 (Search Transaction) and 10.4 (Retrieve Transaction).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NoReturn

import requests

from transforms.storage.base import UNKNOWN_SIZE, ObjectChanged, ObjectInfo
from transforms.storage.dicomweb_sessions import PREFIX, Sessions
from transforms.storage.multipart import DATA, HEADERS, MultipartError, MultipartReader, media_type
from transforms.storage.permissions import FILE_MODE
from transforms.storage.selection import ALL, Selection, Skipped

PAGE: Final = 500
"""Matches to request at once; servers may return fewer."""
MAX_PAGE_BYTES: Final = 64 << 20
MAX_PAGES: Final = 100_000
"""Maximum number of pages of a search: fifty million studies."""
MAX_INSTANCE_BYTES: Final = 64 << 30
"""Maximum size of an instance, which no server states before it ends."""
BLOCK_BYTES: Final = 1 << 16
TIMEOUT_S: Final = (10, 60)
"""For connecting, and between two packets of an answer."""
MAX_READS: Final = 4
"""Requests of one download; each verifies what the ones before have written, and continues."""
AS_STORED: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Without `transfer-syntax=*`, servers transcode to Explicit VR Little Endian."""
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
MODALITY, MODALITIES_IN_STUDY = "00080060", "00080061"
_UID: Final = re.compile(r"[0-9.]{1,64}")
_OBJECT: Final = re.compile(
    r"(?P<root>.+)/studies/(?P<study>[0-9.]+)/series/(?P<series>[0-9.]+)/instances/(?P<instance>[0-9.]+)"
)
_STUDY: Final = re.compile(r"(?P<root>.+)/studies/(?P<study>[0-9.]+)")


logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings have the URLs of objects


class RequestFailed(OSError):
    """A request failed in a way that may be transient."""


@dataclass(frozen=True)
class Query:
    """Which instances to list.

    Attributes:
        study_date: a date or a range of dates, as in PS3.4 section C.2.2.2.5; empty for all.
        modalities: values of Modality; empty for all.
    """

    study_date: str = ""
    modalities: tuple[str, ...] = ()


EVERYTHING: Final = Query()


class DicomWebStorage:
    """The instances of DICOMweb servers. Thread-safe.

    The version of an instance is its SOP Instance UID: DICOM assigns a new one to changed content, and
    DICOMweb has no other version. Sizes are unknown until an instance is read.
    """

    def __init__(self) -> None:
        self._sessions = Sessions()

    def stat(self, uri: str) -> ObjectInfo | None:
        found = _OBJECT.fullmatch(uri)
        if found is None:
            return None
        path = f"studies/{found['study']}/series/{found['series']}/instances"
        try:
            matches = self._page(
                found["root"], path, {"SOPInstanceUID": found["instance"], "limit": "2"}
            )
        except FileNotFoundError:
            return None
        if any(_value(match, INSTANCE) == found["instance"] for match in matches):
            return _info(uri)
        return None

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        """As `Storage.list_below`, below a server or a study."""
        study = _STUDY.fullmatch(uri)
        studies = [uri] if study else self.studies(uri)
        for one in studies:
            yield from self.instances(one)

    def match(
        self, pattern: str, selection: Selection = ALL
    ) -> Iterator[ObjectInfo | OSError | Skipped]:
        """As `Storage.match`; a pattern is the URI of a server, a study or an instance."""
        try:
            if _OBJECT.fullmatch(pattern):
                if found := self.stat(pattern):
                    yield found
            else:
                yield from self.list_below(pattern)
        except OSError as error:
            yield error

    def studies(self, root: str, query: Query = EVERYTHING) -> list[str]:
        """Return the URIs of the studies that may have matching instances.

        Raises:
            OSError: the server does not answer, or not as QIDO-RS.
        """
        return [f"{root.rstrip('/')}/studies/{uid}" for uid in sorted(self._studies(root, query))]

    def has_studies(self, root: str, query: Query = EVERYTHING) -> bool:
        """Return whether `studies` has any.

        Raises:
            OSError: as `studies`.
        """
        return any(self._studies(root, query))

    def instances(self, study: str, query: Query = EVERYTHING) -> Iterator[ObjectInfo]:
        """Yield the matching instances of a study.

        Args:
            study: URI of the study.
            query: what to list; the date is that of the study, and not compared again.

        Raises:
            OSError: as `studies`.
        """
        parts = _STUDY.fullmatch(study)
        if parts is None:
            raise OSError(errno.EINVAL, "not the URI of a study")
        root, uid = parts["root"], parts["study"]
        if not query.modalities:
            for match in self._search(root, f"studies/{uid}/instances", {}):
                yield _info(_uri(root, uid, _required(match, SERIES), _required(match, INSTANCE)))
            return
        for found in self._search(root, f"studies/{uid}/series", {}):
            if _value(found, MODALITY) not in query.modalities:
                continue
            series = _required(found, SERIES)
            for match in self._search(root, f"studies/{uid}/series/{series}/instances", {}):
                yield _info(_uri(root, uid, series, _required(match, INSTANCE)))

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        """As `Storage.copy_to`."""
        for block in self.blocks(uri, version):
            sink.write(block)

    def blocks(self, uri: str, version: str | None) -> Iterator[bytes]:
        """Yield the bytes of an instance, which continue where a request was interrupted.

        Raises:
            ObjectChanged, FileNotFoundError: as `Storage.copy_to`.
        """
        if version not in (None, _info(uri).version):
            raise ObjectChanged("the object has another version")
        written, position = hashlib.sha256(), 0
        for attempt in range(1, MAX_READS + 1):
            try:
                for block in _continued(self._read(uri), position, written.digest()):
                    written.update(block)
                    position += len(block)
                    if position > MAX_INSTANCE_BYTES:
                        raise OSError(errno.EFBIG, "the instance does not end")
                    yield block
                return
            except RequestFailed:
                if attempt == MAX_READS:
                    raise

    def read_range(self, uri: str, version: str, start: int, length: int) -> bytes:
        """As `Storage.read_range`; the whole instance is retrieved up to the end of the range."""
        if version != _info(uri).version:
            raise ObjectChanged("the object has another version")
        found = bytearray()
        with contextlib.closing(self._read(uri)) as blocks:
            for block in blocks:
                found += block[max(0, start) :]
                start -= len(block)
                if len(found) >= length:
                    break
        return bytes(found[:length])

    def put(
        self, uri: str, source: BinaryIO, sha256: str, scratch: str, file_mode: int = FILE_MODE
    ) -> NoReturn:
        """Raise an `OSError`: the server is only read."""
        raise OSError(errno.EROFS, "DICOMweb servers are only read")

    def remove(self, uri: str) -> NoReturn:
        """Raise an `OSError`: the server is only read."""
        raise OSError(errno.EROFS, "DICOMweb servers are only read")

    def _studies(self, root: str, query: Query) -> Iterator[str]:
        """Yield the UIDs of the studies of a query.

        Modalities are compared here: Orthanc loses matches when it pages a search by ModalitiesInStudy.
        """
        dates = {"StudyDate": query.study_date} if query.study_date else {}
        for match in self._search(root, "studies", dates):
            modalities = _values(match, MODALITIES_IN_STUDY)
            if not (query.modalities and modalities) or {*modalities} & {*query.modalities}:
                yield _required(match, STUDY)

    def _search(self, root: str, path: str, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield all matches, page after page, each once."""
        seen: set[str] = set()
        offset = 0
        for _ in range(MAX_PAGES):
            page = self._page(root, path, {**filters, "limit": str(PAGE), "offset": str(offset)})
            new = 0
            for match in page:
                key = "/".join(_value(match, tag) or "" for tag in (STUDY, SERIES, INSTANCE))
                if key not in seen:
                    seen.add(key)
                    new += 1
                    yield match
            if not page:
                return
            if not new:
                if len(page) >= PAGE:
                    raise OSError(errno.EIO, "the server ignores the offset of a search")
                return  # it ignores the limit, too: the first page had all matches
            offset += len(page)
        raise OSError(errno.EIO, "a search has too many pages")

    def _page(self, root: str, path: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return one page of matches.

        Raises:
            OSError: as `studies`.
        """
        url = f"{root.rstrip('/')}/{path}"
        for _ in range(MAX_READS - 1):
            with contextlib.suppress(RequestFailed):
                return self._request_page(url, parameters)
        return self._request_page(url, parameters)

    def _request_page(self, url: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        with _os_errors(), self._get(url, "application/dicom+json", parameters) as response:
            if response.status_code == 204:
                return []
            body = bytearray()
            for block in response.iter_content(BLOCK_BYTES):
                body += block
                if len(body) > MAX_PAGE_BYTES:
                    raise OSError(errno.EIO, "the answer to a search is too large")
        try:
            page = json.loads(body or b"[]")
        except (ValueError, RecursionError) as error:
            raise OSError(errno.EIO, "the answer to a search is not JSON") from error
        if not isinstance(page, list) or not all(isinstance(match, dict) for match in page):
            raise OSError(errno.EIO, "the answer to a search is not a list of matches")
        return page

    def _read(self, uri: str) -> Generator[bytes, None, None]:
        """Yield the bytes of one instance.

        Raises:
            RequestFailed: the answer is incomplete.
            OSError: the answer is an error, or has another form.
        """
        with _os_errors(), self._get(uri, AS_STORED, {}) as response:
            kind, parameters = media_type(response.headers.get("Content-Type", ""))
            blocks = response.iter_content(BLOCK_BYTES)
            if kind == "application/dicom":
                yield from blocks
            elif kind == "multipart/related" and parameters.get("boundary"):
                yield from _only_part(blocks, parameters["boundary"])
            else:
                raise OSError(errno.EIO, "the answer to a retrieval is not application/dicom")

    def _get(self, uri: str, accept: str, parameters: Mapping[str, str]) -> requests.Response:
        url = uri.removeprefix(PREFIX)
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        try:
            response = self._sessions.get(url).get(
                url, params=parameters, headers=headers, timeout=TIMEOUT_S, stream=True
            )
        except requests.RequestException as error:  # after all of RETRIES; its text has the URL
            raise OSError(errno.EIO, type(error).__name__) from None
        if response.status_code in (200, 204, 206):
            return response
        response.close()
        code, text = response.status_code, f"HTTP status {response.status_code}"
        if code in (404, 410):
            raise FileNotFoundError(errno.ENOENT, text)
        if code in (401, 403):
            raise PermissionError(errno.EACCES, text)
        raise OSError(errno.EIO, text)


def _uri(root: str, study: str, series: str, instance: str) -> str:
    return f"{root}/studies/{study}/series/{series}/instances/{instance}"


def _info(uri: str) -> ObjectInfo:
    return ObjectInfo(uri, uri.rpartition("/")[2], UNKNOWN_SIZE)


def _values(match: Mapping[str, Any], tag: str) -> list[str]:
    """Return the values of an attribute in DICOM JSON (PS3.18 annex F) that are text."""
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    found = values if isinstance(values, list) else []
    return [value.strip(" \0") for value in found if isinstance(value, str)]


def _value(match: Mapping[str, Any], tag: str) -> str | None:
    return next(iter(_values(match, tag)), None)


def _required(match: Mapping[str, Any], tag: str) -> str:
    value = _value(match, tag)
    if value is None or not _UID.fullmatch(value):
        raise OSError(errno.EIO, f"a match has no valid UID in ({tag[:4]},{tag[4:]})")
    return value


def _only_part(blocks: Iterator[bytes], boundary: str) -> Iterator[bytes]:
    reader = MultipartReader(boundary.encode("latin-1"))
    parts = 0
    for block in blocks:
        for kind, value in reader.feed(block):
            parts += kind == HEADERS
            if parts > 1:
                raise OSError(errno.EIO, "the answer to a retrieval has several parts")
            if kind == DATA:
                assert isinstance(value, bytes)
                yield value
    if not reader.is_complete:
        raise RequestFailed(errno.EIO, "the answer to a retrieval is truncated")
    if parts != 1:
        raise OSError(errno.EIO, "the answer to a retrieval has no part")


def _continued(blocks: Iterator[bytes], position: int, sha256: bytes) -> Iterator[bytes]:
    """Yield the bytes from a position on.

    Raises:
        ObjectChanged: the bytes before it have another sha256.
    """
    begin, is_same = hashlib.sha256(), False
    for block in blocks:
        begin.update(block[:position])
        rest = block[position:]
        position = max(0, position - len(block))
        if rest:
            is_same = is_same or begin.digest() == sha256
            if not is_same:
                break
            yield rest
    if not is_same and (position or begin.digest() != sha256):
        raise ObjectChanged("the object has another version")


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Translate errors of HTTP into `OSError`s without URLs."""
    try:
        yield
    except MultipartError as error:
        raise RequestFailed(errno.EIO, str(error)) from error
    except requests.RequestException as error:  # an OSError whose text has the URL
        raise RequestFailed(errno.EIO, type(error).__name__) from None
