"""The host: what it makes, keeps and counts, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest

import roam
from roam.errors import DumpError, HostClosed, NoSpace, RoamError
from roam.shm.rundir import run_root
from roam.testing import InProcessCell
from roam.tracing import host as hosts
from roam.tracing.host import TracingHost
from roam.tracing.reservation import VERSION
from tests import traced
from tests.hosting import arrived, holds, in_process, messages
from tests.support import REPOSITORY, run_script, wait_until

SMALL = roam.SegmentConfig(page_bytes=4096, record_bytes=1024, life_pages=2, vital_pages=2, bulk_pages=4)

LEGACY = """if True:
    import sys, roam
    assert roam.init_cell_tracing() and roam.init_cell_tracing()
    import logging, os
    assert "ROAM_TICKET" not in os.environ
    with roam.span("job", n=1):
        logging.getLogger("legacy").info("started")
        print("ready", flush=True)
        {then}
"""


def popen(peer, script):
    """Start a registered process."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **peer.ticket.environ, "PYTHONPATH": str(REPOSITORY)},
        pass_fds=peer.ticket.fds,
        stdout=subprocess.PIPE,
        text=True,
    )


def descriptors():
    """The open descriptors of this process by what they lead to."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except OSError:
            continue
    return found


# Its life


def test_a_host_leaves_nothing():
    """After the block, without any help of the garbage collector: no thread, no descriptor, no file, and no tracing."""
    threads, before = set(threading.enumerate()), descriptors()
    with TracingHost() as host:
        assert {thread.name for thread in set(threading.enumerate()) - threads} == {
            "roam-collector",
            "roam-undertaker",
            "roam-forwarder",
        }
        with InProcessCell(host, "cell"), roam.span("work"), host.subscribe(replay=True):
            roam.info("hello")
        assert host.run_dir.is_dir()
        peer = host.register_peer("never started")
        assert peer.ticket.fds
    assert set(threading.enumerate()) == threads
    assert not host.run_dir.exists()
    new = {fd: to for fd, to in descriptors().items() if before.get(fd) != to and "/proc/" not in to}
    assert new == {}
    assert not roam.get_tracer("app").is_enabled(50)


def test_closing_twice_is_closing_once():
    """Also from two threads; whoever comes second does not wait for ever."""
    host = TracingHost(forward=False)
    closers = [threading.Thread(target=host.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(20)
    host.close()
    wait_until(lambda: not host.run_dir.exists())
    assert not host.is_open


def test_what_is_asked_of_a_closed_host_is_refused_or_answered():
    """What needs it open raises `HostClosed` and says so; what it kept can still be read."""
    with in_process() as (host, cell):
        roam.info("hello")
    for call in (
        host.subscribe,
        lambda: host.register_peer("x"),
        lambda: host.set_config(roam.TracingConfig()),
        lambda: roam.spawn_cell(os.getpid, host=host),
    ):
        with pytest.raises(HostClosed, match="closed"):
            call()
    assert messages(host.records(cell="cell")) == messages(cell.records()) == ["hello"]
    assert holds(cell.statistics())
    assert holds(host.statistics().peers[cell.peer.peer_id])
    assert [peer.name for peer in host.peers] == ["host", "cell"]
    assert cell.open_spans() == []


def test_the_interpreter_closes_what_the_program_did_not():
    """A host that nobody closed leaves nothing at exit, in a script with a subscription that still waits."""
    script = """if True:
        import threading, roam
        from roam.tracing.host import TracingHost
        host = TracingHost()
        threading.Thread(target=lambda: [None for _ in host.subscribe()], daemon=True).start()
        roam.warning("hello")
        print(host.run_dir)
    """
    done = run_script("-c", script)
    assert done.stderr == "hello\n"
    assert not Path(done.stdout.strip()).exists()


def test_a_host_that_cannot_be_made_leaves_nothing(monkeypatch):
    """Whatever fails on the way: the error comes out, and no thread, file or descriptor stays."""
    threads, before = set(threading.enumerate()), descriptors()

    def fail(*_, **__):
        raise OSError(24, "too many open files")

    for place in (
        "roam.tracing.collector.select.epoll",
        "roam.tracing.host.MappedSegment",
        "roam.tracing.host.Concluder",
        "roam.tracing.host.reserve_link",
        "roam.tracing.reservation.SegmentFile.create",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            with pytest.raises(OSError, match="too many"):
                TracingHost()
    assert set(threading.enumerate()) == threads
    assert not any(run_root().glob("*/*.segment"))
    assert {fd: to for fd, to in descriptors().items() if before.get(fd) != to and "/proc/" not in to} == {}


def test_a_peer_that_cannot_be_made_leaves_nothing(monkeypatch):
    """The host goes on as if nothing had been asked."""

    def fail(*_, **__):
        raise OSError(24, "too many open files")

    with TracingHost(forward=False) as host:
        before, files = descriptors(), sorted(host.run_dir.iterdir())
        for place in (
            "roam.tracing.reservation.DoorbellPair.create",
            "roam.tracing.reservation.SegmentFile.create",
            "roam.tracing.link.MailboxWriter.post",
            "roam.tracing.link.TracingConfig.to_bytes",
        ):
            with monkeypatch.context() as patch:
                patch.setattr(place, fail)
                with pytest.raises(OSError, match="too many"):
                    host.register_peer("x")
        assert sorted(host.run_dir.iterdir()) == files
        assert {fd: to for fd, to in descriptors().items() if before.get(fd) != to and "/proc/" not in to} == {}
        assert [peer.name for peer in host.peers] == ["host"]
        with InProcessCell(host, "cell") as cell:
            roam.info("goes on")
            assert messages(arrived(cell, 1)) == ["goes on"]


def test_misuse_is_refused():
    """Names and sizes that cannot be meant."""
    with TracingHost(forward=False) as host:
        with pytest.raises(ValueError, match="name"):
            host.register_peer("")
        with pytest.raises(TypeError, match="name"):
            host.register_peer(5)
    for sizes in ({"retain_bytes": 100}, {"retain_bytes": 1 << 20, "retain_total_bytes": 1 << 19}):
        with pytest.raises(ValueError, match="retain"):
            TracingHost(**sizes)


def test_an_unwritable_dump_directory_is_said_at_the_start(tmp_path):
    """Not when the first cell has died."""
    file = tmp_path / "file"
    file.touch()
    threads = set(threading.enumerate())
    with pytest.raises(DumpError, match="file"):
        roam.TracingHost(dump_dir=file / "dumps")
    assert set(threading.enumerate()) == threads
    with roam.TracingHost(dump_dir=tmp_path / "new" / "dumps") as host:
        assert host.dump_dir == tmp_path / "new" / "dumps"


def test_a_directory_that_is_too_small_is_said_with_its_sizes(tmp_path):
    """At the start, or when the next cell does not fit; the host and the cells there are go on."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount")
    script = """if True:
        import os, roam
        from roam.errors import NoSpace
        from roam.testing import InProcessCell
        from roam.tracing.host import TracingHost
        try:
            TracingHost(forward=False)
        except NoSpace as error:
            assert error.needed_bytes > error.free_bytes > 0
            print(error)
        assert [n for d, _, n in os.walk(os.environ["ROAM_DIR"]) if n] == []
        config = roam.SegmentConfig(page_bytes=4096, record_bytes=1024, bulk_pages=4, vital_pages=2, span_slots=16)
        with TracingHost(forward=False, segment=config) as host:
            peers = []
            try:
                while True:
                    peers.append(host.register_peer("x"))
            except NoSpace as error:
                print(error)
            assert len(peers) >= 2
            peers.pop().abandon()
            peers.append(host.register_peer("y"))
            with InProcessCell(host, "cell") as cell:
                roam.info("goes on")
    """
    try:
        done = run_script("-c", script, environ={"ROAM_DIR": str(small)})
    finally:
        subprocess.run(["umount", small], check=True)
    assert done.stdout.count("cannot hold a segment") == 2
    assert done.stdout.count("ROAM_DIR") == 2
    assert issubclass(NoSpace, RoamError)


