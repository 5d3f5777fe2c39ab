"""Hypothesis strategies for what a traced program may hand to roam."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import types
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

__all__ = [
    "Hostile",
    "Lying",
    "any_fields",
    "any_values",
    "armed",
    "plain_fields",
    "plain_scalars",
    "special_values",
    "texts",
    "wire_levels",
]


class Colour(enum.Enum):
    """An Enum, which msgspec would write as its value."""

    RED = "red"


class Number(enum.IntEnum):
    """An int subclass with texts of its own."""

    ONE = 1


class Word(enum.StrEnum):
    """A str subclass with texts of its own."""

    YES = "yes"


@dataclasses.dataclass
class Point:
    """A dataclass, which msgspec would write as a map."""

    x: int = 1


class Shape(msgspec.Struct):
    """A Struct, which msgspec would write as a map."""

    sides: int = 3


class Pair(NamedTuple):
    """A tuple subclass."""

    left: int
    right: str


_ARMED = [False]


@contextlib.contextmanager
def armed() -> Iterator[None]:
    """Within it hostile objects are hostile; outside they are harmless, because test tools look at them too."""
    _ARMED[0] = True
    try:
        yield
    finally:
        _ARMED[0] = False


class Hostile:
    """Raises `error` from whatever is asked of it, while armed."""

    def __init__(self, error: type[BaseException]) -> None:
        object.__setattr__(self, "error", error)

    def fail(self, *_: object) -> Any:
        """Raises."""
        raise object.__getattribute__(self, "error")("hostile")

    def __getattribute__(self, name: str) -> Any:
        if _ARMED[0]:
            raise object.__getattribute__(self, "error")(name)
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        if _ARMED[0]:
            raise object.__getattribute__(self, "error")("repr")
        return "Hostile()"

    __str__ = __repr__
    __len__ = __iter__ = __int__ = __float__ = __index__ = fail

    def __bool__(self) -> bool:
        return bool(self.fail()) if _ARMED[0] else True

    def __eq__(self, other: object) -> bool:
        return bool(self.fail()) if _ARMED[0] else self is other

    def __hash__(self) -> int:
        return int(self.fail()) if _ARMED[0] else 1


class Lying:
    """Claims to be a `str`, has a repr that is no text, or one of a megabyte."""

    def __init__(self, text: Any) -> None:
        self.text = text

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return str if _ARMED[0] else Lying

    def __repr__(self) -> str:
        return self.text if _ARMED[0] else "Lying()"


def hostile_subclass(base: type, **namespace: object) -> type:
    """A subclass of a plain type that, while armed, raises from every method roam might be tempted to call."""

    def failing(name: str) -> Any:
        def method(self: object, *args: object) -> Any:
            if _ARMED[0]:
                raise ZeroDivisionError("overridden")
            return getattr(base, name)(self, *args)

        return method

    names = ("__repr__", "__str__", "__len__", "__iter__", "__getitem__", "__int__", "__index__", "__float__")
    more = ("__eq__", "__bool__", "items", "keys", "values", "encode", "decode", "bit_length", "isascii", "__bytes__")
    methods = {name: failing(name) for name in names + more if hasattr(base, name)}
    return type(f"Hostile{base.__name__}", (base,), {**methods, "__hash__": base.__hash__, **namespace})


class ArrayLike:
    """Looks like an array of some numeric library."""

    dtype = "float64"
    shape = (10_000,)

    def __array__(self) -> Any:
        raise TypeError("no array today")

    def __len__(self) -> int:
        return 10_000

    def __repr__(self) -> str:
        return "array([0., 0., ..., 0.])"

    def __eq__(self, other: object) -> Any:
        return [True] * 10_000

    __hash__ = None  # type: ignore[assignment]


def recursive_list() -> list[Any]:
    """A list that holds itself."""
    items: list[Any] = [1]
    items.append(items)
    return items


def recursive_dict() -> dict[str, Any]:
    """A dict that holds itself through a list."""
    items: dict[str, Any] = {"a": 1}
    items["self"] = [items]
    return items


def deep(depth: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def released_view() -> memoryview:
    """A memoryview that is no longer usable."""
    view = memoryview(b"gone")
    view.release()
    return view


def multiples(unit: Any) -> st.SearchStrategy[Any]:
    """`unit` many times over."""
    return st.integers(100, 30_000).map(lambda count: unit * count)


texts = st.text(st.characters(), max_size=40) | st.text(
    st.characters(categories=["Cs", "Lu"], include_characters="\\é€𝄞"), max_size=12
)
"""Any text, lone surrogates included."""

integers = st.integers() | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1])
integers |= st.integers(1000, 20_000).map(lambda bits: 1 << bits)
floats = st.floats() | st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0])

plain_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.binary(max_size=40)
)
"""Values with a wire type of their own."""
plain_fields = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), plain_scalars, max_size=6)
"""Fields for the fast path."""

special_values = st.one_of(
    st.sampled_from(
        [Colour.RED, Number.ONE, Word.YES, Point(), Shape(), Pair(1, "x"), fractions.Fraction(1, 3), object]
    ),
    st.sampled_from(
        [decimal.Decimal("1.5"), 1 + 2j, uuid.UUID(int=5), datetime.timedelta(1), datetime.date(2020, 1, 2)]
    ),
    st.sampled_from([pathlib.PurePath("/a"), range(3), ..., NotImplemented, print, types.SimpleNamespace(a=1)]),
    st.sampled_from([ZeroDivisionError, GeneratorExit, RecursionError, MemoryError]).map(Hostile),
    st.sampled_from([None, 7, b"bytes", "\udc80" * 50, Word.YES]).map(Lying),
    st.builds(lambda: Lying("x" * 1_000_000)),
    st.builds(bytearray, st.binary(max_size=20)),
    st.binary(max_size=20).map(lambda data: memoryview(data)[:]),
    st.builds(lambda data: memoryview(data)[::-1], st.binary(max_size=20)),
    st.builds(lambda: memoryview(b"abcdefgh").cast("I")),
    st.builds(released_view),
    st.builds(recursive_list),
    st.builds(recursive_dict),
    st.builds(ArrayLike),
    st.integers(0, 2000).map(deep),
    st.integers(0, 3000).map(lambda n: list(range(n))),
    st.integers(0, 30).map(lambda n: [["x" * n] * n] * n),
    st.sampled_from(["x", "é", "\udc80", b"y", "𝄞"]).flatmap(multiples),
    st.dictionaries(st.integers(0, 3) | st.sampled_from(["1", "2"]), st.integers(), max_size=6),
    st.builds(hostile_subclass(int), st.integers()),
    st.builds(hostile_subclass(float), st.floats()),
    st.builds(hostile_subclass(str), texts),
    st.builds(hostile_subclass(bytes), st.binary(max_size=20)),
    st.builds(hostile_subclass(bytearray), st.binary(max_size=20)),
    st.builds(hostile_subclass(list), st.lists(integers, max_size=4)),
    st.builds(hostile_subclass(tuple), st.lists(integers, max_size=4)),
    st.builds(hostile_subclass(dict), st.dictionaries(texts, integers, max_size=4)),
    st.builds(hostile_subclass(frozenset), st.lists(st.integers(), max_size=4)),
    st.dictionaries(texts, integers, max_size=4).map(collections.OrderedDict),
    st.lists(integers, max_size=4).map(collections.deque),
)
"""One of everything that is hard to encode."""

any_values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts | st.binary(max_size=40) | special_values,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)
"""Any object at all."""

any_fields = st.dictionaries(texts | st.integers() | st.binary(max_size=3), any_values, max_size=8)
"""Fields of any kind, with keys of any kind."""

wire_levels = st.integers(0, 2**15)
"""Levels a record can have."""
