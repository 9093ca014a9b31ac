"""Each filter both ways, against PyTables and h5py: what they write is decoded, what is encoded here they read."""

from __future__ import annotations

import ctypes
import itertools
import math
import sys
import threading
import zlib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.chunks import codecs, libblosc2
from xr_pytables.chunks.codecs import ChunkType, Workspace, decode_chunk, encode_chunk, encode_parts, why_not
from xr_pytables.chunks.filters import (
    BLOSC,
    BLOSC2,
    BZIP2,
    DEFLATE,
    FLETCHER32,
    SHUFFLE,
    Filter,
    FilterPipeline,
    pipeline,
)
from xr_pytables.errors import ChunkError

from ..helpers_properties import examples
from ..helpers_reading import described
from ..helpers_threads import gives_way_in

COMPLIBS = [
    "zlib", "bzip2", "blosc:blosclz", "blosc:lz4", "blosc:lz4hc", "blosc:zlib", "blosc:zstd",
    "blosc2:blosclz", "blosc2:lz4", "blosc2:lz4hc", "blosc2:zlib", "blosc2:zstd",
]  # fmt: skip


def bytes_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def one_chunk(path: Path, array: np.ndarray, filters: tables.Filters, atom: tuple[int, ...] = ()) -> Any:
    """(pipeline, stored bytes, filter mask) of an array that PyTables wrote as one chunk."""
    with tables.open_file(path, "w") as file:
        shape = array.shape[: array.ndim - len(atom)]
        leaf = file.create_carray(
            "/", "a", tables.Atom.from_dtype(np.dtype((array.dtype, atom))), shape, filters=filters, chunkshape=shape
        )
        leaf[:] = array
        file.flush()
        corner = (0,) * len(shape)
        raw = np.frombuffer(bytes(leaf.read_chunk(corner)), np.uint8)
        return described(leaf).filters, raw, leaf.chunk_info(corner).filter_mask


@pytest.mark.parametrize("fletcher32", [False, True])
@pytest.mark.parametrize(
    ("complib", "shuffle"),
    [
        *itertools.product(COMPLIBS, ["none", "shuffle"]),
        *((complib, "bitshuffle") for complib in COMPLIBS if complib.startswith("blosc")),
    ],
)
@pytest.mark.parametrize("shape", [(5000,), (50, 100), (5, 10, 100)])
def test_encoded_chunks_are_read_by_pytables_and_h5py_and_decoded_here(
    tmp_path: Path, complib: str, shuffle: str, fletcher32: bool, shape: tuple[int, ...]
) -> None:
    array = (np.arange(5000) % 97).astype("f8").reshape(shape)
    filters = tables.Filters(
        4, complib, shuffle=shuffle == "shuffle", bitshuffle=shuffle == "bitshuffle", fletcher32=fletcher32
    )
    path = tmp_path / "a.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_carray("/", "a", tables.Float64Atom(), shape, filters=filters, chunkshape=shape)
        ours = described(leaf).filters
        data, mask = encode_chunk(bytes_of(array), ours, ChunkType(shape, array.dtype))
        assert mask == 0
        leaf.write_chunk((0,) * len(shape), bytes(data), filter_mask=mask)
    with tables.open_file(path) as file:
        np.testing.assert_array_equal(file.root.a[:], array)
        np.testing.assert_array_equal(file.root.a[1:3], array[1:3])
    if complib != "bzip2":  # hdf5plugin has it under the same number, but not in every build
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["a"][...], array)
    raw = np.frombuffer(data, np.uint8)
    np.testing.assert_array_equal(decode_chunk(raw, 0, ours, array.nbytes), bytes_of(array))


@pytest.mark.parametrize("complib", COMPLIBS)
def test_a_pipeline_made_from_words_encodes_as_one_read_from_a_file(tmp_path: Path, complib: str) -> None:
    array = (np.arange(5000) % 97).astype("f4").reshape(50, 100)
    theirs, raw, mask = one_chunk(tmp_path / "a.h5", array, tables.Filters(4, complib, shuffle=True, fletcher32=True))
    ours = pipeline(complib=complib, complevel=4, shuffle=True, bitshuffle=False, fletcher32=True, itemsize=4)
    assert [step.id for step in ours.filters] == [step.id for step in theirs.filters]
    data, our_mask = encode_chunk(bytes_of(array), ours, ChunkType((50, 100), array.dtype))
    assert our_mask == mask == 0
    np.testing.assert_array_equal(decode_chunk(np.frombuffer(data, np.uint8), 0, theirs, array.nbytes), bytes_of(array))
    if complib in ("bzip2", "blosc:lz4", "blosc:zstd"):
        assert bytes(data) == raw.tobytes()
    else:  # other versions of the libraries, but about as good
        assert 0.5 < len(data) / len(raw) < 2


