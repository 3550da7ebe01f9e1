"""A child may crash, hang, eat memory or be killed: one call is lost, never the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.sandbox.isolation import Crashed, Killed, SandboxProcess, TimedOut


@pytest.fixture
def child() -> Iterator[SandboxProcess]:
    child = SandboxProcess(timeout_s=2, memory_bytes=256 << 20)
    yield child
    child.close()


def read_null() -> None:
    ctypes.string_at(0)


def crash_the_second_time(marker: str) -> str:
    """Crash unless the marker is there; leaves it."""
    if Path(marker).exists():
        return "survived"
    Path(marker).touch()
    os.abort()


def raise_unaccounted() -> None:
    raise ProcessingFailure(Stage.FETCH, Reason.CHANGED, "detail")


def answer_what_cannot_be_pickled() -> object:
    return lambda: None


def test_calls_are_answered_by_one_other_process(child: SandboxProcess) -> None:
    assert child.call(os.getpid) == child.call(os.getpid) != os.getpid()
    assert child.call(np.add, 1, 2) == 3


@pytest.mark.parametrize("function", [read_null, os.abort])
def test_a_crash_is_one_call(child: SandboxProcess, function) -> None:
    with pytest.raises(Crashed):
        child.call(function)
    assert child.call(os.getpid) != os.getpid()


def test_a_crash_that_a_fresh_child_survives_is_no_fault(
    child: SandboxProcess, tmp_path: Path
) -> None:
    assert child.call(crash_the_second_time, str(tmp_path / "marker")) == "survived"


def test_a_hang_is_ended(child: SandboxProcess) -> None:
    first = child.call(os.getpid)
    with pytest.raises(TimedOut):
        child.call(time.sleep, 600)
    assert child.call(os.getpid) != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_memory_is_bounded(child: SandboxProcess) -> None:
    with pytest.raises(MemoryError):
        child.call(bytearray, 1 << 30)
    assert len(child.call(bytes, 64 << 20)) == 64 << 20


def test_a_kill_from_outside_is_no_fault_of_the_call(child: SandboxProcess) -> None:
    with pytest.raises(Killed):
        child.call(os.kill, child.call(os.getpid), signal.SIGKILL)
    assert child.call(os.getpid)


def test_errors_come_back_as_they_are(child: SandboxProcess) -> None:
    with pytest.raises(ProcessingFailure) as caught:
        child.call(raise_unaccounted)
    assert (caught.value.reason, caught.value.detail) == (Reason.CHANGED, "detail")
    with pytest.raises(RuntimeError, match="no answer"):
        child.call(answer_what_cannot_be_pickled)


def test_no_child_outlives_a_parent_that_is_killed() -> None:
    """Even a child that hangs in native code."""
    script = (
        "import os, threading, time\n"
        "from transforms.sandbox.isolation import Isolated\n"
        "child = Isolated(timeout_s=600, memory_bytes=1 << 28)\n"
        "print(child.call(os.getpid), flush=True)\n"
        "threading.Thread(target=child.call, args=(time.sleep, 600), daemon=True).start()\n"
        "time.sleep(1)\n"
        "print('it hangs', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    grandchild = int(parent.stdout.readline())
    assert parent.stdout.readline() == b"it hangs\n"
    parent.kill()
    parent.wait()
    for _ in range(100):
        status = Path(f"/proc/{grandchild}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")
