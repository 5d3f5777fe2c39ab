"""Any Python object as a bounded value that a record can carry.

Wire values are int (64 bit), float, bool, str, bytes, None, and lists and dicts of these with text keys. Subclasses
of the plain types become the plain type through the slots of the base class, so that no overridden method runs;
every other object becomes its `repr`, cut. The only user code that runs here is `__repr__` and `__str__`, and
whatever it raises becomes text, except KeyboardInterrupt and SystemExit, which may come from a signal handler:
nothing here has state to protect from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from types import NoneType
from typing import Any, NamedTuple

from .records import CUT, FIELD_CONVERTED
from .redaction import REDACTED_TEXT, Redactor, names_of_elements

__all__ = [
    "CHANGED_TEXT",
    "CUT_TEXT",
    "DEEP_TEXT",
    "MAX_DEPTH",
    "MAX_FIELDS",
    "MAX_KEY_BYTES",
    "MAX_NODES",
    "RECURSIVE_TEXT",
    "Normalised",
    "Normaliser",
    "cut_middle",
    "cut_text",
    "normalise",
    "safe_text",
    "type_name",
    "water_level",
]

MAX_DEPTH = 8
"""Containers inside one another; what lies deeper becomes `DEEP_TEXT`."""
MAX_NODES = 512
"""Elements of all nested containers of one record together."""
MAX_FIELDS = 256
"""Fields of one record; the first ones stay."""
MAX_KEY_BYTES = 128
"""Bytes of UTF-8 in a key; longer keys are cut and flagged as converted."""
MAX_INT_BITS = 1024
"""Integers with more bits are described instead of written out: the digits of a large one take quadratic time."""

CHANGED_TEXT = "<changed while encoding>"
CUT_TEXT = "<cut>"
DEEP_TEXT = "<too deep>"
RECURSIVE_TEXT = "<recursive>"

_SMALLEST_INT, _LARGEST_INT = -(2**63), 2**64 - 1
_ATTEMPTS = 3
_WHOLE_FIELDS = 16
_MAX_JUDGED_BYTES = 4096
"""Bytes of the `repr` of a key by which its value is judged; where it is longer, the value is redacted."""
_name_of = type.__dict__["__name__"].__get__
_take_str = str.__getitem__


class Normalised(NamedTuple):
    """Fields as the wire carries them, the flags this raised, and the original lengths of what was cut."""

    fields: dict[str, Any]
    flags: int
    cuts: dict[str, int]


def type_name(kind: type) -> str:
    """The bare name of a class, without running code of its metaclass."""
    return cut_text(_name_of(kind), MAX_KEY_BYTES)


def cut_text(text: str, room_bytes: int) -> str:
    r"""At most `room_bytes` of UTF-8 from the start of `text`, as a plain `str`; lone surrogates as `\udc80`."""
    return _cut(text, room_bytes)[0]


def cut_middle(text: str, room_bytes: int) -> str:
    """At most `room_bytes` of UTF-8 from both ends of `text`, with a note of what is missing between them."""
    whole, is_whole = _cut(text, room_bytes)
    if is_whole:
        return whole
    note = f"\n... {str.__len__(text)} characters before the middle was cut ...\n"
    half = (room_bytes - len(note)) // 2
    if half < len(note):
        return whole
    tail = _take_str(text, slice(-half, None)).encode("utf-8", "backslashreplace")[-half:].decode("utf-8", "ignore")
    return _cut(text, half)[0] + note + tail


def _cut(text: str, room_bytes: int) -> tuple[str, bool]:
    # Sliced before anything else looks at it: the text may be a hundred megabytes.
    piece = _take_str(text, slice(0, max(room_bytes, 0)))
    is_whole = len(piece) == str.__len__(text)
    if piece.isascii():
        return piece, is_whole
    data = piece.encode("utf-8", "backslashreplace")
    return data[:room_bytes].decode("utf-8", "ignore"), is_whole and len(data) <= room_bytes


def safe_text(value: object, convert: Callable[[object], str], room_bytes: int) -> tuple[str, int, bool]:
    """`convert(value)` cut to `room_bytes`, its length before the cut, and whether it is whole.

    `convert` is `str` or `repr`. What it raises becomes `<repr failed: TypeError>`; only
    KeyboardInterrupt and SystemExit pass through.
    """
    try:
        text = convert(value)
        length = str.__len__(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        text = f"<{convert.__name__} failed: {type_name(type(error))}>"
        length = len(text)
    return (cut := _cut(text, room_bytes))[0], length, cut[1]


def water_level(sizes: Iterable[int], total: int) -> int:
    """The largest level such that `sum(min(size, level))` is at most `total`; 0 where there is none."""
    ordered = sorted(sizes)
    left, count = total, len(ordered)
    for index, size in enumerate(ordered):
        if size * (count - index) > left:
            return max(left // (count - index), 0)
        left -= size
    return max(total, 0)


class Normaliser:
    """Turns values into wire values, with the node budget of one record.

    `flags` collects what happened. After each `top_level`, `was_cut` says whether that value was cut, and `length`
    is its original length: characters, bytes or elements.
    """

    __slots__ = ("flags", "length", "nodes", "path", "redactor", "room", "was_cut")

    def __init__(self, redactor: Redactor | None = None) -> None:
        self.redactor = redactor
        self.flags = 0
        self.nodes = MAX_NODES
        self.path: list[int] = []
        self.room = 0
        self.length = 0
        self.was_cut = False

    def top_level(self, value: object, room_bytes: int) -> Any:
        """`value` as a wire value of at most about `room_bytes` (a few bytes of markers may come on top)."""
        self.room = room_bytes
        self.was_cut = False
        self.path.clear()
        self.length = 0
        plain = self.convert(value)
        if self.was_cut:
            self.flags |= CUT
        return plain

    def convert(self, value: Any) -> Any:
        """One value, nested or not, within the room that is left."""
        kind = type(value)
        if kind is bool or kind is NoneType:
            self.room -= 1
            return value
        if issubclass(kind, int):
            return self.integer(int.__int__(value))
        if issubclass(kind, float):
            self.room -= 9
            return float.__float__(value)
        if issubclass(kind, str):
            return self.text(value)
        if issubclass(kind, bytes):
            return self.binary(bytes.__getitem__(value, slice(0, max(self.room, 0))), bytes.__len__(value))
        if issubclass(kind, bytearray):
            part = bytearray.__getitem__(value, slice(0, max(self.room, 0)))
            return self.binary(bytes(part), bytearray.__len__(value))
        if kind is memoryview:
            return self.view(value)
        if issubclass(kind, (dict, list, tuple, set, frozenset)):
            return self.container(value)
        return self.described(value)

    def integer(self, value: int) -> int | str:
        """An integer of 64 bits, or text."""
        if _SMALLEST_INT <= value <= _LARGEST_INT:
            self.room -= 1 + (value.bit_length() + 8 >> 3)
            return value
        self.flags |= FIELD_CONVERTED
        bits = value.bit_length()
        return self.text(f"<int of {bits} bits>" if bits > MAX_INT_BITS else int.__repr__(value))

    def text(self, value: str) -> str:
        """A plain `str`."""
        piece, is_whole = _cut(value, self.room)
        return self.kept(piece, str.__len__(value), is_whole)

    def kept(self, piece: str, length: int, is_whole: bool) -> str:
        """Notes what a text takes, and whether it is all of what it was."""
        self.was_cut = self.was_cut or not is_whole
        if not self.path:
            self.length = length
        self.room -= 3 + (len(piece) if piece.isascii() else len(piece.encode()))
        return piece

    def binary(self, piece: bytes, length: int) -> bytes:
        """Plain `bytes`, already cut."""
        self.was_cut = self.was_cut or length > len(piece)
        if not self.path:
            self.length = length
        self.room -= 3 + len(piece)
        return piece

    def view(self, value: memoryview) -> bytes | str:
        """A memoryview as bytes; one that is released or not contiguous as text."""
        try:
            with value.cast("B") as flat:
                return self.binary(bytes(flat[: max(self.room, 0)]), flat.nbytes)
        except (BufferError, TypeError, ValueError):
            return self.described(value)

    def described(self, value: object) -> str:
        """Anything else as its `repr`."""
        self.flags |= FIELD_CONVERTED
        return self.kept(*safe_text(value, repr, self.room))

    def container(self, value: Any) -> Any:
        """A dict as a dict with text keys; a list, tuple or set as a list."""
        if id(value) in self.path or len(self.path) >= MAX_DEPTH:
            self.flags |= FIELD_CONVERTED
            return self.marker(RECURSIVE_TEXT if id(value) in self.path else DEEP_TEXT)
        base: Any = next(base for base in (dict, list, tuple, set, frozenset) if issubclass(type(value), base))
        length = base.__len__(value)
        if self.nodes <= 0 and length:
            self.was_cut = True
            if not self.path:
                self.length = length
            return self.marker(CUT_TEXT)
        self.room -= 3
        self.path.append(id(value))
        try:
            return self.mapping(value) if base is dict else self.sequence(self.elements(value, base, length))
        except RecursionError:
            self.flags |= FIELD_CONVERTED
            return self.marker(DEEP_TEXT)
        except RuntimeError:
            # A dict or set that changes size under its iterator says so; a `repr` that raises never gets here.
            self.flags |= FIELD_CONVERTED
            return self.marker(CHANGED_TEXT)
        finally:
            self.path.pop()
            if not self.path:
                self.length = length

    def marker(self, text: str) -> str:
        """A text of roam's own, whatever room there is."""
        self.room -= len(text) + 1
        return text

    def exhausted(self) -> bool:
        """Whether the next element would be one too many; counts it if not."""
        if self.room > 0 and self.nodes > 0:
            self.nodes -= 1
            return False
        self.was_cut = True
        return True

    def elements(self, value: Any, base: Any, length: int) -> Iterable[object]:
        """What a list, tuple or set holds. In named tuples, and in pairs of a name and a value, the secret is replaced."""
        items: Iterable[object] = base.__iter__(value)
        if self.redactor is None or base not in (list, tuple):
            return items
        names = names_of_elements(type(value)) if base is tuple else ()
        if length == 2:
            # A copy, because another thread may have changed a list since its length was looked at.
            items = pair = list(items)
            if len(pair) == 2 and self.redactor.is_secret_first(pair[0]):
                pair[1] = REDACTED_TEXT
        if not names:
            return items
        return (self.permitted(names[at], item) if at < len(names) else item for at, item in enumerate(items))

    def sequence(self, items: Iterable[object]) -> list[Any]:
        """The elements, and `CUT_TEXT` in place of those there is no room for."""
        plain: list[Any] = []
        for item in items:
            if self.exhausted():
                plain.append(self.marker(CUT_TEXT))
                break
            plain.append(self.convert(item))
        return plain

    def mapping(self, value: Any) -> dict[str, Any]:
        """The items with keys as text, and `CUT_TEXT` as the last key in place of those there is no room for."""
        plain: dict[str, Any] = {}
        for index, (key, item) in enumerate(dict.items(value)):
            if self.exhausted():
                plain[self.marker(CUT_TEXT)] = None
                break
            name, whole = self.key(key, index, plain)
            self.room -= 2 + len(name.encode())
            plain[name] = self.convert(self.permitted(whole, item))
        return plain

    def permitted(self, whole: str | None, value: object, *, is_outermost: bool = False) -> object:
        """The value of a field, or what is to be written in its place. `whole` is all of its name, None for a name that
        is too long to be looked at."""
        if self.redactor is None:
            return value
        # r[impl trace.redacted]
        return REDACTED_TEXT if whole is None else self.redactor.redact(whole, value, is_outermost=is_outermost)

    def key(self, key: object, index: int, taken: dict[str, Any]) -> tuple[str, str | None]:
        """`key` as text that is not in `taken`: a second `"1"`, from `{1: …, "1": …}`, becomes `"1#<index>"`; and all of
        what it says, of which that may be a part, for `permitted`."""
        whole: str | None
        if type(key) is str and len(key) <= MAX_KEY_BYTES // 4 and key.isascii():
            name = whole = key
        elif issubclass(type(key), str):
            name = cut_text(key, MAX_KEY_BYTES)  # type: ignore[arg-type]
            whole = _take_str(key, slice(None))  # type: ignore[arg-type]
            if type(key) is not str or len(name) != len(whole):
                self.flags |= FIELD_CONVERTED
        else:
            self.flags |= FIELD_CONVERTED
            if issubclass(type(key), int) and type(key) is not bool:
                number = int.__int__(key)  # type: ignore[arg-type]
                bits = number.bit_length()
                name = whole = int.__repr__(number) if bits <= 64 else f"<int of {bits} bits>"
            else:
                text, _, is_whole = safe_text(key, repr, _MAX_JUDGED_BYTES)
                name, whole = cut_text(text, MAX_KEY_BYTES), text if is_whole else None
                if issubclass(type(key), bytes):
                    # The `repr` spells some bytes with letters, which run together with a word.
                    whole = bytes.decode(key, "latin-1")  # type: ignore[arg-type]
        if name in taken:
            self.flags |= FIELD_CONVERTED
            name = f"{name}#{index}"
        return name, whole


