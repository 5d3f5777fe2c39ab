"""Naming the part of a call that cannot be sent, as the user would write it: `args[1].conf['conns'][2].db`.

After a failure the call is pickled once more by a pickler that is written in Python and keeps the chain of objects it
is in. Each step of the chain is named by finding the child in its parent by identity. The walk is bounded in time.
"""

from __future__ import annotations

import functools
import io
import threading
import time
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import IO, Any, NamedTuple

from ..errors import CannotSend

__all__ = ["Culprit", "explain", "explain_result", "find", "refuse_locks"]

_LOCKS: dict[type, str] = {
    type(threading.Lock()): "Lock",
    type(threading.RLock()): "RLock",
    threading.Condition: "Condition",
    threading.Event: "Event",
    threading.Semaphore: "Semaphore",
    threading.BoundedSemaphore: "BoundedSemaphore",
    threading.Barrier: "Barrier",
}

_WALK_S = 0.05
_STEPS_SHOWN = 10


class Culprit(NamedTuple):
    """The object that failed, and its path from the call."""

    path: str
    obj: object


class _TimeUp(Exception):
    pass


def find(call: tuple[Any, ...], make_pickler: Callable[[IO[bytes]], Any]) -> Culprit:
    """The innermost part of `call`, `(target, args, kwargs)`, at which pickling fails.

    `make_pickler` makes a pickler whose `save` is a Python method.
    """
    chain: list[Any] = []
    pickler = make_pickler(io.BytesIO())
    plain_save = pickler.save
    deadline = time.monotonic() + _WALK_S

    def save(obj: Any, *arguments: Any, **options: Any) -> None:
        if time.monotonic() > deadline:
            raise _TimeUp
        # r[impl spawn.unsendable] Where it fails, the chain leads there.
        chain.append(obj)
        plain_save(obj, *arguments, **options)
        chain.pop()  # not in a finally: what is left of the chain is the evidence

    pickler.save = save
    try:
        pickler.dump(call)
    except _TimeUp:
        return _first_bad_argument(call, make_pickler)
    except Exception:
        return _name(call, chain)
    return Culprit("the call", call)


def _first_bad_argument(call: tuple[Any, ...], make_pickler: Callable[[IO[bytes]], Any]) -> Culprit:
    target, args, kwargs = call
    parts = [("target", target), *((f"args[{i}]", arg) for i, arg in enumerate(args))]
    parts += [(f"kwargs[{key!r}]", value) for key, value in kwargs.items()]
    for path, part in parts:
        try:
            make_pickler(io.BytesIO()).dump(part)
        except Exception:
            return Culprit(path, part)
    return Culprit("the call", call)


def _name(call: tuple[Any, ...], chain: list[Any]) -> Culprit:
    steps: list[str] = []
    anchor: Any = call
    culprit: Any = call
    between: Any = None  # what pickling made itself: the state of an object, mostly a dict of its attributes
    for obj in chain:
        if obj is call:
            continue
        step = _first_step(call, obj) if anchor is call else _step(anchor, obj)
        if step is None and isinstance(between, dict):
            step = _as_attribute(between, obj)
        if step is None:
            between = obj
            continue
        steps.append(step)
        anchor, between, culprit = obj, None, obj
    if len(steps) > _STEPS_SHOWN:
        steps = [*steps[:5], "…", *steps[-3:]]
    return Culprit("".join(steps) or "the call", culprit)


def _first_step(call: tuple[Any, ...], obj: Any) -> str | None:
    target, args, kwargs = call
    if obj is target:
        return "target"
    for index, arg in enumerate(args):
        if arg is obj:
            return f"args[{index}]"
    for key, value in kwargs.items():
        if value is obj:
            return f"kwargs[{key!r}]"
    return None


def _step(parent: Any, child: Any) -> str | None:
    """How one gets from `parent` to `child`, or None where that cannot be seen."""
    if isinstance(parent, dict):
        return next((f"[{key!r}]" for key, value in parent.items() if value is child), None)
    if isinstance(parent, (list, tuple)):
        return next((f"[{index}]" for index, item in enumerate(parent) if item is child), None)
    if isinstance(parent, functools.partial):
        return next((f".{name}" for name in ("func", "args", "keywords") if getattr(parent, name) is child), None)
    if isinstance(parent, MethodType):
        return ".__self__" if parent.__self__ is child else None
    if isinstance(parent, FunctionType):
        return _function_step(parent, child)
    own = getattr(parent, "__dict__", None)
    if own is child:
        return None
    if own:
        found = _as_attribute(own, child)
        if found is not None:
            return found
    for name in _slots(type(parent)):
        try:
            if getattr(parent, name) is child:
                return f".{name}"
        except AttributeError:
            continue
    return None


def _as_attribute(namespace: Any, child: Any) -> str | None:
    return next((f".{name}" for name, value in namespace.items() if value is child and isinstance(name, str)), None)


def _function_step(function: FunctionType, child: Any) -> str | None:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            if cell is child or cell.cell_contents is child:
                return f"<closure {name}>" if cell is not child else None
        except ValueError:
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__ and function.__globals__[name] is child:
            return f"<global {name}>"
    return next((f"<default {index}>" for index, item in enumerate(function.__defaults__ or ()) if item is child), None)


def _slots(kind: type) -> list[str]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return names


def _is_foreign(obj: object) -> bool:
    """Whether an object belongs to the standard library's `multiprocessing`, whose objects `multiprocess` cannot carry."""
    return type(obj).__module__.partition(".")[0] == "multiprocessing"


def refuse_locks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse an argument that is itself a lock of `threading`, which dill would send as one of its own.

    A lock inside of an object passes: such objects mean to have one, not to share it. Raises `CannotSend`.
    """
    named = [(f"args[{index}]", value) for index, value in enumerate(args)]
    named += [(f"kwargs[{key!r}]", value) for key, value in kwargs.items()]
    for path, value in named:
        kind = _LOCKS.get(type(value))
        if kind is not None:
            raise CannotSend(
                path=path,
                reason=f"a {kind} of threading holds within one process, and the cell would get another one",
                remedy=f"Make it with the package `multiprocess`, which has a {kind} that both share.",
            )


def explain(culprit: Culprit, error: Exception) -> CannotSend:
    """The error for the user: what, why, and what to do about it."""
    reason = str(error) or type(error).__name__
    if _is_foreign(culprit.obj) or "objects of multiprocessing do not pass" in reason:
        kind = type(culprit.obj).__name__
        return CannotSend(
            path=culprit.path,
            reason=f"it is a {kind} of the standard library's multiprocessing",
            remedy="Make it with the package `multiprocess`, which has the same names.",
        )
    if "fork context" in reason:
        return CannotSend(
            path=culprit.path,
            reason="it was made in a fork context, and only forked processes can share it",
            remedy="Make it with multiprocess.get_context('spawn'), or start the cell with start_method='fork'.",
        )
    return CannotSend(
        path=culprit.path,
        reason=f"{type(error).__name__}: {reason}",
        remedy="Open or create it inside the cell, or leave it out of the pickle with __getstate__.",
    )


def explain_result(value: object, error: Exception, make_pickler: Callable[[IO[bytes]], Any]) -> CannotSend:
    """The error for a return value that cannot be sent back."""
    culprit = find((value, (), {}), make_pickler)
    return CannotSend(
        path=culprit.path.replace("target", "the return value", 1),
        reason=f"{type(error).__name__}: {error}",
        remedy="Return plain data, or leave it out of the pickle with __getstate__.",
    )
