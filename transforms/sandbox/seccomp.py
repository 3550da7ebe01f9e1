"""Restrict the system calls of this process with a seccomp filter (seccomp(2)).

What a decoder needs is allowed: memory, threads, reading files and the open connection. Everything else
fails: sockets, signals, new processes, writing and changing files, tracing. Without a filter for the
kernel or the machine's architecture, nothing is restricted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

PR_SET_NO_NEW_PRIVS: Final = 38
SET_MODE_FILTER, GET_ACTION_AVAIL = 1, 2
FLAG_TSYNC, FLAG_SPEC_ALLOW = 1, 4
"""Filter all threads; keep the processor's speculation, whose mitigation would slow decoders down."""
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000

LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions of classic BPF (linux/bpf_common.h)."""
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`."""
INSTRUCTION: Final = struct.Struct("=HBBI")
FIRST_UNKNOWN: Final = 0x1D0
"""System calls from this number on, and those of the x32 ABI, fail as if they did not exist."""

ALLOWED: Final = {
    # name: number on x86-64, number on AArch64; -1 where it does not exist
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, -1), "fstat": (5, 80),
    "lstat": (6, -1), "poll": (7, -1), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66),
    "access": (21, -1), "select": (23, -1), "sched_yield": (24, 124), "mremap": (25, 216),
    "dup": (32, 23), "dup2": (33, -1), "nanosleep": (35, 101), "getpid": (39, 172),
    "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "exit": (60, 93), "uname": (63, 160), "getcwd": (79, 17), "readlink": (89, -1),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175),
    "getegid": (108, 177), "getppid": (110, 173), "sigaltstack": (131, 132), "gettid": (186, 178),
    "time": (201, -1), "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "fadvise64": (221, 223),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "newfstatat": (262, 79), "readlinkat": (267, 78),
    "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99),
    "dup3": (292, 24), "preadv": (295, 69), "getcpu": (309, 168), "getrandom": (318, 278),
    "membarrier": (324, 283), "statx": (332, 291), "rseq": (334, 293), "faccessat2": (439, 439),
}  # fmt: skip
"""System calls that are allowed with any arguments."""

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000
"""Flags of open(2) to write or create a file; the last is `__O_TMPFILE`."""
_FCNTL: Final = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC."""
_IOCTL: Final = (0x5450, 0x5451, 0x5421, 0x541B)
"""FIONCLEX, FIOCLEX, FIONBIO, FIONREAD."""
_PRCTL: Final = (15, 16, 0x53564D41)
"""PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, by which threads and allocators name themselves."""
_CLONE_THREAD: Final = 0x10000
_MADV_HWPOISON: Final = 100


@dataclass(frozen=True)
class Machine:
    """An architecture: its system call, its AUDIT_ARCH value, and its column in `ALLOWED`."""

    seccomp: int
    audit: int
    column: int


MACHINES: Final = {
    "x86_64": Machine(seccomp=317, audit=0xC000003E, column=0),
    "aarch64": Machine(seccomp=277, audit=0xC00000B7, column=1),
}


def is_supported() -> bool:
    """Return whether this kernel has seccomp filters, and this module the numbers of its calls."""
    machine = MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    action = ctypes.c_uint32(RET_ERRNO)
    libc = ctypes.CDLL(None, use_errno=True)
    supported: bool = libc.syscall(machine.seccomp, GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0
    return supported


def restrict_system_calls() -> None:
    """Install the filter in all threads of this process, for good. Call `is_supported` before.

    Raises:
        OSError: The kernel refuses the filter.
    """
    machine = MACHINES[os.uname().machine]
    program = b"".join(_instructions(machine))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // INSTRUCTION.size, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for flags in (FLAG_TSYNC | FLAG_SPEC_ALLOW, FLAG_TSYNC):  # the second flag is of Linux 4.17
        if libc.syscall(machine.seccomp, SET_MODE_FILTER, flags, ctypes.byref(header)) == 0:
            return
    raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _instructions(machine: Machine) -> Iterator[bytes]:
    yield _instruction(LOAD, ARCHITECTURE)
    yield _instruction(JUMP_IF_EQUAL, machine.audit, if_true=1)
    yield _instruction(RETURN, RET_KILL_PROCESS)  # a call of the 32-bit ABI
    yield _instruction(LOAD, NUMBER)
    for numbers in ALLOWED.values():
        yield from _rule(numbers[machine.column], [_instruction(RETURN, RET_ALLOW)])
    for numbers, body in _conditional_rules():
        yield from _rule(numbers[machine.column], body)
    yield _instruction(JUMP_IF_AT_LEAST, FIRST_UNKNOWN, if_false=1)
    yield _fail(errno.ENOSYS)
    yield _fail(errno.EPERM)


def _conditional_rules() -> Iterator[tuple[tuple[int, int], list[bytes]]]:
    """Yield the numbers of system calls, and the instructions that check their arguments."""
    allow = _instruction(RETURN, RET_ALLOW)
    for numbers, flags in (((2, -1), 1), ((257, 56), 2)):  # open, openat: only to read
        writes = _instruction(JUMP_IF_ANY_BIT, _WRITING, if_false=1)
        yield numbers, [_load_argument(flags), writes, _fail(errno.EACCES), allow]
    yield (72, 25), [_load_argument(1), *_allow_values(_FCNTL), _fail(errno.EPERM)]
    yield (16, 29), [_load_argument(1), *_allow_values(_IOCTL), _fail(errno.ENOTTY)]
    yield (157, 167), [_load_argument(0), *_allow_values(_PRCTL), _fail(errno.EPERM)]
    is_thread = _instruction(JUMP_IF_ANY_BIT, _CLONE_THREAD, if_false=1)
    yield (56, 220), [_load_argument(0), is_thread, allow, _fail(errno.EPERM)]  # clone
    is_harmful = _instruction(JUMP_IF_AT_LEAST, _MADV_HWPOISON, if_true=1)
    yield (28, 233), [_load_argument(2), is_harmful, allow, _fail(errno.EPERM)]  # madvise
    yield (
        (302, 261),  # prlimit64: without a new limit, in both halves of the pointer
        [
            _load_argument(2),
            _instruction(JUMP_IF_EQUAL, 0, if_false=3),
            _load_argument(2, high=True),
            _instruction(JUMP_IF_EQUAL, 0, if_false=1),
            allow,
            _fail(errno.EPERM),
        ],
    )
    for numbers in ((435, 435), (437, 437)):  # clone3, openat2: the C library falls back
        yield numbers, [_fail(errno.ENOSYS)]


def _rule(number: int, body: Sequence[bytes]) -> Iterator[bytes]:
    """Yield instructions that run `body`, which returns, for one system call."""
    if number >= 0:
        yield _instruction(JUMP_IF_EQUAL, number, if_false=len(body))
        yield from body


def _allow_values(values: Sequence[int]) -> Iterator[bytes]:
    for value in values:
        yield _instruction(JUMP_IF_EQUAL, value, if_false=1)
        yield _instruction(RETURN, RET_ALLOW)


def _load_argument(index: int, *, high: bool = False) -> bytes:
    """Load one half of an argument; both architectures are little-endian."""
    return _instruction(LOAD, ARGUMENTS + 8 * index + 4 * high)


def _fail(code: int) -> bytes:
    return _instruction(RETURN, RET_ERRNO | code)


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return INSTRUCTION.pack(code, if_true, if_false, operand)
