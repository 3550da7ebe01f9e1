"""Run functions in a child process that may crash, hang or run out of memory.

Decoders are native code that reads untrusted bytes. A call that ends the child is retried once in a fresh
one; the parent is never affected.
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

PRELOADED_MODULES: Final = [
    "transforms.sandbox.examine",
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
    *("PIL.JpegImagePlugin", "PIL.Jpeg2KImagePlugin", "numpy.ma", "_strptime"),
]
"""Modules that the fork server imports: the decoders, and what they import for their first object."""
PR_SET_PDEATHSIG: Final = 1
CRASH_SIGNALS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)
"""Signals that a process raises against itself; any other comes from outside, such as an OOM kill."""

POLL_INTERVAL_S: Final = 0.5
WALL_CLOCK_FACTOR: Final = 4
"""Ratio of the wall-clock limit to the CPU time limit: a busy machine is not the object's fault."""

_start_lock = threading.Lock()


class ChildCrashed(Exception):
    """The function crashed the child, and again as the first call of a fresh child."""


class ChildTimedOut(Exception):
    """The function exceeded its time limit; its child was killed."""


class ChildKilled(Exception):
    """The child was killed from outside, not by the function."""


class SandboxProcess:
    """A child process that runs one call at a time. Not thread-safe.

    Args:
        timeout_s: CPU time limit of a call; the wall-clock limit is `WALL_CLOCK_FACTOR` times as long.
        memory_bytes: Memory limit of a call, beyond what the child uses itself. Allocations beyond it
            fail.
    """

    def __init__(self, *, timeout_s: float, memory_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._start()

    def call(self, function: Callable[..., T], *arguments: Any, descriptor: int | None = None) -> T:
        """Call a module-level function in the child, and once more in a fresh child if it crashes.

        A crash is retried because an earlier call may have corrupted the child's memory.

        Args:
            function: Picklable function.
            *arguments: Picklable arguments.
            descriptor: Open file descriptor, passed to the function as its first argument.

        Raises:
            ChildCrashed: The function crashed twice.
            ChildTimedOut: The function exceeded its time limit.
            ChildKilled: The child was killed from outside.
            Exception: Any error that the function raised.
        """
        with contextlib.suppress(ChildCrashed):
            return self._call_once(function, arguments, descriptor)
        try:
            return self._call_once(function, arguments, descriptor)
        finally:
            self._restart()

    def close(self) -> None:
        """Kill the child."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED_MODULES)
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(
            target=_serve_calls, args=(child_connection, self._memory_bytes), daemon=True
        )
        try:
            with _hide_main_module():
                self._process.start()
        except (OSError, EOFError) as error:
            raise RuntimeError(
                f"cannot start a process for decoding ({type(error).__name__}); free memory or raise "
                "the process limit (ulimit -u), then run again"
            ) from error
        child_connection.close()

    def _restart(self) -> None:
        self.close()
        self._start()

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
            exit_code = self._process.exitcode or 0
            self._restart()
            if -exit_code in CRASH_SIGNALS:
                raise ChildCrashed from None
            raise ChildKilled from None
        if succeeded:
            result: T = outcome
            return result
        raise outcome

    def _wait(self) -> None:
        """Wait for a result.

        Raises:
            ChildTimedOut: The call exceeded the CPU time or wall-clock limit.
        """
        started, cpu_before = time.monotonic(), self._cpu_seconds()
        while not self._connection.poll(min(POLL_INTERVAL_S, self._timeout_s)):
            elapsed = time.monotonic() - started
            if (
                self._cpu_seconds() - cpu_before > self._timeout_s
                or elapsed > WALL_CLOCK_FACTOR * self._timeout_s
            ):
                self._restart()
                raise ChildTimedOut

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the child so far (proc(5), stat: utime and stime)."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0  # the child has ended; the connection reports it
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def start_forkserver() -> None:
    """Start the server that forks children, to overlap its imports with those of this process."""
    with _hide_main_module():
        forkserver.set_forkserver_preload(PRELOADED_MODULES)
        forkserver.ensure_running()


@contextlib.contextmanager
def _hide_main_module() -> Iterator[None]:
    """Keep a child from importing `__main__` while it starts.

    A script without a `__main__` guard would run again, and Beam's worker takes seconds to import.
    """
    with _start_lock:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _serve_calls(connection: Connection, memory_bytes: int) -> None:
    """Run calls in the child until the parent has ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _close_forkserver_alive_pipe()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the parent
    with Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), 2)  # codecs print header values to stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain the object
    own_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = own_pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            function, arguments, has_descriptor = connection.recv()
            descriptors = (recv_handle(connection),) if has_descriptor else ()
        except EOFError:
            return
        try:
            outcome = (True, function(*descriptors, *arguments))
        except BaseException as error:  # raised again in the parent
            outcome = (False, error)
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            connection.send(outcome)
        except Exception as error:  # the outcome cannot be pickled
            connection.send((False, RuntimeError(f"no result: {type(error).__name__}")))


def _close_forkserver_alive_pipe() -> None:
    """Close the inherited pipe whose end-of-file makes the fork server, the child's parent, exit.

    A child that hangs in native code would otherwise keep the fork server alive after the process that
    started both has ended, and with it itself.
    """
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
