"""References, links and scales of other programs, in files of which arrays are replaced or made anew."""

from __future__ import annotations

import ctypes
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from xr_pytables import to_pytables, verify
from xr_pytables.library import libhdf5 as h5
from xr_pytables.writing import changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def make(path: Path, **how: object) -> None:
    """An array that cannot grow, its scales, and references to both of every kind that h5py writes."""
    with h5py.File(path, "w", **how) as file:  # type: ignore[arg-type]
        array = file.create_dataset("v", data=np.arange(6.0).reshape(3, 2))
        for axis, name in enumerate("tx"):
            file[name] = np.arange(array.shape[axis])
            file[f"{name}_too"] = np.arange(array.shape[axis]) / 2
            for scale in (name, f"{name}_too"):
                file[scale].make_scale(scale)
                array.dims[axis].attach_scale(file[scale])
        other = file.create_group("other")
        row = np.dtype([("number", "i4"), ("to", h5py.ref_dtype)])
        references = [array.ref, file["t"].ref, other.ref]
        other["plain"] = np.array(references, h5py.ref_dtype)
        chunked = other.create_dataset("chunked", (7,), h5py.ref_dtype, chunks=(2,), compression="gzip")
        chunked[1:4] = np.array(references, h5py.ref_dtype)
        other["rows"] = np.array([(5, array.ref), (6, h5py.Reference())], row)
        ragged = other.create_dataset("ragged", (2,), h5py.vlen_dtype(h5py.ref_dtype))
        ragged[1] = np.array(references, h5py.ref_dtype)
        other.attrs["one"] = array.ref
        other.attrs["rows"] = np.array([(7, array.ref)], row)


PIECE = xr.Dataset({"v": (("t", "x"), [[8.0, 9.0]])}, coords={"t": [3], "x": [0, 1]})


@pytest.mark.filterwarnings("ignore:.*(not shown|not read)")
@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
@pytest.mark.parametrize("how", [{}, {"libver": "v110"}, {"userblock_size": 512}], ids=str)
@pytest.mark.parametrize("mode", ["append", "replace"])
def test_references_lead_to_arrays_that_are_made_anew(path, how, mode, in_place, monkeypatch):
    if in_place:
        monkeypatch.setattr(changes, "SMALL_FILE", 0)
        monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    make(path, **how)
    if mode == "append":
        to_pytables(PIECE, path, append_dim="t")
        expected = [*range(6), 8, 9]
    else:
        encoding = {"v": {"dtype": "i2"}, "t": {"dtype": "i2"}}
        whole = xr.Dataset({"v": (("t", "x"), np.ones((3, 2)))}, coords={"t": [7, 8, 9]})
        to_pytables(whole, path, mode="a", encoding=encoding)
        expected = [1] * 6
    with h5py.File(path) as file:
        assert file["v"][:].reshape(-1).tolist() == expected
        to = [file["v"], file["t"], file["other"]]
        assert [file[each] for each in file["other/plain"]] == to
        assert [file[each] if each else None for each in file["other/chunked"]] == [None, *to, None, None, None]
        assert [file[each] for each in file["other/ragged"][1]] == to
        rows = file["other/rows"]
        assert (rows["number"].tolist(), file[rows[0]["to"]], bool(rows[1]["to"])) == ([5, 6], file["v"], False)
        assert file[file["other"].attrs["one"]] == file["v"]
        assert file[file["other"].attrs["rows"][0]["to"]] == file["v"]
        scales = [[scale.name for scale in dim.values()] for dim in file["v"].dims]
        assert scales == ([["/t", "/t_too"], ["/x", "/x_too"]] if mode == "append" else [["/t"], ["/x"]])
        assert [file[each] for each, _ in file["x_too"].attrs["REFERENCE_LIST"]] == [file["v"]]
    assert verify(path).sound


def test_an_array_keeps_all_scales_of_a_dimension_whose_coordinate_is_made_anew(path):
    make(path)
    to_pytables(xr.Dataset(coords={"x": [5.5, 6.5]}), path, mode="a")
    with h5py.File(path) as file:
        assert [[scale.name for scale in dim.values()] for dim in file["v"].dims] == [
            ["/t", "/t_too"],
            ["/x", "/x_too"],
        ]
        assert file["v"].dims[1]["x_too"][:].tolist() == [0.0, 0.5]
        assert file["x"][:].tolist() == [5.5, 6.5]


def test_an_array_that_gets_other_dimensions_gives_up_the_scales_of_those_it_had(path):
    make(path)
    to_pytables(xr.Dataset({"v": (("a", "b"), np.ones((3, 2)))}), path, mode="a")
    with h5py.File(path) as file:
        assert [[scale.name for scale in dim.values()] for dim in file["v"].dims] == [["/a"], ["/b"]]


@pytest.mark.filterwarnings("ignore:.*(not shown|not read)")
def test_an_array_that_a_reference_to_a_region_leads_to_is_not_made_anew(path):
    make(path)
    with h5py.File(path, "r+") as file:
        file["region"] = np.array([file["v"].regionref[1:, :1], file["x"].regionref[:1]], h5py.regionref_dtype)
        file["x"].attrs["region"] = file["x"].regionref[:1]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"file\.h5:/region: a reference to a region of '/v' would be lost"):
        to_pytables(PIECE, path, append_dim="t")
    assert path.read_bytes() == before
    to_pytables(xr.Dataset(coords={"t": [4.5, 5.5, 6.5]}), path, mode="a")  # no region of that
    with h5py.File(path) as file:
        assert file["t"][:].tolist() == [4.5, 5.5, 6.5]
        first, second = file["region"]
        assert file[first][first].tolist() == [[2.0], [4.0]]
        assert file[second] == file["x"]


