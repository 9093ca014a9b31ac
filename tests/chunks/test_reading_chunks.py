"""Selections read past HDF5, against what plain PyTables reads."""

from __future__ import annotations

import gc
import itertools
import math
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.chunks import codecs, decoder, dense, libblosc2, reading, scatter, team
from xr_pytables.chunks.decoder import ChunkDecoder
from xr_pytables.chunks.dense import Dense
from xr_pytables.chunks.filters import BLOSC, BLOSC2, Filter, FilterPipeline
from xr_pytables.chunks.index import ChunkIndex, ChunkStorage, bounding_region, plan_selection
from xr_pytables.chunks.reading import read_contiguous, read_into, read_points
from xr_pytables.errors import ChunkError
from xr_pytables.hdf5.chunk_indexes import read_index
from xr_pytables.sources.local import LocalFile

from ..helpers_properties import examples
from ..helpers_reading import described
from ..helpers_threads import WATCHDOG, gives_way_in

COMPLIBS = [
    "zlib", "bzip2", "blosc", "blosc:blosclz", "blosc:lz4", "blosc:lz4hc", "blosc:zlib", "blosc:zstd",
    "blosc2:blosclz", "blosc2:lz4", "blosc2:lz4hc", "blosc2:zlib", "blosc2:zstd",
]  # fmt: skip
DTYPES = ["i1", "u2", "<i4", ">i4", "i8", "u8", "f2", "<f4", ">f4", "f8", ">f8", "c8", "c16", "bool", "S3", "g"]


def storage_of(leaf: Any) -> ChunkStorage:
    """What the nodes' side of the package hands over, taken from a PyTables leaf."""
    atom = leaf.atom
    dtype = atom.dtype.base.newbyteorder({"little": "<", "big": ">"}.get(leaf.byteorder, "="))
    chunked = leaf.chunkshape is not None
    info = described(leaf)
    return ChunkStorage(
        shape=tuple(map(int, leaf.shape)) + atom.shape,
        chunkshape=tuple(map(int, leaf.chunkshape)) + atom.shape if chunked else None,
        dtype=dtype,
        pipeline=info.filters,
        header=info.address,
        base=leaf._v_file.get_userblock_size(),
        offset=info.offset,
        fill=np.full(atom.shape, atom.dflt, atom.dtype.base).astype(dtype).tobytes() if chunked else b"",
        rank=len(leaf.shape),
    )


class Opened:
    """A leaf read by PyTables, and everything needed to read it without."""

    def __init__(self, path: Path, node: str = "/a") -> None:
        with tables.open_file(path) as file:
            leaf = file.get_node(node)
            self.storage = storage_of(leaf)
            self.expected: np.ndarray = np.array(leaf.read())
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self.dtype = self.storage.dtype.newbyteorder("=")

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.fd)

    @property
    def source(self) -> LocalFile:
        return LocalFile(self.fd, str(self.path))

    def index(self) -> ChunkIndex:
        return read_index(self.source, self.storage)

    def read(self, selection: tuple[Any, ...] = (), **options: Any) -> np.ndarray:
        out = np.empty(outer(self.expected, selection).shape, self.dtype)
        out.reshape(-1).view(np.uint8)[...] = 0xA5
        if self.storage.chunkshape is None:
            read_contiguous(self.source, self.storage, selection, out, **options)
        else:
            index = read_index(
                self.source, self.storage, bounding_region(self.storage, plan_selection(self.storage, selection))
            )
            read_into(self.source, self.storage, index, selection, out, **options)
        return out


def outer(array: np.ndarray, selection: tuple[Any, ...]) -> np.ndarray:
    """NumPy's outer indexing: each index on its own axis, integers dropped at the end."""
    for axis, one in enumerate(selection):
        array = array[(slice(None),) * axis + ([one] if np.ndim(one) == 0 and not isinstance(one, slice) else one,)]
    return array[tuple(0 if np.ndim(one) == 0 and not isinstance(one, slice) else slice(None) for one in selection)]


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 90, shape)
    if dtype.startswith("S"):
        return numbers.astype(dtype)
    return numbers.astype(np.dtype(dtype).newbyteorder("=")) if dtype != "bool" else numbers > 45


def make(
    path: Path,
    array: np.ndarray,
    chunkshape: tuple[int, ...],
    filters: tables.Filters | None = None,
    *,
    byteorder: str | None = None,
    written: slice = slice(None),
    atom_rank: int = 0,
    user_block: int = 0,
    fill: Any = None,
) -> Path:
    rank = array.ndim - atom_rank
    atom = tables.Atom.from_dtype(np.dtype((array.dtype, array.shape[rank:])), dflt=fill)
    with tables.open_file(path, "w", user_block_size=user_block) as file:
        leaf = file.create_carray(
            "/", "a", atom, array.shape[:rank], filters=filters, chunkshape=chunkshape, byteorder=byteorder
        )
        leaf[written] = array[written]
    return path


def selections(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    def one(length: int) -> st.SearchStrategy[Any]:
        slices = st.builds(
            slice,
            st.none() | st.integers(0, length),
            st.none() | st.integers(0, length),
            st.none() | st.integers(1, length + 1),
        )
        if not length:
            return slices
        arrays = st.lists(st.integers(-length, length - 1), max_size=8).map(lambda chosen: np.array(chosen, np.int64))
        return st.one_of(slices, st.just(slice(None)), st.integers(-length, length - 1), arrays)

    return st.integers(0, len(shape)).flatmap(lambda rank: st.tuples(*(one(length) for length in shape[:rank])))


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.lists(st.integers(1, 14), min_size=rank, max_size=rank)))
    chunkshape = tuple(draw(st.integers(1, length + 3)) for length in shape)
    atom = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    dtype = draw(st.sampled_from(DTYPES))
    level = draw(st.sampled_from([0, 1, 5, 9]))
    complib = draw(st.sampled_from(COMPLIBS))
    shuffle = draw(st.sampled_from(["none", "shuffle", "bitshuffle"] if "blosc" in complib else ["none", "shuffle"]))
    return {
        "shape": shape, "chunkshape": chunkshape, "atom": atom, "dtype": dtype,
        "filters": tables.Filters(
            level, complib, shuffle=shuffle == "shuffle", bitshuffle=shuffle == "bitshuffle" and level > 0,
            fletcher32=draw(st.booleans()),
        ),
        "written": draw(st.sampled_from([slice(None), slice(0, 0), slice(None, None, 2), slice(3, 8)])),
        "user_block": draw(st.sampled_from([0, 0, 512, 2048])),
    }  # fmt: skip


