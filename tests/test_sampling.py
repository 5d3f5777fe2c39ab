"""Sampling and rate limits: what they keep out, what never, and that every record is counted by its key."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import roam
from roam.errors import FilterError
from roam.shm.layout import SUPPRESSED_SLOTS, SegmentConfig
from roam.tracing import emitter as emitters
from roam.tracing import sampling
from roam.tracing.config import TracingConfig, slots_for, slots_of
from roam.tracing.records import CRITICAL, ERROR, INFO, WARNING
from roam.tracing.sampling import Sampler, Tally, Verdict, parse_rate, parse_rules
from tests import traced
from tests.hosting import arrived, holds, in_process, messages

WAIT_S = 60.0
tracer = roam.get_tracer("app.tick")


class Counting:
    """A sampler, and what it counts."""

    def __init__(self, sample=None, rate=None):
        rules = parse_rules(sample or {}, rate or {})
        self.slots = {rule.key: slot for slot, rule in enumerate(rules)}
        self.counts = Counter()
        self.sampler = Sampler(rules, self.slots, lambda lane, slot: self.counts.update([(lane, slot)]), Tally())

    def admits(self, level, target, verdict=None):
        return self.sampler.admits(level, target, verdict, 2)

    def count(self, key):
        return sum(count for (_, slot), count in self.counts.items() if slot == self.slots[key])


def test_a_share_is_written():
    """About so many, every other one is counted, and other targets are none of its business."""
    found = Counting({"app.tick": 0.25, "app.tick.fast": 0, "app": 1})
    written = sum(found.admits(INFO, "app.tick.deep") for _ in range(4000))
    assert 800 < written < 1200
    assert found.count("app.tick") == 4000 - written
    assert not any(found.admits(INFO, "app.tick.fast") for _ in range(100))
    assert found.count("app.tick.fast") == 100
    assert all(found.admits(INFO, target) for target in ("app", "app.ticks", "lib", "ap") for _ in range(100))
    assert found.count("app") == 0


@pytest.mark.parametrize(
    ("key", "kept_out", "written"),
    [("app", INFO, WARNING), ("app=warn", WARNING, ERROR), ("app=critical", CRITICAL, None), ("app=10", 10, INFO)],
)
def test_levels_that_no_key_names_are_never_kept_out(key, kept_out, written):
    """WARNING and above only where the key reaches so far."""
    found = Counting({key: 0}, {})
    assert not found.admits(kept_out, "app")
    assert written is None or found.admits(written, "app")
    limited = Counting({}, {key: "1/h"})
    assert [limited.admits(kept_out, "app") for _ in range(3)] == [True, False, False]
    assert written is None or all(limited.admits(written, "app") for _ in range(3))


def test_a_rate_is_kept(monkeypatch):
    """So many at once, then as many as time brings; what is too much is counted."""
    now = itertools.count()
    clock = [1000.0]
    monkeypatch.setattr(sampling.time, "monotonic", lambda: clock[0] + 0 * next(now))
    found = Counting({}, {"app": "10/s"})
    assert sum(found.admits(INFO, "app") for _ in range(50)) == 10
    clock[0] += 0.55
    assert sum(found.admits(INFO, "app") for _ in range(50)) == 5
    clock[0] += 3600
    assert sum(found.admits(INFO, "app") for _ in range(50)) == 10
    assert found.count("app") == 150 - 25


# r[verify trace.sampled]
@given(st.floats(0, 1), st.binary(min_size=16, max_size=16))
def test_a_span_decides_for_its_trace_alike_everywhere(share, trace_id):
    """By the trace's id alone, in any process with the same rule."""
    one, other = (Counting({"app": share}).sampler for _ in range(2))
    verdict = one.decide("app.web", trace_id)
    assert verdict == other.decide("app", trace_id)
    assert verdict.is_kept == (int.from_bytes(trace_id[8:], "big") / 2**64 < share)
    assert one.decide("lib", trace_id) is None
    assert Counting({}, {"app": "1/s"}).sampler.decide("app", trace_id) is None


def test_a_verdict_stands_over_shares():
    """Inside of a kept trace nothing is left to chance, inside of another nothing below WARNING is written."""
    found = Counting({"app": 0.0, "lib": 0.5})
    kept, left_out = Verdict(True, INFO, 0), Verdict(False, INFO, 0)
    assert all(found.admits(INFO, target, kept) for target in ("app", "lib", "other") for _ in range(50))
    assert not any(found.admits(INFO, target, left_out) for target in ("app", "lib", "other") for _ in range(50))
    assert found.admits(WARNING, "lib", left_out)
    assert found.count("app") == 150


