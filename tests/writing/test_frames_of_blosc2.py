"""Arrays with Blosc2 and no checksum: PyTables reads slices of them past HDF5, and must find each chunk, encoded."""

from __future__ import annotations

import warnings
from pathlib import Path

import dask.array
import h5py
import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables import repack, to_pytables
from xr_pytables.chunks.filters import BLOSC2, FLETCHER32, Filter, FilterPipeline

from ..helpers_reading import run_python

HALF = np.concatenate([np.zeros((4, 6)), np.full((4, 6), 7.0)])
BLOSC2_ALONE = {"complib": "blosc2:lz4", "fletcher32": False}


def rows_of_pytables(path: Path, name: str = "v") -> np.ndarray:
    """The array, row by row: PyTables reads such slices past HDF5. In a process of its own, as it may crash."""
    code = """
        import sys, warnings, numpy, tables
        warnings.simplefilter("ignore")
        with tables.open_file(sys.argv[1]) as file:
            leaf = file.get_node("/" + sys.argv[2])
            rows = numpy.stack([leaf[i] for i in range(len(leaf))])
            assert (rows == leaf[:]).all()
        numpy.save(sys.argv[3], rows)
    """
    run_python(code, path, name, path.with_suffix(".npy"))
    return np.load(path.with_suffix(".npy"))


def stored(path: Path, name: str = "v") -> list[tuple[tuple[int, ...], int]]:
    """First element and filter mask of each chunk that there is."""
    with h5py.File(path) as file:
        chunks = file[name].id
        found = [chunks.get_chunk_info(number) for number in range(chunks.get_num_chunks())]
    return [(one.chunk_offset, one.filter_mask) for one in found]


@pytest.mark.parametrize("lazy", [False, True])
def test_no_chunk_is_left_out(tmp_path: Path, lazy: bool) -> None:
    data = dask.array.from_array(HALF, chunks=(2, 6)) if lazy else HALF
    encoding = {"v": {"chunksizes": (2, 3), "_FillValue": None, **BLOSC2_ALONE}}
    dataset = xr.Dataset({"v": (("y", "x"), data)})
    to_pytables(dataset, tmp_path / "a.h5", encoding=encoding, write_empty_chunks=False)
    assert len(stored(tmp_path / "a.h5")) == 8
    np.testing.assert_array_equal(rows_of_pytables(tmp_path / "a.h5"), HALF)
    encoding["v"]["fletcher32"] = True
    to_pytables(dataset, tmp_path / "a.h5", encoding=encoding, write_empty_chunks=False)
    assert len(stored(tmp_path / "a.h5")) == 4
    np.testing.assert_array_equal(rows_of_pytables(tmp_path / "a.h5"), HALF)


