"""Hosts that stand still or are gone while their cells' lanes are full: `python -m tests.pressed stopped|killed …`.

What an emit under the policy `block` takes beyond its wait is measured in the cell, each time beside a bare sleep.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import multiprocess

import roam
from benchmarks.loops import stopped
from roam.shm.layout import CAUSES, LANES, dropped_word
from roam.tracing.emitter import current_emitter
from tests.support import wait_until

__all__ = ["AT_ONCE", "LANES_OF_A_CELL", "WAIT_S", "Wait"]

WAIT_S = 0.02
AT_ONCE = 100
"""So many emits follow on each wait in vain."""
LANES_OF_A_CELL = len(LANES)
PATIENCE_S = 60.0
CONFIG = roam.TracingConfig("info", overflow=f"block({WAIT_S})")
SMALL = roam.SegmentConfig(page_bytes=4096, life_pages=2, vital_pages=2, bulk_pages=2, record_bytes=1024)


class Wait(NamedTuple):
    """A wait in vain, in seconds."""

    beyond: float
    """What the emit took beyond its wait."""
    slept_beyond: float
    """What a bare sleep of that length took beyond it, directly afterwards."""
    at_once: float
    """What the emits took that followed on it, all together."""


def emit_error(message: str) -> None:
    """Into the lane for exceptions."""
    roam.error(message, exc_info=ValueError(message))


EMITS: dict[str, Callable[[str], None]] = {"life": emit_error, "vital": roam.warning, "bulk": roam.info}


def wait_in_vain(lane: str) -> Wait:
    """Emit until one waits, and is dropped."""
    emitter, emit = current_emitter(), EMITS[lane]
    assert emitter is not None
    words, word = emitter.words, dropped_word(LANES.index(lane), CAUSES.index("timed_out"))
    dropped = words[word]
    while words[word] == dropped:
        begun = time.monotonic()
        emit("while there is room")
        ended = time.monotonic()
    for _ in range(AT_ONCE):
        emit("at once")
    at_once = time.monotonic() - ended
    assert words[word] == dropped + 1 + AT_ONCE
    before = time.monotonic()
    time.sleep(WAIT_S)
    return Wait(ended - begun - WAIT_S, time.monotonic() - before - WAIT_S, at_once)


def wait_for_stopped_host(turns: Any, host_pid: int, count: int) -> list[Wait]:
    """Waits in vain; between them the host goes on until it has taken everything."""
    waits = []
    for _ in range(count):
        with stopped(host_pid):
            waits.append(wait_in_vain("bulk"))
        turns.send(True)
        turns.recv()
    turns.close()
    return waits


def wait_for_dead_host(directory: Path, number: int) -> None:
    """One wait in vain in each lane, one cell after the other; nobody is left to return them to."""
    roam.info("ready")
    wait_until((directory / "go").exists, PATIENCE_S)
    # Not released before the process is gone: the end of an interpreter is work, beside which the next would measure.
    fcntl.flock(os.open(directory / "turn", os.O_RDONLY), fcntl.LOCK_EX)
    waits = [wait_in_vain(lane) for lane in EMITS]
    answer = directory / f"{number}.part"
    answer.write_text(json.dumps(waits))
    answer.rename(answer.with_suffix(".json"))


def be_stopped(count: int) -> None:
    """Print the waits of one cell."""
    with roam.TracingHost(CONFIG, segment=SMALL, forward=False) as host:
        here, there = multiprocess.Pipe()
        cell = roam.spawn_cell(wait_for_stopped_host, there, os.getpid(), count, host=host)
        there.close()
        for _ in range(count):
            here.recv()
            wait_until(lambda: not cell.statistics().lanes["bulk"].resident, PATIENCE_S)
            here.send(True)
        print(json.dumps(cell.result(PATIENCE_S)))
        here.close()


def be_killed(directory: Path, count: int) -> None:
    """Print the processes of cells that outlive this one, and wait for the end."""
    (directory / "turn").touch()
    with roam.TracingHost(CONFIG, segment=SMALL, forward=False) as host:
        cells = [
            roam.spawn_cell(wait_for_dead_host, directory, number, host=host, start_method="spawn", die_with_host=False)
            for number in range(count)
        ]
        wait_until(lambda: all(cell.records() for cell in cells), PATIENCE_S)
        print(json.dumps([cell.pid for cell in cells]), flush=True)
        time.sleep(PATIENCE_S)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["stopped", count]:
            be_stopped(int(count))
        case ["killed", directory, count]:
            be_killed(Path(directory), int(count))
