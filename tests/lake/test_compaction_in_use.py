"""Compaction disturbs neither a stream's replica nor a verification nor a stream's summary."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lake.rows import (
    append_rows,
    new_lake,
    place,
    replica_of,
    set_clock,
    sources_in,
)
from tests.leftovers import Killed, abandon
from transforms.core.reasons import ProcessingFailure
from transforms.lake import index_files
from transforms.lake import rewrite as rewrite_module
from transforms.lake.append_log import LogShard
from transforms.lake.compaction import compact
from transforms.lake.files import remove_partial_files
from transforms.lake.index_replica import IndexReplica
from transforms.lake.journal import list_journal, remove_journal_files
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.run_counts import count_stream
from transforms.lake.verify import verify_lake
from transforms.storage.renames import exchange

DAYS = [f"2026-03-{day:02d}" for day in range(1, 6)]
AFTER = "2026-03-06"
EACH = 3


@pytest.fixture(params=[True, False], ids=["exchange", "intents"])
def layout(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Layout:
    """A lake of several days, on a file system that exchanges folders or on one that does not."""
    if not request.param:
        monkeypatch.setattr(rewrite_module, "exchange", lambda one, other: False)
    layout = new_lake(tmp_path / "lake")
    with pytest.MonkeyPatch.context() as clock:
        for day, number in itertools.product(DAYS, range(EACH)):
            set_clock(clock, day)
            name = f"{day}-{number}"
            uid = f"1.{DAYS.index(day)}.{number}"
            row = place(layout, f"/in/{name}", name.encode(), sop_instance_uid=uid)
            assert append_rows(layout, row, log=LogShard(EACH, number)) == 1
    remove_journal_files(layout, list_journal(layout))
    return layout


def all_sources() -> list[str]:
    return [f"/in/{day}-{number}" for day in DAYS for number in range(EACH)]


def versions() -> list[tuple[str, str]]:
    return [(source, "1-1") for source in all_sources()]


def check_replica(layout: Layout) -> None:
    with replica_of(layout) as replica:
        check(replica)


def check(replica: IndexReplica) -> None:
    replica.refresh()
    assert replica.existing(versions()) == set(versions())


def check_verify(layout: Layout) -> None:
    report = verify_lake(layout)
    assert report.violations == []
    assert report.rows == len(all_sources())


def check_counts(layout: Layout) -> None:
    counts = count_stream(layout, "r", frozenset())
    assert counts.counts["routed"] == len(all_sources())


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_replica, check_verify, check_counts])
def test_files_that_are_merged_after_they_were_listed_are_listed_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, check: Callable[[Layout], None]
) -> None:
    list_index = index_files.list_index
    days = iter([*DAYS[1:], AFTER])
    compacted: list[int] = []

    def list_and_compact(of: Layout) -> list[str]:
        """List the index, and compact one day more."""
        files = list_index(of)
        if (before := next(days, None)) is not None:
            compacted.append(len(compact(of, before)))
        return files

    monkeypatch.setattr(index_files, "list_index", list_and_compact)
    check(layout)
    assert compacted == [1] * len(DAYS)
    check(layout)


@pytest.mark.slow
def test_compaction_beside_readers_in_loops(layout: Layout) -> None:
    done = threading.Event()
    errors: list[BaseException] = []
    rounds = dict.fromkeys(["replica", "verify", "summary"], 0)

    def loop(name: str, check: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                check()
                rounds[name] += 1
        except BaseException as error:
            errors.append(error)

    with replica_of(layout) as replica:
        checks = {
            "replica": lambda: check(replica),
            "verify": lambda: check_verify(layout),
            "summary": lambda: check_counts(layout),
        }
        threads = [threading.Thread(target=loop, args=item) for item in checks.items()]
        for thread in threads:
            thread.start()
        for before in (*DAYS[1:], AFTER):
            compact(layout, before)
        while not errors and not all(rounds.values()):
            done.wait(0.01)
        done.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert sources_in(layout) == all_sources()


@pytest.mark.slow
@pytest.mark.parametrize("opening", [open_lake, lambda layout: compact(layout, AFTER)])
def test_a_kill_after_an_exchange_loses_no_segment_appended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opening: Callable[[Layout], Any]
) -> None:
    """The journal does not have its row any more: it was swept when the index had it."""
    layout = new_lake(tmp_path / "lake")
    set_clock(monkeypatch, DAYS[0])
    for number in range(2):
        row = place(layout, f"/in/{number}", str(number).encode(), sop_instance_uid=f"1.{number}")
        append_rows(layout, row, log=LogShard(EACH, number))
    late = place(layout, "/in/late", b"late", sop_instance_uid="1.9")

    def append_and_die(one: Path, other: Path) -> bool:
        append_rows(layout, late, log=LogShard(EACH, 2))
        remove_journal_files(layout, list_journal(layout))
        exchange(one, other)
        raise Killed

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(rewrite_module, "exchange", append_and_die)
        compact(layout, before=AFTER)
    assert "/in/late" not in sources_in(layout)
    abandon(Path(layout.scratch()))
    remove_partial_files(layout)
    opening(layout)
    assert sources_in(layout) == ["/in/0", "/in/1", "/in/late"]
    assert verify_lake(layout).violations == []
    assert not list(Path(layout.scratch()).iterdir())
    assert not list(Path(layout.root).glob(".rewrite/*"))


def test_a_full_disk_during_an_exchange_loses_no_segment_appended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder alone has the segment, and it cannot be linked into the new one."""
    layout = new_lake(tmp_path / "lake")
    set_clock(monkeypatch, DAYS[0])
    for number in range(2):
        row = place(layout, f"/in/{number}", str(number).encode(), sop_instance_uid=f"1.{number}")
        append_rows(layout, row, log=LogShard(EACH, number))
    late = place(layout, "/in/late", b"late", sop_instance_uid="1.9")

    def append_and_fill(one: Path, other: Path) -> bool:
        monkeypatch.setattr(rewrite_module, "exchange", exchange)
        append_rows(layout, late, log=LogShard(EACH, 2))
        monkeypatch.setattr(os, "link", fail)
        return exchange(one, other)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rewrite_module, "exchange", append_and_fill)
    with pytest.raises(ProcessingFailure):
        compact(layout, before=AFTER)
    assert sources_in(layout) == ["/in/0", "/in/1", "/in/late"]
