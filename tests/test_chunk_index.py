"""The chunk index against `leaf.chunk_info()`, and against damaged and foreign files."""

from __future__ import annotations

import ctypes
import itertools
import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import chunk_index
from xr_pytables.chunk_index import (
    MISSING,
    ChunkError,
    ChunkIndex,
    ChunkStorage,
    UnsupportedIndex,
    bounding_region,
    plan_axis,
    plan_selection,
    read_index,
)

from .helpers_properties import examples


def storage_of(leaf: Any) -> ChunkStorage:
    atom = leaf.atom.shape
    return ChunkStorage(
        shape=tuple(map(int, leaf.shape)) + atom,
        chunkshape=tuple(map(int, leaf.chunkshape)) + atom,
        dtype=leaf.atom.dtype.base,
        header=leaf._get_obj_info().addr,
        base=leaf._v_file.get_userblock_size(),
        rank=len(leaf.shape),
    )


@contextmanager
def descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def check(path: Path, node: str = "/a", every: int = 1) -> tuple[ChunkStorage, ChunkIndex]:
    """Read the index of a leaf and compare every chunk with what HDF5 says."""
    with tables.open_file(path) as file:
        leaf = file.get_node(node)
        storage = storage_of(leaf)
        with descriptor(path) as fd:
            index = read_index(fd, storage)
        assert index.address.shape == storage.grid
        corners = itertools.product(*(range(n) for n in storage.grid))
        for where in itertools.islice(corners, None, None, every):
            info = leaf.chunk_info(tuple(i * c for i, c in zip(where, leaf.chunkshape, strict=True)))
            found = (int(index.address[where]), int(index.size[where]), int(index.filter_mask[where]))
            if info.offset is None:
                assert found == (MISSING, 0, 0)
            else:
                assert found == (info.offset, info.size, info.filter_mask)
    return storage, index


