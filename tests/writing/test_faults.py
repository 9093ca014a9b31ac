"""Workers and clients that die, freeze or do not see the files: each file is the old or the new one, nothing is left.

Faults come at chosen moments here; `python -m tests.fuzz.kills` kills at any.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xr_pytables import to_pytables
from xr_pytables.disk import journal
from xr_pytables.disk.transaction import Transaction
from xr_pytables.writing import targets
from xr_pytables.writing.blocks import BlockTarget

from ..fuzz import kills
from ..helpers_threads import WATCHDOG

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # distributed needs it
pytestmark = [
    pytest.mark.slow,
    # on a busy machine a cluster that lost a worker closes late, and says so
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with kills.cluster() as client:
        yield client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "file.h5"
    path.parent.mkdir()
    to_pytables(xr.Dataset(attrs={"number": "old"}), path)
    return path


def once(marker: str) -> bool:
    """Whether nobody was here before, in any process."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WATCHDOG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def check_new(path: Path, number: int) -> None:
    assert kills.found(str(path)) == number
    assert kills.left_over(str(path)) == []


def check_old(path: Path) -> None:
    assert xr.open_dataset(path, engine="pytables").attrs == {"number": "old"}
    assert kills.left_over(str(path)) == []


REAL: dict[tuple[str, str], Any] = {}
"""In a worker: the functions that are replaced."""


