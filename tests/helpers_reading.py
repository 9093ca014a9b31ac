"""What the tests of the reading side share: opening through the engine, plain PyTables as oracle, child processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables.hdf5.dataset import DatasetInfo
from xr_pytables.hdf5.file import File
from xr_pytables.sources.local import LocalFile

from .helpers_threads import WATCHDOG


@contextlib.contextmanager
def plain_file(path: object, mode: str = "r", **kwargs: object) -> Iterator[tables.File]:
    """`path` opened by plain PyTables, whose warnings (names, types it lacks) are not the subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tables.open_file(str(path), mode, **kwargs) as file:
            yield file


def described(leaf: tables.Leaf) -> DatasetInfo:
    """What the header of a leaf of an open file says."""
    leaf._v_file.flush()
    with open(leaf._v_file.filename, "rb") as raw:
        return File(LocalFile(raw.fileno(), leaf._v_file.filename)).dataset(leaf._get_obj_info().addr)


def open_raw(path: object, **kwargs: object) -> xr.Dataset:
    """The dataset as stored: nothing of CF decoded."""
    return xr.open_dataset(path, engine="pytables", decode_cf=False, **kwargs)


def open_quietly(path: object, **kwargs: object) -> xr.Dataset:
    """The dataset, where warnings are not the subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_dataset(path, engine="pytables", **kwargs)


def assert_same(actual: object, expected: object) -> None:
    """Equal values (NaN to NaN), dtype and shape; byte order aside, which the engine makes native."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(actual, expected)


def column_of(rows: np.ndarray, name: str) -> np.ndarray:
    """A column of a table, by its name with a dot for each level."""
    for part in name.split("."):
        rows = rows[part]
    return rows


def run_python(code: str, *args: object, timeout: float = WATCHDOG, options: tuple[str, ...] = ()) -> str:
    """What `code` prints, run in an interpreter of its own: a crash or a hang fails the test, not the session."""
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert not done.stderr, done.stderr[-4000:]
    return done.stdout


needs_users = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="acts as other users")
USERS = (1001, 1002)


def as_user(user: int, code: str) -> str:
    """What `code` prints, run as another user."""
    return run_python(_AS_ANOTHER_USER + textwrap.dedent(code), user)


# everything is imported before: the other user may not be able to read the interpreter's folder
_AS_ANOTHER_USER = """
import os, sys, warnings
import dask.array, h5py, netCDF4, numpy as np, tables, xarray as xr
import xr_pytables.backend, xr_pytables.listing, xr_pytables.disk.journal
from xr_pytables import recover, to_pytables, tree
xr.backends.list_engines()
warnings.simplefilter("error")
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
"""