def test_the_header_says_which_version_made_it():
    """The version in a segment is that of the package."""
    assert VERSION == roam.__version__


# Forks


def test_a_forked_child_of_the_host_is_inert():
    """It has none of the host's descriptors, traces nothing, and whatever it asks comes back, whoever held a lock."""
    # r[verify trace.fork.disowned]
    inherited = set(descriptors().values())
    with in_process() as (host, cell), host.subscribe() as records:
        roam.info("before")
        host.register_peer("awaited")
        arrived(cell, 1)
        link = next(link for link in host._peers.all if link.peer == cell.peer)
        span = roam.span("open")
        span.__enter__()
        with host._peers._lock, host._fan_out._lock, link._lock, link.retention._lock, host._lock, records._ready:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    signal.alarm(20)
                    roam.info("never")
                    span.record(never=1)
                    span.__exit__(None, None, None)
                    assert not host.is_open
                    assert not [
                        to
                        for to in set(descriptors().values()) - inherited
                        if not to.endswith(".segment") and "memfd" not in to
                    ]
                    assert messages(host.records(), None)[:1] == ["before"]
                    assert holds(host.statistics().peers[cell.peer.peer_id])
                    assert cell.open_spans() == []
                    assert [record.record.message for record in records][:1] in ([], ["before"])
                    host.close()
                    host.flush_forwarding(0.1)
                    code = 7
                except BaseException:
                    traceback.print_exc(file=sys.__stderr__)
                finally:
                    os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        roam.info("after")
        assert [span.name for span in cell.open_spans()] == ["open"]
        assert cell.open_spans()[0].fields == {}
        span.__exit__(None, None, None)
        assert messages(arrived(cell, 4), None) == ["before", "open", "after", "open"]
        assert cell.statistics().spans_torn == 0


