"""Chunks that `to_pytables` encodes in threads, as this engine and other readers see them."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import dask
import dask.array
import h5py
import hdf5plugin  # noqa: F401 - gives h5py the filters
import netCDF4
import numpy as np
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables import save_mfdataset, to_pytables
from xr_pytables.chunks import codecs, encoder
from xr_pytables.chunks.encoder import whole_chunks
from xr_pytables.chunks.index import ChunkStorage
from xr_pytables.errors import ChunkError
from xr_pytables.hdf5.file import File
from xr_pytables.library import target_file
from xr_pytables.library.target_file import TargetFile
from xr_pytables.sources.local import LocalFile

from ..helpers_properties import examples
from ..helpers_threads import WATCHDOG

COMPLIBS = [
    None, "zlib", "bzip2", "blosc:blosclz", "blosc:lz4", "blosc:lz4hc", "blosc:zlib", "blosc:zstd",
    "blosc2:blosclz", "blosc2:lz4", "blosc2:lz4hc", "blosc2:zlib", "blosc2:zstd",
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def read_tables(path: Path, name: str = "v") -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tables.exceptions.DataTypeWarning)
        with tables.open_file(path) as file:
            return file.get_node("/" + name)[...]


def read_h5py(path: Path, name: str = "v") -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][...]


def read_ours(path: Path, name: str = "v") -> np.ndarray:
    with xr.open_dataset(path, engine="pytables", decode_cf=False) as dataset:
        return dataset[name].values


def stored(path: Path, name: str = "v") -> dict[tuple[int, ...], tuple[int, int]]:
    """Corner of each chunk that is in the file: (filter mask, stored bytes)."""
    with h5py.File(path) as file:
        found: dict[tuple[int, ...], tuple[int, int]] = {}
        file[name].id.chunk_iter(lambda info: found.update({info.chunk_offset: (info.filter_mask, info.size)}))
        return found


@pytest.fixture
def hdf5_does_not_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: TargetFile, path: str, *args: object) -> None:
        raise AssertionError(f"{path} was written through HDF5")

    monkeypatch.setattr(TargetFile, "write", fail)


# -- every codec, every reader --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hdf5_does_not_encode")
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("fletcher32", [False, True])
@pytest.mark.parametrize("complib", COMPLIBS)
def test_every_reader_reads_what_threads_encode(path, complib, fletcher32, lazy):
    """Chunks over both edges, of big-endian numbers too; not one of them goes through HDF5's own filters."""
    values = np.arange(50 * 70).reshape(50, 70) // 3
    data = dask.array.from_array(values, chunks=(16, 32)) if lazy else values
    dataset = xr.Dataset({"v": (("y", "x"), data.astype("f4")), "w": (("y", "x"), data.astype(">i2"))})
    encoding = {name: {"chunksizes": (16, 32), "fletcher32": fletcher32} for name in dataset}
    if complib:
        for words in encoding.values():
            words.update(complib=complib, complevel=5)
    to_pytables(dataset, path, encoding=encoding)
    for name, expected in (("v", values.astype("f4")), ("w", values.astype("i2"))):
        for read in (read_ours, read_tables, read_h5py):
            np.testing.assert_array_equal(read(path, name), expected)
        assert len(stored(path, name)) == 12
    if complib in (None, "zlib"):
        with netCDF4.Dataset(path) as file:
            np.testing.assert_array_equal(file["v"][:], values.astype("f4"))


WITHOUT_FILTER = """
    import ctypes, sys, warnings
    import numpy as np
    import tables
    from xr_pytables.library.libhdf5 import _libraries

    class Filter(ctypes.Structure):  # H5Z_class2_t
        _fields_ = [("version", ctypes.c_int), ("id", ctypes.c_int), ("encodes", ctypes.c_uint),
                    ("decodes", ctypes.c_uint), ("name", ctypes.c_char_p), ("can_apply", ctypes.c_void_p),
                    ("set_local", ctypes.c_void_p), ("filter", ctypes.c_void_p)]

    fails = ctypes.CFUNCTYPE(ctypes.c_size_t, *[ctypes.c_void_p] * 6)(lambda *_: 0)
    broken = Filter(1, 32026, 1, 1, b"broken", None, None, ctypes.cast(fails, ctypes.c_void_p))
    assert _libraries()[0].H5Zregister(ctypes.byref(broken)) >= 0
    warnings.simplefilter("ignore")
    expected = np.load(sys.argv[2])
    with tables.open_file(sys.argv[1]) as file:
        np.testing.assert_array_equal(file.root.v[1:3], expected[1:3])
        np.testing.assert_array_equal(file.root.v[:], expected)
"""


