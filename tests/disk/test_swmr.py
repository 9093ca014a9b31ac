"""Files that an HDF5 writer keeps open in SWMR mode, living or killed: they read as of its last flush."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import h5py
import numpy as np
import pytest
import xarray as xr

from xr_pytables import FileBusyError, FileChangedError, to_pytables

WRITER = """
    import sys, h5py, numpy as np
    with h5py.File(sys.argv[1], "w", libver="latest") as file:
        data = file.create_dataset("a", shape=(0, 3), maxshape=(None, 3), chunks=(4, 3), dtype="f8", fletcher32=True)
        fixed = file.create_dataset("fixed", data=np.arange(5))
        fixed.attrs["units"] = "K"
        file.swmr_mode = True
        print("ready", flush=True)
        for line in sys.stdin:
            rows = int(line)
            data.resize(rows, 0)
            data[:] = np.arange(3.0 * rows).reshape(rows, 3)
            data.flush()
            print("flushed", flush=True)
"""


@contextmanager
def writer(path: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A process that writes as many rows as it is told, and says so when they are flushed."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process, process.stdin, process.stdout
        finally:
            process.kill()


def write(rows: int, to: IO[str], answer: IO[str]) -> None:
    print(rows, file=to, flush=True)
    assert answer.readline() == "flushed\n"


def expected(rows: int) -> np.ndarray:
    return np.arange(3.0 * rows).reshape(rows, 3)


def test_a_living_writer(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as (_, to, answer):
        with xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds:
            assert (ds["a"].shape, ds["fixed"].values.tolist()) == ((0, 3), [0, 1, 2, 3, 4])
        for rows in (1, 4, 5, 300):  # within a chunk, a whole one, more, many (the index grows in all of its parts)
            write(rows, to, answer)
            with xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds:
                np.testing.assert_array_equal(ds["a"].values, expected(rows))
                assert ds["fixed"].attrs == {"units": "K"}


def test_a_lazy_array_goes_on_or_says_that_the_file_changed(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as (_, to, answer):
        write(8, to, answer)
        with xr.open_dataset(tmp_path / "a.h5", engine="pytables", cache=False) as ds:
            write(400, to, answer)
            try:
                np.testing.assert_array_equal(ds["a"].values, expected(8))
            except FileChangedError as error:
                assert "a.h5" in str(error)  # noqa: PT017


def test_a_killed_writer(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as (process, to, answer):
        write(9, to, answer)
        process.kill()
        process.wait()
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables", chunks={}) as ds:
        np.testing.assert_array_equal(ds["a"].values, expected(9))


def test_what_was_not_flushed_is_an_error_or_not_there(tmp_path: Path) -> None:
    """Rows without a flush: HDF5 may have put some of its structures to the disk, and others not."""
    code = """
        import os, sys, h5py, numpy as np
        with h5py.File(sys.argv[1], "w", libver="latest") as file:
            data = file.create_dataset("a", shape=(0,), maxshape=(None,), chunks=(10,), dtype="f8")
            file.swmr_mode = True
            data.resize(20, 0)
            data[:] = 1.0
            data.flush()
            data.resize(5000, 0)
            data[:] = 1.0
            os._exit(1)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.h5")], check=False)
    try:
        with xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds:
            values = ds["a"].values
    except OSError as error:
        assert "a.h5" in str(error)  # noqa: PT017
        return
    assert len(values) >= 20
    assert (values[:20] == 1.0).all()
    assert set(values.tolist()) <= {0.0, 1.0}  # what has its length and not its chunk has the fill value


def test_beside_another_reader_in_swmr_mode(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as (_, to, answer):
        write(6, to, answer)
        with (
            h5py.File(tmp_path / "a.h5", "r", libver="latest", swmr=True) as other,
            xr.open_dataset(tmp_path / "a.h5", engine="pytables") as ds,
        ):
            np.testing.assert_array_equal(ds["a"].values, other["a"][:])
    assert os.listdir(tmp_path) == ["a.h5"]


def test_a_file_that_such_a_writer_has_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    more = xr.Dataset({"more": 1})
    with writer(path) as (process, to, answer):
        write(5, to, answer)
        for mode in ("a", "r+"):
            with pytest.raises(FileBusyError, match=r"file\.h5: another program has this file open for writing"):
                to_pytables(more, path, mode=mode)
        write(6, to, answer)
        process.kill()
        process.wait()
        with pytest.raises(FileBusyError, match="h5clear -s"):
            to_pytables(more, path, mode="a")
    with xr.open_dataset(path, engine="pytables") as ds:
        np.testing.assert_array_equal(ds["a"].values, expected(6))
    assert os.listdir(tmp_path) == ["file.h5"]
