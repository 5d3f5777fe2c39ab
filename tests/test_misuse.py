"""Hosts that are asked for what they cannot do, and hosts that are told to stay silent."""

from __future__ import annotations

import pytest

import roam
from roam.errors import HostClosed
from tests import cells
from tests.programs import METHODS


def fail():
    """A target that raises."""
    raise ValueError("on purpose")


@pytest.mark.parametrize("method", METHODS)
def test_disabled_means_supervised_but_silent(monkeypatch, method):
    """With ROAM_DISABLE a cell writes nothing, and what it returns, how it ends and what ended it are still known."""
    monkeypatch.setenv("ROAM_DISABLE", "1")
    with roam.TracingHost(roam.TracingConfig("trace")) as host:
        quiet = roam.spawn_cell(cells.log_once, 1, host=host, start_method=method)
        quiet.join(60)
        loud = roam.spawn_cell(fail, host=host, start_method=method)

        assert loud.join(60).exception is not None
        assert [record.message for record in quiet.records()] == []


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
