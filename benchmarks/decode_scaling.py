"""How well decoding scales: the same chunks with one thread and with two, for each codec, and the speed of a full read.

    python benchmarks/decode_scaling.py [--megabytes 256] [--rounds 5] [--threads 2]

Prints, for each codec, the median time with one thread and with several (rounds interleaved, so that other load meets
all alike), their ratio (0.5 is perfect for two threads, below 0.65 is what the project asks for) and the speed of the
read in decoded bytes. The file is in the page cache; numbers of one run compare only with each other.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tables

from xr_pytables.chunks.index import ChunkStorage
from xr_pytables.chunks.reading import read_contiguous, read_into
from xr_pytables.hdf5.chunk_indexes import read_index
from xr_pytables.hdf5.file import File
from xr_pytables.sources.local import LocalFile

CODECS = {
    "none": None,
    "zlib 1 + shuffle": tables.Filters(1, "zlib", shuffle=True),
    "zlib 1 + shuffle + fletcher32": tables.Filters(1, "zlib", shuffle=True, fletcher32=True),
    "bzip2": tables.Filters(1, "bzip2", shuffle=True),
    "blosc lz4": tables.Filters(5, "blosc:lz4"),
    "blosc zstd": tables.Filters(5, "blosc:zstd"),
    "blosc2 lz4": tables.Filters(5, "blosc2:lz4"),
    "blosc2 zstd": tables.Filters(5, "blosc2:zstd"),
}
CHUNKSHAPE = (24, 181, 360)


def field(megabytes: float) -> np.ndarray:
    """A smooth field with noise, rounded as measured data are."""
    steps = max(1, round(megabytes * 1e6 / (721 * 1440 * 4)))
    if steps > CHUNKSHAPE[0]:
        steps = round(steps / CHUNKSHAPE[0]) * CHUNKSHAPE[0]
    random = np.random.default_rng(0)
    latitude = np.radians(np.linspace(-90, 90, 721))[:, None]
    longitude = np.radians(np.linspace(0, 360, 1440))[None, :]
    array = np.empty((steps, 721, 1440), "f4")
    for i in range(steps):
        waves = np.sin(3 * longitude + i / 30) * np.cos(2 * latitude)
        array[i] = 280 + 20 * np.cos(latitude) + 5 * waves + random.standard_normal((721, 1440)) / 2
    return np.round(array * 64) / 64


def written(path: Path, array: np.ndarray, filters: tables.Filters | None) -> ChunkStorage:
    chunkshape = (min(CHUNKSHAPE[0], len(array)), *CHUNKSHAPE[1:])
    with tables.open_file(path, "w") as file:
        leaf = file.create_carray("/", "a", obj=array, chunkshape=chunkshape, filters=filters)
        address = leaf._get_obj_info().addr
    with path.open("rb") as raw:
        info = File(LocalFile(raw.fileno(), str(path))).dataset(address)
    return ChunkStorage(array.shape, chunkshape, array.dtype, info.filters, address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    array = field(options.megabytes)
    out = np.zeros_like(array)  # touched once: the cost of fresh pages is the same for all and not what is measured
    print(f"{array.nbytes / 1e6:.0f} MB, {options.threads} threads, medians of {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for name, filters in CODECS.items():
            path = Path(folder) / "a.h5"
            storage = written(path, array, filters)
            with path.open("rb") as file:
                index = read_index(LocalFile(file.fileno(), str(path)), storage)
                read = functools.partial(read_into, LocalFile(file.fileno(), str(path)), storage, index, (), out)
                compare(name, read, array.nbytes, options)
            assert np.array_equal(out, array)
        path = Path(folder) / "raw"
        array.tofile(path)
        storage = ChunkStorage(array.shape, None, array.dtype, offset=0)
        with path.open("rb") as file:
            read = functools.partial(read_contiguous, LocalFile(file.fileno(), str(path)), storage, (), out)
            compare("contiguous", read, array.nbytes, options)


def compare(name: str, read: Callable[..., None], nbytes: int, options: argparse.Namespace) -> None:
    """Measure `read` with one thread and with several, in turns, and print a line."""
    times: dict[int, list[float]] = {1: [], options.threads: []}
    for _ in range(options.rounds):
        for threads, taken in times.items():
            began = time.perf_counter()
            read(threads=threads)
            taken.append(time.perf_counter() - began)
    one, several = (statistics.median(taken) for taken in times.values())
    print(
        f"{name:30s} {one * 1e3:8.1f} ms -> {several * 1e3:8.1f} ms   ratio {several / one:.2f}   "
        f"{nbytes / one / 1e6:6.0f} -> {nbytes / several / 1e6:6.0f} MB/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
