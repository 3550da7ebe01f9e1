"""Real file systems with real faults."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(disk: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size, as only root may; unmount it at the end."""
    if os.geteuid():
        pytest.skip("only root may mount a small file system")
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB and fill it."""
    with mounted(tmp_path / "disk", "64k") as disk:
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(b"x" * (1 << 20))
        yield disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB."""
    with mounted(tmp_path / "small disk", "1m") as disk:
        yield disk
