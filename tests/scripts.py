"""Scripts that tests run twice, without roam and as a registered peer, to compare what they print."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import roam
from tests.hosting import messages
from tests.support import REPOSITORY

__all__ = ["Outcome", "run", "same"]

PREAMBLE = """\
import logging, os, sys, threading, warnings
if os.environ.get("ROAM_TICKET"):
    import roam
    roam.init_cell_tracing()
"""


class Outcome:
    """What a script printed, and what of it was captured."""

    def __init__(self, done, records):
        self.code = done.returncode
        self.stdout, self.stderr = done.stdout, done.stderr
        self.records = records
        self.messages = messages(records)


def run(tmp_path, text, *, filter=None, flags=()):
    """Run a script as it is, or as a registered peer with a filter."""
    script = tmp_path / "script.py"
    script.write_text(PREAMBLE + textwrap.dedent(text))
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "0"}

    def start(environ, fds):
        return subprocess.run(
            [sys.executable, *flags, script], env=environ, pass_fds=fds, capture_output=True, cwd=tmp_path, check=False
        )

    if filter is None:
        return Outcome(start(environ, ()), [])
    with roam.TracingHost(roam.TracingConfig(filter), forward=False, dump_dir=tmp_path / "dumps") as host:
        peer = host.register_peer("script")
        done = start({**environ, **peer.ticket.environ}, peer.ticket.fds)
        assert peer.concluded.wait(20), done.stderr
        return Outcome(done, peer.records())


def same(tmp_path, text, filters=("off", "info", "trace"), flags=()):
    """Assert that a script prints the same bytes without roam and under each filter; return the outcomes."""
    bare = run(tmp_path, text, flags=flags)
    outcomes = []
    for filter in filters:
        found = run(tmp_path, text, filter=filter, flags=flags)
        assert (found.stdout, found.stderr, found.code) == (bare.stdout, bare.stderr, bare.code), filter
        outcomes.append(found)
    assert bare.stdout or bare.stderr
    return outcomes
