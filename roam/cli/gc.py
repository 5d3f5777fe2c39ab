"""`roam gc`: what hosts that were killed have left becomes post-mortems, and is removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from ..errors import RoamError
from ..postmortem.directory import check_dump_dir, default_dump_dir
from ..postmortem.escape import escape
from ..postmortem.salvage import Fate, Finding, salvage
from ..shm.rundir import is_run_name, run_directories, run_root
from .main import Unreadable
from .output import write_output

__all__ = ["command"]


@click.command("gc")
@click.argument("directory", required=False)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
def command(directory: str | None, dry_run: bool) -> None:
    """Turn what killed hosts have left into post-mortems, and remove it.

    DIRECTORY is where hosts make their run directories, or one of those; the user's own place unless told. What a living
    host or a living process uses is left alone, and so is everything of which that cannot be known. Post-mortems go
    where the host had its own, or, where that is gone, to the place where `roam show last` looks.
    """
    runs = _runs(directory)
    dump_dir = default_dump_dir()
    if runs and not dry_run:
        check_dump_dir(dump_dir)
    counts: Counter[Fate] = Counter()
    problems: list[str] = []
    for finding in _findings(runs, dump_dir, dry_run):
        counts[finding.fate] += 1
        if finding.fate is Fate.STUCK:
            problems.append(f"{finding.what}: {finding.why}")
        write_output(f"{finding.fate:<8} {escape(finding.what)}: {escape(finding.why)}\n")
    total = ", ".join(f"{counts[fate]:,} {fate}" for fate in Fate if counts[fate]) or "nothing to do"
    write_output(f"{total}{'; nothing was changed' if dry_run else ''}\n")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Unreadable(f"not salvaged: {problems[0]}{more}")


def _runs(directory: str | None) -> list[Path]:
    if directory is None:
        place = run_root()
    else:
        place = Path(directory).absolute()
        if not place.is_dir():
            raise Unreadable(f"{directory}: there is no such directory")
        if is_run_name(place.name):
            return [place]
    try:
        return sorted(run_directories(place))
    except OSError as error:
        raise RoamError(f"{place}: it cannot be read: {error.strerror}") from error


def _findings(runs: list[Path], dump_dir: Path, is_rehearsal: bool) -> Iterator[Finding]:
    for run in runs:
        yield from salvage(run, dump_dir, is_rehearsal=is_rehearsal)
