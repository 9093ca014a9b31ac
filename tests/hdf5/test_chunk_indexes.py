"""All kinds of chunk indexes against what HDF5 says of each chunk, and against damaged files."""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.chunks.filters import Filter, FilterPipeline
from xr_pytables.chunks.index import DAMAGED, MISSING, ChunkIndex, ChunkStorage, Region
from xr_pytables.chunks.reading import read_into
from xr_pytables.errors import ChunkError
from xr_pytables.hdf5 import chunk_btree1
from xr_pytables.hdf5.checksum import lookup3
from xr_pytables.hdf5.chunk_indexes import read_index
from xr_pytables.hdf5.file import File
from xr_pytables.sources.buffer import Buffer
from xr_pytables.sources.local import LocalFile

from ..helpers_properties import examples

NO_FILTERS = FilterPipeline()


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
def opened(path: Path) -> Iterator[LocalFile]:
    with path.open("rb") as file:
        yield LocalFile(file.fileno(), path.name)


def check(path: Path, node: str = "/a", every: int = 1) -> tuple[ChunkStorage, ChunkIndex]:
    """Read the index of a leaf and compare every chunk with what HDF5 says."""
    with tables.open_file(path) as file:
        leaf = file.get_node(node)
        storage = storage_of(leaf)
        with opened(path) as source:
            index = read_index(source, storage)
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
    with opened(path) as source:
        part = read_index(source, storage, region)
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
    deep: Path, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, whole = check(deep, every=1000)
    nodes = 0
    original = chunk_btree1._read_nodes

    def counted(file: Any, addresses: np.ndarray, node: Any) -> Any:
        nonlocal nodes
        nodes += len(addresses)
        return original(file, addresses, node)

    monkeypatch.setattr(chunk_btree1, "_read_nodes", counted)
    with opened(deep) as source:
        read_index(source, storage)
        everything, nodes = nodes, 0
        part = read_index(source, storage, region)
    assert everything > 200
    wanted = tuple(slice(start, stop) for start, stop in region)
    np.testing.assert_array_equal(part.address, whole.address[wanted])
    # a column may meet one leaf node per row, an area of few chunks only those
    assert nodes <= 2 * max(part.address.size, 3) + 3
    assert nodes < everything


def test_huge_leaf_with_few_chunks_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_carray("/", "a", tables.Int8Atom(), (10**7, 10), chunkshape=(1, 10))
        leaf[5_000_000] = 1
        file.create_carray("/", "b", tables.Int8Atom(), (10**9,), chunkshape=(1,))
    with tables.open_file(path) as file:
        storage, too_large = storage_of(file.root.a), storage_of(file.root.b)
    with opened(path) as source:
        index = read_index(source, storage)
        assert np.flatnonzero(index.address).tolist() == [5_000_000]
        with pytest.raises(ChunkError, match="134217728 can: read a smaller part"):
            read_index(source, too_large)
        assert read_index(source, too_large, ((10, 20),)).address.tolist() == [MISSING] * 10


# ---------------------------------------------------------------------------------------------------------------------
# other writers


def h5py_storage(dataset: h5py.Dataset, base: int = 0, pipeline: FilterPipeline = NO_FILTERS) -> ChunkStorage:
    header = h5py.h5o.get_info(dataset.id).addr
    return ChunkStorage(dataset.shape, dataset.chunks, dataset.dtype, pipeline, header=header, base=base)


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
    with h5py.File(path) as file, opened(path) as source:
        storage = h5py_storage(file["a"], user_block)
        index = read_index(source, storage)
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
    with h5py.File(path) as file, opened(path) as source:
        index = read_index(source, h5py_storage(file["a"]))
        infos = [file["a"].id.get_chunk_info(i) for i in range(250)]
    assert index.address.tolist() == [info.byte_offset for info in infos]


# ---------------------------------------------------------------------------------------------------------------------
# the indexes of HDF5 1.10 and later, against `get_chunk_info`


