"""`diff` finds in what files differ, whatever their format, and counts as NumPy does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xr_pytables
from xr_pytables.tools.differences import Difference, diff, same_values
from xr_pytables.tools.opening import blocks, format_of, opened
from xr_pytables.writing.writer import to_pytables

from ..helpers_properties import examples


def sea() -> xr.Dataset:
    """A dataset of one value of each kind."""
    time = pd.date_range("2014-09-01", periods=3)
    return xr.Dataset(
        {
            "sst": (("time", "x"), np.arange(12, dtype="f4").reshape(3, 4), {"units": "K", "range": np.array([0, 9])}),
            "n": ("x", np.arange(4)),
            "name": ("x", ["a", "b", "c", "d"]),
            "gap": ("x", [np.nan, 1.0, 2.0, 3.0]),
        },
        {"time": time},
        {"title": "sea", "missing": np.nan},
    )


def told(a: Any, b: Any, **options: Any) -> list[str]:
    return [str(difference) for difference in diff(a, b, **options)]


# -- the same ----------------------------------------------------------------------------------------------


@pytest.fixture
def every_format(tmp_path: Path) -> list[Path]:
    """The same dataset in five formats."""
    data = sea()
    to_pytables(data, tmp_path / "sea.h5", encoding={"sst": {"complib": "zlib", "chunksizes": (1, 4)}})
    data.to_netcdf(tmp_path / "sea4.nc", engine="netcdf4")
    data.to_netcdf(tmp_path / "h5.nc", engine="h5netcdf")
    data.to_netcdf(tmp_path / "sea3.nc", engine="scipy")
    data.to_zarr(tmp_path / "sea.zarr", zarr_format=2, consolidated=False)
    return sorted(tmp_path.iterdir())


def test_the_same_in_every_format_is_the_same(every_format: list[Path], tmp_path: Path) -> None:
    assert {path.name: format_of(str(path)) for path in every_format} == {
        "sea.h5": "HDF5", "sea4.nc": "HDF5", "h5.nc": "HDF5", "sea3.nc": "netCDF-3", "sea.zarr": "Zarr",
    }  # fmt: skip
    for path in every_format:
        found = xr_pytables.diff(tmp_path / "sea.h5", path)
        if path.name == "sea3.nc":  # which has no 64-bit integers
            assert [str(one) for one in found] == ["/n: dtype: int64 against int32"]
        else:
            assert found == ()


def test_objects_in_memory_are_compared_too(tmp_path: Path) -> None:
    to_pytables(sea(), tmp_path / "sea.h5")
    assert diff(tmp_path / "sea.h5", sea()) == ()
    tree = xr.DataTree.from_dict({"/": sea(), "/deep": sea()[["n"]]})
    assert told(tree, tmp_path / "sea.h5") == ["/deep: only in A: group"]


def test_packed_values_are_the_same_unless_raw_ones_are_meant(tmp_path: Path) -> None:
    data = xr.Dataset({"a": ("x", np.arange(5.0), {}, {"dtype": "f8"})})
    to_pytables(data, tmp_path / "plain.h5")
    to_pytables(data, tmp_path / "packed.h5", encoding={"a": {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1}})
    assert diff(tmp_path / "plain.h5", tmp_path / "packed.h5") == ()
    found = told(tmp_path / "plain.h5", tmp_path / "packed.h5", raw=True)
    assert found[-1] == "/a: values: 4 of 5 differ, first at [1]: 1.0 against 2, by up to 4"
    assert "/a: dtype: float64 against int16" in found
    assert any("'scale_factor' only in B: 0.5" in one for one in found)


# -- differences -------------------------------------------------------------------------------------------


def changed(name: str, change: Any) -> xr.Dataset:
    data = sea().load().copy(deep=True)
    change(data, name)
    return data


def put(index: Any, value: Any) -> Any:
    def change(data: xr.Dataset, name: str) -> None:
        data[name].values[index] = value

    return change


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (changed("sst", put((1, 2), 7.0)),
         "/sst: values: 1 of 12 differ, first at [1, 2]: 6.0 against 7.0, by up to 1"),
        (changed("sst", put((slice(1, None), 2), np.nan)),
         "/sst: values: 2 of 12 differ, first at [1, 2]: 6.0 against nan"),
        (changed("gap", put(0, 5.0)), "/gap: values: 1 of 4 differ, first at [0]: nan against 5.0"),
        (changed("n", put(slice(None), [9, 1, 2, 4])),
         "/n: values: 2 of 4 differ, first at [0]: 0 against 9, by up to 9"),
        (changed("name", put(3, "e")), '/name: values: 1 of 4 differ, first at [3]: "d" against "e"'),
        (sea().assign_coords(time=pd.date_range("2014-09-01T00:00:01", periods=3)),
         "/time: values: 3 of 3 differ, first at [0]: 2014-09-01 against 2014-09-01T00:00:01, by up to 1 seconds"),
        (sea().transpose("x", "time"), "/sst: dims: (time, x) against (x, time)"),
        (sea().isel(time=slice(2)), "/sst: shape: (3, 4) against (2, 4)"),
        (sea().assign(n=sea().n.astype("i4")), "/n: dtype: int64 against int32"),
        (sea().drop_vars("n"), "/n: only in A: array"),
        (sea().assign(more=1), "/more: only in B: array"),
        (sea().assign_attrs(title="lake"), "/: attribute: 'title': \"sea\" against \"lake\""),
        (sea().assign_attrs(more=[1, 2]), "/: attribute: 'more' only in B: [1, 2]"),
        (changed("sst", lambda data, name: data[name].attrs.pop("units")), "/sst: attribute: 'units' only in A: \"K\""),
    ],
)  # fmt: skip
def test_each_kind_of_difference_is_told(other: xr.Dataset, expected: str, tmp_path: Path) -> None:
    to_pytables(sea(), tmp_path / "a.h5")
    to_pytables(other, tmp_path / "b.h5")
    assert expected in told(tmp_path / "a.h5", tmp_path / "b.h5")
    if "attribute" in expected:
        assert diff(tmp_path / "a.h5", tmp_path / "b.h5", attributes=False) == ()


def test_a_coordinate_and_a_data_variable_differ(tmp_path: Path) -> None:
    data = sea().load()
    to_pytables(data, tmp_path / "a.h5")
    to_pytables(data.set_coords("n"), tmp_path / "b.h5")
    for raw in (False, True):
        assert told(tmp_path / "a.h5", tmp_path / "b.h5", raw=raw) == ["/n: role: data variable against coordinate"]
        assert told(tmp_path / "b.h5", tmp_path / "a.h5", raw=raw) == ["/n: role: coordinate against data variable"]
    assert diff(tmp_path / "a.h5", tmp_path / "b.h5", attributes=False) == ()


def test_integers_that_floats_cannot_tell_apart_differ() -> None:
    a, b = (xr.Dataset({"n": ("x", np.array([2**63 - 1, 5], dtype))}) for dtype in ("i8", "u8"))
    b["n"].values[0] += np.uint64(1)
    (found,) = diff(a, b.astype("u8"), attributes=False)[-1:]
    assert (found.count, found.largest) == (1, 1.0)


def test_rows_and_records_are_compared_whole(tmp_path: Path) -> None:
    for name, last in (("a", 3), ("b", 4)):
        with tables.open_file(tmp_path / f"{name}.h5", "w") as file:
            rows = file.create_vlarray("/", "rows", tables.Int32Atom())
            rows.append([1, 2])
            rows.append([last])
            record = np.zeros((2, 2), [("x", "i4"), ("y", "f8")])
            record["x"][1, 1] = last
            file.create_array("/", "plain", np.arange(3))
            file.create_table("/", "t", record.reshape(-1))
    assert told(tmp_path / "a.h5", tmp_path / "a.h5") == []
    assert told(tmp_path / "a.h5", tmp_path / "b.h5") == [
        "/rows: values: 1 of 2 differ, first at [1]: array([3], dtype=int32) against array([4], dtype=int32)",
        "/t/x: values: 1 of 4 differ, first at [3]: 3 against 4, by up to 1",
    ]


@examples(30)
@given(
    x=hnp.arrays("f8", (6, 5), elements=st.sampled_from([0.0, 1.0, -2.5, 1e300, math.inf, math.nan])),
    y=hnp.arrays("f8", (6, 5), elements=st.sampled_from([0.0, 1.0, -2.5, 1.001, math.inf, math.nan])),
    rtol=st.sampled_from([0.0, 0.01]),
    atol=st.sampled_from([0.0, 0.5]),
)
def test_counts_are_those_of_numpy(x: np.ndarray, y: np.ndarray, rtol: float, atol: float) -> None:
    found = diff(xr.Dataset({"a": (("y", "x"), x)}), xr.Dataset({"a": (("y", "x"), y)}), rtol=rtol, atol=atol)
    expected = int((~np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True)).sum())
    assert sum(one.count or 0 for one in found) == expected


def test_differences_of_many_blocks_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_pytables.tools.differences._BLOCK", 1000)
    values = np.random.default_rng(0).integers(0, 5, (50, 40))
    other = np.random.default_rng(1).integers(0, 5, (50, 40))
    for name, array in (("a", values), ("b", other)):
        with tables.open_file(tmp_path / f"{name}.h5", "w") as file:
            file.create_carray("/", "v", obj=array, chunkshape=(7, 9))
    (found,) = diff(tmp_path / "a.h5", tmp_path / "b.h5")
    assert found.count == int((values != other).sum())
    assert found.largest == float(np.abs(values - other).max())
    first = [int(i) for i in np.argwhere(values != other)[0]]
    assert found.message.startswith(f"{found.count} of 2000 differ, first at")
    assert str(first) in found.message


# -- what is compared --------------------------------------------------------------------------------------


def test_groups_and_arrays_of_other_names_are_compared(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/g", "x", np.arange(3), createparents=True)
        file.create_array("/h", "x", np.arange(3), createparents=True)
        file.create_array("/h", "y", np.arange(3) + 1)
    path = tmp_path / "a.h5"
    assert told(path, path, group=("/g", "/h")) == ["/y: only in B: array"]
    assert told(path, path, group=("/g/x", "/h/x")) == []
    assert told(path, path, group=("/g/x", "/h/y")) == [
        "/x: values: 3 of 3 differ, first at [0]: 0 against 1, by up to 1"
    ]


def test_variables_are_chosen(tmp_path: Path) -> None:
    other = changed("n", put(0, 1))
    assert diff(sea(), other, variables=["sst"]) == ()
    assert len(diff(sea(), other, variables=["sst", "n"])) == 1
    with pytest.raises(KeyError, match="neither has a variable 'none'; there are 'gap', 'n'"):
        diff(sea(), other, variables=["none"])


def test_tolerances_are_checked() -> None:
    for rtol, atol in ((-1, 0), (np.nan, 0), (0, np.nan)):
        with pytest.raises(ValueError, match=f"must be 0 or more: rtol={rtol}, atol={atol}"):
            diff(sea(), sea(), rtol=rtol, atol=atol)


def test_tolerances_are_for_numbers_in_rows_too_and_not_for_truth(tmp_path: Path) -> None:
    for name, last in (("a", 3.0), ("b", 3.25)):
        with tables.open_file(tmp_path / f"{name}.h5", "w") as file:
            rows = file.create_vlarray("/", "rows", tables.Float64Atom())
            rows.append([1, np.nan])
            rows.append([last])
    assert told(tmp_path / "a.h5", tmp_path / "b.h5", atol=0.25) == []
    assert len(told(tmp_path / "a.h5", tmp_path / "b.h5", atol=0.2)) == 1
    truth = xr.Dataset({"t": ("x", [True, False])})
    (found,) = diff(truth, ~truth, atol=1)
    assert found.count == 2


@pytest.mark.parametrize("value", [[[1], [1, 2]], [1, "a", (2, 3)], (1, [2, "x"]), [np.arange(2), np.arange(3)]])
def test_uneven_lists_in_attributes_are_compared(value: Any, tmp_path: Path) -> None:
    for name, attribute in (("a", value), ("b", [1])):
        with tables.open_file(tmp_path / f"{name}.h5", "w") as file:
            file.root._v_attrs.odd = attribute
    assert diff(tmp_path / "a.h5", tmp_path / "a.h5") == ()
    (found,) = told(tmp_path / "a.h5", tmp_path / "b.h5")
    assert found.startswith("/: attribute: 'odd': [")
    assert found.endswith(" against [1]")


def test_what_is_no_file_of_arrays_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    with pytest.raises(OSError, match="text: neither an HDF5 file nor another format"):
        diff(tmp_path / "text", sea())
    with pytest.raises(IsADirectoryError, match="no Zarr store"):
        diff(tmp_path, sea())
    with pytest.raises(FileNotFoundError):
        diff(tmp_path / "none", sea())


def test_a_difference_can_be_kept_as_json() -> None:
    kept = json.loads(json.dumps(Difference("/a", "values", "told", 3, math.inf).as_dict()))
    assert kept == {"path": "/a", "what": "values", "message": "told", "count": 3, "largest": "inf"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, np.int8(1), True), (1, 1.5, False), (math.nan, np.float32("nan"), True), ("a", np.str_("a"), True),
        ("a", b"a", False), ([1, 2], np.array([1, 2]), True), ([1, 2], [1, 3], False), ({"a": [1]}, {"a": (1,)}, True),
        (np.array([math.nan]), [math.nan], True), (None, None, True), ([[1], [1, 2]], [[1], [1, 2]], True),
        (np.array([1]), np.array([1, 1]), False), (["a"], ["a"], True), (True, 1, False), (np.True_, True, True),
        ([True], [1], False), (np.array([True]), np.array([1]), False), ([1, "a"], ["1", "a"], False),
        ([[1], [1, 2]], [[1], [1, 3]], False), ([1], 1, False), (np.array(1), 1, True), (None, [None], False),
    ],
)  # fmt: skip
def test_same_values(one: object, other: object, same: bool) -> None:
    assert same_values(one, other) is same
    assert same_values(other, one) is same


# -- blocks ------------------------------------------------------------------------------------------------


@examples(40)
@given(
    shape=st.lists(st.integers(0, 12), max_size=3).map(tuple),
    chunk=st.integers(1, 5),
    nbytes=st.integers(1, 500),
)
def test_blocks_cover_an_array_once(shape: tuple[int, ...], chunk: int, nbytes: int) -> None:
    seen = np.zeros(shape, int)
    for box in blocks(shape, (chunk,) * len(shape), 4, nbytes):
        seen[box] += 1
        assert seen[box].size * 4 <= max(2 * nbytes, 4)
    assert (seen == 1).all()


def test_files_are_closed_and_read_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_pytables(sea().drop_vars("time"), tmp_path / "a.h5")
    monkeypatch.setattr("xr_pytables.chunks.reading.read_into", lambda *args, **kwargs: pytest.fail("data were read"))
    with opened(str(tmp_path / "a.h5")) as groups:
        assert groups["/"]["sst"].shape == (3, 4)
        assert not groups["/"].xindexes
