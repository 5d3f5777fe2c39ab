"""`roam show`: what was left of a cell."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..errors import DumpError, RoamError
from ..postmortem.directory import DUMP_SUFFIX, default_dump_dir, newest_dump
from ..postmortem.document import document, json_text
from ..postmortem.file import load, read_head
from ..postmortem.format import MAGIC
from ..postmortem.model import PostMortem
from ..postmortem.segment import SEGMENT_SUFFIX, birth_order, of_segment
from .main import Unreadable
from .output import write_output

__all__ = ["command"]


@click.command("show")
@click.argument("path")
@click.option(
    "--last",
    "last",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Show the last N records. Text: 50 unless told; JSON: all.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document; of a directory, an array.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="auto: on a terminal, unless NO_COLOR is set.",
)
def command(path: str, last: int | None, as_json: bool, color: str) -> None:
    """Show the post-mortem at PATH, root cause last.

    PATH is a dump, the segment of a cell that is dead or alive, or a run directory (then every segment in it).
    `last` is the newest dump; a file of that name is `./last`. Nothing that is read is changed.
    """
    problems: list[str] = []
    found = _found(path, problems)
    if as_json:
        documents = [document(pm, last=last) for pm in found]
        if documents:
            write_output(json_text(documents if os.path.isdir(path) else documents[0]) + "\n")
    else:
        is_colored = color == "always" or (color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
        for number, pm in enumerate(found):
            if number:
                write_output("\n" + "=" * 78 + "\n\n")
            write_output(pm.render(last=50 if last is None else last, color=is_colored))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Unreadable(problems[0] + more)


def _found(path: str, problems: list[str]) -> Iterator[PostMortem]:
    """The post-mortems at `path`. What is wrong with them is added to `problems`, and the others are still given."""
    for file in _files(path):
        try:
            pm = _read(file)
        except RoamError as error:
            problems.append(str(error))
            continue
        problems.extend(f"{file} is damaged: {text}" for text in pm.damage)
        yield pm


def _files(path: str) -> list[Path]:
    if path == "last":
        return [newest_dump(default_dump_dir())]
    place = Path(path)
    if not place.is_dir():
        return [place]
    try:
        segments = [file for file in place.iterdir() if file.suffix == SEGMENT_SUFFIX and not file.is_symlink()]
    except OSError as error:
        raise DumpError(path=path, why=f"it cannot be read: {error.strerror}") from error
    if not segments:
        raise DumpError(
            path=path, why="there is no segment in this directory", remedy="Name a dump, a segment or a run directory."
        )
    return sorted(segments, key=birth_order)


def _read(file: Path) -> PostMortem:
    if file.suffix == DUMP_SUFFIX or read_head(str(file), len(MAGIC)) == MAGIC:
        return load(file)
    return of_segment(file)
