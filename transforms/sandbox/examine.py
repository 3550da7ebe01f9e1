"""Examine one object: read and hash it, then parse and decode it in a child process.

The result is its index row so far and, for radiographs, the network's inputs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from transforms.config.route_config import RouteConfig
from transforms.core.choices import COPY
from transforms.core.labels import NOT_XRAY, QUARANTINE, LabelSet
from transforms.core.object_ref import ObjectRef
from transforms.core.patient_key import patient_key_of
from transforms.core.read_object import first_error, open_ref, read_ref, require_unchanged
from transforms.core.reasons import (
    BY_POLICY,
    EXCLUSIONS,
    InvalidObject,
    ProcessingFailure,
    Reason,
    Stage,
    Status,
)
from transforms.core.shared_bytes import SharedBytes
from transforms.core.storage_failures import read_failure
from transforms.imaging.anatomic_region import agreed_region
from transforms.imaging.header import Header
from transforms.imaging.header_attributes import allowed_tags
from transforms.imaging.header_json import clean
from transforms.imaging.header_label import header_label
from transforms.imaging.limits import Limits
from transforms.imaging.radiograph_table import RadiographTable
from transforms.lake.schema import IndexRow
from transforms.sandbox.child_process import (
    ChildCrashed,
    ChildKilled,
    ChildRaised,
    ChildTimedOut,
    SandboxProcess,
)
from transforms.sandbox.describe import (
    DescribeOptions,
    Description,
    describe,
    describe_header,
    parse_description,
)
from transforms.sandbox.object_cache import OBJECT_CACHE
from transforms.sandbox.object_read import Fetched, ObjectRead
from transforms.storage.archive_names import is_archive_name

NO_COLUMNS: Final = frozenset({"image_type", "conversion_type", "patient_id"})
"""Header values that decide, or that the patient key is made of, but are not in the index."""


@dataclass(frozen=True, kw_only=True)
class ExamineOptions:
    """Options of `examine`.

    Attributes:
        run_id: Identifier of the run.
        ingest_date: Partition of the index, YYYY-MM-DD.
        router_version: Version of this package.
        input_size: Side of the network's input in pixels.
        frame_number: Frame of multi-frame objects to classify, from 1.
        limits: Resource limits of an object.
        radiographs: Criteria for projection radiographs.
        policy_id: Id of the policy in force.
        adult_from_years: Age from which a chest is adult.
        label_set: Labels of the model.
        cache_objects: Whether to keep the bytes in `OBJECT_CACHE` for placement.
        scratch: Folder on the lake's disk for cached bytes, or None to cache them in memory.
        header_tags: Tags of the attributes in `headers/`, or None to write none.
        patient_key: Key of the hash of Patient ID, or None. Set it on the worker: options are part of the
            graph. Children do not have it.
    """

    run_id: str
    ingest_date: str
    router_version: str
    input_size: int
    frame_number: int
    limits: Limits
    radiographs: RadiographTable
    policy_id: str
    adult_from_years: float
    label_set: LabelSet
    cache_objects: bool
    scratch: str | None
    header_tags: frozenset[int] | None = None
    patient_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_config(cls, config: RouteConfig) -> ExamineOptions:
        """Return the options of a run, without the patient key."""
        return cls(
            run_id=config.run_id,
            ingest_date=config.ingest_date,
            router_version=config.router_version,
            input_size=config.model_input_size,
            frame_number=config.frame_number,
            limits=config.limits,
            radiographs=config.policy.radiographs,
            policy_id=config.policy_id,
            adult_from_years=config.policy.adult_from_years,
            label_set=config.policy.label_set,
            cache_objects=config.placement == COPY,
            scratch=config.layout.local_scratch,
            header_tags=allowed_tags(config.policy.header_attributes) if config.headers else None,
        )

    @property
    def describing(self) -> DescribeOptions:
        """The options of the child."""
        return DescribeOptions(
            input_size=self.input_size,
            frame_number=self.frame_number,
            limits=self.limits,
            radiographs=self.radiographs,
            header_tags=self.header_tags,
        )


@dataclass(frozen=True)
class Examined:
    """The result of examining an object.

    Attributes:
        row: Index row, either decided (quarantined, not_xray) or to be completed by the model.
        image: uint8[1 or 3, S, S], the network's inputs, as `plates.network_inputs` returns them; None if
            the row is decided.
        fetch_s: Duration of reading and hashing in seconds.
        decode_s: Duration of parsing and decoding in seconds, or None if the object was not parsed.
        used_fallback: Whether the image was decoded by the pydicom fallback.
    """

    row: IndexRow
    image: npt.NDArray[np.uint8] | None
    fetch_s: float = 0.0
    decode_s: float | None = None
    used_fallback: bool = False


def object_read(ref: ObjectRef, options: ExamineOptions) -> ObjectRead:
    """Return what reads an object to be examined with these options."""
    return ObjectRead(
        ref,
        max_bytes=options.limits.max_object_bytes,
        is_cached=options.cache_objects,
        folder=options.scratch if options.cache_objects else None,
    )


def examine(ref: ObjectRef, options: ExamineOptions, child: SandboxProcess) -> Examined:
    """Read and hash one object in this process, then parse and decode it in a child process.

    Args:
        ref: The object.
        options: Options of the run.
        child: Process that parses and decodes.

    Raises:
        ProcessingFailure: The object cannot be read or has changed, or the child was killed from outside.
    """
    read = object_read(ref, options)
    return examine_fetched(read.finish(first_error(read.parts)), options, child)


def examine_fetched(fetched: Fetched, options: ExamineOptions, child: SandboxProcess) -> Examined:
    """Parse and decode an object that was read, in a child process; its bytes are cached or closed.

    The child maps the bytes; they are not pickled. A local object that will not be copied is mapped in
    place, and must not change during that time.

    Args:
        fetched: The object.
        options: Options of the run.
        child: Process that parses and decodes.

    Raises:
        ProcessingFailure: A mapped object has changed, or the child was killed from outside.
    """
    data, row = fetched.data, new_row(fetched.ref, options)
    if data is None:
        return _map_and_describe(fetched.ref, row, options, child)
    row = replace(row, content_sha256=fetched.sha256, source_size_bytes=fetched.size)
    if fetched.is_oversized:
        with data:
            examined = _describe_oversized(data, row, options, child)
        return replace(examined, fetch_s=fetched.fetch_s)
    try:
        if fetched.problem is None:
            examined = _describe_whole(data, row, options, child)
        else:
            error = InvalidObject(Stage.FETCH, fetched.problem)
            examined = Examined(quarantined(row, error), None)
    except BaseException:
        data.close()
        raise
    if options.cache_objects:
        OBJECT_CACHE.put(str(examined.row.content_sha256), data)
    else:
        data.close()
    return replace(examined, fetch_s=fetched.fetch_s)


def _map_and_describe(
    ref: ObjectRef, row: IndexRow, options: ExamineOptions, child: SandboxProcess
) -> Examined:
    started = time.monotonic()
    with open_ref(ref) as data:
        examined = _hash_and_describe(data, row, options, child, started)
        require_unchanged(ref, data)
    if examined.row.reason != Reason.CRASHED_DECODER:
        return examined
    # A read error of the mapped disk also crashes the child (SIGBUS): read instead of mapping.
    with read_ref(ref, max_bytes=options.limits.max_object_bytes) as data:
        return _hash_and_describe(data, row, options, child, started)


def _describe_oversized(
    data: SharedBytes, row: IndexRow, options: ExamineOptions, child: SandboxProcess
) -> Examined:
    """Decide an object over the size limit by its header, if that suffices."""
    try:
        description = _describe(data, options.describing, child, describe_header)
    except (ChildTimedOut, ChildCrashed, ChildRaised):
        return Examined(quarantined(row, InvalidObject(Stage.FETCH, Reason.TOO_LARGE)), None)
    except ChildKilled as error:
        raise ProcessingFailure(Stage.FETCH, Reason.KILLED) from error
    return apply_description(row, description, options)


def _hash_and_describe(
    data: SharedBytes,
    row: IndexRow,
    options: ExamineOptions,
    child: SandboxProcess,
    started: float,
) -> Examined:
    try:
        row = replace(row, content_sha256=data.sha256(), source_size_bytes=data.size)
    except OSError as error:
        raise read_failure(error, Stage.FETCH) from error
    fetch_s = time.monotonic() - started
    return replace(_describe_whole(data, row, options, child), fetch_s=fetch_s)


def _describe_whole(
    data: SharedBytes, row: IndexRow, options: ExamineOptions, child: SandboxProcess
) -> Examined:
    started = time.monotonic()
    try:
        examined = apply_description(row, _describe(data, options.describing, child), options)
    except ChildTimedOut:
        error_row = quarantined(row, InvalidObject(Stage.DECODE, Reason.TOOK_TOO_LONG))
        examined = Examined(error_row, None)
    except (ChildCrashed, ChildRaised):
        error_row = quarantined(row, InvalidObject(Stage.DECODE, Reason.CRASHED_DECODER))
        examined = Examined(error_row, None)
    except ChildKilled as error:
        raise ProcessingFailure(Stage.DECODE, Reason.KILLED) from error
    return replace(_explained(examined), decode_s=time.monotonic() - started)


def _describe(
    data: SharedBytes,
    options: DescribeOptions,
    child: SandboxProcess,
    function: Callable[[int, DescribeOptions], tuple[Any, ...]] = describe,
) -> Description:
    """Describe an object in a child, which can neither change the bytes nor write to their file."""
    with data.read_only() as descriptor:
        description: Description = child.call(
            function,
            options,
            descriptor=descriptor,
            parse=lambda value: parse_description(value, options),
        )
    return description


def apply_description(row: IndexRow, description: Description, options: ExamineOptions) -> Examined:
    """Return the row with what is in the object, decided unless the model has to decide."""
    row = _with_header(row, description.header, options)
    if description.header_json is not None:
        row = replace(row, header=_cleaned(description.header_json, options))
    if description.stage is None or description.reason is None:
        return Examined(row, description.image, used_fallback=description.used_fallback)
    if description.reason in EXCLUSIONS:
        return Examined(_not_xray(row, description.reason), None)
    return Examined(quarantined(row, InvalidObject(description.stage, description.reason)), None)


def _explained(examined: Examined) -> Examined:
    """Return a result that says of an archive more than that it is no DICOM object."""
    row = examined.row
    if row.reason != Reason.NOT_DICOM or not is_archive_name(row.source_uri):
        return examined
    return replace(examined, row=replace(row, reason=Reason.UNREADABLE_ARCHIVE))


def new_row(ref: ObjectRef, options: ExamineOptions) -> IndexRow:
    """Return the index row of an object before it is read."""
    now = time.time_ns() // 1000
    return IndexRow(
        run_id=options.run_id,
        object_key=ref.key,
        ingest_date=options.ingest_date,
        ingested_at=now,
        router_version=options.router_version,
        source_uri=ref.uri,
        source_version=ref.version,
        source_state=ref.state,
        source_size_bytes=ref.size,
        policy_id=options.policy_id,
        decided_at=now,
        event_time=ref.modified,
    )


def quarantined(row: IndexRow, error: InvalidObject) -> IndexRow:
    """Return the row of an object that is quarantined because of an error."""
    return replace(
        row,
        status=Status.QUARANTINED,
        stage=error.stage,
        reason=error.reason,
        destination=QUARANTINE,
        conflict=False,
    )


def _not_xray(row: IndexRow, reason: Reason) -> IndexRow:
    return replace(
        row,
        status=Status.NOT_XRAY,
        stage=Stage.HEADER,
        reason=reason,
        destination=NOT_XRAY,
        conflict=False,
        decided_by=BY_POLICY,
    )


def _with_header(row: IndexRow, header: Header, options: ExamineOptions) -> IndexRow:
    """Return the row with the header values that are index columns."""
    columns = {name: value for name, value in asdict(header).items() if name not in NO_COLUMNS}
    return replace(
        row,
        **columns,
        patient_key=None
        if options.patient_key is None or header.patient_id is None
        else patient_key_of(header.patient_id, options.patient_key),
        header_label=header_label(
            agreed_region(header.body_part_region, header.coded_region),
            header.patient_age_years,
            options.adult_from_years,
            options.label_set,
        ),
    )


def _cleaned(header_json: str, options: ExamineOptions) -> str | None:
    """Return a header as JSON; None if the child cannot have returned it."""
    key = options.patient_key
    hash_identifier = None if key is None else functools.partial(patient_key_of, key=key)
    try:
        return clean(header_json, options.header_tags or frozenset(), hash_identifier)
    except ValueError:
        return None
