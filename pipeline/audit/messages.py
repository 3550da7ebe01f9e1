"""Build DICOM audit messages, PS3.15 A.5: schema in A.5.1, messages in A.5.3.

A message is about one study and so one patient, except those about the application. The patient is named
by the keyed hash of Patient ID in the index, never by the identifier itself.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from xml.etree import ElementTree

SUCCESS, SERIOUS_FAILURE = "0", "8"
"""Event Outcome Indicator."""
CREATE, READ, UPDATE, DELETE, EXECUTE = "C", "R", "U", "D", "E"
"""Event Action Code."""
NOT_READ: Final = "not read"
"""Participant Object ID of a patient whose Patient ID was not read, for want of a key."""
UNKNOWN_SOP_CLASS: Final = "unknown"


class Code(NamedTuple):
    """A coded value."""

    value: str
    system: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


EXPORT: Final = _dcm("110106", "Export")
APPLICATION_ACTIVITY: Final = _dcm("110100", "Application Activity")
INSTANCES_ACCESSED: Final = _dcm("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = _dcm("110104", "DICOM Instances Transferred")
STUDY_DELETED: Final = _dcm("110105", "DICOM Study Deleted")
APPLICATION_START: Final = _dcm("110120", "Application Start")
APPLICATION_STOP: Final = _dcm("110121", "Application Stop")
APPLICATION: Final = _dcm("110150", "Application")
LAUNCHER: Final = _dcm("110151", "Application Launcher")
DESTINATION: Final = _dcm("110152", "Destination Role ID")
SOURCE: Final = _dcm("110153", "Source Role ID")
DESTINATION_MEDIA: Final = _dcm("110154", "Destination Media")
URI_MEDIA: Final = _dcm("110037", "URI")
STUDY: Final = _dcm("110180", "Study Instance UID")
PATIENT_NUMBER: Final = Code("2", "RFC-3881", "Patient Number")

ROUTED, DECIDED, REROUTED = "routed", "decided", "rerouted"
REVIEWED, FORGOTTEN, EXPORTED, DERIVED = "reviewed", "forgotten", "exported", "derived"
IDENTITY_READ = "identity_read"
EVENTS: Final = {
    ROUTED: "objects placed in the lake",
    DECIDED: "destinations decided",
    REROUTED: "destinations decided again",
    REVIEWED: "answered by a reviewer",
    FORGOTTEN: "erased from the lake",
    EXPORTED: "copied out of the lake",
    DERIVED: "read for derived objects, such as de-identified ones",
    IDENTITY_READ: "Patient IDs read for keyed hashes",
}
"""Event types of the private coding scheme."""
SCHEME: Final = "99DICOMROUTER"


@dataclass(frozen=True)
class Reporter:
    """What all messages of a process have in common.

    Attributes:
        source: Audit Source ID.
        user: operator's account on this host.
        host: name of this host.
        version: of the router.
    """

    source: str
    user: str
    host: str
    version: str

    @property
    def process(self) -> str:
        """User ID of this program."""
        return f"dicom-router {self.version}"


@dataclass(frozen=True)
class StudyEvent:
    """What has happened to objects of a study.

    Attributes:
        study: Study Instance UID.
        patient_key: keyed hash of Patient ID, or None.
        at: when.
        instances: number of objects by SOP Class UID.
        details: types and values.
        events: event types, keys of `EVENTS`.
        actor: account that has asked for it, if it was not the operator.
    """

    study: str
    patient_key: str | None
    at: datetime
    instances: Mapping[str, int]
    events: Sequence[str]
    details: Sequence[tuple[str, str]] = ()
    actor: str | None = None


@dataclass(frozen=True)
class _Participant:
    user: str
    roles: Sequence[Code] = ()
    is_requestor: bool = False
    host: str | None = None
    media: Code | None = None


@dataclass(frozen=True)
class _Event:
    code: Code
    action: str
    at: datetime
    types: Sequence[Code] = ()
    outcome: str = SUCCESS
    description: str | None = None


@dataclass(frozen=True)
class _Object:
    id_type: Code
    object_id: str
    name: str
    type_code: str
    role: str
    life_cycle: str | None = None
    details: Sequence[tuple[str, str]] = ()
    instances: Mapping[str, int] = field(default_factory=dict)


def application_started(reporter: Reporter, run_id: str, at: datetime) -> bytes:
    """Return the message that a run has started, A.5.3.1."""
    event = _Event(APPLICATION_ACTIVITY, EXECUTE, at, [APPLICATION_START], description=run_id)
    return _encode(reporter, event, _application(reporter), [])


def application_stopped(reporter: Reporter, run_id: str, at: datetime, *, complete: bool) -> bytes:
    """Return the message that a run has ended, A.5.3.1."""
    outcome = SUCCESS if complete else SERIOUS_FAILURE
    event = _Event(APPLICATION_ACTIVITY, EXECUTE, at, [APPLICATION_STOP], outcome, run_id)
    return _encode(reporter, event, _application(reporter), [])


def instances_transferred(reporter: Reporter, study: StudyEvent, source: str) -> bytes:
    """Return the message that objects of a study were placed in the lake, A.5.3.7.

    Args:
        reporter: of the message.
        study: the event.
        source: what the objects came from, without names of files.
    """
    event = _Event(INSTANCES_TRANSFERRED, CREATE, study.at, _types(study))
    participants = [
        _Participant(source, [SOURCE]),
        _Participant(reporter.process, [DESTINATION], host=reporter.host),
        _requestor(reporter, study),
    ]
    return _encode(reporter, event, participants, _objects(study))


def instances_accessed(reporter: Reporter, study: StudyEvent, action: str) -> bytes:
    """Return the message that decisions about objects of a study were changed or read, A.5.3.6.

    Args:
        reporter: of the message.
        study: the event.
        action: `READ`, `UPDATE` or `DELETE`.
    """
    event = _Event(INSTANCES_ACCESSED, action, study.at, _types(study))
    return _encode(reporter, event, _manipulating(reporter, study), _objects(study))


def study_deleted(reporter: Reporter, study: StudyEvent) -> bytes:
    """Return the message that all objects of a study are erased, A.5.3.8."""
    event = _Event(STUDY_DELETED, DELETE, study.at, _types(study))
    objects = _objects(study, life_cycle="15")
    return _encode(reporter, event, _manipulating(reporter, study), objects)


def data_exported(reporter: Reporter, study: StudyEvent, media: str) -> bytes:
    """Return the message that objects of a study leave the lake, A.5.3.4; example in PS3.17 WW.3.

    Args:
        reporter: of the message.
        study: the event.
        media: URI of the folder to which they are copied.
    """
    event = _Event(EXPORT, READ, study.at, _types(study))
    participants = [
        _requestor(reporter, study),
        _Participant(reporter.process, [SOURCE, APPLICATION], host=reporter.host),
        _Participant(media, [DESTINATION, DESTINATION_MEDIA], media=URI_MEDIA),
    ]
    return _encode(reporter, event, participants, _objects(study))


def _types(study: StudyEvent) -> list[Code]:
    return [Code(one, SCHEME, EVENTS[one]) for one in study.events]


def _application(reporter: Reporter) -> list[_Participant]:
    return [
        _Participant(reporter.process, [APPLICATION], host=reporter.host),
        _Participant(reporter.user, [LAUNCHER], is_requestor=True),
    ]


def _manipulating(reporter: Reporter, study: StudyEvent) -> list[_Participant]:
    return [
        _requestor(reporter, study),
        _Participant(reporter.process, host=reporter.host),
    ]


def _requestor(reporter: Reporter, study: StudyEvent) -> _Participant:
    return _Participant(study.actor or reporter.user, is_requestor=True)


def _objects(study: StudyEvent, life_cycle: str | None = None) -> list[_Object]:
    patient = study.patient_key or NOT_READ
    return [
        _Object(
            STUDY, study.study, study.study, "2", "3", life_cycle, study.details, study.instances
        ),
        _Object(PATIENT_NUMBER, patient, "keyed hash of Patient ID", "1", "1"),
    ]


def _encode(
    reporter: Reporter,
    event: _Event,
    participants: Iterable[_Participant],
    objects: Iterable[_Object],
) -> bytes:
    """Return a message as XML in UTF-8, in one line."""
    root = ElementTree.Element("AuditMessage")
    identification = ElementTree.SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=event.at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=event.outcome,
    )
    _add_code(identification, "EventID", event.code)
    for code in event.types:
        _add_code(identification, "EventTypeCode", code)
    if event.description:
        described = ElementTree.SubElement(identification, "EventOutcomeDescription")
        described.text = event.description
    for one in participants:
        _add_participant(root, one)
    source = {"AuditSourceID": reporter.source}
    ElementTree.SubElement(
        ElementTree.SubElement(root, "AuditSourceIdentification", source),
        "AuditSourceTypeCode",
        {"csd-code": "4"},  # application server process
    )
    for found in objects:
        _add_object(root, found)
    encoded: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return encoded.replace(b"\n", b"")


def _add_code(parent: ElementTree.Element, name: str, code: Code) -> None:
    values = {
        "csd-code": code.value,
        "codeSystemName": code.system,
        "displayName": code.meaning,
        "originalText": code.meaning,
    }
    ElementTree.SubElement(parent, name, values)


def _add_participant(root: ElementTree.Element, one: _Participant) -> None:
    values = {"UserID": one.user, "UserIsRequestor": str(one.is_requestor).lower()}
    if one.host is not None:
        values |= {"NetworkAccessPointID": one.host, "NetworkAccessPointTypeCode": "1"}
    element = ElementTree.SubElement(root, "ActiveParticipant", values)
    for role in one.roles:
        _add_code(element, "RoleIDCode", role)
    if one.media is not None:
        _add_code(ElementTree.SubElement(element, "MediaIdentifier"), "MediaType", one.media)


def _add_object(root: ElementTree.Element, one: _Object) -> None:
    values = {
        "ParticipantObjectID": one.object_id,
        "ParticipantObjectTypeCode": one.type_code,
        "ParticipantObjectTypeCodeRole": one.role,
    }
    if one.life_cycle is not None:
        values["ParticipantObjectDataLifeCycle"] = one.life_cycle
    element = ElementTree.SubElement(root, "ParticipantObjectIdentification", values)
    _add_code(element, "ParticipantObjectIDTypeCode", one.id_type)
    ElementTree.SubElement(element, "ParticipantObjectName").text = one.name
    for kind, value in one.details:
        encoded = base64.b64encode(value.encode()).decode()
        ElementTree.SubElement(element, "ParticipantObjectDetail", {"type": kind, "value": encoded})
    if one.instances:
        description = ElementTree.SubElement(element, "ParticipantObjectDescription")
        for uid, number in sorted(one.instances.items()):
            known = {} if uid == UNKNOWN_SOP_CLASS else {"UID": uid}
            ElementTree.SubElement(
                description, "SOPClass", {**known, "NumberOfInstances": str(number)}
            )
