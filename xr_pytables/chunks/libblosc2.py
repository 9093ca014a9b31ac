"""The libblosc2 of the `blosc2` package, called through ctypes: shuffle, Blosc 1 and 2 buffers, Blosc2 frames.

Two reasons not to use the package's Python functions: they hold the GIL, and they work with the library's global
settings. ctypes releases the GIL around each call, and every call here has a context of its own with one thread. The
package is not imported (that takes long): its shared library is found beside it. (The libblosc2 that the PyTables
wheel links is several times slower.) Knows frames and blocks; knows no HDF5 filter.

Tested in `tests/chunks/test_codecs.py` and `tests/chunks/test_reading_chunks.py`.
"""

from __future__ import annotations

import bisect
import ctypes
import functools
import glob
import importlib.util
import itertools
import logging
import math
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from ctypes import c_int, c_int8, c_int16, c_int32, c_int64, c_uint8, c_void_p
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Box = tuple[tuple[int, int], ...]
"""(start, stop) in elements along each dimension of a chunk."""

MAX_BYTES: Final = 2**31 - 1 - 32
"""BLOSC2_MAX_BUFFERSIZE: the library counts in 32 bits."""
MAX_RANK: Final = 8
"""Dimensions of a b2nd array that every version of the library can hold (PyTables' limit as well)."""
MAX_TYPESIZE: Final = 255
HEADER: Final = 16
_EXTENDED_HEADER: Final = 32
_MAGIC: Final = b"\x9e\xa8b2frame\x00"
_MEMCPYED: Final = 2  # in the flags of a buffer
_LAST_FILTER: Final = 5
_SHORT_ROW: Final = 1024  # bytes
_LAYER_RANK: Final = 15  # the most that a fixarray of MessagePack holds
_LAYER: Final = 3 + 3 + _LAYER_RANK * (9 + 5 + 5)  # bytes up to the dtype
_FEW_BLOCKS: Final = 1024
_BLOCK_ITEMS: Final = 1 << 16
"""Elements of a b2nd block where no block size is recorded: PyTables has as many, at most, for the middle levels."""
_BLOCK_BYTES: Final = 1 << 20
"""About the most bytes of such a block, of elements of any size."""
_LZ4: Final = 1

_log = logging.getLogger(__name__)


class _DecompressionParameters(ctypes.Structure):
    """blosc2_dparams: the field that is set here, then room for the others.

    The library fills the structure with its own defaults and only then is it changed, so that fields which a later
    version adds are right. Larger than needed, because it travels by value.
    """

    _fields_ = (("threads", c_int16), ("others", c_uint8 * 254))


class _CompressionParameters(ctypes.Structure):
    """blosc2_cparams, as above."""

    _fields_ = (
        ("compressor", c_uint8),
        ("compressor_meta", c_uint8),
        ("level", c_uint8),
        ("use_dictionary", c_int),
        ("typesize", c_int32),
        ("threads", c_int16),
        ("blocksize", c_int32),
        ("splitmode", c_int32),
        ("schunk", c_void_p),
        ("filters", c_uint8 * 6),
        ("filters_meta", c_uint8 * 6),
        ("others", c_uint8 * 256),
    )


