"""Files of MATLAB, deepdish, Keras, netCDF4 and h5netcdf: shown as those programs show them."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

import xr_pytables

from .helpers_reading import assert_same

DATA = Path(__file__).parent / "data"


# -- MATLAB ------------------------------------------------------------------------------------------------


def test_arrays_of_matlab_have_its_shape_and_values() -> None:
    with xr.open_dataset(DATA / "matlab.mat", engine="pytables") as ds:
        np.testing.assert_array_equal(ds["A"], [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]])
        assert ds["A"].dims == ("dim_2", "dim_3")
        assert ds["A"][1, 2].item() == 6
        np.testing.assert_array_equal(ds["A"][::-1, [2, 0]], [[6.0, 2.0], [5.0, 1.0]])
        rows, columns = xr.DataArray([0, 1, 1], dims="p"), xr.DataArray([2, 0, 2], dims="p")
        assert ds["A"][rows, columns].values.tolist() == [5.0, 2.0, 6.0]
        assert ds["v"].dtype == np.float32
        assert ds["v"].values.tolist() == [[1.5, 2.5, 3.5]]
        assert ds["s"].dtype == np.int8
        assert ds["s"].item() == -3
        assert ds["z"].values.tolist() == [[1 + 2j, 3 - 4j]]
        assert ds["t"].dtype == bool
        assert ds["t"].values.tolist() == [[True, False]]
        assert ds["nothing"].shape == (0, 0)
        assert ds["nothing"].dtype == np.float64
        assert ds["A"].attrs == {"MATLAB_class": "double"}


def test_dims_name_the_dimensions_in_matlabs_order() -> None:
    with xr.open_dataset(DATA / "matlab.mat", engine="pytables", dims={"A": ("y", "x")}, chunks={}) as ds:
        assert ds["A"].sizes == {"y": 2, "x": 3}
        np.testing.assert_array_equal(ds["A"].sel(x=2), [5.0, 6.0])


@pytest.mark.parametrize(("maxshape", "grows"), [((None, 4), 1), ((3, None), 0), ((None, None), (0, 1))])
def test_an_array_of_matlab_grows_in_matlabs_order(tmp_path: Path, maxshape: tuple[int | None], grows: object) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        dataset = file.create_dataset("a", data=np.arange(12.0).reshape(3, 4), chunks=(3, 4), maxshape=maxshape)
        dataset.attrs["MATLAB_class"] = np.bytes_("double")
    with xr.open_dataset(tmp_path / "m.h5", engine="pytables") as ds:
        expected = {ds["a"].dims[axis] for axis in np.atleast_1d(grows)}
        assert ds.encoding["unlimited_dims"] == expected
        assert_same(ds["a"], np.arange(12.0).reshape(3, 4).T)
        xr_pytables.to_pytables(ds, tmp_path / "again.h5")
    with xr.open_dataset(tmp_path / "again.h5", engine="pytables") as ds:
        assert ds.encoding["unlimited_dims"] == expected
        assert_same(ds["a"], np.arange(12.0).reshape(3, 4).T)


def test_text_of_matlab_is_text() -> None:
    with xr.open_dataset(DATA / "matlab.mat", engine="pytables") as ds:
        assert ds["name"].item() == "Grüße"
        assert ds["words"].values.tolist() == ["ab ", "cde"]
        assert ds["words"][1].item() == "cde"
        assert ds["noname"].item() == ""


def test_cells_and_structs_of_matlab_are_paths_and_groups() -> None:
    with xr.open_datatree(DATA / "matlab.mat", engine="pytables") as dt:
        cells = dt["c"].values
        assert cells.shape == (2, 2)
        assert dt[cells[0, 0]].item() == 1
        assert dt[cells[0, 1]].item() == "two"
        assert dt[cells[1, 0]].size == 0
        assert dt[dt[cells[1, 1]].item()].item() == 3
        assert dt["p"].attrs == {"MATLAB_class": "struct", "MATLAB_fields": ["x", "label"]}
        assert dt["p/x"].item() == 1
        assert dt["p/label"].item() == "p"
        assert dt["q"].attrs["MATLAB_fields"] == ["x"]
        assert [dt[path].item() for path in dt["q/x"].values[0]] == [10, 20]
        assert dt["sp"].attrs["MATLAB_sparse"] == 2
        assert dt["sp/data"].values.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("fields", [["abc"], ["x"], ["größe"], ["abc", "de"], ["ab", "cd"], ["x", "y"]])
@pytest.mark.parametrize("kind", ["characters", "text"])
def test_fields_of_a_matlab_struct_are_a_list_of_names(tmp_path: Path, fields: list[str], kind: str) -> None:
    names = np.empty(len(fields), object)
    for number, field in enumerate(fields):
        names[number] = field if kind == "text" else np.frombuffer(field.encode(), "S1")
    with h5py.File(tmp_path / "a.mat", "w") as file:
        struct = file.create_group("struct")
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        dtype = h5py.string_dtype() if kind == "text" else h5py.vlen_dtype(np.dtype("S1"))
        struct.attrs.create("MATLAB_fields", names, dtype=dtype)
    assert xr.open_dataset(tmp_path / "a.mat", engine="pytables", group="struct").attrs["MATLAB_fields"] == fields


def test_chunked_arrays_of_matlab_stay_lazy_and_say_their_chunks(tmp_path: Path) -> None:
    values = np.arange(60.0).reshape(5, 12)
    with h5py.File(tmp_path / "c.mat", "w", userblock_size=512) as file:
        stored = file.create_dataset("A", data=values.T, chunks=(4, 5), compression="gzip")
        stored.attrs["MATLAB_class"] = np.bytes_(b"double")
    with xr.open_dataset(tmp_path / "c.mat", engine="pytables", chunks={}) as ds:
        assert ds["A"].encoding["chunksizes"] == (5, 4)
        assert ds["A"].encoding["original_shape"] == (5, 12)
        assert ds["A"].chunks == ((5,), (4, 4, 4))
        np.testing.assert_array_equal(ds["A"], values)


@pytest.mark.parametrize("sizes", [[2, 3], [2**63, 0], [0] * 40, []])
def test_sizes_of_an_empty_array_that_make_no_sense(tmp_path: Path, sizes: list[int]) -> None:
    with h5py.File(tmp_path / "e.mat", "w") as file:
        stored = file.create_dataset("A", data=np.array(sizes, "u8"))
        stored.attrs["MATLAB_class"], stored.attrs["MATLAB_empty"] = np.bytes_(b"double"), np.uint8(1)
    with xr.open_dataset(tmp_path / "e.mat", engine="pytables") as ds:
        assert ds["A"].values.tolist() == sizes  # shown as it is


# -- deepdish, Keras ---------------------------------------------------------------------------------------


def test_deepdish_opens_with_its_scalars_as_attributes() -> None:
    with xr.open_datatree(DATA / "deepdish.h5", engine="pytables") as dt:
        assert {key: dt.attrs[key] for key in ("name", "n", "flag")} == {"name": "run", "n": 3, "flag": True}
        assert dt.attrs["title"] == "dict:7"
        assert dt["none"].attrs["title"] == "nonetype:"
        np.testing.assert_array_equal(dt["w/a"], np.arange(6.0).reshape(2, 3))
        assert dt["l"].attrs == {"title": "list:2", "i0": 1}
        assert dt["l/i1"].values.tolist() == [1, 2]
        assert dt["odd"].values[0] == {1, 2}


def test_keras_opens_with_its_names() -> None:
    with xr.open_datatree(DATA / "keras2.h5", engine="pytables") as dt:
        assert dt.attrs["layer_names"] == ["dense", "dropout"]
        assert dt.attrs["keras_version"] == "2.4.0"
        names = dt["dense"].attrs["weight_names"]
        assert names == ["dense/kernel:0", "dense/bias:0"]
        np.testing.assert_array_equal(dt["dense"][names[0]], np.arange(6, dtype="f4").reshape(2, 3))
        assert dt["dense"][names[1]].values.tolist() == [0.0, 0.0, 0.0]
        assert len(dt["dropout"].attrs["weight_names"]) == 0


# -- netCDF-4 ----------------------------------------------------------------------------------------------


def make_netcdf4(path: Path) -> None:
    """What netCDF4 can write and xarray's netcdf4 engine can read."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("run", None)
        file.createDimension("x", 3)
        file.createDimension("n", 4)
        file.title = "Grüße"
        time = file.createVariable("time", "f8", ("time",))
        time.units = "hours since 2014-09-01"
        time[:] = [0, 6, 12]
        both = file.createVariable("both", "i2", ("time", "run", "x"), zlib=True, chunksizes=(1, 2, 3))
        both.scale_factor, both.long_name = 0.5, "two unlimited dimensions"
        both[:] = np.arange(18).reshape(3, 2, 3)
        short = file.createVariable("short", "f4", ("time",))
        short[:1] = [7.5]  # the others are filled up
        letters = file.createVariable("letters", "S1", ("x", "n"))
        letters[:] = np.array([b"lat", b"lon", b"t"], "S4").view("S1").reshape(3, 4)
        text = file.createVariable("text", str, ("x",))
        text[:] = np.array(["a", "", "Grüße"], object)
        file.createVariable("big", ">i4", ("x",), endian="big")[:] = [1, 2, 3]
        file.createVariable("scalar", "f8")[...] = 2.5
        group = file.createGroup("deep").createGroup("er")
        group.createDimension("y", 2)
        group.createVariable("own", "i4", ("y",))[:] = [1, 2]
        group.createVariable("outer", "i4", ("time", "n"))[:] = np.arange(12).reshape(3, 4)


