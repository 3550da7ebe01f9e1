"""Run a server that has no option for its address, so that it listens on the loopback interface only.

Usage: dicom-router-loopback COMMAND [ARGUMENT ...]

Each bind(2) of the command waits, by a seccomp filter, until this process has replaced an address beyond
loopback by 127.0.0.1 in the memory of the caller (seccomp_unotify(2)). IPv6 sockets are refused, as on a
host without IPv6. No privileges are needed, and the command still reaches other hosts and the process
that started it. It ends with this process, which ends with its parent.

Standard library only: the router runs this file by `python -I -S`, which takes milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
SECCOMP_USER_NOTIF_FLAG_CONTINUE: Final = 1
SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101
RET_ALLOW: Final = 0x7FFF0000
RET_USER_NOTIF: Final = 0x7FC00000
RET_ERRNO: Final = 0x00050000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
"""Of linux/prctl.h, linux/seccomp.h and linux/bpf_common.h."""
NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
"""struct seccomp_notif: id, thread id, flags, then the system call: number, architecture, address of the
instruction, arguments."""
RESPONSE: Final = struct.Struct("=QqiI")
"""struct seccomp_notif_resp: id, value, error, flags."""
INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter: code, jump if true, jump if false, operand."""
IO_URING_SETUP: Final = 425
"""On every architecture; io_uring(7) can bind without a system call that a filter sees."""
LOOPBACK: Final = bytes([127, 0, 0, 1])
STOP_TIMEOUT_S: Final = 5
UNSUPPORTED: Final = 69
"""Exit code if the kernel cannot restrict the command (EX_UNAVAILABLE of sysexits.h)."""


@dataclass(frozen=True)
class Architecture:
    """System call numbers of an architecture, and its number in linux/audit.h."""

    audit: int
    socket: int
    bind: int
    seccomp: int


ARCHITECTURES: Final = {
    "x86_64": Architecture(0xC000003E, socket=41, bind=49, seccomp=317),
    "aarch64": Architecture(0xC00000B7, socket=198, bind=200, seccomp=277),
}


class SockFprog(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def main() -> int:
    """Run the command of the command line and return its exit code."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: dicom-router-loopback COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    return run(sys.argv[1:], os.getppid())


def run(command: Sequence[str], parent: int) -> int:
    """Run a command and return its exit code.

    Args:
        command: program and arguments.
        parent: process id with which the command ends.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or architecture is None:
        return _unsupported(f"no filter for {sys.platform} on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 0  # the parent ended first
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        os._exit(_run_filtered(libc, architecture, theirs, command))
    theirs.close()
    _forward_signals(child)
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if descriptors:
        _answer_until_exit(descriptors[0], os.pidfd_open(child))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _run_filtered(
    libc: ctypes.CDLL, architecture: Architecture, channel: socket.socket, command: Sequence[str]
) -> int:
    """Install the filter, send its listener to the supervisor, and become the command."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    program = _filter(architecture)
    prog = SockFprog(len(program) // INSTRUCTION.size, program)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(
        architecture.seccomp,
        SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_NEW_LISTENER,
        ctypes.byref(prog),
    )
    if listener < 0:
        return _unsupported(f"seccomp: {os.strerror(ctypes.get_errno())}")
    socket.send_fds(channel, [b"1"], [listener])
    os.close(listener)
    channel.close()
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127


def _filter(architecture: Architecture) -> bytes:
    """Return a BPF program: bind(2) waits for the supervisor, socket(2) refuses IPv6, other calls pass.

    Offsets are those of struct seccomp_data: 0 is the number of the system call, 4 the architecture, 16
    the first argument.
    """
    return b"".join(
        INSTRUCTION.pack(*instruction)
        for instruction in (
            (LOAD, 0, 0, 4),
            (JUMP_IF_EQUAL, 0, 8, architecture.audit),
            (LOAD, 0, 0, 0),
            (JUMP_IF_EQUAL, 5, 0, architecture.bind),
            (JUMP_IF_EQUAL, 3, 0, IO_URING_SETUP),
            (JUMP_IF_EQUAL, 0, 4, architecture.socket),
            (LOAD, 0, 0, 16),
            (JUMP_IF_EQUAL, 0, 2, socket.AF_INET6),
            (RETURN, 0, 0, RET_ERRNO | errno.EAFNOSUPPORT),
            (RETURN, 0, 0, RET_USER_NOTIF),
            (RETURN, 0, 0, RET_ALLOW),
        )
    )


def _forward_signals(child: int) -> None:
    """Forward SIGINT and SIGTERM to the command, and kill it if it is still running after that."""

    def forward(number: int, frame: object) -> None:
        signal.alarm(STOP_TIMEOUT_S)
        _kill(child, number)

    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGALRM, lambda number, frame: _kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _kill(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _answer_until_exit(listener: int, ended: int) -> None:
    """Answer each bind(2) until the command has ended.

    Args:
        listener: descriptor of the filter's notifications.
        ended: pidfd of the command.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        for descriptor, event in poll.poll():
            if descriptor == ended:
                return
            if event & select.POLLIN:
                _answer(listener)
            else:  # no process is left that the filter applies to
                poll.unregister(listener)


def _answer(listener: int) -> None:
    request = bytearray(NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, request)
        identifier, thread, _, _, _, _, _, address, length, *_ = NOTIFICATION.unpack(request)
        try:
            _restrict(thread, address, length)
            response = RESPONSE.pack(identifier, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
        except OSError as error:
            response = RESPONSE.pack(identifier, 0, -(error.errno or errno.EACCES), 0)
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, response)
    except OSError as error:
        if error.errno != errno.ENOENT:  # the caller has ended
            raise


def _restrict(thread: int, address: int, length: int) -> None:
    """Replace an address beyond loopback in the memory of a thread that is waiting in bind(2).

    Args:
        thread: id of the thread.
        address: where its struct sockaddr_in is; other families are left alone.
        length: of the structure in bytes.

    Raises:
        OSError: the memory cannot be accessed.
    """
    memory = os.open(f"/proc/{thread}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        data = os.pread(memory, min(length, 8), address)
        family, host = int.from_bytes(data[:2], sys.byteorder), data[4:]
        if family == socket.AF_INET and host[:1] != LOOPBACK[:1]:
            os.pwrite(memory, LOOPBACK, address + 4)
    finally:
        os.close(memory)


def _unsupported(reason: str) -> int:
    print(f"cannot restrict a server to loopback: {reason}", file=sys.stderr)
    return UNSUPPORTED


if __name__ == "__main__":
    os.setsid()  # not interrupted by the terminal of the router
    sys.exit(run(sys.argv[2:], int(sys.argv[1])))
