"""Serve STOW-RS in a thread, with limits on connections."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.receive.inbox import Inbox
from pipeline.receive.options import ReceiveOptions, stow_token
from pipeline.receive.server import MORE_CONNECTIONS
from pipeline.receive.store import Counts
from pipeline.receive.stow import StowApp

LOG: Final = logging.getLogger("dicom_router.receive")
BACKLOG: Final = 128
MAX_HEADER_BYTES: Final = 32 << 10
KEEP_ALIVE_S: Final = 5


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with a limit on connections, and a time by which a connection must send a request.

    Attributes:
        max_connections: maximum number of connections.
        request_timeout: time until the headers of the first request must be complete, in seconds.
    """

    max_connections = 0
    request_timeout = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept or abort a connection."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self.loop.call_later(self.request_timeout, self._close_without_request)

    def _close_without_request(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()


class StowServer:
    """The STOW-RS endpoint of the receiver."""

    def __init__(
        self,
        options: ReceiveOptions,
        inbox: Inbox,
        counts: Counts,
        sop_classes: frozenset[str] | None,
    ) -> None:
        """Listen on the port.

        Raises:
            OSError: the address or port cannot be used.
        """
        assert options.stow_port is not None
        tls = options.tls()
        self._app = StowApp(
            inbox,
            counts,
            token=stow_token(),
            networks=options.networks,
            sop_classes=sop_classes,
            read_timeout=options.idle_timeout,
        )
        family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
        self._socket = socket.create_server(
            (options.address, options.stow_port), family=family, backlog=BACKLOG
        )
        protocol = type(
            "Protocol",
            (LimitedProtocol,),
            {
                "max_connections": options.max_associations + MORE_CONNECTIONS,
                "request_timeout": options.association_timeout,
            },
        )
        config = uvicorn.Config(
            self._app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=options.max_associations + 1,  # it counts the new connection
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(options.drain_timeout)),
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ssl_context_factory=None if tls is None else lambda config, default: tls,
        )
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)  # it quotes requests
        self._server = uvicorn.Server(config)
        run = functools.partial(self._server.run, sockets=[self._socket])
        self._thread = threading.Thread(target=run, daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether it serves."""
        return self._thread.is_alive()

    def drain(self, timeout: float) -> int:
        """Refuse connections, and answer the requests in transfer.

        Args:
            timeout: maximum time for requests in transfer, in seconds.

        Returns:
            Number of requests that were aborted.
        """
        self._server.should_exit = True
        self._thread.join(timeout + KEEP_ALIVE_S)
        return self._app.aborted
