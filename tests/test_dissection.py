"""Exceptions in parts: what is kept of them, within which bounds, and how they reach the host."""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import types

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import roam
from roam.errors import RecordError, SpawnFailed
from roam.exit import ExitKind
from roam.postmortem import PostMortem
from roam.postmortem.document import document, json_text
from roam.postmortem.format import decode, encode
from roam.spawn import answer
from roam.stage import ExceptionText, Frame, Stage
from roam.tracing import codec
from roam.tracing.dissection import check_bounds, dissect_exception
from roam.tracing.exceptions import MAX_CHAIN, MAX_FRAMES, MAX_GROUP_DEPTH, MAX_NOTES, describe_exception
from tests.remains import TRACE_ID, make_exit, make_remains, span_id

METHODS = ("forkserver", "spawn", "fork")
WAIT_S = 30.0
TEXT_BYTES = 64 << 10
JSON_BYTES = 16 << 20


@pytest.fixture
def host(tmp_path):
    with roam.TracingHost(dump_dir=tmp_path / "dumps") as host:
        yield host


def caught(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError


def dissected(function, *args):
    return dissect_exception(caught(function, *args))


def line_of(function, offset):
    return function.__code__.co_firstlineno + offset


def all_of(text):
    """An exception and everything that hangs on it."""
    links = [link for link in (text.cause, text.context, *text.members) if link is not None]
    return [text, *(one for link in links for one in all_of(link))]


def fail(text):
    raise ValueError(text)


def fail_with_cause():
    try:
        fail("first")
    except ValueError as error:
        raise KeyError("second") from error


def fail_while_handling():
    try:
        fail("first")
    except ValueError:
        fail("second")


def fail_out_of_context():
    try:
        fail("first")
    except ValueError:
        raise KeyError("second") from None


def fail_together():
    errors = [caught(fail, "one"), ExceptionGroup("inner", [caught(fail, "two")])]
    group = ExceptionGroup("outer", errors)
    group.add_note("a note")
    raise group


def dive(depth):
    if depth:
        dive(depth - 1)
    raise ValueError


# What is in it.


# r[verify spawn.exception]
def test_frames_are_kept_with_their_source():
    """File, line, function and source of each, outermost first; the text is that of the description."""
    error = caught(fail_while_handling)
    text = dissect_exception(error)

    assert text[:3] == describe_exception(error, TEXT_BYTES)[:3]
    assert text.frames[1:] == (
        Frame(__file__, line_of(fail_while_handling, 4), "fail_while_handling", 'fail("second")'),
        Frame(__file__, line_of(fail, 1), "fail", "raise ValueError(text)"),
    )
    assert (text.frames_left_out, text.left_out) == (0, 0)


def test_a_chain_is_kept_as_the_interpreter_shows_it():
    """A cause is a cause, a context a context, and one that is not shown says so."""
    cause = dissected(fail_with_cause)
    context = dissected(fail_while_handling)
    suppressed = dissected(fail_out_of_context)

    assert (cause.cause.message, cause.context, cause.is_context_suppressed) == ("first", None, True)
    assert (context.cause, context.context.message, context.is_context_suppressed) == (None, "first", False)
    assert (suppressed.cause, suppressed.context.message, suppressed.is_context_suppressed) == (None, "first", True)
    assert cause.cause.frames[-1].function == "fail"
    assert cause.cause.traceback == ""
    assert [one.left_out for one in (cause, context, suppressed)] == [0, 0, 0]


def test_groups_and_notes_are_kept():
    """Members have their own parts, and groups in groups are groups."""
    text = dissected(fail_together)

    assert (text.type, text.notes, text.notes_left_out) == ("ExceptionGroup", ("a note",), 0)
    one, inner = text.members
    assert (one.type, one.message, one.frames[-1].function) == ("ValueError", "one", "fail")
    assert [member.message for member in inner.members] == ["two"]
    assert text.left_out == inner.left_out == 0


def test_what_is_too_much_is_left_out_and_counted():
    """Long stacks keep both ends, and long chains, wide and deep groups and many notes their beginning."""
    deep = dissected(dive, 199)
    assert (len(deep.frames), deep.frames_left_out) == (MAX_FRAMES, 201 - MAX_FRAMES)
    assert (deep.frames[0].function, deep.frames[-1].line) == ("caught", line_of(dive, 3))

    long = error = ValueError(0)
    for number in range(1, 100):
        error.__cause__ = error = ValueError(number)
    chain = all_of(dissect_exception(long))
    assert [one.message for one in chain] == [str(number) for number in range(MAX_CHAIN)]
    assert [one.left_out for one in chain] == [0] * (MAX_CHAIN - 1) + [1]

    wide = dissect_exception(ExceptionGroup("wide", [ValueError(number) for number in range(10_000)]))
    assert (len(wide.members), wide.left_out) == (MAX_CHAIN - 1, 10_000 - MAX_CHAIN + 1)

    nested: Exception = ValueError()
    for _ in range(10):
        nested = ExceptionGroup("nested", [nested])
    groups = all_of(dissect_exception(nested))
    assert [one.left_out for one in groups] == [0] * MAX_GROUP_DEPTH + [1]

    noted = ValueError()
    for number in range(50):
        noted.add_note(str(number))
    text = dissect_exception(noted)
    assert (len(text.notes), text.notes_left_out) == (MAX_NOTES, 50 - MAX_NOTES)


def test_what_hangs_on_itself_is_kept_once():
    """Cycles end where they begin; what hangs on two is with the first."""
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    text = dissect_exception(one)
    assert [part.message for part in all_of(text)] == ["1", "2"]
    assert text.cause.left_out == 1

    shared = ValueError("shared")
    group = dissect_exception(ExceptionGroup("group", [shared, shared]))
    assert (len(group.members), group.left_out) == (1, 1)


def test_a_fault_in_the_parts_leaves_the_text(monkeypatch):
    """Where the parts cannot be had, type, message and traceback are there."""
    error = caught(fail, "no")
    monkeypatch.setattr("roam.tracing.dissection.notes_of", lambda _exc: 1 / 0)

    assert dissect_exception(error) == describe_exception(error, TEXT_BYTES)


class Hostile(Exception):
    """Raises, or answers with too much, whatever it is asked."""

    def __init__(self, how):
        self.how = how

    def __str__(self):
        if self.how == 0:
            raise GeneratorExit
        return "\x01" * 1_000_000 if self.how == 1 else "\udcff\U0001f600" * 100_000

    def __getattribute__(self, name):
        if name in ("how", "__class__"):
            return super().__getattribute__(name)
        raise RuntimeError(name)


def raise_in_strange_code(error, name):
    """`error`, raised in code with a long name, a long file name and a long line of source."""
    code = compile(f"def strange():\n    raise error{' ' * 5000}#", name * 100, "exec")
    scope = {"error": error}
    exec(code, scope)
    scope["strange"].__code__ = scope["strange"].__code__.replace(co_name=name * 100)
    return caught(scope["strange"])


@st.composite
def exception_graphs(draw):
    """Any number of exceptions, raised or not, each hanging on any others, in circles too."""
    errors = [
        draw(
            st.sampled_from(
                [
                    ValueError("x" * draw(st.integers(0, 20_000))),
                    Hostile(draw(st.integers(0, 2))),
                    caught(fail, draw(st.text(max_size=5))),
                    caught(dive, draw(st.integers(0, 100))),
                    raise_in_strange_code(KeyError("strange"), draw(st.sampled_from(["<a>", "\x02", "é"]))),
                ]
            )
        )
        for _ in range(draw(st.integers(1, 12)))
    ]
    for _ in range(draw(st.integers(0, 3))):
        members = draw(st.lists(st.sampled_from(errors), min_size=1, max_size=40))
        errors.append(BaseExceptionGroup("group", members))
    some = st.none() | st.sampled_from(errors)
    for error in errors:
        BaseException.__dict__["__cause__"].__set__(error, draw(some))
        BaseException.__dict__["__context__"].__set__(error, draw(some))
        BaseException.__dict__["__suppress_context__"].__set__(error, draw(st.booleans()))
    return draw(st.sampled_from(errors))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(exception_graphs())
def test_any_exception_is_within_the_bounds(error):
    """Whatever hangs on what, it is kept within the bounds of the answer and of a dump, and comes back as it was."""
    text = dissect_exception(error)
    check_bounds(text)
    packed = msgspec.json.encode(text)

    assert len(packed) < JSON_BYTES
    assert msgspec.json.decode(packed, type=ExceptionText) == text
    assert len(all_of(text)) <= MAX_CHAIN
    exit = make_exit(kind=ExitKind.RAISED, signal=None, exception=text)
    assert decode(b"".join(encode(make_remains(), exit, {})), "dump").exit == exit


class Talkative(Exception):
    """Has as much to say as there is room for."""

    def __str__(self):
        return "\x01" * 1_000_000


def test_the_largest_exception_fits(monkeypatch):
    """The most that can hang together, of texts that JSON makes six times longer, is taken by the host."""
    file = "\x01" * 1000
    monkeypatch.setitem(linecache.cache, file, (1, None, ["x" + "\x01" * 1000 + "x\n"] * 3, file))
    scope = {}
    exec(compile("def dive(n):\n  if n: dive(n - 1)\n  raise error", file, "exec"), scope)
    scope["dive"].__code__ = scope["dive"].__code__.replace(co_name="\x01" * 1000)
    errors = []
    for _ in range(MAX_CHAIN):
        scope["error"] = Talkative()
        for _ in range(MAX_NOTES):
            scope["error"].add_note("\x01" * 1000)
        errors.append(caught(scope["dive"], 100))
    for one, other in itertools.pairwise(errors):
        BaseException.__dict__["__cause__"].__set__(one, other)
    fd = os.memfd_create("answer")
    length = answer.write(fd, answer.RAISED, None, dissect_exception(errors[0]), main_is_importable=True)

    found = answer.read(fd, length)
    assert len(all_of(found.text)) == MAX_CHAIN
    assert {len(one.frames) for one in all_of(found.text)} == {MAX_FRAMES}
    assert found.text.frames[-1] == ("\x01" * 512, 3, "\x01" * 256, "x" + "\x01" * 511)
    found.close()


# What the host takes.


def chain_of(count, link):
    text = ExceptionText("E", "m", "")
    for _ in range(count - 1):
        text = ExceptionText("E", "m", "", **({link: (text,)} if link == "members" else {link: text}))
    return text


UNBOUNDED = {
    "chain": chain_of(MAX_CHAIN + 1, "cause"),
    "contexts": chain_of(200, "context"),
    "depth": chain_of(MAX_GROUP_DEPTH + 2, "members"),
    "members": ExceptionText("E", "m", "", members=(ExceptionText("E", "m", ""),) * (MAX_CHAIN + 1)),
    "frames": ExceptionText("E", "m", "", frames=(Frame("f", 1, "g", ""),) * (MAX_FRAMES + 1)),
    "notes": ExceptionText("E", "m", "", notes=("n",) * (MAX_NOTES + 1)),
    "line": ExceptionText("E", "m", "", frames=(Frame("f", 2**80, "g", ""),)),
    "type": ExceptionText("E" * 257, "m", ""),
    "message": ExceptionText("E", "m" * (TEXT_BYTES // 4 + 1), ""),
    "traceback": ExceptionText("E", "m", "t" * (TEXT_BYTES + 1)),
    "note": ExceptionText("E", "m", "", notes=("n" * 513,)),
    "source": ExceptionText("E", "m", "", cause=ExceptionText("E", "m", "", frames=(Frame("f", 1, "g", "s" * 513),))),
    "file": ExceptionText("E", "m", "", frames=(Frame("f" * 513, 1, "g", ""),)),
    "function": ExceptionText("E", "m", "", frames=(Frame("f", 1, "g" * 257, ""),)),
    "negative": ExceptionText("E", "m", "", left_out=-1),
}


def written(text):
    """What the host reads of an answer whose text is these bytes."""
    fd = os.memfd_create("answer")
    os.write(fd, answer._PREFIX.pack(answer.RAISED, answer._NO_BODY, len(text)) + text)
    found = answer.read(fd, answer._PREFIX.size + len(text))
    if found is None:
        os.close(fd)
        return None
    found.close()
    return found.text


# r[verify spawn.exception.untrusted]
@pytest.mark.parametrize("which", UNBOUNDED)
def test_an_answer_beyond_the_bounds_is_not_believed(which):
    """Too many, too deep, too large a number: the host takes none of it, from an answer or from a dump."""
    text = UNBOUNDED[which]
    with pytest.raises(ValueError, match="an exception with"):
        check_bounds(text)
    assert written(msgspec.json.encode(text)) is None

    dump = b"".join(encode(make_remains(), make_exit(exception=text), {}))
    with pytest.raises(roam.RoamError, match="nothing in it says"):
        decode(dump, "dump")


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b'["E", "m"]',
        b'["E", "m", 3]',
        b'["E", "m", "t", [["f", "1", "g", "s"]]]',
        b'["E", "m", "t", [], 0, [1]]',
        b'["E", "m", "t", [], 0, [], 0, "cause"]',
        b'["E", "m", "t", [], 0, [], 0, ' + b'["E", "m", "t", [], 0, [], 0, ' * 50_000,
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_an_answer_of_other_types_is_not_believed(text):
    """Whatever bytes the cell wrote, the host has an exception of the right types or none."""
    assert written(text) is None
    assert written(b'["E", "m", "t"]') == ("E", "m", "t", *ExceptionText("", "", "")[3:])


@given(st.binary(max_size=200))
def test_any_bytes_are_an_exception_or_none(text):
    """No answer makes the host raise."""
    found = written(text)
    assert found is None or isinstance(found, ExceptionText)


def test_records_carry_the_text_alone():
    """The parts are not encoded, and a record that has them is none."""
    text = dissected(fail_together)
    body = codec.encode_event(50, "app", "m", {}, 1, span_id(0), TRACE_ID, text)
    assert codec.decode(body).exception == ExceptionText(*text[:3])

    forged = msgspec.msgpack.encode((0, 50, "app", "m", {}, 1, span_id(0), TRACE_ID, chain_of(3, "cause")))
    with pytest.raises(RecordError, match="more than its text"):
        codec.decode(forged)


# Where it goes.


def test_dumps_without_parts_still_load():
    """A dump of an exception with its text alone has that text."""
    exit = make_exit(exception=ExceptionText("E", "m", "t"))
    old = b"".join(encode(make_remains(), make_exit(exception=("E", "m", "t")), {}))

    assert decode(old, "dump").exit == exit


def test_the_document_names_the_parts():
    """The JSON form of a post-mortem has frames, notes, chain and members by name; its records have the text."""
    text = dissected(fail_together)
    body = codec.encode_event(50, "app", "m", {}, 1, span_id(0), TRACE_ID, text)
    pm = PostMortem.of(make_remains([(0, body)]), make_exit(exception=text), {})

    found = msgspec.json.decode(json_text(document(pm)))
    exception = found["exit"]["exception"]
    assert exception["frames"][-1] == {
        "file": __file__,
        "line": line_of(fail_together, 4),
        "function": "fail_together",
        "source": "raise group",
    }
    assert exception["notes"] == ["a note"]
    assert exception["members"][1]["members"][0]["frames"][-1]["function"] == "fail"
    assert (exception["cause"], exception["left_out"]) == (None, 0)
    assert found["records"][0]["exception"] == dict(zip(("type", "message", "traceback"), text, strict=False))
    assert "(the traceback stands at the end)" in pm.render()


# Real cells.


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("no")


def fail_in_two_ways():
    try:
        fail("first")
    except ValueError as error:
        raise Unpicklable("second") from error


@pytest.mark.parametrize("method", METHODS)
def test_the_exception_of_a_target_arrives_in_parts(method, host):
    """`CellExit` and the dump have the same, without a frame of roam's, also where it cannot be pickled."""
    cell = roam.spawn_cell(fail_in_two_ways, start_method=method, host=host)

    text = cell.join(WAIT_S).exception
    assert text.type.endswith("Unpicklable")
    assert [frame.function for frame in text.frames] == ["fail_in_two_ways"]
    assert [frame.function for frame in text.cause.frames] == ["fail_in_two_ways", "fail"]
    assert text.cause.message == "first"
    assert cell.post_mortem.exit == cell.exit


class Booby:
    def __reduce__(self):
        return fail_in_two_ways, ()


class Bomb(Exception):
    """Cannot be loaded: were it sent, its host would say so."""

    def __reduce__(self):
        return fail, ("loaded",)


def throw(error):
    raise error()


class BoobyBomb:
    def __reduce__(self):
        return throw, (Bomb,)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_failed_start_has_its_exception_in_parts(method, host, monkeypatch):
    """It is told with its stage, raises `SpawnFailed`, and nothing of it is loaded in the host."""
    cell = roam.spawn_cell(print, Booby(), start_method=method, host=host)
    with pytest.raises(SpawnFailed, match="Unpicklable: second") as failure:
        cell.result(WAIT_S)
    assert (failure.value.stage, cell.exit.kind, cell.exit.stage) == ("unpickle", ExitKind.START_FAILED, Stage.UNPICKLE)
    assert cell.exit.exception.frames[-1].function == "fail_in_two_ways"
    assert cell.exit.exception.cause.frames[-1].function == "fail"
    assert cell.post_mortem.exit == cell.exit

    with pytest.raises(SpawnFailed, match="Bomb"):
        roam.spawn_cell(print, BoobyBomb(), start_method=method, host=host).result(WAIT_S)

    module = types.ModuleType("only_here")
    exec("def work(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    missing = roam.spawn_cell(module.work, start_method=method, host=host)
    assert missing.join(WAIT_S).exception.type == "ModuleNotFoundError"


def test_an_exception_costs_no_import_before_there_is_one(host):
    """A cell that raises nothing has loaded nothing for it."""
    ask = "[name for name in ('roam.tracing.dissection', 'json') if name in __import__('sys').modules]"

    assert roam.spawn_cell(eval, ask, start_method="spawn", host=host).result(WAIT_S) == []
