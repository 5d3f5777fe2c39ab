"""Record bodies of every kind that a hostile cell could write: a record, or the typed error, soon and cheaply."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator
from typing import Any

from roam.errors import RecordError
from roam.tracing.codec import LEVEL_MAX, decode, level_of
from roam.tracing.records import Dropped, Record

from .bounds import extra_bytes_of, timed
from .goal import Broken, Case, Goal, Tally, expect
from .wire import bodies, bomb, forged_body, mutated, token

__all__ = ["FuzzBodies"]

BATCH = 2000
WEIGHED = 25
"""Of so many bodies one has its memory measured."""
MOST_BYTES, MOST_LEVELS, MOST_NODES = 65536, 16, 1024
"""What the decoder promises; not taken from it, so that it is held to this. Levels count below the fields."""
SCALARS = (bool, int, float, str, bytes, type(None))


# r[verify trace.decode.typed]
class FuzzBodies(Goal):
    """Bodies of up to 64 KiB through the decoder."""

    name = "fuzz-bodies"
    unit = "bodies"
    promise = (
        "a record within its limits, or RecordError; <= 20 ms of a processor, the best of up to 13 tries, and, of each "
        f"{WEIGHED}th, <= 8 MiB that Python allocates, for 64 KiB; a level that agrees"
    )
    covers = ("records", "refused", "noise", "mutated", "forged", "bombs", "weighed", "beyond a limit")
    shards = 2

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """200,000 bodies; 2,000 in the small form."""
        for number in range(1 if small else 100):
            yield {"seed": str(seed), "first": number * BATCH, "count": BATCH}

    def check(self, case: Case, tally: Tally) -> None:
        """A batch of bodies, after those that are as large as they may be, and a little larger."""
        _check_limits(tally)
        for number in range(case["first"], case["first"] + case["count"]):
            body = b""
            try:
                kind, body = _body(random.Random(f"{case['seed']}/{number}"))
                _check(body, number % WEIGHED == 0, tally)
            except Exception as error:
                problem = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
                raise Broken(f"body {number}, {body[:200]!r}: {problem}", first=number, count=1) from error
            tally.counts[kind] += 1
            tally.counts[self.unit] += 1

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts, samples = tally.counts, tally.samples
        return (
            f"{counts['records']:,} decoded, {counts['refused']:,} refused; at most {max(samples['ms']):.1f} ms, "
            f"{max(samples['bytes']) / 2**20:.1f} MiB"
        )


def _body(source: random.Random) -> tuple[str, bytes]:
    choice = source.randrange(40)
    if choice == 0:
        return "noise", source.randbytes(source.choice((0, 1, 2, 5, 40, 400)))
    if choice == 1:
        return "noise", b"".join(token(source) for _ in range(source.randrange(30)))
    if choice == 2:
        start = b"\x98\x00\x14\xa1t\xa1m\x81\xa1k"
        return "bombs", (start + bomb(source, MOST_BYTES))[: MOST_BYTES + source.randrange(2)]
    if choice < 20:
        return "forged", forged_body(source)
    return "mutated", mutated(source, source.choice(bodies()))


def _check(body: bytes, is_weighed: bool, tally: Tally) -> None:
    def attempt() -> Record | None:
        with contextlib.suppress(RecordError):
            return decode(body)
        return None

    record, seconds = timed(attempt)
    _note_largest(tally, "ms", seconds * 1000)
    if is_weighed:
        _note_largest(tally, "bytes", extra_bytes_of(attempt, most=8 << 20))
        tally.counts["weighed"] += 1
    level = level_of(body)
    if record is None:
        tally.counts["refused"] += 1
        return
    tally.counts["records"] += 1
    expect(level in (None, record.level), f"at a glance its level is {level}, and it is {record.level}")
    _check_record(record)


def _check_limits(tally: Tally) -> None:
    """Each limit by itself: what reaches it is a record, and one more is refused."""
    for over in (0, 1):
        # Values below the fields, one in another; the fields themselves are the first level.
        deep = b"\x91" * (MOST_LEVELS + over - 1) + b"\x90"
        wide = b"\xdc" + struct.pack(">H", MOST_NODES + over - 1) + b"\x00" * (MOST_NODES + over - 1)
        flat = b"".join(b"\xa4%04d\x00" % number for number in range(MOST_NODES + over))
        long = b"\xc6" + struct.pack(">I", MOST_BYTES + over - len(_with_fields(b"\x81\xa1k\xc6" + bytes(4))))
        for what, fields in (
            ("levels", b"\x81\xa1k" + deep),
            ("values", b"\x81\xa1k" + wide),
            ("fields", b"\xde" + struct.pack(">H", MOST_NODES + over) + flat),
            ("bytes", b"\x81\xa1k" + long + bytes(int.from_bytes(long[1:], "big"))),
        ):
            try:
                decode(_with_fields(fields))
            except RecordError as error:
                expect(over, f"as many {what} as there may be, and refused: {error}")
                tally.counts["beyond a limit"] += 1
            else:
                expect(not over, f"one of the {what} too many, and taken")


def _with_fields(fields: bytes) -> bytes:
    """The body of an event, level to trace id, with these fields."""
    return b"\x98\x00\x14\xa1t\xa1m" + fields + b"\x07\xc4\x08" + bytes(8) + b"\xc4\x10" + bytes(16)


def _note_largest(tally: Tally, name: str, number: float) -> None:
    tally.samples[name] = [max([number, *tally.samples[name]])]


def _check_record(record: Any) -> None:
    """It keeps within what the rest of roam counts on."""
    expect((record.time_ns, record.seq, record.lane) == (0, 0, ""), "it says when or where it was written")
    if isinstance(record, Dropped):
        expect(all(count >= 0 for count in record.counts.values()), "it counts below zero")
        return
    expect(0 <= record.level <= LEVEL_MAX and record.thread >= 0 and record.flags >= 0, "a number is out of range")
    expect((len(record.span_id), len(record.trace_id)) == (8, 16), "ids of a wrong length")
    expect(record.parent_id is None or len(record.parent_id) == 8, "a parent of a wrong length")
    nodes, level, depth = 0, [record.fields], 0
    while level:
        depth += 1
        nodes += sum(map(len, level))
        expect(depth <= MOST_LEVELS + 1 and nodes <= MOST_NODES, "it is too deep, or too wide")
        inner = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        level = [item for item in inner if isinstance(item, dict | list)]
        strange = [item for item in inner if not isinstance(item, (*SCALARS, dict, list))]
        expect(not strange, f"values of a type that no cell can send: {strange[:3]}")