@examples(60)
@given(data=st.data())
def test_index_equals_chunk_info(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rank = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(rank))
    chunkshape = tuple(data.draw(st.integers(1, n + 3)) for n in shape)
    atom = tables.Int16Atom(shape=data.draw(st.sampled_from([(), (2,), (2, 3)])))
    path = tmp_path_factory.mktemp("index") / "a.h5"
    filters = tables.Filters(9, data.draw(st.sampled_from(["zlib", "blosc:lz4"])))
    random = np.random.default_rng(0)
    with tables.open_file(path, "w", user_block_size=data.draw(st.sampled_from([0, 512, 4096]))) as file:
        leaf = file.create_carray("/", "a", atom, shape, chunkshape=chunkshape, filters=filters)
        for _ in range(data.draw(st.integers(0, 3))):
            where = tuple(slice(i, i + 3) for i in (data.draw(st.integers(0, n - 1)) for n in shape))
            leaf[where] = random.integers(0, data.draw(st.sampled_from([2, 30000])), leaf[where].shape)
    storage, index = check(path)
    region = tuple(tuple(sorted(data.draw(st.tuples(*[st.integers(0, n + 2)] * 2)))) for n in shape)
    with descriptor(path) as fd:
        part = read_index(fd, storage, region)
    inside = tuple(slice(start, start + n) for start, n in zip(part.origin, part.address.shape, strict=True))
    for name in ("address", "size", "filter_mask"):
        np.testing.assert_array_equal(getattr(part, name), getattr(index, name)[inside])
    for (start, stop), chunk, first, n in zip(region, chunkshape, part.origin, part.address.shape, strict=True):
        if start < stop and n:
            assert first == start // chunk


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of three levels, written back to front."""
    path = tmp_path_factory.mktemp("deep") / "a.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_carray("/", "a", tables.Int8Atom(), (120, 110), chunkshape=(1, 1))
        for row in reversed(range(120)):
            if row % 7:
                leaf[row] = row
    return path


def test_deep_tree(deep: Path) -> None:
    _, index = check(deep, every=37)
    missing = index.address == MISSING
    np.testing.assert_array_equal(missing, np.broadcast_to(np.arange(120)[:, None] % 7 == 0, (120, 110)))


@pytest.mark.parametrize("region", [((50, 52), (0, 110)), ((0, 120), (3, 4)), ((7, 8), (9, 10)), ((5, 5), (0, 1))])
def test_region_descends_only_the_branches_it_needs(
    deep: Path, region: chunk_index.Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, whole = check(deep, every=1000)
    nodes = 0
    original = chunk_index._read_nodes

    def counted(file: Any, addresses: np.ndarray, node: Any) -> Any:
        nonlocal nodes
        nodes += len(addresses)
        return original(file, addresses, node)

    monkeypatch.setattr(chunk_index, "_read_nodes", counted)
    with descriptor(deep) as fd:
        read_index(fd, storage)
        everything, nodes = nodes, 0
        part = read_index(fd, storage, region)
    assert everything > 200
    wanted = tuple(slice(start, stop) for start, stop in region)
    np.testing.assert_array_equal(part.address, whole.address[wanted])
    # a column may meet one leaf node per row, an area of few chunks only those
    assert nodes <= 2 * max(part.address.size, 3) + 3
    assert nodes < everything


def test_a_value_that_pickles_and_prints() -> None:
    storage = ChunkStorage((10, 4, 3), (2, 4, 3), np.dtype(">f4"), fill=b"\x00\x00\x00\x00", rank=1)
    assert pickle.loads(pickle.dumps(storage)) == storage
    assert (storage.grid, storage.element_size, storage.chunk_nbytes) == ((5,), 48, 96)
    assert "chunkshape=(2, 4, 3)" in repr(storage)
    with pytest.raises(ValueError, match="does not fit shape"):
        ChunkStorage((10,), (2, 2), np.dtype("f4"))
    with pytest.raises(ValueError, match="divides the atom"):
        ChunkStorage((10, 4), (2, 2), np.dtype("f4"), rank=1)
    with pytest.raises(ValueError, match="a fill value of 3 bytes"):
        ChunkStorage((10,), (2,), np.dtype("f4"), fill=b"abc").fill_values()
    index = ChunkIndex((0,), np.zeros(5, np.uint64), np.zeros(5, np.uint32), np.zeros(5, np.uint32))
    assert repr(pickle.loads(pickle.dumps(index))) == "ChunkIndex(origin=(0,), shape=(5,), stored=0 of 5)"
    with pytest.raises(IndexError, match="outside of the part"):
        index.at((np.array([4, 5]),))


def test_huge_leaf_with_few_chunks_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_carray("/", "a", tables.Int8Atom(), (10**7, 10), chunkshape=(1, 10))
        leaf[5_000_000] = 1
        file.create_carray("/", "b", tables.Int8Atom(), (10**9,), chunkshape=(1,))
    with tables.open_file(path) as file:
        storage, too_large = storage_of(file.root.a), storage_of(file.root.b)
    with descriptor(path) as fd:
        index = read_index(fd, storage)
        assert np.flatnonzero(index.address).tolist() == [5_000_000]
        with pytest.raises(UnsupportedIndex, match="more than 134217728 chunks"):
            read_index(fd, too_large)
        assert read_index(fd, too_large, ((10, 20),)).address.tolist() == [MISSING] * 10


# ---------------------------------------------------------------------------------------------------------------------
# other writers


def h5py_storage(dataset: h5py.Dataset, base: int = 0) -> ChunkStorage:
    header = h5py.h5o.get_info(dataset.id).addr
    return ChunkStorage(dataset.shape, dataset.chunks, dataset.dtype, header=header, base=base)


@pytest.mark.parametrize("libver", ["earliest", "v108"])
@pytest.mark.parametrize("user_block", [0, 1024])
def test_object_headers_of_both_versions_and_many_attributes(tmp_path: Path, libver: str, user_block: int) -> None:
    """Attributes push the messages into continuation blocks."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=(libver, "latest"), userblock_size=user_block, track_order=True) as file:
        dataset = file.create_dataset("a", (10, 10), "i4", chunks=(3, 4), fillvalue=5)
        dataset[:4] = 1
        for i in range(7):
            dataset.attrs[f"attribute{i}"] = np.arange(i * 9)
    with h5py.File(path) as file, descriptor(path) as fd:
        storage = h5py_storage(file["a"], user_block)
        index = read_index(fd, storage)
        for i in range(file["a"].id.get_num_chunks()):
            info = file["a"].id.get_chunk_info(i)
            where = tuple(o // c for o, c in zip(info.chunk_offset, file["a"].chunks, strict=True))
            assert (index.address[where], index.size[where]) == (info.byte_offset, info.size)
        assert np.count_nonzero(index.address) == 6


@pytest.mark.parametrize("size", [4, 7, 16, 64])
@pytest.mark.parametrize("latest", [False, True])
def test_another_size_of_tree_nodes(tmp_path: Path, size: int, latest: bool) -> None:
    """K is in the superblock of version 1, in the superblock extension of versions 2 and 3."""
    path = tmp_path / "a.h5"
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    library = ctypes.CDLL(h5py.h5p.__file__)  # h5py has no such method
    assert library.H5Pset_istore_k(ctypes.c_int64(creation.id), ctypes.c_uint(size)) >= 0
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    if latest:
        access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)
    file = h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, creation, access))
    with file:
        file.create_dataset("a", data=np.arange(500), chunks=(2,))
    with h5py.File(path) as file, descriptor(path) as fd:
        index = read_index(fd, h5py_storage(file["a"]))
        infos = [file["a"].id.get_chunk_info(i) for i in range(250)]
    assert index.address.tolist() == [info.byte_offset for info in infos]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shape": (10,), "chunks": (10,)}, "single chunk"),
        ({"shape": (10,), "chunks": (5,)}, "fixed array"),
        ({"shape": (10,), "chunks": (5,), "maxshape": (None,)}, "extensible array"),
        ({"shape": (10, 10), "chunks": (5, 5), "maxshape": (None, None)}, "v2 B-tree"),
    ],
)
def test_newer_indexes_are_refused_with_their_name(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("a", dtype="i4", fillvalue=0, **options)[...] = 1
    with h5py.File(path) as file, descriptor(path) as fd, pytest.raises(UnsupportedIndex, match=reason):
        read_index(fd, h5py_storage(file["a"]))


# ---------------------------------------------------------------------------------------------------------------------
# damage


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, ChunkStorage]:
    path = tmp_path / "a.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", tables.Int32Atom(), (300, 4), chunkshape=(1, 4))[:] = 7
    storage, _ = check(path, every=50)
    return path, storage


