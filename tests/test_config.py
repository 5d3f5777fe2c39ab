"""Configurations: what they are, and that a cell obeys the newest from the moment it says so."""

from __future__ import annotations

import signal
import threading
import time

import pytest

import roam
from roam.errors import ConfigTooLarge, FilterError, HostClosed
from roam.tracing import emitter as emitters
from roam.tracing.config import ConfigResult, TracingConfig
from roam.tracing.host import TracingHost
from tests import traced
from tests.hosting import arrived, in_process, messages, plain
from tests.support import wait_until


def test_the_filter_comes_from_the_environment_where_none_is_given(monkeypatch):
    """`ROAM_FILTER`, else `info`; a variable that is set and empty does not switch tracing off."""
    monkeypatch.delenv("ROAM_FILTER", raising=False)
    assert str(TracingConfig().capture) == "info"
    monkeypatch.setenv("ROAM_FILTER", "app=debug")
    assert str(TracingConfig().capture) == "off,app=debug"
    assert str(TracingConfig("error").capture) == "error"
    monkeypatch.setenv("ROAM_FILTER", "")
    assert str(TracingConfig().capture) == "info"
    monkeypatch.setenv("ROAM_FILTER", "app=loud")
    with pytest.raises(FilterError) as caught:
        TracingConfig()
    assert "ROAM_FILTER" in caught.value.__notes__[0]


@pytest.mark.parametrize("text", ["", "off", "info", "info,app.db=debug,ü.x=trace"])
@pytest.mark.parametrize("span_events", [True, False])
def test_what_travels_is_what_arrives(text, span_events):
    """A configuration survives the way to the cell; nothing else is taken for one."""
    config = TracingConfig(text, span_events=span_events)
    assert TracingConfig.from_bytes(config.to_bytes()) == config

    for body in (b"", b"x info", b"1 a=loud", b"\xff\xff", b"1"[:0] + b" info", b"9" * 5000 + b" info"):
        with pytest.raises(ValueError):
            TracingConfig.from_bytes(body)


def test_a_configuration_is_applied_by_the_next_record():
    """Nobody who does not write has applied anything; the first record is judged by the newest configuration."""
    with in_process() as (_, cell):
        assert cell.set_config(TracingConfig("debug"), timeout=0.0) == ConfigResult(2, False)
        roam.debug("first")
        result = cell.set_config(TracingConfig("debug"), timeout=0.0)
        assert (result.generation, bool(result)) == (3, False)
        roam.debug("second")
        assert messages(arrived(cell, 2)) == ["first", "second"]


def test_no_answer_is_waited_for_longer_than_asked():
    """A cell that writes nothing costs the timeout, and then it is False."""
    with in_process() as (_, cell):
        before = time.monotonic()
        assert not cell.set_config(TracingConfig("debug"), timeout=0.2)
        assert time.monotonic() - before >= 0.2


def test_nothing_judged_by_an_older_configuration_comes_after_its_successor_was_applied():
    """Many threads write while configurations change: once one is applied, no record that it forbids is committed."""
    # r[verify shm.config.judged]
    stop = threading.Event()

    def chatter() -> None:
        while not stop.is_set():
            traced.tracer.debug("detail")
            roam.debug("detail")
            with traced.tracer.span("piece"):
                traced.tracer.info("round")
            signal_safe()

    def signal_safe() -> None:
        # Gives the other threads, and the host, their turn.
        time.sleep(0)

    with in_process(TracingConfig("debug"), retain_bytes=8 << 20) as (host, cell):
        writers = [threading.Thread(target=chatter) for _ in range(3)]
        for writer in writers:
            writer.start()
        forbidden: list[tuple[int, int, int]] = []
        try:
            for number in range(60):
                level = ("off", "info", "error")[number % 3]
                assert cell.set_config(TracingConfig(level), timeout=10.0)
                applied_ns = link_of(host, cell).anchor.to_wall_ns(time.monotonic_ns())
                threshold = {"off": 100, "info": 20, "error": 40}[level]
                for _ in range(3):
                    time.sleep(0)
                ended_ns = link_of(host, cell).anchor.to_wall_ns(time.monotonic_ns())
                assert cell.set_config(TracingConfig("debug"), timeout=10.0)
                forbidden.append((applied_ns, ended_ns, threshold))
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        found = arrived(cell)

    assert len(found) > 100
    for applied_ns, ended_ns, threshold in forbidden:
        wrong = [r for r in found if applied_ns < r.time_ns < ended_ns and r.level < threshold]
        assert not wrong, (threshold, wrong[:3])


def link_of(host, cell):
    """The host's end of a cell, for its clock."""
    return next(link for link in host._peers.all if link.peer == cell.peer)


