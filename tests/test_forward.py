"""Forwarding: the host's own logging prints what its cells logged, as if it had happened here."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager

import pytest

import roam
from roam.tracing import hooks
from roam.tracing.forward import lowest_level_in_use
from roam.tracing.host import TracingHost
from roam.tracing.records import Event, Lost, Peer, TaggedRecord
from tests import traced
from tests.hosting import arrived, in_process
from tests.support import run_script, wait_until

PEER = Peer(3, 1, "worker", 4711)


class Keeping(logging.Handler):
    """Keeps the records that it gets, and what a formatter makes of them."""

    def __init__(self, level=0):
        super().__init__(level)
        self.records = []
        self.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s"))

    def emit(self, record):
        self.records.append((record, self.format(record)))


@contextmanager
def logger_with(handler, name="app", level=logging.DEBUG):
    """A logger of the test's own that prints nowhere else."""
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.disabled = False
        logging.disable(logging.NOTSET)


def forwarded(handler, count):
    """The first records that came, once there are so many."""
    wait_until(lambda: len(handler.records) >= count)
    return [record for record, _ in handler.records]


def test_a_record_is_the_same_record_in_the_hosts_logging():
    """Logger name, level, time, thread, fields, process and peer are those of the cell."""
    handler = Keeping()
    with logger_with(handler), in_process(roam.TracingConfig("trace"), name="worker", forward=True) as (host, cell):
        roam.get_tracer("app.db").warning("50% of %s", size=3, name="field", args="x", message="m", exc_info=None)
        (record,) = forwarded(handler, 1)
        (source,) = arrived(cell, 1)

    assert (record.name, record.levelno, record.levelname) == ("app.db", 30, "WARNING")
    assert record.getMessage() == "50% of %s"
    assert abs(record.created - source.time_ns / 1e9) < 1e-6
    assert int(record.msecs) == source.time_ns // 10**6 % 1000
    assert (record.thread, record.process, record.processName) == (source.thread, host.pid, "worker")
    assert record.roam_peer == cell.peer
    assert (record.size, record.args, record.exc_info, record.exc_text) == (3, None, None, None)
    assert handler.records[0][1] == "WARNING:app.db:50% of %s"


def test_the_text_of_an_exception_is_printed():
    """As the cell saw it, once."""
    handler = Keeping()
    with logger_with(handler), in_process(forward=True):
        try:
            raise KeyError("lost key")
        except KeyError:
            roam.get_tracer("app").error("failed", exc_info=True)
        forwarded(handler, 1)

    lines = handler.records[0][1].splitlines()
    assert lines[:2] == ["ERROR:app:failed", "Traceback (most recent call last):"]
    assert lines[-1] == "KeyError: 'lost key'"
    assert handler.records[0][1].count("Traceback") == 1


def test_levels_have_their_names():
    """Those of the standard library and of the program; TRACE, which neither knows."""
    handler = Keeping()
    with logger_with(handler, level=1), in_process(roam.TracingConfig("trace"), forward=True):
        for level in (5, 10, 33, 50):
            roam.get_tracer("app").event(level, "x")
        found = [record.levelname for record in forwarded(handler, 4)]

    assert found == ["TRACE", "DEBUG", "Level 33", "CRITICAL"]


def test_spans_are_not_lines():
    """Events and notices of loss are forwarded; spans are for subscribers."""
    handler = Keeping()
    with logger_with(handler), logger_with(handler, "roam"), in_process(forward=True) as (host, _):
        with roam.get_tracer("app").span("work"):
            roam.get_tracer("app").info("inside")
        forwarded(handler, 1)
        host._fan_out._forwarder.offer([TaggedRecord(PEER, Lost("bulk", 5, 2, "overwritten", 1))])
        forwarded(handler, 2)

    assert [text for _, text in handler.records] == [
        "INFO:app:inside",
        "WARNING:roam:2 records of lane bulk lost: overwritten",
    ]


def test_the_programs_levels_decide_what_is_handed_over():
    """Live: a logger's level, a disabled logger, `logging.disable`; what no logger wants is not even decoded."""
    handler = Keeping()
    tracer = roam.get_tracer("app.x")
    with (
        logger_with(handler, level=logging.WARNING) as logger,
        in_process(roam.TracingConfig("trace"), forward=True) as (
            host,
            cell,
        ),
    ):

        def tell(message):
            tracer.debug(f"debug {message}")
            tracer.error(f"error {message}")
            arrived(cell)
            # Asked after the collection, so it is behind the delivery of what was collected before.
            with host.subscribe(replay=True):
                assert host.flush_forwarding()

        tell(1)
        logger.setLevel(logging.DEBUG)
        assert lowest_level_in_use() <= logging.DEBUG
        tell(2)
        logging.disable(logging.ERROR)
        assert lowest_level_in_use() == logging.ERROR + 1
        tell(3)
        logging.disable(logging.NOTSET)
        logging.getLogger("app.x").disabled = True
        tell(4)
        logging.getLogger("app.x").disabled = False
        tell(5)
        offered = host.statistics().forwarding.offered

    found = [record.message for record, _ in handler.records]
    assert found == ["error 1", "debug 2", "error 2", "debug 5", "error 5"]
    assert offered < 10


