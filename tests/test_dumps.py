"""What dumps may take of a disk and of time: caps, crash loops, and a disk that is too slow."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest

import roam
from roam.postmortem import load, write
from roam.postmortem.directory import part_name, prune
from roam.postmortem.file import stem_at
from roam.postmortem.format import decode, encode
from roam.shm.layout import BULK, VITAL
from roam.spawn import dumps as dumps_module
from roam.spawn.dumps import DumpStore
from tests.hosting import messages
from tests.remains import SECOND, WALL_NS, event, make_exit, make_remains
from tests.support import REPOSITORY

WAIT_S = 30


def die():
    roam.info("the last words")
    os.kill(os.getpid(), signal.SIGKILL)


def make_dumps(directory, count):
    """Dumps of deaths that came a second after another, the oldest first."""
    return [
        write(make_remains([event(20, "x")], died_ns=WALL_NS + number * SECOND), make_exit(), {}, directory)
        for number in range(count)
    ]


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds that a store goes by."""
    now = [1_000.0]
    monkeypatch.setattr(dumps_module.time, "monotonic", lambda: now[0])
    return now


# Caps.


# r[verify dump.caps]
@pytest.mark.parametrize("by", ["count", "bytes"])
def test_the_oldest_dumps_go(by, tmp_path):
    """Whatever order they were written in: what is beyond the limit is taken from those that died first."""
    paths = make_dumps(tmp_path, 5)
    large = 1 << 40
    limits = {"most_count": 2, "most_bytes": large}
    if by == "bytes":
        limits = {"most_count": 100, "most_bytes": 2 * paths[-1].stat().st_size + 10}

    assert prune(tmp_path, **limits) == 3
    assert sorted(tmp_path.iterdir()) == paths[3:]
    assert prune(tmp_path, **limits) == 0


# r[verify dump.caps]
def test_the_dump_just_written_stays(tmp_path):
    """Even when it is the oldest by name, or alone larger than all may be."""
    paths = make_dumps(tmp_path, 3)

    assert prune(tmp_path, most_count=1, most_bytes=1, newest=paths[0]) == 2
    assert list(tmp_path.iterdir()) == [paths[0]]


# r[verify dump.caps]
def test_only_what_roam_named_is_removed(tmp_path):
    """Renamed dumps, other files, links and directories are neither counted nor removed."""
    [dump] = make_dumps(tmp_path, 1)
    others = [tmp_path / name for name in ("keep-this.roam", "notes.txt", ".roam", f"{dump.name}.bak", f"x{dump.name}")]
    for path in others:
        path.write_bytes(dump.read_bytes())
    link, directory = (tmp_path / f"{stem_at(WALL_NS - number * SECOND)}-cell-1.roam" for number in (1, 2))
    link.symlink_to(dump)
    directory.mkdir()

    assert prune(tmp_path, most_count=1, most_bytes=dump.stat().st_size) == 0
    assert prune(tmp_path, most_count=0, most_bytes=0) == 1
    assert sorted(tmp_path.iterdir()) == sorted([*others, link, directory])


# r[verify dump.caps]
def test_parts_that_lost_their_writer_go(tmp_path):
    """A part is left alone while somebody may write it, and goes when nobody touched it for long."""
    name = f"{stem_at(WALL_NS)}-cell-1.roam"
    young, old = tmp_path / part_name(name), tmp_path / part_name(name.replace("-1.", "-2."))
    for path in (young, old):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)

    assert prune(tmp_path, most_count=1, most_bytes=1) == 0
    assert list(tmp_path.iterdir()) == [young]


# r[verify dump.caps]
def test_hosts_that_share_a_directory_prune_at_once(tmp_path):
    """Several processes remove the same dumps at the same time: none fails, and the limit holds afterwards."""
    script = """if True:
        import sys
        from pathlib import Path
        from roam.postmortem.directory import prune
        print("ready", flush=True)
        sys.stdin.readline()
        print(prune(Path(sys.argv[1]), most_count=5, most_bytes=1 << 40))
    """
    make_dumps(tmp_path, 200)
    pruners = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        for _ in range(3)
    ]
    for pruner in pruners:
        assert pruner.stdout.readline() == "ready\n"
    for pruner in pruners:
        pruner.stdin.write("go\n")
        pruner.stdin.flush()
    removed = [int(pruner.communicate(timeout=WAIT_S)[0]) for pruner in pruners]

    assert [pruner.returncode for pruner in pruners] == [0, 0, 0]
    assert sum(removed) == 195
    assert len(list(tmp_path.iterdir())) == 5


