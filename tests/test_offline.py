"""Reading a segment that has no host: complete, unchanged by it, and whatever its bytes are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roam.errors import RoamError, SegmentError
from roam.shm.layout import STATUS_OFFSET, SegmentConfig, StatusWord
from roam.shm.mailbox import MailboxWriter
from roam.shm.mapping import MappedSegment
from roam.shm.segment import SegmentFile, boot_id
from roam.stage import Stage
from roam.tracing.config import TracingConfig
from roam.tracing.emitter import Emitter
from roam.tracing.offline import remains_of_segment
from roam.tracing.records import Peer
from roam.tracing.reservation import _identity_of
from roam.tracing.scope import Scope
from tests.hosting import messages
from tests.support import REPOSITORY, wait_until

SMALL = SegmentConfig(page_bytes=4096, record_bytes=1024, life_pages=2, vital_pages=2, bulk_pages=4, span_slots=8)
HOUR_NS = 3600 * 10**9


def make_segment(path, *, config=SMALL, filter="debug"):
    """A segment with a cell that lives in this process; returns its emitter."""
    file = SegmentFile.create(path, config, _identity_of(Peer(5, 2, "orphan", None)))
    MailboxWriter(file.write).post(TracingConfig(filter).to_bytes())
    emitter = Emitter(MappedSegment(file.fd), ring=lambda: None)
    file.close()
    return emitter


def write(emitter, count, level=20):
    """Numbered records."""
    for number in range(count):
        emitter.event(level, "app", f"record {number}", {"n": number}, None, emitter.generation)


def set_word(path, word, value):
    """Store a status word as its cell would."""
    with open(path, "r+b") as file:
        file.seek(word * 8)
        file.write(value.to_bytes(8, "little"))


def dead(path):
    """Make its process one that is gone."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True)
    set_word(path, StatusWord.PID, int(done.stdout))


def test_everything_is_found(tmp_path):
    """Records of all lanes in time order, identity, stage, config, files beside it, statistics; nothing is changed."""
    path = tmp_path / "5-x.segment"
    emitter = make_segment(path)
    write(emitter, 3)
    emitter.event(40, "app", "bad", {}, ValueError("x"), emitter.generation)
    write(emitter, 2, 30)
    path.with_suffix(".fault").write_bytes(b"Fatal Python error: x\n" + b"f" * (2 << 20))
    path.with_suffix(".stderr").write_bytes(b"s" * (100 << 10) + b"the end\n")
    path.with_suffix(".stdout").write_bytes(b"before the end\n")
    emitter.words[StatusWord.STAGE] = Stage.RUN
    before = path.read_bytes()
    found = remains_of_segment(path)

    assert path.read_bytes() == before
    assert messages(found.records()) == ["record 0", "record 1", "record 2", "bad", "record 0", "record 1"]
    assert (found.peer.name, found.peer.peer_id, found.peer.epoch, found.peer.pid) == ("orphan", 5, 2, os.getpid())
    assert (found.stage, found.config, found.is_live, found.said_goodbye) == (Stage.RUN, "debug", True, False)
    assert (len(found.fault_text), len(found.stderr_tail)) == (1 << 20, 64 << 10)
    assert found.stderr_tail.endswith(b"the end\n")
    assert found.stdout_tail == b"before the end\n"
    assert found.header["host_pid"] == os.getpid()
    assert [lane.delivered for lane in found.statistics.lanes.values()] == [1, 2, 3]
    assert not found.lost


def test_what_was_overwritten_is_a_loss_in_its_place(tmp_path):
    """A lapped lane says how many are missing, before the records that are left."""
    path = tmp_path / "x.segment"
    emitter = make_segment(path)
    write(emitter, 2000)
    emitter.writer.drop(1, "sampled")
    dead(path)
    found = remains_of_segment(path)
    records = found.records()

    assert [record.kind for record in (records[0], records[1], records[-2], records[-1])] == [
        "lost",
        "event",
        "event",
        "lost",
    ]
    assert records[0].count == records[1].seq == records[1].fields["n"] > 0
    assert records[-2].fields["n"] == 1999
    assert (records[-1].lane, records[-1].count, records[-1].cause) == ("vital", 1, "sampled")
    lane = found.statistics.lanes["bulk"]
    assert (lane.emitted, lane.delivered + lane.lost, lane.resident) == (2000, 2000, 0)


