"""Cells that give no sign of life: what counts as one, what is said of them, and when nothing is."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import signal
import threading
import time
import weakref

import pytest

import roam
from roam.exit import Confidence, ExitKind
from roam.spawn import procfs, watchdog
from roam.spawn.activity import ActivityKind, observe
from tests.programs import Program
from tests.support import wait_until

WAIT_S = 30.0


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as made:
        yield made


def block(how):
    with roam.span("work", how=how):
        if how == "lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        elif how == "C loop with the GIL":
            re.match(r"(a+)+$", "a" * 40 + "b")
        elif how == "event loop":
            asyncio.run(block_the_loop())
        else:
            time.sleep(600)


async def block_the_loop():
    await asyncio.sleep(0)
    time.sleep(600)  # noqa: ASYNC251 -- the mistake that is planted


@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        ("lock", "hung: waits for a lock"),
        ("C loop with the GIL", "hung: busy"),
        ("event loop", "hung: sleeps"),
        ("sleep", "hung: sleeps"),
    ],
)
# r[verify spawn.hang]
def test_a_hung_cell_is_killed_with_its_stacks(host, how, verdict):
    """Which kind of hang, for how long, where; the span that it was in is named."""
    cell = roam.spawn_cell(block, how, host=host, hang_after=0.4, on_hang="kill")

    ended = cell.join(WAIT_S)

    assert (ended.kind, ended.signal) == (ExitKind.KILLED_BY_HOST, signal.SIGKILL)
    assert (ended.verdict, ended.confidence) == (verdict, Confidence.CERTAIN)
    assert re.match(r"no sign of life for \d+\.\d s", ended.evidence[0])
    assert ended.last_beat_ns is not None
    assert ended.started_ns < ended.last_beat_ns < ended.ended_ns - 400_000_000
    left = cell.post_mortem
    assert re.search(r"in block(_the_loop)?\b", left.stacks)
    assert [span.name for span in left.open_spans] == ["work"]
    assert [hang.dump_path for hang in cell.hangs] == [None]


def test_a_stopped_cell_is_called_stopped(host):
    """Nothing of it runs, so there are no stacks, and the step says so."""
    cell = roam.spawn_cell(block, "sleep", host=host, hang_after=0.4, on_hang="kill")
    wait_until(cell.open_spans, message="the cell works")
    os.kill(cell.pid, signal.SIGSTOP)

    ended = cell.join(WAIT_S)

    assert ended.verdict == "hung: stopped"
    assert any("no stacks (the cell is stopped" in step for step in ended.steps)


def be_silent_twice(host_pid):
    for number in range(2):
        roam.info("alive", number=number)
        while not roam.current_cell().stopping and number == 1:
            time.sleep(0.01)
        time.sleep(1.0)


# r[verify spawn.hang]
def test_a_report_leaves_the_cell_alone(host):
    """Each silence is told of once, by a post-mortem of the living cell; and the cell goes on to its own end."""
    cell = roam.spawn_cell(be_silent_twice, os.getpid(), host=host, hang_after=0.3)

    wait_until(lambda: len(cell.hangs) == 2, message="both silences are told of")
    ended = cell.stop(WAIT_S)

    assert ended.kind is ExitKind.STOPPED
    assert len(cell.hangs) in (2, 3)  # the last silence may be a third
    for hang, count in zip(cell.hangs, (1, 2), strict=False):
        left = roam.postmortem.load(hang.dump_path)
        assert left.is_live
        assert left.exit.verdict == "hung: sleeps"
        assert [record.message for record in left.records] == ["alive"] * count
        assert "in be_silent_twice" in left.stacks
        assert "hung: sleeps" in left.render()


def beat_until_stopped(how):
    me = roam.current_cell()
    while not me.stopping:
        if how == "beat":
            me.beat()
        elif how == "span":
            with roam.span("step"):
                pass
        else:
            roam.info("step")
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["beat", "span", "record"])
@pytest.mark.parametrize("span_events", [True, False])
def test_a_sign_of_life_is_enough(tmp_path, how, span_events):
    """A beat, a record and a span count, also a span that writes no record; a cell that gives them is not hung."""
    config = roam.TracingConfig("info", span_events=span_events)
    with roam.TracingHost(config, dump_dir=tmp_path, forward=False) as host:
        cell = roam.spawn_cell(beat_until_stopped, how, host=host, hang_after=0.8, on_hang="kill")
        quiet = roam.spawn_cell(block, "sleep", host=host, hang_after=0.8, on_hang="kill")
        quiet.join(WAIT_S)

        assert quiet.exit.verdict == "hung: sleeps"
        assert cell.is_alive()
        assert cell.silent_s < 0.8
        assert cell.stop(WAIT_S).kind is ExitKind.STOPPED
        assert cell.hangs == ()


def test_a_dead_cell_is_not_taken_for_whoever_has_its_number(host):
    """It has ended, though a process with its id lives."""
    cell = roam.spawn_cell(int, host=host)
    cell.join(WAIT_S)
    cell._launched = dataclasses.replace(cell._launched, pid=os.getpid())

    assert cell.activity().kind is ActivityKind.ENDED


def test_without_the_option_nothing_is_called_hung(host):
    """No thread watches, however silent a cell is."""
    cell = roam.spawn_cell(block, "sleep", host=host)
    wait_until(lambda: cell.silent_s > 0.5, message="it is silent")

    assert cell.hangs == ()
    assert cell.activity().kind is ActivityKind.QUIET
    assert not [thread for thread in threading.enumerate() if thread.name == "roam-watchdog"]
    cell.kill()


SLEEPY_HOST = """
import sys, time
import roam