@examples(100)
@given(layout=layouts(), data=st.data())
def test_any_selection_of_any_layout_equals_pytables(
    layout: dict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dtype = np.dtype(layout["dtype"])
    array = values(layout["shape"] + layout["atom"], layout["dtype"])
    path = make(
        tmp_path_factory.mktemp("layout") / "a.h5",
        array,
        layout["chunkshape"],
        layout["filters"],
        byteorder="big" if dtype.byteorder == ">" else None,
        written=layout["written"],
        atom_rank=len(layout["atom"]),
        user_block=layout["user_block"],
        fill=None if dtype.kind in "Sb" else 7,
    )
    with Opened(path) as opened:
        assert codecs.why_not(opened.storage.pipeline) is None
        np.testing.assert_array_equal(opened.read(), opened.expected)
        for _ in range(3):
            selection = data.draw(selections(array.shape))
            threads = data.draw(st.sampled_from([None, 1, 2]))
            np.testing.assert_array_equal(opened.read(selection, threads=threads), outer(opened.expected, selection))
        count = data.draw(st.integers(0, 20))
        points = [data.draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count)) for n in array.shape]
        where = [np.array(axis, np.int64) for axis in points]
        out = np.empty(count, opened.dtype)
        read_points(opened.source, opened.storage, opened.index(), where, out)
        np.testing.assert_array_equal(out, opened.expected[tuple(where)])


