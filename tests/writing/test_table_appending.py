"""Rows appended to tables: the values of NumPy, for this package and for plain PyTables, with and without indexes."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable
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
from hypothesis import example, given
from hypothesis import strategies as st

from xr_pytables import to_pytables
from xr_pytables.where import queries
from xr_pytables.writing import changes, chunk_writer, table_indexes

from ..helpers_properties import examples
from ..helpers_reading import assert_same, column_of, plain_file, run_python
from .test_table_writing import SCHEDULERS, assert_comes_back, datasets, make_dataset, read, write


def append(dataset: Any, path: Path, group: str = "/events", append_dim: str = "event", **kwargs: Any) -> Any:
    return write(dataset, path, group, append_dim=append_dim, **kwargs)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Small files are changed in place as large ones are; the names of those that were."""
    monkeypatch.setattr(changes, "SMALL_FILE", 0)
    monkeypatch.setattr(changes, "LARGEST_SHARE", 1.0)
    changed: list[str] = []
    change = changes._change_in_place

    def noted(work: Any, transaction: Any, *args: Any, **kwargs: Any) -> None:
        changed.append(transaction.target)
        change(work, transaction, *args, **kwargs)

    monkeypatch.setattr(changes, "_change_in_place", noted)
    return changed


# -- rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, {"event": 7}, {"event": -1, "x": 1}])
@pytest.mark.parametrize("place", ["copy", "in place"])
def test_appended_pieces_make_the_whole(
    chunks: dict[str, int] | None, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    in_place = request.getfixturevalue("in_place") if place == "in place" else []
    path, whole = tmp_path / "a.h5", make_dataset(300)
    whole = whole[list(reversed(list(whole)))]
    encoding = {"energy": {"chunksizes": (50,), "complib": "blosc:zstd", "complevel": 3}, "name": {"dtype": "S6"}}
    edges = [0, 20, 21, 50, 50, 130, 300]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        piece = whole.isel(event=slice(start, stop))
        if number % 2:
            piece = piece[list(reversed(list(piece)))]
        append(piece if chunks is None else piece.chunk(chunks), path, encoding=None if number else encoding)
        assert_comes_back(whole.isel(event=slice(stop)).assign_attrs(whole.attrs), path)
    assert len(in_place) == (5 if place == "in place" else 0)
    assert os.listdir(tmp_path) == ["a.h5"]
    with plain_file(path, "a") as file:
        table = file.root.events
        assert (table.nrows, table.attrs.NROWS, table.chunkshape, table.filters.complib) == (
            300,
            300,
            (50,),
            "blosc:zstd",
        )
        rows = table.read()
        assert_same(rows["energy"], whole["energy"])
        assert_same(rows["position"]["error"]["y"], whole["position.error.y"])
        assert_same(rows["image"], whole["image"])
        table.append(rows[:70])
        table.flush()
        assert table.nrows == 370
    append(whole.isel(event=slice(70, 300)), path)
    with plain_file(path) as file:
        assert_same(file.root.events.col("energy"), np.tile(whole["energy"], 2))
        assert_same(file.root.events.col("code"), np.tile(whole["code"], 2))


@examples(30)
@given(dataset=datasets(), data=st.data())
def test_any_pieces_of_any_dataset_make_the_whole(dataset: xr.Dataset, data: st.DataObject, tmp_path: Path) -> None:
    path, rows = tmp_path / "a.h5", dataset.sizes["row"]
    path.unlink(missing_ok=True)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3)))
    complib = data.draw(st.sampled_from([None, "zlib", "blosc2:zstd"]))
    encoding = {next(iter(dataset)): {"complib": complib, "chunksizes": (data.draw(st.integers(1, 9)),)}}
    for start, stop in itertools.pairwise([0, *cuts, rows]):
        piece = dataset.isel(row=slice(start, stop))
        append(piece, path, append_dim="row", encoding=None if path.exists() else encoding)
    with read(path) as back:
        for name in dataset:
            assert_same(back[name], dataset[name])
    with plain_file(path) as file:
        stored = file.root.events.read()
        for name in dataset:
            assert_same(column_of(stored, str(name)), dataset[name])