def test_random_damage_never_does_worse_than_raise(small: tuple[Path, ChunkStorage]) -> None:
    path, storage = small
    original = path.read_bytes()
    nodes = [i for i in range(len(original)) if original.startswith(b"TREE\x01", i)]
    assert len(nodes) > 4
    random = np.random.default_rng(0)
    errors = 0
    for turn in range(450):
        data = bytearray(original)
        place = [storage.header, 0, nodes[turn % len(nodes)]][turn % 3]
        for _ in range(random.integers(1, 4)):
            data[place + int(random.integers(0, [300, 96, 200][turn % 3]))] = int(
                random.choice([0, 1, 2, 64, 127, 255])
            )
        path.write_bytes(data[: len(data) - int(random.integers(0, 4000)) * (turn % 5 == 0)])
        with descriptor(path) as fd:
            try:
                index = read_index(fd, storage)
            except (ChunkError, UnsupportedIndex):
                errors += 1
            else:
                assert index.address.shape == (300, 1)
    assert errors > 60


def damaged(small: tuple[Path, ChunkStorage], change: Any) -> str:
    path, storage = small
    data = bytearray(path.read_bytes())
    with descriptor(path) as fd:
        root, _ = chunk_index._layout(chunk_index._File(fd, len(data), 0), storage.header)
    change(data, root)
    path.write_bytes(data)
    with descriptor(path) as fd, pytest.raises((ChunkError, UnsupportedIndex)) as caught:
        read_index(fd, storage)
    return str(caught.value)


ENTRY = 8 + 8 * 3 + 8  # size and mask, three offsets, child


