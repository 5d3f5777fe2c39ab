"""`roam recover`: what is left after host and cells all died, as one timeline."""

from __future__ import annotations

from pathlib import Path

import click

from ..postmortem.document import json_text
from ..postmortem.recover import Run, save
from ..postmortem.timeline import timeline_document, timeline_lines
from .main import Unreadable
from .output import write_output

__all__ = ["command"]


@click.command("recover")
@click.argument("directory")
@click.option(
    "--into", default=None, metavar="DIR", help="Also write into DIR a post-mortem of each dead peer that has none."
)
@click.option(
    "--last", type=click.IntRange(min=0), default=None, metavar="N", help="Show the last N records; all unless told."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(directory: str, into: str | None, last: int | None, as_json: bool) -> None:
    """Show what host and cells in DIRECTORY had done, in one timeline, what each printed last, and why it ended.

    DIRECTORY is a ROAM_DIR, a directory of run directories, or one of those, also from before a reboot or from another
    machine. Nothing in it is changed, and nothing is written anywhere unless `--into` says where: what is to be
    recovered may lie on a disk that is full, and is the only evidence that there is. What a living host has is read as
    it is now.
    """
    # r[impl dump.recover.untouched]
    runs = Run.all_in(Path(directory))
    problems = [problem for run in runs for problem in run.problems]
    if into is not None:
        problems += save([found for run in runs if not run.is_held for found in run.peers], Path(into))
    if as_json:
        write_output(json_text(timeline_document(runs, last=last)) + "\n")
    else:
        for line in timeline_lines(runs, last=last):
            write_output(f"{line}\n")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Unreadable(problems[0] + more)
