"""Directives that ask for spans, in a living process: what counts as being inside, and since when."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from unittest.mock import Mock

import pytest

import roam
from roam.errors import FilterError
from roam.tracing import emitter as emitters
from roam.tracing.filter import Filter
from roam.tracing.scope import Scope, active_scope
from tests import traced
from tests.hosting import arrived, in_process, messages
from tests.support import wait_until
from tests.test_filter import scope_of

tracer = roam.get_tracer("app")


def test_a_directive_asks_for_a_span_by_name_and_field():
    """Inside of such a span, however far inside, everything comes; nowhere else."""
    with in_process(roam.TracingConfig("warn,[request{user=7}]=debug")) as (_, cell):
        for user in (7, 8):
            with tracer.span("request", user=user):
                tracer.debug(f"of {user}")
                with tracer.span("inner"):
                    tracer.debug(f"deeper in {user}")
                    roam.get_tracer("lib").debug(f"of another target in {user}")
        tracer.debug("outside")
        tracer.warning("worse")
        records = arrived(cell)

    assert messages(records) == ["of 7", "deeper in 7", "of another target in 7", "worse"]
    assert messages(records, "span_enter") == ["request", "inner"]


def test_logging_in_a_cell_is_judged_by_its_span(tmp_path):
    """A plain `logging` call at DEBUG arrives from inside of the span that is asked for, and from nowhere else."""
    config = roam.TracingConfig("warn,[request{user=7}]=debug")
    with roam.TracingHost(config, dump_dir=tmp_path, forward=False) as host:
        cell = roam.spawn_cell(traced.log_in_requests, [6, 7, 8], host=host)
        assert cell.join(30) is not None
        records = list(cell.records())

    assert [record.message for record in records if record.target == "lib"] == ["of 7"]


# r[verify trace.filter.inside]
def test_a_span_that_was_open_before_is_asked_for_as_well():
    """A configuration that comes while a span is open, which nothing had asked for when it was opened, finds it."""
    with in_process(roam.TracingConfig("warn")) as (_, cell), tracer.span("request", user=7), tracer.span("inner"):
        tracer.debug("before")
        assert not cell.set_config(roam.TracingConfig("warn,[request{user=7}]=debug"), timeout=0.0)
        tracer.debug("after")
        assert not cell.set_config(roam.TracingConfig("warn,[request{user=8}]=debug"), timeout=0.0)
        tracer.debug("of somebody else")
        records = arrived(cell)

    assert messages(records) == ["after"]


def test_recorded_fields_count():
    """What `record` adds or replaces is what the directives see from then on."""
    with (
        in_process(roam.TracingConfig("warn,[job{state=late}]=debug")) as (_, cell),
        tracer.span("job", state="early") as job,
    ):
        tracer.debug("before")
        job.record(state="late")
        tracer.debug("after")
        records = arrived(cell)

    assert messages(records) == ["after"]


def test_records_inside_of_a_silenced_span_belong_to_the_one_around_it():
    """A span that is not written leaves no hole between its records and what is."""
    lib = roam.get_tracer("lib")
    with in_process(roam.TracingConfig("info,lib=warn")) as (_, cell):
        with tracer.span("outer") as outer, lib.span("silenced"):
            tracer.info("inside")
            with tracer.span("below"):
                pass
        records = arrived(cell)
        span_id = outer.span_id

    found = {(record.kind, record.message): record for record in records}
    assert ("span_enter", "silenced") not in found
    assert found["event", "inside"].span_id == span_id
    assert found["span_enter", "below"].parent_id == span_id


def test_a_silenced_generator_leaves_its_span_at_every_yield():
    """Between two steps of an instrumented generator its span is not the active one, written or not."""

    @roam.instrument
    def steps():
        tracer.debug("in")
        yield
        tracer.debug("in again")

    with in_process(roam.TracingConfig(f'warn,["{steps.__qualname__}"]=off,app=off')) as (_, cell):
        walk = steps()
        next(walk)
        assert active_scope.get() is None
        list(walk)
        assert active_scope.get() is None
        cell.set_config(roam.TracingConfig("off,[]=debug"), timeout=0.0)
        walk = steps()
        next(walk)
        tracer.debug("between")
        list(walk)
        records = arrived(cell)

    assert messages(records) == ["in", "in again"]


# r[verify trace.filter.inside]
def test_judging_calls_no_code_of_a_value():
    """A field may be of a type that lies, raises, or takes its time: only plain values are compared."""

    class Trap(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            raise AssertionError("asked")

        def __class_getitem__(cls, item):
            raise AssertionError("asked")

    class Anything:
        def __eq__(self, other):
            raise AssertionError("asked")

        def __bool__(self):
            raise AssertionError("asked")

        __hash__ = None

    found = Filter("[a{x=yes}]=debug,[b{x=1}]=debug,[c{x=true}]=debug,[d{x}]=debug")
    for name in "abc":
        assert not found.admits(50, "app", scope_of((name, {"x": Anything()})))
    assert found.admits(10, "app", scope_of(("a", {"x": Trap("yes")})))
    assert found.admits(10, "app", scope_of(("d", {"x": Anything()})))


def test_only_a_cell_can_be_asked_for_spans():
    """Subscribers and the forward level see records, not where they were made; that is said at the call."""
    with pytest.raises(FilterError, match="targets and levels only") as caught:
        roam.TracingConfig("trace", forward="info,[slow]=debug")
    assert caught.value.column == 6
    with in_process() as (host, _), pytest.raises(FilterError, match="capture"):
        host.subscribe("[slow]=debug")


def test_tasks_that_start_one_another_inside_of_their_spans_keep_nothing_of_the_past():
    """Each task opens a span and starts the next before it ends: what is kept does not grow with their number."""

    async def relay(left):
        with tracer.span("turn", number=left):
            await asyncio.sleep(0)
            following = asyncio.create_task(relay(left - 1)) if left else None
            tracer.info("turn")
        return following

    async def run():
        following, most = asyncio.create_task(relay(200)), 0
        while following is not None:
            following = await following
            gc.collect()
            most = max(most, sum(isinstance(one, Scope) for one in gc.get_objects()))
        return most

    with in_process(roam.TracingConfig("info")) as (_, cell):
        before = sum(isinstance(one, Scope) for one in gc.get_objects())
        most = asyncio.run(run())
        arrived(cell)
    assert most - before < 8


def test_what_has_ended_is_no_scope_any_more():
    """A thread that goes on in a copied context after the span's end is outside of it, and still in the outer one."""
    with in_process(roam.TracingConfig("off,[inner]=debug,[outer]=info")) as (_, cell):
        with tracer.span("outer"):
            with tracer.span("inner"):
                copied = contextvars.copy_context()
                tracer.debug("inside")
            late = threading.Thread(target=copied.run, args=(tracer.debug, "too late"))
            late.start()
            late.join()
            late = threading.Thread(target=copied.run, args=(tracer.info, "in the outer one"))
            late.start()
            late.join()
        records = arrived(cell)

    assert messages(records) == ["inside", "in the outer one"]


