"""Columns of pandas' own types: written as plain values that come back, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xr_pytables import to_pytables


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def as_variable(values: Any) -> xr.Dataset:
    return xr.Dataset({"v": ("x", values)})


def as_coordinate(values: Any) -> xr.Dataset:
    return xr.Dataset({"w": ("x", np.zeros(len(values)))}, {"v": ("x", values)})


def as_index(values: Any) -> xr.Dataset:
    return xr.Dataset({"w": ("v", np.zeros(len(values)))}, {"v": pd.Index(values)})


KINDS = {"variable": as_variable, "coordinate": as_coordinate, "index": as_index}
NAN, NAT = float("nan"), np.datetime64("NaT", "ns")
# values, what comes back, dtype on disk
CASES: dict[str, tuple[Any, list[Any], str]] = {
    "categories": (pd.Categorical(list("aba")), ["a", "b", "a"], "S1"),
    "categories, one missing": (pd.Categorical(["a", None, "bc"]), ["a", "", "bc"], "S2"),
    "categories of integers": (pd.Categorical([3, 4, 3]), [3, 4, 3], "i8"),
    "categories of integers, one missing": (pd.Categorical([3, None, 5]), [3, NAN, 5], "i8"),
    "categories of floats": (pd.Categorical([3.5, None]), [3.5, NAN], "f8"),
    "categories of truth": (pd.Categorical([True, None]), [1, NAN], "i1"),
    "ordered categories": (pd.Categorical(["lo", "hi"], ["lo", "hi"], ordered=True), ["lo", "hi"], "S2"),
    "integers": (pd.array([1, 2], dtype="Int16"), [1, 2], "i2"),
    "integers, one missing": (pd.array([1, None, 2**53 + 1], dtype="Int64"), [1, NAN, 2.0**53], "i8"),
    "all missing": (pd.array([None, None], dtype="Int32"), [NAN, NAN], "i4"),
    "large, one missing": (pd.array([1, None, 2**64 - 1], dtype="UInt64"), [1, NAN, 2.0**64], "u8"),
    "low, one missing": (pd.array([1, None, -(2**63)], dtype="Int64"), [1, NAN, -(2.0**63)], "i8"),
    "unsigned": (pd.array([255, None, 0], dtype="UInt8"), [255, NAN, 0], "u1"),
    "floats": (pd.array([1.5, None], dtype="Float32"), [1.5, NAN], "f4"),
    "truth": (pd.array([True, False], dtype="boolean"), [True, False], "?"),
    "truth, one missing": (pd.array([True, None], dtype="boolean"), [1, NAN], "i1"),
    "text": (pd.array(["a", None, "\u00fc"], dtype="string"), ["a", "", "\u00fc"], "S2"),
    "sparse": (pd.arrays.SparseArray([0, 0, 7]), [0, 0, 7], "i8"),
    "sparse floats": (pd.arrays.SparseArray([0.0, np.nan]), [0, NAN], "f8"),
    "none": (pd.array([], dtype="Int64"), [], "i8"),
}


@pytest.mark.parametrize("layout", ["arrays", "table"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_values_come_back(path: Path, name: str, kind: str, layout: Any) -> None:
    values, expected, stored = CASES[name]
    to_pytables(KINDS[kind](values), path, layout=layout, group="/t")
    with xr.open_dataset(path, engine="pytables", group="/t") as back:
        np.testing.assert_array_equal(back["v"].values, np.array(expected, back["v"].dtype))
        assert back["v"].dtype.kind == np.asarray(expected, None if expected else "i8").dtype.kind.replace("U", "O")
    with xr.open_dataset(path, engine="pytables", group="/t", decode_cf=False, string="bytes") as raw:
        assert raw["v"].dtype == stored


def test_missing_integers_are_stored_exactly(path: Path) -> None:
    to_pytables(as_variable(pd.array([2**62 + 1, None], dtype="Int64")), path)
    with xr.open_dataset(path, engine="pytables", mask_and_scale=False) as raw:
        assert raw["v"].values.tolist() == [2**62 + 1, -(2**63)]
        assert raw["v"].attrs["_FillValue"] == -(2**63)


REFUSED = {
    "period": (pd.period_range("2000-01", periods=2, freq="M"), r"period\[M\] has no form.*to_timestamp\(\)"),
    "interval": (pd.interval_range(0, 2), r"interval\[int64, right\] has no form.*\.left and \.right"),
    "categories of intervals": (pd.cut([1, 5, 9], 3), r"interval\[float64, right\] has no form"),
    "times with a zone": (pd.date_range("2000", periods=2, tz="Europe/Berlin"), r"tz_convert\('UTC'\)"),
    "categories of both": (pd.Categorical([1, "a"]), "mixed native types"),
}


@pytest.mark.parametrize("layout", ["arrays", "table"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_by_name(path: Path, name: str, kind: str, layout: Any) -> None:
    values, message = REFUSED[name]
    dataset = KINDS[kind](values.array if isinstance(values, pd.Index) else values)
    with pytest.raises((TypeError, ValueError), match=rf"file\.h5:/t: variable 'v': .*{message}"):
        to_pytables(dataset, path, layout=layout, group="/t")
    assert not path.exists()


def integers(*values: int | None) -> xr.Dataset:
    return as_variable(pd.array(values, dtype="Int64"))


@pytest.mark.parametrize(
    ("encoding", "dtype", "fill"),
    [({"dtype": "i2"}, "i2", -(2**15)), ({"_FillValue": -1}, "i8", -1), ({"dtype": "u1"}, "u1", 255)],
)
def test_the_encoding_chooses_type_and_fill_value(path: Path, encoding: dict[str, Any], dtype: str, fill: int) -> None:
    to_pytables(integers(7, None), path, encoding={"v": encoding})
    with xr.open_dataset(path, engine="pytables") as back:
        np.testing.assert_array_equal(back["v"], [7, np.nan])
        assert (back["v"].encoding["dtype"], back["v"].encoding["_FillValue"]) == (dtype, fill)


@pytest.mark.parametrize("encoding", [{"dtype": "f4"}, {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -9}])
def test_missing_values_may_be_stored_as_nan_or_packed(path: Path, encoding: dict[str, Any]) -> None:
    to_pytables(integers(7, None), path, encoding={"v": encoding})
    np.testing.assert_array_equal(xr.load_dataset(path, engine="pytables")["v"], [7, np.nan])


def test_bytes_of_which_every_value_occurs_become_floats(path: Path) -> None:
    values = pd.array([*range(256), None], dtype="UInt8")
    to_pytables(as_variable(values), path)
    np.testing.assert_array_equal(xr.load_dataset(path, engine="pytables")["v"], [*range(256), np.nan])


@pytest.mark.parametrize("layout", ["arrays", "table"])
def test_more_of_them_take_the_fill_value_of_the_file(path: Path, layout: Any) -> None:
    options: dict[str, Any] = {"layout": layout, "group": "/t"}
    to_pytables(integers(1, None), path, append_dim="x", encoding={"v": {"_FillValue": -5}}, **options)
    to_pytables(integers(None, 2), path, append_dim="x", **options)
    with xr.open_dataset(path, engine="pytables", group="/t") as back:
        np.testing.assert_array_equal(back["v"], [1, np.nan, np.nan, 2])
        assert back["v"].encoding["_FillValue"] == -5


@pytest.mark.parametrize("options", [{"mode": "r+"}, {"region": {"x": slice(0, 2)}}])
def test_values_are_set_with_the_fill_value_of_the_file(path: Path, options: dict[str, Any]) -> None:
    to_pytables(integers(1, None), path, encoding={"v": {"_FillValue": -5}})
    to_pytables(integers(None, 3), path, **options)
    np.testing.assert_array_equal(xr.load_dataset(path, engine="pytables")["v"], [np.nan, 3])


def test_missing_values_are_not_appended_where_the_file_has_none_for_them(path: Path) -> None:
    to_pytables(integers(1, 2), path, append_dim="x")
    with pytest.raises(ValueError, match=r"file\.h5:/: array 'v' of int64 cannot hold"):
        to_pytables(integers(3, None), path, append_dim="x")


def test_categories_are_appended_as_text(path: Path) -> None:
    to_pytables(as_variable(pd.Categorical(["aa", "b"])), path, append_dim="x")
    to_pytables(as_variable(pd.Categorical(["c", None])), path, append_dim="x")
    assert xr.load_dataset(path, engine="pytables")["v"].values.tolist() == ["aa", "b", "c", ""]


def test_a_frame_of_many_types_in_a_tree(path: Path) -> None:
    frame = pd.DataFrame({"c": pd.Categorical(["q", "r"]), "i": pd.array([1, None], dtype="Int8"), "f": [0.5, 1.5]})
    tree = xr.DataTree.from_dict({"/a": xr.Dataset.from_dataframe(frame), "/b": xr.Dataset({"n": 1})})
    to_pytables(tree, path)
    with xr.open_dataset(path, engine="pytables", group="/a") as back:
        assert back["c"].values.tolist() == ["q", "r"]
        np.testing.assert_array_equal(back["i"], [1, np.nan])


ARROW = {
    "integers": ([1, None], "int64", [1, np.nan]),
    "text": (["a", None], "string", ["a", ""]),
    "truth": ([True, None], "bool_", [1, np.nan]),
}


@pytest.mark.parametrize("name", ARROW)
def test_columns_of_arrow_are_like_those_of_pandas(path: Path, name: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    values, dtype, expected = ARROW[name]
    to_pytables(as_variable(pd.array(values, dtype=pd.ArrowDtype(getattr(arrow, dtype)()))), path)
    back = xr.load_dataset(path, engine="pytables")["v"].values
    np.testing.assert_array_equal(back, np.array(expected, back.dtype))


# -- objects that nothing is known of ----------------------------------------------------------------------


def objects(*values: Any) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "encoding", [{"string": "fixed"}, {"string": "vlen"}, {"dtype": str}, {"dtype": "S4"}, {"dtype": "S1"}]
)
@pytest.mark.parametrize("values", [(), (None, None), (np.nan,), (pd.NA, None)], ids=repr)
def test_no_text_is_text_where_the_encoding_says_so(
    path: Path, values: tuple[Any, ...], encoding: dict[str, Any], lazy: bool
) -> None:
    dataset = as_variable(objects(*values))
    to_pytables(dataset.chunk(x=1) if lazy else dataset, path, append_dim="x", encoding={"v": encoding})
    assert xr.load_dataset(path, engine="pytables")["v"].values.tolist() == [""] * len(values)
    if encoding != {"dtype": "S1"}:  # has a dimension along the text
        to_pytables(as_variable(objects("", "")), path, append_dim="x")
        assert xr.load_dataset(path, engine="pytables")["v"].values.tolist() == [""] * (len(values) + 2)


@pytest.mark.parametrize("values", [(None, None), (np.nan,), (pd.NA, None), (1, pd.NA), (2.5, None)], ids=repr)
def test_missing_objects_are_nan_where_nobody_says_that_they_are_text(path: Path, values: tuple[Any, ...]) -> None:
    to_pytables(as_variable(objects(*values)), path)
    expected = [np.nan if pd.isna(value) else value for value in values]
    np.testing.assert_array_equal(xr.load_dataset(path, engine="pytables")["v"], expected)


@pytest.mark.parametrize("string", ["fixed", "vlen"])
@pytest.mark.parametrize(
    ("how", "more"),
    [("append", (None,)), ("append", (np.nan, pd.NA)), ("region", (None,)), ("region", (np.nan, pd.NA)), ("r+", ())],
    ids=repr,
)
def test_no_text_is_written_to_text_that_is_there(path: Path, string: str, more: tuple[Any, ...], how: str) -> None:
    to_pytables(as_variable(objects("a", "b")), path, encoding={"v": {"string": string}}, unlimited_dims=["x"])
    old = ["a", "b"]
    if how == "append":
        to_pytables(as_variable(objects(*more)), path, append_dim="x")
        old += [""] * len(more)
    elif how == "region":
        to_pytables(as_variable(objects(*more)), path, region={"x": slice(0, len(more))})
        old[: len(more)] = [""] * len(more)
    else:
        to_pytables(as_variable(objects(None, None)), path, mode="r+")
        old = ["", ""]
    assert xr.load_dataset(path, engine="pytables")["v"].values.tolist() == old


def test_appending_no_rows_changes_nothing(path: Path) -> None:
    to_pytables(as_variable(objects("a", "b")), path, append_dim="x")
    to_pytables(as_variable(objects()), path, append_dim="x")
    assert xr.load_dataset(path, engine="pytables")["v"].values.tolist() == ["a", "b"]


def test_text_that_was_read_and_is_empty_stays_text(path: Path) -> None:
    to_pytables(as_variable(objects("a", "b")), path)
    with xr.open_dataset(path, engine="pytables") as ds:
        to_pytables(ds.isel(x=slice(0, 0)), path.with_name("none.h5"))
    assert xr.load_dataset(path.with_name("none.h5"), engine="pytables")["v"].dtype == object


@pytest.mark.filterwarnings("ignore:.*dask array with dtype=object:xarray.coding.common.SerializationWarning")
@pytest.mark.parametrize("layout", ["arrays", "table"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        ((1, 2), (3,)),
        ([1, 2], [3]),
        ("a", b"b"),
        (b"a", "b"),
        (1, 1j),
        ({"a": 1},),
        ("a", 1),
        (pd.Timestamp("2000", tz="UTC"),),
    ],
    ids=repr,
)
def test_objects_without_a_form_are_named(path: Path, values: tuple[Any, ...], lazy: bool, layout: Any) -> None:
    dataset = as_variable(objects(*values))
    with pytest.raises((TypeError, ValueError), match=r"file\.h5:/t: variable 'v'"):
        to_pytables(dataset.chunk() if lazy else dataset, path, layout=layout, group="/t")
    assert not path.exists()


@pytest.mark.filterwarnings("ignore:.*dask array with dtype=object:xarray.coding.common.SerializationWarning")
@pytest.mark.parametrize("layout", ["arrays", "table"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        (1, 2, 3),
        (np.uint64(2**64 - 1), np.uint64(1)),
        (1.5, None),
        (1, pd.NA),
        (True, False),
        (1j, 2j),
        (np.int8(1), np.int8(2)),
    ],
    ids=repr,
)
def test_objects_that_are_numbers_are_stored_and_appended_as_such(
    path: Path, values: tuple[Any, ...], lazy: bool, layout: Any
) -> None:
    dataset = as_variable(objects(*values))
    dataset = dataset.chunk(x=1) if lazy else dataset
    for _ in range(2):
        to_pytables(dataset, path, layout=layout, group="/t", append_dim="x")
    expected = np.tile(np.array([np.nan if pd.isna(value) else value for value in values]), 2)
    found = xr.load_dataset(path, engine="pytables", group="/t")["v"].values
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_objects_that_are_true_or_false_are_read_by_netcdf(path: Path) -> None:
    to_pytables(as_variable(objects(True, False)), path)
    with xr.open_dataset(path, engine="netcdf4") as dataset:
        np.testing.assert_array_equal(dataset["v"], [True, False])


def test_rows_of_different_lengths_are_no_column(path: Path) -> None:
    with pytest.raises(TypeError, match=r"/t: variable 'v': values of type ndarray have no form in HDF5 here. Rows of"):
        to_pytables(as_variable(objects(np.arange(2), np.arange(3))), path, layout="table", group="/t")


@pytest.mark.parametrize("values", [[300, 7, None], [300, 7]])
def test_a_value_that_would_read_as_missing_is_refused(path, values):
    dataset = xr.Dataset({"v": ("t", pd.array(values, dtype="Int64"))})
    with pytest.raises(ValueError, match=r"variable 'v': 300 is one of its values, and with _FillValue=300 it"):
        to_pytables(dataset, path, encoding={"v": {"_FillValue": 300}})
    flags = xr.Dataset({"v": ("t", pd.array([True, False, None], dtype="boolean"))})
    with pytest.raises(ValueError, match="would read as missing"):
        to_pytables(flags, path, encoding={"v": {"_FillValue": 1}})
    assert not path.exists()


def test_an_appended_value_that_would_read_as_missing_is_refused(path):
    def of(values):
        return xr.Dataset({"v": ("t", pd.array(values, dtype="Int64"))})

    to_pytables(of([1, 2, None]), path, encoding={"v": {"_FillValue": -1}}, unlimited_dims=["t"])
    for values in ([-1, 2, None], [-1, 2]):
        with pytest.raises(ValueError, match="-1 is one of its values"):
            to_pytables(of(values), path, append_dim="t")
    to_pytables(of([3, None]), path, append_dim="t")
    with xr.open_dataset(path, engine="pytables") as found:
        np.testing.assert_array_equal(found.v, [1, 2, np.nan, 3, np.nan])


@pytest.mark.parametrize(("dtype", "fill"), [("Int16", -99999), ("Int64", 2**70), ("Int64", "x")])
def test_a_fill_value_that_has_no_form_is_named(path, dtype, fill):
    dataset = xr.Dataset({"v": ("t", pd.array([1, None], dtype=dtype))})
    with pytest.raises(ValueError, match="variable 'v': _FillValue="):
        to_pytables(dataset, path, encoding={"v": {"_FillValue": fill}})