def test_the_root_logger_is_the_root_logger():
    """What a cell logs by `logging.warning` goes to the root logger here, under its name."""
    handler = Keeping(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with in_process(forward=True):
            roam.get_tracer("root").warning("hi")
            (record,) = forwarded(handler, 1)
    finally:
        logging.getLogger().removeHandler(handler)
    assert (record.name, record.getMessage()) == ("root", "hi")


def test_a_handler_that_raises_ends_nothing(monkeypatch):
    """Not even one that raises SystemExit, with a hook that raises too; the next record comes."""
    said = []

    def hook(kind, error, at):
        said.append(kind)
        raise RuntimeError("a hook of the program")

    monkeypatch.setattr(sys, "excepthook", hook)

    class Raising(Keeping):
        def handle(self, record):
            if record.getMessage() == "bad":
                raise SystemExit(3)
            return super().handle(record)

    handler = Raising()
    with logger_with(handler), in_process(forward=True) as (host, cell):
        for message in ("one", "bad", "two"):
            roam.get_tracer("app").info(message)
        found = [record.getMessage() for record in forwarded(handler, 2)]
        assert host.flush_forwarding()
        assert len(arrived(cell, 3)) == 3
    assert (found, said) == (["one", "two"], [SystemExit])


def test_a_stuck_handler_hurts_nobody():
    """Records are collected, kept and received meanwhile; a flush gives up in time; what waits is handed over later."""
    release, entered = threading.Event(), threading.Event()

    class Stuck(Keeping):
        def emit(self, record):
            entered.set()
            release.wait(30)
            super().emit(record)

    handler = Stuck()
    with logger_with(handler), in_process(forward=True) as (host, cell), host.subscribe(capacity=10_000) as records:
        for number in range(1000):
            roam.get_tracer("app").info("x", n=number)
        assert len(arrived(cell, 1000)) == 1000
        assert entered.wait(10)
        wait_until(lambda: records.statistics().offered == 1000)
        before = time.monotonic()
        assert not host.flush_forwarding(0.1)
        assert time.monotonic() - before >= 0.1
        release.set()
        assert host.flush_forwarding(30)
        assert [record.n for record, _ in handler.records] == list(range(1000))
        found = host.statistics().forwarding
        assert (found.offered, found.received, found.dropped_by_queue, found.queued) == (1000, 1000, 0, 0)


def test_what_does_not_fit_the_queue_is_dropped_and_counted(monkeypatch):
    """The queue in front of logging is bounded like a subscriber's; a flush does not wait for what was dropped."""
    monkeypatch.setattr("roam.tracing.forward.CAPACITY", 50)
    release = threading.Event()

    class Stuck(Keeping):
        def emit(self, record):
            release.wait(30)
            super().emit(record)

    handler = Stuck()
    with logger_with(handler), TracingHost() as host:
        forwarder = host._fan_out._forwarder
        entries = [TaggedRecord(PEER, Event(20, "app", str(n), {}, 1, b"s" * 8, b"t" * 16)) for n in range(300)]
        forwarder.offer(entries[:1])
        wait_until(lambda: forwarder.statistics().received == 1)
        forwarder.offer(entries[1:])
        found = host.statistics().forwarding
        assert (found.offered, found.dropped_by_queue, found.queued) == (300, 249, 50)
        release.set()
        assert host.flush_forwarding(30)
    assert [record.message for record, _ in handler.records] == ["0", *(str(n) for n in range(250, 300))]


def test_a_handler_may_ask_for_a_flush():
    """It would wait for itself: it gets False at once."""
    answers = []

    class Asking(Keeping):
        def emit(self, _):
            answers.append(host.flush_forwarding(30))

    with logger_with(Asking()), in_process(forward=True) as (host, _):
        roam.get_tracer("app").info("x")
        before = time.monotonic()
        wait_until(lambda: answers)
        assert time.monotonic() - before < 15
    assert answers == [False]


def test_closing_hands_over_what_waits():
    """Nothing that was collected is missing from the host's logging after the end."""
    handler = Keeping()
    with logger_with(handler), in_process(forward=True):
        for number in range(500):
            roam.get_tracer("app").info("x", n=number)
    assert [record.n for record, _ in handler.records] == list(range(500))


def test_a_join_comes_after_the_lines_of_the_cell():
    """When `join` returns, the host's logging was offered everything that the cell logged."""
    handler = Keeping()
    with logger_with(handler), roam.TracingHost() as host:
        cell = roam.spawn_cell(traced.emit, 200, host=host, start_method="spawn", name="worker")
        assert cell.join(30) is not None
        assert [record.n for record, _ in handler.records] == list(range(200))
        assert {record.process for record, _ in handler.records} == {cell.pid}


def test_a_host_that_forwards_nothing_does_not_touch_logging():
    """`forward=False` leaves the handlers alone, and a flush has nothing to wait for."""
    handler = Keeping()
    with logger_with(handler), in_process(forward=False) as (host, cell):
        roam.get_tracer("app").error("x")
        arrived(cell, 1)
        assert host.flush_forwarding(0)
        assert host.statistics().forwarding.offered == 0
    assert not handler.records


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_a_line_is_printed_once_and_in_the_hosts_format(level):
    """A program without handlers in its cell, and one handler in its host."""
    script = f"""if True:
        import logging, roam
        from roam.testing import InProcessCell
        from roam.tracing.host import TracingHost
        logging.basicConfig(format="%(levelname)s %(name)s %(processName)s %(message)s", level="{level}")
        with TracingHost() as host, InProcessCell(host, "worker"):
            roam.get_tracer("app").info("quiet")
            roam.get_tracer("app").error("loud")
    """
    expected = "ERROR app worker loud\n"
    assert run_script("-c", script).stderr == ("INFO app worker quiet\n" if level == "INFO" else "") + expected


def test_the_host_side_does_not_need_the_hooks_of_a_cell():
    """Forwarding wraps nothing in this process."""
    assert logging.Logger.handle is hooks._handle
