"""`convert`: its options, and its exit status."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tables
import xarray as xr

import xr_pytables

from .helpers_commands import run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`x.npy` and `table.h5`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(24.0).reshape(4, 6))
    with tables.open_file("table.h5", "w") as file:
        file.create_table("/", "t", np.array([(1, 2.0), (2, 3.0)], [("n", "i4"), ("v", "f8")]))
    return tmp_path


@pytest.mark.usefixtures("here")
def test_options_reach_the_file() -> None:
    result = run(
        "convert", "x.npy", "x.h5:/g", "--name", "sst", "--dims", "y,x", "--select", "y=1:3", "--select", "x=::2",
        "--chunks", "y=1", "--complib", "blosc:lz4", "--complevel", 3, "--threads", 1,
    )  # fmt: skip
    assert (result.exit_code, result.output) == (0, "")
    array = xr_pytables.tree("x.h5", group="/g").groups[0].arrays[0]
    assert (array.name, array.dims, array.shape, array.chunks) == ("sst", ("y", "x"), (2, 3), (1, 3))
    assert (array.filters["complib"], array.filters["complevel"]) == ("blosc:lz4", 3)
    values = xr.open_dataset("x.h5", engine="pytables", group="/g")["sst"].values
    np.testing.assert_array_equal(values, np.arange(24.0).reshape(4, 6)[1:3, ::2])


@pytest.mark.usefixtures("here")
def test_raw_elements_and_formats_that_names_do_not_tell() -> None:
    np.arange(12, dtype=">i2").tofile("raw")
    options = ["--dtype", ">i2", "--shape", "-1,3", "--offset", 6, "--order", "F"]
    assert run("convert", "raw", "out", "--from", "raw", "--to", "npy", *options).exit_code == 0
    np.testing.assert_array_equal(np.load("out"), np.arange(3, 12).reshape(3, 3, order="F"))


@pytest.mark.usefixtures("here")
def test_rows_of_a_table() -> None:
    assert run("convert", "table.h5:/t", "v.npy", "--where", "n > 1", "--vars", "v").exit_code == 0
    assert np.load("v.npy").tolist() == [3.0]


@pytest.mark.usefixtures("here")
def test_a_target_that_is_there_needs_force() -> None:
    assert run("convert", "x.npy", "y.h5").exit_code == 0
    refused = run("convert", "x.npy", "y.h5")
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert run("convert", "-f", "x.npy", "y.h5").exit_code == 0
    assert run("convert", "x.npy", "y.h5:/g").exit_code == 0
    refused = run("convert", "x.npy", "y.h5:/g")
    assert refused.exit_code == 2
    assert "y.h5:/g/x: it is there already" in refused.output
    assert run("convert", "-f", "x.npy", "y.h5:/g").exit_code == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npy", "y.h5"], "No such file"),
        (["x.npy", "y.xyz"], "told by the ending"),
        (["x.npy", "y.h5", "--select", "y=a"], "'a' is no integer"),
        (["x.npy", "y.h5", "--select", "y"], "'y' is not like t=0:100"),
        (["x.npy", "y.h5", "--select", "=1:2"], "is not like t=0:100"),
        (["x.npy", "y.h5", "--select", "y=0", "--select", "y=1"], "there are two parts of dimension 'y'"),
        (["x.npy", "y.h5", "--vars", ""], "(--vars) names no array"),
        (["table.h5", "y.h5", "--vars", ","], "(--vars) names no array"),
        (["x.npy", "y.h5", "--chunks", "a,b"], "'a' is no integer"),
        (["x.npy", "y.h5", "--complib", "nonsense"], "complib 'nonsense' is unknown"),
        (["x.npy", "y.h5", "--complevel", "11"], "--complevel"),
        (["x.npy", "y.h5", "--to", "nonsense"], "--to"),
        (["x.npy"], "Missing argument 'TARGET'"),
        (["x.npy:/g", "y.h5"], "there are no nodes in such a file"),
    ],
)
def test_wrong_use_is_status_2_and_writes_nothing(arguments: list[str], message: str) -> None:
    result = run("convert", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not Path("y.h5").exists()


@pytest.mark.usefixtures("here")
def test_a_damaged_source_is_status_1() -> None:
    Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:-8])
    result = run("convert", "x.npy", "y.h5")
    assert result.exit_code == 1
    assert "needs 320 bytes, the file has 312" in result.output
