"""Memory by kind and processor time of all the processes below this one, from /proc (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LINGER_S = 5.0

KINDS = {
    "multiprocessing.forkserver": "decoders",
    "multiprocessing.resource_tracker": "decoders",
    "StandaloneSessionClusterEntrypoint": "JobManager",
    "TaskManagerRunner": "TaskManager",
    "JobServer.java": "job server",
    "worker_pool_main": "pool",
    "sdk_worker": "SDK workers",
    "\0pipeline\0route\0": "route",
}
"""What a command line holds, and the kind of process that it tells; the first that fits."""
OTHER = "other"
TOTAL = "all"


@dataclass(frozen=True)
class Process:
    """One line of /proc: its parent, whether it has ended, and clock ticks with its children's."""

    pid: int
    parent: int
    zombie: bool
    triggers: int


@dataclass
class Usage:
    """What a command and all the processes below this one used while it ran.

    Attributes:
        code: its exit status.
        wall_s: from its start to its end.
        cpu_s: user and system time, of processes that ended meanwhile too.
        rss: highest resident bytes by kind, each the sum over its processes at one moment; pages
            that processes share count in each.
        pss: the same with shared pages divided among those who share them, so that it adds up.
        read: bytes that system calls read, mapped files excepted.
        written: bytes that system calls wrote.
        processes: most processes of a kind at one moment.
        samples: moments.
    """

    code: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    read: int = 0
    written: int = 0
    rss: dict[str, int] = field(default_factory=dict)
    pss: dict[str, int] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    samples: int = 0


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that their times are told here."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def watch(
    command: Sequence[str], *, every_s: float, stdout: Path, stderr: Path, kept: frozenset[int]
) -> Usage:
    """Run a command to its end and measure it, with all else that runs below this process.

    Processor time is exact: who waits for a child is told its time by the kernel, and this process
    waits for those whose parent has ended.

    Args:
        command: to run, in a session of its own.
        every_s: seconds between two samples of memory.
        stdout: file for its standard output.
        stderr: file for its standard error.
        kept: children of this process that somebody else waits for.
    """
    usage = Usage()
    reaped = 0.0
    before, io_before = sum(p.triggers for p in descendants()) / TICKS_PER_S, _io()
    started = time.monotonic()
    with stdout.open("wb") as out, stderr.open("wb") as err:
        run = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    handle = os.pidfd_open(run.pid)
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        while not ended.poll(1000 * max(0.0, started + every_s * usage.samples - time.monotonic())):
            _sample(usage)
            reaped += reap(kept | {run.pid})
        usage.wall_s = time.monotonic() - started
        _, status, own = os.wait4(run.pid, 0)
        run.returncode = usage.code = os.waitstatus_to_exitcode(status)
        reaped += own.ru_utime + own.ru_stime
        until = time.monotonic() + LINGER_S
        while _adopted(kept) and time.monotonic() < until:
            time.sleep(0.05)
            reaped += reap(kept)
        after = sum(p.triggers for p in descendants()) / TICKS_PER_S
        usage.cpu_s = reaped + after - before
        usage.read, usage.written = (now - then for now, then in zip(_io(), io_before, strict=True))
    finally:
        os.close(handle)
        if run.returncode is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        for left in _adopted(kept):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)
            os.waitpid(left.pid, 0)
    return usage


def _io() -> tuple[int, int]:
    """Bytes that this process and those that it has waited for read and wrote (proc(5), io)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    values = dict(line.split(": ") for line in lines)
    return int(values["rchar"]), int(values["wchar"])


def children() -> frozenset[int]:
    """Return the children of this process."""
    return frozenset(p.pid for p in descendants() if p.parent == os.getpid())


def descendants() -> list[Process]:
    """Return all processes below this one."""
    below: dict[int, list[Process]] = defaultdict(list)
    for process in _processes():
        below[process.parent].append(process)
    found, open_ = [], [os.getpid()]
    while open_:
        of_one = below.get(open_.pop(), [])
        found += of_one
        open_ += [process.pid for process in of_one]
    return found


def reap(kept: frozenset[int] = frozenset()) -> float:
    """Wait for adopted processes that have ended; give back their seconds.

    Args:
        kept: children of this process that somebody else waits for.
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
            with contextlib.suppress(OSError):  # it is gone
                stat = Path(entry.path, "stat").read_text(errors="replace")
                fields = stat.rpartition(")")[2].split()
                triggers = sum(map(int, fields[11:15]))  # proc(5): utime, stime, cutime, cstime
                yield Process(int(entry.name), int(fields[1]), fields[0] == "Z", triggers)


def _sample(usage: Usage) -> None:
    """Take one sample of memory into the peaks."""
    rss: dict[str, int] = defaultdict(int)
    pss: dict[str, int] = defaultdict(int)
    number: dict[str, int] = defaultdict(int)
    for process in descendants():
        if process.zombie:
            continue
        with contextlib.suppress(OSError):  # it is gone
            kind = _kind(Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace"))
            sizes = _memory(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
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
    """Bytes by name from a smaps_rollup, which is empty for a process that has ended."""
    sizes = {"Rss": 0, "Pss": 0}
    for line in rollup.splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = 1024 * int(rest.split()[0])
    return sizes


def _adopted(kept: frozenset[int]) -> list[Process]:
    me = os.getpid()
    return [p for p in descendants() if p.parent == me and p.pid not in kept]
