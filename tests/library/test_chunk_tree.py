"""Chunk indexes that we write are those of HDF5: every program finds the chunks, and HDF5 goes on with them."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.chunks.filters import FilterPipeline
from xr_pytables.chunks.index import ChunkIndex, ChunkStorage
from xr_pytables.errors import ChunkError, FormatError
from xr_pytables.hdf5.chunk_indexes import read_index
from xr_pytables.library.chunk_tree import check_with_hdf5, set_end_of_file, set_root, tree_size, write_tree
from xr_pytables.sources.local import LocalFile

from ..helpers_properties import examples


def empty_file(
    path: Path, shape: tuple[int, ...], chunkshape: tuple[int, ...], dtype: str = "u1", header_version: int = 1
) -> ChunkStorage:
    """A file with one array without chunks, as HDF5 makes it."""
    with h5py.File(path, "w", libver="earliest") as file:
        array = file.create_dataset(
            "v", shape, dtype, chunks=chunkshape, maxshape=(None, *shape[1:]), track_order=header_version == 2
        )
        header = h5py.h5o.get_info(array.id).addr
    return ChunkStorage(shape, chunkshape, np.dtype(dtype), FilterPipeline(), header=header)


def fill(path: Path, storage: ChunkStorage, stored: np.ndarray) -> ChunkIndex:
    """Write the chunks for which `stored` (over the grid) is true, each full of a value of its own, and their index."""
    end = (os.path.getsize(path) + 7) // 8 * 8
    index = ChunkIndex((0,) * stored.ndim, *(np.zeros(stored.shape, kind) for kind in ("u8", "u4", "u4")))
    with open(path, "r+b") as file:
        order = np.random.default_rng(0).permutation(np.flatnonzero(stored))  # chunks may lie in any order
        for place, number in enumerate(order):
            index.address.reshape(-1)[number] = end + place * storage.chunk_nbytes
            index.size.reshape(-1)[number] = storage.chunk_nbytes
            file.seek(end + place * storage.chunk_nbytes)
            file.write(np.full(storage.chunkshape, number % 250 + 1, storage.dtype).tobytes())
        file.flush()
        trees = end + len(order) * storage.chunk_nbytes
        root = write_tree(file.fileno(), index, storage, trees)
        set_root(file.fileno(), storage.header, root)
        set_end_of_file(file.fileno(), trees + tree_size(index, storage))
    return index


def expected(storage: ChunkStorage, stored: np.ndarray) -> np.ndarray:
    numbers = np.where(stored, np.arange(stored.size).reshape(stored.shape) % 250 + 1, 0).astype(storage.dtype)
    for axis, chunk in enumerate(storage.chunkshape or ()):
        numbers = numbers.repeat(chunk, axis)
    return numbers[tuple(map(slice, storage.shape))]


@st.composite
def cases(draw):
    rank = draw(st.integers(1, 4))
    grid = draw(
        st.sampled_from(
            {
                1: [(1,), (63,), (64,), (65,), (4097,)],
                2: [(1, 1), (70, 9), (5, 90)],
                3: [(9, 8, 7), (2, 10, 30)],
                4: [(3, 4, 5, 6)],
            }[rank]
        )
    )
    chunkshape = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    cut = tuple(draw(st.integers(0, chunk - 1)) if n > 1 else 0 for n, chunk in zip(grid, chunkshape, strict=True))
    shape = tuple(n * chunk - less for n, chunk, less in zip(grid, chunkshape, cut, strict=True))
    stored = np.random.default_rng(draw(st.integers(0, 9))).random(grid) < draw(st.sampled_from([0.0, 0.02, 0.6, 1.0]))
    return shape, chunkshape, draw(st.sampled_from(["u1", "<i4", ">f8"])), draw(st.sampled_from([1, 2])), stored


@examples(20)
@given(cases())
def test_everybody_finds_the_chunks_and_hdf5_goes_on_with_them(tmp_path_factory, case):
    shape, chunkshape, dtype, header_version, stored = case
    path = tmp_path_factory.mktemp("tree") / "file.h5"
    storage = empty_file(path, shape, chunkshape, dtype, header_version)
    with open(path, "rb") as file:
        file.seek(storage.header)
        assert (file.read(4) == b"OHDR") == (header_version == 2)
    index, values = fill(path, storage, stored), expected(storage, stored)
    with open(path, "rb") as file:
        found = read_index(LocalFile(file.fileno(), str(path)), storage)
    for ours, theirs in ((found.address, index.address), (found.size, index.size)):
        np.testing.assert_array_equal(ours, theirs)
    with tables.open_file(path) as file:
        np.testing.assert_array_equal(file.root.v[:], values)
    with h5py.File(path) as file:
        assert file["v"].id.get_num_chunks() == np.count_nonzero(stored)
        np.testing.assert_array_equal(file["v"][:], values)
    with h5py.File(path, "r+") as file:  # what is missing is made, what is there written again, and more behind
        file["v"][...] = values + 1
        file["v"].resize(shape[0] + 70 * chunkshape[0], 0)
        file["v"][shape[0] :] = 7
    with tables.open_file(path) as file:
        np.testing.assert_array_equal(file.root.v[: shape[0]], values + 1)
        assert (file.root.v[shape[0] :] == 7).all()


def test_filter_masks_are_kept(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        array = file.create_dataset("v", (4,), "u1", chunks=(2,), compression="gzip")
        header = h5py.h5o.get_info(array.id).addr
    storage = ChunkStorage((4,), (2,), np.dtype("u1"), FilterPipeline(), header=header)
    index = fill(path, storage, np.ones(2, bool))
    index.filter_mask[:] = 1
    with open(path, "r+b") as file:
        write_tree(file.fileno(), index, storage, os.path.getsize(path) - tree_size(index, storage))
    with tables.open_file(path) as file:
        assert file.root.v[:].tolist() == [1, 1, 2, 2]


def test_a_header_with_checksums_and_many_attributes(tmp_path):
    path = tmp_path / "file.h5"
    storage = empty_file(path, (4,), (2,), header_version=2)
    with h5py.File(path, "r+", libver="earliest") as file:
        for number in range(60):
            file["v"].attrs[f"a{number}"] = "x" * 900
    index = fill(path, storage, np.ones(2, bool))
    check_with_hdf5(str(path), {"/v": index}, {"/v": storage})
    with tables.open_file(path) as file:
        assert file.root.v[:].tolist() == [1, 1, 2, 2]
        assert file.root.v.attrs.a59 == "x" * 900


def test_a_chunk_that_hdf5_does_not_find_is_an_error(tmp_path):
    path = tmp_path / "file.h5"
    storage = empty_file(path, (4,), (2,))
    index = fill(path, storage, np.ones(2, bool))
    check_with_hdf5(str(path), {"/v": index}, {"/v": storage})
    index.address[1] += 1
    with pytest.raises(OSError, match=r"file\.h5:/v: HDF5 does not find the chunk at \[2\] where it is"):
        check_with_hdf5(str(path), {"/v": index}, {"/v": storage})
    index.size[1] += 1
    with pytest.raises(OSError, match=r"file\.h5:/v: HDF5 does not find all chunks"):
        check_with_hdf5(str(path), {"/v": index}, {"/v": storage})


def test_files_of_another_format_are_refused(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        header = h5py.h5o.get_info(file.create_dataset("v", (4,), "u1", chunks=(2,)).id).addr
    before = path.read_bytes()
    with open(path, "r+b") as file:
        with pytest.raises(FormatError, match=r"has version and class \([45], 2\), expected \(3, 2\)"):
            set_root(file.fileno(), header, 1)
        with pytest.raises(ChunkError, match="the superblock is not of version 0"):
            set_end_of_file(file.fileno(), 10)
    assert path.read_bytes() == before


def test_arrays_that_have_no_chunks_are_refused(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        header = h5py.h5o.get_info(file.create_dataset("v", (4,), "u1").id).addr
    with (
        open(path, "r+b") as file,
        pytest.raises(ChunkError, match=r"has version and class \(3, 1\), expected \(3, 2\)"),
    ):
        set_root(file.fileno(), header, 1)


def test_a_million_chunks_take_bounded_memory(tmp_path):
    """48 MB of nodes, of which some are in memory at a time."""
    path = tmp_path / "file.h5"
    storage = empty_file(path, (1000, 1000), (1, 1))
    numbers = np.arange(10**6, dtype="u8").reshape(1000, 1000)
    index = ChunkIndex((0, 0), numbers + 4096, np.ones((1000, 1000), "u4"), np.zeros((1000, 1000), "u4"))
    with open(path, "r+b") as file:
        file.truncate(4096 + 10**6)
        file.seek(4096)
        file.write((numbers % 251).astype("u1").tobytes())
        file.flush()
        at = 4096 + 10**6
        tracemalloc.start()
        set_root(file.fileno(), storage.header, write_tree(file.fileno(), index, storage, at))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        set_end_of_file(file.fileno(), at + tree_size(index, storage))
    assert peak < 40e6, f"{peak / 1e6:.0f} MB"
    with h5py.File(path) as file:
        assert file["v"].id.get_num_chunks() == 10**6
        np.testing.assert_array_equal(file["v"][777], numbers[777] % 251)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(read_index(LocalFile(file.fileno(), str(path)), storage).address, index.address)
