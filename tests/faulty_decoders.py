"""Functions that tests run in a child instead of `describe`: what a hostile object may make a decoder do.

`SERVER` has imported them; a child cannot read the tests' folder.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from transforms.core.shared_bytes import map_bytes
from transforms.sandbox.child_process import PRELOADED_MODULES
from transforms.sandbox.describe import DescribeOptions, describe
from transforms.sandbox.fork_server import ForkServer
from transforms.sandbox.protocol import ANSWER, MAX_ANSWER_BYTES, RETURNED, encode_value

SERVER = ForkServer([*PRELOADED_MODULES, __name__])

calls = 0


def count_calls() -> int:
    """Return the number of calls in this child."""
    global calls
    calls += 1
    return calls


def crash_unless_first_call() -> str:
    """Crash in a child that has served another call."""
    if count_calls() > 1:
        os.abort()
    return "survived"


def crash_always(*_: Any) -> NoReturn:
    """Crash for any input."""
    os.abort()


def dereference_null(*_: Any) -> None:
    """Crash in native code."""
    ctypes.string_at(0)


def exit_successfully(*_: Any) -> NoReturn:
    """Exit as if all were well."""
    os._exit(0)


def exit_with_an_error(*_: Any) -> NoReturn:
    """Exit with an error code."""
    os._exit(3)


def exit_from_a_thread(*_: Any) -> None:
    """Exit from another thread than the one that serves."""
    threading.Thread(target=os._exit, args=(1,)).start()
    time.sleep(600)


def raise_system_exit(*_: Any) -> NoReturn:
    """Raise what is not an `Exception`."""
    raise SystemExit(0)


def close_the_connection(*_: Any) -> NoReturn:
    """Close the connection and live on."""
    os.close(connection())
    while True:
        time.sleep(1)


def answer_garbage(*_: Any) -> NoReturn:
    """Answer what is no message."""
    write(b"\xff" * 1000)


def answer_a_pickle(*_: Any) -> NoReturn:
    """Answer a pickle that would end the process that loads it."""
    write(message(pickle.dumps(ExitsWhenLoaded())))


def answer_what_does_not_parse(*_: Any) -> NoReturn:
    """Answer deeply nested arrays, each of which claims to be large."""
    write(message(b"\xdd\x7f\xff\xff\xff" * 100_000))


def answer_too_much(*_: Any) -> bytes:
    """Answer more than any object has."""
    return bytes(MAX_ANSWER_BYTES + 1)


def announce_too_much(*_: Any) -> NoReturn:
    """Announce an answer of a petabyte."""
    write(ANSWER.pack(1, RETURNED, 1 << 50))


def answer_another_call(*_: Any) -> NoReturn:
    """Answer a call that has not been made."""
    write(message(encode_value(1), number=77))


def answer_twice(*_: Any) -> NoReturn:
    """Answer this call and the next."""
    write(message(encode_value(1)) + message(encode_value(1), number=2))


def answer_partially(*_: Any) -> NoReturn:
    """Answer a byte at a time, forever."""
    write(ANSWER.pack(1, RETURNED, 1 << 20)[:-1])


def answer_slowly(*_: Any) -> None:
    """Answer one byte after the other."""
    os.write(connection(), ANSWER.pack(1, RETURNED, 1 << 20))
    while True:
        os.write(connection(), b"\0")
        time.sleep(0.01)


def forge_a_path(descriptor: int, options: DescribeOptions) -> tuple[Any, ...]:
    """Answer a description whose UIDs are a path."""
    header, *rest = describe(descriptor, options)
    path = "../../../../etc/cron.d/job"
    return tuple(path if str(value).count(".") > 3 else value for value in header), *rest


def answer_an_unencodable_value() -> object:
    """Return what has no encoding."""
    return lambda: None


def wait_for_truncation(descriptor: int, *_: Any) -> NoReturn:
    """Read beyond the end of a mapped source that is truncated, which raises SIGBUS (mmap(2))."""
    data = map_bytes(descriptor)
    while os.fstat(descriptor).st_size:
        time.sleep(0.01)
    bytes(data[:1])
    os.abort()  # in the retry the source is empty


def crash_on_the_mapped_source(descriptor: int, options: DescribeOptions) -> tuple[Any, ...]:
    """Crash as if the disk of the mapped source failed; a copy, which has no name, is readable."""
    if os.fstat(descriptor).st_nlink:
        os.abort()
    return describe(descriptor, options)


def run_threads(number: int) -> int:
    """Return the number of threads that ran, as in decoders with several threads."""
    ran: list[int] = []
    threads = [threading.Thread(target=ran.append, args=(one,)) for one in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(ran)


def environment() -> dict[str, str]:
    """Return the environment."""
    return dict(os.environ)


def read_file(path: str) -> bytes:
    """Return what is in a file."""
    return Path(path).read_bytes()


def connect(family: int, kind: int, address: Any) -> None:
    """Connect to an address."""
    socket.socket(family, kind).connect(tuple(address) if family != socket.AF_UNIX else address)


def try_to_change(descriptor: int) -> list[str]:
    """Try to change an open file in every way; return what succeeded."""
    path = f"/proc/self/fd/{descriptor}"
    attempts = {
        "write": lambda: os.write(descriptor, b"x"),
        "pwrite": lambda: os.pwrite(descriptor, b"x", 0),
        "truncate": lambda: os.ftruncate(descriptor, 0),
        "map": lambda: mmap.mmap(descriptor, 0, access=mmap.ACCESS_WRITE),
        "reopen": lambda: os.open(path, os.O_RDWR),
        "reopen to truncate": lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
        "truncate by name": lambda: os.truncate(path, 0),
        "chmod": lambda: os.fchmod(descriptor, 0o777),
        "utime": lambda: os.utime(descriptor, (0, 0)),
        "setxattr": lambda: os.setxattr(descriptor, "user.x", b"x"),
        "link": lambda: os.link(path, "/tmp/linked"),
        "allocate": lambda: os.posix_fallocate(descriptor, 0, 1 << 20),
    }
    succeeded = []
    for name, attempt in attempts.items():
        try:
            attempt()  # type: ignore[no-untyped-call]
            succeeded.append(name)
        except (OSError, ValueError):
            pass
    return succeeded


class ExitsWhenLoaded:
    """An object whose pickle ends the process that loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (42,)


def connection() -> int:
    """Return the descriptor of the connection to the parent."""
    return next(number for number in range(3, 64) if is_socket(number))


def is_socket(descriptor: int) -> bool:
    """Return whether a descriptor is a socket."""
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def message(value: bytes, number: int = 1) -> bytes:
    """Return an answer to a call; 1 is the first one."""
    return ANSWER.pack(number, RETURNED, len(value)) + value


def write(data: bytes) -> NoReturn:
    """Write to the connection and wait to be killed."""
    os.write(connection(), data)
    while True:
        time.sleep(1)
