"""`roam.info` and its family, and tracers: what they write, and that they never get in the way."""

from __future__ import annotations

import _thread
import gc
import logging
import os
import pickle
import signal
import threading
from collections import Counter

import pytest

import roam
from roam.testing import InProcessCell
from roam.tracing import emitter as emitters
from roam.tracing.host import TracingHost
from roam.tracing.records import CRITICAL, DEBUG, ERROR, INFO, TRACE, WARNING
from roam.tracing.tracer import Tracer
from tests.hosting import arrived, holds, in_process, messages
from tests.support import run_script, wait_until

FAMILY = {
    "trace": TRACE,
    "debug": DEBUG,
    "info": INFO,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
}
TRACE_ALL = roam.TracingConfig("trace")


@pytest.mark.parametrize(("name", "level"), FAMILY.items())
def test_each_function_writes_its_level(name, level):
    """A record has the level, the caller's module or the tracer's target, the message, the fields, and the ids."""
    with in_process(TRACE_ALL) as (_, cell):
        getattr(roam, name)("of the module", n=1)
        getattr(roam.get_tracer("app.db"), name)("of a tracer", n=2)
        first, second = arrived(cell, 2)

    assert (first.kind, first.level, first.target, first.message, first.fields) == (
        "event",
        level,
        __name__,
        "of the module",
        {"n": 1},
    )
    assert (second.level, second.target, second.message, second.fields) == (level, "app.db", "of a tracer", {"n": 2})
    assert first.thread == threading.get_ident()
    assert (len(first.trace_id), len(first.span_id), first.parent_id) == (16, 8, None)
    assert (first.trace_id, first.span_id) == (second.trace_id, second.span_id)
    assert (first.lane, first.exception) == ("vital" if level >= WARNING else "bulk", None)


def test_any_level_can_be_written():
    """`event` takes numbers between the names; a level that is none becomes INFO, and the program goes on."""
    with in_process(TRACE_ALL) as (_, cell):
        for level in (0, 7, 33, 10**9, logging.ERROR):
            roam.event(level, "module")
            roam.get_tracer("app").event(level, "tracer")
        roam.event("loud", "module")
        roam.get_tracer("app").event(None, "tracer")
        found = [(record.message, record.level) for record in arrived(cell, 10)]

    assert found == [(message, level) for level in (7, 33, 2**15, 40) for message in ("module", "tracer")] + [
        ("module", 20),
        ("tracer", 20),
    ]


def test_every_keyword_is_a_field():
    """`message`, `level`, `name`, `self` and `target` are names of fields like any other."""
    fields = {"message": 1, "level": 2, "name": 3, "self": 4, "target": 5, "fields": 6}
    with in_process() as (_, cell):
        roam.info("text", **fields)
        roam.event(INFO, "text", **fields)
        roam.get_tracer("app").info("text", **fields)
        roam.get_tracer("app").event(INFO, "text", **fields)
        with roam.span("text", **fields) as span, roam.get_tracer("app").span("text", **fields):
            span.record(**fields)
        found = arrived(cell, 8)

    assert [record.fields for record in found if record.kind in ("event", "span_enter")] == [fields] * 6
    assert [record.fields for record in found if record.kind == "span_close"] == [{}, fields]
    for function in (roam.info, roam.get_tracer("app").info):
        with pytest.raises(TypeError):
            function(message="text")


def test_exc_info_means_what_it_means_in_logging():
    """True, 1, an exception, a tuple: the exception. False, 0, None, and no exception at hand: none."""
    error = ValueError("given")
    with in_process() as (_, cell):
        try:
            raise KeyError("handled")
        except KeyError as handled:
            for form in (True, 1, error, (KeyError, handled, handled.__traceback__), (None, None, None), (), False, 0):
                roam.info("form", exc_info=form)
            roam.get_tracer("app").error("form", exc_info=True)
        roam.info("form", exc_info=True)
        found = [record.exception for record in arrived(cell, 10)]

    types = [text.type if text is not None else None for text in found]
    assert types == ["KeyError", "KeyError", "ValueError", "KeyError", None, None, None, None, "KeyError", None]
    assert "test_exc_info_means" in found[0].traceback
    assert "exc_info" not in arrived(cell)[0].fields


def test_an_exception_that_is_false_is_one_all_the_same():
    """What an exception says of its truth, or raises when asked, does not matter."""

    class Falsy(Exception):
        def __bool__(self) -> bool:
            raise RuntimeError

    with in_process() as (_, cell):
        roam.error("bad", exc_info=Falsy("x"))
        assert arrived(cell, 1)[0].exception.message == "x"


