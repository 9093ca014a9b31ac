"""Parts of arrays: one point through time, one map, small chunks in great number, the first read, memory, threads.

    python benchmarks/read_parts.py [--shape 240,721,1440] [--small 100000,1000000] [--rounds 9]

Against plain PyTables on the same file in the same run, taking turns; printed are medians in milliseconds (of CPU and
waiting together) and the ratio. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import read_field
import tables
import xarray as xr

from xr_pytables import to_pytables

Read = Callable[[int], object]
"""Reads for the round of that number: another part each time, so that nobody's cache of decoded chunks has it."""


def medians(readers: dict[str, Read], rounds: int) -> dict[str, float]:
    """Milliseconds of each reader, turn by turn; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(rounds + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            read(turn)
            if turn:
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(times) for name, times in taken.items()}


def report(title: str, readers: dict[str, Read], rounds: int) -> None:
    found = medians(readers, rounds)
    ours, theirs = found["ours"], found["PyTables"]
    print(f"{title:34} {ours:9.2f} ms   PyTables {theirs:9.2f} ms   {theirs / ours:6.2f}x", flush=True)


Key = Callable[[int], object]


def ours(path: Path, key: Key, *, keep: xr.Dataset | None = None) -> Read:
    """Open, read, close; with `keep` read from a dataset that is open already."""

    def read(turn: int) -> object:
        if keep is not None:
            return keep.variables["field"][key(turn)].values
        with xr.open_dataset(path, engine="pytables", decode_cf=False, cache=False) as dataset:
            return dataset.variables["field"][key(turn)].values

    return read


def plain(path: Path, key: Key, *, keep: tables.File | None = None) -> Read:
    def read(turn: int) -> object:
        if keep is not None:
            return keep.root.field[key(turn)]
        with tables.open_file(path) as file:
            return file.root.field[key(turn)]

    return read


def points_and_maps(folder: Path, shape: tuple[int, int, int], rounds: int) -> None:
    dataset = xr.Dataset({"field": (("time", "lat", "lon"), read_field.make_field(shape))})
    chunks = tuple(min(chunk, size) for chunk, size in zip(read_field.CHUNKS, shape, strict=True))

    def point(turn: int) -> object:
        return slice(None), turn * chunks[1] % shape[1], turn * chunks[2] % shape[2]

    def one_map(turn: int) -> object:
        return (turn * chunks[0] % shape[0],)

    for name, words in read_field.CODECS.items():
        path = folder / f"{name}.h5"
        layout = {"contiguous": True} if name == "contiguous" else {"chunksizes": chunks, "fletcher32": False}
        to_pytables(dataset, path, encoding={"field": {**words, **layout}}, fsync=False)
        with (
            xr.open_dataset(path, engine="pytables", decode_cf=False, cache=False) as kept,
            tables.open_file(path) as file,
        ):
            report(
                f"{name}: one point, all times",
                {"ours": ours(path, point, keep=kept), "PyTables": plain(path, point, keep=file)},
                rounds,
            )
            report(
                f"{name}: one map",
                {"ours": ours(path, one_map, keep=kept), "PyTables": plain(path, one_map, keep=file)},
                rounds,
            )
        report(
            f"{name}: open, first map, close", {"ours": ours(path, one_map), "PyTables": plain(path, one_map)}, rounds
        )
        path.unlink()


def small_chunks(folder: Path, count: int, rounds: int) -> None:
    """`count` chunks of 64 numbers."""
    path = folder / f"small-{count}.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_carray("/", "field", tables.Int32Atom(), (count * 64,), chunkshape=(64,))
        step = 64 * 10_000
        for start in range(0, count * 64, step):
            leaf[start : start + step] = np.arange(start, min(start + step, count * 64))

    def part(turn: int) -> object:
        return slice(1000 * turn, 1000 * turn + 100)

    def whole(turn: int) -> object:
        return slice(None)

    report(f"{count} chunks: open, one slice", {"ours": ours(path, part), "PyTables": plain(path, part)}, rounds)
    start = time.perf_counter()
    values = ours(path, whole)(0)
    seconds = time.perf_counter() - start
    assert np.array_equal(values, np.arange(count * 64))
    start = time.perf_counter()
    plain(path, whole)(0)
    theirs = time.perf_counter() - start
    print(
        f"{f'{count} chunks: full read':34} {seconds * 1e3:9.2f} ms   PyTables {theirs * 1e3:9.2f} ms   "
        f"{theirs / seconds:6.2f}x   ({seconds / count * 1e6:.2f} us a chunk)",
        flush=True,
    )


def memory_and_threads(folder: Path, shape: tuple[int, int, int], rounds: int) -> None:
    path = folder / "threads.h5"
    dataset = xr.Dataset({"field": (("time", "lat", "lon"), read_field.make_field(shape))})
    chunks = tuple(min(chunk, size) for chunk, size in zip(read_field.CHUNKS, shape, strict=True))
    words = {**read_field.CODECS["blosc2-zstd"], "chunksizes": chunks, "fletcher32": False}
    to_pytables(dataset, path, encoding={"field": words}, fsync=False)
    readers = {}
    for threads in (1, 2, 4):

        def read(turn: int, threads: int = threads) -> object:
            with xr.open_dataset(path, engine="pytables", decode_cf=False, threads=threads) as opened:
                return opened.field.values

        readers[str(threads)] = read
    for threads, taken in medians(readers, max(1, rounds // 2)).items():
        print(f"threads={threads:25} {taken:9.2f} ms   on {os.cpu_count()} CPUs", flush=True)
    code = f"""
        import xarray as xr, xr_pytables.store

        def peak():  # of this program: ru_maxrss begins with that of the program that started it
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

        with xr.open_dataset({str(path)!r}, engine="pytables", decode_cf=False) as opened:
            opened.field[0, 0, 0].values
            before = peak()
            values = opened.field.values
            print(round((peak() - before) * 1024 / values.nbytes, 3), values.nbytes)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True)
    factor, size = done.stdout.split()
    chunk = int(np.prod(chunks)) * 4
    print(f"peak memory of a full read: {factor} of the array's {size} bytes; a chunk has {chunk} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="240,721,1440")
    parser.add_argument("--small", default="100000,1000000")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # plain PyTables warns of DIMENSION_LIST
    shape = tuple(int(size) for size in arguments.shape.split(","))
    with tempfile.TemporaryDirectory() as folder:
        points_and_maps(Path(folder), shape, arguments.rounds)
        for count in arguments.small.split(","):
            small_chunks(Path(folder), int(count), arguments.rounds)
        memory_and_threads(Path(folder), shape, arguments.rounds)
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
