"""Encoding in the words of h5py, netCDF4, zarr and PyTables."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import netCDF4
import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables import to_pytables
from xr_pytables.writing.words import compressor_of_source, in_our_words, instead_of

VALUES = np.arange(600.0).reshape(20, 30)


def filters_and_chunks(path: Path) -> tuple[tables.Filters, tuple[int, ...]]:
    with tables.open_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.exceptions.DataTypeWarning)  # of DIMENSION_LIST
        leaf = file.root.v
        return leaf.filters, leaf.chunkshape


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({"compression": "gzip"}, {"complib": "zlib", "complevel": 4}),
        ({"compression": "gzip", "compression_opts": 9}, {"complib": "zlib", "complevel": 9}),
        (
            {"compression": "zlib", "complevel": 2, "shuffle": False},
            {"complib": "zlib", "complevel": 2, "shuffle": False},
        ),
        ({"compression": 7}, {"complib": "zlib", "complevel": 7}),
        ({"compression": True}, {"complib": "zlib", "complevel": 4}),
        ({"compression": 1, "compression_opts": 3}, ValueError),
        ({"compression": None}, {"complevel": 0}),
        ({"zlib": True, "compression_opts": 3}, {"complib": "zlib", "complevel": 3}),
        ({"compression": "bzip2"}, {"complib": "bzip2"}),
        ({"bzip2": True, "complevel": 3}, {"complib": "bzip2", "complevel": 3}),
        ({"compression": "blosc_lz"}, {"complib": "blosc:blosclz"}),
        ({"compression": "blosc_zstd", "blosc_shuffle": 2}, {"complib": "blosc:zstd", "bitshuffle": True}),
        ({"compression": "blosc_lz4", "blosc_shuffle": 0}, {"complib": "blosc:lz4", "shuffle": False}),
        (dict(hdf5plugin.Blosc(cname="lz4hc", clevel=7, shuffle=1)), {"complib": "blosc:lz4hc", "complevel": 7}),
        (dict(hdf5plugin.Blosc2(cname="zstd", clevel=3, filters=2)), {"complib": "blosc2:zstd", "bitshuffle": True}),
        ({"filters": tables.Filters(6, "blosc2:lz4")}, {"complib": "blosc2:lz4", "complevel": 6, "fletcher32": True}),
        ({"szip": False, "zstd": False, "bzip2": False, "blosc": False}, {"complevel": 0}),
        ({"complib": "bzip2", "compression": "gzip"}, ValueError),
    ],
    ids=str,
)
def test_words_of_h5py_and_netcdf4_reach_the_file(tmp_path: Path, encoding: dict[str, Any], expected: Any) -> None:
    dataset, path = xr.Dataset({"v": (("y", "x"), VALUES)}), tmp_path / "v.h5"
    if expected is ValueError:
        with pytest.raises(ValueError, match=r"v\.h5:/: variable 'v': .* contradict each other"):
            to_pytables(dataset, path, encoding={"v": encoding})
        assert not path.exists()
        return
    to_pytables(dataset, path, encoding={"v": encoding})
    filters, _ = filters_and_chunks(path)
    assert {key: getattr(filters, key) for key in expected} == expected
    np.testing.assert_array_equal(xr.open_dataset(path, engine="pytables")["v"], VALUES)


@pytest.mark.parametrize("key", ["chunks", "chunkshape", "chunk_shape", "chunksizes"])
@pytest.mark.parametrize("chunks", [(5, 10), [5, 10], np.array([5, 10])], ids=["tuple", "list", "array"])
def test_chunks_by_any_name_are_chunksizes(tmp_path: Path, key: str, chunks: Any) -> None:
    to_pytables(xr.Dataset({"v": (("y", "x"), VALUES)}), tmp_path / "v.h5", encoding={"v": {key: chunks}})
    assert filters_and_chunks(tmp_path / "v.h5")[1] == (5, 10)


def test_chunks_that_are_no_sizes_get_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'chunks'.*Did you mean chunksizes=\(\.\.\.\) instead of 'chunks'"):
        to_pytables(xr.Dataset({"v": ("x", [1.0])}), tmp_path / "v.h5", encoding={"v": {"chunks": "auto"}})


def test_words_of_a_tree_and_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    tree = xr.DataTree.from_dict({"/g": xr.Dataset({"v": (("y", "x"), VALUES)})})
    to_pytables(tree, path, encoding={"/g": {"v": {"compression": "gzip", "chunks": (5, 10)}}})
    found = xr.open_dataset(path, engine="pytables", group="/g")["v"].encoding
    assert (found["complib"], found["chunksizes"]) == ("zlib", (5, 10))
    rows = xr.Dataset({"a": ("row", np.arange(100)), "b": ("row", np.arange(100.0))})
    to_pytables(rows, path, group="/t", layout="table", encoding={"a": {"compression": "blosc_zstd", "chunkshape": 10}})
    with tables.open_file(path) as file:
        assert (file.root.t.filters.complib, file.root.t.chunkshape) == ("blosc:zstd", (10,))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ({"compression": "zstd"}, "PyTables cannot write compression='zstd'. Did you mean complib='blosc:zstd'?"),
        ({"compression": "lzf"}, "Did you mean complib='blosc:lz4'?"),
        (dict(hdf5plugin.Zstd()), "PyTables cannot write compression=32015. Did you mean complib='blosc:zstd'?"),
        ({"compression": "snappy"}, "PyTables cannot write compression='snappy'. Known are 'gzip', 'zlib', "),
        ({"compression_opts": 4}, "compression_opts=4 has no meaning here. Did you mean complevel=5, with a complib?"),
        ({"compression": "gzip", "compression_opts": (1, 2)}, "compression_opts=(1, 2) has no meaning here"),
        ({"compression": "blosc_lz4", "blosc_shuffle": 3}, "blosc_shuffle=3 must be 0, 1 (shuffle) or 2 (bitshuffle)"),
        ({"zstd": True}, "Did you mean complib='blosc:zstd' instead of 'zstd'?"),
        ({"dtype": "int7"}, "encoding has dtype='int7', which is no type of NumPy. Did you mean 'int"),
        ({"dtype": "Float32"}, "encoding has dtype='Float32', which is no type of NumPy. Did you mean 'float32'?"),
        ({"dtype": "no type"}, "which is no type of NumPy"),
    ],
    ids=str,
)
def test_what_has_no_one_meaning_names_the_variable_and_a_way_out(
    tmp_path: Path, encoding: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"v\.h5:/: variable 'v': .*{re.escape(message)}"):
        to_pytables(xr.Dataset({"v": ("x", [1.0, 2.0])}), tmp_path / "v.h5", encoding={"v": encoding})
    assert not list(tmp_path.iterdir())


def test_in_our_words_leaves_unknown_keys_and_its_argument_alone() -> None:
    given = {"nope": 1, "chunks": (2,), "scale_factor": 0.1}
    assert in_our_words(given, "here") == {"nope": 1, "chunksizes": (2,), "scale_factor": 0.1}
    assert given == {"nope": 1, "chunks": (2,), "scale_factor": 0.1}


def test_instead_of() -> None:
    assert instead_of("shards", ()) == "chunksizes=(...) instead of 'shards'"
    assert instead_of("complevl", ["complevel", "complib"]) == "'complevel' instead of 'complevl'"
    assert instead_of("zzz", ["complevel"]) is None


# -- what readers leave ------------------------------------------------------------------------------------


@pytest.fixture
def zstd_file(tmp_path: Path) -> Path:
    path = tmp_path / "zstd.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("y", 20)
        file.createDimension("x", 30)
        file.createVariable("v", "f8", ("y", "x"), compression="zstd", complevel=12)[:] = VALUES
    return path


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "pytables"])
def test_a_compressor_that_cannot_be_written_gets_the_nearest_with_a_word(
    tmp_path: Path, zstd_file: Path, engine: str
) -> None:
    with xr.open_dataset(zstd_file, engine=engine) as dataset:
        with pytest.warns(UserWarning, match=r"v\.h5: data were compressed with zstd, .*: blosc:zstd takes its place"):
            to_pytables(dataset, tmp_path / "v.h5")
        to_pytables(dataset, tmp_path / "own.h5", encoding={"v": {"compression": "gzip"}})  # and no warning
        to_pytables(dataset, tmp_path / "all.h5", filters=tables.Filters(1, "zlib"))
    filters, _ = filters_and_chunks(tmp_path / "v.h5")
    assert filters.complib == "blosc:zstd"
    np.testing.assert_array_equal(xr.open_dataset(tmp_path / "v.h5", engine="pytables")["v"], VALUES)


def test_blosc_of_netcdf4_is_kept(tmp_path: Path) -> None:
    xr.Dataset({"v": (("y", "x"), VALUES)}).to_netcdf(
        tmp_path / "v.nc", engine="netcdf4", encoding={"v": {"compression": "blosc_lz4", "blosc_shuffle": 2}}
    )
    with xr.open_dataset(tmp_path / "v.nc", engine="netcdf4") as dataset:
        to_pytables(dataset, tmp_path / "v.h5")
        to_pytables(dataset, tmp_path / "asked.h5", encoding={"v": dataset["v"].encoding})
    for name in ("v.h5", "asked.h5"):
        filters, _ = filters_and_chunks(tmp_path / name)
        assert (filters.complib, filters.bitshuffle) == ("blosc:lz4", True)


def test_a_filter_that_its_reader_cannot_name_is_told_of(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.nc", "w") as file:
        file.create_dataset("v", data=VALUES, **hdf5plugin.LZ4())
    with xr.open_dataset(tmp_path / "v.nc", engine="h5netcdf", phony_dims="sort") as dataset:
        assert dataset["v"].encoding["compression"] == "unknown"
        with pytest.warns(UserWarning, match="a filter that their reader has no name for: they are written uncompress"):
            to_pytables(dataset, tmp_path / "v.h5")
    assert filters_and_chunks(tmp_path / "v.h5")[0].complevel == 0


def test_compressor_of_source_prefers_our_own_words() -> None:
    assert compressor_of_source({"complib": "bzip2", "zstd": True}) == ({}, None)
    assert compressor_of_source({"blosc": {"compressor": "blosc_snappy"}}) == ({}, None)


# -- the fill value ----------------------------------------------------------------------------------------


def test_zeros_are_no_empty_chunks_of_floats_and_a_warning_says_so(tmp_path: Path) -> None:
    path, chunks = tmp_path / "v.h5", {"chunksizes": (100,)}

    def stored(dataset: xr.Dataset, **encoding: Any) -> int:
        to_pytables(dataset, path, encoding={"v": {**chunks, **encoding}}, write_empty_chunks=False)
        with h5py.File(path) as file:
            found: int = file["v"].id.get_num_chunks()
            np.testing.assert_array_equal(file["v"][:], dataset["v"])
            return found

    zeros, gaps = xr.Dataset({"v": ("x", np.zeros(300))}), xr.Dataset({"v": ("x", np.full(300, np.nan))})
    with pytest.warns(UserWarning, match="leaves out chunks of NaN, and none of zeros, of 'v'.*'_FillValue': None"):
        assert stored(zeros) == 3
    assert stored(zeros, _FillValue=None) == 0
    assert stored(gaps, _FillValue=np.nan) == 0
    assert stored(zeros.astype("i4")) == 0
    tree = xr.DataTree.from_dict({"/g": zeros})
    with pytest.warns(UserWarning, match="none of zeros, of 'v'"):
        to_pytables(tree, path, write_empty_chunks=False)
    to_pytables(tree, path, encoding={"/g": {"v": {"_FillValue": None}}}, write_empty_chunks=False)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("significant_digits", "least_significant_digit (digits after the decimal point)"),
        ("nodata", "_FillValue"),
        ("scale", "scale_factor"),
        ("endian", "dtype='<f4' or '>f4', say,"),
        ("maxshape", "to_pytables(unlimited_dims=[...])"),
        ("write_empty_chunks", "to_pytables(write_empty_chunks=...)"),
        ("szip_coding", "complib='zlib'"),
        ("compression_level", "'complevel'"),
    ],
)
def test_words_of_others_have_a_hint(key: str, hint: str, tmp_path: Path) -> None:
    dataset = xr.Dataset({"v": ("x", [1.5])})
    with pytest.raises(ValueError, match=re.escape(f"Did you mean {hint} instead of {key!r}?")):
        to_pytables(dataset, tmp_path / "a.h5", encoding={"v": {key: 3}})
