"""Receive objects by C-STORE, and answer C-ECHO.

Standard: PS3.4 annex B (Storage Service Class) and annex A (Verification); PS3.8 (associations).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Verification,
    register_uid,
    uid_to_service_class,
)
from pynetdicom.transport import AssociationSocket

from pipeline.receive.dataset_stream import FileProvider, ReceivedDataSet
from pipeline.receive.inbox import Inbox
from pipeline.receive.options import ANY_CLASS, ReceiveOptions
from pipeline.receive.refusals import PROCESSING_FAILURE, Refused
from pipeline.receive.server import MORE_CONNECTIONS, LimitedServer, without_delay
from pipeline.receive.store import Counts, Rejection

LOG: Final = logging.getLogger("dicom_router.receive")
SUCCESS: Final = 0x0000
MAX_PDU_BYTES: Final = 128 << 10
MAX_REQUEST_BYTES: Final = 1 << 20
"""Maximum length of a PDU; that of an A-ASSOCIATE-RQ is not negotiated."""
DRAIN_POLL_S: Final = 0.05
CLOSE_TIMEOUT_S: Final = 2.0
"""Maximum time that senders have to close their connections when the receiver ends."""


class BoundedSocket(AssociationSocket):
    """A socket that ends a connection whose PDU claims an absurd length, before it is in memory."""

    def recv(self, nr_bytes: int) -> bytearray:
        """As the overridden method.

        Raises:
            OSError: the PDU is too long.
        """
        if nr_bytes > MAX_REQUEST_BYTES:
            raise OSError("a PDU is longer than the maximum")
        return super().recv(nr_bytes)


class SharedContexts(list[Any]):
    """The presentation contexts of a server, which its associations read and do not copy.

    pynetdicom copies them for each connection, which takes longer than an association.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedContexts:
        return self


class GuardedStateMachine(StateMachine):
    """The upper layer protocol, in which an unexpected event ends the association without a traceback."""

    def do_action(self, event: str) -> None:
        """As the overridden method."""
        try:
            super().do_action(event)
        except Exception as error:  # of any kind, for what a sender may do
            LOG.warning("an association ended (%s)", type(error).__name__)
            end_association(self.dul.assoc)


def end_association(association: Association) -> None:
    """End an association whose protocol has failed, and everything that waits for it."""
    association.is_aborted, association.is_established = True, False
    association._kill = association.dul._kill_thread = True
    association._reactor_checkpoint.set()
    association.dul.to_user_queue.put(A_P_ABORT())
    if association.dul.socket is not None:
        association.dul.socket.close()


