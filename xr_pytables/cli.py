"""The command line: `demo` goes through the whole job once, `info` says what a file holds.

Parses arguments and prints. What a file holds is asked of `listing`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import click
import numpy as np
import tables
import xarray as xr

from ._version import __version__
from .listing import tree
from .sources.source import printable
from .writing.writer import to_pytables


@click.group()
@click.version_option(__version__, prog_name="xr-pytables")
def main() -> None:
    """Large HDF5 arrays of PyTables in xarray."""


# -- demo --------------------------------------------------------------------------------------------------

_DAYS, _STATIONS, _BLOCK = 4_000, 2_000, 250
DIMS: Final = {"array1": ("y", "x"), "series": ("day", "station")}


@dataclass(frozen=True)
class Recipe:
    """What the demonstration's file holds, known independently of the file."""

    array1: np.ndarray
    mean: float
    """Of all elements of `series`."""


@main.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Make a file with plain PyTables, read it through xarray, write it back, and compare.

    Works in a temporary folder, which is removed. The exit code is 1 if anything read differs from what was written.
    """
    with tempfile.TemporaryDirectory(prefix="xr-pytables-") as folder:
        source, copy = os.path.join(folder, "myfile.h5"), os.path.join(folder, "copy.h5")
        _say("Make myfile.h5 with plain PyTables: a group, an attribute, two arrays")
        recipe = make_recipe(source)
        _say("Open it: xr.open_datatree('myfile.h5', engine='pytables', dims=..., chunks={})")
        with xr.open_datatree(source, engine="pytables", dims=DIMS, chunks={}) as tree:
            click.echo(str(tree))
            _say("Compare, and write the tree with xr_pytables.to_pytables(tree, 'copy.h5')")
            checks = [_reported(what, check) for what, check in _checks(tree, recipe, copy)]
    if not all(checks):
        click.echo("Something differs.", err=True)
        context.exit(1)
    click.echo("All as it should be.")


def make_recipe(path: str) -> Recipe:
    """The file of the recipe "manipulating large arrays with HDF5 and PyTables", and an array of 64 MB beside it."""
    random = np.random.default_rng(2014)
    array1 = random.random((1000, 1000))
    total = 0.0
    with tables.open_file(path, "w") as file:
        group = file.create_group("/", "experiment1")
        file.set_node_attr(group, "data", "2014-09-01")
        file.create_array(group, "array1", array1)
        series = file.create_carray(
            group, "series", tables.Float64Atom(), (_DAYS, _STATIONS), chunkshape=(_BLOCK, _STATIONS // 4)
        )
        for start in range(0, _DAYS, _BLOCK):
            block = random.random((_BLOCK, _STATIONS))
            series[start : start + _BLOCK] = block
            total += float(block.sum())
    return Recipe(array1, total / (_DAYS * _STATIONS))


def _checks(tree: xr.DataTree, recipe: Recipe, copy: str) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What is compared, and how."""
    group = tree["experiment1"]
    yield "the attribute: dt.experiment1.attrs['data']", lambda: group.attrs["data"] == "2014-09-01"
    yield (
        "a slice by path: dt['/experiment1/array1'].isel(y=slice(10, 20), x=slice(None, None, -100))",
        lambda: np.array_equal(
            tree["/experiment1/array1"].isel(y=slice(10, 20), x=slice(None, None, -100)), recipe.array1[10:20, ::-100]
        ),
    )
    yield (
        "a column by attribute access: dt.experiment1.array1[:, 7]",
        lambda: np.array_equal(tree.experiment1.array1[:, 7], recipe.array1[:, 7]),
    )
    series = group["series"]
    yield (
        f"the mean of {series.nbytes >> 20} MiB, computed by Dask in {series.data.npartitions} pieces",
        lambda: bool(np.isclose(series.mean(), recipe.mean, rtol=1e-12)),
    )
    yield "the copy, opened again: same names, dimensions, attributes, values", lambda: _copied(tree, copy)


def _copied(tree: xr.DataTree, path: str) -> bool:
    to_pytables(tree, path)
    with xr.open_datatree(path, engine="pytables", chunks={}) as copy:
        return bool(copy.identical(tree))


def _say(sentence: str) -> None:
    click.secho(f"\n{sentence}", bold=True)


def _reported(what: str, check: Callable[[], bool]) -> bool:
    same = check()
    click.echo(f"  {'same   ' if same else 'DIFFERS'}  {what}")
    return same


# -- info --------------------------------------------------------------------------------------------------


@main.command()
@click.argument("file")
@click.option("--group", default="/", show_default=True, help="Where to begin: a group, or one array.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def info(file: str, group: str, as_json: bool) -> None:
    """List the groups and arrays of FILE, how they are stored, and what the engine does not show, with the reason.

    Reads headers and attributes, never data; nothing in the file is executed.
    """
    try:
        listed = tree(file, group=group)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(listed.as_dicts(), indent=2))
        return
    for line in listed.lines():
        click.echo(printable(line))
