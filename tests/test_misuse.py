"""Hosts that are asked for what they cannot do, and hosts that are told to stay silent."""

from __future__ import annotations

import threading

import pytest

import roam
from roam.errors import CannotSend, HostClosed
from tests import cells
from tests.programs import METHODS


def call(function=None):
    """A target that calls what it gets."""
    return function() if function is not None else None


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_lock_that_would_be_copied_is_refused(method):
    """A threading lock as an argument names the package that has one for two processes; inside an object it may pass."""
    with roam.TracingHost() as host:
        for lock in (threading.Lock(), threading.RLock(), threading.Event(), threading.Semaphore()):
            with pytest.raises(CannotSend, match=r"^args\[0\] .*multiprocess"):
                roam.spawn_cell(call, lock, host=host, start_method=method)
            with pytest.raises(CannotSend, match=r"^kwargs\['function'\] .*multiprocess"):
                roam.spawn_cell(call, kwargs={"function": lock}, host=host, start_method=method)
        guarded = threading.Lock()
        assert roam.spawn_cell(call, lambda: not guarded.locked(), host=host, start_method=method).result(60)


def fail():
    """A target that raises."""
    raise ValueError("on purpose")


@pytest.mark.parametrize("method", METHODS)
def test_disabled_means_supervised_but_silent(monkeypatch, method):
    """With ROAM_DISABLE a cell writes nothing but how it ends, and what it returns, how it ends and what ended it are still known."""
    monkeypatch.setenv("ROAM_DISABLE", "1")
    with roam.TracingHost(roam.TracingConfig("trace")) as host:
        quiet = roam.spawn_cell(cells.log_once, 1, host=host, start_method=method)
        quiet.join(60)
        loud = roam.spawn_cell(fail, host=host, start_method=method)

        assert loud.join(60).exception is not None
        assert [record.message for record in quiet.records()] == ["os._exit"]


def test_wrong_arguments_of_a_host_are_refused():
    """Misuse is a TypeError at the call, and a closed host says that it is closed."""
    with pytest.raises(TypeError, match="SegmentConfig"):
        roam.TracingHost(segment=3)
    with roam.TracingHost() as host:
        with pytest.raises(TypeError, match="integer"):
            host.subscribe(capacity="x")
        with pytest.raises(TypeError, match="handle, name"):
            host.records(cell=3.5)
    with pytest.raises(HostClosed), host:
        pass
