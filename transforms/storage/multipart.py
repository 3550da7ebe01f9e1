"""Split a multipart/related body into its parts while it arrives.

Standard: RFC 2046 section 5.1, RFC 2387; PS3.18 section 8.6.1.2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

HEADERS, DATA, END = "headers", "data", "end"
"""Kinds of events: the headers of a part, some of its bytes, its end."""
Event = tuple[str, bytes | dict[str, str]]
MAX_HEADER_BYTES: Final = 4096
MAX_HEADERS: Final = 16

logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)  # it quotes its input


class MultipartError(ValueError):
    """A body is not multipart, or malformed."""


class MultipartReader:
    """Parse a body in blocks of any size.

    Attributes:
        is_complete: whether the closing delimiter was read.
    """

    def __init__(self, boundary: bytes) -> None:
        """Start before the first part.

        Raises:
            MultipartError: the boundary is too long.
        """
        self.is_complete = False
        self._events: list[Event] = []
        self._headers: dict[str, str] = {}
        self._name, self._value = bytearray(), bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_end,
                    "on_end": self._on_body_end,
                },
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise MultipartError("the boundary is too long") from error

    def feed(self, block: bytes) -> Iterator[Event]:
        """Yield the events of a block: `HEADERS` with a dict, `DATA` with bytes, `END` with b"".

        Raises:
            MultipartError: the body is malformed.
        """
        if self.is_complete:  # an epilogue is ignored (RFC 2046 section 5.1.1)
            return
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise MultipartError("the multipart body is malformed") from error
        events, self._events = self._events, []
        yield from events

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1").strip()
        self._name.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        self._events.append((HEADERS, dict(self._headers)))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append((DATA, data[start:end]))

    def _on_end(self) -> None:
        self._events.append((END, b""))

    def _on_body_end(self) -> None:
        self.is_complete = True


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """Return the media type of a Content-Type header in lower case, and its parameters."""
    kind, parameters = parse_options_header(header)
    return kind.decode("latin-1").lower(), {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in parameters.items()
    }
