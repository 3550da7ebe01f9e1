"""JSON that is hostile, or only too large, is an ordinary ValueError."""

from __future__ import annotations

import pytest

from transforms.core.json_data import parse_json


def test_json_is_parsed() -> None:
    assert parse_json(b' {"a": [1, 2.5, "x", null]} ') == {"a": [1, 2.5, "x", None]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"9" * 10_000,
        b"\xff\xfe",
        b'"\x00"',
    ],
    ids=lambda data: repr(data[:8]),
)
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


def test_large_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        parse_json(b'"aaaaaaaaaaaaaaa"', 10)
