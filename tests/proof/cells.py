"""What the cells of the proof run. It imports little: every cell of the fork server imports it anew."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import roam
from roam.shm.layout import BULK, VITAL, HostWord
from roam.tracing.emitter import current_emitter

__all__ = ["add", "die_in_span", "flood", "lone", "paced", "press"]

BATCH = 250
IDLE_BURSTS = 10
TICK_S = 0.01
HOST_PATIENCE_S = 5.0
"""How long a cell waits for its host to do what it does many times a second."""


def flood(seconds: float) -> dict[str, int]:
    """Emit without a pause. Returns what was attempted in each lane, and how much of the vital lane was `dropped`.

    Each warning carries how many drops came before it, so that its reader can tell whether they were announced.
    """
    emitter = current_emitter()
    assert emitter is not None
    details = warnings = drops = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for _ in range(BATCH):
            roam.info("detail", number=details)
            details += 1
        if warnings % 4 == 3:
            # As the emitter does with a record that it cannot encode.
            emitter.writer.drop(VITAL, "unencodable")
            drops += 1
        roam.warning("look out", dropped=drops)
        warnings += 1
    roam.error("the end", exc_info=ValueError("of the flood"))
    return {"life": 1, "vital": warnings + drops, "bulk": details, "dropped": drops}


class _Bell:
    """Stands between a writer and its doorbell: notes for which parks of the host the cell rang."""

    def __init__(self) -> None:
        emitter = current_emitter()
        assert emitter is not None
        self._words = emitter.words
        self._writer: Any = emitter.writer
        self._ring = self._writer._ring
        self._writer._ring = self._note
        self.parks: list[int] = []
        self.missed = 0

    def _note(self) -> None:
        self.parks.append(self._writer._rung)
        self._ring()

    def emit(self, number: int, **fields: str) -> None:
        """One record. If the host had parked before it, the cell has rung for that park, or a later one, afterwards."""
        parked = self._words[HostWord.PARKED]
        roam.info("paced", number=number, sent=time.monotonic_ns(), **fields)
        self.missed += not self.parks or self.parks[-1] < parked

    def await_park(self) -> bool:
        """Wait until the host has parked anew since the cell rang; False if it does not."""
        return _await(lambda: self._words[HostWord.PARKED] > self._writer._rung)

    def emit_unrung(self, number: int) -> bool:
        """One record, of which the ring is lost. Returns whether the host has found it all the same."""
        self._writer._ring = lambda: None
        roam.info("paced", number=number, sent=time.monotonic_ns(), after="lost ring")
        self._writer._ring = self._note
        return _await(lambda: self._words[HostWord.TAKEN + BULK] > number)


def _await(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + HOST_PATIENCE_S
    while not (is_so := condition()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return is_so


def paced(rate: int, seconds: float, pauses: int, pause_s: float) -> dict[str, int]:
    """Emit `rate` records a second, sleeping in between; then one record after each of some pauses, in which the host
    parks, and one whose ring is lost. Returns how many there were, and how the doorbell was used."""
    bell = _Bell()
    emitted = 0
    start = time.monotonic()
    for tick in range(round(seconds / TICK_S)):
        time.sleep(max(0.0, start + tick * TICK_S - time.monotonic()))
        due = round((tick + 1) * TICK_S * rate)
        while emitted < due:
            bell.emit(emitted)
            emitted += 1
    parks = 0
    while parks < pauses and bell.await_park():
        parks += 1
        time.sleep(pause_s)
        bell.emit(emitted, after="pause")
        emitted += 1
    is_found = bell.await_park()
    time.sleep(pause_s)
    is_found = bell.emit_unrung(emitted) and is_found
    emitted += 1
    return {
        "emitted": emitted,
        "rings": len(bell.parks),
        "repeated rings": len(bell.parks) - len(set(bell.parks)),
        "missed rings": bell.missed,
        "pauses without a park": pauses - parks,
        "records that nobody looked for": not is_found,
    }


def lone(count: int, pause_s: float) -> int:
    """Emit `count` records, each after a pause: by turns for a host that sleeps, and for one that is about to. Returns
    how many."""
    for number in range(count):
        time.sleep(pause_s)
        roam.info("paced", number=number, sent=time.monotonic_ns(), after=("bell", "window")[number % 2])
    return count


def die_in_span(count: int) -> None:
    """Emit `count` records, the last ones in a span that stays open, and die of SIGKILL."""
    for number in range(count - 5):
        roam.info("detail", number=number)
    with roam.span("job"):
        for number in range(count - 5, count):
            roam.info("detail", number=number)
        os.kill(os.getpid(), signal.SIGKILL)


def add(one: int, other: int) -> int:
    """A result, and a record."""
    roam.info("adding", one=one, other=other)
    return one + other


def press(seconds: float) -> dict[str, int]:
    """Emit numbered records without a pause. Returns how many, and what an emit costs while there is room, and under
    pressure."""
    attempted = 0
    idle, pressed = [], []
    deadline = time.monotonic() + seconds
    while len(idle) < IDLE_BURSTS or time.monotonic() < deadline:
        is_idle = len(idle) < IDLE_BURSTS
        if is_idle:
            time.sleep(TICK_S)
        # A lane of a few small pages holds an idle burst.
        count = BATCH // 5 if is_idle else BATCH
        before = time.perf_counter_ns()
        for _ in range(count):
            roam.info("detail", number=attempted)
            attempted += 1
        (idle if is_idle else pressed).append((time.perf_counter_ns() - before) // count)
    return {
        "attempted": attempted,
        "idle_ns": sorted(idle)[len(idle) // 2],
        "pressed_ns": sorted(pressed)[len(pressed) // 2],
    }
