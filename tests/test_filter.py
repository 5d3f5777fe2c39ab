"""Filters: the directives, what they let through, and what is said about those that do not parse."""

from __future__ import annotations

import pickle
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.errors import FilterError
from roam.tracing.directives import EVERYTHING, OFF
from roam.tracing.filter import Filter
from roam.tracing.records import CRITICAL, DEBUG, ERROR, INFO, TRACE, WARNING
from roam.tracing.scope import Scope

LEVELS = {
    "trace": TRACE,
    "debug": DEBUG,
    "info": INFO,
    "warn": WARNING,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
    "off": OFF,
    "0": OFF,
    "1": ERROR,
    "2": WARNING,
    "3": INFO,
    "4": DEBUG,
    "5": TRACE,
    "10": DEBUG,
    "25": 25,
    "50": CRITICAL,
}


def scope_of(*spans, recorded=()):
    """Spans from the outside in, each a name, or a name and fields, inside of a process."""
    scope = Scope(bytes(8), bytes(16))
    for span in spans:
        inner = Scope(bytes(8), bytes(16))
        inner.name, fields = span if isinstance(span, tuple) else (span, {})
        inner.fields = dict(fields)
        inner.recorded = dict(recorded)
        inner.outer, scope = scope, inner
    return scope


REQUEST = ("request", {"user": 7, "path": "/a b", "ok": True, "share": 0.5, "id": "7"})

