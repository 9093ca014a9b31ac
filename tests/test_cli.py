"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tables
import xarray as xr
from click.testing import CliRunner, Result

from xr_pytables import __version__, cli
from xr_pytables.writing.writer import to_pytables


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


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


def test_demo_shows_the_tree_and_finds_all_equal() -> None:
    result = run("demo")
    assert result.exit_code == 0, result.output
    assert "Group: /experiment1" in result.output
    assert "chunksize=(250, 500)" in result.output
    assert result.output.count("  same ") == 5
    assert "DIFFERS" not in result.output


def test_demo_exits_with_1_when_the_copy_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def writes_something_else(tree: xr.DataTree, path: str) -> None:
        to_pytables(tree.isel(x=slice(1), missing_dims="ignore"), path)

    monkeypatch.setattr(cli, "to_pytables", writes_something_else)
    result = run("demo")
    assert result.exit_code == 1
    assert "DIFFERS  the copy" in result.output
    assert result.output.count("  same ") == 4


def test_demo_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("demo").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_info_lists_arrays_as_they_are_stored(mixed: str) -> None:
    with tables.open_file(mixed) as file:
        stored = file.root.experiment1.grows.size_on_disk
    result = run("info", mixed)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "/  [year, title]",
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
        "group": "/", "kind": "group", "attributes": ["year", "title"], "arrays": [], "skipped": [], "problems": [],
        "stored_bytes": None, "ratio": None,
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
        "attributes": [],
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
    ("arguments", "message"),
    [
        (["missing.h5"], "No such file or directory"),
        (["mixed.h5", "--group", "/none"], "mixed.h5: there is no '/none'; '/' has 'experiment1'"),
        (["text.h5"], "text.h5: not an HDF5 file"),
        (["."], "this is a folder, not an HDF5 file"),
    ],
)
def test_info_says_what_is_wrong_in_one_line(
    mixed: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    folder = Path(mixed).parent
    (folder / "text.h5").write_text("not HDF5, and long enough to be read")
    monkeypatch.chdir(folder)
    result = run("info", *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1


def test_version() -> None:
    assert run("--version").output == f"xr-pytables, version {__version__}\n"


def test_module_runs_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]) -> None:
    monkeypatch.setattr("sys.argv", ["xr_pytables", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("xr_pytables", run_name="__main__")
    assert ended.value.code == 0
    assert "python -m xr_pytables" in capsys.readouterr().out
