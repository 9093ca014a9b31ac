"""Files behind a network: requests, bytes and seconds of this engine against h5netcdf with fsspec, and zarr.

    python benchmarks/read_remote.py [--megabytes 900] [--milliseconds 30] [--folder FOLDER] [--only open ...]

A web server in another process waits before each answer, as a network would. The same 80 variables lie in a file of
`to_pytables`, one of netCDF4 and a tree of plain PyTables, all with zlib, and in a zarr store. With `--folder` the
files stay for the next run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable
from email.utils import formatdate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import tables
import xarray as xr

from xr_pytables import to_pytables

VARIABLES = 80


# -- the server ---------------------------------------------------------------------------------------------


class Server:
    """Ranges of the files below a folder, each after a pause. `/log` tells and forgets what was asked for."""

    def __init__(self, folder: Path, pause: float) -> None:
        self.folder, self.pause = folder, pause
        self.requests = self.bytes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:])}
                await self.answer(writer, method, path.lstrip("/"), headers)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str]) -> None:
        if path == "log":
            body = json.dumps([self.requests, self.bytes]).encode()
            self.requests = self.bytes = 0
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            return
        self.requests += 1
        await asyncio.sleep(self.pause)
        file = self.folder / path
        if not file.is_file():
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        status = file.stat()
        size, told, kind = status.st_size, "200 OK", "application/x-hdf5"
        ranges, between = [(0, size)], [b""]
        if "range" in headers:
            told = "206 Partial Content"
            asked = [one.partition("-") for one in headers["range"].partition("=")[2].split(",")]
            ranges = [(int(begin), min(int(end or size - 1), size - 1) + 1) for begin, _, end in asked]
        if len(ranges) > 1:
            kind = "multipart/byteranges; boundary=THIS"
            between = [
                f"\r\n--THIS\r\nContent-Range: bytes {first}-{stop - 1}/{size}\r\n\r\n".encode()
                for first, stop in ranges
            ]
        end = b"\r\n--THIS--\r\n" if len(ranges) > 1 else b""
        count = sum(stop - first for first, stop in ranges) + sum(map(len, between)) + len(end)
        of = f"Content-Range: bytes {ranges[0][0]}-{ranges[0][1] - 1}/{size}\r\n" if len(ranges) == 1 else ""
        writer.write(
            f"HTTP/1.1 {told}\r\nContent-Length: {count}\r\nContent-Type: {kind}\r\n{of}"
            f'Accept-Ranges: bytes\r\nETag: "{status.st_mtime_ns:x}"\r\n'
            f"Last-Modified: {formatdate(status.st_mtime, usegmt=True)}\r\n\r\n".encode()
        )
        await writer.drain()
        if method == "GET":
            self.bytes += count
            with file.open("rb") as data:
                for part, (first, stop) in zip(between, ranges, strict=True):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.get_running_loop().sendfile(writer.transport, data, first, stop - first)
            writer.write(end)
            await writer.drain()


def run_server(folder: str, pause: float, connection: Connection) -> None:
    async def main() -> None:
        server = await asyncio.start_server(Server(Path(folder), pause).serve, "127.0.0.1", 0, backlog=256)
        connection.send(server.sockets[0].getsockname()[1])
        async with server:
            await server.serve_forever()

    asyncio.run(main())


# -- the files ----------------------------------------------------------------------------------------------


def dataset(megabytes: int) -> xr.Dataset:
    side = int((megabytes * 2**20 / VARIABLES / 4) ** 0.5)
    random = np.random.default_rng(0)
    values = random.normal(size=(side, side)).astype("f4")
    return xr.Dataset(
        {
            f"variable_{i:02}": (("y", "x"), np.roll(values, i * 7, 1) + np.float32(i), {"units": "K", "number": i})
            for i in range(VARIABLES)
        },
        coords={"y": np.arange(side) * 1.0, "x": np.arange(side) * 1.0},
    )


def make_files(folder: Path, megabytes: int, number: int) -> None:
    if (folder / "done").exists():
        return
    ds = dataset(megabytes)
    chunks = (min(400, ds.sizes["y"]), min(400, ds.sizes["x"]))
    to_pytables(
        ds,
        folder / "ours.h5",
        encoding={name: {"complib": "zlib", "complevel": 1, "chunksizes": chunks} for name in ds.data_vars},
    )
    ds.to_netcdf(
        folder / "theirs.nc",
        engine="netcdf4",
        encoding={name: {"zlib": True, "complevel": 1, "chunksizes": chunks} for name in ds.data_vars},
    )
    with tables.open_file(folder / "tree.h5", "w") as file:
        for i, (name, variable) in enumerate(ds.data_vars.items()):
            group = f"/group_{i // 10}"
            filters = tables.Filters(complevel=1, complib="zlib", shuffle=True)
            leaf = file.create_carray(
                group, str(name), obj=variable.values, filters=filters, chunkshape=chunks, createparents=True
            )
            leaf.attrs.units = "K"
    ds.chunk(y=chunks[0], x=chunks[1]).to_zarr(folder / "store.zarr", consolidated=True, zarr_format=3)
    with tables.open_file(folder / "table.h5", "w") as file:
        energies = np.random.default_rng(1).permutation(number) * 0.5
        rows = np.rec.array([np.arange(number), energies], names="number,energy")
        table = file.create_table("/", "events", rows, filters=tables.Filters(complevel=1, complib="blosc:lz4"))
        table.cols.energy.create_csindex()
    (folder / "done").touch()


# -- what is measured ---------------------------------------------------------------------------------------


def opened_by_h5netcdf(url: str, **kwargs: Any) -> xr.Dataset:
    return xr.open_dataset(fsspec.open(url).open(), engine="h5netcdf", **kwargs)


def opened(url: str, **kwargs: Any) -> xr.Dataset:
    return xr.open_dataset(url, engine="pytables", **kwargs)


def measures(base: str) -> dict[str, dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]]:
    """For each task and reader: what is done before, and what is measured."""

    def nothing() -> None:
        return None

    def all_sums(ds: xr.Dataset) -> list[float]:
        found: list[float] = dask.compute(*[ds[name].data.sum() for name in ds.data_vars])
        return found

    tasks: dict[str, dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]] = {
        "open ours": {
            "h5netcdf": (nothing, lambda _: opened_by_h5netcdf(base + "ours.h5")),
            "pytables": (nothing, lambda _: opened(base + "ours.h5")),
        },
        "open netCDF-4": {
            "h5netcdf": (nothing, lambda _: opened_by_h5netcdf(base + "theirs.nc")),
            "pytables": (nothing, lambda _: opened(base + "theirs.nc")),
        },
        "open PyTables tree": {
            "h5netcdf": (
                nothing,
                lambda _: xr.open_datatree(
                    fsspec.open(base + "tree.h5").open(), engine="h5netcdf", phony_dims="access", chunks={}
                ),
            ),
            "pytables": (nothing, lambda _: xr.open_datatree(base + "tree.h5", engine="pytables", chunks={})),
        },
        "where, one row": {
            "pytables": (
                nothing,
                lambda _: xr.open_dataset(
                    base + "table.h5", engine="pytables", group="/events", where="energy == 500.5"
                ).load(),
            ),
        },
    }
    for file, label in (("ours.h5", "ours"), ("theirs.nc", "netCDF-4")):
        tasks[f"one variable, {label}"] = {
            "h5netcdf": (lambda file=file: opened_by_h5netcdf(base + file), lambda ds: ds["variable_40"].values),
            "pytables": (lambda file=file: opened(base + file), lambda ds: ds["variable_40"].values),
        }
        tasks[f"all, {label}"] = {
            "h5netcdf": (lambda file=file: opened_by_h5netcdf(base + file, chunks={}), all_sums),
            "pytables": (lambda file=file: opened(base + file, chunks={}), all_sums),
            "zarr": (lambda: xr.open_zarr(base + "store.zarr", chunks={}), all_sums),
        }
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=900)
    parser.add_argument("--milliseconds", type=float, default=30)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the table")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of the names of what to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make_files(folder, arguments.megabytes, arguments.rows)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=run_server, args=(str(folder), arguments.milliseconds / 1000, there), daemon=True
        )
        process.start()
        base = f"http://127.0.0.1:{here.recv()}/"
        print(
            f"{arguments.megabytes} MB in memory, {arguments.milliseconds:g} ms before each answer; "
            f"medians of {arguments.rounds} rounds, in each of which the readers take turns"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task, readers in measures(base).items():
                if not task.startswith(tuple(arguments.only)):
                    continue
                taken = {reader: list[tuple[int, int, float]]() for reader in readers}
                for _ in range(arguments.rounds):
                    for reader, (before, measured) in readers.items():
                        taken[reader].append(taken_by(base, before, measured))
                for reader, rounds in taken.items():
                    print(f"{task:24} {reader:10}", report(rounds, taken["pytables"]), flush=True)
        process.terminate()
        process.join()


def taken_by(base: str, before: Callable[[], Any], measured: Callable[[Any], Any]) -> tuple[int, int, float]:
    """Requests, bytes and seconds of one reader."""
    fsspec.filesystem("http").invalidate_cache()
    given = before()
    urllib.request.urlopen(base + "log").read()
    start = time.perf_counter()
    result = measured(given)
    seconds = time.perf_counter() - start
    requests, count = json.loads(urllib.request.urlopen(base + "log").read())
    for one in (given, result):
        if hasattr(one, "close"):
            one.close()
    return requests, count, seconds


def report(rounds: list[tuple[int, int, float]], ours: list[tuple[int, int, float]]) -> str:
    """What one reader took, and our time as a part of its time in the same round."""
    requests, count, seconds = (statistics.median(one) for one in zip(*rounds, strict=True))
    part = statistics.median(mine[2] / its[2] for mine, its in zip(ours, rounds, strict=True))
    told = "" if rounds is ours else f"   ours takes {part:.2f} of it"
    return f"{requests:6.0f} requests {count / 2**20:9.2f} MiB {seconds:8.3f} s{told}"


if __name__ == "__main__":
    main()
