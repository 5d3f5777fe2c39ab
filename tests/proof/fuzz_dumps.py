"""Damaged dumps: what is sound is shown, what is not is listed, and nothing is shown that was not written."""

from __future__ import annotations

import dataclasses
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roam.errors import DumpError
from roam.postmortem import PostMortem, load
from roam.postmortem.document import document, json_text
from roam.shm.layout import LANES
from roam.tracing.records import Record
from tests.session import SESSION_DIRECTORY

from .bounds import MOST_EXTRA_BYTES, expect_safe, extra_bytes_of, peak_growth, timed
from .dumps import Dump, Section, damage_bytes, damage_record, damage_section, dumps, forge, rearrange
from .goal import Broken, Case, Goal, Tally, expect

__all__ = ["FuzzDumps"]

BATCH = 250
_PARTS = {"spans": "open_spans", "stdout": "stdout_tail", "stderr": "stderr_tail", "fault": "stacks"}
"""What of a post-mortem stands in which section alone."""


# r[verify dump.load.tolerant]
# r[verify dump.render.escape]
class FuzzDumps(Goal):
    """Dumps with damage of every kind, as `roam show` reads them."""

    name = "fuzz-dumps"
    unit = "dumps"
    promise = (
        "DumpError or a post-mortem; <= 20 ms of a processor, the best of up to 13 tries, and <= 4 MiB, as the process "
        "grows in a batch or else as Python allocates; what is not sound is listed; only written records; damage costs "
        "its own section, in a record its own record; text that is safe to show"
    )
    covers = (
        "refused",
        "sound in part",
        "rendered",
        "damaged anywhere",
        "with one damaged section",
        "with one damaged record",
        "rearranged",
        "forged",
    )
    shards = 2

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """100,000 dumps; 750 in the small form."""
        for number in range(3 if small else 400):
            yield {"seed": str(seed), "first": number * BATCH, "count": BATCH}

    def check(self, case: Case, tally: Tally) -> None:
        """A batch of dumps, each with damage of its own."""
        with tempfile.TemporaryDirectory(dir=SESSION_DIRECTORY) as directory:
            path = Path(directory) / "x.roam"
            _try(case["seed"], case["first"], path, Tally())  # what is only made once is no cost of a dump
            growth = peak_growth(lambda: self._check_all(case, path, tally))
            if growth > MOST_EXTRA_BYTES:
                # Which of them, or none: a process also grows because its heap falls into pieces.
                extra_bytes_of(lambda: self._check_all(case, path, Tally()))
        tally.samples["growth"].append(growth)

    def _check_all(self, case: Case, path: Path, tally: Tally) -> None:
        for number in range(case["first"], case["first"] + case["count"]):
            try:
                _try(case["seed"], number, path, tally)
            except Exception as error:
                problem = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
                raise Broken(f"dump {number}: {problem}", first=number, count=1) from error
            tally.counts[self.unit] += 1

    def figures(self, tally: Tally) -> str:
        """What the table says."""
        counts = tally.counts
        return (
            f"{counts['refused']:,} refused, {counts['sound in part']:,} sound in part, {counts['rendered']:,} rendered; "
            f"{counts['forged']:,} with forged checksums; at most {max(tally.samples['ms']):.1f} ms"
        )


def _try(seed: str, number: int, path: Path, tally: Tally) -> None:
    source = random.Random(f"{seed}/{number}")
    dump = source.choices(dumps(), (3, 10, 1, 1))[0]
    way = number % 10
    section: Section | None = None
    record: tuple[int, int] | None = None
    if way < 3:
        kind, data = "damaged anywhere", damage_bytes(source, dump)
    elif way < 5:
        kind, (data, section) = "with one damaged section", damage_section(source, dump)
    elif way == 5 and (damaged := damage_record(source, dump)) is not None:
        kind, (data, *place) = "with one damaged record", damaged
        record = (place[0], place[1])
    elif way == 6:
        kind, data = "rearranged", rearrange(source, dump)
    else:
        kind, data = "forged", forge(source, dump)
    tally.counts[kind] += 1
    pm = _load(path, data, number, tally)
    if pm is None:
        expect(section is None and record is None, "refused, for a part that others are independent of")
        return
    if kind != "forged":
        _check_origin(pm, dump)
    if kind not in ("forged", "rearranged"):
        same = dataclasses.replace(pm, path=dump.post_mortem.path) == dump.post_mortem
        expect(pm.damage or same, "it says something else than before and lists no damage")
    if section is not None:
        _check_others(pm, dump, section)
    if record is not None:
        gone = _missing(pm, dump)
        expect(gone == {(LANES[record[0]], record[1])}, f"record {record} is damaged, and these are gone: {gone}")


def _load(path: Path, data: bytes, number: int, tally: Tally) -> PostMortem | None:
    _rewrite(path, data)
    is_rendered = number % 3 == 0

    def show() -> tuple[PostMortem, str, str] | None:
        try:
            pm = load(path)
        except DumpError:
            return None
        return pm, pm.render() if is_rendered else "", json_text(document(pm, last=20)) if number % 21 == 0 else ""

    shown, seconds = timed(show)
    tally.samples["ms"] = [max([seconds * 1000, *tally.samples["ms"]])]
    if shown is None:
        tally.counts["refused"] += 1
        return None
    pm, text, json = shown
    expect_safe(text, "the report")
    expect_safe(json, "the document")
    tally.counts["rendered"] += is_rendered
    tally.counts["sound in part"] += bool(pm.damage and pm.records)
    return pm


def _rewrite(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _by_place(records: list[Record]) -> dict[Any, Record]:
    return {(record.kind == "lost", record.lane, record.seq, record.time_ns): record for record in records}


def _check_origin(pm: PostMortem, dump: Dump) -> None:
    """Every record and span was in the dump when it was sound."""
    written = _by_place(dump.post_mortem.records)
    for place, record in _by_place(pm.records).items():
        expect(written.get(place) == record, f"never written: {record}")
    expect(all(span in dump.post_mortem.open_spans for span in pm.open_spans), "a span that never was")


def _missing(pm: PostMortem, dump: Dump) -> set[tuple[str, int | None]]:
    found = _by_place(pm.records)
    return {
        (record.lane, record.seq) for place, record in _by_place(dump.post_mortem.records).items() if place not in found
    }


def _check_others(pm: PostMortem, dump: Dump, section: Section) -> None:
    """What stands in other sections than the damaged one is all there."""
    for name, attribute in _PARTS.items():
        is_same = getattr(pm, attribute) == getattr(dump.post_mortem, attribute)
        expect(is_same or section.name == name, f"{section.name} is damaged, and {name} is gone")
    theirs: set[tuple[str, int | None]] = set()
    if section.name == "chunk":
        theirs = {(LANES[dump.lane_of(section)], seq) for seq, _, _ in dump.records_in(section)}
    elif section.name == "lost":
        theirs = {(record.lane, record.seq) for record in dump.post_mortem.records if record.kind == "lost"}
    gone = _missing(pm, dump) - theirs
    expect(not gone, f"{section.name} at {section.start} is damaged, and these are gone: {sorted(gone, key=str)[:5]}")
    expect(pm.peer == dump.post_mortem.peer and pm.exit == dump.post_mortem.exit, "it is another cell's now")
