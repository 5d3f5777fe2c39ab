"""Fields on one line, as text that a terminal may show."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .escape import escape
from .units import duration, size

__all__ = ["fact_text", "fields_text", "value_text"]

_BARE = re.compile(r"[^\s\"'=\[\]{},]+")
_DEEPEST = 20
_LARGEST = 1e30
"""What is not smaller, infinity and "not a number" among it, is shown without a unit."""


def value_text(value: object, depth: int = 0) -> str:
    """One field value: bare where that is plain, else in double quotes; containers in brackets."""
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{_quoted(str(key))}: {value_text(item, depth + 1)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(item, depth + 1) for item in value) + "]"
    if isinstance(value, bytes):
        return repr(value)
    return escape(str(value))


def _quoted(text: str) -> str:
    safe = escape(text)
    if _BARE.fullmatch(safe):
        return safe
    return '"' + safe.replace('"', '\\"') + '"'


def fields_text(fields: Mapping[str, object]) -> str:
    """`name=value name=value`."""
    return " ".join(f"{_quoted(name)}={value_text(value)}" for name, value in fields.items())


def fact_text(name: str, value: object) -> tuple[str, str]:
    """A process fact for people: name and value, with the unit that stands last in `name` taken into account."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST:
        if name.endswith("_bytes"):
            return _label(name.removesuffix("_bytes")), size(int(value))
        if name.endswith("_ns"):
            return _label(name.removesuffix("_ns")), duration(int(value))
        if name.endswith("_s"):
            return _label(name.removesuffix("_s")), duration(round(value * 1_000_000_000))
    if isinstance(value, list):
        value = [round(item, 2) if isinstance(item, float) else item for item in value]
    return _label(name), value_text(value)


def _label(name: str) -> str:
    return escape(name.replace("_", " "))
