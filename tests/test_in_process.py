"""One suite for the two services, configuration and sink: over a cell in this process, and over a real one."""

from __future__ import annotations

import logging
import threading
import time

import pytest

import roam
from roam.testing import InProcessCell
from roam.tracing import emitter as emitters
from roam.tracing.host import TracingHost
from tests import traced
from tests.hosting import arrived, holds, in_process, messages
from tests.support import wait_until

CONFIG = roam.TracingConfig("info,app=debug")


class Here:
    """Runs lines in this process, inside an `InProcessCell`."""

    is_over = False

    def __init__(self, host, _):
        self.host = host
        self.cell = InProcessCell(host, "cell")
        self.cell.__enter__()

    def run(self, *lines):
        for line in lines:
            exec(line, {"__name__": "tests.traced", "roam": roam, "logging": logging})

    def end(self):
        self.is_over = True
        self.cell.__exit__(None, None, None)


class There:
    """Runs lines in a cell."""

    is_over = False

    def __init__(self, host, tmp_path):
        self.host = host
        self.count = 0
        self.script, self.done = tmp_path / "script", tmp_path / "done"
        self.script.touch()
        arguments = (str(self.script), str(self.done))
        self.cell = roam.spawn_cell(traced.follow, *arguments, host=host, name="cell", start_method="spawn")

    def run(self, *lines):
        with self.script.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self.count += len(lines)
        wait_until(self.script.with_name(f"script.{self.count}").exists, 20)

    def end(self):
        self.is_over = True
        self.done.touch()
        assert self.cell.join(30) is not None


@pytest.fixture(params=[Here, There], ids=["in process", "real"])
def place(request, tmp_path):
    """Somewhere to run lines, traced by a host."""
    with roam.TracingHost(CONFIG, forward=False) as host:
        place = request.param(host, tmp_path)
        yield place
        if not place.is_over:
            place.end()


def test_the_first_configuration_is_in_force_from_the_start(place):
    """What the host says when it makes the cell judges the first record."""
    place.run("roam.debug('no')", "roam.get_tracer('app.db').debug('yes')", "roam.info('too')")
    assert messages(arrived(place.cell, 2)) == ["yes", "too"]


def test_the_latest_configuration_wins(place):
    """Of several that nobody has taken the last is in force; the answer names its generation."""
    place.run("roam.info('one')")
    arrived(place.cell, 1)
    for text in ("trace", "off", "error"):
        assert not place.cell.set_config(roam.TracingConfig(text), timeout=0.0)
    place.run("roam.warning('no')", "roam.error('two')")
    last = place.cell.set_config(roam.TracingConfig("error"), timeout=0.0)
    place.run("roam.info('no')")
    assert last.generation == 5
    answer = {}
    asking = threading.Thread(
        target=lambda: answer.update(found=place.cell.set_config(roam.TracingConfig("info"), timeout=20.0))
    )
    asking.start()
    number = 0
    while asking.is_alive():
        place.run(f"roam.info('knock', n={number})")
        number += 1
        # So few that the host still keeps the first records.
        time.sleep(0.001)
    assert (bool(answer["found"]), answer["found"].generation) == (True, 6)
    found = messages(arrived(place.cell))
    assert found[:2] == ["one", "two"]
    assert set(found[2:]) == {"knock"}


def test_a_configuration_that_is_refused_changes_nothing(place):
    """A filter that does not parse never becomes one, and never reaches the cell."""
    with pytest.raises(roam.FilterError):
        place.cell.set_config(roam.TracingConfig("app=loud"))
    place.run("roam.debug('no')", "roam.info('yes')")
    assert messages(arrived(place.cell, 1)) == ["yes"]


def test_span_events_can_be_switched_off(place):
    """Records no, the table of open spans yes."""
    place.cell.set_config(roam.TracingConfig("info", span_events=False), timeout=0.0)
    place.run("global_span = roam.span('job', n=1); global_span.__enter__(); logging.job = global_span")
    assert [(span.name, span.fields) for span in place.cell.open_spans()] == [("job", {"n": 1})]
    place.run("roam.info('inside')", "logging.job.__exit__(None, None, None); del logging.job")
    assert place.cell.open_spans() == []
    assert messages(arrived(place.cell, 1), None) == ["inside"]


