"""One suite for both kinds of stream: over a ring in shared memory, and in process; and the ring between processes."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import roam
from roam.errors import NoSpace, SegmentCorrupt, SegmentTaken
from roam.shm import stream as streams
from roam.shm.layout import BULK, PAGE_HEAD_BYTES, Geometry, SegmentConfig
from roam.shm.stream import STREAM_CONFIG, QueueRx, QueueTx, open_stream, queue_stream
from tests import traced
from tests.support import wait_until

SMALL = SegmentConfig(page_bytes=1024, record_bytes=256, life_pages=2, vital_pages=2, bulk_pages=2, span_slots=1)


@contextmanager
def ring(directory, config=SMALL):
    """A stream of numbers over a ring."""
    with open_stream(directory, encode=traced.encode_number, decode=traced.decode_number, config=config) as stream:
        yield stream.tx, stream.rx


@contextmanager
def queue(_, config=SMALL):
    """A stream of numbers in process, about as large."""
    yield queue_stream(60 if config is SMALL else 10_000)


@pytest.fixture(params=[ring, queue], ids=["ring", "queue"])
def make(request, tmp_path):
    """A function that makes a stream of either kind: its two ends."""
    return lambda config=SMALL: request.param(tmp_path, config)


# What both promise


def test_items_arrive_in_order_and_once(make):
    """Everything that was taken, nothing else, nothing twice."""
    with make() as (tx, rx):
        sent = [number for number in range(20) if tx.send(number)]
        assert sent == list(range(20))
        assert [rx.get(0) for _ in range(20)] == sent
        assert rx.get(0) is None
        assert rx.lost == 0


def test_a_full_stream_refuses_and_loses_nothing(make):
    """`send` says no at once, or after its timeout; every item it said yes to arrives; then there is room again."""
    # r[verify shm.stream.credit]
    with make() as (tx, rx):
        sent = []
        for _ in range(3):
            number = 0
            while tx.send(number):
                sent.append(number)
                number += 1
                assert number < 10_000
            assert not tx.send(-1)
            before = time.monotonic()
            assert not tx.send(-1, 0.05)
            assert time.monotonic() - before >= 0.05
            got = []
            while (item := rx.get(0)) is not None:
                got.append(item)
            assert got == sent
            assert len(got) > 10
            sent = []


def test_a_sender_waits_for_room(make):
    """Within its timeout, a slow receiver is enough."""
    count = 500
    with make() as (tx, rx):
        taken = []

        def send():
            taken.extend(tx.send(number, 20.0) for number in range(count))
            tx.close()

        sender = threading.Thread(target=send)
        sender.start()
        assert list(rx) == list(range(count))
        sender.join()
        assert all(taken)
        assert rx.lost == 0


def test_an_ended_stream_delivers_what_it_holds_and_then_ends(make):
    """For `get` and for iteration, now and ever after."""
    with make() as (tx, rx):
        for number in range(5):
            assert tx.send(number)
        tx.close()
        tx.close()
        assert rx.get() == 0
        assert list(rx) == [1, 2, 3, 4]
        assert list(rx) == []
        assert rx.get() is None
        assert rx.get(5) is None


def test_an_ended_stream_takes_nothing(make):
    """Sending after the end is misuse, whether anything was sent before or not."""
    for count in (0, 1):
        with make() as (tx, rx):
            for number in range(count):
                assert tx.send(number)
            tx.close()
            with pytest.raises(RuntimeError, match="closed"):
                tx.send(5)
            assert list(rx) == list(range(count))


def test_the_end_wakes_a_receiver(make):
    """One that waits without a timeout."""
    with make() as (tx, rx):
        found = []
        receiver = threading.Thread(target=lambda: found.append(rx.get()))
        receiver.start()
        tx.close()
        receiver.join(20)
        assert not receiver.is_alive()
        assert found == [None]


def test_a_timeout_of_a_receiver_is_kept(make):
    """It waits as long as it may, and gets what comes meanwhile."""
    with make() as (tx, rx):
        before = time.monotonic()
        assert rx.get(0.05) is None
        assert time.monotonic() - before >= 0.05
        threading.Timer(0.05, tx.send, (7,)).start()
        assert rx.get(20) == 7


def test_ends_are_shared_by_threads(make):
    """Several senders and receivers: each item goes to one receiver."""
    count, senders = 400, 3
    with make() as (tx, rx):
        found: list[list[int]] = [[], []]
        receivers = [threading.Thread(target=lambda into=into: into.extend(rx)) for into in found]
        threads = [
            threading.Thread(target=lambda base=base: [tx.send(base + n, 20.0) for n in range(count)])
            for base in range(0, senders * 1000, 1000)
        ]
        for thread in [*receivers, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        tx.close()
        for receiver in receivers:
            receiver.join(20)
        expected = [base + n for base in range(0, senders * 1000, 1000) for n in range(count)]
        assert sorted(found[0] + found[1]) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.integers(1, 40) | st.none(), max_size=30))
def test_a_stream_is_a_bounded_queue(make, steps):
    """Against a plain model: a number sends as many, None receives all there is."""
    with make() as (tx, rx):
        model, number = [], 0
        for step in steps:
            if step is None:
                assert [rx.get(0) for _ in model] == model
                assert rx.get(0) is None
                model = []
            else:
                for _ in range(step):
                    if tx.send(number):
                        model.append(number)
                    number += 1
        tx.close()
        assert list(rx) == model


# In process


def test_a_sender_that_waits_when_the_stream_ends_is_told():
    """It does not put an item where nobody looks any more."""
    tx, rx = queue_stream(1)
    assert tx.send(1)
    failures = []

    def send():
        try:
            tx.send(2, 20.0)
        except RuntimeError as error:
            failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    wait_until(lambda: len(tx._queue.changed._waiters) == 1)
    tx.close()
    sender.join(20)
    assert len(failures) == 1
    assert list(rx) == [1]
    assert (type(tx), type(rx)) == (QueueTx, QueueRx)


def test_a_queue_holds_at_least_one_item():
    """Less is misuse."""
    with pytest.raises(ValueError, match="capacity=0"):
        queue_stream(0)


# Over a ring


def test_an_item_that_no_record_holds_is_misuse(tmp_path):
    """It is said at once, with both sizes, and nothing is sent; one that just fits, fits."""
    with open_stream(tmp_path, encode=bytes, decode=bytes, config=SMALL) as stream:
        with pytest.raises(ValueError, match=r"257 bytes.*256"):
            stream.tx.send(b"x" * 257, 20.0)
        assert stream.tx.send(b"x" * 256)
        assert stream.rx.get(0) == b"x" * 256


def test_an_encoder_that_raises_sends_nothing(tmp_path):
    """Its error comes out; the stream is as before."""
    with open_stream(tmp_path, encode=bytes, decode=bytes, config=SMALL) as stream:
        with pytest.raises(TypeError):
            stream.tx.send("text")
        assert stream.tx.send(b"fine")
        assert stream.rx.get(0) == b"fine"


def test_what_does_not_decode_is_counted_and_left_out(tmp_path):
    """The rest arrives."""
    with open_stream(tmp_path, encode=bytes, decode=traced.decode_number, config=SMALL) as stream:
        for item in (b"1", b"x", b"2", b"y"):
            assert stream.tx.send(item)
        stream.tx.close()
        assert list(stream.rx) == [1, 2]
        assert stream.rx.lost == 2


@pytest.mark.parametrize("ended", [True, False])
def test_damaged_items_are_counted_and_left_out(tmp_path, ended):
    """Of a stream that goes on, and of one that has ended: what is behind the damage still arrives."""
    with ring(tmp_path) as (tx, rx):
        for number in range(8):
            assert tx.send(number)
        if ended:
            tx.close()
        (path,) = tmp_path.glob("*.segment")
        with open(path, "r+b") as file:
            file.seek(Geometry(SMALL).lane_offsets[BULK] + PAGE_HEAD_BYTES + 2 * 24 + 16)
            file.write(b"\xff")
        assert [rx.get(20) for _ in range(7)] == [0, 1, 3, 4, 5, 6, 7]
        assert rx.lost == 1
        assert not ended or list(rx) == []


def test_one_process_sends(tmp_path):
    """A second end, by pickling, and a forked child of the sender, are refused; the first goes on."""
    with ring(tmp_path) as (tx, rx):
        assert tx.send(1)
        second = pickle.loads(pickle.dumps(tx))
        with pytest.raises(SegmentTaken):
            second.send(2)
        second.close()
        pid = os.fork()
        if pid == 0:
            try:
                tx.send(3)
            except SegmentTaken:
                tx.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert tx.send(4)
        assert [rx.get(0), rx.get(0), rx.get(0)] == [1, 4, None]


def test_a_stream_leaves_nothing(tmp_path):
    """The segment goes with the block, whatever the ends do before or afterwards."""
    with ring(tmp_path) as (tx, rx):
        assert len(list(tmp_path.iterdir())) == 1
        tx.send(1)
        assert rx.get(0) == 1
        tx.send(2)
    assert list(tmp_path.iterdir()) == []
    assert list(rx) == []
    tx.send(3)
    tx.close()
    with ring(tmp_path) as (tx, rx):
        pass
    tx.close()
    assert list(rx) == []
    with pytest.raises(RuntimeError):
        tx.send(1)
    with ring(tmp_path) as (tx, _):
        pass
    with pytest.raises(OSError):
        tx.send(1)


def test_a_receiver_of_another_stream_is_refused(tmp_path):
    """A path that leads to a segment with another nonce is not the stream."""
    with ring(tmp_path) as (_, rx):
        rx._nonce = b"x" * 16
        with pytest.raises(SegmentCorrupt, match="nonce"):
            rx.get(0)


def test_no_room_is_said(tmp_path, monkeypatch):
    """Where the segment does not fit, the sizes are named and nothing is left behind."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(NoSpace) as caught:
        open_stream(tmp_path, encode=bytes, decode=bytes)
    assert caught.value.needed_bytes == Geometry(STREAM_CONFIG).total_bytes
    assert list(tmp_path.iterdir()) == []


