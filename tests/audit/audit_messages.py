"""What audit messages say, for tests."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lxml import etree

from pipeline.audit.messages import (
    UPDATE,
    Reporter,
    StudyEvent,
    application_started,
    application_stopped,
    data_exported,
    instances_accessed,
    instances_transferred,
    study_deleted,
)

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).parent / "audit_message.rng"))


def parsed(message: bytes) -> Any:
    """A message that is valid by the schema."""
    root = etree.fromstring(message)
    assert SCHEMA.validate(root), SCHEMA.error_log
    return root


def summary_of(message: bytes) -> dict[str, Any]:
    """What a message says."""
    root = parsed(message)
    event = root.find("EventIdentification")
    ids = {
        one.find("ParticipantObjectIDTypeCode").get("csd-code"): one.get("ParticipantObjectID")
        for one in root.findall("ParticipantObjectIdentification")
    }
    details = {
        one.get("type"): base64.b64decode(one.get("value")).decode()
        for one in root.iter("ParticipantObjectDetail")
    }
    return {
        "event": event.find("EventID").get("originalText"),
        "action": event.get("EventActionCode"),
        "outcome": event.get("EventOutcomeIndicator"),
        "types": [one.get("csd-code") for one in event.findall("EventTypeCode")],
        "study": ids.get("110180"),
        "patient": ids.get("2"),
        "instances": sum(int(one.get("NumberOfInstances")) for one in root.iter("SOPClass")),
        "requestor": [
            one.get("UserID")
            for one in root.findall("ActiveParticipant")
            if one.get("UserIsRequestor") == "true"
        ],
        "details": details,
    }


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.exists() else []


REPORTER = Reporter("source 1", "ann", "host.example", "0.0.1")
NOW = datetime(2026, 1, 31, 10, 15, tzinfo=UTC)
DX = "1.2.840.10008.5.1.4.1.1.1.1"
EVENT = StudyEvent(
    "1.2.3", "ab" * 32, NOW, {DX: 2, "unknown": 1}, ("routed", "decided"), [("run_id", "r<&>")]
)
ALL_MESSAGES = {
    "start": application_started(REPORTER, "run", NOW),
    "stop": application_stopped(REPORTER, "run", NOW, complete=False),
    "transferred": instances_transferred(REPORTER, EVENT, "sources"),
    "accessed": instances_accessed(REPORTER, replace(EVENT, actor="bob"), UPDATE),
    "exported": data_exported(REPORTER, replace(EVENT, events=("exported",)), "file:///out"),
    "deleted": study_deleted(REPORTER, replace(EVENT, patient_key=None)),
}
