"""The receiver reads UIDs outside the sandbox: hostile data sets cost it little time and memory."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import InvalidObject
from transforms.imaging import identity
from transforms.imaging.identity import read_identity
from transforms.imaging.limits import Limits

SIZE = 32 << 20
MAX_PEAK_BYTES = 160 << 20
UNDEFINED = 0xFFFFFFFF


def element(tag: int, vr: bytes, value: bytes = b"", length: int | None = None) -> bytes:
    """Encode an element in Explicit VR Little Endian, with a length of 32 bits."""
    size = len(value) if length is None else length
    return struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, vr, size) + value


def short(tag: int, vr: bytes, value: bytes = b"") -> bytes:
    """As `element`, with a length of 16 bits."""
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def deflated(data: bytes, level: int = 9) -> bytes:
    compressor = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


BEGIN = bytes(128) + b"DICM"
META = BEGIN + short(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
IMPLICIT = BEGIN + short(0x00020010, b"UI", b"1.2.840.10008.1.2\0")
DEFLATED = BEGIN + short(0x00020010, b"UI", b"1.2.840.10008.1.2.1.99")
SEQUENCE = element(0x00081140, b"SQ", length=UNDEFINED)
LARGE = element(0x00090010, b"OB", bytes(SIZE))
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
CHARACTER_SET, SOP_CLASS_UID = struct.pack("<HHI", 8, 5, SIZE), struct.pack("<HHI", 8, 0x16, SIZE)

REFUSED: dict[str, Callable[[], bytes]] = {
    "a UID of backslashes": lambda: IMPLICIT + SOP_CLASS_UID + b"\\" * SIZE,
    "a character set of backslashes": lambda: IMPLICIT + CHARACTER_SET + b"\\" * SIZE,
    "a UID many times": lambda: META + short(0x00080016, b"UI") * (SIZE // 8),
    "many elements": lambda: META + short(0x00080050, b"SH") * (SIZE // 8),
    "many elements in an item": lambda: (
        META + SEQUENCE + ITEM + short(0x80050, b"SH") * (SIZE // 8)
    ),
    "many items": lambda: META + SEQUENCE + ITEM * (SIZE // 8),
    "deeply nested sequences": lambda: META + (SEQUENCE + ITEM) * 5000,
    "a large element of group 2": lambda: META + element(0x00020102, b"OB", bytes(SIZE)),
    "many elements of group 2": lambda: META + short(0x00020102, b"SH") * (SIZE // 8),
    "undefined length": lambda: META + element(0x00090010, b"OB", bytes(SIZE), UNDEFINED),
}
WITHOUT_UIDS: dict[str, Callable[[], bytes]] = {
    "a UID of 500 kB": lambda: IMPLICIT + struct.pack("<HHI", 8, 0x16, 500_000) + b"\\" * 500_000,
    "a length beyond the end": lambda: META + element(0x00090010, b"OB", b"x", 0xFFFFFFFE),
    "a large element": lambda: META + LARGE,
    "a deflated bomb": lambda: DEFLATED + deflated(LARGE),
    "deflated data that is stored": lambda: DEFLATED + deflated(LARGE, 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_data_sets_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_READS", 20_000)  # tracing memory is slow
    data = memoryview(REFUSED[name]())
    tracemalloc.start()
    with pytest.raises(InvalidObject, match=r"too_many_items|RecursionError|OSError"):
        read_identity(data, Limits(max_items=10_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES


@pytest.mark.parametrize("name", WITHOUT_UIDS)
def test_what_is_not_needed_is_neither_read_nor_copied(name: str) -> None:
    data = memoryview(WITHOUT_UIDS[name]())
    tracemalloc.start()
    found = read_identity(data, Limits())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.sop_class_uid, found.sop_instance_uid) == (None, None)
    assert peak < 8 << 20


def test_large_values_before_the_uids_are_skipped() -> None:
    data = dicom_bytes(image(1, (64, 48)))
    at = data.index(b"\x08\x00\x16\x00")
    padded = data[:at] + struct.pack("<HHI", 8, 1, SIZE) + bytes(SIZE) + data[at:]
    if data[at + 4 : at + 6] == b"UI":
        padded = data[:at] + element(0x00080001, b"UN", bytes(SIZE)) + data[at:]
    assert read_identity(memoryview(padded), Limits()) == read_identity(memoryview(data), Limits())
