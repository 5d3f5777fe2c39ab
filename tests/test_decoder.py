"""The decoder: nothing but records decodes, and nothing but RecordError is raised."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.errors import RecordError
from roam.tracing import codec, records
from tests import strategies
from tests.test_codec import EXCEPTION, LIMITS, SPAN, TRACE, event


def test_what_the_host_sets_cannot_be_claimed() -> None:
    """Bodies that carry time, sequence or lane, and bodies of host-made kinds, are refused."""
    for whole in (
        records.Event(20, "app", "m", {}, 7, SPAN, TRACE),
        records.SpanEnter(20, "app", "m", {}, 7, SPAN, TRACE),
        records.SpanExit(20, "app", "m", 7, SPAN, TRACE),
        records.SpanClose(20, "app", "m", {}, 7, SPAN, TRACE),
        records.Dropped({}),
        records.Lost("bulk", 1, 2, "corrupt"),
    ):
        with pytest.raises(RecordError):
            codec.decode(msgspec.msgpack.encode(whole))


def forged(**changes: Any) -> bytes:
    """An event body with some items replaced."""
    items: dict[str, Any] = {
        "tag": 0,
        "level": 20,
        "target": "t",
        "message": "m",
        "fields": {},
        "thread": 7,
        "span": SPAN,
        "trace": TRACE,
    }
    items.update(exception=None, flags=0, cuts={})
    items.update(changes)
    return msgspec.msgpack.encode(list(items.values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": 5},
        {"tag": 6},
        {"tag": -1},
        {"tag": "0"},
        {"level": -1},
        {"level": 2**15 + 1},
        {"level": True},
        {"level": 20.0},
        {"span": b"short"},
        {"span": "spanspan"},
        {"trace": b"x" * 17},
        {"thread": -1},
        {"flags": -1},
        {"cuts": {"message": -1}},
        {"cuts": {str(n): 1 for n in range(1025)}},
        {"fields": {1: 2}},
        {"fields": {"a": {1: 2}}},
        {"fields": {"a": msgspec.msgpack.Ext(1, b"x")}},
        {"fields": {"a": msgspec.msgpack.Ext(-1, b"\0\0\0\0")}},
        {"fields": {"a": [msgspec.msgpack.Ext(-1, b"\0" * 12)]}},
        {"fields": {"a": strategies.deep(17)}},
        {"fields": {"a": list(range(1025))}},
        {"fields": {str(n): 1 for n in range(1025)}},
        {"exception": ["E", "m"]},
        {"exception": ["E", "m", "t", "x"]},
        {"message": "x" * codec.MAX_PAYLOAD_BYTES},
    ],
    ids=lambda changes: str(changes)[:40],
)
# r[verify trace.decode.typed]
def test_forged_items_are_refused(changes: dict[str, Any]) -> None:
    """A body with a wrong type, a number out of range or too much of anything is no record."""
    assert codec.decode(forged()).kind == "event"
    with pytest.raises(RecordError):
        codec.decode(forged(**changes))


def test_nesting_up_to_the_limit_is_accepted() -> None:
    """The decoder takes a little more than the encoder writes."""
    assert codec.decode(forged(fields={"a": strategies.deep(15), "b": list(range(900))})).kind == "event"


# r[verify trace.decode.typed]
@given(st.binary(max_size=200), st.binary(max_size=64))
def test_random_bytes_raise_only_record_errors(data: bytes, more: bytes) -> None:
    """Noise, alone or after the start of a record, decodes or raises RecordError."""
    start = event()
    for body in (data, b"\x98\x00" + data, start[:12] + data + more, start[:9] + b"\x81\xa1k" + data):
        check(body)


def check(body: bytes) -> None:
    """Decodes or raises RecordError; the peeked level agrees."""
    level = codec.level_of(body)
    record: Any = None
    with contextlib.suppress(RecordError):
        record = codec.decode(body)
    assert record is None or level in (None, record.level)


# r[verify trace.decode.typed]
@given(strategies.any_fields, st.integers(0, 2**32), LIMITS)
@settings(max_examples=60)
def test_damaged_bodies_raise_only_record_errors(fields: Any, seed: int, limit: int) -> None:
    """A flipped bit, a missing end, a doubled part: a record or a RecordError."""
    chance = random.Random(seed)
    body = event(fields=fields, limit_bytes=limit, exception=EXCEPTION)
    for _ in range(20):
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.choice([chance.randrange(256), 0xDD, 0xDC, 0xDF, 0xC7])
        check(bytes(damaged))
        check(body[: chance.randrange(len(body))])
        cut = chance.randrange(len(body))
        check(body[:cut] + body[chance.randrange(len(body)) :])


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x81\xdd\xff\xff\xff\xff",
        b"\xdd\x00\x00\xf0\x00" * 900 + b"\x90" * 60_000,
        b"\x81" + b"\xdc\xea\x00" * 900 + b"\x01" * 60_000,
        b"\x91" * 65_000,
        b"\x81\xa0" * 30_000,
        b"\xdc\xfd\x00" + b"\x80" * 0xFD00,
    ],
    ids=range(10),
)
def test_claimed_lengths_allocate_nothing(bomb: bytes) -> None:
    """Memory follows the bytes that are there, not the lengths they claim."""
    body = (b"\x98\x00\x14\xa1t\xa1m\x81\xa1k" + bomb)[: codec.MAX_PAYLOAD_BYTES]
    tracemalloc.start()
    try:
        with pytest.raises(RecordError):
            codec.decode(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150 * len(body) + 50_000


@given(st.binary(max_size=12))
def test_peeking_never_raises(data: bytes) -> None:
    """Any bytes have a level or None."""
    assert codec.level_of(data) is None or 0 <= codec.level_of(data) <= 2**15  # type: ignore[operator]
    assert codec.level_of(b"\x98\x00\xcd" + struct.pack(">H", 2**15 + 1) + data) is None


def test_dropped_round_trips_and_refuses_negative_counts() -> None:
    """Counts by cause arrive, negative ones do not."""
    body = codec.encode_dropped({"newest": 3, "oversize": 2**40})
    record = codec.decode(body)
    assert isinstance(record, records.Dropped)
    assert record.counts == {"newest": 3, "oversize": 2**40}
    assert codec.level_of(body) == codec.level_of(codec.encode_dropped({})) == record.level
    with pytest.raises(RecordError):
        codec.decode(codec.encode_dropped({"newest": -1}))
