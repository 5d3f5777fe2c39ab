"""Numbers and times as people read them."""

from __future__ import annotations

import datetime

__all__ = ["calendar", "clock", "duration", "size"]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _moment(wall_ns: int) -> datetime.datetime | None:
    try:
        return _EPOCH + datetime.timedelta(microseconds=wall_ns // 1000)
    except OverflowError:
        # A damaged or forged time need not be one that the calendar knows.
        return None


def calendar(wall_ns: int) -> str:
    """`2025-01-31 12:00:03.312 UTC`."""
    moment = _moment(wall_ns)
    return f"{wall_ns} ns" if moment is None else f"{moment:%Y-%m-%d} {clock(wall_ns)} UTC"


def clock(wall_ns: int) -> str:
    """`12:00:03.312`, in UTC."""
    moment = _moment(wall_ns)
    return f"{wall_ns} ns" if moment is None else f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"


def duration(ns: int) -> str:
    """`312 ms`, `12.3 s`, `5 min 12 s`, `3 h 5 min`, `2 d 3 h`."""
    if ns < 0:
        return f"-{duration(-ns)}"
    if ns < 1000:
        return f"{ns} ns"
    for unit, in_ns in (("us", 1000), ("ms", 1_000_000)):
        value = ns / in_ns
        if value < 999.5:
            return f"{value:.3g} {unit}"
    if ns < 59_950_000_000:
        return f"{ns / 1e9:.3g} s"
    seconds = round(ns / 1e9)
    for large, small, in_s, step_s in (("min", "s", 60, 1), ("h", "min", 3600, 60)):
        if seconds < in_s * (60 if in_s == 60 else 24):
            return f"{seconds // in_s} {large} {seconds % in_s // step_s} {small}"
    return f"{seconds // 86400:,} d {seconds % 86400 // 3600} h"


def size(count_bytes: int) -> str:
    """`812 bytes`, `12.3 KiB`, `1.5 GiB`."""
    if abs(count_bytes) < 1024:
        return f"{count_bytes} bytes"
    value = float(count_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
    return f"{value:,.0f} TiB"
