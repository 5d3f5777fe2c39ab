"""Salvage leaves the living alone: hosts by their locks, cells by what they have open; and two exclude each other."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import roam
from roam.errors import RoamError
from roam.postmortem.file import load
from roam.postmortem.salvage import Fate, salvage
from roam.shm.rundir import LOCK_NAME, RunDirectory, run_directories
from roam.shm.segment import SegmentFile, is_written
from roam.tracing.records import Peer
from roam.tracing.reservation import _identity_of
from tests.hosting import messages
from tests.orphans import SMALL, command, fates, is_free, make_orphan, make_root, make_segment
from tests.programs import Program, is_alive, write_program
from tests.support import REPOSITORY, run_script, wait_until

WAIT_S = 30.0


@pytest.fixture
def root(monkeypatch, tmp_path):
    return make_root(monkeypatch, tmp_path)


@pytest.fixture
def dumps(root):
    return root.parent / "dumps"


@pytest.fixture
def orphan(root):
    return make_orphan(root)


# Whom it leaves alone.


# r[verify dump.salvage.lock]
def test_what_a_living_host_has_is_not_touched(root, dumps):
    """Neither from another process, nor from its own, where to look at the lock would be to lose it."""
    run = RunDirectory.create()
    path = make_segment(run.path)
    assert run_directories(root) == []
    assert fates(salvage(run.path, dumps)) == [Fate.KEPT]
    for arguments in ((), (run.path,)):
        done = run_script("-m", "roam", "gc", *arguments)
        assert done.stdout == f"kept     run {run.path}: its host lives\n1 kept\n"
    assert path.exists()

    run.forget()
    assert run_script("-m", "roam", "gc").stdout.endswith("1 saved\n")
    assert not root.exists()


# r[verify dump.salvage.lock]
def test_two_salvagers_exclude_each_other(orphan, dumps):
    """In threads of one process and in two processes: one does it, the other leaves the run alone."""
    make_segment(orphan)
    first = RunDirectory.claim(orphan)
    assert RunDirectory.claim(orphan) is None
    assert command(orphan).stdout == f"kept     run {orphan}: its host lives\n1 kept\n"
    assert "1 kept" in run_script("-m", "roam", "gc").stdout
    first.forget()

    found, together = [], threading.Barrier(8)

    def work():
        together.wait()
        found.extend(salvage(orphan, dumps))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [finding.fate for finding in found].count(Fate.SAVED) == 1
    assert len(list(dumps.iterdir())) == 1


# r[verify dump.salvage.lock]
@pytest.mark.parametrize("moment", ["mkdir", "open", "lockf", "locked"])
def test_a_host_whose_directory_is_cleared_away_makes_another(moment, root, dumps, monkeypatch):
    """A salvager comes between any two steps of making it: the host ends up with a directory that is there and locked."""
    done = []

    def interfere():
        if done:
            return
        [name] = os.listdir(root)
        done.append(name)
        script = "import sys; from pathlib import Path; from roam.postmortem.salvage import salvage; "
        script += "print(list(salvage(Path(sys.argv[1]), Path(sys.argv[2]))))"
        run_script("-c", script, root / name, dumps)

    real_open, real_lockf, real_stat = os.open, roam.shm.rundir.fcntl.lockf, os.stat

    def hooked_open(path, *arguments, **options):
        if str(path).endswith(LOCK_NAME) and moment == "mkdir":
            interfere()
        fd = real_open(path, *arguments, **options)
        if str(path).endswith(LOCK_NAME) and moment == "open":
            interfere()
        return fd

    def hooked_lockf(*arguments):
        if moment == "lockf":
            interfere()
        real_lockf(*arguments)
        if moment == "locked":
            interfere()

    monkeypatch.setattr(roam.shm.rundir.os, "open", hooked_open)
    monkeypatch.setattr(roam.shm.rundir.fcntl, "lockf", hooked_lockf)
    run = RunDirectory.create()
    assert len(done) == 1
    assert (run.path.name == done[0]) == (moment == "locked")
    assert real_stat(run.path / LOCK_NAME).st_ino == os.fstat(run._lock_fd).st_ino
    assert [path.name for path in root.iterdir()] == [run.path.name]
    assert "its host lives" in run_script("-m", "roam", "gc").stdout
    assert run.remove()


@pytest.mark.parametrize("call", ["open", "lockf"])
def test_a_directory_that_cannot_be_locked_does_not_stay(call, root, monkeypatch):
    """Making one fails with the typed error, and leaves nothing."""

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(roam.shm.rundir.os if call == "open" else roam.shm.rundir.fcntl, call, refuse)
        with pytest.raises(RoamError, match="No locks"):
            RunDirectory.create()
    assert list(root.iterdir()) == []
    assert RunDirectory.create().remove()


def test_a_directory_without_lock_is_kept_unless_it_is_empty(root, dumps):
    """Nobody can say whether its host lives; an empty one never was a run."""
    (root / ("e" * 16)).mkdir()
    (root / ("f" * 16)).mkdir()
    path = make_segment(root / ("f" * 16))
    found = [finding for run in run_directories(root) for finding in salvage(run, dumps)]

    assert fates(found) == [Fate.STUCK]
    assert LOCK_NAME in found[0].why
    assert path.exists()
    assert not (root / ("e" * 16)).exists()


# r[verify dump.salvage.alive]
@pytest.mark.parametrize("how", ["descriptor", "mapping"])
def test_a_segment_that_somebody_could_write_is_kept(how, orphan, dumps):
    """Open or mapped for writing, even by a process that has not attached yet, or whose number the segment does not say."""
    path = make_segment(orphan, pid=0)
    script = """if True:
        import mmap, os, sys
        fd = os.open(sys.argv[1], os.O_RDWR)
        if sys.argv[2] == "mapping":
            import ctypes
            libc = ctypes.CDLL(None)
            libc.mmap(None, ctypes.c_size_t(4096), 3, 1, fd, ctypes.c_long(0))
            os.close(fd)
        print("ready", flush=True)
        sys.stdin.read()
    """
    with Program("-c", script, path, how) as holder:
        holder.line()
        assert fates(salvage(orphan, dumps)) == [Fate.KEPT]
        assert command().exit_code == 0
        assert path.exists()
    assert fates(salvage(orphan, dumps)) == [Fate.SAVED]


# r[verify dump.salvage.alive]
def test_a_cell_in_another_pid_namespace_is_seen(orphan, dumps):
    """Where its number means nothing, or another process: it lives, and its segment stays until it does not."""
    probe = subprocess.run(["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"], check=False)
    if probe.returncode:
        pytest.skip("no namespaces can be made here")
    path = make_segment(orphan, pid=0)
    script = "import os, sys; from roam.shm.mapping import MappedSegment; "
    script += "m = MappedSegment(os.open(sys.argv[1], os.O_RDWR)); print(os.getpid(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", sys.executable, "-c", script, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        assert int(process.stdout.readline()) < 10
        assert fates(salvage(orphan, dumps)) == [Fate.KEPT]
        process.stdin.close()
        process.wait(WAIT_S)
    wait_until(lambda: is_free(path))
    assert fates(salvage(orphan, dumps)) == [Fate.SAVED]


# r[verify dump.salvage.alive]
def test_what_cannot_be_known_counts_as_alive(orphan, dumps, monkeypatch):
    """A file system without leases cannot say who has a segment open."""

    def refuse(fd, number, argument):
        raise OSError(errno.EINVAL, "Invalid argument")

    path = make_segment(orphan)
    monkeypatch.setattr(roam.shm.segment.fcntl, "fcntl", refuse)
    [finding] = salvage(orphan, dumps)
    assert finding.fate is Fate.KEPT
    assert path.exists()


def test_the_lease_does_not_disturb_a_program(orphan, dumps):
    """Looking who has a file open leaves no lease and sends no signal."""
    path = make_segment(orphan)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert is_written(fd) is False
        for _ in range(2):
            writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            assert is_written(fd) is True
            os.close(writer)
        assert is_written(fd) is False
    finally:
        os.close(fd)


def test_a_host_that_lost_its_lock_but_lives_keeps_its_own_segment(orphan, dumps):
    """A program that closes descriptors it does not know gives the lock away; the process itself is seen then."""
    path = orphan / "0-000000000000000a.segment"
    file = SegmentFile.create(path, SMALL, _identity_of(Peer(0, 1, "host", None)))
    try:
        assert fates(salvage(orphan, dumps)) == [Fate.KEPT]
    finally:
        file.close()
    assert path.exists()
    assert fates(salvage(orphan, dumps)) == [Fate.SAVED]


# Real hosts.

KILLED = """
    import json, os, sys, time
    import roam

    def work(number):
        with roam.span("job", number=number):
            for index in range(100):
                roam.info("working", index=index)
            if number == 1:
                return
            time.sleep(600)

    if __name__ == "__main__":
        with roam.TracingHost(forward=False, dump_dir=sys.argv[1] or None) as host:
            roam.info("the host speaks")
            cells = [
                roam.spawn_cell(work, n, host=host, name=f"cell {n}", start_method=method, die_with_host=n != 3)
                for n, method in enumerate(("forkserver", "spawn", "fork", "fork"))
            ]
            cells[1].join()
            while not all(cell.open_spans() for cell in cells if cell is not cells[1]):
                time.sleep(0.01)
            print(json.dumps([cell.pid for cell in cells]), flush=True)
            time.sleep(600)