def test_two_threads_that_take_a_configuration_never_put_an_older_one_in_force():
    """While one thread is between reading a configuration and taking it, another cannot take a newer one that is then undone."""
    with in_process(TracingConfig("debug")) as (_, cell):
        emitter = emitters.current_emitter()
        parse, entered, release = emitters._parse, threading.Event(), threading.Event()

        def slow_parse(body):
            if b"error" in body:
                entered.set()
                release.wait(10)
            return parse(body)

        emitters._parse = slow_parse
        try:
            cell.set_config(TracingConfig("error"), timeout=0.0)
            one = threading.Thread(target=roam.info, args=("one",))
            one.start()
            assert entered.wait(10)
            cell.set_config(TracingConfig("off"), timeout=0.0)
            roam.critical("two")
            assert emitter.filter == TracingConfig("debug").capture
            release.set()
            one.join()
            roam.critical("three")
        finally:
            emitters._parse = parse
            release.set()
        assert str(emitter.filter) == ""
        assert messages(arrived(cell)) == []
        assert cell.set_config(TracingConfig("off"), timeout=0.0).generation == 4


def test_a_signal_handler_that_takes_a_newer_configuration_is_not_undone():
    """The outer call that was taking an older one leaves the newer one in force."""
    with in_process(TracingConfig("debug")) as (_, cell):
        emitter = emitters.current_emitter()
        parse = emitters._parse

        def interrupted_parse(body):
            if b"error" in body:
                cell.set_config(TracingConfig("critical"), timeout=0.0)
                signal.raise_signal(signal.SIGUSR1)
            return parse(body)

        in_force = []
        acknowledge = emitter.writer.acknowledge
        emitter.writer.acknowledge = lambda number: (in_force.append(emitter.generation), acknowledge(number))
        before = signal.signal(signal.SIGUSR1, lambda *_: roam.critical("handler"))
        emitters._parse = interrupted_parse
        try:
            cell.set_config(TracingConfig("error"), timeout=0.0)
            roam.error("outer")
        finally:
            emitters._parse = parse
            signal.signal(signal.SIGUSR1, before)
        assert in_force == [3, 3]
        assert str(emitter.filter) == "critical"
        assert messages(arrived(cell)) == ["handler"]


def test_a_span_obeys_the_configuration_of_its_end():
    """What is written of a span, at any time, is judged by what is in force then; the table of open spans is kept."""
    with in_process() as (_, cell), roam.span("outer") as outer:
        cell.set_config(TracingConfig("off"), timeout=0.0)
        roam.info("never")
        outer.record(a=1)
        assert [span.fields for span in cell.open_spans()] == [{"a": 1}]
        with roam.span("hidden"):
            assert [span.name for span in cell.open_spans()] == ["outer"]
        cell.set_config(TracingConfig("info", span_events=False), timeout=0.0)
        with roam.span("silent"):
            assert [span.name for span in cell.open_spans()] == ["outer", "silent"]
        prepared = roam.span("prepared")
        cell.set_config(TracingConfig("off"), timeout=0.0)
        roam.info("never")
        with prepared:
            pass
        assert [(record.kind, record.message) for record in arrived(cell)] == [("span_enter", "outer")]


def test_a_configuration_that_does_not_fit_changes_nothing():
    """It is refused with both sizes; what was in force stays, for the host, its cells and new ones."""
    large = TracingConfig(",".join(f"target{number}=debug" for number in range(1000)))
    with in_process() as (host, cell):
        for refuse in (host.set_config, cell.set_config):
            with pytest.raises(ConfigTooLarge) as caught:
                refuse(large)
            assert caught.value.size_bytes > caught.value.limit_bytes > 3000
        assert str(host.config.capture) == "info"
        roam.debug("no")
        roam.info("yes")
        assert messages(arrived(cell, 1)) == ["yes"]
    with pytest.raises(ConfigTooLarge):
        TracingHost(large)


def test_only_a_configuration_is_one():
    """A filter where a configuration belongs is misuse, with the remedy, and leaves nothing behind."""
    with pytest.raises(TypeError, match=r"TracingConfig\('info'\)"):
        TracingHost("debug", forward=False)
    with in_process() as (host, cell):
        for refuse in (host.set_config, cell.set_config):
            with pytest.raises(TypeError, match="TracingConfig"):
                refuse("debug")


def test_forward_narrows_what_leaves_the_host():
    """`forward` is for subscribers and logging; the host keeps what was captured, and notices of loss always leave."""
    with in_process(TracingConfig("debug", forward="warning,app=info")) as (host, cell), host.subscribe() as records:
        roam.debug("kept")
        roam.warning("leaves")
        roam.get_tracer("app.x").info("leaves too")
        assert len(arrived(cell, 3)) == 3
        assert [records.get(5).record.message, records.get(5).record.message] == ["leaves", "leaves too"]
        host.set_config(TracingConfig("debug"), timeout=0.0)
        roam.debug("now")
        assert records.get(5).record.message == "now"
        assert records.get(0) is None


