"""Fixtures for all tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr


@pytest.fixture(autouse=True)
def unclosed_files_are_no_warning() -> Iterator[None]:
    """Importing xarray's own tests turns this warning on for the whole process."""
    with xr.set_options(warn_for_unclosed_files=False):
        yield


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder in which every user may make files and remove their own; pytest keeps its folders to itself."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)
