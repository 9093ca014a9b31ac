"""The command line: which commands there are, and what a user is told when one of them fails.

Each command is a module of `commands`, imported when it is asked for: `--help` must not wait for xarray.
The exit status is 0; 1 for a difference or damage; 2 for wrong use; 128 and the number of the signal that ended it.

Tested in `tests/commands/test_cli.py`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
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
        with _ended_by_signals(), warnings.catch_warnings():
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


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end a command as Ctrl-C does: what is in the making is removed, children are ended."""
    ended_by = signal.SIGINT

    def end(number: int, _: object) -> None:
        nonlocal ended_by
        ended_by = signal.Signals(number)
        raise KeyboardInterrupt

    deadly = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # which alone may change what a signal does
        deadly = []
    changed = [number for number in deadly if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nAborted!", err=True)
        raise click.exceptions.Exit(128 + ended_by) from None
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@click.group(cls=_Commands, context_settings=HELP)
@click.version_option(__version__, prog_name="xr-pytables")
def main() -> None:
    """Large HDF5 arrays of PyTables in xarray.

    FILE may be FILE:/node, a group or an array in it. The exit status is 0; 1 for a difference or damage; 2 for wrong
    use. COMMAND -h tells the options of a command, with examples.
    """
