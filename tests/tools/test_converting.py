"""`convert` carries values, names and meanings from any format to any other, in little memory."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables.errors import FileBusyError, FileChangedError, FormatError
from xr_pytables.tools import opening
from xr_pytables.tools.converting import convert
from xr_pytables.tools.differences import diff
from xr_pytables.tools.verifying import verify
from xr_pytables.writing.writer import to_pytables

from ..helpers_reading import open_quietly, plain_file
from .test_differences import sea

GRID = np.arange(60, dtype=">i4").reshape(3, 4, 5)
RECORDS = np.array([(1, 0.5, b"a"), (2, 1.5, b"b"), (3, 2.5, b"c")], [("n", "i4"), ("x", "f8"), ("s", "S3")])


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Any:
    yield
    assert list(tmp_path.rglob(".xr-pytables*")) == []


def opened(path: Path, **options: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", **options).load()


# -- between formats that hold the same ---------------------------------------------------------------------


@pytest.fixture
def tree() -> xr.DataTree:
    deep = xr.Dataset({"z": (("y", "x"), np.ones((2, 4))), "flag": ("y", [True, False])}, attrs={"who": "me"})
    return xr.DataTree.from_dict({"/": sea(), "/deep": deep})


@pytest.mark.parametrize("between", ["a.nc", "a.zarr", "a.h5"])
def test_there_and_back_is_the_same(between: str, tree: xr.DataTree, tmp_path: Path) -> None:
    to_pytables(tree, tmp_path / "from.h5", unlimited_dims={"/": ["time"]})
    convert(tmp_path / "from.h5", tmp_path / between)
    convert(tmp_path / between, tmp_path / "back.h5")
    assert diff(tmp_path / "from.h5", tmp_path / between) == ()
    assert diff(tmp_path / "from.h5", tmp_path / "back.h5", raw=True) == ()
    assert verify(tmp_path / "back.h5").sound
    if between != "a.zarr":  # which has no such dimensions
        assert opened(tmp_path / "back.h5").encoding["unlimited_dims"] == {"time"}


def test_netcdf_that_is_written_is_read_by_netcdf4(tree: xr.DataTree, tmp_path: Path) -> None:
    to_pytables(tree, tmp_path / "from.h5", encoding={"/": {"sst": {"complib": "blosc:zstd"}}})
    convert(tmp_path / "from.h5", tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc") as file:
        assert file["sst"].dimensions == ("time", "x")
        assert file["sst"].filters()["zlib"]  # blosc would need a plug-in
        np.testing.assert_array_equal(file["sst"][:], np.arange(12, dtype="f4").reshape(3, 4))
        assert file["deep/z"].shape == (2, 4)


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf", "scipy"])
def test_netcdf_of_others_is_converted(engine: str, tmp_path: Path) -> None:
    sea().to_netcdf(tmp_path / "from.nc", engine=engine)
    convert(tmp_path / "from.nc", tmp_path / "to.h5")
    assert diff(tmp_path / "from.nc", tmp_path / "to.h5") == ()
    assert diff(tmp_path / "from.nc", tmp_path / "to.h5", raw=True) == ()


def test_packed_values_are_copied_as_they_are_stored(tmp_path: Path) -> None:
    packing = {"dtype": "i2", "scale_factor": 0.1, "add_offset": 5.0, "_FillValue": -7, "units": "K"}
    values = xr.Dataset({"a": ("x", [1.0, np.nan, 2.04])}, {"x": pd.date_range("2000", periods=3)})
    to_pytables(values, tmp_path / "from.h5", encoding={"a": {k: v for k, v in packing.items() if k != "units"}})
    for name in ("a.nc", "a.zarr", "b.h5"):
        convert(tmp_path / "from.h5", tmp_path / name)
        found = diff(tmp_path / "from.h5", tmp_path / name, raw=name != "a.zarr")
        assert found == (), name
    with plain_file(tmp_path / "from.h5") as one, plain_file(tmp_path / "b.h5") as other:
        np.testing.assert_array_equal(one.root.a[:], other.root.a[:])


@pytest.mark.parametrize("ending", ["h5", "nc", "zarr"])
def test_floats_get_no_fill_value_that_the_source_has_not(tmp_path: Path, ending: str) -> None:
    with tables.open_file(tmp_path / "from.h5", "w") as file:
        file.create_array("/", "x", np.arange(3.0))
        file.create_table("/", "t", np.zeros(2, [("f", "f4")]))
    convert(tmp_path / "from.h5", tmp_path / f"to.{ending}")
    with opening.opened(str(tmp_path / f"to.{ending}"), raw=True) as groups:
        for variable in (groups["/"]["x"], groups["/t"]["f"]):
            assert "_FillValue" not in variable.attrs


def test_compression_of_the_source_is_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "from.h5", "w") as file:
        filters = tables.Filters(7, "blosc2:lz4", bitshuffle=True, shuffle=False, fletcher32=True)
        file.create_carray("/", "x", obj=np.zeros((40, 40)), chunkshape=(10, 40), filters=filters)
    convert(tmp_path / "from.h5", tmp_path / "same.h5")
    convert(tmp_path / "from.h5", tmp_path / "other.h5", complib="zlib", complevel=2, chunks=(20, 5))
    found = [xr_pytables.tree(tmp_path / name).groups[0].arrays[0] for name in ("from.h5", "same.h5", "other.h5")]
    assert found[0].filters == found[1].filters
    assert (found[0].chunks, found[1].chunks) == ((10, 40), (10, 40))
    assert found[2].filters == {"complib": "zlib", "complevel": 2, "shuffle": True, "fletcher32": True}
    assert found[2].chunks == (20, 5)


def test_chunks_by_dimension_keep_the_others(tmp_path: Path) -> None:
    data = xr.Dataset({"a": (("t", "x"), np.ones((8, 6))), "b": ("x", np.ones(6))})
    to_pytables(data, tmp_path / "from.h5", encoding={"a": {"chunksizes": (4, 3)}, "b": {"chunksizes": (2,)}})
    convert(tmp_path / "from.h5", tmp_path / "to.h5", chunks={"t": 2})
    arrays = {array.name: array.chunks for array in xr_pytables.tree(tmp_path / "to.h5").groups[0].arrays}
    assert arrays == {"a": (2, 3), "b": (2,)}


def test_chunks_and_compressors_of_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    np.save(tmp_path / "a.npy", np.zeros((3000, 500)))
    convert(tmp_path / "a.npy", tmp_path / "a.zarr", chunks=(700, 500), complib="blosc:lz4", complevel=9)
    array = zarr.open_array(tmp_path / "a.zarr" / "a", mode="r")
    assert array.chunks == (700, 500)
    assert array.compressors[0].get_config() | {"cname": "lz4", "clevel": 9} == array.compressors[0].get_config()
    with pytest.raises(ValueError, match="'lzo' has no form in Zarr"):
        convert(tmp_path / "a.npy", tmp_path / "b.zarr", complib="lzo")
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize("source", ["from.h5", "from.nc", "from.zarr"])
@pytest.mark.parametrize("target", ["to.h5", "to.nc", "to.zarr"])
def test_coordinates_stay_coordinates(source: str, target: str, tmp_path: Path) -> None:
    data = xr.Dataset(
        {"v": ("x", [1.0, 2.0]), "w": ("y", [3.0])},
        {"lab": ("x", [5, 6]), "when": pd.Timestamp("2014-09-01"), "far": ("z", [7, 8]), "x": [10, 20]},
    )
    to_pytables(data, tmp_path / "from.h5")
    if source == "from.nc":
        data.to_netcdf(tmp_path / source, engine="netcdf4")
    elif source == "from.zarr":
        data.to_zarr(tmp_path / source, zarr_format=2, consolidated=False)
    convert(tmp_path / source, tmp_path / target)
    convert(tmp_path / target, tmp_path / "back.h5")
    xr.testing.assert_identical(opened(tmp_path / "back.h5"), data)
    convert(tmp_path / source, tmp_path / "part.h5", variables=["v"], select={"x": 1})
    xr.testing.assert_identical(opened(tmp_path / "part.h5"), data[["v"]].isel(x=1))


def test_the_attribute_coordinates_stays_as_it_is(tmp_path: Path) -> None:
    data = xr.Dataset({"v": ("x", [1.0, 2.0])}, {"lat": ("x", [5, 6]), "lon": ("x", [7, 8])})
    data["v"].encoding["coordinates"] = "lon lat"
    to_pytables(data, tmp_path / "from.h5")
    for target in ("to.h5", "to.nc", "to.zarr"):
        convert(tmp_path / "from.h5", tmp_path / target)
        convert(tmp_path / target, tmp_path / "back.h5", overwrite=True)
        assert opened(tmp_path / "back.h5", decode_coords=False)["v"].attrs["coordinates"] == "lon lat"
    convert(tmp_path / "from.h5", tmp_path / "part.h5", variables=["v", "lat"])
    assert set(opened(tmp_path / "part.h5").coords) == {"lat", "lon"}


@pytest.mark.parametrize("target", ["to.h5", "to.nc"])
def test_a_dimension_that_grows_below_grows_above(target: str, tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "from.h5", "w") as file:
        file.create_array("/", "top", np.arange(4))
        file.create_array("/", "other", np.arange(3))
        file.create_earray("/g/h", "grow", tables.Int64Atom(), (0,), createparents=True).append(np.arange(4))
    convert(tmp_path / "from.h5", tmp_path / target)
    assert diff(tmp_path / "from.h5", tmp_path / target) == ()
    arrays = {array.name: array for group in xr_pytables.tree(tmp_path / target).groups for array in group.arrays}
    assert [arrays[name].unlimited_dims for name in ("top", "other", "grow")] == [("dim_4",), (), ("dim_4",)]


def test_a_dimension_that_cannot_grow_in_the_target_is_taken_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "top.npy", np.arange(4))
    convert(tmp_path / "top.npy", tmp_path / "to.h5")
    with tables.open_file(tmp_path / "from.h5", "w") as file:
        file.create_earray("/", "grow", tables.Int64Atom(), (0,)).append(np.arange(4))
    convert(tmp_path / "from.h5", tmp_path / "to.h5", target_group="/g")
    assert diff(tmp_path / "from.h5", tmp_path / "to.h5", group=("/", "/g")) == ()


def test_attributes_that_zarr_has_no_form_for_are_named_and_left_out(tmp_path: Path) -> None:
    values = {
        "text": "é".encode(), "empty": np.bytes_(b""), "raw": b"\xff", "z": 1 + 2j, "day": np.datetime64("2014-09-01"),
        "many": {1}, "listed": [b"a", [1, b"b"]], "number": np.int16(3), "none": None,
    }  # fmt: skip
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/g", "x", [1], createparents=True)
        for name, value in values.items():
            file.root.g.x.attrs[name] = file.root.g._v_attrs[name] = value
    with pytest.warns(UserWarning, match="has no form in Zarr") as caught:
        convert(tmp_path / "a.h5", tmp_path / "a.zarr")
    assert {str(one.message) for one in caught} == {
        f"{tmp_path / 'a.zarr'}:{node}: attribute {name!r} of type {kind} has no form in Zarr, and is left out"
        for node in ("/g", "/g/x")
        for name, kind in (("raw", "bytes_"), ("z", "complex128"), ("day", "datetime64"), ("many", "set"))
    }
    with xr.open_zarr(tmp_path / "a.zarr", group="g", consolidated=False) as found:
        for attributes in (found.attrs, found["x"].attrs):
            assert attributes == {
                "text": "é", "empty": "", "listed": ["a", [1, "b"]], "number": 3, "none": None
            }  # fmt: skip
    with pytest.warns(UserWarning, match=r"a\.nc:/g: .*attribute 'many' of type set has no form .* is left out"):
        convert(tmp_path / "a.h5", tmp_path / "a.nc")
    assert opened(tmp_path / "a.nc", group="/g").attrs["empty"] == b""


def test_empty_text_stays_text(tmp_path: Path) -> None:
    to_pytables(xr.Dataset({"t": ("x", np.array([], "U2"))}), tmp_path / "from.h5")
    convert(tmp_path / "from.h5", tmp_path / "between.zarr")
    convert(tmp_path / "between.zarr", tmp_path / "to.h5")
    assert diff(tmp_path / "from.h5", tmp_path / "between.zarr") == ()
    assert diff(tmp_path / "from.h5", tmp_path / "to.h5") == ()


# -- plain arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        GRID, np.asfortranarray(GRID), GRID.astype("f4")[:0], np.float64(3.5), np.array(["ab", "c"]),
        np.array([b"ab", b"c"]), np.array([1 + 2j]), np.array(["2014-09-01", "NaT"], "M8[ns]"), np.array([True, False]),
        np.arange(200_000.0).reshape(400, 500), np.arange(300_000, dtype="u2"),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)  # fmt: skip
@pytest.mark.parametrize("between", ["h5", "nc", "zarr"])
def test_npy_there_and_back(values: np.ndarray, between: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", values)
    convert(tmp_path / "x.npy", tmp_path / f"x.{between}")
    convert(tmp_path / f"x.{between}", tmp_path / "back.npy")
    back = np.load(tmp_path / "back.npy")
    np.testing.assert_array_equal(back, values)
    assert back.dtype.kind == np.asarray(values).dtype.kind
    if back.dtype.byteorder == np.asarray(values).dtype.byteorder and np.asarray(values).flags.c_contiguous:
        np.save(tmp_path / "again.npy", back)
        assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "back.npy").read_bytes()


def test_npz_there_and_back(tmp_path: Path) -> None:
    arrays = {"a": GRID, "deep/b": np.ones(7, "f4"), "records": RECORDS}
    for name, save in (("stored", np.savez), ("packed", np.savez_compressed)):
        save(tmp_path / f"{name}.npz", **arrays)
        convert(tmp_path / f"{name}.npz", tmp_path / f"{name}.h5")
        for complib in (None, "zlib"):
            convert(tmp_path / f"{name}.h5", tmp_path / "back.npz", complib=complib, overwrite=True)
            with np.load(tmp_path / "back.npz") as back:
                assert set(back) == {"a", "deep/b", "records/n", "records/x", "records/s"}
                np.testing.assert_array_equal(back["a"], GRID)
                np.testing.assert_array_equal(back["deep/b"], np.ones(7))
                np.testing.assert_array_equal(back["records/s"], RECORDS["s"])
    with tables.open_file(tmp_path / "stored.h5") as file:
        assert isinstance(file.root.records, tables.Table)
        np.testing.assert_array_equal(file.root.records[:], RECORDS)


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_records_with_names_in_utf_8(save: Callable[..., None], tmp_path: Path) -> None:
    records = np.array([(1, 2.5), (3, 4.5)], [("größe", "i4"), ("Ω", "f8")])
    save(tmp_path / "a.npz", before=GRID, records=records, after=GRID)
    convert(tmp_path / "a.npz", tmp_path / "a.h5")
    with xr.open_datatree(tmp_path / "a.h5", engine="pytables") as tree:
        assert tree["records/größe"].values.tolist() == [1, 3]
        assert tree["records/Ω"].values.tolist() == [2.5, 4.5]
        np.testing.assert_array_equal(tree["after"], GRID)


def test_names_and_dimensions_of_one_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 3)))
    convert(tmp_path / "x.npy", tmp_path / "a.h5")
    convert(tmp_path / "x.npy", tmp_path / "b.h5", name="sst", dims=["y", "x"])
    assert dict(opened(tmp_path / "a.h5")["x"].sizes) == {"dim_3": 3, "dim_3_1": 3}
    assert opened(tmp_path / "b.h5")["sst"].dims == ("y", "x")
    with pytest.raises(ValueError, match=r"1 names of dimensions do not fit 'x' of shape \(3, 3\)"):
        convert(tmp_path / "x.npy", tmp_path / "c.h5", dims=["y"])


def test_raw_elements(tmp_path: Path) -> None:
    path = tmp_path / "raw.bin"
    path.write_bytes(b"head" + np.arange(24, dtype=">i2").tobytes())
    convert(path, tmp_path / "flat.h5", dtype=">i2", offset=4)
    np.testing.assert_array_equal(opened(tmp_path / "flat.h5")["raw"], np.arange(24))
    convert(path, tmp_path / "c.h5", dtype=">i2", offset=4, shape=(-1, 6))
    np.testing.assert_array_equal(opened(tmp_path / "c.h5")["raw"], np.arange(24).reshape(4, 6))
    convert(path, tmp_path / "f.h5", dtype=">i2", offset=4, shape=(4, 6), order="F")
    np.testing.assert_array_equal(opened(tmp_path / "f.h5")["raw"], np.arange(24).reshape(4, 6, order="F"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs dtype"),
        ({"dtype": "nonsense"}, "dtype 'nonsense' is none that NumPy knows"),
        ({"dtype": "O"}, "says nothing of stored bytes"),
        ({"dtype": "f8", "shape": (7,)}, "needs 56 bytes, the file has 48"),
        ({"dtype": "f8", "shape": (-1, -1)}, "-1 no more than once"),
        ({"dtype": "f8", "offset": -8}, "offset must be a number of bytes of at least 0, not -8"),
        ({"dtype": "f8", "offset": 56}, "needs 56 bytes, the file has 48"),
        ({"dtype": "V5"}, r"raw\.bin: .*\(5 bytes per element\) ends at byte 45, the file has 48: 3 would be left out"),
        ({"dtype": "f8", "shape": (-1, 4)}, r"shape \(1, 4\) .* ends at byte 32, the file has 48: 16 would"),
        ({"dtype": "f8", "shape": (5,)}, "ends at byte 40, the file has 48: 8 would .* give -1 for a length in shape"),
        ({"dtype": "f8", "shape": (4,), "offset": 8}, "ends at byte 40, the file has 48"),
        ({"dtype": "f8", "shape": (-1, 0)}, r"shape \(0, 0\) .* ends at byte 0, the file has 48"),
    ],
)
def test_raw_elements_that_are_not_there(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "raw.bin").write_bytes(bytes(48))
    with pytest.raises((ValueError, FormatError), match=message):
        convert(tmp_path / "raw.bin", tmp_path / "to.h5", **options)
    assert not (tmp_path / "to.h5").exists()


def test_a_part_of_raw_elements_is_selected(tmp_path: Path) -> None:
    np.arange(9, dtype="<u2").tofile(tmp_path / "raw.bin")
    convert(tmp_path / "raw.bin", tmp_path / "to.npy", dtype="<u2", shape=(-1,), dims=("x",), select={"x": slice(5)})
    assert np.load(tmp_path / "to.npy").tolist() == [0, 1, 2, 3, 4]


def test_a_raw_file_without_bytes_has_no_elements(tmp_path: Path) -> None:
    (tmp_path / "raw.bin").touch()
    convert(tmp_path / "raw.bin", tmp_path / "to.npy", dtype="f4", shape=(-1, 3))
    assert np.load(tmp_path / "to.npy").shape == (0, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), ValueError, "pickled objects"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10"), FormatError, "not a .npy file, or a damaged one"),
        (lambda path: path.write_text("text"), FormatError, "not a .npy file"),
        (lambda path: (np.save(path, np.arange(9)), os.truncate(path, 150)), FormatError, "the file has 150"),
    ],
)
def test_npy_files_that_cannot_be_read(
    make: Callable[[Path], object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.npy")
    with pytest.raises(error, match=message):
        convert(tmp_path / "x.npy", tmp_path / "to.h5")


def test_an_npy_file_holds_one_array_and_no_objects(tmp_path: Path) -> None:
    to_pytables(sea(), tmp_path / "a.h5")
    with pytest.raises(ValueError, match="one array, and there are 'sst', 'n', 'name', 'gap', 'time'"):
        convert(tmp_path / "a.h5", tmp_path / "a.npy")
    convert(tmp_path / "a.h5", tmp_path / "a.npy", variables=["time"])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), sea()["time"].values)
    convert(tmp_path / "a.h5", tmp_path / "n.npy", group="/name")
    assert np.load(tmp_path / "n.npy").dtype == np.dtype("U1")
    with tables.open_file(tmp_path / "rows.h5", "w") as file:
        file.create_vlarray("/", "rows", tables.Int32Atom()).append([1])
    with pytest.raises(ValueError, match=r"'rows' holds objects \(ndarray\)"):
        convert(tmp_path / "rows.h5", tmp_path / "rows.npz")
    assert not (tmp_path / "rows.npz").exists()


# -- tables ------------------------------------------------------------------------------------------------


def test_csv_becomes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_pytables.tools.plain_arrays._ROWS", 2)  # columns change their types from piece to piece
    (tmp_path / "t.csv").write_text("n,x,word,mixed\n1,0.5,a,1\n2,,bb,2\n3,2,cäc,x\n4,3,,4\n5,1,e,\n")
    convert(tmp_path / "t.csv", tmp_path / "t.h5")
    found = opened(tmp_path / "t.h5", group="/t")
    np.testing.assert_array_equal(found["n"], [1, 2, 3, 4, 5])
    assert found["n"].dtype == np.int64
    np.testing.assert_array_equal(found["x"], [0.5, np.nan, 2, 3, 1])
    assert found["word"].values.tolist() == ["a", "bb", "cäc", "", "e"]
    assert found["mixed"].values.tolist() == ["1", "2", "x", "4", ""]
    convert(tmp_path / "t.h5", tmp_path / "some.h5", group="/t", where="n > 3")
    assert opened(tmp_path / "some.h5", group="/some")["x"].values.tolist() == [3, 1]


COLUMNS_IN_TEXT = {
    "numbers": (["1", "2", "3", "4"], np.array([1, 2, 3, 4])),
    "floats": (["1", "2", "3.5", ""], np.array([1, 2, 3.5, np.nan])),
    "codes": (["00501", "00502", "x", ""], np.array(["00501", "00502", "x", ""])),
    "unsigned": (["1", "2", str(2**64 - 1), "4"], np.array([1, 2, 2**64 - 1, 4], "u8")),
    "not unsigned": (["1", "-2", str(2**64 - 1), "4"], np.array(["1", "-2", str(2**64 - 1), "4"])),
    "beyond": (["1", "2", str(2**65), "4"], np.array(["1", "2", str(2**65), "4"])),
    "truth": (["True", "False", "True", "False"], np.array([True, False, True, False])),
    "truth or text": (["True", "False", "1", "2"], np.array(["True", "False", "1", "2"])),
    "some truth": (["True", "False", "", "True"], np.array([1, 0, -128, 1], "i1")),
    "nothing": (["", "", "", ""], np.full(4, np.nan)),
    "small with gaps": (["1", "", "3", "4"], np.array([1, np.nan, 3, 4])),
    "large with gaps": (["1", "", str(2**53 + 1), "-4"], np.array([1, -(2**63), 2**53 + 1, -4])),
    "large before a gap": ([str(2**63 - 1), "2", "3", ""], np.array([2**63 - 1, 2, 3, -(2**63)])),
    "large floats with gaps": (["1", "", "1e30", "4"], np.array([1, np.nan, 1e30, 4])),
}


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_types_of_columns_in_text_do_not_depend_on_blocks(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xr_pytables.tools.plain_arrays._ROWS", rows)
    frame = pd.DataFrame({f"c{number}": texts for number, (texts, _) in enumerate(COLUMNS_IN_TEXT.values())})
    frame.to_csv(tmp_path / "t.csv", index=False)
    convert(tmp_path / "t.csv", tmp_path / "t.h5")
    found = opened(tmp_path / "t.h5", group="/t", mask_and_scale=False)
    for number, (name, (_, expected)) in enumerate(COLUMNS_IN_TEXT.items()):
        column = found[f"c{number}"]
        np.testing.assert_array_equal(column, expected, err_msg=name)
        assert column.dtype == expected.dtype or expected.dtype.kind == "U", name
        if column.dtype.kind in "iu":
            filled = any(word in name for word in ("some truth", "large with", "large before"))
            assert column.attrs == ({"_FillValue": expected.min()} if filled else {}), name
    decoded = opened(tmp_path / "t.h5", group="/t")
    np.testing.assert_array_equal(decoded["c8"], [1, 0, np.nan, 1])
    np.testing.assert_array_equal(decoded["c11"], [1, np.nan, 2.0**53, -4])
    convert(tmp_path / "t.csv", tmp_path / "some.npz", variables=["c0", "c8"])
    with np.load(tmp_path / "some.npz") as some:
        np.testing.assert_array_equal(some["c8"], [1, 0, np.nan, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2,\n3,4,\n", "not a table in CSV: .*Expected 2 fields in line 2, saw 3$"),
        ("a,b\n0,1,2\n1,3,4\n", "not a table in CSV: .*Expected 2 fields in line 2, saw 3$"),
        ("a,b\n1,2\n3,4,\n", "not a table in CSV: .*Expected 2 fields in line 3, saw 3$"),
        ("a,a\n1,2\n", "several columns are called 'a'"),
    ],
)
def test_fields_that_have_no_name_of_their_own_are_told(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"t\.csv: {message}"):
        convert(tmp_path / "t.csv", tmp_path / "to.h5")
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n1,2\n1,2,3\n", b"a\xff,b\n1,2\n"])
def test_what_is_no_table_in_csv_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv: not a table in CSV: "):
        convert(tmp_path / "t.csv", tmp_path / "to.h5")
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.parametrize(
    ("index", "columns", "expected"),
    [
        ([5, 6], ["x"], ["index", "x"]),
        (["a", "b"], ["index", "x"], ["level_0", "index", "x"]),
        ([5, 6], ["Unnamed: 0", "x"], ["index", "Unnamed: 0", "x"]),  # read and written by pandas before
        (pd.MultiIndex.from_tuples([(1, "a"), (2, "b")]), ["x"], ["level_0", "level_1", "x"]),
        (pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["n", None]), ["x"], ["n", "Unnamed: 1", "x"]),
        (pd.Index([5, 6], name="k"), ["x"], ["k", "x"]),
    ],
)
def test_an_index_without_a_name_in_csv_has_the_name_that_pandas_gives_it(
    tmp_path: Path, index: Any, columns: list[str], expected: list[str]
) -> None:
    frame = pd.DataFrame({name: [1.5, 2.5] for name in columns}, index=index)
    frame.to_csv(tmp_path / "t.csv")
    convert(tmp_path / "t.csv", tmp_path / "t.h5")
    with open_quietly(tmp_path / "t.h5", group="/t", string="text") as ds:
        assert list(ds.variables) == expected
        for name, column in zip(expected, frame.reset_index().items(), strict=True):
            assert ds[name].values.tolist() == column[1].tolist()
    convert(tmp_path / "t.csv", tmp_path / "first.h5", variables=[expected[0]])
    assert list(open_quietly(tmp_path / "first.h5", group="/first").variables) == expected[:1]


def test_parquet_becomes_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3], "Int64"),
            "whole": pd.array([1, 2, 3], "Int32"),
            "when": pd.date_range("2014-09-01", periods=3, tz="Europe/Berlin"),
            "flag": [True, False, True],
            "kind": pd.Categorical(["a", "b", "a"]),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    convert(tmp_path / "t.parquet", tmp_path / "t.h5")
    found = opened(tmp_path / "t.h5", group="/t")
    np.testing.assert_array_equal(found["n"], [1, np.nan, 3])
    assert found["whole"].dtype == np.int32
    np.testing.assert_array_equal(found["when"], frame["when"].dt.tz_convert("UTC").dt.tz_localize(None))
    assert found["flag"].values.tolist() == [True, False, True]
    assert found["kind"].values.tolist() == ["a", "b", "a"]
    (tmp_path / "bad.parquet").write_text("text")
    with pytest.raises(FormatError, match="not a Parquet file"):
        convert(tmp_path / "bad.parquet", tmp_path / "to.h5")


@pytest.mark.parametrize("rows", [1, 100])
def test_columns_of_parquet_keep_their_values(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_pytables.tools.plain_arrays._ROWS", rows)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "flag": pa.array([True, None, False]),
        "small": pa.array([1, None, 127], pa.int8()),
        "large": pa.array([2**53 + 1, None, -5]),
        "largest": pa.array([2**64 - 2**12, None, 0], pa.uint64()),
        "raw": pa.array([b"ab", None, b"c"], pa.binary()),
        "day": pa.array([0, None, 16314], pa.date32()),
        "when": pa.array([0, None, 1], pa.timestamp("s", "Europe/Berlin")),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    convert(tmp_path / "t.parquet", tmp_path / "t.h5")
    stored = opened(tmp_path / "t.h5", group="/t", mask_and_scale=False)
    expected = {
        "flag": np.array([1, -128, 0], "i1"),
        "small": np.array([1, np.nan, 127]),
        "large": np.array([2**53 + 1, -(2**63), -5]),
        "largest": np.array([2**64 - 2**12, 2**64 - 1, 0], "u8"),
        "raw": np.array([b"ab", b"", b"c"]),
        "day": np.array(["1970-01-01", "NaT", "2014-09-01"], "M8[s]"),
        "when": np.array(["1970-01-01", "NaT", "1970-01-01T00:00:01"], "M8[s]"),
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(stored[name], values, err_msg=name)
        assert stored[name].dtype.kind == values.dtype.kind, name
    assert stored["large"].attrs["_FillValue"] == -(2**63)
    assert stored["when"].attrs["time_zone"] == "Europe/Berlin"


def test_integers_that_leave_no_fill_value_are_named(tmp_path: Path) -> None:
    pd.DataFrame({"n": pd.array([-(2**63), 2**63 - 1, None], "Int64")}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: column 'n': its integers leave none to stand for the missing"):
        convert(tmp_path / "t.parquet", tmp_path / "t.h5")


def test_an_index_of_pandas_becomes_columns(tmp_path: Path) -> None:
    for name, index, columns in (
        ("named", pd.Index([5, 6], name="key"), {"key": [5, 6]}),
        ("unnamed", pd.Index([5, 7]), {"__index_level_0__": [5, 7]}),
        ("multi", pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["n", "w"]), {"n": [1, 2], "w": ["a", "b"]}),
        ("range", pd.RangeIndex(2), {}),
    ):
        pd.DataFrame({"x": [0.5, 1.5]}, index).to_parquet(tmp_path / f"{name}.parquet")
        convert(tmp_path / f"{name}.parquet", tmp_path / f"{name}.h5")
        found = opened(tmp_path / f"{name}.h5", group=f"/{name}")
        assert {key: found[key].values.tolist() for key in found.variables} == {"x": [0.5, 1.5], **columns}


def test_columns_of_which_no_array_can_be_made_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "n": pa.array([1, 2]),
        "price": pa.array([None, "1.5"]).cast(pa.decimal128(5, 2)),
        "rows": pa.array([None, [1]]),
        "ends": pa.array([b"a", b"b\0"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for name, message in (
        ("price", "has values of type Decimal, of which"), ("rows", "has values of type ndarray, of which"),
        ("ends", "has bytes that end in NUL"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"t\.parquet: column '{name}' {message}.*--vars"):
            convert(tmp_path / "t.parquet", tmp_path / "t.h5", variables=["n", name])
    convert(tmp_path / "t.parquet", tmp_path / "t.h5", variables=["n"])
    assert opened(tmp_path / "t.h5", group="/t")["n"].values.tolist() == [1, 2]
    with pytest.raises(KeyError, match="there is no array 'none'; there are 'n', 'price', 'rows', 'ends'"):
        convert(tmp_path / "t.parquet", tmp_path / "none.h5", variables=["none"])
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), tmp_path / "two.parquet")
    with pytest.raises(ValueError, match=r"two\.parquet: several columns are called 'a'"):
        convert(tmp_path / "two.parquet", tmp_path / "two.h5")


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    pd.DataFrame({"n": [1], "word": ["a"]}).iloc[:0].to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("n,word\n")
    for name in ("t.parquet", "t.csv"):
        convert(tmp_path / name, tmp_path / "t.h5", overwrite=True)
        found = opened(tmp_path / "t.h5", group="/t")
        assert (list(found), dict(found.sizes)) == (["n", "word"], {"row": 0})
    pd.DataFrame(index=pd.RangeIndex(3)).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"none\.parquet: a table without columns"):
        convert(tmp_path / "none.parquet", tmp_path / "none.h5")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_text("x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"xr-pytables\[convert\]"):
        convert(tmp_path / "t.parquet", tmp_path / "to.h5")
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zgroup").touch()
    with pytest.raises(ModuleNotFoundError, match=r"xr-pytables\[convert\]"):
        convert(tmp_path / "a.zarr", tmp_path / "to.h5")


def test_tables_stay_tables(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "from.h5", "w") as file:
        file.create_table("/g", "events", RECORDS, createparents=True)
        file.create_array("/", "plain", np.arange(4))
    convert(tmp_path / "from.h5", tmp_path / "to.h5")
    with plain_file(tmp_path / "to.h5") as file:
        np.testing.assert_array_equal(file.root.g.events.read_where("n > 1"), RECORDS[1:])
        np.testing.assert_array_equal(file.root.plain[:], np.arange(4))
    convert(tmp_path / "from.h5", tmp_path / "some.nc", group="/g/events", where="x > 1")
    with netCDF4.Dataset(tmp_path / "some.nc") as some:
        assert some["n"][:].tolist() == [2, 3]


def test_a_pandas_object_becomes_arrays(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "z"]}, index=pd.date_range("2000", periods=3))
    frame.to_hdf(tmp_path / "store.h5", key="frame", format="table", data_columns=True)
    convert(tmp_path / "store.h5", tmp_path / "to.nc", group="/frame", where="a > 1")
    found = xr.open_dataset(tmp_path / "to.nc", engine="netcdf4").load()
    assert found["a"].values.tolist() == [2, 3]
    np.testing.assert_array_equal(found["index"].values, frame.index[1:])
    found.close()


# -- parts -------------------------------------------------------------------------------------------------


def test_variables_and_parts_are_chosen(tmp_path: Path) -> None:
    to_pytables(sea(), tmp_path / "from.h5")
    convert(tmp_path / "from.h5", tmp_path / "to.h5", variables=["sst"], select={"time": slice(1, None), "x": 2})
    expected = sea()[["sst"]].isel(time=slice(1, None), x=2)
    xr.testing.assert_identical(opened(tmp_path / "to.h5"), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variables": ["none"]}, KeyError, "there is no array 'none'; there are 'gap', 'n'"),
        ({"select": {"z": slice(1)}}, ValueError, "there is no dimension 'z'; there are time, x"),
        ({"select": {"x": 9}}, ValueError, "dimension 'x' has 4 elements, and 9 is asked for"),
        ({"where": "n > 1"}, ValueError, "is not a table"),
        ({"chunks": {"z": 1}}, ValueError, "chunks: there is no dimension 'z'"),
        ({"chunks": (1, 2, 3)}, ValueError, "there is no array of 3 dimensions"),
        ({"chunks": (0, 2)}, ValueError, "must be 1 or more"),
        ({"group": "/none"}, OSError, "there is no '/none'"),
        ({"source_format": "nonsense"}, ValueError, "must be one of hdf5"),
        ({"target_format": "nonsense"}, ValueError, "not 'nonsense'"),
        ({"complib": "gzip"}, ValueError, "Did you mean 'zlib'"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    to_pytables(sea(), tmp_path / "from.h5")
    with pytest.raises(error, match=message):
        convert(tmp_path / "from.h5", tmp_path / "to.h5", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["from.h5"]


def test_the_ending_says_what_to_write(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"told by the ending \(\.h5"):
        convert(tmp_path / "x.npy", tmp_path / "x.xyz")
    convert(tmp_path / "x.npy", tmp_path / "x.xyz", target_format="pytables")
    assert opened(tmp_path / "x.xyz")["x"].values.tolist() == [0, 1, 2]


# -- what is there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["to.h5", "to.nc", "to.zarr", "to.npy", "to.npz"])
def test_a_target_that_is_there_is_replaced_on_request_alone(target: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    np.save(tmp_path / "y.npy", np.arange(5))
    convert(tmp_path / "x.npy", tmp_path / target, name="v")
    with pytest.raises(FileExistsError, match="it is there already"):
        convert(tmp_path / "y.npy", tmp_path / target, name="v")
    convert(tmp_path / "y.npy", tmp_path / target, name="v", overwrite=True)
    convert(tmp_path / target, tmp_path / "back.npy")
    assert np.load(tmp_path / "back.npy").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("target_format", ["pytables", "netcdf", "zarr", "npy", "npz"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_no_target(target_format: str, overwrite: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("text")
    with pytest.raises(IsADirectoryError, match="folder: this is a folder"):
        convert(tmp_path / "x.npy", tmp_path / "folder", target_format=target_format, overwrite=overwrite)
    assert (tmp_path / "folder" / "precious").read_text() == "text"
    convert(tmp_path / "x.npy", tmp_path / "store", target_format="zarr")
    if target_format != "zarr":
        with pytest.raises(IsADirectoryError, match="store: this is a folder"):
            convert(tmp_path / "x.npy", tmp_path / "store", target_format=target_format, overwrite=overwrite)
        convert(tmp_path / "store", tmp_path / "back.npy")
        assert np.load(tmp_path / "back.npy").tolist() == [0, 1, 2]


def test_a_store_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    convert(tmp_path / "x.npy", tmp_path / "a.zarr")
    rename = os.rename

    def refused(source: str, target: str) -> None:
        if target == str(tmp_path / "a.zarr") and os.path.basename(source) != "old":
            raise OSError(errno.EIO, "Input/output error", source)
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", refused)
        with pytest.raises(OSError, match="Input/output error") as caught:
            convert(tmp_path / "x.npy", tmp_path / "a.zarr", name="v", overwrite=True)
    assert caught.value.filename == str(tmp_path / "a.zarr")
    assert set(xr.open_zarr(tmp_path / "a.zarr", consolidated=False)) == {"x"}


def test_a_store_takes_the_place_of_a_file_and_of_a_link(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    (tmp_path / "file").write_text("text")
    convert(tmp_path / "x.npy", tmp_path / "store", target_format="zarr")
    (tmp_path / "link").symlink_to("store")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match="it is there already"):
            convert(tmp_path / "x.npy", tmp_path / name, target_format="zarr", name="v")
        convert(tmp_path / "x.npy", tmp_path / name, target_format="zarr", name="v", overwrite=True)
        assert set(xr.open_zarr(tmp_path / name, consolidated=False)) == {"v"}
    assert set(xr.open_zarr(tmp_path / "store", consolidated=False)) == {"x"}


@pytest.mark.parametrize("target", ["to.h5", "to.zarr", "to.npy", "to.npz"])
def test_a_failure_leaves_the_old_target(target: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    convert(tmp_path / "x.npy", tmp_path / target, name="v")
    with tables.open_file(tmp_path / "bad.h5", "w") as file:
        file.create_carray(
            "/", "v", obj=np.arange(1 << 18), chunkshape=(1 << 15,), filters=tables.Filters(fletcher32=True)
        )
        place = file.root.v.chunk_info((1 << 17,)).offset
    data = bytearray((tmp_path / "bad.h5").read_bytes())
    data[place] ^= 1
    (tmp_path / "bad.h5").write_bytes(data)
    with pytest.raises(OSError, match="checksum"):
        convert(tmp_path / "bad.h5", tmp_path / target, overwrite=True)
    convert(tmp_path / target, tmp_path / "back.npy")
    assert np.load(tmp_path / "back.npy").tolist() == [0, 1, 2]


def test_arrays_are_added_to_a_file_of_pytables(tmp_path: Path) -> None:
    to_pytables(sea(), tmp_path / "a.h5")
    np.save(tmp_path / "x.npy", np.arange(3))
    (tmp_path / "t.csv").write_text("n\n1\n2\n")
    convert(tmp_path / "x.npy", tmp_path / "a.h5", target_group="/new/group")
    convert(tmp_path / "t.csv", tmp_path / "a.h5", target_group="/new/table")
    assert opened(tmp_path / "a.h5", group="/new/group")["x"].values.tolist() == [0, 1, 2]
    assert opened(tmp_path / "a.h5", group="/new/table")["n"].values.tolist() == [1, 2]
    assert diff(sea(), tmp_path / "a.h5", variables=["sst", "time"])[0].path == "/new"
    with pytest.raises(ValueError, match="only a file of PyTables"):
        convert(tmp_path / "x.npy", tmp_path / "a.zarr", target_group="/g")


def test_arrays_of_a_group_that_is_there_are_replaced_on_request_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    np.save(tmp_path / "y.npy", np.arange(5))
    (tmp_path / "t.csv").write_text("n\n1\n2\n")
    convert(tmp_path / "x.npy", tmp_path / "a.h5", target_group="/g", name="v")
    convert(tmp_path / "t.csv", tmp_path / "a.h5", target_group="/t")
    convert(tmp_path / "y.npy", tmp_path / "a.h5", target_group="/g", name="w")
    with pytest.raises(FileExistsError, match=r"a\.h5:/g/v: it is there already; .*--force"):
        convert(tmp_path / "y.npy", tmp_path / "a.h5", target_group="/g", name="v")
    with pytest.raises(FileExistsError, match=r"a\.h5:/t: it is there already; .*--force"):
        convert(tmp_path / "t.csv", tmp_path / "a.h5", target_group="/t")
    assert opened(tmp_path / "a.h5", group="/g")["v"].values.tolist() == [0, 1, 2]
    convert(tmp_path / "y.npy", tmp_path / "a.h5", target_group="/g", name="v", overwrite=True)
    assert opened(tmp_path / "a.h5", group="/g")["v"].values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("source", ["x.npy", "t.csv"])
def test_a_folder_that_takes_nothing_is_named_by_the_target(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    (tmp_path / "t.csv").write_text("n\n1\n")

    def refused(prefix: str, dir: str) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", os.path.join(dir, prefix))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(PermissionError) as caught:
        convert(tmp_path / source, tmp_path / "to.zarr")
    assert caught.value.filename == str(tmp_path / "to.zarr")


def test_warnings_name_the_target_and_not_a_hidden_one(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "x", [1])
        file.create_table("/", "t", RECORDS)
        file.root.x.attrs.many = {1}
    with pytest.warns(UserWarning, match="attribute 'many' of type set has no form") as caught:
        convert(tmp_path / "a.h5", tmp_path / "b.h5")
    (message,) = [str(one.message) for one in caught]
    assert message.startswith(f"{tmp_path / 'b.h5'}:/: variable 'x': attribute 'many' of type set has no form")


def test_the_source_is_not_the_target(tmp_path: Path) -> None:
    to_pytables(sea(), tmp_path / "a.h5")
    os.symlink("a.h5", tmp_path / "b.h5")
    with pytest.raises(ValueError, match="the source is the target"):
        convert(tmp_path / "a.h5", tmp_path / "b.h5", overwrite=True)


def test_groups_that_give_a_dimension_other_sizes(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "from.nc", "w") as file:
        for group, size in ((file, 3), (file.createGroup("deep"), 5)):
            group.createDimension("x", size)
            group.createVariable("v", "i4", ("x",))[:] = np.arange(size)
    for name in ("to.h5", "to.zarr"):
        convert(tmp_path / "from.nc", tmp_path / name)
        assert diff(tmp_path / "from.nc", tmp_path / name) == ()


# -- how -----------------------------------------------------------------------------------------------------


def test_a_bar_counts_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1 << 20,)))
    for name in ("x.h5", "x.zarr", "y.npy"):
        convert(tmp_path / "x.npy", tmp_path / name, progress=True, threads=1)
        assert "8.00M/8.00M" in capsys.readouterr().err


MEASURED = """
import sys
from xr_pytables.tools.converting import convert