def assert_like(ours: xr.Dataset, theirs: xr.Dataset) -> None:
    assert set(ours.variables) == set(theirs.variables)
    assert dict(ours.sizes) == dict(theirs.sizes)
    assert set(ours.coords) == set(theirs.coords)
    for name in theirs.variables:
        a, b = ours[name], theirs[name]
        assert a.dims == b.dims
        assert a.dtype.kind == b.dtype.kind or {a.dtype.kind, b.dtype.kind} <= set("OUT")
        np.testing.assert_array_equal(a.values, b.values)
        assert set(a.attrs) == set(b.attrs)
        for key, value in b.attrs.items():
            np.testing.assert_array_equal(a.attrs[key], value)
    assert {key: ours.attrs[key] for key in theirs.attrs} == dict(theirs.attrs)


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_files_of_netcdf4_equal_what_the_other_engines_read(tmp_path: Path, engine: str) -> None:
    make_netcdf4(tmp_path / "n.nc")
    for group in ("/", "/deep/er"):
        with (
            xr.open_dataset(tmp_path / "n.nc", engine="pytables", group=group) as ours,
            xr.open_dataset(tmp_path / "n.nc", engine=engine, group=group) as theirs,
        ):
            assert_like(ours.load(), theirs.load())
            if group == "/":  # theirs name only dimensions that the group itself declares
                assert ours.encoding["unlimited_dims"] == theirs.encoding["unlimited_dims"] == {"time", "run"}
    with xr.open_dataset(tmp_path / "n.nc", engine="pytables") as ds:
        assert ds.sizes == {"time": 3, "run": 2, "x": 3}
        assert ds["letters"].values.tolist() == [b"lat", b"lon", b"t"]
    with (
        xr.open_datatree(tmp_path / "n.nc", engine="pytables") as dt,
        xr.open_datatree(tmp_path / "n.nc", engine=engine) as other,
    ):
        assert [node.path for node in dt.subtree] == [node.path for node in other.subtree]