def test_one_timeout_holds_for_all_cells(tmp_path):
    """Every owner gets its answer, by name pattern, after one timeout for all together; new cells get the newest."""
    stop = tmp_path / "stop"
    with roam.TracingHost(TracingConfig("error"), forward=False) as host:
        cells = [
            roam.spawn_cell(traced.chatter, str(stop), name=f"chatter-{number}", host=host, start_method="spawn")
            for number in range(2)
        ]
        ready = tmp_path / "ready"
        silent = roam.spawn_cell(traced.wait_for, str(stop), str(ready), name="silent", host=host, start_method="spawn")
        wait_until(ready.exists)
        wait_until(lambda: all(host.set_config(TracingConfig("error"), cells="chatter-*", timeout=1.0).values()))
        assert silent not in host.set_config(TracingConfig("error"), cells="chatter-*", timeout=0.0)
        before = time.monotonic()
        answers = host.set_config(TracingConfig("info,app=debug"), timeout=0.5)
        elapsed_s = time.monotonic() - before
        assert {cell: bool(answer) for cell, answer in answers.items()} == {
            cells[0]: True,
            cells[1]: True,
            silent: False,
        }
        assert elapsed_s < 5.0
        late = roam.spawn_cell(traced.emit, 3, 10, host=host, start_method="spawn")
        late.result(30)
        assert [record.level for record in late.records()] == [10] * 3
        assert str(host.config.capture) == "info,app=debug"
        stop.touch()
        for cell in cells:
            assert cell.result(30) > 0


def test_a_real_cell_writes_nothing_forbidden_after_it_has_acknowledged(tmp_path):
    """The same promise across processes: what comes after "applied" was judged by that configuration or a newer one."""
    stop = tmp_path / "stop"
    windows = []
    with roam.TracingHost(TracingConfig("debug"), forward=False, retain_bytes=64 << 20) as host:
        cell = roam.spawn_cell(traced.chatter, str(stop), host=host, start_method="spawn")
        wait_until(cell.records)
        for number in range(20):
            level, threshold = (("off", 100), ("info", 20))[number % 2]
            assert cell.set_config(TracingConfig(level), timeout=10.0)
            since_ns = time.time_ns()
            time.sleep(0.001)
            until_ns = time.time_ns()
            assert cell.set_config(TracingConfig("debug"), timeout=10.0)
            windows.append((since_ns, until_ns, threshold))
        stop.touch()
        cell.result(30)
        found = cell.records()

    # The clocks of the two may differ by what the host's wall clock was stepped meanwhile: nothing, in a test.
    for since_ns, until_ns, threshold in windows:
        assert not [r for r in found if since_ns < r.time_ns < until_ns and r.level < threshold]
    assert {"detail", "round", "piece"} <= {record.message for record in found}


def test_a_dead_or_closed_cell_applies_nothing():
    """After the end nobody is waited for."""
    with in_process() as (host, cell):
        roam.info("hello")
    before = time.monotonic()
    assert cell.set_config(TracingConfig("debug"), timeout=30.0) == ConfigResult(0, False, "the cell has ended")
    assert time.monotonic() - before < 10
    with pytest.raises(HostClosed):
        host.set_config(TracingConfig("debug"))


def test_a_damaged_mailbox_leaves_the_old_configuration_in_force():
    """The cell goes on by what it has, does not acknowledge, and takes the next that is whole."""
    # r[verify shm.config.keep]
    with in_process() as (host, cell):
        roam.info("one")
        link = link_of(host, cell)
        real, link._post._mailbox._write = link._post._mailbox._write, lambda offset, data: damage(real, offset, data)
        result = cell.set_config(TracingConfig("off"), timeout=0.0)
        roam.info("two")
        assert link.acknowledged(result, 0.0) == ConfigResult(2, False)
        link._post._mailbox._write = real
        cell.set_config(TracingConfig("error"), timeout=0.0)
        roam.info("three")
        roam.error("four")
        assert messages(arrived(cell, 3)) == ["one", "two", "four"]
        assert [record.message for record in plain(host.records(cell=cell.peer))] == ["one", "two", "four"]


def damage(write, offset, data):
    """Stores a slot with one bit wrong, and the word as it is."""
    write(offset, data if len(data) == 8 else data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"overflow": 5}, "overflow=5: expected a policy"),
        ({"overflow": None}, "overflow=None: expected a policy"),
        ({"overflow": {"bulk": 5}}, r"overflow\['bulk'\] = 5: a policy is a text"),
        ({"redact": None}, "redact=None: expected names"),
        ({"redact": b"ab"}, "one name and not several"),
    ],
)
def test_options_of_a_wrong_type_are_refused(options, text):
    """With the name of the option and what would be right."""
    with pytest.raises(TypeError, match=text):
        TracingConfig("info", **options)


