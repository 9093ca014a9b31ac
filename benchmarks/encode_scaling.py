"""How well encoding scales: the same chunks with one thread and with two, for each codec.

    python benchmarks/encode_scaling.py [--megabytes 128] [--rounds 5] [--threads 2]

Prints, for each codec, the median time with one thread and with several (rounds interleaved, so that other load meets
all alike), their ratio (0.5 is perfect for two threads, below 0.65 is what the project asks for) and the speed in bytes
of data. Measured is what happens outside HDF5: cutting, padding and filtering; what comes out is dropped. Without a
filter that is copying, which the memory bounds and not the CPUs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from decode_scaling import CHUNKSHAPE, field

from xr_pytables.chunks import filters
from xr_pytables.chunks.encoder import encode_block
from xr_pytables.chunks.index import ChunkStorage

CODECS: dict[str, tuple[str | None, int, bool]] = {
    "zlib 1 + shuffle": ("zlib", 1, False),
    "zlib 1 + shuffle + fletcher32": ("zlib", 1, True),
    "bzip2 1 + shuffle": ("bzip2", 1, False),
    "blosc lz4 5": ("blosc:lz4", 5, False),
    "blosc zstd 1": ("blosc:zstd", 1, False),
    "blosc zstd 5": ("blosc:zstd", 5, False),
    "blosc2 lz4 5": ("blosc2:lz4", 5, False),
    "blosc2 zstd 1": ("blosc2:zstd", 1, False),
    "blosc2 zstd 5": ("blosc2:zstd", 5, False),
    "fletcher32": (None, 0, True),
    "none": (None, 0, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--codecs", help="only those that contain this")
    options = parser.parse_args()
    array = field(options.megabytes)
    if options.megabytes < 10:
        array = array[:, :200, :300].copy()
    print(f"{array.nbytes / 1e6:.0f} MB, {options.threads} threads, medians of {options.rounds} rounds")
    for name, (complib, level, checksum) in CODECS.items():
        if options.codecs and options.codecs not in name:
            continue
        pipeline = filters.pipeline(
            complib=complib, complevel=level, shuffle=None, bitshuffle=False, fletcher32=checksum, itemsize=4
        )
        storage = ChunkStorage(array.shape, CHUNKSHAPE, array.dtype, pipeline)
        compare(name, array, storage, options)


def compare(name: str, array: np.ndarray, storage: ChunkStorage, options: argparse.Namespace) -> None:
    """Encode with one thread and with several, in turns, and print a line."""
    times: dict[int, list[float]] = {1: [], options.threads: []}
    for _ in range(options.rounds):
        for threads, taken in times.items():
            began = time.perf_counter()
            encode_block(array, (0, 0, 0), storage, lambda chunks: None, threads=threads)
            taken.append(time.perf_counter() - began)
    one, several = (statistics.median(taken) for taken in times.values())
    print(
        f"{name:30s} {one * 1e3:8.1f} ms -> {several * 1e3:8.1f} ms   ratio {several / one:.2f}   "
        f"{array.nbytes / one / 1e6:6.0f} -> {array.nbytes / several / 1e6:6.0f} MB/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
