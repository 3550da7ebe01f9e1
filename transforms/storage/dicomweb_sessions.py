"""Sessions with DICOMweb servers: credentials of the environment, retries, and redirects.

Certificates of authorities come from `REQUESTS_CA_BUNDLE`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import threading
from typing import Final
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

PREFIX: Final = "dicomweb+"
TOKEN, USER, PASSWORD = "DICOMWEB_TOKEN", "DICOMWEB_USER", "DICOMWEB_PASSWORD"
"""Variables of the environment with the credentials: a bearer token, or a user and a password."""
RETRIES: Final = Retry(
    total=5,
    backoff_factor=0.5,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=("GET",),
    raise_on_status=False,
)


class Sessions:
    """A session for each thread, with the credentials of the environment. Thread-safe."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, url: str) -> requests.Session:
        """Return the session of this thread.

        Raises:
            PermissionError: the credentials cannot be sent to this URL.
        """
        if why := credentials_problem(url):
            raise PermissionError(errno.EACCES, why)
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
            if token := os.environ.get(TOKEN):
                session.auth = _Bearer(token)
            elif user := os.environ.get(USER):
                session.auth = (user, os.environ.get(PASSWORD, ""))
        return session


class _Session(requests.Session):
    """A session that follows redirects within a server only."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """As the overridden method.

        Raises:
            OSError: the target is another server, or no HTTP.
        """
        target = super().get_redirect_target(resp)
        if target is not None and not _is_same_server(resp.url, target):
            resp.close()
            raise OSError(errno.EIO, "the server redirects to another one; give its URI instead")
        return target


def _is_same_server(url: str, target: str) -> bool:
    try:
        return urlsplit(urljoin(url, target))[:2] == urlsplit(url)[:2]
    except ValueError:
        return False


class _Bearer(requests.auth.AuthBase):
    """A bearer token; as `auth` it takes precedence over a .netrc file."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def credentials_problem(url: str) -> str | None:
    """Return why the credentials of the environment cannot be sent to a URL, or None."""
    if not (os.environ.get(TOKEN) or os.environ.get(USER)):
        return None
    parts = urlsplit(url.removeprefix(PREFIX))
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return None
    return "credentials are sent over https only; write dicomweb+https://"


def server_problem(uri: str) -> str | None:
    """Return why a URI is not that of a DICOMweb server or study, or None."""
    parts = urlsplit(uri.removeprefix(PREFIX))
    if parts.username or parts.password:
        return f"put credentials in the environment ({TOKEN}, or {USER} and {PASSWORD})"
    if parts.query or parts.fragment:
        return "write the URI without a query; use --study_date and --modality"
    return credentials_problem(uri)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
