"""Several calls at the same time, and the end of an interpreter, at which some versions of Python start no threads."""

from __future__ import annotations

import threading

import pytest

from roam.tracing.threads import run_together
from tests.programs import METHODS, write_program
from tests.support import run_script

ROOM = 2


def test_calls_run_at_the_same_time():
    """Each waits for the others, so one after the other they would never end."""
    together = threading.Barrier(5, timeout=30)

    run_together([together.wait] * 5, "together")


@pytest.mark.parametrize("room", [0, ROOM])
def test_without_threads_the_rest_is_done_here(monkeypatch, room):
    """Where there is no room for another thread nothing is left out, and nothing is done twice."""
    done, start, left = [], threading.Thread.start, [room]

    def start_if_room(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_room)
    run_together([lambda number=number: done.append(number) for number in range(5)], "together")

    assert sorted(done) == list(range(5))


OPEN_AT_THE_END = """
import sys, time
import roam

def work():
    print("begun", flush=True)
    while not roam.current_cell().stopping:
        time.sleep(0.01)
    print("stopped", flush=True)

if __name__ == "__main__":
    host = roam.TracingHost()
    cell = roam.spawn_cell(work, host=host, start_method=sys.argv[1])
    while not cell.records(1):
        time.sleep(0.01)
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_host_that_nobody_closes_stops_its_cells_at_the_end(tmp_path, method):
    """The interpreter ends, the cells are stopped, and what they print then is shown."""
    done = run_script(write_program(tmp_path, OPEN_AT_THE_END), method)

    assert (done.stdout, done.stderr) == ("begun\nstopped\n", "")
