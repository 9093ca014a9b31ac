"""Writing a field of 1 GB from Dask: `to_pytables`, the peers and plain PyTables, codec by codec.

    python benchmarks/write_field.py [--codecs zlib,none] [--shape 240,721,1440] [--rounds 5] [--packed]
        [--scheduler distributed]

The field is a Dask array over values in memory, one block per chunk of 24 x 181 x 360, so that the writer is measured
and nothing else. All writers use Dask's threads, the same chunks and the same codec, and take turns in every round, so
that all see the same machine; printed are medians in MB/s of data, and for `to_pytables` the ratio to each peer. Peers
neither wait for the disk nor write checksums, so the ratios are of `fsync=False` and `fletcher32=False`; beside stands
what either costs, and Zarr with checksums of its own. `--packed` stores the values as 16-bit integers with a scale,
which every writer computes itself, and only `to_pytables` checks. With `--scheduler distributed` two worker processes
of one thread each make the blocks and write them. Blosc2, which no peer writes, is compared with Zarr's Blosc of the
same inner codec.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.array
import numpy as np
import tables
import xarray as xr
from read_field import CHUNKS, make_block, make_field, zarr_codec
from results import keep

from xr_pytables import to_pytables

CODECS: dict[str, dict[str, object]] = {
    "zlib": {"complib": "zlib", "complevel": 1, "shuffle": True},
    "blosc-lz4": {"complib": "blosc:lz4", "complevel": 5, "shuffle": True},
    "blosc-zstd": {"complib": "blosc:zstd", "complevel": 1, "shuffle": True},
    "blosc-zstd-5": {"complib": "blosc:zstd", "complevel": 5, "shuffle": True},
    "blosc2-zstd": {"complib": "blosc2:zstd", "complevel": 1, "shuffle": True},
    "blosc2-zstd-5": {"complib": "blosc2:zstd", "complevel": 5, "shuffle": True},
    "none": {},
}
SLOW = ("plain PyTables",)  # measured once
Writer = Callable[[Path], object]
PACKED = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}


def writers(name: str, dataset: xr.Dataset, chunks: tuple[int, ...], packing: dict[str, object]) -> dict[str, Writer]:
    """`write(path)` of each engine in its own words for the codec."""
    words: dict[str, object] = {**CODECS[name], **packing, "chunksizes": chunks}

    def ours(*, fsync: bool, fletcher32: bool) -> Writer:
        encoding = {"field": {**words, "fletcher32": fletcher32}}
        return lambda path: to_pytables(dataset, path, encoding=encoding, fsync=fsync)

    found = {
        "pytables": ours(fsync=False, fletcher32=False),
        "with fletcher32": ours(fsync=False, fletcher32=True),
        "with fsync": ours(fsync=True, fletcher32=False),
    }
    if name in ("zlib", "none"):
        zlib = {"zlib": True, "complevel": 1, "shuffle": True} if name == "zlib" else {}
        encoding = {"field": {**zlib, **packing, "chunksizes": chunks}}
        found["netcdf4"] = lambda path: dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)
        found["h5netcdf"] = lambda path: dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    if importlib.util.find_spec("zarr"):
        import zarr.codecs

        codec = zarr_codec(name, CODECS[name].get("complevel", 0))
        zarr_encoding = {"field": {**packing, "chunks": chunks, "compressors": codec}}
        found["zarr"] = lambda path: dataset.to_zarr(path, encoding=zarr_encoding, consolidated=False)
        checked = {"field": {**zarr_encoding["field"], "compressors": [*(codec or ()), zarr.codecs.Crc32cCodec()]}}
        found["zarr with crc32c"] = lambda path: dataset.to_zarr(path, encoding=checked, consolidated=False)
    if not packing:
        found["plain PyTables"] = lambda path: _plain(dataset.field, path, name, chunks)
    return found


def _plain(field: xr.DataArray, path: Path, name: str, chunks: tuple[int, ...]) -> None:
    """The way to store a Dask array with PyTables alone: one block after the other."""
    words = dict(CODECS[name])
    filters = tables.Filters(**words) if words else None
    with tables.open_file(path, "w") as file:
        array = file.create_carray("/", "field", tables.Float32Atom(), field.shape, chunkshape=chunks, filters=filters)
        dask.array.store(field.data, array, lock=True)


def compare(
    name: str,
    dataset: xr.Dataset,
    chunks: tuple[int, ...],
    rounds: int,
    folder: Path,
    only: list[str] | None,
    packing: dict[str, object],
) -> dict[str, object]:
    found = {
        engine: write for engine, write in writers(name, dataset, chunks, packing).items() if not only or engine in only
    }
    taken: dict[str, list[float]] = {engine: [] for engine in found}
    for turn in range(rounds + 1):
        first = turn % len(found)  # not always the same one behind the same other
        for engine, write in [*found.items()][first:] + [*found.items()][:first]:
            if engine in SLOW and turn > 1:
                continue
            path = folder / f"out-{engine.replace(' ', '-')}"
            start = time.perf_counter()
            write(path)
            seconds = time.perf_counter() - start
            shutil.rmtree(path) if path.is_dir() else os.unlink(path)
            if turn:
                taken[engine].append(seconds)
    medians = {engine: statistics.median(times) for engine, times in taken.items()}
    speed = {engine: dataset.field.nbytes / seconds / 1e6 for engine, seconds in medians.items()}
    own = ("pytables", "with fletcher32", "with fsync", "zarr with crc32c")
    peers = "  ".join(f"{speed['pytables'] / speed[engine]:.2f}x {engine}" for engine in found if engine not in own)
    beside = ", ".join(f"{speed[engine]:.0f} {engine}" for engine in own[1:] if engine in speed)
    if {"with fletcher32", "zarr with crc32c"} <= set(speed):
        peers += f"  {speed['with fletcher32'] / speed['zarr with crc32c']:.2f}x zarr, both with checksums"
    print(f"{name:12} {speed['pytables']:6.0f} MB/s ({beside})   {peers}", flush=True)
    return {"title": name, "speeds": {engine: round(value) for engine, value in speed.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--shape", default="240,721,1440")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", help="only these, e.g. pytables,zarr")
    parser.add_argument("--packed", action="store_true", help="as 16-bit integers with a scale")
    parser.add_argument("--scheduler", choices=("threads", "distributed"), default="threads")
    parser.add_argument("--chunks", help="on disk, e.g. 12,181,360; default: those of the blocks")
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, help="where to keep the speeds, for the plots of the documentation")
    arguments = parser.parse_args()
    shape = tuple(int(size) for size in arguments.shape.split(","))
    blocks = tuple(min(chunk, size) for chunk, size in zip(CHUNKS, shape, strict=True))
    chunks = tuple(map(int, arguments.chunks.split(","))) if arguments.chunks else blocks
    only = arguments.engines.split(",") if arguments.engines else None
    rows = []
    with contextlib.ExitStack() as stack:
        if arguments.scheduler == "distributed":
            stack.enter_context(_cluster())
            normal = dask.array.core.normalize_chunks(blocks, shape)
            values = dask.array.map_blocks(make_block, chunks=normal, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
        else:
            values = dask.array.from_array(make_field(shape), chunks=blocks, name=False)
        dataset = xr.Dataset({"field": (("time", "lat", "lon"), values)})
        for name in arguments.codecs.split(","):
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder))
            packing = dict(PACKED) if arguments.packed else {}
            rows.append(compare(name, dataset, chunks, arguments.rounds, Path(folder), only, packing))
    if arguments.json:
        keep(arguments.json, "write_field", f"float32 {shape}, median of {arguments.rounds}", rows)


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    import distributed

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
    ):
        yield


if __name__ == "__main__":
    main()
