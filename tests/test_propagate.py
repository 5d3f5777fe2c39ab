"""Causality: cells are a part of the span that started them, and so is what a header names."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import roam
from roam.shm.header import NO_CAUSE
from roam.tracing.propagate import cause_here
from tests import traced
from tests.hosting import arrived, in_process, plain
from tests.programs import METHODS
from tests.support import REPOSITORY, run_script

WAIT_S = 60.0
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"

tracer = roam.get_tracer("app")


def one(records, kind, message):
    [found] = [record for record in plain(records) if record.kind == kind and record.message == message]
    return found


# r[verify trace.cause]
@pytest.mark.parametrize("method", METHODS)
def test_a_cell_is_a_part_of_the_span_that_started_it(method, tmp_path):
    """Its outermost span has that span as its parent, a cell's cell the cell's span; all are one trace."""
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as host:
        with roam.span("request") as request:
            cell = roam.spawn_cell(traced.work_in_cells, method, 1, host=host, start_method=method)
        inner = cell.result(WAIT_S)
        outer = one(cell.records(), "span_enter", "work")
        inside = one(cell.records(), "event", "working")

    assert (outer.parent_id, outer.trace_id) == (request.span_id, request.trace_id)
    assert inside.span_id == outer.span_id
    assert inner == [(outer.span_id.hex(), request.trace_id.hex())]


@pytest.mark.parametrize("method", METHODS)
def test_without_a_span_every_cell_is_a_trace_of_its_own(method, tmp_path):
    """Two cells that nothing connects share no trace."""
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as host:
        cells = [roam.spawn_cell(traced.work_in_cells, method, 0, host=host, start_method=method) for _ in range(2)]
        for cell in cells:
            cell.result(WAIT_S)
        traces = {one(cell.records(), "span_enter", "work").trace_id for cell in cells}
    assert len(traces) == 2


def test_a_header_is_continued():
    """Records and spans inside of it belong to what it names, and headers sent from there to them."""
    with in_process() as (_, cell):
        assert roam.propagate.traceparent() is None
        assert roam.propagate.environ() == {}
        for source in (HEADER, {"Host": "x", "TraceParent": HEADER}, f"cc-{TRACE}-{SPAN}-00-more"):
            with roam.propagate.continued(source):
                assert roam.propagate.traceparent() == HEADER
                roam.info("inside")
                with tracer.span("work") as work:
                    assert roam.propagate.environ() == {"TRACEPARENT": f"00-{TRACE}-{work.span_id.hex()}-01"}
            assert roam.propagate.traceparent() is None
        records = arrived(cell)

    for record in records:
        assert record.trace_id.hex() == TRACE
    assert {record.parent_id.hex() for record in records if record.kind == "span_enter"} == {SPAN}
    assert {record.span_id.hex() for record in records if record.kind == "event"} == {SPAN}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        5,
        b"bytes",
        {},
        {"traceparent": HEADER, "TRACEPARENT": HEADER},
        HEADER[:-1],
        HEADER.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        HEADER + "x" * 1000,
    ],
)
def test_what_is_no_header_is_ignored(header):
    """It came from elsewhere: a new trace begins."""
    with in_process() as (_, cell), roam.propagate.continued(header):
        roam.info("inside")
        [record] = arrived(cell)
    assert record.trace_id.hex() != TRACE


@given(st.text("0123456789abcdef-f", max_size=60))
def test_no_text_raises(text):
    """Whatever a peer sends."""
    with roam.propagate.continued(text):
        pass


def test_outside_of_tracing_only_the_environment_is_known(monkeypatch):
    """A program without host and cell passes on what it was given, and opens nothing."""
    assert cause_here() == NO_CAUSE
    monkeypatch.setenv("TRACEPARENT", HEADER)
    assert roam.propagate.traceparent() == HEADER
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    assert roam.propagate.traceparent() is None


def test_a_host_is_a_part_of_what_its_environment_names(tmp_path):
    """So are its cells, where no span of its own is active."""
    script = tmp_path / "script.py"
    script.write_text(
        "import roam\nfrom tests import traced\n"
        "if __name__ == '__main__':\n"
        "    with roam.TracingHost(forward=False) as host:\n"
        "        cell = roam.spawn_cell(traced.work_in_cells, 'spawn', 0, host=host, start_method='spawn')\n"
        "        cell.result(60)\n"
        "        [record] = [r for r in cell.records() if r.kind == 'span_enter']\n"
        "        print(record.trace_id.hex(), record.parent_id.hex())\n"
    )
    done = run_script(str(script), environ={"TRACEPARENT": HEADER})
    assert done.stdout.split() == [TRACE, SPAN]


def test_a_process_that_roam_did_not_start_is_a_part_too(tmp_path):
    """The ticket's segment says what registered it."""
    program = "import roam; roam.init_cell_tracing(); roam.info('there')"
    with roam.TracingHost(dump_dir=tmp_path, forward=False) as host:
        with roam.span("request") as request:
            peer = host.register_peer("other")
        environ = os.environ | peer.ticket.environ | {"PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, "-c", program], env=environ, pass_fds=peer.ticket.fds, check=True)
        assert peer.concluded.wait(WAIT_S)
        record = one(peer.records(), "event", "there")
    assert (record.span_id, record.trace_id) == (request.span_id, request.trace_id)


def test_a_header_whose_context_is_left_elsewhere_changes_nothing_there():
    """As in a generator that is closed by somebody else."""

    def continuing():
        with roam.propagate.continued(HEADER):
            yield roam.propagate.traceparent()

    with in_process():
        walk = continuing()
        assert contextvars.copy_context().run(next, walk) == HEADER
        with roam.span("mine") as mine:
            walk.close()
            assert roam.propagate.traceparent() == f"00-{mine.trace_id.hex()}-{mine.span_id.hex()}-01"
