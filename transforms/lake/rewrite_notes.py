"""Notes on rewrites in object stores: which index files another file has replaced.

A store cannot exchange a set of objects in one step. The note is written first, then the merged file,
then the replaced files are removed, then the note. A reader that knows notes sees each row once at
every moment; a plain Parquet reader may see rows twice until the replaced files are gone.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from transforms.lake.files import exists, list_files, put_bytes, read_bytes
from transforms.lake.layout import Layout
from transforms.storage.schemes import join, storage_of

FORMAT_1_FOLDER: Final = ".compaction"
"""Where lakes of format 1 have the notes of interrupted compactions."""


@dataclass(frozen=True)
class RewriteNote:
    """Which files of a partition another one replaces.

    Attributes:
        ingest_date: the partition, YYYY-MM-DD.
        merged: name of the new file; None: the rows of the replaced files are gone.
        replaced: names of the files that it replaces.
    """

    ingest_date: str
    merged: str | None
    replaced: tuple[str, ...]


def write_note(layout: Layout, name: str, note: RewriteNote) -> None:
    """Announce a rewrite; a repeat changes nothing."""
    target = join(layout.rewrites, f"{name}.json")
    put_bytes(target, json.dumps(asdict(note)).encode(), scratch=layout.scratch())


def list_notes(layout: Layout) -> list[tuple[str, RewriteNote]]:
    """Return the notes of rewrites that have not ended, with their URIs."""
    notes = []
    for folder in (layout.rewrites, join(layout.root, FORMAT_1_FOLDER)):
        for found in list_files(folder, ".json"):
            with contextlib.suppress(FileNotFoundError):
                content = json.loads(read_bytes(found.uri))
                content["replaced"] = tuple(content["replaced"])
                notes.append((found.uri, RewriteNote(**content)))
    return notes


def replaced_files(layout: Layout) -> list[tuple[str | None, list[str]]]:
    """Return for each rewrite under way the URI of the merged file, and those of the replaced."""
    pairs = []
    for _, note in list_notes(layout):
        partition = layout.partition(note.ingest_date)
        merged = None if note.merged is None else join(partition, note.merged)
        pairs.append((merged, [join(partition, name) for name in note.replaced]))
    return pairs


def finish_rewrites(layout: Layout) -> None:
    """Complete each rewrite whose merged file exists, forget the others, and remove the notes."""
    for uri, note in list_notes(layout):
        partition = layout.partition(note.ingest_date)
        if note.merged is None or exists(join(partition, note.merged)):
            for name in note.replaced:
                storage_of(partition).remove(join(partition, name))
        storage_of(uri).remove(uri)
