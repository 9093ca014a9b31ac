"""`repack`: a file written anew.

Tested in `tests/commands/test_repack.py`.
"""

from __future__ import annotations

import click

from .shared import Command, Failure, bar, names_of, printable


@click.command(
    "repack",
    cls=Command,
    short_help="Write a file anew: no holes, other chunks or compressors.",
    examples=("xr-pytables repack sea.h5", "xr-pytables repack sea.h5 small.h5 --complib blosc2:zstd --complevel 5"),
    headings={"What to change": ("chunks", "complib", "complevel", "fletcher32", "arrays")},
)
@click.argument("source", metavar="FILE")
@click.argument("target", required=False)
@click.option("--chunks", metavar="SIZES", help="Elements per chunk of arrays of 3 dimensions: 1,90,360.")
@click.option("--complib", metavar="NAME", help="zlib, bzip2, blosc:zstd, blosc2:lz4 ..., or none.")
@click.option("--complevel", type=click.IntRange(0, 9), metavar="LEVEL", help="How hard to compress.")
@click.option("--fletcher32/--no-fletcher32", default=None, help="Whether chunks have a checksum.")
@click.option("--vars", "arrays", metavar="PATHS", help="Change these arrays alone: /a,/group/b.")
@click.option("-f", "--force", is_flag=True, help="Replace TARGET if it is there.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="At most so many threads. Default: one per CPU.")
def command(
    source: str, target: str | None, chunks: str | None, complib: str | None, complevel: int | None,
    fletcher32: bool | None, arrays: str | None, force: bool, threads: int | None,
) -> None:  # fmt: skip
    """Write FILE anew, to TARGET or in its own place: without holes, and on request with other chunks and compressors.

    All else is kept: attributes, of PyTables as well, links, references, types. The file is verified before, and the
    new one after.
    """
    from ..tools.repacking import Wishes, run  # imports PyTables

    lengths = names_of(chunks)
    try:
        sizes = None if lengths is None else tuple(map(int, lengths))
    except ValueError:
        raise Failure(f"--chunks {chunks}: integers are needed, separated by commas") from None
    wishes = Wishes(sizes, complib, complevel, fletcher32, names_of(arrays))
    done = run(source, target, wishes, overwrite=force, threads=threads, bar=lambda size: bar(size, "Repack"))
    share = done.after / done.before
    click.echo(printable(f"{target or source}: {done.before} bytes before, {done.after} after ({share:.0%})"))
