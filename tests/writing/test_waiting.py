"""Writers that wait for each other: nothing is torn, nothing is lost, and whoever gave up has changed nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import dask.array
import h5py
import numpy as np
import pytest
import xarray as xr

from xr_pytables import to_pytables
from xr_pytables.errors import FileBusyError, FileChangedError, FormatError
from xr_pytables.writing import execution, waiting
from xr_pytables.writing.waiting import Patience

FOREVER = 600.0  # far longer than anything here takes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def read(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables") as dataset:
        return dataset.load()


def rows(start: int, stop: int) -> xr.Dataset:
    values = np.arange(start, stop)
    return xr.Dataset({"v": (("t", "x"), np.repeat(values[:, None], 50, axis=1) * 1.0)}, coords={"t": values})


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_processes_that_write_regions_at_once_wait_for_each_other(path, shares, large):
    """In a copy, and in place; in chunks of their own, and in chunks that they share."""
    dataset = xr.Dataset({"v": (("t", "x"), np.zeros((12, 50)))})
    if large:
        dataset["big"] = "z", np.random.default_rng(0).random(700_000)
    to_pytables(dataset, path, encoding={"v": {"chunksizes": (4 if shares else 3, 50), "zlib": True}})
    code = f"""
        import sys, numpy as np, xarray as xr
        from xr_pytables import to_pytables
        number = int(sys.argv[1])
        input()
        for row in range(3 * number, 3 * number + 3):
            part = xr.Dataset({{"v": (("t", "x"), np.full((1, 50), row + 1.0))}})
            to_pytables(part, {str(path)!r}, region={{"t": slice(row, row + 1)}}, wait={FOREVER}, fsync=False)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    running = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for n in range(4)
    ]
    for each in running:
        each.stdin.write("go\n")
        each.stdin.flush()
    errors = [each.communicate()[1] for each in running]
    assert errors == [""] * 4
    np.testing.assert_array_equal(read(path).v, np.repeat(np.arange(1.0, 13)[:, None], 50, axis=1))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_program_that_has_the_file_open_is_waited_for(path, monkeypatch):
    to_pytables(rows(0, 4), path, unlimited_dims=["t"])
    theirs, pauses = h5py.File(path, "r+"), []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            theirs.close()

    monkeypatch.setattr(waiting.time, "sleep", sleep)
    to_pytables(rows(4, 6), path, append_dim="t", wait=FOREVER)
    assert len(pauses) >= 5
    assert all(0 < pause < 1 for pause in pauses)
    xr.testing.assert_equal(read(path), rows(0, 6))


