"""Appending along a dimension and writing regions: the rules of `Dataset.to_zarr`, the values of NumPy."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import cftime
import dask.array
import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import FileChangedError, to_pytables
from xr_pytables.writing import changes, placement
from xr_pytables.writing.blocks import BlockTarget

from ..helpers_properties import examples
from ..helpers_threads import WATCHDOG


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def open_ours(path, **kwargs) -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables", **kwargs) as dataset:
        return dataset.load()


@contextlib.contextmanager
def open_tables(path, mode="r"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.exceptions.DataTypeWarning)
        with tables.open_file(path, mode) as file:
            yield file


def lazy_if(chunks, ds: xr.Dataset) -> xr.Dataset:
    """The dataset in blocks, or as it is for None and False."""
    if chunks is None or chunks is False:
        return ds
    return ds.chunk() if chunks is True else ds.chunk(chunks)


def field(start: int, stop: int) -> xr.Dataset:
    """Steps from `start` to `stop` of one and the same long field."""
    rng = np.random.default_rng(0)
    whole = xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.random((60, 4, 5), "f4"), {"units": "K"}),
            "count": (("lon", "time"), rng.integers(0, 9, (5, 60), "i2")),
            "area": (("lat", "lon"), rng.random((4, 5))),
            "note": ("time", np.array([f"Tag {n:02} ü" for n in range(60)])),
        },
        coords={"time": pd.date_range("2000-01-01", periods=60), "lat": np.arange(4.0), "lon": np.arange(5.0)},
        attrs={"title": "A field"},
    )
    return whole.isel(time=slice(start, stop))


# -- append ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, {"time": 2}, {"time": 7, "lat": 3}], ids=str)
@pytest.mark.parametrize("unlimited", [True, False])
@pytest.mark.parametrize("complib", [None, "zlib", "blosc:lz4"])
def test_appended_pieces_make_the_whole(path, chunks, unlimited, complib):
    encoding = {"t2m": {"chunksizes": (3, 2, 5), "complib": complib}}
    growing = ["time"] if unlimited else None
    to_pytables(lazy_if(chunks, field(0, 4)), path, encoding=encoding, unlimited_dims=growing, align_chunks=True)
    edges = [4, 5, 6, 6, 7, 14, 16, 25, 60]
    for start, stop in itertools.pairwise(edges):
        to_pytables(lazy_if(chunks, field(start, stop)), path, append_dim="time")
        xr.testing.assert_identical(open_ours(path), field(0, stop))
    assert os.listdir(path.parent) == ["file.h5"]
    with open_tables(path) as file:
        assert file.root.t2m.chunkshape == (3, 2, 5)
        assert file.root.t2m.maindim == 0
        np.testing.assert_array_equal(file.root.t2m[:], field(0, 60)["t2m"])
    with xr.open_dataset(path, engine="netcdf4") as other:
        xr.testing.assert_equal(other.drop_vars("note").load(), field(0, 60).drop_vars("note"))
        assert other.encoding["unlimited_dims"] == {"time"}


@examples(40)
@given(st.data())
def test_any_pieces_in_any_blocks_make_the_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "file.h5"
    rows = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=5))
    chunk, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    complib = data.draw(st.sampled_from([None, "zlib", "blosc2:zstd"]))
    values = np.random.default_rng(sum(rows)).integers(0, 99, (sum(rows), 4))
    edges = np.cumsum([0, *rows]).tolist()
    for start, stop in itertools.pairwise(edges):
        piece = xr.Dataset({"v": (("t", "x"), values[start:stop])})
        if data.draw(st.booleans()):
            piece = piece.chunk({"t": data.draw(st.integers(1, 4)), "x": data.draw(st.integers(1, 4))})
        encoding = None if start else {"v": {"chunksizes": (chunk, width), "complib": complib}}
        if path.exists():
            encoding = None
        to_pytables(piece, path, append_dim="t", encoding=encoding, align_chunks=encoding is not None)
        np.testing.assert_array_equal(open_ours(path)["v"], values[:stop])


def test_append_makes_a_missing_file_with_a_dimension_that_grows(path):
    to_pytables(field(0, 2), path, append_dim="time")
    xr.testing.assert_identical(open_ours(path), field(0, 2))
    assert open_ours(path).encoding["unlimited_dims"] == {"time"}
    to_pytables(field(2, 3).rename(time="t"), path, append_dim="t", group="/new/group")
    assert open_ours(path, group="/new/group").sizes["t"] == 1
    xr.testing.assert_identical(open_ours(path), field(0, 2))


def test_append_without_coordinates_grows_the_dimension_for_every_reader(path):
    data = np.arange(30.0).reshape(10, 3)
    to_pytables(xr.Dataset({"v": (("t", "x"), data[:4])}), path, unlimited_dims=["t"])
    to_pytables(xr.Dataset({"v": (("t", "x"), data[4:5])}), path, append_dim="t")
    to_pytables(xr.Dataset({"v": (("t", "x"), data[5:])}), path, append_dim="t")
    with netCDF4.Dataset(path) as file:
        assert file.dimensions["t"].size == 10
        np.testing.assert_array_equal(file["v"][:], data)
    with h5py.File(path) as file:
        assert file["v"].dims[0][0].name == "/t"
        assert file["t"].shape == (10,)
        assert file["t"].attrs["NAME"].endswith(b"        10")
    xr.testing.assert_identical(open_ours(path), xr.Dataset({"v": (("t", "x"), data)}))


def test_append_makes_a_dimension_without_coordinates_growable(path):
    data = np.arange(30.0).reshape(10, 3)
    to_pytables(xr.Dataset({"v": (("t", "x"), data[:4]), "u": ("t", data[:4, 0])}), path)
    to_pytables(xr.Dataset({"v": (("t", "x"), data[4:]), "u": ("t", data[4:, 0])}), path, append_dim="t")
    with netCDF4.Dataset(path) as file:
        assert (file.dimensions["t"].size, file.dimensions["t"].isunlimited()) == (10, True)
        np.testing.assert_array_equal(file["v"][:], data)
        np.testing.assert_array_equal(file["u"][:], data[:, 0])


def test_values_are_encoded_as_those_in_the_file(path):
    def values(start, stop):
        ds = xr.Dataset(
            {
                "packed": ("time", np.array([1.25, np.nan, 3.5, 4.75])[start:stop]),
                "flag": ("time", np.array([True, False, True, False])[start:stop]),
                "lag": ("time", np.array([1, 2, 3, 4], "m8[h]")[start:stop].astype("m8[ns]")),
            },
            coords={"time": pd.date_range("2000-01-01", periods=4)[start:stop]},
        )
        ds["when"] = ("time", ds.time.data)
        return ds

    encoding = {
        "packed": {"dtype": "i2", "scale_factor": 0.25, "add_offset": 1.0, "_FillValue": -9},
        "when": {"units": "minutes since 1999-12-31", "dtype": "i4"},
        "lag": {"units": "minutes", "dtype": "i8"},
    }
    to_pytables(values(0, 2), path, encoding=encoding, unlimited_dims=["time"])
    to_pytables(values(2, 3), path, append_dim="time")
    to_pytables(values(3, 4).chunk(), path, append_dim="time")
    xr.testing.assert_identical(open_ours(path), values(0, 4))
    raw = open_ours(path, decode_cf=False)
    assert raw["packed"].values.tolist() == [1, -9, 10, 15]
    assert raw["when"].values.tolist() == [1440, 2880, 4320, 5760]
    with h5py.File(path) as file:
        assert file["flag"].dtype == "i1"


@pytest.mark.parametrize("chunked", [False, True])
def test_values_that_the_encoding_cannot_hold_are_refused(path, chunked):
    daily = xr.Dataset({"when": ("n", pd.date_range("2000-01-01", periods=2)), "i": ("n", np.array([1, 2], "i2"))})
    to_pytables(daily, path, append_dim="n", encoding={"when": {"units": "days since 2000-01-01", "dtype": "i8"}})
    before = path.read_bytes()
    hourly = daily.assign(when=daily["when"] + pd.Timedelta("6h"))
    with warnings.catch_warnings():  # xarray says what it does instead, which is refused
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(ValueError, match=r"variable 'when': 2000-01-01T06.* is no whole number of 'days since"):
            to_pytables(lazy_if(chunked, hourly), path, append_dim="n")
        with pytest.raises(ValueError, match=r"variable 'when': 2000-01-01T06.* is no whole number of 'days since"):
            to_pytables(lazy_if(chunked, hourly), path, mode="r+")
    with pytest.raises(ValueError, match="cannot hold the values"):
        to_pytables(lazy_if(chunked, daily.assign(i=("n", [1.5, 2.5]))), path, append_dim="n")
    with pytest.raises(ValueError, match="variable 'i': 1099511627776 does not fit: int16 holds -32768 to 32767"):
        to_pytables(lazy_if(chunked, daily.assign(i=("n", [1, 2**40]))), path, append_dim="n")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file.h5"]


def test_other_units_and_calendars_are_refused(path):
    ds = xr.Dataset({"v": ("t", [1.0], {"units": "K"})}, coords={"t": xr.date_range("2000-01-01", periods=1)})
    to_pytables(ds, path, append_dim="t")
    with pytest.raises(ValueError, match="stored with units='K', the variable would need units='degC'"):
        to_pytables(
            ds.assign(v=ds.v.assign_attrs(units="degC")).assign_coords(t=ds.t + pd.Timedelta("1D")),
            path,
            append_dim="t",
        )
    other = xr.Dataset({"v": ("t", [1.0])}, coords={"t": [cftime.DatetimeNoLeap(2000, 1, 2)]})
    with pytest.raises(ValueError, match="of the calendar 'proleptic_gregorian', those to write have 'noleap'"):
        to_pytables(other, path, append_dim="t")
    noleap = path.with_name("noleap.h5")
    days = xr.date_range("2000-02-28", periods=3, calendar="noleap", use_cftime=True)
    ds = xr.Dataset({"v": ("t", [1.0, 2.0, 3.0])}, coords={"t": days})
    to_pytables(ds.isel(t=slice(2)), noleap, append_dim="t")
    to_pytables(ds.isel(t=slice(2, 3)), noleap, append_dim="t")
    assert open_ours(noleap).t.values.tolist() == list(days)


@pytest.mark.parametrize("chunked", [False, True])
def test_dates_of_another_gregorian_calendar_are_appended(path, chunked):
    standard, proleptic = cftime.DatetimeGregorian, cftime.DatetimeProlepticGregorian
    first = {
        "datetime64": np.array(["2000-01-02"], "M8[ns]"),
        "standard": [standard(2000, 1, 2)],
        "proleptic": [proleptic(2000, 1, 2)],
    }
    for name, old in first.items():
        for kind in (standard, proleptic):
            file = path.with_name(f"{name}-{kind.__name__}.h5")
            to_pytables(xr.Dataset({"when": ("t", old)}), file, append_dim="t")
            to_pytables(lazy_if(chunked, xr.Dataset({"when": ("t", [kind(2000, 1, 3)])})), file, append_dim="t")
            expected = np.array(["2000-01-02T00", "2000-01-03T00"], "M8[ns]")
            np.testing.assert_array_equal(open_ours(file)["when"], expected)
            early = lazy_if(chunked, xr.Dataset({"when": ("t", [kind(1500, 1, 3)])}))
            if kind is {"datetime64": proleptic, "standard": standard, "proleptic": proleptic}[name]:
                continue
            with pytest.raises(ValueError, match=r"1500-01-03 00:00:00 \((\w+)\) would read as .* \((?!\1)"):
                to_pytables(early, file, append_dim="t")


def test_the_way_out_for_finer_durations_works(path):
    to_pytables(xr.Dataset({"v": ("t", np.array([1], "m8[s]"))}), path, append_dim="t")
    finer = xr.Dataset({"v": ("t", np.array([1500], "m8[ms]"))})
    with pytest.raises(ValueError, match=r"encoding=\{'v': \{'units': 'milliseconds', 'dtype': 'int64'\}\}"):
        to_pytables(finer, path, append_dim="t")
    encoding = {"v": {"units": "milliseconds", "dtype": "int64"}}
    to_pytables(open_ours(path), path, mode="a", encoding=encoding)
    to_pytables(finer, path, append_dim="t")
    np.testing.assert_array_equal(open_ours(path)["v"], np.array([1000, 1500], "m8[ms]"))


@pytest.mark.parametrize("string", ["fixed", "vlen"])
@pytest.mark.parametrize("chunked", [False, True])
def test_text_is_appended_and_never_cut(path, string, chunked):
    words = xr.Dataset({"word": ("n", ["größe", "b"])})
    to_pytables(words, path, unlimited_dims=["n"], encoding={"word": {"string": string}})
    to_pytables(lazy_if(chunked, xr.Dataset({"word": ("n", ["c", "dd"])})), path, append_dim="n")
    assert open_ours(path)["word"].values.tolist() == ["größe", "b", "c", "dd"]
    longer = lazy_if(chunked, xr.Dataset({"word": ("n", ["länger als vorher"])}))
    if string == "vlen":
        to_pytables(longer, path, append_dim="n")
        assert open_ours(path)["word"].values.tolist() == ["größe", "b", "c", "dd", "länger als vorher"]
        return
    with pytest.raises(ValueError, match=r"Mismatched dtypes|does not fit the 7 bytes"):
        to_pytables(longer, path, append_dim="n")
    assert open_ours(path)["word"].values.tolist() == ["größe", "b", "c", "dd"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_rows_of_different_lengths_are_appended(path, chunked, in_place, monkeypatch):
    def rows(start, stop):
        found = np.empty(stop - start, object)
        found[:] = [np.arange(n % 4, dtype="i4") for n in range(start, stop)]
        return lazy_if(chunked, xr.Dataset({"rows": ("t", found)}))

    if in_place:
        monkeypatch.setattr(changes, "SMALL_FILE", 0)
        monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    to_pytables(xr.Dataset({"other": ("x", [1.0])}), path)
    to_pytables(rows(0, 6), path, mode="a", unlimited_dims=["t"])
    to_pytables(rows(6, 9), path, append_dim="t")
    expected = [list(range(n % 4)) for n in range(9)]
    assert [list(row) for row in open_ours(path)["rows"].values] == expected


def test_attributes_of_arrays_stay_and_those_of_the_group_are_set(path):
    ds = xr.Dataset({"v": ("t", [1, 2], {"note": "old"})}, attrs={"title": "old", "kept": {"a": None}})
    to_pytables(ds, path, append_dim="t")
    to_pytables(xr.Dataset({"v": ("t", [3], {"note": "new"})}, attrs={"title": "new"}), path, append_dim="t")
    result = open_ours(path)
    assert result.attrs == {"title": "new", "kept": {"a": None}}
    assert result["v"].attrs == {"note": "old"}


def test_dimensions_are_transposed_to_those_in_the_file(path):
    to_pytables(field(0, 2), path, append_dim="time")
    to_pytables(field(2, 5).transpose("lon", "time", "lat"), path, append_dim="time")
    xr.testing.assert_identical(open_ours(path), field(0, 5))


def test_variables_without_the_dimension_are_set_as_to_zarr_does(path):
    to_pytables(field(0, 2), path, append_dim="time")
    to_pytables(field(2, 3).assign(area=field(2, 3).area * 2), path, append_dim="time")
    xr.testing.assert_identical(open_ours(path), field(0, 3).assign(area=field(0, 3).area * 2))


def test_a_new_variable_without_the_dimension_is_added(path):
    to_pytables(field(0, 2), path, append_dim="time")
    extra = xr.DataArray(np.arange(4.0), dims="lat")
    to_pytables(field(2, 3).assign(extra=extra), path, append_dim="time")
    xr.testing.assert_identical(open_ours(path), field(0, 3).assign(extra=extra))
    with pytest.raises(ValueError, match=r"'late' is not in the file, so its values along 'time' before"):
        to_pytables(field(3, 4).assign(late=("time", [1.0])), path, append_dim="time")


def refused():
    ds = field(2, 3)
    yield "invalid dim", ds, {"append_dim": "notvalid"}, ValueError, "does not match any existing dataset dimensions"
    yield "dim of nothing", ds[["area"]], {"append_dim": "time"}, ValueError, "any dimension of what is to be appended"
    yield (
        "new group",
        ds,
        {"append_dim": "time", "group": "/below"},
        ValueError,
        "the group '/' has the dimension 'time'",
    )
    yield "mode w", ds, {"append_dim": "time", "mode": "w"}, ValueError, "cannot set append_dim unless mode='a'"
    yield "mode r+", ds, {"append_dim": "time", "mode": "r+"}, ValueError, "cannot set append_dim unless mode='a'"
    yield (
        "encoding",
        ds,
        {"append_dim": "time", "encoding": {"t2m": {"complib": "zlib"}}},
        ValueError,
        "variable 't2m' already exists, but encoding was provided",
    )
    yield "other dims", ds.rename(lat="y"), {"append_dim": "time"}, ValueError, "different dimension names"
    yield "other sizes", ds.isel(lat=[0, 1]), {"append_dim": "time"}, ValueError, "different dimension sizes"
    yield "other coordinate", ds.assign_coords(lat=ds.lat + 1), {"append_dim": "time"}, ValueError, "other values"
    yield (
        "one is left out",
        ds.drop_vars("count"),
        {"append_dim": "time"},
        ValueError,
        "'/count' has the dimension 'time' as well .* would stay short",
    )
    yield "not a name", ds, {"append_dim": 3}, TypeError, "must be the name of one dimension"
    yield (
        "in both",
        ds,
        {"append_dim": "time", "region": {"time": slice(0, 1)}},
        ValueError,
        "cannot list the same dimension in both",
    )
    yield "text for numbers", ds.assign(count=ds["count"].astype(str)), {"append_dim": "time"}, ValueError, "Mismatched"


@pytest.mark.parametrize(("ds", "arguments", "error", "message"), [pytest.param(*r[1:], id=r[0]) for r in refused()])
@pytest.mark.parametrize("chunked", [False, True])
def test_append_refuses_before_the_disk_is_touched(path, ds, arguments, error, message, chunked):
    to_pytables(field(0, 2), path, unlimited_dims=["time"])
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        to_pytables(ds.chunk() if chunked else ds, path, **arguments)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file.h5"]


def test_values_that_do_not_continue_the_index_warn(path):
    to_pytables(field(0, 3), path, append_dim="time")
    for piece in (field(2, 4), field(0, 1), field(3, 5).isel(time=[1, 0])):
        copy = path.with_name("copy.h5")
        copy.write_bytes(path.read_bytes())
        with pytest.warns(UserWarning, match="'time' rise in the file, up to 2000-01-03.* do not continue"):
            to_pytables(piece, copy, append_dim="time")
        assert open_ours(copy).sizes["time"] == 3 + piece.sizes["time"]
    to_pytables(field(5, 6), path, append_dim="time")  # a gap is no contradiction
    falling = xr.Dataset({"v": ("x", [1, 2])}, coords={"x": [5.0, 4.0]})
    to_pytables(falling, path, append_dim="x", group="falling")
    to_pytables(falling.assign_coords(x=[3.0, 1.0]), path, append_dim="x", group="falling")
    with pytest.warns(UserWarning, match="'x' fall in the file, up to 1.0"):
        to_pytables(falling, path, append_dim="x", group="falling")


def test_of_a_long_coordinate_that_goes_on_two_values_are_read(path, monkeypatch):
    read = []
    real = placement.decoded
    monkeypatch.setattr(placement, "decoded", lambda variable, like: read.append(variable.size) or real(variable, like))
    saws = xr.Dataset({"v": ("x", np.zeros(5000))}, coords={"x": np.tile(np.arange(50), 100)})
    to_pytables(saws, path, append_dim="x")
    to_pytables(saws.isel(x=slice(2)).assign_coords(x=[50, 51]), path, append_dim="x")
    assert read == [2]
    to_pytables(saws.isel(x=slice(2)), path, append_dim="x")  # as those before: no reason to warn
    assert read == [2, 2, 5002]


def test_appending_what_is_there_already_once_more_warns(path):
    one = field(0, 1)
    to_pytables(one, path, append_dim="time")
    with pytest.warns(UserWarning, match="repeat"):
        to_pytables(one, path, append_dim="time")


def test_trees_grow_as_a_whole(path):
    def tree(start, stop):
        child = field(start, stop)[["t2m"]].drop_vars(["time", "lat", "lon"])
        own = field(start, stop).drop_vars(["area", "note"])
        return xr.DataTree.from_dict({"/": field(start, stop), "/inherits": child, "/own/deep": own})

    to_pytables(tree(0, 2), path, append_dim="time")
    to_pytables(tree(2, 3), path, append_dim="time")
    to_pytables(tree(3, 9).chunk(), path, append_dim="time")
    xr.testing.assert_identical(xr.open_datatree(path, engine="pytables").load(), tree(0, 9))
    with pytest.raises(ValueError, match="'/inherits/t2m' has the dimension 'time' as well"):
        to_pytables(field(9, 10), path, append_dim="time")
    with pytest.raises(ValueError, match="region is for one group"):
        to_pytables(tree(0, 1), path, region={"time": slice(0, 1)})


@pytest.mark.parametrize("chunks", [None, True])
def test_groups_of_a_tree_without_the_dimension_are_set(path, chunks):
    def tree(start, stop, factor=1):
        grows = xr.Dataset({"a": ("t", np.arange(start, stop))}, coords={"t": np.arange(start, stop)})
        static = xr.Dataset({"m": ("x", factor * np.array([1, 2, 3]))}, coords={"x": [0.5, 1.5, 2.5]})
        groups = {"/": grows, "/static": static, "/static/below": grows.rename(a="b").drop_vars("t")}
        return xr.DataTree.from_dict({group: lazy_if(chunks, dataset) for group, dataset in groups.items()})

    for start, stop, factor in ((0, 2, 1), (2, 3, 1), (3, 7, 10)):
        to_pytables(tree(start, stop, factor), path, append_dim="t")
        xr.testing.assert_identical(xr.open_datatree(path, engine="pytables").load(), tree(0, stop, factor).load())
    before = path.read_bytes()
    new = tree(7, 8)
    static = new["static"].to_dataset(inherit=False)
    new["static"].dataset = static.assign_coords(x=static.x + 1)
    with pytest.raises(ValueError, match=r":/static: coordinate 'x' has other values than in the file"):
        to_pytables(new, path, append_dim="t")
    new["static"].dataset = static.assign(n=("t", [1]))
    with pytest.raises(ValueError, match=r":/static: append_dim='t' does not match any existing dataset dimensions"):
        to_pytables(new, path, append_dim="t")
    with pytest.raises(ValueError, match=r":/: append_dim='u' does not match any existing .* \['t', 'x'\]"):
        to_pytables(tree(7, 8), path, append_dim="u")
    with pytest.raises(ValueError, match=r":/: append_dim='t' does not match any dimension of what is to be appended"):
        to_pytables(xr.DataTree.from_dict({"/static": static}), path, append_dim="t")
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Duplicate dimension names")
@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("how", ["ours", "netCDF4", "_ARRAY_DIMENSIONS"])
def test_arrays_that_have_a_dimension_twice_do_not_grow_along_it(path, how, grows):
    values = np.arange(4.0).reshape(2, 2)
    if how == "ours":
        to_pytables(xr.Dataset({"a": (("x", "x"), values)}), path, unlimited_dims=["x"] if grows else [])
    elif how == "netCDF4":
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("x", None if grows else 2)
            file.createVariable("a", "f8", ("x", "x"))[:] = values
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("a", data=values, maxshape=(None, None) if grows else (2, 2))
            file["a"].attrs["_ARRAY_DIMENSIONS"] = ["x", "x"]
    before = path.read_bytes()
    for dims, append_dim in (("xx", "x"), (("x", "dim_2"), "x"), (("x", "dim_2"), "dim_2"), (("x", "y"), "y")):
        with pytest.raises(ValueError, match=rf"'a': the array has the dimension '{append_dim}' more than once, so"):
            to_pytables(xr.Dataset({"a": (tuple(dims), values)}), path, append_dim=append_dim)
    assert path.read_bytes() == before
    to_pytables(xr.Dataset({"a": (("x", "dim_2"), [[5.0, 6.0]])}), path, region={"x": slice(0, 1)})
    assert values_of(path, "a") == [[5, 6], [2, 3]]
    to_pytables(xr.Dataset({"a": (("x", "x"), [[7.0]])}), path, region={"x": slice(1, 2)})
    assert values_of(path, "a") == [[5, 6], [2, 7]]
    to_pytables(xr.Dataset({"a": (("x", "dim_2"), values)}), path, mode="r+")
    assert values_of(path, "a") == values.tolist()


@pytest.mark.filterwarnings("ignore:Duplicate dimension names")
def test_arrays_that_have_a_dimension_twice_grow_along_another(path):
    values = np.arange(12.0).reshape(3, 2, 2)
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createDimension("x", 2)
        file.createVariable("a", "f8", ("t", "x", "x"))[:] = values[:1]
    to_pytables(xr.Dataset({"a": (("t", "x", "x"), values[1:2])}), path, append_dim="t")
    to_pytables(xr.Dataset({"a": (("t", "x", "dim_2"), values[2:])}), path, append_dim="t")
    with netCDF4.Dataset(path) as file:
        assert file["a"].dimensions == ("t", "x", "x")
        np.testing.assert_array_equal(file["a"][:], values)


@pytest.mark.filterwarnings("ignore:Duplicate dimension names")
def test_an_unnamed_dimension_is_not_grown_twice_by_one_name(path):
    with tables.open_file(path, "w") as file:
        file.create_earray("/", "e", obj=np.arange(6.0).reshape(3, 2))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="'e': the array has the dimension 'n' more than once"):
        to_pytables(xr.Dataset({"e": (("n", "n"), np.zeros((2, 2)))}), path, append_dim="n")
    assert path.read_bytes() == before


def test_append_to_an_earray_of_plain_pytables(path):
    with tables.open_file(path, "w") as file:
        file.create_earray("/", "e", obj=np.arange(6.0).reshape(3, 2), filters=tables.Filters(1, "blosc2:zstd"))
    to_pytables(xr.Dataset({"e": (("dim_3", "dim_2"), [[9.0, 8.0]])}), path, append_dim="dim_3")
    with tables.open_file(path, "a") as file:
        assert file.root.e[:].tolist() == [[0, 1], [2, 3], [4, 5], [9, 8]]
        file.root.e.append([[7.0, 6.0]])
    assert open_ours(path)["e"].values.tolist() == [[0, 1], [2, 3], [4, 5], [9, 8], [7, 6]]
    with tables.open_file(path) as file:  # nothing is made for dimensions that have no names
        assert [node._v_pathname for node in file.walk_nodes("/", "Leaf")] == ["/e"]


@pytest.mark.parametrize("in_place", [False, True])
def test_arrays_whose_dimensions_have_no_names_grow_alone_and_under_any_name(path, in_place, monkeypatch):
    if in_place:
        monkeypatch.setattr(changes, "SMALL_FILE", 0)
        monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    with tables.open_file(path, "w") as file:
        file.create_earray("/", "a", obj=np.arange(3.0))
        file.create_earray("/", "b", obj=np.arange(3.0))
        file.create_earray("/", "longer", obj=np.arange(5.0))
    to_pytables(xr.Dataset({"a": ("dim_3", [7.0])}), path, append_dim="dim_3")
    to_pytables(xr.Dataset({"a": ("step", [8.0])}), path, append_dim="step")
    to_pytables(xr.Dataset({"a": ("step", [9.0]), "longer": ("step", [6.0])}), path, append_dim="step")
    with tables.open_file(path) as file:
        found = {node.name: node[:].tolist() for node in file.walk_nodes("/", "Leaf")}
    assert found == {"a": [0, 1, 2, 7, 8, 9], "b": [0, 1, 2], "longer": [0, 1, 2, 3, 4, 6]}
    with pytest.raises(ValueError, match="'when' is not in the file, so its values along 'step' before"):
        to_pytables(xr.Dataset({"a": ("step", [9.0]), "when": ("step", [1])}), path, append_dim="step")


def test_an_array_without_names_that_is_made_anew_takes_a_name_that_no_other_has(path):
    with tables.open_file(path, "w") as file:
        file.create_array("/", "a", np.arange(3.0))
        file.create_array("/", "b", np.arange(3.0))
    with pytest.raises(ValueError, match=r"'dim_3' would have 4 elements, but the array '/b'.* Rename the dimension"):
        to_pytables(xr.Dataset({"a": ("dim_3", [7.0])}), path, append_dim="dim_3")
    to_pytables(xr.Dataset({"a": ("step", [7.0])}), path, append_dim="step")
    to_pytables(xr.Dataset({"a": ("step", [8.0])}), path, append_dim="step")
    result = open_ours(path)
    assert result["a"].dims == ("step",)
    assert result["a"].values.tolist() == [0, 1, 2, 7, 8]
    assert result["b"].values.tolist() == [0, 1, 2]


def test_an_array_that_has_the_dimension_by_an_attribute_is_not_left_short(path):
    with h5py.File(path, "w") as file:
        for name in ("a", "b"):
            file.create_dataset(name, data=np.arange(3.0), maxshape=(None,)).attrs["_ARRAY_DIMENSIONS"] = ["t"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"'/b' has the dimension 't' as well .* would stay short"):
        to_pytables(xr.Dataset({"a": ("t", [7.0])}), path, append_dim="t")
    assert path.read_bytes() == before
    to_pytables(xr.Dataset({"a": ("t", [7.0]), "b": ("t", [8.0])}), path, append_dim="t")
    assert (values_of(path, "a"), values_of(path, "b")) == ([0, 1, 2, 7], [0, 1, 2, 8])


def test_append_to_an_array_that_netcdf_left_shorter_than_its_dimension(path):
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createVariable("t", "i4", ("t",))[:] = [0, 1, 2, 3]
        file.createVariable("v", "i4", ("t",), fill_value=-1)[:2] = [5, 6]
    to_pytables(xr.Dataset({"v": ("t", [7.0])}, coords={"t": [4]}), path, append_dim="t")
    with netCDF4.Dataset(path) as file:
        assert file["v"][:].filled().tolist() == [5, 6, -1, -1, 7]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("compute", [True, False])
def test_every_scheduler_appends_the_same(path, scheduler, compute):
    to_pytables(field(0, 5), path, append_dim="time")
    before = path.read_bytes()
    with dask.config.set(scheduler=scheduler):
        delayed = to_pytables(field(5, 20).chunk({"time": 4, "lat": 3}), path, append_dim="time", compute=compute)
        if not compute:
            assert path.read_bytes() == before
            assert os.listdir(path.parent) == ["file.h5"]
            delayed.compute()
    xr.testing.assert_identical(open_ours(path), field(0, 20))
    assert os.listdir(path.parent) == ["file.h5"]


def test_a_delayed_append_of_another_version_of_the_file_is_not_carried_out(path):
    to_pytables(field(0, 5), path, append_dim="time")
    delayed = to_pytables(field(5, 6), path, append_dim="time", compute=False)
    to_pytables(field(5, 7), path, append_dim="time")
    with pytest.raises(FileChangedError, match="changed or removed by somebody else"):
        delayed.compute()
    xr.testing.assert_identical(open_ours(path), field(0, 7))


def test_append_from_the_file_that_is_appended_to(path):
    to_pytables(field(0, 5), path, append_dim="time")
    again = xr.open_dataset(path, engine="pytables", chunks={})
    later = again.assign_coords(time=again.time + pd.Timedelta("5D"))
    to_pytables(later, path, append_dim="time")
    result = open_ours(path)
    np.testing.assert_array_equal(result["t2m"], np.concatenate([field(0, 5)["t2m"]] * 2))
    assert result.indexes["time"].equals(pd.date_range("2000-01-01", periods=10))


def test_tasks_that_are_still_at_work_leave_no_file_behind(path, monkeypatch):
    """Dask raises the first error while other tasks run on."""
    to_pytables(field(0, 5), path, append_dim="time")
    listed, go_on = threading.Event(), threading.Event()
    rmtree = shutil.rmtree

    def slow_rmtree(folder, **kwargs):
        listed.set()
        go_on.wait(WATCHDOG)
        rmtree(folder, **kwargs)

    def block(values, block_info=None):
        if block_info[0]["chunk-location"][0]:
            listed.wait(WATCHDOG)
            return values
        raise ZeroDivisionError

    def late(target, key, values, store=BlockTarget.__setitem__):
        try:
            store(target, key, values)
        finally:
            go_on.set()

    piece = field(5, 7).chunk({"time": 1})
    piece["t2m"] = piece["t2m"].copy(
        data=piece["t2m"].data.map_blocks(block, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    )
    monkeypatch.setattr(shutil, "rmtree", slow_rmtree)
    monkeypatch.setattr(BlockTarget, "__setitem__", late)
    with pytest.raises(ZeroDivisionError), dask.config.set(scheduler="threads", num_workers=8):
        to_pytables(piece[["t2m", "count", "note"]], path, append_dim="time")
    assert os.listdir(path.parent) == ["file.h5"]


# -- region ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("mode", [None, "r+", "a"])
def test_regions_make_the_whole(path, mode, chunked):
    zeros, ones = xr.Dataset({"u": ("x", np.zeros(10))}), xr.Dataset({"u": ("x", np.arange(1.0, 11))})
    to_pytables(zeros, path, encoding={"u": {"chunksizes": (3,), "complib": "zlib"}})
    for start in range(0, 10, 2):
        region = {"x": slice(start, start + 2)}
        part = ones.isel(region)
        to_pytables(part.chunk(1) if chunked else part, path, region=region, mode=mode)
    xr.testing.assert_identical(open_ours(path), ones)


@examples(40)
@given(st.data())
def test_any_region_equals_numpy(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "file.h5"
    shape = [data.draw(st.integers(1, 9)) for _ in range(3)]
    expected = np.random.default_rng(0).integers(0, 99, shape)
    chunksizes = [data.draw(st.integers(1, size)) for size in shape]
    complib = data.draw(st.sampled_from([None, "zlib", "blosc:zstd"]))
    encoding = {"v": {"chunksizes": chunksizes, "complib": complib}}
    if data.draw(st.booleans()):
        encoding = {"v": {"contiguous": True}}
    to_pytables(xr.Dataset({"v": (("a", "b", "c"), expected)}), path, encoding=encoding)
    for value in (-1, -2):
        region = {}
        for dim, size in zip("abc", shape, strict=True):
            start = data.draw(st.integers(0, size))
            region[dim] = slice(start, data.draw(st.integers(start, size)))
        dims = [dim for dim in "abc" if data.draw(st.booleans())] or ["a"]
        region = {dim: region[dim] for dim in dims}
        where = tuple(region.get(dim, slice(None)) for dim in "abc")
        piece = xr.Dataset({"v": (("a", "b", "c"), np.full_like(expected[where], value))})
        to_pytables(piece.chunk(2) if data.draw(st.booleans()) else piece, path, region=region)
        expected[where] = value
    np.testing.assert_array_equal(open_ours(path)["v"], expected)


@pytest.fixture
def grid(path: Path) -> xr.Dataset:
    coords = {"x": np.arange(0, 50, 10), "y": np.arange(0, 20, 2)}
    ds = xr.Dataset({"test": (("x", "y"), np.ones((5, 10)))}, coords=coords)
    to_pytables(ds, path)
    return ds


@pytest.mark.parametrize("region", ["auto", {"x": "auto", "y": slice(6, 8)}, {"x": slice(2, 4), "y": "auto"}], ids=str)
def test_auto_finds_the_region_by_coordinates(path, grid, region):
    to_pytables(grid.isel(x=slice(2, 4), y=slice(6, 8)) + 1, path, region=region)
    expected = grid.copy(deep=True)
    expected["test"][2:4, 6:8] += 1
    xr.testing.assert_identical(open_ours(path), expected)


def test_auto_finds_times(path):
    to_pytables(field(0, 9), path)
    part = field(3, 6)[["t2m"]] * 2
    to_pytables(part, path, region="auto")
    xr.testing.assert_identical(open_ours(path)["t2m"][3:6], part["t2m"].assign_attrs(units="K"))


def test_auto_without_a_coordinate_is_the_whole_dimension(path):
    to_pytables(xr.Dataset({"v": (("x", "y"), np.zeros((3, 2)))}, coords={"x": [1, 2, 3]}), path)
    to_pytables(xr.Dataset({"v": (("x", "y"), np.ones((1, 2)))}, coords={"x": [2]}), path, region="auto")
    assert open_ours(path)["v"].values.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_auto_refuses_what_is_not_one_part_of_the_file(path, grid):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="non-contiguous"):
        to_pytables(grid.isel(x=[0, 2, 3], y=[5, 6]), path, region="auto")
    with pytest.raises(ValueError, match=r"sortby\('x'\) may help"):
        to_pytables(grid.isel(x=[3, 2], y=[5, 6]), path, region="auto")
    with pytest.raises(ValueError, match=r"'x' of the new values has \S+ more than once, .*drop_duplicates\('x'\)"):
        to_pytables(grid.isel(x=[2, 2], y=[5, 6]), path, region="auto")
    with pytest.raises(KeyError, match="not all values of coordinate 'x'"):
        to_pytables(grid.assign_coords(x=grid.x + 5), path, region="auto")
    later = xr.Dataset({"test": (("x", "y"), np.ones((3, 10)))}, coords={"x": [40, 50, 60], "y": grid.y})
    with pytest.raises(KeyError, match="not all values of coordinate 'x'"):
        to_pytables(later, path, mode="a", append_dim="x", region="auto")
    assert path.read_bytes() == before


def test_a_region_changes_neither_coordinates_nor_attributes(path, grid):
    part = (grid.isel(x=[1]).drop_vars("y") + 1).assign_attrs(new=1)
    part["test"].attrs["note"] = "new"
    to_pytables(part, path, region={"x": slice(1, 2)})
    result = open_ours(path)
    assert result.attrs == {}
    assert result["test"].attrs == {}
    to_pytables(part, path, region={"x": slice(1, 2)}, mode="a")
    assert open_ours(path).attrs == {"new": 1}
    np.testing.assert_array_equal(open_ours(path).x, grid.x)


def test_a_region_is_transposed_to_the_file(path, grid):
    to_pytables(1 + grid.transpose("y", "x").isel(x=[0], y=[0]), path, region={"x": slice(0, 1), "y": slice(0, 1)})
    assert open_ours(path)["test"].values[:2, :2].tolist() == [[2, 1], [1, 1]]


def test_negative_and_open_slices(path):
    to_pytables(xr.Dataset({"u": ("x", np.zeros(5))}), path)
    to_pytables(xr.Dataset({"u": ("x", [8.0, 9.0])}), path, region={"x": slice(-2, None)})
    to_pytables(xr.Dataset({"u": ("x", [1.0])}), path, region={"x": slice(1)})
    assert open_ours(path)["u"].values.tolist() == [1, 0, 0, 8, 9]


def test_an_empty_region_writes_scalars(path):
    to_pytables(xr.Dataset({"x": 0}), path)
    to_pytables(xr.Dataset({"x": 7}), path, region={}, mode="r+")
    assert int(open_ours(path)["x"]) == 7


def test_append_goes_together_with_a_region_of_other_dimensions(path):
    to_pytables(xr.Dataset({"v": (("t", "x"), np.zeros((2, 4)))}), path, append_dim="t")
    piece = xr.Dataset({"v": (("t", "x"), np.ones((1, 2)))})
    to_pytables(piece, path, append_dim="t", region={"x": slice(1, 3)})
    result = open_ours(path)["v"].values
    assert result[:2].tolist() == [[0] * 4] * 2
    assert result[2, 1:3].tolist() == [1, 1]
    assert np.isnan(result[2, [0, 3]]).all()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("complib", [None, "zlib"])
def test_append_with_a_region_grows_coordinates_and_fills_the_rest(path, complib, in_place, chunked, monkeypatch):
    if in_place:
        monkeypatch.setattr(changes, "SMALL_FILE", 0)
        monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    whole = np.arange(1, 22).reshape(7, 3)
    coords = {"t": pd.date_range("2000-01-01", periods=7), "x": [3.5, 2.5, 0.5]}
    dims = ("t", "x")
    ds = xr.Dataset(
        {"f": (dims, whole / 2), "i": (dims, whole), "n": (dims, whole), "per_x": ("x", [1, 2, 3])}, coords=coords
    )
    encoding = {name: {"chunksizes": (4, 3), "complib": complib} for name in "fin"}
    encoding["i"]["_FillValue"] = -9
    to_pytables(ds.isel(t=slice(5)), path, append_dim="t", encoding=encoding)
    for start, stop, x in ((5, 6, slice(1, 2)), (6, 7, slice(0, 2))):
        piece = ds.assign(per_x=-ds.per_x).isel(t=slice(start, stop), x=x)
        to_pytables(lazy_if(chunked, piece), path, append_dim="t", region={"x": x if start == 5 else "auto"})
    outside = np.zeros((7, 3), bool)
    outside[5, [0, 2]] = outside[6, 2] = True
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        np.testing.assert_array_equal(file["f"][:], np.where(outside, np.nan, whole / 2))
        np.testing.assert_array_equal(file["i"][:], np.where(outside, -9, whole))
        np.testing.assert_array_equal(file["n"][:], np.where(outside, 0, whole))
        assert file["per_x"][:].tolist() == [-1, -2, 3]
        assert file["x"][:].tolist() == [3.5, 2.5, 0.5]
    assert open_ours(path).indexes["t"].equals(ds.indexes["t"])
    for t, x in ((slice(5, 6), slice(0, 1)), (slice(5, 7), slice(2, 3))):
        rest = ds[["f", "i", "n"]].isel(t=t, x=x)
        to_pytables(rest, path, region={"t": t, "x": x})
    np.testing.assert_array_equal(open_ours(path)["f"], whole / 2)


def test_append_with_a_region_refuses_what_would_stay_short_or_is_not_in_it(path):
    ds = xr.Dataset({"v": (("t", "x"), np.zeros((2, 3))), "s": 1}, coords={"t": [0, 1], "x": [0, 1, 2]})
    to_pytables(ds, path, unlimited_dims=["t"])
    before = path.read_bytes()
    piece, arguments = ds.isel(x=[1]).assign_coords(t=[2, 3]), {"append_dim": "t", "region": {"x": slice(1, 2)}}
    with pytest.raises(ValueError, match=r"common with the region's dimensions \['x'\].* \.drop_vars\(\['s'\]\)"):
        to_pytables(piece, path, **arguments)
    with pytest.raises(ValueError, match=r"'/t' has the dimension 't' as well .* would stay short"):
        to_pytables(piece.drop_vars(["s", "t"]), path, **arguments)
    assert path.read_bytes() == before
    to_pytables(ds, path)
    with pytest.raises(ValueError, match=r"'v': the array cannot grow along 't', .* Append without region first"):
        to_pytables(piece.drop_vars("s"), path, **arguments)


def test_a_coordinate_that_cannot_grow_is_made_anew_beside_an_append_with_a_region(path):
    with h5py.File(path, "w") as file:
        file["t"] = [0, 1]
        file["t"].make_scale("t")
        file.create_dataset("v", data=np.zeros((2, 3)), maxshape=(None, 3), fillvalue=-1.0)
        file["v"].dims[0].attach_scale(file["t"])
        file["v"].dims[1].label = "x"
    piece = xr.Dataset({"v": (("t", "x"), [[5.0]])}, coords={"t": [2]})
    to_pytables(piece, path, append_dim="t", region={"x": slice(1, 2)})
    assert values_of(path) == [[0, 0, 0], [0, 0, 0], [-1, 5, -1]]
    assert values_of(path, "t") == [0, 1, 2]


def region_errors():
    two = xr.Dataset({"u": ("x", [10, 11])})
    yield two, {"region": {"x": slice(None)}, "mode": "w"}, ValueError, "cannot set region unless mode='a', mode='r\\+'"
    yield two, {"region": slice(None)}, TypeError, "must be a dict"
    yield two, {"region": {"x": [0, 1]}}, TypeError, "must be slice objects"
    yield two, {"region": {"x": slice(None, None, 2)}}, ValueError, "step on all slices"
    floats = r"file\.h5:/: slices in region must have integers, .* region=\{'x': slice\(1\.0, 3\.0, None\)\}"
    yield two, {"region": {"x": slice(1.0, 3.0)}}, TypeError, floats
    yield two, {"region": {"x": slice("a", None)}}, TypeError, "slices in region must have integers"
    yield two, {"region": {"y": slice(None)}}, ValueError, "all keys in region are not in Dataset dimensions"
    yield two.assign(v=2), {"region": {"x": slice(2)}}, ValueError, "at least one dimension in common"
    yield two, {"region": {"x": slice(None)}, "append_dim": "x"}, ValueError, "cannot list the same dimension in both"
    yield two, {"region": {"x": slice(3)}}, ValueError, "'u' already exists with different dimension sizes"
    beyond = r"sizes: \{'x': 1\} != \{'x': 2\}: the region x=4:6 goes beyond its 5 elements along 'x'\. Only append_dim"
    yield two, {"region": {"x": slice(4, 6)}}, ValueError, beyond
    yield two, {"region": {"x": slice(7, 9)}}, ValueError, "the region x=7:9 goes beyond its 5 elements along 'x'"
    yield two, {"region": {"x": slice(7, None)}}, ValueError, "the region x=7:None goes beyond its 5 elements"
    yield two.rename(u="w"), {"region": {"x": slice(2)}}, ValueError, "dataset contains non-pre-existing variables"
    yield two.rename(u="w"), {"region": {"x": slice(2)}, "mode": "a"}, ValueError, "non-pre-existing variables"
    yield two + 0.5, {"region": {"x": slice(2)}}, ValueError, "cannot hold the values"
    yield two, {"region": {"x": slice(2)}, "encoding": {"u": {"dtype": "f4"}}}, ValueError, "encoding was provided"


@pytest.mark.parametrize(("ds", "arguments", "error", "message"), list(region_errors()))
def test_regions_are_checked_before_the_disk_is_touched(path, ds, arguments, error, message):
    data = xr.Dataset({"u": ("x", np.arange(5))})
    to_pytables(data, path)
    to_pytables(xr.Dataset({"u": ("x", np.array([10, 11]))}), path, region={"x": slice(2)})
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        to_pytables(ds, path, **arguments)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["file.h5"]


def test_a_region_needs_a_file_and_a_group(path, grid):
    with pytest.raises(FileNotFoundError, match="no such file"):
        to_pytables(grid, path.with_name("other.h5"), region={"x": slice(5)})
    with pytest.raises(ValueError, match="nothing in this group"):
        to_pytables(grid, path, group="/other", region={"x": slice(5)})


def test_planning_leaves_no_file_open_and_warns_of_none(path):
    """Stored coordinates are looked at, and arrays that cannot grow are read to be rewritten."""
    first = xr.Dataset({"v": ("t", [1.0, 2.0])}, coords={"t": [0, 1]})
    to_pytables(first, path)  # cannot grow: the append rewrites it
    gc.collect()  # what other tests left open is not meant
    with xr.set_options(warn_for_unclosed_files=True):
        to_pytables(first.assign_coords(t=[2, 3]), path, append_dim="t")
        to_pytables(first.assign_coords(t=[2, 3]), path, region="auto")
        gc.collect()
    assert not [name for name in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{name}") == str(path)]


# -- every kind of array -----------------------------------------------------------------------------------


def objects(*values: object) -> np.ndarray:
    found = np.empty(len(values), object)
    for number, value in enumerate(values):
        found[number] = value
    return found


# the array `v` as h5py makes it, of fixed size unless said otherwise
KINDS = {
    "numbers": (np.array([1.5, 2.5]), None),
    "big-endian": (np.array([1.5, 2.5], ">f4"), None),
    "integers": (np.array([1, 2**64 - 1], "u8"), None),
    "complex": (np.array([1 + 2j, 2]), None),
    "bytes": (np.array([b"ab", b"c"]), None),
    "fixed text": (objects("äb", "c"), h5py.string_dtype("utf-8", 4)),
    "text": (objects("äb", "c"), h5py.string_dtype()),
    "enumeration": (np.array([1, 0], "u1"), h5py.enum_dtype({"A": 0, "B": 1}, "u1")),
    "rows": (objects(np.array([1.0, 2.0]), np.array([3.0])), h5py.vlen_dtype("f8")),
    "rows of big-endian integers": (objects(np.array([1, 2]), np.array([3])), h5py.vlen_dtype(">i2")),
    "rows of bytes": (objects(np.array([1, 2], "u1"), np.array([3], "u1")), h5py.vlen_dtype("u1")),
    "rows of strings": (objects(np.array([b"a", b"bc"]), np.array([b"d"])), h5py.vlen_dtype("S2")),
    "truth values": (np.array([True, False]), None),
    "records": (np.array([(1, 2.0), (3, 4.0)], [("a", "i4"), ("b", "f8")]), None),
    "references": (None, h5py.ref_dtype),
    "opaque times": (np.array([1, 2], "M8[s]").astype(h5py.opaque_dtype("M8[s]")), None),
}
NOT_WRITTEN = ("records", "references", "opaque times")


def file_of_kind(path: Path, kind: str) -> None:
    values, dtype = KINDS[kind]
    with h5py.File(path, "w") as file:
        array = file.create_dataset("v", (2,), dtype=dtype or values.dtype)
        for number in range(2):
            array[number] = file.ref if values is None else values[number]
        array.dims[0].label = "t"
        array.attrs["note"] = "kept"
        file.create_dataset("other", data=[0.0]).dims[0].label = "q"


def values_of(path: Path, name: str = "v") -> list[object]:
    """As h5py reads them."""
    with h5py.File(path) as file:
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in file[name][:]]


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {*NOT_WRITTEN}))
def test_arrays_of_every_kind_that_cannot_grow_are_made_anew_with_their_values(path, kind, lazy):
    file_of_kind(path, kind)
    old, piece = values_of(path), lazy_if(lazy, open_ours(path)[["v"]])
    for times in (2, 3):
        to_pytables(piece, path, append_dim="t")
        assert values_of(path) == old * times
    with h5py.File(path) as file:
        assert file["v"].maxshape == (None,)
    assert open_ours(path)["v"].attrs["note"] == "kept"
    to_pytables(piece.isel(t=[1]), path, region={"t": slice(0, 1)})
    assert values_of(path) == [old[1], old[1], *old, *old]


def test_an_array_that_is_made_anew_keeps_what_its_programs_know_of_it(path):
    kept = {"unit": "m", "pickled": {"a": (1, 2)}, "items": [1, "a"], "none": None, "letters": "x" * 100}
    with tables.open_file(path, "w") as file:
        array = file.create_array("/", "v", np.arange(2), "a title")
        for name, value in kept.items():
            array.attrs[name] = value
    before = open_ours(path)
    to_pytables(before, path, append_dim=before["v"].dims[0])
    assert open_ours(path)["v"].attrs == before["v"].attrs == {**kept, "title": "a title"}
    with open_tables(path, "a") as file:
        array = file.root.v
        assert isinstance(array, tables.EArray)
        assert array.title == "a title"
        assert {name: array.attrs[name] for name in kept} == kept
        array.append(np.array([7]))
    assert open_ours(path)["v"].values.tolist() == [0, 1, 0, 1, 7]


@pytest.mark.parametrize("kind", ["array", "rows", "coordinate"])
def test_an_array_that_is_made_anew_keeps_its_title(path, kind):
    with tables.open_file(path, "w") as file:
        file.create_vlarray("/", "rows", tables.Int32Atom(), "größer").append([1])
        file.create_array("/", "v", np.arange(2), "größer")
    with h5py.File(path, "r+") as file:
        if kind == "rows":  # in an array that cannot grow
            file.create_dataset("fixed", (1,), h5py.vlen_dtype("i4"))[0] = [1]
            file["fixed"].attrs.update(file["rows"].attrs)
            del file["v"]
            file.move("fixed", "v")
        del file["rows"]
    old = open_ours(path)
    new = xr.Dataset(coords={"v": ("v", [7, 8])}) if kind == "coordinate" else old
    to_pytables(new, path, append_dim=new["v"].dims[0])
    assert open_ours(path)["v"].attrs == old["v"].attrs == {"title": "größer"}
    with open_tables(path) as file:
        assert file.root.v.title == ("" if kind == "coordinate" else "größer")  # it is a scale for HDF5
        assert isinstance(file.root.v, tables.VLArray if kind == "rows" else tables.EArray)


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_numbers_among_objects_are_no_text_for_characters(path, lazy):
    to_pytables(
        xr.Dataset({"name": ("t", ["ab", "c"])}), path, encoding={"name": {"dtype": "S1"}}, unlimited_dims=["t"]
    )
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"'name'.* 5 "):
        to_pytables(lazy_if(lazy, xr.Dataset({"name": ("t", objects("a", 5))})), path, append_dim="t")
    assert path.read_bytes() == before
    to_pytables(lazy_if(lazy, xr.Dataset({"name": ("t", objects("a", None))})), path, append_dim="t")
    assert open_ours(path)["name"].values.tolist() == ["ab", "c", "a", ""]


@pytest.mark.filterwarnings("ignore:.*attribute 'to' is not shown")
def test_attributes_of_h5py_stay_as_they_are_when_an_array_is_made_anew(path):
    with h5py.File(path, "w", libver="latest") as file:
        array = file.create_dataset("v", data=np.array(["ä".encode(), b"b"], h5py.string_dtype("utf-8", 3)))
        array.attrs["nothing"] = h5py.Empty("i4")
        array.attrs["large"] = np.arange(30_000.0)
        array.attrs["to"] = file.ref
        array.attrs["rows"] = objects(np.array([1.0]), np.array([2.0, 3.0]))[1]
        array.attrs["texts"] = np.array(["ö", "p"], object)
        array.dims[0].label = "t"
    before = open_ours(path)
    to_pytables(before[["v"]], path, append_dim="t")
    assert open_ours(path)["v"].values.tolist() == ["ä", "b"] * 2
    with h5py.File(path) as file:
        array = file["v"]
        assert h5py.check_string_dtype(array.dtype) == ("utf-8", 3)
        assert array.attrs["nothing"] == h5py.Empty("i4")
        assert array.attrs["large"].tolist() == list(range(30_000))
        assert file[array.attrs["to"]] == file["/"]
        assert array.attrs["rows"].tolist() == [2.0, 3.0]
        assert array.attrs["texts"].tolist() == ["ö", "p"]


@pytest.mark.parametrize("kind", NOT_WRITTEN)
def test_arrays_of_kinds_that_are_never_written_stay(path, kind):
    file_of_kind(path, kind)
    before = path.read_bytes()
    piece = xr.Dataset({"v": ("t", [1.0, 2.0])})
    for how in ({"append_dim": "t"}, {"region": {"t": slice(0, 2)}}, {"mode": "r+"}):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            to_pytables(piece, path, **how)
        assert path.read_bytes() == before


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_appends_beside_arrays_of_every_kind(path, kind):
    file_of_kind(path, kind)
    old = values_of(path) if kind != "references" else None
    for value in (1.0, 2.0):
        to_pytables(xr.Dataset({"other": ("q", [value])}), path, append_dim="q")
    assert values_of(path, "other") == [0.0, 1.0, 2.0]
    assert old is None or values_of(path) == old


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
@pytest.mark.parametrize(
    "filters", [None, tables.Filters(5, "blosc2:zstd"), tables.Filters(1, "zlib", fletcher32=True)]
)
def test_arrays_of_booleans_and_times_of_pytables_take_values(path, filters, lazy):
    seconds = np.array([-1.25, 1.5, 2.000001])
    with tables.open_file(path, "w") as file:
        stored = {"filters": filters, "chunkshape": (4,)}
        file.create_earray("/", "flag", obj=np.array([True, False, False]), **stored)
        file.create_earray("/", "when", tables.Time64Atom(), (0,), **stored).append(seconds)
        file.create_earray("/", "second", tables.Time32Atom(), (0,), **stored).append(np.array([1, 2, 3], "i4"))
        file.create_array("/", "fixed", np.array([True, True, False]))
    old = open_ours(path)
    (dim,) = old.dims
    new = old.isel({dim: [0, 1]}).copy(deep=True)
    new["when"][...] = np.array(["2038-01-19T03:14:07.999999", "1901-12-13T20:45:52.000000"], "M8[us]")
    to_pytables(lazy_if(lazy, new), path, append_dim=dim)
    to_pytables(lazy_if(lazy, new[["when", "flag"]]), path, region={dim: slice(1, 3)})
    to_pytables(lazy_if(lazy, ~open_ours(path)[["flag"]]), path, mode="r+")
    ends = [2**31 - 1e-6, -(2.0**31)]
    with open_tables(path) as file:
        assert file.root.when[:].tolist() == [-1.25, *ends, *ends]
        assert file.root.second[:].tolist() == [1, 2, 3, 1, 2]
        assert file.root.flag[:].tolist() == [False, False, True, False, True]
        assert file.root.fixed[:].tolist() == [True, True, False, True, True]
        kinds = [type(file.root[name].atom) for name in ("when", "second", "flag", "fixed")]
    assert kinds == [tables.Time64Atom, tables.Time32Atom, tables.BoolAtom, tables.BoolAtom]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("when", np.array(["2038-01-20", "2001-01-01"], "M8[s]"), "a Time64 of PyTables holds times from 1901 to 2038"),
        ("when", np.array(["NaT", "2001-01-01"], "M8[s]"), "Time64 of PyTables|NaT"),
        ("when", [1, 2], "holds times .* the variable is of int64"),
        ("second", np.array([1, 2500], "M8[ms]"), "'units': 'milliseconds since 1970-01-01'"),
        ("flag", [1, 0], "the array is of bool, the values of int64"),
        ("flag", [1.0, 0.0], "the array is of bool, the values of float64"),
        ("flag", ["a", "b"], "the array is of bool"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_what_booleans_and_times_of_pytables_cannot_hold_is_refused(path, name, values, message, lazy):
    with tables.open_file(path, "w") as file:
        file.create_earray("/", "flag", obj=np.array([True, False]))
        file.create_earray("/", "when", tables.Time64Atom(), (0,)).append(np.array([1.5, 2.5]))
        file.create_earray("/", "second", tables.Time32Atom(), (0,)).append(np.array([1, 2], "i4"))
    before, old = path.read_bytes(), open_ours(path)
    (dim,) = old.dims
    piece = lazy_if(lazy, old.assign({name: (dim, values)}))
    for how in ({"append_dim": dim}, {"mode": "r+"}, {"region": {dim: slice(0, 2)}}):
        with pytest.raises(ValueError, match=message):
            to_pytables(piece, path, **how)
        assert path.read_bytes() == before


def test_integers_replace_an_array_of_times_of_pytables(path):
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "when", tables.Time64Atom(), (2,))[:] = [1.5, 2.5]
    (dim,) = open_ours(path).dims
    with pytest.raises(ValueError, match="'when' of PyTables' times cannot grow"):
        to_pytables(open_ours(path), path, append_dim=dim)
    to_pytables(xr.Dataset({"when": (dim, [7, 8])}), path, mode="a")
    with open_tables(path) as file:
        assert file.root.when[:].tolist() == [7, 8]
        assert isinstance(file.root.when.atom, tables.Int64Atom)


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
@pytest.mark.parametrize("charset", [None, "ascii", "utf-8", "latin-1"])
def test_arrays_of_characters_take_text(path, charset, lazy):
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createDimension("letters", 4)
        array = file.createVariable("name", "S1", ("t", "letters"), zlib=True)
        if charset is not None:
            array._Encoding = charset
        array.set_auto_chartostring(False)
        array[0] = list("abcd")
    first = "x" if charset in (None, "ascii") else "äx"
    text = ["ef", first, ""] if charset else [b"ef", first.encode(), b""]
    new = lazy_if({"t": 2} if lazy else None, xr.Dataset({"name": ("t", text)}))
    to_pytables(new, path, append_dim="t")
    to_pytables(new.isel(t=[1]), path, region={"t": slice(0, 1)})
    expected = [first, "ef", first, ""] if charset else [first.encode(), b"ef", first.encode(), b""]
    for engine in ("pytables", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as ds:
            assert ds["name"].values.tolist() == expected
    before = path.read_bytes()
    for wrong in ("abcde" if charset else b"abcde", "Ω\0" if charset else b"a\0"):
        too_long = xr.Dataset({"name": ("t", objects(wrong))})
        with pytest.raises(ValueError, match="has no form in the"):
            to_pytables(lazy_if(lazy, too_long), path, append_dim="t")
        assert path.read_bytes() == before


def test_arrays_of_characters_that_cannot_grow_stay_text(path):
    text = xr.Dataset({"name": (("t", "x"), [["ab", "ö"]])})
    to_pytables(text, path, encoding={"name": {"dtype": "S1"}})
    to_pytables(text, path, append_dim="t")
    assert open_ours(path)["name"].values.tolist() == [["ab", "ö"]] * 2
    with xr.open_dataset(path, engine="netcdf4") as ds:
        assert ds["name"].values.tolist() == [["ab", "ö"]] * 2


@pytest.mark.parametrize("made", ["netcdf4", "pytables"])
def test_appends_and_regions_find_coordinates_of_text_of_any_length(path, made):
    whole = xr.Dataset(
        {"v": (("t", "x"), np.arange(6.0).reshape(3, 2)), "note": ("x", objects("one", "zwei"))},
        {"x": objects("a", "bö"), "t": [0, 1, 2]},
    )
    if made == "netcdf4":
        whole.isel(t=[0, 1]).to_netcdf(path, engine="netcdf4", unlimited_dims=["t"])
    else:
        text = {name: {"string": "vlen"} for name in ("x", "note")}
        to_pytables(whole.isel(t=[0, 1]), path, unlimited_dims=["t"], encoding=text)
    to_pytables(whole.isel(t=[2]), path, append_dim="t")
    to_pytables(whole[["v"]].isel(x=[1], t=[0]) + 10, path, region="auto")
    expected = whole["v"].values.copy()
    expected[0, 1] += 10
    with netCDF4.Dataset(path) as file:
        np.testing.assert_array_equal(file["v"][:], expected)
        assert file["x"][:].tolist() == ["a", "bö"]
        assert file["note"][:].tolist() == ["one", "zwei"]
    with pytest.raises(ValueError, match="'x' has other values than in the file"):
        to_pytables(whole.isel(t=[2]).assign_coords(x=objects("a", "b")), path, append_dim="t")


def test_rows_of_netcdf4_are_appended_to_and_read_by_netcdf4(path):
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", 2)
        array = file.createVariable("v", file.createVLType("f4", "floats"), ("t",))
        array[:] = objects(np.array([1.0, 2.0], "f4"), np.array([], "f4"))
    to_pytables(xr.Dataset({"v": ("t", objects(np.array([3.0])))}), path, append_dim="t")
    with netCDF4.Dataset(path) as file:
        assert [row.tolist() for row in file["v"][:]] == [[1.0, 2.0], [], [3.0]]


@pytest.mark.parametrize(
    ("atom", "rows"),
    [
        (tables.VLStringAtom(), [b"a", b"\0b"]),
        (tables.VLUnicodeAtom(), ["ä", "bc"]),
        (tables.Int16Atom(), [[1, 2], []]),
    ],
    ids=["bytes", "text", "numbers"],
)
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_vlarrays_are_appended_to(path, atom, rows, lazy):
    with open_tables(path, "w") as file:
        array = file.create_vlarray("/", "v", atom)
        for row in rows:
            array.append(row)
        array.attrs._ARRAY_DIMENSIONS = "t"
    piece = lazy_if(lazy, open_ours(path))
    to_pytables(piece, path, append_dim="t")
    to_pytables(piece.isel(t=[1]), path, region={"t": slice(0, 1)})
    with open_tables(path) as file:
        found = [row if isinstance(row, str | bytes) else row.tolist() for row in file.root.v]
    assert found == [rows[1], rows[1], *rows]


def test_vlarrays_whose_rows_have_no_name_grow_under_any_name(path):
    with open_tables(path, "w") as file:
        for name in "ab":
            file.create_vlarray("/", name, tables.Int16Atom()).append([1, 2])
    rows = objects(np.array([3], "i2"))
    to_pytables(xr.Dataset({"a": ("event", rows)}), path, append_dim="event")
    to_pytables(xr.Dataset({"a": ("a_row", rows)}), path, append_dim="a_row")
    to_pytables(xr.Dataset({"a": ("hit", rows)}), path, region={"hit": slice(0, 1)})
    with open_tables(path) as file:
        found = {node.name: [row.tolist() for row in node] for node in file.walk_nodes("/", "Leaf")}
    assert found == {"a": [[3], [3], [3]], "b": [[1, 2]]}


@pytest.mark.parametrize("chunks", [(2, 3), (5, 1)])
def test_an_array_that_is_made_anew_keeps_how_far_its_other_dimensions_can_grow(path, chunks):
    with h5py.File(path, "w") as file:
        array = file.create_dataset("v", data=np.ones((2, 2)), maxshape=(5, 4), chunks=chunks)
        array.dims[0].label, array.dims[1].label = "t", "x"
    to_pytables(xr.Dataset({"v": (("t", "x"), [[7.0, 8.0]])}), path, append_dim="t")
    with h5py.File(path) as file:
        assert file["v"][:].tolist() == [[1, 1], [1, 1], [7, 8]]
        assert file["v"].maxshape == (None, 4)


def odd_arrays(path: Path) -> None:
    """Arrays whose elements can be read, but not written."""
    with open_tables(path, "w") as file:
        file.create_earray("/", "atoms", tables.Int32Atom(shape=(3,)), (0,)).append(np.ones((2, 3), "i4"))
    with h5py.File(path, "r+") as file:
        bits = h5py.h5t.NATIVE_INT32.copy()
        bits.set_precision(20)
        h5py.h5d.create(file.id, b"bits", bits, h5py.h5s.create_simple((2,)))
        file["text"] = np.array([[104, 105], [106, 107]], "u2")
        file["text"].attrs["MATLAB_class"] = np.bytes_("char")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("atoms", r"each element of the array is an array of shape \(3,\)"),
        ("bits", "numbers in a form that NumPy lacks"),
        ("text", "text of MATLAB"),
    ],
)
def test_arrays_of_elements_that_are_never_written_stay(path, name, message):
    odd_arrays(path)
    before, piece = path.read_bytes(), open_ours(path)[[name]]
    dim = piece[name].dims[0]
    for how in ({"append_dim": dim}, {"region": {dim: slice(0, 2)}}, {"mode": "r+"}):
        with pytest.raises(ValueError, match=rf"file\.h5:/: variable '{name}': .*{message}.* never written"):
            to_pytables(piece, path, **how)
        assert path.read_bytes() == before


@pytest.mark.parametrize("names", [("dim_3", "dim_3_1"), ("p", "q")])
def test_arrays_of_matlab_take_values_as_they_are_shown(path, names):
    def make() -> xr.Dataset:
        with h5py.File(path, "w", userblock_size=512) as file:
            array = file.create_dataset("A", data=np.arange(9.0).reshape(3, 3), maxshape=(None, None), chunks=(2, 2))
            array.attrs["MATLAB_class"] = np.bytes_("double")
        shown = open_ours(path)
        assert shown["A"].dims == ("dim_3", "dim_3_1")
        return shown.rename(dict(zip(shown["A"].dims, names, strict=True)))

    rows, columns = names
    shown = make()
    to_pytables(shown + 10, path, mode="r+")
    assert open_ours(path)["A"].values.tolist() == (shown["A"].values + 10).tolist()
    part = {rows: slice(0, 1), columns: slice(1, 3)}
    to_pytables(shown.isel(part), path, region=part)
    assert open_ours(path)["A"].values.tolist() == [[10, 3, 6], [11, 14, 17], [12, 15, 18]]
    for axis, dim in enumerate(names):
        to_pytables(make(), path, append_dim=dim)
        expected = np.concatenate([shown["A"].values] * 2, axis=axis)
        assert open_ours(path)["A"].values.tolist() == expected.tolist()


def test_values_whose_names_are_those_that_were_read_may_come_in_any_order(path):
    with open_tables(path, "w") as file:
        file.create_array("/", "a", np.arange(9.0).reshape(3, 3))
    turned = open_ours(path).transpose("dim_3_1", "dim_3")
    to_pytables(turned, path, region={"dim_3": slice(0, 3)})
    assert open_ours(path)["a"].values.tolist() == np.arange(9.0).reshape(3, 3).tolist()


def test_objects_are_not_appended_to_a_vlarray_of_pickles(path):
    with open_tables(path, "w") as file:
        file.create_vlarray("/", "v", tables.ObjectAtom()).append([1])
        file.root.v.attrs._ARRAY_DIMENSIONS = "t"
    before = path.read_bytes()
    for piece in (open_ours(path), xr.Dataset({"v": ("t", objects(np.array([1], "u1")))})):
        with pytest.raises(ValueError, match=r"variable 'v': the rows in the file are pickled objects"):
            to_pytables(piece, path, append_dim="t")
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["fixed", "vlen"])
@pytest.mark.parametrize("nothing", [objects(), objects(None, None)], ids=["none", "missing"])
def test_text_without_any_value_is_appended_to_text(path, text, nothing):
    to_pytables(xr.Dataset({"v": ("t", ["a", "b"])}), path, append_dim="t", encoding={"v": {"string": text}})
    to_pytables(xr.Dataset({"v": ("t", nothing)}), path, append_dim="t")
    assert open_ours(path)["v"].values.tolist() == ["a", "b"] + [""] * len(nothing)


def test_no_rows_are_appended_to_rows(path):
    to_pytables(xr.Dataset({"v": ("t", objects(np.array([1.5])))}), path, append_dim="t")
    to_pytables(xr.Dataset({"v": ("t", objects())}), path, append_dim="t")
    to_pytables(xr.Dataset({"v": ("t", objects(None))}), path, append_dim="t")
    assert [row.tolist() for row in open_ours(path)["v"].values] == [[1.5], []]


@pytest.mark.parametrize("values", [False, True], ids=["scale", "coordinate"])
def test_arrays_grow_though_the_scale_of_their_dimension_cannot(path, values):
    with h5py.File(path, "w") as file:
        file["t"] = np.arange(2.0)
        file["t"].make_scale("t" if values else "This is a netCDF dimension but not a netCDF variable.         2")
        for name in ("v", "w"):
            file.create_dataset(name, data=[1.0, 2.0], maxshape=(None,)).dims[0].attach_scale(file["t"])
    piece = xr.Dataset({"v": ("t", [3.0]), "w": ("t", [4.0])}, {"t": [2.0]} if values else {})
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the coordinate repeats
            to_pytables(piece, path, append_dim="t")
    assert values_of(path) == [1.0, 2.0, 3.0, 3.0]
    assert values_of(path, "w") == [1.0, 2.0, 4.0, 4.0]
    with netCDF4.Dataset(path) as file:
        assert file.dimensions["t"].size == 4


@pytest.mark.parametrize("create", ["create_array", "create_earray"])
def test_arrays_of_plain_pytables_are_appended_to_again_and_again(path, create):
    with open_tables(path, "w") as file:
        array = getattr(file, create)("/", "v", obj=np.array([1.0, 2.0]))
        array.attrs._ARRAY_DIMENSIONS = "t"
    for value in (3.0, 4.0, 5.0):
        to_pytables(xr.Dataset({"v": ("t", [value])}), path, append_dim="t")
    with open_tables(path) as file:
        assert file.root.v[:].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    with netCDF4.Dataset(path) as file:
        assert file.dimensions["t"].isunlimited()


def test_a_region_is_not_found_by_a_coordinate_that_repeats(path):
    to_pytables(xr.Dataset({"v": ("t", [1.0, 2.0])}, {"t": [7, 7]}), path)
    with pytest.raises(ValueError, match="'t' of the file has some value more than once"):
        to_pytables(xr.Dataset({"v": ("t", [1.0])}, {"t": [7]}), path, region="auto")


COORDINATES = {
    "numbers in hours": ("t", np.array([0, 6, 12]), {"units": "hours"}),
    "numbers of days": ("t", np.array([0.5, 1.5, 2.5]), {"units": "days"}),
    "durations": np.array([1, 2, 3], "m8[s]"),
    "early times": np.array(["1500-01-01", "1600-01-01T01", "1700-01-01"], "M8[s]"),
    "single bytes": np.array([b"a", b"b", b"c"]),
    "bytes": np.array([b"ab", b"b", b""]),
    "text": np.array(["a", "ü", "abc"]),
    "text of any length": np.array(["a", "ü", "abc"], np.dtypes.StringDType()),
    "big-endian": np.array([1, 2, 3], ">i4"),
    "narrow": np.array([1, 1.5, 3], "f2"),
    "unsigned": np.array([2**63, 2**63 + 1, 2**64 - 1], "u8"),
    "truth": np.array([True, False, True]),
}


@pytest.mark.filterwarnings("ignore:.*float16:UserWarning", "ignore:.*float16:FutureWarning")
@pytest.mark.parametrize("kind", sorted(COORDINATES))
def test_coordinates_of_any_kind_are_compared_and_searched(path, kind):
    values = COORDINATES[kind]
    old = xr.Dataset({"v": (("t", "x"), np.zeros((3, 2)))}, {"t": values, "x": [0, 1]})
    to_pytables(old, path)
    to_pytables(old.assign_coords(x=[2, 3]) + 1, path, append_dim="x")
    if kind != "truth":  # that one is there twice
        to_pytables(old.isel(t=[1, 2]) + 2, path, region="auto")
    with xr.open_dataset(path, engine="pytables", decode_times=xr.coders.CFDatetimeCoder(time_unit="s")) as found:
        expected = np.repeat([[0.0, 1.0]], 3, 0).repeat(2, 1)
        if kind != "truth":
            expected[1:, :2] = 2
        np.testing.assert_array_equal(found["v"], expected)
    others = old.assign_coords(t=old["t"][::-1].variable, x=[4, 5])
    if kind != "truth":
        with pytest.raises(ValueError, match="coordinate 't' has other values than in the file"):
            to_pytables(others, path, append_dim="x")


def test_other_unlimited_dimensions_of_a_file_are_no_matter(tmp_path):
    """Of two variables, that without the other's dimension is appended: what that can do is not at issue."""
    path = tmp_path / "a.h5"
    both = xr.Dataset({"a": ("t", [1, 2]), "b": ("s", [1, 2, 3])})
    to_pytables(both, path, unlimited_dims=["t", "s"])
    with xr.open_dataset(path, engine="pytables") as opened:
        one = opened[["a"]].load()
    assert one.encoding["unlimited_dims"] == {"t", "s"}
    to_pytables(one, path, append_dim="t")
    with xr.open_dataset(path, engine="pytables") as opened:
        assert opened["a"].values.tolist() == [1, 2, 1, 2]
    with pytest.warns(UserWarning, match=r"Unlimited dimension\(s\) \['s'\] declared"):
        to_pytables(one, tmp_path / "b.h5")


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8"])
@pytest.mark.parametrize("how", ["append", "region", "r+"])
def test_times_go_into_arrays_of_netcdf4_that_have_no_fill_value(tmp_path, how, dtype, lazy):
    path, at = tmp_path / "model.nc", np.array(["2000-01-01T03", "2000-01-01T04"], "M8[ns]")
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        for name, units in (("time", "hours since 2000-01-01"), ("taken", "hours since 1990-01-01")):
            file.createVariable(name, dtype, ("time",)).units = units
            file[name][:] = [1, 2]
    new = xr.Dataset({"taken": ("time", at[::-1])}, {} if how == "region" else {"time": at})
    arguments = {"append": {"append_dim": "time"}, "region": {"region": {"time": slice(0, 2)}}, "r+": {"mode": "r+"}}
    to_pytables(new.chunk(time=1) if lazy else new, path, **arguments[how])
    with xr.open_dataset(path, engine="netcdf4") as ds:
        assert ds["taken"].values[-2:].tolist() == at[::-1].tolist()
        if how != "region":
            assert ds["time"].values[-2:].tolist() == at.tolist()
        assert ds["taken"].encoding.get("_FillValue") is None


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("values", [np.array([7, 8, 9]), np.array([True, False, True]), np.array([7.0, 8.0, 9.0])])
@pytest.mark.parametrize("how", ["append_dim", "r+"])
def test_numbers_go_into_arrays_of_floats_that_have_no_fill_value(path, how, values, lazy):
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=np.arange(3, dtype="f4"), maxshape=(None,))
        file["v"].attrs["_ARRAY_DIMENSIONS"] = ["x"]
    new = xr.Dataset({"v": ("x", values)})
    to_pytables(new.chunk(x=2) if lazy else new, path, **({"mode": how} if how == "r+" else {how: "x"}))
    with h5py.File(path) as file:
        assert file["v"].dtype == "f4"
        assert file["v"][-3:].tolist() == values.tolist()
        assert list(file["v"].attrs) == ["_ARRAY_DIMENSIONS"]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("what", ["an enumeration", "a coordinate's values", "large attributes"])
