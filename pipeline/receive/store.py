"""Check a complete object and store it: what C-STORE and STOW-RS have in common."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pipeline.receive.inbox import IncomingObject, Stored
from pipeline.receive.refusals import CANNOT_UNDERSTAND, SOP_CLASS_MISMATCH, Refused, refusal_of
from transforms.core.reasons import InvalidObject
from transforms.imaging.identity import Identity, read_identity
from transforms.imaging.limits import Limits

LOG: Final = logging.getLogger("dicom_router.receive")
LIMITS: Final = Limits()


class Rejection(StrEnum):
    """What is rejected before an object is sent."""

    ADDRESS = "address"
    CONNECTIONS = "connections"
    HANDSHAKE = "handshake"
    ASSOCIATION = "association"
    REQUEST = "request"


@dataclass
class Counts:
    """Numbers of objects since the start of the receiver.

    Attributes:
        stored: objects answered with success.
        refused: objects answered with a failure.
        bytes: size of the stored objects.
        refusals: objects answered with a failure, by status.
        rejections: what was rejected before an object was sent, by one of `Rejection`.
    """

    stored: int = 0
    refused: int = 0
    bytes: int = 0
    refusals: Counter[int] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, outcome: Stored | Refused) -> None:
        """Count and log the outcome of one object."""
        with self._lock:
            if isinstance(outcome, Stored):
                self.stored += 1
                self.bytes += outcome.size
                LOG.info("stored %s, %d bytes", outcome.key, outcome.size)
            else:
                self.refused += 1
                self.refusals[outcome.status] += 1
                LOG.warning("refused with 0x%04X: %s", outcome.status, outcome.comment)

    def reject(self, what: Rejection) -> None:
        """Count what was rejected."""
        with self._lock:
            self.rejections[what] += 1


def identify(incoming: IncomingObject) -> Identity:
    """Return the UIDs of a received object, of which SOP Class and SOP Instance UID are valid.

    Raises:
        Refused: the object cannot be parsed, or has no valid UIDs.
    """
    try:
        identity = read_identity(incoming.view(), LIMITS)
    except InvalidObject as error:
        raise Refused(
            CANNOT_UNDERSTAND, f"the data set cannot be parsed ({error.reason})"
        ) from error
    except (OSError, MemoryError) as error:
        raise refusal_of(error) from error
    if identity.sop_class_uid is None:
        raise Refused(CANNOT_UNDERSTAND, "no valid SOP Class UID")
    if identity.sop_instance_uid is None:
        raise Refused(CANNOT_UNDERSTAND, "no valid SOP Instance UID")
    return identity


def require_match(identity: Identity, sop_class_uid: str, sop_instance_uid: str) -> None:
    """Raise `Refused` unless the data set has the UIDs of its request."""
    if identity.sop_class_uid != sop_class_uid:
        raise Refused(SOP_CLASS_MISMATCH, "SOP Class UID differs from that of the request")
    if identity.sop_instance_uid != sop_instance_uid:
        raise Refused(SOP_CLASS_MISMATCH, "SOP Instance UID differs from that of the request")


def store(incoming: IncomingObject, identity: Identity) -> Stored:
    """Store an object that was identified.

    Raises:
        Refused: it cannot be written.
    """
    assert identity.sop_instance_uid is not None
    try:
        return incoming.store(identity.sop_instance_uid)
    except (OSError, MemoryError) as error:
        raise refusal_of(error) from error
