"""Reading a field of 1 GB through `xr.open_dataset`: this engine, the peers and plain PyTables, codec by codec.

    python benchmarks/read_field.py [--codecs zlib,none] [--shape 240,721,1440] [--rounds 5] [--keep FOLDER]

For each codec every engine reads the same array from a file of its own in its own words for the same codec, chunks
24 x 181 x 360: `.values` (threads as each engine likes), and a Dask `.mean()` with `chunks={}`. The engines take turns
in every round, so that all see the same machine; printed are the medians in MB/s of decoded data, and for this engine
the ratio to each peer. Files are in the page cache. Before each reading, three times the memory of the array is touched
and let go of: a virtual machine that gave free memory back to its host waits for it several times as long as the whole
reading takes, and which engine meets that is chance.

The physical limit is measured in the same run: the same raw chunks, decoded by as many threads as there are CPUs with
no file, no index and no xarray, and copied to their place (into fresh memory, as a read does).

With `--keep` the files are made in that folder, unless they are there, and stay for the next run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import math
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tables
import xarray as xr
from results import keep

from xr_pytables import to_pytables
from xr_pytables.arrays.leaf_arrays import storage_of
from xr_pytables.chunks import codecs
from xr_pytables.hdf5.chunk_indexes import read_index
from xr_pytables.sources.local import LocalFile

CHUNKS = (24, 181, 360)
CODECS: dict[str, dict[str, object]] = {
    "zlib": {"complib": "zlib", "complevel": 1, "shuffle": True},
    "blosc-lz4": {"complib": "blosc:lz4", "complevel": 5, "shuffle": True},
    "blosc-zstd": {"complib": "blosc:zstd", "complevel": 5, "shuffle": True},
    "blosc2-lz4": {"complib": "blosc2:lz4", "complevel": 5, "shuffle": True},
    "blosc2-zstd": {"complib": "blosc2:zstd", "complevel": 5, "shuffle": True},
    "none": {},
    "contiguous": {},
}
Reader = Callable[[bool], object]


def make_field(shape: tuple[int, int, int]) -> np.ndarray:
    """Waves with noise, rounded to 1/64 as packed measurements are: compresses about as weather data do."""
    rng = np.random.default_rng(0)
    time_, lat, lon = (np.linspace(0, turns * np.pi, n, dtype="f4") for turns, n in zip((9, 5, 11), shape, strict=True))
    field = np.empty(shape, "f4")
    base = 280 + 20 * np.cos(lat)[:, None] * np.sin(lon)
    for step, phase in enumerate(time_):
        noise = rng.standard_normal(shape[1:], dtype="f4")
        field[step] = np.round((base + 5 * np.sin(phase + lon) + noise) * 64) / 64
    return field


@functools.cache
def _pattern(shape: tuple[int, int, int]) -> np.ndarray:
    return make_field(shape)


def make_block(block_info: dict) -> np.ndarray:
    """A block of a field of one pattern, made in next to no time where it is needed; for `dask.array.map_blocks`."""
    here = block_info[None]
    return _pattern(here["chunk-shape"]) + np.float32(sum(here["chunk-location"]) / 64)


def make_files(folder: Path, name: str, dataset: xr.Dataset) -> dict[str, Path]:
    """Files of the same array with the same codec, by the engine that reads them."""
    words = CODECS[name]
    chunks = tuple(min(chunk, size) for chunk, size in zip(CHUNKS, dataset.field.shape, strict=True))
    files = {"pytables": folder / f"{name}.h5"}
    # without checksums, as the peers write; PyTables' own fast path for Blosc2 needs that, too
    layout = {"contiguous": True} if name == "contiguous" else {"chunksizes": chunks, "fletcher32": False}
    encoding = {"field": {**words, **layout}}
    _once(files["pytables"], lambda path: to_pytables(dataset, path, encoding=encoding, fsync=False))
    if name in ("zlib", "none", "contiguous"):
        files["netcdf4"] = files["h5netcdf"] = folder / f"{name}.nc"
        zlib = {"zlib": True, "complevel": 1, "shuffle": True} if name == "zlib" else {}
        layout = {"contiguous": True} if name == "contiguous" else {"chunksizes": chunks}
        netcdf = {"field": {**zlib, **layout}}
        _once(files["netcdf4"], lambda path: dataset.to_netcdf(path, engine="netcdf4", encoding=netcdf))
        if name == "zlib" and importlib.util.find_spec("hidefix"):
            files["hidefix"] = files["netcdf4"]
    if name != "contiguous" and importlib.util.find_spec("zarr"):
        files["zarr"] = folder / f"{name}.zarr"
        stored = {"field": {"chunks": chunks, "compressors": zarr_codec(name)}}
        _once(files["zarr"], lambda path: dataset.to_zarr(path, encoding=stored))
    if name == "contiguous":
        files["np.load"] = folder / "field.npy"
        _once(files["np.load"], lambda path: np.save(path, dataset.field.values))
    files["plain PyTables"] = files["pytables"]
    return files


def _once(path: Path, make: Callable[[Path], object]) -> None:
    if not path.exists():
        make(path)


def zarr_codec(name: str, level: int = 5) -> object:
    """What zarr calls the codec of that name (Blosc in place of Blosc2), with the level of Blosc."""
    import zarr.codecs

    if name == "none":
        return None
    if name == "zlib":
        import zarr.codecs.numcodecs as numcodecs

        return [numcodecs.Shuffle(elementsize=4), numcodecs.Zlib(level=1)]
    return [zarr.codecs.BloscCodec(cname=name.split("-")[1], clevel=level, shuffle="shuffle")]


def own_memory(nbytes: int) -> None:
    """Make sure that this machine has that much memory at hand."""
    np.empty(nbytes, "u1").fill(1)


def reader(engine: str, path: Path) -> Reader:
    """`read(lazy)`: all values, or with `lazy` their mean chunk by chunk."""
    if engine == "np.load":
        return lambda lazy: np.load(path).mean() if lazy else np.load(path)
    if engine == "plain PyTables":

        def plain(lazy: bool) -> object:
            with tables.open_file(path) as file:
                values = file.root.field[:]
                return values.mean() if lazy else values

        return plain

    def through_xarray(lazy: bool) -> object:
        options = {"chunks": {}} if lazy else {}
        with xr.open_dataset(path, engine=engine, decode_cf=False, **options) as dataset:
            return float(dataset.field.mean()) if lazy else dataset.field.values

    return through_xarray


def physical_limit(path: Path, shape: tuple[int, ...]) -> float:
    """Seconds to decode and place all chunks of our file, already in memory, on all CPUs."""
    with xr.open_dataset(path, engine="pytables", decode_cf=False) as dataset:
        array = dataset.variables["field"]._data
        while not hasattr(array, "spec"):
            array = array.array
        storage = storage_of(array.spec)
    with open(path, "rb") as file:
        index = read_index(LocalFile(file.fileno(), str(path)), storage)
        raw = [
            (
                where,
                os.pread(file.fileno(), int(index.size[where]), int(index.address[where])),
                int(index.filter_mask[where]),
            )
            for where in np.ndindex(index.address.shape)
        ]
    own_memory(4 * math.prod(shape) * 3)
    out = np.empty(shape, "f4")
    own = threading.local()

    def one(item: tuple[tuple[int, ...], bytes, int]) -> None:
        where, data, mask = item
        if not hasattr(own, "chunk"):
            own.chunk = np.empty(storage.chunkshape, "f4")
        chunk = own.chunk
        codecs.decode_chunk(
            np.frombuffer(data, np.uint8), mask, storage.pipeline, chunk.nbytes, chunk.reshape(-1).view("u1")
        )
        place = tuple(slice(at * size, (at + 1) * size) for at, size in zip(where, storage.chunkshape, strict=True))
        target = out[place]
        target[...] = chunk[tuple(slice(0, length) for length in target.shape)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, raw[:4]))
        start = time.perf_counter()
        list(pool.map(one, raw))
        return time.perf_counter() - start


def compare(name: str, files: dict[str, Path], shape: tuple[int, ...], rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    size = float(np.prod(shape)) * 4
    readers = {engine: reader(engine, path) for engine, path in files.items()}
    for lazy, title in ((False, ".values"), (True, ".mean()")):
        taken: dict[str, list[float]] = {engine: [] for engine in readers}
        for turn in range(rounds + 1):
            for engine, read in readers.items():
                own_memory(3 * int(size))
                start = time.perf_counter()
                result = read(lazy)
                seconds = time.perf_counter() - start
                del result
                if turn:
                    taken[engine].append(seconds)
        speeds = {engine: size / statistics.median(times) / 1e6 for engine, times in taken.items()}
        rows.append({"title": f"{name}, {title}", "speeds": {engine: round(speed) for engine, speed in speeds.items()}})
        ratios = "  ".join(
            f"{speeds['pytables'] / speed:.2f}x {engine}" for engine, speed in speeds.items() if engine != "pytables"
        )
        print(f"{name:12} {title:8} {speeds['pytables']:6.0f} MB/s   {ratios}", flush=True)
        if not lazy and name != "contiguous":
            limits = [physical_limit(files["pytables"], shape) for _ in range(max(1, rounds // 2))]
            limit = size / statistics.median(limits) / 1e6
            print(f"{'':12} {'limit':8} {limit:6.0f} MB/s   {speeds['pytables'] / limit:.2f} of it reached", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--shape", default="240,721,1440")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path, help="where to keep the speeds, for the plots of the documentation")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # plain PyTables warns of DIMENSION_LIST, zarr of codecs
    shape = tuple(int(size) for size in arguments.shape.split(","))
    dataset = xr.Dataset({"field": (("time", "lat", "lon"), make_field(shape))})
    rows = []
    for name in arguments.codecs.split(","):
        with contextlib.nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as folder:
            files = make_files(Path(folder), name, dataset)
            rows += compare(name, files, shape, arguments.rounds)
    if arguments.json:
        keep(arguments.json, "read_field", f"float32 {shape}, median of {arguments.rounds}", rows)


if __name__ == "__main__":
    main()
