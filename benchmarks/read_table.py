"""Tables: one column, three columns together, rows that meet a condition; against plain PyTables on the same file.

    python benchmarks/read_table.py [--rows 10000000] [--rounds 5] [--complib blosc:zstd] [--file FILE]

The file has 20 columns. Both sides open it, read and close it, taking turns in one run; printed are medians in
milliseconds (the first round is not counted) and the ratio. Files are in the page cache. With `--file` the file is
made if it is missing, and kept.
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

COLUMNS = np.dtype(
    [(f"f{i}", "f8") for i in range(6)]
    + [(f"g{i}", "f4") for i in range(4)]
    + [(f"i{i}", "i8") for i in range(3)]
    + [(f"j{i}", "i4") for i in range(3)]
    + [("flag", "?"), ("name", "S8"), ("energy", "f8"), ("number", "i4")]
)
INDEXED = ("energy", "number")
_BLOCK = 500_000


def make_rows(start: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Values as measurements have them: noise on drifts, counters, codes; energies with a falling spectrum."""
    rows = np.zeros(count, COLUMNS)
    at = np.arange(start, start + count)
    for i in range(6):
        rows[f"f{i}"] = np.round(np.sin(at / (1000 * (i + 1))) + rng.normal(0, 0.01, count), 4)
    for i in range(4):
        rows[f"g{i}"] = rng.integers(0, 4096, count) / 16
    for i in range(3):
        rows[f"i{i}"] = at * (i + 1)
        rows[f"j{i}"] = rng.integers(0, 10 ** (i + 1), count)
    rows["flag"] = rng.random(count) < 0.1
    rows["name"] = np.array([b"alpha", b"beta", b"gamma", b"delta"])[rng.integers(0, 4, count)]
    rows["energy"] = rng.pareto(2, count)
    rows["number"] = rng.integers(0, 10**6, count)
    return rows


def make_file(path: Path, rows: int, complib: str) -> None:
    """A table of plain PyTables with two columns indexed: one completely sorted, one with the default index."""
    rng = np.random.default_rng(1)
    with tables.open_file(str(path), "w") as file:
        filters = tables.Filters(complevel=5, complib=complib)
        table = file.create_table("/", "events", COLUMNS, filters=filters, expectedrows=rows)
        for start in range(0, rows, _BLOCK):
            table.append(make_rows(start, min(_BLOCK, rows - start), rng))
        table.flush()
        table.cols.energy.create_csindex()
        table.cols.number.create_index()


Read = Callable[[], object]


def compare(title: str, ours: Read, theirs: Read, rounds: int) -> None:
    taken: dict[str, list[float]] = {"ours": [], "PyTables": []}
    for turn in range(rounds + 1):
        for name, read in (("ours", ours), ("PyTables", theirs)):
            start = time.perf_counter()
            read()
            if turn:
                taken[name].append((time.perf_counter() - start) * 1e3)
    mine, peer = statistics.median(taken["ours"]), statistics.median(taken["PyTables"])
    print(f"{title:44} {mine:9.1f} ms   PyTables {peer:9.1f} ms   {peer / mine:6.2f}x", flush=True)


def load(path: Path, names: list[str], **kwargs: object) -> Read:
    def read() -> object:
        with xr.open_dataset(path, engine="pytables", group="/events", cache=False, **kwargs) as dataset:
            return dataset[names].compute()

    return read


def derived(path: Path) -> Read:
    """A quantity of three columns, block by block with Dask."""

    def read() -> object:
        with xr.open_dataset(path, engine="pytables", group="/events", chunks={}) as dataset:
            return (dataset["f0"] * dataset["f3"] + dataset["energy"]).mean().compute()

    return read


def plain(path: Path, names: list[str]) -> Read:
    def read() -> object:
        with tables.open_file(str(path)) as file:
            return [file.root.events.read(field=name) for name in names]

    return read


def plain_derived(path: Path) -> Read:
    def read() -> object:
        with tables.open_file(str(path)) as file:
            columns = [file.root.events.read(field=name) for name in ("f0", "f3", "energy")]
        return (columns[0] * columns[1] + columns[2]).mean()

    return read


def plain_where(path: Path, condition: str) -> Read:
    def read() -> object:
        with tables.open_file(str(path)) as file:
            return file.root.events.read_where(condition)

    return read


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--complib", default="blosc:zstd")
    options.add_argument("--file", type=Path)
    options.add_argument("--only", choices=["columns", "where"])
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.file or Path(folder) / "events.h5"
        if not path.exists():
            make_file(path, chosen.rows, chosen.complib)
        print(f"{chosen.rows} rows of {len(COLUMNS.names)} columns ({COLUMNS.itemsize} bytes), {chosen.complib}")
        if chosen.only != "where":
            three = ["f0", "f3", "energy"]
            compare("one column", load(path, ["energy"]), plain(path, ["energy"]), chosen.rounds)
            compare("three columns together", load(path, three), plain(path, three), chosen.rounds)
            compare("three columns, block by block (Dask)", derived(path), plain_derived(path), chosen.rounds)
        if chosen.only != "columns":
            everything = list(COLUMNS.names)
            for title, condition in (
                ("where= few rows, completely sorted index", "energy > 1000"),
                ("where= many rows, completely sorted index", "(energy > 4) & (energy < 4.1)"),
                ("where= default index", "number == 4711"),
                ("where= two indexes", "(energy > 10) & (number < 1000)"),
                ("where= no index", "f0 > 1.03"),
            ):
                ours = load(path, everything, where=condition)
                compare(title, ours, plain_where(path, condition), chosen.rounds)


if __name__ == "__main__":
    main()
