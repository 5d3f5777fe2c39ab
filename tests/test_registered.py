"""Processes that roam did not start, and that attach by a ticket."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time

import pytest

import roam
from roam.tracing import host as hosts
from tests.hosting import messages
from tests.support import REPOSITORY, run_script, wait_until

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
        wait_until(peer.concluded.is_set, 20)
        assert messages(peer.records()) == ["started"]
        assert peer.exit is not None


def test_a_process_that_attached_and_died_without_a_word_is_concluded():
    """Killed between taking the segment and ringing: the host finds out by itself."""
    script = """if True:
        import os
        from roam.shm.mapping import MappedSegment
        MappedSegment(int(os.environ["ROAM_TICKET"].split(":")[1]))
        os._exit(3)
    """
    with roam.TracingHost(forward=False) as host:
        peer = host.register_peer("silent")
        wait_until(lambda: peer not in host._collector._awake)
        with popen(peer, script) as process:
            process.wait()
        assert peer.join(20) is not None
        assert peer.exit is not None
        assert peer.peer.pid == process.pid


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
        wait_until(peer.concluded.is_set, 20)
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


def test_a_host_without_descriptors_does_not_bury_the_living(monkeypatch):
    """When the process descriptor cannot be had just now, the peer lives on and is watched with a later record."""
    real, failed = os.pidfd_open, threading.Event()
    go_on = "[(roam.info('later'), __import__('time').sleep(0.02)) for _ in range(3_000)]"

    def open_pidfd(pid, *flags):
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, "too many open files")
        return real(pid, *flags)

    with roam.TracingHost(forward=False) as host:
        monkeypatch.setattr(hosts.os, "pidfd_open", open_pidfd)
        peer = host.register_peer("legacy")
        with popen(peer, LEGACY.format(then=go_on)) as process:
            assert process.stdout.readline() == "ready\n"
            wait_until(failed.is_set)
            wait_until(lambda: "later" in messages(peer.records()))
            assert not peer.concluded.is_set()
            wait_until(lambda: not peer.is_awaited)
            process.kill()
            process.wait()
        assert peer.join(20) is not None
