"""The modules that a proof runs: roam's own, or copies of them whose source was changed in one place.

A copy is compiled from the shipped source with some text replaced, so that it differs from what is shipped in exactly
that text; where the text is not there, or there twice, making the copy fails.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["MODULES", "Code", "Edit", "patience"]

MODULES = {
    name.rpartition(".")[2]: name
    for name in (
        "roam.shm.chunk",
        "roam.shm.ring",
        "roam.shm.overflow",
        "roam.shm.reader",
        "roam.shm.header",
        "roam.shm.segment",
        "roam.shm.mapping",
        "roam.shm.mailbox",
        "roam.shm.spans",
        "roam.shm.writer",
        "roam.shm.stream",
        "roam.tracing.emitter",
    )
}
"""By their last names, in the order in which they import each other."""


class Edit(NamedTuple):
    """`old` in the source of one of `MODULES` becomes `new`."""

    module: str
    old: str
    new: str


class Code:
    """The `MODULES` as attributes; those that `edits` or `copied` name are copies, and so are those that
    use them."""

    def __init__(self, edits: tuple[Edit, ...] = (), copied: tuple[str, ...] = ()) -> None:
        named = {edit.module for edit in edits} | set(copied)
        instead: dict[types.ModuleType, types.ModuleType] = {}
        for name, path in MODULES.items():
            shipped = importlib.import_module(path)
            setattr(self, name, shipped)
            if name in named or any(_uses(shipped, other) for other in instead):
                copy = _copy(shipped, [edit for edit in edits if edit.module == name])
                for other, replacement in instead.items():
                    _use(copy, other, replacement)
                instead[shipped] = copy
                setattr(self, name, copy)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _copy(module: types.ModuleType, edits: list[Edit]) -> types.ModuleType:
    path = Path(str(module.__file__))
    source = path.read_text()
    for edit in edits:
        if source.count(edit.old) != 1:
            raise LookupError(f"{module.__name__} has {source.count(edit.old)} times, and not once: {edit.old}")
        source = source.replace(edit.old, edit.new)
    # A hook that is registered stays for the life of the process, and the copy does not.
    source = source.replace("os.register_at_fork(", "dict(")
    # Named as what it is: the copy never takes the place of the module in `sys.modules`, except while it is made,
    # where `dataclasses` looks for it.
    copy = types.ModuleType(f"{module.__name__}_altered")
    copy.__package__ = module.__package__
    sys.modules[copy.__name__] = copy
    try:
        exec(compile(source, f"{path} (altered)", "exec"), vars(copy))
    finally:
        del sys.modules[copy.__name__]
    return copy


def _taken(module: types.ModuleType, source: types.ModuleType) -> Iterator[str]:
    """What `module` has imported from `source`."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == source.__name__ and getattr(source, name, None) is value:
            yield name


def _uses(module: types.ModuleType, source: types.ModuleType) -> bool:
    return any(True for _ in _taken(module, source))


def _use(copy: types.ModuleType, shipped: types.ModuleType, instead: types.ModuleType) -> None:
    """What `copy` imported from `shipped` it takes from `instead`."""
    for name in list(_taken(copy, shipped)):
        setattr(copy, name, getattr(instead, name))


@contextmanager
def patience(code: Code, retries: int | None) -> Iterator[None]:
    """Let the reader of `code` give up after so many polls; what takes it many in life is part of short runs then."""
    shipped = code.reader.RETRIES
    code.reader.RETRIES = shipped if retries is None else retries
    try:
        yield
    finally:
        code.reader.RETRIES = shipped
