"""STOW-RS: objects are stored byte for byte, and every other answer means that the sender keeps them."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, RLELossless

from pipeline.receive.options import TOKEN_VARIABLE
from pipeline.receive.stow import MAX_PARTS
from tests.receive.orthanc import needs_orthanc, orthanc
from tests.receive.receivers import (
    STORESCU,
    Receiver,
    association,
    can_connect,
    has_unnamed_file,
    receiver,
    storescu,
    write_objects,
)
from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.storage.multipart import DATA, END, HEADERS, MultipartReader

STOW = ("--stow_port=0",)
JSON = "application/dicom+json"


def body_of(parts: list[tuple[str, bytes]], boundary: str) -> bytes:
    lines = [
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + data + b"\r\n"
        for kind, data in parts
    ]
    return b"".join([*lines, f"--{boundary}--\r\n".encode()])


def stow(
    running: Receiver, *parts: bytes, path: str = "", kind: str = "application/dicom", **more: Any
) -> requests.Response:
    boundary = uuid.uuid4().hex
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        **more.pop("headers", {}),
    }
    scheme = more.pop("scheme", "http")
    return requests.post(
        f"{scheme}://127.0.0.1:{running.stow_port}/dicom-web/studies{path}",
        data=more.pop("body", None) or body_of([(kind, part) for part in parts], boundary),
        headers=headers,
        timeout=60,
        **more,
    )


def reasons(response: requests.Response, sequence: str) -> list[int]:
    items = response.json()[sequence]["Value"]
    return [item["00081197"]["Value"][0] for item in items]


@pytest.mark.slow
def test_objects_are_stored_byte_for_byte(tmp_path: Path) -> None:
    sent = [
        dicom_bytes(image(n, (64, 48)), name=str(n), syntax=syntax)
        for n, syntax in enumerate(["1.2.840.10008.1.2", RLELossless, JPEG2000Lossless])
    ]
    sent[0] += b"\xfc\xff\xfc\xff" + bytes(100)  # trailing padding, which C-STORE would drop
    with receiver(tmp_path / "in", *STOW) as running:
        response = stow(running, *sent)
        assert response.status_code == 200
        assert response.headers["content-type"] == JSON
        assert len(response.json()["00081199"]["Value"]) == 3
        again = stow(running, sent[1])
        assert again.status_code == 200
        assert running.stop() == 0
        assert running.stderr.endswith("receiver stopped; objects stored: 4, refused: 0\n")
    assert {path.read_bytes() for path in running.files} == set(sent)
    assert len(running.files) == 3


@pytest.mark.slow
def test_parts_that_cannot_be_stored(tmp_path: Path) -> None:
    ds = dataset(image(1, (64, 48)))
    good, large = to_bytes(ds), dicom_bytes(name="9")
    with receiver(tmp_path / "in", *STOW, "--max_object_bytes=20000") as running:
        some = stow(running, good, b"junk", large)
        assert some.status_code == 202
        assert reasons(some, "0008119A") == [0xC000, 0xA700]
        none = stow(running, b"junk")
        assert none.status_code == 409
        assert "00081199" not in none.json()
        other_study = stow(running, good, path="/1.2.3")
        assert other_study.status_code == 409
        assert reasons(other_study, "00081198") == [0xA900]
        assert stow(running, good, path=f"/{ds.StudyInstanceUID}").status_code == 200
        assert stow(running, good, kind="application/json").status_code == 409
        assert len(running.files) == 1
        running.stop()
        assert "SECRET" not in running.stderr
        assert ds.SOPInstanceUID not in running.stderr


@pytest.mark.slow
def test_sop_classes_are_those_of_c_store(tmp_path: Path) -> None:
    private = dicom_bytes(image(1, (64, 48)), SOPClassUID="1.2.826.0.1.3680043.10.1473.9")
    with receiver(tmp_path / "in", *STOW) as running:
        response = stow(running, private)
        assert response.status_code == 409
        assert reasons(response, "00081198") == [0x0122]
    with receiver(tmp_path / "in", *STOW, "--storage_classes", "any") as running:
        assert stow(running, private).status_code == 200


def test_a_full_disk(full_disk: Path, tmp_path: Path) -> None:
    (full_disk / "in").mkdir()
    data = dicom_bytes(image(1, (64, 48)))
    with receiver(full_disk / "in", *STOW, log=tmp_path / "log") as running:
        response = stow(running, data)
        assert response.status_code == 409
        codes = [*response.json().get("00081198", {}).get("Value", []),
                 *response.json().get("0008119A", {}).get("Value", [])]  # fmt: skip
        assert [one["00081197"]["Value"][0] for one in codes] == [0xA700]
        (full_disk / "filler").unlink()
        assert stow(running, data).status_code == 200


@pytest.mark.slow
def test_requests_that_are_not_a_store_transaction(tmp_path: Path) -> None:
    with receiver(tmp_path / "in", *STOW) as running:
        root = f"http://127.0.0.1:{running.stow_port}"
        assert requests.get(f"{root}/dicom-web/studies", timeout=60).status_code == 405
        assert requests.post(f"{root}/", timeout=60).status_code == 404
        cases: list[tuple[dict[str, Any], int]] = [
            ({"path": "/../../etc"}, 404),
            ({"path": "/1.2/series"}, 404),
            ({"path": "/not-a-uid"}, 400),
            ({"headers": {"Content-Type": "application/dicom"}}, 415),
            ({"headers": {"Content-Type": "multipart/related; type=application/dicom"}}, 400),
            ({"headers": {"Content-Type": 'multipart/related; type="application/dicom+json"; '
                          "boundary=x"}}, 415),
            ({"headers": {"Content-Encoding": "gzip"}}, 415),
            ({"headers": {"Accept": "text/html"}}, 406),
            ({"body": b"no multipart"}, 400),
            ({"body": b"\r\n"}, 400),
        ]  # fmt: skip
        for more, status in cases:
            response = stow(running, b"x", **more)
            assert response.status_code == status, more
        assert running.files == []


def test_a_truncated_body_stores_complete_parts_only(tmp_path: Path) -> None:
    parts = [dicom_bytes(image(n, (64, 48)), name=str(n)) for n in range(2)]
    body = body_of([("application/dicom", part) for part in parts], "limit")[:-200]
    kind = 'multipart/related; type="application/dicom"; boundary=limit'
    with receiver(tmp_path / "in", *STOW) as running:
        response = stow(running, body=body, headers={"Content-Type": kind})
        assert response.status_code == 400
        assert [path.read_bytes() for path in running.files] == parts[:1]


@pytest.mark.slow
def test_a_body_of_too_many_parts(tmp_path: Path) -> None:
    """Its complete parts are stored; the outcome of each part is in memory until the answer."""
    part = dicom_bytes(image(1, (64, 48)))
    body = body_of([("application/dicom", part)], "b")[: -len("--b--\r\n")]
    many = b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" * MAX_PARTS
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    with receiver(tmp_path / "in", *STOW) as running:
        response = stow(running, body=body + many + b"--b--\r\n", headers={"Content-Type": kind})
        assert response.status_code == 413
        assert [path.read_bytes() for path in running.files] == [part]
        assert stow(running, part).status_code == 200


def test_a_token_is_required(tmp_path: Path) -> None:
    data = dicom_bytes(image(1, (64, 48)))
    with receiver(tmp_path / "in", *STOW, **{TOKEN_VARIABLE: "correct"}) as running:
        for value in (None, "Bearer wrong", "Bearer ", "Basic correct", "correct"):
            response = stow(running, data, headers={"Authorization": value} if value else {})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        assert running.files == []
        given = {"Authorization": "Bearer correct"}
        assert stow(running, data, headers=given).status_code == 200
        assert "correct" not in running.stderr.replace("correct;", "")


@pytest.mark.slow
def test_a_slow_sender_is_cut_off_and_harms_nobody(tmp_path: Path) -> None:
    options = [*STOW, "--association_timeout=1", "--idle_timeout=1"]
    head = b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    kind = b'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n\r\n'
    with receiver(tmp_path / "in", *options) as running:
        for begin in (b"", head, head + kind):
            with socket.create_connection(("127.0.0.1", running.stow_port)) as slow:
                slow.sendall(begin)
                assert stow(running, dicom_bytes(image(1, (64, 48)))).status_code == 200
                with contextlib.suppress(ConnectionResetError):
                    while slow.recv(4096):
                        pass
        assert running.stop() == 0


@pytest.mark.slow
def test_sigterm_answers_the_request_in_transfer(tmp_path: Path) -> None:
    data = dicom_bytes()
    body = body_of([("application/dicom", data)], "limit")
    head = (
        "POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        'Content-Type: multipart/related; type="application/dicom"; boundary=limit\r\n'
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with (
        receiver(tmp_path / "in", *STOW) as running,
        socket.create_connection(("127.0.0.1", running.stow_port)) as connection,
    ):
        connection.sendall(head.encode() + body[: len(body) // 2])
        running.wait_until(lambda: has_unnamed_file(running))
        running.process.send_signal(signal.SIGTERM)
        running.wait_until(lambda: not can_connect(running.stow_port))
        connection.sendall(body[len(body) // 2 :])
        answer = b""
        while block := connection.recv(4096):
            answer += block
        assert answer.startswith(b"HTTP/1.1 200")
        assert running.process.wait() == 0
        assert [path.read_bytes() for path in running.files] == [data]


def test_more_requests_than_allowed(tmp_path: Path) -> None:
    data = dicom_bytes(image(1, (64, 48)))
    with receiver(tmp_path / "in", *STOW, "--max_associations=1") as running:
        with socket.create_connection(("127.0.0.1", running.stow_port)):
            assert stow(running, data).status_code == 503
        running.wait_until(lambda: stow(running, data).status_code == 200)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key and self-signed certificate of a server and of a client."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
             "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
    return folder


@pytest.mark.slow
def test_tls_with_client_certificates(tmp_path: Path, certificates: Path) -> None:
    ds = dataset(image(1, (64, 48)))
    options = [
        "--tls_certificate", str(certificates / "server.pem"),
        "--tls_key", str(certificates / "server.key"),
        "--tls_ca", str(certificates / "client.pem"),
        *STOW,
    ]  # fmt: skip
    trusted = ssl.create_default_context(cafile=str(certificates / "server.pem"))
    anonymous = ssl.create_default_context(cafile=str(certificates / "server.pem"))
    trusted.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    client = (str(certificates / "client.pem"), str(certificates / "client.key"))
    verify = str(certificates / "server.pem")
    with (
        receiver(tmp_path / "in", *options) as running,
        socket.create_connection(("127.0.0.1", running.port)),  # never begins its handshake
    ):
        with association(running.port, [ds], tls_args=(anonymous, "127.0.0.1")) as sender:
            assert not sender.is_established
        with association(running.port, [ds]) as sender:
            assert not sender.is_established
        with association(running.port, [ds], tls_args=(trusted, "127.0.0.1")) as sender:
            assert sender.send_c_store(ds).Status == 0
        with pytest.raises(requests.RequestException):
            stow(running, to_bytes(ds), scheme="https", verify=verify)
        response = stow(running, to_bytes(ds), scheme="https", verify=verify, cert=client)
        assert response.status_code == 200
        if STORESCU is not None:
            (tmp_path / "out.dcm").write_bytes(to_bytes(ds))
            key, certificate = certificates / "client.key", certificates / "client.pem"
            tls = ("+cf", certificates / "server.pem", tmp_path / "out.dcm")
            assert storescu(running.port, "+tls", key, certificate, *tls).returncode == 0
            assert storescu(running.port, "+tla", *tls).returncode != 0
        assert "Traceback" not in running.stderr


@needs_orthanc
@pytest.mark.slow
def test_an_orthanc_forwards_by_c_store_and_stow(tmp_path: Path) -> None:
    sent = write_objects(tmp_path / "out", 20)
    (tmp_path / "out" / "j2k.dcm").write_bytes(
        dicom_bytes(image(30, (64, 48)), name="30", syntax=JPEG2000Lossless)
    )
    objects = {path.read_bytes() for path in (tmp_path / "out").iterdir()}
    token = {TOKEN_VARIABLE: "correct"}
    with receiver(tmp_path / "in", *STOW, **token) as running:
        server = {
            "Url": f"http://127.0.0.1:{running.stow_port}/dicom-web/",
            "HttpHeaders": {"Authorization": "Bearer correct"},
        }
        settings = {
            "DicomModalities": {"router": ["ROUTER", "127.0.0.1", running.port]},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"router": server}},
        }
        with orthanc(tmp_path / "orthanc", **settings) as forwarding:
            identifiers = [forwarding.store(data) for data in sorted(objects)]
            resources = {"Resources": identifiers, "Synchronous": True}
            forwarding.post("dicom-web/servers/router/stow", resources)
            by_stow = {path.read_bytes() for path in running.files}
            assert by_stow == objects
            forwarding.post("modalities/router/store", resources)
        assert running.stop() == 0
    pixels = {pydicom.dcmread(path).PixelData for path in running.files}
    assert pixels == {pydicom.dcmread(path).PixelData for path in (tmp_path / "out").iterdir()}
    assert len(sent) + 1 == len(objects)


@settings(max_examples=100)
@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    st.sampled_from([b"B", b"--", b"a" * 70, b"\x00x"]),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_parts_are_the_same_in_blocks_of_any_size(
    parts: list[bytes], boundary: bytes, sizes: list[int]
) -> None:
    delimiter = b"\r\n--" + boundary
    parts = [part for part in parts if delimiter not in b"\r\n" + part + b"\r\n--"] or [b""]
    body = b"".join(b"--" + boundary + b"\r\nA: b\r\n\r\n" + part + b"\r\n" for part in parts)
    body += b"--" + boundary + b"--\r\n"
    reader, found = MultipartReader(boundary), []
    for block in blocks(body, sizes):
        for kind, value in reader.feed(block):
            if kind == HEADERS:
                assert value == {"a": "b"}
                found.append(b"")
            elif kind == DATA:
                assert isinstance(value, bytes)
                found[-1] += value
            else:
                assert kind == END
    assert reader.is_complete
    assert found == parts


def blocks(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    position = number = 0
    while position < len(body):
        size = sizes[number % len(sizes)]
        yield body[position : position + size]
        position, number = position + size, number + 1
