"""After many deaths nothing is left of them but what may be: dumps, as many as the limits allow."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import roam
from roam.shm.rundir import run_directories
from tests.hosting import descriptors
from tests.orphans import make_root
from tests.programs import Program, is_alive, write_program
from tests.support import wait_until

WAIT_S = 60.0
AT_ONCE = 5

HOST = """
    import sys, time
    import roam

    def work():
        with roam.span("job"):
            roam.info("at work")
            time.sleep(600)

    if __name__ == "__main__":
        host = roam.TracingHost(forward=False, dump_limits=roam.DumpLimits(most_count=int(sys.argv[1])))
        cell = roam.spawn_cell(work, host=host)
        while not cell.records():
            time.sleep(0.001)
        print(cell.pid, flush=True)
        time.sleep(600)
"""


def die():
    with roam.span("job"):
        roam.info("the last words")
        os.kill(os.getpid(), signal.SIGKILL)


def shared_memory():
    """What is in /dev/shm, apart from the places of test sessions."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("roam-tests-")}


# r[verify dump.caps]
# r[verify dump.storm]
@pytest.mark.parametrize(
    ("cycles", "burst"), [(20, 8), pytest.param(1_000, 200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_crash_cycles_leave_dumps_within_the_limits(cycles, burst, tmp_path):
    """Every death has its post-mortem, in a file or in memory; the run directory, /dev/shm and the descriptors are as
    they were, while the host still runs, and the caps hold all the time."""
    limits = roam.DumpLimits(most_count=burst // 2, burst_count=burst, rate_per_s=0.1)
    before = shared_memory()
    with roam.TracingHost(forward=False, dump_dir=tmp_path, dump_limits=limits) as host:
        roam.spawn_cell(die, host=host).join(WAIT_S)
        run, opened = set(host.run_dir.iterdir()), len(descriptors())
        for _ in range(cycles // AT_ONCE):
            cells = [roam.spawn_cell(die, host=host) for _ in range(AT_ONCE)]
            for cell in cells:
                cell.join(WAIT_S)
                if cell.dump_path is None or cell.dump_path.exists():
                    assert [span.name for span in cell.post_mortem.open_spans] == ["job"]
            del cell, cells
            assert len(list(tmp_path.iterdir())) <= limits.most_count
        found = host.statistics().dumps
        assert found.written + found.suppressed == cycles + 1
        assert found.written >= burst
        assert found.suppressed > 0
        assert found.removed == found.written - limits.most_count
        assert set(host.run_dir.iterdir()) == run
        assert len(descriptors()) == opened
        wait_until(lambda: shared_memory() <= before, message="nothing new is in /dev/shm")


# r[verify dump.caps]
# r[verify dump.salvage.start]
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_killed_hosts_leave_nothing_after_the_next_start(kills, tmp_path, monkeypatch):
    """Each next host makes post-mortems of what the one before left, within the limits; after the last start there is
    neither a run directory nor anything new in /dev/shm or among the descriptors."""
    root = make_root(monkeypatch, tmp_path)
    dumps = root.parent / "dumps"
    program = write_program(tmp_path, HOST)
    before, opened, most_count = shared_memory(), len(descriptors()), 3
    for _ in range(kills):
        with Program(program, str(most_count)) as host:
            cell = int(host.line())
            assert len(list(dumps.iterdir())) <= most_count
        wait_until(lambda: not is_alive(cell))  # noqa: B023 waited for here

    def start():
        with roam.TracingHost(forward=False, dump_limits=roam.DumpLimits(most_count=most_count)):
            return run_directories(root) == []

    wait_until(start)
    assert not Path(root).exists()
    assert len(list(dumps.iterdir())) == most_count
    assert len(descriptors()) == opened
    wait_until(lambda: shared_memory() <= before, message="nothing new is in /dev/shm")