def peak():  # of this process alone: ru_maxrss begins with that of the parent
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10

small, source, target = sys.argv[1:]
convert(small, "small-" + target)
before = peak()
convert(source, target)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("source", "targets"), [("x.npy", ["to.h5", "to.npz", "to.zarr"]), ("x.h5", ["to.npy"]), ("x.nc", ["to.h5"])]
)
def test_memory_is_some_blocks_and_not_the_array(source: str, targets: list[str], tmp_path: Path) -> None:
    values = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "f4", (40, 1024, 1024))
    for i in range(40):
        values[i] = i
    del values
    np.save(tmp_path / "s.npy", np.zeros((2, 1024, 1024), "f4"))
    if source == "x.h5":
        convert(tmp_path / "x.npy", tmp_path / "x.h5")
    elif source == "x.nc":
        with netCDF4.Dataset(tmp_path / "x.nc", "w", format="NETCDF3_64BIT_OFFSET") as file:
            for dim, size in (("t", 40), ("y", 1024), ("x", 1024)):
                file.createDimension(dim, size)
            variable = file.createVariable("v", "f4", ("t", "y", "x"))
            for i in range(40):
                variable[i] = i
    for target in targets:
        code = [sys.executable, "-c", MEASURED, "s.npy", source, target]
        done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 120, f"{done.stdout} MiB for an array of 160 MiB to {target}"


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "source", "reason"),
    [
        ({"dtype": "f4"}, "a.npy", r"dtype \(--dtype\) is for sources of the formats raw, and this one is npy"),
        ({"shape": (2, 3)}, "a.npy", r"shape \(--shape\) is for sources"),
        ({"offset": 8}, "a.h5", r"offset \(--offset\) is for .* this one is hdf5.*\(--from\)"),
        ({"order": "F"}, "a.npy", r"order \(--order\) is for"),
        ({"name": "x"}, "a.h5", r"name \(--name\) is for sources of the formats npy, raw"),
        ({"dims": ("x",)}, "a.h5", r"dims \(--dims\) is for"),
        ({"select": {"nope": 1}}, "a.npy", r"there is no dimension 'nope'"),
        ({"select": {"nope": slice(1)}}, "a.h5", r"there is no dimension 'nope'"),
    ],
)
def test_what_has_no_effect_is_refused(asked: dict[str, Any], source: str, reason: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GRID)
    to_pytables(xr.Dataset({"grid": (("x", "y", "z"), GRID)}), tmp_path / "a.h5")
    with pytest.raises(ValueError, match=reason):
        convert(tmp_path / source, tmp_path / "b.h5", **asked)
    assert not (tmp_path / "b.h5").exists()