@pytest.mark.parametrize("is_gone", [True, False])
def test_ages_are_those_of_the_death(tmp_path, is_gone):
    """Of a dead cell to its last record, of a living one to now."""
    path = tmp_path / "x.segment"
    emitter = make_segment(path)
    now_ns = time.monotonic_ns()
    opened_ns = now_ns - min(HOUR_NS, now_ns // 2)  # the clock of a machine that has just booted knows no hour ago
    _, body = emitter.open_body(20, "app", "job", {"n": 1}, Scope(b"s" * 8, b"t" * 16), b"p" * 8)
    emitter.open_spans.open(body, opened_ns)
    write(emitter, 1)
    heartbeat = emitter.words[StatusWord.HEARTBEAT]
    if is_gone:
        dead(path)
    time.sleep(0.02)
    found = remains_of_segment(path)
    (span,) = found.open_spans

    assert found.is_live is not is_gone
    died_ns = found.anchor.to_monotonic_ns(found.died_ns)
    assert (span.name, span.fields) == ("job", {"n": 1})
    assert span.age_ns == pytest.approx(died_ns - opened_ns, abs=10**9)
    if is_gone:
        assert died_ns == heartbeat
        assert span.age_ns == heartbeat - opened_ns
        assert found.records()[-1].time_ns == found.died_ns
    else:
        assert died_ns - heartbeat >= 20 * 10**6


def test_a_cell_that_wrote_no_record_died_when_its_last_span_began(tmp_path):
    """Ages are never negative, and there is a time of death where there is no record."""
    path = tmp_path / "x.segment"
    emitter = make_segment(path)
    started = []
    for name in ("outer", "inner"):
        _, body = emitter.open_body(20, "app", name, {}, Scope(b"s" * 8, b"t" * 16), b"p" * 8)
        started.append(time.monotonic_ns())
        emitter.open_spans.open(body, started[-1])
    dead(path)
    found = remains_of_segment(path)

    assert [(span.name, span.age_ns) for span in found.open_spans] == [("outer", started[1] - started[0]), ("inner", 0)]
    empty = tmp_path / "empty.segment"
    make_segment(empty)
    dead(empty)
    assert remains_of_segment(empty).died_ns == remains_of_segment(empty).anchor.wall_ns


def test_a_heartbeat_from_the_future_is_not_believed(tmp_path):
    """A damaged word gives no ages of centuries; in a segment of an earlier boot, whose clock is another, it counts."""
    path = tmp_path / "x.segment"
    emitter = make_segment(path)
    write(emitter, 1)
    dead(path)
    set_word(path, StatusWord.HEARTBEAT, 2**64 - 1)
    assert remains_of_segment(path).died_ns < time.time_ns() + HOUR_NS
    assert boot_id() != bytes(16)


def test_a_pid_that_was_used_again_is_not_the_cell(tmp_path):
    """A living process that does not map the segment did not write it."""
    path = tmp_path / "x.segment"
    emitter = make_segment(path)
    write(emitter, 1)
    copy = tmp_path / "copy.segment"
    shutil.copyfile(path, copy)
    assert remains_of_segment(path).is_live
    assert not remains_of_segment(copy).is_live
    set_word(copy, StatusWord.PID, 2**64 - 1)
    assert not remains_of_segment(copy).is_live
    set_word(copy, StatusWord.PID, 0)
    assert remains_of_segment(copy).peer.pid is None


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(8192), None, "directory", "fifo"])
def test_what_is_no_segment_is_said(tmp_path, content):
    """The error of opening, typed, at once; and no descriptor stays open."""
    path = tmp_path / "x.segment"
    if content == "directory":
        path.mkdir()
    elif content == "fifo":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises((SegmentError, OSError)):
        remains_of_segment(path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The bytes of a segment with a bit of everything."""
    path = tmp_path_factory.mktemp("sample") / "x.segment"
    emitter = make_segment(path)
    write(emitter, 300)
    write(emitter, 5, 30)
    _, body = emitter.open_body(20, "app", "job", {"n": 1}, Scope(b"s" * 8, b"t" * 16), b"p" * 8)
    emitter.open_spans.open(body, time.monotonic_ns())
    return path.read_bytes()


damages = st.lists(
    st.tuples(st.integers(0, 1) | st.integers(0, 10**6), st.binary(min_size=1, max_size=40)), min_size=1, max_size=8
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(damages, st.none() | st.integers(0, 200_000), st.integers(512, 1500))
def test_damage_of_any_kind_is_survived(sample, tmp_path, changes, length, near):
    """Damaged, truncated or overwritten: what is left comes out and the rest is counted, or it is no segment."""
    data = bytearray(sample)
    for offset, change in changes:
        # Every second one into the words and slots at the front, which decide most.
        at = (near if offset % 2 else 1280 + offset) % len(data)
        data[at : at + len(change)] = change
    path = tmp_path / "damaged.segment"
    path.write_bytes(bytes(data[:length]))
    try:
        found = remains_of_segment(path)
    except RoamError:
        return
    for record in found.records():
        assert record.kind
        assert record.message is not None
    assert all(span.age_ns >= 0 for span in found.open_spans)
    assert found.died_ns > 0


@given(st.integers(0, 79), st.integers(0, 2**64 - 1))
def test_status_words_of_any_value_are_survived(sample, tmp_path_factory, word, value):
    """They are the cell's word, advisory, and never an error."""
    path = tmp_path_factory.mktemp("words") / "x.segment"
    path.write_bytes(sample)
    set_word(path, STATUS_OFFSET // 8 + word, value)
    found = remains_of_segment(path)
    assert len([r for r in found.records() if r.kind == "event"]) > 100
    assert found.stage in Stage


def test_a_segment_whose_file_shrinks_under_the_reader_is_survived(sample, tmp_path, monkeypatch):
    """After opening nothing raises: what cannot be read any more is missing."""
    path = tmp_path / "x.segment"
    path.write_bytes(sample)
    real = SegmentFile.status_words

    def shrink(self):
        os.truncate(path, 600)
        return real(self)

    monkeypatch.setattr(SegmentFile, "status_words", shrink)
    found = remains_of_segment(path)
    assert found.records()
    assert (found.config, found.peer.pid, found.open_spans) == ("", None, [])


def test_a_segment_outlives_its_host_and_its_cell():
    """Both killed: everything the cell had written, and the span it was in, are in the file."""
    script = """if True:
        import os, signal, subprocess, sys, roam
        from roam.tracing.host import TracingHost
        host = TracingHost(forward=False)
        peer = host.register_peer("orphan")
        child = subprocess.Popen(
            [sys.executable, "-c", "import os, signal, roam; roam.init_cell_tracing(); s = roam.span('job', n=1);"
             "s.__enter__(); [roam.info('x', n=n) for n in range(1000)]; os.kill(os.getpid(), signal.SIGKILL)"],
            env={**os.environ, **peer.ticket.environ}, pass_fds=peer.ticket.fds)
        child.wait()
        print(peer.segment.path, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    path = Path(done.stdout.strip())
    try:
        found = remains_of_segment(path)
        assert [record.fields["n"] for record in found.records() if record.kind == "event"] == list(range(1000))
        assert [span.name for span in found.open_spans] == ["job"]
        wait_until(lambda: not remains_of_segment(path).is_live)
    finally:
        shutil.rmtree(path.parent)
