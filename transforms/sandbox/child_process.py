"""Run functions in a child process that may crash, hang, run out of memory or be controlled by its input.

Decoders are native code that reads untrusted bytes. A call that ends the child is retried once in a fresh
one; the parent is never affected.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from transforms.sandbox.fork_server import ForkServer
from transforms.sandbox.protocol import (
    ANSWER,
    MAX_ANSWER_BYTES,
    RAISED,
    REQUEST,
    RETURNED,
    decode_value,
)

T = TypeVar("T")

PRELOADED_MODULES: Final = (
    "transforms.sandbox.describe",
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
    *("PIL.JpegImagePlugin", "PIL.Jpeg2KImagePlugin", "numpy.ma", "_strptime"),
)
"""Modules that the fork server imports: the decoders, and what they import for their first object."""
FORK_SERVER: Final = ForkServer(PRELOADED_MODULES)
"""The server of this process for decoders."""

POLL_INTERVAL_S: Final = 0.5
EXIT_TIMEOUT_S: Final = 5.0
"""Time in which a child that has closed its connection must have ended."""
WALL_CLOCK_FACTOR: Final = 4
"""Ratio of the wall-clock limit to the CPU time limit: a busy machine is not the object's fault."""
RECEIVE_BYTES: Final = 1 << 18


class ChildCrashed(Exception):
    """The function ended the child or made it give no valid answer, and again in a fresh child."""


class ChildTimedOut(Exception):
    """The function exceeded its time limit; its child was killed."""


class ChildKilled(Exception):
    """The child was killed from outside, not by the function."""


class ChildRaised(Exception):
    """The function raised an exception; the message is the name of its type."""