@pytest.mark.parametrize("fletcher32", [False, True])
@pytest.mark.parametrize("shape", [(20, 30), (7, 8, 9)])
def test_the_optimised_path_of_pytables_reads_our_blosc2(path, shape, fletcher32):
    """Proved by breaking the Blosc2 filter in HDF5: only the path past it, which wants no checksum, can still read."""
    values = np.random.default_rng(0).integers(0, 9, shape).astype("f8")
    chunks = tuple(max(size // 2, 1) for size in shape)
    words = {"chunksizes": chunks, "complib": "blosc2:zstd", "fletcher32": fletcher32}
    to_pytables(xr.Dataset({"v": (tuple("abc"[: len(shape)]), values)}), path, encoding={"v": words})
    expected = path.with_name("expected.npy")
    np.save(expected, values)
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_FILTER), str(path), str(expected)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if fletcher32:
        assert "HDF5ExtError" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("complib", ["blosc:lz4", "blosc:zstd", "blosc2:lz4", "zlib", "bzip2"])
@pytest.mark.parametrize("fletcher32", [False, True])
def test_noise_gets_the_filter_mask_that_pytables_gives_it(path, complib, fletcher32):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype("u1")
    words = {"chunksizes": (32, 64), "complib": complib, "complevel": 5, "shuffle": False, "fletcher32": fletcher32}
    to_pytables(xr.Dataset({"v": (("y", "x"), noise)}), path, encoding={"v": words})
    plain = path.with_name("plain.h5")
    filters = tables.Filters(complevel=5, complib=complib, shuffle=False, fletcher32=fletcher32)
    with tables.open_file(plain, "w") as file:
        file.create_carray("/", "v", obj=noise, chunkshape=(32, 64), filters=filters)
    masks = {corner: mask for corner, (mask, _) in stored(path).items()}
    assert masks == {corner: mask for corner, (mask, _) in stored(plain).items()}
    assert set(masks.values()) == ({1} if complib.startswith("blosc:") else {0})
    for read in (read_ours, read_tables, read_h5py):
        np.testing.assert_array_equal(read(path), noise)


def test_a_chunk_of_equal_size_and_another_mask_is_written_over(path):
    """HDF5 keeps the old mask if a chunk of the same size is written to its place (observed in 1.14.6)."""
    compressed = np.array([*b"a" * 11, *range(60, 113)], "u1")  # 64 bytes that zlib makes 64 bytes of
    with h5py.File(path, "w") as file:
        array = file.create_dataset("v", (192,), "u1", chunks=(64,), compression="gzip", compression_opts=9)
        array.id.write_direct_chunk((0,), bytes(64), 1)
        array.id.write_direct_chunk((64,), bytes(64), 1)
    with h5py.File(path) as file:
        assert file["v"].id.read_direct_chunk((0,)) == (1, bytes(64))
    chunk, mask = codecs.encode_chunk(
        compressed,
        codecs.FilterPipeline((codecs.Filter(codecs.DEFLATE, (9,), "deflate"),)),
        codecs.ChunkType((64,), np.dtype("u1")),
    )
    assert (len(chunk), mask) == (64, 0), "choose other values"
    to_pytables(xr.Dataset({"v": ("dim_192", np.tile(compressed, 3))}), path, mode="r+")
    for read in (read_ours, read_h5py):
        np.testing.assert_array_equal(read(path), np.tile(compressed, 3))
    assert stored(path) == {(corner,): (0, 64) for corner in (0, 64, 128)}


@pytest.mark.usefixtures("hdf5_does_not_encode")
def test_values_of_an_array_of_plain_pytables_are_encoded_with_its_own_filters(path):
    filters = tables.Filters(complevel=3, complib="blosc:lz4", bitshuffle=True, fletcher32=True)
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "v", obj=np.zeros((9, 10), ">f8"), chunkshape=(4, 5), filters=filters, byteorder="big")
    values = np.arange(90.0).reshape(9, 10)
    data = dask.array.from_array(values, chunks=(8, 5))
    to_pytables(xr.Dataset({"v": (("dim_9", "dim_10"), data)}), path, mode="r+")
    with tables.open_file(path) as file:
        assert (file.root.v.byteorder, file.root.v.filters.complib) == ("big", "blosc:lz4")
        np.testing.assert_array_equal(file.root.v[:], values)
    np.testing.assert_array_equal(read_h5py(path), values)


