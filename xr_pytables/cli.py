"""The command line: which commands there are, and what a user is told when one of them fails.

Each command is a module of `commands`, imported when it is asked for: `--help` must not wait for xarray.
The exit status is 0; 1 for a difference or damage; 2 for wrong use.

Tested in `tests/commands/test_cli.py`.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, Final

import click

from ._version import __version__
from .commands.shared import Failure, failure_of, tell_warning

COMMANDS: Final = ("info", "verify", "diff", "convert", "repack", "recover", "bench", "demo")
"""In the order in which `--help` has them."""
HELP: Final = {"help_option_names": ["-h", "--help"]}


class _Commands(click.Group):
    """The commands by name, each imported on first use."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f".commands.{name}", __package__).command
        return command

    def invoke(self, context: click.Context) -> Any:
        """Run a command. What goes wrong with files and arguments is told in a line; the rest is a bug of ours."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = tell_warning
            try:
                return super().invoke(context)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:
                told: Failure | None = failure_of(error)
                if told is None:
                    raise
                raise told from None


@click.group(cls=_Commands, context_settings=HELP)
@click.version_option(__version__, prog_name="xr-pytables")
def main() -> None:
    """Large HDF5 arrays of PyTables in xarray.

    FILE may be FILE:/node, a group or an array in it. The exit status is 0; 1 for a difference or damage; 2 for wrong
    use. COMMAND -h tells the options of a command, with examples.
    """