# r[verify trace.sampled]
def test_traces_are_kept_or_left_out_as_a_whole():
    """Spans and events of all targets inside of a sampled span, and nothing of half a trace."""
    lib = roam.get_tracer("lib")
    config = TracingConfig("debug", sample={"app.tick": 0.3})
    with in_process(config, retain_bytes=8 << 20) as (_, cell):
        for _ in range(300):
            with tracer.span("request"), lib.span("inner"):
                lib.debug("detail")
                lib.warning("look")
        records, statistics = arrived(cell), cell.statistics()

    by_trace = {}
    for record in records:
        if record.kind == "event" and record.target == "lib":
            by_trace.setdefault(record.trace_id, []).append(record.message)
    assert len(by_trace) == 300
    kinds = Counter(map(tuple, by_trace.values()))
    assert set(kinds) == {("detail", "look"), ("look",)}
    assert 40 < kinds["detail", "look"] < 160
    # Two spans, each with a beginning and an end, and one detail.
    assert statistics.suppressed == {"app.tick": 5 * kinds["look",]}
    assert statistics.lanes["bulk"].dropped == {"sampled": 5 * kinds["look",]}


# r[verify trace.sampled]
@pytest.mark.parametrize("end", ["kill", "return"])
@pytest.mark.parametrize("options", [{"sample": {"app.tick": 0.01}}, {"rate": {"app.tick": "100/h"}}])
def test_the_account_of_a_cell_is_exact_however_it_ends(options, end, tmp_path):
    """Ten thousand records, few of them written, all of them accounted for, by lane and by key."""
    with roam.TracingHost(TracingConfig("info", **options), dump_dir=tmp_path, forward=False) as host:
        cell = roam.spawn_cell(traced.tick, 10_000, end, host=host)
        assert cell.join(WAIT_S) is not None
        statistics, records = cell.statistics(), list(cell.records())
        post_mortem = cell.post_mortem

    assert holds(statistics)
    [(key, suppressed)] = statistics.suppressed.items()
    ticks = [record for record in records if record.kind == "event" and record.message == "tick"]
    assert key == "app.tick"
    assert sum(record.level == WARNING for record in ticks) == 1000
    assert len(ticks) + suppressed == 10_000
    assert suppressed > 8500
    assert {name: lane.dropped for name, lane in statistics.lanes.items()} == {
        "life": {},
        "vital": {},
        "bulk": {"sampled": suppressed},
        "stdio": {},
    }
    assert not [record for record in records if record.kind == "dropped"]
    told = [record.fields for record in records if record.target == "roam.sampling"]
    if end == "return":
        assert told == [{"app.tick": suppressed}]
    else:
        assert post_mortem.statistics.suppressed == {"app.tick": suppressed}


def test_it_is_told_of_now_and_then(monkeypatch):
    """A record with the counts by key, in the stream, when it is time."""
    monkeypatch.setattr(sampling, "REPORT_S", 0.0)
    config = TracingConfig("info", sample={"app.tick": 0})
    with in_process(config) as (_, cell):
        for _ in range(3):
            tracer.info("never")
        roam.get_tracer("lib").info("seen")
        records = arrived(cell)

    assert messages(records) == ["kept out"] * 3 + ["seen"]
    assert [record.fields for record in records[:3]] == [{"app.tick": 1}] * 3


