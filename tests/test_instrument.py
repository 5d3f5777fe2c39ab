"""`instrument`: each call is a span, and nothing else about the function changes."""

from __future__ import annotations

import asyncio
import gc
import inspect

import pytest

import roam
from roam.tracing.scope import active_scope
from tests.hosting import arrived, in_process


def shape(records):
    """`(kind, message)` of each record."""
    return [(record.kind, record.message) for record in records]


@roam.instrument
def add(a, b=2, *, c=3):
    """Adds."""
    roam.info("adding")
    return a + b + c


@roam.instrument
async def fetch(value, fail=False):
    """Fetches."""
    await asyncio.sleep(0)
    roam.info("fetching")
    if fail:
        raise LookupError(value)
    return value


def test_an_instrumented_function_is_the_same_function():
    """Result, signature, name, documentation and kind are those of the function; a call is a span."""
    assert str(inspect.signature(add)) == "(a, b=2, *, c=3)"
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Adds.", __name__)
    assert inspect.iscoroutinefunction(fetch)
    assert (add(1), add(1, c=1)) == (6, 4)
    with in_process() as (_, cell):
        assert add(1) == 6
        with pytest.raises(TypeError):
            add()
        records = arrived(cell, 5)

    assert shape(records) == [
        ("span_enter", "add"),
        ("event", "adding"),
        ("span_close", "add"),
        ("span_enter", "add"),
        ("span_close", "add"),
    ]
    assert records[1].span_id == records[0].span_id
    assert records[-1].exception.type == "TypeError"


def test_an_instrumented_coroutine_is_one_span_from_its_first_step():
    """It begins when it is awaited, ends with its result or exception, and its tasks nest."""

    async def main():
        coroutine = fetch(1)
        roam.info("before")
        assert await coroutine == 1
        with pytest.raises(LookupError):
            await fetch(2, fail=True)
        slow = asyncio.create_task(fetch(3))
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    with in_process() as (_, cell):
        asyncio.run(main())
        records = arrived(cell, 7)

    assert shape(records) == [
        ("event", "before"),
        *[("span_enter", "fetch"), ("event", "fetching"), ("span_close", "fetch")] * 2,
    ]
    assert [r.exception.type for r in records if r.exception] == ["LookupError"]


class Undone(Exception):
    """Thrown into generators."""


def echo(log, stop_at=None):
    """A generator with every way in and out, which writes down what happens to it."""
    received = None
    try:
        while True:
            try:
                received = yield received
                log.append(("sent", received))
                roam.info("step")
                if received == stop_at:
                    return "done"
                if received == "raise":
                    raise LookupError(received)
            except Undone as error:
                log.append(("thrown", str(error)))
                received = "caught"
    except GeneratorExit:
        log.append(("closed",))
        if stop_at == "stubborn":
            yield "no"
        if stop_at == "polite":
            return "bye"
        raise
    finally:
        log.append(("finally",))


def drive(generator, actions):
    """Do these things to a generator and write down what comes out."""
    seen = []
    for action, *arguments in actions:
        handed = arguments
        if action == "throw":
            # Made here: an exception holds on to the frames that it passed.
            handed = [arguments[0](arguments[1])]
        try:
            seen.append(("value", getattr(generator, action)(*handed)))
        except BaseException as error:
            seen.append((type(error).__name__, str(error)))
    return seen


PLANS = {
    "values": [("__next__",), ("send", 1), ("send", 2), ("__next__",)],
    "return": [("__next__",), ("send", "end"), ("send", 1), ("__next__",)],
    "raise": [("__next__",), ("send", "raise"), ("__next__",)],
    "throw": [("__next__",), ("throw", Undone, "x"), ("send", 1), ("throw", ValueError, "y"), ("__next__",)],
    "throw first": [("throw", Undone, "x"), ("__next__",)],
    "throw stop": [("__next__",), ("throw", StopIteration, "s"), ("__next__",)],
    "throw exit": [("__next__",), ("throw", GeneratorExit, "g"), ("__next__",)],
    "close": [("__next__",), ("close",), ("__next__",)],
    "close first": [("close",), ("__next__",)],
    "send first": [("send", 1), ("__next__",)],
}


# A generator that does not let itself be closed never ends; and what becomes of it when it is dropped is chance.
CASES = [(plan, how) for plan in PLANS for how in ("end", "polite")] + [
    ("close", "stubborn"),
    ("throw exit", "stubborn"),
]


@pytest.mark.parametrize(("plan", "stop_at"), CASES)
def test_an_instrumented_generator_behaves_as_without(plan, stop_at):
    """Values, return value, `send`, `throw`, `close`, and what goes wrong with them, are the same to the letter."""
    outcomes = []
    wrapped = roam.instrument(echo)
    assert inspect.isgeneratorfunction(wrapped)
    with in_process() as (_, cell):
        for function in (echo, wrapped):
            log = []
            generator = function(log, stop_at)
            outcomes.append((drive(generator, PLANS[plan]), log))
            del generator
            gc.collect()
            outcomes[-1][1].append("collected")
        assert active_scope.get() is None
        assert cell.open_spans() == []

    assert outcomes[0] == outcomes[1]


