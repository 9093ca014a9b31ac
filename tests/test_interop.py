"""Files that netCDF4, h5netcdf and h5py wrote, as this engine and theirs open them."""

from __future__ import annotations

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xr_pytables import to_pytables


def rich() -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.random((4, 4, 4)), {"units": "K", "levels": np.array([1, 2], "i4")}),
            "swapped": (("lon", "time"), rng.integers(0, 9, (4, 4), "i2")),
            "packed": (("lat",), [1.5, np.nan, 2.0, 0.25], {}, {"dtype": "i2", "scale_factor": 0.25, "_FillValue": -9}),
            "text": (("lon",), np.array(["a", "Zürich", "", "ccc"], object)),
            "flag": (("lat",), np.array([True, False, True, True])),
            "duration": (("lat",), np.array([1, 2, 3, 4], "m8[h]").astype("m8[ns]")),
            "scalar": ((), 2.5),
        },
        coords={"time": pd.date_range("2000", periods=4), "lat": np.arange(4.0), "aux": ("lon", [1, 2, 3, 4])},
        attrs={"title": "rich", "number": 5},
    )


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
@pytest.mark.parametrize(
    "encoding", [{}, {"zlib": True, "shuffle": True}, {"chunksizes": (2, 3, 4), "fletcher32": True}]
)
def test_datasets_of_netcdf_engines_open_alike(tmp_path, engine, encoding):
    path = tmp_path / "file.nc"
    rich().to_netcdf(path, engine=engine, encoding={"t2m": encoding}, unlimited_dims=["time"])
    with xr.open_dataset(path, engine=engine) as theirs, xr.open_dataset(path, engine="pytables") as ours:
        xr.testing.assert_identical(ours.load(), theirs.load())
        assert {name: ours[name].dims for name in ours.variables} == {
            name: theirs[name].dims for name in theirs.variables
        }
        assert {name: ours[name].dtype.kind for name in ours if name != "text"} == {
            name: theirs[name].dtype.kind for name in theirs if name != "text"
        }
        assert ours.encoding["unlimited_dims"] == theirs.encoding["unlimited_dims"] == {"time"}
        assert list(ours.variables) == list(theirs.variables)
        for key in ("zlib", "shuffle", "fletcher32", "complevel"):
            if encoding and key in theirs.t2m.encoding:
                assert ours.t2m.encoding.get(key, False) == theirs.t2m.encoding[key] or key == "complevel"


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_trees_with_dimensions_of_the_parent_open_alike(tmp_path, engine):
    path = tmp_path / "file.nc"
    tree = xr.DataTree.from_dict(
        {
            "/": rich(),
            "/sub": xr.Dataset({"v": (("lat", "extra"), np.ones((4, 4)))}),
            "/sub/deep": xr.Dataset({"w": (("lon", "extra"), np.ones((4, 4)))}, attrs={"a": 1}),
        }
    )
    tree.to_netcdf(path, engine=engine)
    with xr.open_datatree(path, engine=engine) as theirs, xr.open_datatree(path, engine="pytables") as ours:
        xr.testing.assert_identical(ours.load(), theirs.load())
    with xr.open_dataset(path, engine="pytables", group="/sub/deep") as alone:
        assert alone.w.dims == ("lon", "extra")


def test_dimensions_without_variables_and_odd_names(tmp_path):
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("x", 3), ("y", 3), ("empty", 0), ("t", None)):
            file.createDimension(name, size)
        file.createVariable("a", "f4", ("x", "y"))[:] = np.arange(9).reshape(3, 3)
        file.createVariable("b", "f4", ("y", "x"), fill_value=-1)  # never written
        file.createVariable("x", "f8", ("y",))[:] = [7, 8, 9]  # not a coordinate
        file.createVariable("c", "i4", ("t", "y"))[:] = np.ones((2, 3))
        file.createVariable("text", str, ("x",))[:] = np.array(["a", "bé", ""], object)
        file.createVariable("chars", "S1", ("x", "y"))[:] = np.array([list("abc"), list("de "), list("f  ")], "S1")
        kind = file.createEnumType("u1", "sky_type", {"clear": 0, "cloudy": 1})
        file.createVariable("sky", kind, ("x",))[:] = [0, 1, 1]
    with xr.open_dataset(path, engine="netcdf4") as theirs, xr.open_dataset(path, engine="pytables") as ours:
        assert ours.attrs == theirs.attrs
        for name in theirs.variables:
            assert ours[name].dims == theirs[name].dims, name
            np.testing.assert_array_equal(ours[name].values, theirs[name].values, err_msg=name)
        assert set(ours.variables) == set(theirs.variables)
        assert ours.encoding["unlimited_dims"] == {"t"}
        assert ours.sky.encoding["dtype"].metadata["enum"] == {"clear": 0, "cloudy": 1}


