"""Note in `audit/` what was reported of a lake.

A note is a small immutable file about one report, written after its messages were delivered. What was
reported is the union of all notes, so processes that report at the same time need no lock. When there are
many, one process merges them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from transforms.core.run_id import new_run_id
from transforms.lake.append_log import LogShard
from transforms.lake.files import (
    exists,
    list_files,
    put_bytes,
    put_if_absent,
    read_json,
    remove_all,
)
from transforms.lake.index_files import DamagedFile
from transforms.lake.layout import Layout
from transforms.storage.schemes import join

SINCE: Final = "since"
NOTHING: Final = 0, ""
"""The last segment of a log of which nothing was reported."""
MAX_NOTES: Final = 32
"""Number of notes from which they are merged."""


@dataclass
class Reported:
    """What was reported.

    Attributes:
        logs: number of the last segment, and ids of the runs in it, by log.
        units: segments of batch runs, streams, changes of decisions, and batches of derived objects; see
            `segment_unit`, `stream_unit`, `change_unit` and `derived_unit`.
        ended: ids of runs whose end was reported.
        answers: ids of answers.
        files: names of the files of history and answers that were read, relative to the lake.
    """

    logs: dict[str, tuple[int, str]] = field(default_factory=dict)
    units: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))

    def shard_counts(self) -> list[int]:
        """Return the numbers of shards that the logs have had, ascending; see `log_name`."""
        return sorted({int(name.partition("-")[0]) for name in self.logs})

    def add(self, other: Reported) -> None:
        """Add what others have reported."""
        for log, last in other.logs.items():
            self.logs[log] = max(last, self.logs.get(log, NOTHING))
        for name in _SETS:
            getattr(self, name).update(getattr(other, name))

    def to_json(self) -> bytes:
        """Return the content of a note."""
        sets = {name: sorted(getattr(self, name)) for name in _SETS}
        return json.dumps({"logs": self.logs, **sets}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, content: Any) -> Reported:
        """Return what a note says."""
        sets = {name: set(map(str, content.get(name, ()))) for name in _SETS}
        logs = {log: (int(last[0]), str(last[1])) for log, last in content.get("logs", {}).items()}
        return cls(logs, **sets)


_SETS: Final = [one.name for one in fields(Reported) if one.name != "logs"]


def log_name(log: LogShard) -> str:
    """Return the key of a log."""
    return f"{log.shards:03d}-{log.shard:03d}"


def segment_unit(run_id: str, log: LogShard) -> str:
    """Return the key of the rows that a batch run, or a slice of one, has appended to a log."""
    return f"{run_id}@{log_name(log)}"


def stream_unit(run: str) -> str:
    """Return the key of a run whose rows have the number of their segment in `run_id`."""
    return f"{run}@stream"


def change_unit(run_id: str, superseded_at_us: int) -> str:
    """Return the key of decisions that a run has changed together."""
    return f"{run_id}@{superseded_at_us}"


def derived_unit(run_id: str, derived_at_us: int) -> str:
    """Return the key of rows about derived objects that a run has written together."""
    return f"{run_id}@derived-{derived_at_us}"


class Notes:
    """Read and write the notes of a lake. Not thread-safe.

    Args:
        layout: the lake.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._read: set[str] = set()
        self._reported = Reported()

    def begin(self, since: str) -> None:
        """Note that runs whose ids sort after `since` are reported, unless that was noted before.

        Raises:
            ProcessingFailure: the lake's storage refused the write.
        """
        layout = self._layout
        put_if_absent(
            self._uri(SINCE),
            json.dumps({"run_id": since}).encode(),
            scratch=layout.scratch(),
            file_mode=layout.file_mode,
        )

    def since(self) -> str:
        """Return the id after which those of reported runs sort.

        Raises:
            DamagedFile: the note is damaged.
        """
        uri = self._uri(SINCE)
        try:
            return str(read_json(uri)["run_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFile(
                f"{uri} is damaged; restore it from a backup, or remove it: events are then reported "
                "from the next run on"
            ) from error

    def load(self) -> Reported:
        """Return what was reported; only notes that are new are read.

        Raises:
            DamagedFile: a note is damaged.
        """
        while True:
            uris = self._list()
            try:
                for uri in uris:
                    if uri not in self._read:
                        self._reported.add(_parse(uri))
                        self._read.add(uri)
            except FileNotFoundError:  # merged since the listing
                if self._list() == uris:
                    raise
                continue
            self._read.intersection_update(uris)
            return self._reported

    def add(self, new: Reported) -> None:
        """Note what was reported.

        Raises:
            ProcessingFailure: the lake's storage refused the write.
        """
        if not new:
            return
        self._put(new)
        self._reported.add(new)
        if len(self._read) > MAX_NOTES:
            self._merge()

    def _merge(self) -> None:
        """Replace the notes that were read by one; safe to kill, since notes may repeat each other."""
        reported, merged = self._reported, sorted(self._read)
        gone = [name for name in reported.files if not exists(join(self._layout.root, name))]
        reported.files.difference_update(gone)
        self._put(reported)
        remove_all(merged)
        self._read.difference_update(merged)

    def _put(self, content: Reported) -> None:
        layout = self._layout
        uri = self._uri(new_run_id())
        put_bytes(uri, content.to_json(), scratch=layout.scratch(), file_mode=layout.file_mode)
        self._read.add(uri)

    def _list(self) -> list[str]:
        since = self._uri(SINCE)
        return [one.uri for one in list_files(self._layout.audit, ".json") if one.uri != since]

    def _uri(self, name: str) -> str:
        return join(self._layout.audit, f"{name}.json")


def _parse(uri: str) -> Reported:
    try:
        return Reported.from_json(read_json(uri))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise DamagedFile(
            f"{uri} is damaged; remove it: what it notes is then reported again"
        ) from error


def not_read(layout: Layout, uris: Iterable[str], reported: Reported) -> list[str]:
    """Return the files that no report has read."""
    return [uri for uri in uris if layout.relative(uri) not in reported.files]
