"""The `roam` command: its subcommands, and the one place where errors become exit codes.

What `roam show` and `roam recover` read they never change, and they take no lock; `roam gc` does both. Of something
corrupt they show all that can be read; beside a summary they leave nothing out. Exit codes: 0 all is well, 2 something
could not be read, or not wholly, 141 nobody reads the output.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from ..errors import RoamError
from .output import abandon_output

__all__ = ["Commands", "Unreadable", "commands", "main"]

_COMMANDS = {"gc": "gc", "recover": "recover", "show": "show"}
"""Name of a subcommand and the module beside this one that holds it, under the name `command`."""
_NOBODY_READS = 141


class Unreadable(click.ClickException):
    """Ends the command with one line on stderr and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the line. `file` is click's: another stream than stderr."""
        # Imported late, like everything that `roam --help` does not need.
        from ..postmortem.escape import escape

        click.echo(f"roam: {escape(self.message)}", file=file or sys.stderr)


class Commands(click.Group):
    """Loads a subcommand only when it is asked for, and turns what it raises into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click calls it so
        """The names, in the order of help."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 as above
        """The subcommand, imported now."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{_COMMANDS[cmd_name]}", __package__).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # `roam show last | head` is no error.
            abandon_output()
            ctx.exit(_NOBODY_READS)
        except RoamError as error:
            raise Unreadable(str(error)) from error
        except OSError as error:
            abandon_output()
            raise Unreadable(f"the output could not be written: {error.strerror or error}") from error


def _print_version(ctx: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if not is_asked or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        version = metadata.version("roam-cells")
    except metadata.PackageNotFoundError:
        version = "from a source tree, not installed"
    click.echo(f"roam {version}")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def commands() -> None:
    """See what child processes were doing when they died."""


def main() -> None:
    """The console script `roam`."""
    commands(prog_name="roam")
