"""Run a worker of the in-process runner's mode `multi_processing`.

Unlike Beam's own program it imports nothing from the working folder, is not interrupted by a terminal,
ends with the process that started it, and logs warnings only.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final, TextIO

PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Serve the runner until it closes the connection."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, not as a module
    logging.disable(logging.WARNING)  # Beam warns about clients that are not installed
    import grpc
    from apache_beam.runners.worker import log_handler, sdk_worker_main

    logging.disable(logging.NOTSET)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:  # Beam lowers the level of the logger
        handler.setLevel(logging.WARNING)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # the router reports its errors
    # The client of the runner's log prints that it lost it, which it does when the runner ends.
    vars(log_handler)["print"] = _discard
    with contextlib.suppress(grpc.RpcError):  # the runner has ended
        sdk_worker_main.main([])
    os._exit(0)  # threads of the runner's connection may still run


def _discard(*values: object, file: TextIO) -> None:
    """Take the place of `print`."""


if __name__ == "__main__":
    main()
