"""Pickling by value, with dill, for what plain pickle cannot send; whatever can go by reference still does.

dill on its own sends every class of `__main__` by value, and the copy is not the class: `isinstance` and `except`
stop working. Here a class or function goes by value only if the other side cannot look it up.
"""

from __future__ import annotations

import enum
import importlib
import sys
from types import FunctionType, ModuleType
from typing import IO, Any

import dill

from .pickling import PROTOCOL

__all__ = ["Pickler", "add_to_enum", "dump", "is_importable", "load", "make_enum", "of_main", "reduce_by_reference"]

_MAINS = ("__main__", "__mp_main__")


def is_importable(obj: Any, *, main_is_importable: bool) -> bool:
    """Whether a class or function can be found by its module and qualified name, here and so on the other side."""
    module_name = getattr(obj, "__module__", None)
    if module_name is None or (module_name in _MAINS and not main_is_importable):
        return False
    found: Any = sys.modules.get(module_name)
    for step in obj.__qualname__.split("."):
        found = getattr(found, step, None)
        if found is None:
            return False
    return found is obj


def of_main(qualname: str) -> Any:
    """Unpickling: the class or function of this process's `__main__` with that name."""
    found: Any = sys.modules["__main__"]
    for step in qualname.split("."):
        found = getattr(found, step)
    return found


def reduce_by_reference(obj: Any, *, main_is_importable: bool, answer: bool) -> Any:
    """For `reducer_override`: the reference that stands for a class, function or module, or NotImplemented.

    In an `answer`, what came to the cell by value from the host's `__main__` goes back as a reference to the original.
    """
    if isinstance(obj, ModuleType) and obj.__name__ not in _MAINS and sys.modules.get(obj.__name__) is obj:
        # dill sends the state of modules outside of the interpreter's directories, and the cell's would be overwritten.
        return importlib.import_module, (obj.__name__,)
    if not isinstance(obj, (type, FunctionType)):
        return NotImplemented
    # r[impl spawn.identity]
    if is_importable(obj, main_is_importable=main_is_importable):
        return obj.__qualname__
    if answer and obj.__module__ in _MAINS and "<" not in obj.__qualname__:
        return of_main, (obj.__qualname__,)
    if isinstance(obj, enum.EnumType):
        return _reduce_enum(obj)
    return NotImplemented


def _reduce_enum(kind: enum.EnumType) -> Any:
    """An enumeration class by value, which dill cannot do. Its methods follow once it exists, for they may refer to it."""
    named: Any = kind.__members__
    members = [(name, member._value_) for name, member in named.items()]
    plain = set(dir(enum.Enum)) | set(named)
    extra = {
        name: value
        for name, value in vars(kind).items()
        if name not in plain and not (name.startswith("_") and name.endswith("_"))
    }
    identity = (type(kind), kind.__name__, kind.__bases__, kind.__module__, kind.__qualname__)
    return make_enum, (*identity, members), extra, None, None, add_to_enum


def make_enum(
    meta: Any, name: str, bases: tuple[type, ...], module: str, qualname: str, members: list[tuple[str, Any]]
) -> Any:
    """Unpickling: the enumeration class with its members."""
    namespace = meta.__prepare__(name, bases)
    namespace["__module__"], namespace["__qualname__"] = module, qualname
    for member, value in members:
        namespace[member] = value
    return meta(name, bases, namespace)


def add_to_enum(kind: Any, extra: dict[str, Any]) -> None:
    """Unpickling: its methods and properties."""
    for name, value in extra.items():
        setattr(kind, name, value)


class Pickler(dill.Pickler):  # type: ignore[misc]  # dill has no annotations
    """dill's pickler for answers, by reference where that is possible."""

    def __init__(self, file: IO[bytes], *, main_is_importable: bool) -> None:
        super().__init__(file, PROTOCOL, recurse=not main_is_importable)
        self._main_is_importable = main_is_importable

    def reducer_override(self, obj: Any) -> Any:
        """By name where the host can find it, else dill's way."""
        return reduce_by_reference(obj, main_is_importable=self._main_is_importable, answer=True)


def dump(obj: object, file: IO[bytes], *, main_is_importable: bool) -> None:
    """Write an answer. Raises what dill raises."""
    _point_dill_at_main()
    Pickler(file, main_is_importable=main_is_importable).dump(obj)


def load(file: IO[bytes]) -> Any:
    """Read what a pickler of this module, or a courier, wrote. Raises what unpickling raises."""
    _point_dill_at_main()
    return dill.load(file)


def _point_dill_at_main() -> None:
    # dill keeps the `__main__` of its own import; in a cell of the fork server that is the server's.
    dill._dill._main_module = sys.modules["__main__"]
