"""The fork server when something goes wrong with it: refused by the kernel, killed at any moment, short of descriptors.
Only the start in hand fails, no cell loses its exit status, and nobody is left behind."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time

import pytest

import roam
from roam.errors import SpawnFailed
from roam.exit import ExitKind
from roam.spawn import forkserver, procfs
from tests.cells import add
from tests.proof.lives import stop_fork_server
from tests.support import wait_until

WAIT_S = 30.0


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as made:
        yield made


@pytest.fixture(autouse=True)
def own_server():
    """A fork server of this test alone."""
    stop_fork_server()
    yield forkserver.server()
    stop_fork_server()


def alter(monkeypatch, text):
    """Have this done in the next server before it serves. Without braces, which its command line has for itself."""
    before, _, after = forkserver._COMMAND.partition(" main(")
    monkeypatch.setattr(forkserver, "_COMMAND", f"{before} exec({text!r}); main({after}")


def sleep():
    time.sleep(600)


def children_of(pid):
    return [int(child) for child in procfs.read(f"/proc/{pid}/task/{pid}/children").split()]


@pytest.mark.parametrize("spare_count", [0, 1, 2, 5, 9, 11, 12, 13, 14])
# r[verify spawn.server]
def test_a_server_without_descriptors_refuses_and_goes_on(host, own_server, spare_count):
    """However many it lacks: a start fails and says so, or succeeds; the cells that live keep their exit status."""
    cell = roam.spawn_cell(sleep, host=host)
    pid = own_server.pid
    most = len(os.listdir(f"/proc/{pid}/fd")) + spare_count
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))

    try:
        assert roam.spawn_cell(add, 20, 22, host=host).result(WAIT_S) == 42
    except SpawnFailed as refusal:
        assert "Too many open files" in str(refusal) or "ended while it was starting" in str(refusal)  # noqa: PT017

    assert own_server.pid == pid
    cell.kill()
    assert cell.join(WAIT_S).signal == signal.SIGKILL
    wait_until(lambda: not children_of(pid), message="nobody is left")


REFUSED = """
import os
fork = os.fork
def refuse():
    os.fork = fork
    raise BlockingIOError(11, 'no process')
os.fork = refuse
"""


# r[verify spawn.server]
def test_a_server_that_cannot_fork_says_so_and_goes_on(host, own_server, monkeypatch):
    """The errno arrives in place of a birth; the next cell is made by the same server."""
    alter(monkeypatch, REFUSED)

    with pytest.raises(SpawnFailed, match="was refused it: Resource temporarily unavailable"):
        roam.spawn_cell(add, 20, 22, host=host)

    pid = own_server.pid
    assert roam.spawn_cell(add, 20, 22, host=host).result(WAIT_S) == 42
    assert own_server.pid == pid


KILLED = """
import os
from roam.spawn import forkserver_main
def die(self, relay, pid):
    with open(%r, 'w') as file:
        print(pid, file=file)
    os.kill(os.getpid(), 9)
forkserver_main._Server.tell_birth = die
"""


# r[verify spawn.server]
def test_a_cell_that_nobody_was_told_of_does_not_live(host, tmp_path, monkeypatch):
    """A server that is killed between a fork and the news of it leaves no cell that its host does not know."""
    alter(monkeypatch, KILLED % str(tmp_path / "pid"))

    with pytest.raises(SpawnFailed, match="ended while it was starting the cell"):
        roam.spawn_cell(sleep, host=host)

    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: procfs.state(pid) in ("", "Z"), message="the child is gone")


SLOW = """
import time
from roam.spawn import forkserver_main
be_born = forkserver_main._Server.be_born
def be_born_late(self, *arguments):
    time.sleep(1)
    be_born(self, *arguments)
forkserver_main._Server.be_born = be_born_late
"""


def test_a_dead_server_is_replaced_whoever_has_its_descriptors(host, own_server, monkeypatch):
    """A cell that is only just forked has those of the server still open."""
    alter(monkeypatch, SLOW)
    cell = roam.spawn_cell(sleep, host=host)
    os.kill(own_server.pid, signal.SIGKILL)
    wait_until(lambda: procfs.state(own_server.pid) == "Z", message="the server is dead")

    assert roam.spawn_cell(add, 20, 22, host=host).result(WAIT_S) == 42
    cell.kill()


def test_servers_that_are_killed_leave_nobody_behind(host, own_server):
    """Again and again while threads start cells: each cell that there is has a handle, and ends with it."""
    cells, over = [], threading.Event()

    def spawn_some():
        for _ in range(6):
            try:
                cells.append(roam.spawn_cell(sleep, host=host))
            except SpawnFailed:
                continue

    def kill_servers():
        while not over.wait(0.05):
            pid = own_server.pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    threads = [threading.Thread(target=spawn_some) for _ in range(4)]
    killer = threading.Thread(target=kill_servers)
    for thread in (*threads, killer):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    killer.join()

    for cell in cells:
        cell.kill()
    kinds = {cell.join(WAIT_S).kind for cell in cells}
    assert kinds <= {ExitKind.KILLED_BY_HOST, ExitKind.LOST, ExitKind.START_FAILED}


def test_a_start_waits_for_others_no_longer_than_it_may(host, own_server):
    """Behind a thread that holds the line to the server, also where a signal handler of that very thread starts a cell."""
    with own_server._lock, pytest.raises(SpawnFailed, match="for too long"):
        roam.spawn_cell(add, 20, 22, host=host, start_timeout=0.05)

    assert roam.spawn_cell(add, 20, 22, host=host).result(WAIT_S) == 42


def count_inheritable():
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and is_inheritable(fd)]


def is_inheritable(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # that of the directory, which was read


def test_what_a_cell_starts_inherits_nothing_of_roam(host):
    """Every descriptor but the standard streams is closed by an exec."""
    assert roam.spawn_cell(count_inheritable, host=host).result(WAIT_S) == []
