"""Ending a cell: each step of the ladder, what it has started, who gets Ctrl-C, and the stacks that are left."""

from __future__ import annotations

import ctypes
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time

import multiprocess
import pytest

import roam
from roam.errors import HostClosed, StacksUnavailable
from roam.exit import Confidence, ExitKind
from roam.shm.layout import StatusWord
from roam.spawn import facts, kindred, launch, procfs
from tests.proof.faults import EVERY, Fault, Faults
from tests.support import REPOSITORY, wait_until

METHODS = ("forkserver", "spawn", "fork")
WAIT_S = 30.0


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as made:
        yield made


def lives(pid):
    return procfs.state(pid) not in ("", "Z")


def start_a_child(answer, *, obeys, command="trap '' TERM; sleep 600 & wait"):
    """Ignore SIGTERM, or not, with a child that ignores it and a grandchild."""
    if not obeys:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["/bin/sh", "-c", command])
    answer.send(child.pid)
    child.wait()


def ask_for_child(host, method, *, obeys):
    here, there = multiprocess.Pipe(duplex=False)
    cell = roam.spawn_cell(start_a_child, there, kwargs={"obeys": obeys}, host=host, start_method=method)
    there.close()
    assert here.poll(WAIT_S)
    pid = here.recv()
    here.close()
    wait_until(lambda: grandchildren(pid), message="the grandchild lives")
    return cell, [pid, *grandchildren(pid)]


