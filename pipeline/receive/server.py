"""A TCP server for associations, with limits before an association is requested."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from pynetdicom.transport import ThreadedAssociationServer

from pipeline.receive.options import Network
from pipeline.receive.store import Counts, Rejection

LOG: Final = logging.getLogger("dicom_router.receive")
MORE_CONNECTIONS: Final = 16
"""Connections above the maximum number of associations: so many can be answered with a rejection."""
ENDING_S: Final = 0.5
"""Maximum time for which a new association waits for room before it is rejected."""
ENDING_POLL_S: Final = 0.01


class LimitedServer(ThreadedAssociationServer):
    """An association server that limits connections, and where no TLS handshake blocks another.

    The attributes are set before it serves.

    Attributes:
        networks: networks that may connect; empty allows all.
        max_connections: maximum number of connections.
        handshake_timeout: maximum time between two packets of a TLS handshake, in seconds.
        tls: TLS context, or None.
        counts: where rejected connections are counted.
    """

    daemon_threads = True
    request_queue_size = 128
    networks: Sequence[Network] = ()
    max_connections = 0
    handshake_timeout = 30.0
    tls: ssl.SSLContext | None = None
    counts: Counts = Counts()

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """As the overridden method."""
        self._opening = 0  # connections without an association, as in a TLS handshake
        self._lock = threading.Lock()
        super().__init__(*arguments, **more)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether to accept a connection."""
        if not is_allowed(str(client_address[0]), self.networks):
            LOG.warning("refused a connection from %s: not in --hosts", client_address[0])
            self.counts.reject(Rejection.ADDRESS)
            return False
        if len(self.active_associations) + self._opening >= self.max_connections:
            LOG.warning("refused a connection from %s: too many", client_address[0])
            self.counts.reject(Rejection.CONNECTIONS)
            return False
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection."""
        with self._lock:
            self._opening += 1
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make the TLS handshake in the thread of the connection, then start its association."""
        try:
            if self.tls is not None:
                request.settimeout(self.handshake_timeout)
                request = self.tls.wrap_socket(request, server_side=True)
            self._wait_for_room()
            super().finish_request(request, client_address)
        finally:
            with self._lock:
                self._opening -= 1

    def _wait_for_room(self) -> None:
        """Wait for a moment while there are as many associations as allowed.

        One that its sender has just released is counted until its threads have ended.
        """
        deadline = time.monotonic() + ENDING_S
        while (
            len(self.active_associations) >= self.ae.maximum_associations
            and time.monotonic() < deadline
        ):
            time.sleep(ENDING_POLL_S)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failed connection; a traceback could contain what was received."""
        LOG.warning("connection from %s failed, perhaps in its TLS handshake", client_address[0])
        self.counts.reject(Rejection.HANDSHAKE)


def is_allowed(address: str, networks: Sequence[Network]) -> bool:
    """Return whether an IP address is in one of the networks, or there are none."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)  # an IPv4 client of an IPv6 socket
    return not networks or any((mapped or found) in one for one in networks)


def without_delay(connection: socket.socket, timeout: float) -> None:
    """Send answers at once, and end reads after a time without data.

    With Nagle's algorithm each answer waits for the delayed acknowledgement of the one before.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.settimeout(timeout)
