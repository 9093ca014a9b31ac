"""`bench`: a file through xarray's engines.

Tested in `tests/commands/test_bench.py`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from .shared import LOCATION, Command, Failure, Location, printable

if TYPE_CHECKING:
    from ..tools.timing import Timing


@click.command(
    "bench",
    cls=Command,
    short_help="Time xarray's engines with a file.",
    examples=("xr-pytables bench sea.h5", "xr-pytables bench sea.h5:/run1 --megabytes 1000 --rounds 5"),
)
@click.argument("file", type=LOCATION)
@click.option(
    "--megabytes", type=click.IntRange(1), default=256, show_default=True, metavar="N", help="About how much to read."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="The best of so many counts."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(file: Location, megabytes: int, rounds: int, as_json: bool) -> None:
    """Time how long xarray's engines that are installed take to open FILE, to read a block, and to read all.

    Reads the largest arrays of numbers, as they are stored, each engine in a process of its own. The file is in the
    memory of the system then, so this is not about the disk.
    """
    from ..disk.files import checked_path  # imports xarray, and so does the next one
    from ..tools.timing import installed, largest_arrays, timed

    checked_path(file.file)
    arrays = largest_arrays(file.file, file.node, megabytes << 20)
    if not arrays:
        raise Failure(f"{file}: there are no arrays of numbers to read")
    timings = [timed(file.file, engine, arrays, rounds) for engine in installed()]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(timing) for timing in timings], indent=2))
        return
    size = max(timing.nbytes for timing in timings)
    click.echo(printable(f"{file}: {len(arrays)} of its arrays, {size / 2**20:.1f} MiB"))
    click.echo(f"{'engine':10} {'open':>10} {'a block':>10} {'all':>10} {'MiB/s':>8}")
    for timing in timings:
        click.echo(printable(_line(timing)))


def _line(timing: Timing) -> str:
    if timing.open is None or timing.block is None or timing.all is None:
        return f"{timing.engine:10} {timing.problem.partition(chr(10))[0]}"
    times = "".join(f" {seconds * 1e3:7.1f} ms" for seconds in (timing.open, timing.block, timing.all))
    return f"{timing.engine:10}{times} {timing.nbytes / 2**20 / timing.all:8.0f}"
