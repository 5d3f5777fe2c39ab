"""Promotion: what the forward level kept back of a trace comes after all, exactly once, and nothing else."""

from __future__ import annotations

import pytest

import roam
from roam.errors import HostClosed
from roam.tracing import promotion
from tests import traced
from tests.hosting import arrived, in_process, messages
from tests.support import wait_until

tracer = roam.get_tracer("app")
CONFIG = roam.TracingConfig("debug", forward="warning")


def drained(subscription):
    """What waits, in the order of its arrival."""
    found = []
    while (tagged := subscription.get(0.0)) is not None:
        found.append(tagged.record)
    return found


def header_of(number):
    return f"00-{number + 1:032x}-{7:016x}-01"


# r[verify trace.promoted]
def test_what_was_kept_back_comes_once_and_what_follows_comes_too():
    """By hand: details of this trace that were captured before, and those after; warnings, which came anyway, once."""
    with in_process(CONFIG) as (host, cell), host.subscribe() as subscription:
        with tracer.span("request") as request:
            tracer.debug("before")
            tracer.warning("warned")
            arrived(cell)
            assert messages(drained(subscription)) == ["warned"]
            assert host.promote(request.trace_id) == 2
            assert host.promote(request.trace_id) == 0
            tracer.debug("after")
        tracer.debug("another trace")
        arrived(cell)
        wait_until(lambda: subscription.statistics().queued >= 4)
        records = drained(subscription)

    assert messages(records) == ["before", "after"]
    assert [record.kind for record in records] == ["span_enter", "event", "event", "span_close"]
    assert {record.trace_id for record in records} == {request.trace_id}


def test_a_subscribers_own_filter_still_holds():
    """Promotion overrules what the host keeps back, not what a subscriber does not want."""
    with in_process(CONFIG) as (host, cell), host.subscribe("info") as subscription:
        with tracer.span("request") as request:
            tracer.debug("detail")
            tracer.info("said")
        arrived(cell)
        host.promote(request.trace_id)
        assert messages(drained(subscription)) == ["said"]


def test_a_failing_span_promotes_its_trace():
    """Inner and outer span fail, and everything comes once; a trace that does not fail stays where it is."""
    with in_process(CONFIG, promote_on_error=True) as (host, cell), host.subscribe() as subscription:
        for fails in (False, True):
            try:
                with tracer.span("request"):
                    tracer.debug(f"outer, {fails}")
                    with tracer.span("inner"):
                        tracer.debug(f"inner, {fails}")
                        if fails:
                            raise ValueError(fails)
            except ValueError:
                pass
        arrived(cell)
        wait_until(lambda: subscription.statistics().queued >= 6)
        records = drained(subscription)

    assert messages(records) == ["outer, True", "inner, True"]
    assert [record.kind for record in records].count("span_close") == 2
    assert len(records) == 6


# r[verify trace.promoted]
def test_one_failing_trace_in_a_thousand_over_five_cells(tmp_path):
    """Exactly its records come, from every cell that took part."""
    headers, failing = [header_of(number) for number in range(1000)], 617
    with roam.TracingHost(
        CONFIG, dump_dir=tmp_path, forward=False, promote_on_error=True, retain_bytes=4 << 20
    ) as host:
        subscription = host.subscribe(capacity=100_000)
        cells = [
            roam.spawn_cell(traced.serve_all, headers, failing if index == 2 else -1, host=host) for index in range(5)
        ]
        for cell in cells:
            assert cell.result(60) is None
        records = []
        while (tagged := subscription.get(0.0)) is not None:
            records.append(tagged)
        kept = [
            tagged
            for tagged in host.records()
            if tagged.record.trace_id is not None and tagged.record.trace_id.hex() == headers[failing][3:35]
        ]

    assert len(kept) == 5 * 5
    key = lambda tagged: (tagged.peer.peer_id, tagged.record.lane, tagged.record.seq)  # noqa: E731
    assert sorted(map(key, records)) == sorted(map(key, kept))


def test_a_storm_of_failures_costs_the_collector_no_more_than_its_share(monkeypatch):
    """What is not promoted for want of time is counted."""
    monkeypatch.setattr(promotion, "BUDGET_S", 0.0)
    with in_process(CONFIG, promote_on_error=True) as (host, cell), host.subscribe() as subscription:
        host._fan_out._promotions._budget_s = 0.0
        for number in range(20):
            try:
                with tracer.span("request"):
                    tracer.debug("detail")
                    raise ValueError(number)
            except ValueError:
                pass
        arrived(cell)
        wait_until(lambda: host.statistics().promotions_skipped == 20)
        assert drained(subscription) == []


def test_remembered_traces_are_bounded(monkeypatch):
    """The oldest is forgotten; what comes of it later is kept back as before."""
    monkeypatch.setattr(promotion, "MOST_TRACES", 3)
    with in_process(CONFIG) as (host, cell):
        for number in range(10):
            host.promote(number.to_bytes(16, "little"))
        assert len(host._fan_out._promotions._marks) == 3
        assert (9).to_bytes(16, "little") in host._fan_out._promotions
        arrived(cell)


def test_what_is_no_trace_is_refused():
    """At the call."""
    with in_process(CONFIG) as (host, _), pytest.raises(ValueError, match="16 bytes"):
        host.promote(b"short")
    with pytest.raises(HostClosed):
        host.promote(bytes(16))


# r[verify trace.promoted]
@pytest.mark.parametrize("is_widened", [True, False])
def test_what_was_kept_back_is_decided_when_it_comes(is_widened):
    """By the filter of that time: promoted after it has changed, a record comes once all the same; also for replay."""
    open_config = roam.TracingConfig("debug")
    before, after = (CONFIG, open_config) if is_widened else (open_config, CONFIG)
    with in_process(before) as (host, cell), host.subscribe() as subscription:
        with tracer.span("request") as request:
            tracer.debug("one")
        arrived(cell)
        wait_until(lambda: is_widened or subscription.statistics().queued == 3)
        host.set_config(after, timeout=0.0)
        assert messages(drained(subscription)) == ([] if is_widened else ["one"])
        with host.subscribe(replay=True) as replayed:
            assert messages(drained(replayed)) == ([] if is_widened else ["one"])
        assert host.promote(request.trace_id) == (3 if is_widened else 0)
        assert messages(drained(subscription)) == (["one"] if is_widened else [])
        with host.subscribe(replay=True) as replayed:
            assert messages(drained(replayed)) == ["one"]


def test_a_trace_that_was_skipped_is_counted_once(monkeypatch):
    """However many of its spans fail."""
    monkeypatch.setattr(promotion, "BUDGET_S", 0.0)
    with in_process(CONFIG, promote_on_error=True) as (host, cell), host.subscribe():
        host._fan_out._promotions._budget_s = 0.0
        with pytest.raises(ValueError), tracer.span("a"), tracer.span("b"), tracer.span("c"):
            raise ValueError
        arrived(cell)
        wait_until(lambda: host.statistics().promotions_skipped)
        assert host.statistics().promotions_skipped == 1


@pytest.mark.parametrize("bad", ["x" * 16, bytearray(16), None, 5])
def test_a_trace_id_is_bytes(bad):
    """Anything else changes nothing."""
    with in_process(CONFIG) as (host, _):
        with pytest.raises(TypeError, match="a trace id is bytes"):
            host.promote(bad)
        assert not host._fan_out._promotions._marks
