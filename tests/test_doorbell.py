"""The doorbell: wakes, never blocks, never raises, and says when the other side is gone."""

from __future__ import annotations

import os
import select
import sys

import pytest

from roam.shm.doorbell import Doorbell, DoorbellPair, drain_doorbell
from tests.support import run_script


@pytest.fixture
def pair():
    """Both ends; a test that closes one takes it out."""
    ends = DoorbellPair.create()
    fds = list(ends)
    yield ends, fds
    for fd in fds:
        os.close(fd)


def is_readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_a_ring_wakes_the_host(pair):
    """A ring makes the host's end readable, and draining takes all rings at once."""
    ends, _ = pair
    bell = Doorbell(ends.cell_fd)
    assert not is_readable(ends.host_fd)
    for _ in range(5):
        bell.ring()
    assert is_readable(ends.host_fd)
    assert drain_doorbell(ends.host_fd)
    assert not is_readable(ends.host_fd)
    assert drain_doorbell(ends.host_fd), "nothing to take is not the end"


def test_ringing_for_a_host_that_does_not_look_neither_blocks_nor_raises(pair):
    """A full socket takes no more rings, and the next ring after a look wakes again."""
    ends, _ = pair
    bell = Doorbell(ends.cell_fd)
    for _ in range(20_000):
        bell.ring()
    while is_readable(ends.host_fd):
        assert drain_doorbell(ends.host_fd)
    bell.ring()
    assert is_readable(ends.host_fd)


def test_the_end_of_the_cell_is_seen(pair):
    """When the cell's end closes, the rings before that are taken first, then draining says that it is gone."""
    ends, fds = pair
    bell = Doorbell(ends.cell_fd)
    bell.ring()
    bell.close()
    fds.remove(ends.cell_fd)
    assert drain_doorbell(ends.host_fd)
    assert not drain_doorbell(ends.host_fd)
    bell.close()
    bell.ring()


GONE = """
import os, signal
from roam.shm.doorbell import Doorbell, DoorbellPair
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
ends = DoorbellPair.create()
os.close(ends.host_fd)
Doorbell(ends.cell_fd).ring()
print("alive")
"""


def test_a_host_that_is_gone_costs_the_cell_nothing():
    """A ring into a closed socket is no error and no signal, also where the program lets SIGPIPE kill it."""
    assert "alive" == run_script("-c", GONE).stdout.strip()


def test_a_number_that_is_somebody_elses_now_is_left_alone(tmp_path, pair):
    """When the program has closed the doorbell and its number is a file, that file gets no byte."""
    ends, _ = pair
    bell = Doorbell(ends.cell_fd)
    with (tmp_path / "data").open("wb") as file:
        os.dup2(file.fileno(), ends.cell_fd, inheritable=False)
        bell.ring()

    assert 0 == (tmp_path / "data").stat().st_size


def test_draining_a_closed_descriptor_is_the_end():
    """A descriptor that is not open is a side that is gone."""
    ends = DoorbellPair.create()
    os.close(ends.cell_fd)
    os.close(ends.host_fd)
    assert not drain_doorbell(ends.host_fd)


def test_ends_are_neither_inherited_nor_blocking(pair):
    """Both ends close in children, and neither waits."""
    ends, _ = pair
    for fd in ends:
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)
    os.set_blocking(ends.cell_fd, True)
    Doorbell(ends.cell_fd)
    assert not os.get_blocking(ends.cell_fd)


def test_ringing_leaves_no_warning():
    """A bell that is never closed is no ResourceWarning at the end of the program."""
    script = "from roam.shm.doorbell import *; e = DoorbellPair.create(); b = Doorbell(e.cell_fd); b.ring(); del b"
    done = run_script("-X", "dev", "-W", "error", "-c", script)

    assert "" == done.stderr, sys.version