def test_a_forked_child_may_have_a_host_of_its_own():
    """What it makes anew works, with its own records only."""
    with in_process() as (host, cell):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(20)
                with in_process(name="other") as (mine, inner):
                    roam.info("mine")
                    assert messages(arrived(inner, 1)) == ["mine"]
                    assert mine.run_dir != host.run_dir
                code = 7
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        roam.info("here")
        assert messages(arrived(cell, 1)) == ["here"]


# What it keeps


def test_retention_is_bounded_per_lane_and_counted():
    """A flood of details evicts details: exactly so many as are gone, and no warning or exception."""
    with in_process(roam.TracingConfig("debug"), segment=SMALL, retain_bytes=64 << 10) as (_, cell):
        roam.error("early", exc_info=ValueError("kept"))
        roam.warning("early")
        for number in range(5000):
            roam.debug("flood", n=number)
            if number % 50 == 0:
                arrived(cell)
        found = arrived(cell)
        statistics = cell.statistics()

    delivered = sum(lane.delivered for lane in statistics.lanes.values())
    kept = [record for record in found if record.kind == "event"]
    assert statistics.evicted == delivered - len(kept) > 1000
    assert statistics.retained_bytes <= 64 << 10
    assert [record.message for record in kept[:2]] == ["early", "early"]
    numbers = [record.fields["n"] for record in kept[2:]]
    assert numbers[-1] == 4999
    assert numbers == sorted(numbers)


def test_retention_is_bounded_in_total_and_the_dead_give_first():
    """All peers together stay within the limit; what is evicted is counted, and who lives keeps what it has."""
    limit = 128 << 10
    with TracingHost(forward=False, segment=SMALL, retain_bytes=64 << 10, retain_total_bytes=limit) as host:
        with InProcessCell(host, "living") as living:
            for number in range(100):
                roam.info("living", n=number)
            arrived(living, 100)
            for name in range(6):
                with InProcessCell(host, f"dead-{name}") as dead:
                    for number in range(300):
                        roam.info("x" * 50, n=number)
                        if number % 30 == 0:
                            arrived(dead)
                    arrived(dead)
                wait_until(lambda: host.statistics().retained_bytes <= limit)
            found = host.statistics()
            kept = {peer.name: len(host.records(cell=peer)) for peer in host.peers}
    assert kept["living"] == 100
    assert kept["dead-0"] == 0 < kept["dead-5"]
    delivered = sum(lane.delivered for peer in found.peers.values() for lane in peer.lanes.values())
    lost = sum(lane.lost for peer in found.peers.values() for lane in peer.lanes.values())
    assert found.evicted == delivered - (sum(kept.values()) - lost)


