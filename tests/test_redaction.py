"""Redaction: what a secret is, and that it is nowhere afterwards."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import roam
from roam.tracing.codec import decode, encode_event
from roam.tracing.config import TracingConfig
from roam.tracing.redaction import REDACTED_NAMES, REDACTED_TEXT, Redactor, redactor_of
from tests import secretive
from tests.hosting import arrived, in_process
from tests.support import REPOSITORY, wait_until

REDACTOR = Redactor(REDACTED_NAMES)


@pytest.fixture(autouse=True)
def no_hook():
    """A hook is the whole process's."""
    yield
    roam.set_redactor(None)


@pytest.mark.parametrize(
    "name",
    [
        *REDACTED_NAMES,
        "PASSWORD",
        "userPassword",
        "user.password",
        "old-password-2",
        "MYSQL_PWD",
        "X-Api-Key",
        "apiKey",
        "APIKey",
        "my_api_key_2",
        "Authorization",
        "Proxy-Authorization",
        "Set-Cookie",
        "csrfToken",
        "access_token",
        "client secret",
        "aws_secret_access_key",
        "x" * 200 + "_password",
    ],
)
def test_names_that_say_that_they_are_secret(name):
    """In any spelling that programs use."""
    assert REDACTOR.is_secret(name)
    assert REDACTOR.redact(name, 5) == REDACTED_TEXT


@pytest.mark.parametrize(
    "name", ["tokens", "max_tokens", "secretary", "author", "key", "user", "", "___", "compass", "é", "1"]
)
def test_names_that_do_not(name):
    """Words are whole: a part of one is something else."""
    assert not REDACTOR.is_secret(name)
    assert REDACTOR.redact(name, 5) == 5


@given(st.text(max_size=30))
def test_a_name_is_judged_alike_each_time(name):
    """Whether it is remembered or not, and whatever it is made of."""
    found = Redactor(["api_key", "é"])
    assert found.is_secret(name) == found.is_secret(name)


def test_what_is_remembered_is_bounded():
    """A program that makes up names without end costs no memory without end."""
    found = Redactor(["x"])
    for number in range(10_000):
        assert not found.is_secret(f"name{number}", is_outermost=True)
    assert len(found.safe) == 4096


def fields_of(fields, redactor=REDACTOR):
    return decode(encode_event(20, "app", "text", fields, 1, bytes(8), bytes(16), redactor=redactor)).fields


