"""`demo`: the whole job once.

Tested in `tests/commands/test_cli.py`.
"""

from __future__ import annotations

import click

from .shared import DIFFERENT, Command


@click.command(
    "demo",
    cls=Command,
    short_help="Go through the whole job once.",
    examples=("xr-pytables demo",),
)
@click.pass_context
def command(context: click.Context) -> None:
    """Make a file with plain PyTables, read it through xarray, write it back, and compare.

    Works in a temporary folder, which is removed. The exit status is 1 if anything read differs from what was written.
    """
    from ..tools.recipe import run  # imports xarray and PyTables

    if not run():
        click.echo("Something differs.", err=True)
        context.exit(DIFFERENT)
    click.echo("All as it should be.")
