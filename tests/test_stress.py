"""Many threads read one file while others use the HDF5 libraries of this process without our lock.

Ten seconds here; `XR_PYTABLES_STRESS_SECONDS=120 python -m pytest tests/test_stress.py` is the long run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .helpers_threads import WATCHDOG

SECONDS = float(os.environ.get("XR_PYTABLES_STRESS_SECONDS", "10"))

SCRIPT = """
    import faulthandler, random, sys, threading, time, warnings
    from pathlib import Path
    import h5py, netCDF4, numpy as np, tables, xarray as xr

    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    faulthandler.dump_traceback_later(seconds + 500, exit=True)  # the watchdog: shows where every thread hangs
    warnings.simplefilter("error")
    values = np.random.default_rng(0).integers(0, 1000, (120, 90)).astype("f8")
    path, other, plain = folder / "many.h5", folder / "other.nc", folder / "plain.h5"
    complibs = [None, "zlib", "bzip2", "blosc:lz4", "blosc:zstd", "blosc2:lz4", "blosc2:zstd"]
    for name in (path, plain):
        with tables.open_file(name, "w") as file:
            for number in range(50):
                complib = complibs[number % 7]
                filters = tables.Filters(1, complib, fletcher32=number % 2 == 1) if complib else None
                if number % 10 == 9:
                    file.create_array("/", f"x{number}", obj=values + number)
                else:
                    file.create_carray(
                        "/", f"x{number}", obj=values + number, chunkshape=(number % 13 + 5, 17), filters=filters
                    )
    with netCDF4.Dataset(other, "w") as file:
        file.createDimension("y", 120)
        file.createDimension("x", 90)
        file.createVariable("v", "f8", ("y", "x"), zlib=True)[:] = values
    end, problems, done = time.monotonic() + seconds, [], {}
    lazy = xr.open_dataset(path, engine="pytables", cache=False)

    def selection(random):
        kind = random.randrange(4)
        if kind == 0:
            return slice(None), slice(None)
        if kind == 1:
            return slice(random.randrange(60), 120, random.randrange(1, 5)), random.randrange(90)
        if kind == 2:
            return sorted(random.sample(range(120), 20)), slice(random.randrange(90), None)
        return random.randrange(120), random.randrange(90)

    def ours(random):
        number = random.randrange(50)
        key = selection(random)
        if random.randrange(20) == 0:
            with xr.open_dataset(path, engine="pytables", cache=False) as fresh:
                found = fresh[f"x{number}"][key].values
        else:
            found = lazy[f"x{number}"][key].values
        np.testing.assert_array_equal(found, (values + number)[key])

    def pytables(random):  # its own registry is not thread-safe: one thread
        number = random.randrange(50)
        with tables.open_file(plain) as file:
            np.testing.assert_array_equal(file.get_node(f"/x{number}")[:], values + number)

    def by_h5py(random):
        with h5py.File(other) as file:
            np.testing.assert_array_equal(file["v"][:], values)

    def by_netcdf4(random):
        with netCDF4.Dataset(other) as file:
            np.testing.assert_array_equal(file["v"][:], values)

    def repeated(work, seed):
        own, count = random.Random(seed), 0
        try:
            while (not count or time.monotonic() < end) and not problems:
                work(own)
                count += 1
        except BaseException as error:
            problems.append(f"{work.__name__}: {error!r}")
        done[seed] = (work.__name__, count)

    works = [ours] * 32 + [pytables, by_h5py, by_netcdf4]
    threads = [threading.Thread(target=repeated, args=(work, seed)) for seed, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    assert all(count for _, count in done.values()), done
    reads = sum(count for name, count in done.values() if name == "ours")
    print(reads, "reads, all equal;", *(f"{name} {count}" for name, count in done.values() if name != "ours"))
"""


@pytest.mark.slow
def test_many_threads_read_while_others_use_hdf5_without_our_lock(tmp_path: Path) -> None:
    script = tmp_path / "stress.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + WATCHDOG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


@pytest.mark.slow
def test_a_crowd_of_processes_reads_what_others_write() -> None:
    """By fork, spawn and forkserver, while writers are killed; `python -m tests.fuzz.crowd` is the long run."""
    command = [sys.executable, "-m", "tests.fuzz.crowd", "--minutes", "0", "--threads", "3", "--rounds", "4"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * WATCHDOG, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 0 problems" in done.stdout
