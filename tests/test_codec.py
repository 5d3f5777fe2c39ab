"""The record codec: everything can be encoded, nothing but records decodes."""

from __future__ import annotations

import contextlib
import enum
import struct
import threading
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roam.stage import ExceptionText
from roam.tracing import codec, normalise, records
from roam.tracing.draft import wire_level
from tests import strategies

SPAN, TRACE, PARENT = b"spanspan", b"tracetracetracet", b"parentpa"
AMPLE = 2**20
LIMITS = st.sampled_from([512, 513, 600, 1024, 2000, 8192])
EXCEPTION = ExceptionText("app.Broken", "no", "Traceback (most recent call last):\n" + "x" * 9000)


def event(
    message: object = "hello",
    fields: Any = None,
    level: Any = 20,
    target: Any = "app",
    exception: ExceptionText | None = None,
    limit_bytes: int = AMPLE,
) -> bytes:
    """An encoded event that must exist."""
    fields = {} if fields is None else fields
    with strategies.armed():
        body = codec.encode_event(level, target, message, fields, 7, SPAN, TRACE, exception, limit_bytes=limit_bytes)
    assert body is not None
    assert len(body) <= limit_bytes
    return body


def decoded(body: bytes) -> Any:
    """The record, past the size limit that only long test bodies meet."""
    return codec.decode(body)


def same(left: Any, right: Any) -> bool:
    """Equality that tells 1 from True, 0.0 from -0.0, and finds NaN equal to itself."""
    return msgspec.msgpack.encode(left) == msgspec.msgpack.encode(right)


@given(strategies.any_fields)
@example({"nan": float("nan"), "zero": -0.0, "big": 2**64, "small": -(2**63) - 1, "edge": 2**64 - 1})
def test_decoded_fields_are_the_normalised_fields(fields: dict[Any, Any]) -> None:
    """What is decoded is what `normalise` says, whichever path encoded it."""
    limit = 60_000
    with strategies.armed():
        plain, flags, cuts = normalise.normalise(fields, limit)
    body = event(fields=fields, limit_bytes=limit)
    record = decoded(body)
    if "fields" in record.cuts:
        return
    assert list(record.fields) == list(plain)
    assert all(record.cuts[part] == length for part, length in cuts.items())
    # Long values that together are too long are cut once more; everything else is as it was.
    for key, value in plain.items():
        assert same(record.fields[key], value) or f"fields.{key}" in record.cuts
    assert record.flags == (flags | records.CUT if record.cuts else flags)


@given(strategies.plain_fields, st.text(st.characters(exclude_categories=["Cs"])), strategies.wire_levels)
def test_plain_values_come_back_unchanged(fields: dict[str, Any], message: str, level: int) -> None:
    """Scalars with a wire type arrive as they were, without a flag."""
    record = decoded(event(message, fields, level))
    assert same(record.fields, fields)
    assert record.message == message
    assert (record.level, record.flags, record.cuts) == (level, 0, {})
    assert same(normalise.normalise(fields, 8192).fields, fields)


@given(
    strategies.any_values, strategies.any_values, strategies.any_values, strategies.any_fields, LIMITS, st.booleans()
)
# r[verify trace.encode.total]
def test_anything_encodes_within_the_limit(
    level: object, target: object, message: object, fields: Any, limit: int, has_exception: bool
) -> None:
    """Whatever is handed in, every encoder returns a body within the limit that decodes."""
    exception = EXCEPTION if has_exception else None
    head: Any = (level, target, message)
    ids: Any = (7, SPAN, TRACE)
    args: Any = (*head, fields, *ids)
    encoders: Any = codec
    with strategies.armed():
        wanted = wire_level(level)
        bodies = [
            encoders.encode_event(*args, exception, limit_bytes=limit),
            encoders.encode_span_enter(*args, PARENT, limit_bytes=limit),
            encoders.encode_span_close(*args, None, 5, exception, limit_bytes=limit),
            encoders.encode_span_exit(*head, *ids, PARENT, limit_bytes=limit),
        ]
    for body in bodies:
        assert body is not None
        assert len(body) <= limit
        record = decoded(body)
        assert codec.level_of(body) == record.level == wanted


@given(st.dictionaries(st.text(max_size=300), st.text(max_size=300) | st.integers(), max_size=400), LIMITS)
@settings(max_examples=30)
def test_many_and_long_keys_fit(fields: dict[str, Any], limit: int) -> None:
    """Fields that are too many are dropped from the end, and how many there were is kept."""
    record = decoded(event(fields=fields, limit_bytes=limit))
    if len(record.fields) < len(fields):
        assert record.cuts["fields"] == len(fields)
        assert record.flags & records.CUT


