"""`obj.pytables.to_file` writes as `to_pytables` does."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xr_pytables
from xr_pytables.accessor import PyTablesAccessor, WriteOptions
from xr_pytables.writing.writer import to_pytables

DATA = xr.Dataset({"a": ("x", np.arange(3.0))}, attrs={"title": "kept"})


@pytest.mark.parametrize("obj", [DATA, DATA["a"], xr.DataTree.from_dict({"/": DATA, "/deep": DATA})], ids=type)
def test_each_object_is_written(obj: xr.Dataset | xr.DataArray | xr.DataTree, tmp_path: Path) -> None:
    assert obj.pytables.to_file(tmp_path / "method.h5") is None
    to_pytables(obj, tmp_path / "function.h5")
    assert xr_pytables.diff(tmp_path / "method.h5", tmp_path / "function.h5") == ()
    assert xr_pytables.tree(tmp_path / "method.h5").groups[0].arrays[0].name == "a"


def test_mode_may_be_positional_and_options_reach_the_writer(tmp_path: Path) -> None:
    DATA.pytables.to_file(tmp_path / "a.h5")
    DATA.pytables.to_file(tmp_path / "a.h5", "a", group="/g", encoding={"a": {"complib": "zlib"}})
    groups = {group.group: group for group in xr_pytables.tree(tmp_path / "a.h5").groups}
    assert groups["/g"].arrays[0].filters["complib"] == "zlib"
    with pytest.raises(FileExistsError):
        DATA.pytables.to_file(tmp_path / "a.h5", "w-")
    assert DATA.pytables.to_file(tmp_path / "b.h5", compute=False).compute() is None
    assert (tmp_path / "b.h5").exists()


def test_options_are_those_of_the_function() -> None:
    names = set(inspect.signature(to_pytables).parameters) - {"obj", "path", "mode"}
    assert set(WriteOptions.__annotations__) == names
    told = inspect.getdoc(PyTablesAccessor.to_file) or ""
    assert [name for name in names if f"`{name}`" not in told] == []


@pytest.mark.parametrize(
    "code",
    [
        "import xarray, xr_pytables",
        "import xr_pytables, xarray; xarray.backends.list_engines()",
        "import xarray; xarray.backends.list_engines()",
        "import xr_pytables.accessor, xarray",
    ],
)
def test_the_accessor_is_there(code: str) -> None:
    subprocess.run([sys.executable, "-c", f"{code}; xarray.Dataset().pytables"], check=True)


def test_the_package_alone_does_not_import_xarray() -> None:
    subprocess.run([sys.executable, "-c", "import sys, xr_pytables; assert 'xarray' not in sys.modules"], check=True)
