"""How a stream is asked to stop, and how its sources say that they have: small files of the lake.

A source and the process that started the job need not share a machine, and no engine has a call that
lets a job end what it began; the lake is what all of them reach.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from transforms.lake.files import exists, list_files, put_if_absent, read_bytes
from transforms.lake.layout import Layout
from transforms.storage.schemes import join, storage_of

FOLDER: Final = ".stream"
ASKED: Final = "stop"


@dataclass(frozen=True)
class DrainReport:
    """What a source leaves when it has stopped.

    Attributes:
        object_keys: of the objects that it gave out and that have no row.
    """

    object_keys: tuple[str, ...]


def request(layout: Layout) -> None:
    """Ask the stream that writes into a lake to stop."""
    put_if_absent(_name(layout, ASKED), b"stop\n", scratch=layout.scratch())


def is_requested(layout: Layout) -> bool:
    """Whether a lake's stream was asked to stop."""
    return exists(_name(layout, ASKED))


def report(layout: Layout, run_id: str, number: int, stopped: DrainReport) -> None:
    """Say that the source of one input has stopped."""
    name = _name(layout, f"{run_id}-{number}.json")
    put_if_absent(name, json.dumps(asdict(stopped)).encode(), scratch=layout.scratch())


def reports(layout: Layout, run_id: str, inputs: int) -> list[DrainReport]:
    """Return what those sources of a run said that have stopped."""
    names = [_name(layout, f"{run_id}-{number}.json") for number in range(inputs)]
    found = [json.loads(read_bytes(name)) for name in names if exists(name)]
    return [DrainReport(tuple(one["object_keys"])) for one in found]


def clear(layout: Layout) -> None:
    """Forget all of it."""
    for found in list_files(join(layout.root, FOLDER)):
        storage_of(found.uri).remove(found.uri)


def _name(layout: Layout, name: str) -> str:
    return join(layout.root, FOLDER, name)
