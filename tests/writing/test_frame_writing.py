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
from .test_table_writing import SCHEDULERS

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
    assert len(by_pandas(path, "/all", where="energy > 0")) == (frame["energy"] > 0).sum()


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


def test_other_categories_are_refused(tmp_path: Path) -> None:
    one, other = pd.DataFrame({"c": pd.Categorical(["a", "b"])}), pd.DataFrame({"c": pd.Categorical(["a", "c"])})
    write(one, tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"'c' is category, .*; the categories are \['a', 'b'\]"):
        write(other, tmp_path / "a.h5", append_dim="index")


# -- what is refused ---------------------------------------------------------------------------------------


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
        (xr.Dataset({"v": ("x", np.array(["a\0"], object))}), r"variable 'v': the text 'a\\x00' ends in NUL"),
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