def test_other_compressors_than_zlib_have_no_form_in_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GRID)
    for complib in ("foo", "blosc:zstd"):
        with pytest.raises(ValueError, match=rf"b\.npz: complib '{complib}' has no form in \.npz files; zlib has one"):
            convert(tmp_path / "a.npy", tmp_path / "b.npz", complib=complib)
        assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_bytes_behind_an_array_of_numpy_are_not_left_out(version: tuple[int, int], tmp_path: Path) -> None:
    with open(tmp_path / "two.npy", "wb") as file:
        for values in (GRID, GRID + 1):
            np.lib.format.write_array(file, values, version)
    with pytest.raises(FormatError, match=r"two\.npy: \d+ bytes follow the array of shape .* left out\. Of several"):
        convert(tmp_path / "two.npy", tmp_path / "b.h5")
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "two.npz", "w", compression) as archive:
            archive.write(tmp_path / "two.npy", "x.npy")
        with pytest.raises(FormatError, match=r"two\.npz:x\.npy: (\d+ bytes follow|not a \.npy file)"):
            convert(tmp_path / "two.npz", tmp_path / "b.h5")
    assert not (tmp_path / "b.h5").exists()


def test_a_level_means_nothing_for_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GRID)
    with pytest.raises(ValueError, match=r"b\.npz: complevel \(--complevel\) has no meaning for npz"):
        convert(tmp_path / "a.npy", tmp_path / "b.npz", complib="zlib", complevel=3)


