"""Functions that tests run in a child instead of `describe`; the child imports this module."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from transforms.core.shared_bytes import map_bytes
from transforms.lake.schema import IndexRow
from transforms.sandbox.examine import Examined, describe


def truncate_the_source(descriptor: int, row: IndexRow, *_: Any) -> None:
    """Truncate the mapped source and read beyond its end, which raises SIGBUS (mmap(2))."""
    data = map_bytes(descriptor)
    os.truncate(row.source_uri, 0)
    if data:
        data[0]
    os.abort()  # in the retry the source is empty


def crash_on_the_mapped_source(descriptor: int, row: IndexRow, *rest: Any) -> Examined:
    """Crash as if the disk of the mapped source failed; a copy of its bytes is readable."""
    if os.path.samestat(os.fstat(descriptor), Path(row.source_uri).stat()):
        os.kill(os.getpid(), signal.SIGBUS)
    return describe(descriptor, row, *rest)


def crash_always(*_: Any) -> None:
    """Crash for any input."""
    os.abort()
