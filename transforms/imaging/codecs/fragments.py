"""Find the fragments of one frame of encapsulated pixel data.

Standard: PS3.5 annex A.4 (fragments, Basic Offset Table), PS3.3 C.7.6.3.1.8 (Extended Offset Table).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs.codestream_header import starts_codestream
from transforms.imaging.part10 import PixelElement

ITEM_TAG: Final = (0xFFFE, 0xE000)
ITEM: Final = b"\xfe\xff\x00\xe0"
SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0"
MAX_TABLE_BYTES: Final = 1 << 20
"""First bytes in which the first fragment is searched for, if the table's length is wrong."""
ITEM_HEADER: Final = struct.Struct("<HHL")
RLE_HEADER: Final = struct.Struct("<16L")
"""Number of segments and their offsets (PS3.5 annex G.5)."""
MAX_RLE_SEGMENTS: Final = 15


@dataclass(frozen=True)
class Fragments:
    """The items of encapsulated pixel data.

    Attributes:
        table: Value of the Basic Offset Table, which may be empty or malformed.
        values: Value of each fragment.
        offsets: Offset of each fragment's item from that of the first.
    """

    table: memoryview
    values: tuple[memoryview, ...]
    offsets: tuple[int, ...]


def read_fragments(pixels: PixelElement, max_items: int) -> Fragments:
    """Return the fragments of encapsulated pixel data, without copying them.

    The sequence ends at its delimiter, at anything else that is not an item, or with the object.

    Raises:
        InvalidObject: There are more than `max_items`, or one extends past the end of the object.
    """
    table, position = _read_table(pixels)
    items: list[tuple[int, memoryview]] = []
    end = pixels.offset + pixels.length
    while position + ITEM_HEADER.size <= end:
        group, element, length = ITEM_HEADER.unpack_from(pixels.buffer, position)
        if (group, element) != ITEM_TAG:
            break
        start = position + ITEM_HEADER.size
        items.append((position, pixels.buffer[start : start + length]))
        position = start + length
        if len(items) > max_items:
            raise InvalidObject(Stage.DECODE, Reason.TOO_MANY_ITEMS)
    if position > end:
        raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "pixel data")
    first = items[0][0] if items else 0
    return Fragments(
        table, tuple(value for _, value in items), tuple(place - first for place, _ in items)
    )


def join_frame(fragments: Fragments, index: int, frames: int, dataset: Dataset) -> memoryview:
    """Return the codestream of one frame, which is copied only if it has several fragments.

    One frame consists of all fragments, whatever a table states. Of several, the Extended Offset Table,
    or else the Basic Offset Table, locates the frames, if it fits the fragments. If neither does, a frame
    starts with each fragment in which a codestream starts, or, if none is recognized, with each fragment.

    Args:
        fragments: Of all frames.
        index: 0-based index of the frame; the last one if there are fewer.
        frames: Number of Frames.
        dataset: Provides the Extended Offset Table.

    Raises:
        InvalidObject: There are no fragments.
    """
    if not fragments.values:
        raise InvalidObject(Stage.DECODE, Reason.UNDECODABLE_PIXELS, "no fragments")
    starts = [0] if frames == 1 else _frame_starts(fragments, frames, dataset)
    number = min(index, len(starts) - 1)
    end = starts[number + 1] if number + 1 < len(starts) else len(fragments.values)
    values = fragments.values[starts[number] : end]
    return values[0] if len(values) == 1 else memoryview(b"".join(values))


def _frame_starts(fragments: Fragments, frames: int, dataset: Dataset) -> Sequence[int]:
    """Return the position of the first fragment of each frame, in ascending order."""
    found = [number for number, value in enumerate(fragments.values) if _starts_frame(value)]
    for table in (_extended_offset_table(dataset), _offsets(fragments.table, "<u4")):
        starts = _fitting_starts(table, fragments, frames)
        if starts and (not found or set(starts) <= set(found)):
            return starts
    if found:
        return [0, *found[1:]]
    return range(len(fragments.values))


def _fitting_starts(offsets: Sequence[int], fragments: Fragments, frames: int) -> list[int]:
    """Return the fragments that a table locates; none unless it locates each frame at a fragment."""
    by_offset = {offset: number for number, offset in enumerate(fragments.offsets)}
    starts = [by_offset.get(offset, -1) for offset in offsets]
    is_fitting = (
        len(starts) == frames
        and starts[0] == 0
        and all(one < next_one for one, next_one in itertools.pairwise(starts))
    )
    return starts if is_fitting else []


def _extended_offset_table(dataset: Dataset) -> list[int]:
    try:
        value = dataset.get("ExtendedOffsetTable")
    except MemoryError:
        raise
    except Exception:  # pydicom raises many types; frames are found without the table
        return []
    return _offsets(value, "<u8") if isinstance(value, bytes) else []


def _offsets(table: bytes | memoryview, dtype: str) -> list[int]:
    """Return the offsets in a table; none if its length is not that of whole offsets."""
    if len(table) % np.dtype(dtype).itemsize:
        return []
    offsets: list[int] = np.frombuffer(table, dtype).tolist() if len(table) else []
    return offsets


def _read_table(pixels: PixelElement) -> tuple[memoryview, int]:
    """Return the Basic Offset Table, and the position of the first fragment.

    Some writers omit the table. If its length is wrong, the first fragment is the next item.
    """
    value, none = pixels.value, memoryview(b"")
    if len(value) < ITEM_HEADER.size:
        return none, pixels.offset
    group, element, length = ITEM_HEADER.unpack_from(value)
    end = ITEM_HEADER.size + length
    table = value[ITEM_HEADER.size : end]
    is_fragment = len(table) >= RLE_HEADER.size and _starts_frame(table)
    if (group, element) != ITEM_TAG or is_fragment:
        return none, pixels.offset
    if bytes(value[end : end + 4]) in (ITEM, SEQUENCE_END) or end == len(value):
        return table, pixels.offset + end
    found = bytes(value[ITEM_HEADER.size : MAX_TABLE_BYTES]).find(ITEM)
    return none, pixels.offset + (end if found < 0 else ITEM_HEADER.size + found)


def _starts_frame(fragment: memoryview) -> bool:
    return starts_codestream(fragment) or _is_rle_header(fragment)


def _is_rle_header(fragment: memoryview) -> bool:
    """Return whether a fragment starts with the header of RLE: the first segment follows the header."""
    if len(fragment) < RLE_HEADER.size:
        return False
    count, *offsets = RLE_HEADER.unpack_from(fragment)
    return (
        1 <= count <= MAX_RLE_SEGMENTS
        and offsets[0] == RLE_HEADER.size
        and all(one < next_one for one, next_one in itertools.pairwise(offsets[:count]))
        and not any(offsets[count:])
    )
