"""DICOMweb servers as a source: a real Orthanc, and servers that misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless
from urllib3.util import Retry

from pipeline.cli import main
from tests.conftest import Lake, counts, route_into
from tests.engines.servers import free_port
from tests.receive.orthanc import CREDENTIALS, Orthanc, needs_orthanc, orthanc
from tests.synthetic import ROOT, dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake
from transforms.storage import dicomweb, dicomweb_sessions
from transforms.storage.base import ObjectChanged

OBJECTS = 12


def objects() -> list[bytes]:
    """Objects of several syntaxes, dates and modalities, each in a study of its own but two."""
    syntaxes = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", RLELossless, JPEG2000Lossless]
    return [
        dicom_bytes(
            image(n, (160, 128)),
            name=str(n),
            syntax=syntaxes[n % 4],
            StudyDate=f"202601{n + 1:02}",
            StudyInstanceUID=f"{ROOT}.1.{min(n, OBJECTS - 2)}",
            Modality="DX" if n % 2 else "CR",
        )
        for n in range(OBJECTS)
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("dicomweb")) as running:
        for data in objects():
            running.store(data)
        yield running


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dicomweb_sessions.USER, CREDENTIALS[0])
    monkeypatch.setenv(dicomweb_sessions.PASSWORD, CREDENTIALS[1])
    from transforms.storage.schemes import reset_clients

    reset_clients()


def route_server(lake: Lake, url: str, *options: str, expect: int = 0) -> dict[str, Any]:
    inputs = (f"dicomweb+{url}",)
    return route_into(lake, "--source=dicomweb", *options, inputs=inputs, expect=expect)


@needs_orthanc
@pytest.mark.slow
@pytest.mark.usefixtures("credentials")
def test_a_server_is_ingested_byte_for_byte_and_resumed(
    server: Orthanc, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 3)
    some = route_server(lake, server.dicomweb, "--study_date", "20260101-20260104")
    assert some["counts"]["discovered"] == 4
    dx = route_server(lake, server.dicomweb, "--modality", "DX")
    assert dx["counts"]["discovered"] == OBJECTS / 2
    assert dx["counts"]["unchanged"] == 2
    rest = route_server(lake, server.dicomweb + "/")
    assert rest["counts"]["discovered"] == OBJECTS
    assert rest["counts"]["unchanged"] == 8
    again = route_server(lake, server.dicomweb)
    assert counts(again) == {"unchanged": OBJECTS}
    rows = lake.rows()
    expected = {hashlib.sha256(data).hexdigest(): len(data) for data in objects()}
    assert {row["content_sha256"]: row["source_size_bytes"] for row in rows} == expected
    assert {row["source_version"] for row in rows} == {row["sop_instance_uid"] for row in rows}
    root = f"dicomweb+{server.dicomweb}/studies/"
    assert all(row["source_uri"].startswith(root) for row in rows)
    assert {hashlib.sha256(lake.path(row).read_bytes()).hexdigest() for row in rows} == set(
        expected
    )
    assert not verify_lake(Layout(str(lake.root)), deep=True).violations


@pytest.mark.slow
@needs_orthanc
@pytest.mark.usefixtures("credentials")
def test_an_index_of_a_server(server: Orthanc, lake: Lake) -> None:
    summary = route_server(
        lake, server.dicomweb, "--placement=index_only", "--max_object_bytes=30000"
    )
    assert summary["counts"]["discovered"] == OBJECTS
    reasons = {row["reason"] for row in lake.rows()}
    assert "too_large" in reasons
    assert all(row["object_uri"] == row["source_uri"] for row in lake.rows())
    assert not verify_lake(Layout(str(lake.root)), deep=True).violations


@pytest.mark.slow
@needs_orthanc
@pytest.mark.usefixtures("credentials")
def test_a_manifest_of_instances(server: Orthanc, lake: Lake, tmp_path: Path) -> None:
    storage = dicomweb.DicomWebStorage()
    root = f"dicomweb+{server.dicomweb}"
    uris = [found.uri for found in storage.list_below(root)][:2]
    missing = uris[0] + ".1"
    (tmp_path / "list.txt").write_text("\n".join([*uris, missing]))
    arguments = ("--source=manifest",)
    summary = route_into(lake, *arguments, inputs=(str(tmp_path / "list.txt"),), expect=1)
    assert summary["counts"]["failed"] == 1
    assert len(lake.rows()) == 2


@pytest.mark.slow
@needs_orthanc
def test_wrong_credentials_make_the_run_incomplete(
    server: Orthanc,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(dicomweb_sessions.TOKEN, "secret-token")
    from transforms.storage.schemes import reset_clients

    reset_clients()
    inputs = ["--source=dicomweb", "--input", f"dicomweb+{server.dicomweb}"]
    assert main(["route", *inputs, "--lake", str(lake.root)]) == 2
    assert "cannot be listed (HTTP status 401)" in capsys.readouterr().err
    summary = route_server(lake, server.dicomweb, "--allow_empty", expect=1)
    (failure,) = summary["failures"]
    assert failure["reason"] == "permission_denied"
    assert "secret" not in json.dumps(summary)


Answer = tuple[int, str, bytes]
"""Status, media type (or target of a redirect) and body."""
CONTENT = dicom_bytes()
MATCH = {
    "0020000D": {"vr": "UI", "Value": [f"{ROOT}.1.1"]},
    "0020000E": {"vr": "UI", "Value": [f"{ROOT}.2.1"]},
    "00080018": {"vr": "UI", "Value": [f"{ROOT}.3.1"]},
}


@contextlib.contextmanager
def answering(answer: Callable[[str], Answer], *, cut: int = 0) -> Iterator[str]:
    """Run a server whose first `cut` answers end too early."""
    requests = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal requests
            requests += 1
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Location" if status // 100 == 3 else "Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // (requests + 1)] if requests <= cut else body)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield f"dicomweb+http://127.0.0.1:{running.server_address[1]}/dicom-web"
        finally:
            running.shutdown()


def multipart(*parts: bytes) -> Answer:
    body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + p + b"\r\n" for p in parts)
    return 200, 'multipart/related; type="application/dicom"; boundary=b', body + b"--b--\r\n"


def retrieve(root: str, path: Path) -> bytes:
    uri = f"{root}/studies/{ROOT}.1.1/series/{ROOT}.2.1/instances/{ROOT}.3.1"
    with path.open("wb", buffering=0) as sink:
        dicomweb.DicomWebStorage().copy_to(uri, f"{ROOT}.3.1", sink)
    return path.read_bytes()


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_download_continues_after_an_interruption(tmp_path: Path, cut: int) -> None:
    with answering(lambda path: multipart(CONTENT), cut=cut) as root:
        assert retrieve(root, tmp_path / "object") == CONTENT


def test_content_that_changes_between_two_attempts(tmp_path: Path) -> None:
    contents = iter([CONTENT, bytes(len(CONTENT))])
    with (
        answering(lambda path: multipart(next(contents)), cut=1) as root,
        pytest.raises(ObjectChanged),
    ):
        retrieve(root, tmp_path / "object")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((404, "text/plain", b""), FileNotFoundError),
        ((403, "text/plain", b""), PermissionError),
        ((500, "text/plain", b""), OSError),
        ((200, "text/html", b"<html>"), OSError),
        ((200, "multipart/related; boundary=b", b"--x"), OSError),
        ((200, "multipart/related; boundary=b", b"--b\r\n\r\nabc"), OSError),
        (multipart(), OSError),
        (multipart(CONTENT, CONTENT), OSError),
    ],
)
def test_answers_that_are_no_instance(tmp_path: Path, answer: Answer, error: type[OSError]) -> None:
    with answering(lambda path: answer) as root, pytest.raises(error) as raised:
        retrieve(root, tmp_path / "object")
    assert ROOT not in str(raised.value)


def test_a_server_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dicomweb_sessions, "RETRIES", Retry(total=2, backoff_factor=0))
    with pytest.raises(OSError, match="ConnectionError") as raised:
        retrieve(f"dicomweb+http://127.0.0.1:{free_port()}/dicom-web", tmp_path / "object")
    assert ROOT not in str(raised.value) + caplog.text


def test_a_single_part_answer(tmp_path: Path) -> None:
    with answering(lambda path: (200, "application/dicom", CONTENT)) as root:
        assert retrieve(root, tmp_path / "object") == CONTENT


def test_a_search_is_repeated_after_an_interruption() -> None:
    def answer(path: str) -> Answer:
        page = [MATCH] if "offset=0" in path else []
        return 200, "application/dicom+json", json.dumps(page).encode()

    with answering(answer, cut=2) as root:
        assert len(list(dicomweb.DicomWebStorage().list_below(root))) == 1


def test_a_server_without_paging(monkeypatch: pytest.MonkeyPatch) -> None:
    page = json.dumps([MATCH]).encode()
    with answering(lambda path: (200, "application/dicom+json", page)) as root:
        storage = dicomweb.DicomWebStorage()
        (found,) = storage.list_below(root)
        assert found.uri.endswith(f"/instances/{ROOT}.3.1")
        monkeypatch.setattr(dicomweb, "PAGE", 1)
        with pytest.raises(OSError, match="ignores the offset"):
            storage.studies(root)


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://127.0.0.2:{port}/dicom-web/studies",
        "//localhost:{port}/dicom-web/studies",
        "https://127.0.0.1:{port}/dicom-web/studies",
        "http://127.0.0.1:1/dicom-web/studies",
        "http://127.0.0.1:x/",
    ],
)
@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_to_another_server_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, target: str
) -> None:
    monkeypatch.setenv(dicomweb_sessions.TOKEN, "secret")
    ports: list[str] = []
    with answering(lambda path: (status, target.format(port=ports[0]), b"")) as root:
        ports.append(root.split(":")[-1].partition("/")[0])
        with pytest.raises(OSError, match="redirects to another") as raised:
            list(dicomweb.DicomWebStorage().list_below(root))
        with pytest.raises(OSError, match="redirects to another"):
            retrieve(root, tmp_path / "object")
    assert "passwd" not in str(raised.value)


@pytest.mark.slow
def test_redirects_within_a_server() -> None:
    def answer(path: str) -> Answer:
        if path.startswith("/dicom-web/"):
            return 302, path.replace("/dicom-web/", "/v2/"), b""
        page = [MATCH] if "offset=0" in path else []
        return 200, "application/dicom+json", json.dumps(page).encode()

    with answering(answer) as root:
        assert len(dicomweb.DicomWebStorage().studies(root)) == 1
    with (
        answering(lambda path: (302, path, b"")) as root,
        pytest.raises(OSError, match="TooManyRedirects"),
    ):
        dicomweb.DicomWebStorage().studies(root)


def test_a_search_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "MAX_PAGES", 5)
    numbers = itertools.count()

    def answer(path: str) -> Answer:
        match = {**MATCH, "0020000D": {"vr": "UI", "Value": [f"1.2.{next(numbers)}"]}}
        return 200, "application/dicom+json", json.dumps([match]).encode()

    with answering(answer) as root, pytest.raises(OSError, match="too many pages"):
        dicomweb.DicomWebStorage().studies(root)


@pytest.mark.slow
def test_an_instance_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "MAX_INSTANCE_BYTES", len(CONTENT) - 1)
    with (
        answering(lambda path: multipart(CONTENT)) as root,
        pytest.raises(OSError, match="does not end"),
    ):
        retrieve(root, tmp_path / "object")


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"{}",
        b"[1]",
        b"[{}]",
        b"[" * 100_000,
        json.dumps([{**MATCH, "0020000D": {"vr": "UI", "Value": ["../../etc"]}}]).encode(),
        json.dumps([{**MATCH, "0020000D": 5}]).encode(),
    ],
)
def test_answers_that_are_no_matches(lake: Lake, body: bytes) -> None:
    with answering(lambda path: (200, "application/dicom+json", body)) as root:
        summary = route_into(lake, "--source=dicomweb", "--allow_empty", inputs=(root,), expect=1)
    assert summary["counts"]["failed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=dicomweb", "--input=/data"], "write dicomweb+https://HOST/dicom-web"),
        (["--source=dicomweb", "--input=https://h/d"], "write dicomweb+https://"),
        (
            ["--source=dicomweb", "--input=dicomweb+https://u:p@h/d"],
            "credentials in the environment",
        ),
        (["--source=dicomweb", "--input=dicomweb+https://h/d?x=1"], "without a query"),
        (["--source=dicomweb", "--input=dicomweb+http://h/d"], "over https only"),
        (["--source=dicomweb", "--input=dicomweb+https://h/d", "--study_date=May"], "--study_date"),
        (["--source=dicomweb", "--input=dicomweb+https://h/d", "--modality=dx"], "--modality"),
        (["--input=dicomweb+https://h/d"], "by --source dicomweb"),
        (["--input=/data", "--modality=DX"], "--modality needs --source dicomweb"),
        (["--input=/data", "--lake=dicomweb+https://h/d"], "is only read"),
    ],
)
def test_wrong_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv(dicomweb_sessions.TOKEN, "x")
    assert main(["route", "--lake", str(tmp_path / "lake"), *arguments]) == 2
    assert message in capsys.readouterr().err
