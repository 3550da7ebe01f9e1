"""Declare the options for the audit trail; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from transforms.core.option import Group, option

SYSLOG_SCHEMES: Final = ("udp", "tcp", "tls", "unix")
TLS_FILES: Final = ("ca", "cert", "key")
MAX_SOURCE: Final = 64


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Where audit messages go; nowhere by default.

    Attributes:
        audit_file: file to which messages are appended, one a line; None for none.
        audit_syslog: URL of a syslog server, or None.
        audit_source: Audit Source ID; empty for the name of the host.
    """

    audit_file: Path | None = option(
        None,
        group=Group.MONITORING,
        metavar="FILE",
        help="append DICOM audit messages (PS3.15 A.5, XML, one a line) about routed, decided, rerouted, "
        "reviewed, forgotten and exported studies to this file; they have Study Instance UIDs and keyed "
        "hashes of Patient IDs",
    )
    audit_syslog: str | None = option(
        None,
        group=Group.MONITORING,
        metavar="URL",
        help="send them to a syslog server (RFC 5424): tls://HOST:6514 with ?ca=FILE&cert=FILE&key=FILE, "
        "tcp://HOST:PORT, udp://HOST:514 or unix:///dev/log",
    )
    audit_source: str = option(
        "",
        group=Group.MONITORING,
        metavar="ID",
        help="Audit Source ID in these messages",
        default_text="the name of this host",
    )

    @property
    def is_on(self) -> bool:
        """Whether messages go anywhere."""
        return self.audit_file is not None or self.audit_syslog is not None

    def problems(self) -> list[str]:
        """Return a message for each option that cannot be used."""
        problems = []
        path = self.audit_file
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            problems.append(f"--audit_file {path}: give a file in a folder that exists")
        if self.audit_syslog is not None and (why := _url_problem(self.audit_syslog)):
            problems.append(f"--audit_syslog: {why}")
        if self.audit_source and not self.is_on:
            problems.append("--audit_source needs --audit_file or --audit_syslog")
        if len(self.audit_source) > MAX_SOURCE or not self.audit_source.isprintable():
            problems.append(f"--audit_source: at most {MAX_SOURCE} printable characters")
        return problems


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "write tls://HOST:6514"
    if parts.scheme not in SYSLOG_SCHEMES:
        return f"write one of {', '.join(f'{scheme}://…' for scheme in SYSLOG_SCHEMES)}"
    if parts.scheme == "unix":
        return None if parts.path else "write unix:///dev/log"
    if not parts.hostname or (port is None and parts.scheme == "tcp"):
        return f"write {parts.scheme}://HOST:PORT"
    given = parse_qs(parts.query)
    if unknown := sorted(set(given) - set(TLS_FILES if parts.scheme == "tls" else ())):
        return f"unknown {unknown[0]!r}; known for tls: {', '.join(TLS_FILES)}"
    if missing := [
        value for values in given.values() for value in values if not Path(value).is_file()
    ]:
        return f"no such file: {missing[0]}"
    return None
