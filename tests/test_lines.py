"""Lines of text as records of the lane `stdio`, without a cell: every text comes back, whatever is in it."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from roam.clock import ClockAnchor
from roam.shm.chunk import page_records
from roam.tracing.filter import Filter
from roam.tracing.lanes import STDIO
from roam.tracing.lines import Lines
from roam.tracing.peer import decode_chunks
from roam.tracing.records import PRINTED

ANCHOR = ClockAnchor(0, 0)
CAUSE = bytes(range(24))

texts = st.lists(
    st.binary(max_size=40)
    | st.text(max_size=40).map(str.encode)
    | st.sampled_from([b"\n", b"\r\n", b"x" * 200, "ü".encode() * 99]),
    max_size=12,
).map(b"".join)


def records_of(chunks):
    return decode_chunks(chunks, [], ANCHOR)


@given(data=texts, record_bytes=st.integers(64, 400))
@example(data=b"\xff" + b"\x80" * 40, record_bytes=64)
@example(data=b"\x80" * 40 + b"\n", record_bytes=64)
@example(data=b"\xf1\xa0\x9e\x85\x97" * 8, record_bytes=64)
def test_every_text_comes_back(data, record_bytes):
    """Put together again, whole lines and pieces are the text; each fits into a record, and what does not end waits."""
    lines = Lines(record_bytes, CAUSE, is_printed=True)
    chunks, count = lines.make("stdout", data, is_end=False)
    more, rest = lines.make("stdout", data[count:], is_end=True)

    records = records_of(chunks + more)
    whole = "".join(record.message + ("" if record.fields.get("partial") else "\n") for record in records)
    assert whole == data.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    assert rest == len(data) - count
    assert b"\n" not in data[count:]
    assert max((len(record.message.encode()) for record in records), default=0) <= max(record_bytes - 96, 16)
    assert len(records_of(chunks)) >= data.count(b"\n")


@given(datas=st.lists(texts, max_size=5))
def test_records_are_as_a_page_would_hold_them(datas):
    """Sequences have no gap, times increase, and every checksum is right, so that a dump can hold them."""
    lines = Lines(8192, CAUSE, is_printed=False)
    chunks = [chunk for data in datas for chunk in lines.make("stderr", data, is_end=True)[0]]

    for chunk in chunks:
        assert page_records(chunk.data, chunk.first_seq, chunk.count, chunk.page_no)[1] == 0
    found = [(seq, time_ns) for chunk in chunks for seq, time_ns, _ in chunk]
    assert [seq for seq, _ in found] == list(range(len(found)))
    assert all(one < other for (_, one), (_, other) in itertools.pairwise(found))


def test_a_line_says_where_it_comes_from():
    """Target and field name the stream; the ids are those of the span in which the cell was started; the flag tells that the
    terminal shows it."""
    [record] = records_of(Lines(8192, CAUSE, is_printed=True).make("stderr", b"oh\n", is_end=False)[0])
    [bare] = records_of(Lines(8192, bytes(24), is_printed=False).make("stdout", b"oh\n", is_end=False)[0])

    assert (record.target, record.fields, record.level, record.lane) == ("stderr", {"stream": "stderr"}, 20, "stdio")
    assert (record.trace_id, record.span_id, record.thread, record.flags) == (CAUSE[:16], CAUSE[16:], None, PRINTED)
    assert (bare.trace_id, bare.span_id, bare.thread, bare.flags) == (None, None, None, 0)


def test_lines_are_counted():
    """What is delivered and what is lost add up to what was numbered; a loss has its place in the sequence."""
    lines = Lines(8192, bytes(24), is_printed=False)
    items = [*lines.make("stdout", b"one\ntwo\n", is_end=False)[0], lines.lose(5)]
    items += lines.make("stdout", b"eight\n", is_end=False)[0]
    assert lines.statistics.emitted == 0
    lines.count(items)

    assert [(item.lane, item.first_seq, item.count) for item in items] == [(STDIO, 0, 2), (STDIO, 2, 5), (STDIO, 7, 1)]
    found = lines.statistics
    assert (found.emitted, found.delivered, found.lost, found.resident) == (8, 3, 5, 0)


def test_filters_judge_lines_by_their_stream():
    """Outside of all spans, at level INFO."""
    verdicts = {
        text: [Lines.are_wanted(Filter(text), stream) for stream in ("stdout", "stderr")]
        for text in ("info", "warn", "off", "stdout=off,info", "off,stderr", "warn,[job]=trace", "stdout[job]=trace")
    }

    assert verdicts == {
        "info": [True, True],
        "warn": [False, False],
        "off": [False, False],
        "stdout=off,info": [False, True],
        "off,stderr": [False, True],
        "warn,[job]=trace": [False, False],
        "stdout[job]=trace": [False, False],
    }
