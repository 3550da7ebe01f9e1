"""Measure memory by kind, and CPU time, of all descendants of this process from /proc (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EVERY_S = 0.05
PR_SET_CHILD_SUBREAPER = 36
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ORPHAN_TIMEOUT_S = 5.0

KINDS = {
    "transforms.sandbox.serve": "decoders",
    "StandaloneSessionClusterEntrypoint": "JobManager",
    "TaskManagerRunner": "TaskManager",
    "JobServer.java": "job server",
    "worker_pool_main": "pool",
    "sdk_worker": "SDK workers",
    "\0pipeline\0route\0": "route",
}
"""Kind of process by a substring of its command line; the first match counts."""
OTHER = "other"
TOTAL = "all"


@dataclass(frozen=True)
class Process:
    """A process: its parent, whether it is a zombie, and its clock ticks with reaped children."""

    pid: int
    parent: int
    zombie: bool
    ticks: int


@dataclass
class Usage:
    """Resource usage of a command and of all descendants of this process while it ran.

    Attributes:
        code: Exit status of the command.
        wall_s: Wall time in seconds.
        cpu_s: User and system time in seconds, including processes that have ended.
        rss: Peak resident set size in bytes by kind, summed over its processes; pages that processes
            share count in each.
        pss: Peak proportional set size in bytes by kind: shared pages are divided among processes.
        read: Bytes read by system calls; mapped files are not included.
        written: Bytes written by system calls.
        peak_rss: Largest peak resident set size in bytes of one process. Unlike ru_maxrss, which begins
            with the peak of the process that has started it, this is its own.
        processes: Peak number of processes by kind.
        samples: Number of samples of memory.
    """

    code: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    read: int = 0
    written: int = 0
    rss: dict[str, int] = field(default_factory=dict)
    pss: dict[str, int] = field(default_factory=dict)
    peak_rss: int = 0
    processes: dict[str, int] = field(default_factory=dict)
    samples: int = 0


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that their CPU time is reported to this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def measure(command: Sequence[str]) -> tuple[Usage, str]:
    """Run a command and measure it; return its usage and what it has printed.

    Raises:
        SystemExit: it has failed; its errors are printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        usage = watch(command, every_s=EVERY_S, stdout=out, stderr=err, kept=children())
        if usage.code:
            sys.stderr.write(err.read_text())
            raise SystemExit(usage.code)
        return usage, out.read_text()


def watch(
    command: Sequence[str], *, every_s: float, stdout: Path, stderr: Path, kept: frozenset[int]
) -> Usage:
    """Run a command and measure it together with all other descendants of this process.

    CPU time is exact: the kernel reports it to whoever reaps a process, and this process reaps orphans.

    Args:
        command: Command to run, in a session of its own.
        every_s: Interval of memory samples in seconds.
        stdout: File for its standard output.
        stderr: File for its standard error.
        kept: Children of this process that other code reaps.
    """
    usage = Usage()
    reaped = 0.0
    cpu_before, io_before = sum(p.ticks for p in descendants()) / CLOCK_TICKS_PER_S, _io()
    started = time.monotonic()
    with stdout.open("wb") as out, stderr.open("wb") as err:
        run = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    pidfd = os.pidfd_open(run.pid)
    try:
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        while not ended.poll(1000 * max(0.0, started + every_s * usage.samples - time.monotonic())):
            _sample(usage)
            reaped += reap(kept | {run.pid})
        usage.wall_s = time.monotonic() - started
        _, status, own = os.wait4(run.pid, 0)
        run.returncode = usage.code = os.waitstatus_to_exitcode(status)
        reaped += own.ru_utime + own.ru_stime
        deadline = time.monotonic() + ORPHAN_TIMEOUT_S
        while _adopted(kept) and time.monotonic() < deadline:
            time.sleep(0.05)
            reaped += reap(kept)
        cpu_after = sum(p.ticks for p in descendants()) / CLOCK_TICKS_PER_S
        usage.cpu_s = reaped + cpu_after - cpu_before
        usage.read, usage.written = (now - then for now, then in zip(_io(), io_before, strict=True))
    finally:
        os.close(pidfd)
        if run.returncode is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        for orphan in _adopted(kept):
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan.pid, signal.SIGKILL)
            os.waitpid(orphan.pid, 0)
    return usage


def _io() -> tuple[int, int]:
    """Return bytes read and written by this process and the processes it has reaped (proc(5), io)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    values = dict(line.split(": ") for line in lines)
    return int(values["rchar"]), int(values["wchar"])


def children() -> frozenset[int]:
    """Return the ids of the children of this process."""
    return frozenset(p.pid for p in descendants() if p.parent == os.getpid())


def descendants() -> list[Process]:
    """Return all descendants of this process."""
    children_of: dict[int, list[Process]] = defaultdict(list)
    for process in _processes():
        children_of[process.parent].append(process)
    found, pending = [], [os.getpid()]
    while pending:
        children = children_of.get(pending.pop(), [])
        found += children
        pending += [process.pid for process in children]
    return found


def reap(kept: frozenset[int] = frozenset()) -> float:
    """Reap adopted processes that have ended; return their CPU time in seconds.

    Args:
        kept: Children of this process that other code reaps.
    """
    seconds = 0.0
    for process in _adopted(kept):
        if process.zombie:
            _, _, own = os.wait4(process.pid, 0)
            seconds += own.ru_utime + own.ru_stime
    return seconds


def _processes() -> Iterator[Process]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                stat = Path(entry.path, "stat").read_text(errors="replace")
                fields = stat.rpartition(")")[2].split()
                ticks = sum(map(int, fields[11:15]))  # proc(5): utime, stime, cutime, cstime
                yield Process(int(entry.name), int(fields[1]), fields[0] == "Z", ticks)


def _sample(usage: Usage) -> None:
    """Sample memory once and update the peaks."""
    rss: dict[str, int] = defaultdict(int)
    pss: dict[str, int] = defaultdict(int)
    number: dict[str, int] = defaultdict(int)
    for process in descendants():
        if process.zombie:
            continue
        with contextlib.suppress(OSError):  # it has ended
            kind = _kind(Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace"))
            sizes = _memory(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
            status = Path(f"/proc/{process.pid}/status").read_text(errors="replace")
            usage.peak_rss = max(usage.peak_rss, _peak(status))
            for name in (kind, TOTAL):
                rss[name] += sizes["Rss"]
                pss[name] += sizes["Pss"]
                number[name] += 1
    for peaks, now in ((usage.rss, rss), (usage.pss, pss), (usage.processes, number)):
        peaks.update({kind: max(value, peaks.get(kind, 0)) for kind, value in now.items()})
    usage.samples += 1


def _kind(command: str) -> str:
    return next((kind for mark, kind in KINDS.items() if mark in command), OTHER)


def _memory(rollup: str) -> dict[str, int]:
    """Return RSS and PSS in bytes from a smaps_rollup, which is empty for a process that has ended."""
    sizes = {"Rss": 0, "Pss": 0}
    for line in rollup.splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = 1024 * int(rest.split()[0])
    return sizes


def _peak(status: str) -> int:
    """Return the peak resident set size in bytes from /proc/PID/status; 0 if the process has ended."""
    _, _, after = status.partition("\nVmHWM:")
    return 1024 * int(after.split()[0]) if after else 0


def _adopted(kept: frozenset[int]) -> list[Process]:
    me = os.getpid()
    return [p for p in descendants() if p.parent == me and p.pid not in kept]