class _Storage(ctypes.Structure):
    """blosc2_storage, as above."""

    _fields_ = (
        ("contiguous", ctypes.c_bool),
        ("path", c_void_p),
        ("compression", c_void_p),
        ("decompression", c_void_p),
        ("others", c_uint8 * 128),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "blosc2_init": (None, ()),
    "blosc2_get_blosc2_dparams_defaults": (_DecompressionParameters, ()),
    "blosc2_get_blosc2_cparams_defaults": (_CompressionParameters, ()),
    "blosc2_get_blosc2_storage_defaults": (_Storage, ()),
    "blosc2_create_dctx": (c_void_p, (_DecompressionParameters,)),
    "blosc2_free_ctx": (None, (c_void_p,)),
    "blosc2_decompress_ctx": (c_int, (c_void_p, c_void_p, c_int32, c_void_p, c_int32)),
    "blosc2_getitem_ctx": (c_int, (c_void_p, c_void_p, c_int32, c_int, c_int, c_void_p, c_int32)),
    "blosc2_shuffle": (c_int32, (c_int32, c_int32, c_void_p, c_void_p)),
    "blosc2_unshuffle": (c_int32, (c_int32, c_int32, c_void_p, c_void_p)),
    "blosc2_schunk_new": (c_void_p, (c_void_p,)),
    "blosc2_schunk_free": (c_int, (c_void_p,)),
    "blosc2_schunk_from_buffer": (c_void_p, (c_void_p, c_int64, ctypes.c_bool)),
    "blosc2_schunk_append_buffer": (c_int64, (c_void_p, c_void_p, c_int32)),
    "blosc2_schunk_decompress_chunk": (c_int, (c_void_p, c_int64, c_void_p, c_int32)),
    "blosc2_schunk_to_buffer": (c_int64, (c_void_p, c_void_p, c_void_p)),
    "b2nd_create_ctx": (
        c_void_p,
        (c_void_p, c_int8, c_void_p, c_void_p, c_void_p, ctypes.c_char_p, c_int8, c_void_p, c_int32),
    ),
    "b2nd_free_ctx": (c_int, (c_void_p,)),
    "b2nd_from_cbuffer": (c_int, (c_void_p, c_void_p, c_void_p, c_int64)),
    "b2nd_from_cframe": (c_int, (c_void_p, c_int64, ctypes.c_bool, c_void_p)),
    "b2nd_to_cframe": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p)),
    "b2nd_to_cbuffer": (c_int, (c_void_p, c_void_p, c_int64)),
    "b2nd_free": (c_int, (c_void_p,)),
}


