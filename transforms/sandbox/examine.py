"""From a reference to all that the object itself tells: its row so far and, for films, the input.

Everything that needs the bytes happens here. No Beam, no model.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from transforms.config.route_config import COPY, RouteConfig
from transforms.core.object_ref import (
    ObjectRef,
    hash_ref,
    open_ref,
    processing_failure,
    read_ref,
    require_unchanged,
)
from transforms.core.reasons import InvalidObject, ProcessingFailure, Reason, Stage, Status
from transforms.core.shared_bytes import SharedBytes, mapped
from transforms.imaging.header import Header, read_header, require_uids
from transforms.imaging.header_label import header_label
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import decode_thumbnail
from transforms.lake.layout import NOT_XRAY, QUARANTINE
from transforms.lake.schema import IndexRow
from transforms.sandbox.isolation import Crashed, Killed, SandboxProcess, TimedOut
from transforms.sandbox.object_cache import OBJECT_CACHE
from transforms.storage.schemes import is_local


@dataclass(frozen=True)
class Examined:
    """What an object tells of itself.

    Attributes:
        row: decided (quarantined, not_xray), or waiting for the model.
        film: uint8[1, S, S] for the model, or None where the row is decided.
        fetch_s: seconds that reading and hashing took.
        decode_s: seconds that parsing and decoding took, or None where it never came to that.
        used_fallback: Whether the image was decoded by the pydicom fallback.
    """

    row: IndexRow
    image: npt.NDArray[np.uint8] | None
    fetch_s: float = 0.0
    decode_s: float | None = None
    used_fallback: bool = False


def examine(
    ref: ObjectRef, config: RouteConfig, patient_key: bytes | None, isolated: SandboxProcess
) -> Examined:
    """Read and hash one object here, parse and decode it in a child process.

    A local object that is not copied is hashed and mapped where it stands, and must not change meanwhile.

    Args:
        ref: the object.
        config: of the run.
        patient_key: key of the hash of Patient ID, or None.
        isolated: the child; it maps the bytes, none are pickled.

    Raises:
        Unaccounted: the object could not be read, or the child was killed from outside.
    """
    row, started = new_row(ref, config), time.monotonic()
    if ref.size > config.limits.max_object_bytes:
        row = replace(row, content_sha256=hash_ref(ref))
        row = quarantined(row, InvalidObject(Stage.FETCH, Reason.TOO_LARGE))
        return Examined(row, None, time.monotonic() - started)

    def examined(data: SharedBytes) -> Examined:
        return _examined(data, row, config, patient_key, isolated, started)

    if config.placement == COPY:
        data = read_ref(ref, config.layout.local_scratch)
        try:
            found = examined(data)
        except BaseException:
            data.close()
            raise
        OBJECT_CACHE.put(str(found.row.content_sha256), data)
        return found
    if is_local(ref.uri):
        with open_ref(ref) as data:
            found = examined(data)
            require_unchanged(ref, data)
        if found.row.reason != Reason.CRASHED_DECODER:
            return found
        # A disk that fails under a map ends the child, too: what reads says so.
    with read_ref(ref) as data:
        return examined(data)


def _examined(
    data: SharedBytes,
    row: IndexRow,
    config: RouteConfig,
    patient_key: bytes | None,
    isolated: SandboxProcess,
    started: float,
) -> Examined:
    try:
        row = replace(row, content_sha256=data.sha256())
    except OSError as error:
        raise processing_failure(error, Stage.FETCH) from error
    fetched = time.monotonic()
    found = _isolated(data, row, config, patient_key, isolated)
    return replace(found, fetch_s=fetched - started, decode_s=time.monotonic() - fetched)


def _isolated(
    data: SharedBytes,
    row: IndexRow,
    config: RouteConfig,
    patient_key: bytes | None,
    isolated: SandboxProcess,
) -> Examined:
    try:
        return isolated.call(describe, row, config, patient_key, descriptor=data.file.fileno())
    except TimedOut:
        return Examined(quarantined(row, InvalidObject(Stage.DECODE, Reason.TOOK_TOO_LONG)), None)
    except Crashed:
        return Examined(quarantined(row, InvalidObject(Stage.DECODE, Reason.CRASHED_DECODER)), None)
    except Killed as error:
        raise ProcessingFailure(Stage.DECODE, Reason.KILLED) from error


def new_row(ref: ObjectRef, config: RouteConfig) -> IndexRow:
    """Return the row of an object of which nothing is known yet."""
    return IndexRow(
        run_id=config.run_id,
        object_key=ref.key,
        ingest_date=config.ingest_date,
        ingested_at=time.time_ns() // 1000,
        router_version=config.router_version,
        source_uri=ref.uri,
        source_version=ref.version,
        source_size_bytes=ref.size,
        event_time=ref.modified,
    )


def describe(
    descriptor: int, row: IndexRow, config: RouteConfig, patient_key: bytes | None
) -> Examined:
    """Parse and decode one object.

    Args:
        descriptor: of its bytes.
        row: its row so far.
        config: of the run.
        patient_key: key of the hash of Patient ID, or None.
    """
    try:
        parsed = parse(mapped(descriptor), config.limits)
        header = read_header(parsed)
        row = with_header(row, header, config, patient_key)
        require_uids(parsed)
        table = config.policy.radiographs
        if why := table.exclusion_reason(header.sop_class_uid, header.modality, header.image_type):
            return Examined(_not_xray(row, why), None)
        image, used_fallback = decode_thumbnail(
            parsed,
            config.model_input_size,
            frame_number=config.frame_number,
            limits=config.limits,
        )
        return Examined(row, image, used_fallback=used_fallback)
    except InvalidObject as rejected:
        return Examined(quarantined(row, rejected), None)
    except MemoryError:
        return Examined(quarantined(row, InvalidObject(Stage.DECODE, Reason.TOO_MUCH_MEMORY)), None)
    except Exception as error:  # one object never stops the rest, whatever was not foreseen
        unforeseen = InvalidObject(Stage.HEADER, Reason.UNREADABLE_HEADER, type(error).__name__)
        return Examined(quarantined(row, unforeseen), None)


def quarantined(row: IndexRow, why: InvalidObject) -> IndexRow:
    """Return a row that says why its object is quarantined."""
    return replace(
        row,
        status=Status.QUARANTINED,
        stage=why.stage,
        reason=why.reason,
        destination=QUARANTINE,
        conflict=False,
    )


def with_header(
    row: IndexRow, header: Header, config: RouteConfig, patient_key: bytes | None
) -> IndexRow:
    """Return a row with the header values that the index may hold."""
    adult_from = config.policy.adult_from_years
    return replace(
        row,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        modality=header.modality,
        body_part_examined=header.body_part_examined,
        view_position=header.view_position,
        laterality=header.laterality,
        patient_age_years=header.patient_age_years,
        patient_sex=header.patient_sex,
        patient_key=_patient_key(header.patient_id, patient_key),
        manufacturer=header.manufacturer,
        manufacturer_model_name=header.manufacturer_model_name,
        rows=header.rows,
        columns=header.columns,
        bits_stored=header.bits_stored,
        photometric_interpretation=header.photometric_interpretation,
        number_of_frames=header.number_of_frames,
        header_label=header_label(header.body_part_examined, header.patient_age_years, adult_from),
    )


def _not_xray(row: IndexRow, why: Reason) -> IndexRow:
    return replace(
        row,
        status=Status.NOT_XRAY,
        stage=Stage.HEADER,
        reason=why,
        destination=NOT_XRAY,
        conflict=False,
    )


def _patient_key(patient_id: str | None, key: bytes | None) -> str | None:
    if key is None or patient_id is None:
        return None
    return hmac.new(key, patient_id.encode(), hashlib.sha256).hexdigest()
