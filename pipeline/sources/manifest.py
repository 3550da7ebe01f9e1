"""Read manifests: lists of paths and URIs, inventories of object stores, and standard input."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, PBegin

from pipeline.sources.archives import expand_archive
from pipeline.sources.inventory import BadEntry, Entry
from pipeline.sources.manifest_lines import BadLine
from pipeline.sources.manifest_parts import (
    UnreadableManifest,
    entries_of,
    parts_of,
    standard_input_parts,
)
from pipeline.sources.outputs import REFS, SKIPPED, SourceOutput, to_output
from transforms.config.route_config import RouteConfig
from transforms.core.batch_sizes import MANIFEST_LOOKUP_BATCH
from transforms.core.manifest_part import LIST, ManifestPart
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.storage_failures import read_failure
from transforms.storage.local import uri_to_path
from transforms.storage.names import LakeFinder, split_uri
from transforms.storage.schemes import absolute, is_local, scheme_of, storage_of, uri_problem
from transforms.storage.selection import Skip, Skipped

STANDARD_INPUT: Final = "-"
LOOKUP_THREADS: Final = 16
"""Number of parallel lookups, which are limited by the latency of a store."""
_Found = ObjectRef | OSError | ProcessingFailure | Skipped


@dataclass
class ReadManifests(beam.PTransform[PBegin, DoOutputsTuple]):
    """Read manifests.

    Returns references in `REFS`, listed objects that do not exist and bad lines in `FAILED`, and why
    other entries are skipped in `SKIPPED`. Only parts of manifests cross a shuffle before the lookup, so
    that no list of objects is held in memory.
    """

    config: RouteConfig

    def expand(self, pbegin: PBegin) -> DoOutputsTuple:
        inputs = self.config.inputs
        numbers = [n for n, uri in enumerate(inputs, 1) if uri != STANDARD_INPUT]
        piped = [part for n in range(1, len(inputs) + 1) if n not in numbers
                 for part in standard_input_parts(n)]  # fmt: skip
        parts = (
            pbegin
            | "Manifests" >> beam.Create(numbers).with_output_types(int)
            | "Split" >> beam.FlatMap(_split, self.config).with_output_types(ManifestPart)
        )
        from_stdin = pbegin | "StandardInput" >> beam.Create(piped).with_output_types(ManifestPart)
        outputs: DoOutputsTuple = (
            (parts, from_stdin)
            | "Flatten" >> beam.Flatten()
            | "Reshuffle" >> beam.Reshuffle()
            | "LookUp"
            >> beam.FlatMap(_look_up, self.config)
            .with_output_types(ObjectRef, **{FAILED: Failure, SKIPPED: str})
            .with_outputs(FAILED, SKIPPED, main=REFS)
        )
        return outputs


def first_entry(number: int, config: RouteConfig) -> object | None:
    """Return the first entry or error of a manifest, or None; `number` is that of the input.

    Raises:
        UsageError: as `parts_of`.
    """
    uri = config.inputs[number - 1]
    if uri == STANDARD_INPUT:
        return STANDARD_INPUT
    for part in parts_of(uri, number, config.inventory_root):
        try:
            for _, entry in entries_of(part, config.inventory_root):
                return entry
        except UnreadableManifest as error:
            return error
    return None


def _split(number: int, config: RouteConfig) -> Iterator[ManifestPart]:
    return parts_of(config.inputs[number - 1], number, config.inventory_root)


def _look_up(part: ManifestPart, config: RouteConfig) -> Iterator[SourceOutput]:
    """Yield what the entries of a part refer to."""
    entries = entries_of(part, config.inventory_root)
    is_skipped = _Skipping(part, config)
    with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        while True:
            batch: list[tuple[int, Entry | BadEntry | BadLine]] = []
            damage: UnreadableManifest | None = None
            try:
                for numbered in islice(entries, MANIFEST_LOOKUP_BATCH):
                    batch.append(numbered)
            except UnreadableManifest as error:
                damage = error
            resolved = pool.map(lambda one: _resolve(one[1], is_skipped), batch)
            expanded: Iterable[_Found]
            for (line, entry), found in zip(batch, resolved, strict=True):
                expanded = [found]
                if isinstance(found, ObjectRef):
                    expanded = expand_archive(found, config)
                for one in expanded:
                    yield _to_output(one, entry, line, part, config)
            if damage is not None:
                failure = ProcessingFailure(Stage.FETCH, Reason.INVALID_ENTRY, str(damage.args[-1]))
                where = f"{part.uri}#{part.line}"
                yield to_output(_located(failure, f"input {part.number}"), where, config)
                return
            if len(batch) < MANIFEST_LOOKUP_BATCH:
                return


def _to_output(
    found: _Found,
    entry: Entry | BadEntry | BadLine,
    line: int,
    part: ManifestPart,
    config: RouteConfig,
) -> SourceOutput:
    uri = f"{part.uri}#{line}"
    if isinstance(entry, Entry) and (is_local(entry.uri) or entry.uri.isprintable()):
        uri = absolute(entry.uri)
    if isinstance(found, OSError):
        found = read_failure(found, Stage.FETCH)
    if isinstance(found, ProcessingFailure):
        found = _located(found, f"line {line} of input {part.number}")
    return to_output(found, uri, config)


def _located(failure: ProcessingFailure, where: str) -> ProcessingFailure:
    detail = f"{failure.detail}, {where}" if failure.detail else where
    return ProcessingFailure(failure.stage, failure.reason, detail)


def _resolve(
    entry: Entry | BadEntry | BadLine, skipped: Callable[[Entry, str], Skip | None]
) -> _Found:
    if not isinstance(entry, Entry):
        return ProcessingFailure(Stage.FETCH, Reason.INVALID_ENTRY, str(entry))
    try:
        uri = absolute(entry.uri)
        if not is_local(uri):
            uri.encode()
        if problem := uri_problem(uri):
            return OSError(problem)
        if why := skipped(entry, uri):
            return Skipped(why)
        if entry.version is not None and entry.size is not None:
            return ObjectRef(uri, entry.version, entry.size, entry.modified)
        found = storage_of(uri).stat(uri)
    except OSError as error:
        return error
    except UnicodeEncodeError:
        return ProcessingFailure(Stage.FETCH, Reason.INVALID_ENTRY, "it is not UTF-8")
    except ValueError as error:  # not a valid name in this storage
        return OSError(type(error).__name__)
    if found is None:
        return FileNotFoundError("in the manifest, but does not exist")
    return ObjectRef.of(found)


class _Skipping:
    """Which entries of a part are skipped: by name, old versions, and objects of lakes."""

    def __init__(self, part: ManifestPart, config: RouteConfig) -> None:
        self._part, self._config = part, config
        self._selection = config.selection
        self._finders: dict[str, LakeFinder] = {}

    def __call__(self, entry: Entry, uri: str) -> Skip | None:
        """Return why an entry is skipped, or None; `uri` is its absolute URI."""
        if not entry.is_current:
            return Skip.NOT_CURRENT
        if self._is_in_lake(uri):
            return Skip.LAKE
        return self._selection.skip_file(self._relative(uri))

    def _is_in_lake(self, uri: str) -> bool:
        layout = self._config.layout
        if layout.contains(uri):
            return True
        if is_local(uri):
            folder, name = os.path.split(uri_to_path(uri))
            if layout.contains(f"{_real(folder)}/{name}"):
                return True
        if self._part.kind == LIST:  # objects of another lake may be listed one by one
            return False
        base = self._base(uri)
        if base not in self._finders:
            self._finders[base] = LakeFinder(
                base, lambda one: storage_of(one).stat(one) is not None
            )
        return self._finders[base].lake_of(uri) is not None

    def _base(self, uri: str) -> str:
        """Return what an inventory's names are relative to, with a slash at its end."""
        root = self._config.inventory_root
        if root is not None:
            return absolute(root).rstrip("/") + "/"
        return f"{scheme_of(uri)}://{split_uri(uri)[0]}/"

    def _relative(self, uri: str) -> str:
        if self._part.kind != LIST:
            return uri.removeprefix(self._base(uri))
        return uri.rpartition("/")[2] if is_local(uri) else split_uri(uri)[1]


@functools.lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


__all__: Sequence[str] = ("STANDARD_INPUT", "ReadManifests", "first_entry")
