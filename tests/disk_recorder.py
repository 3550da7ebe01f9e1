"""Record the calls by which files get names and reach the disk: what a power loss would take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from transforms.storage import renames

Inode = tuple[int, int]


@dataclass
class DiskRecorder:
    """What is in memory only, from the calls of this process.

    Attributes:
        volatile: new entries of folders that are not synced.
        synced: inodes of files that were synced.
        removed: removed entries of folders that are not synced.
        problems: files that were named before what they need was on the disk.
        folder_syncs: number of calls of fsync(2) on folders.
    """

    root: Path
    volatile: set[Path] = field(default_factory=set)
    synced: set[Inode] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    folder_syncs: int = 0

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def named(self, path: Path) -> None:
        """Take note of a new file; everything in the lake that it stands for must be on the disk."""
        status = path.stat()
        if (status.st_dev, status.st_ino) not in self.synced:
            self.problems.append(f"{self.relative(path)} was named before its content was synced")
        kind = path.relative_to(self.root).parts[0]
        if kind in NEEDED:
            self.require(f"{self.relative(path)} was named", NEEDED[kind])
        elif kind in ("objects", "quarantine") and not self._is_journaled(path):
            self.problems.append(f"{self.relative(path)} was named before the journal was synced")
        self.volatile.add(path)

    def require(self, what: str, kinds: tuple[str, ...]) -> None:
        """Take note of entries in the lake's folders, or of folders above it, that are not synced."""
        for path in sorted(self.volatile):
            inside = path.is_relative_to(self.root) and path != self.root
            if not inside or path.relative_to(self.root).parts[0] in kinds:
                self.problems.append(f"{what} before the entry of {path.name} was synced")

    def _is_journaled(self, path: Path) -> bool:
        files = set((self.root / "journal").glob("*.parquet")) - self.volatile
        rows = [pq.read_table(one, columns=["object_uri"])["object_uri"] for one in files]
        return any(self.relative(path) in uris.to_pylist() for uris in rows)

    def was_synced(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        status = os.fstat(descriptor)
        self.synced.add((status.st_dev, status.st_ino))
        if path.is_dir():
            self.folder_syncs += 1
            self.volatile = {one for one in self.volatile if one.parent != path}
            self.removed = {one for one in self.removed if one.parent != path}


NEEDED = {
    "index": ("objects", "quarantine", "history", "journal", "lake.json"),
    "runs": ("index", "history", "objects", "quarantine"),
}
"""By top folder of a file that is named: the top folders whose entries it relies on."""


@contextmanager
def recording(root: Path) -> Iterator[DiskRecorder]:
    """Record the calls of this process below a folder, or for a folder above it."""
    disk = DiskRecorder(root)
    calls: dict[str, Any] = {n: getattr(os, n) for n in ("fsync", "mkdir", "link", "unlink")}
    renameat2 = renames._renameat2

    def fsync(descriptor: int) -> None:
        calls["fsync"](descriptor)
        disk.was_synced(descriptor)

    def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        calls["mkdir"](path, *args, **kwargs)
        if _is_recorded(Path(path), root) or root.is_relative_to(path):
            disk.volatile.add(Path(path))

    def link(source: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        calls["link"](source, target, *args, **kwargs)
        if _is_recorded(Path(target), root):
            disk.named(Path(target))

    def unlink(path: Any, *args: Any, **kwargs: Any) -> None:
        calls["unlink"](path, *args, **kwargs)
        if kwargs.get("dir_fd") is None and _is_recorded(Path(path), root):
            parts = Path(path).relative_to(root).parts
            if parts[0] == "journal" and disk.removed:
                disk.problems.append(f"{parts} was removed before removals were synced")
            if parts[0] in ("objects", "quarantine", "history"):
                disk.require(f"{'/'.join(parts)} was removed", ("index", "history", "journal"))
                disk.removed.add(Path(path))
            disk.volatile.discard(Path(path))

    def rename(source: Path, target: Path, flags: int) -> None:
        for path in source.iterdir() if source.is_dir() else ():
            if path in disk.volatile:
                disk.problems.append(f"{path.name} was exchanged before its entry was synced")
        renameat2(source, target, flags)
        disk.volatile |= {path for path in (source, target) if _is_recorded(path, root)}

    with pytest.MonkeyPatch.context() as patched:
        for name, call in (("fsync", fsync), ("mkdir", mkdir), ("link", link), ("unlink", unlink)):
            patched.setattr(os, name, call)
        patched.setattr(renames, "_renameat2", rename)
        yield disk


def _is_recorded(path: Path, root: Path) -> bool:
    """Return whether a path is part of a lake; partial files and locks are not."""
    if not path.is_relative_to(root) or path == root:
        return False
    return not path.relative_to(root).parts[0].startswith(".")
