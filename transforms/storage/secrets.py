"""Secrets: files, and versions of secrets in Google's Secret Manager."""

from __future__ import annotations

import base64
import errno
import os
import re
from pathlib import Path
from typing import Final

SECRET: Final = r"projects/[^/\s]+/secrets/[^/\s]+/versions/[^/\s]+"
"""Regular expression of the name of a version of a secret."""
SERVICE: Final = "https://secretmanager.googleapis.com"
EMULATOR: Final = "SECRET_MANAGER_EMULATOR_HOST"
"""Variable of the environment with the base URL of a server for tests, which needs no credentials."""
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT_S: Final = 30


def is_secret(name: str) -> bool:
    """Return whether a name is that of a version of a secret, not a path."""
    return re.fullmatch(SECRET, name) is not None


def read_secret(name: str) -> bytes:
    """Return the bytes of a file, or of a version of a secret.

    Args:
        name: path, or projects/PROJECT/secrets/NAME/versions/VERSION.

    Raises:
        OSError: it cannot be read.
    """
    return _access(name) if is_secret(name) else Path(name).read_bytes()


def _access(name: str) -> bytes:
    import requests
    from google.auth import default
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession

    emulator = os.environ.get(EMULATOR)
    try:
        session = requests.Session() if emulator else AuthorizedSession(default(scopes=[SCOPE])[0])
        with session:
            answer = session.get(f"{emulator or SERVICE}/v1/{name}:access", timeout=TIMEOUT_S)
        if not answer.ok:
            why = f"Secret Manager answers {answer.status_code} {answer.reason}"
            raise PermissionError(errno.EACCES, why, name)
        return base64.b64decode(answer.json()["payload"]["data"], validate=True)
    except GoogleAuthError as error:
        raise PermissionError(errno.EACCES, "no Google Cloud credentials", name) from error
    except requests.RequestException as error:
        raise OSError(errno.EIO, "Secret Manager does not answer", name) from error
    except (KeyError, ValueError) as error:
        raise OSError(errno.EIO, "Secret Manager answers with no secret", name) from error