# r[verify trace.redacted]
@given(
    st.recursive(
        st.integers(0, 3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "password", 7]), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_secrets_are_found_however_deep(value):
    """Every value under a secret name is replaced, and every other is what it was."""

    def expected(one):
        if isinstance(one, dict):
            return {str(key): REDACTED_TEXT if key == "password" else expected(inner) for key, inner in one.items()}
        return [expected(inner) for inner in one] if isinstance(one, list) else one

    assert fields_of({"value": value, "token": value}) == {"value": expected(value), "token": REDACTED_TEXT}
    assert fields_of({"value": value}, redactor=redactor_of(())) == fields_of({"value": value}, redactor=None)


def test_the_first_record_with_a_name_is_redacted_like_the_second():
    """What is not known yet is looked at before it is written."""
    found = Redactor(["pin"])
    for _ in range(2):
        assert fields_of({"pin": 1, "number": 2}, found) == {"pin": REDACTED_TEXT, "number": 2}
        assert fields_of({"number": 2}, found) == {"number": 2}


def test_a_hook_sees_what_is_written():
    """It gets name and value of every field and of messages; where it raises, the value is hidden."""
    seen = []

    def hook(name, value):
        seen.append(name)
        if name == "card":
            return str(value)[-4:]
        if name == "broken":
            raise KeyError(name)
        return value

    with in_process(TracingConfig("info")) as (_, cell):
        roam.info("before", card=12345678)
        roam.set_redactor(hook)
        roam.info("while", card=12345678, broken=1, password=2, deep={"card": 87654321, "list": [{"card": 5}]})
        with roam.span("job", card=12345678) as job:
            job.record(card=11112222)
        roam.set_redactor(None)
        roam.info("after", card=12345678)
        records = {
            (record.kind, record.message): record.fields for record in arrived(cell) if hasattr(record, "fields")
        }

    assert records["event", "before"] == records["event", "after"] == {"card": 12345678}
    assert records["event", "while"] == {
        "card": "5678",
        "broken": REDACTED_TEXT,
        "password": REDACTED_TEXT,
        "deep": {"card": "4321", "list": [{"card": "5"}]},
    }
    assert records["span_enter", "job"] == {"card": "5678"}
    assert records["span_close", "job"] == {"card": "2222"}
    assert "message" in seen
    assert "password" not in seen


def test_a_message_can_be_rewritten():
    """A hook may search texts, which roam does not."""
    roam.set_redactor(lambda name, value: value.replace("4711", "****") if name == "message" else value)
    with in_process(TracingConfig("info")) as (_, cell):
        roam.info("card 4711")
        [record] = [record for record in arrived(cell) if record.kind == "event"]
    assert record.message == "card ****"


def test_only_a_function_is_a_hook():
    """Said at the call."""
    with pytest.raises(TypeError, match="function of name and value"):
        roam.set_redactor("password")


@pytest.mark.parametrize(
    ("redact", "error"), [("password", TypeError), ([""], ValueError), (["_-"], ValueError), ([5], ValueError)]
)
def test_what_is_no_name_is_refused(redact, error):
    """At the call, by name."""
    with pytest.raises(error, match="redact"):
        TracingConfig("info", redact=redact)


def test_names_travel_with_the_configuration():
    """To the cell, and through pickle."""
    for options in ({}, {"redact": ()}, {"redact": (*REDACTED_NAMES, "iban"), "exception_locals": True}):
        config = TracingConfig("info", **options)
        assert TracingConfig.from_bytes(config.to_bytes()) == config == pickle.loads(pickle.dumps(config))


def test_locals_of_exceptions_are_shown_where_they_are_asked_for():
    """Few, short, redacted by name; not at all by default."""

    def fail():
        password, number, long = "hunter" + "2", 7, "x" * 1000  # noqa: F841
        raise ValueError(number)

    texts = []
    for wanted in (False, True):
        with in_process(TracingConfig("info", exception_locals=wanted)) as (_, cell):
            try:
                fail()
            except ValueError:
                roam.error("failed", exc_info=True)
            [record] = [record for record in arrived(cell) if record.kind == "event"]
            texts.append(record.exception.traceback)
    assert "number = 7" not in texts[0]
    assert "      number = 7\n" in texts[1]
    assert f"      password = {REDACTED_TEXT!r}\n" in texts[1]
    assert "hunter2" not in texts[1]
    assert max(map(len, texts[1].splitlines())) < 200


def test_elements_with_names_are_fields():
    """Named tuples, pairs of name and value as in headers, and keys of any type and length."""

    class User(NamedTuple):
        name: str
        password: str

    class Key(str):
        __slots__ = ()

    long = "x" * 300 + "_token"
    value = {
        "user": User("ann", "hidden"),
        "headers": [("Host", "h"), ("Authorization", "hidden"), ["Cookie", "hidden"], ("a", "b", "c")],
        "keys": {Key(long): "hidden", long.encode(): "hidden", b"api_key": "hidden", ("x" * 200, "token"): "hidden"},
    }
    found = fields_of({"value": value})["value"]
    assert "hidden" not in str(found)
    assert found["user"] == ["ann", REDACTED_TEXT]
    assert found["headers"] == [
        ["Host", "h"],
        ["Authorization", REDACTED_TEXT],
        ["Cookie", REDACTED_TEXT],
        ["a", "b", "c"],
    ]


def test_a_hook_that_logs_is_not_asked_about_that():
    """Its own records are written with everything hidden, and it ends."""
    calls = []

    def hook(name, value):
        calls.append(name)
        roam.info("from the hook", value=value, deep={"x": [1, 2]})
        return value

    with in_process(TracingConfig("info")) as (_, cell):
        roam.set_redactor(hook)
        roam.info("hello", a=1)
        roam.set_redactor(None)
        records = [record for record in arrived(cell) if record.kind == "event"]
    assert sorted(calls) == ["a", "message"]
    assert [record.fields for record in records if record.message == "hello"] == [{"a": 1}]
    assert {str(record.fields["value"]) for record in records if "a" not in record.fields} == {REDACTED_TEXT}


def test_what_is_remembered_has_a_length():
    """Long names, and those of nested fields, are judged each time."""
    found = Redactor(["x"])
    fields_of({"a" * 1000: 1, "outer": {"inner": 1}}, found)
    assert found.safe == {"outer"}


def test_locals_that_cannot_be_read_cost_no_traceback():
    """A class body whose namespace is a program's own."""

    class Namespace(dict):
        def items(self):
            raise RuntimeError("no")

    class Meta(type):
        @classmethod
        def __prepare__(cls, name, bases):
            return Namespace()

    with in_process(TracingConfig("info", exception_locals=True)) as (_, cell):
        try:

            class Body(metaclass=Meta):
                raise ValueError("inside")

        except ValueError:
            roam.error("failed", exc_info=True)
        [record] = [record for record in arrived(cell) if record.kind == "event"]
    assert "ValueError: inside" in record.exception.traceback
    assert "in Body" in record.exception.traceback


# r[verify trace.redacted]
@pytest.mark.parametrize("end", ["kill", "raise", "segv"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_secret_is_nowhere(method, end, tmp_path):
    """Byte by byte: not in the segment while the cell lives, not in the dump, the fault and stderr files, the host's
    stderr or its log, whichever way the cell dies."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(secretive.CANARY_PARTS[0] + "\n" + secretive.CANARY_PARTS[1])
    secret = "".join(secretive.CANARY_PARTS).encode()
    place = tmp_path / "roam"
    environ = {**os.environ, "ROAM_DIR": str(place), "PYTHONPATH": str(REPOSITORY)}
    script = [sys.executable, "-m", "tests.secretive", str(secret_file), str(tmp_path), method, end]
    with subprocess.Popen(
        script, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=REPOSITORY
    ) as process:
        try:
            wait_until((tmp_path / "written").exists, 30.0)
            living = {path: path.read_bytes() for path in sorted((place / "run").rglob("*")) if path.is_file()}
            (tmp_path / "go").touch()
            output, _ = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == 0, output.decode()
    left = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
    log = (tmp_path / "host.log").read_bytes()

    assert any(path.suffix == ".segment" and secretive.WITNESS.encode() in data for path, data in living.items())
    assert any(path.suffix == ".roam" and secretive.WITNESS.encode() in data for path, data in left.items())
    assert secretive.WITNESS.encode() in log
    for path, data in {**living, **left, Path("output"): output, Path("log"): log}.items():
        assert secret not in data, path
        assert secret[::-1] not in data, path
