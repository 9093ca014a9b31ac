"""`info`: groups, arrays, values of attributes, headers and previews."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr

from xr_pytables.tools.preview import parsed, preview_lines
from xr_pytables.value_text import cdl, element, one_line, plain
from xr_pytables.writing.writer import to_pytables

from .helpers_commands import run


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    path = tmp_path / "mixed.h5"
    with tables.open_file(path, "w", title="obs") as file:
        file.root._v_attrs.year = 2014
        group = file.create_group("/", "experiment1")
        filters = tables.Filters(5, "blosc:zstd", fletcher32=True)
        grows = file.create_earray(group, "grows", tables.Float32Atom(), (0, 4), chunkshape=(8, 4), filters=filters)
        grows.append(np.ones((3, 4), "f4"))
        file.create_array(group, "plain", np.arange(6).reshape(2, 3))
        file.create_table(group, "events", np.zeros(3, [("energy", "f8")]))
    return str(path)


def test_info_lists_arrays_as_they_are_stored(mixed: str) -> None:
    with tables.open_file(mixed) as file:
        stored = file.root.experiment1.grows.size_on_disk
    result = run("info", mixed)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "/",
        "  @year = 2014",
        '  @title = "obs"',
        "/experiment1",
        "  grows (dim_3: 3, dim_4: 4)  EArray, float32, chunks (8, 4), complib blosc:zstd, complevel 5, shuffle, "
        f"fletcher32, ratio {48 / stored:.1f}, grows along dim_3",
        "  plain (dim_2: 2, dim_3: 3)  Array, int64, contiguous",
        "/experiment1/events  (table)",
        "  energy (events_row: 3)  column, float64, chunks (8192,), grows along events_row",
    ]


def test_info_as_json(mixed: str) -> None:
    root, group, table = json.loads(run("info", mixed, "--json").output)
    assert root == {
        "group": "/", "kind": "group", "attributes": {"year": 2014, "title": "obs"}, "arrays": [], "skipped": [],
        "problems": [], "stored_bytes": None, "ratio": None,
    }  # fmt: skip
    with tables.open_file(mixed) as file:
        stored = file.root.experiment1.grows.size_on_disk
    assert group["arrays"][0] == {
        "name": "grows",
        "kind": "EArray",
        "dims": ["dim_3", "dim_4"],
        "shape": [3, 4],
        "dtype": "float32",
        "chunks": [8, 4],
        "filters": {"complib": "blosc:zstd", "complevel": 5, "shuffle": True, "fletcher32": True},
        "unlimited_dims": ["dim_3"],
        "attributes": {},
        "stored_bytes": stored,
        "lacks": "",
        "ratio": 48 / stored,
    }
    assert (table["group"], table["kind"], table["arrays"][0]["name"]) == ("/experiment1/events", "table", "energy")
    assert table["ratio"] > 0


@pytest.mark.parametrize("group", ["/experiment1/plain", "experiment1/plain"])
def test_info_of_one_array(mixed: str, group: str) -> None:
    described = json.loads(run("info", mixed, "--group", group, "--json").output)
    assert [array["name"] for array in described[0]["arrays"]] == ["plain"]


def test_info_shows_what_was_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "attack.h5"
    with tables.open_file(path, "w") as file:
        file.root._v_attrs._g_setattr(file.root, "evil", np.bytes_(b"cos\nsystem\n(S'echo'\ntR."))
    result = run("info", str(path))
    assert result.exit_code == 0
    assert "attribute 'evil' is shown undecoded: the pickle names" in result.output


def test_info_prints_no_control_characters_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "colours.h5"
    with tables.open_file(path, "w") as file, pytest.warns(tables.NaturalNameWarning):
        file.create_array("/", "\x1b[31mred", [1])
    text = run("info", str(path)).output
    assert "\\x1b[31mred (dim_1: 1)" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["missing.h5"], "No such file or directory", 2),
        (["mixed.h5", "--group", "/none"], "mixed.h5: there is no '/none'; '/' has 'experiment1'", 2),
        (["text.h5"], "text.h5: not an HDF5 file", 1),
        (["."], "this is a folder, not an HDF5 file", 2),
    ],
)
def test_info_says_what_is_wrong_in_one_line(
    mixed: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, status: int
) -> None:
    folder = Path(mixed).parent
    (folder / "text.h5").write_text("not HDF5, and long enough to be read")
    monkeypatch.chdir(folder)
    result = run("info", *arguments)
    assert result.exit_code == status
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1


# -- values of attributes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told", "json_value", "as_cdl"),
    [
        ([[1], [1, 2]], "[[1], [1, 2]]", [[1], [1, 2]], "1LL, 1LL, 2LL"),
        ((1, [2, "x"]), '[1, [2, "x"]]', [1, [2, "x"]], '1LL, 2LL, "x"'),
        (10**30, str(10**30), 10**30, str(10**30)),
        (np.array(3), "3", 3, "3LL"),
        ("K", '"K"', "K", '"K"'),
        ('a "b"\n\x1b[31m', r'"a \"b\"\n\u001b[31m"', 'a "b"\n\x1b[31m', r'"a \"b\"\n\u001b[31m"'),
        ("x" * 200, '"' + "x" * 120 + '"... (200 characters)', "x" * 200, '"' + "x" * 200 + '"'),
        (np.int16(3), "3", 3, "3s"),
        (3, "3", 3, "3LL"),
        (np.float32(0.1), "0.1", float(np.float32(0.1)), "0.1f"),
        (np.float64(2), "2.0", 2.0, "2.0"),
        (np.float32("nan"), "nan", "nan", "NaNf"),
        (np.array([1, 2], "i4"), "[1, 2]", [1, 2], "1, 2"),
        (np.arange(20), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...] (20 values)", list(range(20)), None),
        (np.array([[1, 2], [3, 4]], "u1"), "[[1, 2], [3, 4]]", [[1, 2], [3, 4]], "1ub, 2ub, 3ub, 4ub"),
        (np.bool_(True), "True", True, "true"),
        (b"\xff\x00", r"b'\xff\x00'", "\\xff\x00", r"b'\xff\x00'"),
        (np.datetime64("2014-09-01T00:00", "ns"), "2014-09-01", "2014-09-01", "2014-09-01"),
        (["a", "b"], '["a", "b"]', ["a", "b"], '"a", "b"'),
        ({"a": np.int8(1)}, "{'a': np.int8(1)}", {"a": 1}, "{'a': np.int8(1)}"),
        (None, "None", None, "None"),
    ],
)
def test_values_as_text_json_and_cdl(value: object, told: str, json_value: object, as_cdl: str | None) -> None:
    assert one_line(value) == told
    assert plain(value) == json_value
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == json_value
    if as_cdl is not None:
        assert cdl(value) == as_cdl


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("2014-09-01T12:30:00", "2014-09-01T12:30:00"),
        ("2014-09-01T12:30:00.25", "2014-09-01T12:30:00.25"),
        ("NaT", "NaT"),
        ("1677-09-21T00:12:43.145224193", "1677-09-21T00:12:43.145224193"),
        ("2262-04-11T23:47:16.854775807", "2262-04-11T23:47:16.854775807"),
    ],
)
def test_times_have_no_more_parts_than_they_need(value: str, told: str) -> None:
    assert element(np.datetime64(value, "ns")) == told


def test_differences_of_times_are_told_in_a_unit() -> None:
    assert element(np.timedelta64(36, "h").astype("m8[ns]")) == "36 hours"
    assert element(np.timedelta64(2, "D").astype("m8[ns]")) == "2 days"
    assert element(np.timedelta64(-(2**63) + 1, "ns")) == "-9223372036854775807 nanoseconds"


# -- headers -----------------------------------------------------------------------------------------------


@pytest.fixture
def seas(tmp_path: Path) -> Path:
    """A file that netCDF-4 can read."""
    path = tmp_path / "seas.h5"
    sst = xr.Variable(
        ("time", "x"), np.arange(4000, dtype="f4").reshape(4, 1000), {"units": "K", "valid_range": [0, 9]}
    )
    data = xr.Dataset({"sst": sst}, {"time": pd.date_range("2014-09-01", periods=4, freq="12h")}, {"title": 'a "sea"'})
    deep = xr.Dataset({"depth": ("x", np.arange(1000, dtype="i2"))}, attrs={"who": "me"})
    tree = xr.DataTree.from_dict({"/": data, "/deep": deep})
    to_pytables(tree, path, unlimited_dims={"/": ["time"]}, encoding={"/": {"sst": {"chunksizes": (2, 500)}}})
    return path


def test_header_in_the_words_of_cdl(seas: Path) -> None:
    result = run("info", "--header", seas)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "netcdf seas {",
        "dimensions:",
        "    time = UNLIMITED ; // (4 currently)",
        "    x = 1000 ;",
        "variables:",
        "    float sst(time, x) ;",
        '        sst:units = "K" ;',
        "        sst:valid_range = 0LL, 9LL ;",
        "        sst:_FillValue = NaNf ;",
        '        sst:_Storage = "chunked" ;',
        "        sst:_ChunkSizes = 2, 500 ;",
        '        sst:_Fletcher32 = "true" ;',
        "    int64 time(time) ;",
        '        time:units = "hours since 2014-09-01 00:00:00" ;',
        '        time:calendar = "proleptic_gregorian" ;',
        '        time:_Storage = "chunked" ;',
        "        time:_ChunkSizes = 1024 ;",
        '        time:_Fletcher32 = "true" ;',
        "",
        "// global attributes:",
        r'        :title = "a \"sea\"" ;',
        "",
        "group: deep {",
        "  variables:",
        "      short depth(x) ;",
        '          depth:_Storage = "chunked" ;',
        "          depth:_ChunkSizes = 1000 ;",
        '          depth:_Fletcher32 = "true" ;',
        "",
        "  // group attributes:",
        '          :who = "me" ;',
        "  } // group deep",
        "}",
    ]


@pytest.mark.skipif(shutil.which("ncgen") is None, reason="ncgen is not installed")
def test_ncgen_makes_a_file_of_the_header(seas: Path, tmp_path: Path) -> None:
    (tmp_path / "seas.cdl").write_text(run("info", "--header", seas).output)
    subprocess.run(["ncgen", "-4", "-o", "made.nc", "seas.cdl"], cwd=tmp_path, check=True)
    with netCDF4.Dataset(tmp_path / "made.nc") as made:
        assert made["sst"].dimensions == ("time", "x")


# -- previews ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "lines"),
    [
        ("time", ["time (time: 4) =", "  2014-09-01, 2014-09-01T12:00:00, 2014-09-02, 2014-09-02T12:00:00"]),
        ("sst[0, :3]", ["sst[0, :3] (x: 3) =", "  0.0, 1.0, 2.0"]),
        ("sst[::-1, 998:]", [
            "sst[::-1, 998:] (time: 4, x: 2) =", "  3998.0, 3999.0", "  2998.0, 2999.0", "  1998.0, 1999.0",
            "  998.0, 999.0",
        ]),
        ("sst[1, -1]", ["sst[1, -1] =", "  1999.0"]),
        ("sst[..., 5]", ["sst[..., 5] (time: 4) =", "  5.0, 1005.0, 2005.0, 3005.0"]),
        ("deep/depth[:0]", ["depth[:0] (x: 0) ="]),
        ("sst", [
            "sst (time: 4, x: 1000) =",
            "  0.0, 1.0, 2.0, ..., 997.0, 998.0, 999.0",
            "  1000.0, 1001.0, 1002.0, ..., 1997.0, 1998.0, 1999.0",
            "  2000.0, 2001.0, 2002.0, ..., 2997.0, 2998.0, 2999.0",
            "  3000.0, 3001.0, 3002.0, ..., 3997.0, 3998.0, 3999.0",
        ]),
    ],
)  # fmt: skip
def test_a_preview_shows_decoded_values(seas: Path, variable: str, lines: list[str]) -> None:
    result = run("info", seas, "-v", variable)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == lines


def test_a_preview_of_a_column_in_a_node(mixed: str) -> None:
    assert (
        run("info", f"{mixed}:/experiment1/events", "-v", "energy").output
        == "energy (events_row: 3) =\n  0.0, 0.0, 0.0\n"
    )


def test_a_preview_of_an_array_with_brackets_in_its_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g/flux [Jy]"], file["g/x[0]"], file["g/x"] = [1, 2], [3], [4, 5]
    for variable, line in (("flux [Jy]", "1, 2"), ("flux [Jy][1]", "2"), ("x[0]", "3"), ("x[1]", "5")):
        assert run("info", tmp_path / "a.h5", "-v", f"g/{variable}").output.splitlines()[1:] == [f"  {line}"]


def test_a_preview_without_a_slice_reads_edges_alone(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    with tables.open_file(path, "w") as file:
        array = file.create_carray("/", "a", tables.Int32Atom(), (10_000, 10_000), chunkshape=(100, 100))
        array[0, 0], array[-1, -1] = 7, 9
    lines = list(preview_lines(str(path), "/", "a"))
    assert len(lines) == 8
    assert lines[1] == "  7, 0, 0, ..., 0, 0, 0"
    assert lines[4] == "  ..."
    assert lines[7] == "  0, 0, 0, ..., 0, 0, 9"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("none", "there is no array 'none'; there are 'sst', 'time'"),
        ("sst[9]", "'sst' has shape (4, 1000): [9]"),
        ("sst[a]", "[a]: 'a' is no integer"),
        ("sst[::0]", "is no integer and no slice"),
        ("sst[0, 0, 0]", "'sst' has 2 dimensions, and [0, 0, 0] has 3 indices"),
        ("sst[..., ...]", "more than one ellipsis"),
    ],
)
def test_a_preview_that_cannot_be_is_wrong_use(seas: Path, variable: str, message: str) -> None:
    result = run("info", seas, "-v", variable)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


def test_slices_as_numpy_has_them() -> None:
    assert parsed("1, -2, :, 3:, :4, ::2, 1:9:3", 7) == [
        1, -2, slice(None), slice(3, None), slice(4), slice(None, None, 2), slice(1, 9, 3),
    ]  # fmt: skip
    assert parsed("0, ..., 1", 4) == [0, slice(None), slice(None), 1]
    assert parsed("", 2) == []


# -- more than one -----------------------------------------------------------------------------------------


def test_several_files_are_told_apart(mixed: str, seas: Path) -> None:
    result = run("info", f"{mixed}:/experiment1/plain", seas)
    first, second = result.output.split("\n\n")
    assert first.splitlines() == [
        f"{mixed}:/experiment1/plain:",
        "/",
        "  plain (dim_2: 2, dim_3: 3)  Array, int64, contiguous",
    ]
    assert second.startswith(f"{seas}:\n/\n")
    assert list(json.loads(run("info", mixed, seas, "--json").output)) == [mixed, str(seas)]


def test_one_way_to_print_at_a_time(mixed: str) -> None:
    result = run("info", mixed, "--json", "--header")
    assert result.exit_code == 2
    assert "only one of --json, --header and -v can be given" in result.output


def test_nodes_that_are_not_shown_are_a_line_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "odd.h5"
    with tables.open_file(path, "w") as file:
        file.create_soft_link("/", "lost", "/nowhere")
        file.create_array("/", "there", [1])
    result = run("info", path, "-v", "there")
    assert result.exit_code == 0
    assert result.stdout == "there (dim_1: 1) =\n  1\n"
    assert result.stderr.startswith(f"Warning: {path}: 1 node(s) are not shown: /lost")
    assert result.stderr.count("\n") == 1
