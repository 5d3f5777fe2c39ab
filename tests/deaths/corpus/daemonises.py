"""Two forks and a new session, and the cell leaves with os._exit(0): the rest is a daemon."""

from __future__ import annotations

import os

import roam
from roam.exit import ExitKind
from tests.deaths.aftermath import grandchild_runs_on
from tests.deaths.death import Death
from tests.deaths.tools import run_on

DEATH = Death(ExitKind.EXITED, "os._exit", code=0, after=grandchild_runs_on)


def plant() -> None:
    reader, writer = os.pipe()
    if os.fork():
        roam.info("grandchild", pid=int(os.read(reader, 16)))
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.write(writer, str(os.getpid()).encode())
    run_on()
