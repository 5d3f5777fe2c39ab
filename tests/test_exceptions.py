"""Exceptions as text: bounded, and never a second exception."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.errors import RecordError
from roam.tracing import codec
from roam.tracing.exceptions import describe_exception, qualified_name
from roam.tracing.redaction import REDACTED_NAMES, Redactor
from tests.test_codec import LIMITS, event


def raised(*errors: BaseException) -> BaseException:
    """The last error, raised, with each raised from the one before."""
    previous: BaseException | None = None
    for error in errors:
        try:
            raise error from previous
        except BaseException as caught:
            previous = caught
    assert previous is not None
    return previous


def test_an_exception_is_described_as_the_interpreter_prints_it() -> None:
    """Type, message and traceback, causes first."""
    error = raised(ValueError("first"), KeyError("second"))
    text = codec.describe_exception(error)
    assert text.type == "KeyError"
    assert text.message == "'second'"
    assert text.traceback.startswith("Traceback (most recent call last):\n  File ")
    first, _, second = text.traceback.partition(
        "\nThe above exception was the direct cause of the following exception:\n\n"
    )
    assert first.endswith("ValueError: first\n")
    assert second.endswith("KeyError: 'second'\n")


def test_contexts_notes_and_groups_are_in_the_text() -> None:
    """What the interpreter would print about an exception is there."""
    try:
        try:
            raise ValueError("inner")
        except ValueError:
            raise ExceptionGroup("many", [TypeError("a"), ExceptionGroup("deep", [OSError("b")])]) from None
    except ExceptionGroup as group:
        group.add_note("a note")
        text = codec.describe_exception(group).traceback
    assert "inner" not in text
    for part in ("ExceptionGroup: many", "a note", "  | TypeError: a", "  |   | OSError: b"):
        assert part in text
    outer = TypeError("outer")
    outer.__context__ = raised(ValueError("inner"))
    assert "During handling" in codec.describe_exception(outer).traceback


def test_cyclic_and_endless_exceptions_are_bounded() -> None:
    """Cycles, long chains, wide groups, deep stacks and huge messages give a short text."""
    left, right = raised(ValueError("left")), raised(ValueError("right"))
    left.__cause__, right.__cause__ = right, left
    long = raised(*(ValueError(str(n)) for n in range(500)))
    wide = ExceptionGroup("wide", [ValueError(str(n)) for n in range(5000)])
    nested: Exception = ValueError("x")
    for _ in range(100):
        nested = ExceptionGroup("nest", [nested])

    def dive(depth: int) -> None:
        if depth:
            swim(depth - 1)
        raise ValueError("deep" * 1_000_000)

    def swim(depth: int) -> None:
        dive(depth)

    with pytest.raises(ValueError, match="deep") as caught:
        dive(200)
    deep = caught.value
    for error in (left, long, wide, nested, deep):
        for limit in (64, 512, 6144):
            text = codec.describe_exception(error, limit)
            assert len(text.traceback.encode()) <= limit
            assert len(text.message.encode()) <= limit // 4
            assert len(text.type) <= 256
    assert "frames left out" in codec.describe_exception(deep, 60_000).traceback
    assert codec.describe_exception(long).traceback.endswith("ValueError: 499\n")


def test_exceptions_with_hostile_attributes_are_described() -> None:
    """Overridden texts and attributes that raise end up as text."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise GeneratorExit(3)

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("cause")

    text = codec.describe_exception(raised(Broken()))
    assert text.message == "<str failed: GeneratorExit>"
    assert text.type.endswith("Broken")
    assert text.traceback


class Namespace(dict[str, Any]):
    """A class body's variables, with code of their own."""

    def items(self) -> Any:
        raise RuntimeError("items")


class Mapping:
    """The same without a `dict`."""

    def __init__(self) -> None:
        self.values = {"__name__": __name__}

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[name] = value


@pytest.mark.parametrize(
    ("namespace", "shown"), [(Namespace, "      number = 7\n"), (Mapping, "      <variables failed: AttributeError>\n")]
)
def test_variables_that_cannot_be_read_cost_nothing_else(namespace: Any, shown: str) -> None:
    """The namespace of a class body may be anything; the traceback, and the variables of other frames, are there."""

    class Meta(type):
        @classmethod
        def __prepare__(cls, _name: str, _bases: Any, **_options: Any) -> Any:
            return namespace()

    def fail() -> None:
        outer, password = 8, "hunter" + "2"  # noqa: F841

        class Body(metaclass=Meta):
            number = 7
            secret = "hunter2"
            raise ValueError(number)

    with pytest.raises(ValueError, match="7") as caught:
        fail()
    text = describe_exception(caught.value, shown_locals=Redactor(REDACTED_NAMES)).traceback
    assert shown in text
    assert "      outer = 8\n" in text
    assert "hunter2'" not in text
    assert text.endswith("ValueError: 7\n")


@given(st.text(st.characters(), max_size=2000), LIMITS)
def test_any_exception_message_fits_a_record(message: str, limit: int) -> None:
    """Surrogates and length in a message do not keep the exception out of its record."""
    error = raised(ValueError(message))
    text = codec.describe_exception(error)
    record = codec.decode(event("m", exception=text, limit_bytes=limit))
    assert record.exception is not None
    assert record.exception.type == "ValueError"
    assert (record.exception == text) == ("exception" not in record.cuts)


def test_type_names_are_qualified() -> None:
    """Builtins stand alone, and the main module of a cell is called `__main__`."""

    class Local(Exception):
        __module__ = "__mp_main__"
        __qualname__ = "Outer.Local"

    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise RuntimeError

    odd = Meta("Odd", (Exception,), {"__module__": 5})
    assert qualified_name(ValueError) == "ValueError"
    assert qualified_name(RecordError) == "roam.errors.RecordError"
    assert qualified_name(Local) == "__main__.Outer.Local"
    assert qualified_name(odd) == "Odd"
