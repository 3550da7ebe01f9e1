"""Names of temporary files: they carry their process, so that only what a dead one left is removed.

A folder for temporary files may be shared with other programs, and by processes of several hosts and
containers. A file is removed only if its name says that this program made it, in a process of this
host and PID namespace that no longer runs. Files of other hosts are theirs to remove.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from transforms.storage.folders import make_folders
from transforms.storage.permissions import PRIVATE_FOLDER_MODE
from transforms.storage.processes import host_id, is_running, pid_namespace, start_ticks

PREFIX: Final = "dicom-router-"
_NAME: Final = re.compile(rf"{PREFIX}([0-9a-f]{{12}})-([0-9]+)-([0-9]+)-([0-9]+)-[0-9a-f]{{32}}")


def temporary_name() -> str:
    """Return a new name for a temporary file or folder of this process.

    `dicom-router-<host>-<PID namespace>-<pid>-<start time>-<random>`
    """
    pid = os.getpid()
    owner = f"{host_id()}-{pid_namespace()}-{pid}-{start_ticks(pid) or 0}"
    return f"{PREFIX}{owner}-{uuid.uuid4().hex}"


def temporary_folder() -> Path:
    """Make an empty folder on this machine's disk that only this user can read."""
    folder = Path(tempfile.gettempdir(), temporary_name())
    folder.mkdir(mode=0o700)
    return folder


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a `temporary_folder` that is gone when the block ends; also remove abandoned ones."""
    remove_abandoned(tempfile.gettempdir())
    folder = temporary_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def unnamed_file(folder: str | None = None) -> Iterator[io.BufferedRandom]:
    """Open an unnamed file, which is gone when the block ends.

    Args:
        folder: where its bytes are, created if missing; None takes this machine's temporary folder.
    """
    if folder is not None:
        make_folders(Path(folder), PRIVATE_FOLDER_MODE)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # close() repeats a write that a full disk refused
            file.close()


def is_temporary(name: str) -> bool:
    """Return whether a name is of `temporary_name`, of any process and host."""
    return name.startswith(PREFIX) and _NAME.fullmatch(name) is not None


def is_abandoned(name: str) -> bool:
    """Return whether a name is of `temporary_name`, by a dead process of this host and namespace."""
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    host, namespace, pid, started = found.groups()
    if (host, int(namespace)) != (host_id(), pid_namespace()):
        return False
    return not is_running(int(pid), int(started) or None)


def remove_abandoned(folder: str | Path) -> int:
    """Remove the temporary files and folders that dead processes left in a folder.

    Everything else stays. What cannot be removed is left to the next call.

    Returns:
        Number of entries removed.
    """
    removed = 0
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return 0
    for entry in entries:
        if not is_abandoned(entry.name):
            continue
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()
            removed += 1
    return removed
