"""Admit requests to the review: by host name, session and origin; and set the headers of responses.

Browsers let any page send requests to loopback addresses, and a name can be pointed at one (DNS
rebinding). A request is admitted if its Host is an address or a known name, if its session began with the
token, and, if it changes something, if it comes from a page of this server.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION: Final = "review_session"
"""Name of the scope entry with the `Session` of a request."""
COOKIE: Final = "dicom_router_review"
"""Beginning of the name of the cookie; the port follows, because cookies do not depend on it."""
CSRF_HEADER: Final = "x-csrf-token"
TOKEN_PARAMETER: Final = "token"
MAX_SESSIONS: Final = 1000
MAX_BODY_BYTES: Final = 16 << 10
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
PUBLIC_PREFIX: Final = "/static/"
"""Paths of files that are the same for everybody."""
SECURITY_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_HEAD: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Review · DICOM Imaging Router</title>'
    '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
)
_ENTER: Final = (
    f'{_HEAD}<meta http-equiv="refresh" content="0;url=/">'
    '<p><a href="/">Open the review</a></p></html>'
)
_NO_SESSION: Final = (
    f"{_HEAD}<h1>No access</h1><p>Open the address that <code>dicom-router review</code> has printed, "
    "with its token. A review that was started again has a new one.</p></html>"
)


@dataclass
class Session:
    """A browser that has presented the token.

    Attributes:
        csrf: token that its pages send with every change.
        reviewer: nickname, or "" before it is given.
    """

    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    reviewer: str = ""


class AccessControl:
    """ASGI middleware that admits requests.

    Args:
        app: the application; it finds the session in `scope[SESSION]`.
        token: the secret in the address.
        port: port of the server, for the name of the cookie.
        host_names: names by which the server is known, besides `localhost` and addresses.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, port: int, host_names: Collection[str] = ()
    ) -> None:
        self._app, self._token = app, token
        self._cookie = f"{COOKIE}_{port}"
        self._host_names = {"localhost", *(name.lower() for name in host_names)}
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse a request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refusal(scope)
        if refused is None and not scope["path"].startswith(PUBLIC_PREFIX):
            if response := self._enter(scope):
                await response(scope, receive, send_with_headers)
                return
            refused = self._refusal_of_session(scope)
        app = self._app if refused is None else refused
        await app(scope, _limited(receive), send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request for another host, of another origin, or too large."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_known(hosts[0]):
            return _refuse(421, "This server is not known by that name.")
        if scope["method"] in SAFE_METHODS:
            return None
        origins = headers.getlist("origin")
        if any(urlsplit(origin).netloc != hosts[0] for origin in origins):
            return _refuse(403, "The request comes from another site.")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _refuse(403, "The request comes from another site.")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _refuse(415, "Only JSON is accepted.")
        length = headers.get("content-length", "")
        if not (length.isdecimal() and length.isascii() and int(length) <= MAX_BODY_BYTES):
            return _refuse(413, "The request is too large, or of unknown length.")
        return None

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._host_names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _enter(self, scope: Scope) -> Response | None:
        """Return the answer that begins a session, if the request has the token."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.get(TOKEN_PARAMETER)
        if scope["path"] != "/" or given is None or scope["method"] not in SAFE_METHODS:
            return None
        if not secrets.compare_digest(given[-1].encode(), self._token.encode()):
            return HTMLResponse(_NO_SESSION, 403)
        response = HTMLResponse(
            _ENTER
        )  # a redirect from another site would be sent without the cookie
        if self._session_of(scope) is None:
            identity = secrets.token_urlsafe(32)
            self._sessions[identity] = Session()
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
            response.set_cookie(self._cookie, identity, httponly=True, samesite="strict")
        return response

    def _refusal_of_session(self, scope: Scope) -> Response | None:
        session = self._session_of(scope)
        if session is None:
            return HTMLResponse(_NO_SESSION, 403)
        if scope["method"] not in SAFE_METHODS:
            given = Headers(scope=scope).get(CSRF_HEADER, "")
            if not secrets.compare_digest(given.encode(), session.csrf.encode()):
                return _refuse(403, "The request has no valid token; reload the page.")
        scope[SESSION] = session
        return None

    def _session_of(self, scope: Scope) -> Session | None:
        for header in Headers(scope=scope).getlist("cookie"):
            try:
                cookie = SimpleCookie(header).get(self._cookie)
            except CookieError:
                continue
            if cookie is not None and cookie.value in self._sessions:
                self._sessions.move_to_end(cookie.value)
                return self._sessions[cookie.value]
        return None


def _refuse(status: int, text: str) -> Response:
    return PlainTextResponse(text, status)


def _limited(receive: Receive) -> Receive:
    """Return a function that ends a request whose body is longer than it said."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return message if received <= MAX_BODY_BYTES else {"type": "http.disconnect"}

    return limited