@pytest.mark.parametrize("target", ["b.npz", "b.npy", "b.zarr", "b.h5", "b.nc"])
def test_a_missing_folder_is_named_and_no_other(target: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GRID)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*no/such\. Make it first") as caught:
        convert(tmp_path / "a.npy", tmp_path / "no" / "such" / target)
    assert ".xr-pytables" not in str(caught.value)


def test_messages_name_the_target_and_not_a_hidden_one(tmp_path: Path) -> None:
    to_pytables(xr.Dataset({"v": ("x", [1.5])}), tmp_path / "a.h5")
    to_pytables(xr.Dataset({"v": ("x", [1.5])}), tmp_path / "a.h5", mode="a", group="/t", layout="table")
    for target in ("b.h5", "b.zarr"):
        with pytest.raises(ValueError, match=r"complib 'foo'") as caught:
            convert(tmp_path / "a.h5", tmp_path / target, complib="foo")
        assert ".xr-pytables" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["i4", "f8"])
def test_rows_of_variable_length_are_named_for_zarr(tmp_path: Path, dtype: str) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        rows = file.createVLType(dtype, "rows")
        file.createDimension("x", 2)
        ragged = file.createVariable("ragged", rows, ("x",))
        ragged[:] = np.array([np.arange(2, dtype=dtype), np.arange(3, dtype=dtype)], object)
    with pytest.raises(ValueError, match=r"b\.zarr: '/ragged' has rows of variable length.*--vars"):
        convert(tmp_path / "a.nc", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_tables_are_compressed_as_asked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,x\n1,0.5\n2,1.5\n")
    convert(tmp_path / "a.csv", tmp_path / "b.h5", complib="blosc:zstd", complevel=3, chunks=(50,))
    with plain_file(tmp_path / "b.h5") as file:
        assert (file.root.b.filters.complib, file.root.b.filters.complevel) == ("blosc:zstd", 3)
        assert file.root.b.chunkshape == (50,)
        assert file.root.b.read()["x"].tolist() == [0.5, 1.5]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source_format in (None, "npy", "hdf5"):
        with pytest.raises(OSError, match=r"pipe: this is not a regular file$"):
            convert(tmp_path / "pipe", tmp_path / "b.h5", source_format=source_format)
    with pytest.raises(OSError, match=r"pipe: this is not a regular file$"):
        diff(tmp_path / "pipe", tmp_path / "pipe")


@pytest.mark.parametrize("ending", ["h5", "nc", "zarr"])
def test_labels_of_pandas_are_called_by_their_text(tmp_path: Path, ending: str) -> None:
    source, target = tmp_path / "a.h5", tmp_path / f"b.{ending}"
    values = np.arange(6.0).reshape(3, 2)
    pd.DataFrame(values).to_hdf(source, key="numbers")
    pd.DataFrame(values, columns=pd.MultiIndex.from_tuples([("nose", "x"), ("nose", "y")])).to_hdf(source, key="tuples")
    convert(source, target)
    with opening.opened(str(target)) as groups:
        assert {"0", "1"} < set(groups["/numbers"].variables)
        np.testing.assert_array_equal(groups["/tuples"]["('nose', 'y')"], values[:, 1])
    assert not diff(source, target)
    convert(source, tmp_path / "one.npy", variables=["('nose', 'x')"])
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), values[:, 0])