# r[verify trace.config.result]
def test_a_peer_without_room_for_more_keys_refuses_and_the_others_apply():
    """It says why, and keeps what it has; where that is the host itself, nothing changes anywhere."""
    keys = [{f"{letter}{number}": 0.5 for number in range(40)} for letter in "abc"]
    with TracingHost(TracingConfig("info"), forward=False) as host:
        one, other = (host.register_peer(name, owner=Owner(), in_process=True) for name in ("one", "other"))
        other.set_config(TracingConfig("info", sample=keys[0]), timeout=0.0)
        before = other.config
        wanted = TracingConfig("debug", sample=keys[1])

        answers = host.set_config(wanted, timeout=0.0)
        refused = ConfigResult(
            0, False, "a cell counts for 48 keys of sample and rate in its life, and this would be 80"
        )
        assert answers == {one.owner: ConfigResult(2, False), other.owner: refused}
        assert other.set_config(wanted, timeout=0.0) == refused
        assert [host.config, host._own.config, one.config, other.config] == [wanted, wanted, wanted, before]

        with pytest.raises(ValueError, match="48 keys"):
            host.set_config(TracingConfig("error", sample=keys[2]), timeout=0.0)
        assert [host.config, host._own.config, one.config, other.config] == [wanted, wanted, wanted, before]


class Owner:
    """Stands behind a peer that has no process."""

    exit = dump_path = None

    def conclude(self, remains) -> None:
        """Nothing is left of it."""

    def end(self) -> None:
        """There is nothing to end."""


# r[verify trace.config.refused]
# r[verify trace.config.result]
def test_a_cell_says_that_it_does_not_understand_a_configuration(monkeypatch, tmp_path):
    """A real cell that can read it and make nothing of it goes on by the one before, and takes the next."""
    stop = tmp_path / "stop"
    with roam.TracingHost(TracingConfig("error"), dump_dir=tmp_path, forward=False) as host:
        cell = roam.spawn_cell(traced.chatter, str(stop), host=host, start_method="spawn")
        assert cell.set_config(TracingConfig("error"), timeout=30.0) == ConfigResult(2, True)
        with monkeypatch.context() as patch:
            patch.setattr(TracingConfig, "to_bytes", lambda *_: b'["debug", "of another version"]')
            result = host.set_config(TracingConfig("debug"), timeout=30.0)[cell]
        assert (result.generation, result.applied) == (3, False)
        assert "does not understand" in result.refused
        emitted = cell.statistics().lanes["bulk"].emitted
        assert cell.set_config(TracingConfig("info"), timeout=30.0) == ConfigResult(4, True)
        wait_until(cell.records)
        stop.touch()
        assert cell.result(30) > 0
        assert emitted == 0
        assert "detail" not in messages(cell.records())


# r[verify trace.config.refused]
def test_what_is_not_understood_is_not_tried_again(monkeypatch):
    """It costs one record the attempt, and the following ones nothing."""
    with in_process() as (host, cell):
        parse, tried = emitters._parse, []
        monkeypatch.setattr(emitters, "_parse", lambda body: tried.append(body) or parse(body))
        link_of(host, cell)._post._mailbox.post(b"[]")
        for _ in range(3):
            roam.info("yes")
            roam.debug("no")
        assert tried == [b"[]"]
        assert messages(arrived(cell, 3)) == ["yes"] * 3


# r[verify trace.config.result]
def test_a_cell_that_ends_meanwhile_refuses_at_once(tmp_path):
    """Nobody waits for the dead: before, and while they are waited for."""
    with roam.TracingHost(TracingConfig("info"), dump_dir=tmp_path, forward=False) as host:
        cell = roam.spawn_cell(traced.wait_for, str(tmp_path / "never"), str(tmp_path / "ready"), host=host)
        wait_until((tmp_path / "ready").exists)
        assert cell.set_config(TracingConfig("debug"), timeout=0.0) == ConfigResult(2, False)
        killer = threading.Timer(0.2, cell.kill)
        killer.start()
        before = time.monotonic()
        assert host.set_config(TracingConfig("debug"), timeout=60.0) == {
            cell: ConfigResult(3, False, "the cell has ended")
        }
        killer.join()
        assert cell.join(30) is not None
        assert cell.set_config(TracingConfig("debug"), timeout=60.0) == ConfigResult(0, False, "the cell has ended")
        assert time.monotonic() - before < 30
