"""Warnings point at the line of the user's program."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables import to_pytables
from xr_pytables.sources.warning import warn


def line_of(call: Callable[[], object]) -> tuple[str, int]:
    """Where the one warning of a call points to."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert len(caught) == 1
    return caught[0].filename, caught[0].lineno


def here(offset: int = 0) -> tuple[str, int]:
    return __file__, sys._getframe(1).f_lineno + offset


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    path = tmp_path / "odd.h5"
    with tables.open_file(path, "w") as file:
        array = file.create_array("/", "a", np.arange(3.0))
        array.attrs.scale_factor = np.array([1.0, 2.0])  # which xarray refuses
        table = file.create_table("/", "t", np.zeros(3, [("x", "f8")]))
        table.attrs.nothing = 0
        objects = file.create_vlarray("/", "objects", tables.ObjectAtom())
        objects.append(np.random.default_rng(0))  # no plain data
    return path


def test_of_opening_a_file(odd: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        xr.open_dataset(odd, engine="pytables", decode_times=False)
        xr.open_datatree(odd, engine="pytables")
        xr.open_mfdataset([odd], engine="pytables", drop_variables="objects")
    found = {(warning.filename, warning.lineno) for warning in caught}
    assert {filename for filename, _ in found} == {__file__}
    assert {line for _, line in found} == {here()[1] - offset for offset in (3, 4, 5)}


def test_of_reading(odd: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = xr.open_dataset(odd, engine="pytables")["objects"]
    assert line_of(lambda: lazy.load()) == here()


def test_of_writing(tmp_path: Path) -> None:
    half = xr.Dataset({"v": ("x", np.ones(3, "f2"))})
    assert line_of(lambda: to_pytables(half, tmp_path / "half.h5")) == here()


def test_of_a_thread_that_no_line_of_the_user_started() -> None:
    """The innermost frames are those of libraries: the warning is told nevertheless."""
    task = dask.delayed(warn)("told")
    with pytest.warns(UserWarning, match="told"):
        task.compute(scheduler="threads")


def test_frames_of_libraries_are_passed_by() -> None:
    library = types.ModuleType("xarray.backends.invented")
    exec("def call(function):\n    return function('told')\n", library.__dict__)
    user = types.ModuleType("somebody")
    exec("def call(function):\n    return function('told')\n", user.__dict__)
    assert line_of(lambda: library.call(warn)) == here()
    assert line_of(lambda: library.call(lambda text: user.call(warn))) == ("<string>", 2)
