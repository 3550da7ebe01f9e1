"""Encode records, which are frozen dataclasses, as bytes that another release can decode.

Records that cross a shuffle outlive the process that encoded them: Flink's savepoints and Dataflow's
updates pass them to workers of the next release. Therefore fields are stored by name. A field missing in
the data has its default, and a field unknown to the record type is ignored: no drain is needed to add a
column.

Encoded data is one format byte and a MessagePack array (https://github.com/msgpack/msgpack/blob/master/spec.md)::

    [record name, number of records, {field: value of all}, {field: [value, ...]}, {field: records}]

A field that is equal in all records is stored once, and a default is not stored. Equal records of one
release have equal bytes. Nothing is compressed here, and nothing is executed on decoding.
"""

from __future__ import annotations

import sys
import types
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

FORMAT: Final = 1
"""First byte of encoded data; to be changed with the layout."""
SCALARS: Final = (str, int, float, bool, bytes, types.NoneType)

R = TypeVar("R")


class RecordCodec(Generic[R]):
    """Encode and decode records of one type.

    Types of fields may be str, int (64 bits), float, bool, bytes, None, unions and tuples of these, a
    `Counter` of these, another record type, or a tuple of records of one type.
    """

    def __init__(self, record_type: type[R], *, interned: Collection[str] = ()) -> None:
        """Derive the encoding from the fields of a record type.

        Args:
            record_type: a dataclass, whose name is part of encoded data.
            interned: text fields with few distinct values, which are interned on decoding.

        Raises:
            TypeError: a field has a type that cannot be encoded.
        """
        if not is_dataclass(record_type):
            raise TypeError(f"{record_type.__name__} is not a dataclass")
        self._type = record_type
        self._name = record_type.__name__
        self._defaults = {f.name: f.default for f in fields(record_type)}
        self._interned = frozenset(interned)
        self._nested: dict[str, RecordCodec[Any]] = {}
        self._encoders: dict[str, Callable[[Any], Any]] = {}
        self._decoders: dict[str, Callable[[Any], Any]] = {}
        hints = get_type_hints(record_type)
        for field in fields(record_type):
            self._add(field, hints[field.name])
        self._values_of = _values_getter(tuple(self._defaults))

    def encode(self, record: R) -> bytes:
        """Return one record, encoded."""
        return self.encode_batch((record,))

    def decode(self, data: bytes) -> R:
        """Return the record in data from `encode`.

        Raises:
            ValueError: as `decode_batch`, or the data does not have exactly one record.
        """
        (record,) = self.decode_batch(data)
        return record

    def encode_batch(self, records: Sequence[R]) -> bytes:
        """Return several records, encoded together, which takes less space."""
        shared: dict[str, Any] = {}
        columns: dict[str, Sequence[Any]] = {}
        nested: dict[str, bytes] = {}
        columns_of = zip(*map(self._values_of, records), strict=True)
        for name, values in zip(self._defaults, columns_of, strict=bool(records)):
            if codec := self._nested.get(name):
                nested[name] = codec.encode_batch(values)
                continue
            if encoder := self._encoders.get(name):
                values = tuple(map(encoder, values))
            first = values[0]
            if values.count(first) < len(values):
                columns[name] = values
            elif first != self._defaults[name] or type(first) is not type(self._defaults[name]):
                shared[name] = first
        payload = [self._name, len(records), shared, columns, nested]
        packed: bytes = msgpack.packb(payload, unicode_errors="surrogatepass")
        return bytes([FORMAT]) + packed

    def decode_batch(self, data: bytes) -> list[R]:
        """Return the records in data from `encode_batch` of this or another release.

        Raises:
            ValueError: the data has another format or record type, or is damaged.
            TypeError: the data lacks a field that has no default.
        """
        if data[:1] != bytes([FORMAT]):
            raise ValueError(f"format {data[:1].hex()}, not {FORMAT:02x}, of encoded records")
        name, number, shared, columns, nested = msgpack.unpackb(
            memoryview(data)[1:],
            use_list=False,
            unicode_errors="surrogatepass",
            strict_map_key=False,
        )
        if name != self._name:
            raise ValueError(f"encoded records are of type {name}, not {self._name}")
        same = {n: self._decoded(n, (v,))[0] for n, v in shared.items() if n in self._defaults}
        varied = {n: self._decoded(n, v) for n, v in columns.items() if n in self._defaults}
        varied |= {
            n: self._nested[n].decode_batch(v) for n, v in nested.items() if n in self._nested
        }
        if not varied:
            return [self._type(**same) for _ in range(number)]
        names = tuple(varied)
        return [
            self._type(**same, **dict(zip(names, values, strict=True)))
            for values in zip(*varied.values(), strict=True)
        ]

    def _decoded(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        if name in self._interned:
            return [sys.intern(value) if type(value) is str else value for value in values]
        if decoder := self._decoders.get(name):
            return [decoder(value) for value in values]
        return values

    def _add(self, field: Field[Any], hint: Any) -> None:
        """Choose the encoding of a field; its default is compared in encoded form."""
        origin, arguments = get_origin(hint), get_args(hint)
        if is_dataclass(hint) and isinstance(hint, type):
            self._nested[field.name] = RecordCodec(hint)
        elif origin is Counter and _is_plain(arguments[0]):
            self._convert(field, _sorted_items, lambda items: Counter(dict(items)))
        elif origin is tuple and is_dataclass(arguments[0]) and isinstance(arguments[0], type):
            codec = RecordCodec(arguments[0])
            self._convert(field, codec.encode_batch, lambda data: tuple(codec.decode_batch(data)))
        elif not _is_plain(hint):
            raise TypeError(f"{self._name}.{field.name} cannot be encoded: {hint}")

    def _convert(
        self, field: Field[Any], encoder: Callable[[Any], Any], decoder: Callable[[Any], Any]
    ) -> None:
        self._encoders[field.name], self._decoders[field.name] = encoder, decoder
        if field.default is not MISSING:
            self._defaults[field.name] = encoder(field.default)


def _is_plain(hint: Any) -> bool:
    """Return whether MessagePack decodes values of a type as they were encoded."""
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return all(argument is Ellipsis or _is_plain(argument) for argument in get_args(hint))
    return hint in SCALARS


def _sorted_items(counter: Counter[Any]) -> tuple[tuple[Any, int], ...]:
    return tuple(sorted(counter.items()))


def _values_getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda record: (get(record),)
