"""The receiver shows Prometheus what it has stored, refused and rejected."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest

from tests.observability.conftest import values_of
from tests.processes import is_loopback, listening
from tests.receive.receivers import an_object, association, receiver, send_bytes


@pytest.mark.slow
def test_what_the_receiver_stores_refuses_and_rejects_is_counted(tmp_path: Path) -> None:
    sent = an_object(PatientName="DOE^JANE")
    with receiver(tmp_path / "in", "--metrics_port=0") as running:
        (port,) = re.findall(r"metrics on 127\.0\.0\.1:(\d+)", running.stderr)
        found = listening(running.process.pid)
        assert int(port) in {number for _, number in found}
        assert all(is_loopback(address) for address, _ in found)
        with association(running.port, [sent]) as sender:
            assert sender.send_c_store(sent).Status == 0
            junk = send_bytes(
                sender, b"junk", sop_class=sent.SOPClassUID, sop_instance=sent.SOPInstanceUID
            )
            assert junk.Status == 0xC000
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                text = answer.read().decode()
        with association(running.port, [], called="ELSEWHERE") as rejected:
            assert rejected.is_rejected
        running.wait_until(lambda: "rejected an association" in running.stderr)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            later = values_of(answer.read().decode())
    values, prefix = values_of(text), "dicom_router_receiver_"
    assert values[f"{prefix}stored_objects_total"] == {(): 1}
    (stored,) = (tmp_path / "in").iterdir()
    assert values[f"{prefix}stored_bytes_total"] == {(): stored.stat().st_size}
    refused = values[f"{prefix}refused_objects_total"]
    assert refused.pop((("refusal", "cannot_understand"),)) == 1
    assert refused and set(refused.values()) == {0}
    assert values[f"{prefix}associations"] == {(): 1}
    assert values["dicom_router_storage_free_bytes"].keys() == {(("folder", "inbox"),)}
    assert "DOE" not in text
    assert later[f"{prefix}rejected_total"][(("rejection", "association"),)] == 1