@examples(100)
@given(shape=st.lists(st.integers(0, 12), max_size=4).map(tuple), data=st.data())
def test_any_selection_of_a_contiguous_array_equals_pytables(
    shape: tuple[int, ...], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    array = values(shape, data.draw(st.sampled_from(DTYPES)))
    path = tmp_path_factory.mktemp("contiguous") / "a.h5"
    with tables.open_file(path, "w", user_block_size=data.draw(st.sampled_from([0, 512]))) as file:
        if math.prod(shape):
            file.create_array("/", "a", array, byteorder=data.draw(st.sampled_from([None, "big"])))
        else:
            file.create_carray("/", "a", tables.Atom.from_dtype(array.dtype), (1,))
    with Opened(path) as opened:
        selection = data.draw(selections(opened.storage.shape))
        np.testing.assert_array_equal(opened.read(selection), outer(opened.expected, selection))


@pytest.mark.parametrize(
    "limits",
    [(1, 1, 8, 1, 16), (4, 64, 64, 4, 1), (4, 64, 64, 1 << 9, 0), (1 << 15, 1 << 18, 1 << 23, 1 << 9, 1 << 13)],
)
@examples(100)
@given(data=st.data())
def test_each_way_of_reading_raw_data_gives_the_same(
    limits: tuple[int, int, int, int, int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Small limits drive small arrays through the code for large ones: runs, slabs, rows, single elements."""
    shape = tuple(data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from(["u1", "<f4", ">f4"]))
    array = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    path = tmp_path_factory.mktemp("raw") / "raw"
    path.write_bytes(b"x" * 13 + array.tobytes())
    storage = ChunkStorage(shape, None, array.dtype, offset=13)
    selection = data.draw(selections(shape))
    expected = outer(array, selection)
    strided = np.zeros((*expected.shape, 2), array.dtype.newbyteorder("="))
    within = np.zeros([length + 2 for length in expected.shape], array.dtype.newbyteorder("="))
    middle = within[(*(slice(1, -1) for _ in expected.shape), ...)]
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        for name, limit in zip(("_SKIP", "_SLAB", "_PIECE", "_ROW", "_NEAR"), limits, strict=True):
            patch.setattr(dense, name, limit)
        patch.setattr(dense, "_SHORT", data.draw(st.sampled_from([0, 1 << 12])))
        out = np.empty(expected.shape, array.dtype.newbyteorder("="))
        for target in (out, strided[..., 0], middle):
            read_contiguous(LocalFile(file.fileno(), "raw"), storage, selection, target)
            np.testing.assert_array_equal(target, expected)
    assert not strided[..., 1].any()
    middle[...] = 0
    assert not within.any()  # nothing was written beside the places


def test_enlarged_and_truncated_earray(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_earray("/", "a", tables.Int32Atom(dflt=-1), (0, 7), chunkshape=(4, 3))
        for i in range(9):
            leaf.append(np.full((3, 7), i, "i4"))
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read(), opened.expected)
    with tables.open_file(path, "a") as file:
        file.root.a.truncate(10)
    with Opened(path) as opened:
        assert opened.expected.shape == (10, 7)
        np.testing.assert_array_equal(opened.read(), opened.expected)
        assert opened.index().address.shape == (3, 3)
    with tables.open_file(path, "a") as file:
        file.root.a.truncate(15)
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read(), opened.expected)


def test_missing_chunk_gives_fill_value(tmp_path: Path) -> None:
    array = values((20, 20), "f8")
    path = make(tmp_path / "a.h5", array, (5, 5), written=slice(0, 5), fill=3.25)
    with Opened(path) as opened:
        assert (opened.read()[5:] == 3.25).all()
        assert (opened.read((slice(10, 12),)) == 3.25).all()
        out = np.empty(2)
        read_points(opened.source, opened.storage, opened.index(), [np.array([19, 0]), np.array([1, 1])], out)
        np.testing.assert_array_equal(out, [3.25, array[0, 1]])


@pytest.mark.parametrize("complib", ["zlib", "blosc:lz4", "blosc2:zstd"])
def test_filter_masks_may_differ_between_the_chunks_of_a_leaf(tmp_path: Path, complib: str) -> None:
    array = values((4000,), "i4")
    filters = tables.Filters(5, complib, fletcher32=True)
    path = make(tmp_path / "a.h5", array, (1000,), filters)
    with tables.open_file(path, "a") as file:
        leaf, pipeline = file.root.a, described(file.root.a).filters
        everything = (1 << len(pipeline.filters)) - 1
        leaf.write_chunk((1000,), (array[1000:2000] + 1).tobytes(), filter_mask=everything)
        part = FilterPipeline(pipeline.filters[-1:])  # the checksum alone
        chunk = codecs.ChunkType((1000,), np.dtype("i4"))
        data, mask = codecs.encode_chunk((array[2000:3000] + 2).view("u1"), part, chunk)
        assert mask == 0
        leaf.write_chunk((2000,), bytes(data), filter_mask=everything >> 1)
    with Opened(path) as opened:
        assert len(np.unique(opened.index().filter_mask)) == 3
        np.testing.assert_array_equal(opened.expected[1000:2000], array[1000:2000] + 1)
        np.testing.assert_array_equal(opened.read(), opened.expected)
        np.testing.assert_array_equal(opened.read((slice(1300, 1305),)), opened.expected[1300:1305])


def test_incompressible_chunks_that_pytables_stored_unfiltered(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    random[:16] = 1
    path = make(tmp_path / "a.h5", random, (16, 64), tables.Filters(9, "blosc:lz4"))
    with Opened(path) as opened:
        assert opened.index().filter_mask.reshape(-1).tolist() == [0, 1, 1, 1]
        np.testing.assert_array_equal(opened.read(), random)
        np.testing.assert_array_equal(opened.read((slice(None), np.array([5, 60]))), random[:, [5, 60]])


TEST_DATA = Path(tables.__file__).parent / "tests"


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("b2nd-no-chunkshape.h5", None), ("smpl_f64be.h5", "/TestArray"), ("smpl_i32le.h5", "/TestArray"),
        ("smpl_SDSextendible.h5", "/ExtendibleArray"), ("array_mdatom.h5", None),
    ],
)  # fmt: skip
def test_files_of_other_writers_and_versions(name: str, node: str | None) -> None:
    path = TEST_DATA / name
    if not path.exists():
        pytest.skip("this PyTables has no test data")
    with tables.open_file(path) as file:
        nodes = [node] if node else [leaf._v_pathname for leaf in file.walk_nodes("/", "Array")]
    for one in nodes:
        with Opened(path, one) as opened:
            np.testing.assert_array_equal(opened.read(), opened.expected)


@pytest.mark.parametrize("complib", ["blosc2:zstd", "blosc:lz4", "zlib"])
def test_rows_of_a_table(tmp_path: Path, complib: str) -> None:
    rows = np.zeros(1000, np.dtype([("n", "<i4"), ("x", "<f8"), ("name", "S5")]))
    rows["n"], rows["x"], rows["name"] = np.arange(1000), np.arange(1000) / 3, b"abc"
    path = tmp_path / "a.h5"
    with tables.open_file(path, "w") as file:
        file.create_table("/", "t", obj=rows, chunkshape=300, filters=tables.Filters(5, complib, fletcher32=True))
    with tables.open_file(path) as file:
        leaf = file.root.t
        info = described(leaf)
        storage = ChunkStorage((1000,), (300,), rows.dtype, info.filters, info.address)
    with path.open("rb") as stream:
        index = read_index(LocalFile(stream.fileno(), "raw"), storage)
        for selection in (slice(None), slice(310, 320), np.array([999, 3, 3])):
            out = np.empty(len(rows[selection]), rows.dtype)
            read_into(LocalFile(stream.fileno(), "raw"), storage, index, (selection,), out)
            np.testing.assert_array_equal(out, rows[selection])


def test_structured_output_in_native_order(tmp_path: Path) -> None:
    rows = np.zeros(50, np.dtype([("n", ">i4"), ("x", ">f8")]))
    rows["n"] = np.arange(50)
    path = tmp_path / "raw"
    path.write_bytes(rows.tobytes())
    out = np.empty(50, rows.dtype.newbyteorder("="))
    with path.open("rb") as stream:
        read_contiguous(LocalFile(stream.fileno(), "raw"), ChunkStorage((50,), None, rows.dtype, offset=0), (), out)
    np.testing.assert_array_equal(out["n"], rows["n"])


# ---------------------------------------------------------------------------------------------------------------------
# fast paths are taken


def test_a_whole_chunk_is_decoded_into_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = values((32, 64), "f4")
    path = make(tmp_path / "a.h5", array, (8, 64), tables.Filters(1, "blosc:lz4"))
    with Opened(path) as opened:
        out = np.empty(array.shape, "f4")
        seen = []
        decompress = libblosc2.decompress

        def watched(data: np.ndarray, target: np.ndarray) -> None:
            seen.append(np.may_share_memory(target, out))
            decompress(data, target)

        monkeypatch.setattr(libblosc2, "decompress", watched)
        read_into(opened.source, opened.storage, opened.index(), (), out)
        assert seen == [True] * 4


def test_only_the_touched_blocks_of_a_b2nd_chunk_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (512, 512)).astype("f8")
    path = make(tmp_path / "a.h5", array, (512, 512), tables.Filters(5, "blosc2:lz4"))
    numbers: list[int] = []
    tiles = libblosc2._tiles

    def watched(*arguments: Any) -> Iterator[Any]:
        for tile in tiles(*arguments):
            numbers.append(tile[0])
            yield tile

    monkeypatch.setattr(libblosc2, "_tiles", watched)
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read((slice(3, 5), 100)), array[3:5, 100])
        assert set(numbers) == {0}
        numbers.clear()
        opened.read()
        assert numbers == [0, 1, 2, 3]


def test_no_more_of_a_hostile_metalayer_is_kept_than_it_can_need(monkeypatch: pytest.MonkeyPatch) -> None:
    def header(rank: int) -> bytes:
        arrays = [bytes([0x90 + rank]) + (mark + bytes(size - 1) + b"\2") * rank for mark, size in
                  ((b"\xd3", 8), (b"\xd2", 4), (b"\xd2", 4))]  # fmt: skip
        layer = bytes([0x97, 0, rank]) + b"".join(arrays) + bytes(1 << 20)
        mark = b"\xa4b2nd\xd2"
        return mark + (len(mark) + 4).to_bytes(4, "big") + b"\xc6" + len(layer).to_bytes(4, "big") + layer

    original, lengths = libblosc2._shapes_of_layer, []

    def watched(layer: bytes) -> Any:
        lengths.append(len(layer))
        return original(layer)

    monkeypatch.setattr(libblosc2, "_shapes_of_layer", watched)
    assert libblosc2._b2nd_shapes(header(15)) == ((2,) * 15, (2,) * 15)
    assert lengths == [3 + 3 + 15 * 19]
    with pytest.raises(ValueError, match="16 dimensions"):
        libblosc2._b2nd_shapes(header(16))


def test_only_the_touched_blocks_of_a_b2nd_chunk_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (1024, 1024)).astype("f8")
    path = make(tmp_path / "a.h5", array, (1024, 1024), tables.Filters(5, "blosc2:lz4"))
    count = 0
    original = LocalFile.read_into

    def watched(source: LocalFile, buffer: np.ndarray, offset: int) -> int:
        nonlocal count
        count += buffer.size
        return original(source, buffer, offset)

    monkeypatch.setattr(LocalFile, "read_into", watched)
    with Opened(path) as opened:
        size = int(opened.index().size[0, 0])
        for selection in ((slice(3, 5), 100), (1023, slice(900, 1024)), (np.array([5, 9]), np.array([700, 600]))):
            count = 0
            np.testing.assert_array_equal(opened.read(selection), outer(array, selection))
            assert count < size / 8


@pytest.mark.parametrize("complib", ["blosc:lz4", "blosc2:lz4"])
def test_only_a_part_of_a_blosc_chunk_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complib: str) -> None:
    array = values((100_000,), "i4")
    path = make(tmp_path / "a.h5", array, (100_000,), tables.Filters(5, complib, fletcher32=True))
    sizes: list[int] = []
    part = libblosc2.decompress_part

    def watched(data: Any, header: Any, start: int, out: np.ndarray) -> None:
        sizes.append(out.size)
        part(data, header, start, out)

    monkeypatch.setattr(libblosc2, "decompress_part", watched)
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read((slice(500, 600),)), array[500:600])
    assert sizes == [400]


@pytest.mark.parametrize("blosc2", [False, True])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 5, 6, 8, 12, 15, 16])
@pytest.mark.parametrize("dtype", ["u1", "<f2", "S3", "<f8", "V16"])
def test_items_of_blosc_need_not_be_elements(dtype: str, typesize: int, blosc2: bool) -> None:
    raw = np.random.default_rng(0).integers(0, 3, 240 * 48, "u1")
    array = raw.view(dtype)
    if blosc2:
        settings = libblosc2.Compression(1, 5, 1, typesize)
        stored, filters = libblosc2.compress_frame(raw, settings, ()), FilterPipeline((Filter(BLOSC2),))
    else:
        encoded = numcodecs.blosc.compress(raw.view(f"V{typesize}"), b"lz4", 5, 1)
        stored, filters = np.frombuffer(encoded, np.uint8), FilterPipeline((Filter(BLOSC),))
    decoder = ChunkDecoder(ChunkStorage(array.shape, array.shape, array.dtype, filters))
    nothing = np.empty(0, np.uint8)
    for start, stop in ((0, 1), (1, 2), (5, 6), (7, 20), (len(array) - 1, len(array)), (3, len(array))):
        part = decoder.fetch(stored, 0, ((start, stop),), codecs.Workspace(), nothing)
        assert part.tobytes() == array[start:stop].tobytes()


def test_neighbours_are_read_together_and_each_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = values((4096,), "i4")
    path = make(tmp_path / "a.h5", array, (16,), tables.Filters(1, "zlib"))
    with Opened(path) as opened:
        index, calls = opened.index(), []
        original = LocalFile.read_into

        def watched(source: LocalFile, buffer: np.ndarray, offset: int) -> int:
            calls.append((offset, offset + buffer.size))
            return original(source, buffer, offset)

        monkeypatch.setattr(LocalFile, "read_into", watched)
        out = np.empty(4096, "i4")
        read_into(opened.source, opened.storage, index, (), out)
        np.testing.assert_array_equal(out, array)
        assert len(calls) < 64
        calls.clear()
        chosen = np.random.default_rng(0).integers(0, 4096, 500)
        out = np.empty(500, "i4")
        read_into(opened.source, opened.storage, index, (chosen,), out)
        np.testing.assert_array_equal(out, array[chosen])
        spans = sorted(calls)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_a_column_of_a_large_contiguous_array_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, shape = tmp_path / "raw", (300, 50_000)
    with path.open("wb") as file:
        file.truncate(math.prod(shape) * 4)
    count = 0
    original = LocalFile.read_many

    def watched(source: LocalFile, ranges: list[tuple[int, int]]) -> list[bytes]:
        nonlocal count
        count += sum(size for _, size in ranges)
        return original(source, ranges)

    monkeypatch.setattr(LocalFile, "read_many", watched)
    monkeypatch.setattr(dense, "_AT_ONCE", 70)
    storage = ChunkStorage(shape, None, np.dtype("<f4"), offset=0)
    with path.open("r+b") as file:
        file.seek((50_000 * 123 + 7) * 4)
        file.write(np.float32(5).tobytes())
        file.flush()
        out = np.empty(300, "f4")
        read_contiguous(LocalFile(file.fileno(), "raw"), storage, (slice(None), 7), out)
        assert count == out.nbytes
        assert out[123] == 5
        assert np.count_nonzero(out) == 1
        longer = Dense(LocalFile(file.fileno(), "raw"), 0, np.dtype("<f4"), (301, 50_000), "x")
        with pytest.raises(ChunkError, match="x: the file ends before"):
            longer.read([slice(0, 301), slice(7, 8)], np.empty((301, 1), "f4"))


@pytest.mark.skipif(not scatter.available(), reason="the system has no preadv")
def test_rows_of_raw_chunks_go_straight_to_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole chunks and those at the edge, more rows than one call takes, without a copy in between."""
    array = np.random.default_rng(0).integers(0, 1 << 30, (7, 1100, 350), "i4")
    path = make(tmp_path / "a.h5", array, (3, 500, 200))
    rows = 0
    original = scatter.read_rows

    def watched(fd: int, starts: np.ndarray, places: np.ndarray, size: int) -> int:
        nonlocal rows
        rows += len(starts)
        assert size in (800, 600, 788)
        return original(fd, starts, places, size)

    monkeypatch.setattr(scatter, "read_rows", watched)
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read(()), array)
        assert rows == 7 * 1100 * 2
        box = (slice(2, 6), slice(17, 1050), slice(3, 350))
        np.testing.assert_array_equal(opened.read(box), array[box])


@pytest.mark.skipif(not scatter.available(), reason="the system has no preadv")
@pytest.mark.parametrize("gives", [0, -1, 1234])
def test_rows_that_the_system_does_not_give_at_once_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives: int
) -> None:
    array = np.random.default_rng(0).integers(0, 1 << 30, (900, 400), "i4")
    path = make(tmp_path / "a.h5", array, (400, 150))
    monkeypatch.setattr(scatter, "_preadv", lambda: lambda fd, vector, count, offset: gives)
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read(()), array)
    monkeypatch.setattr(scatter, "_preadv", lambda: None)
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read(()), array)


