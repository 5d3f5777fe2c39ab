"""`CellCrashed`: a post-mortem in the text of an exception, at most 80 lines, made when it is asked for."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import pickle
import re
import signal
import weakref

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import roam
from roam.errors import CellCrashed
from roam.exit import CellExit, Confidence, ExitKind
from roam.postmortem import PostMortem
from roam.postmortem.brief import MOST_LINES
from roam.postmortem.document import document
from roam.postmortem.format import decode, encode
from roam.postmortem.stacks import crashing_stack
from roam.stage import ExceptionText
from tests.remains import FAULT_TEXT, SECOND, WALL_NS, enter, event, make_exit, make_remains, make_span
from tests.test_postmortem import ANY_TEXT

WAIT_S = 30
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def crash(name):
    with roam.span("job", name=name):
        for number in range(30):
            roam.info("step", number=number)
        ctypes.string_at(0)


def leave(code):
    roam.info("about to leave")
    os._exit(code)


def complain(text):
    raise ValueError(text)


def crashed(target, *arguments, **options):
    cell = roam.spawn_cell(target, *arguments, **options)
    with pytest.raises(CellCrashed) as caught:
        cell.result(WAIT_S)
    return cell, caught.value


# r[verify dump.crashed.brief]
def test_the_text_tells_what_has_to_be_known():
    """How it died, where all of it is, the last 20 records, the open spans, the crashing stack, and the cause last."""
    with roam.TracingHost(forward=False) as host:
        cell, error = crashed(crash, "a\x1b[31m.csv", name="worker", host=host)
        lines = str(error).splitlines()

        assert lines[0].startswith("cell 'worker' died: killed with SIGSEGV (signal 11) in stage run. Run `roam show ")
        assert str(cell.dump_path) in lines[0]
        landmarks = [
            "records, last 20 of 31",
            "step  number=29  in job",
            "open spans, outermost first",
            'job  name="a\\x1b[31m.csv"',
            "stack",
            " in string_at",
            " in crash",
            'cell "worker" killed with SIGSEGV',
            "verdict: Segmentation fault",
        ]
        places = [next(at for at, line in enumerate(lines) if landmark in line) for landmark in landmarks]
        assert places == sorted(places)
        assert sum("step  number" in line for line in lines) == 20
        assert places[-1] == len(lines) - 1 < 80
        assert (error.name, error.exit, error.dump_path) == ("worker", cell.exit, str(cell.dump_path))


# r[verify dump.crashed.brief]
@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
def test_text_and_facts_survive_pickling(copied, tmp_path):
    """Also the text that nobody had asked for yet, without the dump, and as often as it is done."""
    with roam.TracingHost(forward=False, dump_dir=tmp_path) as host:
        cell, error = crashed(leave, 3, host=host)
        other = copied(copied(error))
        for dump in tmp_path.iterdir():
            dump.unlink()

        assert type(other) is CellCrashed
        assert str(other) == str(error)
        assert "about to leave" in str(other)
        assert (other.name, other.exit, other.dump_path) == (cell.name, cell.exit, str(cell.dump_path))


def test_a_handle_is_shown_without_control_characters():
    """How its cell ended is in the representation, and what the cell wrote of that does not reach a terminal raw."""
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(complain, "\x1b[31m", host=host)
        cell.join(WAIT_S)
        assert "raised ValueError" in repr(cell)
        assert not UNSAFE.search(repr(cell))


def test_a_crash_costs_nothing_if_nobody_asks(monkeypatch):
    """The dump is read when the text is wanted, and once."""
    loads = []
    real = PostMortem.brief
    monkeypatch.setattr(PostMortem, "brief", lambda pm: loads.append(pm) or real(pm))
    with roam.TracingHost(forward=False) as host:
        cell, error = crashed(leave, 3, host=host)
        assert (loads, cell._load.cache_info().misses) == ([], 0)
        assert len({str(error), str(error)}) == len(loads) == 1
        assert cell._load.cache_info().misses == 1


def test_an_error_that_nobody_reads_keeps_no_handle():
    """The handle and its descriptors go with the last reference, not with the next search for cycles."""
    with roam.TracingHost(forward=False) as host:
        cell = roam.spawn_cell(leave, 3, host=host)
        handle = weakref.ref(cell)
        gc.disable()
        try:
            try:
                cell.result(WAIT_S)
            except CellCrashed as caught:
                error = caught.with_traceback(None)
            del cell
            assert handle() is None
        finally:
            gc.enable()
        assert "about to leave" in str(error)


def test_the_text_does_without_a_file(tmp_path):
    """Kept in memory the post-mortem is as good; where it is gone, how the cell died is said all the same."""
    limits = roam.DumpLimits(burst_count=1, rate_per_s=0.001)
    with roam.TracingHost(forward=False, dump_dir=tmp_path, dump_limits=limits) as host:
        cell, error = crashed(leave, 3, host=host)
        cell.dump_path.unlink()
        assert str(error).splitlines()[1:] == ["its post-mortem cannot be read any more"]
        cell, error = crashed(leave, 4, host=host)
        assert (cell.dump_path, error.dump_path) == (None, None)
        assert "exited with code 4" in str(error).splitlines()[0]
        assert "Look at its `post_mortem`" in str(error)
        assert "about to leave" in str(error)


# r[verify dump.crashed.brief]
# r[verify dump.render.escape]
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_TEXT, ANY_TEXT, st.integers(0, 60))
def test_no_text_of_a_cell_makes_it_long_or_unsafe(one, other, count):
    """However many records, spans, frames and causes there are, and whatever stands in them: at most 79 lines, none of
    them endless, none forged, the verdict last."""
    frames = f'  File "{other}", line 1 in {one}\n' * count
    pm = PostMortem.of(
        make_remains(
            [event(20, one + "x" * 50 * count, {other: one})] * count + [enter(number, one) for number in range(count)],
            name=one,
            open_spans=[make_span(number, other) for number in range(count)],
            fault_text=f"Fatal Python error: {one}\nCurrent thread 0x1 (most recent call first):\n{frames}".encode(
                "utf-8", "surrogatepass"
            ),
        ),
        make_exit(
            kind=ExitKind.RAISED,
            signal=None,
            verdict=one,
            evidence=(other,) * count,
            steps=(one,) * count,
            exception=ExceptionText(one, other, f"{one}\n" * count),
        ),
        {},
    )
    error = CellCrashed(name=one, exit=pm.exit, dump_path=None, brief=pm.brief)
    lines = str(error).split("\n")

    assert len(pm.brief().split("\n")) <= MOST_LINES == 79
    assert len(lines) <= 80
    assert max(map(len, lines)) < 1000
    assert not UNSAFE.search(str(error))
    assert lines[-1].startswith("verdict: ")


def stack(kind, function):
    return f'{kind} (most recent call first):\n  File "a", line 1 in {function}\n'


@pytest.mark.parametrize(
    ("text", "functions"),
    [
        ("", []),
        ("no stacks\n  at all", []),
        (FAULT_TEXT.decode("utf-8", "backslashreplace"), ["boom", "<module>"]),
        (stack("Current thread 0x1", "hung") + stack("Thread 0x2", "other"), ["hung"]),
        (stack("Thread 0x2", "other") + stack("Thread 0x1", "main") + "\nExtension modules: x\n", ["main"]),
        (stack("Current thread 0x1", "asked") + "Fatal Python error: Aborted\n\n" + stack("Stack", "died"), ["died"]),
    ],
    ids=["empty", "none", "fatal", "asked for", "no current", "asked for and fatal"],
)
def test_the_stack_that_matters_is_found(text, functions):
    """That of the fatal error, else that of the thread which was asked, else that of the main thread."""
    assert [line.rpartition(" ")[2] for line in crashing_stack(text)] == functions


# How the new facts of an exit are shown.


def stopped_exit(**rest):
    return make_exit(
        kind=ExitKind.KILLED_BY_HOST,
        signal=int(signal.SIGKILL),
        verdict="killed by its host",
        confidence=Confidence.CERTAIN,
        last_beat_ns=WALL_NS + 7 * SECOND,
        steps=("asked to stop after 1.000 s", "SIGTERM sent after 6.000 s \x1b"),
        evidence=("it had not beaten",),
        **rest,
    )


def test_steps_confidence_and_the_last_beat_are_shown():
    """What the host did stands before the verdict, which says how sure it is; the beat is an age, with its unit."""
    pm = PostMortem.of(make_remains(), stopped_exit(), {})

    assert pm.render().splitlines()[-4:] == [
        "  host: asked to stop after 1.000 s",
        "  host: SIGTERM sent after 6.000 s \\x1b",
        "  evidence: it had not beaten",
        "verdict: killed by its host (certain)",
    ]
    assert re.search(r"^  last beat before end +3 s$", pm.render(), re.MULTILINE)
    found = document(pm)["exit"]
    assert (found["confidence"], found["last_beat_ns"]) == ("certain", WALL_NS + 7 * SECOND)
    assert found["steps"] == ["asked to stop after 1.000 s", "SIGTERM sent after 6.000 s \x1b"]


def test_dumps_from_before_still_load(monkeypatch):
    """A dump whose exit knows nothing of confidence, beats and steps has them as unknown, and shows none."""
    data = b"".join(encode(make_remains(), stopped_exit(), {}))
    assert decode(data, "x").exit == stopped_exit()

    from roam.postmortem import format as format_module

    real = format_module.plain

    def plain(value):
        found = real(value)
        if isinstance(found, dict) and "exit" in found:
            for name in ("confidence", "last_beat_ns", "steps"):
                del found["exit"][name]
        return found

    monkeypatch.setattr(format_module, "plain", plain)
    old = decode(b"".join(encode(make_remains(), stopped_exit(), {})), "x")
    assert (old.damage, old.exit.confidence, old.exit.steps, old.exit.last_beat_ns) == (
        [],
        Confidence.UNKNOWN,
        (),
        None,
    )
    text = PostMortem.of(old.remains, old.exit, {}).render()
    assert text.endswith("verdict: killed by its host\n")
    assert "last beat" not in text


def test_an_exit_survives_msgpack():
    """Every field of an exit comes back from a dump as it went in."""
    ended = stopped_exit(code=3, core_dumped=True, cpu_s=0.5)
    assert msgspec.convert(msgspec.to_builtins(ended), CellExit) == ended
