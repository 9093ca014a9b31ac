"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import xarray as xr

from .helpers_properties import use_profile

use_profile()


@pytest.fixture(autouse=True)
def unclosed_files_are_no_warning() -> Iterator[None]:
    """Importing xarray's own tests turns this warning on for the whole process."""
    with xr.set_options(warn_for_unclosed_files=False):
        yield