class StoreScp:
    """A Storage and Verification SCP, which serves in threads until it is drained."""

    def __init__(self, options: ReceiveOptions, inbox: Inbox, counts: Counts) -> None:
        """Listen on the port.

        Raises:
            OSError: the address or port cannot be used.
        """
        configure_pynetdicom(any_class=ANY_CLASS in options.storage_classes)
        self._inbox, self._counts = inbox, counts
        self._idle_timeout = options.idle_timeout
        uids = frozenset(_storage_classes(options))
        self._sop_classes = None if ANY_CLASS in options.storage_classes else uids
        ae = _application_entity(options, sorted(uids))
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_CONN_CLOSE, self._on_close),
            (evt.EVT_ACCEPTED, _log_accepted),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_C_STORE, self._on_store),
        ]
        server: Any = ae.make_server(
            (options.address, options.port), evt_handlers=handlers, server_class=LimitedServer
        )
        self._server: LimitedServer = server
        self._server.networks = options.networks
        self._server.counts = counts
        self._server.max_connections = options.max_associations + MORE_CONNECTIONS
        self._server.handshake_timeout = options.association_timeout
        self._server.tls = options.tls()
        self._server.contexts = SharedContexts(self._server.contexts)
        ae._servers.append(self._server)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )

    @property
    def sop_classes(self) -> frozenset[str] | None:
        """The accepted Storage SOP Classes; None if all are."""
        return self._sop_classes

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether it serves."""
        return self._thread.is_alive()

    @property
    def associations(self) -> int:
        """Number of open associations."""
        return len(self._server.active_associations)

    def drain(self, timeout: float) -> int:
        """Refuse connections, answer what is in transfer, and end all associations.

        An association ends after its answer to the object in transfer; its sender keeps the others.

        Args:
            timeout: maximum time for objects in transfer, in seconds.

        Returns:
            Number of objects whose transfer was aborted; their senders keep them.
        """
        self._server.shutdown()
        deadline = time.monotonic() + timeout
        ended: list[Association] = []
        aborted = 0
        while remaining := [one for one in self._server.active_associations if one not in ended]:
            for one in remaining:
                busy = isinstance(one.dimse, FileProvider) and one.dimse.is_busy
                if busy and time.monotonic() < deadline:
                    continue
                aborted += busy
                ended.append(one)
                # It waits until the sender closes the connection.
                threading.Thread(target=one.abort, daemon=True).start()
            time.sleep(DRAIN_POLL_S)
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for one in ended:
            one.join(max(0.0, deadline - time.monotonic()))
        return aborted

    def _on_open(self, event: evt.Event) -> None:
        association = event.assoc
        wrapped = association.dul.socket
        assert wrapped is not None and wrapped.socket is not None
        without_delay(wrapped.socket, self._idle_timeout)
        wrapped.__class__ = BoundedSocket
        association.dul.state_machine.__class__ = GuardedStateMachine
        association.dimse = FileProvider(association, self._inbox)

    def _on_close(self, event: evt.Event) -> None:
        if isinstance(event.assoc.dimse, FileProvider):
            event.assoc.dimse.discard_partial()

    def _on_rejected(self, event: evt.Event) -> None:
        requestor = event.assoc.requestor
        LOG.warning(
            "rejected an association from %s, AE title %a", requestor.address, requestor.ae_title
        )
        self._counts.reject(Rejection.ASSOCIATION)

    def _on_store(self, event: evt.Event) -> Dataset | int:
        request = event.request
        try:
            assert isinstance(request, C_STORE)
            data_set = request.DataSet
            assert isinstance(data_set, ReceivedDataSet)
            stored = data_set.store()
        except Refused as error:
            self._counts.add(error)
            return _failure(error.status, error.comment)
        except Exception as error:  # the answer must not be success
            LOG.error("an object could not be stored (%s)", type(error).__name__)
            return _failure(PROCESSING_FAILURE, type(error).__name__)
        self._counts.add(stored)
        return SUCCESS


def configure_pynetdicom(*, any_class: bool) -> None:
    """Turn off the logs of pynetdicom, which can quote header values.

    Args:
        any_class: whether to accept private and unknown SOP Classes.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    _config.UNRESTRICTED_STORAGE_SERVICE = any_class
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def _application_entity(options: ReceiveOptions, sop_classes: Sequence[str]) -> AE:
    ae = AE(ae_title=options.ae_title)
    ae.require_called_aet = not options.any_called_ae_title
    ae.require_calling_aet = list(options.calling_ae_titles)
    ae.maximum_associations = options.max_associations
    ae.maximum_pdu_size = MAX_PDU_BYTES
    ae.acse_timeout = options.association_timeout
    ae.network_timeout = options.idle_timeout
    ae.dimse_timeout = options.idle_timeout
    ae.add_supported_context(Verification)
    for uid in sop_classes:
        if (
            uid_to_service_class(uid) is not StorageServiceClass
        ):  # private, or newer than pynetdicom
            register_uid(uid, f"Storage_{uid.replace('.', '_')}", StorageServiceClass)
        ae.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
    return ae


def _storage_classes(options: ReceiveOptions) -> Iterator[str]:
    chosen = [uid for uid in options.storage_classes if uid != ANY_CLASS]
    if chosen:
        yield from chosen
    else:
        yield from (str(one.abstract_syntax) for one in AllStoragePresentationContexts)


def _failure(status: int, comment: str) -> Dataset:
    failure = Dataset()
    failure.Status = status
    failure.ErrorComment = comment[:64]
    return failure


def _log_accepted(event: evt.Event) -> None:
    requestor = event.assoc.requestor
    LOG.info("association from %s, AE title %a", requestor.address, requestor.ae_title)
