"""What never leaves the program: the values of fields whose names say that they are secret.

Values are replaced before any byte of them is written, in fields of events and spans, in what `logging` calls `extra`,
in nested dictionaries and named tuples, in pairs of a name and a value, and in the local variables of exceptions where
those are asked for. Texts are not searched: a secret within a message, or in the `repr` of an object, is not
recognised; `set_redactor` is for those who know better.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

__all__ = ["REDACTED_NAMES", "REDACTED_TEXT", "Redactor", "names_of_elements", "redactor_of", "set_redactor"]

REDACTED_TEXT = "[redacted]"
REDACTED_NAMES = (
    "access_key",
    "access_keys",
    "access_tokens",
    "api_key",
    "api_keys",
    "apikey",
    "auth_tokens",
    "authorization",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "csrf",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "private_key",
    "private_keys",
    "pwd",
    "refresh_tokens",
    "secret",
    "secrets",
    "session_id",
    "session_key",
    "sessionid",
    "token",
)
"""What is redacted unless a configuration says otherwise: see `Redactor`."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W_A-Za-z]+")
_MOST_NAMES = 4096
_LONGEST_NAME = 128
"""Longer names are judged each time: what is kept of names is bounded, and the codec's fast path takes none of them."""
_LONGEST_FIRST = 256
"""Of a pair; what is longer is a text and no name, and takes long to judge."""
_mro_of = type.__dict__["__mro__"].__get__
_dict_of = type.__dict__["__dict__"].__get__


class _Running(threading.local):
    """What a thread is at."""

    in_hook = False


Hook = Callable[[str, Any], Any]
_hook: Hook | None = None
_running = _Running()
_lock = threading.RLock()
"""Over `_hook` and all of `_redactors` together. A signal handler may set a hook, too, so it can be taken twice."""
_redactors: weakref.WeakSet[Redactor] = weakref.WeakSet()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


# Another thread of the parent may have held it.
os.register_at_fork(after_in_child=_renew_lock)


def set_redactor(function: Hook | None) -> None:
    """Have every field of this process's records pass through `function(name, value)`; None for none.

    It is called before anything is written, in the thread that emits, also for nested fields and, under the name
    `message`, for messages; what it returns is written in the value's place. Where it raises, `[redacted]` is. It costs every
    record several microseconds.

    It may log: until it returns it is not called again in its thread, and records made there meanwhile, also by a signal
    handler, have `[redacted]` in place of everything that it would have been asked for, their messages included. Raises
    `TypeError` for what cannot be called.
    """
    global _hook
    if function is not None and not callable(function):
        raise TypeError(f"set_redactor takes a function of name and value, not {type(function).__name__}")
    with _lock:
        _hook = function
        for redactor in list(_redactors):
            redactor.use(_hook)


class Redactor:
    """Knows secret fields by their names.

    A name is secret if the words of one of `names` stand in it, one after the other: `api_key` is in `X-Api-Key`,
    `apiKey` and `MY_API_KEY_2`, but `token` is not in `tokens`: these are counted more often than hidden. Threads: any.
    """

    __slots__ = ("__weakref__", "_secrets", "hook", "safe")

    def __init__(self, names: Iterable[str]) -> None:
        self._secrets = tuple(sorted({_spelled(name) for name in names}))
        self.hook: Hook | None
        """The process's own function, see `set_redactor`."""
        self.safe: set[str]
        """Cache: short names of fields that were asked for and are not secret. Empty while there is a hook."""
        # In one step: a hook that is set meanwhile would otherwise miss this one.
        with _lock:
            _redactors.add(self)
            self.use(_hook)

    def use(self, hook: Hook | None) -> None:
        """Take another hook; fields of no name are safe until they are asked for again."""
        self.hook = hook
        self.safe = set()

    def is_secret(self, name: str, *, is_outermost: bool = False) -> bool:
        """Whether the value of a field of this name must not be written. Only names of fields that are nested in no other,
        `is_outermost`, are remembered: others are often data, and would leave no room for those."""
        # Taken before the hook is looked at: if one is set in between, this set is no longer in use.
        safe = self.safe
        if name in safe:
            return False
        spelled = _spelled(name)
        if any(secret in spelled for secret in self._secrets):
            return True
        # Bounded, because a program may make up names without end.
        if is_outermost and len(name) <= _LONGEST_NAME and self.hook is None and len(safe) < _MOST_NAMES:
            safe.add(name)
        return False

    def is_secret_first(self, first: Any) -> bool:
        """Whether the first of a pair, as in the headers of HTTP, is a name that says that the second is secret."""
        if issubclass(type(first), str):
            name = str.__getitem__(first, slice(_LONGEST_FIRST + 1))
        elif issubclass(type(first), bytes):
            name = bytes.__getitem__(first, slice(_LONGEST_FIRST + 1)).decode("latin-1")
        else:
            return False
        return len(name) <= _LONGEST_FIRST and self.is_secret(name)

    def redact(self, name: str, value: Any, *, is_outermost: bool = False) -> Any:
        """The value, or what is to be written in its place."""
        if self.is_secret(name, is_outermost=is_outermost):
            return REDACTED_TEXT
        hook = self.hook
        if hook is None:
            return value
        if _running.in_hook:
            # The hook itself logs. Asked about that it would log again, without end.
            return REDACTED_TEXT
        try:
            _running.in_hook = True
            return hook(name, value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # It was asked because something may have to be hidden.
            return REDACTED_TEXT
        finally:
            _running.in_hook = False


def _spelled(name: str) -> str:
    """The words of a name in lower case, each between underscores."""
    return f"_{'_'.join(word.lower() for word in _WORDS.findall(name))}_"


def names_of_elements(kind: type) -> tuple[str, ...]:
    """The names of a named tuple's elements, in their order, none for other tuples. Runs no code of the class."""
    for base in _mro_of(kind):
        # The second is what the tuples of `os` and `pwd` have.
        for attribute in ("_fields", "__match_args__"):
            names = _dict_of(base).get(attribute)
            if type(names) is tuple and all(type(name) is str for name in names):
                return names
    return ()


@lru_cache(8)
def redactor_of(names: tuple[str, ...]) -> Redactor:
    """One redactor for equal names, which keeps what it has learnt."""
    return Redactor(names)