def test_every_kind_of_record_arrives_as_it_was(place):
    """Levels, fields of all types, exceptions, spans, and the same ids for what belongs together."""
    with place.host.subscribe(replay=True) as records:
        place.run(
            "roam.get_tracer('app').debug('plain', i=1, f=0.5, b=True, s='ü', y=b'\\0', n=None, l=[1, {'a': 2}])",
            "roam.get_tracer('app').error('bad', exc_info=ValueError('x'))",
            "s = roam.get_tracer('app').span('work', a=1); s.__enter__(); s.record(b=2); roam.info('in'); s.__exit__(None, None, None)",
        )
        arrived(place.cell, 5)
        found = [records.get(20).record for _ in range(5)]
    plain, bad, enter, inside, close = found
    assert plain.fields == {"i": 1, "f": 0.5, "b": True, "s": "ü", "y": b"\0", "n": None, "l": [1, {"a": 2}]}
    assert (bad.level, bad.lane, bad.exception.type) == (40, "life", "ValueError")
    assert [(r.kind, r.message, r.fields) for r in (enter, close)] == [
        ("span_enter", "work", {"a": 1}),
        ("span_close", "work", {"b": 2}),
    ]
    assert enter.span_id == inside.span_id == close.span_id
    assert (plain.target, inside.target) == ("app", "tests.traced")
    assert [record.seq for record in found if record.lane == "bulk"] == [0, 1, 2, 3]
    assert [(r.kind, r.message, r.time_ns) for r in place.cell.records()] == [
        (r.kind, r.message, r.time_ns) for r in found
    ]


def test_everything_is_there_after_the_end(place):
    """A burst that nobody waited for is complete, in order, and accounted for."""
    place.run("[roam.info('burst', n=n) for n in range(3000)] and None")
    place.end()
    assert [record.fields["n"] for record in place.cell.records() if record.kind == "event"] == list(range(3000))
    statistics = place.cell.statistics()
    assert holds(statistics)
    assert (statistics.lanes["bulk"].delivered, statistics.lanes["bulk"].resident) == (3000, 0)
    assert not place.cell.set_config(roam.TracingConfig("debug"), timeout=0.0)


# What only the in-process cell has to keep


def test_it_is_the_tracing_of_the_process_while_it_is_open():
    """What was traced before is traced afterwards, in any order of ending."""
    with TracingHost(forward=False) as host:
        own = emitters.current_emitter()
        outer, inner = InProcessCell(host, "outer"), InProcessCell(host, "inner")
        with outer:
            with inner:
                roam.info("inner")
            roam.info("outer")
            assert messages(arrived(outer, 1)) == ["outer"]
        assert messages(inner.records()) == ["inner"]
        assert emitters.current_emitter() is own
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
        assert emitters.current_emitter() is inner._emitter
        inner.__exit__(None, None, None)
        assert emitters.current_emitter() is own
    assert emitters.current_emitter() is None


def test_its_host_may_close_first():
    """The block ends without an error, nothing is traced into what is gone, and nothing is left."""
    with in_process() as (host, cell):
        roam.info("before")
        arrived(cell, 1)
        host.close()
        roam.info("into the void")
        assert messages(cell.records()) == ["before"]
    roam.info("nobody")
    assert emitters.current_emitter() is None


def test_it_is_used_inside_its_block():
    """Before, there is nothing to ask."""
    with TracingHost(forward=False) as host:
        cell = InProcessCell(host, "cell")
        with pytest.raises(RuntimeError, match="with"):
            cell.records()
        with pytest.raises(RuntimeError, match="with"):
            cell.__exit__(None, None, None)


def test_it_does_not_capture_logging():
    """The program's logging is left alone."""
    with in_process(roam.TracingConfig("debug")) as (_, cell):
        logging.getLogger("app").debug("not captured")
        roam.debug("captured")
        assert messages(arrived(cell, 1)) == ["captured"]
