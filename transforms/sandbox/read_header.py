"""Read the header of a stored object as JSON, in a child process, for a lake that has none yet."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from transforms.core.patient_key import patient_key_of
from transforms.core.reasons import Reason
from transforms.core.shared_bytes import SharedBytes, map_bytes
from transforms.imaging.header_json import MAX_JSON, clean, read_json
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.render import reason_of, with_object


@dataclass(frozen=True, kw_only=True)
class HeaderOptions:
    """Options of `read_stored_header`.

    Attributes:
        tags: attributes that a header may have.
        limits: resource limits of an object.
    """

    tags: frozenset[int]
    limits: Limits = field(default_factory=Limits)


def read_stored_header(
    uri: str, sha256: str, options: HeaderOptions, patient_key: bytes | None, child: SandboxProcess
) -> str | Reason:
    """Return the header of a stored object as a run writes it, or why it cannot be read.

    Args:
        uri: path or URI of the object.
        sha256: of its content, hex.
        options: options.
        patient_key: key of the hash of identifiers, which the child does not have; or None.
        child: process that parses. It may be used by one thread at a time.
    """

    def read(data: SharedBytes) -> str | Reason:
        with data.read_only() as descriptor:
            header: str | Reason = child.call(_read, options, descriptor=descriptor, parse=_parse)
        return header

    found = with_object(uri, options.limits, read, sha256=sha256)
    if isinstance(found, Reason):
        return found
    hash_identifier = (
        None if patient_key is None else functools.partial(patient_key_of, key=patient_key)
    )
    try:
        return clean(found, options.tags, hash_identifier)
    except ValueError:
        return Reason.UNREADABLE_HEADER


def _read(descriptor: int, options: HeaderOptions) -> tuple[str | None, str | None]:
    """Return the header of an object, or the reason why there is none; runs in a child."""
    try:
        parsed = parse(map_bytes(descriptor), options.limits)
        return read_json(parsed.dataset, options.tags), None
    except Exception as error:  # one object must never stop the others
        return None, str(reason_of(error))


def _parse(value: Any) -> str | Reason:
    """Return what `_read` has returned.

    Raises:
        ValueError: `_read` cannot have returned it.
    """
    if type(value) is not tuple or len(value) != 2:
        raise ValueError("invalid answer")
    header, reason = value
    if header is None:
        return Reason.UNREADABLE_HEADER if reason is None else Reason(reason)
    if type(header) is not str or len(header) > MAX_JSON:
        raise ValueError("invalid answer: header")
    return header
