"""Receive objects by STOW-RS: `POST /dicom-web/studies` and `POST /dicom-web/studies/{study}`.

Standard: PS3.18 section 10.5 (Store Transaction) and annex I (Store Instances Response Module).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from pipeline.receive.inbox import Inbox, IncomingObject, Stored
from pipeline.receive.options import Network
from pipeline.receive.refusals import (
    CANNOT_UNDERSTAND,
    PROCESSING_FAILURE,
    SOP_CLASS_MISMATCH,
    SOP_CLASS_NOT_SUPPORTED,
    Refused,
    refusal_of,
)
from pipeline.receive.server import is_allowed
from pipeline.receive.store import Counts, Rejection, identify, store
from transforms.imaging.identity import Identity
from transforms.imaging.uids import is_valid_uid
from transforms.storage.multipart import (
    DATA,
    END,
    HEADERS,
    Event,
    MultipartError,
    MultipartReader,
    media_type,
)

LOG: Final = logging.getLogger("dicom_router.receive")
STUDIES: Final = "/dicom-web/studies"
DICOM: Final = "application/dicom"
JSON: Final = "application/dicom+json"
MAX_PARTS: Final = 20_000
"""Maximum number of parts of a request, whose outcomes are in memory until it is answered."""
ACCEPTABLE: Final = frozenset({"*/*", "application/*", "application/json", JSON})

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class HttpError(Exception):
    """A request is answered with an error, before or instead of storing its parts.

    Attributes:
        status: the HTTP status.
        reason: for the body.
        headers: more headers of the answer.
    """

    def __init__(
        self, status: HTTPStatus, reason: str, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.headers = status, reason, headers


@dataclass
class Response:
    """The outcomes of the parts of a request, for the Store Instances Response Module."""

    stored: list[Identity] = field(default_factory=list)
    failed: list[tuple[Identity, int]] = field(default_factory=list)
    unidentified: list[int] = field(default_factory=list)

    @property
    def status(self) -> HTTPStatus:
        """200 if all parts are stored, 202 if some are, 409 if none is (PS3.18 table 10.5.3-1)."""
        if not (self.failed or self.unidentified):
            return HTTPStatus.OK
        return HTTPStatus.ACCEPTED if self.stored else HTTPStatus.CONFLICT

    def to_json(self) -> bytes:
        """Return the module as DICOM JSON (PS3.18 annex F)."""
        module: dict[str, Any] = {"00081190": {"vr": "UR"}}
        if self.failed:
            failed = [{**_reference(one), **_reason(status)} for one, status in self.failed]
            module["00081198"] = {"vr": "SQ", "Value": failed}
        if self.stored:
            stored = [{**_reference(one), "00081190": {"vr": "UR"}} for one in self.stored]
            module["00081199"] = {"vr": "SQ", "Value": stored}
        if self.unidentified:
            others = [_reason(status) for status in self.unidentified]
            module["0008119A"] = {"vr": "SQ", "Value": others}
        return json.dumps(module).encode()


class StowApp:
    """An ASGI application, https://asgi.readthedocs.io.

    Attributes:
        aborted: number of requests that were cancelled.
    """

    def __init__(
        self,
        inbox: Inbox,
        counts: Counts,
        *,
        token: str,
        networks: Sequence[Network],
        sop_classes: frozenset[str] | None,
        read_timeout: float,
    ) -> None:
        """Create the application.

        Args:
            inbox: where objects are stored.
            counts: where they are counted.
            token: bearer token that requests must have; empty for none.
            networks: networks that may send; empty allows all.
            sop_classes: accepted SOP Classes; None accepts all.
            read_timeout: maximum time between two blocks of a body, in seconds.
        """
        self._inbox, self._counts = inbox, counts
        self._token, self._networks = token.encode(), networks
        self._sop_classes = sop_classes
        self._read_timeout = read_timeout
        self.aborted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            study, boundary = self._check(scope)
            response = await self._store_parts(study, boundary, receive)
        except HttpError as error:
            LOG.warning("STOW-RS request answered with %d: %s", error.status, error.reason)
            self._counts.reject(Rejection.REQUEST)
            headers = [(b"connection", b"close"), *error.headers]
            body = f"{error.reason}\n".encode()
            await _send(send, error.status, b"text/plain; charset=utf-8", body, headers)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        else:
            await _send(send, response.status, JSON.encode(), response.to_json())

    def _check(self, scope: Scope) -> tuple[str | None, bytes]:
        """Return the study of the request, if it names one, and the boundary of its body.

        Raises:
            HttpError: the request is refused.
        """
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not is_allowed(str((scope.get("client") or ("0.0.0.0", 0))[0]), self._networks):
            raise HttpError(HTTPStatus.FORBIDDEN, "this address may not send")
        given = headers.get(b"authorization", "").encode("latin-1")
        if self._token and not hmac.compare_digest(given, b"Bearer " + self._token):
            challenge = ((b"www-authenticate", b"Bearer"),)
            raise HttpError(HTTPStatus.UNAUTHORIZED, "a bearer token is required", challenge)
        study = _study_of(scope["path"])
        if scope["method"] != "POST":
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "use POST", ((b"allow", b"POST"),))
        accepted = headers.get(b"accept", JSON).split(",")
        if not {one.partition(";")[0].strip().lower() for one in accepted} & ACCEPTABLE:
            raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f"answers are {JSON}")
        kind, parameters = media_type(headers.get(b"content-type", ""))
        boundary = parameters.get("boundary", "")
        if kind != "multipart/related" or parameters.get("type", DICOM).lower() != DICOM:
            raise HttpError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f'send multipart/related; type="{DICOM}"'
            )
        if headers.get(b"content-encoding", "identity").lower() != "identity":
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body without an encoding")
        if not boundary:
            raise HttpError(HTTPStatus.BAD_REQUEST, "Content-Type has no boundary")
        return study, boundary.encode("latin-1")

    async def _store_parts(self, study: str | None, boundary: bytes, receive: Receive) -> Response:
        response = Response()
        part: _Part | None = None
        parts = 0
        try:
            async for kind, value in self._events(boundary, receive):
                if kind == HEADERS:
                    assert isinstance(value, dict)
                    parts += 1
                    if parts > MAX_PARTS:
                        raise HttpError(
                            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_PARTS} parts"
                        )
                    part = _Part(self._inbox, value)
                elif part is None:
                    continue
                elif kind == DATA:
                    assert isinstance(value, bytes)
                    part.write(value)
                elif kind == END:
                    await asyncio.to_thread(self._finish, part, study, response)
                    part = None
        finally:
            if part is not None:
                part.close()
        if not (response.stored or response.failed or response.unidentified):
            raise HttpError(HTTPStatus.BAD_REQUEST, "the body has no parts")
        return response

    async def _events(self, boundary: bytes, receive: Receive) -> AsyncIterator[Event]:
        try:
            reader = MultipartReader(boundary)
            more = True
            while more:
                message = await asyncio.wait_for(receive(), self._read_timeout)
                if message["type"] == "http.disconnect":
                    raise HttpError(HTTPStatus.BAD_REQUEST, "the sender disconnected")
                for event in reader.feed(message.get("body", b"")):
                    yield event
                more = message.get("more_body", False)
        except MultipartError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from error
        except TimeoutError as error:
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "the body stopped") from error
        if not reader.is_complete:
            raise HttpError(HTTPStatus.BAD_REQUEST, "the body ends before its last delimiter")

    def _finish(self, part: _Part, study: str | None, response: Response) -> None:
        """Check and store a complete part, and record the outcome; runs in a thread."""
        identity: Identity | None = None
        outcome: Stored | Refused
        try:
            incoming = part.received()
            identity = identify(incoming)
            if self._sop_classes is not None and identity.sop_class_uid not in self._sop_classes:
                raise Refused(SOP_CLASS_NOT_SUPPORTED, "the SOP Class is not accepted")
            if study is not None and identity.study_instance_uid != study:
                raise Refused(SOP_CLASS_MISMATCH, "not of the study of the request")
            outcome = store(incoming, identity)
        except Refused as error:
            outcome = error
        except Exception as error:  # the answer must not be success
            outcome = Refused(PROCESSING_FAILURE, type(error).__name__)
        finally:
            part.close()
        self._counts.add(outcome)
        if isinstance(outcome, Refused):
            if identity is None:
                response.unidentified.append(outcome.status)
            else:
                response.failed.append((identity, outcome.status))
        else:
            assert identity is not None
            response.stored.append(identity)


class _Part:
    """A part while it is received; after an error the rest is discarded."""

    def __init__(self, inbox: Inbox, headers: dict[str, str]) -> None:
        self._incoming: IncomingObject | None = None
        self._refused: Refused | None = None
        if media_type(headers.get("content-type", DICOM))[0] != DICOM:
            self._refused = Refused(CANNOT_UNDERSTAND, f"a part is not {DICOM}")
            return
        try:
            self._incoming = inbox.open()
        except (OSError, MemoryError) as error:
            self._refused = refusal_of(error)

    def write(self, data: bytes) -> None:
        if self._refused is not None or self._incoming is None:
            return
        try:
            self._incoming.write(data)
        except Refused as error:
            self._refused = error
        except (OSError, MemoryError) as error:
            self._refused = refusal_of(error)

    def received(self) -> IncomingObject:
        """Return the complete object.

        Raises:
            Refused: it could not be received.
        """
        if self._refused is not None:
            raise self._refused
        assert self._incoming is not None
        return self._incoming

    def close(self) -> None:
        if self._incoming is not None:
            self._incoming.close()


def _study_of(path: str) -> str | None:
    """Return the study that a path names, or None.

    Raises:
        HttpError: the path is not that of a Store Transaction.
    """
    path = path.rstrip("/")
    if path == STUDIES:
        return None
    study = path.removeprefix(f"{STUDIES}/")
    if study == path or "/" in study:
        raise HttpError(HTTPStatus.NOT_FOUND, f"post to {STUDIES}")
    if not is_valid_uid(study):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the study is not a UID")
    return study


def _reference(identity: Identity) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [identity.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [identity.sop_instance_uid]},
    }


def _reason(status: int) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [status]}}


async def _send(
    send: Send,
    status: HTTPStatus,
    content_type: bytes,
    body: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    length = str(len(body)).encode()
    fixed = [(b"content-type", content_type), (b"content-length", length)]
    await send(
        {"type": "http.response.start", "status": int(status), "headers": [*fixed, *headers]}
    )
    await send({"type": "http.response.body", "body": body})
