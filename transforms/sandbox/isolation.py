"""Runs functions in a child process that may crash, hang or run out of memory without harm.

DICOM decoders are native code fed with untrusted bytes. A child that dies takes one call with it; a
fresh one takes its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

PRELOADED: Final = [
    "transforms.sandbox.examine",
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
    *("PIL.JpegImagePlugin", "PIL.Jpeg2KImagePlugin", "numpy.ma", "_strptime"),
]
"""What decodes, and what it would import for its first object."""
PR_SET_PDEATHSIG: Final = 1
OBJECTS_FAULT: Final = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)
"""Signals that code raises against itself; others come from outside, as from an operator."""

CHECK_EVERY_S: Final = 0.5
CLOCK_FACTOR: Final = 4

_STARTING = threading.Lock()


class Crashed(Exception):
    """The function ended its process, twice, the second time as the first call of a fresh one."""


class TimedOut(Exception):
    """The function did not end in time; its process was ended."""


class Killed(Exception):
    """Somebody else ended the process: no fault of the function's input."""


class SandboxProcess:
    """A child process that answers one call at a time. Not safe between threads.

    Args:
        timeout_s: most processor time of a call, and a quarter of the longest that it may take.
        memory_bytes: most memory that a call may add to the child's own; past it, allocations fail
            there.
    """

    def __init__(self, *, timeout_s: float, memory_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._start()

    def call(self, function: Callable[..., T], *arguments: Any, descriptor: int | None = None) -> T:
        """Call a module's function in the child; arguments and result are pickled.

        An open file descriptor is passed on as the function's first argument.

        A crash is tried once more in a fresh child: the memory may have been damaged by an earlier
        call.

        Raises:
            Crashed, TimedOut, Killed: as they say.
            Exception: what the function raised.
        """
        with contextlib.suppress(Crashed):
            return self._call_once(function, arguments, descriptor)
        try:
            return self._call_once(function, arguments, descriptor)
        finally:
            self.close()
            self._start()

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._memory_bytes), daemon=True
        )
        try:
            with _no_main():
                self._process.start()
        except (OSError, EOFError) as error:
            raise RuntimeError(
                f"no process for decoding could be started ({type(error).__name__}); see to memory "
                "and to the limit on processes (ulimit -u), then run again"
            ) from error
        theirs.close()

    def _wait(self) -> None:
        """Wait for an answer.

        Raises:
            TimedOut: the child has used up its processor time, or, waiting for who knows what, four
                times as much has passed on the clock. A busy machine is not the object's fault.
        """
        started, used = time.monotonic(), self._processor_seconds()
        while not self._connection.poll(min(CHECK_EVERY_S, self._timeout_s)):
            passed = time.monotonic() - started
            if (
                self._processor_seconds() - used > self._timeout_s
                or passed > CLOCK_FACTOR * self._timeout_s
            ):
                self.close()
                self._start()
                raise TimedOut

    def _processor_seconds(self) -> float:
        """Processor time of the child so far (proc(5), stat: utime and stime)."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0  # it is gone, which the connection will tell
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _call_once(
        self, function: Callable[..., T], arguments: tuple[Any, ...], descriptor: int | None
    ) -> T:
        try:
            self._connection.send((function, arguments, descriptor is not None))
            if descriptor is not None:
                send_handle(self._connection, descriptor, self._process.pid)
            self._wait()
            succeeded, outcome = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            self.close()
            self._start()
            if -code in OBJECTS_FAULT:
                raise Crashed from None
            raise Killed from None
        if succeeded:
            result: T = outcome
            return result
        raise outcome


def start_early() -> None:
    """Start what children are forked from; it imports what decodes while this process goes on."""
    with _no_main():
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hide `__main__` while a child starts, which would else import it.

    A script without a guard would run again, and Beam's worker takes seconds to import.
    """
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _let_the_forkserver_end() -> None:
    """Close the pipe whose end tells the forkserver, our parent, that nobody needs it any more.

    Each child inherits it for children of its own. With one that hangs in native code the forkserver
    would outlive the process that asked for both, and with it the child.
    """
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def _serve(connection: Connection, memory_bytes: int) -> None:
    """Answer calls until the parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _let_the_forkserver_end()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # codecs speak on stderr of what they read
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the object
    own_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = own_pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            function, arguments, with_descriptor = connection.recv()
            received = (recv_handle(connection),) if with_descriptor else ()
        except EOFError:
            return
        try:
            answer = (True, function(*received, *arguments))
        except BaseException as error:  # it belongs to the caller
            answer = (False, error)
        for descriptor in received:
            os.close(descriptor)
        try:
            connection.send(answer)
        except Exception as error:  # what cannot be pickled
            connection.send((False, RuntimeError(f"no answer: {type(error).__name__}")))
