"""A child that crashes, hangs, exceeds its memory or is killed costs one call, never the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.sandbox.child_process import (
    ChildCrashed,
    ChildKilled,
    ChildTimedOut,
    SandboxProcess,
)


@pytest.fixture
def child() -> Iterator[SandboxProcess]:
    child = SandboxProcess(timeout_s=2, memory_bytes=256 << 20)
    yield child
    child.close()


def dereference_null() -> None:
    ctypes.string_at(0)


def crash_once(marker: str) -> str:
    """Crash unless the marker file exists; create it."""
    if Path(marker).exists():
        return "survived"
    Path(marker).touch()
    os.abort()


def raise_processing_failure() -> None:
    raise ProcessingFailure(Stage.FETCH, Reason.CHANGED, "detail")


def return_an_unpicklable_object() -> object:
    return lambda: None


def test_calls_run_in_one_child(child: SandboxProcess) -> None:
    assert child.call(os.getpid) == child.call(os.getpid) != os.getpid()
    assert child.call(np.add, 1, 2) == 3


@pytest.mark.parametrize("function", [dereference_null, os.abort])
def test_a_crash_costs_one_call(child: SandboxProcess, function: Callable[[], object]) -> None:
    with pytest.raises(ChildCrashed):
        child.call(function)
    assert child.call(os.getpid) != os.getpid()


def test_a_crash_is_retried_in_a_fresh_child(child: SandboxProcess, tmp_path: Path) -> None:
    assert child.call(crash_once, str(tmp_path / "marker")) == "survived"


def test_a_hanging_call_times_out(child: SandboxProcess) -> None:
    first = child.call(os.getpid)
    with pytest.raises(ChildTimedOut):
        child.call(time.sleep, 600)
    assert child.call(os.getpid) != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_memory_is_limited(child: SandboxProcess) -> None:
    with pytest.raises(MemoryError):
        child.call(bytearray, 1 << 30)
    assert len(child.call(bytes, 64 << 20)) == 64 << 20


def test_a_kill_from_outside_is_not_a_crash(child: SandboxProcess) -> None:
    with pytest.raises(ChildKilled):
        child.call(os.kill, child.call(os.getpid), signal.SIGKILL)
    assert child.call(os.getpid)


def test_errors_are_raised_in_the_parent(child: SandboxProcess) -> None:
    with pytest.raises(ProcessingFailure) as caught:
        child.call(raise_processing_failure)
    assert (caught.value.reason, caught.value.detail) == (Reason.CHANGED, "detail")
    with pytest.raises(RuntimeError, match="no result"):
        child.call(return_an_unpicklable_object)


def test_a_child_that_hangs_in_native_code_ends_with_its_parent() -> None:
    script = (
        "import os, threading, time\n"
        "from transforms.sandbox.child_process import SandboxProcess\n"
        "child = SandboxProcess(timeout_s=600, memory_bytes=1 << 28)\n"
        "print(child.call(os.getpid), flush=True)\n"
        "threading.Thread(target=child.call, args=(time.sleep, 600), daemon=True).start()\n"
        "time.sleep(1)\n"
        "print('hanging', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"hanging\n"
        parent.kill()
    for _ in range(1200):
        status = Path(f"/proc/{grandchild}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent")
