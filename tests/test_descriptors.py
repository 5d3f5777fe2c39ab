"""The descriptors that a cell must not lose, in programs that close and reuse all they can."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import sys

import pytest

import roam
from roam.exit import Confidence
from roam.shm import descriptors
from roam.shm.descriptors import private_descriptor
from tests.programs import Program, is_alive, write_program
from tests.support import run_script, wait_until

METHODS = ("forkserver", "spawn", "fork")
WAIT_S = 30.0


@pytest.fixture(autouse=True)
def as_before():
    """This process is no cell."""
    yield
    descriptors.forget_private()
    os.closerange = descriptors._closerange


@pytest.fixture
def limits():
    """Limits for open files, put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("soft", [256, 1024, 4096, 20_000])
# r[verify spawn.descriptors]
def test_a_private_descriptor_has_a_number_that_nobody_else_gets(limits, soft):
    """It lies above the soft limit, or above all numbers that a program comes to; the limit is as before."""
    if limits[1] < max(soft, 8192) + 16:
        pytest.skip("the hard limit leaves no room")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    here, there = os.pipe()
    moved = private_descriptor(there)
    try:
        assert moved >= min(soft, 8192)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, limits[1])
        assert fcntl.fcntl(moved, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with pytest.raises(OSError):
            os.fstat(there)
        os.closerange(moved - 1, moved + 1000)
        assert os.write(moved, b"!") == 1
    finally:
        os.close(moved)
        os.close(here)


def test_closerange_closes_everything_else(limits):
    """What lies beside a private descriptor is closed, also at both ends of the range."""
    fds = [fcntl.fcntl(0, fcntl.F_DUPFD, 300) for _ in range(5)]
    descriptors._private.add(fds[2])
    os.closerange = descriptors._closerange_but_private
    os.closerange(fds[0], fds[4])

    assert [is_open(fd) for fd in fds] == [False, False, True, False, True]
    os.close(fds[2])
    os.close(fds[4])


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


TIGHT = """
import os, resource
from roam.shm.descriptors import private_descriptor
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
here, there = os.pipe()
os.set_inheritable(there, True)
moved = private_descriptor(there)
print(moved >= 24, os.get_inheritable(moved))
for number in range(100):
    try:
        os.dup(0)
    except OSError:
        break
print(private_descriptor(here) == here, os.get_inheritable(here))
"""


def test_few_descriptors_are_enough():
    """Under a small hard limit it moves as far as it can, or stays where it is; children do not get it."""
    assert run_script("-c", TIGHT).stdout.split() == ["True", "False", "True", "False"]


def close_all_and_crash(how):
    if how == "closerange":
        os.closerange(3, 1 << 20)
    elif how == "a loop":
        for fd in range(3, 4096):
            try:
                os.close(fd)
            except OSError:
                continue
    roam.info("everything is closed")
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    roam.info("and opened", count=len(opened))
    ctypes.string_at(0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["closerange", "a loop"])
# r[verify spawn.descriptors]
def test_a_cell_that_closes_everything_still_has_its_stacks(tmp_path, method, how):
    """Records, stacks and verdict of a cell that closed all it could and reused the numbers."""
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as host:
        cell = roam.spawn_cell(close_all_and_crash, how, host=host, start_method=method)
        ended = cell.join(WAIT_S)

    assert (ended.signal, ended.verdict, ended.confidence) == (
        signal.SIGSEGV,
        "Segmentation fault",
        Confidence.CERTAIN,
    )
    assert "in close_all_and_crash" in cell.post_mortem.stacks
    assert [record.message for record in cell.post_mortem.records][-2:] == ["everything is closed", "and opened"]


LIVES_ON = """
import os, time
import roam

def close_all():
    os.closerange(3, 1 << 20)
    roam.info("closed")
    time.sleep(600)

if __name__ == "__main__":
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(close_all, host=host)
        while not cell.records(1):
            time.sleep(0.01)
        print(cell.pid, flush=True)
        time.sleep(600)
"""


def test_a_cell_that_closes_everything_still_dies_with_its_host(tmp_path):
    """The lifeline is among the descriptors that stay."""
    with Program(write_program(tmp_path, LIVES_ON), ROAM_DIR=str(tmp_path)) as program:
        pid = int(program.line())
        program.send(signal.SIGKILL)
        program.wait()
        wait_until(lambda: not is_alive(pid), message="the cell dies")


def fork_and_close():
    pid = os.fork()
    if pid == 0:
        os.closerange(3, 1 << 20)
        left = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 3]
        os._exit(len(left))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_of_a_cell_closes_them_with_the_others(tmp_path):
    """A daemon that a cell forks keeps nothing of the cell's."""
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as host:
        assert roam.spawn_cell(fork_and_close, host=host).result(WAIT_S) == 0


def test_programs_that_a_cell_runs_inherit_none(tmp_path):
    """Not inheritable, whatever `close_fds` says."""
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as host:
        listed = roam.spawn_cell(list_descriptors, host=host).result(WAIT_S)
    assert [fd for fd in map(int, listed.split()) if fd > 100] == []


def list_descriptors():
    command = [sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))"]
    return subprocess.run(command, close_fds=False, capture_output=True, check=True, text=True).stdout
