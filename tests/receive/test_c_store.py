"""C-STORE: an object is stored as it arrives, or its sender keeps it."""

from __future__ import annotations

import signal
import socket
import stat
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from pynetdicom.dimse_primitives import C_STORE

from pipeline.cli import main
from pipeline.receive import options as receive_options
from tests.processes import listening
from tests.receive import kill_at_step
from tests.receive.receivers import (
    an_object,
    association,
    can_connect,
    data_set_bytes,
    has_unnamed_file,
    needs_dcmtk,
    receiver,
    send_bytes,
    storescu,
    write_objects,
)
from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.storage.temporary import is_temporary

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEG2000Lossless,
)


def uids_of(ds: pydicom.Dataset) -> dict[str, str]:
    return {"sop_class": ds.SOPClassUID, "sop_instance": ds.SOPInstanceUID}


def status_of(answer: pydicom.Dataset) -> int:
    return int(answer.Status)


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_data_set_is_stored_as_sent(tmp_path: Path, syntax: str) -> None:
    ds = an_object(syntax=syntax)
    sent = data_set_bytes(to_bytes(ds)) + b"\xfc\xff\xfc\xff\x00\x00"  # padding without a meaning
    with receiver(tmp_path / "in") as running:
        with association(running.port, [ds]) as sender:
            assert status_of(send_bytes(sender, sent, **uids_of(ds))) == 0
        (path,) = running.files
        assert running.stop() == 0
    assert path.name.startswith(f"{ds.SOPInstanceUID}~")
    assert data_set_bytes(path.read_bytes()) == sent
    meta = pydicom.filereader.read_file_meta_info(path)
    assert meta.TransferSyntaxUID == syntax
    assert meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_a_deflated_object(tmp_path: Path) -> None:
    ds = an_object()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    sent = data_set_bytes(to_bytes(ds))
    with receiver(tmp_path / "in") as running:
        with association(running.port, [ds]) as sender:
            assert status_of(send_bytes(sender, sent, **uids_of(ds))) == 0
        (path,) = running.files
    assert data_set_bytes(path.read_bytes()) == sent


@needs_dcmtk
@pytest.mark.slow
def test_500_objects_in_one_association(tmp_path: Path) -> None:
    objects = 500
    sent = write_objects(tmp_path / "out", objects)
    with receiver(tmp_path / "in") as running:
        assert storescu(running.port, "+sd", tmp_path / "out").returncode == 0
        first = {path.name: path.stat().st_mtime_ns for path in running.files}
        assert storescu(running.port, "+sd", tmp_path / "out").returncode == 0
        again = {path.name: path.stat().st_mtime_ns for path in running.files}
        assert running.stop() == 0
        assert running.stderr.endswith("receiver stopped; objects stored: 1000, refused: 0\n")
    assert again == first, "what is stored is not written again"
    stored = {pydicom.dcmread(running.folder / name).SOPInstanceUID for name in first}
    assert stored == {pydicom.dcmread(path).SOPInstanceUID for path in sent}
    assert len(first) == objects


@pytest.mark.slow
@needs_dcmtk
def test_jpeg_2000_by_storescu_and_echo(tmp_path: Path) -> None:
    out = tmp_path / "out.dcm"
    out.write_bytes(dicom_bytes(image(1, (64, 48)), syntax=JPEG2000Lossless))
    with receiver(tmp_path / "in") as running:
        assert storescu(running.port, "-R", "-xv", out).returncode == 0
        with association(running.port, []) as sender:
            assert sender.send_c_echo().Status == 0
        (path,) = running.files
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert pydicom.dcmread(path).PixelData == pydicom.dcmread(out).PixelData


@pytest.mark.slow
def test_other_content_under_a_known_uid_is_a_second_file(tmp_path: Path) -> None:
    objects = [an_object(StudyDescription=text) for text in ("first", "second", "first")]
    with receiver(tmp_path / "in") as running:
        with association(running.port, objects[:1]) as sender:
            for ds in objects:
                assert sender.send_c_store(ds).Status == 0
        assert len(running.files) == 2
        assert len({path.name.partition("~")[0] for path in running.files}) == 1


@pytest.mark.slow
def test_objects_that_cannot_be_understood_are_refused(tmp_path: Path) -> None:
    ds, other = an_object(), an_object("2")
    good = data_set_bytes(to_bytes(ds))
    without = an_object(SOPInstanceUID=None)
    sequence = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    deep = b"\x08\x00\x05\x00CS\x00\x00" + 5000 * (sequence + item)
    cases = [
        (b"no data set", 0xC000),
        (deep, 0xC000),
        (good[:20], 0xC000),
        (data_set_bytes(to_bytes(without)), 0xC000),
        (good.replace(ds.SOPInstanceUID[:16].encode(), b"../../etc/passwd"), 0xC000),
        (data_set_bytes(to_bytes(other)), 0xA900),
        (good, 0x0000),
    ]
    with receiver(tmp_path / "in") as running:
        with association(running.port, [ds]) as sender:
            for data, status in cases:
                answer = send_bytes(sender, data, **uids_of(ds))
                assert status_of(answer) == status, answer.ErrorComment
        assert len(running.files) == 1
        with association(running.port, [ds]) as sender:
            answer = send_bytes(sender, good, sop_class="1.2.840.10008.5.1.4.1.1.2",
                                sop_instance=ds.SOPInstanceUID)  # fmt: skip
            assert status_of(answer) == 0xA900
        assert running.stop() == 0
        assert "SECRET" not in running.stderr
        assert ds.SOPInstanceUID not in running.stderr


