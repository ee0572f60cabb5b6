"""Hypothesis strategies: values of declared commands and records, frames, and splits of bytes."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.inspect import (
    AnyType,
    BoolType,
    BytesType,
    DictType,
    EnumType,
    Field,
    FloatType,
    IntType,
    ListType,
    Metadata,
    NoneType,
    RawType,
    StrType,
    StructType,
    Type,
    UnionType,
    type_info,
)

from support.soak import SOAK

__all__ = ["bounded", "cut", "cuts", "free_values", "values_of"]


def bounded(examples: int) -> settings:
    """Settings with this number of examples, no database, and no deadline: a busy machine must not fail a test."""
    return settings(
        max_examples=examples * SOAK, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
    )


free_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""Any value that a free-form field may hold."""


def values_of(type_: type[Any]) -> st.SearchStrategy[Any]:
    """Valid instances of a command or a record, with and without its optional fields."""
    info = type_info(type_)
    assert isinstance(info, StructType)
    return _struct(info)


def _struct(info: StructType) -> st.SearchStrategy[Any]:
    required = {field.name: _field(field) for field in info.fields if field.required}
    optional = {field.name: _field(field) for field in info.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: info.cls(**values))


def _field(field: Field) -> st.SearchStrategy[Any]:
    return _type(field.type)


def _type(type_: Type) -> st.SearchStrategy[Any]:
    match type_:
        case Metadata():
            return _type(type_.type)
        case UnionType():
            return st.one_of([_type(inner) for inner in type_.types])
        case NoneType():
            return st.none()
        case BoolType():
            return st.booleans()
        case FloatType():
            return st.floats(type_.ge, type_.le, allow_nan=False, allow_infinity=False)
        case IntType():
            low = -(2**63) if type_.ge is None else type_.ge
            return st.integers(low, 2**64 - 1 if type_.le is None else type_.le)
        case StrType():
            return _text(type_)
        case BytesType():
            return st.binary(min_size=type_.min_length or 0, max_size=min(type_.max_length or 100, 100))
        case EnumType():
            return st.sampled_from(list(type_.cls))
        case ListType():
            low, high = type_.min_length or 0, 3 if type_.max_length is None else min(type_.max_length, 3)
            return st.lists(_type(type_.item_type), min_size=low, max_size=max(low, high))
        case DictType():
            return st.dictionaries(_type(type_.key_type), _type(type_.value_type), max_size=3)
        case StructType():
            return _struct(type_)
        case AnyType():
            return free_values
        case RawType():
            return st.dictionaries(st.text(max_size=8), free_values, max_size=3).map(
                lambda value: Raw(msgspec.msgpack.encode(value))
            )
    raise AssertionError(f"no strategy for {type_!r}: add one")


def _text(type_: StrType) -> st.SearchStrategy[str]:
    low, high = type_.min_length or 0, min(type_.max_length or 40, 40)
    if type_.pattern is None:
        return st.text(min_size=low, max_size=high)
    matches = re.compile(type_.pattern).search
    words = st.text("abcXYZ019._-", max_size=20).map("a".__add__)
    plain = words.map(lambda text: re.sub("[.-]", "_", text))
    for example, shape in (
        ("web", words if matches("a.b-c") else plain),
        ("/web", words.map("/".__add__)),
        ("0b7c1d5e-3f2a-4c6b-9d8e-7a6f5b4c3d2e", st.uuids().map(str)),
        ("0027", st.from_regex("0?[0-7]{3}", fullmatch=True)),
        ("0" * 64, st.binary(min_size=32, max_size=32).map(bytes.hex)),
    ):
        if matches(example):
            most = high if type_.max_length is not None else max(high, len(example))
            return shape.filter(lambda text, most=most: low <= len(text) <= most and matches(text) is not None)
    raise AssertionError(f"no strategy for text that matches {type_.pattern}: add one")


def cuts(most: int = 8) -> st.SearchStrategy[list[float]]:
    """Positions at which to split bytes, as fractions of their length."""
    return st.lists(st.floats(0, 1), max_size=most)


def cut(data: bytes, places: list[float]) -> list[bytes]:
    """Split ``data`` into pieces; some may be empty."""
    ends = sorted(int(place * len(data)) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