def test_only_the_newest_dead_are_remembered(monkeypatch):
    """The list of peers does not grow for ever; what the forgotten had kept counts as evicted."""
    monkeypatch.setattr("roam.tracing.peers.DEAD_KEPT", 3)
    with TracingHost(forward=False) as host:
        for number in range(6):
            with InProcessCell(host, f"cell-{number}") as cell:
                roam.info("x")
                arrived(cell, 1)
        assert [peer.name for peer in host.peers] == ["host", "cell-3", "cell-4", "cell-5"]
        assert host.statistics().evicted == 3


def test_records_are_found_by_name_id_peer_and_owner():
    """And the last ones only, where asked for; all peers together are in time order."""
    with TracingHost(forward=False) as host:
        for name in ("a", "b", "a"):
            with InProcessCell(host, name) as cell:
                for number in range(3):
                    roam.info(name, n=number)
                arrived(cell, 3)
        first, second, third = host.peers[1:]
        assert [tagged.peer for tagged in host.records(cell="a")] == [first] * 3 + [third] * 3
        assert [tagged.peer for tagged in host.records(cell=second)] == [second] * 3
        assert [tagged.peer for tagged in host.records(cell=third.peer_id)] == [third] * 3
        assert host.records(cell="nobody") == host.records(cell=99) == host.records(cell=object()) == []
        everything = host.records()
        assert [tagged.record.time_ns for tagged in everything] == sorted(t.record.time_ns for t in everything)
        assert host.records(last=4) == everything[-4:]
        assert host.records(last=0) == []
        assert host.records(last=99) == everything
        assert messages(host.records(cell="b", last=1)) == ["b"]
        assert [record.fields["n"] for record in cell.records(last=2)] == [1, 2]


def test_the_identity_holds_in_every_snapshot_under_load():
    """In every lane emitted == delivered + lost + resident, whenever anybody looks, while a small ring is lapped."""
    wrong: list[object] = []
    stop = threading.Event()
    with in_process(roam.TracingConfig("debug"), segment=SMALL, retain_bytes=1 << 20) as (host, cell):

        def look():
            while not stop.is_set():
                found = cell.statistics()
                if not holds(found):
                    wrong.append(found)

        lookers = [threading.Thread(target=look) for _ in range(2)]
        for looker in lookers:
            looker.start()
        attempted = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for number in range(200):
                roam.event((10, 30)[number % 4 == 0], "load", n=number)
            attempted += 200
        stop.set()
        for looker in lookers:
            looker.join()
        arrived(cell)
        statistics = cell.statistics()
        host.close()
    assert not wrong
    assert sum(lane.emitted + sum(lane.dropped.values()) for lane in statistics.lanes.values()) == attempted


def test_what_was_dropped_before_writing_is_announced():
    """The next record of the lane is preceded by the counts; what is not announced at the end comes as the last loss."""
    with in_process() as (host, cell), host.subscribe() as records:
        emitter = hosts.emitters.current_emitter()
        emitter.writer.drop(2, "sampled")
        emitter.writer.drop(2, "sampled")
        roam.info("after")
        dropped, after = arrived(cell, 2)
        emitter.writer.drop(1, "unencodable")
        host.close()
        stream = [each.record for each in records]
    assert (dropped.kind, dropped.counts, after.message) == ("dropped", {"sampled": 2}, "after")
    assert [record.kind for record in stream] == ["dropped", "event", "lost"]
    lost = stream[-1]
    assert (lost.lane, lost.first_seq, lost.count, lost.cause) == ("vital", None, 1, "unencodable")
    assert cell.statistics().lanes["vital"].dropped == {"unencodable": 1}
    assert cell.records()[-1].kind == "lost"


# Processes that roam did not start


def test_a_registered_process_is_traced_until_its_end():
    """Its records, spans and stage arrive; SIGKILL leaves a post-mortem like a cell's."""
    with roam.TracingHost(forward=False) as host:
        peer = host.register_peer("legacy")
        assert (peer.peer.pid, peer.join(0)) == (None, None)
        with popen(peer, LEGACY.format(then="sys.stdin.read() or __import__('time').sleep(60)")) as process:
            assert process.stdout.readline() == "ready\n"
            wait_until(lambda: messages(peer.records()) == ["started"])
            assert [span.name for span in peer.open_spans()] == ["job"]
            assert peer.peer.pid == process.pid
            assert "run" in peer.stage.label
            process.kill()
            process.wait()
        assert peer.join(20) is not None
        assert peer.dump_path is not None
        found = roam.postmortem.load(peer.dump_path)
        assert [span.name for span in found.open_spans] == ["job"]
        assert messages(found.records) == ["started"]
        assert host.peers[-1].name == "legacy"


