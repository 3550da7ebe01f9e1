"""Audit messages follow the schema of the standard."""

from __future__ import annotations

from typing import Any

import pytest
from lxml import etree

from pipeline.audit.messages import NOT_READ
from tests.audit.audit_messages import ALL_MESSAGES, SCHEMA, summary_of


@pytest.mark.parametrize("name", ALL_MESSAGES)
def test_a_message_follows_the_schema(name: str) -> None:
    message = ALL_MESSAGES[name]
    assert b"\n" not in message
    assert len(summary_of(message)["requestor"]) == 1
    root = etree.fromstring(message)
    root.find("EventIdentification").set("EventOutcomeIndicator", "1")
    assert not SCHEMA.validate(root)


def test_a_message_says_what_happened() -> None:
    assert summary_of(ALL_MESSAGES["transferred"]) == {
        "event": "DICOM Instances Transferred",
        "action": "C",
        "outcome": "0",
        "types": ["routed", "decided"],
        "study": "1.2.3",
        "patient": "ab" * 32,
        "instances": 3,
        "requestor": ["ann"],
        "details": {"run_id": "r<&>"},
    }
    assert summary_of(ALL_MESSAGES["accessed"])["requestor"] == ["bob"]
    assert summary_of(ALL_MESSAGES["deleted"])["patient"] == NOT_READ
    assert summary_of(ALL_MESSAGES["stop"])["outcome"] == "8"


def test_an_export_names_where_it_goes() -> None:
    """As the example in PS3.17 WW.3 does."""
    root = etree.fromstring(ALL_MESSAGES["exported"])
    person, process, media = root.findall("ActiveParticipant")
    assert person.get("UserIsRequestor") == "true"
    assert roles_of(process) == ["110153", "110150"]
    assert roles_of(media) == ["110152", "110154"]
    assert media.get("UserID") == "file:///out"
    assert media.find("MediaIdentifier/MediaType").get("csd-code") == "110037"


def roles_of(participant: Any) -> list[str]:
    return [role.get("csd-code") for role in participant.findall("RoleIDCode")]