@pytest.mark.parametrize("dtype", ["S600", "V600"])
def test_large_elements_that_are_read_one_by_one_reach_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    values = np.arange(6 * 600, dtype="u2").view("u1")[: 6 * 600].view(dtype)
    path = tmp_path / "raw"
    path.write_bytes(values.tobytes())
    monkeypatch.setattr(scatter, "read_rows", lambda *arguments: 0)
    out = np.zeros((6, 2), dtype)
    with path.open("rb") as file:
        Dense(LocalFile(file.fileno(), "raw"), 0, values.dtype, (6,), "x").read([slice(0, 6)], out[:, 0])
    np.testing.assert_array_equal(out[:, 0], values)
    assert not out[:, 1].tobytes().strip(b"\0")


def test_short_reads_of_few_bytes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(200 * 20_000, dtype="i4").reshape(200, 20_000)
    path = tmp_path / "raw"
    array.tofile(path)
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, offset: original(fd, 1, offset))
    out = np.empty(200, "i4")
    with path.open("rb") as file:
        read_contiguous(
            LocalFile(file.fileno(), "raw"),
            ChunkStorage(array.shape, None, array.dtype, offset=0),
            (slice(None), 7),
            out,
        )
    np.testing.assert_array_equal(out, array[:, 7])


def test_rows_end_where_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(range(256)) * 5)
    out = np.zeros((4, 200), "u1")
    starts = np.array([0, 256, 100_000, 1200])
    places = out.__array_interface__["data"][0] + np.arange(4) * 200
    with path.open("rb") as file:
        assert scatter.read_rows(file.fileno(), starts[:2], places[:2], 200) == (2 if scatter.available() else 0)
        assert scatter.read_rows(file.fileno(), starts, places, 200) <= 2
        short = Dense(LocalFile(file.fileno(), "raw"), 0, np.dtype("u1"), (8, 256), "x")
        with pytest.raises(ChunkError, match="the file ends before"):
            short.read([slice(0, 8), slice(0, 256)], np.empty((8, 1000), "u1")[:, :256])
    if scatter.available():
        np.testing.assert_array_equal(out[:2], np.tile(np.arange(200, dtype="u1"), (2, 1)))


