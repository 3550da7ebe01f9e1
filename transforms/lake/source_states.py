"""Remember the sources whose state has changed and whose content has not, so that they are read once.

A chmod or a restored backup gives every file of an archive another state. The first run after it reads
them; see `lake.source_versions`. What it finds is kept in a hidden folder of the lake. This is a cache:
without it the files are read again. It has digests of names, and no names.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from functools import cached_property
from typing import Final

import pyarrow as pa

from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure
from transforms.lake.files import list_files, put_if_absent, remove_all
from transforms.lake.index_files import DamagedFile, hash_of, open_index_file, parquet_bytes
from transforms.lake.layout import Layout
from transforms.storage.schemes import join

LOG: Final = logging.getLogger(__name__)
FOLDER: Final = ".source_states"
GROUPS: Final = 256
"""Number of groups into which sources are hashed; each has a folder."""
MAX_FILES: Final = 8
"""Number of files of a group from which on they are merged."""


class SourceStates:
    """The known states of a group of sources."""

    def __init__(self, layout: Layout, group: int) -> None:
        self._layout = layout
        self._folder = folder_of(layout, group)
        self._files: list[str] = []
        self._added: dict[str, str] = {}

    def get(self, ref: ObjectRef) -> str | None:
        """Return the source version that has the content of a source in its present state, if known."""
        digest = ref.digest().hex()
        return self._added.get(digest) or self._known.get(digest)

    def add(self, ref: ObjectRef, source_version: str) -> None:
        """Add the source version that has the content of a source in its present state."""
        self._added[ref.digest().hex()] = source_version

    def save(self) -> None:
        """Write what was added. Idempotent; a lake that refuses the write is only logged."""
        if not self._added:
            return
        merged = len(self._files) >= MAX_FILES
        states = {**self._known, **self._added} if merged else self._added
        digests = sorted(states)
        name = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]
        table = pa.table({"digest": digests, "source_version": [states[d] for d in digests]})
        try:
            put_if_absent(
                join(self._folder, f"{name}.parquet"),
                parquet_bytes(table),
                scratch=self._layout.scratch(),
                file_mode=self._layout.file_mode,
            )
            if merged:
                remove_all(self._files)
        except (OSError, ProcessingFailure) as error:
            LOG.warning("states of sources cannot be written (%s)", error)
        self._added = {}

    @cached_property
    def _known(self) -> dict[str, str]:
        known: dict[str, str] = {}
        with contextlib.suppress(OSError):
            self._files = [found.uri for found in list_files(self._folder, ".parquet")]
        for uri in self._files:
            with contextlib.suppress(OSError, DamagedFile, KeyError), open_index_file(uri) as file:
                table = file.read(columns=["digest", "source_version"])
                pairs = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
                known.update(pairs)
        return known


def folder_of(layout: Layout, group: int) -> str:
    """Return the folder of the states of a group."""
    return join(layout.root, FOLDER, f"{group:03d}")


def group_of(source_uri: str) -> int:
    """Return the group of a source, 0..`GROUPS` - 1."""
    return hash_of(source_uri) % GROUPS