B2ND_CHUNKS = [
    ((24, 181, 360), "f4"), ((512, 512), "f8"), ((24, 50, 60), "f4"), ((7, 3, 5, 9), "i2"), ((1, 1000), "f8"),
    ((100, 1), "i1"), ((3000, 3000), "i1"), ((5, 700, 13), "c16"), ((2, 1, 1, 40000), "f8"), ((3, 100000), "u2"),
    ((40, 50), "S5000"), ((2, 3), "S2000000"), ((400001, 2), "f4"),
]  # fmt: skip


@pytest.mark.parametrize(("chunkshape", "dtype"), B2ND_CHUNKS)
@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
def test_b2nd_chunks_are_divided_into_blocks_of_like_size(
    chunkshape: tuple[int, ...], dtype: str, compressor: str
) -> None:
    size = np.dtype(dtype).itemsize
    code, items = {"lz4": 1, "zstd": 5}[compressor], math.prod(chunkshape)
    blocks = libblosc2.block_shape(chunkshape, libblosc2.Compression(code, 5, 1, size))
    counts = [-(-n // b) for n, b in zip(chunkshape, blocks, strict=True)]
    for length, block, count in zip(chunkshape, blocks, counts, strict=True):
        assert block == -(-length // count)  # no fewer elements would do for as many blocks
    target = min(2**16, max(1, 2**20 // size))
    if compressor == "zstd":
        assert math.prod(blocks) <= target
        assert math.prod(blocks) >= min(items, target / 2 - 1)
    else:
        assert min(items, target) <= math.prod(blocks) <= max(2 * target + max(chunkshape), 1)
    few = libblosc2.block_shape(chunkshape, libblosc2.Compression(code, 5, 1, size, 1000 * size))
    assert math.prod(few) <= 1000


@pytest.mark.parametrize(("chunkshape", "dtype"), [((24, 181, 360), "f4"), ((5, 700, 130), "c16"), ((3, 100000), "u2")])
@pytest.mark.parametrize("complib", ["blosc2:lz4", "blosc2:zstd"])
def test_other_readers_find_what_lies_in_such_blocks(
    tmp_path: Path, complib: str, chunkshape: tuple[int, ...], dtype: str
) -> None:
    array = np.random.default_rng(1).integers(0, 1000, chunkshape).astype(dtype)
    theirs, raw, _ = one_chunk(tmp_path / "a.h5", array, tables.Filters(5, complib))
    data, mask = encode_chunk(bytes_of(array), theirs, ChunkType(chunkshape, array.dtype))
    frames = [libblosc2.Frame.of(np.frombuffer(stored, np.uint8)) for stored in (raw.tobytes(), bytes(data))]
    assert frames[0].blockshape != frames[1].blockshape
    assert frames[0].typesize == frames[1].typesize == array.dtype.itemsize
    with tables.open_file(tmp_path / "a.h5", "a") as file:
        file.root.a.write_chunk((0,) * array.ndim, bytes(data), filter_mask=mask)
    boxes = [tuple(slice(n // 3, n // 3 + 70) for n in chunkshape), (1, ..., 7), ..., np.s_[2, 100:2000:3]]
    with tables.open_file(tmp_path / "a.h5") as file, h5py.File(tmp_path / "a.h5") as other:
        for box in boxes:
            np.testing.assert_array_equal(file.root.a[box], array[box])
            np.testing.assert_array_equal(other["a"][box], array[box])
    np.testing.assert_array_equal(decode_chunk(np.frombuffer(data, np.uint8), 0, theirs, array.nbytes), bytes_of(array))


@pytest.mark.parametrize("complib", ["blosc:lz4", "blosc2:lz4", "zlib", "bzip2"])
def test_multi_dimensional_atoms(tmp_path: Path, complib: str) -> None:
    array = (np.arange(6000) % 97).astype("f4").reshape(20, 50, 2, 3)
    ours, raw, mask = one_chunk(tmp_path / "a.h5", array, tables.Filters(4, complib), (2, 3))
    np.testing.assert_array_equal(decode_chunk(raw, mask, ours, array.nbytes), bytes_of(array))
    data, mask = encode_chunk(bytes_of(array), ours, ChunkType((20, 50), array.dtype, (2, 3)))
    with tables.open_file(tmp_path / "a.h5", "a") as file:
        file.root.a[:] = 0
        file.root.a.write_chunk((0, 0), bytes(data), filter_mask=mask)
        np.testing.assert_array_equal(file.root.a[:], array)


@pytest.mark.parametrize("complib", COMPLIBS)
@pytest.mark.parametrize("shape", [(3001,), (70, 43)])
def test_noise_is_stored_as_pytables_would_and_read_back(tmp_path: Path, complib: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ours, _, mask = one_chunk(tmp_path / "a.h5", array, tables.Filters(5, complib, shuffle=True))
    data, our_mask = encode_chunk(bytes_of(array), ours, ChunkType(shape, array.dtype))
    assert our_mask == mask
    with tables.open_file(tmp_path / "a.h5", "a") as file:
        file.root.a[:] = 0
        file.root.a.write_chunk((0,) * len(shape), bytes(data), filter_mask=our_mask)
    with tables.open_file(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.root.a[:], array)
    decoded = decode_chunk(np.frombuffer(data, np.uint8), our_mask, ours, array.nbytes)
    np.testing.assert_array_equal(decoded, bytes_of(array))


def test_a_filter_that_gains_nothing_and_is_not_optional_is_an_error() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    blosc = FilterPipeline((Filter(BLOSC, (2, 2, 1, 1000, 5, 1, 1), "blosc", optional=False),))
    with pytest.raises(ChunkError, match="blosc does not make the chunk smaller, and is not optional"):
        encode_chunk(noise, blosc, ChunkType((1000,), noise.dtype))
    with pytest.raises(ValueError, match="not one chunk of 2000"):
        encode_chunk(noise, blosc, ChunkType((2000,), noise.dtype))


@examples(200)
@given(size=st.integers(0, 200), typesize=st.integers(1, 40))
def test_shuffle_keeps_the_remainder_behind_as_hdf5_does(size: int, typesize: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    steps = FilterPipeline((Filter(SHUFFLE, (typesize,), "shuffle"),))
    whole = size // typesize * typesize
    expected = np.concatenate([data[:whole].reshape(-1, typesize).T.reshape(-1), data[whole:]])
    encoded, mask = encode_chunk(data, steps, ChunkType((size,), data.dtype))
    np.testing.assert_array_equal(encoded, expected)
    np.testing.assert_array_equal(decode_chunk(np.frombuffer(encoded, np.uint8), mask, steps, size), data)


def test_shuffle_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libblosc2, "library", lambda: None)
    test_shuffle_keeps_the_remainder_behind_as_hdf5_does()
    assert why_not(FilterPipeline((Filter(BLOSC2, (1, 0, 4, 400, 5, 1, 1), "blosc2"),))) == (
        "blosc2: the library of the blosc2 package cannot be loaded"
    )
    data = (np.arange(1000) % 9).astype("i4")
    steps = FilterPipeline((Filter(BLOSC, (2, 2, 4, 4000, 5, 1, 1), "blosc"),))
    encoded, _ = encode_chunk(bytes_of(data), steps, ChunkType((1000,), data.dtype))
    np.testing.assert_array_equal(decode_chunk(np.frombuffer(encoded, np.uint8), 0, steps, 4000), bytes_of(data))


def test_nothing_is_copied_for_a_checksum_at_the_end() -> None:
    data = np.arange(1000, dtype="u2").view("u1")
    checksum, shuffle = Filter(FLETCHER32, (), "fletcher32", optional=False), Filter(SHUFFLE, (2,), "shuffle")
    chunk = ChunkType((2000,), data.dtype)
    parts, mask = encode_parts(data, FilterPipeline((checksum,)), chunk)
    assert (parts[0] is data, len(parts[1]), mask) == (True, 4, 0)
    for steps in ((checksum,), (shuffle, checksum), (checksum, shuffle)):
        pieces, _ = encode_parts(data, FilterPipeline(steps), chunk)
        whole, _ = encode_chunk(data, FilterPipeline(steps), chunk)
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
        np.testing.assert_array_equal(decode_chunk(whole, 0, FilterPipeline(steps), 2000), data)


def test_checksum_in_the_byte_order_of_old_hdf5_is_accepted() -> None:
    data = np.arange(1000, dtype="u2").view("u1")
    steps = FilterPipeline((Filter(FLETCHER32, (), "fletcher32", optional=False),))
    encoded, _ = encode_chunk(data, steps, ChunkType((2000,), data.dtype))
    old = np.array(encoded)
    old[-4:] = old[[-3, -4, -1, -2]]
    for stored in (np.array(encoded), old):
        np.testing.assert_array_equal(decode_chunk(stored, 0, steps, 2000), data)
    with pytest.raises(ChunkError, match=r"fletcher32: the checksum is 0x[0-9a-f]{8}, but 0x[0-9a-f]{8} is stored"):
        decode_chunk(old[::-1].copy(), 0, steps, 2000)
    with pytest.raises(ChunkError, match="too few for a checksum"):
        decode_chunk(old[:3], 0, steps, 2000)


def test_decoded_into_the_buffer_that_is_given() -> None:
    array = (np.arange(1000) % 9).astype("i4")
    for complib in COMPLIBS:
        steps = pipeline(complib=complib, complevel=5, shuffle=True, bitshuffle=False, fletcher32=True, itemsize=4)
        raw, mask = encode_chunk(bytes_of(array), steps, ChunkType((1000,), array.dtype))
        steps = with_client_data(steps)
        out = np.empty(4000, np.uint8)
        assert decode_chunk(np.frombuffer(raw, np.uint8), mask, steps, 4000, out) is out
        np.testing.assert_array_equal(out, bytes_of(array))


def with_client_data(steps: FilterPipeline) -> FilterPipeline:
    """The element size, which HDF5 adds for shuffle when a dataset is created."""
    return FilterPipeline(
        tuple(Filter(s.id, (4,) if s.id == SHUFFLE else s.values, s.name, s.optional) for s in steps.filters)
    )


# ---------------------------------------------------------------------------------------------------------------------
# bytes that are not what they should be


@pytest.mark.parametrize("complib", COMPLIBS)
def test_garbage_raises_an_error_that_names_the_codec(complib: str) -> None:
    steps = pipeline(complib=complib, complevel=5, shuffle=False, bitshuffle=False, fletcher32=False, itemsize=4)
    name = complib.partition(":")[0]
    for size in (0, 1, 15, 40, 500):
        garbage = np.random.default_rng(size).integers(0, 256, size, np.uint8)
        with pytest.raises(ChunkError, match=f"^{name} "):
            decode_chunk(garbage, 0, steps, 4000)


@pytest.mark.parametrize("complib", COMPLIBS)
@pytest.mark.parametrize("actual", [3996, 4004, 1 << 24])
def test_another_decoded_size_is_an_error_and_takes_no_memory(complib: str, actual: int) -> None:
    """Also decompression bombs: a kilobyte that would decode to sixteen megabytes."""
    steps = pipeline(complib=complib, complevel=5, shuffle=False, bitshuffle=False, fletcher32=False, itemsize=4)
    raw, mask = encode_chunk(np.zeros(actual, np.uint8), steps, ChunkType((actual // 4,), np.dtype("i4")))
    assert mask == 0
    workspace = Workspace()
    with pytest.raises(ChunkError, match=r"cannot decode|expected 4000"):
        decode_chunk(np.frombuffer(raw, np.uint8), 0, steps, 4000, workspace=workspace)
    assert sum(buffer.size for buffer in workspace.buffers) <= 4000


def test_unfiltered_chunk_of_a_wrong_size() -> None:
    with pytest.raises(ChunkError, match="the chunk holds 10 bytes, expected 12"):
        decode_chunk(np.zeros(10, np.uint8), 0, FilterPipeline(), 12)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([Filter(4, (141, 32), "szip")], "szip: its client data are not complete"),
        (
            [Filter(305, (1,), "lzo")],
            "lzo (HDF5 filter 305) is not known here; a plug-in of HDF5 in a folder that HDF5_PLUGIN_PATH names may "
            "bring it",
        ),
        ([Filter(SHUFFLE, (), "shuffle")], "shuffle: the element size is not recorded"),
        ([Filter(BLOSC, (2, 2, 4, 400, 5, 1, 3), "blosc")], "blosc: compressor 3 is not known"),
        ([Filter(DEFLATE, (9,)), Filter(SHUFFLE, (4,)), Filter(DEFLATE, (9,)), Filter(FLETCHER32)], None),
        (
            [Filter(DEFLATE, (9,)), Filter(BZIP2, (9,), "bzip2")],
            "bzip2 behind another compressor: the size between them is not known",
        ),
        ([Filter(SHUFFLE, (4,), "shuffle"), Filter(BZIP2, (9,)), Filter(FLETCHER32)], None),
        ([], None),
    ],
)
def test_why_not(steps: list[Filter], reason: str | None) -> None:
    assert why_not(FilterPipeline(tuple(steps))) == reason


def test_two_compressors() -> None:
    steps = FilterPipeline((Filter(DEFLATE, (1,)), Filter(SHUFFLE, (4,)), Filter(DEFLATE, (9,)), Filter(FLETCHER32)))
    data = np.random.default_rng(0).integers(0, 3, 4000, "u1")
    raw, mask = encode_chunk(data, steps, ChunkType((1000,), np.dtype("i4")))
    assert mask == 0
    stored = np.frombuffer(raw, np.uint8)
    np.testing.assert_array_equal(decode_chunk(stored, 0, steps, 4000), data)
    one = FilterPipeline((Filter(DEFLATE, (1,)), Filter(DEFLATE, (9,))))
    for bomb in (zlib.compress(zlib.compress(bytes(10**6))), zlib.compress(bytes(10**6)), zlib.compress(b"x")[:-3]):
        with pytest.raises(ChunkError, match="zlib cannot decode"):
            decode_chunk(np.frombuffer(bomb, np.uint8), 0, one, 400)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("HDF5_PLUGIN_PATH", raising=False)  # set by netCDF4, if it was imported before
    codecs.find_codec.cache_clear()
    try:
        for identifier, name, message in (
            (32000, "lzf", "lzf: the package imagecodecs, which decodes it, is not installed"),
            (4, "szip", "szip: the package imagecodecs, which decodes it, is not installed"),
            (32015, "Zstandard", "Zstandard (HDF5 filter 32015) is not known here; the package hdf5plugin brings it"),
        ):
            assert why_not(FilterPipeline((Filter(identifier, (1, 2, 3, 4), name),))) == message
    finally:
        codecs.find_codec.cache_clear()


# ---------------------------------------------------------------------------------------------------------------------
# codecs of others


def inflate(data: memoryview, values: tuple[int, ...], size: int) -> bytes:
    """As an entry point of another package."""
    assert values == (3,)
    return zlib.decompress(data, bufsize=size)


def test_other_packages_offer_codecs_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(**wanted: str) -> list[EntryPoint]:
        assert wanted["group"] == "xr_pytables.codecs"
        return [EntryPoint("32015", f"{__name__}:inflate", wanted["group"])] if wanted["name"] == "32015" else []

    monkeypatch.setattr(codecs, "entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: inflate)
    codecs.find_codec.cache_clear()
    try:
        steps = FilterPipeline((Filter(32015, (3,), "Zstandard"),))
        assert why_not(steps) is None
        raw = np.frombuffer(zlib.compress(b"x" * 100), np.uint8)
        assert decode_chunk(raw, 0, steps, 100).tobytes() == b"x" * 100
        with pytest.raises(ChunkError, match="decodes to 100 bytes, expected 90"):
            decode_chunk(raw, 0, steps, 90)
        with pytest.raises(ChunkError, match=r"HDF5 filter 32015 .* cannot be applied here"):
            encode_chunk(raw, steps, ChunkType((raw.size,), raw.dtype))
    finally:
        codecs.find_codec.cache_clear()


# ---------------------------------------------------------------------------------------------------------------------
# the GIL, and what others in the process have set


CALLERS = {
    "decode": {
        "zlib": "_inflate", "bzip2": "_unpack_bzip2", "blosc:zstd": "decompress", "blosc2:zstd": "decompress",
        "shuffle": "_transpose", "fletcher32": "fletcher32",
    },
    "encode": {
        "zlib": "_deflate", "bzip2": "compress", "blosc:zstd": "_pack_blosc", "blosc2:zstd": "_compress_plain",
        "shuffle": "_transpose", "fletcher32": "fletcher32",
    },
}  # fmt: skip
"""The functions from which each codec's own is called."""


@pytest.mark.parametrize("direction", CALLERS)
@pytest.mark.parametrize("complib", CALLERS["decode"])
def test_other_python_threads_run_meanwhile(complib: str, direction: str) -> None:
    size = 1 << (20 if complib == "bzip2" else 23)
    array = np.random.default_rng(0).integers(0, 50, size // 4).astype("i4")
    chunk = ChunkType((size // 4,), array.dtype)
    if complib == "shuffle":
        steps = FilterPipeline((Filter(SHUFFLE, (4,), "shuffle"),))
    elif complib == "fletcher32":
        steps = FilterPipeline((Filter(FLETCHER32, (), "fletcher32"),))
    else:
        steps = pipeline(complib=complib, complevel=1, shuffle=False, bitshuffle=False, fletcher32=False, itemsize=4)
    raw = np.frombuffer(encode_chunk(bytes_of(array), steps, chunk)[0], np.uint8)
    workspace, out = Workspace(), np.empty(array.nbytes, np.uint8)
    works = {
        "decode": lambda: decode_chunk(raw, 0, steps, array.nbytes, out, workspace=workspace),
        "encode": lambda: encode_chunk(bytes_of(array), steps, chunk),
    }
    assert gives_way_in(CALLERS[direction][complib], works[direction])


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL to hold")
def test_a_call_that_holds_the_gil_is_found() -> None:
    def hold() -> None:
        ctypes.PyDLL(None).usleep(100)

    def release() -> None:
        ctypes.CDLL(None).usleep(100)

    assert gives_way_in("release", release)
    assert not gives_way_in("hold", hold, tries=200)


def test_settings_of_others_are_left_alone(request: pytest.FixtureRequest) -> None:
    import blosc2
    from numcodecs import blosc

    previous = blosc2.set_nthreads(2)
    request.addfinalizer(lambda: blosc2.set_nthreads(previous))
    before = (blosc2.nthreads, blosc.get_nthreads(), blosc.use_threads)
    threads = set(threading.enumerate())
    array = np.zeros(1 << 20, "i4")
    for complib in COMPLIBS:
        steps = pipeline(complib=complib, complevel=5, shuffle=True, bitshuffle=False, fletcher32=True, itemsize=4)
        raw, mask = encode_chunk(bytes_of(array), steps, ChunkType(array.shape, array.dtype))
        decode_chunk(np.frombuffer(raw, np.uint8), mask, with_client_data(steps), array.nbytes)
    assert (blosc2.nthreads, blosc.get_nthreads(), blosc.use_threads) == before
    assert set(threading.enumerate()) <= threads  # those of other tests may end meanwhile


def test_workspace_gives_memory_that_is_not_busy() -> None:
    workspace = Workspace()
    first = workspace.take(100)
    second = workspace.take(200, first)
    assert not np.may_share_memory(first, second)
    assert np.may_share_memory(workspace.take(50), first)
    assert len(workspace.buffers) == 2
    bigger = workspace.take(1000, second)
    assert not np.may_share_memory(bigger, second)
    assert [buffer.size for buffer in workspace.buffers] == [1000, 200]


def test_frames_of_one_repeated_value(tmp_path: Path) -> None:
    """Blosc2 stores no chunk for them, only a note in the index of the frame."""
    for shape, value in itertools.product([(1000,), (100, 100)], [0, 7]):
        array = np.full(shape, value, "f8")
        steps, raw, mask = one_chunk(tmp_path / "a.h5", array, tables.Filters(5, "blosc2:zstd"))
        np.testing.assert_array_equal(decode_chunk(raw, mask, steps, array.nbytes), bytes_of(array))


assert hdf5plugin  # its import registers the filters for h5py
