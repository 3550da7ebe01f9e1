"""Serve the review until a signal stops it."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from pipeline.derived import ONLY_REPORTS, AfterChanges
from pipeline.images import Renderer
from pipeline.receive.signals import stop_requests
from pipeline.review.access import AccessControl
from pipeline.review.app import ReviewApp
from pipeline.review.applier import Applier, Progress
from pipeline.review.desk import ReviewDesk
from pipeline.review.options import ReviewOptions
from pipeline.review.record_session import RecordSession
from transforms.lake.layout import Layout

BACKLOG: Final = 64
MAX_HEADER_BYTES: Final = 16 << 10
MAX_CONNECTIONS: Final = 200
KEEP_ALIVE_S: Final = 10
DRAIN_S: Final = 5


def serve(
    layout: Layout,
    options: ReviewOptions,
    announce: Callable[[str], None],
    then: AfterChanges = ONLY_REPORTS,
) -> Progress:
    """Serve the review until SIGTERM or SIGINT, then apply what is left.

    Args:
        layout: the lake.
        options: checked options.
        announce: called with lines for the terminal; one has the address with its token.
        then: what follows changes of decisions.

    Returns:
        What has become of the answers.

    Raises:
        OSError: the address or port cannot be used.
        DamagedFile: a file of the lake cannot be read.
        RuntimeError: the server has ended by itself.
    """
    token = secrets.token_urlsafe(32)
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    with (
        stop_requests() as stop,
        Renderer() as renderer,
        socket.create_server(
            (options.address, options.port), family=family, backlog=BACKLOG
        ) as listener,
    ):
        desk = ReviewDesk(layout, below=options.confidence_below, sample=options.sample)
        applier = Applier(layout, desk.effective, options.apply_interval, then)
        if waiting := applier.progress.waiting:
            announce(f"answers of an earlier review that are not applied yet: {waiting}")
        port = int(listener.getsockname()[1])
        app = ReviewApp(layout, desk, applier, renderer)
        guarded = AccessControl(app.asgi, token=token, port=port, host_names=options.host_names)
        session = RecordSession(
            layout, port, lambda: sum(desk.counts().values()), lambda: applier.progress
        )
        host = f"[{options.address}]" if family == socket.AF_INET6 else options.address
        with contextlib.closing(session), _serving(guarded, listener) as thread:
            applier.start()
            announce(f"review of {sum(desk.counts().values())} images; Ctrl-C ends it. Open")
            announce(f"http://{host}:{port}/?token={token}")
            session.update()
            while not stop.wait(0.5):
                session.update()
                if not thread.is_alive():
                    raise RuntimeError("the server of the review has ended; start it again")
        return applier.stop()


@contextlib.contextmanager
def _serving(app: AccessControl, listener: socket.socket) -> Iterator[threading.Thread]:
    """Serve an application in a thread; when the block ends, answer the requests in progress."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)  # it quotes requests
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(DRAIN_S + KEEP_ALIVE_S)