@pytest.mark.parametrize("complevel", [1, 5, 9])
def test_large_blocks_of_zstd_are_read_by_everybody(path, complevel):
    """Blosc would take blocks of 32 KiB at level 1, which are slower and larger."""
    values = np.random.default_rng(0).integers(0, 99, (4, 300_000)).astype("i4")
    words = {"chunksizes": (2, 300_000), "complib": "blosc:zstd", "complevel": complevel}
    to_pytables(xr.Dataset({"v": (("y", "x"), values)}), path, encoding={"v": words})
    with h5py.File(path) as file:
        assert int.from_bytes(file["v"].id.read_direct_chunk((0, 0))[1][8:12], "little") >= 2**19
    for read in (read_ours, read_tables, read_h5py):
        np.testing.assert_array_equal(read(path), values)
    with xr.open_dataset(path, engine="pytables") as dataset:
        np.testing.assert_array_equal(dataset.v[3, 140_000:140_010], values[3, 140_000:140_010])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layout": "contiguous"}, "its layout is contiguous"),
        ({"whole_chunks_filtered_only": True}, "its edge chunks are stored without the filters"),
        ({"filters": codecs.FilterPipeline((codecs.Filter(305, (), "lzo"),))}, r"lzo \(HDF5 filter 305\) cannot be"),
        ({"filters": codecs.FilterPipeline((codecs.Filter(codecs.BLOSC, (0,) * 6 + (3,)),))}, "compressor 3"),
    ],
)
def test_arrays_that_hdf5_has_to_write(path, change, reason):
    to_pytables(xr.Dataset({"v": ("x", np.zeros(9))}), path)
    with open(path, "rb") as raw:
        file = File(LocalFile(raw.fileno(), str(path)))
        info = file.dataset(file.resolve("/v").address)
    assert target_file.why_not_encode(info) is None
    found = target_file.why_not_encode(replace(info, **change))
    assert found is not None
    assert re.search(reason, found)


def test_checksums_are_turned_off_for_all_arrays_at_once(path):
    dataset = xr.Dataset({"v": ("x", np.arange(9.0)), "w": ("x", dask.array.arange(9, chunks=4))})
    tree = xr.DataTree.from_dict({"/": dataset, "/g": dataset})
    writes = [
        lambda **words: to_pytables(dataset, path, encoding={"v": {"zlib": True}}, **words),
        lambda **words: to_pytables(dataset.chunk(x=3), path, compute=False, **words).compute(),
        lambda **words: to_pytables(dataset, path, layout="table", group="/t", **words),
        lambda **words: to_pytables(tree, path, **words),
        lambda **words: save_mfdataset([dataset], [path], **words),
    ]
    for write in writes:
        for checksums in (True, False):
            write(checksums=checksums)
            with h5py.File(path) as file:
                found = []
                file.visititems(lambda _, node, found=found: found.append(node) if hasattr(node, "chunks") else None)
                assert {array.fletcher32 for array in found if array.chunks} == {checksums}
    to_pytables(dataset, path)
    to_pytables(dataset[["v"]].rename(v="new"), path, mode="a", checksums=False)
    with h5py.File(path) as file:
        assert (file["v"].fletcher32, file["new"].fletcher32) == (True, False)
    before = path.read_bytes()
    for words in ({"encoding": {"v": {"fletcher32": True}}}, {"filters": tables.Filters(fletcher32=True)}):
        with pytest.raises(ValueError, match="checksums=False writes none in any array, but encoding or filters ask"):
            to_pytables(dataset, path, checksums=False, **words)
    assert path.read_bytes() == before


# -- cutting ----------------------------------------------------------------------------------------------------------


@st.composite
def blocks(draw):
    rank = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    chunkshape = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    start = tuple(draw(st.integers(0, length - 1)) for length in shape)
    block = tuple(draw(st.integers(0, length - first)) for first, length in zip(start, shape, strict=True))
    return shape, chunkshape, start, block


