"""Fixtures for all tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import xarray as xr

from .helpers_properties import use_profile
from .helpers_threads import WATCHDOG

use_profile()

collect_ignore = ["fuzz/guided.py"]  # a program; what it imports is no dependency

# the tests start hundreds of interpreters, each of which would compile the package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Importing xarray's own tests turns this warning on for the whole process, between tests, too."""
    xr.set_options(warn_for_unclosed_files=False)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder in which every user may make files and remove their own; pytest keeps its folders to itself."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def clusters_have_time() -> Iterator[None]:
    """On a busy machine a worker of `distributed` is slow, not dead."""
    patience = f"{WATCHDOG:.0f}s"
    with dask.config.set({"distributed.comm.timeouts.connect": patience, "distributed.comm.timeouts.tcp": patience}):
        yield
