"""Ragged arrays and text: all rows, a part, row sizes; against plain PyTables and h5py on the same file.

    python benchmarks/read_ragged.py [--rows 500000] [--rounds 5]

The file has a VLArray of float64 with 0 to 22 elements a row, and variable-length strings. Sides take turns in one run;
printed are medians in milliseconds (the first round is not counted) and the ratio. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tables
import xarray as xr


def make_file(path: Path, rows: int) -> None:
    with tables.open_file(str(path), "w") as file:
        leaf = file.create_vlarray("/", "v", tables.Float64Atom(), chunkshape=8192)
        for number in range(rows):
            leaf.append(np.full(number % 23, number, float))
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "text",
            data=[f"station {number}" for number in range(rows)],
            dtype=h5py.string_dtype(),
            chunks=(min(rows, 8192),),
        )


def ours(path: Path, read: Callable[[xr.Dataset], object], **kwargs: object) -> Callable[[], object]:
    def run() -> object:
        with xr.open_dataset(path, engine="pytables", decode_cf=False, **kwargs) as ds:
            return read(ds)

    return run


def plain(path: Path, read: Callable[[tables.VLArray], object]) -> Callable[[], object]:
    def run() -> object:
        with tables.open_file(str(path)) as file:
            return read(file.root.v)

    return run


def with_h5py(path: Path, name: str) -> Callable[[], object]:
    def run() -> object:
        with h5py.File(path) as file:
            return file[name].asstr()[:] if name == "text" else file[name][:]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ragged.h5"
        make_file(path, args.rows)
        middle = slice(args.rows // 3, args.rows // 3 + max(args.rows // 50, 1))
        cases: dict[str, dict[str, Callable[[], object]]] = {
            "all rows as arrays": {
                "engine": ours(path, lambda ds: ds["v"].values),
                "PyTables": plain(path, lambda leaf: leaf.read()),
                "h5py": with_h5py(path, "v"),
            },
            "all values, flat": {
                "engine": ours(path, lambda ds: ds["v"].values, ragged="flat"),
                "PyTables": plain(path, lambda leaf: np.concatenate(leaf.read())),
            },
            "a fiftieth of the rows": {
                "engine": ours(path, lambda ds: ds["v"][middle].values),
                "PyTables": plain(path, lambda leaf: leaf[middle]),
            },
            "row sizes": {
                "engine": ours(path, lambda ds: ds["v_row_size"].values, ragged="flat"),
                "PyTables": plain(path, lambda leaf: [len(row) for row in leaf]),
            },
            "all text": {
                "engine": ours(path, lambda ds: ds["text"].values),
                "h5py": with_h5py(path, "text"),
            },
        }
        for what, sides in cases.items():
            times: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(args.rounds + 1):
                for side, run in sides.items():
                    start = time.perf_counter()
                    run()
                    if number:
                        times[side].append(1000 * (time.perf_counter() - start))
            medians = {side: statistics.median(taken) for side, taken in times.items()}
            told = "  ".join(
                f"{side} {taken:8.1f} ms" + (f" ({taken / medians['engine']:.1f}x)" if side != "engine" else "")
                for side, taken in medians.items()
            )
            print(f"{what:24} {told}")


if __name__ == "__main__":
    main()
