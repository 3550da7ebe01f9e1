"""Runs the receiver as an operator does, and senders against it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from pipeline.receive.dimse import configure_pynetdicom
from tests.synthetic import dataset, dicom_bytes, image

STORESCU = shutil.which("storescu")
needs_dcmtk = pytest.mark.skipif(STORESCU is None, reason="no storescu: apt-get install dcmtk")
NO_DELAY = {"TCP_NODELAY": "1"}
"""Without it DCMTK uses Nagle's algorithm, and each object takes 40 ms longer."""
ANNOUNCED = re.compile(r"C-STORE on \S+:(\d+)")
STOW_ANNOUNCED = re.compile(r"STOW-RS on \S+:(\d+)")


class Receiver:
    """A `dicom-router receive` process."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        program: Sequence[str] = (),
        log: Path | None = None,
        **env: str,
    ) -> None:
        """Start it.

        Args:
            folder: folder of received objects.
            *options: more options.
            program: start of the command, in place of that of the router.
            log: file of its output on stderr.
            **env: variables of its environment.
        """
        self.folder = folder
        self.log = log or folder.with_name(f"{folder.name}.receive.log")
        ports = [] if any(one.startswith("--port") for one in options) else ["--port=0"]
        program = program or (sys.executable, "-m", "pipeline")
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *program,
                    "receive",
                    "--folder",
                    str(folder),
                    "--log_level=INFO",
                    *ports,
                    *options,
                ],
                stderr=errors,
                env={**os.environ, **env},
                start_new_session=True,
            )
        self.wait_until(lambda: "receiving into" in self.stderr)

    @property
    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def port(self) -> int:
        return int(ANNOUNCED.findall(self.stderr)[-1])

    @property
    def stow_port(self) -> int:
        return int(STOW_ANNOUNCED.findall(self.stderr)[-1])

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def wait_until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            assert self.process.poll() is None, f"the receiver ended: {self.stderr[-3000:]}"
            time.sleep(0.05)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def receiver(folder: Path, *options: str, **more: Any) -> Iterator[Receiver]:
    """Run a receiver, which is killed at the end of the block if it still runs."""
    running = Receiver(folder, *options, **more)
    try:
        yield running
    except BaseException:
        print(running.stderr[-3000:])
        raise
    finally:
        running.kill()


def has_unnamed_file(running: Receiver) -> bool:
    """Return whether an object is being received into a file without a name."""
    return any(target.startswith(f"{running.folder}/#") for target in open_files(running))


def open_files(running: Receiver) -> set[str]:
    """Return what the receiver's descriptors are open on."""
    found = set()
    for entry in Path(f"/proc/{running.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return found


def can_connect(port: int) -> bool:
    """Return whether a port accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def storescu(port: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Send files and folders (+sd) with DCMTK."""
    command = [str(STORESCU), "-aec", "ROUTER", "127.0.0.1", str(port), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **NO_DELAY}
    )


@contextlib.contextmanager
def association(
    port: int,
    data_sets: Sequence[pydicom.Dataset],
    *,
    calling: str = "TEST",
    called: str = "ROUTER",
    **more: Any,
) -> Iterator[Association]:
    """Associate as a sender of some data sets."""
    configure_pynetdicom(any_class=False)
    ae = AE(ae_title=calling)
    pairs = {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in data_sets}
    for sop_class, syntax in pairs:
        ae.add_requested_context(sop_class, syntax)
    if not pairs:
        ae.add_requested_context("1.2.840.10008.1.1")
    found = ae.associate("127.0.0.1", port, ae_title=called, **more)
    try:
        yield found
    finally:
        if found.is_established:
            found.release()
        elif found.is_alive():
            found.abort()
        if found.dul.socket is not None and found.dul.socket.socket is not None:
            found.dul.socket.socket.close()  # of a failed TLS handshake


def send_bytes(
    sender: Association, data: bytes, *, sop_class: str, sop_instance: str
) -> pydicom.Dataset:
    """Send an encoded data set, whatever it contains, and return the answer."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_instance
    request.DataSet = BytesIO(data)
    (context,) = sender.accepted_contexts
    assert context.context_id is not None
    sender._reactor_checkpoint.clear()
    while not sender._is_paused:
        time.sleep(0.01)
    sender.dimse.send_msg(request, context.context_id)
    _, answer = sender.dimse.get_msg(block=True)
    sender._reactor_checkpoint.set()
    assert isinstance(answer, C_STORE), "aborted"
    found = pydicom.Dataset()
    found.Status = answer.Status
    found.ErrorComment = answer.ErrorComment
    return found


def data_set_bytes(data: bytes) -> bytes:
    """Return the encoded data set of a PS3.10 file, without its file meta information."""
    assert data[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    return data[144 + int.from_bytes(data[140:144], "little") :]


def an_object(name: str = "1", **elements: Any) -> pydicom.FileDataset:
    """Return a small radiograph."""
    return dataset(image(1, (64, 48)), name=name, **elements)


def write_objects(folder: Path, number: int) -> list[Path]:
    """Write small radiographs, and return their paths."""
    folder.mkdir()
    paths = [folder / f"{n:03}.dcm" for n in range(number)]
    for n, path in enumerate(paths):
        path.write_bytes(dicom_bytes(image(n, (64, 48)), name=str(n)))
    return paths
