"""Run the receiver until a signal stops it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, Protocol

from pipeline.receive.inbox import Inbox
from pipeline.receive.options import ReceiveOptions
from pipeline.receive.signals import stop_requests
from pipeline.receive.store import Counts
from transforms.storage.permissions import narrow_umask

UMASK: Final = 0o027
"""Received files are readable by their owner and group only."""


class Endpoint(Protocol):
    """A server of the receiver."""

    def start(self) -> None:
        """Serve in the background."""

    def is_alive(self) -> bool:
        """Return whether it serves."""

    def drain(self, timeout: float) -> int:
        """Stop; return the number of aborted transfers."""


def serve(options: ReceiveOptions, announce: Callable[[str], None]) -> str:
    """Receive objects until SIGTERM or SIGINT, then drain.

    Args:
        options: checked options.
        announce: called with a sentence once all servers listen.

    Returns:
        A sentence with what was received.

    Raises:
        OSError: the folder or an address cannot be used.
        RuntimeError: a server has ended by itself.
    """
    from pipeline.receive.dimse import StoreScp
    from pipeline.receive.metrics import export_metrics

    narrow_umask(UMASK)
    inbox, counts = Inbox(options.folder, options.max_object_bytes), Counts()
    with stop_requests() as stop, ExitStack() as exports:
        scp = StoreScp(options, inbox, counts)
        endpoints: list[Endpoint] = [scp]
        names = [f"C-STORE on {options.address}:{scp.port}, AE title {options.ae_title}"]
        if options.stow_port is not None:
            from pipeline.receive.http import StowServer

            stow = StowServer(options, inbox, counts, scp.sop_classes)
            endpoints.append(stow)
            names.append(f"STOW-RS on {options.address}:{stow.port}")
        names += export_metrics(options, counts, scp, exports)
        for one in endpoints:
            one.start()
        announce(f"receiving into {options.folder}: {'; '.join(names)}")
        while not stop.wait(1.0):
            if not all(one.is_alive() for one in endpoints):
                raise RuntimeError("a server of the receiver has ended; start it again")
        with ThreadPoolExecutor(len(endpoints)) as pool:
            aborted = sum(pool.map(lambda one: one.drain(options.drain_timeout), endpoints))
    cut = f", aborted in transfer: {aborted}" if aborted else ""
    return f"receiver stopped; objects stored: {counts.stored}, refused: {counts.refused}{cut}"