# r[verify trace.lanes]
def test_exceptions_go_where_warnings_cannot_flood_them():
    """A record with an exception is in the life lane, whatever its level."""
    with in_process() as (_, cell):
        roam.info("bad", exc_info=ValueError())
        assert arrived(cell, 1)[0].lane == "life"


def test_nothing_happens_without_a_host():
    """In a process that is neither a host nor a cell nothing is evaluated, written or raised."""

    class Untouchable:
        def __repr__(self) -> str:
            raise AssertionError

    tracer = roam.get_tracer("app")
    for name in FAMILY:
        getattr(roam, name)(Untouchable(), x=Untouchable())
        getattr(tracer, name)(Untouchable(), x=Untouchable())
    roam.event("no level", Untouchable())
    with roam.span("a", x=Untouchable()) as span, tracer.span("b"):
        span.record(y=Untouchable())
    assert not tracer.is_enabled(CRITICAL)


# r[verify trace.fork.disowned]
def test_a_forked_child_traces_nothing():
    """A child that the program forks, here inside a span, writes nothing into the segment of its parent, which goes on."""
    with in_process() as (_, cell):
        span = roam.span("outer").__enter__()
        pid = os.fork()
        if not pid:
            roam.info("never seen")
            span.__exit__(None, None, None)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        # Looked at before the parent's next record could hide the child's.
        assert [record.kind for record in arrived(cell, 1)] == ["span_enter"]
        roam.info("after the fork")
        span.__exit__(None, None, None)

        assert [record.kind for record in arrived(cell, 3)] == ["span_enter", "event", "span_close"]


def test_what_is_filtered_out_is_not_looked_at():
    """Neither the message nor the fields of a record that nobody wants are touched."""

    class Counting:
        looks = 0

        def __str__(self) -> str:
            Counting.looks += 1
            return "text"

        __repr__ = __str__

    with in_process(roam.TracingConfig("info,app=off")) as (_, cell):
        roam.debug(Counting(), x=Counting())
        roam.get_tracer("app.db").critical(Counting(), x=Counting())
        assert Counting.looks == 0
        roam.info(Counting(), x=Counting())
        assert Counting.looks == 2
        assert messages(arrived(cell, 1)) == ["text"]


# r[verify trace.filter.early]
def test_below_every_level_neither_caller_nor_target_is_looked_at():
    """A call whose level no directive lets through anywhere asks for no threshold; one that some target has, does."""

    def call_all() -> None:
        roam.debug("module")
        roam.get_tracer("app").debug("tracer")

    def looked_up() -> set[str]:
        return {__name__, "app"} & emitters.current_emitter().thresholds.keys()

    with in_process(roam.TracingConfig("info,lib=warn,dill=info")) as (_, cell):
        call_all()
        assert looked_up() == set()
        cell.set_config(roam.TracingConfig("info,lib=debug"), timeout=0.0)
        call_all()
        assert looked_up() == {__name__, "app"}
        cell.set_config(roam.TracingConfig("info,lib[slow]=debug"), timeout=0.0)
        call_all()
        assert looked_up() == {__name__, "app"}
        cell.set_config(roam.TracingConfig("info,[slow]=debug"), timeout=0.0)
        with roam.get_tracer("off").span("slow"):
            call_all()
        cell.set_config(roam.TracingConfig(""), timeout=0.0)
        call_all()
        assert looked_up() == set()
        assert messages(arrived(cell)) == ["module", "tracer"]


def test_is_enabled_follows_the_filter():
    """A tracer knows whether a record of a level would be written."""
    with in_process(roam.TracingConfig("info,app=off")):
        assert [roam.get_tracer("app.x").is_enabled(level) for level in (INFO, CRITICAL)] == [False, False]
        assert [roam.get_tracer("other").is_enabled(level) for level in (DEBUG, INFO)] == [False, True]


def test_a_tracer_needs_a_name():
    """A target that is no string is misuse."""
    with pytest.raises(TypeError, match="dotted name"):
        roam.get_tracer(5)
    assert isinstance(roam.get_tracer("a"), Tracer)


def test_a_call_without_a_python_caller_is_written():
    """A thread's first call, and one at exit, have no module to name."""
    with in_process() as (_, cell):
        _thread.start_new_thread(roam.info, ("from nowhere",))
        (record,) = arrived(cell, 1)
        assert (record.target, record.message) == ("?", "from nowhere")
    script = """if True:
        import atexit, roam
        from roam.tracing.host import TracingHost
        host = TracingHost(forward=False)
        atexit.register(lambda: print(host.records()[0].record.message))
        atexit.register(host.close)
        atexit.register(roam.info, "at exit")
    """
    assert run_script("-c", script).stdout == "at exit\n"