@examples(300)
@given(blocks())
def test_a_block_is_cut_into_each_of_its_chunks_once_or_refused(case):
    shape, chunkshape, start, block = case
    sides = list(zip(start, block, chunkshape, shape, strict=True))
    is_whole = all(f % c == 0 and ((f + n) % c == 0 or f + n == length) for f, n, c, length in sides)
    storage = ChunkStorage(shape, chunkshape, np.dtype("u1"))
    if not is_whole:
        with pytest.raises(ValueError, match=r"a block of \(.*\) at \(.*\) shares chunks of \(.*\) with other blocks"):
            whole_chunks(start, block, storage)
        return
    times = np.zeros(shape, int)
    for first in itertools.product(*whole_chunks(start, block, storage)):
        times[tuple(slice(f, f + c) for f, c in zip(first, chunkshape, strict=True))] += 1
    expected = np.zeros(shape, int)
    expected[tuple(slice(f, f + n) for f, n in zip(start, block, strict=True))] = 1
    np.testing.assert_array_equal(times, expected)


@examples(60)
@given(st.data())
def test_any_dask_blocks_and_chunks_make_the_same_file(tmp_path_factory, data):
    """Blocks that share chunks, in threads: they are put together in the last step, and nothing is lost."""
    path = tmp_path_factory.mktemp("any") / "file.h5"
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    chunkshape = tuple(data.draw(st.integers(1, length)) for length in shape)
    chunks = []
    for length in shape:
        cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=3)) | {length})
        chunks.append(tuple(np.diff([0, *cuts]).tolist()))
    values = np.random.default_rng(0).integers(0, 3, shape).astype("f8")
    complib = data.draw(st.sampled_from(["zlib", "blosc:lz4", "blosc2:zstd"]))
    dataset = xr.Dataset({"v": (("y", "x"), dask.array.from_array(values, chunks=tuple(chunks)))})
    words = {"chunksizes": chunkshape, "complib": complib, "complevel": 1}
    to_pytables(dataset, path, encoding={"v": words}, safe_chunks=False, fsync=False)
    np.testing.assert_array_equal(read_tables(path), values)
    np.testing.assert_array_equal(read_ours(path), values)


# -- empty chunks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("dtype", "fill", "other"),
    [("f4", np.nan, 1), ("i2", -1, 0), ("f8", 0.0, -0.0), ("i4", None, 7), ("S2", None, b"a")],
)
def test_chunks_of_nothing_but_the_fill_value_may_be_left_out(path, dtype, fill, other, lazy):
    empty = np.zeros((), dtype) if fill is None else np.array(fill, dtype)
    values = np.full((6, 6), empty, dtype)
    values[4, 5] = other
    data = dask.array.from_array(values, chunks=(2, 6)) if lazy else values
    attrs = {} if fill is None else {"_FillValue": empty[()]}
    dataset = xr.Dataset({"v": (("y", "x"), data, attrs)})
    words = {"chunksizes": (2, 3), **({} if fill is not None or dtype != "f4" else {"_FillValue": None})}
    for name in dataset.variables:
        dataset[name].encoding = {}
    to_pytables(dataset, path, encoding={"v": words}, write_empty_chunks=False)
    assert set(stored(path)) == {(4, 3)}
    for read in (read_ours, read_tables, read_h5py):
        found = read(path)
        np.testing.assert_array_equal(found, values)
        if dtype[0] == "f":
            np.testing.assert_array_equal(np.signbit(found), np.signbit(values))
    to_pytables(dataset, path, encoding={"v": words})
    assert len(stored(path)) == 6


def test_empty_chunks_replace_what_was_there(path):
    """As with `to_zarr`: leaving a chunk out must not leave the old values in."""
    before = xr.Dataset({"v": ("x", np.arange(1, 9))})
    to_pytables(before, path, encoding={"v": {"chunksizes": (4,)}})
    to_pytables(before * 0, path, mode="r+", write_empty_chunks=False)
    assert not read_tables(path).any()