def test_messages_say_what_is_wrong(small: tuple[Path, ChunkStorage]) -> None:
    def loop(data: bytearray, root: int) -> None:
        struct.pack_into("<Q", data, root + 24 + ENTRY - 8, root)

    assert "levels of the chunk B-tree" in damaged(small, loop)


def test_a_node_used_twice(small: tuple[Path, ChunkStorage]) -> None:
    def twice(data: bytearray, root: int) -> None:
        child = data[root + 24 + ENTRY - 8 : root + 24 + ENTRY]
        data[root + 24 + 2 * ENTRY - 8 : root + 24 + 2 * ENTRY] = child

    assert "refers to a node twice" in damaged(small, twice)


def test_a_node_beyond_the_file(small: tuple[Path, ChunkStorage]) -> None:
    def far(data: bytearray, root: int) -> None:
        struct.pack_into("<Q", data, root + 24 + ENTRY - 8, 2**63)

    assert "beyond the end of the file" in damaged(small, far)


def test_too_many_children(small: tuple[Path, ChunkStorage]) -> None:
    def many(data: bytearray, root: int) -> None:
        struct.pack_into("<H", data, root + 6, 65)

    assert "claims more than 64 children" in damaged(small, many)


def test_no_signature(small: tuple[Path, ChunkStorage]) -> None:
    def other(data: bytearray, root: int) -> None:
        data[root : root + 4] = b"FREE"

    assert "has no signature" in damaged(small, other)


def test_another_chunkshape_than_described(small: tuple[Path, ChunkStorage]) -> None:
    path, storage = small
    other = ChunkStorage(storage.shape, (2, 4), storage.dtype, header=storage.header)
    with descriptor(path) as fd, pytest.raises(ChunkError, match=r"has chunks of \(1, 4, 4\) .* expected \(2, 4, 4\)"):
        read_index(fd, other)
    with descriptor(path) as fd, pytest.raises(ChunkError, match="no HDF5 superblock at 512"):
        read_index(fd, ChunkStorage(storage.shape, (1, 4), storage.dtype, header=storage.header, base=512))


# ---------------------------------------------------------------------------------------------------------------------
# selections


@given(data=st.data())
@examples(60)
def test_pieces_put_together_are_the_selection(data: st.DataObject) -> None:
    length, chunk = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    selection = data.draw(
        st.one_of(
            st.integers(-length, length - 1),
            st.slices(length).filter(lambda s: (s.step or 1) > 0),
            st.lists(st.integers(-length, length - 1), max_size=12).map(lambda chosen: np.array(chosen, np.int64)),
        )
    )
    plan = plan_axis(selection, length, chunk)
    array = np.arange(length) * 10
    expected = np.atleast_1d(array[selection])
    out = np.full(plan.length, -1)
    for i, number in enumerate(plan.chunks.tolist()):
        inside, places = plan.piece(i)
        piece = array[number * chunk : (number + 1) * chunk][inside]
        assert len(piece)
        out[places] = piece
    np.testing.assert_array_equal(out, expected)
    touched = expected // 10 // chunk
    assert plan.chunks.tolist() == sorted(set(touched.tolist()))
    assert plan.bounds == ((int(expected.min()) // 10, int(expected.max()) // 10 + 1) if len(expected) else (0, 0))


def test_the_plan_of_a_selection_and_its_bounding_region() -> None:
    storage = ChunkStorage((100, 50, 3), (10, 7, 3), np.dtype("f4"), rank=2)
    selection = (np.array([99, 3, 55]), slice(8, 30))
    assert [plan.chunks.tolist() for plan in plan_selection(storage, selection)[:2]] == [[0, 5, 9], [1, 2, 3, 4]]
    assert bounding_region(storage, plan_selection(storage, selection)) == ((3, 100), (8, 30))


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        (10, IndexError), (-11, IndexError), (np.array([0, 10]), IndexError), (slice(None, None, -1), ValueError),
        (np.zeros((2, 2), int), ValueError), (np.array([0.5]), ValueError),
    ],
)  # fmt: skip
def test_selections_that_make_no_sense(selection: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        plan_axis(selection, 10, 3)
