"""Opening a file of many variables: this engine against netcdf4 and h5netcdf on equivalent files.

    python benchmarks/open_many.py [--variables 500] [--rounds 9]

Prints the median time of `xr.open_dataset` per engine, and the ratio of this engine to netcdf4. Each round opens the
file once with every engine, so that all see the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tables
import xarray as xr

from xr_pytables import to_pytables


def make_files(folder: Path, variables: int) -> dict[str, tuple[str, Path]]:
    """Label, engine and file: the same variables and attributes, written by us, by plain PyTables and by netCDF4."""
    data = {
        f"variable_{number:04}": (("time", "x"), np.full((10, 20), number, "f4"), {"units": "K", "number": number})
        for number in range(variables)
    }
    dataset = xr.Dataset(data, coords={"time": np.arange(10), "x": np.arange(20.0)})
    ours, theirs, plain = folder / "ours.h5", folder / "theirs.nc", folder / "plain.h5"
    to_pytables(dataset, ours, fsync=False)
    dataset.to_netcdf(theirs, engine="netcdf4")
    with tables.open_file(plain, "w") as file:
        for name, variable in dataset.variables.items():
            leaf = file.create_carray("/", name, obj=variable.values)
            for key, value in variable.attrs.items():
                leaf.set_attr(key, value)
    return {
        "pytables, file by xr_pytables": ("pytables", ours),
        "pytables, file by PyTables": ("pytables", plain),
        "pytables, file by netCDF4": ("pytables", theirs),
        "netcdf4, file by netCDF4": ("netcdf4", theirs),
        "h5netcdf, file by netCDF4": ("h5netcdf", theirs),
    }


def seconds_to_open(engine: str, path: Path) -> float:
    start = time.perf_counter()
    xr.open_dataset(path, engine=engine).close()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variables", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), arguments.variables)
        times: dict[str, list[float]] = {label: [] for label in files}
        for turn in range(arguments.rounds + 1):
            for label, (engine, path) in files.items():
                taken = seconds_to_open(engine, path)
                if turn:  # the first round warms up imports and the page cache
                    times[label].append(taken)
    reference = statistics.median(times["netcdf4, file by netCDF4"])
    print(f"xr.open_dataset of {arguments.variables} variables, median of {arguments.rounds}")
    for label, taken in times.items():
        median = statistics.median(taken)
        print(f"{label:32} {median * 1e3:8.1f} ms   {median / reference:5.2f} x netcdf4")


if __name__ == "__main__":
    main()