def normalise(fields: object, limit_bytes: int, redactor: Redactor | None = None) -> Normalised:
    """The fields of a record as wire values, of which none is longer than `limit_bytes`, without secret ones.

    Never raises, except that KeyboardInterrupt and SystemExit pass through. The whole may still be longer than `limit_bytes`
    where many fields are long; `roam.tracing.codec` cuts further, longest first.
    """
    if fields is None:
        return Normalised({}, 0, {})
    if not issubclass(type(fields), dict):
        fields = {"fields": fields}
    items: list[tuple[object, object]] = []
    count = 0
    for _ in range(_ATTEMPTS):
        try:
            count = dict.__len__(fields)  # type: ignore[arg-type]
            items = list(islice(dict.items(fields), MAX_FIELDS))  # type: ignore[arg-type]
            break
        except RuntimeError:
            count, items = 1, [("fields", CHANGED_TEXT)]
    # What must be made before its size is known is bounded too, so that many such fields take little memory.
    room = min(limit_bytes, limit_bytes * _WHOLE_FIELDS // max(len(items), 1))
    level = water_level([_text_length(value) for _, value in items], limit_bytes)
    normaliser = Normaliser(redactor)
    plain: dict[str, Any] = {}
    cuts: dict[str, int] = {}
    for index, (key, value) in enumerate(items):
        name, whole = normaliser.key(key, index, plain)
        permitted = normaliser.permitted(whole, value, is_outermost=True)
        is_text = issubclass(type(permitted), (str, bytes, bytearray))
        plain[name] = normaliser.top_level(permitted, level if is_text else room)
        if normaliser.was_cut:
            cuts[f"fields.{name}"] = normaliser.length
    if count > len(items):
        cuts["fields"] = count
        normaliser.flags |= CUT
    return Normalised(plain, normaliser.flags, cuts)


def _text_length(value: Any) -> int:
    for base in (str, bytes, bytearray):
        if issubclass(type(value), base):
            return base.__len__(value)
    return 0
