"""Find patients in the bytes of an object whose header could not be read.

The row of a truncated object has no `patient_key`, but its bytes may have the Patient ID (0010,0020).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Final

from transforms.core.patient_key import patient_key_of

MAX_BYTES: Final = 1024
"""Of a Patient ID (VR LO, at most 64 characters; PS3.5 table 6.2-1), however it is encoded."""
_ELEMENT: Final = re.compile(
    rb"\x10\x00\x20\x00(?:LO(?P<explicit>..)|(?P<implicit>..\x00\x00))|\x00\x10\x00\x20LO(?P<big>..)",
    re.DOTALL,
)
_ORDER: Final = {"explicit": "little", "implicit": "little", "big": "big"}

OfPatient = Callable[[bytes], bool]
"""Return whether bytes have the Patient ID of one of some patients."""


def of_nobody(data: bytes) -> bool:
    """Return False: no patient is looked for."""
    del data
    return False


def of_patients(is_wanted: Callable[[str], bool], key: bytes) -> OfPatient:
    """Return what finds the Patient IDs of some patients in bytes.

    Args:
        is_wanted: whether a `patient_key` is that of one of them.
        key: of the hashes of Patient IDs.
    """
    return lambda data: any(is_wanted(patient_key_of(one, key)) for one in patient_ids_in(data))


def patient_ids_in(data: bytes) -> set[str]:
    """Return the values of Patient ID in bytes: the first of each, as `imaging.header` reads it.

    Bytes beyond ASCII are decoded by every character set of DICOM (PS3.3 C.12.1.1.2), because the element
    that names it may be missing; of the texts, at most one is what the header says.
    """
    return {text for value in _values(data) for text in _texts(value)}


def _values(data: bytes) -> Iterator[bytes]:
    for found in _ELEMENT.finditer(data):
        name = str(found.lastgroup)
        length = int.from_bytes(found[name], "big" if _ORDER[name] == "big" else "little")
        if length <= MAX_BYTES:
            yield data[found.end() : found.end() + length]


def _texts(value: bytes) -> Iterator[str]:
    is_plain = value.isascii() and b"\x1b" not in value
    for encoding in ("ascii",) if is_plain else _encodings():
        try:
            text = value.decode(encoding).partition("\\")[0].strip(" \0")
        except (UnicodeDecodeError, LookupError):
            continue
        if text and text.isprintable():
            yield text


@functools.cache
def _encodings() -> tuple[str, ...]:
    from pydicom.charset import python_encoding

    return tuple(sorted({"utf-8", *python_encoding.values()}))
