"""A lock on a local or mounted file system: flock(2), which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from transforms.storage.base import LockLost
from transforms.storage.folders import make_folders, sync_entries
from transforms.storage.lease import read_epoch
from transforms.storage.local import LocalStorage, path_to_uri
from transforms.storage.lock_holder import LockHolder, Patience
from transforms.storage.permissions import FILE_MODE, folder_mode

POLL_S: Final = 0.2
FOREVER: Final = Patience()


@dataclass(frozen=True)
class FileLock:
    """A held lock.

    Attributes:
        path: of the file.
        epoch: identifies this holder; it stays in the file until the next one writes its own.
    """

    path: Path
    epoch: str

    def assert_held(self, *, reread: bool = False) -> None:
        """Raise unless the lock is still held.

        The system holds it as long as the process lives. A network file system may give it to
        another host after a suspension, and a file can be removed: `reread` notices both.

        Args:
            reread: also read the file.

        Raises:
            LockLost: another process has written its epoch.
            OSError: the file cannot be read.
        """
        uri = path_to_uri(str(self.path))
        if reread and read_epoch(LocalStorage(), uri) != self.epoch:
            raise LockLost(uri)


@contextlib.contextmanager
def hold_file_lock(
    path: Path,
    on_wait: Callable[[], None],
    file_mode: int = FILE_MODE,
    patience: Patience = FOREVER,
) -> Iterator[FileLock]:
    """Hold a lock while the block runs.

    Args:
        path: of the file; its folder is made.
        on_wait: called once if another process holds the lock.
        file_mode: permissions of the file, from which those of new folders follow.
        patience: how long to wait.

    Raises:
        LockTimedOut: another process held the lock for longer.
        OSError: the file cannot be written or has no locks.
    """
    sync_entries(make_folders(path.parent, folder_mode(file_mode)))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, file_mode)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            _wait(descriptor, patience)
        yield FileLock(path, _write_epoch(descriptor))
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool | None:
    """Return whether a process of this host holds a lock, without taking it; None if that is unknown.

    Processes of other hosts, and of PID namespaces that this one does not contain, are not seen.
    """
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except FileNotFoundError:
        return None if path.exists() else False
    except OSError:
        return None
    held = [words[5] for words in map(str.split, lines) if len(words) > 5 and words[1] == "FLOCK"]
    return any(one.rpartition(":")[2] == str(inode) for one in held)


def _wait(descriptor: int, patience: Patience) -> None:
    if patience.deadline is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    while True:
        patience.sleep(POLL_S)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return


def _write_epoch(descriptor: int) -> str:
    """Write a new epoch and its holder in place, as a full disk has no block for a longer file."""
    epoch = str(uuid.uuid4())
    data = json.dumps({"epoch": epoch, **asdict(LockHolder.current())}).encode()
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
    os.fsync(descriptor)
    return epoch
