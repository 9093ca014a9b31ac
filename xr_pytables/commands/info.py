"""`info`: what files hold.

Tested in `tests/commands/test_info.py`.
"""

from __future__ import annotations

import json

import click

from .shared import LOCATION, Command, Location


@click.command(
    "info",
    cls=Command,
    short_help="List groups, arrays and how they are stored.",
    examples=("xr-pytables info sea.h5", "xr-pytables info sea.h5:/run1 -v 'sst[0, :10]'"),
)
@click.argument("files", nargs=-1, required=True, type=LOCATION, metavar="FILE...")
@click.option("--group", default=None, metavar="PATH", help="Begin at this group or array, as FILE:/PATH does.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--header", is_flag=True, help="Print a header in CDL, as ncdump -h does.")
@click.option(
    "-v", "--variable", "variables", multiple=True, metavar="VAR[SLICE]",
    help="Print values of an array; may be repeated.",
)  # fmt: skip
def command(
    files: tuple[Location, ...], group: str | None, as_json: bool, header: bool, variables: tuple[str, ...]
) -> None:
    """List the groups and arrays of FILE, how they are stored, and what the engine does not show, with the reason.

    Reads headers and attributes, and data only with -v; nothing in the file is executed.
    """
    if sum((as_json, header, bool(variables))) > 1:
        raise click.UsageError("only one of --json, --header and -v can be given")
    if group is not None:
        files = tuple(Location(where.file, "/" + group.strip("/")) for where in files)
    if as_json:
        found = {str(where): _tree(where).as_dicts() for where in files}
        shown = found if len(files) > 1 else next(iter(found.values()))
        click.echo(json.dumps(shown, indent=2, ensure_ascii=True))
        return
    for number, where in enumerate(files):
        if len(files) > 1:
            _say("\n" * bool(number) + f"{where}:")
        _print(where, header=header, variables=variables)


def _print(where: Location, *, header: bool, variables: tuple[str, ...]) -> None:
    if variables:
        from ..tools.preview import preview_lines  # imports xarray

        for variable in variables:
            for line in preview_lines(where.file, where.node, variable):
                _say(line)
        return
    listed = _tree(where)
    if header:
        from ..tools.header import header_lines  # imports xarray

        lines = header_lines(listed)
    else:
        lines = listed.lines(values=True)
    for line in lines:
        _say(line)


def _tree(where: Location):  # type: ignore[no-untyped-def]
    from ..listing import tree  # imports xarray

    return tree(where.file, group=where.node)


def _say(line: str) -> None:
    from ..sources.source import printable  # imports numpy

    click.echo("\n".join(map(printable, line.split("\n"))))
