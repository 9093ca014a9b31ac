"""`convert`: from one format to another.

Tested in `tests/commands/test_convert.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from .shared import LOCATION, Command, Location, bar, names_of

SOURCES = ("hdf5", "netcdf3", "zarr", "npy", "npz", "raw", "csv", "parquet")
TARGETS = ("pytables", "netcdf", "zarr", "npy", "npz")


@click.command(
    "convert",
    cls=Command,
    short_help="Write what is in a file in another format.",
    examples=(
        "xr-pytables convert sea.h5 sea.zarr",
        "xr-pytables convert sea.nc sea.h5 --complib blosc:zstd --chunks time=1",
        "xr-pytables convert raw.bin sea.h5 --dtype f4 --shape -1,180,360",
    ),
    headings={
        "What to take": ("source_format", "variables", "select", "where"),
        "How to write it": ("target_format", "chunks", "complib", "complevel", "force"),
        "Raw elements, and the one array in .npy": ("dtype", "shape", "offset", "order", "name", "dims"),
    },
)
@click.argument("source", type=LOCATION)
@click.argument("target", type=LOCATION)
@click.option("--from", "source_format", type=click.Choice(SOURCES), metavar="FORMAT", help=f"{', '.join(SOURCES)}.")
@click.option("--to", "target_format", type=click.Choice(TARGETS), metavar="FORMAT", help=f"{', '.join(TARGETS)}.")
@click.option("--vars", "variables", metavar="NAMES", help="These arrays alone: NAME,NAME.")
@click.option(
    "--select", multiple=True, metavar="DIM=SLICE", help="A part of a dimension: t=0:100 or x=5. May be repeated."
)
@click.option("--where", metavar="CONDITION", help="Rows of a table that meet this: 'energy > 3'.")
@click.option("--chunks", metavar="SIZES", help="Elements per chunk: t=1,y=180 or, of one array, 1,180.")
@click.option("--complib", metavar="NAME", help="zlib, bzip2, blosc:zstd, blosc2:lz4 ...")
@click.option("--complevel", type=click.IntRange(0, 9), metavar="LEVEL", help="How hard to compress.")
@click.option("--shape", metavar="SIZES", help="Lengths of raw elements: 10,-1; one may be -1.")
@click.option("--dtype", metavar="TYPE", help="Of raw elements, as NumPy has it: f4, >i2.")
@click.option("--offset", type=click.IntRange(0), default=0, metavar="BYTES", help="Before the first raw element.")
@click.option(
    "--order",
    type=click.Choice(["C", "F"]),
    default="C",
    help="Of raw elements: the last index is fastest, or the first.",
)
@click.option("--name", metavar="NAME", help="Of the array. Default: that of the file.")
@click.option("--dims", metavar="NAMES", help="Of its dimensions: time,y,x.")
@click.option("-f", "--force", is_flag=True, help="Replace TARGET if it is there.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="At most so many threads. Default: one per CPU.")
def command(
    source: Location, target: Location, source_format: str | None, target_format: str | None, variables: str | None,
    select: tuple[str, ...], where: str | None, chunks: str | None, complib: str | None, complevel: int | None,
    shape: str | None, dtype: str | None, offset: int, order: str, name: str | None, dims: str | None, force: bool,
    threads: int | None,
) -> None:  # fmt: skip
    """Write what is in SOURCE to TARGET, in another format.

    SOURCE is a file of PyTables, HDFStore, HDF5 or netCDF, a Zarr store, .npy, .npz, a table in CSV or Parquet, or a
    file of raw elements (with --dtype). TARGET is .h5 (PyTables), .nc (netCDF-4), .zarr, .npy or .npz. --from and --to
    are for names that do not tell. Arrays may be larger than memory.
    """
    from ..tools.converting import Reading, Writing, run  # imports xarray and Dask

    dim_names, lengths = names_of(dims), names_of(shape)
    reading = Reading(
        source.file, source_format, source.node, names_of(variables), _parts(select), where,
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


def _parts(texts: Iterable[str]) -> dict[str, slice | int]:
    found: dict[str, slice | int] = {}
    for dim, part in map(_selected, texts):
        if dim in found:
            raise click.BadParameter(f"there are two parts of dimension {dim!r}", param_hint="--select")
        found[dim] = part
    return found


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