@pytest.mark.slow
def test_an_object_that_is_too_large_is_refused_and_the_next_is_not(tmp_path: Path) -> None:
    small, large = an_object(), dataset(image(1, (640, 512)), name="2")
    with receiver(tmp_path / "in", "--max_object_bytes=20000") as running:
        with association(running.port, [small]) as sender:
            assert sender.send_c_store(large).Status == 0xA700
            assert sender.send_c_store(small).Status == 0
        assert len(running.files) == 1


@pytest.mark.slow
def test_a_full_disk_refuses_and_recovers(full_disk: Path, tmp_path: Path) -> None:
    ds = an_object()
    (full_disk / "in").mkdir()
    with receiver(full_disk / "in", log=tmp_path / "log") as running:
        with association(running.port, [ds]) as sender:
            assert sender.send_c_store(ds).Status == 0xA700
            assert running.files == []
            (full_disk / "filler").unlink()
            assert sender.send_c_store(ds).Status == 0
        assert len(running.files) == 1


@pytest.mark.slow
def test_who_may_send(tmp_path: Path) -> None:
    options = ["--calling_ae_titles", "MODALITY1", "MODALITY2", "--max_associations=1"]
    with receiver(tmp_path / "in", *options) as running:
        for calling, called, reason in [("X", "ROUTER", 3), ("MODALITY1", "OTHER", 7)]:
            with association(running.port, [], calling=calling, called=called) as sender:
                assert sender.is_rejected
                assert sender.acceptor.primitive.diagnostic == reason
        with association(running.port, [], calling="MODALITY2") as first:
            assert first.is_established
            with association(running.port, [], calling="MODALITY1") as second:
                assert second.is_rejected
                assert second.acceptor.primitive.result == 2, "transient: try again"
    with (
        receiver(tmp_path / "in", "--hosts", "10.0.0.0/8", "--any_called_ae_title") as running,
        association(running.port, [], called="OTHER") as sender,
    ):
        assert not sender.is_established
    with (
        receiver(tmp_path / "in", "--hosts", "127.0.0.0/8", "--any_called_ae_title") as running,
        association(running.port, [], called="OTHER") as sender,
    ):
        assert sender.is_established


@pytest.mark.slow
def test_storage_classes(tmp_path: Path) -> None:
    ds, private = an_object(), an_object(SOPClassUID="1.2.826.0.1.3680043.10.1473.9")
    for options, accepted in [
        ([], [ds]),
        (["--storage_classes", str(private.SOPClassUID)], [private]),
        (["--storage_classes", "any"], [ds, private]),
    ]:
        with receiver(tmp_path / "in", *options) as running:
            for one in (ds, private):
                with association(running.port, [one]) as sender:
                    assert sender.is_established == (one in accepted)
                    if sender.is_established:
                        assert sender.send_c_store(one).Status == 0


@pytest.mark.slow
@pytest.mark.parametrize("step", kill_at_step.STEPS)
def test_a_kill_at_each_step(tmp_path: Path, step: str) -> None:
    ds = an_object()
    program = (sys.executable, kill_at_step.__file__, step)
    with receiver(tmp_path / "in", program=program) as running:
        with association(running.port, [ds]) as sender:
            assert "Status" not in sender.send_c_store(ds), "no answer"
        assert running.process.wait() == -signal.SIGKILL
        left = [path for path in running.files if path.suffix == ".dcm"]
        assert len(left) == (step in ("before_folder_sync", "before_answer"))
        assert all(is_temporary(path.name) for path in running.files if path not in left)
    with receiver(tmp_path / "in") as running:
        with association(running.port, [ds]) as sender:
            assert sender.send_c_store(ds).Status == 0
        (path,) = running.files
    assert data_set_bytes(path.read_bytes()) == data_set_bytes(to_bytes(ds))
    assert not left or left == [path]


