"""Messages between a process and its children, over a pair of connected sockets.

A request is trusted: a pickled function and its arguments. An answer comes from a process that has read
untrusted bytes and may be controlled by them, so that it is MessagePack, which has no code, within limits
(https://github.com/msgpack/msgpack/blob/master/spec.md).
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

REQUEST: Final = struct.Struct("=IQ")
"""Number of the call, and length of the pickled function and arguments in bytes."""
ANSWER: Final = struct.Struct("=IB3xQ")
"""Number of the call, outcome, and length of the value in bytes."""
RETURNED, RAISED = 0, 1
"""Outcomes: the value is what the function returned, or the name of the exception's type."""
MAX_ANSWER_BYTES: Final = 4 << 20
"""Three images of the largest input size have 3 MiB."""
MAX_ANSWER_ITEMS: Final = 1 << 10

FORK: Final = struct.Struct("=cQ")
"""Request to the fork server: `FORK_CHILD` with a memory limit, or `KILL_CHILD` with a process id."""
FORK_CHILD, KILL_CHILD = b"f", b"k"
STARTED: Final = struct.Struct("=iB")
"""Report about a child: its process id, 0 if it could not be forked, and its restrictions, a sum of the
values below."""
FILES_RESTRICTED, CALLS_RESTRICTED = 1, 2
ENDED: Final = struct.Struct("=i")
"""Report about a child: its wait status."""


def encode_value(value: Any) -> bytes:
    """Return the value of a function, encoded.

    Raises:
        TypeError: MessagePack does not have its type.
    """
    encoded: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return encoded


def decode_value(data: bytes | memoryview) -> Any:
    """Return a value from `encode_value`, with tuples instead of lists.

    Raises:
        ValueError: The data is not MessagePack, or not what `encode_value` writes.
    """
    try:
        return msgpack.unpackb(
            data,
            use_list=False,
            strict_map_key=True,
            unicode_errors="surrogatepass",
            max_array_len=MAX_ANSWER_ITEMS,
            max_map_len=MAX_ANSWER_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ValueError(f"not an answer: {type(error).__name__}") from error
