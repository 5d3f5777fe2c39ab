"""What never leaves the program: the values of fields whose names say that they are secret.

Values are replaced before any byte of them is written, in fields of events and spans, in what `logging` calls `extra`,
in nested dictionaries, and in the local variables of exceptions where those are asked for. Texts are not searched: a
secret within a message, or in the `repr` of an object, is not recognised; `set_redactor` is for those who know better.
"""

from __future__ import annotations

import re
import weakref
from _thread import get_ident
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

__all__ = ["REDACTED_NAMES", "REDACTED_TEXT", "Redactor", "redactor_of", "set_redactor"]

REDACTED_TEXT = "[redacted]"
REDACTED_NAMES = (
    "access_key",
    "access_keys",
    "access_tokens",
    "api_key",
    "api_keys",
    "apikey",
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

Hook = Callable[[str, Any], Any]
_hook: Hook | None = None
_in_hook: set[int] = set()
"""Threads that are in it just now."""
_redactors: weakref.WeakSet[Redactor] = weakref.WeakSet()


def set_redactor(function: Hook | None) -> None:
    """Have every field of this process's records pass through `function(name, value)`; None for none.

    It is called before anything is written, in the thread that emits, also for nested fields and, under the name
    `message`, for messages; what it returns is written in the value's place. Where it raises, `[redacted]` is, and so for
    all values of records that it makes itself. It costs every record several microseconds. Raises `TypeError` for what
    cannot be called.
    """
    global _hook
    if function is not None and not callable(function):
        raise TypeError(f"set_redactor takes a function of name and value, not {type(function).__name__}")
    _hook = function
    for redactor in list(_redactors):
        redactor.use(function)


class Redactor:
    """Knows secret fields by their names.

    A name is secret if the words of one of `names` stand in it, one after the other: `api_key` is in `X-Api-Key`,
    `apiKey` and `MY_API_KEY_2`, but `token` is not in `tokens`. Threads: any.
    """

    __slots__ = ("__weakref__", "_secrets", "hook", "safe")

    def __init__(self, names: Iterable[str]) -> None:
        self._secrets = tuple(sorted({_spelled(name) for name in names}))
        self.hook: Hook | None
        """The process's own function, see `set_redactor`."""
        self.safe: set[str]
        """Cache: names that were asked for and are not secret. Empty while there is a hook."""
        # In this order: a hook that is set meanwhile is not missed.
        _redactors.add(self)
        self.use(_hook)

    def use(self, hook: Hook | None) -> None:
        """Take another hook; fields of no name are safe until they are asked for again."""
        self.hook = hook
        self.safe = set()

    def is_secret(self, name: str, *, is_outermost: bool = False) -> bool:
        """Whether the value of a field of this name must not be written. Names of fields that are nested in no other,
        `is_outermost`, are remembered."""
        # Read first: what is added to a set that a new hook has replaced is forgotten with it.
        safe = self.safe
        if name in safe:
            return False
        spelled = _spelled(name)
        if any(secret in spelled for secret in self._secrets):
            return True
        # Bounded, because a program may make up names without end, of any length.
        if is_outermost and self.hook is None and len(safe) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
            safe.add(name)
        return False

    def redact(self, name: str, value: Any, *, is_outermost: bool = False) -> Any:
        """The value, or what is to be written in its place."""
        if self.is_secret(name, is_outermost=is_outermost):
            return REDACTED_TEXT
        hook = self.hook
        if hook is None:
            return value
        thread = get_ident()
        if thread in _in_hook:
            # The hook's own records: asking it about them would never end.
            return REDACTED_TEXT
        _in_hook.add(thread)
        try:
            return hook(name, value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # It was asked because something may have to be hidden.
            return REDACTED_TEXT
        finally:
            _in_hook.discard(thread)


def _spelled(name: str) -> str:
    """The words of a name in lower case, each between underscores."""
    return f"_{'_'.join(word.lower() for word in _WORDS.findall(name))}_"


@lru_cache(8)
def redactor_of(names: tuple[str, ...]) -> Redactor:
    """One redactor for equal names, which keeps what it has learnt."""
    return Redactor(names)
