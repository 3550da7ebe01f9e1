"""Encoding of records: exact, deterministic, and readable by earlier and later releases."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.record_codec import FORMAT, RecordCodec
from transforms.lake.schema import IndexRow


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 0


@dataclass(frozen=True)
class Sample:
    key: str
    text: str | None = None
    number: int | None = None
    real: float | None = None
    flag: bool | None = None
    data: bytes = b""
    words: tuple[str, ...] = ()
    pair: tuple[int, str | None] | None = None
    part: Part = Part("p")
    parts: tuple[Part, ...] = ()
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


text = st.text()
int64 = st.integers(-(2**63), 2**63 - 1)
parts = st.builds(Part, text, int64)
samples = st.builds(
    Sample,
    key=text,
    text=st.none() | text,
    number=st.none() | int64,
    real=st.none() | st.floats(allow_nan=False),
    flag=st.none() | st.booleans(),
    data=st.binary(),
    words=st.lists(text).map(tuple),
    pair=st.none() | st.tuples(int64, st.none() | text),
    part=parts,
    parts=st.lists(parts, max_size=3).map(tuple),
    counts=st.dictionaries(st.tuples(text, text), st.integers(0, 9), max_size=3).map(Counter),
)
codec = RecordCodec(Sample, interned=["text"])


@given(st.lists(samples, max_size=5))
def test_records_are_decoded_as_they_were(records: list[Sample]) -> None:
    assert codec.decode_batch(codec.encode_batch(records)) == records
    assert [codec.decode(codec.encode(record)) for record in records] == records


@given(samples)
def test_equal_records_have_equal_bytes(record: Sample) -> None:
    copy = pickle.loads(pickle.dumps(record))
    reordered = Counter(dict(reversed(record.counts.items())))
    copy = Sample(**{**vars(copy), "counts": reordered})
    assert codec.encode(copy) == codec.encode(record)


def test_text_that_is_not_unicode_is_kept() -> None:
    record = Sample("\udcff")
    assert codec.decode(codec.encode(record)) == record


def version_of(record_type: type, *fields: Any) -> type[Any]:
    """Return the record type with more fields, as another release has it."""
    name = record_type.__name__
    return make_dataclass(name, fields, bases=(record_type,), frozen=True, kw_only=True)


def test_a_release_with_another_column_decodes_earlier_records() -> None:
    later = version_of(Part, ("colour", str | None, None))
    records = [Part("a", 1), Part("b", 2)]
    decoded = RecordCodec(later).decode_batch(RecordCodec(Part).encode_batch(records))
    assert decoded == [later(name="a", size=1, colour=None), later(name="b", size=2, colour=None)]


def test_a_release_without_a_column_decodes_later_records() -> None:
    later = version_of(Part, ("colour", str | None, None), ("inner", Part, Part("z")))
    records = [later(name="a", size=1, colour="red"), later(name="b", size=1, colour="blue")]
    earlier = RecordCodec(Part).decode_batch(RecordCodec(later).encode_batch(records))
    assert earlier == [Part("a", 1), Part("b", 1)]


def test_a_record_of_the_index_has_only_types_that_can_be_encoded() -> None:
    RecordCodec(IndexRow)


@pytest.mark.parametrize("hint", [list[str], dict[str, int], object, Any, Part | None])
def test_a_field_that_cannot_be_encoded_is_refused(hint: object) -> None:
    with pytest.raises(TypeError, match="cannot be encoded"):
        RecordCodec(make_dataclass("Odd", [("field", hint)]))


def test_what_is_not_a_record_is_refused() -> None:
    with pytest.raises(TypeError, match="not a dataclass"):
        RecordCodec(str)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", bytes([FORMAT + 1]) + codec.encode(Sample("a"))[1:]]
)
def test_bytes_of_another_format_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="format"):
        codec.decode(data)


def test_bytes_of_another_record_type_are_refused() -> None:
    with pytest.raises(ValueError, match="Sample, not Part"):
        RecordCodec(Part).decode(codec.encode(Sample("a")))


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\x00"], ids=["short", "long"])
def test_damaged_bytes_are_refused(change: Any) -> None:
    with pytest.raises(ValueError):
        codec.decode(change(codec.encode(Sample("a"))))


def test_values_shared_by_all_records_are_stored_once() -> None:
    one = codec.encode_batch([Sample("k", "x" * 100)])
    many = codec.encode_batch([Sample("k", "x" * 100)] * 50)
    assert len(many) < 2 * len(one)
