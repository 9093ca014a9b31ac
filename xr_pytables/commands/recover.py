"""`recover`: files whose writer died.

Tested in `tests/commands/test_cli.py`.
"""

from __future__ import annotations

import errno
import os

import click

from .shared import Command, printable


@click.command(
    "recover",
    cls=Command,
    short_help="Put files back whose writer died.",
    examples=("xr-pytables recover sea.h5",),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def command(files: tuple[str, ...]) -> None:
    """Put each FILE back to what it was before its writer died, if one did.

    Opening a file does the same. This is for those that users who cannot write to a file want to read.
    """
    from ..disk.journal import path_of, recover  # imports numpy
    from ..sources.url import shown

    for file in files:
        if not os.path.lexists(file) and not os.path.lexists(path_of(os.path.abspath(file))):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown(file))
        done = recover(file)
        click.echo(printable(f"{file}: {'put back' if done else 'nothing to recover'}"))
