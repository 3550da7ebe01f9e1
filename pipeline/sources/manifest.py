"""Read manifests: lists of paths and URIs, inventories of object stores, and standard input."""

from __future__ import annotations

import functools
import os
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

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
from pipeline.sources.outputs import REFS, SKIPPED, SourceOutput, skipped_outputs, to_output
from transforms.config.route_config import RouteConfig
from transforms.core.batch_sizes import MANIFEST_LOOKUP_BATCH
from transforms.core.manifest_part import LIST, ManifestPart
from transforms.core.object_ref import FAILED, Failure, ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.storage_failures import read_failure
from transforms.lake.run_counts import RunCounts
from transforms.storage.local import uri_to_path
from transforms.storage.names import LakeFinder, split_uri
from transforms.storage.schemes import absolute, is_local, scheme_of, storage_of, uri_problem
from transforms.storage.selection import Skip, Skipped

STANDARD_INPUT: Final = "-"
LOOKUP_THREADS: Final = 16
"""Number of parallel lookups, which are limited by the latency of a store."""
_Found: TypeAlias = ObjectRef | OSError | ProcessingFailure | Skipped


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
            .with_output_types(ObjectRef, **{FAILED: Failure, SKIPPED: RunCounts})
            .with_outputs(FAILED, SKIPPED, main=REFS)
        )
        return outputs


def listed_entries(config: RouteConfig) -> Generator[SourceOutput, None, None]:
    """Yield the elements of `ReadManifests`, looked up in this process."""
    for number, uri in enumerate(config.inputs, 1):
        parts = standard_input_parts(number) if uri == STANDARD_INPUT else _split(number, config)
        for part in parts:
            yield from _look_up(part, config)


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
    skipped: Counter[str] = Counter()
    resolved = _resolve_all(part, config)
    try:
        for line, entry, found in resolved:
            expanded: Iterable[_Found] = [found]
            if isinstance(found, ObjectRef):
                expanded = expand_archive(found, config)
            for one in expanded:
                if isinstance(one, Skipped):
                    skipped[one.why] += 1
                else:
                    yield _to_output(one, entry, line, part, config)
    except UnreadableManifest as error:
        failure = ProcessingFailure(Stage.FETCH, Reason.INVALID_ENTRY, str(error.args[-1]))
        located = _located(failure, f"input {part.number}")
        yield to_output(located, f"{part.uri}#{part.line}", config)
    yield from skipped_outputs(skipped)


_Entry: TypeAlias = Entry | BadEntry | BadLine


def _resolve_all(part: ManifestPart, config: RouteConfig) -> Iterator[tuple[int, _Entry, _Found]]:
    """Yield the entries of a part with their lines and what they are, in order; look up several at once.

    Raises:
        UnreadableManifest: the rest of the part cannot be read.
    """
    resolve = _Resolver(part, config)
    damage: UnreadableManifest | None = None
    waiting: deque[tuple[int, _Entry, _Found | Future[_Found]]] = deque()
    entries = entries_of(part, config.inventory_root)
    with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        while True:
            try:
                line, entry = next(entries)
            except StopIteration:
                break
            except UnreadableManifest as error:
                damage = error
                break
            found = resolve(entry)
            if found is None and isinstance(entry, Entry):
                waiting.append((line, entry, pool.submit(resolve.look_up, entry)))
            elif found is not None:
                waiting.append((line, entry, found))
            while waiting and (
                len(waiting) > MANIFEST_LOOKUP_BATCH or not isinstance(waiting[0][2], Future)
            ):
                yield _completed(waiting.popleft())
        while waiting:
            yield _completed(waiting.popleft())
    if damage is not None:
        raise damage


def _completed(
    one: tuple[int, _Entry, _Found | Future[_Found]],
) -> tuple[int, _Entry, _Found]:
    line, entry, found = one
    return line, entry, found.result() if isinstance(found, Future) else found


def _to_output(
    found: ObjectRef | OSError | ProcessingFailure,
    entry: Entry | BadEntry | BadLine,
    line: int,
    part: ManifestPart,
    config: RouteConfig,
) -> SourceOutput:
    if isinstance(found, ObjectRef):
        return to_output(found, found.uri, config)
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


class _Resolver:
    """What the entries of a part are: skipped by name, old versions or of lakes; known, or looked up."""

    def __init__(self, part: ManifestPart, config: RouteConfig) -> None:
        self._part, self._config = part, config
        self._selection = config.selection
        self._finders: dict[str, LakeFinder] = {}
        root = config.inventory_root
        self._root = None if root is None else absolute(root).rstrip("/") + "/"

    def __call__(self, entry: _Entry) -> _Found | None:
        """Return what an entry is; None if it must be looked up."""
        if not isinstance(entry, Entry):
            return ProcessingFailure(Stage.FETCH, Reason.INVALID_ENTRY, str(entry))
        try:
            uri = absolute(entry.uri)
            if not is_local(uri):
                uri.encode()
            if problem := uri_problem(uri):
                return OSError(problem)
            if why := self._skipped(entry, uri):
                return Skipped(why)
        except OSError as error:
            return error
        except UnicodeEncodeError:
            return ProcessingFailure(Stage.FETCH, Reason.INVALID_ENTRY, "it is not UTF-8")
        except ValueError as error:  # not a valid name in this storage
            return OSError(type(error).__name__)
        if entry.version is not None and entry.size is not None:
            return ObjectRef(uri, entry.version, entry.size, entry.modified)
        return None

    def look_up(self, entry: Entry) -> _Found:
        """Return what an entry refers to; called in several threads."""
        uri = absolute(entry.uri)
        try:
            found = storage_of(uri).stat(uri)
        except OSError as error:
            return error
        except ValueError as error:  # not a valid name in this storage
            return OSError(type(error).__name__)
        if found is None:
            return FileNotFoundError("in the manifest, but does not exist")
        return ObjectRef.of(found)

    def _skipped(self, entry: Entry, uri: str) -> Skip | None:
        if not entry.is_current:
            return Skip.NOT_CURRENT
        why = self._selection.skip_file(self._relative(uri))
        return why or (Skip.LAKE if self._is_in_lake(uri) else None)

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
        if self._root is not None:
            return self._root
        return f"{scheme_of(uri)}://{split_uri(uri)[0]}/"

    def _relative(self, uri: str) -> str:
        if self._part.kind != LIST:
            return uri.removeprefix(self._base(uri))
        return uri.rpartition("/")[2] if is_local(uri) else split_uri(uri)[1]


@functools.lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


__all__: Sequence[str] = ("STANDARD_INPUT", "ReadManifests", "first_entry", "listed_entries")
