"""Many small appends, the file reopened for each: `append_dim` against plain PyTables on the same arrays.

    python benchmarks/append_many.py [--steps 2000] [--fsync]

Three variables and a coordinate grow by one step at a time. Prints for both writers the time of an append in the first
and in the last fifth (median), and the size of the file as a multiple of one that is written at once. With `--large`
megabytes of other data the file is changed in place, inside a journal; else it is copied. PyTables keeps nothing safe.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tables
import xarray as xr

from xr_pytables import to_pytables

CHUNKS = {"field": (50, 40, 40), "profile": (100, 200), "count": (1024,), "t": (1024,)}
ENCODING = {name: {"chunksizes": chunks, "complib": "zlib", "complevel": 1} for name, chunks in CHUNKS.items()}


def steps(start: int, stop: int) -> xr.Dataset:
    """Some steps of a smooth and compressible field."""
    t = np.arange(start, stop)
    y, x = np.mgrid[:40, :40]
    return xr.Dataset(
        {
            "field": (("t", "y", "x"), (np.sin(t / 9)[:, None, None] * (y - x)).round(1).astype("f4")),
            "profile": (("t", "z"), (t[:, None] + np.sqrt(np.arange(200.0)).round(1))),
            "count": ("t", t * 3),
        },
        coords={"t": t},
    )


def make(path: Path, stop: int, other: xr.Dataset) -> None:
    """A file with the first steps, beside other data."""
    to_pytables(other, path, fsync=False)
    to_pytables(steps(0, stop), path, mode="a", encoding=ENCODING, unlimited_dims=["t"], fsync=False)


def plain_append(path: Path, piece: xr.Dataset) -> None:
    with tables.open_file(path, "a") as file:
        for name, variable in piece.variables.items():
            file.get_node("/", name).append(variable.values)


def make_plain(path: Path, other: xr.Dataset) -> None:
    with tables.open_file(path, "w") as file:
        for name, variable in other.variables.items():
            file.create_carray("/", name, obj=variable.values)
        for name, variable in steps(0, 1).variables.items():
            filters = tables.Filters(complevel=1, complib="zlib", shuffle=True, fletcher32=True)
            file.create_earray("/", name, obj=variable.values, chunkshape=CHUNKS[name], filters=filters)


def measured(append: Callable[[xr.Dataset], None], count: int) -> tuple[float, float]:
    """Median seconds of an append in the first and in the last fifth."""
    taken = []
    for number in range(1, count):
        piece = steps(number, number + 1)
        start = time.perf_counter()
        append(piece)
        taken.append(time.perf_counter() - start)
    fifth = max(1, len(taken) // 5)
    return statistics.median(taken[:fifth]), statistics.median(taken[-fifth:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--large", type=int, default=0, help="megabytes of other data in the file")
    parser.add_argument("--fsync", action="store_true", help="wait for the disk with each of our appends")
    arguments = parser.parse_args()
    other = xr.Dataset({"other": ("n", np.random.default_rng(0).random(arguments.large * 2**17 or 1))})
    with tempfile.TemporaryDirectory() as folder:
        ours, plain, whole = (Path(folder) / f"{name}.h5" for name in ("ours", "plain", "whole"))
        make(ours, 1, other)
        make_plain(plain, other)
        make(whole, arguments.steps, other)
        writers: dict[str, tuple[Path, Callable[[xr.Dataset], None]]] = {
            "append_dim": (ours, lambda piece: to_pytables(piece, ours, append_dim="t", fsync=arguments.fsync)),
            "plain PyTables": (plain, lambda piece: plain_append(plain, piece)),
        }
        print(f"{arguments.steps} appends of one step to three variables, the file reopened for each")
        for label, (path, append) in writers.items():
            first, last = measured(append, arguments.steps)
            size = path.stat().st_size / whole.stat().st_size
            print(f"{label:16} first {first * 1e3:7.2f} ms   last {last * 1e3:7.2f} ms   size {size:6.2f} x at once")
        expected, found = steps(0, arguments.steps), xr.open_dataset(ours, engine="pytables")
        xr.testing.assert_identical(found[list(expected.data_vars)].load(), expected)


if __name__ == "__main__":
    main()
