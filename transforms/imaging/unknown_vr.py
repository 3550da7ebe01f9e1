"""Replace value representations that DICOM does not define, so that a parser can skip their elements.

An element of explicit VR whose VR is unknown has a length of 16 or of 32 bits, and a parser that assumes
the wrong one loses its place. The length is the one after which an element with a higher tag and a known
VR follows, or the end of its data set.

Standard: PS3.5 sections 7.1.2 (explicit VR; 16-bit lengths), 7.5 (sequences) and 6.2.2 (VR UN).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

UNDEFINED_LENGTH: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
KNOWN_VRS: Final = frozenset(vr.encode() for vr in STANDARD_VR)
LONG_VRS: Final = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
"""VRs whose length has 32 bits, after two reserved bytes."""
SHORT_TEXT: Final = b"ST"
"""Replaces an unknown VR with a 16-bit length; its values are not interpreted unless they are used."""
UNKNOWN: Final = b"UN"
MAX_CONSECUTIVE: Final = 8
"""Consecutive elements of unknown VR that are resolved."""
IMPLICIT_ELEMENTS: Final = 3
"""Consecutive elements without a VR by which a data set of implicit VR is recognized."""
MAX_DEPTH: Final = 64


class _Malformed(Exception):
    """The data set is not well-formed explicit VR, and is left to the parser."""


@dataclass(frozen=True)
class _Element:
    """The header of an element of explicit VR.

    Attributes:
        tag: Group and element.
        vr: Known value representation; empty if the parser looks it up.
        value: Position of the value.
        length: In bytes, or `UNDEFINED_LENGTH`.
        has_vr: Whether the header has a VR, rather than a length of 32 bits after the tag.
    """

    tag: int
    vr: bytes
    value: int
    length: int
    has_vr: bool = True


@dataclass
class VRRepair:
    """Find elements of unknown VR in a data set of explicit VR, down to items of sequences.

    Args:
        buffer: The object, or its inflated data set; not changed.
        is_little_endian: Byte order.
        max_items: Sequence items after which the search ends.
        stop_tags: Tags at which the data set ends, such as Pixel Data.

    Attributes:
        replacements: Bytes of headers with a known VR, as long as the present ones, by position.
        has_unresolved: Whether an element whose length is not clear follows one of known VR.
    """

    buffer: memoryview
    is_little_endian: bool
    max_items: int
    stop_tags: frozenset[int] = frozenset()
    replacements: dict[int, bytes] = field(default_factory=dict)
    has_unresolved: bool = False

    def search(self, start: int, *, group: int | None = None) -> int:
        """Search the elements from a position on; of one group, if it is given.

        Returns:
            The position at which the data set, or the group, ends.
        """
        order = "<" if self.is_little_endian else ">"
        self._tag = struct.Struct(order + "HH").unpack_from
        self._short = struct.Struct(order + "H").unpack_from
        self._long = struct.Struct(order + "L").unpack_from
        self._items, self._has_known = 0, False
        if self._has_implicit_vr(start):
            return len(self.buffer)
        try:
            return self._search(start, len(self.buffer), 0, group)
        except (_Malformed, struct.error):
            return len(self.buffer)

    def patched(self, end: int) -> memoryview:
        """Return the buffer up to a position with the replacements; a copy only if there are any."""
        if not self.replacements:
            return self.buffer
        copy = bytearray(self.buffer[:end])
        for position, header in self.replacements.items():
            copy[position : position + len(header)] = header
        return memoryview(copy)

    def _search(self, position: int, end: int, depth: int, group: int | None = None) -> int:
        if depth > MAX_DEPTH:
            raise _Malformed
        while position + 8 <= end:
            tag = self._read_tag(position)
            if tag == ITEM_END and depth:
                return position + 8
            if (tag in self.stop_tags and not depth) or group not in (None, tag >> 16):
                return position
            element = self._known(position) or self._resolve(position, end)
            self._has_known = True
            if element.length == UNDEFINED_LENGTH:
                position = self._after_sequence(element, end, depth)
            else:
                position = element.value + element.length
        if position > end or (depth and end == len(self.buffer)):
            raise _Malformed
        return position

    def _after_sequence(self, element: _Element, end: int, depth: int) -> int:
        """Return the position after a value of undefined length; search the items of a sequence."""
        position = element.value
        while True:
            self._items += 1
            tag, (length,) = self._read_tag(position), self._long(self.buffer, position + 4)
            position += 8
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM or self._items > self.max_items:
                raise _Malformed
            if element.vr == UNKNOWN and length == UNDEFINED_LENGTH:
                position = self._after_implicit_item(position, depth + 1)
            elif element.vr != b"SQ":  # a fragment, or an item of implicit VR
                position += length
            elif length == UNDEFINED_LENGTH:
                position = self._search(position, len(self.buffer), depth + 1)
            else:
                position = self._search_item(position, length, end)

    def _after_implicit_item(self, position: int, depth: int) -> int:
        """Return the position after an item of implicit VR and undefined length (PS3.5 section 6.2.2)."""
        if depth > MAX_DEPTH:
            raise _Malformed
        while (tag := self._read_tag(position)) != ITEM_END:
            (length,) = self._long(self.buffer, position + 4)
            position += 8
            if length == UNDEFINED_LENGTH:
                sequence = _Element(tag, UNKNOWN, position, length)
                position = self._after_sequence(sequence, len(self.buffer), depth)
            else:
                position += length
        return position + 8

    def _search_item(self, start: int, length: int, end: int) -> int:
        if start + length > end:
            raise _Malformed
        inner = VRRepair(self.buffer[: start + length], self.is_little_endian, self.max_items)
        inner.search(start)
        self.replacements |= inner.replacements
        return start + length

    def _has_implicit_vr(self, position: int) -> bool:
        """Return whether the first elements have no VR at all, which parsers recognize."""
        tags, lengths = [], []
        for _ in range(IMPLICIT_ELEMENTS):
            if position + 8 > len(self.buffer) or self._known(position):
                return False
            tags.append(self._read_tag(position))
            lengths.append(self._long(self.buffer, position + 4)[0])
            position += 8 + lengths[-1]
        return any(lengths) and tags == sorted(set(tags))

    def _resolve(self, position: int, end: int, consecutive: int = 0) -> _Element:
        """Return an element of unknown VR with the length after which another element follows."""
        for element in self._candidates(position):
            if self._is_followed(element, end, consecutive):
                if element.vr:
                    self.replacements[position + 4] = self._header(element)
                return element
        self.has_unresolved = self._has_known
        raise _Malformed

    def _header(self, element: _Element) -> bytes:
        """Return the VR, with the length in explicit VR if there was no VR."""
        if element.has_vr:
            return element.vr
        return element.vr + struct.pack("<H" if self.is_little_endian else ">H", element.length)

    def _candidates(self, position: int) -> Iterator[_Element]:
        tag = self._read_tag(position)
        (length,) = self._short(self.buffer, position + 6)
        yield _Element(tag, _replacement(tag, is_long=False), position + 8, length)
        if position + 12 <= len(self.buffer) and not length:  # two reserved bytes, both zero
            (long_length,) = self._long(self.buffer, position + 8)
            is_sequence = long_length == UNDEFINED_LENGTH
            vr = b"SQ" if is_sequence else _replacement(tag, is_long=True)
            yield _Element(tag, vr, position + 12, long_length)
        (implicit_length,) = self._long(self.buffer, position + 4)
        if implicit_length < 1 << 16:
            is_long = any(vr in LONG_VRS for vr in _dictionary_vrs(tag))
            vr = b"" if is_long else _replacement(tag, is_long=False)
            yield _Element(tag, vr, position + 8, implicit_length, has_vr=False)

    def _is_followed(self, element: _Element, end: int, consecutive: int) -> bool:
        """Return whether a known element with a higher tag, a delimiter or the end follows."""
        if element.length == UNDEFINED_LENGTH:
            return element.vr == b"SQ" and self._starts_items(element.value)
        after = element.value + element.length
        if after + 8 > end:
            return after == end
        tag = self._read_tag(after)
        if tag in (ITEM_END, *self.stop_tags):
            return True
        if tag <= element.tag:
            return False
        if self._known(after):
            return True
        if consecutive == MAX_CONSECUTIVE:
            return False
        return any(
            self._is_followed(following, end, consecutive + 1)
            for following in self._candidates(after)
            if following.has_vr  # a whole data set of implicit VR is left to the parser
        )

    def _starts_items(self, position: int) -> bool:
        return position + 8 <= len(self.buffer) and self._read_tag(position) in (ITEM, SEQUENCE_END)

    def _known(self, position: int) -> _Element | None:
        """Return the element at a position, or None if its VR is unknown."""
        vr = bytes(self.buffer[position + 4 : position + 6])
        if vr not in KNOWN_VRS:
            return None
        tag = self._read_tag(position)
        if vr in LONG_VRS:
            return _Element(tag, vr, position + 12, self._long(self.buffer, position + 8)[0])
        return _Element(tag, vr, position + 8, self._short(self.buffer, position + 6)[0])

    def _read_tag(self, position: int) -> int:
        group, element = self._tag(self.buffer, position)
        return int(group) << 16 | int(element)


def _replacement(tag: int, *, is_long: bool) -> bytes:
    """Return the VR of a tag in the data dictionary, or one that says nothing, of this length format."""
    for vr in _dictionary_vrs(tag):
        if (vr in LONG_VRS) == is_long:
            return vr
    return UNKNOWN if is_long else SHORT_TEXT


def _dictionary_vrs(tag: int) -> list[bytes]:
    """Return the VRs in the data dictionary, of which some tags have two (`US or SS`), or none."""
    try:
        vrs = dictionary_VR(tag).encode().split(b" or ")
    except KeyError:
        return []
    return [vr for vr in vrs if vr in KNOWN_VRS]