def grandchildren(pid):
    return [int(child) for child in procfs.read(f"/proc/{pid}/task/{pid}/children").split()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("obeys", [True, False], ids=["dies of SIGTERM", "ignores SIGTERM"])
# r[verify spawn.stop.group]
# r[verify spawn.stop.stacks]
# r[verify spawn.group]
def test_nobody_is_left_behind(host, method, obeys):
    """A cell that had to be forced takes child and grandchild with it; its post-mortem says where it hung."""
    cell, family = ask_for_child(host, method, obeys=obeys)
    assert os.getpgid(cell.pid) == os.getsid(cell.pid) == cell.pid

    ended = cell.stop(timeout=0.05, grace=0.05 if not obeys else WAIT_S)

    assert (ended.kind, ended.signal) == (
        ExitKind.KILLED_BY_HOST,
        signal.SIGTERM if obeys else signal.SIGKILL,
    )
    assert (ended.verdict, ended.confidence) == ("killed by its host", Confidence.CERTAIN)
    wait_until(lambda: not any(map(lives, family)), message="child and grandchild are gone")
    assert "in start_a_child" in cell.post_mortem.stacks
    steps = [step.rpartition(" after ")[0] for step in ended.steps]
    insisted = [] if obeys else ["stacks taken", "SIGKILL sent"]
    assert steps[:-1] == ["asked to stop", "stacks taken", "SIGTERM sent", *insisted]
    assert re.fullmatch(r"SIGKILL sent to (1 process|[2-9] processes) that it had started", steps[-1])


@pytest.mark.parametrize("method", METHODS)
# r[verify spawn.group]
def test_a_cell_with_the_streams_of_its_host_is_in_its_group(host, method):
    """Ctrl-C, which reaches all of the group, does not end it; a stop that has to insist takes its descendants along, and
    nobody else of the group."""
    here, there = multiprocess.Pipe(duplex=False)
    cell = roam.spawn_cell(
        start_a_child, there, kwargs={"obeys": False}, host=host, start_method=method, stdio="inherit"
    )
    there.close()
    assert here.poll(WAIT_S)
    pid = here.recv()
    here.close()
    wait_until(lambda: grandchildren(pid), message="the grandchild lives")
    family = [pid, *grandchildren(pid)]
    assert [os.getpgid(each) for each in (cell.pid, *family)] == [os.getpgrp()] * (1 + len(family))

    os.kill(cell.pid, signal.SIGINT)
    assert "in start_a_child" in cell.dump_stacks()
    ended = cell.stop(timeout=0.05, grace=0.05)

    assert (ended.kind, ended.signal) == (ExitKind.KILLED_BY_HOST, signal.SIGKILL)
    wait_until(lambda: not any(map(lives, family)), message="child and grandchild are gone")


def fork_and_return():
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return pid


@pytest.mark.parametrize("method", METHODS)
def test_what_a_cell_leaves_running_goes_on(host, method):
    """A cell that ends by itself, or is killed without a stop, decides alone what becomes of its children."""
    cell = roam.spawn_cell(fork_and_return, host=host, start_method=method)
    pid = cell.result(WAIT_S)
    try:
        assert cell.exit.kind is ExitKind.RETURNED
        assert lives(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def hold(how):
    if how == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif how == "loop":
        while True:
            pass
    elif how == "C loop with the GIL":
        re.match(r"(a+)+$", "a" * 40 + "b")
    elif how == "sleep":
        time.sleep(600)


@pytest.mark.parametrize("how", ["lock", "loop", "C loop with the GIL", "sleep"])
def test_stacks_can_be_had_of_whatever_a_cell_does(host, how):
    """`dump_stacks` names the function, and the cell goes on; what it is doing is told apart."""
    cell = roam.spawn_cell(hold, how, host=host)
    wait_until(lambda: "in hold" in stacks_of(cell), message="the target runs")

    wanted = {"lock": "waits for a lock", "loop": "busy", "C loop with the GIL": "busy", "sleep": "sleeps"}[how]
    wait_until(lambda: str(cell.activity()) == wanted, message=wanted)
    assert cell.is_alive()
    os.kill(cell.pid, signal.SIGSTOP)
    wait_until(lambda: str(cell.activity()) == "stopped", message="stopped")
    with pytest.raises(StacksUnavailable, match="stopped"):
        cell.dump_stacks()
    cell.kill()
    cell.join(WAIT_S)
    with pytest.raises(StacksUnavailable, match="ended"):
        cell.dump_stacks()
    assert "in hold" in cell.post_mortem.stacks


def stacks_of(cell):
    try:
        return cell.dump_stacks()
    except StacksUnavailable:
        return ""


def give_away_the_handler(how):
    if how == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, [41])
    elif how == "exec":
        os.execv("/bin/sleep", ["sleep", "600"])
    roam.info("given away")
    time.sleep(600)


@pytest.mark.parametrize("how", ["blocked", "exec"])
def test_a_cell_that_took_the_handler_away_is_not_killed_by_the_question(host, how):
    """Without a handler the signal would end it: it is not sent."""
    cell = roam.spawn_cell(give_away_the_handler, how, host=host)
    if how == "exec":
        wait_until(lambda: procfs.read(f"/proc/{cell.pid}/comm") == b"sleep\n", message="it runs another program")
    else:
        wait_until(lambda: cell.records(1), message="it has blocked the signal")

    with pytest.raises(StacksUnavailable, match="signal 41"):
        cell.dump_stacks()

    assert cell.is_alive()
    cell.kill()
    assert cell.join(WAIT_S).signal == signal.SIGKILL


def ask_for_another_signal(number):
    roam.current_cell()._tracing._words[StatusWord.FAULT_ARMED] = number
    roam.info("asked")
    time.sleep(600)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGCHLD, 2**63])
def test_a_cell_does_not_choose_the_signal_that_it_gets(host, number):
    """Whatever it writes into its status words, its host sends the one signal for the stacks."""
    cell = roam.spawn_cell(ask_for_another_signal, int(number), host=host)
    wait_until(lambda: cell.records(1), message="it has asked")

    assert "in ask_for_another_signal" in cell.dump_stacks()
    assert cell.is_alive()
    cell.kill()


def use(megabytes):
    block = bytearray(megabytes << 20)
    block[::4096] = bytes(len(block[::4096]))
    os._exit(3)