@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_labels_of_the_same_text_are_refused(tmp_path: Path, ending: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        pd.DataFrame([[1.0, 2.0]], columns=[0, "0"]).to_hdf(tmp_path / "a.h5", key="k")
    with pytest.raises(ValueError, match=r"a\.h5:/k: the column 0 cannot be called '0', as another one is\. Rename"):
        convert(tmp_path / "a.h5", tmp_path / f"b.{ending}")
    assert not diff(tmp_path / "a.h5", tmp_path / "a.h5")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions and links are those of POSIX")
@pytest.mark.parametrize("ending", ["h5", "nc", "npy", "npz"])
def test_a_target_keeps_its_permissions_and_its_place(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.csv").write_text("n\n1\n2\n")
    target, link = tmp_path / f"private.{ending}", tmp_path / f"link.{ending}"
    to_pytables(xr.Dataset({"old": ("x", [1.0])}), target)
    target.chmod(0o600)
    link.symlink_to(target)
    convert(tmp_path / "a.csv", link, overwrite=True)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    if ending == "h5":
        convert(tmp_path / "a.csv", link, target_group="/more/rows")
        assert (link.is_symlink(), target.stat().st_mode & 0o777) == (True, 0o600)
        with tables.open_file(target) as file:
            assert file.root.more.rows[:]["n"].tolist() == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", target.name, link.name}


def test_a_table_is_not_added_to_a_file_that_somebody_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("n\n1\n2\n")
    target = tmp_path / "b.h5"
    with tables.open_file(target, "w") as file:
        with pytest.raises(FileBusyError, match=r"b\.h5: this process has the file open"):
            convert(tmp_path / "a.csv", target, target_group="/rows")
        file.create_array("/", "late", [1, 2])

    def copy(source: str, new: str) -> None:
        shutil.copyfile(source, new)
        to_pytables(xr.Dataset({"later": ("x", [1.0])}), target, mode="a")

    monkeypatch.setattr("xr_pytables.tools.converting.shutil", SimpleNamespace(copyfile=copy, rmtree=shutil.rmtree))
    with pytest.raises(FileChangedError, match=r"b\.h5: the file was changed by somebody else meanwhile; it was left"):
        convert(tmp_path / "a.csv", target, target_group="/rows")
    with tables.open_file(target) as file:
        assert {"late", "later"} <= set(file.root._v_children)
        assert "rows" not in file.root


@pytest.mark.parametrize("ending", ["h5", "nc", "zarr"])
def test_a_coordinate_that_a_group_repeats_is_kept(tmp_path: Path, ending: str) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for group in (file, file.createGroup("g"), file.createGroup("g/h")):
            group.createDimension("x", 2)
            group.createVariable("x", "f8", ("x",))[:] = [1.5, 2.5]
            group.createVariable("v", "i4", ("x",))[:] = [1, 2]
    target = tmp_path / f"b.{ending}"
    convert(tmp_path / "a.nc", target)
    assert diff(tmp_path / "a.nc", target) == ()
    if ending != "zarr":
        assert opened(target, group="g")["x"].values.tolist() == [1.5, 2.5]


def test_groups_that_are_written_one_by_one_leave_the_old_target_if_one_fails(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"a": np.arange(2), "a/b": np.arange(3)})
    (tmp_path / "b.h5").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"/b\.h5: '/a' is an array, so '/a' cannot be a group"):
        convert(tmp_path / "a.npz", tmp_path / "b.h5", overwrite=True)
    assert (tmp_path / "b.h5").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "b.h5"}


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("v", np.dtype([("a", "i4", (2,))]), r"'/v' has records with arrays or records in them"),
        ("v", np.dtype([("a", "i4"), ("n", [("x", "f4")])]), r"'/v' has records with arrays or records in them"),
        ("v", np.dtype(np.longdouble), r"'/v' has numbers of the type float128"),
        ("a\\b", np.dtype("i4"), r"'/a\\\\b' has a backslash in its name"),
    ],
)
def test_what_zarr_has_no_form_for_is_named(tmp_path: Path, name: str, dtype: np.dtype[Any], message: str) -> None:
    if dtype.kind == "f" and dtype.itemsize == 8:
        pytest.skip("long doubles are doubles here")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(name, (2, 2), dtype)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "a.h5", tmp_path / "b.zarr")