def replaced(where: Any, name: str, made: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """In a worker: put a function in another's place."""
    REAL.setdefault((where, name), getattr(where, name))
    setattr(where, name, made(REAL[where, name]))


def put_back() -> None:
    for (where, name), real in REAL.items():
        setattr(where, name, real)


def dying(when: str, marker: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The process is killed before or after the function, the first time that it is called in any."""

    def made(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: object, **words: object) -> object:
            if when == "before" and once(marker):
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **words)
            if when == "after" and once(marker):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    return made


MOMENTS = {
    "in the middle of a block": (targets, "write_in_a_row", "after", 1),
    "when a block is stored": (targets.SharedNotes, "add", "after", 2),
    "before the commit": (Transaction, "mark_commit", "after", 2),
    "after the commit": (Transaction, "commit", "after", 2),
    "when all is done": (Transaction, "run_last", "after", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_is_killed_does_no_harm(client, path, tmp_path, moment):
    """Its results are lost, too: blocks that were stored come again, even in the middle of the last step."""
    where, name, when, number = MOMENTS[moment]
    marker = str(tmp_path / "marker")
    kills.processes(client)  # both answer
    client.run(replaced, where, name, dying(when, marker))
    try:
        kills.write(str(path), number)
    finally:
        client.run(put_back, on_error="ignore")
    assert os.path.exists(marker)
    check_new(path, number)


def has_woken(folder: str) -> bool:
    """Whether the frozen process has written its block, or is gone: it ends when it hears that it was forgotten."""
    try:
        os.kill(int(Path(f"{folder}/frozen").read_text()), 0)
    except ProcessLookupError:
        return True
    return os.path.exists(f"{folder}/thawed")


def freezing(folder: str, second_waits: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The process stops itself in the first block; the second time that the block is written may wait for the first."""

    def made(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: Any, start: Any, values: Any) -> None:
            if start[0]:
                real(self, start, values)
            elif once(f"{folder}/begun"):
                Path(f"{folder}/frozen.new").write_text(str(os.getpid()))
                os.rename(f"{folder}/frozen.new", f"{folder}/frozen")
                os.kill(os.getpid(), signal.SIGSTOP)
                try:
                    real(self, start, values)
                finally:
                    once(f"{folder}/thawed")
            else:
                if second_waits:
                    wait_for(lambda: has_woken(folder))
                real(self, start, values)

        return called

    return made


def append(path: Path) -> None:
    """What is in the file becomes versions 1 and 2, one behind the other."""
    to_pytables(kills.dataset(1), path, encoding=kills.ENCODING, unlimited_dims=["t"])
    to_pytables(kills.dataset(2), path, append_dim="t", compute=False).compute()


def check_appended(path: Path) -> None:
    with xr.open_dataset(path, engine="pytables") as found:
        np.testing.assert_array_equal(found.v.values, np.concatenate([kills.version(1), kills.version(2)]))
    assert kills.left_over(str(path)) == []


@pytest.mark.parametrize("moment", ["after the commit", "when all is done"])
def test_a_worker_that_is_killed_when_rows_are_appended_does_no_harm(client, path, tmp_path, moment):
    """The blocks that it had stored come again, and the step that has appended them, in another worker."""
    where, name = (journal.Journal, "commit") if moment == "after the commit" else (Transaction, "run_last")
    marker = str(tmp_path / "marker")
    kills.processes(client)  # both answer
    client.run(replaced, where, name, dying("after", marker))
    try:
        append(path)
    finally:
        client.run(put_back, on_error="ignore")
    assert os.path.exists(marker)
    check_appended(path)


TWICE = {
    "at once": (targets.ArenaTarget, "write", lambda path: kills.write(str(path), 1), lambda path: check_new(path, 1)),
    "by a graph": (
        targets.ArenaTarget,
        "write",
        lambda path: kills.write(str(path), 2),
        lambda path: check_new(path, 2),
    ),
    "appended": (BlockTarget, "_write", append, check_appended),
}


@pytest.mark.parametrize("how", TWICE)
@pytest.mark.parametrize("wakes", ["while others write", "after the commit"])
def test_a_worker_that_was_frozen_and_wakes_up_does_no_harm(path, tmp_path, wakes, how):
    """The scheduler takes it for dead, so that its block is written twice, by two processes."""
    folder, early = str(tmp_path), wakes == "while others write"
    where, name, write, check = TWICE[how]
    with kills.cluster() as client, ThreadPoolExecutor(1) as pool:
        addresses = {process: address for address, process in kills.processes(client).items()}
        client.run(replaced, where, name, freezing(folder, early))
        job = pool.submit(write, path)
        wait_for(lambda: os.path.exists(f"{folder}/frozen"))
        frozen = int(Path(f"{folder}/frozen").read_text())
        wait_for(lambda: psutil.Process(frozen).status() == psutil.STATUS_STOPPED)  # it has said that it will be
        try:
            client.run_on_scheduler(forget, addresses[frozen])
            if early:
                os.kill(frozen, signal.SIGCONT)
            job.result()
            content = path.read_bytes()
        finally:
            with contextlib.suppress(ProcessLookupError):  # it ends when it hears that it was forgotten
                os.kill(frozen, signal.SIGCONT)
        wait_for(lambda: has_woken(folder))
        check(path)
        assert path.read_bytes() == content


async def forget(address: str, dask_scheduler: Any = None) -> None:
    """In the scheduler: take a worker for dead."""
    await dask_scheduler.remove_worker(address, stimulus_id="test", close=False)


def test_a_job_of_which_workers_die_again_and_again_leaves_the_old_file(path):
    from distributed import KilledWorker

    with kills.cluster(**{"distributed.scheduler.allowed-failures": 0}) as client:
        client.run(replaced, targets, "write_in_a_row", lambda real: lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(KilledWorker):
            kills.write(str(path), 1)
    check_old(path)


def test_tasks_that_fail_are_tried_again(client, path, tmp_path):
    folder = str(tmp_path)

    def fails_once(values: np.ndarray, block_info: Any = None) -> np.ndarray:
        if once(f"{folder}/{block_info[0]['chunk-location'][0]}"):
            raise ArithmeticError
        return values

    whole = kills.dataset(2)
    made = whole.assign(v=whole.v.copy(data=whole.v.data.map_blocks(fails_once, dtype="f8", meta=np.empty((0, 0)))))
    to_pytables(made, path, encoding=kills.ENCODING, compute=False).compute(retries=3)
    check_new(path, 2)


def limit_files(nbytes: int) -> None:
    """In a worker: no file may be longer. As a full disk, but without the need to fill one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("number", [1, 2])
def test_a_disk_that_is_full_for_workers_leaves_the_old_file(client, path, number):
    kills.processes(client)  # both answer
    client.run(limit_files, 300_000)
    try:
        with pytest.raises(OSError, match=r"file\.h5: File too large. The file was left as it was"):
            kills.write(str(path), number)
    finally:
        client.run(limit_files, resource.RLIM_INFINITY)
    assert xr.open_dataset(path, engine="pytables").attrs == {"number": "old"}
    kills.write(str(path), 1)
    check_new(path, 1)


def blind(folder: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function of `os` for a machine on which a folder is not mounted."""

    def made(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **words: Any) -> Any:
            if isinstance(path, str) and path.startswith(folder):
                raise FileNotFoundError(2, "No such file or directory", path)
            return real(path, *args, **words)

        return called

    return made


def test_a_worker_that_does_not_see_the_folder_is_named(client, path):
    worker, process = next(iter(kills.processes(client).items()))
    for name in ("open", "stat"):
        client.run(replaced, os, name, blind(str(path.parent)), workers=[worker])
    try:
        with pytest.raises(
            FileNotFoundError,
            match=rf"file\.h5: process {process} on .* does not see the folder .*Every worker must see the folder",
        ):
            kills.write(str(path), 1)
    finally:
        client.run(put_back, on_error="ignore")
    check_old(path)


@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_client_leaves_the_old_file_and_the_next_write_removes_the_rest(path, number):
    code = f"from tests.fuzz import kills; kills.client({str(path)!r}, {number})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=kills.ROOT, start_new_session=True
    ) as process:
        wait_for(lambda: any(name.endswith(".seg") for _, _, names in os.walk(path.parent) for name in names))
        process.kill()
    kills.wait_for_group(process.pid)
    assert kills.left_over(str(path)) != []
    assert xr.open_dataset(path, engine="pytables").attrs == {"number": "old"}
    to_pytables(xr.Dataset(attrs={"number": "old"}), path)
    check_old(path)
