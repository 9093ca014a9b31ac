"""Objects of pandas' HDFStore: pandas reads, searches and appends to what we write, and we append to what it wrote."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import h5py
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st

from xr_pytables import to_pytables
from xr_pytables.writing import changes

from ..helpers_properties import examples
from ..helpers_reading import plain_file, run_python
from ..model.test_hdfstore import objects
from .test_table_writing import ATTRIBUTES, SCHEDULERS, check_names_of_attributes

ROWS = 200


@pytest.fixture(autouse=True)
def pandas_leaves_no_file_open() -> Iterator[None]:
    yield
    assert not tables.file._open_files.handlers


def write(obj: Any, path: Path, group: str = "/events", **kwargs: Any) -> Any:
    return to_pytables(obj, path, group=group, layout="pandas", **kwargs)


def read(path: Path, group: str = "/events", **kwargs: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", group=group, **kwargs)


def by_pandas(path: Path, key: str = "/events", **kwargs: Any) -> Any:
    with pd.HDFStore(path, "r") as store:
        return store.select(key, **kwargs)


def make_frame(rows: int = ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "energy": rng.normal(size=rows),
            "hits": rng.integers(0, 100, rows).astype("u2"),
            "name": np.array(["ä", "bb", None, "nan"], object)[rng.integers(0, 4, rows)],
            "place": pd.Categorical(np.array(["x", "nan"])[rng.integers(0, 2, rows)], categories=["x", "nan", "z"]),
            "local": pd.date_range("2020-03-29", periods=rows, freq="h", tz="Europe/Berlin", unit="s"),
            "lag": pd.to_timedelta(np.arange(rows), "s"),
            "good": rng.random(rows) > 0.5,
            "more": np.arange(rows) * 2.5,
            "wave": rng.normal(size=rows) + 1j,
        },
        index=pd.date_range("2020-01-01", periods=rows, freq="h", name="time", unit="ms"),
    )
    frame.attrs = {"title": "a run", "levels": 3, "name": "of the run"}
    return frame


def assert_equal(one: Any, other: Any, **kwargs: Any) -> None:
    check = pd.testing.assert_series_equal if isinstance(other, pd.Series) else pd.testing.assert_frame_equal
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(one, other, **kwargs)


# -- whole objects -----------------------------------------------------------------------------------------


@given(data=st.data())
@examples(30)
def test_any_object_is_for_pandas_as_if_pandas_had_written_it(tmp_path: Path, data: st.DataObject) -> None:
    obj = data.draw(objects("table"))
    assume(obj.index.inferred_type != "date")
    path, own = tmp_path / "ours.h5", tmp_path / "pandas.h5"
    named = list(obj.columns) if isinstance(obj, pd.DataFrame) else []
    chosen = data.draw(st.lists(st.sampled_from(named), unique=True)) if named else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.NaturalNameWarning)
        write(obj, path, data_columns=chosen)
        with pd.HDFStore(own, "w") as store:
            store.append("/events", obj, data_columns=chosen)
        assert_equal(by_pandas(path), by_pandas(own))
        with pd.HDFStore(path, "r") as ours, pd.HDFStore(own, "r") as pandas:
            assert described(ours, "/events") == described(pandas, "/events")
    xr.testing.assert_identical(read(path).load(), read(own).load())


@pytest.mark.parametrize("first", [None, "a", 1.5, True])
def test_blocks_of_columns_are_in_the_order_of_pandas(tmp_path: Path, first: object) -> None:
    path, own = tmp_path / "ours.h5", tmp_path / "pandas.h5"
    frame = pd.DataFrame(
        {"w": pd.Series([first], dtype=object if first is None else None), "x": [0], "y": [0], "z": [2.5]}
    )
    write(frame, path)
    frame.to_hdf(own, key="events", format="table")
    with pd.HDFStore(path, "r") as ours, pd.HDFStore(own, "r") as pandas:
        assert described(ours, "/events") == described(pandas, "/events")


def described(store: pd.HDFStore, key: str) -> dict[str, Any]:
    """What pandas and PyTables know of an object, but for the order of columns in a row and widths of text."""
    found: dict[str, Any] = {}
    for node in [store.get_node(key), *store.get_node(key)._f_walknodes()]:
        names = [name for name in node._v_attrs._f_list("all") if not re.match(r"FIELD_|NROWS|TITLE|.*nan_rep", name)]
        found[node._v_pathname] = {name: re.sub(r"bytes\d+", "bytes", repr(node._v_attrs[name])) for name in names}
        if isinstance(node, tables.Table):
            found[node._v_pathname] |= {"indexed": node.colindexed, "columns": set(node.colnames)}
    return {path: each for path, each in found.items() if "_i_" not in path}


@pytest.mark.parametrize(("chunks", "mode"), [(None, "w"), (7, "a"), (-1, "w-")])
def test_a_frame_and_its_dataset_are_the_same_object(chunks: int | None, mode: str, tmp_path: Path) -> None:
    path, frame = tmp_path / "a.h5", make_frame()
    if mode == "a":
        to_pytables(xr.Dataset({"z": ("q", [1.5])}), path, group="/other")
    write(frame, path, "/g/events", mode=mode, data_columns=["hits", "name"])
    assert_equal(by_pandas(path, "/g/events"), frame)
    ds = read(path, "/g/events", chunks=None if chunks is None else {"time": chunks})
    assert ds.attrs == frame.attrs
    ds = ds.assign(place=("time", frame["place"].array))
    again = tmp_path / "again.h5"
    write(ds, again, data_columns=["hits", "name"])
    assert_equal(by_pandas(again), frame, check_freq=False)
    xr.testing.assert_identical(read(again).load(), read(path, "/g/events").load())
    if mode == "a":
        assert xr.open_dataset(path, engine="pytables", group="/other")["z"].item() == 1.5


@pytest.mark.parametrize(
    ("coords", "index"),
    [
        ({}, pd.RangeIndex(3, name="x")),
        ({"x": [5, 4, 4]}, pd.Index([5, 4, 4], name="x")),
        ({"x": [0.5, np.nan, 1]}, pd.Index([0.5, np.nan, 1], name="x")),
        ({"x": ["ä", "", "b"]}, pd.Index(["ä", "", "b"], name="x")),
        (
            {"x": ("x", pd.DatetimeIndex(["2020", "NaT", "2021"]), {"time_zone": "Asia/Kolkata"})},
            pd.DatetimeIndex(["2020", "NaT", "2021"], name="x").tz_localize("UTC").tz_convert("Asia/Kolkata"),
        ),
        (
            {"x": ("x", np.array([600, 601, 600]), {"freq": "M"})},
            pd.PeriodIndex.from_ordinals([600, 601, 600], freq="M", name="x"),
        ),
        ({"x": pd.timedelta_range("1s", periods=3)}, pd.timedelta_range("1s", periods=3, name="x")),
        (
            xr.Coordinates.from_pandas_multiindex(
                pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["p", "q"]), "x"
            ),
            pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["p", "q"]),
        ),
    ],
)
def test_coordinates_are_the_index(coords: Any, index: pd.Index, tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("x", [1.5, 2, 3])}, coords=coords)
    write(ds, tmp_path / "a.h5")
    assert_equal(by_pandas(tmp_path / "a.h5"), pd.DataFrame({"v": [1.5, 2, 3]}, index=index))


def test_a_dimension_called_index_has_no_name_in_pandas(tmp_path: Path) -> None:
    write(xr.Dataset({"v": ("index", [1, 2])}), tmp_path / "a.h5")
    assert by_pandas(tmp_path / "a.h5").index.name is None


@pytest.mark.parametrize("name", [None, "energy"])
def test_a_dataarray_is_a_series(name: str | None, tmp_path: Path) -> None:
    array = xr.DataArray([1.5, 2.5], {"t": [3, 4]}, name=name)
    write(array, tmp_path / "a.h5")
    assert_equal(by_pandas(tmp_path / "a.h5"), pd.Series([1.5, 2.5], pd.Index([3, 4], name="t"), name=name))


def test_float16_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"v": np.array([1.5, np.nan], "f2"), "w": [1, 2]})
    write(frame, tmp_path / "a.h5")
    write(read(tmp_path / "a.h5"), tmp_path / "a.h5", append_dim="index")
    assert_equal(by_pandas(tmp_path / "a.h5"), pd.concat([frame, frame]))


@pytest.mark.filterwarnings("ignore:.*float16:FutureWarning")  # of xarray
def test_float16_is_no_index(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("x", [1])}, {"x": np.zeros(1, "f2")})
    with pytest.raises(TypeError, match=r"a\.h5:/events: index 'x': pandas has no index of float16.*astype"):
        write(ds, tmp_path / "a.h5")
    write(ds.assign_coords(x=[0.0]), tmp_path / "a.h5")


def test_an_index_without_a_name_beside_a_column_called_index(tmp_path: Path) -> None:
    path, frame = tmp_path / "a.h5", pd.DataFrame({"index": ["a", "b"], "v": [1, 2]}, index=["abc", "d"])
    write(frame, path, encoding={"index": {"dtype": "S7"}})
    assert_equal(by_pandas(path), frame)
    with plain_file(path) as file:
        record = file.root.events.table.dtype
    assert record["index"] == "S3"
    assert sorted(record[name].base.str for name in record.names) == ["<i8", "|S3", "|S7"]
    with pytest.raises(ValueError, match=r"index None: the text 'abcd' takes 4 bytes, and the column has 3"):
        write(frame.set_axis(["abcd", "e"]), path, append_dim="index")


@pytest.mark.parametrize("name", [None, "n"])
def test_the_width_of_text_is_that_of_a_column_before_the_index(name: str | None, tmp_path: Path) -> None:
    column = "index" if name is None else name
    frame = pd.DataFrame({column: ["a"]}, index=pd.Index([5], name=name))
    write(frame, tmp_path / "a.h5", encoding={column: {"dtype": "S7"}})
    assert_equal(by_pandas(tmp_path / "a.h5"), frame)
    with pytest.raises(ValueError, match=rf"index {name!r} is int64, and encoding has the width of text for it"):
        write(frame.set_axis(["v"], axis=1), tmp_path / "a.h5", encoding={column: {"dtype": "S7"}})


def test_time_zones_and_lengths_are_text(tmp_path: Path) -> None:
    times = np.array(["2020"], "M8[s]")
    ds = xr.Dataset({"v": ("x", times, {"time_zone": 5})}, {"x": ("x", times, {"time_zone": 3600, "freq": 1})})
    with pytest.warns(UserWarning, match=r"those of 'v', 'x' are left out"):
        write(ds, tmp_path / "a.h5")
    assert_equal(by_pandas(tmp_path / "a.h5"), pd.DataFrame({"v": times}, index=pd.Index(times, name="x")))


def test_pandas_searches_by_the_index_and_data_columns(tmp_path: Path) -> None:
    path, frame = tmp_path / "a.h5", make_frame()
    write(frame, path, data_columns=["hits", "name", "more"], filters=tables.Filters(5, "blosc:zstd"))
    with plain_file(path) as file:
        table = file.root.events.table
        assert {name for name, is_indexed in table.colindexed.items() if is_indexed} == {
            "index",
            "hits",
            "name",
            "more",
        }
        assert (table.filters.complib, table.cols.hits.index.kind) == ("blosc:zstd", "medium")
    assert_equal(by_pandas(path, where="hits > 50 & more < 400"), frame.query("hits > 50 & more < 400"))
    assert_equal(by_pandas(path, where="index >= '2020-01-08'"), frame["2020-01-08":])
    with read(path, where="(hits > 50) & (more < 400)") as found:
        assert found["energy"].values.tolist() == frame.query("hits > 50 & more < 400")["energy"].tolist()
    write(frame[["energy"]], path, "/all", mode="a", data_columns=True)
    write(frame[["energy"]], path, "/none", mode="a", data_columns=False)
    assert len(by_pandas(path, "/all", where="energy > 0")) == (frame["energy"] > 0).sum()
    with plain_file(path) as file:
        assert {name for name, is_indexed in file.root.none.table.colindexed.items() if is_indexed} == {"index"}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_writes_it(scheduler: str, tmp_path: Path) -> None:
    ds = make_frame().drop(columns=["place", "local"]).replace("nan", "x").to_xarray().chunk(time=30)
    with dask.config.set(scheduler=scheduler):
        write(ds, tmp_path / "a.h5", compute=False, encoding={"name": {"dtype": "S3"}}).compute()
    assert_equal(by_pandas(tmp_path / "a.h5")["energy"], make_frame()["energy"])


def test_dask_text_is_written_block_by_block(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.h5", np.array(["a", "bbb", None, "nan", "ü"] * 20, object)
    ds = xr.Dataset({"v": ("x", dask.array.from_array(texts, chunks=7))})
    write(ds, path)
    assert by_pandas(path)["v"].fillna("-").tolist() == ["a", "bbb", "-", "nan", "ü"] * 20
    with pytest.raises(ValueError, match=r"variable 'v': the text 'bbb' takes 3 bytes, and the column has 2"):
        write(ds.isel(x=slice(0, 2)), path, encoding={"v": {"dtype": "S2"}})
    with pytest.raises(ValueError, match=r"variable 'v': the text 'nan' stands for a missing one"):
        write(ds, path, encoding={"v": {"dtype": "S3"}})  # which is not known before
    assert len(by_pandas(path)) == 100


def test_attributes_of_variables_are_left_out_with_a_warning(tmp_path: Path) -> None:
    ds = xr.Dataset({"v": ("x", [1.5], {"units": "m"})})
    with pytest.warns(UserWarning, match=r"those of 'v' are left out. dataset.drop_attrs\(\)"):
        write(ds, tmp_path / "a.h5")
    write(ds.drop_attrs(), tmp_path / "a.h5")


def test_columns_are_called_as_in_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame([[1, 2.0, True]], columns=[0, 5, 7])
    write(frame, tmp_path / "a.h5")
    assert_equal(by_pandas(tmp_path / "a.h5"), frame)
    frame.columns = pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)])
    write(frame, tmp_path / "a.h5")
    assert_equal(by_pandas(tmp_path / "a.h5"), frame)


@pytest.mark.parametrize(
    ("obj", "found"),
    [
        (pd.Series([1], name=0), pd.Series([1])),
        (pd.Series([1], name="values"), pd.Series([1])),
        (
            pd.Series([1], pd.MultiIndex.from_tuples([(2, 3)])),
            pd.Series([1], pd.MultiIndex.from_tuples([(2, 3)], names=["level_0", "level_1"])),
        ),
        (pd.DataFrame({"v": pd.array(["a", pd.NA], "string")}), pd.DataFrame({"v": ["a", np.nan]})),
        (pd.DataFrame({"v": np.array(["a", None], object)}), pd.DataFrame({"v": ["a", np.nan]})),
        (pd.DataFrame({"v": [1]}, pd.Index(["a"], dtype=object)), pd.DataFrame({"v": [1]}, ["a"])),
    ],
)
def test_what_pandas_forgets_is_forgotten(obj: Any, found: Any, tmp_path: Path) -> None:
    write(obj, tmp_path / "ours.h5")
    obj.to_hdf(tmp_path / "pandas.h5", key="/events", format="table")
    for name in ("ours.h5", "pandas.h5"):
        assert_equal(by_pandas(tmp_path / name), found)


# -- more rows ---------------------------------------------------------------------------------------------


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are changed in place as large ones are."""
    monkeypatch.setattr(changes, "SMALL_FILE", 0)
    monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)


