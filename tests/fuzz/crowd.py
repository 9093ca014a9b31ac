"""`python -m tests.fuzz.crowd`: many processes and threads read files that others write, append to and are killed at.

Readers started in each way that there is (fork, spawn, forkserver), with the garbage collector always at work, read
with this package beside plain PyTables, h5py and netCDF4, and fork children while they do. One writer appends to a
file, another replaces a file again and again; both are killed in the middle and started anew. Whatever is read must be
of one version and right, and nothing may be left at the end: no descriptor, thread, or memory that grows.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import tables
import xarray as xr

from xr_pytables import FileBusyError, FileChangedError, to_pytables
from xr_pytables.writing import changes

METHODS = ("fork", "spawn", "forkserver")
VALUES = np.arange(120 * 40.0).reshape(120, 40)
CODECS = (None, "zlib", "blosc:lz4", "blosc2:zstd")
AS_OTHERS_WRITE = (FileBusyError, FileChangedError)
"""What a reader of a file that changes may meet; the next try must succeed some time."""


def make(folder: Path) -> None:
    """Files that nobody changes, and the first version of those that are changed."""
    with tables.open_file(folder / "still.h5", "w") as file:
        for number, complib in enumerate(CODECS):
            filters = tables.Filters(1, complib, fletcher32=number % 2 == 1) if complib else None
            file.create_carray("/", f"x{number}", obj=VALUES + number, chunkshape=(17, 13), filters=filters)
        rows = np.zeros(500, [("a", "i4"), ("b", "f8")])
        rows["a"] = np.arange(500) % 50
        file.create_table("/", "rows", rows).cols.a.create_csindex()
    with tables.open_file(folder / "plain.h5", "w") as file:
        file.create_carray("/", "x", obj=VALUES)
    with netCDF4.Dataset(folder / "other.nc", "w") as file:
        file.createDimension("y", 120)
        file.createDimension("x", 40)
        file.createVariable("v", "f8", ("y", "x"), zlib=True)[:] = VALUES
    replace(folder, 0)
    to_pytables(steps(0, 4), folder / "grows.h5", unlimited_dims=["t"], encoding={"v": {"chunksizes": (3, 40)}})


def steps(start: int, stop: int) -> xr.Dataset:
    numbers = np.arange(start, stop)
    return xr.Dataset({"v": (("t", "x"), numbers[:, None] * 100.0 + np.arange(40))}, {"t": numbers})


def replace(folder: Path, version: int) -> None:
    """Every value of a version is its number."""
    to_pytables(xr.Dataset({"a": ("x", np.full(5000, version)), "b": ((), version)}), folder / "replaced.h5")


# -- what readers do, each once ---------------------------------------------------------------------------------


def read_still(folder: Path, rng: random.Random) -> None:
    number = rng.randrange(len(CODECS))
    key = (slice(rng.randrange(60), 120, rng.randrange(1, 5)), rng.randrange(40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with xr.open_dataset(folder / "still.h5", engine="pytables", cache=False) as ds:
            np.testing.assert_array_equal(ds[f"x{number}"][key].values, (VALUES + number)[key])


def search(folder: Path, rng: random.Random) -> None:
    wanted = rng.randrange(50)
    with xr.open_dataset(folder / "still.h5", engine="pytables", group="rows", where=f"a == {wanted}") as ds:
        assert ds["rows_row"].values.tolist() == list(range(wanted, 500, 50))


def read_growing(folder: Path, rng: random.Random) -> None:
    with xr.open_dataset(folder / "grows.h5", engine="pytables", cache=False) as ds:
        found = ds.load()
    assert found.sizes["t"] >= 4
    xr.testing.assert_equal(found, steps(0, found.sizes["t"]))


def read_replaced(folder: Path, rng: random.Random) -> None:
    with xr.open_dataset(folder / "replaced.h5", engine="pytables", cache=False) as ds:
        assert set(ds["a"].values.tolist()) == {int(ds["b"])}


def read_with_others(folder: Path, rng: random.Random) -> None:
    """One thread only: the registry of PyTables is not for several."""
    with tables.open_file(folder / "plain.h5") as file:
        np.testing.assert_array_equal(file.root.x[:], VALUES)
    with h5py.File(folder / "other.nc") as file:
        np.testing.assert_array_equal(file["v"][:], VALUES)
    with netCDF4.Dataset(folder / "other.nc") as file:
        np.testing.assert_array_equal(file["v"][:], VALUES)


def fork_a_reader(folder: Path, rng: random.Random) -> None:
    """A child, born while other threads read, reads too."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(200)  # (the watchdog of `faulthandler` waits for the parent's, which a child does not have)
            read_still(folder, rng)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a forked child ended with status {status}"


READS: tuple[Callable[[Path, random.Random], None], ...] = (read_still, read_growing, read_replaced, search)


# -- processes ----------------------------------------------------------------------------------------------


