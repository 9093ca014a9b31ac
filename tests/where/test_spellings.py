"""Conditions as people write them: lists, times, words of pandas and SQL; on tables and HDFStore alike."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr

from xr_pytables import to_pytables
from xr_pytables.where import queries
from xr_pytables.where.conditions import AnyOf, Comparison, compile_condition
from xr_pytables.where.spellings import instead

TIMES = pd.date_range("2020-01-01", periods=40, freq="h")
FRAME = pd.DataFrame(
    {
        "number": np.arange(40) % 7,
        "energy": np.where(np.arange(40) % 5, np.arange(40) / 4, np.nan),
        "name": [["a", "b", "cd", "ü"][number % 4] for number in range(40)],
        "when": TIMES,
    },
    index=pd.Index(np.arange(40) + 100, name="label"),
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows as a table of PyTables and as an object of HDFStore."""
    folder = tmp_path_factory.mktemp("spelled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FRAME.to_hdf(folder / "frame.h5", key="t", format="table", data_columns=True)
    dataset = xr.Dataset(
        {
            "number": ("row", FRAME["number"].to_numpy()),
            "energy": ("row", FRAME["energy"].to_numpy()),
            "name": ("row", FRAME["name"].to_numpy(str)),
            "when": ("row", TIMES.to_numpy(), {}, {"units": "minutes since 2020-01-01", "dtype": "i8"}),
        }
    )
    to_pytables(dataset, folder / "table.h5", group="/t", layout="table", index=["number", "name"])
    return {"table": folder / "table.h5", "frame": folder / "frame.h5"}


def found(path: Path, where: str, **condvars: object) -> list[int]:
    """The numbers of the rows that are found."""
    options: dict[str, Any] = {"condvars": condvars} if condvars else {}
    with xr.open_dataset(path, engine="pytables", group="/t", where=where, **options) as dataset:
        times = pd.DatetimeIndex(dataset["when"].values)
        return [int(number) for number in (times - TIMES[0]) / pd.Timedelta("1h")]


def rows(met: Any) -> list[int]:
    return np.flatnonzero(np.asarray(met)).tolist()


@pytest.mark.parametrize("kind", ["table", "frame"])
@pytest.mark.parametrize(
    ("where", "met"),
    [
        ("number in [1, 2.0, 2.5, 99, -3]", FRAME["number"].isin([1, 2])),
        ("number not in (1, 2)", ~FRAME["number"].isin([1, 2])),
        ("energy in [0.25, 2, 1e9]", FRAME["energy"].isin([0.25, 2])),
        ("energy not in [0.25]", ~FRAME["energy"].isin([0.25])),
        ("name in ['a', 'ü', 'zzzzzz']", FRAME["name"].isin(["a", "ü"])),
        ("~(name in ['a']) & (number in {1, 3})", ~FRAME["name"].isin(["a"]) & FRAME["number"].isin([1, 3])),
        ("name not in ['a', 'b']", ~FRAME["name"].isin(["a", "b"])),
        ("number in []", FRAME["number"].isin([])),
        ("when in ['2020-01-01 03:00', '2020-01-01T03:00:30', '2020-01-02']", FRAME["when"].isin(TIMES[[3, 24]])),
        ("when not in ['2020-01-01 03:00']", ~FRAME["when"].isin(TIMES[[3]])),
        ("when > '2020-01-02 05'", FRAME["when"] > "2020-01-02 05"),
        ("when >= Timestamp('2020-01-02 05:00')", FRAME["when"] >= "2020-01-02 05:00"),
        ("(when < pd.Timestamp('2020-01-01T02')) | (number == 6)", (TIMES < "2020-01-01T02") | (FRAME["number"] == 6)),
        ("when in [Timestamp('2020-01-01 07:00')]", FRAME["when"].isin(TIMES[[7]])),
    ],
)
def test_tables_and_frames_find_the_rows_of_pandas(paths: dict[str, Path], kind: str, where: str, met: Any) -> None:
    assert found(paths[kind], where) == rows(met)


@pytest.mark.parametrize("kind", ["table", "frame"])
@pytest.mark.parametrize(
    ("where", "wanted", "met"),
    [
        ("number in wanted", [1, 5], FRAME["number"].isin([1, 5])),
        ("number in wanted", np.arange(3, dtype="u8"), FRAME["number"].isin([0, 1, 2])),
        ("number not in wanted", {0, 1, 2}, ~FRAME["number"].isin([0, 1, 2])),
        ("name in wanted", np.array(["b", "cd"]), FRAME["name"].isin(["b", "cd"])),
        ("when in wanted", TIMES[5:8], FRAME["when"].isin(TIMES[5:8])),
        ("when in wanted", TIMES[5:8].to_numpy(), FRAME["when"].isin(TIMES[5:8])),
        ("when in wanted", list(TIMES[5:8]), FRAME["when"].isin(TIMES[5:8])),
        ("when in [wanted, '2020-01-01']", TIMES[4], FRAME["when"].isin(TIMES[[0, 4]])),
        ("number in wanted", xr.DataArray([1, 5], dims="q"), FRAME["number"].isin([1, 5])),
        ("number == wanted", xr.DataArray(5), FRAME["number"] == 5),
        ("number in [1, wanted]", xr.DataArray(5), FRAME["number"].isin([1, 5])),
        ("name in wanted", xr.DataArray(["b", "cd"], dims="q"), FRAME["name"].isin(["b", "cd"])),
        ("name == wanted", xr.DataArray("b"), FRAME["name"] == "b"),
        ("when in wanted", xr.DataArray(TIMES[5:8], dims="q"), FRAME["when"].isin(TIMES[5:8])),
        ("when in wanted", list(xr.DataArray(TIMES[5:8], dims="q")), FRAME["when"].isin(TIMES[5:8])),
        ("when not in [wanted]", xr.DataArray(TIMES.to_numpy()[4]), ~FRAME["when"].isin(TIMES[[4]])),
        ("when >= wanted", xr.DataArray(TIMES.to_numpy()[4]), FRAME["when"] >= TIMES[4]),
        ("wanted > when", np.array(TIMES.to_numpy()[4]), FRAME["when"] < TIMES[4]),
        ("number in range_", range(3), FRAME["number"].isin([0, 1, 2])),
    ],
)
def test_lists_in_condvars(paths: dict[str, Path], kind: str, where: str, wanted: object, met: Any) -> None:
    assert found(paths[kind], where, **{"range_" if "range_" in where else "wanted": wanted}) == rows(met)


def test_a_long_list_is_looked_up_at_once(paths: dict[str, Path]) -> None:
    wanted = [*range(5000, 25000), 3]
    assert found(paths["table"], "number in wanted", wanted=wanted) == rows(FRAME["number"] == 3)


def test_missing_text_of_a_frame_is_in_no_list(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["a", None, "b"], "n": [0, 1, 2]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame.to_hdf(tmp_path / "f.h5", key="t", format="table", data_columns=True)

    def numbers(where: str) -> list[int]:
        return xr.open_dataset(tmp_path / "f.h5", engine="pytables", group="/t", where=where)["n"].values.tolist()

    assert numbers("name in ['a', 'nan']") == [0]
    assert numbers("name not in ['a']") == [1, 2]


def test_a_list_of_numbers_is_exact(tmp_path: Path) -> None:
    values = np.zeros(4, [("long", "i8"), ("single", "f4"), ("double", "f8"), ("wave", "c16")])
    values["long"] = [2**53, 2**53 + 1, -(2**63), 5]
    values["single"] = [0.1, 0.5, 2**24, 3]
    values["double"] = values["wave"] = [2**53, 2**53 + 2, np.inf, 5]
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_table("/", "t", values)

    def found_rows(where: str) -> list[int]:
        return xr.open_dataset(tmp_path / "a.h5", engine="pytables", group="/t", where=where)["t_row"].values.tolist()

    assert found_rows("long in [9007199254740993, -9223372036854775808, 2e300]") == [1, 2]
    assert found_rows("single in [0.1, 0.5, 16777217]") == [1]
    for name in ("double", "wave"):
        assert found_rows(f"{name} in [9007199254740993, {10**400}, 5]") == [3]
        assert found_rows(f"{name} not in [9007199254740993, 9007199254740994]") == [0, 2, 3]
        assert found_rows(f"{name} in [9007199254740992.0]") == [0]


def test_an_index_answers_for_each_value(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    condition = compile_condition("a in [2, 1, 2]", {"a": np.dtype("i4")})
    assert condition.indexable == AnyOf((Comparison("a", "==", 1), Comparison("a", "==", 2)))
    assert compile_condition("a not in [1]", {"a": np.dtype("i4")}).indexable is None
    assert compile_condition("a in b", {"a": np.dtype("i4")}, {"b": range(1000)}).indexable is None
    answers = []
    find = queries.find_rows
    monkeypatch.setattr(
        "xr_pytables.where.queries.find_rows", lambda *a, **k: answers.append(find(*a, **k)) or answers[-1]
    )
    assert found(paths["table"], "number in [1, 2]") == rows(FRAME["number"].isin([1, 2]))
    assert answers[0].used == ("number",)


@pytest.mark.parametrize("kind", ["table", "frame"])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "number > 1 and energy = 2",
            "'(number > 1) & (energy == 2)'",
        ),
        ("number > 1 or not energy > 2", "| ~(energy > 2)'"),
        ("number = 1", "'number == 1'"),
        ("number = 1 AND name = 'a AND b'", "(number == 1) & (name == 'a AND b')"),
        ("0 < number < 5", "'(0 < number) & (number < 5)'"),
        ("number > 1 & energy < 2", "'(number > 1) & (energy < 2)'"),
        ("number = 1 | number = 2", "'(number == 1) | (number == 2)'"),
        ("when >= '2020-01-01' & when < '2020-01-02'", "\"(when >= '2020-01-01') & (when < '2020-01-02')\""),
        ("number in ['a']", "number"),
        ("name in [1]", "name"),
        ("number == [1, 2]", "a list stands behind 'in' or 'not in'"),
        ("number + 1 in [1, 2]", "only a column can stand before 'in', not 'number + 1'"),
        ("when > Timestamp(5)", "write the time as one text, Timestamp('2014-09-01 12:00')"),
        ("when > Timestamp('soon')", "\"Timestamp('soon')\" is no time"),
        ("when in ['soon']", "column 'when' of times cannot be compared with 'soon'"),
        ("number in [Timestamp('2020-01-01')]", "number"),
        ("number == Timestamp('2020-01-01')", "number"),
    ],
)
def test_what_cannot_be_gets_a_way_out(paths: dict[str, Path], kind: str, where: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        found(paths[kind], where)
    assert str(paths[kind]) in str(caught.value)


@pytest.mark.parametrize("where", ["(number > 1) & energy == 2", "number == 2 | (energy > 3)"])
def test_what_means_something_else_in_pandas_is_refused_for_its_objects(paths: dict[str, Path], where: str) -> None:
    in_brackets = where.replace("energy == 2", "(energy == 2)").replace("number == 2", "(number == 2)")
    with pytest.raises(ValueError, match=re.escape(f"comparisons in brackets: {in_brackets!r}")):
        found(paths["frame"], where)
    by_pandas = pd.read_hdf(paths["frame"], "t", where=where)
    assert found(paths["frame"], in_brackets) == (by_pandas.index - 100).tolist()


def test_what_binds_more_than_a_comparison_needs_brackets_in_conditions_on_pandas_objects(tmp_path: Path) -> None:
    """pandas compares first, and then fails; Python, and so PyTables, would compare `ok & b`."""
    frame = pd.DataFrame({"ok": [True, True, False], "b": [1, 2, 2], "when": TIMES[:3]})
    frame.to_hdf(tmp_path / "a.h5", key="t", format="table", data_columns=True)
    for where, meant in (("ok & b == 2", "ok & (b == 2)"), ("b == 2 | ok", "(b == 2) | ok")):
        with pytest.raises(ValueError, match=re.escape(f"where={where!r}: ")) as caught:
            found(tmp_path / "a.h5", where)
        assert f"comparisons in brackets: {meant!r}" in str(caught.value)
    with pytest.raises((ValueError, TypeError)):
        pd.read_hdf(tmp_path / "a.h5", "t", where="ok & b == 2")
    assert found(tmp_path / "a.h5", "ok & (b == 2)") == [1]
    assert found(tmp_path / "a.h5", "((b & 1) == 1) & (when < Timestamp('2020-01-01 01:00'))") == [0]


def test_a_list_alone_is_no_condition(paths: dict[str, Path]) -> None:
    with pytest.raises(
        ValueError, match=r"condvars\['w'\] must be a single value, .* stand behind 'in': 'column in w'"
    ):
        found(paths["table"], "number == w", w=[1, 2])
    with pytest.raises(ValueError, match=r"condvars\['w'\] has times, which can only be compared with a column of t"):
        found(paths["table"], "(number > 1) & w", w=list(TIMES[:2]))


@pytest.mark.parametrize(
    ("where", "meant"),
    [
        ("a == 1", None),
        ("(a == '= and or') & ~b", None),
        ("a = 1", "a == 1"),
        ("not (a = 1 or b)", "~((a == 1) | b)"),
        ("a > 1 & b < 2", "(a > 1) & (b < 2)"),
        ("a = 'x & y' & b > 3 | c == 1", "(a == 'x & y') & (b > 3) | (c == 1)"),
        ("0 < (a & 3) < 2", "(0 < a & 3) & (a & 3 < 2)"),
        ("a & 1 == 1", None),
        ("(a > 1) & b == 2", "(a > 1) & (b == 2)"),
        ("2 != b | (a > 1)", "(2 != b) | (a > 1)"),
        ("(1 < a < 3) & b == 2", "(1 < a) & (a < 3) & (b == 2)"),
        ("((a > 1) & b) == 2", None),
        ("(a > 1) == (b | (a < 0))", None),
        ("f(a and b) > 1", "f(a & b) > 1"),
        ("a >", None),
        ("'a", None),
        ("(" * 3000 + "a", None),
    ],
)
def test_instead(where: str, meant: str | None) -> None:
    assert instead(where) == meant


def test_instead_in_conditions_of_pandas() -> None:
    assert instead("a & b == 1", of_pandas=True) == "a & (b == 1)"
    assert instead("(a & b) == 1", of_pandas=True) is None