@given(data=st.data())
@examples(15)
def test_who_appends_to_whose_object_makes_no_difference(tmp_path: Path, data: st.DataObject) -> None:
    obj = data.draw(objects("table"))
    assume(obj.index.inferred_type != "date" and len(obj) > 1)
    assume(obj.index.nlevels == 1 or obj.index.names[0] is not None)
    cut = data.draw(st.integers(1, len(obj) - 1))
    first, second = obj.iloc[:cut], obj.iloc[cut:]
    texts = {"values": 60, **dict.fromkeys(text_levels(obj.index), 60)}
    paths = {name: tmp_path / f"{name}.h5" for name in ("ours then pandas", "pandas then ours", "pandas")}
    dim = "index" if obj.index.name is None else obj.index.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, path in paths.items():
            path.unlink(missing_ok=True)
            for part, whose in ((first, name.split()[0]), (second, name.split()[-1])):
                if whose == "ours":
                    encoding = {each: {"dtype": "S60"} for each in text_columns(obj)} if part is first else None
                    write(part, path, append_dim=dim, encoding=encoding)
                else:
                    with pd.HDFStore(path, "a") as store:
                        store.append("/events", part, min_itemsize=texts if part is first else None, nan_rep="nan")
        assert_equal(by_pandas(paths["ours then pandas"]), by_pandas(paths["pandas"]))
        assert_equal(by_pandas(paths["pandas then ours"]), by_pandas(paths["pandas"]))