def test_setting_values_writes_nothing_but_them_into_arrays_as_they_are(path, what, lazy):
    """Arrays that lie side by side, of which none may reach into the next."""
    with h5py.File(path, "w") as file:
        for name in ("x", "v", "w"):
            file.create_dataset(name, data=np.arange(3, dtype="i1"), chunks=(2,))
            file[name].attrs["_ARRAY_DIMENSIONS"] = ["x"]
        states = h5py.enum_dtype({"off": 0, "on": 1}, "i1")
        for name in ("e", "after"):
            file.create_dataset(name, data=np.array([0, 1, 0], "i1"), dtype=states, chunks=(2,))
            file[name].attrs["_ARRAY_DIMENSIONS"] = ["x"]
    attrs = {"history": "x" * 70_000} if what == "large attributes" else {}
    new = xr.Dataset({name: ("x", np.array([7, 8, 9], "i1"), attrs) for name in ("v", "w")})
    if what == "an enumeration":
        new = xr.Dataset({"e": ("x", np.array([1, 1, 1], "i1"))})
    elif what == "a coordinate's values":
        new = new.assign_coords(x=np.array([4, 5, 6], "i1"))
    refused = {
        "filters has no effect with mode='r+'": {"filters": tables.Filters(complevel=5)},
        "already exists, but encoding was provided": {"encoding": dict.fromkeys(new.variables, {"chunksizes": (3,)})},
    }
    for words, asked in refused.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            to_pytables(new.chunk(x=1) if lazy else new, path, mode="r+", **asked)
    to_pytables(new.chunk(x=1) if lazy else new, path, mode="r+")
    with h5py.File(path) as file:
        found = {name: file[name][()].tolist() for name in file}
        assert all(file[name].chunks == (2,) and file[name].compression is None for name in file)
    old = {"x": [0, 1, 2], "v": [0, 1, 2], "w": [0, 1, 2], "e": [0, 1, 0], "after": [0, 1, 0]}
    assert found == {**old, **{name: new[name].values.tolist() for name in new.variables if name in old}}