def test_whoever_has_waited_long_enough_gets_the_error(path, monkeypatch):
    to_pytables(rows(0, 4), path)
    before = path.read_bytes()
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(waiting.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    with h5py.File(path, "r+"), pytest.raises(FileBusyError):
        to_pytables(rows(4, 6), path, mode="a", wait=7)
    assert now == [pytest.approx(7)]
    assert path.read_bytes() == before


@pytest.mark.parametrize("unlimited", [True, False])
@pytest.mark.parametrize("lazy", [True, False])
def test_what_others_append_meanwhile_is_kept(path, monkeypatch, unlimited, lazy):
    """Data are computed once, unless what was in the file is a part of them."""
    to_pytables(rows(0, 4), path, unlimited_dims=["t"] if unlimited else [])
    real, others, computed = execution.change, [rows(4, 6), rows(6, 7)], []

    def meanwhile(*args: object, **words: object) -> None:
        monkeypatch.setattr(execution, "change", real)
        to_pytables(others.pop(0), path, append_dim="t")
        if others:
            monkeypatch.setattr(execution, "change", meanwhile)
        real(*args, **words)

    monkeypatch.setattr(execution, "change", meanwhile)
    dataset = rows(7, 9)
    if lazy:
        data = dask.array.from_array(dataset.v.values, chunks=(1, 50))
        counted = data.map_blocks(lambda block: computed.append(1) or block, dtype="f8", meta=np.empty((0, 0)))
        dataset["v"] = ("t", "x"), counted
    to_pytables(dataset, path, append_dim="t", wait=FOREVER)
    xr.testing.assert_equal(read(path), rows(0, 9))
    assert len(computed) == (2 if unlimited else 4) * lazy
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("step", ["prepare", "commit"])
@pytest.mark.parametrize("how", [{"append_dim": "t"}, {"append_dim": "t", "layout": "table"}, {"mode": "a"}])
def test_a_file_that_others_make_meanwhile_is_changed_with_wait_alone(path, monkeypatch, lazy, step, how):
    """Of several that append to a file that is not there yet, any may be the first."""
    ours, theirs = rows(4, 6), rows(0, 4)
    if how.get("layout") == "table":
        ours, theirs = ours.isel(x=0), theirs.isel(x=0)
    if "mode" in how:
        ours, theirs = ours.rename(v="w"), theirs.isel(t=[0, 1]).assign_coords(t=ours.t)
    expected = xr.merge([theirs, ours]) if "mode" in how else xr.concat([theirs, ours], "t")
    if lazy:
        ours = ours.chunk(t=1)
    group = "/rows" if how.get("layout") == "table" else "/"
    real = getattr(execution, step)

    def meanwhile(*args: object, **words: object) -> None:
        monkeypatch.setattr(execution, step, real)
        to_pytables(theirs, path, group=group, **how)
        real(*args, **words)

    monkeypatch.setattr(execution, step, meanwhile)
    with pytest.raises(FileExistsError, match="somebody made this file meanwhile; it was left alone"):
        to_pytables(ours, path, group=group, **how)
    path.unlink()
    monkeypatch.setattr(execution, step, meanwhile)
    to_pytables(ours, path, group=group, **how, wait=FOREVER)
    with xr.open_dataset(path, engine="pytables", group=group) as found:
        for name in expected.data_vars:
            np.testing.assert_array_equal(found[name], expected[name])
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    monkeypatch.setattr(execution, step, meanwhile)
    path.unlink()
    with pytest.raises(FileExistsError):
        to_pytables(ours, path, "w-", wait=FOREVER)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_without_waiting_what_others_do_meanwhile_is_an_error(path, monkeypatch):
    to_pytables(rows(0, 4), path, unlimited_dims=["t"])
    real = execution.change

    def meanwhile(*args: object, **words: object) -> None:
        monkeypatch.setattr(execution, "change", real)
        to_pytables(rows(4, 6), path, append_dim="t")
        real(*args, **words)

    monkeypatch.setattr(execution, "change", meanwhile)
    with pytest.raises(FileChangedError, match="by somebody else since this write was planned"):
        to_pytables(rows(6, 7), path, append_dim="t")
    xr.testing.assert_equal(read(path), rows(0, 6))


def test_other_errors_are_not_tried_again():
    tries = []

    def fails() -> None:
        tries.append(1)
        raise PermissionError

    with pytest.raises(PermissionError):
        Patience.of(FOREVER).go_through(fails)
    assert len(tries) == 1


def test_times_to_wait_are_checked(path):
    for wait in (-1, "1", None, True, float("nan")):
        with pytest.raises(ValueError, match="wait must be a number of seconds, 0 or more, not"):
            to_pytables(rows(0, 1), path, wait=wait)
    with pytest.raises(ValueError, match="wait= is about a write that happens now, not with compute=False"):
        to_pytables(rows(0, 1), path, wait=1, compute=False)
    assert not path.exists()


@pytest.mark.parametrize("step", ["look", "save"])
def test_a_file_that_looks_damaged_because_others_change_it_was_changed(path, monkeypatch, step):
    """Between two looks at it another process is in the middle of a change in place."""
    dataset = xr.Dataset({"v": ("t", np.zeros(12))}, {"big": ("z", np.random.default_rng(0).random(700_000))})
    to_pytables(dataset, path, encoding={"v": {"chunksizes": (3,)}})
    sound = path.read_bytes()
    part = xr.Dataset({"v": ("t", np.ones(3))})

    def torn(*args, **how):
        path.write_bytes(sound[:-3])  # cut off, as in the middle of a change
        return real(*args, **how)

    where = "xr_pytables.writing.existing.NodeReader" if step == "look" else "xr_pytables.writing.changes._what_to_save"
    module, name = where.rpartition(".")[::2]
    real = getattr(importlib.import_module(module), name)
    if step == "look":

        def look(file, *args):
            torn(file, *args)
            raise FormatError("as it looks now")

        monkeypatch.setattr(where, look)
    else:
        monkeypatch.setattr(where, torn)
    with pytest.raises(FileChangedError):
        to_pytables(part, path, region={"t": slice(0, 3)})
    monkeypatch.undo()
    path.write_bytes(sound)
    to_pytables(part, path, region={"t": slice(0, 3)})
    assert xr.load_dataset(path, engine="pytables")["v"].values.tolist() == [1.0] * 3 + [0.0] * 9