def test_odd_module_names_do_no_harm():
    """Code run by `exec` may have any `__name__`, or none."""
    with in_process() as (_, cell):
        for name in ({}, {"__name__": None}, {"__name__": []}, {"__name__": 5}):
            exec("roam.info('x')\nwith roam.span('y'): pass", {"roam": roam, **name})
        assert messages(arrived(cell, 12)) == ["x"] * 4


def test_a_representation_that_raises_or_logs_is_no_obstacle():
    """User code in a record may raise, and may write records of its own, which come first."""

    class Bad:
        def __repr__(self) -> str:
            raise ValueError

    class Chatty:
        def __repr__(self) -> str:
            roam.info("inner")
            return "chatty"

    with in_process() as (_, cell):
        roam.info("outer", bad=Bad(), chatty=Chatty())
        inner, outer = arrived(cell, 2)

    assert (inner.message, outer.message) == ("inner", "outer")
    assert outer.fields == {"bad": "<repr failed: ValueError>", "chatty": "chatty"}


def test_records_from_signal_handlers_and_finalisers_arrive():
    """A nested call in the same thread neither deadlocks nor gets lost."""

    class Loud:
        def __del__(self) -> None:
            roam.info("finaliser")

    before = signal.signal(signal.SIGUSR1, lambda *_: roam.info("handler"))
    try:
        with in_process() as (_, cell):
            for number in range(300):
                junk = Loud()
                junk.self = junk
                del junk
                signal.raise_signal(signal.SIGUSR1)
                roam.info("plain", n=number)
                if number % 100 == 0:
                    gc.collect()
            gc.collect()
            found = Counter(messages(arrived(cell, 900)))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert found == {"plain": 300, "handler": 300, "finaliser": 300}


def test_threads_write_at_once():
    """Every record of every thread arrives once, in that thread's order, and time orders them as their sequence does."""
    threads, count = 4, 500

    def work(name: int) -> None:
        tracer = roam.get_tracer(f"worker.{name}")
        for number in range(count):
            tracer.event(INFO if number % 3 else WARNING, "step", n=number)

    with in_process() as (_, cell):
        workers = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found = arrived(cell, threads * count)

    for name in range(threads):
        assert [r.fields["n"] for r in found if r.target == f"worker.{name}"] == list(range(count))
    for lane in ("bulk", "vital"):
        sequences = [record.seq for record in found if record.lane == lane]
        assert sequences == list(range(len(sequences)))
    assert len({record.time_ns for record in found}) == len(found)


def test_what_does_not_fit_is_cut_and_flagged():
    """A megabyte of message becomes a record of a page, with its original length."""
    with in_process() as (_, cell):
        roam.info("x" * 1_000_000, y="z" * 500_000)
        (record,) = arrived(cell, 1)

    assert record.cuts == {"message": 1_000_000, "fields.y": 500_000}
    assert 100 < len(record.message) < 10_000


def test_the_host_traces_itself():
    """A host is peer 0, and finds its own records under its name, its id, and its peer."""
    with TracingHost(forward=False) as host:
        roam.info("hello")
        wait_until(lambda: host.records(cell=0))
        for how in (0, "host", host.peers[0]):
            assert messages(host.records(cell=how)) == ["hello"]
        assert holds(host.statistics().peers[0])


def test_the_second_host_takes_over_when_the_first_closes():
    """The tracing of a process is that of its oldest open host."""
    first = TracingHost(forward=False)
    with TracingHost(forward=False) as second:
        roam.info("one")
        first.close()
        roam.info("two")
        wait_until(lambda: second.records(cell=0))
        assert messages(second.records()) == ["two"]
        with InProcessCell(second, "cell") as cell:
            roam.info("three")
            assert messages(arrived(cell, 1)) == ["three"]
        roam.info("four")
        wait_until(lambda: len(second.records(cell=0)) == 2)
    roam.info("nobody listens")


def test_each_name_says_what_it_is():
    """The functions are documented under their own names."""
    for name in FAMILY:
        function = getattr(roam, name)
        assert (function.__name__, function.__qualname__) == (name, name)
        assert name.upper() in function.__doc__


def test_a_tracer_can_be_sent():
    """It travels by its target."""
    assert pickle.loads(pickle.dumps(roam.get_tracer("app.db"))).target == "app.db"