def test_a_generator_leaves_its_span_at_each_yield():
    """Enter, then Exit and Enter around each yield, then Close; between them the caller's records are the caller's."""
    generator = roam.instrument(echo)
    with in_process() as (_, cell):
        with roam.span("caller"):
            steps = generator([], "end")
            next(steps)
            roam.info("between")
            with pytest.raises(StopIteration) as stopped:
                steps.send("end")
            assert stopped.value.value == "done"
        records = arrived(cell, 8)

    assert shape(records) == [
        ("span_enter", "caller"),
        ("span_enter", "echo"),
        ("span_exit", "echo"),
        ("event", "between"),
        ("span_enter", "echo"),
        ("event", "step"),
        ("span_close", "echo"),
        ("span_close", "caller"),
    ]
    caller, echoed = records[0], records[1]
    assert {r.span_id for r in records if r.message in ("echo", "step")} == {echoed.span_id}
    assert {r.parent_id for r in records if r.message == "echo"} == {caller.span_id}
    assert records[3].span_id == caller.span_id
    assert records[6].exception is None


def test_a_generator_that_is_dropped_closes_its_span():
    """A loop that breaks off, and a generator that the garbage collector ends, leave no span open."""
    generator = roam.instrument(echo)
    with in_process() as (_, cell):
        for _ in generator([]):
            break
        stuck = generator([])
        next(stuck)
        assert [span.name for span in cell.open_spans()] == ["echo"]
        cycle = [stuck]
        cycle.append(cycle)
        del stuck, cycle
        gc.collect()
        assert cell.open_spans() == []
        assert active_scope.get() is None
        assert shape(arrived(cell, 8)).count(("span_close", "echo")) == 2


async def async_echo(log, stop_at=None):
    """As `echo`, asynchronous."""
    received = None
    try:
        while True:
            try:
                received = yield received
                log.append(("sent", received))
                await asyncio.sleep(0)
                if received == stop_at:
                    return
                if received == "raise":
                    raise LookupError(received)
            except Undone as error:
                log.append(("thrown", str(error)))
                received = "caught"
    except GeneratorExit:
        await asyncio.sleep(0)
        log.append(("closed",))
        if stop_at == "stubborn":
            yield "no"
        if stop_at == "polite":
            return
        raise
    finally:
        log.append(("finally",))


async def async_drive(generator, actions):
    """As `drive`."""
    seen = []
    for action, *arguments in actions:
        handed = arguments
        if action == "throw":
            handed = [arguments[0](arguments[1])]
        try:
            seen.append(("value", await getattr(generator, ASYNC_NAMES[action])(*handed)))
        except BaseException as error:
            seen.append((type(error).__name__, str(error)))
    return seen


ASYNC_NAMES = {"__next__": "__anext__", "send": "asend", "throw": "athrow", "close": "aclose"}


@pytest.mark.parametrize(("plan", "stop_at"), CASES)
def test_an_instrumented_asynchronous_generator_behaves_as_without(plan, stop_at):
    """The same for `asend`, `athrow` and `aclose`."""
    outcomes = []
    wrapped = roam.instrument(async_echo)
    assert inspect.isasyncgenfunction(wrapped)
    with in_process() as (_, cell):
        for function in (async_echo, wrapped):
            log = []
            generator = function(log, stop_at)
            outcomes.append((asyncio.run(async_drive(generator, PLANS[plan])), log))
            del generator
            gc.collect()
        assert active_scope.get() is None
        assert cell.open_spans() == []

    assert outcomes[0] == outcomes[1]


def test_an_asynchronous_generator_leaves_its_span_at_each_yield():
    """As for plain generators, with awaits inside."""
    generator = roam.instrument(async_echo)

    async def main():
        with roam.span("caller"):
            async for _ in generator([]):
                roam.info("between")
                break
            # What `async for` breaks off is ended by the loop, later and elsewhere.

    with in_process() as (_, cell):
        asyncio.run(main())
        records = arrived(cell, 7)
        assert cell.open_spans() == []

    assert shape(records)[:4] == [
        ("span_enter", "caller"),
        ("span_enter", "async_echo"),
        ("span_exit", "async_echo"),
        ("event", "between"),
    ]
    assert records[3].span_id == records[0].span_id
    assert ("span_close", "async_echo") in shape(records)


def test_the_loop_closes_an_asynchronous_generator_once():
    """At its end the loop ends what is unfinished: the wrapper, which ends the function's own; nothing goes wrong."""
    generator = roam.instrument(async_echo)
    log, complaints, kept = [], [], []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
        steps = generator(log)
        kept.append(steps)
        await anext(steps)

    with in_process() as (_, cell):
        asyncio.run(main())
        assert cell.open_spans() == []
        kept.clear()
    assert complaints == []
    assert log == [("closed",), ("finally",)]


def test_instrument_decorates_functions_only():
    """Anything that cannot be called is misuse; a method, a lambda and a partial can."""
    with pytest.raises(TypeError, match="int"):
        roam.instrument(5)
    with pytest.raises(TypeError, match="type"):
        roam.instrument(dict)

    class Thing:
        @roam.instrument
        def method(self, n):
            return n

        @staticmethod
        @roam.instrument
        def static(n):
            return n

        @classmethod
        @roam.instrument
        def of(cls, n):
            return cls.__name__, n

    with in_process() as (_, cell):
        assert (Thing().method(1), Thing.static(2), Thing.of(3)) == (1, 2, ("Thing", 3))
        assert roam.instrument(lambda n: n)(4) == 4
        names = {record.message.rpartition(".")[2] for record in arrived(cell, 8)}

    assert names == {"method", "static", "of", "<lambda>"}


def test_what_is_instrumented_costs_nothing_without_tracing():
    """Instrumented functions and generators work in a process that traces nothing."""
    assert add(1) == 6
    assert asyncio.run(fetch(5)) == 5
    assert drive(roam.instrument(echo)([], "end"), PLANS["return"])[1] == ("StopIteration", "done")
