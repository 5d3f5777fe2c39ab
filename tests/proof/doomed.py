"""A program to be killed: a host whose cells write until the end, and note of each record that it is begun and done.

Run as a script with a plan as JSON. It prints a line when all of its cells write, and another for each line that it is
given, as long as it lives. `tests.proof.host_deaths` says what has to be left of it.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import sys
import time
import warnings
from pathlib import Path

import roam

BEGUN, DONE, PID, HURRY = 0, 2, 4, 5
"""The words of one process: two for the lanes bulk and vital, twice; its process id; whether it is to write at full
speed, if that is its pace."""
BULK, VITAL = 0, 1
VITAL_STRIDE = 7
PACE_S = 0.005
"""What everybody sleeps between two bursts, so that a machine with few processors can start the others."""
FEW, BURST, FLOOD = 40, 5, 500


def words_in(path):
    """The words in a file of their own: they outlive everybody, like the segments."""
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), mmap.PAGESIZE)).cast("Q")


def filling(seq):
    """What a record holds beside its number: of another length each time."""
    return "x" * (seq * 37 % 90)


def write(words, count):
    """Write so many records more, one of seven into the lane of warnings."""
    for _ in range(count):
        lane = VITAL if (words[DONE + BULK] + words[DONE + VITAL]) % VITAL_STRIDE == 0 else BULK
        seq = words[BEGUN + lane]
        words[BEGUN + lane] = seq + 1
        if lane == VITAL:
            roam.warning("proof", n=seq, filling=filling(seq))
        else:
            roam.info("proof", n=seq, filling=filling(seq))
        words[DONE + lane] = seq + 1


def work(path, pace):
    """The target of a cell: a span, and records in it until the end."""
    words = words_in(path)
    words[PID] = os.getpid()
    words[BEGUN + BULK] += 1
    with roam.span("job", pace=pace):
        words[DONE + BULK] += 1
        write(words, FEW)
        while pace == "few":
            time.sleep(600)
        while True:
            write(words, FLOOD if pace == "flood" and words[HURRY] else BURST)
            time.sleep(PACE_S)


def main(plan):
    place = Path(plan["sides"])
    words = words_in(place / "host")
    words[PID] = os.getpid()
    sizes = roam.SegmentConfig(
        page_bytes=1024, record_bytes=512, bulk_pages=plan["pages"], vital_pages=4, life_pages=4, span_slots=4
    )
    with roam.TracingHost(segment=sizes, retain_bytes=1 << 16, forward=False) as host:
        cells = [
            roam.spawn_cell(
                work,
                str(place / cell["name"]),
                cell["pace"],
                name=cell["name"],
                host=host,
                start_method=cell["method"],
                die_with_host=not cell["outlives"],
            )
            for cell in plan["cells"]
        ]
        all_words = [words_in(place / cell["name"]) for cell in plan["cells"]]
        while not all(words[DONE + VITAL] for words in all_words):
            write(words, 1)
            time.sleep(PACE_S)
        print(json.dumps(str(host.run_dir)), flush=True)
        while True:
            write(words, 1)
            if select.select([sys.stdin], [], [], PACE_S)[0]:
                sys.stdin.readline()
                print(json.dumps([host.is_open, all(cell.exit is None for cell in cells)]), flush=True)


if __name__ == "__main__":
    # From Python 3.12 on a fork in a process with threads warns, and every host has one.
    warnings.simplefilter("ignore", DeprecationWarning)
    main(json.loads(sys.argv[1]))
