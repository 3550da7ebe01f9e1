"""Start and control the server from which children are forked; `transforms.sandbox.serve` runs in it.

It inherits neither credentials nor open files: its environment has only what libraries need, and its
working directory is the root folder.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transforms.sandbox.protocol import (
    CALLS_RESTRICTED,
    ENDED,
    FILES_RESTRICTED,
    FORK,
    FORK_CHILD,
    KILL_CHILD,
    STARTED,
)

LOG = logging.getLogger(__name__)

ENVIRONMENT: Final = (
    *("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"),
)
"""Variables that the server inherits."""
CODE_ROOT: Final = str(Path(__file__).parents[2])
"""Folder that the package `transforms` is imported from."""
BOOT: Final = (
    "import sys; n = int(sys.argv[2]); sys.path[:] = sys.argv[3 + n:]; "
    "from transforms.sandbox.serve import main; main(int(sys.argv[1]), sys.argv[3:3 + n])"
)
KILL_TIMEOUT_S: Final = 10.0
"""Time until a killed process that has not ended is left alone; it may wait for a disk."""
CPUCLOCK_SCHED: Final = 2
MISSING: Final = {
    FILES_RESTRICTED: "Landlock: decoders can read the files that the router can read",
    CALLS_RESTRICTED: "seccomp filters for this architecture: decoders can use the network",
}


@dataclass
class Child:
    """A forked child.

    Attributes:
        pid: Its process id.
        connection: Socket of requests and answers.
        reports: Descriptor of the pipe from which the wait status can be read.
        status: Wait status, once it has been read.
    """

    pid: int
    connection: socket.socket
    reports: int
    status: int | None = None

    def cpu_seconds(self) -> float:
        """Return its CPU time so far; 0 if it has ended.

        Not from /proc, where `ProtectProc=` of systemd hides processes that cannot be dumped.
        """
        clock = (~self.pid << 3) | CPUCLOCK_SCHED  # as clock_getcpuclockid(3) returns
        try:
            return time.clock_gettime(clock)
        except OSError:
            return 0.0

    def close(self) -> None:
        """Close its descriptors."""
        self.connection.close()
        os.close(self.reports)


class ForkServer:
    """A server from which children are forked. Thread-safe; starts with the first child.

    Args:
        modules: Modules to import in the server.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = 0

    def start(self) -> None:
        """Start the server unless it runs, without waiting for its imports."""
        with self._lock:
            self._ensure_running()

    def fork(self, memory_bytes: int) -> Child:
        """Fork a child that serves calls.

        Args:
            memory_bytes: Memory limit, beyond what the child uses itself.

        Raises:
            RuntimeError: No process can be started.
        """
        for _ in range(2):  # the server may have been killed
            connection, connection_of_child = socket.socketpair()
            reports, reports_of_child = os.pipe()
            try:
                with self._lock:
                    control = self._ensure_running()
                    request = FORK.pack(FORK_CHILD, memory_bytes)
                    descriptors = [connection_of_child.fileno(), reports_of_child]
                    with contextlib.suppress(ConnectionError):  # reading the reports shows it
                        socket.send_fds(control, [request], descriptors)
            except OSError as error:
                os.close(reports)
                connection.close()
                raise _cannot_start(type(error).__name__) from error
            finally:
                connection_of_child.close()
                os.close(reports_of_child)
            started = os.read(reports, STARTED.size)
            if started and (pid := STARTED.unpack(started)[0]):
                _warn_of_missing(STARTED.unpack(started)[1])
                return Child(pid, connection, reports)
            os.close(reports)
            connection.close()
            if started:
                raise _cannot_start("fork failed")
            self._discard(control)
        raise _cannot_start("killed")

    def wait(self, child: Child, timeout_s: float) -> int | None:
        """Return the wait status of a child, or None if it still runs or is not known.

        Raises:
            ProcessLookupError: The server has ended, and the child with it.
        """
        if child.status is None:
            poller = select.poll()
            poller.register(child.reports, select.POLLIN)
            if poller.poll(timeout_s * 1000):
                if not (report := os.read(child.reports, ENDED.size)):
                    raise ProcessLookupError
                (child.status,) = ENDED.unpack(report)
        return child.status

    def kill(self, child: Child) -> None:
        """Kill a child, wait for its end, and close its descriptors."""
        with contextlib.suppress(OSError):  # the server has ended, and the child with it
            if child.status is None:
                with self._lock:
                    if self._control is not None:
                        self._control.send(FORK.pack(KILL_CHILD, child.pid))
                self.wait(child, KILL_TIMEOUT_S)
        child.close()

    def close(self) -> None:
        """End the server and all its children."""
        with self._lock:
            if self._control is not None and self._owner == os.getpid():
                self._control.close()
                assert self._process is not None
                self._process.wait()
            self._control = self._process = None

    def _discard(self, control: socket.socket) -> None:
        """Wait for the end of a server that has closed its connection, unless another has replaced it."""
        with self._lock:
            if self._control is control and self._process is not None:
                self._process.kill()
                self._process.wait()

    def _ensure_running(self) -> socket.socket:
        if self._process is not None and self._owner == os.getpid():
            if self._process.poll() is None:
                assert self._control is not None
                return self._control
            assert self._control is not None
            self._control.close()
        self._control, control_of_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptor = control_of_server.fileno()
        paths = [str(Path(entry).absolute()) for entry in sys.path if entry]
        command = [sys.executable, "-P", "-c", BOOT, str(descriptor), str(len(self._modules))]
        with control_of_server:
            self._process = subprocess.Popen(
                [*command, *self._modules, *paths, *({CODE_ROOT} - {*paths})],
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(descriptor,),
            )
        if not self._owner:
            atexit.register(self.close)
        self._owner = os.getpid()
        return self._control


def _cannot_start(why: str) -> RuntimeError:
    return RuntimeError(
        f"cannot start a process for decoding ({why}); free memory or raise the process limit "
        "(ulimit -u), then run again"
    )


_warned: set[int] = set()


def _warn_of_missing(restricted: int) -> None:
    """Log once what the kernel cannot restrict."""
    for one, text in MISSING.items():
        if not restricted & one and one not in _warned:
            _warned.add(one)
            LOG.warning("this kernel has no %s; see SECURITY.md", text)
