"""What is no DICOM, or not expected at its place, ends one connection and harms no other sender."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

import pydicom
import pytest
from pynetdicom.pdu import A_ASSOCIATE_RQ

from tests.receive.receivers import Receiver, an_object, association, open_files, receiver


@pytest.mark.slow
@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack(">BBL", 4, 0, 0xFFFFFFFF) + bytes(4096),
        struct.pack(">BBL", 1, 0, 0xFFFFFFF0) + bytes(4096),
        struct.pack(">BBL", 1, 0, 100),
        b"",
    ],
)
def test_junk_harms_nobody_else(tmp_path: Path, junk: bytes) -> None:
    ds = an_object()
    with receiver(tmp_path / "in", "--association_timeout=1", "--idle_timeout=1") as running:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(junk)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):  # the receiver ends the connection
                    pass
        with association(running.port, [ds]) as sender:
            assert sender.send_c_store(ds).Status == 0
        assert running.stop() == 0
        assert "Traceback" not in running.stderr


def recorded(running: Receiver, ds: pydicom.FileDataset) -> bytes:
    """Return what a sender of one object sends."""
    sent = bytearray()
    with association(running.port, []) as idle:  # keeps the receiver's first association open
        with association(running.port, [ds]) as sender:
            wrapped = sender.dul.socket
            assert wrapped is not None
            original = wrapped.send

            def record(bytestream: bytes) -> None:
                sent.extend(bytestream)
                original(bytestream)

            wrapped.send = record  # type: ignore[method-assign]
            assert sender.send_c_store(ds).Status == 0
        assert idle.is_established
    request = sender.requestor.primitive
    assert request is not None
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return pdu.encode() + bytes(sent)


def pdus_of(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = 6 + int.from_bytes(data[2:6], "big")
        found.append(data[:length])
        data = data[length:]
    return found


@pytest.mark.slow
def test_what_the_protocol_does_not_expect_ends_one_association(tmp_path: Path) -> None:
    """PDUs repeated, left out, swapped and cut, at each place; each sender is a connection of its own."""
    ds = an_object()
    options = ("--association_timeout=2", "--idle_timeout=2", "--max_associations=4")
    with receiver(tmp_path / "in", *options) as running:
        pdus = pdus_of(recorded(running, ds))
        assert len(pdus) >= 4
        before = len(open_files(running))
        for n in range(len(pdus)):
            swapped = [*pdus[:n], *pdus[n : n + 2][::-1], *pdus[n + 2 :]]
            for sent in (
                [*pdus[: n + 1], *pdus[n:]],
                [*pdus[:n], *pdus[n + 1 :]],
                swapped,
                [*pdus[:n], pdus[n][:-1]],
                [*pdus[:n], pdus[n][:6] + b"\xff" * (len(pdus[n]) - 6)],
            ):
                with contextlib.suppress(OSError), connected(running.port) as connection:
                    connection.sendall(b"".join(sent))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass
        running.wait_until(lambda: len(open_files(running)) <= before)

        def is_stored() -> bool:
            """Return whether there is room for an association again."""
            with association(running.port, [ds]) as sender:
                return sender.is_established and sender.send_c_store(ds).Status == 0

        running.wait_until(is_stored)
        assert len(running.files) == 1
        assert running.stop() == 0
        assert "Traceback" not in running.stderr
        assert ds.SOPInstanceUID not in running.stderr


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)