TABLE = [
    # A level alone, in every spelling.
    ("info", "app", INFO, [], True),
    ("info", "app", DEBUG, [], False),
    ("INFO", "app", INFO, [], True),
    ("Warn", "app", WARNING, [], True),
    ("Warn", "app", INFO, [], False),
    ("warning", "app", INFO, [], False),
    ("critical", "app", ERROR, [], False),
    ("critical", "app", CRITICAL, [], True),
    ("trace", "app", TRACE, [], True),
    ("off", "app", CRITICAL, [], False),
    ("0", "app", CRITICAL, [], False),
    ("1", "app", ERROR, [], True),
    ("1", "app", WARNING, [], False),
    ("2", "app", WARNING, [], True),
    ("2", "app", INFO, [], False),
    ("3", "app", INFO, [], True),
    ("3", "app", DEBUG, [], False),
    ("4", "app", DEBUG, [], True),
    ("4", "app", TRACE, [], False),
    ("5", "app", TRACE, [], True),
    ("10", "app", DEBUG, [], True),
    ("10", "app", TRACE, [], False),
    ("25", "app", 25, [], True),
    ("25", "app", 24, [], False),
    ("50", "app", ERROR, [], False),
    (" info ", "app", INFO, [], True),
    ("debug,error", "app", WARNING, [], False),
    # The empty filter.
    ("", "app", CRITICAL, [], False),
    ("   ", "app", CRITICAL, [], False),
    # Targets, and everything of them.
    ("app", "app", TRACE, [], True),
    ("app", "app", 1, [], True),
    ("app", "lib", CRITICAL, [], False),
    ("app=", None, 0, [], None),
    ("app=debug", "app", DEBUG, [], True),
    ("app=debug", "app", TRACE, [], False),
    ("app=debug", "lib", CRITICAL, [], False),
    ("app=3", "app", INFO, [], True),
    ("app=40", "app", WARNING, [], False),
    ("info,app=off", "app", CRITICAL, [], False),
    ("info,app=off", "lib", INFO, [], True),
    ("app=off,info", "app", CRITICAL, [], False),
    ("info,app=debug,app=warn", "app", INFO, [], False),
    # Dots are boundaries; the longer target wins.
    ("info,app.db=debug", "app.db", DEBUG, [], True),
    ("info,app.db=debug", "app.db.pool", DEBUG, [], True),
    ("info,app.db=debug", "app.dbx", DEBUG, [], False),
    ("info,app.db=debug", "app", DEBUG, [], False),
    ("info,app.db=debug", "lib.app.db", DEBUG, [], False),
    ("app=off,app.db=debug", "app.db", DEBUG, [], True),
    ("app.db=debug,app=off", "app.db", DEBUG, [], True),
    ("app.db=debug,app=off", "app.web", CRITICAL, [], False),
    ("app=debug,app.db=off,app.db.pool=info", "app.db.pool.a", INFO, [], True),
    ("app=debug,app.db=off,app.db.pool=info", "app.db.poolx", CRITICAL, [], False),
    # Spans by name.
    ("[slow]=debug", "app", DEBUG, ["slow"], True),
    ("[slow]=debug", "app", TRACE, ["slow"], False),
    ("[slow]=debug", "app", CRITICAL, [], False),
    ("[slow]=debug", "app", CRITICAL, ["slower"], False),
    ("[slow]", "app", TRACE, ["slow"], True),
    ("[slow]=debug", "app", DEBUG, ["outer", "slow", "inner"], True),
    ("info,[slow]=debug", "app", DEBUG, [], False),
    ("info,[slow]=debug", "app", INFO, [], True),
    ("info,[slow]=warn", "app", INFO, ["slow"], False),
    ("debug,[noisy]=off", "app", CRITICAL, ["noisy"], False),
    ('["load file"]=debug', "app", DEBUG, ["load file"], True),
    ("[load file]=debug", "app", DEBUG, ["load file"], True),
    ('["a,b"]=debug', "app", DEBUG, ["a,b"], True),
    ('["a\\"b"]=debug', "app", DEBUG, ['a"b'], True),
    ("[]=debug", "app", DEBUG, ["any"], True),
    ("[]=debug", "app", CRITICAL, [], False),
    # Spans in targets: the record's own target.
    ("worker[job]=debug", "worker.pool", DEBUG, ["job"], True),
    ("worker[job]=debug", "workers", CRITICAL, ["job"], False),
    ("worker[job]=debug", "worker", CRITICAL, [], False),
    ("worker[job]=debug,info", "lib", DEBUG, ["job"], False),
    # Fields.
    ("[request{user=7}]=trace", "app", TRACE, [REQUEST], True),
    ("[request{user=8}]=trace", "app", CRITICAL, [REQUEST], False),
    ("[request{user=7.0}]=trace", "app", TRACE, [REQUEST], True),
    ('[request{user="7"}]=trace', "app", CRITICAL, [REQUEST], False),
    ('[request{id="7"}]=trace', "app", TRACE, [REQUEST], True),
    ("[request{id=7}]=trace", "app", CRITICAL, [REQUEST], False),
    ("[request{user}]=trace", "app", TRACE, [REQUEST], True),
    ("[request{missing}]=trace", "app", CRITICAL, [REQUEST], False),
    ("[request{ok=true}]=trace", "app", TRACE, [REQUEST], True),
    ("[request{ok=TRUE}]=trace", "app", TRACE, [REQUEST], True),
    ("[request{ok=1}]=trace", "app", CRITICAL, [REQUEST], False),
    ("[request{ok=false}]=trace", "app", CRITICAL, [REQUEST], False),
    ("[request{share=0.5}]=trace", "app", TRACE, [REQUEST], True),
    ("[request{share=5e-1}]=trace", "app", TRACE, [REQUEST], True),
    ("[request{share=0.25}]=trace", "app", CRITICAL, [REQUEST], False),
    ("[request{path=/a b}]=trace", "app", TRACE, [REQUEST], True),
    ('[request{path="/a b"}]=trace', "app", TRACE, [REQUEST], True),
    ("[request{user=7,ok=true}]=trace", "app", TRACE, [REQUEST], True),
    ("[request{user=7,ok=false}]=trace", "app", CRITICAL, [REQUEST], False),
    ("[request{user=7}]=trace", "app", CRITICAL, ["request", ("inner", {"user": 7})], False),
    ("[{user=7}]=trace", "app", TRACE, ["x", ("inner", {"user": 7}), "y"], True),
    ("[{user}]=trace", "app", CRITICAL, ["x"], False),
    ("[request{user=-7}]=trace", "app", TRACE, [("request", {"user": -7})], True),
    ("[request{who=None}]=trace", "app", CRITICAL, [("request", {"who": None})], False),
    # The most specific decides alone.
    ("app=off,[slow]=debug", "app", DEBUG, ["slow"], True),
    ("[slow]=debug,app[slow]=error", "app", WARNING, ["slow"], False),
    ("[slow]=debug,app[slow]=error", "lib", DEBUG, ["slow"], True),
    ("[{n=1}]=error,[slow]=debug", "app", DEBUG, [("slow", {"n": 1})], True),
    ("[slow]=debug,[slow{n=1}]=error", "app", DEBUG, [("slow", {"n": 1})], False),
    ("[slow]=debug,[slow{n=1}]=error", "app", DEBUG, [("slow", {"n": 2})], True),
    ("[slow{n=1}]=error,[slow{n=1,m=2}]=debug", "app", DEBUG, [("slow", {"n": 1, "m": 2})], True),
    ("[a]=off,[b]=debug", "app", DEBUG, ["a", "b"], True),
    ("[a]=off,[b]=debug", "app", CRITICAL, ["b", "a"], False),
    ("[a{x}]=error,[a{y}]=debug", "app", DEBUG, [("a", {"x": 1, "y": 1})], True),
    ("[slow]=debug,[slow]=error", "app", WARNING, ["slow"], False),
    ("info,app.db=debug,worker[request{user=7}]=trace,[slow]=debug,app=off", "worker", TRACE, [REQUEST], True),
    ("info,app.db=debug,worker[request{user=7}]=trace,[slow]=debug,app=off", "app.web", CRITICAL, [], False),
    ("info,app.db=debug,worker[request{user=7}]=trace,[slow]=debug,app=off", "app.web", DEBUG, ["slow"], True),
    ("info,app.db=debug,worker[request{user=7}]=trace,[slow]=debug,app=off", "app.db.pool", DEBUG, [], True),
    ("info,app.db=debug,worker[request{user=7}]=trace,[slow]=debug,app=off", "lib", INFO, [REQUEST], True),
]
"""Filter, target, level and spans of a record, and whether it is let through; written from the grammar."""


