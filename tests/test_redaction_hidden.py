"""Names in places other than keys of dictionaries, and a hook among threads and forks."""

from __future__ import annotations

import enum
import os
import pwd
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pytest

import roam
from roam.tracing import redaction
from roam.tracing.redaction import REDACTED_TEXT, Redactor, redactor_of
from tests.test_redaction import fields_of


@pytest.fixture(autouse=True)
def no_hook():
    """A hook is the whole process's."""
    yield
    roam.set_redactor(None)


class Text(str):
    """A key that is no plain `str`."""

    __slots__ = ()


class Longest(enum.Enum):
    """A key that is known by its `repr`."""

    PASSWORD = "x" * 5000


class Guarded(type):
    """A class that does not like to be looked at."""

    def __getattribute__(cls, name):
        if name == "_fields":
            raise ValueError(name)
        return super().__getattribute__(name)


class Odd(tuple, metaclass=Guarded):
    """A tuple of it."""

    __slots__ = ()


Header = namedtuple("Header", "name value")  # noqa: PYI024 -- as `Login`
Login = namedtuple("Login", "user password")  # noqa: PYI024 -- it is what programs have


# r[verify trace.redacted]
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    "key",
    [
        Text("password"),
        Text("x" * 200 + "_password"),
        b"x" * 200 + b"_password",
        b"\npassword",
        ("x" * 200, "password"),
        "x" * 200 + "_password",
        Longest.PASSWORD,
        ("é" * 70, "password"),
        ("x" * 5000,),
    ],
)
def test_all_of_a_nested_key_is_judged(key, depth):
    """Also where less of it is written; what is too long to be judged is hidden."""
    value = {key: "hunter2", "other": 1}
    found = fields_of({"value": [value] if depth else value})
    assert "hunter2" not in repr(found)
    assert "'other': 1" in repr(found)


# r[verify trace.redacted]
def test_names_of_elements_are_names():
    """Of named tuples, and in pairs as in the headers of HTTP; what they are written as stays a list."""
    headers = [("Authorization", "x"), ["cookie", "y"], (b"x-api-key", b"z"), ("Accept", "*"), ("token", 1, 2)]
    hidden = [["Authorization", REDACTED_TEXT], ["cookie", REDACTED_TEXT], [b"x-api-key", REDACTED_TEXT]]
    assert fields_of({"headers": headers}) == {"headers": [*hidden, ["Accept", "*"], ["token", 1, 2]]}
    assert fields_of({"login": Login("me", "x"), "more": [Login("me", {"a": 1})]}) == {
        "login": ["me", REDACTED_TEXT],
        "more": [["me", REDACTED_TEXT]],
    }
    assert fields_of({"header": Header(Text("password"), "x")}) == {"header": ["password", REDACTED_TEXT]}
    assert fields_of({"odd": Odd((1, 2, 3))}) == {"odd": [1, 2, 3]}
    assert fields_of({"text": ["password " * 100, 1]}) == {"text": ["password " * 100, 1]}
    user = pwd.struct_passwd(("me", "hash", 1, 2, "", "/", "/bin/sh"))
    assert fields_of({"user": user})["user"][:3] == ["me", REDACTED_TEXT, 1]
    assert fields_of({"login": Login("me", "x")}, redactor_of(())) == {"login": ["me", "x"]}


def test_a_hook_sees_the_elements_of_named_tuples():
    """Under their names."""
    roam.set_redactor(lambda name, value: f"{name}!" if name == "user" else value)
    assert fields_of({"login": Login("me", "x")}) == {"login": ["user!", REDACTED_TEXT]}


def test_a_name_in_the_making_is_not_exempt_from_a_hook(monkeypatch):
    """A hook that is set while a name is judged is asked about that name ever after."""
    found = Redactor(["pin"])
    monkeypatch.setattr(redaction, "_spelled", lambda name: roam.set_redactor(lambda _, __: "hidden") or f"_{name}_")
    assert not found.is_secret("iban", is_outermost=True)
    monkeypatch.undo()
    assert found.safe == set()
    assert found.redact("iban", 1) == "hidden"


def test_a_hook_is_asked_in_each_thread():
    """That one thread is in the hook exempts no other; and after an exception it is asked again."""
    inside, go = threading.Event(), threading.Event()

    def hook(name, value):
        if name == "wait":
            inside.set()
            assert go.wait(10)
        if name == "raise":
            raise KeyError(name)
        return f"{value}!"

    found = Redactor([])
    roam.set_redactor(hook)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(found.redact, "wait", 1)
        assert inside.wait(10)
        assert found.redact("a", 1) == "1!"
        go.set()
        assert waiting.result(10) == "1!"
    assert (found.redact("raise", 1), found.redact("a", 2)) == (REDACTED_TEXT, "2!")


def test_a_child_that_is_forked_while_a_thread_is_in_the_hook_asks_again():
    """Identities of threads come again in it."""
    inside, go = threading.Event(), threading.Event()

    def hook(name, value):
        if name == "wait":
            inside.set()
            assert go.wait(10)
        return f"{value}!"

    found = Redactor([])
    roam.set_redactor(hook)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(found.redact, "wait", 1)
        assert inside.wait(10)
        pid = os.fork()
        if pid == 0:
            answers = []
            for _ in range(3):
                thread = threading.Thread(target=lambda: answers.append(found.redact("a", 1)))
                thread.start()
                thread.join()
            os._exit(answers != ["1!"] * 3)
        go.set()
        assert waiting.result(10) == "1!"
    assert os.waitpid(pid, 0)[1] == 0
