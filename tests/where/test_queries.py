"""Queries on tables: the rows that plain PyTables and NumPy find, through indexes where there are some, safely."""

from __future__ import annotations

import datetime
import operator
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import to_pytables, verify
from xr_pytables.disk.door import Visit
from xr_pytables.disk.files import FileIdentity
from xr_pytables.disk.opened_files import OpenedFile
from xr_pytables.model.nodes import NodeReader
from xr_pytables.model.specs import ReadOptions
from xr_pytables.where import conditions, queries
from xr_pytables.where.conditions import AllOf, AnyOf, Comparison, compile_condition

from ..helpers_properties import examples
from ..helpers_reading import assert_same, plain_file, run_python

COLUMNS = np.dtype(
    [
        ("number", "i4"), ("small", "i2"), ("byte", "u1"), ("word", "u4"), ("long", "i8"), ("huge", "u8"),
        ("energy", "f8"), ("single", "f4"), ("half", "f2"), ("flag", "?"), ("name", "S4"), ("wave", "c16"),
        ("vector", "f4", (2,)), ("inner", [("x", "i4")]),
    ]
)  # fmt: skip
LONGS = np.array([-(2**63), 2**63 - 1, 2**53, 2**53 + 1, -1, 0, 7])


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, COLUMNS)
    rows["number"] = rng.integers(-20, 20, count)
    rows["small"] = rng.integers(-(2**15), 2**15, count)
    rows["byte"] = rng.integers(0, 256, count)
    rows["word"] = rng.integers(0, 2**32, count)
    rows["long"] = rng.choice(LONGS, count)
    rows["huge"] = rng.integers(0, 2**64, count, dtype="u8")
    rows["energy"] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, 2.5, *rng.normal(size=20)], count)
    rows["single"] = rng.choice(np.array([np.nan, 0.1, 2**24, 2**24 + 2, -3], "f4"), count)
    rows["half"] = rng.normal(size=count)
    rows["flag"] = rng.random(count) < 0.3
    rows["name"] = rng.choice([b"a", b"ab", b"abcd", b"", b"b"], count)
    rows["wave"] = rng.normal(size=count)
    rows["inner"]["x"] = rng.integers(0, 5, count)
    return rows


def make_table(path: Path, rows: np.ndarray, *, chunk: int = 16, **kwargs: Any) -> Path:
    with plain_file(path, "w") as file:
        table = file.create_table("/", "t", rows.dtype, chunkshape=chunk, filters=tables.Filters(1, "zlib"), **kwargs)
        table.append(rows)
    return path


def rows_where(path: Path, condition: str, **kwargs: Any) -> np.ndarray:
    """The rows that plain PyTables finds."""
    with plain_file(path) as file:
        return np.sort(file.root.t.get_where_list(condition, **kwargs))