"""


@pytest.mark.parametrize("by", ["gc", "host"])
@pytest.mark.filterwarnings("ignore")
def test_a_killed_host_is_salvaged(by, root, tmp_path):
    """Its cells and itself have post-mortems, where its dumps belong; a detached cell keeps its segment while it lives."""
    (tmp_path / "mine").mkdir()
    program = write_program(tmp_path, KILLED)
    with Program("-W", "ignore", program, tmp_path / "mine", ROAM_DIR=str(root.parent)) as host:
        pids = json.loads(host.line())
        before = sorted(root.rglob("*"))
        if by == "gc":
            assert "its host lives" in command().stdout
            assert sorted(root.rglob("*")) == before
        host.send(signal.SIGKILL)
    detached = pids[3]
    try:
        wait_until(lambda: not any(map(is_alive, pids[:3])), message="the cells end with their host")
        sweep(by)
        assert is_alive(detached)
        assert [path.name[:2] for path in root.rglob("*.segment")] == ["4-"]
        names = sorted(load(path).peer.name for path in (tmp_path / "mine").iterdir())
        assert names == ["cell 0", "cell 2", "host"]
    finally:
        os.kill(detached, signal.SIGKILL)
    wait_until(lambda: not is_alive(detached))
    sweep(by)

    assert not root.exists()
    left = {post.peer.name: post for post in map(load, (tmp_path / "mine").iterdir())}
    assert sorted(left) == ["cell 0", "cell 2", "cell 3", "host"]
    assert messages(left.pop("host").records) == ["the host speaks"]
    for post in left.values():
        assert [record.fields["index"] for record in post.records if record.message == "working"] == list(range(100))
        assert [span.name for span in post.open_spans] == ["job"]
        assert post.exit.verdict == "its host was gone"
        assert not post.damage


def sweep(by):
    if by == "gc":
        assert command().exit_code == 0
    else:
        started = time.monotonic()
        roam.TracingHost(forward=False).close()
        assert time.monotonic() - started < WAIT_S
