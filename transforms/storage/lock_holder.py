"""The process that holds a lock, as it describes itself in the lock, for those who wait."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

MAX_LENGTH: Final = 253
"""Maximum length of a host name (RFC 1035)."""


class LockTimedOut(OSError):
    """Another process held a lock for longer than the caller waits."""


@dataclass(frozen=True)
class LockHolder:
    """The holder of a lock.

    Attributes:
        host: its host name.
        pid: its process id.
        since: when it took the lock, ISO 8601 in UTC.
    """

    host: str
    pid: int
    since: str

    @classmethod
    def current(cls) -> LockHolder:
        """Return this process, as from now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), now.replace("+00:00", "Z"))

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> LockHolder | None:
        """Return the holder in the content of a lock; None if there is none, as in earlier releases."""
        host, pid, since = (content.get(name) for name in ("host", "pid", "since"))
        texts = [text for text in (host, since) if isinstance(text, str) and text.isprintable()]
        if len(texts) < 2 or not isinstance(pid, int):
            return None
        return cls(texts[0][:MAX_LENGTH], pid, texts[1][:MAX_LENGTH])

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True)
class Patience:
    """How long to wait for locks.

    Attributes:
        deadline: time on the monotonic clock; None waits without limit.
    """

    deadline: float | None = None

    @classmethod
    def of(cls, timeout: float) -> Patience:
        """Return the patience of a caller that waits for some seconds; 0 waits without limit."""
        return cls(time.monotonic() + timeout if timeout else None)

    def sleep(self, seconds: float) -> None:
        """Sleep until the next attempt.

        Raises:
            LockTimedOut: the deadline has passed.
        """
        remaining = seconds if self.deadline is None else self.deadline - time.monotonic()
        if remaining <= 0:
            raise LockTimedOut
        time.sleep(min(seconds, remaining))