def test_h5py_scales_and_labels(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["y"], file["x"] = np.arange(3.0), np.arange(3.0)
        for name in ("y", "x"):
            file[name].make_scale(name)
        file["scaled"] = np.ones((3, 3))
        for axis, name in enumerate(("x", "y")):
            file["scaled"].dims[axis].attach_scale(file[name])
        file["labelled"] = np.ones((3, 5))
        file["labelled"].dims[1].label = "channel"
        file["truth"] = np.array([True, False, True])
        file["truth"].attrs["yes"] = True
    with xr.open_dataset(path, engine="pytables") as ours:
        assert ours.scaled.dims == ("x", "y")
        assert ours.labelled.dims == ("dim_3", "channel")
        assert ours.truth.dtype == bool
        assert ours.truth.values.tolist() == [True, False, True]
        assert ours.truth.attrs == {"yes": True}
        assert set(ours.coords) == {"x", "y"}


def test_variables_shorter_than_their_unlimited_dimension_are_filled_up_as_netcdf_does(tmp_path):
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createDimension("u", None)
        file.createDimension("x", 3)
        file.createVariable("long", "f4", ("t", "x"), chunksizes=(4, 3))[:] = np.arange(15).reshape(5, 3)
        file.createVariable("short", "i4", ("t", "x"), chunksizes=(4, 3))[:2] = np.arange(6).reshape(2, 3)
        file.createVariable("never", "f8", ("t", "u"), fill_value=-1.0)
        file.createVariable("u", "f8", ("u",))[:] = [1, 2]
    with (
        xr.open_dataset(path, engine="netcdf4") as theirs,
        xr.open_dataset(path, engine="pytables", cache=False) as ours,
    ):
        xr.testing.assert_identical(ours.load(), theirs.load())
    with xr.open_dataset(path, engine="pytables", cache=False, mask_and_scale=False) as ours:
        fill = netCDF4.default_fillvals["i4"]
        assert ours.short[::-2, 1].values.tolist() == [fill, fill, 1]
        assert ours.short[[4, 0, 1]].values.tolist() == [[fill] * 3, [0, 1, 2], [3, 4, 5]]
        assert ours.short[3].values.tolist() == [fill] * 3
        assert ours.short[xr.DataArray([1, 4], dims="p"), xr.DataArray([2, 2], dims="p")].values.tolist() == [5, fill]


# -- what this engine read, saved by others ----------------------------------------------------------------

KINDS = {
    "text": np.array(["aa", "\u00fc", ""], object),
    "bytes": np.array([b"aa", b"b", b""]),
    "float": np.array([0.5, np.nan, 2]),
    "integer": np.array([1, 2, 3], "i2"),
    "truth": np.array([True, False, True]),
    "time": np.array(["2000-01-01", "NaT", "2000-01-05T01"], "M8[ns]"),
    "duration": np.array([1, 2, 3], "m8[h]").astype("m8[ns]"),
    "scalar": np.float64(3),
    "scalar text": np.array("abc", object),
    "none": np.array([], float),
    "no text": np.array([], "U1"),
}
STORED = {
    "as it is": {},
    "zlib": {"complib": "zlib", "complevel": 4},
    "bzip2": {"complib": "bzip2"},
    "blosc": {"complib": "blosc:zstd", "complevel": 9},
    "blosc2": {"complib": "blosc2:lz4", "bitshuffle": True, "shuffle": False},
    "shuffle": {"fletcher32": False, "shuffle": True},
    "contiguous": {"contiguous": True},
}


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_can_be_saved_by_other_engines(tmp_path, kind, stored, chunks, engine):
    values = KINDS[kind]
    ds = xr.Dataset({"v": (("x",) * values.ndim, values)})
    to_pytables(ds, tmp_path / "file.h5", encoding={"v": STORED[stored]})
    with xr.open_dataset(tmp_path / "file.h5", engine="pytables", chunks=chunks) as read:
        read.to_netcdf(tmp_path / "file.nc", engine=engine)
        with xr.open_dataset(tmp_path / "file.nc", engine=engine) as back:
            xr.testing.assert_equal(back, read)
        to_pytables(read, tmp_path / "again.h5", encoding={"v": read["v"].encoding} if chunks is None else None)
        with xr.open_dataset(tmp_path / "again.h5", engine="pytables") as again:
            xr.testing.assert_equal(again, read)
            words = ("complib", "complevel", "bitshuffle")
            assert [again["v"].encoding.get(word) for word in words] == [read["v"].encoding.get(word) for word in words]


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
@pytest.mark.parametrize("pandas", [False, True])
def test_columns_that_were_read_can_be_saved_by_other_engines(tmp_path, pandas, engine):
    words = xr.Dataset({"s": ("x", np.array(["aa", "b", ""], object)), "n": ("x", [1.5, 2.5, 3.5])})
    if pandas:
        with pd.HDFStore(tmp_path / "file.h5", complib="blosc:zstd", complevel=5, fletcher32=True) as store:
            store.put("t", words.to_dataframe(), format="table", track_times=False)
    else:
        to_pytables(words, tmp_path / "file.h5", layout="table", group="/t", encoding={"n": {"complib": "blosc:zstd"}})
    with xr.open_dataset(tmp_path / "file.h5", engine="pytables", group="/t") as read:
        read.to_netcdf(tmp_path / "file.nc", engine=engine)
        with xr.open_dataset(tmp_path / "file.nc", engine=engine) as back:
            assert back["s"].values.tolist() == ["aa", "b", ""]
            assert back["n"].values.tolist() == [1.5, 2.5, 3.5]