def test_a_receiver_without_unnamed_files(tmp_path: Path) -> None:
    """As on network file systems: a temporary name, which no source lists, and no leftovers."""
    script = tmp_path / "without.py"
    script.write_text(
        "import sys\nfrom transforms.core import shared_bytes\n"
        "shared_bytes._unnamed_file = lambda folder: None\n"
        "from pipeline.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    ds = an_object()
    with (
        receiver(tmp_path / "in", program=(sys.executable, str(script))) as running,
        association(running.port, [ds]) as sender,
    ):
        assert sender.send_c_store(ds).Status == 0
        (path,) = running.files
    assert data_set_bytes(path.read_bytes()) == data_set_bytes(to_bytes(ds))


@pytest.mark.slow
def test_sigterm_answers_the_object_in_transfer(tmp_path: Path) -> None:
    ds = dataset(image())
    data = data_set_bytes(to_bytes(ds))
    with (
        receiver(tmp_path / "in") as running,
        association(running.port, []) as idle,
        association(running.port, [ds]) as sender,
    ):
        original = sender.dul.send_pdu
        sent = 0

        def stop_in_transfer(primitive: Any) -> None:
            nonlocal sent
            sent += 1
            if sent == 4:  # after the command and some fragments
                running.wait_until(lambda: has_unnamed_file(running))
                running.process.send_signal(signal.SIGTERM)
                running.wait_until(lambda: not can_connect(running.port))
            original(primitive)

        sender.dul.send_pdu = stop_in_transfer  # type: ignore[method-assign]
        assert status_of(send_bytes(sender, data, **uids_of(ds))) == 0
        assert running.process.wait() == 0
        assert len(running.files) == 1
        assert running.stderr.endswith("receiver stopped; objects stored: 1, refused: 0\n")
        assert not idle.is_established


class Disconnected(Exception):
    """A sender has gone."""


def test_a_sender_that_disconnects_in_transfer_leaves_nothing(tmp_path: Path) -> None:
    ds = dataset(image())
    data = data_set_bytes(to_bytes(ds))
    with receiver(tmp_path / "in") as running:
        with association(running.port, [ds]) as sender:
            original, sent = sender.dul.send_pdu, []

            def cut(primitive: Any) -> None:
                sent.append(primitive)
                if len(sent) == 4:
                    running.wait_until(lambda: has_unnamed_file(running))
                    sender.abort()
                    raise Disconnected
                original(primitive)

            sender.dul.send_pdu = cut  # type: ignore[method-assign]
            with pytest.raises(Disconnected):
                send_bytes(sender, data, **uids_of(ds))
            sender.dul.send_pdu = original  # type: ignore[method-assign]
        running.wait_until(lambda: not has_unnamed_file(running))
        assert running.files == []


@pytest.mark.slow
def test_a_sender_that_does_not_wait_for_answers(tmp_path: Path) -> None:
    """Its requests wait in files; beyond a few the association is aborted."""
    ds = an_object()
    data = data_set_bytes(to_bytes(ds))
    with receiver(tmp_path / "in") as running:
        with association(running.port, [ds]) as sender:
            (context,) = sender.accepted_contexts
            assert context.context_id is not None
            for number in range(1, 201):
                request = C_STORE()
                request.MessageID, request.Priority = number, 2
                request.AffectedSOPClassUID = ds.SOPClassUID
                request.AffectedSOPInstanceUID = ds.SOPInstanceUID
                request.DataSet = BytesIO(data)
                sender.dimse.send_msg(request, context.context_id)
            running.wait_until(lambda: not has_unnamed_file(running))
        with association(running.port, [ds]) as sender:
            assert sender.send_c_store(ds).Status == 0
        assert len(running.files) == 1
        assert running.stop() == 0


@pytest.mark.slow
def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6")
    options = ["--address=::1", "--hosts", "::1", "--stow_port=0"]
    with receiver(tmp_path / "in", *options) as running:
        for port in (running.port, running.stow_port):
            socket.create_connection(("::1", port)).close()
        assert running.stop() == 0


def test_only_loopback_listens_by_default(tmp_path: Path) -> None:
    with receiver(tmp_path / "in", "--stow_port=0") as running:
        assert {address for address, _ in listening(running.process.pid)} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "somewhere"], "write an IP address"),
        (["--hosts", "10.0.0.0/99"], "--hosts 10.0.0.0/99"),
        (["--ae_title", "x" * 17], "--ae_title: write 1 to 16"),
        (["--tls_key", "/none"], "--tls_key needs --tls_certificate"),
        (["--tls_certificate", "/none"], "cannot be used (No such file or directory)"),
        (["--address", "0.0.0.0", "--stow_port", "0"], "set DICOM_ROUTER_STOW_TOKEN"),
        (["--port", "70000"], "--port must be in 0..65535"),
        (["--storage_classes", "x"], "write a UID"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["receive", "--folder", str(tmp_path / "in"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "in").exists()


def test_a_folder_in_a_lake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lake.json").write_text("{}")
    assert main(["receive", "--folder", str(tmp_path / "in")]) == 2
    assert "--folder is in a lake" in capsys.readouterr().err


def test_missing_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive_options, "EXTRA_MODULES", ("pynetdicom_of_another_name",))
    assert main(["receive", "--folder", str(tmp_path / "in")]) == 2
    assert "'pynetdicom<4,>=3.0.4'" in capsys.readouterr().err


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["receive", "--folder", str(tmp_path / "in"), "--port", port]) == 1
    assert "Address already in use" in capsys.readouterr().err
