"""The host: what it makes, keeps and counts, and that nothing of it is left."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

import roam
from roam.errors import DumpError, HostClosed, NoSpace, RoamError
from roam.shm.rundir import run_root
from roam.testing import InProcessCell
from roam.tracing.host import TracingHost
from roam.tracing.reservation import VERSION
from tests.hosting import arrived, descriptors, holds, in_process, messages
from tests.support import run_script, wait_until


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
            with pytest.raises(RoamError, match="too many"):
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
            "roam.tracing.post.MailboxWriter.post",
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