def check_with_all_engines(path: Path, group: str, expected: xr.Dataset) -> None:
    for engine in ("pytables", "netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine, group=group) as found:
            xr.testing.assert_equal(found.load(), expected)


@pytest.mark.parametrize("how", [{"append_dim": "t"}, {"mode": "a"}, {"mode": "a", "unlimited_dims": ["t"]}])
@pytest.mark.parametrize("coordinate", [True, False])
@pytest.mark.parametrize("group", ["/", "/g"])
def test_an_unlimited_dimension_that_nothing_has_yet_takes_the_first_values(
    how: dict[str, Any], coordinate: bool, group: str, tmp_path: Path
) -> None:
    """As programs declare a file whose values come later."""
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        there = file.createGroup(group)
        for name, size in {"x": 3, "t": None, "other": None}.items():
            there.createDimension(name, size)
        there.createVariable("x", "i4", ("x",))[:] = [7, 8, 9]
    first, second = (
        xr.Dataset({"a": (("t", "x"), begin + np.arange(6.0).reshape(2, 3))}, {"t": ("t", [begin, begin + 1])})
        for begin in (10, 20)
    )
    first, second = (ds if coordinate else ds.drop_vars("t") for ds in (first, second))
    to_pytables(first, path, group=group, **how)
    to_pytables(second, path, group=group, append_dim="t")
    check_with_all_engines(path, group, xr.concat([first, second], "t").assign_coords(x=[7, 8, 9]))
    with netCDF4.Dataset(path) as file:
        dimensions = (file if group == "/" else file[group]).dimensions
        assert {name: (each.size, each.isunlimited()) for name, each in dimensions.items()} == {
            "x": (3, False), "t": (4, True), "other": (0, True)
        }  # fmt: skip


@pytest.mark.parametrize("how", [{"append_dim": "t"}, {"mode": "a"}])
@pytest.mark.filterwarnings("ignore:.*not shown")
def test_an_array_that_is_not_shown_has_its_dimension_when_that_takes_the_first_values(
    how: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        records = file.createCompoundType(np.dtype([("a", "f8"), ("b", "i4")]), "records")
        file.createVariable("hidden", records, ("t",))
    to_pytables(xr.Dataset({"a": ("t", [5.0, 6.0])}), path, **how)
    with netCDF4.Dataset(path) as file:
        assert file["a"][:].tolist() == [5, 6]
        assert file["hidden"].dimensions == ("t",)
        assert file["hidden"][:].tolist() == [(0, 0), (0, 0)]


@pytest.mark.parametrize("how", [{"append_dim": "t"}, {"mode": "a"}])
def test_each_group_of_a_tree_takes_the_first_values_of_the_dimension_that_it_declares(
    how: dict[str, Any], tmp_path: Path
) -> None:
    """One further above of the same name is not what readers of netCDF find for the group."""
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createGroup("g").createDimension("t", None)
    groups = {"/": xr.Dataset({"a": ("t", [5.0, 6.0])}), "/g": xr.Dataset({"b": ("t", [7.0, 8.0])})}
    to_pytables(xr.DataTree.from_dict(groups), path, **how)
    for group, expected in groups.items():
        check_with_all_engines(path, group, expected)


def test_a_new_group_below_an_unlimited_dimension_that_nothing_has_yet_grows(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("t", None)
    first, second = (xr.Dataset({"a": ("t", [begin, begin + 1])}, {"t": [begin, begin + 1]}) for begin in (10, 20))
    to_pytables(first, tmp_path / "a.nc", group="/g", append_dim="t")
    to_pytables(second, tmp_path / "a.nc", group="/g", append_dim="t")
    check_with_all_engines(tmp_path / "a.nc", "/g", xr.concat([first, second], "t"))