# r[verify trace.filter.specific]
@pytest.mark.parametrize(("text", "target", "level", "spans", "passes"), TABLE)
def test_what_the_directives_say(text, target, level, spans, passes):
    """Each pair of filter and record is judged as the grammar says; None stands for a filter that is refused."""
    if passes is None:
        with pytest.raises(FilterError):
            Filter(text)
        return
    found = Filter(text)
    assert passes == found.admits(level, target, scope_of(*spans))
    assert passes == Filter(str(found)).admits(level, target, scope_of(*spans))
    assert passes <= (level >= found.threshold(target)), "the threshold may only be lower than what decides"
    assert passes <= (level >= found.lowest)


pieces = st.text("abcü_", min_size=1, max_size=3)
targets = st.lists(pieces, min_size=1, max_size=3).map(".".join)
words = st.sampled_from(sorted(LEVELS))
spaces = st.sampled_from(["", " ", "\t "])
names = st.sampled_from(["a", "b", "a b", 'q"', "c,d", "7", "true", "\\", "ü"])
values = st.one_of(
    names,
    st.integers(-3, 3),
    st.booleans(),
    st.sampled_from([0.5, -1.5, 2.0, 1e300, 10**20]),
)


def written(value, *, in_quotes):
    """A value or a name as it may stand in a filter."""
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return repr(value)
    is_safe = not set(value) & set(',=[]{}"') and value not in {"7", "true"} and not in_quotes
    return value if is_safe else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def conditions(draw):
    """`(name, value)`, the value None for presence."""
    return draw(names), draw(st.none() | values)