# r[verify dump.caps]
def test_a_dump_that_cannot_be_removed_costs_the_next_one(tmp_path, monkeypatch):
    """The limit holds all the same, and the host is not disturbed."""
    paths = make_dumps(tmp_path, 4)
    real = os.unlink

    def unlink(path, **options):
        if path == paths[0]:
            raise PermissionError(1, "not yours")
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    assert prune(tmp_path, most_count=2, most_bytes=1 << 40) == 2
    assert sorted(tmp_path.iterdir()) == [paths[0], paths[3]]


# r[verify dump.caps]
def test_a_host_keeps_to_its_limits(tmp_path):
    """When it starts, and after every death; `join` returns when that is done, and the statistics count it."""
    make_dumps(tmp_path, 5)
    limits = roam.DumpLimits(most_count=3)
    with roam.TracingHost(forward=False, dump_dir=tmp_path, dump_limits=limits) as host:
        assert (len(list(tmp_path.iterdir())), host.statistics().dumps.removed) == (3, 2)
        for _ in range(4):
            cell = roam.spawn_cell(die, host=host)
            cell.join(WAIT_S)
            assert cell.dump_path.exists()
        assert len(list(tmp_path.iterdir())) == 3
        found = host.statistics().dumps
        assert (found.written, found.removed, found.suppressed, found.failed) == (4, 6, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"most_count": 0},
        {"most_bytes": -1},
        {"burst_count": 1.5},
        {"burst_count": True},
        {"rate_per_s": 0},
        {"rate_per_s": float("nan")},
        {"rate_per_s": float("inf")},
        {"rate_per_s": "5"},
    ],
    ids=repr,
)
def test_limits_that_cannot_work_are_refused(wrong):
    """The error names the field; a host takes nothing but limits."""
    with pytest.raises(ValueError, match=re.escape(next(iter(wrong)))):
        roam.DumpLimits(**wrong)
    with pytest.raises(TypeError, match="dump_limits"):
        roam.TracingHost(dump_limits=wrong)
    limits = roam.DumpLimits(most_count=3, rate_per_s=0.5)
    assert pickle.loads(pickle.dumps(limits)) == limits


# Crash loops.


# r[verify dump.storm]
def test_a_death_beyond_the_rate_is_kept_in_memory(tmp_path, caplog):
    """The first deaths have files; the others a post-mortem in memory, no segment, a count, and one line in the log."""
    limits = roam.DumpLimits(burst_count=2, rate_per_s=0.001)
    with roam.TracingHost(forward=False, dump_dir=tmp_path, dump_limits=limits) as host:
        for number in range(5):
            cell = roam.spawn_cell(die, host=host)
            cell.join(WAIT_S)
            assert (cell.dump_path is None) == (number >= 2)
            assert messages(cell.post_mortem.records) == ["the last words"]
            assert cell.post_mortem.exit is cell.exit or cell.post_mortem.exit == cell.exit
            with pytest.raises(roam.CellCrashed, match="the last words"):
                cell.result()
        assert [path.suffix for path in host.run_dir.glob("[1-9]*")] == []
        found = host.statistics().dumps
        assert (found.written, found.suppressed) == (2, 3)
        assert "died too fast" not in caplog.text
    assert len(list(tmp_path.iterdir())) == 2
    [told] = [entry for entry in caplog.records if "died too fast" in entry.message]
    assert (told.name, told.levelname, told.message.split()[0]) == ("roam", "WARNING", "3")


# r[verify dump.storm]
def test_a_registered_peer_counts_as_any_cell(tmp_path):
    """Beyond the rate it leaves no file and no segment; what the host keeps of it is still there."""
    script = """if True:
        import os, roam
        roam.init_cell_tracing()
        roam.info("the last words")
        os.kill(os.getpid(), 9)
    """
    limits = roam.DumpLimits(burst_count=1, rate_per_s=0.001)
    with roam.TracingHost(forward=False, dump_dir=tmp_path, dump_limits=limits) as host:
        for number in range(2):
            peer = host.register_peer("legacy")
            environ = {**os.environ, **peer.ticket.environ, "PYTHONPATH": str(REPOSITORY)}
            subprocess.run([sys.executable, "-c", script], env=environ, pass_fds=peer.ticket.fds, check=False)
            assert peer.join(WAIT_S) is not None
            assert (peer.dump_path is None) == (number == 1)
            assert messages(peer.records()) == ["the last words"]
        assert list(host.run_dir.glob("[1-9]*")) == []
        assert host.statistics().dumps.suppressed == 1


