"""Run in the fork server: import decoders once, restrict the process, and fork children that serve calls.

Importing takes longer than decoding many objects, and a forked child shares the memory of the modules.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import resource
import select
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from transforms.core.malloc import reuse_freed_blocks
from transforms.sandbox import landlock, seccomp
from transforms.sandbox.protocol import (
    ANSWER,
    CALLS_RESTRICTED,
    ENDED,
    FILES_RESTRICTED,
    FORK,
    FORK_CHILD,
    RAISED,
    REQUEST,
    RETURNED,
    STARTED,
    encode_value,
)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
IGNORED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Left to the process that started the server, which may have to finish objects in flight."""
DESCRIPTORS: Final = 2
"""Descriptors of a request to fork: the connection, and the pipe of reports."""


def main(control_descriptor: int, modules: Sequence[str]) -> None:
    """Serve until the process that started this one has ended.

    Args:
        control_descriptor: Socket of requests (SOCK_SEQPACKET).
        modules: Modules to import before children are forked.
    """
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    reuse_freed_blocks()
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.enable()
    gc.freeze()  # a collection would write to, and so copy, the pages of all modules
    own_pages = int(Path("/proc/self/statm").read_text().split()[0])
    _Server(control_descriptor, own_pages * resource.getpagesize(), _restrict()).serve()


def _restrict() -> int:
    """Restrict this process and its descendants as far as the kernel can; return what is restricted."""
    with Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), 2)  # codecs print header values to stderr
    _prctl(PR_SET_DUMPABLE, 0)  # a core dump would contain the object
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    restricted = 0
    if landlock.version():
        landlock.restrict_files(landlock.code_paths())
        restricted |= FILES_RESTRICTED
    if seccomp.is_supported():
        restricted |= CALLS_RESTRICTED  # in children: the server itself must fork
    return restricted


class _Server:
    def __init__(self, control_descriptor: int, own_bytes: int, restricted: int) -> None:
        self._control = socket.socket(fileno=control_descriptor)
        self._own_bytes = own_bytes  # of address space, which children inherit
        self._restricted = restricted
        self._reports: dict[int, int] = {}  # pipe by process id
        self._wakeup, wakeup = socket.socketpair()
        self._signalled = wakeup
        self._wakeup.setblocking(False)
        wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._wakeup, select.POLLIN)
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == self._wakeup.fileno():
                    self._reap()
                elif not self._handle_request():
                    return

    def _handle_request(self) -> bool:
        """Handle one request; return False if there will be no more."""
        message, descriptors, _, _ = socket.recv_fds(self._control, FORK.size, DESCRIPTORS)
        if not message:
            return False
        request, number = FORK.unpack(message)
        if request == FORK_CHILD:
            self._fork(number, *descriptors)
        elif number in self._reports:  # it cannot be another process: it has not been reaped
            _kill(number)
        return True

    def _fork(self, memory_bytes: int, connection: int, reports: int) -> None:
        server = os.getpid()
        try:
            child = os.fork()
        except OSError:
            os.write(reports, STARTED.pack(0, self._restricted))
            os.close(connection)
            os.close(reports)
            return
        if not child:
            self._close_descriptors(reports)
            _serve_child(connection, self._own_bytes + memory_bytes, server, self._restricted)
        with contextlib.suppress(OSError):  # the child has done it
            os.setpgid(child, child)
        os.close(connection)
        self._reports[child] = reports
        with contextlib.suppress(OSError):
            os.write(reports, STARTED.pack(child, self._restricted))

    def _close_descriptors(self, reports: int) -> None:
        """Close what a child inherits: it could disturb the server and other children."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (self._control, self._wakeup, self._signalled):
            one.close()
        for descriptor in (reports, *self._reports.values()):
            os.close(descriptor)

    def _reap(self) -> None:
        """Report the children that have ended."""
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)
        while self._reports:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            child = ended.si_pid
            _kill(child)  # its descendants, where the kernel could not keep it from having any
            _, status = os.waitpid(child, 0)
            reports = self._reports.pop(child)
            with contextlib.suppress(OSError):
                os.write(reports, ENDED.pack(status))
            os.close(reports)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _serve_child(descriptor: int, address_space: int, server: int, restricted: int) -> NoReturn:
    """Serve calls in a child until the connection is closed."""
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
        connection = socket.socket(fileno=descriptor)
        if restricted & CALLS_RESTRICTED:
            seccomp.restrict_system_calls()
        if os.getppid() == server:
            while _serve_call(connection):
                pass
    except BaseException:
        os._exit(1)
    os._exit(0)


def _serve_call(connection: socket.socket) -> bool:
    """Serve one call; return False if there will be no more."""
    header, descriptors, _, _ = socket.recv_fds(connection, REQUEST.size, 1)
    if len(header) < REQUEST.size:
        return False
    number, length = REQUEST.unpack(header)
    request = bytearray()
    while len(request) < length:
        if not (received := connection.recv(length - len(request))):
            return False
        request += received
    try:
        function, arguments = pickle.loads(request)
        value = encode_value(function(*descriptors, *arguments))
        outcome = RETURNED
    except BaseException as error:
        value = encode_value(type(error).__name__)
        outcome = RAISED
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(ANSWER.pack(number, outcome, len(value)) + value)
    return True


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