def test_repack_leaves_none_out(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_carray("/", "v", obj=HALF, chunkshape=(1, 6), filters=tables.Filters(5, "blosc2:lz4"))
    repack(tmp_path / "a.h5", complevel=3)
    assert len(stored(tmp_path / "a.h5")) == 8
    np.testing.assert_array_equal(rows_of_pytables(tmp_path / "a.h5"), HALF)


@pytest.mark.parametrize("value", [0, 1, 3])
@pytest.mark.parametrize(("dtype", "columns"), [("i2", 50), ("f8", 5000)])
def test_last_chunks_that_are_not_full_are_frames_of_constant_size(
    tmp_path: Path, dtype: str, columns: int, value: int
) -> None:
    path, shape = tmp_path / "a.h5", (4, columns)
    with tables.open_file(path, "w") as file:
        file.create_earray("/", "v", obj=np.ones(shape, dtype), chunkshape=shape, filters=tables.Filters(5, "blosc2"))
    row, sizes = xr.Dataset({"v": (("y", "x"), np.full((1, columns), value, dtype))}), []
    for _ in range(9):
        to_pytables(row, path, append_dim="y")
        sizes.append(path.stat().st_size)
    assert sizes[0] == sizes[3] < sizes[4] == sizes[7] < sizes[8]
    assert sizes[8] - sizes[0] < 1000  # the full ones are compressed, and the new ones have taken their room
    assert [mask for _, mask in stored(path)] == [0] * 4
    expected = np.concatenate([np.ones(shape, dtype), np.full((9, columns), value, dtype)])
    np.testing.assert_array_equal(rows_of_pytables(path), expected)
    repack(path)
    assert path.stat().st_size < sizes[8] - columns * np.dtype(dtype).itemsize  # the last ones are compressed as well
    np.testing.assert_array_equal(rows_of_pytables(path), expected)
    with tables.open_file(path, "a") as file:
        file.root.v.append(np.full((1, columns), 5, dtype))
    np.testing.assert_array_equal(rows_of_pytables(path)[13], np.full(columns, 5))


def test_who_leaves_chunks_for_later_is_warned(tmp_path: Path) -> None:
    encoding = {"v": {"chunksizes": (1, 3), **BLOSC2_ALONE}, "w": {"complib": "blosc2:lz4"}}
    whole = xr.Dataset({"v": (("y", "x"), HALF), "w": (("y", "x"), HALF)}).chunk(y=4)
    with pytest.warns(UserWarning, match=r"a\.h5: until all chunks of '/v' are written, PyTables shows"):
        later = to_pytables(whole, tmp_path / "a.h5", encoding=encoding, compute=False, structure_first=True)
    later.compute()
    np.testing.assert_array_equal(rows_of_pytables(tmp_path / "a.h5"), HALF)
    here = xr.Dataset(
        {"v": (("y", "x"), HALF), "w": (("y", "x"), whole["w"].data)}
    )  # those in memory are written at once
    to_pytables(here, tmp_path / "c.h5", encoding=encoding, compute=False, structure_first=True).compute()
    part = xr.Dataset({"v": (("y", "x"), np.ones((2, 3)))})
    path = tmp_path / "b.h5"
    to_pytables(whole[["v"]].compute(), path, encoding={"v": encoding["v"]}, unlimited_dims=["y"])
    to_pytables(whole[["v"]].compute(), path, append_dim="y")  # all of it: nobody needs to be warned
    with pytest.warns(UserWarning, match=r"b\.h5: until all chunks of '/v' are written"):
        to_pytables(part, path, append_dim="y", region={"x": slice(3, 6)})
    to_pytables(part, path, region={"y": slice(16, 18), "x": slice(0, 3)})
    np.testing.assert_array_equal(rows_of_pytables(path), np.concatenate([HALF, HALF, np.ones((2, 6))]))


@pytest.mark.parametrize(
    ("steps", "rank", "expected"),
    [((BLOSC2,), 2, True), ((BLOSC2,), 1, False), ((BLOSC2, FLETCHER32), 2, False), ((1,), 2, False), ((), 3, False)],
)
def test_which_arrays_have_nothing_but_frames(steps: tuple[int, ...], rank: int, expected: bool) -> None:
    assert FilterPipeline(tuple(map(Filter, steps))).makes_frames(rank) == expected


@pytest.mark.parametrize(
    ("rows", "more", "chunks", "warned"),
    [(0, 4, (1, 3), True), (2, 2, (2, 3), True), (2, 2, (2, 6), False), (2, 2, (4, 3), False), (2, 3, (4, 3), True)],
)
def test_part_of_an_append_leaves_chunks_out_or_not(
    tmp_path: Path, rows: int, more: int, chunks: tuple[int, int], warned: bool
) -> None:
    path, whole = tmp_path / "a.h5", xr.Dataset({"v": (("y", "x"), np.zeros((rows, 6)))})
    to_pytables(whole, path, encoding={"v": {"chunksizes": chunks, **BLOSC2_ALONE}}, unlimited_dims=["y"])
    part = xr.Dataset({"v": (("y", "x"), np.ones((more, 3)))})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        to_pytables(part, path, append_dim="y", region={"x": slice(3, 6)})
    assert [str(one.message) for one in seen if "until all chunks" in str(one.message)] == [
        str(one.message) for one in seen
    ]
    assert bool(seen) == warned
    grid = -(-(rows + more) // chunks[0]) * (6 // chunks[1])
    assert (len(stored(path)) < grid) == warned


def test_full_chunks_that_do_not_compress_are_no_unfinished_ones(tmp_path: Path) -> None:
    """They have the size of a frame of level 0."""
    noise, path = np.random.default_rng(0).random((8, 101)), tmp_path / "a.h5"
    encoding = {"v": {"chunksizes": (8, 51), "shuffle": False, **BLOSC2_ALONE}}
    to_pytables(xr.Dataset({"v": (("y", "x"), noise)}), path, encoding=encoding)
    large = path.stat().st_size
    to_pytables(xr.Dataset({"v": (("y", "x"), noise * 0)}), path, mode="r+")
    repack(path)
    assert path.stat().st_size < large - noise.nbytes / 2
    np.testing.assert_array_equal(rows_of_pytables(path), noise * 0)