# -- threads and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_bound_the_threads_that_encode(path, monkeypatch, threads, lazy):
    active, most, lock = 0, 0, threading.Lock()
    both = threading.Event()
    real = encoder.encode_parts

    def counted(*args):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
            if active == 2:
                both.set()
        if threads == 2:
            assert both.wait(WATCHDOG)  # until there are two, as there must be
        try:
            return real(*args)
        finally:
            with lock:
                active -= 1

    monkeypatch.setattr("xr_pytables.chunks.team.usable_cpus", lambda: 4)
    monkeypatch.setattr(encoder, "encode_parts", counted)
    monkeypatch.setattr(encoder, "_BATCH_BYTES", 1)
    values = np.arange(4000.0)
    data = dask.array.from_array(values, chunks=500) if lazy else values
    with dask.config.set(scheduler="threads", num_workers=4):
        to_pytables(xr.Dataset({"v": ("x", data)}), path, encoding={"v": {"chunksizes": (100,)}}, threads=threads)
    assert most == threads
    np.testing.assert_array_equal(read_tables(path), values)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
def test_bad_threads_are_refused(path, threads):
    with pytest.raises(ValueError, match="threads must be 1 or more, not"):
        to_pytables(xr.Dataset({"v": ("x", np.arange(3))}), path, threads=threads)
    assert not os.listdir(path.parent)


@pytest.mark.parametrize("complib", ["zlib", "blosc:lz4", "blosc2:lz4", None])
def test_memory_is_the_block_and_the_chunk_in_each_thread(path, complib):
    """Blocks of 2 MB in chunks of 1 MB, 80 MB in all."""
    made = dask.array.arange(10_000_000, chunks=250_000, dtype="f8")
    words = {"chunksizes": (125_000,), **({"complib": complib, "complevel": 1} if complib else {})}
    dataset = xr.Dataset({"v": ("x", made)})
    small = xr.Dataset({"v": ("x", made[:500_000])})
    with dask.config.set(scheduler="threads", num_workers=2):
        to_pytables(small, path, encoding={"v": words}, fsync=False)  # imports, pools
        tracemalloc.start()
        to_pytables(dataset, path, encoding={"v": words}, fsync=False)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # each of two tasks has its block and what makes it; each of two tasks and two helpers a chunk: cut, shuffled,
    # encoded, with its checksum
    assert peak < 2 * 2 * 2e6 + 4 * 4 * 1e6 + 3e6, f"{peak / 1e6:.1f} MB"
    assert read_tables(path)[-1] == 9_999_999


def test_values_in_memory_are_encoded_chunk_by_chunk(path):
    values = np.zeros(10_000_000)
    words = {"chunksizes": (125_000,), "complib": "blosc:lz4"}
    tracemalloc.start()
    to_pytables(xr.Dataset({"v": ("x", values)}), path, encoding={"v": words}, fsync=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12e6, f"{peak / 1e6:.1f} MB"


def test_a_failing_codec_names_itself_and_leaves_nothing(path, monkeypatch):
    def fail(data, values, chunk):
        raise ValueError("as asked")

    broken = codecs.Codec("zlib", codecs.CODECS[codecs.DEFLATE].decode, fail)
    monkeypatch.setitem(codecs.CODECS, codecs.DEFLATE, broken)
    codecs.find_codec.cache_clear()
    try:
        with pytest.raises(ChunkError, match="zlib cannot encode 800 bytes: as asked"):
            to_pytables(xr.Dataset({"v": ("x", np.arange(100.0))}), path, encoding={"v": {"zlib": True}})
    finally:
        codecs.find_codec.cache_clear()
    assert not os.listdir(path.parent)


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("complib", COMPLIBS)
def test_no_bit_flip_in_a_chunk_is_read_as_data(path, complib):
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.integers(-3, 4, (40, 50)), axis=0).astype("f8")
    words = {"chunksizes": (20, 25), **({"complib": complib} if complib else {})}
    to_pytables(xr.Dataset({"v": (("y", "x"), values)}), path, encoding={"v": words})
    with h5py.File(path) as file:
        places = [file["v"].id.get_chunk_info(number) for number in range(4)]
    whole = path.read_bytes()
    flips = 60
    for _ in range(flips):
        place = places[rng.integers(4)]
        at, bit = place.byte_offset + int(rng.integers(place.size)), int(rng.integers(8))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with pytest.raises(ChunkError):
            read_ours(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_ours(path), values)
