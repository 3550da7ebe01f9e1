"""Objects are read ahead in bounded memory, and as many at a time as decoders need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.read_ahead import START_READS, ReadAhead, Reservation
from transforms.core.worker_resources import (
    READ_AHEAD_BYTES,
    Concurrency,
    default_read_ahead_bytes,
    default_threads,
    memory_bytes,
    processors,
)

TIMEOUT_S = 30


class FakeRead:
    """An object whose parts wait until they may end."""

    def __init__(
        self, size: int, parts: int = 1, gate: threading.Event | None = None, error: str = ""
    ) -> None:
        self.memory_bytes, self._count, self._gate, self._error = size, parts, gate, error
        self.started = threading.Semaphore(0)
        self.calls = 0

    def parts(self) -> Sequence[Callable[[], None]]:
        return [self._part] * self._count

    def _part(self) -> None:
        self.calls += 1
        self.started.release()
        if self._gate is not None:
            assert self._gate.wait(TIMEOUT_S)
        if self._error:
            raise OSError(self._error)


class Results:
    """What has been read; memory is released only on request."""

    def __init__(self, *, release: bool = True) -> None:
        self.errors: list[BaseException | None] = []
        self.reservations: list[Reservation] = []
        self._release, self._count = release, threading.Semaphore(0)

    def __call__(self, error: BaseException | None, reservation: Reservation) -> None:
        self.errors.append(error)
        self.reservations.append(reservation)
        if self._release:
            reservation.release()
        self._count.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._count.acquire(timeout=TIMEOUT_S)


def test_memory_is_bounded_and_given_back() -> None:
    ahead, results, gate = ReadAhead(100, 8), Results(release=False), threading.Event()
    reads = [FakeRead(40, gate=gate) for _ in range(6)]
    for read in reads:
        ahead.submit(read, results)
    for read in reads[:2]:
        assert read.started.acquire(timeout=TIMEOUT_S)
    gate.set()
    results.wait(2)
    assert [read.calls for read in reads] == [1, 1, 0, 0, 0, 0]
    for number in range(4):
        results.reservations[number].release()
        results.reservations[number].release()  # once is enough
        results.wait(1)
    assert results.errors == [None] * 6
    assert ahead.peak_bytes == 80


def test_one_object_may_exceed_the_limit_alone() -> None:
    ahead, results = ReadAhead(100, 8), Results()
    for size in (10, 1000, 10):
        ahead.submit(FakeRead(size), results)
    results.wait(3)
    assert ahead.peak_bytes == 1000


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 4)), max_size=30), st.integers(1, 5))
def test_everything_is_read_within_the_limit(
    objects: list[tuple[int, int]], max_reads: int
) -> None:
    ahead, results = ReadAhead(100, max_reads), Results()
    reads = [FakeRead(size, parts) for size, parts in objects]
    for read in reads:
        ahead.submit(read, results)
    results.wait(len(reads))
    assert [read.calls for read in reads] == [parts for _, parts in objects]
    assert ahead.peak_bytes <= max([100, *(size for size, _ in objects)])


def test_an_error_ends_an_object_and_no_other() -> None:
    ahead, results = ReadAhead(1000, 1), Results()
    broken = FakeRead(10, parts=5, error="torn")
    for read in (FakeRead(10), broken, FakeRead(10, parts=3)):
        ahead.submit(read, results)
    results.wait(3)
    assert sorted(str(error) for error in results.errors) == ["None", "None", "torn"]
    assert broken.calls == 1


def test_the_number_of_reads_grows_only_while_decoders_wait() -> None:
    ahead, results, gate = ReadAhead(1000, START_READS + 2), Results(), threading.Event()
    ahead.grow()
    assert ahead.reads == START_READS  # nothing waits
    reads = [FakeRead(1, gate=gate) for _ in range(START_READS + 4)]
    for read in reads:
        ahead.submit(read, results)
    for _ in range(4):
        ahead.grow()
    assert ahead.reads == START_READS + 2  # the maximum
    for read in reads[: START_READS + 2]:
        assert read.started.acquire(timeout=TIMEOUT_S)
    assert [read.calls for read in reads[START_READS + 2 :]] == [0, 0]
    gate.set()
    results.wait(len(reads))


@pytest.mark.parametrize(
    ("cpu", "memory", "expected"),
    [
        ("100000 100000", str(4 << 30), (1, 4 << 30, 2, 256 << 20)),
        ("50000 100000", str(1 << 29), (1, 1 << 29, 2, READ_AHEAD_BYTES[0])),
    ],
)
def test_a_worker_looks_at_the_limits_of_its_container(
    tmp_path: Path, cpu: str, memory: str, expected: tuple[int, ...]
) -> None:
    (tmp_path / "cpu.max").write_text(f"{cpu}\n")
    (tmp_path / "memory.max").write_text(f"{memory}\n")
    found = (f(tmp_path) for f in (processors, memory_bytes, default_threads))
    assert (*found, default_read_ahead_bytes(tmp_path)) == expected


def test_without_limits_a_worker_has_its_machine(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert processors(tmp_path) == processors(tmp_path / "none") >= 1
    assert memory_bytes(tmp_path) == memory_bytes(tmp_path / "none") > 1 << 20


def test_given_limits_are_those_of_each_worker() -> None:
    given_limits = Concurrency(3, 1 << 20, 5)
    assert given_limits.threads_of_worker == 3
    assert given_limits.read_ahead_bytes_of_worker == 1 << 20
    low, high = READ_AHEAD_BYTES
    assert low <= Concurrency().read_ahead_bytes_of_worker <= high