class SandboxProcess:
    """A child process that runs one call at a time. Not thread-safe.

    Args:
        timeout_s: CPU time limit of a call; the wall-clock limit is `WALL_CLOCK_FACTOR` times as long.
        memory_bytes: Memory limit of a call, beyond what the child uses itself. Allocations beyond it
            fail.
        server: Server to fork the child from.
    """

    def __init__(
        self, *, timeout_s: float, memory_bytes: int, server: ForkServer = FORK_SERVER
    ) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._server = server
        self._number = 0
        self._start()

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        descriptor: int | None = None,
        parse: Callable[[Any], T] | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> Any | T:
        """Call a module-level function in the child, and once more in a fresh child if it crashes.

        A crash is retried because an earlier call may have corrupted the child's memory.

        Args:
            function: Picklable function that returns plain values: None, bool, int, float, str, bytes,
                and lists, tuples and mappings of these.
            *arguments: Picklable arguments.
            descriptor: Open file descriptor, passed to the function as its first argument.
            parse: Converts the value, or raises ValueError if the function cannot have returned it.
            max_answer_bytes: Maximum length of the encoded value.

        Returns:
            The value, or what `parse` returns for it. Lists are returned as tuples.

        Raises:
            ChildCrashed: The function crashed twice.
            ChildTimedOut: The function exceeded its time limit.
            ChildKilled: The child was killed from outside.
            ChildRaised: The function raised an exception.
        """
        request = pickle.dumps((function, arguments))
        if self._poller.poll(0):  # ended, or answers what nobody has asked
            self._restart()
        with contextlib.suppress(ChildCrashed):
            return self._call_once(request, descriptor, parse, max_answer_bytes)
        try:
            return self._call_once(request, descriptor, parse, max_answer_bytes)
        except ChildCrashed:
            self._restart()
            raise

    @property
    def pid(self) -> int:
        """The process id of the child, which is replaced when it crashes."""
        return self._child.pid

    def close(self) -> None:
        """Kill the child."""
        self._server.kill(self._child)

    def _start(self) -> None:
        self._child = self._server.fork(self._memory_bytes)
        self._child.connection.setblocking(False)
        self._poller = select.poll()
        self._poller.register(self._child.connection, select.POLLIN)
        self._poller.register(self._child.reports, select.POLLIN)

    def _restart(self) -> None:
        self.close()
        self._start()

    def _call_once(
        self,
        request: bytes,
        descriptor: int | None,
        parse: Callable[[Any], T] | None,
        max_answer_bytes: int,
    ) -> Any | T:
        self._number = (self._number + 1) % (1 << 32)
        started = _Usage(time.monotonic(), self._child.cpu_seconds())
        try:
            self._send(request, descriptor, started)
            outcome, encoded = self._receive(started, max_answer_bytes)
            value = decode_value(encoded)
            if outcome == RETURNED:
                return value if parse is None else parse(value)
        except (EOFError, OSError):
            raise self._end() from None
        except ValueError:  # the object controls the child
            self._restart()
            raise ChildCrashed from None
        raise ChildRaised(value if isinstance(value, str) else "")

    def _send(self, request: bytes, descriptor: int | None, started: _Usage) -> None:
        message = REQUEST.pack(self._number, len(request)) + request
        descriptors = [] if descriptor is None else [descriptor]
        rest = memoryview(message)[
            socket.send_fds(self._child.connection, [message], descriptors) :
        ]
        if rest:  # more than the socket's buffer
            writable = select.poll()
            writable.register(self._child.connection, select.POLLOUT)
            while rest:
                self._wait(writable, started)
                rest = rest[self._child.connection.send(rest) :]

    def _receive(self, started: _Usage, max_answer_bytes: int) -> tuple[int, memoryview]:
        """Return the outcome and the encoded value of an answer.

        Raises:
            EOFError, OSError: The child has ended or closed its connection.
            ValueError: The answer is invalid.
            ChildTimedOut: There is no complete answer in time.
        """
        answer = bytearray()
        expected = ANSWER.size
        while len(answer) < expected:
            self._wait(self._poller, started)
            try:
                received = self._child.connection.recv(RECEIVE_BYTES)
            except BlockingIOError:  # only the end of the child is reported
                raise EOFError from None
            if not received:
                raise EOFError
            answer += received
            if len(answer) >= ANSWER.size:
                number, outcome, length = ANSWER.unpack_from(answer)
                if number != self._number or outcome not in (RETURNED, RAISED):
                    raise ValueError("not an answer to this call")
                if length > max_answer_bytes:
                    raise ValueError("the answer is too long")
                expected = ANSWER.size + length
        if len(answer) > expected:
            raise ValueError("more than one answer")
        return outcome, memoryview(answer)[ANSWER.size :]

    def _wait(self, poller: select.poll, started: _Usage) -> None:
        """Wait until a descriptor is ready.

        Raises:
            ChildTimedOut: The call exceeded the CPU time or wall-clock limit.
        """
        interval_ms = 1000 * min(POLL_INTERVAL_S, self._timeout_s)
        while True:
            ready = poller.poll(interval_ms)
            elapsed = time.monotonic() - started.wall_s
            if elapsed > interval_ms / 1000 and (
                self._child.cpu_seconds() - started.cpu_s > self._timeout_s
                or elapsed > WALL_CLOCK_FACTOR * self._timeout_s
            ):
                self._restart()
                raise ChildTimedOut
            if ready:
                return

    def _end(self) -> Exception:
        """Start a fresh child; return the error for the end of the previous one.

        Only SIGKILL comes from outside: the child cannot send it to itself, and ignores other signals of
        operators. A child that lives on has closed its connection.
        """
        try:
            status = self._server.wait(self._child, EXIT_TIMEOUT_S)
        except ProcessLookupError:  # the server was killed, and its children with it
            killed = True
        else:
            killed = status is not None and os.WIFSIGNALED(status)
            killed = killed and os.WTERMSIG(status or 0) == signal.SIGKILL
        self._restart()
        return ChildKilled() if killed else ChildCrashed()


class _Usage(NamedTuple):
    """Wall-clock and CPU time in seconds at the start of a call."""

    wall_s: float
    cpu_s: float


def start_fork_server() -> None:
    """Start the server that forks children, to overlap its imports with those of this process."""
    FORK_SERVER.start()
