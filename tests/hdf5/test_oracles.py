"""Every object, type, layout and attribute of many files, as libhdf5 has them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tables

from xr_pytables.hdf5.attributes import Reference
from xr_pytables.hdf5.object_header import ATTRIBUTE, DATASPACE, DATATYPE, FILL_VALUE, FILTER_PIPELINE

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


@pytest.mark.parametrize("version", [1, 2])
def test_messages_that_objects_share(version):
    path = Path(__file__).parent / "data" / f"shared_messages_v{version}.h5"
    with opened(path) as file:
        shared = [
            kind
            for link in file.links(file.root)
            for kind, is_shared, _ in file.header(link.address).messages
            if is_shared
        ]
    assert {DATATYPE, FILL_VALUE, FILTER_PIPELINE, DATASPACE, ATTRIBUTE} <= set(shared)
    assert assert_same_file(path) == 5


def test_revised_references_to_objects():
    with opened(Path(__file__).parent / "data" / "revised_references.h5") as file:
        found = file.attributes(file.root)["refs"]
        assert found.datatype.kind == "reference"
        assert found.value == [[Reference(file.resolve("/g").address)], [Reference(file.root)]]


def test_of_two_messages_of_a_type_the_first_counts(tmp_path):
    """An attribute whose message says that it is a dataspace: of no dimension, as its bytes are read so."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("a", data=np.arange(12.0).reshape(3, 4)).attrs["units"] = "K"
    data = bytearray(path.read_bytes())
    message = data.index(b"units\0") - 8 - 8  # its head, and that of the attribute: version, sizes of three parts
    assert data[message] == ATTRIBUTE
    data[message] = DATASPACE
    path.write_bytes(data)
    with h5py.File(path) as file, opened(path) as ours:
        assert ours.dataset(ours.resolve("/a").address).shape == file["a"].shape == (3, 4)
