"""`convert`: from one format to another.

Tested in `tests/commands/test_convert.py`.
"""

from __future__ import annotations

import click

from .shared import LOCATION, Location, bar, names_of

SOURCES = ("hdf5", "netcdf3", "zarr", "npy", "npz", "raw", "csv", "parquet")
TARGETS = ("pytables", "netcdf", "zarr", "npy", "npz")


@click.command("convert")
@click.argument("source", type=LOCATION)
@click.argument("target", type=LOCATION)
@click.option("--from", "source_format", type=click.Choice(SOURCES), help="What SOURCE is, if its name does not tell.")
@click.option("--to", "target_format", type=click.Choice(TARGETS), help="What to write, if TARGET does not tell.")
@click.option("--vars", "variables", metavar="NAMES", help="Take these arrays alone: names, separated by commas.")
@click.option("--select", multiple=True, metavar="DIM=SLICE", help="Take a part of a dimension, as t=0:100 or x=5.")
@click.option("--where", help="Of a table, take the rows that meet this condition.")
@click.option("--chunks", metavar="SIZES", help="Elements per chunk: t=1,y=180 or, for the one array, 1,180,360.")
@click.option("--complib", help="Compressor: zlib, bzip2, blosc:zstd, blosc2:lz4 ...")
@click.option("--complevel", type=click.IntRange(0, 9), help="Level of compression, from 0 to 9.")
@click.option("--shape", metavar="SIZES", help="Of raw elements: lengths, separated by commas; one may be -1.")
@click.option("--dtype", help="Of raw elements: NumPy's name of their type.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Of raw elements: bytes before the first one.")
@click.option("--order", type=click.Choice(["C", "F"]), default="C", help="Of raw elements: which index runs fastest.")
@click.option("--name", help="Of the one array in .npy or of raw elements. Default: that of the file.")
@click.option("--dims", metavar="NAMES", help="Of the one array in .npy or of raw elements, separated by commas.")
@click.option("-f", "--force", is_flag=True, help="Replace TARGET if it is there.")
@click.option("--threads", type=click.IntRange(1), help="How many threads may work. Default: one per CPU.")
def command(
    source: Location, target: Location, source_format: str | None, target_format: str | None, variables: str | None,
    select: tuple[str, ...], where: str | None, chunks: str | None, complib: str | None, complevel: int | None,
    shape: str | None, dtype: str | None, offset: int, order: str, name: str | None, dims: str | None, force: bool,
    threads: int | None,
) -> None:  # fmt: skip
    """Write what is in SOURCE to TARGET, in another format.

    SOURCE is a file of PyTables, HDFStore, HDF5 or netCDF, a Zarr store, .npy, .npz, a table in CSV or Parquet, or a
    file of raw elements (with --dtype). TARGET is .h5 (PyTables), .nc (netCDF-4), .zarr, .npy or .npz. Both are worked
    on in pieces, so arrays may be larger than memory.
    """
    from ..tools.converting import Reading, Writing, run  # imports xarray and Dask

    dim_names, lengths = names_of(dims), names_of(shape)
    reading = Reading(
        source.file, source_format, source.node, names_of(variables), dict(map(_selected, select)), where,
        None if lengths is None else tuple(_integer(length, "--shape") for length in lengths), dtype, offset, order,
        name, None if dim_names is None else tuple(dim_names),
    )  # fmt: skip
    writing = Writing(
        target.file, target_format, target.node, force, _chunks(chunks), complib, complevel, threads
    )  # fmt: skip
    run(reading, writing, bar=lambda size: bar(size, "Convert"))


def _integer(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no integer", param_hint=option) from None


def _selected(text: str) -> tuple[str, slice | int]:
    """`t=0:100` or `t=5`."""
    dim, _, part = (piece.strip() for piece in text.partition("="))
    if not dim or not part:
        raise click.BadParameter(f"{text!r} is not like t=0:100 or t=5", param_hint="--select")
    numbers = [_integer(number, "--select") if number.strip() else None for number in part.split(":")]
    if len(numbers) == 1 and numbers[0] is not None:
        return dim, numbers[0]
    if len(numbers) > 3:
        raise click.BadParameter(f"{text!r} is not like t=0:100 or t=5", param_hint="--select")
    return dim, slice(*numbers)


def _chunks(text: str | None) -> dict[str, int] | tuple[int, ...] | None:
    """`t=1,y=180` or `1,180`."""
    parts = names_of(text)
    if parts is None:
        return None
    if not any("=" in part for part in parts):
        return tuple(_integer(part, "--chunks") for part in parts)
    pairs = [part.partition("=") for part in parts]
    return {dim.strip(): _integer(size, "--chunks") for dim, _, size in pairs}
