"""Runs a real Orthanc with its DICOMweb plug-in, from Debian's packages."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.engines.servers import free_port

ORTHANC = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
needs_orthanc = pytest.mark.skipif(
    ORTHANC is None or not PLUGIN.exists(),
    reason="no Orthanc: apt-get install orthanc orthanc-dicomweb",
)
CREDENTIALS = ("router", "secret")


@dataclass(frozen=True)
class Orthanc:
    """A running server.

    Attributes:
        url: of its REST interface.
        dicom_port: of its C-STORE SCP.
    """

    url: str
    dicom_port: int

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def post(self, path: str, data: Any) -> requests.Response:
        """Send bytes or a JSON document."""
        body = data if isinstance(data, bytes) else json.dumps(data)
        response = requests.post(f"{self.url}/{path}", data=body, auth=CREDENTIALS, timeout=120)
        response.raise_for_status()
        return response

    def get(self, path: str) -> Any:
        response = requests.get(f"{self.url}/{path}", auth=CREDENTIALS, timeout=120)
        response.raise_for_status()
        return response.json()

    def store(self, data: bytes) -> str:
        """Store an object, and return its identifier."""
        return str(self.post("instances", data).json()["ID"])


@contextlib.contextmanager
def orthanc(folder: Path, **settings: Any) -> Iterator[Orthanc]:
    """Run a server with its database in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    http, dicom = free_port(), free_port()
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "StorageDirectory": "db",
                "IndexDirectory": "db",
                "HttpPort": http,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": dict([CREDENTIALS]),
                "DicomAet": "ORTHANC",
                "DicomPort": dicom,
                "DicomAlwaysAllowStore": True,
                "StorageCompression": False,
                "Plugins": [str(PLUGIN)],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                **settings,
            }
        )
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(ORTHANC), str(folder / "orthanc.json")],
            stdout=log,
            stderr=log,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
    try:
        server = Orthanc(f"http://127.0.0.1:{http}", dicom)
        while True:
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            with contextlib.suppress(requests.RequestException):
                server.get("system")
                break
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()
