"""SIGKILL of a host that posts configurations as fast as it can: the cell has one of them, whole, or the one before."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import cache
from typing import NoReturn

from roam.shm.layout import Geometry, SegmentConfig
from roam.shm.mailbox import MailboxWriter, read_config
from roam.shm.mapping import MappedSegment
from roam.shm.segment import SegmentFile
from roam.tracing.config import TracingConfig

from .goal import Case, Goal, Tally, expect
from .kills import IDENTITY

__all__ = ["ConfigKills"]

LONGEST_S = 0.01
WARM = 2_000
"""Configurations that are made beforehand, so that the hosts spend their lives posting."""
KILLS_OF_A_CASE = 20
TARGETS = 60
"""So many directives in the longest configuration: a kill may come in the middle of copying it."""


@cache
def body_of(generation: int) -> bytes:
    """What is posted under this generation: of a length that changes each time, and different from every other."""
    names = ",".join(f"t{number}.g{generation}=debug" for number in range(generation * 7 % TARGETS))
    return TracingConfig(f"info,{names}" if names else f"info,g{generation}=warning").to_bytes()


# r[verify shm.config.mailbox]
# r[verify shm.config.keep]
class ConfigKills(Goal):
    """Hosts that die between two stores of a configuration, or in the middle of one."""

    name = "config-kills"
    unit = "kills"
    promise = "after every kill, and at every look before it, the cell reads a configuration that was posted, whole"
    covers = ("looks", "kills within a post", "other configurations than before")
    is_exact = False

    def cases(self, *, small: bool, seed: int) -> Iterator[Case]:
        """2,000 kills; 200 in the small form."""
        for number in range(10 if small else 100):
            yield {"seed": f"{seed}/{number}"}

    def check(self, case: Case, tally: Tally) -> None:
        """Some kills of hosts of one segment each."""
        source = random.Random(case["seed"])
        for generation in range(1, WARM):
            body_of(generation)
        for _ in range(KILLS_OF_A_CASE):
            _run(source.uniform(0, LONGEST_S), tally)
            tally.counts[self.unit] += 1


def _run(after_s: float, tally: Tally) -> None:
    geometry = Geometry(SegmentConfig(page_bytes=256, bulk_pages=2, record_bytes=64, span_slots=1))
    segment = SegmentFile.create_anonymous(geometry.config, IDENTITY)
    try:
        cell = MappedSegment(segment.fd)
        posted, begun = os.pipe()
        pid = os.fork()
        if pid == 0:
            _post_until_killed(segment, begun)
        os.close(begun)
        seen = 0
        try:
            deadline = time.monotonic() + after_s
            while time.monotonic() < deadline:
                seen = _look(cell, seen)
                tally.counts["looks"] += 1
        finally:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        expect(os.WIFSIGNALED(status), f"the host ended by itself, with {status}")
        last = _look(cell, seen)
        with os.fdopen(posted, "rb") as told:
            notes = told.read()
        # A byte before each post, another one after it.
        finished, is_within = len(notes) // 2, len(notes) % 2
        expect(finished <= last <= finished + is_within, f"{finished} posted, and the cell has number {last}")
        tally.counts["kills within a post"] += is_within
        tally.counts["other configurations than before"] += last > 1
    finally:
        segment.close()


def _look(cell: MappedSegment, seen: int) -> int:
    """What the cell would take now: a whole configuration of its generation, and never an older one than before."""
    found = read_config(cell.memory, cell.words)
    if found is None:
        # Being replaced just now, or not there yet: it keeps what it has.
        return seen
    generation, body = found
    expect(generation >= seen, f"generation {generation} after {seen}")
    expect(body == body_of(generation), f"generation {generation} is {body!r}")
    return generation


def _post_until_killed(segment: SegmentFile, notes: int) -> NoReturn:
    try:
        writer = MailboxWriter(segment.write)
        while True:
            body = body_of(writer.generation + 1)
            os.write(notes, b"b")
            writer.post(body)
            os.write(notes, b"e")
    finally:
        os._exit(1)
