"""`repack`: its options, what it prints, and its exit status."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tables

import xr_pytables

from ..tools.test_verifying import chunk_places, flipped
from .helpers_commands import run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`file.h5` with a hole, in the current folder."""
    monkeypatch.chdir(tmp_path)
    with tables.open_file("file.h5", "w") as file:
        file.create_array("/", "gone", np.arange(10_000))
        file.create_carray("/", "a", obj=np.arange(1000), chunkshape=(100,), filters=tables.Filters(fletcher32=True))
        file.remove_node("/gone")
    return tmp_path


def test_a_file_takes_its_own_place_without_holes(here: Path) -> None:
    before = (here / "file.h5").stat().st_size
    result = run("repack", "file.h5")
    after = (here / "file.h5").stat().st_size
    assert (result.exit_code, result.output) == (
        0, f"file.h5: {before} bytes before, {after} after ({after / before:.0%})\n"
    )  # fmt: skip
    assert after < before - 70_000


@pytest.mark.usefixtures("here")
def test_options_reach_the_file() -> None:
    result = run("repack", "file.h5", "new.h5", "--chunks", 250, "--complib", "blosc:lz4", "--complevel", 2,
                 "--no-fletcher32", "--vars", "/a", "--threads", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    array = xr_pytables.tree("new.h5").groups[0].arrays[0]
    assert array.chunks == (250,)
    assert array.filters == {"complib": "blosc:lz4", "complevel": 2, "shuffle": True}
    assert run("repack", "file.h5", "new.h5").exit_code == 2
    assert run("repack", "-f", "file.h5", "new.h5").exit_code == 0


@pytest.mark.usefixtures("here")
def test_damage_is_status_1() -> None:
    flipped(Path("file.h5"), chunk_places(Path("file.h5"), "a")[(0,)][0])
    result = run("repack", "file.h5")
    assert result.exit_code == 1
    assert "damaged, so it is left alone" in result.output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.h5"], "No such file"),
        (["file.h5", "--chunks", "a"], "integers are needed"),
        (["file.h5", "--complib", "nonsense"], "complib 'nonsense' is unknown"),
        (["file.h5", "--vars", "/none"], "there is no array '/none'"),
        (["file.h5", "--vars", ""], "arrays (--vars) names no array"),
        (["file.h5", "none/new.h5"], "there is no folder"),
        ([], "Missing argument 'FILE'"),
    ],
)
def test_wrong_use_is_status_2(arguments: list[str], message: str) -> None:
    result = run("repack", *arguments)
    assert result.exit_code == 2
    assert message in result.output
