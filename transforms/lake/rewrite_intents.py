"""Write-ahead intents of rewrites in object stores, which cannot exchange a set of objects atomically.

A rewrite writes its intent, then the merged file, then removes the replaced files, then the intent. A
reader that applies intents sees each row once at any time. A plain Parquet reader may see rows twice
until the replaced files are removed.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from transforms.lake.files import exists, list_files, put_bytes, read_json, remove_all
from transforms.lake.layout import Layout
from transforms.storage.schemes import join, storage_of

FORMAT_1_FOLDER: Final = ".compaction"
"""Folder of the intents of interrupted compactions in lakes of format 1."""


@dataclass(frozen=True)
class RewriteIntent:
    """The intent to replace files of one partition by another file.

    Attributes:
        ingest_date: the partition, YYYY-MM-DD.
        merged: name of the new file; None if there is none, because no rows remain.
        replaced: names of the files to remove.
    """

    ingest_date: str
    merged: str | None
    replaced: tuple[str, ...]


def write_intent(layout: Layout, name: str, intent: RewriteIntent) -> None:
    """Write the intent of a rewrite. Idempotent."""
    target = join(layout.rewrites, f"{name}.json")
    put_bytes(
        target,
        json.dumps(asdict(intent)).encode(),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )


def list_intents(layout: Layout) -> list[tuple[str, RewriteIntent]]:
    """Return the URI and content of each intent of an unfinished rewrite."""
    intents = []
    for folder in (layout.rewrites, join(layout.root, FORMAT_1_FOLDER)):
        for found in list_files(folder, ".json"):
            with contextlib.suppress(FileNotFoundError):
                content = read_json(found.uri)
                content["replaced"] = tuple(content["replaced"])
                intents.append((found.uri, RewriteIntent(**content)))
    return intents


def replaced_files(layout: Layout) -> list[tuple[str | None, list[str]]]:
    """Return the merged file, if any, and the replaced files of each unfinished rewrite, as URIs."""
    pairs = []
    for _, intent in list_intents(layout):
        partition = layout.partition(intent.ingest_date)
        merged = None if intent.merged is None else join(partition, intent.merged)
        pairs.append((merged, [join(partition, name) for name in intent.replaced]))
    return pairs


def finish_rewrites(layout: Layout) -> None:
    """Complete each rewrite whose merged file exists, abandon the others, and remove the intents."""
    for uri, intent in list_intents(layout):
        partition = layout.partition(intent.ingest_date)
        if intent.merged is None or exists(join(partition, intent.merged)):
            remove_all(join(partition, name) for name in intent.replaced)
        storage_of(uri).remove(uri)
