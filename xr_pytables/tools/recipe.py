"""The job that the package is for, gone through once: the founding recipe about large arrays with PyTables.

Tested in `tests/commands/test_cli.py`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import click
import numpy as np
import tables
import xarray as xr

from ..writing.writer import to_pytables

_DAYS, _STATIONS, _BLOCK = 4_000, 2_000, 250
DIMS: Final = {"array1": ("y", "x"), "series": ("day", "station")}


@dataclass(frozen=True)
class Recipe:
    """What the demonstration's file holds, known independently of the file."""

    array1: np.ndarray
    mean: float
    """Of all elements of `series`."""


def run() -> bool:
    """Make a file with plain PyTables, read it, write it back: whether all was equal. Prints what it does."""
    with tempfile.TemporaryDirectory(prefix="xr-pytables-") as folder:
        source, copy = os.path.join(folder, "myfile.h5"), os.path.join(folder, "copy.h5")
        _say("Make myfile.h5 with plain PyTables: a group, an attribute, two arrays")
        recipe = make_recipe(source)
        _say("Open it: xr.open_datatree('myfile.h5', engine='pytables', dims=..., chunks={})")
        with xr.open_datatree(source, engine="pytables", dims=DIMS, chunks={}) as tree:
            click.echo(str(tree))
            _say("Compare, and write the tree with xr_pytables.to_pytables(tree, 'copy.h5')")
            checks = [_reported(what, check) for what, check in _checks(tree, recipe, copy)]
    return all(checks)


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