def test_a_registered_process_that_comes_and_goes_is_concluded():
    """One that was gone, and waited for, before the host could look at it is not waited for any more."""
    with roam.TracingHost(forward=False) as host:
        peer = host.register_peer("brief")
        block = threading.Event()
        host._collector.call(lambda: block.wait(30))
        with popen(peer, LEGACY.format(then="pass")) as process:
            process.wait()
        block.set()
        wait_until(lambda: peer.concluded.is_set(), 20)
        assert messages(peer.records()) == ["started"]
        assert peer.exit is not None


def test_a_host_does_not_wait_for_processes_that_are_not_its_own():
    """It closes at once; the process goes on, untraced."""
    host = roam.TracingHost(forward=False)
    peer = host.register_peer("legacy")
    with popen(
        peer, LEGACY.format(then="sys.stdin.readline(); roam.info('unseen'); print('alive', flush=True)")
    ) as process:
        assert process.stdout.readline() == "ready\n"
        wait_until(lambda: peer.peer.pid)
        before = time.monotonic()
        host.close()
        assert time.monotonic() - before < hosts.CLOSE_TIMEOUT_S / 2
        assert not host.run_dir.exists()
        assert process.wait(20) == 0 or process.stdout.read() == "alive\n"
    assert peer.concluded.is_set()


def test_a_second_process_with_the_same_ticket_is_refused():
    """And the first goes on undisturbed."""
    script = """if True:
        import os, roam
        try:
            roam.init_cell_tracing()
        except roam.RoamError as error:
            print(type(error).__name__)
        else:
            roam.info("mine")
            print("attached", flush=True)
    """
    with roam.TracingHost(forward=False) as host:
        peer = host.register_peer("shared")
        # A ticket's descriptors are closed here when the first process has attached.
        block = threading.Event()
        host._collector.call(lambda: block.wait(30))
        with popen(peer, script) as first, popen(peer, script) as second:
            said = {process.communicate()[0].strip() for process in (first, second)}
        block.set()
        assert said == {"attached", "SegmentTaken"}
        wait_until(lambda: peer.concluded.is_set(), 20)
        assert messages(peer.records()) == ["mine"]


@pytest.mark.parametrize(
    ("ticket", "said"),
    [
        ("", "False"),
        ("1:900:901:902:" + "0" * 32, "TicketError"),
        ("9:1:2:3:" + "0" * 32, "TicketError"),
        ("1:0:1:2:" + "0" * 32, "RoamError"),
        ("nonsense", "TicketError"),
    ],
)
def test_a_ticket_that_leads_nowhere_is_an_error_with_a_remedy(ticket, said):
    """No ticket is no error. Descriptors that are not a segment are not closed."""
    script = """if True:
        import os, roam
        try:
            print(roam.init_cell_tracing())
        except roam.RoamError as error:
            print(type(error).__name__, isinstance(error, roam.RoamError) and "RoamError", error)
        os.fstat(0), os.fstat(1), os.fstat(2)
    """
    assert said in run_script("-c", script, environ={"ROAM_TICKET": ticket}).stdout


def test_tracing_can_be_disabled():
    """`ROAM_DISABLE` makes `init_cell_tracing` a refusal, even with a ticket."""
    script = "import roam; print(roam.init_cell_tracing())"
    ticket = "1:900:901:902:" + "0" * 32
    assert run_script("-c", script, environ={"ROAM_TICKET": ticket, "ROAM_DISABLE": "1"}).stdout == "False\n"


# Real cells


def test_a_real_cell_is_a_peer_like_any_other():
    """Its statistics, records and spans are read through the host; its fork child neither traces nor disturbs."""
    # r[verify trace.fork.disowned]
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(traced.fork_and_print, host=host, start_method="spawn", name="forker")
        assert cell.result(30) > 0
        assert messages(cell.records(), None) == ["outer", "after the fork", "outer"]
        assert holds(cell.statistics())
        assert cell.statistics().spans_torn == 0
        assert messages(host.records(cell=cell)) == ["after the fork"]
        assert cell.peer in host.peers