def _candidates() -> list[str]:
    """Files that may be the library, in the order to try: the one `blosc2` itself would load comes first."""
    spec = importlib.util.find_spec("blosc2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    # the last pattern: conda's extension links a shared library, whose symbols show through it
    patterns = (
        "lib/libblosc2.so.*", "lib*/libblosc2*.dylib", "lib*/libblosc2.so", "libblosc2*.dll", "lib/libblosc2*.dll",
        "blosc2_ext*.so",
    )  # fmt: skip
    found = (glob.glob(os.path.join(folder, pattern)) for folder in folders for pattern in patterns)
    return [path for paths in found for path in sorted(paths)]


@functools.cache
def library() -> Any | None:
    """The loaded library, or None (with one debug line in the log) where it or one of its functions is missing."""
    for path in _candidates():
        try:
            loaded = ctypes.CDLL(path)
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(loaded, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            _log.debug("%s cannot be used: %s", path, error)
            continue
        loaded.blosc2_init()
        return loaded
    _log.debug("no usable libblosc2: Blosc2 is left to PyTables, shuffle to NumPy")
    return None


def _required() -> Any:
    loaded = library()
    if loaded is None:
        raise RuntimeError("the library of the blosc2 package cannot be loaded")
    return loaded


def pointer(array: NDArray[Any]) -> int:
    """Address of an array's first byte; quicker than `array.ctypes.data`."""
    address: int = array.__array_interface__["data"][0]
    return address


# ---------------------------------------------------------------------------------------------------------------------
# shuffle


def shuffle(source: Bytes, target: Bytes, typesize: int) -> None:
    """Byte-transpose elements of `typesize` bytes; a remainder shorter than one element goes behind, as it is."""
    _transpose("blosc2_shuffle", source, target, typesize, forward=True)


def unshuffle(source: Bytes, target: Bytes, typesize: int) -> None:
    """Undo `shuffle`. The buffers have equal sizes and do not overlap."""
    _transpose("blosc2_unshuffle", source, target, typesize, forward=False)


def _transpose(name: str, source: Bytes, target: Bytes, typesize: int, *, forward: bool) -> None:
    loaded = library()
    fits = loaded is not None and source.size <= MAX_BYTES and typesize <= MAX_TYPESIZE
    if fits and getattr(loaded, name)(typesize, source.size, pointer(source), pointer(target)) >= 0:
        return
    whole = source.size // typesize * typesize
    shape = (-1, typesize) if forward else (typesize, -1)
    if whole:
        target[:whole].reshape(shape[::-1])[...] = source[:whole].reshape(shape).T
    target[whole:] = source[whole:]


# ---------------------------------------------------------------------------------------------------------------------
# buffers of Blosc 1 and chunks of Blosc2: the same header in front


class BufferHeader(NamedTuple):
    """The first 16 bytes of a compressed buffer. Sizes in bytes; nothing in it has been checked against the data."""

    version: int
    typesize: int
    nbytes: int
    blocksize: int
    stored: int

    @classmethod
    def of(cls, data: Bytes) -> BufferHeader:
        """Raises ValueError if there is no room for a header."""
        if data.size < HEADER:
            raise ValueError(f"{data.size} bytes are too few for a Blosc header")
        version, _, _, typesize, nbytes, blocksize, stored = struct.unpack_from("<BBBBiii", data.data)
        return cls(version, typesize, nbytes, blocksize, stored)


class _Context:
    """A decompression context with one thread, freed with this object."""

    def __init__(self) -> None:
        loaded = _required()
        parameters = loaded.blosc2_get_blosc2_dparams_defaults()
        parameters.threads = 1
        self.free: Callable[[int], None] = loaded.blosc2_free_ctx
        self.pointer: int = loaded.blosc2_create_dctx(parameters)

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ends():  # then daemon threads may be in the middle of a call with it
            self.free(self.pointer)


_own = threading.local()  # `context`: that of the running thread, which goes with it


def _context() -> int:
    try:
        context: _Context = _own.context
    except AttributeError:
        context = _own.context = _Context()
    return context.pointer


def decompress(data: Bytes, out: Bytes) -> None:
    """Decode a Blosc 1 or Blosc2 buffer that holds exactly `out.size` bytes. Raises ValueError if it does not."""
    header = BufferHeader.of(data)
    if header.nbytes != out.size or header.stored > data.size:
        raise ValueError(
            f"the Blosc header tells of {header.nbytes} bytes stored in {header.stored}, "
            f"expected {out.size} in {data.size}"
        )
    got = _required().blosc2_decompress_ctx(_context(), pointer(data), data.size, pointer(out), out.size)
    if got != out.size:
        raise ValueError(f"Blosc decodes to {got} (bytes or error code), expected {out.size} bytes")


def decompress_part(data: Bytes, header: BufferHeader, start: int, out: Bytes) -> None:
    """Decode `out.size` bytes from `start` on (multiples of the header's typesize); only the blocks they lie in."""
    size = header.typesize
    if start % size or out.size % size:
        raise ValueError(f"{out.size} bytes from {start} on are not whole items of {size} bytes")
    got = _required().blosc2_getitem_ctx(
        _context(), pointer(data), data.size, start // size, out.size // size, pointer(out), out.size
    )
    if got != out.size:
        raise ValueError(f"Blosc decodes to {got} (bytes or error code), expected {out.size} bytes")


# ---------------------------------------------------------------------------------------------------------------------
# frames


class Frame(NamedTuple):
    """A contiguous Blosc2 frame that holds one chunk, read from its header (README_CFRAME_FORMAT of c-blosc2).

    A b2nd frame stores the chunk as blocks of `blockshape`, the last of each row padded.
    """

    nbytes: int
    """Decoded size, padding included."""
    typesize: int
    blockshape: tuple[int, ...] | None
    """None: not a b2nd frame, the bytes are in their own order."""
    shape: tuple[int, ...] | None
    """Of a b2nd frame, in elements."""
    chunk: Bytes | None
    """The compressed chunk; None if it is not stored as such (a frame of one repeated value)."""

    @classmethod
    def of(cls, data: Bytes) -> Frame:
        """Raises ValueError for bytes that are not such a frame."""
        if data.size < 96 or data[:10].tobytes() != _MAGIC:
            raise ValueError("this is not a Blosc2 frame")
        header_size, frame_size, nbytes = (
            struct.unpack_from(form, data.data, place)[0] for form, place in ((">i", 11), (">Q", 16), (">q", 30))
        )
        typesize, chunk_nbytes = struct.unpack_from(">i", data.data, 48)[0], struct.unpack_from(">i", data.data, 58)[0]
        if not 0 < header_size <= data.size or frame_size > data.size or typesize < 1 or nbytes != chunk_nbytes:
            raise ValueError("the header of the Blosc2 frame contradicts itself")
        shape, blockshape = _b2nd_shapes(data[:header_size].tobytes())
        return cls(nbytes, typesize, blockshape, shape, _stored_chunk(data[header_size:], nbytes))


UP_TO_LEVEL: Final = 28
"""Bytes of a frame that `is_plain` looks at."""


def is_plain(frame: bytes) -> bool:
    """Whether a frame was made with level 0, and so without compression (its header, `codec_flags`)."""
    return frame.startswith(_MAGIC) and len(frame) >= UP_TO_LEVEL and frame[UP_TO_LEVEL - 1] < 16


def _stored_chunk(data: Bytes, nbytes: int) -> Bytes | None:
    if data.size < _EXTENDED_HEADER:
        return None
    header = BufferHeader.of(data)
    if header.nbytes != nbytes or not _EXTENDED_HEADER <= header.stored <= data.size or not header.typesize:
        return None
    return data[: header.stored]


def _b2nd_shapes(header: bytes) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """(shape, block shape) from the b2nd metalayer of a frame header; (None, None) if there is none."""
    place = header.find(b"\xa4b2nd\xd2")
    if place < 0:
        if b"caterva" in header:
            raise ValueError("the frame is of Caterva, which came before b2nd")
        return None, None
    try:
        (place,) = struct.unpack_from(">i", header, place + 6)
        if place < 0 or header[place] != 0xC6:
            raise ValueError("the b2nd metalayer of the frame cannot be read")
        (size,) = struct.unpack_from(">I", header, place + 1)
    except (IndexError, struct.error):
        raise ValueError("the b2nd metalayer of the frame is cut off") from None
    # no longer than a layer can be before the dtype, as it is kept
    return _shapes_of_layer(header[place + 5 : place + 5 + min(size, _LAYER)])


@functools.lru_cache(maxsize=64)  # mostly the same for each chunk of an array
def _shapes_of_layer(layer: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The same from the content of the layer.

    That is: version, rank, shape (int64), chunk shape (int32), block shape (int32), dtype format, dtype.
    """
    try:
        if layer[0] & 0xF0 != 0x90:
            raise ValueError("the b2nd metalayer of the frame cannot be read")
        rank = layer[2]
        if rank > _LAYER_RANK:
            raise ValueError(f"the b2nd metalayer of the frame has {rank} dimensions")
        shape, place = _packed(layer, 3, rank, "q")
        chunks, place = _packed(layer, place, rank, "i")
        blocks, place = _packed(layer, place, rank, "i")
    except (IndexError, struct.error):
        raise ValueError("the b2nd metalayer of the frame is cut off") from None
    if chunks != shape or any(not 0 < block <= 2**31 for block in blocks):
        raise ValueError(f"the frame has an array of {shape} in chunks of {chunks} and blocks of {blocks}")
    return shape, blocks


def _packed(header: bytes, place: int, rank: int, form: str) -> tuple[tuple[int, ...], int]:
    """`rank` integers of a MessagePack array whose items are all int64 or all int32, and the place behind them."""
    width = struct.calcsize(">" + form) + 1
    if header[place] != 0x90 + rank:
        raise ValueError("the b2nd metalayer of the frame has arrays of another rank")
    items = tuple(struct.unpack_from(">" + form, header, place + 2 + width * i)[0] for i in range(rank))
    return items, place + 1 + width * rank


def decompress_frame(data: Bytes, frame: Frame, out: Bytes) -> None:
    """Decode all of a frame into `out`, in C order, through the library's own reader of frames.

    `out` has the size the frame has to decode to. Slower than `decompress` and `blocks` for frames that have a
    `chunk`, but knows every kind.
    """
    loaded = _required()
    if frame.shape is not None:
        array = c_void_p()
        expected = math.prod(frame.shape) * frame.typesize
        if expected != out.size or loaded.b2nd_from_cframe(pointer(data), data.size, False, ctypes.byref(array)) < 0:
            raise ValueError("the library cannot open the b2nd frame")
        try:
            status = loaded.b2nd_to_cbuffer(array, pointer(out), out.size)
        finally:
            loaded.b2nd_free(array)
        if status < 0:
            raise ValueError(f"the library cannot decode the b2nd frame (error {status})")
        return
    schunk = loaded.blosc2_schunk_from_buffer(pointer(data), data.size, False)
    if not schunk:
        raise ValueError("the library cannot open the frame")
    try:
        got = loaded.blosc2_schunk_decompress_chunk(schunk, 0, pointer(out), out.size)
    finally:
        loaded.blosc2_schunk_free(schunk)
    if got != out.size:
        raise ValueError(f"the frame decodes to {got} (bytes or error code), expected {out.size} bytes")


def read_blocks(frame: Frame, dtype: np.dtype[Any], box: Box, out: NDArray[Any]) -> None:
    """Decode the blocks of a b2nd frame that a box touches, one after the other, and put the box into `out`.

    `out` has the shape of the box, any strides, and a dtype that `dtype` (the stored one) can be assigned to. A block
    of some 100 KiB stays in the cache between the two steps, so this is faster than to decode the chunk and copy it.
    Raises ValueError if the frame contradicts itself.
    """
    blockshape, shape, chunk = frame.blockshape, frame.shape, frame.chunk
    if blockshape is None or shape is None or chunk is None:
        raise ValueError("only stored b2nd frames have blocks")
    header = BufferHeader.of(chunk)
    counts = [-(-n // b) for n, b in zip(shape, blockshape, strict=True)]
    items = math.prod(blockshape)
    if (
        frame.typesize != dtype.itemsize
        or header.blocksize != items * dtype.itemsize
        or header.nbytes != header.blocksize * math.prod(counts)
        or header.blocksize % header.typesize
    ):
        raise ValueError(f"the blocks of the frame ({header.blocksize} bytes) do not fit {blockshape} of {dtype}")
    tile = np.empty(blockshape, dtype)
    raw = tile.reshape(-1).view(np.uint8)
    place, source, size = pointer(raw), pointer(chunk), chunk.size
    decode, context = _required().blosc2_getitem_ctx, _context()
    per_block = header.blocksize // header.typesize
    for number, inside, outside in _tiles(box, blockshape, counts):
        if decode(context, source, size, number * per_block, per_block, place, raw.size) != raw.size:
            raise ValueError(f"block {number} of the frame cannot be decoded")
        _assign_rows(out[outside], tile[inside])


def _assign_rows(target: NDArray[Any], source: NDArray[Any]) -> None:
    """`target[...] = source`, of which the last dimension is one run of bytes; short rows are taken as single items.

    (NumPy's own loop over rows takes about as long as to copy 256 bytes, the usual row of a b2nd block.)
    """
    alike = target.dtype == source.dtype and target.strides[-1] == target.itemsize
    row = target.shape[-1] * target.itemsize
    if alike and target.itemsize < row <= _SHORT_ROW:
        kind = _row_type(row)
        target.view(kind)[...] = source.view(kind)
    else:
        target[...] = source


@functools.lru_cache(maxsize=64)
def _row_type(size: int) -> np.dtype[Any]:
    return np.dtype(f"V{size}")


def block_spans(frame: Frame, box: Box, known: int) -> list[tuple[int, int]] | None:
    """(start, stop) in bytes within `frame.chunk` of the blocks that a box touches, so that only they need be read.

    Looks at the first `known` bytes of the chunk. None where they do not tell: a chunk stored without compression, of
    one repeated value or with a dictionary, or more blocks than fit there. Raises ValueError for places outside.
    """
    blockshape, shape, chunk = frame.blockshape, frame.shape, frame.chunk
    if blockshape is None or shape is None or chunk is None or known < _EXTENDED_HEADER:
        return None
    if chunk[2] & _MEMCPYED or chunk[_EXTENDED_HEADER - 1]:
        return None
    counts = [-(-n // b) for n, b in zip(shape, blockshape, strict=True)]
    behind = _EXTENDED_HEADER + 4 * math.prod(counts)
    if behind > min(known, chunk.size):
        return None
    starts = chunk[_EXTENDED_HEADER:behind].view("<i4").tolist()
    borders = [*sorted(starts), chunk.size]
    if borders[0] < behind or borders[-2] >= chunk.size:
        raise ValueError("a block of the frame lies outside of its chunk")
    numbers = [number for number, _, _ in _tiles(box, blockshape, counts)]
    return [(starts[i], borders[bisect.bisect_right(borders, starts[i])]) for i in numbers]


_Tile = tuple[int, tuple[slice, ...], tuple[slice, ...]]


def _tiles(box: Box, blockshape: tuple[int, ...], counts: list[int]) -> Iterable[_Tile]:
    """For each block that meets the box: its number, the part of it that is wanted, and where that part goes."""
    if math.prod(counts) > _FEW_BLOCKS:
        return _each_tile(box, blockshape, tuple(counts))
    return _few_tiles(box, blockshape, tuple(counts))


@functools.lru_cache(maxsize=64)  # mostly the same for each chunk of a read
def _few_tiles(box: Box, blockshape: tuple[int, ...], counts: tuple[int, ...]) -> list[_Tile]:
    return list(_each_tile(box, blockshape, counts))


def _each_tile(box: Box, blockshape: tuple[int, ...], counts: tuple[int, ...]) -> Iterator[_Tile]:
    axes = []
    stride = math.prod(counts)
    for (start, stop), length, count in zip(box, blockshape, counts, strict=True):
        stride //= count
        axis = []
        for i in range(start // length, -(-stop // length)):
            low, high = max(start, i * length), min(stop, (i + 1) * length)
            inside, outside = slice(low - i * length, high - i * length), slice(low - start, high - start)
            axis.append((i * stride, inside, outside))
        axes.append(axis)
    for pieces in itertools.product(*axes):
        numbers, inside, outside = zip(*pieces, strict=True)
        yield sum(numbers), inside, outside


# ---------------------------------------------------------------------------------------------------------------------
# encoding


class Compression(NamedTuple):
    """How to compress: the settings of the HDF5 filter."""

    compressor: int
    level: int
    shuffle: int
    """0 none, 1 bytes, 2 bits."""
    typesize: int
    blocksize: int = 0
    """In bytes, not exceeded; 0 for a default."""


def compress_frame(data: Bytes, compression: Compression, chunkshape: tuple[int, ...]) -> Bytes:
    """Encode one chunk as the frame that PyTables' Blosc2 filter makes of it.

    That is a b2nd frame if the chunk has 2 to 8 dimensions, else a frame without shape. `data` is the whole chunk, edge
    chunks padded. Raises ValueError where the library refuses.
    """
    if data.size > MAX_BYTES:
        raise ValueError(f"a chunk of {data.size} bytes is too large for Blosc2")
    loaded = _required()
    parameters = loaded.blosc2_get_blosc2_cparams_defaults()
    parameters.compressor, parameters.level = compression.compressor, compression.level
    parameters.typesize, parameters.threads, parameters.blocksize = compression.typesize, 1, compression.blocksize
    parameters.filters[_LAST_FILTER] = compression.shuffle
    storage = loaded.blosc2_get_blosc2_storage_defaults()
    storage.compression = ctypes.addressof(parameters)
    # contiguous: the frame that is returned belongs to the library, which frees it with the schunk
    storage.contiguous = True
    if 1 < len(chunkshape) <= MAX_RANK:
        return _compress_b2nd(data, storage, compression, chunkshape)
    return _compress_plain(data, storage)


def _compress_plain(data: Bytes, storage: _Storage) -> Bytes:
    loaded = _required()
    schunk = loaded.blosc2_schunk_new(ctypes.byref(storage))
    if not schunk:
        raise ValueError("Blosc2 cannot make a frame with these settings")
    try:
        frame, needs_free = c_void_p(), ctypes.c_bool()
        if loaded.blosc2_schunk_append_buffer(schunk, pointer(data), data.size) < 0:
            raise ValueError("Blosc2 cannot compress the chunk")
        size = loaded.blosc2_schunk_to_buffer(schunk, ctypes.byref(frame), ctypes.byref(needs_free))
        if size <= 0 or needs_free.value:
            raise ValueError("Blosc2 cannot make a frame of the chunk")
        return _copied(frame, size)
    finally:
        loaded.blosc2_schunk_free(schunk)


def _compress_b2nd(data: Bytes, storage: _Storage, compression: Compression, chunkshape: tuple[int, ...]) -> Bytes:
    loaded, rank, typesize = _required(), len(chunkshape), compression.typesize
    shape, chunks = (c_int64 * rank)(*chunkshape), (c_int32 * rank)(*chunkshape)
    blocks = (c_int32 * rank)(*block_shape(chunkshape, compression))
    opaque = f"|V{typesize}".encode()  # what the filter writes: it does not know the dtype
    context = loaded.b2nd_create_ctx(ctypes.byref(storage), rank, shape, chunks, blocks, opaque, 0, None, 0)
    if not context:
        raise ValueError("Blosc2 cannot make a b2nd array with these settings")
    array = c_void_p()
    try:
        frame, size, needs_free = c_void_p(), c_int64(), ctypes.c_bool()
        if loaded.b2nd_from_cbuffer(context, ctypes.byref(array), pointer(data), data.size) < 0:
            raise ValueError("Blosc2 cannot compress the chunk")
        status = loaded.b2nd_to_cframe(array, ctypes.byref(frame), ctypes.byref(size), ctypes.byref(needs_free))
        if status < 0 or needs_free.value:
            raise ValueError("Blosc2 cannot make a frame of the chunk")
        return _copied(frame, size.value)
    finally:
        if array:
            loaded.b2nd_free(array)
        loaded.b2nd_free_ctx(context)


def _copied(frame: c_void_p, size: int) -> Bytes:
    """A copy of memory that the library is going to free; the GIL is free meanwhile, as it is not in `string_at`."""
    owned = (c_uint8 * size).from_address(frame.value or 0)
    return np.ctypeslib.as_array(owned).copy()


@functools.lru_cache(maxsize=64)  # mostly the same for each chunk of an array
def block_shape(chunkshape: tuple[int, ...], compression: Compression) -> tuple[int, ...]:
    """Shape of the blocks that a b2nd chunk is divided into, alike in size, so that few hold padding.

    The longest side is divided, again and again, until a block has no more elements than it should. For lz4 it stops
    one step before: of a block, the first bytes of all elements are compressed together, then the second ones ..., and
    what is longer than 64 KiB lz4 decodes 1.4 times as fast (and mostly stores smaller): it has another table for that.
    """
    typesize = compression.typesize
    items = compression.blocksize // typesize or min(_BLOCK_ITEMS, _BLOCK_BYTES // typesize)
    least = items if compression.compressor == _LZ4 and not compression.blocksize else 0
    blocks = list(chunkshape)
    while math.prod(blocks) > items:
        for axis in sorted(range(len(blocks)), key=blocks.__getitem__, reverse=True):
            count = -(-chunkshape[axis] // max(1, blocks[axis] - 1))  # the fewest blocks that are smaller than now
            side = -(-chunkshape[axis] // count)
            if side < blocks[axis] and math.prod(blocks) // blocks[axis] * side > least:
                blocks[axis] = side
                break
        else:
            break
    return tuple(blocks)
