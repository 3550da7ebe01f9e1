"""Extreme times of files neither end a stream nor change versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from apache_beam.utils.timestamp import Timestamp

from transforms.core.object_ref import ObjectRef
from transforms.storage.base import MAX_TIME, ObjectInfo, plausible_time
from transforms.storage.local import LocalStorage

YEAR_40000 = 1_200_000_000_000
TMPFS = Path("/dev/shm")  # ext4 holds no time after 2446


@pytest.mark.parametrize("seconds", [-5_000_000_000, -1, MAX_TIME + 1, YEAR_40000])
def test_an_extreme_mtime_is_no_event_time(tmp_path: Path, seconds: int) -> None:
    folder = TMPFS if os.access(TMPFS, os.W_OK) else tmp_path
    path = folder / f"{tmp_path.name}-{os.getpid()}"
    path.write_bytes(b"bytes")
    try:
        os.utime(path, (seconds, seconds))
        found = LocalStorage().stat(str(path))
        listed = list(LocalStorage().match(str(path)))
        assert found is not None
        assert listed == [found]
        assert found.modified is None
        assert found.version == f"5-{path.stat().st_mtime_ns}"
        with LocalStorage().open_version(found.uri, found.version) as file:
            assert file.read() == b"bytes"
    finally:
        path.unlink()


@pytest.mark.parametrize("seconds", [0, 1_772_000_000.25, MAX_TIME])
def test_other_times_are_kept(seconds: float) -> None:
    assert ObjectInfo("/a", "1-1", 1, modified=seconds).modified == seconds
    assert ObjectRef("/a", "1-1", 1, modified=seconds).modified == seconds
    assert float(Timestamp(seconds)) == seconds


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -0.001, 1e300])
def test_a_notification_cannot_bring_an_extreme_time(seconds: float) -> None:
    assert plausible_time(seconds) is None
    assert ObjectRef("gs://b/a", "1", 1, modified=seconds).modified is None
