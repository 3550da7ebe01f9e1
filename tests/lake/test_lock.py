"""One run at a time writes into a lake, and a successor is noticed."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from transforms.lake.layout import LOCK, WRITER_LOCK, Layout
from transforms.lake.lock import lock_lake, read_epoch
from transforms.lake.marker import write_marker


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


HOLD = """
import sys
from transforms.lake.layout import Layout
from transforms.lake.lock import lock_lake
with lock_lake(Layout(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(layout: Layout) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the locks of the lake."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, layout.root],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


COMMANDS = {
    "route": lambda root: ["route", "--input", root, "--lake", root, "--allow_empty"],
    "compact": lambda root: ["compact", root],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_holder_is_named_to_those_who_wait(
    layout: Layout,
    holder: subprocess.Popen[str],
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_marker(layout)
    assert main([*COMMANDS[command](layout.root), "--lock_timeout", "0.5"]) == 1
    waiting, error = [
        line for line in capsys.readouterr().err.splitlines() if "writing to this lake" in line
    ]
    named = rf"\(process {holder.pid} on {re.escape(socket.gethostname())}, since \d{{4}}-.*Z\)"
    assert re.search(rf"{named}; waiting for it to finish$", waiting)
    assert re.search(rf"^error: .*{named} after --lock_timeout; run the same command again", error)


def test_a_lock_that_is_released_in_time_is_taken(
    layout: Layout, holder: subprocess.Popen[str]
) -> None:
    with lock_lake(layout, holder.kill, timeout=60) as lock:
        assert read_epoch(layout) == lock.epoch


def test_a_lock_without_a_holder_is_waited_for(
    layout: Layout, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(layout.root, WRITER_LOCK).write_text('{"epoch": "of an earlier release", "host": 1}')
    with pytest.raises(RuntimeError, match="to this lake after"), lock_lake(layout, timeout=0.1):
        pass
    assert "another run is writing to this lake; waiting" in capsys.readouterr().err