@pytest.mark.parametrize("where", ["message", "field", "bytes", "subclass", "nested", "exception", "key", "target"])
def test_a_huge_part_is_cut_without_being_copied(where: str) -> None:
    """A part of 10 MB costs less than 2 MB of memory, and its original length is kept."""
    size = 10_000_000
    text = "x" * size
    values: dict[str, Any] = {
        "field": text,
        "bytes": bytes(size),
        "subclass": type("Text", (str,), {})(text),
        "nested": [text, {"a": text}],
    }
    exception = ExceptionText("E", "m", text) if where == "exception" else None
    fields: Any = {"k": values[where], "small": 1} if where in values else {text: 1} if where == "key" else {}
    message = text if where == "message" else "hello"
    target = text if where == "target" else "app"
    tracemalloc.start()
    try:
        body = event(message, fields, target=target, exception=exception, limit_bytes=8192)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    record = decoded(body)
    if where not in ("key", "target"):
        assert record.flags & records.CUT
        key = where if where in ("message", "exception") else "fields.k"
        assert record.cuts == {key: 2 if where == "nested" else size}
        assert len(body) > 7000
    if where in values:
        assert record.fields["small"] == 1


def test_many_large_values_take_little_memory() -> None:
    """Every large repr, text and list of a record together cost less than 2 MB, and each keeps its length."""

    class Large:
        def __repr__(self) -> str:
            return "r" * 8000

    fields: dict[str, Any] = {f"object{n}": Large() for n in range(150)}
    fields |= {f"text{n}": "x" * 8000 for n in range(50)} | {f"list{n}": [0] * 700 for n in range(40)}
    tracemalloc.start()
    try:
        body = event(fields=fields, limit_bytes=8192)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    record = codec.decode(body)
    for part, length in record.cuts.items():
        assert length == (240 if part == "fields" else 700 if "list" in part else 8000)


def test_the_longest_value_is_cut_first() -> None:
    """Short values stay whole beside a long one."""
    fields = {"long": "x" * 50_000, "short": "y" * 1000, "number": 5, "list": [1, 2, 3]}
    record = decoded(event("m" * 500, fields, limit_bytes=8192))
    assert record.cuts == {"fields.long": 50_000}
    assert {k: v for k, v in record.fields.items() if k != "long"} == {k: v for k, v in fields.items() if k != "long"}
    assert record.message == "m" * 500


def test_a_limit_too_small_for_anything_gives_none() -> None:
    """Where not even the ids fit, there is no body."""
    assert codec.encode_event(20, "app", "m", {}, 7, SPAN, TRACE, limit_bytes=20) is None


@given(st.lists(st.integers(0, 10**6), max_size=20), st.integers(0, 10**7))
def test_the_water_level_is_the_largest_that_fits(sizes: list[int], total: int) -> None:
    """One more would be too much."""
    level = normalise.water_level(sizes, total)
    assert sum(min(size, level) for size in sizes) <= total
    if sum(sizes) > total:
        assert sum(min(size, level + 1) for size in sizes) > total


class Level(enum.IntEnum):
    """A level as programs define them."""

    LOUD = 35


@pytest.mark.parametrize(
    ("value", "plain", "flags"),
    [
        (strategies.Number.ONE, 1, 0),
        (strategies.Word.YES, "yes", 0),
        (strategies.Colour.RED, "<Colour.RED: 'red'>", 2),
        (strategies.Pair(1, "x"), [1, "x"], 0),
        (frozenset([3]), [3], 0),
        (bytearray(b"ab"), b"ab", 0),
        (memoryview(b"abcd").cast("H"), b"abcd", 0),
        (2**64, "18446744073709551616", 2),
        (1 << 20_000, "<int of 20001 bits>", 2),
        ({1: "a", "1": "b"}, {"1": "a", "1#1": "b"}, 2),
        ({None: 1, b"k": 2}, {"None": 1, "b'k'": 2}, 2),
        ("a\udc80b", "a\\udc80b", 0),
        (strategies.Hostile(GeneratorExit), "<repr failed: GeneratorExit>", 2),
        (strategies.Lying(7), "<repr failed: TypeError>", 2),
        (strategies.recursive_list(), [1, "<recursive>"], 2),
        (strategies.deep(9), [[[[[[[["<too deep>"]]]]]]]], 2),
    ],
    ids=range(16),
)
def test_the_table_of_conversions(value: object, plain: object, flags: int) -> None:
    """Each kind of value has one wire form."""
    record = decoded(event(fields={"k": value}))
    assert same(record.fields["k"], plain)
    assert (record.flags, record.cuts) == (flags, {})


def test_no_type_goes_through_conversions_of_the_serialiser() -> None:
    """Dates, ids, decimals, dataclasses and structs are their repr, flagged."""
    import datetime
    import decimal
    import uuid

    zone = datetime.UTC
    values = [datetime.datetime.now(zone), uuid.UUID(int=5), decimal.Decimal("1.5"), strategies.Point()]
    values += [strategies.Shape(), datetime.timedelta(1), datetime.date(2020, 1, 1), datetime.time(1)]
    for value in values:
        record = decoded(event(fields={"k": value, "nested": [value]}))
        assert record.fields == {"k": repr(value), "nested": [repr(value)]}
        assert record.flags == records.FIELD_CONVERTED