@pytest.mark.parametrize("method", METHODS)
# r[verify spawn.held]
def test_use_of_resources_is_known_without_a_goodbye(host, method):
    """Peak memory and processor time of a cell that says nothing at its end, under every start method."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    megabytes = (peak_bytes >> 20) + 50
    ended = roam.spawn_cell(use, megabytes, host=host, start_method=method).join(WAIT_S)

    assert ended.code == 3
    assert megabytes << 20 < ended.max_rss_bytes < (megabytes << 20) + peak_bytes + (100 << 20)
    assert ended.cpu_s > 0


@pytest.mark.parametrize("end", [os._exit, sys.exit])
def test_the_memory_of_a_large_host_is_not_that_of_its_cell(host, end):
    """The kernel counts it for a child until that runs its program: where nobody else knows the peak it is None, and
    a cell that says goodbye says it itself."""
    block = bytearray(100 << 20)
    block[::4096] = bytes(len(block[::4096]))
    ended = roam.spawn_cell(end, 0, host=host, start_method="spawn").join(WAIT_S)

    assert ended.code == 0
    if end is sys.exit:
        assert 0 < ended.max_rss_bytes < 90 << 20
    else:
        assert ended.max_rss_bytes is None


def test_the_server_keeps_the_dead_until_they_were_looked_at(host):
    """A cell that dies at once is held by the host all the same: its pid is nobody else's, and its end is known."""
    cells = [roam.spawn_cell(os._exit, number, host=host) for number in range(1, 40)]

    assert [cell.join(WAIT_S).code for cell in cells] == list(range(1, 40))


CTRL_C = """
import sys, time
import roam

def obstinate():
    while True:
        time.sleep(0.01)

if __name__ == "__main__":
    with roam.TracingHost(forward=False) as host:
        cells = [roam.spawn_cell(obstinate, host=host, start_method=method) for method in ("forkserver", "spawn")]
        print("ready", *(cell.pid for cell in cells), flush=True)
        cells[0].join()
"""


def take_the_terminal():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    ctypes.CDLL(None).ioctl(0, 0x540E, 0)  # TIOCSCTTY


def test_ctrl_c_belongs_to_the_host(tmp_path):
    """Two presses end host and cells; the only traceback is the host's own."""
    program = tmp_path / "program.py"
    program.write_text(CTRL_C)
    here, there = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdin=there,
        stdout=there,
        stderr=there,
        env=environ,
        start_new_session=True,
        preexec_fn=take_the_terminal,  # noqa: PLW1509 -- it starts no thread and takes no lock
    )
    os.close(there)
    output = bytearray()

    def has_said(text):
        while select.select([here], [], [], 0)[0]:
            try:
                output.extend(os.read(here, 4096))
            except OSError:
                break
        return text in output

    try:
        wait_until(lambda: has_said(b"ready"), WAIT_S)
        pids = [int(pid) for pid in re.findall(rb"ready (\d+) (\d+)", output)[0]]
        os.write(here, b"\x03")
        # Collector, undertaker and tee are there before; each cell that is being stopped has a thread for that.
        wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) >= 6, message="the host is stopping its cells")
        assert all(map(lives, pids))
        os.write(here, b"\x03")
        assert process.wait(WAIT_S) in (130, -signal.SIGINT, 1)
        has_said(b"")
        assert not any(map(lives, pids))
        text = output.decode()
        assert text.count("Traceback") <= 2, text  # one, and "during handling of the above exception" the other
        assert "in obstinate" not in text
    finally:
        process.kill()
        process.wait()
        os.close(here)


