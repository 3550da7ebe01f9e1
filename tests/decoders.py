"""What a child may do in the place of decoding; it imports this module, so it is kept light."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from transforms.core.shared_bytes import mapped
from transforms.lake.schema import IndexRow
from transforms.sandbox.examine import Examined, describe


def cut_off_what_is_mapped(descriptor: int, row: IndexRow, *_: Any) -> None:
    """Reading a page that is gone ends it (SIGBUS, mmap(2))."""
    data = mapped(descriptor)
    os.truncate(row.source_uri, 0)
    if data:
        data[0]
    os.abort()  # the second try


def crash_over_the_source(descriptor: int, row: IndexRow, *rest: Any) -> Examined:
    """As if the disk failed under its map, and only there."""
    if os.path.samestat(os.fstat(descriptor), Path(row.source_uri).stat()):
        os.kill(os.getpid(), signal.SIGBUS)
    return describe(descriptor, row, *rest)


def crash_always(*_: Any) -> None:
    """Crash, whatever is given."""
    os.abort()
