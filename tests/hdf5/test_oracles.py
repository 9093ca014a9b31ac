"""Every object, type, layout and attribute of many files, as libhdf5 has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tables

from ..helpers_reading import plain_file
from .helpers_corpus import VERSIONS, write_with_h5py, write_with_netcdf4, write_with_pandas, write_with_pytables
from .helpers_oracle import assert_same_file, opened

GOLDEN = sorted((Path(tables.__file__).parent / "tests").glob("*.h5"))
FLOATS = "float.h5"  # has types that h5py has no dtype for


@pytest.mark.parametrize("track_order", [False, True], ids=["by name", "tracked"])
@pytest.mark.parametrize("version", VERSIONS)
def test_files_of_each_version_of_the_format(tmp_path, version, track_order):
    write_with_h5py(tmp_path / "a.h5", version, track_order=track_order)
    assert assert_same_file(tmp_path / "a.h5") > 50


@pytest.mark.parametrize("version", ["earliest", "2.0"])
@pytest.mark.parametrize("userblock", [512, 4096])
def test_files_with_a_user_block(tmp_path, version, userblock):
    write_with_h5py(tmp_path / "a.h5", version, userblock=userblock)
    assert assert_same_file(tmp_path / "a.h5") > 50


@pytest.mark.parametrize("write", [write_with_pytables, write_with_pandas, write_with_netcdf4])
def test_files_of_other_writers(tmp_path, write):
    write(tmp_path / "a.h5")
    assert assert_same_file(tmp_path / "a.h5") > 5


@pytest.mark.parametrize("path", [path for path in GOLDEN if path.name != FLOATS], ids=lambda path: path.name)
def test_golden_files_of_pytables(path):
    assert assert_same_file(path) >= 1


def test_floats_wider_than_any_of_numpy():
    path = next(path for path in GOLDEN if path.name == FLOATS)
    with plain_file(path) as oracle, opened(path) as file:
        for leaf in oracle.walk_nodes("/", "Array"):
            info = file.dataset(file.resolve(leaf._v_pathname).address)
            assert info.shape == leaf.shape, leaf
            assert info.datatype.dtype is not None
