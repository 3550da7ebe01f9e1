"""One run at a time writes into a lake, and a successor is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from transforms.lake.layout import LOCK, WRITER_LOCK, Layout
from transforms.lake.lock import lock_lake, read_epoch


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "lake"), {"review": str(tmp_path / "review")})


def unexpected() -> None:
    raise AssertionError("nobody else holds the lake")


def test_each_holder_leaves_its_epoch(layout: Layout) -> None:
    assert read_epoch(layout) is None
    epochs = []
    for _ in range(2):
        with lock_lake(layout, unexpected) as lock:
            lock.assert_held(reread=True)
            assert read_epoch(layout) == lock.epoch
            epochs.append(lock.epoch)
        assert read_epoch(layout) == lock.epoch
    assert None not in epochs
    assert epochs[0] != epochs[1]


def test_the_locks_of_a_lake_have_separate_epochs(layout: Layout) -> None:
    with (
        lock_lake(layout, unexpected, names=[WRITER_LOCK]) as writer,
        lock_lake(layout, unexpected, names=[LOCK]) as other,
    ):
        assert read_epoch(layout) == writer.epoch
        assert read_epoch(layout, LOCK) == other.epoch
        writer.assert_held(reread=True)


def test_a_lock_that_another_host_took_is_lost(layout: Layout) -> None:
    with lock_lake(layout, unexpected) as lock:
        Path(layout.root, WRITER_LOCK).write_text('{"epoch": "of another holder"}')
        lock.assert_held()
        with pytest.raises(RuntimeError, match="no longer held"):
            lock.assert_held(reread=True)


def test_a_lock_file_that_was_removed_is_lost(layout: Layout) -> None:
    with lock_lake(layout, unexpected) as lock:
        Path(layout.sinks["review"], LOCK).unlink()
        with pytest.raises(RuntimeError, match="no longer held"):
            lock.assert_held(reread=True)


def test_a_lock_file_of_an_earlier_release_is_taken(layout: Layout) -> None:
    Path(layout.root).mkdir()
    Path(layout.root, WRITER_LOCK).touch()
    assert read_epoch(layout) is None
    with lock_lake(layout, unexpected) as lock:
        assert read_epoch(layout) == lock.epoch


def test_a_killed_holder_leaves_its_epoch_and_no_lock(layout: Layout) -> None:
    code = """
import sys
from transforms.lake.layout import Layout
from transforms.lake.lock import lock_lake
with lock_lake(Layout(sys.argv[1]), lambda: None) as lock:
    print(lock.epoch, flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, layout.root]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdin is not None
    epoch = holder.stdout.readline().strip()
    assert epoch
    waits: list[int] = []

    def kill_holder() -> None:
        waits.append(1)
        holder.kill()

    with lock_lake(layout, kill_holder) as lock:
        assert waits
        assert lock.epoch != epoch
    holder.communicate()
