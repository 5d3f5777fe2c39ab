"""Any value as one that msgpack can hold: what a host puts into a dump must never keep the dump from being written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["plain"]

_DEEPEST = 32
"""Deeper than the deepest exception that a cell may describe."""
_REPR_CHARACTERS = 1000


def plain(value: object, depth: int = 0) -> Any:
    """`value` out of None, bool, int, float, str, bytes, list and dict only. Total: no value makes it raise.

    Structs and dataclasses become dictionaries or arrays as msgspec writes them, integers beyond 64 bits and unknown
    objects become text, lone surrogates become visible escapes.
    """
    if depth > _DEEPEST:
        return "..."
    try:
        return _plain(value, depth)
    except Exception:
        # A mapping, a subclass of a plain type or a `repr` with code of its own, and a fault in it.
        return f"<{type(value).__name__}: cannot be read>"


def _plain(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 64 else f"{value:#x}"[:_REPR_CHARACTERS]
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.encode(value, "utf-8", "backslashreplace").decode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Mapping):
        return {str(plain(key, depth + 1)): plain(item, depth + 1) for key, item in list(value.items())}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in list(value)]
    if isinstance(value, msgspec.Struct):
        return _of_struct(value, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), depth + 1) for field in dataclasses.fields(value)}
    return plain(repr(value)[:_REPR_CHARACTERS], depth)


def _of_struct(value: msgspec.Struct, depth: int) -> Any:
    config = value.__struct_config__
    items = [getattr(value, name) for name in value.__struct_fields__]
    if config.array_like:
        tag = [] if config.tag is None else [config.tag]
        return tag + [plain(item, depth + 1) for item in items]
    return {name: plain(item, depth + 1) for name, item in zip(value.__struct_encode_fields__, items, strict=True)}