def test_an_ended_span_lets_go_of_its_emitter():
    """A context that outlives a span keeps neither the segment nor the fields alive."""
    with in_process(roam.TracingConfig("info")):
        with tracer.span("job", load=[1]) as job:
            copied = contextvars.copy_context()
        assert emitters.current_emitter() is not None
        assert (job._emitter, job.fields, job.recorded) == (None, {}, {})
        assert copied[active_scope] is job


def test_no_value_is_asked_for_its_class_and_no_name_whether_it_is_equal():
    """Mocks, lazy proxies, and names of a type of their own: nothing of theirs runs, and nothing raises."""

    class Proxy:
        @property
        def __class__(self):
            raise AssertionError("asked")

    class Name(str):
        __slots__ = ()

        def __eq__(self, other):
            raise AssertionError("asked")

        def __hash__(self):
            raise AssertionError("asked")

    config = roam.TracingConfig("warn,[job{x=yes}]=debug,[job{x=1}]=debug,[job{x=0.5}]=debug,[other]=debug")
    with in_process(config) as (_, cell):
        for value in (Mock(spec=str), Mock(spec=int), Mock(spec=float), Proxy()):
            with tracer.span("job", x=value):
                tracer.debug("never")
        with tracer.span(Name("other")):
            tracer.debug("inside")
        records = arrived(cell)
    assert messages(records) == ["inside"]


def test_deep_and_broken_nesting_is_walked_without_recursion():
    """A thousand contexts, of which every other span has ended."""
    with in_process(roam.TracingConfig("info")) as (_, cell):
        context = contextvars.copy_context()
        for _ in range(1500):
            ended = tracer.span("ended")
            context.run(ended.__enter__)
            copied = context.copy()
            context.run(tracer.span("open").__enter__)
            inner = context.copy()
            copied.run(ended.__exit__, None, None, None)
            context = inner
        context.run(tracer.info, "deep down")
        wait_until(lambda: "deep down" in messages(cell.records(last=1)))