def test_levels_are_moved_into_range() -> None:
    """Levels of any kind become one of 0 .. 2**15."""
    levels = [-1, 2**15, 2**15 + 1, 10**30, True, Level.LOUD, "40", "loud", None, float("nan"), 30.5]
    assert [wire_level(level) for level in levels] == [0, 2**15, 2**15, 2**15, 1, 35, 40, 20, 20, 20, 30]


def test_a_message_that_is_no_text_is_converted() -> None:
    """`str` of the object, flagged; one that raises says so; a subclass of str keeps its characters."""
    record = decoded(event(ValueError("boom")))
    assert (record.message, record.flags) == ("boom", records.MESSAGE_CONVERTED)
    assert decoded(event(strategies.Hostile(ValueError))).message == "<str failed: ValueError>"
    assert decoded(event(strategies.hostile_subclass(str)("text"))).message == "text"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_through(kind: type[BaseException]) -> None:
    """The user's Ctrl-C, and an exit from a signal handler, are never swallowed."""
    with pytest.raises(kind):
        event(fields={"k": strategies.Hostile(kind)})
    with pytest.raises(kind):
        event(strategies.Hostile(kind))
    with pytest.raises(kind):
        wire_level(strategies.Hostile(kind))


def test_a_container_changed_meanwhile_is_marked() -> None:
    """A dict that its own elements change during encoding becomes a marker."""
    items: dict[str, Any] = {}

    class Changing:
        def __repr__(self) -> str:
            items[str(len(items))] = 1
            return "changing"

    items.update(a=Changing(), b=2)
    assert decoded(event(fields={"k": items})).fields == {"k": normalise.CHANGED_TEXT}


def test_fields_changed_by_another_thread_still_encode() -> None:
    """Encoding fields, nested or not, while a thread changes them gives a record every time."""
    fields: dict[str, Any] = {"set": set(range(50)), "inner": {}}
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            fields[str(number % 40)] = number
            fields.pop(str((number + 20) % 40), None)
            fields["inner"][number % 50] = 1
            fields["inner"].pop((number + 25) % 50, None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            decoded(event(fields=fields, limit_bytes=8192))
    finally:
        stop.set()
        thread.join()


# r[verify trace.encode.total]
def test_encoding_at_the_recursion_limit_gives_a_record_or_nothing() -> None:
    """However little stack is left, the encoder returns, and what it returns decodes."""
    bodies: list[bytes | None] = []

    def dive() -> None:
        with contextlib.suppress(RecursionError):
            dive()
        # On the way back up every amount of free stack is tried.
        if len(bodies) < 60:
            try:
                args: Any = (20, "app", "m", {"k": [[object()]]}, 7, SPAN, TRACE)
                body = codec.encode_event(*args, limit_bytes=8192)
            except RecursionError:
                return  # The call itself did not fit.
            bodies.append(body)

    dive()
    assert len(bodies) == 60
    assert all(body is None or decoded(body) for body in bodies)


@pytest.mark.parametrize("kind", ["event", "enter", "exit", "close", "dropped"])
def test_the_tuple_has_the_bytes_of_the_struct(kind: str) -> None:
    """The encoders write the bytes of the Struct without its trailing defaults."""
    fields = {"a": 1, "b": 2.5, "c": "x"}
    base: Any = (20, "app", "m", fields, 7, SPAN, TRACE)
    limit = AMPLE
    encoders: Any = codec
    structs: Any = records
    cases: dict[str, Any] = {
        "event": lambda: (encoders.encode_event(*base, limit_bytes=limit), structs.Event(*base), 8),
        "enter": lambda: (
            encoders.encode_span_enter(*base, PARENT, limit_bytes=limit),
            structs.SpanEnter(*base, PARENT),
            9,
        ),
        "exit": lambda: (
            encoders.encode_span_exit(20, "app", "m", 7, SPAN, TRACE, PARENT, limit_bytes=limit),
            structs.SpanExit(20, "app", "m", 7, SPAN, TRACE, PARENT),
            8,
        ),
        "close": lambda: (
            encoders.encode_span_close(*base, PARENT, 99, limit_bytes=limit),
            structs.SpanClose(*base, PARENT, 99),
            10,
        ),
        "dropped": lambda: (encoders.encode_dropped({"newest": 3}), structs.Dropped({"newest": 3}), 2),
    }
    body, struct_, count = cases[kind]()
    whole = msgspec.msgpack.encode(struct_)
    items = len(type(struct_).__struct_fields__) + 1
    header = bytes([0x90 + items]) if items < 16 else struct.pack(">BH", 0xDC, items)
    assert body[0] == 0x90 + count
    assert whole.startswith(header + body[1:])
    assert codec.decode(body) == struct_