# ---------------------------------------------------------------------------------------------------------------------
# damaged files


def damaged(path: Path, where: int, change: Callable[[int], int]) -> None:
    data = bytearray(path.read_bytes())
    data[where] = change(data[where])
    path.write_bytes(data)


@pytest.mark.parametrize("complib", ["none", *COMPLIBS])
def test_damage_is_found_by_the_checksum(tmp_path: Path, complib: str) -> None:
    array = values((60, 50), "i4")
    filters = tables.Filters(0 if complib == "none" else 5, None if complib == "none" else complib, fletcher32=True)
    path = make(tmp_path / "a.h5", array, (30, 25), filters)
    with Opened(path) as opened:
        index = opened.index()
        random = np.random.default_rng(0)
        for _ in range(40):
            i = tuple(int(random.integers(n)) for n in index.address.shape)
            where = int(index.address[i]) + int(random.integers(index.size[i]))
            original = path.read_bytes()
            damaged(path, where, lambda old: old ^ 1 << int(random.integers(8)))
            with pytest.raises(ChunkError, match=r"a\.h5:/a: chunk at \((0|30), (0|25)\): fletcher32") as caught:
                opened.read(label="a.h5:/a")
            assert "damaged" in str(caught.value)
            path.write_bytes(original)
        np.testing.assert_array_equal(opened.read(), array)


def test_damage_without_checksum_raises_or_changes_values_but_never_crashes(tmp_path: Path) -> None:
    script = f"""
        import sys
        import numpy as np
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from pathlib import Path
        import tests.chunks.test_reading_chunks as t
        path, array = Path({str(tmp_path / "a.h5")!r}), t.values((60, 50), "i4")
        for complib in t.COMPLIBS:
            t.make(path, array, (30, 25), t.tables.Filters(5, complib))
            with t.Opened(path) as opened:
                index, random, original = opened.index(), np.random.default_rng(1), path.read_bytes()
                for turn in range(150):
                    data = bytearray(original)
                    for _ in range(turn % 3 + 1):
                        i = tuple(int(random.integers(n)) for n in index.address.shape)
                        # headers, in front, more often than what follows
                        reach = min(int(index.size[i]), 200 if turn % 2 else 1 << 30)
                        data[int(index.address[i]) + int(random.integers(reach))] = int(random.integers(256))
                    with path.open("r+b") as file:
                        file.write(data)
                    for selection in ((), (slice(0, 60, 7), 3), (slice(1, 3),)):
                        try:
                            opened.read(selection, threads=1)
                        except t.ChunkError:
                            pass
    """
    run_script(script)


