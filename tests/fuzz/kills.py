"""`python -m tests.fuzz.kills`: workers and clients of `dask.distributed` are killed, at any moment, while they write.

Each job writes 24 blocks over an old file. A worker that is killed must do no harm: its nanny starts another, and the
file is right. When the client is killed, the old file must be there or the whole new one, and the next write must
remove what was left. Jobs write at once and by graphs of `compute=False`, in turns. Told is also how long the jobs
took: what waits for a lock of somebody dead takes half a minute and more.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr

from xr_pytables import to_pytables

BLOCKS, ROWS = 24, 4000
QUIET = {
    "distributed.admin.log-format": "",
    "distributed.scheduler.allowed-failures": 50,
    "distributed.deploy.lost-worker-timeout": "600s",  # on a busy machine one starts late, and would be given up
    "distributed.comm.timeouts.connect": "300s",
    "distributed.comm.timeouts.tcp": "300s",
    "logging.distributed": "critical",
}
ENCODING = {"v": {"complib": "blosc:lz4", "chunksizes": (ROWS // 4, 30)}}


@contextlib.contextmanager
def cluster(**config: object) -> Iterator[Any]:
    """A client of two workers, each a process with one thread that is started again when it dies."""
    import distributed

    with (
        dask.config.set({**QUIET, **config}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=100
        ) as made,
        distributed.Client(made) as client,
    ):
        yield client


def version(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(BLOCKS * ROWS, 30)).round(1)


def dataset(number: int) -> xr.Dataset:
    """Computed by the workers: nothing of it goes through the client."""
    made = dask.array.map_blocks(_block, number, chunks=((ROWS,) * BLOCKS, (30,)), dtype="f8", meta=np.empty((0, 0)))
    return xr.Dataset({"v": (("t", "x"), made)}, attrs={"number": number})


def _block(number: int, block_info: Any = None) -> np.ndarray:
    first = block_info[None]["array-location"][0][0]
    return version(number)[first : first + ROWS]


def write(path: str, number: int) -> None:
    """At once or by a graph."""
    if number % 2:
        to_pytables(dataset(number), path, encoding=ENCODING, fsync=False)
    else:
        to_pytables(dataset(number), path, encoding=ENCODING, fsync=False, compute=False).compute()


def found(path: str) -> int:
    """The version that is in the file. Raises AssertionError if it is none."""
    with xr.open_dataset(path, engine="pytables") as opened:
        number = int(opened.attrs["number"])
        np.testing.assert_array_equal(opened.v.values, version(number))
    return number


def left_over(path: str) -> list[str]:
    return sorted(name for name in os.listdir(os.path.dirname(path)) if name != os.path.basename(path))


def kill_workers(path: str, kills: int, random: random.Random) -> tuple[list[str], list[float]]:
    """Write `kills` times, and kill a worker in each; what went wrong, and how long each took in seconds."""
    problems, taken, usual = [], list[float](), 1.0
    with cluster() as client:
        for number in range(kills + 2):
            one, pause = random.choice([*processes(client).values()]), random.uniform(0, usual)
            ends, start = threading.Event(), time.monotonic()
            killer = threading.Thread(target=_kill, args=(one, pause, ends))
            if number >= 2:  # before, it is seen how long a job takes
                killer.start()
            try:
                write(path, number)
                if found(path) != number:
                    problems.append(f"job {number}: the file is of job {found(path)}")
            except Exception as error:
                problems.append(f"job {number}: {error!r}")
            ends.set()
            if number >= 2:
                killer.join()
                taken.append(time.monotonic() - start)
            else:
                usual = time.monotonic() - start
            if left := left_over(path):
                problems.append(f"job {number}: left {left}")
    return problems, taken


def processes(client: Any) -> dict[str, int]:
    """The workers by address, when there are two. One that was killed is known for a while, and does not answer."""
    found: dict[str, int] = {}
    while len(found) < 2:
        client.wait_for_workers(2)
        found = client.run(os.getpid, on_error="ignore")
    return found


def _kill(process: int, pause: float, ends: threading.Event) -> None:
    if not ends.wait(pause):
        os.kill(process, signal.SIGKILL)


def client(path: str, number: int) -> None:
    """What runs in the process of a client."""
    with cluster():
        print("writes", flush=True)
        write(path, number)
        print("written", flush=True)


def kill_clients(path: str, kills: int, random: random.Random) -> list[str]:
    """Begin `kills` jobs, and kill the client, and with it scheduler and workers; what went wrong."""
    problems, usual, current = list[str](), 1.0, 0
    to_pytables(dataset(0), path, encoding=ENCODING, fsync=False)
    for number in range(1, kills + 3):
        code = f"from tests.fuzz import kills; kills.client({path!r}, {number})"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writes\n"
            start = time.monotonic()
            if number > 2:  # before, it is seen how long a job takes
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(random.uniform(0, usual))
                process.kill()
            is_written = "written" in process.stdout.readline()
            usual = time.monotonic() - start if number <= 2 else usual
        wait_for_group(process.pid)
        try:
            now = found(path)
            if now not in ((number,) if is_written else (current, number)):
                problems.append(f"client {number}: the file is of job {now}")
            current = now
        except Exception as error:
            problems.append(f"client {number}: {error!r}")
        to_pytables(xr.Dataset(attrs={"number": current}), path, mode="a")
        if left := left_over(path):
            problems.append(f"client {number}: left {left}")
    return problems


def wait_for_group(group: int) -> None:
    """Until all processes of a session have ended: workers do soon after their client."""
    with contextlib.suppress(ProcessLookupError):
        for _ in range(3000):
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)


ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--workers", type=int, default=20, help="how many are killed")
    parser.add_argument("--clients", type=int, default=20, help="how many are killed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    choose = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file.h5")
        problems, taken = kill_workers(path, options.workers, choose)
        slow = f", jobs took up to {max(taken):.1f} s, the median {statistics.median(taken):.1f} s" if taken else ""
        print(f"{options.workers} kills of workers{slow}; {len(problems)} problems", flush=True)
        others = kill_clients(path, options.clients, choose)
        print(f"{options.clients} kills of clients; {len(others)} problems")
    for problem in problems + others:
        print(problem)
    sys.exit(bool(problems + others))


if __name__ == "__main__":
    main()
