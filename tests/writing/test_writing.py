"""What `to_pytables` writes, as this engine, plain PyTables, h5py, netCDF4 and h5netcdf read it."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask
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

from xr_pytables import to_pytables
from xr_pytables.disk import transaction
from xr_pytables.disk.transaction import Transaction
from xr_pytables.errors import FileBusyError, FileChangedError
from xr_pytables.library import libhdf5
from xr_pytables.library.target_file import TargetFile
from xr_pytables.model import attributes
from xr_pytables.writing import execution, here, writer

from ..helpers_properties import examples


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def open_ours(path, **kwargs) -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables", **kwargs) as dataset:
        return dataset.load()


def field() -> xr.Dataset:
    """Three dimensions of the same length, so that nobody can guess names from sizes."""
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.random((4, 4, 4), "f4"), {"units": "K", "long_name": "Température"}),
            "swapped": (("lon", "time"), rng.integers(0, 9, (4, 4), "i2")),
            "area": (("lat", "lon"), rng.random((4, 4))),
            "height": ((), 2.5),
        },
        coords={"time": pd.date_range("2000-01-01", periods=4), "lat": np.arange(4.0)},
        attrs={"title": "A field", "version": 3},
    )


@contextlib.contextmanager
def open_tables(path, mode="r"):
    """Plain PyTables, without its warning that it does not know the type of DIMENSION_LIST."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.exceptions.DataTypeWarning)
        with tables.open_file(path, mode) as file:
            yield file


def leftovers(path: Path) -> list[str]:
    return sorted(set(os.listdir(path.parent)) - {path.name})


# -- values -------------------------------------------------------------------

DTYPES = [
    "?",
    "i1",
    "u1",
    "i2",
    ">i2",
    "u4",
    "i8",
    "u8",
    ">u8",
    "f2",
    "f4",
    ">f4",
    "f8",
    "g",
    "c8",
    "c16",
    ">c16",
    "S3",
]
COMPLIBS = [None, "zlib", "bzip2", "blosc:lz4", "blosc:zstd", "blosc2:lz4", "blosc2:zstd", "blosc2:blosclz"]