def readers(folder: Path, threads: int, rounds: int, until: float, seed: int, answers: Any) -> None:
    """A process of many readers; its answer: problems, how much was read, and what is left."""
    faulthandler.dump_traceback_later(max(0.0, until - time.time()) + 280, exit=True)
    warnings.simplefilter("ignore")
    gc.set_threshold(1)
    problems: list[str] = []
    done = [0] * (threads + 2)

    def repeat(number: int, works: tuple[Callable[[Path, random.Random], None], ...]) -> None:
        rng = random.Random(f"{seed} {number}")
        while not problems and (done[number] < rounds or time.time() < until):
            work = works[done[number] % len(works)]
            try:
                work(folder, rng)
            except AS_OTHERS_WRITE as error:
                if work not in (read_growing, read_replaced):
                    problems.append(f"{work.__name__}: {error!r}")
                continue
            except BaseException as error:
                problems.append(f"{work.__name__}: {error!r}")
            done[number] += 1

    def crowd() -> None:
        jobs = [(number, READS) for number in range(threads)]
        jobs += [(threads, (read_with_others,)), (threads + 1, (fork_a_reader,))]
        started = [threading.Thread(target=repeat, args=job) for job in jobs]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    for work in (*READS, read_with_others):  # what is imported and cached once
        with suppress(*AS_OTHERS_WRITE):
            work(folder, random.Random(0))
    before = descriptors(), threading.active_count(), memory()
    crowd()
    gc.collect()
    after = descriptors(), threading.active_count(), memory()
    answers.put((problems, sum(done), before, after))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def append_for_ever(folder: Path) -> None:
    changes.SMALL_FILE, changes.LARGEST_SHARE = 0, 1.0  # in place
    while True:
        with suppress(FileBusyError, FileChangedError):
            with xr.open_dataset(folder / "grows.h5", engine="pytables") as ds:
                length = ds.sizes["t"]
            if length > 400:  # so that a read stays a short one
                to_pytables(steps(0, 4), folder / "grows.h5", unlimited_dims=["t"])
            else:
                to_pytables(steps(length, length + 3), folder / "grows.h5", append_dim="t")


def replace_for_ever(folder: Path) -> None:
    version = 0
    while True:
        version += 1
        with suppress(FileBusyError, FileChangedError):
            replace(folder, version)


def crowd(folder: Path, *, seconds: float, threads: int, rounds: int, seed: int = 0) -> list[str]:
    """Let them all loose; what went wrong."""
    make(folder)
    spawn = multiprocessing.get_context("spawn")
    answers, until = spawn.Queue(), time.time() + seconds
    writers = {work: spawn.Process(target=work, args=(folder,)) for work in (append_for_ever, replace_for_ever)}
    for writer in writers.values():
        writer.start()
    reading = [
        multiprocessing.get_context(method).Process(
            target=readers, args=(folder, threads, rounds, until, seed + number, answers)
        )
        for number, method in enumerate(METHODS)
    ]
    for process in reading:
        process.start()
    rng, kills, problems = random.Random(seed), 0, list[str]()
    while alive := [process for process in reading if process.is_alive()]:
        alive[0].join(rng.uniform(0.2, 2.0))
        work = rng.choice(list(writers))
        if writers[work].is_alive():
            os.kill(writers[work].pid, signal.SIGKILL)
            kills += 1
        writers[work].join()
        if writers[work].exitcode not in (0, -signal.SIGKILL):
            problems.append(f"{work.__name__} ended with {writers[work].exitcode}")
            for process in (*reading, *writers.values()):
                process.kill()
            return problems
        writers[work] = spawn.Process(target=work, args=(folder,))
        writers[work].start()
        if answers.qsize() == len(reading):
            break
    reads = 0
    for _ in reading:
        found, count, before, after = answers.get(timeout=300)
        problems += found
        reads += count
        if after[0] > before[0] + 8 or after[1] > before[1] + 8:  # descriptors that are kept open, threads of the pool
            problems.append(f"descriptors, threads before {before[:2]}, after {after[:2]}")
        if after[2] > before[2] + 400 * 2**20:
            problems.append(f"{(after[2] - before[2]) >> 20} MiB more than before")
    for process in reading:
        process.join()
        if process.exitcode:
            problems.append(f"a process of readers ended with {process.exitcode}")
    for writer in writers.values():
        writer.kill()
        writer.join()
    read_growing(folder, rng)  # recovers what the last kill left
    read_replaced(folder, rng)
    replace(folder, -1)  # removes what the last kill left
    to_pytables(steps(0, 4), folder / "grows.h5", unlimited_dims=["t"])  # likewise: it may have been writing anew
    left = {path.name for path in folder.iterdir()} - {"still.h5", "plain.h5", "other.nc", "replaced.h5", "grows.h5"}
    if left:
        problems.append(f"left: {sorted(left)}")
    print(f"{reads} rounds of reading in {len(reading)} processes, {kills} kills of writers; {len(problems)} problems")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.crowd", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=32, help="of each process of readers")
    parser.add_argument("--rounds", type=int, default=8, help="of each thread at least")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        limits = {"seconds": 60 * options.minutes, "threads": options.threads, "rounds": options.rounds}
        problems = crowd(Path(folder), **limits, seed=options.seed)
    for problem in problems:
        print(problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
