"""A child that crashes, exits, hangs, lies or is killed costs one call, never the parent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import faulty_decoders as faults
from transforms.sandbox.child_process import (
    ChildCrashed,
    ChildKilled,
    ChildRaised,
    ChildTimedOut,
    SandboxProcess,
)
from transforms.sandbox.fork_server import ForkServer


def new_child(server: ForkServer = faults.SERVER, timeout_s: float = 60) -> SandboxProcess:
    return SandboxProcess(timeout_s=timeout_s, memory_bytes=256 << 20, server=server)


@pytest.fixture
def child() -> Iterator[SandboxProcess]:
    child = new_child()
    yield child
    child.close()


@pytest.fixture
def impatient() -> Iterator[SandboxProcess]:
    child = new_child(timeout_s=0.5)
    yield child
    child.close()


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_until_gone(pid: int) -> None:
    for _ in range(1200):
        if not is_running(pid):
            return
        time.sleep(0.1)
    pytest.fail("the process still runs")


def test_calls_run_in_one_child(child: SandboxProcess) -> None:
    assert child.call(os.getpid) == child.call(os.getpid) != os.getpid()
    assert child.call(max, [1, 2]) == 2


@pytest.mark.parametrize(
    "function",
    [
        faults.dereference_null,
        faults.crash_always,
        faults.exit_successfully,
        faults.exit_with_an_error,
        faults.exit_from_a_thread,
        pytest.param(faults.close_the_connection, marks=pytest.mark.slow),
        faults.answer_garbage,
        faults.answer_a_pickle,
        faults.answer_what_does_not_parse,
        faults.answer_too_much,
        faults.announce_too_much,
        faults.answer_another_call,
        faults.answer_twice,
    ],
    ids=lambda function: function.__name__,
)
def test_a_child_that_ends_or_lies_costs_one_call(function: Callable[[], Any]) -> None:
    child = new_child()
    with pytest.raises(ChildCrashed):
        child.call(function)
    assert child.call(os.getpid) != os.getpid()
    child.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [faults.answer_partially, faults.answer_slowly],
    ids=lambda function: function.__name__,
)
def test_an_answer_that_never_ends_times_out(
    impatient: SandboxProcess, function: Callable[[], Any]
) -> None:
    with pytest.raises(ChildTimedOut):
        impatient.call(function)
    assert impatient.call(os.getpid)


def test_a_crash_is_retried_in_a_fresh_child(child: SandboxProcess) -> None:
    first = child.call(os.getpid)
    assert child.call(faults.count_calls) == 1
    assert child.call(faults.crash_unless_first_call) == "survived"
    assert child.call(os.getpid) != first


@pytest.mark.slow
def test_a_hanging_call_times_out(impatient: SandboxProcess) -> None:
    first = impatient.call(os.getpid)
    with pytest.raises(ChildTimedOut):
        impatient.call(time.sleep, 600)
    assert impatient.call(os.getpid) != first
    assert not is_running(first)


def test_memory_is_limited(child: SandboxProcess) -> None:
    with pytest.raises(ChildRaised, match="MemoryError"):
        child.call(bytearray, 1 << 30)
    assert len(child.call(bytes, 1 << 20)) == 1 << 20


def test_a_kill_from_outside_is_not_a_crash(child: SandboxProcess) -> None:
    pid = child.call(os.getpid)
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(ChildKilled):
        child.call(time.sleep, 600)
    assert child.call(os.getpid) != pid


def test_a_child_that_was_killed_while_it_was_idle_is_replaced(child: SandboxProcess) -> None:
    pid = child.call(os.getpid)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert child.call(os.getpid) != pid


def test_other_signals_are_left_to_the_parent(child: SandboxProcess) -> None:
    """A service manager sends SIGTERM to all processes of a service, a terminal SIGINT."""
    pid = child.call(os.getpid)
    server = child.call(os.getppid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
        os.kill(server, number)
    assert child.call(os.getpid) == pid
    other = new_child()
    assert other.call(os.getppid) == server
    other.close()


@pytest.mark.slow
def test_a_killed_server_is_replaced() -> None:
    server = ForkServer(["os"])
    idle, busy = new_child(server), new_child(server)
    pid = idle.call(os.getppid)
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(ChildKilled):
        busy.call(time.sleep, 600)
    assert idle.call(os.getppid) == busy.call(os.getppid) != pid
    idle.close()
    busy.close()
    server.close()


def test_the_name_of_an_exception_is_raised(child: SandboxProcess) -> None:
    for function, name in (
        (faults.raise_system_exit, "SystemExit"),
        (faults.answer_an_unencodable_value, "TypeError"),
    ):
        with pytest.raises(ChildRaised, match=name):
            child.call(function)


def test_a_value_that_does_not_parse_is_a_crash(child: SandboxProcess) -> None:
    with pytest.raises(ChildCrashed):
        child.call(str, "no number", parse=int)
    assert child.call(str, "7", parse=int) == 7


@pytest.mark.slow
def test_children_end_with_their_parent_even_when_they_hang() -> None:
    script = (
        "import os, threading, time\n"
        "from transforms.sandbox.child_process import SandboxProcess\n"
        "child = SandboxProcess(timeout_s=600, memory_bytes=1 << 28)\n"
        "print(child.call(os.getpid), child.call(os.getppid), flush=True)\n"
        "threading.Thread(target=child.call, args=(time.sleep, 600), daemon=True).start()\n"
        "time.sleep(1)\n"
        "print('hanging', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        descendants = [int(pid) for pid in parent.stdout.readline().split()]
        assert parent.stdout.readline() == b"hanging\n"
        parent.kill()
    for pid in descendants:
        wait_until_gone(pid)


HIDE_PROCESSES = (
    "mount -t proc -o hidepid=invisible,gid=12345 proc /proc && "
    'exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace "$@"'
)


@pytest.mark.slow
def test_limits_hold_where_proc_hides_the_child() -> None:
    """As with `ProtectProc=invisible` of systemd."""
    hidden = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", HIDE_PROCESSES, "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*hidden, "true"], capture_output=True).returncode
    ):
        pytest.skip("needs unshare, setpriv, and the permission to mount /proc")
    script = (
        "import os\n"
        "from transforms.sandbox.child_process import ChildTimedOut, SandboxProcess\n"
        "child = SandboxProcess(timeout_s=0.5, memory_bytes=1 << 28)\n"
        "print(os.path.exists(f'/proc/{child.pid}'))\n"
        "try:\n"
        "    child.call(sum, range(10**10))\n"
        "except ChildTimedOut:\n"
        "    print('timed out')\n"
    )
    done = subprocess.run(
        [*hidden, sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\ntimed out\n"