@st.composite
def variables(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    size = int(np.prod(shape))
    if dtype.kind == "S":
        values = np.array([b"", b"a", b"abc"])[np.arange(size) % 3].astype(dtype)
    else:
        values = np.random.default_rng(size).integers(0, 100, size).astype(dtype)
    encoding = {}
    if size and draw(st.booleans()):
        encoding["chunksizes"] = tuple(draw(st.integers(1, n)) for n in shape)
    complib = draw(st.sampled_from(COMPLIBS))
    if complib and size and shape:
        encoding |= {"complib": complib, "complevel": draw(st.integers(1, 9)), "shuffle": draw(st.booleans())}
    if draw(st.booleans()) and size and shape:
        encoding["fletcher32"] = False
    return values.reshape(shape), encoding


@pytest.mark.filterwarnings("ignore:.*netCDF-C.*crashes on it:UserWarning")
@examples(60)
@given(variables(), st.booleans())
def test_any_array_comes_back_and_plain_pytables_reads_the_same(tmp_path_factory, variable, chunked):
    values, encoding = variable
    path = tmp_path_factory.mktemp("any") / "file.h5"
    dataset = xr.Dataset({"x": ([f"d{n}" for n in range(values.ndim)], values)})
    dataset = dataset.chunk(2) if chunked else dataset
    to_pytables(dataset, path, encoding={"x": encoding}, align_chunks=True, fsync=False)
    actual = open_ours(path).x
    np.testing.assert_array_equal(actual.values, values)
    assert actual.dims == dataset.x.dims
    assert actual.dtype == values.dtype.newbyteorder("=")
    if "chunksizes" in encoding and values.ndim:
        assert actual.encoding["chunksizes"] == encoding["chunksizes"]
    if "complib" in encoding:
        assert actual.encoding["complib"] == encoding["complib"]
        assert actual.encoding["complevel"] == encoding["complevel"]
    if values.dtype.kind != "?":  # as netCDF has no bool, it is int8 with an attribute
        with open_tables(path) as file:
            leaf = file.get_node("/x")
            np.testing.assert_array_equal(leaf.read(), values)
            if values.ndim and values.size:
                assert leaf.filters.fletcher32 == encoding.get("fletcher32", True)


@pytest.mark.parametrize("string", ["fixed", "vlen"])
def test_text_comes_back(path, string):
    texts = np.array([["a", "", "Zürich"], ["日本", "x" * 40, " y "]], dtype=object)
    dataset = xr.Dataset({"o": (("a", "b"), texts), "u": (("a", "b"), texts.astype(str)), "zero": ("c", texts[0, :0])})
    dataset["t"] = dataset.u.astype(np.dtypes.StringDType())
    dataset["d"] = dataset.u.chunk({"b": 1})
    to_pytables(dataset, path, encoding={name: {"string": string} for name in dataset})
    actual = open_ours(path)
    for name in ("o", "u", "t", "d"):
        assert actual[name].values.tolist() == texts.tolist()
        assert actual[name].encoding["string"] == string
    with h5py.File(path) as file:
        assert (h5py.check_string_dtype(file["u"].dtype).length is None) == (string == "vlen")


def test_vlen_text_is_text_for_netcdf_readers(path):
    to_pytables(xr.Dataset({"x": ("a", ["a", "Zürich"])}), path, encoding={"x": {"string": "vlen"}})
    for engine in ("netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as dataset:
            assert dataset.x.values.tolist() == ["a", "Zürich"]


def test_single_bytes_keep_their_dimension(path):
    dataset = xr.Dataset({"flags": (("a", "b"), np.array([[b"x", b"y"], [b"z", b""]], "S1"))})
    to_pytables(dataset, path)
    xr.testing.assert_identical(open_ours(path), dataset)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("options", [{}, {"encoding": {"flag": {"dtype": "S1"}}}, {"mode": "a"}, {"append_dim": "x"}])
def test_single_bytes_that_were_read_are_written_again(path, options, chunked):
    dataset = xr.Dataset({"flag": ("x", np.array([b"q", b"r"]))})
    to_pytables(dataset, path)
    again = path if "append_dim" in options else path.with_name("again.h5")
    with xr.open_dataset(path, engine="pytables", chunks={} if chunked else None) as read:
        assert read["flag"].encoding["dtype"] == "S1"
        to_pytables(read.load() if again == path else read, again, **options)
    assert open_ours(again)["flag"].values.tolist() == [b"q", b"r"] * (1 + (again == path))


def test_chunks_of_characters_take_whole_texts(path):
    encoding = {"dtype": "S1", "chunksizes": (2,)}
    to_pytables(xr.Dataset({"word": ("x", ["lat", "lon", "z"])}), path, encoding={"word": encoding})
    with h5py.File(path) as file:
        assert file["word"].chunks == (2, 3)
    assert open_ours(path)["word"].values.tolist() == ["lat", "lon", "z"]


@pytest.mark.parametrize("charset", [None, "utf-8", "latin-1"])
@pytest.mark.parametrize("kind", ["U2", object])
def test_text_in_dask_becomes_characters_block_by_block(path, charset, kind):
    text, computed = np.array(["ab", "ö", "", "c"], kind), []
    blocks = dask.array.from_array(text, chunks=2).map_blocks(lambda b: computed.append(b.size) or b, meta=text[:0])
    encoding = {"dtype": "S1"} if charset is None else {"dtype": "S1", "_Encoding": charset}
    later = to_pytables(xr.Dataset({"word": ("x", blocks)}), path, encoding={"word": encoding}, compute=False)
    before = sum(computed)
    assert before <= 2 or kind is object  # of objects the longest has to be found
    later.compute()
    assert sum(computed) == before + 4
    for engine in ("pytables", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as ds:
            assert ds["word"].values.tolist() == text.tolist()
    with h5py.File(path) as file:
        assert b"".join(file["word"][1].tolist()) == "ö".encode(charset or "utf-8")


def test_times_and_their_encoding_come_back(path):
    dataset = xr.Dataset(
        {"when": ("x", np.array(["2000-01-01", "NaT", "2030-05-06T07:08:09"], "M8[ns]")),
         "long": ("x", np.array([1, 2, 3], "m8[D]").astype("m8[ns]"))},
    )  # fmt: skip
    dataset.when.encoding = {"units": "seconds since 1999-01-01", "dtype": "f8"}
    to_pytables(dataset, path)
    actual = open_ours(path)
    xr.testing.assert_identical(actual, dataset)
    assert actual.when.encoding["units"] == "seconds since 1999-01-01"


def test_enum_comes_back_as_an_hdf5_enumeration(path):
    dtype = np.dtype("u1", metadata={"enum": {"clear": 0, "cloudy": 1}, "enum_name": "sky"})
    to_pytables(xr.Dataset({"sky": ("x", np.array([0, 1, 1], dtype))}), path)
    actual = open_ours(path, decode_cf=False).sky
    assert actual.values.tolist() == [0, 1, 1]
    assert actual.attrs["flag_meanings"] == "clear cloudy"
    with h5py.File(path) as file:
        assert h5py.check_enum_dtype(file["sky"].dtype) == {"clear": 0, "cloudy": 1}


def test_packed_values_are_stored_packed(path):
    dataset = xr.Dataset({"t": ("x", [1.5, np.nan, 2.25])})
    to_pytables(dataset, path, encoding={"t": {"dtype": "i2", "scale_factor": 0.25, "_FillValue": -1}})
    xr.testing.assert_equal(open_ours(path), dataset)
    with open_tables(path) as file:
        assert file.root.t[:].tolist() == [6, -1, 9]
        assert file.root.t.atom.dflt == -1  # so that chunks that were never written are missing values


def test_least_significant_digit_rounds(path):
    values = np.random.default_rng(1).random(1000)
    to_pytables(xr.Dataset({"x": ("a", values)}), path, encoding={"x": {"least_significant_digit": 2}})
    actual = open_ours(path).x.values
    assert 0 < np.abs(actual - values).max() < 0.01
    assert len(np.unique(actual)) < 200
    extremes = np.array([1e306, -np.inf, np.nan, 1.23456])
    to_pytables(xr.Dataset({"x": ("a", extremes)}), path, encoding={"x": {"least_significant_digit": 3}})
    np.testing.assert_allclose(open_ours(path).x, extremes, atol=1e-3)


@pytest.mark.parametrize("dtype", ["f8", "i2"])
def test_zero_is_a_fill_value_like_any_other(path, dtype):
    values = [1.0, np.nan, 3.0]
    to_pytables(xr.Dataset({"t": ("x", values)}), path, encoding={"t": {"dtype": dtype, "_FillValue": 0}})
    np.testing.assert_array_equal(open_ours(path).t, values)
    assert open_ours(path).t.encoding["_FillValue"] == 0
    to_pytables(xr.Dataset({"t": ("x", values)}), path, encoding={"t": {"_FillValue": None}})
    assert "_FillValue" not in open_ours(path, decode_cf=False).t.attrs


@pytest.mark.parametrize("string", ["fixed", "vlen"])
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=repr)
@pytest.mark.parametrize("chunked", [False, True])
def test_missing_text_is_empty_text(path, string, missing, chunked):
    texts = np.array(["a", missing, "b"], np.dtypes.StringDType(na_object=missing))
    dataset = xr.Dataset({"s": ("x", texts)})
    to_pytables(dataset.chunk(x=1) if chunked else dataset, path, encoding={"s": {"string": string}})
    assert open_ours(path).s.values.tolist() == ["a", "", "b"]


def test_nul_that_would_be_lost_is_refused(path):
    padded = xr.Dataset({"b": ("x", np.array([b"a\0", b"b"], object))})
    with pytest.raises(ValueError, match="variable 'b': fixed-length bytes cannot keep a NUL"):
        to_pytables(padded, path)
    text = xr.Dataset({"s": ("x", np.array(["a\0", "b"], np.dtypes.StringDType()))})
    for string, message in (("fixed", "fixed-length text cannot keep a NUL"), ("vlen", "cannot hold the NUL")):
        for scheduler in ("synchronous", "processes"):
            with (
                dask.config.set(scheduler=scheduler),
                pytest.raises(ValueError, match=f"variable 's': .*{message}"),
            ):
                to_pytables(text.chunk(), path, encoding={"s": {"string": string}})
    assert not path.exists()
    assert not leftovers(path)


# -- attributes ---------------------------------------------------------------

ATTRIBUTES = {
    "text": "Zürich", "empty": "", "integer": 3, "real": 2.5, "complex": 1 + 2j, "bytes": b"a\0b", "padded": b"a\0",
    "no_pickle": b"N.", "no_bytes": b"", "bytes_inside": {"a": [b"x"]}, "none": None, "true": True,
    "numpy_bool": np.bool_(False), "mapping": {"a": [1, {"b": None}]}, "mixed": [1, "a", None],
    "texts": ["a", "Zürich", ""], "one_text": ["a"], "nothing": [], "nested": [[1, 2], [3]], "dots": "ends with .",
    "TITLE": "a title", "CLASS": "TABLE", "VERSION": 1, "FILTERS": 5, "NAME": "x", "_Netcdf4Dimid": 7,
    "DIMENSION_LIST": "me", "REFERENCE_LIST": [1], "FIELD_0_NAME": "f", "PYTABLES_FORMAT_VERSION": "9",
    "with space": 1, "ünï": 2, "a/b": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("where", ["dataset", "variable", "coordinate", "group"])
def test_any_attribute_comes_back(path, name, where):
    value = ATTRIBUTES[name]
    dataset = xr.Dataset({"v": ("x", [1, 2])}, coords={"x": [3, 4]})
    group = "/deep/er" if where == "group" else "/"
    node = {"dataset": dataset, "group": dataset, "variable": dataset.v, "coordinate": dataset.x}[where]
    node.attrs[name] = value
    to_pytables(dataset, path, group=group)
    actual = open_ours(path, group=group)
    back = {"variable": actual.v, "coordinate": actual.x}.get(where, actual).attrs
    assert list(back) == [name]
    np.testing.assert_equal(back[name], value)
    assert actual.x.dims == ("x",)


@pytest.mark.parametrize("dtype", ["i1", "u8", "f4", "f8", "c16", "S5"])
def test_array_attributes_come_back(path, dtype):
    value = np.arange(6).astype(dtype).reshape(2, 3)
    to_pytables(xr.Dataset(attrs={"a": value}), path)
    actual = open_ours(path).attrs["a"]
    if dtype == "S5":
        assert actual.tolist() == value.tolist()
    else:
        np.testing.assert_array_equal(actual, value)
        assert actual.dtype == value.dtype


def test_no_attribute_is_written_as_a_pickle(path):
    to_pytables(xr.Dataset(attrs=ATTRIBUTES), path)
    with h5py.File(path) as file:
        for name, value in file.attrs.items():
            with pytest.raises(
                (pickle.UnpicklingError, EOFError, TypeError, KeyError, ValueError, IndexError, AttributeError)
            ):
                pickle.loads(value if isinstance(value, bytes) else str(value).encode())
            assert name


LARGE = {
    "text": "\u00fc" * 60_000,
    "numbers": np.arange(20_000),
    "texts": ["some", "text" * 20_000],
    "json": {"a": ["x" * 70_000]},
}


@pytest.mark.parametrize("name", LARGE)
def test_large_attributes_come_back_to_every_reader(path, name):
    attrs = {"large": LARGE[name], **{f"m{number}": "y" * 50_000 for number in range(40)}}
    variables = {"v": (("t", "x"), np.arange(6.0).reshape(3, 2), attrs)}
    ds = xr.Dataset(variables, {"t": ("t", [1, 2, 3], attrs), "plain": ("x", [1.0, 2.0])}, attrs)
    tree = xr.DataTree.from_dict({"/": ds, "/g": ds.rename(t="s")})
    to_pytables(tree, path, unlimited_dims={"/": ["t"]}, encoding={"/": {"v": {"complib": "zlib"}}})
    xr.testing.assert_identical(xr.open_datatree(path, engine="pytables").load(), tree)
    for engine in ("netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as other:
            xr.testing.assert_equal(other, ds)
            for found in (other, other.v, other.t):
                assert len(found.attrs["m7"]) == 50_000
                if name == "text":
                    assert found.attrs["large"] == LARGE["text"]
    with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path) as file:
        assert len(file.root.g.v._v_attrs.m39) == 50_000
        np.testing.assert_array_equal(file.root.v[:], ds.v)
        if name == "numbers":
            np.testing.assert_array_equal(file.root._v_attrs.large, LARGE["numbers"])
    to_pytables(ds.isel(t=[0]).assign_coords(t=[4]).drop_vars("plain"), path, append_dim="t")
    with xr.open_dataset(path, engine="pytables") as grown:
        np.testing.assert_array_equal(grown.t, [1, 2, 3, 4])
        assert grown.v.attrs.keys() == attrs.keys()


def test_only_objects_with_large_attributes_get_another_header(path):
    to_pytables(xr.Dataset({"v": ("x", [1.0], {"a": "b" * 60_000}), "w": ("x", [1.0])}), path)
    assert b"OHDR" not in path.read_bytes()
    to_pytables(xr.Dataset({"v": ("x", [1.0], {"a": "b" * 60_001}), "w": ("x", [1.0])}), path)
    assert path.read_bytes().count(b"OHDR") == 1


def test_thousands_of_attributes_come_back(path):
    ds = xr.Dataset({"v": ((), 1, {f"a{number}": "x" * 1000 for number in range(3000)})}, attrs={"n": 1})
    to_pytables(ds, path)
    xr.testing.assert_identical(open_ours(path), ds)


@pytest.mark.parametrize("mode", ["a", "w"])
def test_large_attributes_in_a_file_that_is_there(path, mode):
    to_pytables(xr.Dataset({"v": ("x", [1.0], {"a": 1})}, attrs={"n": 1}), path)
    before = path.read_bytes()
    large = xr.Dataset({"v": ("x", [2.0], {"a": "b" * 100_000})})
    to_pytables(large, path, mode=mode)
    assert open_ours(path)["v"].attrs == large["v"].attrs
    path.write_bytes(before)
    if mode == "a":
        with pytest.raises(ValueError, match=r"file\.h5:/: attribute 'n' takes more than 64 KB.*mode='w'"):
            to_pytables(large.assign_attrs(n="b" * 100_000), path, mode="a")
        assert path.read_bytes() == before
    to_pytables(large.assign_attrs(n="b" * 100_000), path)
    assert len(open_ours(path).attrs["n"]) == 100_000


@pytest.mark.parametrize(
    "value",
    [
        np.ma.array([1.0, 2.0], mask=[False, True]),
        np.ma.array([True, False], mask=[False, True]),
        np.ma.array([(1, 2.0)], "i4,f8", mask=[(False, True)]),
        {"nested": [np.ma.array([1], mask=[True])]},
        np.ma.masked,
    ],
    ids=["numbers", "truth", "records", "nested", "masked"],
)
def test_masked_elements_in_attributes_are_refused(path, value):
    with pytest.raises(TypeError, match=r"file\.h5:/: variable 'v': attribute 'a' .* masked elements: .* \.filled\(\)"):
        to_pytables(xr.Dataset({"v": ((), 1, {"a": value})}), path)
    assert not path.exists()


def test_masked_arrays_without_a_masked_element_are_attributes(path):
    to_pytables(xr.Dataset(attrs={"a": np.ma.array([1.0, 2.0]), "b": np.ma.array([3], mask=[False])}), path)
    with open_ours(path) as ds:
        assert (ds.attrs["a"].tolist(), ds.attrs["b"].tolist()) == ([1.0, 2.0], [3])


def test_attributes_that_hdf5_cannot_hold_are_refused(path, monkeypatch):
    for value, error in (
        (object(), TypeError),
        ({1, 2}, TypeError),
    ):
        with pytest.raises(error, match=r"file\.h5:/: variable 'v': attribute 'a'"):
            to_pytables(xr.Dataset({"v": ((), 1, {"a": value})}), path)
    monkeypatch.setattr(attributes, "MAX_BYTES", 100_000)
    for value in (np.zeros(20_000), "x" * 100_001):
        with pytest.raises(
            ValueError, match=r"'a' takes 1\d* bytes; at most 100000 are read again. Store it as a variable"
        ):
            to_pytables(xr.Dataset({"v": ((), 1, {"a": value})}), path)
    with pytest.raises(TypeError, match="attribute name 5 is not a string"):
        to_pytables(xr.Dataset(attrs={5: 1}), path)
    with pytest.raises(ValueError, match=r"file\.h5:/: attribute name 'nnn.* of 70000 letters is too long for HDF5"):
        to_pytables(xr.Dataset(attrs={"n" * 70_000: 1}), path)
    assert not leftovers(path)
    assert not path.exists()


# -- what was read from files of other programs -------------------------------


TIMES = np.array(["2000-01-01T00:00:01", "NaT"], "M8[us]")
RECORD = np.dtype([("a", "i4"), ("b", "f8", (2,)), ("s", "S3")])
RECORDS = np.array([[(1, (2.5, 3.5), b"xy"), (3, (4.5, 0.0), b"")]], RECORD)
READ_VALUES = {
    "times": (TIMES.astype(h5py.opaque_dtype(TIMES.dtype)), TIMES.astype("M8[ns]")),
    "durations": (np.array([1, 2], "m8[s]").astype(h5py.opaque_dtype(np.dtype("m8[s]"))), np.array([1, 2], "m8[s]")),
    "bytes": (np.array([b"ab\0c", b"defg"]).astype("V4"), np.array([b"ab\0c", b"defg"]).astype("V4")),
    "records": (RECORDS, RECORDS),
    "a record": (RECORDS[0, 0], RECORDS[0, 0]),
}
READ_ATTRIBUTES = {
    "time": (TIMES[:1].astype(h5py.opaque_dtype(TIMES.dtype)), TIMES[0]),
    "times": (TIMES.astype(h5py.opaque_dtype(TIMES.dtype)), TIMES),
    "bytes": (np.void(b"ab\0c\0"), np.void(b"ab\0c\0")),
    "record": (RECORDS[0, 0], RECORDS[0, 0]),
    "records": (RECORDS, RECORDS),
}


@pytest.mark.parametrize("kind", ["dataset", "tree"])
@pytest.mark.parametrize("name", READ_VALUES)
def test_values_of_other_programs_are_written_again(path, name, kind):
    stored, expected = READ_VALUES[name]
    with h5py.File(path.with_name("read.h5"), "w") as file:
        file["v"] = stored
    again = {"dataset": xr.open_dataset, "tree": xr.open_datatree}[kind]
    with again(path.with_name("read.h5"), engine="pytables") as read:
        to_pytables(read, path)
    actual = open_ours(path)["v"].values
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == expected.dtype


@pytest.mark.parametrize("name", ["times", "durations"])
@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_opaque_times_are_saved_by_other_engines(path, name, engine):
    with h5py.File(path.with_name("read.h5"), "w") as file:
        file["v"] = READ_VALUES[name][0]
    with xr.open_dataset(path.with_name("read.h5"), engine="pytables") as read:
        read.to_netcdf(path, engine=engine)
        with xr.open_dataset(path, engine=engine) as back:
            np.testing.assert_array_equal(back["v"], read["v"])


@pytest.mark.parametrize("name", READ_ATTRIBUTES)
@pytest.mark.parametrize("where", ["array", "group"])
def test_attributes_of_other_programs_are_written_again(path, name, where):
    stored, expected = READ_ATTRIBUTES[name]
    with h5py.File(path.with_name("read.h5"), "w") as file:
        file["v"] = np.arange(3)
        (file["v"] if where == "array" else file).attrs["odd"] = stored
    with xr.open_dataset(path.with_name("read.h5"), engine="pytables") as read:
        to_pytables(read, path)
    actual = open_ours(path)
    found = (actual["v"] if where == "array" else actual).attrs["odd"]
    np.testing.assert_array_equal(found, expected)
    assert np.asarray(found).dtype == expected.dtype
    with h5py.File(path) as file:
        assert np.asarray((file["v"] if where == "array" else file).attrs["odd"]).dtype.kind == expected.dtype.kind
    for engine in ("netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as other:
            np.testing.assert_array_equal(other["v"], [0, 1, 2])
    with pytest.warns(tables.exceptions.DataTypeWarning), tables.open_file(path) as file:
        assert file.root.v[:].tolist() == [0, 1, 2]


def test_what_was_read_and_has_no_form_costs_a_tree_nothing_else(path):
    with tables.open_file(path.with_name("read.h5"), "w") as file:
        group = file.create_group("/", "g")
        file.create_array(group, "v", [1, 2, 3])
        group.v.attrs.odd, group._v_attrs.odd, group.v.attrs.units = {1, 2}, {3}, "m"
        file.create_vlarray(group, "objects", tables.ObjectAtom()).append([1, 2])
    with (
        xr.open_datatree(path.with_name("read.h5"), engine="pytables") as tree,
        pytest.warns(UserWarning, match="left out") as caught,
    ):
        to_pytables(tree, path)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 3
    assert all(str(path) + ":/g: " in each and "read from a file, and is left out" in each for each in said)
    assert [
        sum(what in each for each in said) for what in ("'objects'", "'v': attribute 'odd'", "attribute 'odd'")
    ] == [1, 1, 2]
    with xr.open_dataset(path, engine="pytables", group="/g") as back:
        assert back["v"].values.tolist() == [1, 2, 3]
        assert back["v"].attrs == {"units": "m"}
        assert list(back) == ["v"]


def test_a_row_of_records_is_a_table(path):
    with pytest.raises(TypeError, match=r"file\.h5:/: variable 'v': a row of records is a table.*layout='table'"):
        to_pytables(xr.Dataset({"v": ("x", RECORDS[0])}), path)


# -- four readers -------------------------------------------------------------


def test_four_readers_agree_on_dimensions_and_values(path):
    dataset = field()
    to_pytables(dataset, path, filters=tables.Filters(complevel=4, complib="zlib"), unlimited_dims=["time"])
    xr.testing.assert_identical(open_ours(path), dataset)
    for engine in ("netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as other:
            xr.testing.assert_equal(other, dataset)
            assert {name: other[name].dims for name in other} == {name: dataset[name].dims for name in dataset}
            assert other.encoding["unlimited_dims"] == {"time"}
    with h5py.File(path) as file:
        assert [[scale.name for scale in axis.values()] for axis in file["t2m"].dims] == [["/time"], ["/lat"], ["/lon"]]
        assert [[scale.name for scale in axis.values()] for axis in file["swapped"].dims] == [["/lon"], ["/time"]]
        np.testing.assert_array_equal(file["t2m"], dataset.t2m)
    with open_tables(path) as file:
        np.testing.assert_array_equal(file.root.t2m[:], dataset.t2m)
        assert file.root.t2m.attrs.units == "K"
        assert isinstance(file.root.t2m, tables.EArray)
        assert isinstance(file.root.area, tables.CArray)


def test_groups_inherit_dimensions_for_every_reader(path):
    tree = xr.DataTree.from_dict(
        {
            "/": field(),
            "/sub": xr.Dataset({"v": (("lat", "extra"), np.ones((4, 4)))}),
            "/empty": xr.Dataset(attrs={"a": 1}),
        }
    )
    to_pytables(tree, path)
    with xr.open_datatree(path, engine="pytables") as actual:
        xr.testing.assert_identical(actual.load(), tree)
    with xr.open_datatree(path, engine="netcdf4") as other:
        assert other["sub"]["v"].dims == ("lat", "extra")
        assert "lat" not in other["sub"].to_dataset(inherit=False)
    with h5py.File(path) as file:
        assert [[scale.name for scale in axis.values()] for axis in file["sub/v"].dims] == [["/lat"], ["/sub/extra"]]


def test_a_variable_named_as_a_dimension_that_it_does_not_describe(path):
    dataset = xr.Dataset({"x": (("y",), [1.0, 2.0]), "v": (("x", "y"), np.zeros((3, 2)))})
    to_pytables(dataset, path)
    xr.testing.assert_identical(open_ours(path), dataset)
    with xr.open_dataset(path, engine="netcdf4") as other:
        xr.testing.assert_equal(other, dataset)


def test_variables_keep_their_order(path):
    names = ["zebra", "ant", "Mouse", "_x", "b2"]
    to_pytables(xr.Dataset({name: ("q", [1]) for name in names}), path)
    assert list(open_ours(path)) == names


@pytest.mark.parametrize("dtype", ["f4", "u1", "bool", "S4"])
def test_pytables_appends_along_an_unlimited_dimension(path, dtype):
    values = np.ones((3, 2), dtype)
    dataset = xr.Dataset({"v": (("t", "x"), values), "w": ("t", values[:, 0])})
    to_pytables(dataset, path, unlimited_dims=["t"])
    with open_tables(path, "a") as file:
        for leaf, row in ((file.root.v, values[:1]), (file.root.w, values[:1, 0])):
            assert isinstance(leaf, tables.EArray)
            leaf.append(row)
    with xr.open_dataset(path, engine="pytables") as again:
        assert again["v"].attrs == again["w"].attrs == {}
        np.testing.assert_array_equal(again["v"].values, np.ones((4, 2), dtype))
    to_pytables(dataset, path, append_dim="t")
    with open_tables(path) as file:
        assert file.root.v.shape == (7, 2)


def test_plain_pytables_appends_to_what_we_wrote(path):
    dataset = field().drop_vars("time")
    to_pytables(dataset, path, unlimited_dims=["time"], encoding={"t2m": {"complib": "blosc2:zstd", "complevel": 3}})
    with open_tables(path, "a") as file:
        file.root.t2m.append(dataset.t2m.values[:2])
    actual = open_ours(path, drop_variables=["swapped", "time"]).t2m
    np.testing.assert_array_equal(actual, np.concatenate([dataset.t2m, dataset.t2m[:2]]))


def test_no_pytables_attribute_is_written_but_the_format_version(path):
    to_pytables(field(), path)
    with h5py.File(path) as file:
        assert file.attrs["PYTABLES_FORMAT_VERSION"] in (b"2.1", "2.1")
        assert not {"CLASS", "TITLE", "VERSION", "FLAVOR"} & set(file["t2m"].attrs)
        assert "REFERENCE_LIST" not in file["lat"].attrs


# -- encoding -----------------------------------------------------------------


def test_an_unknown_encoding_key_is_an_error_in_the_argument_and_advice_on_the_variable(path):
    dataset = field()
    with pytest.raises(ValueError, match=r"variable 't2m': unexpected encoding parameters 'complb'"):
        to_pytables(dataset, path, encoding={"t2m": {"complb": "zlib"}})
    dataset.t2m.encoding = {"complb": "zlib", "zstd": True, "preferred_chunks": {}}
    to_pytables(dataset, path)
    xr.testing.assert_identical(open_ours(path), dataset)


def test_mode_may_be_positional_as_in_to_netcdf(path):
    to_pytables(field(), path, "w")
    with pytest.raises(FileExistsError):
        to_pytables(field(), path, "w-")
    to_pytables(xr.Dataset({"b": ("z", [1.0])}), path, "a")
    assert set(open_ours(path).data_vars) == {*field().data_vars, "b"}


HINTS = [
    ("compressors", None, "complib='blosc:zstd' instead of 'compressors'"),
    ("compressor", None, "complib='blosc:zstd' instead of 'compressor'"),
    ("filters", None, "to_pytables\\(filters=tables.Filters"),
    ("shards", (2,), "chunksizes"),
    ("fill_value", 0, "_FillValue instead of 'fill_value'"),
    ("chunksize", (2,), "'chunksizes' instead of 'chunksize'"),
    ("scale_facter", 2, "'scale_factor' instead of"),
    ("complib", "zstd", "Did you mean 'blosc:zstd' or 'blosc2:zstd' instead"),
    ("complib", "lz4", "'blosc:lz4'"),
    ("complib", "gzip", "Did you mean 'zlib' instead"),
]


@pytest.mark.parametrize(("key", "value", "message"), HINTS)
def test_words_of_other_writers_get_a_hint(path, key, value, message):
    with pytest.raises(ValueError, match=rf"file\.h5:/: variable 'a': .*{message}"):
        to_pytables(xr.Dataset({"a": ("x", [1.0, 2.0])}), path, encoding={"a": {key: value}})
    assert not path.exists()


BAD_ENCODINGS = [
    ({"complib": "lzo", "complevel": 1}, ValueError, "lzo.*not part of this build"),
    ({"complib": "zip"}, ValueError, "complib 'zip' is unknown"),
    ({"complib": "blosc:snappy"}, ValueError, "is unknown"),
    ({"complib": "zlib", "complevel": 10}, ValueError, "complevel must be from 0 to 9"),
    ({"complevel": 5}, ValueError, "need a complib"),
    ({"calendar": "noleap"}, ValueError, "encoding 'calendar' means nothing for values of this kind"),
    ({"zlib": True, "complib": "bzip2"}, ValueError, "contradict"),
    ({"complib": "zlib", "bitshuffle": True}, ValueError, "bitshuffle needs"),
    ({"complib": "blosc:lz4", "bitshuffle": True, "shuffle": True}, ValueError, "cannot both"),
    ({"chunksizes": (2, 2)}, ValueError, r"must be 3 positive integers"),
    ({"chunksizes": (2, 0, 1)}, ValueError, r"must be 3 positive integers"),
    ({"chunksizes": (2, 9, 1)}, ValueError, r"9 for dimension 'lat', which has 4"),
    ({"chunksizes": 4}, ValueError, r"sequence of integers"),
    ({"chunksizes": (1, 1, 1), "contiguous": True}, ValueError, "neither chunksizes"),
    ({"contiguous": True, "zlib": True}, ValueError, "contiguous arrays have no filters"),
    ({"least_significant_digit": "a"}, ValueError, "must be an integer"),
    ({"least_significant_digit": 400}, ValueError, "must be an integer"),
    (None, ValueError, r"encoding\['t2m'\] must be castable to dict, not None"),
    ("zlib", ValueError, r"encoding\['t2m'\] must be castable to dict, not 'zlib'"),
    ({5: 1}, ValueError, r"encoding\['t2m'\] has the key 5, which is no text"),
]


@pytest.mark.parametrize("how", [{"mode": "a"}, {"mode": "r+"}, {"append_dim": "t"}, {"region": {"t": slice(0, 3)}}])
def test_an_array_there_with_a_compressor_that_pytables_lacks_is_left_or_made_anew(path, how, monkeypatch):
    with h5py.File(path, "w") as file:
        for name, grows in (("v", None), ("x", 3)):
            file.create_dataset(name, data=np.arange(3.0), maxshape=(grows,), chunks=(2,), compression="lzf")
            file[name].attrs["_ARRAY_DIMENSIONS"] = ["t" if name == "v" else "x"]
    monkeypatch.setattr(writer, "filter_available", lambda number: number != 32000)
    old, values = path.read_bytes(), xr.Dataset({"v": ("t", [3.0, 4, 5])})
    with pytest.raises(
        ValueError, match=r"file\.h5:/v: the compressor 'lzf' is not part.* encoding, with mode=a alone"
    ):
        to_pytables(values, path, **how)
    assert path.read_bytes() == old
    to_pytables(values, path, mode="a", encoding={"v": {"complib": "zlib"}}, unlimited_dims=["t"])
    more = values.assign(v=values["v"] + 3, x=("x", np.arange(3.0)))
    to_pytables(more, path, append_dim="t")  # beside a coordinate that stays as it is
    with xr.open_dataset(path, engine="pytables") as ds:
        assert ds["v"].values.tolist() == [3, 4, 5, 6, 7, 8]
        assert ds["x"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("layout", ["arrays", "table"])
@pytest.mark.parametrize("checksums", [True, False])
def test_an_encoding_that_maps_no_names_is_refused(path, layout, checksums):
    for obj, encoding, message in [
        (field(), "zlib", "file.h5:/: encoding must be castable to dict, not 'zlib'"),
        (xr.DataTree(field()), {"/": None}, r"file.h5:/: encoding\['/'\] must be castable to dict, not None"),
        (xr.DataTree(field()), {"/": {"t2m": 5}}, r"file.h5:/: encoding\['/'\]\['t2m'\] must be castable to dict"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_pytables(obj, path, encoding=encoding, layout=layout, checksums=checksums)


@pytest.mark.parametrize(("encoding", "error", "message"), BAD_ENCODINGS)
def test_bad_encoding_is_refused_before_the_disk_is_touched(path, encoding, error, message):
    path.write_bytes(b"precious")
    with pytest.raises(error, match=message) as raised:
        to_pytables(field(), path, encoding={"t2m": encoding})
    assert "file.h5:/" in str(raised.value)
    assert "t2m" in str(raised.value)
    assert path.read_bytes() == b"precious"
    assert not leftovers(path)


def test_bad_string_encoding_is_refused(path):
    with pytest.raises(ValueError, match=r"variable 's': encoding string must be one of"):
        to_pytables(xr.Dataset({"s": ("x", ["a"])}), path, encoding={"s": {"string": "long"}})


def test_contiguous_and_chunked_storage(path):
    dataset = field()
    to_pytables(dataset, path, encoding={"t2m": {"contiguous": True}, "area": {"chunksizes": (1, 4)}})
    actual = open_ours(path)
    assert actual.t2m.encoding["contiguous"] is True
    assert actual.area.encoding["chunksizes"] == (1, 4)


def test_filters_of_pytables_apply_to_all_that_encoding_does_not_name(path):
    filters = tables.Filters(complevel=7, complib="blosc2:lz4", bitshuffle=True)
    to_pytables(
        field(), path, filters=filters, encoding={"area": {"complib": "zlib", "complevel": 2, "bitshuffle": False}}
    )
    actual = open_ours(path)
    assert (actual.t2m.encoding["complib"], actual.t2m.encoding["complevel"]) == ("blosc2:lz4", 7)
    assert actual.t2m.encoding["bitshuffle"] is True
    assert (actual.area.encoding["complib"], actual.area.encoding["complevel"]) == ("zlib", 2)
    assert actual.t2m.encoding["fletcher32"] is True
    with pytest.raises(TypeError, match=r"filters must be a tables\.Filters"):
        to_pytables(field(), path, filters={"complevel": 1})


def test_the_encoding_that_was_read_is_used_again(path):
    first = {"complib": "blosc:lz4", "complevel": 3, "chunksizes": (2, 2, 4), "dtype": ">f8"}
    to_pytables(field(), path, encoding={"t2m": first})
    again = open_ours(path)
    to_pytables(again, path)
    encoding = open_ours(path).t2m.encoding
    assert {key: encoding[key] for key in first} == {**first, "dtype": np.dtype(">f8")}


def test_encodings_left_by_other_engines_are_understood(path):
    for engine in ("netcdf4", "h5netcdf"):
        source = path.with_name(f"{engine}.nc")
        field().to_netcdf(source, engine=engine, encoding={"t2m": {"zlib": True, "complevel": 6}})
        with xr.open_dataset(source, engine=engine) as dataset:
            to_pytables(dataset, path)
        encoding = open_ours(path).t2m.encoding
        assert (encoding["complib"], encoding["complevel"]) == ("zlib", 6)
        assert encoding["fletcher32"] is True  # netCDF4 leaves fletcher32=False on all it reads
        xr.testing.assert_equal(open_ours(path), field())


def test_dask_chunks_become_chunks_on_disk(path):
    data = dask.array.zeros((10, 20), chunks=(3, 7))
    to_pytables(xr.Dataset({"x": (("a", "b"), data)}), path)
    assert open_ours(path).x.encoding["chunksizes"] == (3, 7)
    big = dask.array.zeros((4096, 4096), chunks=(2048, 4096))
    to_pytables(xr.Dataset({"x": (("a", "b"), big)}), path, fsync=False)
    with xr.open_dataset(path, engine="pytables") as dataset:
        rows, columns = dataset.x.encoding["chunksizes"]
        assert 2048 % rows == 0
        assert 4096 % columns == 0
        assert 1 << 20 <= rows * columns * 8 <= 4 << 20


def test_a_block_of_prime_length_is_not_cut_into_single_elements(path):
    length = 2_500_009  # a prime, and more than one block may have as one chunk
    to_pytables(xr.Dataset({"x": ("a", dask.array.ones(length, chunks=-1))}), path, fsync=False)
    with xr.open_dataset(path, engine="pytables") as dataset:
        (chunk,) = dataset.x.encoding["chunksizes"]
        assert 100_000 < chunk <= 4 * 2**20 // 8
        assert dataset.x.sum() == length


def test_files_keep_their_format_when_hdf5_makes_newer_ones_by_default(path, monkeypatch):
    """As HDF5 2 does: its lowest version of a new file is 1.8, with other superblocks, headers and indexes."""
    dataset = xr.Dataset({"v": (("t", "x"), np.arange(12.0).reshape(3, 4))}, attrs={"a": 1})
    to_pytables(dataset, path, unlimited_dims=["t"])
    expected = path.read_bytes()
    assert expected[8] == 0  # the version of the superblock
    real = libhdf5.call

    def newer(name: str, *args: object) -> int:
        result = real(name, *args)
        if name == "H5Pcreate" and args == (libhdf5.constant("H5P_CLS_FILE_ACCESS_ID_g"),):
            real("H5Pset_libver_bounds", result, 2, 2)
        return result

    monkeypatch.setattr(libhdf5, "call", newer)
    to_pytables(dataset, path, unlimited_dims=["t"])
    assert len(path.read_bytes()) == len(expected)
    assert path.read_bytes()[8] == 0
    to_pytables(dataset.isel(t=[0]), path, append_dim="t")
    xr.testing.assert_equal(open_ours(path).v[:3], dataset.v)


# -- modes --------------------------------------------------------------------


def test_mode_w_replaces_and_w_minus_refuses(path):
    to_pytables(xr.Dataset({"old": 1}), path)
    to_pytables(xr.Dataset({"new": 2}), path)
    assert list(open_ours(path)) == ["new"]
    for mode in ("w-", "x"):
        with pytest.raises(FileExistsError, match=r"file\.h5.*already exists"):
            to_pytables(xr.Dataset({"newer": 3}), path, mode=mode)
    assert list(open_ours(path)) == ["new"]
    path.unlink()
    to_pytables(xr.Dataset({"newer": 3}), path, mode="x")
    assert list(open_ours(path)) == ["newer"]
    assert not leftovers(path)


def test_mode_a_adds_groups_and_variables(path):
    to_pytables(field(), path, mode="a")
    to_pytables(xr.Dataset({"extra": ("lat", [1, 2, 3, 4])}, attrs={"more": 1}), path, mode="a")
    to_pytables(xr.Dataset({"deep": ("lat", [1, 2, 3, 4])}), path, mode="a", group="g/h")
    actual = open_ours(path)
    xr.testing.assert_identical(actual.drop_vars("extra").assign_attrs(more=0), field().assign_attrs(more=0))
    assert actual.extra.dims == ("lat",)
    assert actual.attrs == {**field().attrs, "more": 1}
    with h5py.File(path) as file:
        assert file["g/h/deep"].dims[0][0].name == "/lat"  # the dimension of the group above


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2"])
def test_mode_a_replaces_a_coordinate_and_others_still_refer_to_it(path, dtype):
    to_pytables(field(), path)
    to_pytables(xr.Dataset(coords={"lat": np.arange(10, 14).astype(dtype)}), path, mode="a")
    expected = field().assign_coords(lat=np.arange(10, 14).astype(dtype))
    actual = open_ours(path)
    xr.testing.assert_equal(actual, expected)
    assert actual.lat.dtype == dtype
    with h5py.File(path) as file:
        assert file["area"].dims[0][0].name == "/lat"
    for engine in ("netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as other:
            xr.testing.assert_equal(other, expected)


def test_mode_a_gives_values_to_a_dimension(path):
    to_pytables(field(), path)
    to_pytables(xr.Dataset(coords={"lon": [5.0, 6.0, 7.0, 8.0]}), path, mode="a")
    expected = field().assign_coords(lon=[5.0, 6.0, 7.0, 8.0])
    for engine in ("pytables", "netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as other:
            xr.testing.assert_equal(other, expected)


def test_mode_a_replaces_a_variable_of_another_shape(path):
    to_pytables(field(), path)
    to_pytables(xr.Dataset({"area": (("lat", "new"), np.ones((4, 7)))}), path, mode="a")
    assert open_ours(path).area.sizes == {"lat": 4, "new": 7}
    with pytest.raises(ValueError, match="Unable to update size for existing dimension 'lat'"):
        to_pytables(xr.Dataset({"area": (("lat",), np.ones(5))}), path, mode="a")


def test_mode_a_on_a_file_of_plain_pytables(path):
    with tables.open_file(path, "w", title="theirs") as file:
        group = file.create_group("/", "experiment1")
        group._v_attrs.data = "2014-09-01"
        file.create_array(group, "array1", np.arange(12.0).reshape(3, 4))
        file.create_table("/", "events", np.array([(1, 2.0)], "i4,f8"))
    to_pytables(xr.Dataset({"array2": ("x", [1, 2])}), path, mode="a", group="/experiment1")
    actual = open_ours(path, group="/experiment1")
    assert actual.array2.values.tolist() == [1, 2]
    assert actual.attrs == {"data": "2014-09-01"}
    with open_tables(path) as file:
        assert file.title == "theirs"
        assert file.root.experiment1.array1[1].tolist() == [4, 5, 6, 7]
        assert file.root.events[:].tolist() == [(1, 2.0)]


def test_mode_r_plus_sets_values_and_nothing_else(path):
    dataset = field()
    dataset.time.encoding = {"units": "hours since 1990-01-01", "dtype": "f8"}
    to_pytables(dataset, path, encoding={"area": {"dtype": "i2", "scale_factor": 0.001, "_FillValue": -9}})
    change = xr.Dataset(
        {
            "area": (("lat", "lon"), np.full((4, 4), 0.125), {"ignored": 1}),
            "time": pd.date_range("2010-01-01", periods=4),
        }
    )
    to_pytables(change, path, mode="r+")
    actual = open_ours(path)
    np.testing.assert_allclose(actual.area, 0.125)
    assert actual.time.values[0] == np.datetime64("2010-01-01")
    assert actual.time.encoding["units"] == "hours since 1990-01-01"
    assert actual.area.encoding["dtype"] == "i2"
    assert "ignored" not in actual.area.attrs
    xr.testing.assert_identical(actual.t2m.drop_vars("time"), dataset.t2m.drop_vars("time"))
    with pytest.raises(ValueError, match=r"there is no array 'new'.*mode='a' adds it"):
        to_pytables(xr.Dataset({"new": 1}), path, mode="r+")
    with pytest.raises(ValueError, match="Unable to update size"):
        to_pytables(xr.Dataset({"area": (("lat", "lon"), np.zeros((2, 2)))}), path, mode="r+")
    with pytest.raises(FileNotFoundError, match=r"no\.h5"):
        to_pytables(change, path.with_name("no.h5"), mode="r+")


def test_mode_a_follows_the_encoding_for_a_variable_that_is_there(path):
    dataset = xr.Dataset({"t": ("x", np.arange(3.0))})
    to_pytables(dataset, path, encoding={"t": {"chunksizes": (1,)}})
    to_pytables(dataset + 1, path, mode="a")
    assert open_ours(path).t.encoding["chunksizes"] == (1,)  # nobody asked for other chunks
    to_pytables(dataset + 2, path, mode="a", encoding={"t": {"complib": "zlib", "chunksizes": (2,)}})
    actual = open_ours(path).t
    assert actual.values.tolist() == [2, 3, 4]
    assert (actual.encoding["complib"], actual.encoding["chunksizes"]) == ("zlib", (2,))
    to_pytables(dataset, path, mode="a", filters=tables.Filters(complevel=1, complib="blosc:lz4"))
    assert open_ours(path).t.encoding["complib"] == "blosc:lz4"


def test_mode_a_makes_an_array_of_pytables_a_coordinate(path):
    with tables.open_file(path, "w") as file:
        file.create_array("/", "x", np.arange(3.0))
    to_pytables(xr.Dataset({"v": ("x", [1, 2, 3])}, coords={"x": [5.0, 6.0, 7.0]}), path, mode="a")
    for engine in ("pytables", "netcdf4", "h5netcdf"):
        with xr.open_dataset(path, engine=engine) as actual:
            assert actual.v.dims == ("x",)
            assert actual.x.values.tolist() == [5, 6, 7]


def test_mode_a_changes_whether_a_variable_is_a_coordinate(path):
    to_pytables(xr.Dataset({"v": ("x", [1, 2, 3])}, coords={"x": [5.0, 6.0, 7.0]}), path)
    to_pytables(xr.Dataset({"x": ("y", [8.0, 9.0])}), path, mode="a")
    for engine in ("pytables", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as actual:
            xr.testing.assert_equal(actual, xr.Dataset({"v": ("x", [1, 2, 3]), "x": ("y", [8.0, 9.0])}))
    to_pytables(xr.Dataset(coords={"x": [1.0, 2.0, 4.0]}), path, mode="a")
    with h5py.File(path) as file:
        assert sorted(file) == ["v", "x", "y"]
        assert file["v"].dims[0][0].name == "/x"
    assert open_ours(path).x.values.tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="'x' is a dimension in the file; a variable without dimensions"):
        to_pytables(xr.Dataset({"x": 3.5}), path, mode="a")


def test_mode_a_keeps_attributes_that_are_stored_as_json(path):
    to_pytables(xr.Dataset(attrs={"a": True, "b": None, "c": {"d": 1}}), path)
    to_pytables(xr.Dataset(attrs={"e": [1, "x"], "b": "true"}), path, mode="a")
    assert open_ours(path).attrs == {"a": True, "c": {"d": 1}, "b": "true", "e": [1, "x"]}
    to_pytables(xr.Dataset(attrs={"a": 1, "c": 2, "e": 3}), path, mode="a")
    assert open_ours(path).attrs == {"a": 1, "b": "true", "c": 2, "e": 3}


def test_mode_a_replaces_an_enumeration_by_numbers(path):
    dtype = np.dtype("u1", metadata={"enum": {"clear": 0, "cloudy": 1}})
    to_pytables(xr.Dataset({"sky": ("x", np.array([0, 1, 1], dtype))}), path)
    to_pytables(xr.Dataset({"sky": ("x", np.array([0, 1, 7], "u1"))}), path, mode="a")
    actual = open_ours(path).sky
    assert actual.values.tolist() == [0, 1, 7]
    assert not actual.attrs
    with h5py.File(path) as file:
        assert h5py.check_enum_dtype(file["sky"].dtype) is None


def test_mode_a_lets_grow_what_grows_in_the_file(path):
    to_pytables(xr.Dataset({"t": ("time", [0.0, 1.0])}), path, unlimited_dims=["time"])
    to_pytables(xr.Dataset({"u": ("time", [2.0, 3.0])}), path, mode="a")
    to_pytables(xr.Dataset({"w": ("time", [2.0, 3.0])}), path, mode="a", group="g")
    to_pytables(xr.Dataset(coords={"time": np.array([4, 5], "i2")}), path, mode="a")
    with h5py.File(path) as file:
        assert [file[name].maxshape for name in ("t", "u", "g/w", "time")] == [(None,)] * 4
    with netCDF4.Dataset(path, "a") as file:
        file["t"][2] = 9.0
        assert file["u"][:].filled(-1).tolist() == [2, 3, -1]
    to_pytables(xr.Dataset({"t": ("x", [0.0, 1.0])}), path)
    with pytest.raises(ValueError, match="dimension 'x' is /x in the file, which cannot grow"):
        to_pytables(xr.Dataset({"u": ("x", [2.0, 3.0])}), path, mode="a", unlimited_dims=["x"])


@pytest.mark.parametrize(
    ("dataset", "group", "message"),
    [
        (xr.Dataset({"w": ("v", [1, 2])}), "/", "'v' is an array in the file; a new dimension"),
        (xr.Dataset({"w": ("g", [1, 2])}), "/", "'/g' is a group; a dimension cannot"),
        (xr.Dataset({"g": ("x", [1, 2])}), "/", "'/g' is a group; a variable cannot"),
        (xr.Dataset({"table": ("x", [1, 2])}), "/", "'table' is a table in the file; a new variable"),
        (xr.Dataset({"w": ("table", [1, 2])}), "/", "'table' is a table in the file; a new dimension"),
        (xr.Dataset({"w": 1}), "/x", "'/x' is a dimension, so '/x' cannot be a group"),
        (xr.Dataset({"w": 1}), "/table/g", "'/table' is a table, so '/table/g' cannot"),
        (xr.Dataset({"w": 1}), "/external", "'/external' is something else .*external link"),
        (xr.Dataset({"w": 1}), "/external/new", "'/external' is something else .*external link"),
        (xr.Dataset({"w": 1}), "/soft", "'/soft' is a link to a group"),
        (xr.Dataset({"w": 1}), "/soft/new", "'/soft' is a link to a group"),
        (xr.Dataset({"w": 1}), "/second", "'/second' is a link to a group"),
        (xr.Dataset({"w": 1}), "/dangling", "'/dangling' is something else .*no '/nowhere'"),
        (xr.Dataset({"alias": 1}), "/", "'alias' is a link to the array '/v'"),
        (xr.Dataset({"external": 1}), "/", "'external' is something else .*external link"),
        (xr.Dataset({"w": ("x", [1, 2, 3, 4])}), "/g", "dimension 'x' would have 4 elements, but the array '/g/u'"),
        (xr.Dataset({"w": ("dim_4", [1, 2])}), "/", "dimension 'dim_4' would have 2 elements, but the array '/plain'"),
    ],
)
def test_mode_a_refuses_names_and_sizes_that_are_taken(path, dataset, group, message):
    other = path.with_name("other.h5")
    to_pytables(xr.Dataset({"w": ("x", [1.0, 2.0])}), other)
    to_pytables(xr.Dataset({"v": ("x", [1, 2])}), path)
    to_pytables(xr.Dataset({"u": ("x", [1, 2])}), path, mode="a", group="g")
    with open_tables(path, "a") as file:
        file.create_table("/", "table", np.array([(1, 2.0)], "i4,f8"))
        file.create_array("/", "plain", np.arange(4))
        file.create_external_link("/", "external", "other.h5:/")
        file.create_soft_link("/", "soft", "/g")
        file.create_soft_link("/", "alias", "/v")
        file.create_soft_link("/", "dangling", "/nowhere")
        file.create_hard_link("/", "second", "/g")
    before = path.read_bytes(), other.read_bytes()
    with pytest.raises(ValueError, match=message):
        to_pytables(dataset, path, mode="a", group=group)
    assert (path.read_bytes(), other.read_bytes()) == before
    assert leftovers(path) == ["other.h5"]


def test_mode_r_plus_sets_values_in_a_file_of_plain_pytables(path):
    with tables.open_file(path, "w") as file:
        file.create_array("/", "x", np.arange(6.0).reshape(2, 3))
    with xr.open_dataset(path, engine="pytables", dims={"x": ("row", "column")}) as dataset:
        changed = (dataset * 2).load()
    changed.x[0, 0] = np.nan
    to_pytables(changed, path, mode="r+")
    with open_tables(path) as file:
        np.testing.assert_array_equal(file.root.x[:], [[np.nan, 2, 4], [6, 8, 10]])
        assert not file.root.x.attrs._v_attrnamesuser


def test_mode_r_plus_refuses_other_dimensions(path):
    square = xr.Dataset({"a": (("y", "x"), np.arange(4.0).reshape(2, 2))})
    to_pytables(square, path)
    with pytest.raises(ValueError, match=r"'a' has the dimensions \('y', 'x'\), the variable \('x', 'y'\)"):
        to_pytables(square.transpose("x", "y"), path, mode="r+")
    xr.testing.assert_identical(open_ours(path), square)


def test_mode_r_plus_refuses_numbers_that_the_array_cannot_hold(path):
    to_pytables(xr.Dataset({"a": ("x", np.array([1, 2], "i1"))}), path)
    wide = xr.Dataset({"a": ("x", [300, 1])})
    for values in (wide, wide * 0.5, wide.chunk(), wide * np.nan):
        with pytest.raises(ValueError, match=r"'a'.* int8 (cannot hold|holds -128 to 127).*(astype|convert)"):
            to_pytables(values, path, mode="r+")
    to_pytables(xr.Dataset({"a": ("x", [-128, 127])}), path, mode="r+")
    assert open_ours(path).a.values.tolist() == [-128, 127]


@pytest.mark.parametrize("string", ["fixed", "vlen"])
def test_mode_r_plus_never_truncates_text(path, string):
    to_pytables(xr.Dataset({"s": ("x", ["a", "bb"])}), path, encoding={"s": {"string": string}})
    to_pytables(xr.Dataset({"s": ("x", ["c", "dd"])}), path, mode="r+")
    assert open_ours(path).s.values.tolist() == ["c", "dd"]
    longer = xr.Dataset({"s": ("x", ["ccc", "d"])})
    if string == "vlen":
        to_pytables(longer, path, mode="r+")
        assert open_ours(path).s.values.tolist() == ["ccc", "d"]
    else:
        with pytest.raises(ValueError, match=r"a text of 3 bytes does not fit the 2 bytes .*: 'ccc'"):
            to_pytables(longer, path, mode="r+")


def test_mode_r_plus_sets_times_in_the_units_that_are_stored(path):
    to_pytables(xr.Dataset({"when": ("x", pd.date_range("2000-01-01", periods=2))}), path)
    stored = open_ours(path, decode_times=False).when.attrs["units"]
    changed = xr.Dataset({"when": ("x", pd.date_range("2001-02-03", periods=2))})
    to_pytables(changed, path, mode="r+")
    xr.testing.assert_equal(open_ours(path), changed)
    assert open_ours(path, decode_times=False).when.attrs["units"] == stored


def test_mode_r_plus_refuses_other_units(path):
    to_pytables(field(), path)
    celsius = xr.Dataset({"t2m": field().t2m.assign_attrs(units="degC")}).drop_vars(["time", "lat"])
    with pytest.raises(ValueError, match=r"stored with units='K', the variable would need units=.*degC"):
        to_pytables(celsius, path, mode="r+")


def test_floats_that_crash_netcdf_are_written_with_a_warning(path):
    for dtype in ("f2", "g"):
        with pytest.warns(UserWarning, match=r"variable 'x': dtype float\d+ is written, but netCDF-C"):
            to_pytables(xr.Dataset({"x": ("a", np.ones(2, dtype))}), path, unlimited_dims=["a"])
        assert open_ours(path).x.dtype == dtype
        to_pytables(xr.Dataset({"x": ("a", np.zeros(2, dtype))}), path, append_dim="a")  # which changes no dtype
        assert open_ours(path).x.values.tolist() == [1, 1, 0, 0]


def test_a_contiguous_array_is_written_with_checksums_unless_asked_otherwise(path):
    with tables.open_file(path, "w") as file:
        file.create_array("/", "x", np.ones((3, 4)))
    source = open_ours(path)
    assert source.x.encoding["contiguous"] is True
    to_pytables(source, path)
    assert open_ours(path).x.encoding["fletcher32"] is True


def test_bad_modes_groups_and_paths(path, tmp_path):
    with pytest.raises(ValueError, match="mode must be one of"):
        to_pytables(field(), path, mode="rw")
    with pytest.raises(ValueError, match="group must be a string"):
        to_pytables(field(), path, group=5)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        to_pytables(field(), tmp_path / "no" / "file.h5")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        to_pytables(field(), tmp_path / "no" / "file.h5", compute=False)
    with pytest.raises(IsADirectoryError, match="folder"):
        to_pytables(field(), tmp_path)
    with pytest.raises(TypeError, match=r"only a Dataset, DataArray or DataTree .* not dict\. xr\.Dataset\("):
        to_pytables({"a": 1}, path)
    with pytest.raises(TypeError, match=r"not DataFrame\. layout='pandas' writes it"):
        to_pytables(pd.DataFrame({"a": [1]}), path)
    path.write_text("not HDF5")
    with pytest.raises(OSError, match=r"file\.h5.*not an HDF5 file"):
        to_pytables(field(), path, mode="a")
    assert path.read_text() == "not HDF5"
    to_pytables(field(), path)
    with pytest.raises(ValueError, match="'/t2m' is an array, so '/t2m/g' cannot be a group"):
        to_pytables(field(), path, mode="a", group="/t2m/g")
    to_pytables(field(), path, mode="a", group="/g")
    with pytest.raises(ValueError, match="'/g' is a group; a variable cannot take its name"):
        to_pytables(xr.Dataset({"g": 1}), path, mode="a")


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (xr.Dataset({"a/b": 1}), ValueError, "Forward slashes"),
        (xr.Dataset({"a": ("x/y", [1])}), ValueError, "Forward slashes"),
        (xr.Dataset({"": 1}), ValueError, "length 1 or greater"),
        (xr.Dataset({".": 1}), ValueError, "cannot be the name"),
        (xr.Dataset({"_i_x": 1}), ValueError, "'_i_x' begins as only PyTables"),
        (xr.Dataset({"_nc4_non_coord_x": 1}), ValueError, "'_nc4_non_coord_x' begins as only PyTables"),
        (xr.Dataset({5: 1}), TypeError, "must be either a string or None"),
        (xr.Dataset({"o": ("x", np.array([{}, 1], object))}), ValueError, "mixed native types"),
        (xr.Dataset({"v": ("x", np.zeros(2, "i4,f8"))}), TypeError, "variable 'v'.*a row of records is a table"),
        (
            xr.Dataset({"a": (("y", "z"), [[1.0]])}, {"y": [1], "z": [2]}).stack(x=["y", "z"]),
            NotImplementedError,
            r"file\.h5:/: variable 'x' is a MultiIndex.*reset_index",
        ),
    ],
)
def test_datasets_that_cannot_be_written_are_refused_before_the_disk_is_touched(path, dataset, error, message):
    with pytest.raises(error, match=message):
        to_pytables(dataset, path)
    assert not path.exists()
    assert not leftovers(path)


@pytest.mark.parametrize("group", ["_i_index", "a/_p_log", "a\0b", "\ud800"])
def test_groups_that_nobody_would_see_are_refused(path, group):
    with pytest.raises(ValueError, match=r"file\.h5: .*name"):
        to_pytables(xr.Dataset({"x": 1}), path, group=group)
    with pytest.raises(ValueError, match=r"variable|group"):
        to_pytables(xr.DataTree.from_dict({"/" + group: xr.Dataset({"x": 1})}), path)
    assert not path.exists()


def test_a_tree_with_a_group_named_as_a_dimension_is_refused(path):
    tree = xr.DataTree.from_dict({"/": xr.Dataset({"a": ("x", [1, 2])}), "/x": xr.Dataset({"b": 1})})
    with pytest.raises(ValueError, match="'/x' is a group; a dimension cannot take its name"):
        to_pytables(tree, path)
    assert not path.exists()


def test_unlimited_dims_must_exist(path):
    with pytest.raises(ValueError, match=r"Unlimited dimension\(s\) \['z'\]"):
        to_pytables(field(), path, unlimited_dims=["z"])


# -- objects ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "values", None])
def test_dataarray_keeps_its_name(path, name):
    array = xr.DataArray([1.0, 2.0], dims="x", coords={"x": [5, 6]}, name=name)
    to_pytables(array, path)
    with xr.open_dataarray(path, engine="pytables") as actual:
        xr.testing.assert_identical(actual, array)


def test_datatree_options_by_group(path):
    tree = xr.DataTree.from_dict({"/": xr.Dataset({"a": ("x", [1, 2])}), "/g": xr.Dataset({"b": ("y", [1, 2, 3])})})
    to_pytables(tree, path, encoding={"/g": {"b": {"zlib": True}}}, unlimited_dims={"/g": ["y"]})
    with xr.open_datatree(path, engine="pytables") as actual:
        assert actual["g/b"].encoding["zlib"] is True
        assert actual["g"].encoding["unlimited_dims"] == {"y"}
        assert actual.encoding["unlimited_dims"] == set()
        assert "complib" not in actual["a"].encoding
    with pytest.raises(ValueError, match="unexpected encoding group name"):
        to_pytables(tree, path, encoding={"/nope": {}})
    with pytest.raises(ValueError, match="unexpected unlimited_dims group name"):
        to_pytables(tree, path, unlimited_dims={"/nope": ["y"]})


def test_write_inherited_coords(path):
    tree = xr.DataTree.from_dict({"/": xr.Dataset(coords={"x": [1, 2]}), "/g": xr.Dataset({"b": ("x", [1, 2])})})
    for repeat in (False, True):
        to_pytables(tree, path, write_inherited_coords=repeat)
        assert ("x" in open_ours(path, group="/g").coords) == repeat
        with xr.open_datatree(path, engine="pytables") as actual:
            xr.testing.assert_equal(actual.load(), tree)


def test_none_as_a_name_comes_back(path):
    to_pytables(xr.Dataset({None: ("x", [1, 2])}), path)
    assert open_ours(path)[None].values.tolist() == [1, 2]


# -- Dask ---------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("compute", [True, False])
def test_every_scheduler_writes_the_same(path, scheduler, compute):
    dataset = field().chunk({"time": 1, "lat": 3})
    dataset["text"] = xr.DataArray(np.array(["a", "bé", "", "ccc"]), dims="lat").chunk({"lat": 1})
    dataset["vlen"] = dataset.text
    with dask.config.set(scheduler=scheduler):
        result = to_pytables(dataset, path, compute=compute, encoding={"vlen": {"string": "vlen"}})
        if not compute:
            assert not path.exists()
            assert not leftovers(path)
            result.compute()
    xr.testing.assert_equal(open_ours(path), dataset.compute())
    assert not leftovers(path)


def test_an_executor_of_processes_writes_the_same(path):
    data = dask.array.arange(6, chunks=2)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for setting in ({"scheduler": pool}, {"scheduler": "threads", "pool": pool}):
            with dask.config.set(setting):
                to_pytables(xr.Dataset({"x": ("a", data)}), path)
            assert open_ours(path).x.values.tolist() == [0, 1, 2, 3, 4, 5]
            path.unlink()


def test_blocks_of_unknown_size_are_refused(path):
    data = dask.array.arange(10, chunks=5)
    with pytest.raises(ValueError, match=r"dimension 'x' has Dask blocks of unknown sizes.*compute_chunk_sizes"):
        to_pytables(xr.Dataset({"v": ("x", data[data > 3])}), path)
    assert not leftovers(path)


def test_a_large_lazy_text_is_cut_into_blocks(path, monkeypatch):
    monkeypatch.setattr(here, "STREAM_BYTES", 8)
    to_pytables(xr.Dataset({"s": ("x", ["a", "bb", "ccc"])}), path)
    with xr.open_dataset(path, engine="pytables") as lazy:
        lazy.s.encoding.pop("preferred_chunks")
        to_pytables(lazy, path)
    assert open_ours(path).s.values.tolist() == ["a", "bb", "ccc"]


def test_write_to_the_file_that_is_read_from(path):
    to_pytables(field(), path)
    with xr.open_dataset(path, engine="pytables", chunks={}) as lazy:
        to_pytables(lazy.assign(t2m=lazy.t2m + 1), path)
        np.testing.assert_array_equal(lazy.t2m, field().t2m)  # still the version that was opened
    np.testing.assert_array_equal(open_ours(path).t2m, field().t2m + 1)
    with xr.open_dataset(path, engine="pytables") as lazy:
        to_pytables(lazy[["area"]].rename(area="area2") * 2, path, mode="a")
    np.testing.assert_array_equal(open_ours(path).area2, field().area * 2)


def test_a_large_lazy_variable_is_not_loaded_to_be_written(path):
    """Peak memory while 400 MB pass through is far below 400 MB."""
    code = f"""
        import resource, numpy as np, tables, xarray as xr, xr_pytables, dask.array
        source, target = {str(path)!r}, {str(path) + ".copy"!r}
        with tables.open_file(source, "w") as file:
            array = file.create_carray("/", "x", tables.Float32Atom(), (100_000, 1000), chunkshape=(1000, 1000))
            array[::25_000] = 1
        xr_pytables.to_pytables(xr.Dataset({{"small": 1}}), target)
        with dask.config.set(scheduler="synchronous"):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with xr.open_dataset(source, engine="pytables") as lazy:
                xr_pytables.to_pytables(lazy, target, fsync=False)
            print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        with xr.open_dataset(target, engine="pytables") as copy:
            assert copy.x[::25_000].values.all() and copy.x[1::25_000].sum() == 0
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 200


# -- nothing good is lost -----------------------------------------------------


class TaskFailedError(Exception):
    pass


def failing(block, block_info=None):
    if block_info and block_info[0]["chunk-location"] == (2,):
        raise TaskFailedError
    return block


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_failing_task_leaves_the_old_file_and_nothing_else(path, mode):
    to_pytables(field(), path)
    before = path.read_bytes()
    bad = dask.array.ones(4, chunks=1).map_blocks(failing, dtype="f8", meta=np.empty(0))
    with pytest.raises(TaskFailedError):
        to_pytables(xr.Dataset({"bad": ("x", bad)}), path, mode=mode)
    assert path.read_bytes() == before
    assert not leftovers(path)


def test_a_killed_writer_leaves_the_old_file_and_its_folder_is_removed_later(path):
    to_pytables(field(), path)
    before = path.read_bytes()
    code = f"""
        import os, signal, numpy as np, xarray as xr, dask.array, xr_pytables
        def kill(block, block_info=None):
            if block_info and block_info[0]["chunk-location"] == (2,):
                os.kill(os.getpid(), signal.SIGKILL)
            return block
        data = dask.array.ones(4, chunks=1).map_blocks(kill, dtype="f8", meta=np.empty(0))
        xr_pytables.to_pytables(xr.Dataset({{"x": ("a", data)}}), {str(path)!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(leftovers(path)) == 1
    to_pytables(xr.Dataset({"new": 1}), path)
    assert not leftovers(path)


def append_row(path):
    to_pytables(xr.Dataset({"theirs": 1}), path, mode="a")


@pytest.mark.parametrize("change", [append_row, Path.unlink, lambda path: to_pytables(xr.Dataset({"a": 1}), path)])
@pytest.mark.parametrize("mode", ["a", "r+"])
def test_a_plan_for_another_version_of_the_file_is_not_carried_out(path, mode, change):
    to_pytables(xr.Dataset({"v": ("x", np.array([1, 2], "i2"))}), path)
    data = dask.array.from_array(np.array([1000, 2], "i2"), chunks=1)
    planned = to_pytables(xr.Dataset({"v": ("x", data)}), path, mode=mode, compute=False)
    change(path)
    after = path.read_bytes() if path.exists() else None
    with pytest.raises(FileChangedError, match=r"file\.h5: the file was changed or removed by somebody else"):
        planned.compute()
    assert (path.read_bytes() if path.exists() else None) == after
    assert not leftovers(path)


@pytest.mark.parametrize("exists", [True, False])
def test_of_two_writers_that_add_at_the_same_time_none_is_forgotten(path, exists):
    if exists:
        to_pytables(xr.Dataset({"old": 1}), path)

    def meanwhile(block):
        append_row(path)
        return block

    data = dask.array.ones(2, chunks=2).map_blocks(meanwhile, dtype="f8", meta=np.empty(0))
    with pytest.raises((FileChangedError, FileExistsError), match="somebody"):
        to_pytables(xr.Dataset({"ours": ("x", data)}), path, mode="a")
    assert list(open_ours(path)) == (["old", "theirs"] if exists else ["theirs"])
    assert not leftovers(path)


def test_a_delayed_write_can_be_computed_again(path):
    for mode, error in (("w", None), ("w-", FileExistsError), ("a", FileChangedError), ("r+", FileChangedError)):
        if mode in ("a", "r+"):
            to_pytables(xr.Dataset({"v": ("x", [0, 0])}), path)
        else:
            path.unlink(missing_ok=True)
        delayed = to_pytables(xr.Dataset({"v": ("x", dask.array.arange(2, chunks=1))}), path, mode=mode, compute=False)
        delayed.compute()
        with pytest.raises(error, match="somebody") if error else contextlib.nullcontext():
            delayed.compute()
        assert open_ours(path).v.values.tolist() == [0, 1]
        assert not leftovers(path)


@pytest.mark.parametrize("variables", [0, 1, 2])
def test_a_delayed_write_is_prepared_once(path, monkeypatch, variables):
    prepared = []
    real = execution.prepare
    monkeypatch.setattr(execution, "prepare", lambda *args: prepared.append(args) or time.sleep(0.01) or real(*args))
    dataset = xr.Dataset({f"v{number}": ("x", dask.array.arange(4, chunks=1)) for number in range(variables)})
    to_pytables(dataset.assign(n=1), path, compute=False).compute(scheduler="threads", num_workers=4)
    assert len(prepared) == 1
    assert list(open_ours(path)) == [*dataset, "n"]


def test_a_delayed_write_that_cannot_begin_leaves_nothing(path, monkeypatch):
    def fails(*args):
        raise TaskFailedError

    delayed = to_pytables(field(), path, compute=False)
    monkeypatch.setattr(TargetFile, "write", fails)
    with pytest.raises(TaskFailedError):
        delayed.compute(scheduler="synchronous")
    assert not leftovers(path)


def test_without_fsync_the_old_file_is_swapped_out_where_the_system_can(path, monkeypatch):
    calls = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda one, other: calls.append(str(other)) or real(one, other))
    for can in (True, False):
        monkeypatch.setattr(transaction, "_renameat2", transaction._renameat2 if can else lambda: None)
        for compute in (True, False):
            for number in range(2):  # once to a name that is free
                path.unlink() if not number and path.exists() else None
                calls.clear()
                written = to_pytables(xr.Dataset({"v": number}), path, fsync=False, compute=compute)
                if not compute:
                    written.compute()
                swapped = can and number == 1 and sys.platform == "linux"
                assert (str(path) in calls) != swapped
                assert open_ours(path).v == number
                assert not leftovers(path)


def test_a_delayed_write_that_cannot_tell_whether_it_was_committed_does_not_swap(path, monkeypatch):
    """As repeating it would bring the old file back."""

    def no_links(*args: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(transaction, "exchange", lambda *args: pytest.fail("was swapped"))
    for number in range(2):
        to_pytables(xr.Dataset({"v": number}), path, fsync=False, compute=False).compute()
        assert open_ours(path).v == number


def test_a_commit_that_can_be_told_in_no_way_is_not_made(path, monkeypatch):
    def full(self, name):
        raise OSError(errno.ENOSPC, "full")

    def no_links(*args: object) -> None:
        raise OSError

    to_pytables(xr.Dataset({"v": 0}), path)
    written = to_pytables(xr.Dataset({"v": 1}), path, fsync=False, compute=False)
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(Transaction, "_sign", full)
    with pytest.raises(OSError, match=r"file\.h5: No space left .* left as it was"):
        written.compute(scheduler="synchronous")
    assert open_ours(path).v == 0


def test_file_systems_without_hard_links(path, monkeypatch):
    def no_links(*args):
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    to_pytables(xr.Dataset({"new": 1}), path, mode="w-")
    assert list(open_ours(path)) == ["new"]
    version = Transaction.beside(str(path))
    owner = version.begin()
    Path(version.new_file).write_bytes(b"other")
    with pytest.raises(FileExistsError, match="left alone"):
        version.commit(fsync=False, exclusive=True)
    version.end(owner)
    assert list(open_ours(path)) == ["new"]


def test_a_file_that_pytables_has_open_is_busy_by_any_name(path, monkeypatch):
    to_pytables(xr.Dataset({"old": 1}), path)
    path.with_name("link.h5").symlink_to(path)
    monkeypatch.chdir(path.parent)
    for name in (path.name, "link.h5"):
        with tables.open_file(name, "a"), pytest.raises(FileBusyError, match=r"file\.h5: this process"):
            to_pytables(xr.Dataset({"new": 1}), path)


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_symbolic_link_to_nothing_leads_to_the_new_file(path, mode):
    target = path.with_name("target.h5")
    path.symlink_to(target)
    with pytest.raises(FileExistsError, match="already exists"):
        to_pytables(xr.Dataset({"new": 1}), path, mode="w-")
    to_pytables(xr.Dataset({"new": 1}), path, mode=mode)
    assert path.is_symlink()
    assert list(open_ours(target)) == ["new"]


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_full_disk_leaves_the_old_file_and_no_crash(path, mode):
    code = f"""
        import itertools, os, numpy as np, xarray as xr, dask.array, xr_pytables
        target = {str(path)!r}
        text = np.array(["x" * 1000 + str(number) for number in range(4000)], object)
        rows = np.empty(400, object)
        rows[:] = [np.ones(1000)] * 400
        xr_pytables.to_pytables(xr.Dataset({{"old": ("x", [1, 2, 3])}}), target)
        kinds = np.ones(400_000), dask.array.ones(400_000, chunks=50_000), text, rows
        for data, compute in itertools.product(kinds, (True, False)):
            encoding = {{"x": {{"string": "vlen"}}}} if data is text else {{}}
            try:
                later = xr_pytables.to_pytables(
                    xr.Dataset({{"x": ("a", data)}}), target, mode={mode!r}, encoding=encoding, compute=compute
                )
                later.compute()
            except OSError as error:
                assert error.errno == 28, error
                assert str(error) == f"[Errno 28] {{target}}: No space left on device. The file was left as it was"
            else:
                raise AssertionError
        with xr.open_dataset(target, engine="pytables") as old:
            assert list(old) == ["old"] and old.old.values.tolist() == [1, 2, 3]
        # what graphs left that nobody in particular ran goes with the next write
        xr_pytables.to_pytables(xr.Dataset({{"new": 1}}), target, mode={mode!r})
        assert os.listdir(os.path.dirname(target)) == [os.path.basename(target)]
        print("done")
    """
    small_disk = 'mount -t tmpfs -o size=2m none "$0" 2>/dev/null || exit 77; exec "$1" -c "$2"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", small_disk]
    if shutil.which("unshare") is None:
        pytest.skip("makes a small disk with unshare")
    done = subprocess.run(
        [*command, str(path.parent), sys.executable, textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    if not done.stdout and done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip("this system lets nobody mount a small disk")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_file_open_for_writing_elsewhere_is_busy(path):
    to_pytables(field(), path)
    with tables.open_file(path, "a"), pytest.raises(FileBusyError, match=r"file\.h5.*open_file"):
        to_pytables(xr.Dataset({"new": 1}), path)
    code = f"import tables, sys; f = tables.open_file({str(path)!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        for mode in ("w", "a", "r+"):
            with pytest.raises(FileBusyError, match="another process"):
                to_pytables(xr.Dataset({"area": 1}), path, mode=mode)
        other.kill()
    xr.testing.assert_identical(open_ours(path), field())


def test_permissions_and_symbolic_links_are_kept(path, tmp_path):
    to_pytables(field(), path)
    path.chmod(0o640)
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    to_pytables(xr.Dataset({"new": 1}), link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(open_ours(path)) == ["new"]


def test_adding_to_an_untrusted_file_runs_nothing_from_it(path):
    marker = path.with_name("executed")

    class Attack:
        def __reduce__(self):
            return (os.system, (f"touch {marker}",))

    payload = pickle.dumps(Attack(), protocol=0)
    with h5py.File(path, "w") as file:
        for node in (file, file.create_group("g"), file.create_dataset("a", data=[1, 2])):
            for name in ("TITLE", "FILTERS", "user"):
                node.attrs[name] = np.bytes_(payload)
        file.attrs["PYTABLES_FORMAT_VERSION"] = "2.1"
    to_pytables(xr.Dataset({"new": ("x", [1])}), path, mode="a")
    to_pytables(xr.Dataset({"a": ("y", [5, 6])}), path, mode="a")
    with pytest.warns(UserWarning, match="undecoded"):
        assert open_ours(path).new.values.tolist() == [1]
    assert not marker.exists()


@pytest.mark.parametrize("fsync", [True, False])
def test_fsync_is_called_on_file_and_folder_as_asked(path, monkeypatch, fsync):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or real(fd))
    to_pytables(field(), path, fsync=fsync)
    assert [Path(name).name for name in synced] == (["new.h5", path.parent.name] if fsync else [])


def test_a_single_text_of_any_length_comes_back(tmp_path):
    to_pytables(xr.Dataset({"s": "text"}), tmp_path / "a.h5", encoding={"s": {"string": "vlen"}})
    again = xr.open_dataset(tmp_path / "a.h5", engine="pytables")
    assert again["s"].encoding["string"] == "vlen"
    to_pytables(again, tmp_path / "b.h5")
    assert xr.load_dataset(tmp_path / "b.h5", engine="pytables")["s"].item() == "text"
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["s"] = "old"
    to_pytables(xr.Dataset({"s": "new"}), tmp_path / "c.h5", mode="r+")
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["s"].asstr()[()] == "new"


@pytest.mark.parametrize("lazy", [False, True])
def test_a_value_that_is_rounded_to_the_fill_value_is_refused(tmp_path, lazy):
    words = {"a": {"dtype": "i2", "_FillValue": -1}}
    ds = xr.Dataset({"a": ("t", np.array([1.0, -0.6, np.nan]))})
    with pytest.raises(ValueError, match=r"-0\.6 would be stored as -1, which is the _FillValue"):
        to_pytables(ds.chunk(t=1) if lazy else ds, tmp_path / "a.h5", encoding=words)
    assert not (tmp_path / "a.h5").exists()


def test_a_committed_datatype_keeps_its_name(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kind"] = np.dtype("i4")
    before = path.read_bytes()
    values = xr.Dataset({"kind": ("x", [1, 2])})
    with pytest.raises(ValueError, match="'kind' is a committed datatype in the file; a new variable cannot take"):
        to_pytables(values, path, mode="a")
    with pytest.raises(ValueError, match="'/kind' is a committed datatype, so '/kind/below' cannot be a group"):
        to_pytables(values, path, mode="a", group="/kind/below")
    assert path.read_bytes() == before