class Event(tables.IsDescription):
    energy = tables.Float64Col(pos=0)
    name = tables.StringCol(5, pos=1)
    image = tables.Float32Col(shape=(2, 3), pos=2)
    triggered = tables.BoolCol(pos=3)
    kind = tables.EnumCol({"signal": 1, "noise": 2}, "noise", "uint8", pos=4)
    when = tables.Time64Col(pos=5)
    second = tables.Time32Col(pos=6)
    wave = tables.ComplexCol(16, pos=7)

    class position(tables.IsDescription):  # noqa: N801
        x = tables.Int32Col(pos=0)
        y = tables.UInt16Col(pos=1)


def plain_rows(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    rows = np.zeros(count, tables.dtype_from_descr(Event))
    rows["energy"] = rng.normal(size=count)
    rows["name"] = rng.choice([b"even", b"odd", b""], count)
    rows["image"] = rng.normal(size=(count, 2, 3))
    rows["triggered"] = rng.random(count) > 0.5
    rows["kind"] = rng.integers(1, 3, count)
    rows["when"] = rng.integers(-(2**30), 2**30, count) + 0.25
    rows["second"] = rng.integers(-(2**30), 2**30, count)
    rows["wave"] = rng.normal(size=count) + 2j
    rows["position"]["x"] = rng.integers(0, 100, count)
    rows["position"]["y"] = rng.integers(0, 100, count)
    return rows


def plain_table(path: Path, rows: np.ndarray, byteorder: str = "little") -> None:
    with plain_file(path, "w") as file:
        filters = tables.Filters(5, "blosc:lz4")
        table = file.create_table("/", "events", Event, filters=filters, chunkshape=64, byteorder=byteorder)
        table.append(rows)
        table.attrs.energy_UNIT = "TeV"
        table.attrs.history = ["taken", "apart"]


@pytest.mark.parametrize("chunks", [None, {"event": 33}])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_rows_for_a_table_of_plain_pytables(chunks: dict[str, int] | None, byteorder: str, tmp_path: Path) -> None:
    path, other, rows = tmp_path / "a.h5", tmp_path / "b.h5", plain_rows(500)
    plain_table(path, rows[:200], byteorder)
    plain_table(other, rows)
    with h5py.File(path) as file:
        stored = file["events"].id.get_type()
        assert stored.get_member_type(0).dtype.str == ("<f8" if byteorder == "little" else ">f8")
        stored = stored.encode()
    more = read(other, dims={"events": ["event"]}).load().isel(event=slice(200, None))
    assert more["when"].dtype.kind == more["second"].dtype.kind == "M"
    append(more if chunks is None else more.chunk(chunks), path)
    with plain_file(path) as file:
        table = file.root.events
        assert (table.attrs.history, table.attrs.energy_UNIT) == (["taken", "apart"], "TeV")
        np.testing.assert_array_equal(table.read(), rows)
    with h5py.File(path) as file:
        assert file["events"].id.get_type().encode() == stored
    with read(path) as back:
        assert_same(back["when"], read(other)["when"])


def test_the_table_is_made_if_there_is_none(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.h5", make_dataset(30)
    append(whole.isel(event=slice(10)), path, "/g/events", index=["energy"])
    append(whole.isel(event=slice(10, 30)), path, "/g/events")
    append(whole, path, "/g/others")
    assert_comes_back(whole, path, "/g/others")
    with plain_file(path) as file:
        assert (file.root.g.events.nrows, file.root.g.events.colindexed["energy"]) == (30, True)


@pytest.mark.parametrize("chunked", [False, True])
def test_values_are_encoded_as_those_in_the_file(chunked: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    whole = xr.Dataset(
        {
            "packed": ("event", [1.25, np.nan, 3.5, 4.75], {"units": "K"}),
            "when": ("event", pd.date_range("2000-01-01", periods=4)),
            "word": ("event", ["größe", "b", "", "ü"]),
            "flag": ("event", [True, False, True, True]),
        }
    )
    encoding = {
        "packed": {"dtype": "i2", "scale_factor": 0.25, "add_offset": 1.0, "_FillValue": -9},
        "when": {"units": "minutes since 1999-12-31", "dtype": "i4"},
    }
    write(whole.isel(event=slice(2)), path, encoding=encoding)
    more = whole.isel(event=slice(2, 4))
    append(more.chunk(event=1) if chunked else more, path)
    assert_comes_back(whole, path)
    with plain_file(path) as file:
        assert file.root.events.col("packed").tolist() == [1, -9, 10, 15]
        assert file.root.events.col("when").tolist() == [1440, 2880, 4320, 5760]
        assert file.root.events.col("flag").dtype == bool


def test_text_and_datetimes_go_into_columns_of_bytes_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        columns = {"name": tables.StringCol(6), "when": tables.Time64Col(), "n": tables.Int16Col()}
        file.create_table("/", "events", columns).append([(1, b"abc", 0.5)])
    times = pd.DatetimeIndex(["1950-01-01T00:00:00.000001", "2030-05-05T12:00:00.999999"])
    more = xr.Dataset({"n": ("event", [3, -4]), "name": ("event", ["größe"[:4], ""]), "when": ("event", times)})
    append(more, path)
    append(more.assign(n=more.n.astype("i2")).chunk(event=1), path)
    with read(path) as back:
        assert back["name"].values.tolist() == [b"abc", *["größ".encode(), b""] * 2]
        assert back["when"].values[1:].astype("M8[us]").tolist() == times.to_pydatetime().tolist() * 2
    with plain_file(path) as file:
        stored = file.root.events.col("when")
        np.testing.assert_allclose(stored[1:3], times.astype("M8[us]").astype("i8") / 1e6, rtol=0, atol=2e-7)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("times", [["2040-01-01"], ["1900-01-01"], ["2000-01-01", "NaT"]])
def test_times_that_pytables_cannot_hold_are_refused(times: list[str], chunked: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        file.create_table("/", "events", {"when": tables.Time64Col()}).append([(0.5,)])
    before = path.read_bytes()
    more = xr.Dataset({"when": ("event", pd.DatetimeIndex(times))})
    with pytest.raises(ValueError, match=r"holds times from 1901 to 2038, and no missing ones|NaT|_FillValue"):
        append(more.chunk(event=1) if chunked else more, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def test_rows_for_padded_records_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    padded = np.dtype([("a", "i1"), ("b", ">f8"), ("c", "S3")], align=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("events", data=np.ones(5, padded), maxshape=(None,), chunks=(4,))
    more = xr.Dataset({"b": ("r", np.arange(7.0)), "a": ("r", np.arange(7, dtype="i1")), "c": ("r", [b"x"] * 7)})
    append(more, path, append_dim="r")
    append(more.chunk(r=2), path, append_dim="r")
    with h5py.File(path) as file:
        assert file["events"].dtype == padded
        assert file["events"]["b"].tolist() == [1.0] * 5 + [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0] * 2
        assert file["events"]["c"][5:].tolist() == [b"x"] * 14


# -- indexes --------------------------------------------------------------------------------------------------


def indexed_table(path: Path, rows: np.ndarray, indexed: bool) -> None:
    plain_table(path, rows)
    if indexed:
        with plain_file(path, "a") as file:
            columns = file.root.events.cols
            columns.energy.create_csindex()
            columns.name.create_index(kind="medium", optlevel=4)
            columns.second.create_index(kind="light")
            columns.position.x.create_index(kind="ultralight")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("chunks", [None, {"event": 3000}])
def test_queries_find_old_and_new_rows(
    indexed: bool, chunks: dict[str, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other, rows = tmp_path / "a.h5", tmp_path / "b.h5", plain_rows(20_000)
    indexed_table(path, rows[:9_000], indexed)
    plain_table(other, rows)
    more = read(other, dims={"events": ["event"]}).load()
    for start, stop in ((9_000, 9_001), (9_001, 20_000)):
        piece = more.isel(event=slice(start, stop))
        append(piece if chunks is None else piece.chunk(chunks), path)
    answers: list[queries.FoundRows] = []
    find = queries.find_rows
    monkeypatch.setattr(
        "xr_pytables.where.queries.find_rows",
        lambda *args, **kwargs: answers.append(find(*args, **kwargs)) or answers[-1],
    )
    for condition, expected in (
        ("energy > 2.5", rows["energy"] > 2.5),
        ("(energy < -3) | (second < -1073000000)", (rows["energy"] < -3) | (rows["second"] < -1073000000)),
        ("name == b'odd'", rows["name"] == b"odd"),
    ):
        numbers = np.flatnonzero(expected).tolist()
        assert {number >= 9_001 for number in numbers} == {True, False}
        with read(path, where=condition) as found:
            assert found["events_row"].values.tolist() == numbers
        with plain_file(path) as file:
            assert file.root.events.get_where_list(condition, sort=True).tolist() == numbers
            assert_same(file.root.events.read_where(condition)["energy"], rows["energy"][expected])
            assert bool(file.root.events.will_query_use_indexing(condition)) == indexed
    assert bool(answers[0].used) == indexed
    with plain_file(path, "a") as file:
        table = file.root.events
        found_kinds = {name: (index.kind, index.optlevel) for name, index in table.colindexes.items()}
        kinds = {
            "energy": ("full", 9), "name": ("medium", 4), "second": ("light", 6), "position/x": ("ultralight", 6)
        }  # fmt: skip
        assert found_kinds == (kinds if indexed else {})
        if indexed:
            assert table.cols.energy.index.is_csi
            assert table.cols.position.x.index.nelements == 20_000
        table.append(rows[:500])
        table.flush()
        assert (
            len(table.read_where("energy > 2.5")) == (rows["energy"] > 2.5).sum() + (rows["energy"][:500] > 2.5).sum()
        )
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]


SMALL_SLICES = (512, 256, 64, 16)
"""Rows of superblocks, blocks, slices and chunks of an index: PyTables has far larger ones for tables of any size."""
ORDERS = {"f8": "lower < a", "i4": "a <= lower", "S3": "a == lower", "f4": "(a > lower) & (a < upper)"}
INDEX_ARRAYS = ("sorted", "indices", "ranges", "mranges", "bounds", "abounds", "zbounds", "mbounds")


def some_values(dtype: str, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if dtype == "S3":
        return random.integers(0, 40, count).astype(dtype)
    values = random.integers(-50, 50, count).astype(dtype)
    if values.dtype.kind == "f":
        values[random.random(count) < seed % 2 * 0.1] = np.nan
    return values


def table_with_index(path: Path, values: np.ndarray, kind: str, optlevel: int, byteorder: str) -> None:
    rows = np.zeros(len(values), [("a", values.dtype), ("b", "i2")])
    rows["a"], rows["b"] = values, np.arange(len(values))
    with plain_file(path, "w") as file:
        table = file.create_table("/", "events", rows, chunkshape=(16,), byteorder=byteorder)
        table.cols.a.create_index(kind=kind, optlevel=optlevel, _blocksizes=SMALL_SLICES)


def append_plainly(path: Path, values: np.ndarray) -> None:
    with plain_file(path, "a") as file:
        table = file.root.events
        rows = np.zeros(len(values), table.dtype)
        rows["a"], rows["b"] = values, np.arange(table.nrows, table.nrows + len(values))
        table.append(rows)


def index_contents(path: Path) -> dict[str, Any]:
    with plain_file(path) as file:
        index = file.root.events.cols.a.index
        found = {name: getattr(index, name)[:] for name in INDEX_ARRAYS}
        count = int(index.indicesLR.attrs.nelements)
        found["indicesLR"], found["bebounds"] = index.indicesLR[:count], index.bebounds if count else None
        found["sortedLR"] = index.sortedLR[: int(index.sortedLR.attrs.nelements)]
        return found | {"kind": (index.kind, index.optlevel, index.is_csi, index.nelements)}


def check_queries(path: Path, values: np.ndarray, plain: Path) -> None:
    """Plain PyTables and this package find by the index what NumPy finds without.

    PyTables 3.11.1 fails for some ultralight indexes with an IndexError, whoever wrote them: then for that of the file
    `plain`, too, which has the same rows.
    """
    dtype = values.dtype
    lower, upper = (np.array(each).astype(dtype)[()] for each in ("7", "20"))
    condition = ORDERS[dtype.str[1:]]
    expected = eval(condition, {"a": values, "lower": lower, "upper": upper})
    numbers = np.flatnonzero(expected).tolist()
    names = {"lower": lower, "upper": upper}
    with plain_file(path) as file:
        table = file.root.events
        assert_same(table.col("a"), values)
        assert table.will_query_use_indexing(condition, names) == {"a"}
        if not (values != values).any():  # NaN behind all others in an index: PyTables finds less then
            try:
                assert table.get_where_list(condition, names, sort=True).tolist() == numbers
            except IndexError:
                with plain_file(plain) as other, pytest.raises(IndexError):
                    other.root.events.get_where_list(condition, names)
    with read(path, where=condition, condvars={name: names[name] for name in names if name in condition}) as found:
        assert found["events_row"].values.tolist() == numbers


@st.composite
def growing_indexes(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["ultralight", "light", "medium", "full"]))
    optlevel = draw(st.sampled_from([0, 3, 6, 8]))
    pieces = draw(st.lists(st.integers(0, 150), min_size=1, max_size=4))
    dtype, first = draw(st.sampled_from(sorted(ORDERS))), draw(st.integers(1, 300))
    return kind, optlevel, dtype, draw(st.sampled_from(["little", "big"])), first, pieces, draw(st.booleans())


@examples(40)
@given(case=growing_indexes())
@example(case=("ultralight", 8, "S3", "little", 78, [0, 0, 45], False))
def test_an_index_goes_on_as_that_of_plain_pytables(case: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In each of its arrays, for indexes of any kind; and PyTables goes on with it."""
    kind, optlevel, dtype, byteorder, first, pieces, small = case
    folder = tmp_path_factory.mktemp("indexes")
    ours, plain, values = folder / "ours.h5", folder / "plain.h5", some_values(dtype, first, 0)
    for path in (ours, plain):
        table_with_index(path, values, kind, optlevel, byteorder)
    sorted_anew: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "SMALL_FILE", 0 if small else changes.SMALL_FILE)
        patch.setattr(changes, "LARGEST_SHARE", 1.0)
        patch.setattr(table_indexes, "_index", lambda *args, real=table_indexes._index: sorted_anew.append(real(*args)))
        for number, count in enumerate(pieces):
            more = some_values(dtype, count, number + 1)
            with plain_file(ours) as file:
                wholly = kind == "full" and file.root.events.cols.a.index.is_csi
            numbers = np.arange(len(values), len(values) + count, dtype="i2")
            rows = xr.Dataset({"a": ("events_row", more), "b": ("events_row", numbers)})
            append(rows, ours, append_dim="events_row")
            append_plainly(plain, more)
            anew, few = bool(sorted_anew), count <= len(values)
            values = np.concatenate([values, more])
            check_queries(ours, values, plain)
            assert anew == (wholly or not few)
            if anew:
                return
            assert_same_index(index_contents(ours), index_contents(plain))
    for path in (ours, plain):
        append_plainly(path, values[:70])
    assert_same_index(index_contents(ours), index_contents(plain))
    check_queries(ours, np.concatenate([values, values[:70]]), plain)


def assert_same_index(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, expected in other.items():
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(one[name], expected, name)
        else:
            assert one[name] == expected, name


def test_index_adds_to_those_that_a_table_has(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.h5", make_dataset(60)
    write(whole.isel(event=slice(20)), path, index=["energy"])
    append(whole.isel(event=slice(20, 40)), path, index={"code": "full"})
    append(whole.isel(event=slice(40, 60)), path, index={"energy": "light"})
    with plain_file(path) as file:
        kinds = {name: index.kind for name, index in file.root.events.colindexes.items()}
        assert kinds == {"energy": "light", "code": "full"}
        assert file.root.events.read_where("code == 5")["code"].size == (whole["code"] == 5).sum()


def test_a_table_without_indexes_gets_one(tmp_path: Path, in_place: list[str]) -> None:
    path, whole = tmp_path / "a.h5", make_dataset(40)
    write(whole.isel(event=slice(20)), path)
    append(whole.isel(event=slice(20, 40)), path, index=["position.x"])
    assert in_place == []  # PyTables makes it, in a copy
    assert_comes_back(whole, path)
    with plain_file(path) as file:
        assert file.root.events.cols.position.x.index.nelements == 40


def test_the_index_of_a_column_of_bool_is_one_that_goes_on(tmp_path: Path) -> None:
    """Made among other things in a file, and made anew."""
    path = tmp_path / "a.h5"
    rows = xr.Dataset({"good": ("row", np.arange(9) % 3 == 0), "number": ("row", np.arange(9))})
    to_pytables(xr.Dataset({"x": 1}), path)
    to_pytables(rows, path, mode="a", group="/events", layout="table", index=["good"])
    for count in (9, 20, 1):  # goes on, is made anew as more come than there are, goes on
        more = rows.isel(row=np.arange(count) % 9)
        to_pytables(more, path, group="/events", layout="table", append_dim="row")
    with plain_file(path) as file:
        table = file.root.events
        assert table.cols.good.index.nelements == table.nrows == 39
        assert isinstance(table.cols.good.index.sorted.atom, tables.BoolAtom)
        assert table.will_query_use_indexing("good")
        assert table.get_where_list("good", sort=True).tolist() == np.flatnonzero(table.col("good")).tolist()


def test_indexes_that_are_made_anew_leave_no_holes(tmp_path: Path) -> None:
    path, values = tmp_path / "a.h5", np.random.default_rng(0).random(50_600)
    write(xr.Dataset({"a": ("event", values[:50_000])}), path, index={"a": "full"})
    before = path.stat().st_size
    for start in range(50_000, 50_600, 100):
        append(xr.Dataset({"a": ("event", values[start : start + 100])}), path)
    assert path.stat().st_size < 1.1 * before  # an index is half of it
    with plain_file(path) as file:
        assert file.root.events.cols.a.index.nelements == 50_600
        assert file.root.events.read_where("a > 0.99")["a"].tolist() == values[values > 0.99].tolist()


def test_an_index_that_cannot_be_made_again_is_removed(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.h5", plain_rows(300)
    indexed_table(path, rows[:200], True)
    with plain_file(path, "a") as file:
        file.root.events.cols.when.create_index()
        file.root._f_get_child("_i_events").second._v_attrs.DIRTY = True
    more = read(path, dims={"events": ["event"]}).load()
    with pytest.warns(
        UserWarning, match="the index of column '(when|second)' would be out of date and is removed"
    ) as caught:
        append(more.isel(event=slice(5)), path)
    told = " ".join(str(each.message) for each in caught)
    assert "'second' would be out of date and is removed, not made anew: PyTables marked it as out of date" in told
    assert "'when' would be out of date" in told
    assert "table.cols.when.create_index()" in told
    with plain_file(path) as file:
        assert set(file.root.events.colindexes) == {"energy", "name", "position/x"}
        for name, limit in (("second", 0), ("energy", 1), ("when", 0)):
            values = np.concatenate([rows[name][:200], rows[name][:5]])
            found = file.root.events.get_where_list(f"{name} > {limit}", sort=True)
            assert found.tolist() == np.flatnonzero(values > limit).tolist()


def test_indexes_of_a_table_of_others_run_nothing_from_it(tmp_path: Path) -> None:
    """PyTables makes the index; it must not see what others wrote of the table."""
    path, rows = tmp_path / "a.h5", plain_rows(300)
    indexed_table(path, rows, True)
    attack = b"cos\nmkdir\n(S'" + str(tmp_path / "pwned").encode() + b"'\ntR."
    with h5py.File(path, "a") as file:
        for node in (file["/"], file["/events"], file["/_i_events"], file["/_i_events/energy"]):
            for name in ("TITLE", "FILTERS", "other", "FIELD_0_NAME", "FLAVOR"):
                node.attrs[name] = np.bytes_(attack)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = read(path, dims={"events": ["event"]}).load()
        append(more, path)
    assert not (tmp_path / "pwned").exists()
    assert os.listdir(tmp_path) == ["a.h5"]
    with read(path, where="energy > 1") as found:
        assert found["events_row"].values.tolist() == np.flatnonzero(np.tile(rows["energy"], 2) > 1).tolist()
    with h5py.File(path) as file:
        assert set(file["_i_events"]) == {"energy", "name", "second", "position"}


# -- nothing good is lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("index", [(), ("energy",)])
@pytest.mark.parametrize("compute", [True, False])
def test_every_scheduler_appends_the_same(scheduler: str, index: Any, compute: bool, tmp_path: Path) -> None:
    path, whole = tmp_path / "a.h5", make_dataset(300)
    write(whole.isel(event=slice(100)), path, index=index)
    before = path.read_bytes()
    with dask.config.set(scheduler=scheduler, num_workers=2):
        later = append(whole.isel(event=slice(100, 300)).chunk(event=70), path, compute=compute)
        if not compute:
            assert path.read_bytes() == before
            later.compute()
    assert_comes_back(whole, path)
    with plain_file(path) as file:
        assert file.root.events.colindexed["energy"] == bool(index)
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("where", ["a task", "a chunk in a copy", "a chunk in place", "an index", "an index made anew"])
def test_an_error_leaves_the_old_file_and_nothing_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    path, whole = tmp_path / "a.h5", make_dataset(300)
    write(whole, path, index=["energy"] if "index" in where else [])
    before = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("on purpose")

    more = whole.chunk(event=50)
    if where == "a task":
        more["energy"] = more["energy"].copy(data=more["energy"].data.map_blocks(fail, dtype="f8", meta=np.empty(0)))
    elif where == "an index":
        monkeypatch.setattr("xr_pytables.writing.longer_indexes._sort_aside", fail)
    elif where == "an index made anew":
        more = whole.isel(event=np.arange(301) % 300).chunk(event=50)
        monkeypatch.setattr("xr_pytables.writing.table_indexes._index", fail)
    else:
        changed = request.getfixturevalue("in_place") if where.endswith("place") else []
        put = chunk_writer.write

        def write_and_fail(*args: Any, **kwargs: Any) -> None:
            put(*args, **kwargs)
            fail()

        monkeypatch.setattr(chunk_writer, "write", write_and_fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        append(more, path)
    if where == "a chunk in place":
        assert changed == [str(path)]
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def test_memory_stays_bounded(tmp_path: Path) -> None:
    code = """
        import resource, sys
        import dask, dask.array, numpy as np, xarray as xr
        from xr_pytables import to_pytables
        def table(rows, chunk):
            columns = {f"c{number}": ("row", dask.array.arange(rows, chunks=chunk) * number) for number in range(4)}
            return xr.Dataset(columns)
        to_pytables(table(1000, 1000), sys.argv[1], group="/t", layout="table")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with dask.config.set(scheduler="threads", num_workers=2):
            to_pytables(table(12_000_000, 500_000), sys.argv[1], group="/t", layout="table", append_dim="row")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        with xr.open_dataset(sys.argv[1], engine="pytables", group="/t") as back:
            assert back.sizes["row"] == 12_001_000
            assert back["c3"][-1].item() == 3 * 11_999_999
        print(grown < 250 or grown)  # of 366 MiB
    """
    assert run_python(code, tmp_path / "a.h5") == "True\n"


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kwargs", "message"),
    [
        (lambda ds: ds, {"append_dim": "nope"}, "rows are appended along 'event', not along append_dim='nope'"),
        (lambda ds: ds.rename(event="e"), {"append_dim": "e"}, "match the name of the rows in the file, 'event'"),
        (lambda ds: ds.drop_vars("energy"), {}, "lacks the columns 'energy'. A row has all columns"),
        (lambda ds: ds.assign(z=ds.energy), {}, "has more than the table: 'z'"),
        (lambda ds: ds.isel(x=slice(2)), {}, r"'image' has the shape \(2, 2\) in each row, the column \(2, 3\)"),
        (lambda ds: ds.rename(x="lon"), {}, "different dimension names"),
        (lambda ds: ds.assign(code=ds.code.astype("i8") + 2**40), {}, "does not fit: int32 holds"),
        (lambda ds: ds.assign(code=ds.code * 0.5), {}, "cannot hold the values"),
        (lambda ds: ds.assign(good=ds.good * 2), {}, "'good': Mismatched dtypes: the column has values of kind 'bool'"),
        (lambda ds: ds.assign(energy=ds.wave), {}, "'energy': Mismatched dtypes.*complex128"),
        (lambda ds: ds.assign(energy=ds.name), {}, "'energy': Mismatched dtypes"),
        (lambda ds: ds.assign(name=ds.code), {}, "'name': Mismatched dtypes"),
        (lambda ds: ds.assign(name=ds.name + "longer"), {}, "'name': a text of 9 bytes does not fit"),
        (lambda ds: ds.assign(name=ds.name + "longer").chunk(), {}, "a text of . bytes does not fit the 3 bytes"),
        (lambda ds: ds.assign(raw=ds.raw.astype("S9")), {}, "'raw': Mismatched dtypes"),
        (lambda ds: ds.assign(energy=ds.energy.assign_attrs(units="GeV")), {}, "stored with units='TeV'"),
        (lambda ds: ds.assign(when=ds.when + pd.Timedelta("1min")), {}, r"units|serialized"),
        (lambda ds: ds.assign(code=ds.when), {}, "array 'code' is stored with units=None"),
        (lambda ds: ds.transpose("x", ...), {}, "share their first"),
        (lambda ds: ds, {"encoding": {"energy": {"complib": "zlib"}}}, "'energy' already exists, but encoding was"),
        (lambda ds: ds, {"index": ["nope"]}, "index names 'nope'"),
        (lambda ds: ds, {"mode": "w"}, "cannot set append_dim unless mode='a'"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused_before_the_disk_is_touched(
    change: Callable[[xr.Dataset], Any], kwargs: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path, dataset = tmp_path / "a.h5", make_dataset(20)
    write(dataset, path)
    before = path.read_bytes()
    with warnings.catch_warnings():  # xarray says what it does instead, which is refused
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(ValueError, match=message):
            append(change(dataset), path, **kwargs)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def test_enumerations_with_other_members_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "a.h5", tmp_path / "b.h5"
    for file_path, members in ((path, {"red": 1, "green": 2}), (other, {"red": 2, "green": 1})):
        with plain_file(file_path, "w") as file:
            table = file.create_table("/", "events", {"color": tables.EnumCol(members, "red", "uint8")})
            table.append([(1,), (2,)])
    with pytest.raises(ValueError, match=r"'color' is an enumeration of {.*}, the column of {'red': 1, 'green': 2}"):
        append(read(other, dims={"events": ["event"]}), path)
    append(read(path, dims={"events": ["event"]}).load(), path)
    with plain_file(path) as file:
        assert file.root.events.col("color").tolist() == [1, 2, 1, 2]


def test_tables_that_cannot_take_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    record = np.dtype([("a", "i4"), ("b", "f8")])
    swapped = np.dtype({"names": ["a", "b"], "formats": ["i4", "f8"], "offsets": [8, 0], "itemsize": 16})
    grows = {"maxshape": (None,), "chunks": (4,)}
    with h5py.File(path, "w") as file:
        file.create_dataset("fixed", data=np.zeros(5, record))
        file.create_dataset("two", data=np.zeros(5, record), **grows)
        file["names"] = file["two"]
        file.create_dataset("table", data=np.zeros(5, record), **grows)
        file["link"] = h5py.SoftLink("/table")
        file.create_dataset("swapped", data=np.zeros(5, swapped), **grows)
        file.create_dataset("texts", data=np.zeros(0, [("a", h5py.string_dtype()), ("b", "f8")]), **grows)
        file.create_dataset("refs", data=np.zeros(0, [("a", "i4"), ("b", "f8"), ("c", h5py.ref_dtype)]), **grows)
    frame = pd.DataFrame({"a": [1, 2]})
    frame.to_hdf(path, key="frame", format="table", mode="a")
    before = path.read_bytes()
    more = xr.Dataset({"a": ("r", np.zeros(3, "i4")), "b": ("r", np.zeros(3))})
    for group, message in {
        "/fixed": "the table has 5 rows and cannot grow",
        "/two": r"the table has 2 names \(hard links\)",
        "/link": "is a link to the table '/table'",
        "/swapped": "its columns are not stored in their order",
        "/texts": "a compound whose member 'a' is text",
        "/refs": "not all columns of the table can be written.*'c': a column of references",
        "/frame/table": "is part of a pandas object. Append to that: group='/frame', layout='pandas'",
    }.items():
        with pytest.raises(ValueError, match=message):
            append(more, path, group, append_dim="r")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]