def open_where(path: Path, where: str | None = None, **kwargs: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_dataset(path, engine="pytables", group="/t", where=where, **kwargs)


def found_rows(path: Path, where: str, **kwargs: Any) -> list[int]:
    with open_where(path, where, **kwargs) as ds:
        return ds["t_row"].values.tolist()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[queries.FoundRows]:
    """How each query was answered."""
    found: list[queries.FoundRows] = []
    original = queries.find_rows

    def noting(*args: Any, **kwargs: Any) -> queries.FoundRows:
        found.append(original(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(queries, "find_rows", noting)
    return found


# -- what is found --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(tmp_path_factory.mktemp("queries") / "a.h5", rows_of(500))


CONDITIONS = [
    "number > 10", "10 >= number", "small == 7", "byte - 1 > 200", "byte * 2 < 10", "word > 4000000000",
    "word - 1 > 2**31", "long == 9223372036854775807", "long == -9223372036854775808", "long >= 2**53 + 1",
    "long > 9007199254740992.0", "long + 1 < 0", "small * small > 0", "energy > 1.5", "energy == 0", "energy != energy",
    "~(energy > 0)", "isnan(energy) | isinf(energy)", "energy < -1e300", "single == 0.1", "single > 0.1",
    "single >= 16777217", "single == 16777217", "half > 0.5", "flag", "~flag", "flag & (number > 0)", "flag == True",
    "name == b'ab'", "name >= 'ab'", "name != b''", "b'a' < name", "contains(name, b'b')", "name == b'longer than it'",
    "real(wave) > 0", "real(abs(wave)) > 1", "wave == wave", "(number > 0) & ((energy > 1) | (name == b'a')) & ~flag",
    "number % 3 == 1", "number ** 2 > 100", "number / 4 == 2.5", "sqrt(abs(energy)) < 1.0",
    "where(flag, number, small) > 9",
    "(number > 5) == flag", "(number << 1) == 8", "(number ^ 3) == 1", "-number > 3", "+number > 3",
    "number > 2 * (3 - 1)",
    "maximum(energy, 1.0) > 1.2" , "arctan2(energy, 2.0) > 0.5",
]  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
def test_rows_equal_those_of_plain_pytables(condition: str, mixed: Path) -> None:
    theirs = condition.replace("'ab'", "b'ab'").replace("bb'", "b'").replace("2 * (3 - 1)", "4")
    if "<<" in condition or "^" in condition or condition.startswith("+"):
        rows = rows_of(500)  # PyTables itself cannot compile these
        expected = np.flatnonzero(eval(condition, {name: rows[name] for name in COLUMNS.names}))
    else:
        expected = rows_where(mixed, theirs)
    with open_where(mixed, condition) as ds:
        assert ds["t_row"].dtype == np.int64
        assert ds["t_row"].values.tolist() == expected.tolist()
        for name in ("energy", "name", "vector", "inner.x", "huge"):
            column = rows_of(500)["inner"]["x"] if name == "inner.x" else rows_of(500)[name]
            assert_same(ds[name], column[expected])


NUMPY = {
    "number": st.integers(-25, 25), "small": st.integers(-(2**15) - 5, 2**15 + 5), "byte": st.integers(-1, 300),
    "long": st.sampled_from(LONGS.tolist()), "energy": st.sampled_from([-np.inf, -1.0, 0.0, 1.5, 2.5, np.inf]),
    "name": st.sampled_from([b"", b"a", b"ab", b"abc", b"abcd", b"abcde"]),
}  # fmt: skip


@st.composite
def comparisons_and_masks(draw: st.DrawFn, rows: np.ndarray) -> tuple[str, np.ndarray, dict[str, object]]:
    """A condition, the rows that NumPy finds, and values of its names."""
    condvars: dict[str, object] = {}

    def one(depth: int) -> tuple[str, np.ndarray]:
        if depth and draw(st.booleans()):
            (left, left_rows), (right, right_rows) = one(depth - 1), one(depth - 1)
            if draw(st.booleans()):
                return f"({left}) & ({right})", left_rows & right_rows
            return f"({left}) | ({right})", left_rows | right_rows
        if depth and draw(st.integers(0, 4)) == 0:
            inner, mask = one(depth - 1)
            return f"~({inner})", ~mask
        column = draw(st.sampled_from([*NUMPY, "flag"]))
        if column == "flag":
            return "flag", rows["flag"]
        symbol = draw(st.sampled_from(["<", "<=", "==", ">=", ">", "!="]))
        value = draw(NUMPY[column])
        values = np.asarray(value)
        mask = {
            "<": np.less, "<=": np.less_equal, "==": np.equal, ">=": np.greater_equal, ">": np.greater,
            "!=": np.not_equal,
        }[symbol](rows[column], values)  # fmt: skip
        if (isinstance(value, float) and np.isinf(value)) or draw(st.booleans()):
            condvars[f"v{len(condvars)}"] = value
            return f"{column} {symbol} v{len(condvars) - 1}", mask
        return f"{column} {symbol} {value!r}", mask

    text, mask = one(3)
    return text, mask, condvars


INDEX_KINDS = ["ultralight", "light", "medium", "full"]
SMALL_BLOCKS = (256, 128, 64, 16)
"""Superblock, block, slice and chunk of an index, in rows: far smaller than PyTables makes them."""
ROWS = rows_of(700, seed=1)


@pytest.fixture(scope="module", params=[None, *INDEX_KINDS])
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_table(tmp_path_factory.mktemp("indexed") / "a.h5", ROWS)
    if request.param:
        with plain_file(path, "a") as file:
            for name in (*NUMPY, "flag", "single"):
                column = file.root.t.cols._f_col(name)
                column.create_index(kind=request.param, optlevel=6, _blocksizes=SMALL_BLOCKS)
    return path


@examples(60)
@given(
    drawn=comparisons_and_masks(ROWS),
    start=st.integers(-800, 800) | st.none(),
    stop=st.integers(-800, 800) | st.none(),
    step=st.integers(1, 50) | st.none(),
)
def test_any_condition_finds_what_numpy_finds_with_every_kind_of_index(
    drawn: tuple[str, np.ndarray, dict[str, object]], start: int | None, stop: int | None, step: int | None,
    indexed: Path,
) -> None:  # fmt: skip
    text, mask, condvars = drawn
    expected = [row for row in range(len(ROWS))[start:stop:step] if mask[row]]
    given_names = condvars or None
    assert found_rows(indexed, text, condvars=given_names, start=start, stop=stop, step=step) == expected


@pytest.mark.parametrize("kind", INDEX_KINDS)
@pytest.mark.parametrize("optlevel", [0, 3, 6, 9])
def test_an_index_is_used_and_finds_all(
    kind: str, optlevel: int, answers: list[queries.FoundRows], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    rows = np.zeros(20_000, [("key", "f8"), ("code", "i4"), ("label", "S5")])
    rows["key"] = np.sort(rng.normal(size=20_000))
    rows["key"][rng.integers(0, 20_000, 500)] = np.nan
    rows["code"] = np.arange(20_000) // 7
    rows["label"] = [b"%05d" % (number // 11) for number in range(20_000)]
    path = make_table(tmp_path / "a.h5", rows, chunk=64)
    with plain_file(path, "a") as file:
        for name in rows.dtype.names:
            file.root.t.cols._f_col(name).create_index(
                kind=kind, optlevel=optlevel, _blocksizes=(8192, 4096, 2048, 128)
            )
    for condition in ("key > 3", "key <= -2.9", "code == 1234", "(code > 99) & (code <= 103)", "label == b'00777'",
                      "(code == 5) | (label < b'00003')", "(code == 5) & (key < 0)", "code == -1"):  # fmt: skip
        assert found_rows(path, condition) == rows_where(path, condition).tolist()
        assert answers[-1].used or kind in ("ultralight", "light"), condition  # which may leave too many rows
        assert not answers[-1].used or answers[-1].looked_at <= 20_000 // 16
        if kind == "full":
            assert answers[-1].looked_at <= len(answers[-1].rows) + 40
    assert sum(bool(answer.used) for answer in answers) >= 2


def test_default_and_completely_sorted_indexes(answers: list[queries.FoundRows], tmp_path: Path) -> None:
    rows = rows_of(30_000, seed=4)
    rows["long"] = np.random.default_rng(4).integers(-(2**62), 2**62, 30_000)
    path = make_table(tmp_path / "a.h5", rows, chunk=64, expectedrows=30_000)
    with plain_file(path, "a") as file:
        file.root.t.cols.long.create_csindex()
        file.root.t.cols.small.create_index()
    for condition in ("long > 2**62 - 2**50", "small == 77", "(long > 0) & (small == 77)"):
        expected = np.flatnonzero(eval(condition, {"long": rows["long"], "small": rows["small"]}))
        assert found_rows(path, condition) == expected.tolist()
        assert answers[-1].used


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_rows_that_were_appended_are_found(kind: str, answers: list[queries.FoundRows], tmp_path: Path) -> None:
    rows = np.zeros(5000, [("key", "i4")])
    rows["key"] = np.arange(5000)
    path = make_table(tmp_path / "a.h5", rows[:2000], chunk=64)
    with plain_file(path, "a") as file:
        file.root.t.cols.key.create_index(kind=kind, _blocksizes=(4096, 2048, 512, 64))
    with plain_file(path, "a") as file:
        file.root.t.append(rows[2000:])
    for key in (0, 511, 1999, 2000, 2048, 4607, 4608, 4999):
        assert found_rows(path, f"key == {key}") == [key]
        assert answers[-1].used == ("key",)


def test_rows_that_an_index_lacks_are_looked_at(answers: list[queries.FoundRows], tmp_path: Path) -> None:
    """A program that appends without PyTables leaves the index behind."""
    rows = np.zeros(5000, [("key", "i4")])
    rows["key"] = np.arange(5000)
    path = make_table(tmp_path / "a.h5", rows[:4900], chunk=64)
    with plain_file(path, "a") as file:
        file.root.t.cols.key.create_csindex(_blocksizes=(4096, 2048, 512, 64))
    with h5py.File(path, "a") as file:
        file["t"].resize((5000,))
        file["t"][4900:] = rows[4900:]
    assert found_rows(path, "key >= 4898") == [*range(4898, 5000)]
    assert (answers[-1].used, answers[-1].looked_at) == (("key",), 102)


def test_an_index_that_is_out_of_date_or_broken_is_not_used(answers: list[queries.FoundRows], tmp_path: Path) -> None:
    rows = np.zeros(5000, [("key", "i4")])
    rows["key"] = np.arange(5000)
    path = make_table(tmp_path / "a.h5", rows, chunk=64)
    with plain_file(path, "a") as file:
        table = file.root.t
        table.cols.key.create_csindex()
    assert found_rows(path, "key == 7") == [7]
    assert answers[-1].used
    with plain_file(path, "a") as file:
        file.root.t.autoindex = False
        file.root.t.modify_column(0, 1, 1, column=[7], colname="key")
    assert found_rows(path, "key == 7") == [0, 7]
    assert not answers[-1].used
    for name, value in (
        ("slicesize", 0), ("chunksize", 3), ("blocksize", 0), ("reduction", 0), ("reduction", "x"), ("VERSION", b"1.0")
    ):  # fmt: skip
        with h5py.File(path, "a") as file:
            group = file["_i_t/key"]
            old = group.attrs[name]
            group.attrs["DIRTY"] = False
            group.attrs[name] = value
        assert found_rows(path, "key == 7") == [0, 7]
        assert not answers[-1].used, name
        with h5py.File(path, "a") as file:
            file["_i_t/key"].attrs[name] = old


def test_an_index_that_lies_adds_no_row_and_loses_none(answers: list[queries.FoundRows], tmp_path: Path) -> None:
    rows = np.zeros(5000, [("key", "i4")])
    rows["key"] = np.arange(5000)
    path = make_table(tmp_path / "a.h5", rows, chunk=64)
    with plain_file(path, "a") as file:
        file.root.t.cols.key.create_csindex()
    with h5py.File(path, "a") as file:
        for name in ("indices", "indicesLR"):
            node = file[f"_i_t/key/{name}"]
            node[...] = np.uint64(3)
    assert found_rows(path, "key == 7") == [7]
    assert not answers[-1].used
    with h5py.File(path, "a") as file:
        file["_i_t/key/indicesLR"][...] = np.uint64(2**63)
    assert found_rows(path, "key == 7") == [7]  # rows that are not there: the index is given up
    assert not answers[-1].used


def test_an_index_whose_entries_were_exchanged_or_whose_values_are_not_sorted_is_given_up(
    answers: list[queries.FoundRows], tmp_path: Path
) -> None:
    rows = np.zeros(5000, [("key", "i4")])
    rows["key"] = np.random.default_rng(0).permutation(5000)
    path = make_table(tmp_path / "a.h5", rows, chunk=64)
    with plain_file(path, "a") as file:
        file.root.t.cols.key.create_csindex(_blocksizes=(4096, 2048, 512, 64))
    pristine = path.read_bytes()
    expected = np.flatnonzero((rows["key"] > 100) & (rows["key"] <= 130)).tolist()
    where = "(key > 100) & (key <= 130)"
    assert found_rows(path, where) == expected
    assert answers[-1].used
    for name, change in (
        ("indices", lambda entries: entries.__setitem__((0, 101), entries[0, 102])),  # one twice
        ("indices", lambda entries: entries.__setitem__((0, 101), entries[3, 7])),  # another one
        ("sorted", lambda values: values.__setitem__((0, 110), 10**6)),
        ("bounds", lambda values: values.__setitem__((0, 1), 10**6)),
        ("sorted", lambda values: values.fill(7)),  # in order, and not what bounds and ranges say
        ("ranges", lambda values: values.__setitem__(slice(None), values[:, ::-1].copy())),
        ("ranges", lambda values: values.__setitem__((slice(None), 0), -1)),
        ("sortedLR", lambda values: values.__setitem__(slice(5000 % 512), values[: 5000 % 512] + 1000)),
    ):
        path.write_bytes(pristine)
        with h5py.File(path, "a") as file:
            node = file[f"_i_t/key/{name}"]
            stored = node[...]
            change(stored)
            node[...] = stored
        assert found_rows(path, where) == expected, name
        assert not answers[-1].used, name


@pytest.mark.parametrize("kind", ["ultralight", "light", "medium", "full"])
def test_buckets_that_fit_no_slice_lose_no_row(kind: str, answers: list[queries.FoundRows], tmp_path: Path) -> None:
    """PyTables rounds the place of a block and that of a slice in it, and does not find all rows by a light index."""
    rows = np.zeros(200_000, [("key", "i4")])
    rows["key"] = np.random.default_rng(0).permutation(200_000)
    path = make_table(tmp_path / "a.h5", rows, chunk=100)
    with plain_file(path, "a") as file:
        file.root.t.cols.key.create_index(kind=kind, optlevel=0, _blocksizes=(65536, 32768, 16384, 128))
    for number in range(0, 200_000, 8000):
        assert found_rows(path, f"key == {number}") == np.flatnonzero(rows["key"] == number).tolist()
    assert answers[-1].used
    assert verify(path).sound


def test_text_is_ordered_by_its_bytes_with_an_index_and_without(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.zeros(2000, [("name", "S3"), ("other", "S2"), ("n", "i4")])
    rows["name"] = [rng.integers(1, 256, 3, "u1").tobytes() for _ in rows]
    rows["other"] = [rng.integers(1, 256, 2, "u1").tobytes() for _ in rows]
    rows["name"][:5] = ["m", "é".encode()[:2], b"z", b"\xff", b""]
    rows["n"] = np.arange(2000)
    plain = make_table(tmp_path / "plain.h5", rows)
    with_index = make_table(tmp_path / "indexed.h5", rows)
    with plain_file(with_index, "a") as file:
        file.root.t.cols.name.create_csindex(_blocksizes=SMALL_BLOCKS)
    name, other = rows["name"], rows["other"]
    for where, expected in {
        "name > b'm'": name > b"m",
        "name <= b'\\xc3\\xa9'": name <= "é".encode(),
        "name == b'\\xff'": name == b"\xff",
        "name != b'm'": name != b"m",
        "b'\\x80' > name": name < b"\x80",
        "(name >= other) & (n < 1000) | (other < b'\\x80\\x80')":
            (name >= other) & (rows["n"] < 1000) | (other < b"\x80\x80"),
        "~(name < t)": ~(name < b"\xf0"),
        "where(name > t, n, 0) > 5": np.where(name > b"\xf0", rows["n"], 0) > 5,
    }.items():  # fmt: skip
        condvars = {"t": b"\xf0"} if "t)" in where or "t," in where else None
        for path in (plain, with_index):
            assert found_rows(path, where, condvars=condvars) == np.flatnonzero(expected).tolist(), where


TIMES = pd.date_range("2019-12-30", periods=100, freq="6h")


UNITS = [
    "days since 2020-01-01",
    "hours since 1900-01-01 12:00",
    "nanoseconds since 1970-01-01",
    "seconds since 2020-01-01 00:00:00 +01:00",
]


@pytest.mark.parametrize(
    ("units", "dtype"),
    [(units, dtype) for units in UNITS for dtype in ("i8", "f8") if (units[0], dtype) != ("n", "f8")],
)
def test_times_are_compared_by_the_units_of_their_column(units: str, dtype: str, tmp_path: Path) -> None:
    length, begin = units.split(" since ")
    times = TIMES[::4] if dtype == "i8" and length == "days" else TIMES
    numbers = (times - pd.Timestamp(begin.replace("2020-01-01 00:00:00 +01:00", "2019-12-31T23"))) / pd.Timedelta(
        1, length
    )
    path = tmp_path / "a.h5"
    ds = xr.Dataset({"time": ("t_row", numbers.to_numpy().astype(dtype), {"units": units})})
    to_pytables(ds, path, layout="table", group="/t", index=["time"])
    moments = ["2020-01-02", "2020-01-02T03:00", "1999-01-01", "2050-06-01"]
    moments += ["2020-01-02T00:00:00.000000001"] if dtype == "i8" else []  # floats are not as fine
    for symbol, compare in {"<": np.less, "<=": np.less_equal, "==": np.equal, ">=": np.greater_equal, ">": np.greater,
                            "!=": np.not_equal}.items():  # fmt: skip
        for moment in moments:
            expected = np.flatnonzero(compare(times.to_numpy().astype("M8[ns]"), np.datetime64(moment, "ns"))).tolist()
            forms = [np.datetime64(moment, "ns"), pd.Timestamp(moment), np.array(moment, "M8[ns]"), moment]
            forms += [
                pd.Timestamp(moment, tz="UTC").tz_convert("Asia/Tokyo"),
                xr.DataArray(np.datetime64(moment, "ns")),
            ]
            if "." not in moment:
                forms.append(datetime.datetime.fromisoformat(moment))
            if "T" not in moment:
                forms.append(datetime.date.fromisoformat(moment))
            for form in forms if symbol in ("<", "==") else forms[:1]:
                assert found_rows(path, f"time {symbol} t0", condvars={"t0": form}) == expected, (symbol, form)
            assert (
                found_rows(path, f"'{moment}' {symbol} time")
                == np.flatnonzero(compare(np.datetime64(moment, "ns"), times.to_numpy().astype("M8[ns]"))).tolist()
            )


def test_missing_times_meet_no_comparison(tmp_path: Path) -> None:
    times = np.array(["2020-01-01", "NaT", "2020-03-01"], "M8[ns]")
    for dtype in ("i8", "f8"):
        ds = xr.Dataset({"time": ("t_row", times)})
        ds["time"].encoding = {"units": "days since 2020-01-01", "dtype": dtype}
        to_pytables(ds, tmp_path / f"{dtype}.h5", layout="table", group="/t")
        for where, expected in (("time < t", [0]), ("time >= t", [2]), ("time != t", [0, 1, 2])):
            assert (
                found_rows(tmp_path / f"{dtype}.h5", where, condvars={"t": times[0] + np.timedelta64(1, "D")})
                == expected
            )


def seconds_of(moment: np.datetime64) -> Fraction:
    """Since 1970, exactly."""
    return moment.astype("i8").item() / Fraction({"s": 1, "us": 10**6, "ns": 10**9}[np.datetime_data(moment)[0]])


MOMENTS = [
    *np.array(["0001-01-01", "1901-12-13T20:45:52", "1969-12-31T12:00", "1970-01-01", "1970-01-01T00:30",
               "1970-01-01T00:00:01", "1970-01-02", "1970-01-06", "30000-01-01"], "M8[s]"),
    *np.array(["1969-12-31T23:59:59.999999", "9999-12-31T23:59:59.999999"], "M8[us]"),
    *np.array(["1677-09-21T00:12:43.145224193", "1677-09-21T00:12:43.145224194", "1970-01-01T00:00:00.000000001",
               "1970-01-03", "2262-04-11T23:47:16.854775807"], "M8[ns]"),
]  # fmt: skip


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize(
    ("dtype", "unit", "numbers", "fills"),
    [
        ("u1", "days", [0, 1, 5, 77, 255], [255]),
        ("i2", "hours", [-(2**15), -2, -1, 0, 1, 2**15 - 1], [-1, 1]),
        ("i4", "seconds", [-(2**31), -1, 0, 1, 86400, 2**31 - 1], [-1]),
        ("u4", "minutes", [0, 1440, 2**32 - 1], [1440]),
        ("i8", "nanoseconds", [-(2**63), 1 - 2**63, 2 - 2**63, -7, 0, 1, 10**9, 2**63 - 1], [-7]),
        ("i8", "microseconds", [-(2**63), 1 - 2**63, 10**6, 253_402_300_799_999_999, 2**63 - 1], []),
        ("f4", "days", [-1.5, 0.0, 0.1, 1.0, 5.0, 2**24, np.nan], []),
        ("f8", "nanoseconds", [-1e20, -1.0, 0.0, 1.5, 1e9, 2.0**63, 1e19, np.nan], [-1.0]),
    ],
)
def test_any_time_can_be_compared_with_a_column_that_cannot_hold_it(
    dtype: str, unit: str, numbers: list[float], fills: list[float], index: bool, tmp_path: Path
) -> None:
    """Finer than its unit, and beyond its range; missing times meet no comparison but `!=` and `not in`."""
    path = tmp_path / "a.h5"
    rows = np.zeros(40 * len(numbers), [("time", dtype), ("n", "i4")])
    rows["time"] = np.tile(np.array(numbers, dtype), 40)
    make_table(path, rows)
    with plain_file(path, "a") as file:
        file.root.t.attrs["time@units"] = f"{unit} since 1970-01-01"
        for key, fill in zip(("_FillValue", "missing_value"), fills, strict=False):
            file.root.t.attrs[f"time@{key}"] = np.array(fill, dtype)[()]
        if index:
            file.root.t.cols.time.create_csindex(_blocksizes=SMALL_BLOCKS)
    stored = [
        None if number != number or number in [*fills, -(2**63)] else Fraction(number)
        for number in np.array(numbers, dtype).tolist()
    ]
    constants = [seconds_of(moment) * 10**9 / (pd.Timedelta(1, unit).value) for moment in MOMENTS]
    if dtype[0] == "f":
        constants = [Fraction(float(constant)) for constant in constants]

    with Visit() as visit:
        file = visit.file(str(path))
        table = NodeReader(file, ReadOptions(), visit.file).dataset("/t")

        def check(where: str, t: object, met: list[bool]) -> None:
            planned = queries.plan_query(table, queries.RowQuery(where, {"t": t}), file)
            found = queries.find_rows(planned, opened)
            assert found.rows.tolist() == np.flatnonzero(np.tile(met, 40)).tolist(), (where, t)

        opened = OpenedFile(str(path), FileIdentity.of(str(path)))
        check_times(check, stored, constants)


def check_times(
    check: Callable[[str, object, list[bool]], None], stored: list[Fraction | None], constants: list[Fraction]
) -> None:
    for moment, constant in zip(MOMENTS, constants, strict=True):
        for symbol, compare in {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge,
                                ">": operator.gt}.items():  # fmt: skip
            check(f"time {symbol} t", moment, [value is not None and compare(value, constant) for value in stored])
        check("time != t", moment, [value != constant for value in stored])
        check("time in [t]", moment, [value == constant for value in stored])
        check("time not in [t]", moment, [value != constant for value in stored])
    check("time in t", MOMENTS, [value in constants for value in stored])
    check("time not in t", MOMENTS, [value not in constants for value in stored])


def test_times_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    ds = xr.Dataset({
        "n": ("t_row", np.arange(3)), "time": ("t_row", TIMES[:3]),
        "lunar": ("t_row", np.arange(3), {"units": "days since 2000-01-01", "calendar": "360_day"}),
        "odd": ("t_row", np.arange(3), {"units": "fortnights since 2000-01-01"}),
        "packed": ("t_row", np.arange(3), {"units": "days since 2000-01-01", "scale_factor": 0.5}),
    })  # fmt: skip
    path = tmp_path / "a.h5"
    to_pytables(ds, path, layout="table", group="/t")
    pd.DataFrame({"n": [1, 2]}).to_hdf(tmp_path / "p.h5", key="t", format="table", data_columns=True)
    now = pd.Timestamp("2020-01-01")
    for where, message in (
        ("n < t", "column 'n' holds no times, so a time cannot be compared with it. Columns of times: 'time'"),
        ("lunar < t", "column 'lunar' of times cannot be compared.*calendar '360_day'"),
        ("odd < t", "column 'odd' of times.*units 'fortnights since 2000-01-01'"),
        ("packed < t", "column 'packed' of times.*'scale_factor'"),
        ("time < 'yesterday or so'", "column 'time' of times cannot be compared with 'yesterday or so'"),
        ("time < t + 5", "column 'time' holds times in .*: compare it with a time alone"),
        ("(n > 1) & t", r"condvars\['t'\] is a time"),
    ):
        with pytest.raises(ValueError, match=message):
            open_where(path, where, condvars={"t": now})
    with pytest.raises(ValueError, match=r"column 'time' of times.*missing"):
        open_where(path, "time < t", condvars={"t": np.datetime64("NaT", "ns")})
    for moment in (now, np.datetime64("2020-01-01"), datetime.date(2020, 1, 1)):
        with pytest.raises(ValueError, match="column 'n' holds no times"):
            open_where(tmp_path / "p.h5", "n < t", condvars={"t": moment})
    assert found_rows(path, "lunar < 2") == [0, 1]


def test_columns_of_time_count_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    seconds = np.array([0, 1.25, -3.5, 2_000_000_000.75, 7.000001])
    with plain_file(path, "w") as file:
        table = file.create_table("/", "t", {"when": tables.Time64Col(), "day": tables.Time32Col()}, chunkshape=2)
        rows = np.zeros(5, table.dtype)
        rows["when"], rows["day"] = seconds, seconds
        table.append(rows)
        table.cols.when.create_index()
        table.cols.day.create_index()
    for condition in ("when > 1.2", "when == 7.000001", "when < 0", "day == 7", "day > 1"):
        assert found_rows(path, condition) == rows_where(path, condition).tolist() != []
    with open_where(path, "(when >= t) & (when < t + 86400)", condvars={"t": np.datetime64("2033-05-18")}) as ds:
        assert ds["when"].values.tolist() == [np.datetime64("2033-05-18T03:33:20.750000", "ns").astype(int)]
    moment = "1970-01-01T00:00:07.000001"
    for form in (np.datetime64(moment), pd.Timestamp(moment), datetime.datetime.fromisoformat(moment)):
        assert found_rows(path, "when == t", condvars={"t": form}) == [4]
        assert found_rows(path, "day < t", condvars={"t": form}) == [0, 1, 2, 4]
    assert found_rows(path, f"when >= '{moment}'") == [3, 4]


def test_enumerations_are_compared_as_integers(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as file:
        column = tables.EnumCol({"red": 4, "green": 9}, "red", "uint8")
        table = file.create_table("/", "t", {"color": column})
        table.append([(9,), (4,), (9,)])
    assert found_rows(path, "color == 9") == rows_where(path, "color == 9").tolist() == [0, 2]


@pytest.mark.parametrize("order", ["<", ">"])
def test_tables_of_other_writers_in_any_layout(order: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    rows = np.zeros(1000, np.dtype({"names": ["a", "b"], "formats": [order + "i4", order + "f8"], "offsets": [3, 11],
                                    "itemsize": 24}))  # fmt: skip
    rows["a"], rows["b"] = np.arange(1000), np.arange(1000) / 2
    with h5py.File(path, "w") as file:
        for name, layout in {"flat": {}, "chunked": {"chunks": (64,)}, "empty": {"chunks": (64,)}}.items():
            file.create_dataset(name, data=rows[:0] if name == "empty" else rows, maxshape=(None,) if layout else None,
                                **layout)  # fmt: skip
        small = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        small.set_layout(h5py.h5d.COMPACT)
        compact = h5py.h5d.create(
            file.id, b"compact", h5py.h5t.py_create(rows.dtype), h5py.h5s.create_simple((9,)), small
        )
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, rows[:9])
    for name, expected in {"flat": [4, 7], "chunked": [4, 7], "empty": [], "compact": [4, 7]}.items():
        with xr.open_dataset(path, engine="pytables", group=name, where="(a == 4) | (b == 3.5)") as ds:
            assert ds[f"{name}_row"].values.tolist() == ds["a"].values.tolist() == expected


# -- what it looks like ---------------------------------------------------------------------------------------


def test_the_result_is_lazy_and_keeps_row_numbers_as_coordinate(mixed: Path) -> None:
    rows = rows_of(500)
    expected = np.flatnonzero(rows["number"] > 10)
    with open_where(mixed, "number > 10", chunks={}) as ds:
        assert ds["energy"].chunks == ((len(expected),),)
        assert ds.indexes["t_row"].tolist() == expected.tolist()
        assert_same(ds["vector"].sel(t_row=expected[3]), rows["vector"][expected[3]])
        assert_same(ds["energy"][2:9:3], rows["energy"][expected][2:9:3])
        assert_same(ds["vector"][[4, 1], 1], rows["vector"][expected][[4, 1], 1])
    with open_where(mixed, "number > 10") as ds:
        assert "[" not in repr(ds["energy"].variable._data)[:1]
        assert type(ds["energy"].variable._data).__name__ != "ndarray"


def test_start_stop_and_step_without_a_condition(mixed: Path) -> None:
    with open_where(mixed, start=-10, stop=499, step=4) as ds:
        assert ds["t_row"].values.tolist() == [490, 494, 498]
        assert_same(ds["energy"], rows_of(500)["energy"][[490, 494, 498]])


def test_no_row_and_no_column_meet(mixed: Path) -> None:
    with open_where(mixed, "number > 1000") as ds:
        assert ds.sizes["t_row"] == 0
        assert ds.load()["vector"].shape == (0, 2)


def test_the_coordinate_gives_way_to_a_column_of_its_name(tmp_path: Path) -> None:
    path = make_table(tmp_path / "a.h5", np.array([(1, 5), (2, 6)], [("t_row", "i4"), ("v", "i4")]))
    with open_where(path, "v > 5") as ds:
        assert ds["t_row"].values.tolist() == [2]
        assert ds["t_row_number"].values.tolist() == [1]


def test_trees_and_groups_of_a_table(mixed: Path) -> None:
    tree = xr.open_datatree(mixed, engine="pytables", group="/t", where="number > 18")
    groups = xr.open_groups(mixed, engine="pytables", group="/t", where="number > 18")
    assert (tree["number"] == 19).all()
    assert list(groups) == ["/"]
    assert groups["/"].sizes == tree.sizes


def test_rows_found_are_decoded_once_for_all_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from xr_pytables.chunks import codecs, row_blocks

    path = make_table(tmp_path / "a.h5", rows_of(3000), chunk=16)
    monkeypatch.setattr(row_blocks, "CACHE_BYTES", 64 * 1024)
    monkeypatch.setattr(row_blocks, "_cache", row_blocks.RowCache(64 * 1024))
    decoded = []
    original = codecs.decode_chunk
    monkeypatch.setattr(
        codecs, "decode_chunk", lambda *args, **kwargs: (decoded.append(1), original(*args, **kwargs))[1]
    )
    with open_where(path, "number == 7") as ds:
        decoded.clear()
        loaded = ds.load()
    expected = rows_of(3000)["number"] == 7
    assert_same(loaded["vector"], rows_of(3000)["vector"][expected])
    assert 0 < len(decoded) <= 188  # chunks of the table


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("nothing > 1", "there is no column 'nothing'. Columns that a condition can use: 'number', 'small'"),
        ("huge > 1", "column 'huge' cannot be in a condition: numexpr has no unsigned 64-bit integers"),
        ("vector > 1", "column 'vector' cannot be in a condition: it has more than one value in each row"),
        ("inner.x > 1", "nested columns cannot be in a condition"),
        ("inner > 1", "there is no column 'inner'"),
        ("number + 1", "it gives int32, not true or false for each row"),
        ("number > b'a'", "numexpr cannot compute it"),
        ("0 < number < 5", r"write \(0 < a\) & \(a < 1\)"),
        ("number > 1 & flag", "& and . need brackets around comparisons"),
        ("flag and flag", "write & for 'and'"),
        ("not flag", "write ~ for 'not'"),
        ("number >", "cannot be parsed"),
        ("", "cannot be parsed"),
        ("1 > 0", "it names no column"),
        ("number > 2**64", "beyond 64 bits"),
        ("number > 99999999999999999999", "beyond 64 bits"),
        ("number > 9**9**9**9", "is too large"),
        ("number > 1 << 10**10", "is too large"),
        ("number > 1 % 0", "(modulo|division) by zero"),
        ("sum(number) > 1", "there is no function 'sum'"),
        ("open('x') == number", "there is no function 'open'"),
        ("sin(number, 1, 2) > 0", "numexpr cannot compute it"),
        ("number[0] > 1", "is nothing that a condition can have"),
        ("(lambda: 1)() > number", "is nothing that a condition can have"),
        ("number > None", "None is no constant"),
        ("number > ...", "Ellipsis is no constant"),
        ("[number for number in flag]", "is nothing that a condition can have"),
        ("(number := 3) > 1", "is nothing that a condition can have"),
        ("f'{number}' == name", "is nothing that a condition can have"),
        ("where(flag, number=1) > 1", "is nothing that a condition can have"),
        ("number if flag else number", "is nothing that a condition can have"),
        ("number @ number", "is nothing that a condition can have"),
        ("number in name", "is nothing that a condition can have"),
        ("flag is True", "is nothing that a condition can have"),
    ],
)
def test_a_condition_that_cannot_be_is_refused_naming_the_columns(condition: str, message: str, mixed: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_where(mixed, condition)
    assert f"{mixed}:/t: where=" in str(caught.value)
    assert "'number', 'small', 'byte', 'word', 'long', 'energy'" in str(caught.value)


def test_long_and_deep_conditions_are_refused(mixed: Path) -> None:
    with pytest.raises(ValueError, match="where has 20000 characters"):
        open_where(mixed, " " * 20_000)
    for deep in ("(" * 3000 + "flag" + ")" * 3000, "~" * 5000 + "flag", "number + " * 1000 + "number > 1"):
        with pytest.raises(ValueError, match=r"deep|parsed|compute"):
            open_where(mixed, deep)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"where": 5}, TypeError, "where must be text, not int"),
        ({"where": "number > n", "condvars": {"n": [1, 2]}}, ValueError, r"condvars\['n'\] must be a single value"),
        ({"where": "number > n", "condvars": {"n": object()}}, ValueError, r"condvars\['n'\] cannot be in a condition"),
        ({"where": "number > n", "condvars": {"n": np.uint64(3)}}, ValueError, "no unsigned 64-bit integers"),
        ({"where": "number > n", "condvars": [1]}, TypeError, "condvars must map names to values, not list"),
        ({"condvars": {"n": 1}}, ValueError, "there is no where"),
        ({"step": 0}, ValueError, "step must be positive, not 0"),
        ({"step": -1}, ValueError, "step must be positive, not -1"),
        ({"start": 1.5}, TypeError, "start must be an integer or None"),
        ({"stop": True}, TypeError, "stop must be an integer or None"),
    ],
)
def test_wrong_arguments_are_refused(kwargs: dict[str, Any], error: type[Exception], message: str, mixed: Path) -> None:
    with pytest.raises(error, match=message):
        open_where(mixed, **kwargs)


def test_only_tables_can_be_queried(tmp_path: Path) -> None:
    path = make_table(tmp_path / "a.h5", rows_of(3))
    with plain_file(path, "a") as file:
        file.create_array("/", "array", [1])
        file.create_group("/", "g")
    for opener in (xr.open_dataset, xr.open_datatree, xr.open_groups):
        with pytest.raises(ValueError, match=r":/ is not a table, so where, .* its tables are 't'"):
            opener(path, engine="pytables", where="number > 1")
        with pytest.raises(ValueError, match=":/array is not a table"):
            opener(path, engine="pytables", group="/array", start=1)
        with pytest.raises(ValueError, match=r":/g is not a table, .* it has no tables either"):
            opener(path, engine="pytables", group="/g", step=2)
    pd.DataFrame({"a": [1, 2]}).to_hdf(tmp_path / "p.h5", key="above/df", format="table")
    for group, message in (("/", "its groups are 'above'"), ("/above", "its groups are 'df'")):
        with pytest.raises(ValueError, match=rf"p\.h5:{group} is not a table, so where, .* cannot apply; {message}$"):
            xr.open_dataset(tmp_path / "p.h5", engine="pytables", group=group, where="a > 1")
    with plain_file(path, "a") as file:
        file.create_group("/", "h")
    with pytest.raises(ValueError, match=r"its tables are 't'; its groups are 'g', 'h'$"):
        xr.open_dataset(path, engine="pytables", where="number > 1")


def test_nothing_of_a_condition_is_run_as_python(tmp_path: Path) -> None:
    """numexpr evaluates text; none of these may reach it, whatever it would make of them."""
    path = make_table(tmp_path / "a.h5", rows_of(3))
    code = """
        import builtins, os, sys
        import xarray as xr
        ran = []
        for attack in [
            "__import__('os').mkdir(target)", "().__class__.__base__.__subclasses__()", "number.__class__",
            "[c for c in ().__class__.__mro__]", "exec('import os')", "eval('1')", "getattr(number, 'x')",
            "b''.__class__", "name == b'' % __import__('os').mkdir('x')",
            "(number > 0) & __import__('os').mkdir('x')", "number\\n__import__('os')", "number;__import__('os')",
            "where.__globals__", "sin.__globals__", "f'{__import__(chr(111)+chr(115))}' == name", "breakpoint()",
            "number > (yield)", "print(number)", "numpy.sin(number)", "number if exit() else flag",
        ]:
            try:
                xr.open_dataset(sys.argv[1], engine="pytables", group="/t", where=attack)
            except ValueError as error:
                assert "where=" in str(error), error
            else:
                ran.append(attack)
        print(ran, os.listdir(os.path.dirname(sys.argv[1])))
    """
    assert run_python(code, path) == "[] ['a.h5']\n"


def test_a_query_unpickles_nothing_of_the_file(tmp_path: Path) -> None:
    path = make_table(tmp_path / "a.h5", rows_of(300))
    with plain_file(path, "a") as file:
        file.root.t.cols.number.create_csindex()
    attack = b"cos\nmkdir\n(S'" + str(tmp_path / "pwned").encode() + b"'\ntR."
    with h5py.File(path, "a") as file:
        for node in (file["/"], file["t"], file["_i_t"], file["_i_t/number"], file["_i_t/number/sorted"]):
            for name in ("TITLE", "VERSION2", "FILTERS", "DIRTY2"):
                node.attrs[name] = np.bytes_(attack)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found_rows(path, "number == 7") == np.flatnonzero(rows_of(300)["number"] == 7).tolist()
    assert not (tmp_path / "pwned").exists()


def test_a_file_that_changes_after_it_was_opened(tmp_path: Path) -> None:
    path = make_table(tmp_path / "a.h5", rows_of(300))
    with open_where(path, "number > 5") as ds:
        expected = ds["t_row"].values
        with plain_file(path, "a") as file:
            file.root.t.append(rows_of(300, seed=9))
        assert_same(ds["energy"], rows_of(300)["energy"][expected])


def test_a_query_after_a_fork_waits_for_no_thread_of_the_parent(tmp_path: Path) -> None:
    path = make_table(tmp_path / "a.h5", rows_of(300))
    code = """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads is what is tested
        import xarray as xr
        from xr_pytables.where import conditions
        xr.open_dataset(sys.argv[1], engine="pytables", group="/t", where="number > 5")
        conditions._lock.acquire()
        child = os.fork()
        if not child:
            assert xr.open_dataset(sys.argv[1], engine="pytables", group="/t", where="number > 5").sizes["t_row"]
            os._exit(0)
        print(os.waitpid(child, 0)[1])
    """
    assert run_python(code, path) == "0\n"


# -- conditions as values -------------------------------------------------------------------------------------


def test_what_an_index_can_answer_of_a_condition() -> None:
    dtypes = {"a": np.dtype("f8"), "b": np.dtype("i4"), "ok": np.dtype(bool), "s": np.dtype("f4")}
    a, b = Comparison("a", ">", 1), Comparison("b", "==", 2)

    def indexable(text: str, **condvars: object) -> object:
        return compile_condition(text, dtypes, condvars).indexable

    assert indexable("a > 1") == indexable("1 < a") == indexable("a > n", n=1) == a
    assert indexable("(a > 1) & (b == 2)") == AllOf((a, b))
    assert indexable("(a > 1) | (b == 2)") == AnyOf((a, b))
    assert indexable("(a > 1) & (a + b > 3)") == AllOf((a, None))
    assert indexable("(a > 1) | (a + b > 3)") is None
    assert indexable("ok") == Comparison("ok", "==", True)
    assert indexable("~ok") == Comparison("ok", "==", False)
    assert indexable("~(a > 1)") is None  # NaN is not <= 1
    assert indexable("a != 1") is None
    assert indexable("a > n", n=np.nan) is None
    assert indexable("a > b") is None
    assert indexable("s >= 16777217") is None  # numexpr rounds the number to float32
    assert indexable("s >= 16777216") == Comparison("s", ">=", 16777216)


def test_columns_with_the_names_of_functions_can_be_in_a_condition() -> None:
    names = {"sin": np.dtype("f8"), "where": np.dtype("i4"), "column0": np.dtype("f8"), "constant0": np.dtype("S2")}
    condition = compile_condition(
        "(sin(sin) > 0) & (where == 1) & (column0 < x) & (constant0 == b'ab')", names, {"x": 2}
    )
    columns = {"sin": np.array([1.0, -1.0]), "where": np.array([1, 1]), "column0": np.array([1.0, 1.0]),
               "constant0": np.array([b"ab", b"ab"])}  # fmt: skip
    assert condition.evaluate([columns[name] for name in condition.columns]).tolist() == [True, False]


def test_condvars_win_over_columns_as_in_pytables(mixed: Path) -> None:
    assert found_rows(mixed, "number > small", condvars={"small": 15}) == rows_where(mixed, "number > 15").tolist()
    assert conditions.FUNCTIONS