def work():
    while True:
        roam.info("step")
        time.sleep(0.05)

if __name__ == "__main__":
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(work, host=host, hang_after=0.8, on_hang="kill", start_method="spawn")
        print(cell.pid, flush=True)
        for line in sys.stdin:
            print(cell.is_alive(), len(cell.hangs), flush=True)
"""


# r[verify spawn.hang.host]
def test_a_host_that_was_held_up_judges_nobody(tmp_path):
    """Host and cell are stopped together, as by a frozen container: afterwards the cell has its time again."""
    path = tmp_path / "program.py"
    path.write_text(SLEEPY_HOST)
    with Program(path) as program:
        pid = int(program.line())
        time.sleep(0.2)
        os.kill(pid, signal.SIGSTOP)
        program.send(signal.SIGSTOP)
        time.sleep(2.0)  # the length of the pause is what is tested
        program.send(signal.SIGCONT)
        os.kill(pid, signal.SIGCONT)
        for _ in range(5):
            program.say("?")
            assert program.line().split() == ["True", "0"]
            time.sleep(0.2)  # likewise: the time in which it would be judged
        program.process.stdin.close()
        program.wait()


# r[verify spawn.hang.host]
def test_a_pause_between_two_looks_is_noticed(host, monkeypatch):
    """The host is held up while it looks at one cell: the next one is judged from then on only."""
    looks = []

    def look(entry, awake_s, now_s):
        looks.append((awake_s, now_s))
        if len(looks) == 1:
            time.sleep(1.0)  # the length of the pause is what is tested

    monkeypatch.setattr(watchdog, "_look", look)
    cells = [roam.spawn_cell(block, "sleep", host=host, hang_after=0.4) for _ in range(2)]
    wait_until(lambda: len(looks) >= 2, message="two looks")
    for cell in cells:
        cell.kill()

    assert looks[1][0] == looks[1][1] >= looks[0][1] + 1.0


def test_silence_counts_from_the_watch_on(host):
    """What it took to make the process, with a watchdog that runs already, is not the cell's silence."""
    cell = roam.spawn_cell(block, "sleep", host=host)
    wait_until(lambda: cell.silent_s > 0.3, message="it is silent")
    entry = watchdog.WatchedCell(weakref.ref(cell), 0.3, is_deadly=False)

    watchdog._look(entry, 0.0, entry.since_s + 0.2)
    assert cell.hangs == ()
    watchdog._look(entry, 0.0, entry.since_s + 0.4)
    assert len(cell.hangs) == 1
    cell.kill()


def test_a_step_of_the_clock_is_no_silence(host, monkeypatch):
    """Silence is measured by the monotonic clock, also before the first sign of life."""
    cell = roam.spawn_cell(block, "sleep", host=host)
    wait_until(cell.open_spans, message="it works")
    monkeypatch.setattr(type(cell._link), "last_beat_ns", None)
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)

    assert cell.silent_s < 3600
    monkeypatch.undo()
    cell.kill()


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "soon", True])
def test_a_time_that_is_none_is_refused(host, wrong):
    """Before anything is started."""
    with pytest.raises((TypeError, ValueError), match="hang_after"):
        roam.spawn_cell(block, "sleep", host=host, hang_after=wrong)
    with pytest.raises(ValueError, match="on_hang"):
        roam.spawn_cell(block, "sleep", host=host, hang_after=1.0, on_hang="explode")


def test_the_watchdog_ends_with_the_last_cell(host):
    """No thread stays for cells that are gone."""
    cell = roam.spawn_cell(block, "sleep", host=host, hang_after=60.0)
    assert watchdog._watchdog._thread is not None
    cell.kill()
    cell.join(WAIT_S)

    wait_until(lambda: watchdog._watchdog._thread is None, message="the thread ends")


@pytest.mark.parametrize(
    ("function", "waits"),
    [
        ("futex_do_wait", "waits for a lock"),
        ("hrtimer_nanosleep", "sleeps"),
        ("ep_poll", "waits for input or events"),
        ("sk_wait_data", "waits for input or events"),
        ("__skb_wait_for_more_packets", "waits for input or events"),
        ("anon_pipe_read", "waits for input or events"),
        ("do_wait", "waits for a child"),
        ("task_work_run", ""),
        ("some_unixodbc", ""),
    ],
)
def test_a_wait_is_named_by_what_the_kernel_calls_it(monkeypatch, function, waits):
    """And by nothing that only looks like it."""
    monkeypatch.setattr(procfs, "waits_in", lambda _: function)
    monkeypatch.setattr(procfs, "state", lambda _: "S")
    monkeypatch.setattr(procfs, "tracer", lambda _: 0)
    monkeypatch.setattr(procfs, "cpu_ns", lambda _: 0)

    assert observe(0, 0.0).waits == waits