def text_levels(index: pd.Index) -> list[str]:
    """Of an index, what pandas calls them in a table."""
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    if len(levels) == 1:
        return ["index"] if index.inferred_type == "string" else []
    names = [f"level_{number}" if level.name is None else level.name for number, level in enumerate(levels)]
    return [name for name, level in zip(names, levels, strict=True) if level.inferred_type == "string"]


def text_columns(obj: Any) -> list[Any]:
    """What `encoding` calls the texts of an object: a MultiIndex of no names cannot be called."""
    frame = obj.to_frame() if isinstance(obj, pd.Series) else obj
    names = [name for name in frame.columns if frame[name].dtype in ("str", "object")]
    if obj.index.nlevels == 1 and obj.index.inferred_type == "string":
        names.append("index" if obj.index.name is None else obj.index.name)
    return names + [name for name in obj.index.names if name == "q"]


@pytest.mark.parametrize("place", ["copy", "in place"])
def test_appended_rows_are_found_by_the_indexes(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if place == "in place":
        request.getfixturevalue("in_place")
    path, frame = tmp_path / "a.h5", make_frame()
    with pd.HDFStore(path, "w") as store:
        store.append("/events", frame[:50], data_columns=["hits"], index=place == "copy")
    write(frame[50:120], path, append_dim="time")
    with read(path) as opened:
        rest = frame[120:].drop(columns=["place", "local"]).to_xarray().chunk(time=30)
        assert opened.sizes["time"] == 120
    others = {name: ("time", frame[name].array[120:]) for name in ("place", "local")}
    write(rest.assign(others), path, append_dim="time")
    assert_equal(by_pandas(path), frame)
    assert_equal(by_pandas(path, where="hits > 50"), frame.query("hits > 50"))
    with plain_file(path) as file:
        assert file.root.events.table.colindexed["hits"] == (place == "copy")


def test_an_append_of_no_rows_changes_nothing_whatever_kinds_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(FRAME, path)
    before = path.read_bytes()
    for none in (FRAME[:0], FRAME[:0].astype(object), FRAME[:0].drop(columns="n")):
        write(none, path, append_dim="t")
        assert path.read_bytes() == before
    write(FRAME[:1], path, append_dim="t")
    assert_equal(by_pandas(path), pd.concat([FRAME, FRAME[:1]]))


def test_a_missing_object_is_made_by_the_first_append(tmp_path: Path) -> None:
    path, frame = tmp_path / "a.h5", make_frame().replace("nan", "x")
    write(frame[:3], path, append_dim="time", encoding={"name": {"dtype": "S3"}})
    write(frame[3:], path, append_dim="time")
    assert_equal(by_pandas(path), frame)


FRAME = pd.DataFrame({"v": [1.5, 2.5], "n": ["a", "b"]}, index=pd.DatetimeIndex(["2020", "2021"], name="t", tz="UTC"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (FRAME[["v"]], r"the columns 'v'; as stored they are 'v', 'n'"),
        (FRAME.assign(w=1), r"the columns 'v', 'n', 'w'; as stored"),
        (FRAME.astype({"v": "f4"}), r"column 'v' is float32, and would be stored as float64. Convert it with astype"),
        (FRAME.assign(n=["a", "bb"]), r"column 'n': the text 'bb' takes 2 bytes, and the column has 1"),
        (
            FRAME.tz_convert("Asia/Kolkata"),
            r"index 't' is datetime64\[.s, Asia/Kolkata\], .* stored as datetime64\[.s\], UTC",
        ),
        (FRAME.tz_localize(None), r"index 't' is datetime64\[.s\], and would be stored as datetime64\[.s\], UTC"),
        (FRAME.reset_index(drop=True), r"rows are appended along 'index', not append_dim='t'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(more: pd.DataFrame, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(FRAME, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"a\.h5:/events: .*{reason}|a\.h5:/events: {reason}"):
        write(more, path, append_dim="t")
    assert path.read_bytes() == before


CATEGORIES = {
    "text": ["a", "b"],
    "integers": [1, 2],
    "small integers": np.array([1, 2], "i1"),
    "floats": [1.0, 2.0],
    "bools": [False, True],
    "zero and one": [0, 1],
    "times": pd.to_datetime(["2020", "2021"]),
    "times in a zone": pd.to_datetime(["2020", "2021"]).tz_localize("Asia/Kolkata"),
    "periods": pd.period_range("2020-01", periods=2, freq="M"),
    "none": [None, None],
}


def of_categories(kind: str, ordered: bool = False) -> pd.DataFrame:
    return pd.DataFrame({"c": pd.Categorical(CATEGORIES[kind], ordered=ordered)})


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("by", ["us", "pandas"])
@pytest.mark.parametrize("kind", CATEGORIES)
def test_rows_of_the_same_categories_are_appended(kind: str, by: str, ordered: bool, tmp_path: Path) -> None:
    path, frame = tmp_path / "a.h5", of_categories(kind, ordered)
    if by == "us":
        write(frame, path)
    else:
        frame.to_hdf(path, key="/events", format="table")
    write(frame[::-1], path, append_dim="index")
    found = by_pandas(path)["c"]
    assert found.cat.categories.tolist() == frame["c"].cat.categories.tolist()
    assert found.cat.ordered == ordered
    assert found.cat.codes.tolist() == ([0, 1, 1, 0] if kind != "none" else [-1] * 4)


@pytest.mark.parametrize("by", ["us", "pandas"])
@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("none", "text", r"\['a', 'b'\] \(str\), and would be stored with \[\]"),
        ("text", "none", r"\[\] .* stored with \['a', 'b'\].*set_categories"),
        ("integers", "floats", r"\[1.0, 2.0\] \(float64\), .* \[1, 2\] \(int64\)"),
        ("integers", "small integers", r"\(int8\), and would be stored with \[1, 2\] \(int64\)"),
        ("zero and one", "bools", r"\[False, True\] \(bool\), and would be stored with \[0, 1\] \(int64\)"),
        ("times", "times in a zone", r"Asia/Kolkata\]\), and would be stored with"),
        ("text", "integers", r"\[1, 2\] \(int64\), and would be stored with \['a', 'b'\]"),
    ],
)
def test_other_categories_are_refused(one: str, other: str, reason: str, by: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    if by == "us":
        write(of_categories(one), path)
    else:
        of_categories(one).to_hdf(path, key="/events", format="table")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"a\.h5:/events: column 'c' has the categories .*{reason}"):
        write(of_categories(other), path, append_dim="index")
    assert path.read_bytes() == before


@pytest.mark.parametrize("ordered", [False, True])
def test_another_order_of_categories_is_refused(ordered: bool, tmp_path: Path) -> None:
    write(of_categories("text", not ordered), tmp_path / "a.h5")
    with pytest.raises(ValueError, match=rf"column 'c' has .*cat\.as_{'unordered' if ordered else 'ordered'}\(\)"):
        write(of_categories("text", ordered), tmp_path / "a.h5", append_dim="index")
    write(of_categories("text")["c"].astype(str).to_frame(), tmp_path / "b.h5")
    with pytest.raises(ValueError, match=r"column 'c' is category, and would be stored as text"):
        write(of_categories("text", ordered), tmp_path / "b.h5", append_dim="index")


def test_levels_are_found_by_their_names(tmp_path: Path) -> None:
    path, index = tmp_path / "a.h5", pd.MultiIndex.from_tuples([(1, 20), (2, 30)], names=["a", "b"])
    frame = pd.DataFrame({"v": [1.5, 2.5]}, index=index)
    write(frame, path)
    write(frame.swaplevel(), path, append_dim="index")
    assert_equal(by_pandas(path), pd.concat([frame, frame]))
    for names in (["a", "c"], ["a", None]):
        with pytest.raises(ValueError, match=r"the index has the levels 'a', .*; as stored they are 'a', 'b'\."):
            write(frame.rename_axis(names), path, append_dim="index")
    with pytest.raises(ValueError, match=r"the index has the levels 'index'; as stored they are 'a', 'b'\."):
        write(frame.reset_index(drop=True), path, append_dim="index")


@pytest.mark.parametrize(("first", "second"), [("a", "b"), (None, "b"), ("a", None)])
def test_a_series_of_another_name_is_refused(first: str | None, second: str | None, tmp_path: Path) -> None:
    write(pd.Series([1.5], name=first), tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"has the columns '(b|values)'; as stored they are '(a|values)'\. Appended"):
        write(pd.Series([2.5], name=second), tmp_path / "a.h5", append_dim="index")
    write(pd.Series([2.5], name=first), tmp_path / "a.h5", append_dim="index")
    assert by_pandas(tmp_path / "a.h5").tolist() == [1.5, 2.5]


def test_missing_text_in_a_narrow_column(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(FRAME, path)
    with pytest.raises(ValueError, match=r"column 'n': a missing text, stored as 'nan', takes 3 bytes.*has 1\. Fill"):
        write(FRAME.assign(n=["a", None]), path, append_dim="t")


# -- what is refused ---------------------------------------------------------------------------------------


def of_objects(categories: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"c": pd.Categorical.from_codes([0], pd.Index(categories, dtype=object))})


UNKNOWN = dask.array.ones(4, chunks=2)
UNKNOWN = UNKNOWN[UNKNOWN > 0]


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (xr.Dataset({"v": (("x", "y"), [[1.0]])}), r"one dimension.*'v' \('x', 'y'\).*to_dataframe\(\)"),
        (xr.Dataset({"v": ("x", [1]), "s": 1.0}), r"one dimension.*'s' \(\).*drop_vars"),
        (xr.Dataset({"v": ("x", [1]), "w": ("y", [1])}), r"the same for all.*'v' \('x',\), 'w' \('y',\)"),
        (xr.Dataset(coords={"x": [1]}), r"the object has no columns"),
        (xr.Dataset({"v": ("x", [])}), r"the object has no rows"),
        (xr.DataArray([1], {"x": [1], "a": ("x", [2])}, "x"), r"no coordinates besides its index.*'a'.*to_dataset\(\)"),
        (xr.Dataset({"v": ("x", [b"a"])}), r"variable 'v': pandas' tables have no column of \|S1. Decode it"),
        (xr.Dataset({"v": ("x", np.array([{}, 1], object))}), r"variable 'v': .* no objects of kind 'mixed"),
        (xr.Dataset({"v": ("x", ["\udc80"])}), r"variable 'v': '\\udc80' holds lone surrogates"),
        (xr.Dataset({"v": ("x", np.array(["a\0"], object))}), r"variable 'v': the text 'a\\x00' ends in NUL.*rstrip"),
        (of_objects(["a\0"]), r"column 'c' has the categories \['a\\x00'\] .* stored with \['a'\]"),
        (of_objects(["a", "a\0"]), r"column 'c' has the categories .* stored with \['a', 'a'\]"),
        (of_objects(["nan", "\ue000"]), r"column 'c' has the categories .* stored with \['nan', nan\]"),
        (of_objects(["\udc80"]), r"column 'c': '\\udc80' holds lone surrogates"),
        (xr.Dataset({"v": ("x", UNKNOWN)}), r"dimension 'x' has Dask blocks of unknown sizes.*compute_chunk_sizes"),
        (pd.DataFrame({"v": pd.arrays.SparseArray([0.0])}), r"column 'v': .* no column of Sparse.*Convert it with"),
        (xr.Dataset({"v": ("x", np.zeros(1, "f8,i4"))}), r"variable 'v': pandas' tables have no column of \["),
        (xr.DataTree(), r"layout='pandas' writes a Dataset or DataArray, a DataFrame or Series, not DataTree"),
        (pd.DataFrame({"v": pd.array([1, None])}), r"column 'v': pandas' tables have no column of Int64.*astype"),
        (pd.DataFrame({"v": pd.period_range("2020", periods=1, freq="D")}), r"column 'v': period\[D\] .*to_timestamp"),
        (pd.DataFrame({"v": [1]}, index=pd.interval_range(0, 1)), r"index None: interval.* two variables"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"as stored they are 'a', 'a_1'.*rename|cannot write this object"),
        (pd.DataFrame({"v": [1]}, index=pd.Index([None], dtype=object)), r"index None.*missing"),
    ],
)
def test_what_pandas_cannot_hold_is_refused(obj: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises((ValueError, TypeError), match=rf"(?s)a\.h5:/events: (.*){reason}|a\.h5:/events: {reason}"):
        write(obj, path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"group": "/"}, ValueError, r"group names the object, e.g. group='/events'"),
        ({"mode": "r+"}, ValueError, r"there is no such file|mode='a' replaces the object"),
        ({"index": ["v"]}, ValueError, r"data_columns= says which get one"),
        ({"data_columns": "v"}, TypeError, r"data_columns=\['v'\], or True"),
        ({"data_columns": 5}, TypeError, r"a\.h5:/events: data_columns must be a list of names.*\['v'\].*not 5"),
        ({"data_columns": None}, TypeError, r"a\.h5:/events: data_columns must be a list of names.*not None"),
        ({"data_columns": ["v", "n", "v"]}, ValueError, r"a\.h5:/events: data_columns names 'v' more than once"),
        ({"encoding": {"v": None}}, ValueError, r"a\.h5:/events: encoding\['v'\] must be castable to dict, not None"),
        ({"encoding": ["v"]}, ValueError, r"a\.h5:/events: encoding must be castable to dict, not \['v'\]"),
        ({"encoding": {"v": {"dtype": "S9"}}}, ValueError, r"column 'v' is float64, and encoding has the width of"),
        ({"encoding": {"t": {"dtype": "S9"}}}, ValueError, r"index 't' is datetime64.*and encoding has the width"),
        ({"data_columns": ["w"]}, ValueError, r"data_columns names 'w'; the columns are 'v', 'n'"),
        ({"encoding": {"v": {"dtype": "f4"}}}, ValueError, r"variable 'v': pandas chooses .* not 'dtype'.*astype"),
        ({"encoding": {"v": {"scale_factor": 2.0}}}, ValueError, r"variable 'v': .* not 'scale_factor'"),
        ({"encoding": {"w": {}}}, KeyError, r"encoding names 'w', which the object does not have"),
        ({"unlimited_dims": ["q"]}, ValueError, r"only the rows \('t'\) of a table can grow"),
        ({"region": {"t": slice(0, 1)}}, NotImplementedError, r"append_dim appends rows"),
        ({"layout": "table"}, TypeError, r"layout='table' writes a Dataset or DataArray, not DataFrame"),
        ({"layout": "table", "data_columns": ["v"]}, ValueError, r"data_columns needs layout='pandas'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], reason: str, tmp_path: Path) -> None:
    with pytest.raises((error, FileNotFoundError), match=reason):
        to_pytables(FRAME, tmp_path / "a.h5", **{"group": "/events", "layout": "pandas", **arguments})
    assert os.listdir(tmp_path) == []


# -- beside others -----------------------------------------------------------------------------------------


def test_mode_a_replaces_the_object_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make_frame()["energy"].to_hdf(path, key="/g/events")
    make_frame()["hits"].to_hdf(path, key="/g/other", format="table")
    write(FRAME, path, "/g/events", mode="a")
    assert_equal(by_pandas(path, "/g/events"), FRAME)
    assert_equal(by_pandas(path, "/g/other"), make_frame()["hits"])
    FRAME["v"].to_hdf(path, key="/g/events/below")
    with pytest.raises(ValueError, match=r"the group of the object holds 'below' as well"):
        write(FRAME, path, "/g/events", mode="a")


@pytest.mark.parametrize("form", ["fixed", "table"])
@pytest.mark.parametrize(
    ("stranger", "told"),
    [
        ("array", "array"),
        ("rows", "rows"),
        ("table of mine", "table of mine"),
        ("group", "group"),
        ("link", "link"),
        ("meta/c/meta/array", "meta/c/meta/array"),
        ("meta/array", "meta/array"),
    ],
)
@pytest.mark.filterwarnings("ignore::tables.NaturalNameWarning")
def test_what_is_not_the_objects_is_not_replaced(stranger: str, told: str, form: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    of_categories("text").to_hdf(path, key="/events", format="table")
    if form == "fixed":
        make_frame()["energy"].to_hdf(path, key="/events", format="fixed")
        told = told.partition("/")[0]
    parent, name = os.path.split(f"/events/{stranger}")
    with tables.open_file(path, "a") as file:
        if name == "rows":
            file.create_vlarray(parent, name, tables.Int64Atom()).append([1, 2])
        elif name == "table of mine":
            file.create_table(parent, name, np.zeros(2, "i4,f8"))
        elif name == "group":
            file.create_group(parent, name)
        elif name == "link":
            file.create_soft_link(parent, name, "/nowhere")
        else:
            file.create_array(parent, name, [1, 2], createparents=True)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"a\.h5:/events: the group of the object holds '{told}' as well"):
        write(FRAME, path, mode="a")
    assert path.read_bytes() == before


@pytest.mark.parametrize("form", ["fixed", "table"])
def test_an_object_of_categories_is_replaced(form: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    frame = of_categories("text") if form == "table" else pd.DataFrame({"v": [1]}, index=pd.CategoricalIndex(["a"]))
    frame.to_hdf(path, key="/events", format=form)
    write(FRAME, path, mode="a")
    assert_equal(by_pandas(path), FRAME)
    with plain_file(path) as file:
        assert [node._v_name for node in file.root.events] == ["table"]


def test_an_object_that_nobody_knows_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(FRAME, path)
    with h5py.File(path, "a") as file:
        file["events"].attrs["pandas_type"] = np.bytes_("wide")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a\.h5:/events: the pandas object cannot be read \(.*'wide'.*another group"):
        write(FRAME, path, mode="a")
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [{"mode": "a"}, {"append_dim": "t"}])
def test_a_table_of_others_is_left_alone(arguments: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    to_pytables(xr.Dataset({"v": ("x", [1])}), path, group="/events", layout="table")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a\.h5:/events: there is a table that is no object .*layout='table'"):
        write(FRAME, path, **arguments)
    assert path.read_bytes() == before


def test_groups_and_fixed_objects_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    to_pytables(xr.Dataset({"z": ("q", [1.5])}), path, group="/plain")
    FRAME["v"].to_hdf(path, key="/fixed")
    with pytest.raises(ValueError, match=r"'/plain' is a group"):
        write(FRAME, path, "/plain", mode="a")
    with pytest.raises(ValueError, match=r"'/plain/z' is not a table"):
        write(FRAME, path, "/plain/z", mode="a")
    with pytest.raises(ValueError, match=r"/fixed: the pandas object is stored in the fixed format, which cannot grow"):
        write(FRAME, path, "/fixed", append_dim="t")
    write(FRAME, path, mode="a")
    for argument in ({"encoding": {"v": {"complib": "zlib"}}}, {"data_columns": True}):
        with pytest.raises(ValueError, match="the object is there"):
            write(FRAME, path, append_dim="t", **argument)


def test_pandas_sees_nothing_of_a_file_of_others(tmp_path: Path) -> None:
    """Only a file in memory is pandas': of what strangers wrote it must run nothing."""
    path = tmp_path / "a.h5"
    attack = b"cos\nmkdir\n(S'" + str(tmp_path / "pwned").encode() + b"'\ntR."
    write(FRAME, path, data_columns=["v"])
    with h5py.File(path, "a") as file:
        for node in (file["/"], file["/events"], file["/events/table"]):
            node.attrs["TITLE2"] = np.bytes_(attack)
            node.attrs["FILTERS"] = np.bytes_(attack)
    write(FRAME, path, "/more", mode="a")
    write(FRAME, path, append_dim="t")
    assert not (tmp_path / "pwned").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of attributes that are not decoded
        ds = read(path)
    assert ds["v"].values.tolist() == [1.5, 2.5, 1.5, 2.5]


def test_a_failing_task_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(FRAME, path)
    before = path.read_bytes()

    def fail(block: np.ndarray) -> np.ndarray:
        raise RuntimeError("no data today")

    data = dask.array.zeros(4, chunks=2).map_blocks(fail, meta=np.empty(0))
    for kwargs in ({}, {"mode": "a"}):
        with pytest.raises(RuntimeError, match="no data today"):
            write(xr.Dataset({"v": ("x", data)}), path, **kwargs)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.h5"]


def test_memory_is_that_of_blocks(tmp_path: Path) -> None:
    """3 * 10**6 rows of 20 columns are 480 MB, of which some blocks are in memory at once."""
    told = run_python(
        f"""
        import resource
        import dask, dask.array, xarray as xr
        from xr_pytables import to_pytables
        def write(rows):
            ones = dask.array.ones(rows, chunks=10**5)
            ds = xr.Dataset({{f"v{{number}}": ("x", ones + number) for number in range(20)}})
            to_pytables(ds, {str(tmp_path / "a.h5")!r}, group="/g", layout="pandas", fsync=False)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with dask.config.set(scheduler="sync"):
            print(-write(10**5) + write(3 * 10**6))
        """
    )
    assert int(told) < 200_000  # KB; the index takes 24 MB


def test_an_old_pandas_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pd, "__version__", "2.3.3")
    with pytest.raises(ValueError, match=r"a\.h5:/events: layout='pandas' needs pandas 3; this is pandas 2\.3\.3"):
        to_pytables(pd.DataFrame({"v": [1]}), tmp_path / "a.h5", group="/events", layout="pandas")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ATTRIBUTES, ids=repr)
def test_attributes_whose_names_mean_something_to_pandas_come_back(tmp_path: Path, value: object) -> None:
    check_names_of_attributes(tmp_path / "a.h5", value, "pandas")