def test_arrays_of_several_names_grow_where_they_can(path):
    with h5py.File(path, "w") as file:
        file["g/t"] = np.arange(2)
        file["g/t"].make_scale("t")
        for name, limit in {"grows": None, "cannot": 2}.items():
            array = file.create_dataset(f"{name}/v", data=[1.0, 2.0], maxshape=(limit,))
            array.dims[0].label = "t"
            file[f"{name}/same"] = array
            file[f"by/{name}"] = array
    piece = xr.Dataset({"v": ("t", [3.0])})
    to_pytables(piece, path, append_dim="t", group="grows")
    with h5py.File(path) as file:
        assert [file[name][:].tolist() for name in ("grows/v", "grows/same", "by/grows")] == [[1, 2, 3]] * 3
        assert file["grows/v"] == file["grows/same"] == file["by/grows"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"/cannot/v: the array cannot grow .* is another name of it \(a hard link\)"):
        to_pytables(piece, path, append_dim="t", group="cannot")
    assert path.read_bytes() == before


def test_references_to_an_array_that_lives_on_under_another_name_stay(path):
    with h5py.File(path, "w") as file:
        file["v"] = file["other"] = file.create_dataset("w", data=[1.0, 2.0])
        file["to"] = np.array([file["v"].ref], h5py.ref_dtype)
    to_pytables(xr.Dataset({"v": ("t", [5, 6, 7])}), path, mode="a")
    with h5py.File(path) as file:
        assert file["v"][:].tolist() == [5, 6, 7]
        assert file[file["to"][0]] == file["other"] == file["w"]
        assert file["w"][:].tolist() == [1.0, 2.0]


def test_references_to_an_array_that_is_replaced_under_all_of_its_names_lead_to_a_new_one(path):
    with h5py.File(path, "w", libver="latest") as file:  # headers so small that no new one fits in their place
        file["v"] = file["w"] = file.create_dataset("u", data=[1.0, 2.0])
        del file["u"]
        file.attrs["to"] = file["v"].ref
    to_pytables(xr.Dataset({"v": ("x", [3.0, 4.0, 5.0]), "w": ("y", [6.0])}), path, mode="a")
    with h5py.File(path) as file:
        assert file[file.attrs["to"]] in (file["v"], file["w"])
        assert (file["v"][:].tolist(), file["w"][:].tolist()) == ([3, 4, 5], [6])


@pytest.mark.filterwarnings("ignore:.*(not shown|not read)")
def test_references_that_lead_elsewhere_may_be_such_as_hdf5_cannot_change(path):
    """In the way of filters that the HDF5 of PyTables has not, or of the kind that HDF5 1.12 brought."""
    pytest.importorskip("imagecodecs")
    with h5py.File(path, "w") as file:
        file["v"], file["other"] = np.arange(3.0), np.arange(2.0)
        to = file.create_dataset("to", (2,), h5py.ref_dtype, chunks=(2,), compression="lzf", shuffle=True)
        to[:] = np.array([file["other"].ref, h5py.Reference()], h5py.ref_dtype)
    to_pytables(xr.Dataset({"v": ("new", [5.0, 6.0])}), path, mode="a")
    with h5py.File(path) as file:
        assert file["v"][:].tolist() == [5, 6]
        assert file[file["to"][0]] == file["other"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"file\.h5:/to: nobody can tell whether references in it lead to '/other'"):
        to_pytables(xr.Dataset({"other": ("newer", [7.0])}), path, mode="a")
    assert path.read_bytes() == before


def write_revised(path: Path, name: str, to: str) -> None:
    """A dataset of one reference of the kind that HDF5 1.12 brought, which h5py cannot write."""
    reference, kind = (ctypes.c_uint8 * 64)(), h5.constant("H5T_STD_REF_g")
    library = h5._libraries()[0]
    with (
        h5.opened("H5Fopen", str(path).encode(), 1, h5.DEFAULT) as file,
        h5.simple_space((1,)) as space,
        h5.opened("H5Dcreate2", file, name.encode(), kind, space, h5.DEFAULT, h5.DEFAULT, h5.DEFAULT) as created,
    ):
        assert library.H5Rcreate_object(ctypes.c_int64(file), to.encode(), ctypes.c_int64(h5.DEFAULT), reference) == 0
        h5.call("H5Dwrite", created, kind, space, space, h5.DEFAULT, ctypes.addressof(reference))
        assert library.H5Rdestroy(reference) == 0


@pytest.mark.filterwarnings("ignore:.*(not shown|not read)")
def test_references_of_the_kind_that_hdf5_1_12_brought_stop_only_what_they_lead_to(path):
    with h5py.File(path, "w") as file:
        file["v"], file["other"] = np.arange(3.0), np.arange(2.0)
    write_revised(path, "to", "/other")
    to_pytables(xr.Dataset({"v": ("new", [5.0, 6.0])}), path, mode="a")
    with h5py.File(path) as file:
        assert file["v"][:].tolist() == [5, 6]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"file\.h5:/to: references of the kind that HDF5 1\.12 brought"):
        to_pytables(xr.Dataset({"other": ("newer", [7.0])}), path, mode="a")
    assert path.read_bytes() == before