# r[verify dump.storm]
def test_a_storm_is_told_of_once_when_it_is_over(tmp_path, clock, caplog):
    """While tokens trickle in the storm goes on; the first death long after it, or the end of the host, tells the count."""
    store = DumpStore(tmp_path, roam.DumpLimits(burst_count=2, rate_per_s=1.0))

    def deaths(count):
        for _ in range(count):
            store.keep(make_remains(), make_exit(), {})

    deaths(10)
    for _ in range(5):
        clock[0] += 1.0
        deaths(3)
    assert (store.statistics().written, store.statistics().suppressed) == (7, 18)
    assert caplog.text == ""
    clock[0] += 60.0
    deaths(1)
    assert [entry.message.split()[0] for entry in caplog.records] == ["18"]
    deaths(5)
    store.close()
    store.close()
    assert [entry.message.split()[0] for entry in caplog.records] == ["18", "4"]


def test_a_full_disk_keeps_the_evidence(tmp_path, monkeypatch, caplog):
    """What cannot be written is counted, kept in memory, and its segment stays."""

    def full_disk(_file):
        raise OSError(28, "No space left on device")

    store = DumpStore(tmp_path, roam.DumpLimits())
    monkeypatch.setattr(os, "fsync", full_disk)
    kept = store.keep(make_remains([event(20, "x")]), make_exit(), {})

    assert (kept.path, kept.is_settled, store.statistics().failed) == (None, False, 1)
    assert messages(kept.load().records) == ["x"]
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_raises_costs_no_post_mortem(tmp_path):
    """Neither when a storm is told of, nor when a dump cannot be written."""

    def refuse(_record):
        raise ValueError("no")

    logger = logging.getLogger("roam")
    logger.addFilter(refuse)
    try:
        store = DumpStore(tmp_path, roam.DumpLimits(burst_count=1, rate_per_s=0.001))
        assert store.keep(make_remains(), make_exit(), {}).path is not None
        assert store.keep(make_remains(), make_exit(), {}).path is None
        store.close()
        store = DumpStore(tmp_path / "gone", roam.DumpLimits())
        assert store.keep(make_remains(), make_exit(), {}).is_settled is False
    finally:
        logger.removeFilter(refuse)


# A disk that is too slow.


def many_records():
    """Remains with several pages in two lanes."""
    bodies = [event(20, f"bulk {number} {'x' * 4000}") for number in range(40)]
    return make_remains(bodies + [event(30, f"vital {number} {'x' * 4000}") for number in range(20)])


# r[verify dump.write.late]
@pytest.mark.parametrize("time_left", range(10))
def test_what_there_is_no_time_for_is_counted(time_left):
    """Whenever time is up: the dump is whole and undamaged, WARNING and above come first, then the newest of the rest,
    and each record is in it or counted."""
    remains = many_records()
    chunk_count = len(remains.chunks)
    found = decode(b"".join(encode(remains, make_exit(), {}, range(time_left))), "x")
    late = [lost for lost in found.remains.lost if lost.cause == "dump_late"]
    numbers = [
        [int(record.message.split()[1]) for record in found.remains.records() if record.message.startswith(what)]
        for what in ("bulk", "vital")
    ]

    assert chunk_count == 8
    assert found.damage == []
    assert (len(found.remains.chunks), len(late)) == (min(time_left, chunk_count), max(0, chunk_count - time_left))
    assert numbers[0] == list(range(40 - len(numbers[0]), 40))
    assert numbers[1] == list(range(20 - len(numbers[1]), 20))
    assert not numbers[0] or len(numbers[1]) == 20
    for lane, total, kept in ((BULK, 40, numbers[0]), (VITAL, 20, numbers[1])):
        assert sum(lost.count for lost in late if lost.lane == ("life", "vital", "bulk")[lane]) == total - len(kept)


# r[verify dump.write.late]
def test_a_store_gives_a_dump_its_time(tmp_path, clock, monkeypatch):
    """When the disk takes longer than it may, the rest is left out and the post-mortem says so."""
    real = os.write

    def slow(file, data):
        clock[0] += 0.1
        return real(file, data)

    monkeypatch.setattr(os, "write", slow)
    store = DumpStore(tmp_path, roam.DumpLimits())
    left = load(store.keep(many_records(), make_exit(), {}).path)

    assert clock[0] < 1_000.0 + dumps_module.WRITE_S + 1.0
    assert left.damage == []
    assert re.search(r"\d+ dump_late", left.render())
    assert "vital 19" in left.render()
