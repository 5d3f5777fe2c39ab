"""What a host and a start make of a kernel that refuses them something: a typed error, nothing left, and no thread less.

The guard around every test sees to the second. `python -m tests.proof nth-failure` refuses every call in turn.
"""

from __future__ import annotations

import threading

import pytest

import roam
from roam.errors import RoamError, SegmentCorrupt, SpawnFailed
from roam.spawn import feed as feeds
from roam.spawn.captured import CapturedStream
from roam.tracing.host import TracingHost
from roam.tracing.lines import Lines
from tests.cells import add
from tests.hosting import arrived, in_process, messages
from tests.proof.faults import EVERY, Fault, Faults
from tests.proof.lives import stop_fork_server

WAIT_S = 30.0


@pytest.fixture
def defects(monkeypatch):
    """What roam's threads report instead of ending."""
    found = []
    monkeypatch.setattr("sys.excepthook", lambda *what: found.append(what[1]))
    return found


@pytest.mark.parametrize(
    "site",
    [
        "shm.rundir.RunDirectory._lock os.open",
        "shm.rundir.RunDirectory._lock fcntl.lockf",
        "shm.segment.reserve_file os.open",
        "shm.segment.SegmentFile._initialise os.pwrite",
        "shm.segment.SegmentFile.write os.pwrite",
        "shm.mapping._map mmap.mmap",
        "shm.ownership.ownership mmap.mmap",
        "tracing.collector.Collector.__init__ select.epoll",
        "tracing.collector.Collector.__init__ os.eventfd",
    ],
)
def test_a_host_that_is_refused_something_says_so(site):
    """As a `RoamError`, whatever call it was; the next host can be made."""
    with Faults(Fault(site, 1, "EMFILE")) as faults, pytest.raises(RoamError):
        TracingHost()
    assert faults.hits == 1
    TracingHost().close()


@pytest.mark.parametrize(
    ("method", "site"),
    [
        ("forkserver", "spawn.surroundings._umask open"),
        ("forkserver", "spawn.parcel.Parcel.__init__ os.memfd_create"),
        ("forkserver", "spawn.parcel.Parcel.pack os.pwrite"),
        ("forkserver", "shm.doorbell.DoorbellPair.create socket.socketpair"),
        ("forkserver", "spawn.lifeline.acquire os.pipe"),
        ("forkserver", "spawn.captured.CapturedStream.__init__ os.open"),
        ("forkserver", "spawn.feed._Reader._start os.eventfd"),
        ("forkserver", "spawn.forkserver.ForkServer._start os.pidfd_open"),
        ("forkserver", "spawn.forkserver.ForkServer.fork socket.socketpair"),
        ("spawn", "spawn.pidfd.of_child os.pidfd_open"),
        ("fork", "spawn.pidfd.of_child os.pidfd_open"),
    ],
)
def test_a_start_that_is_refused_something_has_failed(method, site, capfd):
    """As `SpawnFailed`, whatever call it was; there is no process that nobody watches, and the next cell starts."""
    if "_start" in site:
        stop_fork_server()
    with TracingHost(forward=False) as host:
        with Faults(Fault(site, 1, "EMFILE")) as faults, pytest.raises(SpawnFailed, match="Too many open files"):
            roam.spawn_cell(add, 20, 22, host=host, start_method=method)
        assert faults.hits == 1
        assert host.cells == ()
        assert roam.spawn_cell(add, 20, 22, host=host, start_method=method).result(WAIT_S) == 42
    capfd.readouterr()


@pytest.fixture
def refused(monkeypatch):
    """A set of names; threads of these names cannot be started."""
    names, start = set(), threading.Thread.start

    def start_unless_refused(thread):
        if thread.name in names:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_unless_refused)
    return names


def test_a_start_without_a_thread_that_reads_has_failed(refused):
    """As `SpawnFailed`; without what would have been captured a cell starts."""
    with TracingHost(forward=False) as host:
        refused.add("roam-stdio")
        with pytest.raises(SpawnFailed, match="can't start new thread"):
            roam.spawn_cell(add, 20, 22, host=host)
        assert host.cells == ()
        assert roam.spawn_cell(add, 20, 22, stdio="null", host=host).result(WAIT_S) == 42