# Between processes


@pytest.fixture
def host():
    """A host whose cells have the other ends."""
    with roam.TracingHost(forward=False) as host:
        yield host


def test_a_cell_sends(tmp_path, host):
    """What it sent before its end arrives after it, and the stream ends."""
    with ring(tmp_path, STREAM_CONFIG) as (tx, rx):
        cell = roam.spawn_cell(traced.send_numbers, tx, 2000, 20.0, host=host, start_method="spawn")
        assert list(rx) == list(range(2000))
        assert cell.result(30) == 2000
        assert rx.lost == 0


def test_a_cell_receives(tmp_path, host):
    """Everything, in order, through a ring that is much smaller."""
    with ring(tmp_path) as (tx, rx):
        cell = roam.spawn_cell(traced.receive_all, rx, host=host, start_method="spawn")
        for number in range(1000):
            assert tx.send(number, 20.0)
        tx.close()
        assert cell.result(30) == list(range(1000))


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_stream_whose_sender_is_gone_has_ended(tmp_path, host, how):
    """Nobody waits for ever for what nobody will send; what was sent arrives."""
    with ring(tmp_path, STREAM_CONFIG) as (tx, rx):
        if how == "exit":
            cell = roam.spawn_cell(traced.send_and_die, tx, 100, host=host, start_method="spawn")
        else:
            cell = roam.spawn_cell(traced.send_numbers, tx, 10**9, 1000.0, host=host, start_method="spawn")
            found = [rx.get(20) for _ in range(100)]
            os.kill(cell.pid, signal.SIGKILL)
            found += rx
        if how == "exit":
            found = list(rx)
            assert len(found) == 100
        assert found == list(range(len(found)))
        assert rx.get() is None
        assert cell.join(30) is not None


def test_a_sender_that_is_busy_elsewhere_has_not_ended(tmp_path, monkeypatch):
    """Its process lives, so the stream does; also when its number would fit another process."""
    monkeypatch.setattr(streams, "_SENDER_CHECK_S", 0.0)
    with ring(tmp_path) as (tx, rx):
        assert rx.get(0.02) is None
        tx.send(1)
        assert rx.get(0) == 1
        assert rx.get(0.02) is None
        tx.send(2)
        assert rx.get(0) == 2
        assert rx._sender[0] == os.getpid()
        rx._sender = (os.getpid(), 1)
        assert rx.get() is None
