"""Dask blocks that share chunks on disk: refused, moved, or put together in the end. What `to_zarr` documents."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import to_pytables
from xr_pytables.writing import execution
from xr_pytables.writing.alignment import aligned, conflict

from ..helpers_properties import examples


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


@pytest.fixture
def stored_blocks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], ...]]:
    """The blocks of the arrays that are handed to Dask for storing."""
    found: list[tuple[tuple[int, ...], ...]] = []
    real = execution.put
    monkeypatch.setattr(
        execution, "put", lambda arrays, targets: found.extend(x.chunks for x in arrays) or real(arrays, targets)
    )
    return found


def read(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables") as dataset:
        return dataset.load()


SIDES = st.tuples(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 9))


@examples(300)
@given(st.lists(SIDES, min_size=1, max_size=3))
def test_aligned_blocks_share_no_chunk_and_cover_the_same(sides):
    blocks = tuple(tuple(sizes) for sizes, _, _ in sides)
    chunkshape, start = [chunk for _, chunk, _ in sides], [begin for _, _, begin in sides]
    touched = [
        [set(range(b // chunk, -(-(b + n) // chunk))) if n else set() for b, n in zip(edges, sizes, strict=False)]
        for sizes, chunk, begin in sides
        for edges in [list(itertools.accumulate(sizes, initial=begin))]
    ]
    shares = any(a & b for along in touched for a, b in itertools.combinations(along, 2))
    assert (conflict(blocks, chunkshape, start) is not None) == shares
    moved = aligned(blocks, chunkshape, start)
    assert conflict(moved, chunkshape, start) is None
    assert [sum(sizes) for sizes in moved] == [sum(sizes) for sizes in blocks]
    for before, after, chunk in zip(blocks, moved, chunkshape, strict=True):
        assert max(after) <= max(before) + chunk


def lazy(chunks: tuple[int, ...] | int, length: int = 12) -> xr.Dataset:
    return xr.Dataset(
        {"v": (("time", "x"), dask.array.from_array(np.arange(length * 2.0).reshape(length, 2), (chunks, 2)))}
    )


def test_two_blocks_that_share_a_chunk_are_refused_before_the_disk_is_touched(path):
    with pytest.raises(ValueError, match="two blocks of the Dask array meet") as caught:
        to_pytables(lazy(6), path, encoding={"v": {"chunksizes": (4, 2)}})
    message = str(caught.value)
    for part in (
        "variable 'v': along dimension 'time', two blocks of the Dask array meet at element 6, inside of the chunk of "
        "elements 4 to 7 (chunksizes 4, blocks (6, 6))",
        ".chunk({'time': 8})",
        "align_chunks=True",
        "safe_chunks=False",
    ):
        assert part in message
    assert not os.listdir(path.parent)


@pytest.mark.parametrize("chunks", [4, 8, 12, (4, 8), (8, 4)])
def test_blocks_of_several_whole_chunks_are_written_as_they_are(path, stored_blocks, chunks):
    dataset = lazy(chunks)
    to_pytables(dataset, path, encoding={"v": {"chunksizes": (4, 2)}})
    assert stored_blocks == [dataset.v.chunks]
    xr.testing.assert_equal(read(path), dataset)


def test_the_last_chunk_may_be_partly_filled(path):
    dataset = lazy(8, length=13)
    to_pytables(dataset, path, encoding={"v": {"chunksizes": (8, 2)}})
    xr.testing.assert_equal(read(path), dataset)


@pytest.mark.parametrize("compute", [True, False])
def test_align_chunks_moves_the_borders_of_blocks(path, stored_blocks, compute):
    dataset = lazy((6, 1, 5))
    written = to_pytables(dataset, path, encoding={"v": {"chunksizes": (4, 2)}}, align_chunks=True, compute=compute)
    if not compute:
        written.compute()
    assert stored_blocks == [((8, 4), (2,))]
    xr.testing.assert_equal(read(path), dataset)


def test_without_safe_chunks_shared_chunks_are_right_too(path, stored_blocks):
    dataset = lazy((6, 1, 5))
    to_pytables(dataset, path, encoding={"v": {"chunksizes": (4, 2), "zlib": True}}, safe_chunks=False)
    assert stored_blocks == [((6, 1, 5), (2,))]
    xr.testing.assert_equal(read(path), dataset)


def test_values_in_memory_never_conflict(path):
    dataset = lazy(6).load()
    to_pytables(dataset, path, encoding={"v": {"chunksizes": (5, 1)}})
    xr.testing.assert_equal(read(path), dataset)


@pytest.mark.parametrize("chunks", [(3, 5, 4), (5, 1, 1, 5), 5, 7])
def test_chunks_that_nobody_asked_for_never_conflict(path, stored_blocks, chunks):
    """Uneven blocks, as `groupby` makes them: the chunks are ours to choose, and so are the borders of blocks."""
    dataset = lazy(chunks)
    to_pytables(dataset, path)
    found = read(path)
    xr.testing.assert_equal(found, dataset)
    assert conflict(stored_blocks[0], found.v.encoding["chunksizes"], (0, 0)) is None


def test_chunks_that_reading_left_in_the_encoding_are_kept_and_blocks_moved(path, stored_blocks):
    to_pytables(lazy(4), path)
    with xr.open_dataset(path, engine="pytables", chunks={}) as dataset:
        to_pytables(dataset.chunk(time=6), path.with_name("other.h5"))
    assert read(path.with_name("other.h5")).v.encoding["chunksizes"] == (4, 2)
    assert stored_blocks[1:] == [((8, 4), (2,))]


@pytest.mark.parametrize(("safe", "expected"), [(True, (8, 4)), (False, (6, 6))])
def test_chunks_of_an_array_in_the_file_are_those_that_count(path, stored_blocks, safe, expected):
    to_pytables(lazy(4), path)
    to_pytables(lazy(6) * 2, path, mode="r+", safe_chunks=safe)
    assert stored_blocks[1:] == [(expected, (2,))]
    xr.testing.assert_equal(read(path), lazy(6) * 2)


def test_contiguous_arrays_have_no_chunks_to_share(path):
    dataset = lazy((5, 7))
    to_pytables(dataset, path, encoding={"v": {"contiguous": True}})
    xr.testing.assert_equal(read(path), dataset)
