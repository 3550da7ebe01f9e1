"""URIs of members of archives: `archive.zip!/member`."""

from __future__ import annotations

import re
from typing import Final

from transforms.storage.local import is_file
from transforms.storage.selection import ARCHIVE

SEPARATOR: Final = "!/"
_SUFFIX: Final = r"\.(?:zip|tar|tar\.gz|tgz)"
_MEMBER: Final = re.compile(_SUFFIX + "(?=!/.)", re.IGNORECASE | re.DOTALL)


def is_archive_name(uri: str) -> bool:
    """Return whether a name ends like that of an archive."""
    return ARCHIVE.search(uri) is not None


def member_uri(archive: str, name: str) -> str:
    """Return the URI of a member; bytes of its name that are not UTF-8 are shown in hexadecimal."""
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return f"{archive}{SEPARATOR}{shown.lstrip('/')}"


def archive_of(uri: str) -> str | None:
    """Return the URI of the archive of a member; None if the URI is not that of a member.

    Local names are looked up, as folders and files may have such names, too.
    """
    if SEPARATOR not in uri:
        return None
    ends = [match.end() for match in _MEMBER.finditer(uri)]
    scheme = uri.partition("://")[0]
    if scheme != uri and "/" not in scheme and scheme != "file":
        return uri[: ends[0]] if ends else None
    if not ends or is_file(uri):
        return None
    return next((uri[:end] for end in ends if is_file(uri[:end])), uri[: ends[0]])


def is_member(uri: str) -> bool:
    """Return whether a URI is that of a member of an archive."""
    return archive_of(uri) is not None