def test_without_a_thread_that_shows_lines_are_records(refused, defects, capfd):
    """What cannot be shown is captured all the same; once there is room for the thread again, text is shown again."""
    with TracingHost(forward=False) as host:
        refused.add("roam-tee")
        cell = roam.spawn_cell(print, "not shown", host=host)
        cell.join(WAIT_S)
        assert messages(cell.records()) == ["not shown"]
        refused.clear()
        roam.spawn_cell(print, "shown", host=host).join(WAIT_S)
    assert capfd.readouterr().out == "shown\n"
    assert defects == []


@pytest.mark.parametrize(
    "site",
    [
        "shm.segment.SegmentFile.close os.close",
        "tracing.link.PeerLink.close os.close",
        "tracing.link.PeerLink.discard os.unlink",
        "spawn.captured.CapturedStream.forget os.close",
    ],
)
def test_a_death_is_told_whatever_cannot_be_cleared_away(site, defects):
    """Whoever waits for a cell goes on, and for the cells after it, too."""
    with TracingHost(forward=False) as host, Faults(Fault(site, EVERY, "EIO")) as faults:
        for _ in range(2):
            assert roam.spawn_cell(add, 20, 22, host=host).result(WAIT_S) == 42
        assert faults.hits >= 2
        left = list(host.run_dir.iterdir())
        host.close()
    assert defects == []
    for path in (*left, host.run_dir):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def test_an_undertaker_outlives_a_link_that_fails(defects, monkeypatch):
    """A link that cannot be closed is reported, and whoever joined the next one goes on."""
    with TracingHost(forward=False) as host:
        first, second = (host.register_peer(name, owner=Owner()) for name in ("first", "second"))
        monkeypatch.setattr(first, "remains", lambda: 1 // 0)
        for link in (first, second):
            host._concluder.put(link)
        assert second.concluded.wait(WAIT_S)
        assert first.concluded.wait(WAIT_S)
        assert [type(defect) for defect in defects] == [ZeroDivisionError, ZeroDivisionError]
        monkeypatch.undo()
        for link in (first, second):
            link.discard()
            link.close()


class Owner:
    """Concludes, and knows nothing."""

    exit = dump_path = None

    def catch_up(self):
        """Nothing is on its way."""

    def conclude(self, remains):
        """Nothing to be done."""

    def end(self):
        """Nothing to be ended."""


def test_a_word_that_cannot_be_stored_costs_no_record(defects):
    """What was read with it is delivered all the same."""
    with in_process() as (host, cell):
        roam.info("warm")
        arrived(cell, 1)
        subscription = host.subscribe()
        with Faults(Fault("shm.segment.SegmentFile.store_word os.pwrite", EVERY, "EIO")) as faults:
            roam.info("one")
            roam.info("two")
            arrived(cell, 3)
        assert faults.hits
        assert ["one", "two"] == messages(subscription.get(WAIT_S) for _ in range(2))
    assert defects == []


def test_a_configuration_that_cannot_be_written_is_an_error():
    """A typed one, and the old configuration stays."""
    with in_process() as (host, cell):
        before = cell._opened.config
        with Faults(Fault("shm.segment.SegmentFile.write os.pwrite", EVERY, "EIO")), pytest.raises(SegmentCorrupt):
            host.set_config(roam.TracingConfig("debug"))
        assert cell._opened.config is before


def test_a_feed_that_leaves_at_once_leaves(tmp_path, monkeypatch):
    """One that joins and leaves while the thread is busy with another does not keep the thread, nor its file."""
    with in_process() as (_, cell):
        reader = feeds._Reader()
        first, second = (
            feeds.Feed(
                cell._opened,
                Lines(8192, bytes(24), is_printed=False),
                [CapturedStream(tmp_path / name, 1, name, is_shown=False)],
            )
            for name in ("first", "second")
        )
        admit, visits = reader._admit, []

        def admit_before_one_comes_and_goes(*watched):
            joined = admit(*watched)
            if reader._leaving and not visits:
                visits.append(second)
                reader.add(second)
                reader.remove(second)
            return joined

        monkeypatch.setattr(reader, "_admit", admit_before_one_comes_and_goes)
        reader.add(first)
        thread = reader._thread
        assert isinstance(thread, threading.Thread)
        reader.remove(first)
        for feed in (first, second):
            assert feed._done.wait(WAIT_S)
            assert feed.streams[0].shown.wait(WAIT_S)
        thread.join(WAIT_S)
        assert not thread.is_alive()
