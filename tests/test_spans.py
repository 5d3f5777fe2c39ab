"""Spans: who their parents are, what they write, and that `instrument` changes nothing but that."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import signal
import sys
import threading

import pytest

import roam
from roam.tracing.scope import active_scope
from tests.hosting import arrived, in_process, messages
from tests.support import wait_until


def shape(records):
    """`(kind, message)` of each record."""
    return [(record.kind, record.message) for record in records]


def enters(records):
    """The first `SpanEnter` of each name."""
    found = {}
    for record in records:
        if record.kind == "span_enter":
            found.setdefault(record.message, record)
    return found


def test_a_span_writes_its_beginning_and_its_end():
    """Enter has the fields; close has duration, what was recorded, and no exception; both have the same ids."""
    with in_process() as (_, cell):
        with roam.span("resize", width=3) as span:
            roam.info("inside")
            span.record(ok=True)
            span.record(ok=False, bytes=9)
        roam.info("outside")
        enter, inside, close, outside = arrived(cell, 4)

    assert (enter.kind, enter.message, enter.fields, enter.level) == ("span_enter", "resize", {"width": 3}, 20)
    assert (close.kind, close.message, close.fields, close.exception) == (
        "span_close",
        "resize",
        {"ok": False, "bytes": 9},
        None,
    )
    assert enter.target == close.target == __name__
    assert enter.span_id == close.span_id == inside.span_id != outside.span_id
    # It is outermost, and begins a trace.
    assert enter.parent_id is close.parent_id is None
    assert enter.trace_id == close.trace_id == inside.trace_id != outside.trace_id
    assert 0 < close.duration_ns <= close.time_ns - enter.time_ns + 10**9
    assert span.name == "resize"


def test_spans_nest():
    """Each span is the child of the one it was entered in, siblings have the same parent."""
    with in_process() as (_, cell):
        with roam.span("a"):
            with roam.span("b"), roam.span("c"):
                pass
            with roam.span("d"):
                assert [span.name for span in cell.open_spans()] == ["a", "d"]
        assert cell.open_spans() == []
        found = enters(arrived(cell, 8))

    assert found["b"].parent_id == found["d"].parent_id == found["a"].span_id
    assert found["c"].parent_id == found["b"].span_id
    assert len({record.span_id for record in found.values()}) == 4


def test_the_exception_that_ends_a_span_is_in_its_close():
    """Type and message, and the exception goes on."""
    with in_process() as (_, cell):
        with pytest.raises(ValueError, match="boom"), roam.span("bad") as span:  # noqa: PT012 -- the span is what ends
            span.record(step=2)
            raise ValueError("boom")
        close = arrived(cell, 2)[-1]

    assert (close.kind, close.fields) == ("span_close", {"step": 2})
    assert (close.exception.type, close.exception.message) == ("ValueError", "boom")


@pytest.mark.parametrize("traced", [True, False])
def test_a_span_is_entered_once(traced):
    """Entering again, inside or afterwards, raises, whether anybody traces or not; the span that is open stays sound."""

    def misuse():
        span = roam.span("once")
        with span:
            with pytest.raises(RuntimeError, match="once"):
                span.__enter__()
            roam.info("inside")
        with pytest.raises(RuntimeError, match="make a new one"), span:
            pass

    if not traced:
        misuse()
        return
    with in_process() as (_, cell):
        misuse()
        assert shape(arrived(cell, 3)) == [("span_enter", "once"), ("event", "inside"), ("span_close", "once")]
        assert active_scope.get() is None


def test_a_span_that_the_filter_hides_does_nothing():
    """Its records belong to the span around it."""
    with in_process(roam.TracingConfig("info,app.noisy=warn")) as (_, cell):
        with roam.get_tracer("app").span("shown"), roam.get_tracer("app.noisy").span("hidden") as hidden:
            hidden.record(a=1)
            roam.info("inside")
        found = arrived(cell, 3)

    assert shape(found) == [("span_enter", "shown"), ("event", "inside"), ("span_close", "shown")]
    assert found[1].span_id == found[0].span_id


def test_tasks_inherit_the_span_they_were_started_in():
    """Tasks run side by side, each in its own spans, children of where they were created."""

    async def work(name):
        with roam.span(name):
            await asyncio.sleep(0)
            with roam.span(f"{name}.inner"):
                await asyncio.sleep(0)
                roam.info(name)

    async def main():
        with roam.span("all"):
            tasks = [asyncio.create_task(work(f"task{number}")) for number in range(5)]
        # The span has ended; the tasks still belong to it.
        await asyncio.gather(*tasks)

    with in_process() as (_, cell):
        asyncio.run(main())
        records = arrived(cell, 27)
    found = enters(records)

    for number in range(5):
        assert found[f"task{number}"].parent_id == found["all"].span_id
        assert found[f"task{number}.inner"].parent_id == found[f"task{number}"].span_id
        (event,) = [r for r in records if r.kind == "event" and r.message == f"task{number}"]
        assert event.span_id == found[f"task{number}.inner"].span_id


def test_threads_begin_without_a_span_unless_they_are_given_a_context():
    """A new thread is outside of all spans; one that runs in a copied context is inside."""

    def work(name):
        with roam.span(name):
            roam.info(name)

    with in_process() as (_, cell):
        with roam.span("main"):
            plain = threading.Thread(target=work, args=("plain",))
            copied = threading.Thread(target=contextvars.copy_context().run, args=(work, "copied"))
            for thread in (plain, copied):
                thread.start()
                thread.join()
            roam.info("still in main")
        roam.info("outside")
        records = arrived(cell, 10)
    found = enters(records)

    assert found["copied"].parent_id == found["main"].span_id
    assert found["plain"].parent_id is None
    assert found["plain"].trace_id != found["main"].trace_id
    assert records[-3].span_id == found["main"].span_id
    assert found["main"].thread not in {found["plain"].thread, found["copied"].thread}


def test_a_span_left_in_another_context_leaves_that_one_alone():
    """The end of a span, in a context that it was not entered in, changes nothing there but itself."""
    with in_process() as (_, cell):
        span = roam.span("first")
        inside = contextvars.copy_context()
        inside.run(span.__enter__)
        copy = inside.run(contextvars.copy_context)
        with roam.span("mine") as mine:
            span.__exit__(None, None, None)
            roam.info("x")
        # A context that was copied inside of the span gets its outer one back, if the span ends there.
        other = roam.span("second")
        copy.run(other.__enter__)
        deeper = copy.run(contextvars.copy_context)
        deeper.run(other.__exit__, None, None, None)
        deeper.run(roam.info, "y")
        records = {(record.kind, record.message): record for record in arrived(cell, 8)}
        assert active_scope.get() is None
        assert cell.open_spans() == []
        assert mine.name == "mine"

    assert records["event", "x"].span_id == records["span_enter", "mine"].span_id
    assert records["event", "y"].span_id == records["span_enter", "first"].span_id


def test_fields_recorded_from_other_threads_all_arrive():
    """`record` may be called from any thread while the span is open."""
    with in_process() as (_, cell):
        with roam.span("shared") as span:
            threads = [
                threading.Thread(
                    target=lambda name: [span.record(**{name: n}) for n in range(200)], args=(f"t{number}",)
                )
                for number in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            (open_span,) = cell.open_spans()
        close = arrived(cell, 2)[-1]

    assert close.fields == open_span.fields == {"t0": 199, "t1": 199, "t2": 199}


def test_an_open_span_is_known_with_its_fields_and_age():
    """What a death would find: name, target, fields of both kinds, parent, thread, start; cut to a slot."""
    with in_process() as (_, cell), roam.span("outer", size=1) as outer:
        outer.record(state="half")
        with roam.get_tracer("app").span("inner", text="x" * 100_000):
            first, second = cell.open_spans()
            enter = wait_until(lambda: [r for r in cell.records() if r.message == "outer"])[0]

    assert (first.name, first.target, first.fields) == ("outer", __name__, {"size": 1, "state": "half"})
    assert (first.span_id, first.parent_id, first.trace_id) == (enter.span_id, enter.parent_id, enter.trace_id)
    assert (first.thread, second.parent_id) == (threading.get_ident(), first.span_id)
    assert abs(first.started_ns - enter.time_ns) < 10**9
    assert first.age_ns > 0
    assert second.target == "app"
    assert 100 < len(second.fields["text"]) < 500


def test_more_open_spans_than_slots_are_counted():
    """Records are written all the same; the table says how many it could not take."""
    config = roam.SegmentConfig(span_slots=4)
    with in_process(segment=config) as (_, cell):
        spans = [roam.span(f"s{number}") for number in range(7)]
        for span in spans:
            span.__enter__()
        assert [span.name for span in cell.open_spans()] == ["s0", "s1", "s2", "s3"]
        assert cell.statistics().spans_overflowed == 3
        for span in reversed(spans):
            span.record(late=1)
            span.__exit__(None, None, None)
        assert cell.open_spans() == []
        assert len(arrived(cell, 14)) == 14
        with roam.span("again"):
            assert [span.name for span in cell.open_spans()] == ["again"]


def test_a_signal_handler_that_raises_on_the_way_in_leaves_no_span_open():
    """There will be no exit, so the slot and the context are given back."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with in_process() as (_, cell):

            class Trap:
                def __repr__(self):
                    signal.raise_signal(signal.SIGUSR1)
                    return ""

            with pytest.raises(KeyboardInterrupt), roam.span("trap", x=Trap()):
                pass
            assert active_scope.get() is None
            assert cell.open_spans() == []
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_spans_at_the_recursion_limit_do_not_change_what_the_program_sees():
    """A program that recurses without end gets its own RecursionError, and all its spans are closed."""

    def descend(depth):
        with roam.span("level"):
            return descend(depth + 1)

    with in_process(roam.TracingConfig("info")) as (_, cell):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(len(inspect.stack(0)) + 180)
        try:
            with pytest.raises(RecursionError):
                descend(0)
        finally:
            sys.setrecursionlimit(limit)
        assert active_scope.get() is None
        assert cell.open_spans() == []
        roam.info("goes on")
        assert messages(arrived(cell))[-1] == "goes on"