@st.composite
def directives(draw):
    """`(text, target, level, predicate)`; the predicate is None, or a name (None for any) and conditions."""
    word = draw(words)
    shown = draw(st.sampled_from([word, word.upper(), word.title()]))
    target = draw(st.just("") | targets)
    predicate = draw(
        st.none() | st.tuples(st.none() | names, st.lists(conditions(), max_size=2, unique_by=lambda c: c[0]))
    )
    place = target
    if predicate is not None:
        name, fields = predicate
        inner = "" if name is None else written(name, in_quotes=draw(st.booleans()))
        if fields:
            inner += (
                "{"
                + ",".join(
                    written(field, in_quotes=True)
                    + (
                        ""
                        if value is None
                        else f"{draw(spaces)}={draw(spaces)}{written(value, in_quotes=draw(st.booleans()))}"
                    )
                    for field, value in fields
                )
                + "}"
            )
        place += f"[{inner}]"
    level = LEVELS[word]
    if not place:
        return draw(spaces) + shown + draw(spaces), target, level, None
    if predicate is not None and draw(st.booleans()):
        return draw(spaces) + place + draw(spaces), target, EVERYTHING, predicate
    return f"{draw(spaces)}{place}{draw(spaces)}={draw(spaces)}{shown}{draw(spaces)}", target, level, predicate


span_lists = st.lists(st.tuples(names, st.dictionaries(names, values | st.none(), max_size=2)), max_size=3)


def holds(condition, fields):
    """Whether a field is as it should be: numbers as numbers, texts as texts, truths as truths."""
    name, wanted = condition
    if name not in fields:
        return False
    found = fields[name]
    kinds = [bool if isinstance(one, bool) else str if isinstance(one, str) else float for one in (found, wanted)]
    return wanted is None or (found is not None and kinds[0] is kinds[1] and found == wanted)


def expected(parsed, level, target, spans):
    """A plain reading of the rules: of the directives that hold, the one with the greatest rank decides."""
    candidates = []
    for number, (_, covered, its_level, predicate) in enumerate(parsed):
        if covered and target != covered and not target.startswith(covered + "."):
            continue
        if predicate is None:
            candidates.append(((False, len(covered), False, 0, 0, 0, number), its_level))
            continue
        name, fields = predicate
        # The same directive with another level comes later: that one counts.
        if any(
            (other[1], other[3] and (other[3][0], frozenset(map(repr, other[3][1]))))
            == (covered, (name, frozenset(map(repr, fields))))
            for other in parsed[number + 1 :]
        ):
            continue
        depths = [
            depth
            for depth, (span, its_fields) in enumerate(spans)
            if name in (None, span) and all(holds(condition, its_fields) for condition in fields)
        ]
        if depths:
            rank = (True, len(covered), name is not None, len(fields), max(depths), -its_level, 0)
            candidates.append((rank, its_level))
    return bool(candidates) and level >= max(candidates)[1]


@given(
    st.lists(directives(), min_size=1, max_size=6),
    st.lists(targets, max_size=4),
    span_lists,
    st.sampled_from([1, TRACE, DEBUG, INFO, 25, WARNING, ERROR, CRITICAL]),
)
def test_the_matcher_agrees_with_a_plain_reading(parsed, asked, spans, level):
    """Whatever the directives, targets, spans and levels."""
    found = Filter(",".join(text for text, *_ in parsed))

    for target in [*asked, *(target for _, target, _, _ in parsed if target)]:
        passes = expected(parsed, level, target, spans)
        assert found.admits(level, target, scope_of(*spans)) == passes
        assert passes <= (level >= found.threshold(target))
        assert found.lowest <= found.threshold(target)
        if not found.is_contextual:
            assert passes == (level >= found.threshold(target))


@given(st.lists(directives(), min_size=1, max_size=6))
def test_the_text_of_a_filter_parses_back(parsed):
    """`str` of a filter is a filter that is equal, hashes alike and has the same text."""
    found = Filter(",".join(text for text, *_ in parsed))
    again = Filter(str(found))

    assert (again, hash(again), str(again)) == (found, hash(found), str(found))
    assert repr(found) == f"Filter({str(found)!r})"


@given(st.text('ab=,. infodebug\n\t\0ü[]{}"\\7', max_size=20))
def test_any_text_is_a_filter_or_an_error_with_a_column(text):
    """Nothing but `FilterError` comes out of parsing, and its column lies in the text."""
    try:
        Filter(text)
    except FilterError as error:
        found = error
    else:
        return
    assert 1 <= found.column <= len(text) + 1
    assert f"column {found.column}" in str(found)
    assert found.text == text