def check_h5py(path: Path, name: str = "a", region: Region | None = None) -> ChunkIndex:
    """Read the index of a dataset and compare all of it with what HDF5 says."""
    with h5py.File(path) as file, opened(path) as source:
        dataset = file[name]
        storage = h5py_storage(dataset, file.userblock_size, pipeline_of(dataset))
        index = read_index(source, storage, region)
        part = tuple(slice(first, first + n) for first, n in zip(index.origin, index.address.shape, strict=True))
        address, size = np.zeros(storage.grid, np.uint64), np.zeros(storage.grid, np.uint32)
        mask = np.zeros(storage.grid, np.uint32)

        def note(info: Any) -> None:
            if info.byte_offset is None:
                return
            where = tuple(o // c for o, c in zip(info.chunk_offset, dataset.chunks, strict=True))
            if all(i < n for i, n in zip(where, storage.grid, strict=True)):
                address[where], size[where], mask[where] = info.byte_offset, info.size, info.filter_mask

        dataset.id.chunk_iter(note)
        box = tuple(slice(start, min(stop, start + 5000)) for start, stop in region or [(0, n) for n in storage.shape])
        values = dataset[box]
        found = np.empty_like(values)
        read_into(source, storage, index, box, found)
    np.testing.assert_array_equal(found, values)
    if is_counted_from_another_dimension(path, name):
        return index
    np.testing.assert_array_equal(index.address, address[part])
    np.testing.assert_array_equal(index.size, size[part])
    np.testing.assert_array_equal(index.filter_mask, mask[part])
    return index


def is_counted_from_another_dimension(path: Path, name: str) -> bool:
    """HDF5 says wrong coordinates of chunks in an extensible array whose unlimited dimension is not the first one."""
    with h5py.File(path) as file:
        maxshape = file[name].maxshape
    return kind_of(path, name) == "extensible array" and maxshape[0] is not None


def kind_of(path: Path, name: str = "a") -> str:
    with h5py.File(path) as file, opened(path) as source:
        index = File(source).dataset(h5py.h5o.get_info(file[name].id).addr).index
    assert index is not None
    return index.kind


def pipeline_of(dataset: h5py.Dataset) -> FilterPipeline:
    created = dataset.id.get_create_plist()
    return FilterPipeline(tuple(Filter(*created.get_filter(i)[0:3:2]) for i in range(created.get_nfilters())))


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("libver", ["v110", "latest"])
@pytest.mark.parametrize(
    ("shape", "chunks", "maxshape", "kind"),
    [
        ((10,), (10,), None, "single chunk"),
        ((10, 3), (10, 3), (10, 3), "single chunk"),
        ((10,), (3,), None, "fixed array"),
        ((7, 9), (3, 2), (20, 30), "fixed array"),
        ((50, 60), (1, 1), None, "fixed array"),  # with pages
        ((10,), (3,), (None,), "extensible array"),
        ((3000,), (1,), (None,), "extensible array"),
        ((5, 40, 6), (2, 1, 3), (9, None, 7), "extensible array"),
        ((5, 40), (2, 1), (None, 50), "extensible array"),
        ((7, 9), (3, 2), (None, None), "v2 B-tree"),
        ((40, 60), (1, 1), (None, None), "v2 B-tree"),
        ((3, 4, 5, 6), (1, 3, 2, 2), (None, 4, None, 6), "v2 B-tree"),
    ],
)
def test_indexes_equal_what_hdf5_says(
    tmp_path: Path, shape: Any, chunks: Any, maxshape: Any, kind: str, libver: Any, compression: str | None
) -> None:
    path = tmp_path / "a.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w", libver=(libver, libver), userblock_size=512) as file:
        dataset = file.create_dataset("a", shape, "i4", chunks=chunks, maxshape=maxshape, compression=compression)
        assert kind_of_empty(path, file)
        for _ in range(max(1, dataset.size // 200)):
            where = tuple(int(random.integers(0, n)) for n in shape)
            dataset[tuple(slice(i, i + 2) for i in where)] = random.integers(0, 9)
    assert kind_of(path) == kind
    index = check_h5py(path)
    assert np.count_nonzero(index.address)
    region = tuple(sorted(random.integers(0, n + 1, 2).tolist()) for n in shape)
    check_h5py(path, region=tuple((start, stop) for start, stop in region))


def kind_of_empty(path: Path, file: h5py.File) -> bool:
    """That an index without a chunk is read, too."""
    file.flush()
    with opened(path) as source:
        return not read_index(source, h5py_storage(file["a"], file.userblock_size)).address.any()


def test_chunks_that_lie_one_behind_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((2, 3))
        created.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple((7, 9), (11, 20))
        h5py.h5d.create(file.id, b"a", h5py.h5t.STD_I32LE, space, created)
        file["a"][...] = 1
    assert kind_of(path) == "implicit"
    assert np.count_nonzero(check_h5py(path).address) == 12
    check_h5py(path, region=((3, 7), (4, 5)))


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("maxshape", [None, (None,), (None, None)])
def test_chunks_of_gigabytes(tmp_path: Path, libver: str, maxshape: Any) -> None:
    """Their sizes need more than 31 bits; what is stored of them is short."""
    path = tmp_path / "a.h5"
    rank = len(maxshape or (1,))
    with h5py.File(path, "w", libver=libver) as file:
        dataset = file.create_dataset(
            "a", (3 << 30, 2)[:rank], "u1", chunks=(3 << 29, 2)[:rank], maxshape=maxshape, compression="gzip"
        )
        dataset.id.write_direct_chunk((3 << 29, 0)[:rank], b"stored")
    index = check_h5py(path)
    assert index.size.reshape(-1).tolist() == [0, 6]


@pytest.mark.parametrize("maxshape", [(None,), (None, None), (300, None)])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_after_growing_and_shrinking(tmp_path: Path, maxshape: Any, compression: str | None) -> None:
    path = tmp_path / "a.h5"
    rank = len(maxshape)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        dataset = file.create_dataset(
            "a", (50,) * rank, "i2", chunks=(4,) * rank, maxshape=maxshape, compression=compression
        )
        dataset[...] = 1
        dataset.resize((200,) * rank)
        dataset[150:] = 2
        dataset.resize((101,) * rank)
        dataset[70:90] = 3
        dataset.resize((103,) * rank)
    check_h5py(path)


def test_extensible_arrays_with_pages(tmp_path: Path) -> None:
    """Some hundred thousand elements: data blocks of more than 1024 are divided into pages, most never written."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        dataset = file.create_dataset("a", (300_000,), "i1", chunks=(1,), maxshape=(None,))
        for where in (0, 5, 131_055, 131_056, 131_057, 133_500, 200_123, 262_127, 262_128, 270_000, 299_999):
            dataset[where] = 1
        dataset[240_000:242_100] = 2
    index = check_h5py(path)
    assert np.count_nonzero(index.address) == 11 + 2100
    for start in (131_000, 240_500, 262_100, 299_100):
        check_h5py(path, region=((start, start + 900),))


def test_deep_v2_tree(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        dataset = file.create_dataset("a", (130, 110), "i1", chunks=(1, 1), maxshape=(None, None), compression="gzip")
        for row in reversed(range(130)):
            if row % 7:
                dataset[row] = row % 100
    index = check_h5py(path)
    assert np.count_nonzero(index.address) == 110 * sum(row % 7 > 0 for row in range(130))
    for region in (((50, 52), (0, 110)), ((0, 130), (3, 4)), ((7, 8), (9, 10)), ((8, 9), (9, 10)), ((5, 5), (0, 1))):
        check_h5py(path, region=region)


@pytest.mark.parametrize("maxshape", [(10, 10), (None, 10), (None, None), (7, 8), (10,), (None,), (7,), (9, None, 8)])
def test_chunks_at_the_edge_that_are_not_filtered(tmp_path: Path, maxshape: Any) -> None:
    path = tmp_path / "a.h5"
    library = ctypes.CDLL(h5py.h5p.__file__)
    shape, chunkshape = (7, 8, 5)[: len(maxshape)], (3, 4, 5)[: len(maxshape)]
    values = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk(chunkshape)
        created.set_deflate(4)
        assert library.H5Pset_chunk_opts(ctypes.c_int64(created.id), ctypes.c_uint(2)) >= 0
        space = h5py.h5s.create_simple(shape, tuple(n or h5py.h5s.UNLIMITED for n in maxshape))
        h5py.h5d.create(file.id, b"a", h5py.h5t.STD_I32LE, space, created)
        file["a"][...] = values
    with h5py.File(path) as file, opened(path) as source:
        index = read_index(source, h5py_storage(file["a"], 0, pipeline_of(file["a"])))
    assert not index.filter_mask[:2].any()
    assert (index.filter_mask[2] == 1).all()
    assert (index.size[2] == 4 * np.prod(chunkshape)).all()
    with xr.open_dataset(path, engine="pytables") as ds:
        np.testing.assert_array_equal(ds["a"].values, values)
        np.testing.assert_array_equal(ds["a"][5:].values, values[5:])


@examples(60)
@given(data=st.data())
def test_any_index_of_any_shape(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rank = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(rank))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    maxshape = tuple(data.draw(st.sampled_from([n, n + 5, None])) for n in shape)
    libver = data.draw(st.sampled_from(["earliest", "v108", "v110", "latest"]))
    filters = data.draw(st.sampled_from([{}, {"compression": "gzip"}, {"fletcher32": True, "shuffle": True}]))
    path = tmp_path_factory.mktemp("index") / "a.h5"
    with h5py.File(path, "w", libver=(libver, "latest")) as file:
        dataset = file.create_dataset("a", shape, "i4", chunks=chunks, maxshape=maxshape, **filters)
        for _ in range(data.draw(st.integers(0, 4))):
            extent = tuple(
                data.draw(st.integers(1, n + 5 if most is None else most))
                for n, most in zip(shape, maxshape, strict=True)
            )
            dataset.resize(extent)
            where = tuple(slice(i, i + 3) for i in (data.draw(st.integers(0, n - 1)) for n in extent))
            dataset[where] = 7
        extent = dataset.shape
    check_h5py(path)
    check_h5py(path, region=tuple(tuple(sorted(data.draw(st.tuples(*[st.integers(0, n + 2)] * 2)))) for n in extent))


def test_all_of_it_from_any_source(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        dataset = file.create_dataset("a", (50,), "i4", chunks=(4,), maxshape=(None,), compression="gzip")
        dataset[...] = 1
        storage = h5py_storage(dataset)
    with opened(path) as source:
        expected = read_index(source, storage)
    found = read_index(Buffer(path.read_bytes()), storage)
    np.testing.assert_array_equal(found.address, expected.address)


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
        with opened(path) as source:
            try:
                index = read_index(source, storage)
            except ChunkError:
                errors += 1
            else:
                assert index.address.shape == (300, 1)
    assert errors > 60


def damaged(small: tuple[Path, ChunkStorage], change: Any) -> str:
    path, storage = small
    data = bytearray(path.read_bytes())
    with opened(path) as source:
        index = File(source).dataset(storage.header).index
    assert index is not None
    root = index.address
    change(data, root)
    path.write_bytes(data)
    with opened(path) as source, pytest.raises(ChunkError) as caught:
        read_index(source, storage)
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


@pytest.mark.parametrize("bit", range(0, 64, 5))
def test_a_flipped_bit_in_the_place_of_any_chunk_is_found(small: tuple[Path, ChunkStorage], bit: int) -> None:
    """These trees have no checksum, and a chunk at another place would leave a gap, which reads as the fill value."""
    path, storage = small
    original = path.read_bytes()
    leaves = [i for i in range(len(original)) if original.startswith(b"TREE\x01\0", i)]
    found = 0
    for leaf in leaves:
        used = int.from_bytes(original[leaf + 6 : leaf + 8], "little")
        for entry in range(used):
            data = bytearray(original)
            data[leaf + 24 + ENTRY * entry + 8 + 16 * (entry % 3 == 2) + bit // 8] ^= 1 << bit % 8
            with pytest.raises(ChunkError, match=r"not in order|begins between two chunks"):
                read_index(Buffer(data), storage)
            found += 1
    assert found == 300


def test_another_chunkshape_than_described(small: tuple[Path, ChunkStorage]) -> None:
    path, storage = small
    other = ChunkStorage(storage.shape, (2, 4), storage.dtype, header=storage.header)
    with opened(path) as source, pytest.raises(ChunkError, match=r"has chunks of \(1, 4\) .* expected \(2, 4\)"):
        read_index(source, other)


def test_an_address_of_zero_is_damage_and_no_missing_chunk(small: tuple[Path, ChunkStorage]) -> None:
    path, storage = small
    with opened(path) as source:
        index = read_index(source, storage)
    data, address = path.read_bytes(), int(index.address[7, 0])
    for bad in (0, 2**64 - 1, 2**64 - 2):
        path.write_bytes(data.replace(struct.pack("<Q", address), struct.pack("<Q", bad)))
        with opened(path) as source:
            found = read_index(source, storage)
        assert int(found.address[7, 0]) >= DAMAGED - 1
        np.testing.assert_array_equal(np.delete(found.address, 7), np.delete(index.address, 7))


@pytest.mark.parametrize(
    ("shape", "chunks", "maxshape"),
    [
        ((60, 70), (1, 1), None), ((9,), (2,), None), ((200,), (1,), (None,)), ((5000,), (1,), (None,)),
        ((40, 40), (1, 1), (None, None)),
    ],
)  # fmt: skip
def test_damage_of_newer_indexes_is_found_by_their_checksums(
    tmp_path: Path, shape: Any, chunks: Any, maxshape: Any
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.create_dataset("a", data=np.ones(shape, "i1"), chunks=chunks, maxshape=maxshape)
        storage = h5py_storage(file["a"])
    original = path.read_bytes()
    whole = read_index(Buffer(original), storage)
    blocks = [b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EASB", b"EADB", b"BTHD", b"BTIN", b"BTLF"]
    places = [i for name in blocks for i in range(len(original)) if original.startswith(name, i)]
    assert len(places) > 1
    random = np.random.default_rng(0)
    for place in places:
        for at in (0, 4, 5, 6, 9, int(random.integers(10, 30))):
            data = bytearray(original)
            data[place + at] ^= int(random.choice([1, 2, 64, 128, 255]))
            try:
                found = read_index(Buffer(bytes(data)), storage)
            except ChunkError:
                continue
            # a byte behind the block, or of one that is not used
            np.testing.assert_array_equal(found.address, whole.address)
    for _ in range(200):
        data = bytearray(original)
        for place in random.choice(places, 3):
            data[int(place) + int(random.integers(0, 60))] = int(random.choice([0, 1, 255]))
        cut = data[: len(data) - int(random.integers(0, 3000)) * int(random.integers(0, 2))]
        with suppress(ChunkError):
            assert read_index(Buffer(bytes(cut)), storage).address.shape == whole.address.shape


def with_checksums(data: bytearray, place: int, size: int) -> None:
    struct.pack_into("<I", data, place + size - 4, lookup3(bytes(data[place : place + size - 4])))


def test_damage_behind_a_right_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, maxshape in (("f", None), ("e", (None,))):
            file.create_dataset(name, data=np.ones(500, "i1"), chunks=(1,), maxshape=maxshape)
        file.create_dataset("b", data=np.ones((20, 20), "i1"), chunks=(1, 1), maxshape=(None, None))
        storages = {name: h5py_storage(file[name]) for name in file}
    original = path.read_bytes()

    def message(name: str, signature: bytes, size: int, at: int, value: bytes) -> str:
        data = bytearray(original)
        place = data.index(signature)
        data[place + at : place + at + len(value)] = value
        with_checksums(data, place, size)
        with pytest.raises(ChunkError) as caught:
            read_index(Buffer(bytes(data)), storages[name])
        return str(caught.value)

    assert "has version 1" in message("f", b"FAHD", 28, 4, b"\1")
    assert "elements of 9 bytes" in message("f", b"FAHD", 28, 6, b"\x09")
    assert "beyond the end" in message("f", b"FAHD", 28, 8, b"\xff" * 7)
    assert "no library writes" in message("e", b"EAHD", 72, 9, b"\3")
    assert "the checksum is" in message("e", b"EAHD", 72, 8, b"\xff")
    assert "records of type 9" in message("b", b"BTHD", 38, 5, b"\x09")
    assert "on 200 levels" in message("b", b"BTHD", 38, 12, b"\xc8")
    assert "is said to have 999 records" in message("b", b"BTHD", 38, 24, struct.pack("<H", 999))
    assert "the checksum is" in message("b", b"BTHD", 38, 12, b"\x02")

    # what libhdf5 notices as well: a block of another array, fewer elements than chunks, chunks out of order
    assert "has 499 elements, and the chunk 499" in message("f", b"FAHD", 28, 8, struct.pack("<Q", 499))
    for name, signature in (("f", b"FADB"), ("e", b"EAIB"), ("e", b"EASB"), ("e", b"EADB")):
        place = original.index(signature)
        other = struct.pack("<Q", place)  # the header of none
        assert "belongs to another array" in message(name, signature, size_of(original, place), 6, other)
    moved = [(b"BTIN", 0, 0), (b"BTIN", 0, 1000), (b"BTLF", 0, 1000), (b"BTLF", 3, 0), (b"BTLF", 8, 1000)]
    for signature, record, row in moved:  # where a chunk is stands behind its address
        size, place = size_of(original, original.index(signature)), 6 + 24 * record + 8
        changed = message("b", signature, size, place, struct.pack("<QQ", row, 0))
        assert "the chunks of the B-tree are not in order" in changed


def size_of(data: bytes, place: int) -> int:
    """Bytes of a block, its checksum at the end included."""
    ends = range(14, len(data) - place)
    return next(end + 4 for end in ends if data[place + end :][:4] == struct.pack("<I", lookup3(data[place:][:end])))
