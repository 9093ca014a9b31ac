"""Many small appends, the file reopened for each: `append_dim` against plain PyTables on the same arrays.

    python benchmarks/append_many.py [--steps 2000] [--chunks 0] [--fsync]

Three variables and a coordinate grow by one step at a time. Prints for both writers the CPU time of an append in the
first and in the last fifth (median), and the size of the file as a multiple of one that is written at once. With
`--large` megabytes of other data the file is changed in place, inside a journal; else it is copied. With `--chunks`
there is a variable more that has so many chunks before the first append, one of each step. PyTables keeps nothing safe.
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

FINE = (1, 8, 8)
CHUNKS = {"field": (50, 40, 40), "profile": (100, 200), "count": (1024,), "t": (1024,), "fine": FINE}
ENCODING = {name: {"chunksizes": chunks, "complib": "zlib", "complevel": 1} for name, chunks in CHUNKS.items()}


def steps(start: int, stop: int, *, fine: bool) -> xr.Dataset:
    """Some steps of a smooth and compressible field; with `fine` of one more, of a chunk a step."""
    t = np.arange(start, stop)
    y, x = np.mgrid[:40, :40]
    found = xr.Dataset(
        {
            "field": (("t", "y", "x"), (np.sin(t / 9)[:, None, None] * (y - x)).round(1).astype("f4")),
            "profile": (("t", "z"), (t[:, None] + np.sqrt(np.arange(200.0)).round(1))),
            "count": ("t", t * 3),
        },
        coords={"t": t},
    )
    return found.assign(fine=(("t", "v", "u"), np.full((len(t), *FINE[1:]), t[:, None, None], "i4"))) if fine else found


def make(path: Path, stop: int, other: xr.Dataset, *, fine: bool) -> None:
    """A file with the first steps, beside other data."""
    to_pytables(other, path, fsync=False)
    first = steps(0, stop, fine=fine)
    encoding = {name: asked for name, asked in ENCODING.items() if name in first.variables}
    to_pytables(first, path, mode="a", encoding=encoding, unlimited_dims=["t"], fsync=False)


def plain_append(path: Path, piece: xr.Dataset) -> None:
    with tables.open_file(path, "a") as file:
        for name, variable in piece.variables.items():
            file.get_node("/", name).append(variable.values)


def make_plain(path: Path, stop: int, other: xr.Dataset, *, fine: bool) -> None:
    with tables.open_file(path, "w") as file:
        for name, variable in other.variables.items():
            file.create_carray("/", name, obj=variable.values)
        for name, variable in steps(0, stop, fine=fine).variables.items():
            filters = tables.Filters(complevel=1, complib="zlib", shuffle=True, fletcher32=True)
            file.create_earray("/", name, obj=variable.values, chunkshape=CHUNKS[name], filters=filters)


def measured(append: Callable[[xr.Dataset], None], first: int, count: int, *, fine: bool) -> tuple[float, float]:
    """Median seconds of CPU time of an append in the first and in the last fifth."""
    taken = []
    for number in range(first, first + count):
        piece = steps(number, number + 1, fine=fine)
        start = time.process_time()
        append(piece)
        taken.append(time.process_time() - start)
    fifth = max(1, len(taken) // 5)
    return statistics.median(taken[:fifth]), statistics.median(taken[-fifth:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=0, help="chunks that there are before")
    parser.add_argument("--large", type=int, default=0, help="megabytes of other data in the file")
    parser.add_argument("--fsync", action="store_true", help="wait for the disk with each of our appends")
    arguments = parser.parse_args()
    other = xr.Dataset({"other": ("n", np.random.default_rng(0).random(arguments.large * 2**17 or 1))})
    with tempfile.TemporaryDirectory() as folder:
        ours, plain, whole = (Path(folder) / f"{name}.h5" for name in ("ours", "plain", "whole"))
        fine, begin = arguments.chunks > 0, max(arguments.chunks, 1)
        make(ours, begin, other, fine=fine)
        make_plain(plain, begin, other, fine=fine)
        make(whole, begin + arguments.steps, other, fine=fine)
        writers: dict[str, tuple[Path, Callable[[xr.Dataset], None]]] = {
            "append_dim": (ours, lambda piece: to_pytables(piece, ours, append_dim="t", fsync=arguments.fsync)),
            "plain PyTables": (plain, lambda piece: plain_append(plain, piece)),
        }
        print(f"{arguments.steps} appends of one step to each variable, the file reopened for each")
        for label, (path, append) in writers.items():
            first, last = measured(append, begin, arguments.steps, fine=fine)
            size = path.stat().st_size / whole.stat().st_size
            print(f"{label:16} first {first * 1e3:7.2f} ms   last {last * 1e3:7.2f} ms   size {size:6.2f} x at once")
        expected, found = steps(0, begin + arguments.steps, fine=fine), xr.open_dataset(ours, engine="pytables")
        xr.testing.assert_identical(found[list(expected.data_vars)].load(), expected)


if __name__ == "__main__":
    main()