@pytest.mark.parametrize(
    ("text", "column", "hint"),
    [
        ("app=loud", 5, "off, critical"),
        ("app=loud", 5, "'loud'"),
        ("info, app = loud", 13, "'loud'"),
        ("info,,debug", 6, "extra comma"),
        ("info,", 6, "extra comma"),
        ("info, ,debug", 7, "extra comma"),
        ("=debug", 1, "target"),
        ("info,a b=debug", 6, "target"),
        (".a=debug", 1, "target"),
        ("a..b=debug", 1, "target"),
        ("a=b=debug", 3, "'b=debug'"),
        ("a=", 3, "level"),
        ("7", 1, "7=trace"),
        ("55", 1, "level"),
        ("app=6", 5, "level"),
        ("info debug", 1, "dotted target"),
        ("a[b", 4, "column 2 is still open"),
        ("a[b{c", 6, "column 4 is still open"),
        ("a[b{c}", 7, "column 2 is still open"),
        ("a[b{}]=info", 5, "name of a field"),
        ("a[b{c=}]=info", 7, 'empty text is ""'),
        ("a[b{c=1e999}]=info", 7, "too large"),
        ('a["b]=info', 3, "second"),
        ('a["b\\', 3, "second"),
        ("a[b]c=info", 5, "comma or the end"),
        ("a{b}=info", 2, "[{user=7}]"),
        ("a[b]=loud", 6, "'loud'"),
        ("[a],", 5, "extra comma"),
    ],
)
def test_an_error_names_the_place_and_a_remedy(text, column, hint):
    """The column counts from 1, points at the part that is wrong, and survives pickling."""
    with pytest.raises(FilterError) as caught:
        Filter(text)

    assert caught.value.column == column
    assert hint in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.column) == (str(caught.value), column)


def test_the_empty_filter_lets_nothing_through():
    """No directive is the same as `off`."""
    assert Filter("") == Filter("  ") == Filter("off")
    assert Filter("").threshold("a") == OFF > CRITICAL


def test_only_a_string_is_a_filter():
    """A level by number is misuse, and says what a filter looks like."""
    with pytest.raises(TypeError, match=r"app\.db=debug"):
        Filter(20)


def test_the_main_module_of_a_cell_is_main():
    """Directives for `__main__` hold for what the cell calls `__mp_main__`."""
    assert Filter("info,__main__=debug").threshold("__mp_main__") == DEBUG


def test_what_is_no_text_has_a_threshold_all_the_same():
    """A hand-made `LogRecord` may have any name."""
    assert [Filter("info,5=debug").threshold(name) for name in (None, 5, 6)] == [INFO, DEBUG, INFO]


def test_the_cache_is_bounded():
    """A program that makes up targets without end costs no memory without end."""
    found = Filter("info,a=debug")
    for number in range(10_000):
        assert found.threshold(f"a.{number}") == DEBUG
    assert len(found.thresholds) <= 4096


def test_a_filter_equals_only_filters():
    """Comparison with something else is not an error."""
    assert Filter("info") != "info"


def test_dill_speaks_up_only_when_it_is_named():
    """At INFO dill narrates what `multiprocess` pickles; a general level does not ask for that."""
    assert [Filter("debug").threshold("dill"), Filter("off").threshold("dill")] == [
        WARNING,
        Filter("off").threshold("a"),
    ]
    assert [Filter("info,dill=debug").threshold("dill.source"), Filter("trace").threshold("dillx")] == [DEBUG, TRACE]


def test_a_text_of_a_type_of_its_own_is_that_text():
    """A member of a `StrEnum`-like class, in whatever order it and the plain text are asked for."""

    class Target(str, Enum):  # noqa: UP042 – whose `str` is not its text
        APP = "app"

    for first, second in ((Target.APP, "app"), ("app", Target.APP)):
        found = Filter("off,app=info")
        assert [found.threshold(first), found.threshold(second)] == [INFO, INFO]
        assert found.admits(INFO, first, scope_of())
