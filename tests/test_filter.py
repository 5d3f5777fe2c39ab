"""Filters: the directives, what they let through, and what is said about those that do not parse."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.errors import FilterError
from roam.tracing.filter import OFF, Filter
from roam.tracing.records import CRITICAL, DEBUG, ERROR, INFO, TRACE, WARNING

LEVELS = {
    "trace": TRACE,
    "debug": DEBUG,
    "info": INFO,
    "warn": WARNING,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
    "off": OFF,
}
pieces = st.text("abcü_", min_size=1, max_size=3)
targets = st.lists(pieces, min_size=1, max_size=4).map(".".join)
words = st.sampled_from(sorted(LEVELS))
spaces = st.sampled_from(["", " ", "\t "])


@st.composite
def directives(draw):
    """The text of one directive, its target (None for the default) and its level."""
    word = draw(words)
    shown = draw(st.sampled_from([word, word.upper(), word.title()]))
    target = draw(st.none() | targets)
    inner = shown if target is None else f"{target}{draw(spaces)}={draw(spaces)}{shown}"
    return draw(spaces) + inner + draw(spaces), target, LEVELS[word]


def expected_threshold(parsed, target):
    """The level that a plain reading of the rules gives: the last of the longest target that covers `target`."""
    best, level = -1, OFF
    for _, covered, its_level in parsed:
        length = 0 if covered is None else len(covered)
        if length >= best and (covered is None or target == covered or target.startswith(covered + ".")):
            best, level = length, its_level
    return level


@given(st.lists(directives(), min_size=1, max_size=6), st.lists(targets, max_size=6))
def test_the_longest_target_wins(parsed, asked):
    """A directive holds for its target and those below it; the longest wins, and of equal ones the last."""
    found = Filter(",".join(text for text, _, _ in parsed))

    for target in [*asked, *(target for _, target, _ in parsed if target is not None)]:
        level = expected_threshold(parsed, target)
        assert found.threshold(target) == level
        assert found.lowest <= level


@given(st.lists(directives(), min_size=1, max_size=6))
def test_the_text_of_a_filter_parses_back(parsed):
    """`str` of a filter is a filter that is equal, hashes alike and has the same text."""
    found = Filter(",".join(text for text, _, _ in parsed))
    again = Filter(str(found))

    assert (again, hash(again), str(again)) == (found, hash(found), str(found))
    assert repr(found) == f"Filter({str(found)!r})"


@given(st.text("ab=,. infodebug\n\t\0ü", max_size=20))
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
        ("loud", 1, "loud=debug"),
        ("app=loud", 5, "'loud'"),
        ("info, app = loud", 13, "'loud'"),
        ("info,,debug", 6, "extra comma"),
        ("info,", 6, "extra comma"),
        ("info, ,debug", 6, "extra comma"),
        ("=debug", 1, "target"),
        ("info,a b=debug", 6, "target"),
        (".a=debug", 1, "target"),
        ("a..b=debug", 1, "target"),
        ("a=b=debug", 3, "'b=debug'"),
        ("a=", 3, "level"),
        ("25", 1, "level"),
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
