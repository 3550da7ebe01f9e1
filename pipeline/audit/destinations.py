"""Deliver audit messages to a file and a syslog server.

Standard: RFC 5424 (syslog), RFC 5425 (TLS), RFC 5426 (UDP), RFC 6587 3.4.1 (octet counting over TCP), and
PS3.15 A.6 and A.7 (audit trail transmission). The handler of the standard library writes RFC 3164.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from transforms.config.audit_options import AuditOptions
from transforms.storage.permissions import FILE_MODE

SECURITY_NOTICE: Final = 10 * 8 + 5
"""Facility 10 (security and authorization), severity 5 (notice)."""
MESSAGE_ID: Final = "DICOM+RFC3881"
APP_NAME: Final = "dicom-router"
BOM: Final = b"\xef\xbb\xbf"
MAX_DATAGRAM: Final = 65_000
TIMEOUT_S: Final = 10.0
UDP_PORT, TLS_PORT = 514, 6514


class AuditError(RuntimeError):
    """Audit messages were not delivered; the message says where and why."""


def deliver(messages: Sequence[bytes], options: AuditOptions, host: str) -> None:
    """Deliver messages to every destination, in order.

    Args:
        messages: XML without line breaks.
        options: where they go.
        host: name of this host.

    Raises:
        AuditError: a destination does not accept them; some may have been delivered.
    """
    if not messages:
        return
    if options.audit_file is not None:
        try:
            _append(options.audit_file, messages)
        except OSError as error:
            raise AuditError(
                f"--audit_file {options.audit_file} cannot be written ({error.strerror})"
            ) from error
    if options.audit_syslog is not None:
        try:
            with _connection(options.audit_syslog) as send:
                for message in messages:
                    send(syslog_line(message, host))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise AuditError(
                f"--audit_syslog {options.audit_syslog} does not accept ({why})"
            ) from error


def syslog_line(message: bytes, host: str) -> bytes:
    """Return a message with its header, RFC 5424 6."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    header = f"<{SECURITY_NOTICE}>1 {now} {host or '-'} {APP_NAME} {os.getpid()} {MESSAGE_ID} - "
    return header.encode() + BOM + message


def _append(path: Path, messages: Sequence[bytes]) -> None:
    """Append lines, of which a killed process leaves only whole ones before its last."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, FILE_MODE), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a process was killed while it wrote
                file.write(b"\n")
        file.write(b"".join(message + b"\n" for message in messages))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _connection(url: str) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that sends a message with its header."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
            local.settimeout(TIMEOUT_S)
            local.connect(parts.path)
            yield local.send
        return
    host = parts.hostname or ""
    if parts.scheme == "udp":
        family, kind, _, _, address = socket.getaddrinfo(
            host, parts.port or UDP_PORT, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as datagrams:
            datagrams.connect(address)
            yield lambda line: datagrams.send(_require_datagram(line))
        return
    port = parts.port or TLS_PORT
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as plain:
        if parts.scheme == "tcp":
            yield lambda line: plain.sendall(_counted(line))
            return
        with _tls(parts.query).wrap_socket(plain, server_hostname=host) as secure:
            yield lambda line: secure.sendall(_counted(line))
            with contextlib.suppress(OSError):
                secure.unwrap()


def _counted(line: bytes) -> bytes:
    return f"{len(line)} ".encode() + line


def _require_datagram(line: bytes) -> bytes:
    if len(line) > MAX_DATAGRAM:
        raise ValueError("longer than a datagram; use tcp or tls")
    return line


def _tls(query: str) -> ssl.SSLContext:
    files = {name: values[0] for name, values in parse_qs(query).items()}
    context = ssl.create_default_context(cafile=files.get("ca"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if "cert" in files:
        context.load_cert_chain(files["cert"], files.get("key"))
    return context
