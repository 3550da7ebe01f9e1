"""Write-ahead intents of rewrites, by which the next command completes a rewrite that was killed.

In an object store, which cannot exchange a set of objects atomically, a rewrite writes its intent, then
the merged file, then removes the replaced files, then the intent. A reader that applies intents sees each
row once at any time. A plain Parquet reader may see rows twice until the replaced files are removed.

On a file system, the intent names the folder that is exchanged for the partition's: files that were
appended to the partition just before the exchange are linked from it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Final

from transforms.core.reasons import Stage
from transforms.core.storage_failures import write_failure
from transforms.lake.files import exists, list_files, put_bytes, read_json, remove_all
from transforms.lake.layout import Layout
from transforms.storage.folders import sync_folder
from transforms.storage.local import uri_to_path
from transforms.storage.renames import link_missing
from transforms.storage.schemes import is_local, join, storage_of

FORMAT_1_FOLDER: Final = ".compaction"
"""Folder of the intents of interrupted compactions in lakes of format 1."""
EXCHANGED: Final = "rewrite-"
"""Prefix of the names of folders that are exchanged for those of partitions."""


@dataclass(frozen=True)
class RewriteIntent:
    """The intent to replace files of one partition by another file.

    Attributes:
        ingest_date: the partition, YYYY-MM-DD.
        merged: name of the new file; None if there is none, because no rows remain.
        replaced: names of the files to remove.
        folder: name in the lake's folder for partial files of the folder that is exchanged for the
            partition's, or None.
    """

    ingest_date: str
    merged: str | None
    replaced: tuple[str, ...]
    folder: str | None = None

    @property
    def files(self) -> frozenset[str]:
        """The names of the files that the rewrite writes or removes."""
        return frozenset((*self.replaced, self.merged or ""))


def write_intent(layout: Layout, name: str, intent: RewriteIntent) -> str:
    """Write the intent of a rewrite, and return its URI. Idempotent."""
    target = join(layout.rewrites, f"{name}.json")
    put_bytes(
        target,
        json.dumps(asdict(intent)).encode(),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )
    return target


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
    """Complete each rewrite whose merged file exists, abandon the others, and remove the intents.

    The caller holds the lake's `LOCK`.
    """
    for uri, intent in list_intents(layout):
        partition = layout.partition(intent.ingest_date)
        if intent.folder is not None:
            _keep_appended(layout, intent)
        if intent.merged is None or exists(join(partition, intent.merged)):
            remove_all(join(partition, name) for name in intent.replaced)
        storage_of(uri).remove(uri)
    if is_local(layout.root):
        for folder in uri_to_path(layout.scratch()).glob(f"{EXCHANGED}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _keep_appended(layout: Layout, intent: RewriteIntent) -> None:
    """Link what was appended to a partition after its files were listed and before the exchange."""
    folder = uri_to_path(layout.scratch()) / PurePath(str(intent.folder)).name
    partition = uri_to_path(layout.partition(intent.ingest_date))
    if folder.name.startswith(EXCHANGED) and folder.is_dir():
        try:
            link_missing(folder, partition, intent.files)
            sync_folder(partition)
        except OSError as error:
            raise write_failure(error, Stage.INDEX) from error