@pytest.mark.parametrize("method", METHODS)
def test_a_thread_that_blocks_all_signals_starts_cells_that_show_their_stacks(host, method):
    """The one for the stacks is let through; the others are blocked there as they are here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        cell = roam.spawn_cell(hold, "sleep", host=host, start_method=method)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    wait_until(lambda: "in hold" in stacks_of(cell), message="the stacks can be had")
    assert procfs.signal_is_caught(cell.pid, signal.SIGINT) is False
    cell.kill()


@pytest.fixture
def held_conclusion(monkeypatch):
    """Conclusions wait for the second event; the first says that one has begun."""
    begun, may_go_on = threading.Event(), threading.Event()
    examine = facts.examine

    def examine_later(pid):
        begun.set()
        assert may_go_on.wait(WAIT_S)
        return examine(pid)

    monkeypatch.setattr(facts, "examine", examine_later)
    yield begun, may_go_on
    may_go_on.set()


def test_what_comes_too_late_is_no_cause(host, held_conclusion):
    """A dead cell that was not concluded yet takes every signal: neither that nor a request ends it once more."""
    begun, may_go_on = held_conclusion
    cell = roam.spawn_cell(time.sleep, 600, host=host)
    os.kill(cell.pid, signal.SIGKILL)
    assert begun.wait(WAIT_S)

    cell.request_stop()
    cell.kill()
    may_go_on.set()

    ended = cell.join(WAIT_S)
    assert (ended.signal, ended.verdict, ended.steps) == (signal.SIGKILL, "unknown", ())


def test_a_signal_handler_may_end_a_cell_at_any_time(host):
    """Also where it interrupts another call for the same cell, in the thread that holds its lock."""
    cell = roam.spawn_cell(time.sleep, 600, host=host)
    before = signal.signal(signal.SIGUSR1, lambda *_: cell.kill())
    try:
        with cell._lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert cell.join(WAIT_S).kind is ExitKind.KILLED_BY_HOST


@pytest.mark.parametrize("site", ["spawn.procfs.read os.open", "spawn.kindred._members os.listdir"])
def test_a_stop_goes_on_where_nothing_can_be_looked_at(host, site):
    """Without a descriptor to spare: the cell is ended and its status known all the same."""
    cell, family = ask_for_child(host, "spawn", obeys=False)
    with Faults(Fault(site, EVERY, "EMFILE")) as faults:
        ended = cell.stop(timeout=0.05, grace=0.05)
    assert faults.hits
    assert (ended.kind, ended.signal) == (ExitKind.KILLED_BY_HOST, signal.SIGKILL)
    for pid in filter(lives, family):
        os.kill(pid, signal.SIGKILL)


def test_a_cell_that_dies_of_the_signal_for_its_stacks_was_killed_by_its_host(host, monkeypatch):
    """The handler can be gone when the signal arrives: nobody else is blamed for it."""
    cell = roam.spawn_cell(lose_the_handler, host=host)
    wait_until(lambda: cell.records() and not procfs.signal_is_caught(cell.pid, 41), message="the handler is gone")
    monkeypatch.setattr(procfs, "signal_is_caught", lambda *_: True)

    with pytest.raises(StacksUnavailable):
        cell.dump_stacks()

    ended = cell.join(WAIT_S)
    assert (ended.kind, ended.signal) == (ExitKind.KILLED_BY_HOST, 41)


def lose_the_handler():
    signal.signal(41, signal.SIG_DFL)
    roam.info("gone")
    time.sleep(600)


def test_the_session_of_a_stranger_is_left_alone():
    """Where somebody else has reaped the cell, its number may be a stranger's by now, who lives and has a session."""
    stranger = subprocess.Popen(["/bin/sh", "-c", "sleep 600 & wait"], start_new_session=True)
    try:
        wait_until(lambda: grandchildren(stranger.pid), message="the stranger has a child")
        assert kindred.kill_session(stranger.pid) == []
        assert lives(stranger.pid)
        assert all(map(lives, grandchildren(stranger.pid)))
    finally:
        os.killpg(stranger.pid, signal.SIGKILL)
        stranger.wait()


@pytest.mark.parametrize("at_once", [True, False], ids=["abort", "close"])
# r[verify spawn.overtaken]
def test_a_cell_that_is_being_started_does_not_survive_its_host(tmp_path, monkeypatch, at_once):
    """Its start is refused, and the process that was made for it ended."""
    host = roam.TracingHost(dump_dir=tmp_path, forward=False)
    real, made = launch.launch, []

    def launch_slowly(start):
        made.append(real(start))
        (host.abort if at_once else host.close)()
        return made[0]

    monkeypatch.setattr(launch, "launch", launch_slowly)
    with pytest.raises(HostClosed):
        roam.spawn_cell(time.sleep, 600, host=host)

    assert procfs.state(made[0].pid) in ("", "Z")
