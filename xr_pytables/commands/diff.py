"""`diff`: in what two files differ.

Tested in `tests/commands/test_diff.py`.
"""

from __future__ import annotations

import json

import click

from .shared import DIFFERENT, LOCATION, Command, Location, bar, names_of


@click.command(
    "diff",
    cls=Command,
    short_help="Say in what two files differ.",
    examples=("xr-pytables diff sea.h5 copy.zarr --rtol 1e-6", "xr-pytables diff sea.h5:/run1 sea.h5:/run2"),
)
@click.argument("a", type=LOCATION)
@click.argument("b", type=LOCATION)
@click.option("--vars", "variables", metavar="NAMES", help="Compare these arrays alone: NAME,NAME.")
@click.option("--rtol", type=float, default=0.0, metavar="NUMBER", help="Numbers may differ by this times that in B.")
@click.option("--atol", type=float, default=0.0, metavar="NUMBER", help="Numbers may differ by this.")
@click.option("--no-attributes", is_flag=True, help="Do not compare attributes.")
@click.option("--raw", is_flag=True, help="Compare what is stored, not what is decoded.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing, and end with the first difference.")
@click.pass_context
def command(
    context: click.Context, a: Location, b: Location, variables: str | None, rtol: float, atol: float,
    no_attributes: bool, raw: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Say in what A and B differ: groups, arrays, dimensions, types, attributes, values.

    Each is an HDF5 file of any program, a netCDF file or a Zarr store, or a node of one (FILE:/node). If they are the
    same nothing is printed and the exit status is 0; else it is 1.
    """
    from ..tools.differences import differences  # imports xarray

    found = differences(
        a.file, b.file, group=(a.node, b.node), variables=names_of(variables), rtol=rtol, atol=atol,
        attributes=not no_attributes, raw=raw, bar=lambda size: bar(size, "Compare"),
    )  # fmt: skip
    told = []
    for difference in found:
        told.append(difference)
        if quiet:
            break
        if not as_json:
            click.echo(str(difference))
    if as_json:
        click.echo(json.dumps([difference.as_dict() for difference in told], indent=2))
    if told:
        context.exit(DIFFERENT)
