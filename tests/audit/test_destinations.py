"""Audit messages reach a file, and a syslog server over any transport."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.destinations import BOM, AuditError, deliver, syslog_line
from pipeline.audit.trail import AuditTrail
from tests.audit.audit_messages import ALL_MESSAGES, lines
from transforms.config.audit_options import AuditOptions
from transforms.core.errors import UsageError
from transforms.lake.layout import Layout


def test_a_line_that_a_killed_process_has_left_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"
    file.write_bytes(b"<AuditMess")
    deliver([b"<a/>", b"<b/>"], AuditOptions(audit_file=file), "host")
    assert lines(file) == [b"<AuditMess", b"<a/>", b"<b/>"]


SYSLOG = re.compile(
    rb"<85>1 \d{4}-\d\d-\d\dT[\d:.]+\+00:00 host dicom-router \d+ DICOM\+RFC3881 - "
)


def message_in(line: bytes) -> bytes:
    """The message after an RFC 5424 header."""
    match = SYSLOG.match(line)
    assert match is not None
    assert line[match.end() :].startswith(BOM)
    return line[match.end() + len(BOM) :]


def frames(data: bytes) -> Iterator[bytes]:
    while data:
        length, _, data = data.partition(b" ")
        yield data[: int(length)]
        data = data[int(length) :]


MESSAGES = list(ALL_MESSAGES.values())


def test_syslog_over_datagrams(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{server.getsockname()[1]}"
        deliver(MESSAGES, AuditOptions(audit_syslog=url), "host")
        received = [message_in(server.recv(65536)) for _ in MESSAGES]
    assert received == MESSAGES
    with pytest.raises(AuditError):
        deliver([b"x" * 70_000], AuditOptions(audit_syslog=url), "host")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        local = AuditOptions(audit_syslog=f"unix://{tmp_path}/log")
        deliver(MESSAGES[:1], local, "host")
        assert message_in(server.recv(65536)) == MESSAGES[0]


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_syslog_over_connections(tmp_path: Path, scheme: str) -> None:
    url, wrap = f"{scheme}://127.0.0.1", None
    if scheme == "tls":
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
             "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", tmp_path / "key", "-out", tmp_path / "pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "pem")
        context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
        context.verify_mode = ssl.CERT_REQUIRED
        wrap = context
    with socket.create_server(("127.0.0.1", 0)) as server:
        received: list[bytes] = []
        thread = threading.Thread(target=serve, args=(server, wrap, received), daemon=True)
        thread.start()
        query = f"?ca={tmp_path}/pem&cert={tmp_path}/pem&key={tmp_path}/key" if wrap else ""
        options = AuditOptions(audit_syslog=f"{url}:{server.getsockname()[1]}{query}")
        assert options.problems() == []
        deliver(MESSAGES, options, "host")
        thread.join(10)
    assert [message_in(one) for one in frames(b"".join(received))] == MESSAGES


def serve(server: socket.socket, wrap: ssl.SSLContext | None, received: list[bytes]) -> None:
    connection, _ = server.accept()
    connection = connection if wrap is None else wrap.wrap_socket(connection, server_side=True)
    with connection:
        while data := connection.recv(65536):
            received.append(data)


def test_a_header_has_the_fields_of_the_standard() -> None:
    assert message_in(syslog_line(b"<x/>", "host")) == b"<x/>"
    assert b" - dicom-router " in syslog_line(b"", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audit_syslog": "http://host"}, "write one of"),
        ({"audit_syslog": "tcp://host"}, "tcp://HOST:PORT"),
        ({"audit_syslog": "udp://host:x"}, "tls://HOST:6514"),
        ({"audit_syslog": "tls://host?ca=/missing"}, "no such file"),
        ({"audit_syslog": "udp://host?ca=x"}, "unknown 'ca'"),
        ({"audit_file": Path("/missing/audit.xml")}, "folder that exists"),
        ({"audit_source": "x"}, "needs --audit_file"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AuditTrail(Layout("/lake"), AuditOptions(**options), "0")
