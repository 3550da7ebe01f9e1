"""Receive C-STORE data sets into files instead of memory, within limits."""

from __future__ import annotations

import io
import weakref
from typing import TYPE_CHECKING, Any, Final

from pydicom.uid import UID
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from pipeline.receive.inbox import Inbox, IncomingObject, Stored
from pipeline.receive.refusals import CANNOT_UNDERSTAND, Refused, refusal_of
from pipeline.receive.store import identify, require_match, store
from transforms.imaging.uids import is_valid_uid

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.pdu_primitives import P_DATA

MAX_COMMAND_BYTES: Final = 64 << 10
MAX_PENDING_MESSAGES: Final = 4
"""Complete requests that may wait for an answer; asynchronous operations are not negotiated, so a sender
that conforms to the standard has one (PS3.7 annex D.3.3.3)."""
INVALID_PDU: Final = "Evt19"
"""Event of the upper layer protocol that aborts an association (PS3.8 table 9-10)."""
PREAMBLE: Final = bytes(128) + b"DICM"


class ReceivedDataSet(io.BytesIO):
    """The data set of a C-STORE request, written behind file meta information while it arrives.

    After an error the rest of the data set is discarded, and `store` raises the error.
    """

    def __init__(self, message: DIMSEMessage, association: Association, inbox: Inbox) -> None:
        super().__init__()
        self._message = weakref.ref(message)  # which refers to this data set
        self._association = weakref.ref(association)
        self._inbox = inbox
        self._incoming: IncomingObject | None = None
        self._refused: Refused | None = None
        self._uids = ("", "")

    def write(self, data: Any) -> int:
        """Append a fragment."""
        if self._refused is None:
            try:
                self._begin().write(data)
            except Refused as error:
                self._refuse(error)
            except (OSError, MemoryError) as error:
                self._refuse(refusal_of(error))
        return len(data)

    def store(self) -> Stored:
        """Check the complete object and store it.

        Raises:
            Refused: the object is not stored.
        """
        try:
            if self._refused is not None:
                raise self._refused
            if self._incoming is None:
                raise Refused(CANNOT_UNDERSTAND, "no data set")
            identity = identify(self._incoming)
            require_match(identity, *self._uids)
            return store(self._incoming, identity)
        finally:
            self.close()

    def close(self) -> None:
        """Discard the object unless it is stored."""
        if self._incoming is not None:
            self._incoming.close()
        super().close()

    def _refuse(self, error: Refused) -> None:
        self._refused = error
        if self._incoming is not None:
            self._incoming.close()

    def _begin(self) -> IncomingObject:
        """Return the file, with its file meta information; standard: PS3.10 section 7.1."""
        if self._incoming is None:
            message, association = self._message(), self._association()
            if not isinstance(message, C_STORE_RQ) or association is None:
                raise Refused(CANNOT_UNDERSTAND, "not a C-STORE request")
            command = message.command_set
            uids = (
                str(command.get("AffectedSOPClassUID", "")),
                str(command.get("AffectedSOPInstanceUID", "")),
            )
            if not all(map(is_valid_uid, uids)):
                raise Refused(CANNOT_UNDERSTAND, "invalid UID in the request")
            syntaxes = [
                one.transfer_syntax[0]
                for one in association.accepted_contexts
                if one.context_id == message.context_id
            ]
            if not syntaxes:
                raise Refused(CANNOT_UNDERSTAND, "unknown presentation context")
            meta = create_file_meta(
                sop_class_uid=UID(uids[0]),
                sop_instance_uid=UID(uids[1]),
                transfer_syntax=syntaxes[0],
            )
            self._uids = uids
            self._incoming = self._inbox.open()
            self._incoming.write(PREAMBLE + encode_file_meta(meta))
        return self._incoming


class _BoundedBytes(io.BytesIO):
    """Bytes of a command set, all of which beyond a limit are dropped, so that it cannot be decoded."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) <= MAX_COMMAND_BYTES:
            super().write(data)
        return len(data)


class FileProvider(DIMSEServiceProvider):
    """The DIMSE provider of an association, which keeps data sets in files.

    Attributes:
        is_answered: whether the response to the last request was queued.
    """

    def __init__(self, association: Association, inbox: Inbox) -> None:
        super().__init__(association)
        self._inbox = inbox
        self.is_answered = True

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self.message is not None or not self.is_answered

    def receive_primitive(self, primitive: P_DATA) -> None:
        """As the overridden method; abort the association of a sender that does not wait for answers."""
        self.is_answered = False
        if self.msg_queue.qsize() >= MAX_PENDING_MESSAGES:
            self.dul.event_queue.put(INVALID_PDU)
            return
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.encoded_command_set = _BoundedBytes()
            self.message.data_set = ReceivedDataSet(self.message, self.assoc, self._inbox)
        super().receive_primitive(primitive)

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """As the overridden method."""
        super().send_msg(primitive, context_id)
        self.is_answered = self.message is None

    def discard_partial(self) -> None:
        """Discard the request that is being received."""
        message, self.message = self.message, None
        if message is not None and message.data_set is not None:
            message.data_set.close()
