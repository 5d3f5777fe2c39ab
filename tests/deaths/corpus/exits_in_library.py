"""sys.exit inside a library: argparse does not know an option."""

from __future__ import annotations

from roam.exit import ExitKind
from tests.deaths.death import Death

DEATH = Death(ExitKind.EXITED, "sys.exit", code=2, raises="SystemExit", stderr="unrecognized arguments: --nonsense\n")


def plant() -> None:
    import argparse

    argparse.ArgumentParser().parse_args(["--nonsense"])