def test_counts_of_many_threads_are_exact():
    """Without a lock between them."""
    with in_process(TracingConfig("info", sample={"app.tick": 0})) as (_, cell):
        threads = [threading.Thread(target=lambda: [tracer.info("x") for _ in range(5000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        arrived(cell)
        statistics = cell.statistics()
    assert statistics.suppressed == {"app.tick": 40_000}
    assert statistics.lanes["bulk"].dropped == {"sampled": 40_000}


def test_a_key_keeps_its_place_when_the_configuration_changes():
    """Counts go on, also of keys that are gone meanwhile."""
    with in_process(TracingConfig("info", sample={"app.tick": 0})) as (_, cell):
        tracer.info("x")
        cell.set_config(TracingConfig("info", sample={"aaa": 0, "app.tick=error": 0.0}), timeout=0.0)
        tracer.info("x")
        cell.set_config(TracingConfig("info", sample={"app.tick": 0}), timeout=0.0)
        tracer.info("x")
        arrived(cell)
        assert cell.statistics().suppressed == {"aaa": 0, "app.tick": 2, "app.tick=error": 1}


def test_there_are_only_so_many_keys():
    """In the life of one cell; said where they would become too many."""
    many = TracingConfig("info", rate={f"a{number}": "1/s" for number in range(SUPPRESSED_SLOTS)})
    slots = slots_for(many, {})
    assert sorted(slots.values()) == list(range(SUPPRESSED_SLOTS))
    with pytest.raises(ValueError, match="48 keys"):
        slots_for(TracingConfig("info", sample={"b": 0.5}), slots)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sample": {"app": 1.5}}, ValueError, "from 0 to 1"),
        ({"sample": {"app": -0.1}}, ValueError, "from 0 to 1"),
        ({"sample": {"app": float("nan")}}, ValueError, "from 0 to 1"),
        ({"sample": {"": 0.5}}, ValueError, "no target"),
        ({"sample": {"info": 0.5}}, ValueError, "no target"),
        ({"sample": {"a,b": 0.5}}, ValueError, "no target"),
        ({"sample": {"[slow]": 0.5}}, ValueError, "no target"),
        ({"sample": {"a..b": 0.5}}, FilterError, "dotted target"),
        ({"sample": {"a=loud": 0.5}}, FilterError, "loud"),
        ({"rate": {"app": "fast"}}, ValueError, "100/s"),
        ({"rate": {"app": "0/s"}}, ValueError, "100/s"),
        ({"rate": {"app": "1.5/s"}}, ValueError, "100/s"),
        ({"sample": {"app": 0.0}, "rate": {"app=error": "1/s"}}, ValueError, "'app' and 'app=error'"),
        ({"sample": {"a=info": 0.1, "a=40": 0.2}}, ValueError, "'a=40' and 'a=info'"),
        ({"rate": {f"a{number}": "1/s" for number in range(SUPPRESSED_SLOTS + 1)}}, ValueError, "48 keys"),
        ({"sample": {5: 0.1}}, TypeError, "sample: the key 5"),
        ({"sample": ["a"]}, TypeError, "sample=.*expected shares"),
        ({"sample": 0.1}, TypeError, "sample=0.1: expected shares"),
        ({"sample": {"a": "0.1"}}, TypeError, "a share is a number"),
        ({"sample": {"a": None}}, TypeError, "a share is a number"),
        ({"sample": {"a": True}}, TypeError, "a share is a number"),
        ({"sample": {"a": 10**400}}, ValueError, "from 0 to 1"),
        ({"rate": {"a": 100}}, TypeError, "a rate is a text"),
        ({"rate": {"a": None}}, TypeError, "a rate is a text"),
        ({"rate": "100/s"}, TypeError, "rate='100/s': expected rates"),
    ],
)
def test_what_is_no_rule_is_refused(options, error, text):
    """At the call, with what would be one."""
    with pytest.raises(error, match=text):
        TracingConfig("info", **options)


def test_rules_travel_with_the_configuration():
    """To the cell, with the places where it counts, and through pickle."""
    config = TracingConfig("info", sample={"a": 0.5, "b=error": 1}, rate={"a": "5/m", "c": "100/h"})
    assert (config.sample, config.rate) == ({"a": 0.5, "b=error": 1}, {"a": "5/m", "c": "100/h"})
    body = config.to_bytes({"a": 0, "b=error": 7, "x": 99})
    assert TracingConfig.from_bytes(body) == config == pickle.loads(pickle.dumps(config))
    assert slots_of(body) == {"a": 0, "b=error": 7}
    assert parse_rate("5/m") == (5, 60.0)


def test_a_configuration_that_is_posted_again_lets_no_more_through():
    """Neither the same nor another one that keeps the rate: buckets, and counts that are not told yet, go on."""
    again = {"rate": {"app.tick": "10/h"}}
    with in_process(TracingConfig("info", **again)) as (_, cell):
        for number in range(50):
            if number % 5 == 0:
                more = {"sample": {"lib": 0.5}} if number % 2 else {}
                cell.set_config(TracingConfig("info", **again, **more), timeout=0.0)
            tracer.info("x")
        cell.set_config(TracingConfig("info", rate={"app.tick": "5/h"}), timeout=0.0)
        for _ in range(20):
            tracer.info("another rate")
        emitter = emitters.current_emitter()
        cell.set_config(TracingConfig("info"), timeout=0.0)
        roam.info("all")
        assert emitter.sampler is None
        emitter.report_suppressed(at_once=True)
        records, statistics = arrived(cell), cell.statistics()
    assert messages(records) == ["x"] * 10 + ["another rate"] * 5 + ["all", "kept out"]
    assert statistics.suppressed["app.tick"] == 55
    assert records[-1].fields == {"app.tick": 55}


def test_rates_are_for_events():
    """No span begins or ends unseen because of one."""
    with in_process(TracingConfig("info", rate={"app.tick": "1/h"})) as (_, cell):
        for _ in range(5):
            with tracer.span("request"):
                pass
        assert len(arrived(cell)) == 10


def test_a_target_may_be_anything():
    """A log record has any name; what has no text, or cannot be looked up, is below no key."""

    class Unspeakable:
        def __str__(self):
            raise ValueError

    found = Counting({"5=info": 0.0})
    assert not found.admits(INFO, 5)
    assert not found.admits(INFO, 5.5)
    assert found.admits(INFO, ["a"])
    assert found.admits(INFO, Unspeakable())


def test_what_is_told_keeps_to_the_size_of_a_record():
    """However long the keys are."""
    keys = {f"{'long' * 15}{number}": 0 for number in range(20)}
    with in_process(TracingConfig("info", sample=keys), segment=SegmentConfig(record_bytes=512)) as (_, cell):
        for key in keys:
            roam.get_tracer(key).info("x")
        emitter, sizes = emitters.current_emitter(), []
        write = emitter.writer.write
        emitter.writer.write = lambda lane, payload, seen: (sizes.append(len(payload)), write(lane, payload, seen))[1]
        emitter.report_suppressed(at_once=True)
        assert messages(arrived(cell)) == ["kept out"]
        assert sizes[0] <= 512
