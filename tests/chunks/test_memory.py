"""Memory of arrays that nobody uses any more is used again, and never while somebody does."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xr_pytables
from xr_pytables.chunks import memory, team

FLOAT = np.dtype("f4")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_kept", memory._Kept())


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_an_array_is_like_any_other():
    for dtype in ("f4", ">f8", "S7", "bool", [("a", "i4"), ("b", "f8", (2,))]):
        array = memory.empty((3, 1000, 100), np.dtype(dtype))
        assert array.shape == (3, 1000, 100)
        assert array.dtype == np.dtype(dtype)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
        array[...] = np.zeros((), dtype)
        assert not array.view("u1").any()
    assert memory.empty((), FLOAT).shape == ()
    assert memory.empty((0, 5), FLOAT).shape == (0, 5)


def test_memory_comes_back_with_the_last_view():
    array = memory.empty((1000, 1000), FLOAT)
    where, row = address(array), array[3]
    row[...] = 7
    del array
    other = memory.empty((1000, 1000), FLOAT)
    assert address(other) != where
    other[...] = 1
    assert (row == 7).all()
    del row
    # a block at the edge of an array is a little smaller
    again = memory.empty((1000, 990), FLOAT)
    assert address(again) == where
    assert address(memory.empty((1000, 500), FLOAT)) != where


def test_small_arrays_and_objects_are_left_to_numpy():
    for shape, dtype in (((10,), "f4"), ((100_000,), "O"), ((memory.SMALLEST - 1,), "u1")):
        array = memory.empty(shape, np.dtype(dtype))
        assert array.flags.owndata
        del array
    assert not memory._kept.blocks


@pytest.mark.parametrize("size", [memory.SMALLEST, 5_000_000, memory.LARGEST, memory.LARGEST + 1])
def test_large_arrays_begin_with_a_page(size: int) -> None:
    for _ in range(2):  # fresh memory, and (up to the largest that is kept) used memory
        array = memory.empty((size,), np.dtype("u1"))
        assert address(array) % 4096 == 0
        assert array.shape == (size,)
        array[-1] = 1
        del array
    assert bool(memory._kept.blocks) == (size <= memory.LARGEST)


def test_no_more_than_the_limit_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "LIMIT", 3 << 20)
    arrays = [memory.empty((1 << 20,), np.dtype("u1")) for _ in range(5)]
    last = address(arrays[-1])
    while arrays:
        arrays.pop(0)
    assert memory._kept.size() == 3 << 20
    assert address(memory.empty((1 << 20,), np.dtype("u1"))) == last


def test_threads_never_share_a_block():
    failures = []

    def work(number: int) -> None:
        for turn in range(300):
            array = memory.empty((1 << 18,), np.dtype("u1"))
            array[:] = value = (number * 31 + turn) % 251
            if not (array == value).all():
                failures.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert 1 << 18 <= memory._kept.size() <= 8 << 18


def test_a_cycle_of_garbage_brings_its_memory_back():
    array = memory.empty((1 << 20,), np.dtype("u1"))
    cycle: list[object] = [array]
    cycle.append(cycle)
    where = address(array)
    del array, cycle
    gc.collect()
    assert address(memory.empty((1 << 20,), np.dtype("u1"))) == where


def test_blocks_may_come_back_in_the_middle_of_anything(monkeypatch: pytest.MonkeyPatch):
    """As the collector of garbage brings them, between any two steps."""
    monkeypatch.setattr(memory, "LIMIT", 2 << 20)
    arrays = [memory.empty((1 << 20,), np.dtype("u1")) for _ in range(6)]

    class Blocks(dict):
        def get(self, *arguments):
            if arrays:
                arrays.pop()
            return super().get(*arguments)

    memory._kept.blocks = Blocks()
    first = memory.empty((1 << 18,), np.dtype("u1"))
    del first
    while arrays:
        arrays.pop()
    assert memory._kept.size() <= 2 << 20
    again = [memory.empty((1 << 20,), np.dtype("u1")) for _ in range(4)]
    assert len({address(array) for array in again}) == 4
    assert all(array.base is not None for array in again)


def test_what_is_kept_goes_when_memory_is_short(monkeypatch: pytest.MonkeyPatch):
    kept = memory.empty((1 << 20,), np.dtype("u1"))
    del kept
    empty, failed = np.empty, []

    def short(shape, dtype):
        if memory._kept.blocks:
            failed.append(shape)
            raise MemoryError
        return empty(shape, dtype)

    monkeypatch.setattr(memory.np, "empty", short)
    assert memory.empty((1 << 21,), np.dtype("u1")).size == 1 << 21
    assert failed == [((1 << 21) + 4096,)]  # room to begin with a page


@pytest.mark.parametrize("filters", [{}, {"complib": "blosc:lz4"}, {"complib": "blosc2:lz4"}, {"contiguous": True}])
def test_a_value_that_is_kept_stays_as_it_was_read(tmp_path: Path, filters: dict[str, object]):
    values = np.random.default_rng(0).integers(0, 100, (8, 400, 400)).astype("f4")
    dataset = xr.Dataset({"a": (("t", "y", "x"), values)})
    layout = filters if "contiguous" in filters else {**filters, "chunksizes": (1, 400, 400)}
    xr_pytables.to_pytables(dataset, tmp_path / "a.h5", encoding={"a": layout})
    with xr.open_dataset(tmp_path / "a.h5", engine="pytables", chunks={"t": 1}) as opened:
        kept = [opened.a[i].values for i in range(8)]
        assert float(opened.a.mean()) == pytest.approx(values.mean(), rel=1e-5)
        for i, map_ in enumerate(kept):
            np.testing.assert_array_equal(map_, values[i])


@pytest.mark.parametrize(("said", "expected"), [("", 7), ("  ", 7), ("0", 0), ("3", 3 << 20), (" 12 ", 12 << 20)])
def test_the_environment_says_how_much_is_kept(said: str, expected: int) -> None:
    assert memory.kept_bytes(7, {memory.VARIABLE: said}) == expected
    assert memory.kept_bytes(7, {}) == 7


@pytest.mark.parametrize("said", ["lots", "-1", "1.5", "64MB"])
def test_a_limit_that_is_no_number_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"XR_PYTABLES_KEPT_MEMORY must be a whole number of MiB, not '"):
        memory.kept_bytes(7, {memory.VARIABLE: said})


def test_with_a_limit_of_zero_nothing_is_kept(tmp_path: Path) -> None:
    xr_pytables.to_pytables(xr.Dataset({"a": (("y", "x"), np.ones((4, 1 << 18)))}), tmp_path / "a.h5")
    rows = xr.Dataset({"b": ("row", np.arange(1 << 18)), "c": ("row", np.ones(1 << 18))})
    xr_pytables.to_pytables(rows, tmp_path / "t.h5", layout="table", group="/t")
    code = """
import sys
import xarray as xr
from xr_pytables.chunks import memory, row_blocks
with xr.open_dataset(sys.argv[1], engine="pytables") as ds:
    assert ds.a.values.sum() == 1 << 20
with xr.open_dataset(sys.argv[2], engine="pytables", group="/t") as ds:
    assert ds.b.values[-1] == (1 << 18) - 1
    assert ds.c.values.sum() == 1 << 18
    print(memory.LIMIT, memory._kept.size(), row_blocks.CACHE_BYTES)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.h5"), str(tmp_path / "t.h5")]
    environment = {**os.environ, "XR_PYTABLES_KEPT_MEMORY": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "0"]


def test_the_limit_is_what_the_guide_says():
    assert min(team.usable_cpus() << 26, 1 << 29) == memory.LIMIT


def test_what_does_not_fit_is_named_as_it_was_asked_for() -> None:
    with pytest.raises(MemoryError, match=r"shape \(2147483648, 268435456\) and data type float64"):
        memory.empty((2**31, 2**28), np.dtype("f8"))
