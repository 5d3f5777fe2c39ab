"""What the cells of the proof run. It imports little: every cell of the fork server imports it anew."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import roam
from roam.shm.layout import VITAL, HostWord
from roam.tracing.emitter import current_emitter

__all__ = ["add", "die_in_span", "flood", "paced", "press"]

BATCH = 250
IDLE_BURSTS = 10
TICK_S = 0.01


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

    def emit(self, number: int) -> None:
        """One record. If the host had parked before it, the cell has rung for that park, or a later one, afterwards."""
        parked = self._words[HostWord.PARKED]
        roam.info("paced", number=number, sent=time.monotonic_ns())
        self.missed += not self.parks or self.parks[-1] < parked


def paced(rate: int, seconds: float, pauses: int, pause_s: float) -> dict[str, int]:
    """Emit `rate` records a second, sleeping in between; then one record after each of some pauses, in which the host
    parks. Returns how many there were, and how the doorbell was used."""
    bell = _Bell()
    emitted = 0
    start = time.monotonic()
    for tick in range(round(seconds / TICK_S)):
        time.sleep(max(0.0, start + tick * TICK_S - time.monotonic()))
        due = round((tick + 1) * TICK_S * rate)
        while emitted < due:
            bell.emit(emitted)
            emitted += 1
    for _ in range(pauses):
        time.sleep(pause_s)
        bell.emit(emitted)
        emitted += 1
    return {
        "emitted": emitted,
        "rings": len(bell.parks),
        "repeated rings": len(bell.parks) - len(set(bell.parks)),
        "missed rings": bell.missed,
    }


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