def test_types_of_users_of_netcdf4(tmp_path: Path) -> None:
    """Enumeration, compound, opaque and variable-length types: equal to what netCDF4 and h5py say."""
    with netCDF4.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("x", 3)
        clouds = file.createEnumType("i1", "clouds", {"clear": 0, "overcast": 8})
        file.createVariable("cloud", clouds, ("x",))[:] = np.array([8, 0, 8], "i1")
        point = file.createCompoundType(np.dtype([("a", "i4"), ("b", "f8")]), "point")
        records = file.createVariable("records", point, ("x",))
        records[:] = np.array([(1, 0.5), (2, 1.5), (3, 2.5)], point.dtype)
        ragged = file.createVLType("i4", "ragged")
        rows = file.createVariable("rows", ragged, ("x",))
        for number in range(3):
            rows[number] = np.arange(number, dtype="i4")
        masked = file.createVariable("masked", "i2", ("x",), fill_value=-1)
        masked[:] = np.ma.masked_equal([1, -1, 3], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the table is
        ds = xr.open_dataset(tmp_path / "n.nc", engine="pytables")
    assert ds["cloud"].dims == ("x",)
    assert ds["cloud"].values.tolist() == [8, 0, 8]
    assert ds["cloud"].attrs["flag_meanings"].split() == ["clear", "overcast"]
    assert [row.tolist() for row in ds["rows"].values] == [[], [0], [0, 1]]
    assert ds["rows"].dims == ("x",)
    np.testing.assert_array_equal(ds["masked"], [1, np.nan, 3])
    ds.close()
    with xr.open_dataset(tmp_path / "n.nc", engine="pytables", group="/records") as records:
        assert records["a"].values.tolist() == [1, 2, 3]
        assert records["b"].values.tolist() == [0.5, 1.5, 2.5]


def test_files_of_h5netcdf_with_what_only_hdf5_has(tmp_path: Path) -> None:
    with h5netcdf.File(tmp_path / "h.h5", "w", invalid_netcdf=True) as file:
        file.dimensions = {"x": 3}
        file.create_variable("truth", ("x",), bool)[...] = [True, False, True]
        file.create_variable("wave", ("x",), complex)[...] = [1 + 2j, 0, -1j]
        file.create_group("inner").create_variable("y", ("x",), "f4")[...] = [1, 2, 3]
    with (
        xr.open_dataset(tmp_path / "h.h5", engine="pytables") as ours,
        xr.open_dataset(tmp_path / "h.h5", engine="h5netcdf", invalid_netcdf=True) as theirs,
    ):
        assert_like(ours.load(), theirs.load())
        assert ours["truth"].dtype == bool
        assert ours["wave"].values.tolist() == [1 + 2j, 0, -1j]
    with xr.open_dataset(tmp_path / "h.h5", engine="pytables", group="inner") as ds:
        assert ds["y"].dims == ("x",)