def run_script(script: str) -> None:
    """Run it in a process of its own, which has to end well and say nothing."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG)
    assert (done.returncode, done.stderr) == (0, "")


def test_truncated_file(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", values((1000, 50), "i4"), (100, 50), tables.Filters(1, "zlib"))
    with Opened(path) as opened:
        index = opened.index()
        out = np.empty((1000, 50), "i4")
        with path.open("r+b") as file:
            file.truncate(int(index.address.max()) + 10)
        with pytest.raises(ChunkError, match=r"^x: chunk at \(.*\): the index has a chunk of \d+ bytes at \d+"):
            read_into(opened.source, opened.storage, index, (), out, label="x")
    storage = ChunkStorage((1000,), None, np.dtype("i4"), offset=path.stat().st_size - 100)
    with path.open("rb") as file, pytest.raises(ChunkError, match="lie beyond the end of the file"):
        read_contiguous(LocalFile(file.fileno(), "raw"), storage, (), np.empty(1000, "i4"))


def test_absurd_stored_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", values((100,), "i4"), (100,), tables.Filters(1, "zlib"))
    with Opened(path) as opened, path.open("r+b") as file:
        file.truncate(1 << 32)
        index = opened.index()
        index.size[...] = 0xF0000000
        with pytest.raises(ChunkError, match="the index has a chunk of 4026531840 bytes"):
            read_into(opened.source, opened.storage, index, (), np.empty(100, "i4"))


def test_chunk_stored_raw_with_a_wrong_size(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", values((100, 1000), "i4"), (50, 1000))
    with Opened(path) as opened:
        index = opened.index()
        index.size[1] -= 4
        with pytest.raises(ChunkError, match=r"chunk at \(50, 0\): 199996 bytes are stored without filters"):
            read_into(opened.source, opened.storage, index, (), np.empty((100, 1000), "i4"))


def test_wrong_shape_of_the_output_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", values((10, 10), "i4"), (5, 5))
    with Opened(path) as opened, pytest.raises(ValueError, match="the output has shape"):
        read_into(opened.source, opened.storage, opened.index(), (3,), np.empty(9, "i4"))


# ---------------------------------------------------------------------------------------------------------------------
# threads and memory


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("complib", ["none", "zlib", "blosc:lz4", "blosc2:lz4"])
def test_memory_is_the_output_and_two_chunks_per_thread(tmp_path: Path, complib: str, threads: int) -> None:
    array = np.arange(1 << 22, dtype="f4").reshape(64, 256, 256)
    chunk = (32, 128, 128)  # 2 MiB
    filters = tables.Filters(1, complib, fletcher32=True) if complib != "none" else None
    path = make(tmp_path / "a.h5", array, chunk, filters)
    with Opened(path) as opened:
        index = opened.index()
        opened.read()  # what is made once stays out of the count
        out = np.empty(array.shape, "f4")
        gc.collect()
        tracemalloc.start()
        try:
            read_into(opened.source, opened.storage, index, (), out, threads=threads)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        np.testing.assert_array_equal(out, array)
        assert peak <= threads * 2 * opened.storage.chunk_nbytes + (1 << 18)


def test_many_callers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    array = values((64, 100), "i8")
    path = make(tmp_path / "a.h5", array, (4, 25), tables.Filters(1, "zlib"))
    with Opened(path) as opened, ThreadPoolExecutor(16) as pool:
        for result in pool.map(lambda _: opened.read(), range(200), timeout=WATCHDOG):
            np.testing.assert_array_equal(result, array)
    assert team._team.busy == 0


def test_threads_are_bounded_by_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = values((16, 1 << 15), "i8")  # chunks that are worth helpers without a look at the clock
    path = make(tmp_path / "a.h5", array, (1, 1 << 15), tables.Filters(1, "zlib"))
    monkeypatch.setattr(team, "usable_cpus", lambda: 3)
    monkeypatch.setattr(team, "_team", team._Team())
    monkeypatch.setattr(reading, "_BATCH", 1)
    names: set[str] = set()
    all_here = threading.Event()
    verify = codecs.decode_chunk

    def watched(*arguments: Any, **options: Any) -> Any:
        names.add(threading.current_thread().name)
        if len(names) == 3:
            all_here.set()
        assert all_here.wait(WATCHDOG)
        return verify(*arguments, **options)

    monkeypatch.setattr(codecs, "decode_chunk", watched)
    with Opened(path) as opened:
        opened.read(threads=8)
        assert len(names) == 3
        names.clear()
        opened.read(threads=1)
        assert names == {threading.current_thread().name}
    pool = team._team.pool
    assert pool is not None
    pool.shutdown()


def test_first_failure_ends_the_read_and_leaves_the_pool_usable(tmp_path: Path) -> None:
    array = values((64, 100), "i8")
    path = make(tmp_path / "a.h5", array, (2, 100), tables.Filters(1, "zlib", fletcher32=True))
    with Opened(path) as opened:
        original = path.read_bytes()
        damaged(path, int(opened.index().address[7, 0]) + 20, lambda old: old ^ 1)
        for _ in range(20):
            with pytest.raises(ChunkError, match=r"chunk at \(14, 0\): fletcher32"):
                opened.read()
        path.write_bytes(original)
        np.testing.assert_array_equal(opened.read(), array)
        assert team._team.busy == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_reading_goes_on_after_a_fork(tmp_path: Path) -> None:
    script = f"""
        import os, sys, threading, warnings
        import numpy as np
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from pathlib import Path
        import tests.chunks.test_reading_chunks as t
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads is what is tested
        array = t.values((64, 1000), "i8")
        path = t.make(Path({str(tmp_path / "a.h5")!r}), array, (1, 1000), t.tables.Filters(1, "blosc2:zstd"))
        opened = t.Opened(path)
        ends = threading.Event()
        def read():
            while not ends.is_set():
                opened.read()
        threads = [threading.Thread(target=read, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            child = os.fork()
            if not child:
                try:
                    os._exit(0 if np.array_equal(opened.read(), array) else 1)
                finally:
                    os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
        ends.set()
    """
    run_script(script)


@pytest.mark.parametrize(
    ("complib", "selection", "function"),
    [
        ("zlib", (), "_inflate"),
        ("bzip2", (), "_unpack_bzip2"),
        ("blosc:zstd", (), "decompress"),
        ("blosc:zstd", (slice(None), slice(7, -7)), "decompress_part"),
        ("blosc2:zstd", (), "read_blocks"),
        ("blosc2:zstd", (slice(None), slice(7, 70_000)), "read_blocks"),
    ],
)
def test_other_python_threads_run_while_chunks_are_decoded(
    tmp_path: Path, complib: str, selection: tuple[slice, ...], function: str
) -> None:
    array = np.random.default_rng(0).integers(0, 50, (2, 1 << 20)).astype("f4")
    path = make(tmp_path / "a.h5", array, (1, 1 << 20), tables.Filters(1, complib, fletcher32=True))
    with Opened(path) as opened:
        index, out = opened.index(), np.empty(array[selection].shape, "f4")

        def read() -> None:
            read_into(opened.source, opened.storage, index, selection, out, threads=1)

        assert gives_way_in(function, read)
        np.testing.assert_array_equal(out, array[selection])


def test_batches_under_way_together_are_far_apart() -> None:
    batches = [(i, i + 1) for i in range(10)]
    assert [begin for begin, _ in reading._apart(batches, 3)] == [0, 4, 8, 1, 5, 9, 2, 6, 3, 7]
    assert list(reading._apart(batches, 1)) == batches
    assert list(reading._apart([], 2)) == []


PIECEWISE = {
    "blosc:lz4": tables.Filters(5, "blosc:lz4"),
    "blosc:zstd and fletcher32": tables.Filters(1, "blosc:zstd", fletcher32=True),
    "zlib": tables.Filters(1, "zlib"),
    "zlib and fletcher32": tables.Filters(1, "zlib", fletcher32=True),
    "blosc2, b2nd from rank 2 on": tables.Filters(1, "blosc2:lz4"),
}


@pytest.mark.parametrize("name", PIECEWISE)
@pytest.mark.parametrize(
    ("shape", "chunkshape", "cached"),
    [
        ((9, 31, 47), (5, 12, 20), 1000),
        ((3, 4, 7, 500), (2, 3, 5, 300), 1300),
        ((6, 5000), (4, 3000), 5000),
        ((9000,), (2500,), 6000),
    ],
)
def test_a_chunk_is_decoded_and_placed_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: Any, chunkshape: Any, cached: int
) -> None:
    """Whatever the rows of a piece are: parts of one dimension, of two, or elements of the last one."""
    monkeypatch.setattr(decoder, "CACHED", cached)
    placed: list[int] = []
    place = decoder.ChunkDecoder._place

    def watched(self: Any, rows: Any, *others: Any) -> None:
        placed.append(rows.nbytes)
        place(self, rows, *others)

    monkeypatch.setattr(decoder.ChunkDecoder, "_place", watched)
    array = np.random.default_rng(0).integers(0, 100, shape).astype("f8")
    path = make(tmp_path / "a.h5", array, chunkshape, PIECEWISE[name])
    selections: list[Any] = [(), (slice(1, None),), (slice(2, -1),), (slice(1, 3),), (0,)]
    if array.ndim > 1:
        selections += [(slice(1, None), slice(2, -1)), (slice(None), slice(1, 3))]
    with Opened(path) as opened:
        for selection in selections:
            np.testing.assert_array_equal(opened.read(selection), array[selection])
    assert bool(placed) == (len(shape) == 1 or "b2nd" not in name)  # b2nd frames have blocks of their own


def test_damage_in_a_piece_names_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "CACHED", 4096)
    array = np.random.default_rng(0).integers(0, 100, (16, 1000)).astype("f8")
    path = make(tmp_path / "a.h5", array, (8, 400), tables.Filters(5, "blosc:lz4"))
    with Opened(path) as opened:
        damaged(path, int(opened.index().address[1, 1]) + 60, lambda old: old ^ 255)
        with pytest.raises(ChunkError, match=r"chunk at \(8, 400\)"):
            opened.read()


def test_a_b2nd_frame_of_another_shape_gives_its_bytes_in_order(tmp_path: Path) -> None:
    """HDF5's filter refuses it. We must not take its blocks for runs of the chunk's bytes."""
    array = np.arange(60 * 200, dtype="f8").reshape(60, 200)
    path = tmp_path / "a.h5"
    frame = libblosc2.compress_frame(
        array.reshape(-1).view(np.uint8), libblosc2.Compression(5, 5, 1, 8, 1024), (100, 120)
    )
    with tables.open_file(path, "w") as file:
        filters = tables.Filters(5, "blosc2:zstd")
        leaf = file.create_carray("/", "a", tables.Float64Atom(), (60, 200), filters=filters, chunkshape=(60, 200))
        leaf.write_chunk((0, 0), frame)
        file.flush()
        storage = storage_of(leaf)
    with path.open("rb") as raw:
        index = read_index(LocalFile(raw.fileno(), "raw"), storage)
        for selection in [(), (slice(10, 12),), (slice(None), slice(3, 190)), (slice(7, 8), slice(8, 9))]:
            out = np.empty(array[selection].shape)
            read_into(LocalFile(raw.fileno(), "raw"), storage, index, selection, out)
            np.testing.assert_array_equal(out, array[selection])


def test_scratch_memory_serves_the_next_read_of_the_thread_unless_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = values((64, 300), "i8")
    path = make(tmp_path / "a.h5", array, (32, 200), tables.Filters(1, "zlib"))
    with Opened(path) as opened:
        opened.read(threads=1)
        kept = team._own.workspace.buffers
        assert sum(buffer.size for buffer in kept) >= 32 * 200 * 8
        opened.read(threads=1)
        assert all(new is old for new, old in zip(team._own.workspace.buffers, kept, strict=True))
        monkeypatch.setattr(team, "_KEPT_BYTES", 100)
        opened.read(threads=1)
        assert team._own.workspace.buffers == []


@pytest.mark.parametrize(
    ("wall", "cpu", "steps", "pays"),
    [
        (20e-6, 20e-6, 1, False),  # a small chunk in the page cache
        (2e-3, 2e-3, 250, False),  # many of them
        (200e-6, 200e-6, 1, True),  # a slow codec
        (200e-6, 200e-6, 6, False),
        (4e-3, 1e-3, 250, True),  # a slow disk
    ],
)
def test_helpers_are_asked_where_they_pay(
    monkeypatch: pytest.MonkeyPatch, wall: float, cpu: float, steps: int, pays: bool
) -> None:
    class Clock:
        walls, cpus = iter([5.0, 5 + wall]), iter([1.0, 1 + cpu])

        @classmethod
        def perf_counter(cls) -> float:
            return next(cls.walls)

        @classmethod
        def thread_time(cls) -> float:
            return next(cls.cpus)

    monkeypatch.setattr(team, "time", Clock)
    done = []
    assert team.helpers_pay("task", lambda task, workspace: done.append(task), steps) is pays
    assert done == ["task"]


@pytest.mark.parametrize("pays", [False, True])
def test_small_chunks_are_all_read_whoever_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    array = np.random.default_rng(0).integers(0, 50, (200, 300), "i4")
    path = make(tmp_path / "a.h5", array, (10, 30), tables.Filters(1, "zlib"))
    asked = []

    def decided(task: Any, work: Any, parts: int) -> bool:
        team.run(iter([task]), work, 1, count=1)
        asked.append(parts)
        return pays

    monkeypatch.setattr(team, "helpers_pay", decided)
    monkeypatch.setattr(reading, "_BATCH", 1)
    with Opened(path) as opened:
        np.testing.assert_array_equal(opened.read(()), array)
        assert asked == [1]
        np.testing.assert_array_equal(opened.read((), threads=1), array)
        assert asked == [1]


def test_one_chunk_is_planned_without_arrays_and_several_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(40 * 60, dtype="i4").reshape(40, 60)
    path = make(tmp_path / "a.h5", array, (10, 20), tables.Filters(1, "zlib"), written=slice(0, 30), fill=-7)
    expected = array.copy()
    expected[30:] = -7
    taken = []
    for name in ("one", "stored"):
        original = getattr(reading._Chunks, name)

        def watched(*arguments: Any, name: str = name, original: Any = original) -> Any:
            taken.append(name)
            return original(*arguments)

        monkeypatch.setattr(reading._Chunks, name, watched)
    with Opened(path) as opened:
        for selection, way in (
            ((slice(10, 20), slice(20, 40)), "one"),
            ((3, slice(45, 60, 2)), "one"),
            ((slice(30, 40), slice(0, 20)), "one"),  # not stored
            ((slice(10, 20), slice(20, 41)), "stored"),
            ((slice(5, 15), 3), "stored"),
        ):
            taken.clear()
            np.testing.assert_array_equal(opened.read(selection), expected[selection])
            assert taken == [way]
        located = read_index(opened.source, opened.storage, ((10, 20), (20, 40)))
        with pytest.raises(IndexError, match="outside of the part"):
            located.entry([0, 0])
        beyond = ChunkIndex(located.origin, located.address + np.uint64(1 << 62), located.size, located.filter_mask)
        with pytest.raises(ChunkError, match=r"x: chunk at .*: the index has a chunk of .* in a file of"):
            read_into(
                opened.source,
                opened.storage,
                beyond,
                (slice(10, 20), slice(20, 40)),
                np.empty((10, 20), "i4"),
                label="x",
            )


@pytest.mark.parametrize(
    ("dtype", "length", "step", "as_items"),
    [("<f4", 64, 1, True), ("<f4", 257, 1, False), ("<f4", 1, 1, False), ("<f4", 64, 2, False), (">f4", 64, 1, False)],
)
def test_short_rows_of_blocks_are_copied_as_single_items(
    monkeypatch: pytest.MonkeyPatch, dtype: str, length: int, step: int, as_items: bool
) -> None:
    source = np.random.default_rng(0).integers(0, 1000, (3, 5, length + 2)).astype(dtype)[..., 1:-1]
    target = np.zeros((3, 9, length * step), "<f4")[:, 2:7, ::step]
    sizes, original = [], libblosc2._row_type
    monkeypatch.setattr(libblosc2, "_row_type", lambda size: sizes.append(size) or original(size))
    libblosc2._assign_rows(target, source)
    np.testing.assert_array_equal(target, source)
    assert sizes == ([4 * length] if as_items else [])


def test_one_run_is_read_at_once_and_asks_nobody_for_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other parts, of several runs or larger than a piece, are planned and shared."""
    values = np.arange(4 * 50 * 200, dtype="i4").reshape(4, 50, 200)
    values.tofile(tmp_path / "raw")
    asked, run = [], team.run
    monkeypatch.setattr(team, "run", lambda *parts, **options: (asked.append(options["count"]), run(*parts, **options)))
    storage = ChunkStorage(values.shape, None, values.dtype, offset=0)

    def read(*selection: int | slice) -> int:
        asked.clear()
        out = np.empty(values[selection].shape, values.dtype)
        with open(tmp_path / "raw", "rb") as file:
            read_contiguous(LocalFile(file.fileno(), "raw"), storage, selection, out)
        np.testing.assert_array_equal(out, values[selection])
        return len(asked)

    assert [read(2), read(), read(1, slice(3, 9)), read(3, 7, slice(20, 90)), read(0, 0, 5)] == [0] * 5
    assert read(slice(None), slice(0, 30)) == 1  # four runs
    monkeypatch.setattr(dense, "_PIECE", values[0].nbytes // 2)
    assert read(2) == 1
