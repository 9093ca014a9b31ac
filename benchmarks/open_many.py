"""Opening files: many variables, many attributes, many of everything, many threads, and the first one of a process.

    python benchmarks/open_many.py [--variables 500] [--rounds 9] [--only variables,many,threads,first]

- `variables`: median time of `xr.open_dataset` per engine on equivalent files, and the ratio to netcdf4's. Each round
  opens each file once with every engine, so that all see the same machine. Dense attributes, of which a variable has so
  many that they lie outside of its header, are a row of their own, with a ratio to netcdf4 on the same file.
- `many`: arrays, links, groups and data columns: a quarter, half and all, as time should grow with their number.
- `threads`: eight files, one after the other and in eight threads. Decoding of headers is Python: with the GIL, threads
  cannot be faster.
- `first`: the first opening in a new process, all that is imported for it included; xarray itself is not, nor engines
  of others that are installed, all of which xarray imports to find one that is not its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tables
import xarray as xr

from xr_pytables import to_pytables, tree

WORDS = ("long_name", "standard_name", "cell_methods", "history", "comment", "source", "institution", "references")
MANY = {"arrays": 4000, "dangling links": 4000, "external links": 4000, "nested groups": 3000, "data columns": 600}


def make_files(folder: Path, variables: int) -> dict[str, tuple[str, Path, str]]:
    """Label, engine, file and the label to compare with: the same variables, written by us, PyTables and netCDF4."""
    data = {
        f"variable_{number:04}": (("time", "x"), np.full((10, 20), number, "f4"), {"units": "K", "number": number})
        for number in range(variables)
    }
    dataset = xr.Dataset(data, coords={"time": np.arange(10), "x": np.arange(20.0)})
    ours, theirs, plain, dense = (folder / name for name in ("ours.h5", "theirs.nc", "plain.h5", "dense.nc"))
    to_pytables(dataset, ours, fsync=False)
    dataset.to_netcdf(theirs, engine="netcdf4")
    with tables.open_file(plain, "w") as file:
        for name, variable in dataset.variables.items():
            leaf = file.create_carray("/", name, obj=variable.values)
            for key, value in variable.attrs.items():
                leaf.set_attr(key, value)
    for name, variable in dataset.data_vars.items():
        variable.attrs.update({word: f"the {word} of {name}" for word in WORDS})
    dataset.to_netcdf(dense, engine="netcdf4")
    reference, of_dense = "netcdf4, file by netCDF4", "netcdf4, dense attributes"
    return {
        "pytables, file by xr_pytables": ("pytables", ours, reference),
        "pytables, file by PyTables": ("pytables", plain, reference),
        "pytables, file by netCDF4": ("pytables", theirs, reference),
        reference: ("netcdf4", theirs, reference),
        "h5netcdf, file by netCDF4": ("h5netcdf", theirs, reference),
        "pytables, dense attributes": ("pytables", dense, of_dense),
        of_dense: ("netcdf4", dense, of_dense),
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def opened(engine: str, path: Path) -> None:
    xr.open_dataset(path, engine=engine).close()


def variables(folder: Path, count: int, rounds: int) -> None:
    files = make_files(folder, count)
    times: dict[str, list[float]] = {label: [] for label in files}
    for turn in range(rounds + 1):
        for label, (engine, path, _) in files.items():
            taken = seconds(lambda engine=engine, path=path: opened(engine, path))
            if turn:  # the first round warms up imports and the page cache
                times[label].append(taken)
    print(f"xr.open_dataset of {count} variables, median of {rounds}")
    for label, (_, _, reference) in files.items():
        median = statistics.median(times[label])
        print(f"{label:32} {median * 1e3:8.1f} ms   {median / statistics.median(times[reference]):5.2f} x netcdf4")


def make_many(path: Path, kind: str, count: int) -> None:
    if kind == "data columns":
        frame = pd.DataFrame({f"c{number:04}": np.arange(10.0) + number for number in range(count)})
        with pd.HDFStore(str(path), "w") as store:
            store.append("frame", frame, data_columns=True, index=False)
        return
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
        groups = [file]
        for number in range(count):
            name = f"n{number:05}"
            if kind == "arrays":
                file[name] = np.arange(4)
            elif kind == "dangling links":
                file[name] = h5py.SoftLink(f"/nowhere/{number}")
            elif kind == "external links":
                file[name] = h5py.ExternalLink("missing.h5", f"/{number}")
            else:
                groups.append(groups[number // 10].create_group(name))


def open_many(kind: str, path: Path) -> object:
    if kind == "nested groups":
        return xr.open_groups(path, engine="pytables")
    return xr.open_dataset(path, engine="pytables", group="/frame" if kind == "data columns" else "/")


def many(folder: Path) -> None:
    print("seconds for a quarter, half and all of many")
    for kind, most in MANY.items():
        opens: dict[str, list[float]] = {"open": [], "tree": []}
        for count in (most // 4, most // 2, most):
            path = folder / f"{kind}-{count}.h5"
            make_many(path, kind, count)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of links that lead nowhere
                opens["open"].append(seconds(partial(open_many, kind, path)))
                opens["tree"].append(seconds(lambda path=path: str(tree(path))))
        told = "   ".join(f"{what} {' '.join(f'{one:6.3f}' for one in taken)}" for what, taken in opens.items())
        print(f"{most} {kind:20} {told}", flush=True)


def threads(folder: Path, count: int, rounds: int) -> None:
    source = make_files(folder, count)["pytables, file by xr_pytables"][1]
    paths = [folder / f"copy-{number}.h5" for number in range(8)]
    for path in paths:
        path.write_bytes(source.read_bytes())
        opened("pytables", path)
    ratios = []
    for _ in range(rounds):
        alone = seconds(lambda: [opened("pytables", path) for path in paths])
        with ThreadPoolExecutor(8) as pool:
            ratios.append(seconds(lambda pool=pool: list(pool.map(partial(opened, "pytables"), paths))) / alone)
    gil = "with the GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without the GIL"
    print(f"8 files in 8 threads, {gil}: {statistics.median(ratios):.2f} of the time of one after the other")


_FIRST = """
import sys, time, xarray as xr
from importlib.metadata import entry_points
for entry in entry_points(group="xarray.backends"):
    if entry.name != "pytables":
        sys.modules[entry.module.partition(".")[0]] = None
start = time.perf_counter()
xr.open_dataset(sys.argv[2], engine=sys.argv[1])
print(time.perf_counter() - start)
"""


def first(folder: Path, rounds: int) -> None:
    path = folder / "first.nc"
    xr.Dataset({"a": (("time", "x"), np.zeros((4, 5)))}, {"time": np.arange(4)}).to_netcdf(path, engine="netcdf4")
    for engine in ("pytables", "netcdf4", "h5netcdf"):
        command = (sys.executable, "-W", "ignore", "-c", _FIRST, engine, str(path))
        taken = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(rounds)]
        print(f"first opening in a process, {engine:10} {statistics.median(taken) * 1e3:8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variables", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="variables,many,threads,first")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "variables": lambda folder: variables(folder, arguments.variables, arguments.rounds),
        "many": many,
        "threads": lambda folder: threads(folder, arguments.variables, arguments.rounds),
        "first": lambda folder: first(folder, arguments.rounds),
    }
    for part in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            parts[part](Path(folder))


if __name__ == "__main__":
    main()
