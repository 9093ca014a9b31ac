"""`bench` reads a file by every engine that is installed, and says how long that took."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tables

from xr_pytables.tools import timing

from .helpers_commands import run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as made:
        made.create_carray("/", "large", obj=np.zeros((100, 1000)), chunkshape=(10, 1000), filters=tables.Filters(1))
        made.create_array("/g", "small", np.arange(10), createparents=True)
        made.create_array("/", "text", [b"a", b"b"])
    return path


def test_every_engine_reads_the_same_arrays(file: Path) -> None:
    result = run("bench", file, "--rounds", 1, "--json")
    assert result.exit_code == 0, result.output
    found = {each["engine"]: each for each in json.loads(result.output)}
    assert set(found) == {"pytables", "h5netcdf", "netcdf4"}
    for each in found.values():
        assert (each["problem"], each["nbytes"]) == ("", 800_000 + 80)
        assert min(each["open"], each["block"], each["all"]) > 0


def test_a_table_of_times(file: Path) -> None:
    lines = run("bench", f"{file}:/g", "--rounds", 1).output.splitlines()
    assert lines[0] == f"{file}:/g: 1 of its arrays, 0.0 MiB"
    assert [line.split()[0] for line in lines[1:]] == ["engine", "pytables", "h5netcdf", "netcdf4"]
    assert all(line.count(" ms ") == 3 for line in lines[2:])


def test_the_largest_arrays_are_read_until_there_are_enough(file: Path) -> None:
    assert timing.largest_arrays(str(file), "/", 1) == [("/", "large")]
    assert timing.largest_arrays(str(file), "/", 1 << 20) == [("/", "large"), ("/g", "small")]


def test_an_engine_that_fails_costs_no_other(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ENGINES", {"pytables": "xr_pytables", "nonsense": "json", "absent": "no_such_package"})
    lines = run("bench", file, "--rounds", 1).output.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["pytables", "nonsense"]
    assert "unrecognized engine" in lines[3]


def test_a_file_without_numbers_is_wrong_use(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "empty.h5", "w"):
        pass
    result = run("bench", tmp_path / "empty.h5")
    assert result.exit_code == 2
    assert "there are no arrays of numbers" in result.output
    assert run("bench", tmp_path / "none.h5").exit_code == 2
