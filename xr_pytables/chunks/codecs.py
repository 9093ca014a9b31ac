"""Undoing and applying the filters of a chunk: one small codec for each HDF5 filter id.

A codec turns bytes into bytes of a known size; it knows its filter's client data and nothing of files. The heavy part
of each runs with the GIL released, and none reads or changes a global setting of blosc, blosc2 or numcodecs, which
others in the process use. `reading` calls `decode_chunk`, the writer calls `encode_chunk`; before either, `why_not`
says whether all filters of a pipeline are known here.

Other packages add a codec for reading through the entry-point group `xr_pytables.codecs`: the name is the filter id in
decimal, the object a function like `decode_example` below.
"""

from __future__ import annotations

import bz2
import ctypes
import functools
import importlib
import importlib.util
import math
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

import deflate
import numpy as np
from numpy.typing import NDArray

from ..errors import ChunkError
from . import libblosc2
from .filters import (
    BLOSC,
    BLOSC2,
    BLOSC_CODES,
    BZIP2,
    DEFLATE,
    FLETCHER32,
    LZF,
    NBIT,
    SCALEOFFSET,
    SHUFFLE,
    SZIP,
    Filter,
    FilterPipeline,
)
from .fletcher32 import fletcher32
from .libblosc2 import Bytes

ENTRY_POINTS: Final = "xr_pytables.codecs"
_CHECKSUM_BYTES: Final = 4
# Blosc's own choice for zstd (32 KiB at level 1, 256 KiB at level 5) is slower and compresses less
_ZSTD_BLOCK: Final = 512 * 1024
_MAX_BLOSC1_TYPESIZE: Final = 255  # BLOSC_MAX_TYPESIZE: PyTables' filter takes 1 for longer ones


def decode_example(data: memoryview, values: tuple[int, ...], size: int) -> bytes | bytearray | memoryview:
    """What an entry point of the group `xr_pytables.codecs` does, as a type: undo one filter for one chunk.

    `data` are the stored bytes, `values` the filter's client data from the file, `size` the number of bytes the result
    must have (checked afterwards; hostile data may claim any other, so allocate no more). Called from several threads
    at once; release the GIL if possible. Raise any Exception if the data cannot be decoded. This one copies.
    """
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, expected {size}")
    return bytes(data)


class ChunkType(NamedTuple):
    """What a codec may need to know of a chunk when it encodes."""

    chunkshape: tuple[int, ...]
    """In elements of the leaf, without the dimensions of the atom."""
    dtype: np.dtype[Any]
    """Of one number, as stored."""
    atom_shape: tuple[int, ...] = ()

    @property
    def element_size(self) -> int:
        """Bytes of one element of the leaf."""
        return self.dtype.itemsize * math.prod(self.atom_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of one chunk before any filter."""
        return self.element_size * math.prod(self.chunkshape)


class Codec(NamedTuple):
    """The two directions of one filter."""

    name: str
    decode: Callable[[Bytes, tuple[int, ...], Bytes], Bytes | bytearray | bytes | memoryview]
    """(stored bytes, client data, buffer of the expected size) to the decoded bytes: in the buffer, or elsewhere if
    that saves a copy. Raises any Exception for bytes that cannot be decoded to that size."""
    encode: Callable[[Bytes, tuple[int, ...], ChunkType], Bytes | bytearray | bytes | None] | None = None
    """(bytes, client data, type of the chunk) to the stored bytes, or None if the filter is to be left out for this
    chunk, as HDF5's own would be."""
    why_not: Callable[[tuple[int, ...]], str | None] = lambda values: None
    """Client data to the reason why such a filter cannot be undone here, None if it can."""
    unpack: Callable[[Bytes, int], Bytes | bytes] | None = None
    """(stored bytes, limit) to the decoded bytes, of which there are no more than the limit: where their size is not
    known, as another filter of the chunk changed it before. None if that cannot be done."""


@dataclass
class Workspace:
    """Scratch memory of one thread: buffers that grow to what is asked for and are used again for the next chunk."""

    buffers: list[Bytes] = field(default_factory=list)

    def take(self, size: int, *busy: NDArray[Any]) -> Bytes:
        """`size` bytes that share no memory with the arrays in `busy`; whatever was in them is lost."""
        for i, buffer in enumerate(self.buffers):
            # NumPy gives every view the owner of its memory as base
            if all(other.base is not buffer and other is not buffer for other in busy):
                if buffer.size < size:
                    self.buffers[i] = buffer = np.empty(0, np.uint8)  # let go of the old one first
                    self.buffers[i] = buffer = np.empty(size, np.uint8)
                return buffer[:size]
        self.buffers.append(np.empty(size, np.uint8))
        return self.buffers[-1]

    def trim(self, limit: int) -> None:
        """Let go of buffers of more than `limit` bytes."""
        self.buffers = [buffer for buffer in self.buffers if buffer.size <= limit]


def why_not(pipeline: FilterPipeline) -> str | None:
    """The reason why chunks with these filters cannot be decoded here; None if they can."""
    size_is_known = True
    for step in pipeline.filters:
        name = step.name or f"filter {step.id}"
        codec = find_codec(step.id)
        if codec is None:
            return f"{name} (HDF5 filter {step.id}) is not known here; {_who_brings(step.id)}"
        if reason := codec.why_not(step.values):
            return f"{name}: {reason}"
        if step.id not in _SAME_SIZE:
            if not size_is_known and codec.unpack is None:
                return f"{name} behind another compressor: the size between them is not known"
            size_is_known = False
    if len(pipeline.filters) > 32:
        return "more filters than a filter mask has bits"
    return None


def _who_brings(identifier: int) -> str:
    if identifier in _PACKAGES:
        return f"the package {_PACKAGES[identifier]} brings it"
    return "a plug-in of HDF5 in a folder that HDF5_PLUGIN_PATH names may bring it"


def why_not_encode(pipeline: FilterPipeline) -> str | None:
    """The reason why chunks with these filters cannot be encoded here; None if they can."""
    for step in pipeline.filters:
        codec = CODECS.get(step.id)
        if codec is None or codec.encode is None:
            return f"{step.name or 'a filter'} (HDF5 filter {step.id}) cannot be applied here"
        # a pipeline that was not yet through HDF5 does not record the size of elements, which encoding knows
        if (step.values or step.id != SHUFFLE) and (reason := codec.why_not(step.values)):
            return f"{codec.name}: {reason}"
    return None


def decode_chunk(
    raw: Bytes,
    mask: int,
    pipeline: FilterPipeline,
    nbytes: int,
    out: Bytes | None = None,
    *,
    workspace: Workspace | None = None,
    keep: tuple[NDArray[Any], ...] = (),
) -> Bytes:
    """Undo the filters that `mask` says were applied, from the last to the first.

    Returns exactly `nbytes` bytes: in `out` (of that size) if it is given, else in memory that is valid until the
    workspace is used again, or in `raw` itself. Scratch memory comes from the workspace and may overwrite `raw` if that
    lies in it, unless it is listed in `keep`. Raises ChunkError, naming the codec, for anything but `nbytes` bytes that
    pass their checksum. Safe from several threads, each with its own buffers.
    """
    workspace = workspace or Workspace()
    applied = [step for i, step in enumerate(pipeline.filters) if not mask >> i & 1]
    checksums = sum(step.id == FLETCHER32 for step in applied)
    data = raw
    while applied:
        step = applied.pop()
        if step.id == FLETCHER32:
            checksums -= 1
            data = verified(data)
            continue
        if any(other.id not in _SAME_SIZE for other in applied):
            data = _unpacked(step, data, workspace, keep, 2 * nbytes + 65536)
            continue
        # of the filters left only checksums change the size, so it is known
        size = nbytes + _CHECKSUM_BYTES * checksums
        target = workspace.take(size, data, *keep) if out is None or applied else out
        data = _decoded(step, data, target)
    if data.size != nbytes:
        raise ChunkError(f"the chunk holds {data.size} bytes, expected {nbytes}")
    if out is not None and data is not out:
        out[...] = data
        return out
    return data


def _decoded(step: Filter, data: Bytes, target: Bytes) -> Bytes:
    """One filter undone; its result has the size of `target`, and may lie there or elsewhere."""
    codec = find_codec(step.id)
    if codec is None:
        raise ChunkError(f"HDF5 filter {step.id} ({step.name}) is not known here")
    try:
        result = codec.decode(data, step.values, target)
    except Exception as error:  # a codec of another package may raise anything for bytes it cannot decode
        raise ChunkError(f"{codec.name} cannot decode the {data.size} bytes stored: {error}") from error
    if result is target:
        return target
    decoded = np.frombuffer(result, np.uint8)
    if decoded.size != target.size:
        raise ChunkError(f"{codec.name} decodes to {decoded.size} bytes, expected {target.size}")
    return decoded


def _unpacked(step: Filter, data: Bytes, workspace: Workspace, keep: tuple[NDArray[Any], ...], limit: int) -> Bytes:
    """One filter undone of which the size of the result is not known, but that it is within a limit."""
    if step.id == SHUFFLE:
        return _decoded(step, data, workspace.take(data.size, data, *keep))
    codec = find_codec(step.id)
    if codec is None or codec.unpack is None:
        raise ChunkError(f"HDF5 filter {step.id} ({step.name}) behind another compressor is not known here")
    try:
        return np.frombuffer(codec.unpack(data, limit), np.uint8)
    except Exception as error:  # as above
        raise ChunkError(f"{codec.name} cannot decode the {data.size} bytes stored: {error}") from error


def encode_chunk(data: Bytes, pipeline: FilterPipeline, chunk: ChunkType) -> tuple[Bytes, int]:
    """Apply the filters to one whole chunk (edge chunks padded): (bytes to store, filter mask).

    As `encode_parts`, in one piece.
    """
    parts, mask = encode_parts(data, pipeline, chunk)
    return parts[0] if len(parts) == 1 else np.concatenate(parts), mask


def encode_parts(data: Bytes, pipeline: FilterPipeline, chunk: ChunkType) -> tuple[tuple[Bytes, ...], int]:
    """Apply the filters to one whole chunk (edge chunks padded): (bytes to store, one behind the other, filter mask).

    `data` are the chunk's elements as stored, in C order. The bytes are those that PyTables' and HDF5's own filters
    make, or decode to the same with them; where such a filter would leave itself out because it gains nothing, its bit
    is set in the mask. May return `data` itself; a checksum at the end is a part of its own, for which nothing needs
    to be copied. Raises ChunkError if a filter cannot be applied, ValueError if `data` has not the size of the chunk.
    """
    if data.size != chunk.nbytes:
        raise ValueError(f"{data.size} bytes are not one chunk of {chunk.nbytes}")
    mask = 0
    for i, step in enumerate(pipeline.filters):
        if step.id == FLETCHER32 and i == len(pipeline.filters) - 1:
            return (data, _checksum(data)), mask
        codec = find_codec(step.id)
        if codec is None or codec.encode is None:
            raise ChunkError(f"HDF5 filter {step.id} ({step.name}) cannot be applied here")
        try:
            encoded = codec.encode(data, step.values, chunk)
        except (ValueError, RuntimeError, OSError, zlib.error) as error:
            raise ChunkError(f"{codec.name} cannot encode {data.size} bytes: {error}") from error
        if encoded is not None:
            data = np.frombuffer(encoded, np.uint8)
        elif step.optional:
            mask |= 1 << i
        else:
            raise ChunkError(f"{codec.name} does not make the chunk smaller, and is not optional")
    return (data,), mask


# ---------------------------------------------------------------------------------------------------------------------
# the codecs


class _Inflater:
    """A decompressor of libdeflate, freed with this object."""

    def __init__(self) -> None:
        library = ctypes.CDLL(deflate._deflate.__file__)
        library.libdeflate_alloc_decompressor.restype = ctypes.c_void_p
        library.libdeflate_free_decompressor.argtypes = (ctypes.c_void_p,)
        size, place = ctypes.c_size_t, ctypes.c_void_p
        library.libdeflate_zlib_decompress.argtypes = (place, place, size, place, size, place)
        self.decompress: Callable[..., int] = library.libdeflate_zlib_decompress
        self.free: Callable[[int], None] = library.libdeflate_free_decompressor
        self.pointer: int = library.libdeflate_alloc_decompressor()

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "pointer") and not ends():  # then daemon threads may be in the middle of a call with it
            self.free(self.pointer)


_own = threading.local()  # `inflater`: that of the running thread, which goes with it


def _inflater() -> _Inflater | None:
    """The libdeflate inside the `deflate` package; None where its symbols are hidden."""
    try:
        inflater: _Inflater | None = _own.inflater
    except AttributeError:
        try:
            inflater = _Inflater()
        except (OSError, AttributeError):
            inflater = None
        _own.inflater = inflater
    return inflater


def _inflate(data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes | bytearray:
    # libdeflate needs the exact size, which is known, and is more than twice as fast as zlib
    inflater = _inflater()
    if inflater is None:
        decoded: bytearray = deflate.zlib_decompress(data, out.size)
        return decoded
    places = (libblosc2.pointer(data), data.size, libblosc2.pointer(out), out.size)
    # with no place for the actual size, a stream that decodes to another one is an error
    status = inflater.decompress(inflater.pointer, *places, None)
    if status:
        meaning = {1: "bad data", 2: "too few bytes", 3: "too many bytes"}.get(status, status)
        raise ValueError(f"{meaning}, expected {out.size}")
    return out


def _inflate_up_to(data: Bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    decoded = stream.decompress(data.data, limit)
    if not stream.eof:
        raise ValueError(f"the stream has more than {limit} bytes, or no end")
    return decoded


def _deflate(data: Bytes, values: tuple[int, ...], chunk: ChunkType) -> bytearray:
    encoded: bytearray = deflate.zlib_compress(data, min(values[0] if values else 6, 9))
    return encoded


def _unshuffle(data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes:
    if data.size != out.size:
        raise ValueError(f"{data.size} bytes, expected {out.size}")
    typesize = values[0]
    if typesize == 1 or data.size < 2 * typesize:
        return data
    libblosc2.unshuffle(data, out, typesize)
    return out


def _shuffle(data: Bytes, values: tuple[int, ...], chunk: ChunkType) -> Bytes:
    # a pipeline that was not yet through HDF5 has no client data: H5Z__set_local_shuffle writes the element's size
    typesize = values[0] if values else chunk.element_size
    if typesize == 1 or data.size < 2 * typesize:
        return data
    out = np.empty_like(data)
    libblosc2.shuffle(data, out, typesize)
    return out


def _why_not_shuffle(values: tuple[int, ...]) -> str | None:
    return None if values and values[0] > 0 else "the element size is not recorded"


def verified(data: Bytes) -> Bytes:
    """The bytes before the checksum at their end. Raises ChunkError if they do not belong together."""
    if data.size < _CHECKSUM_BYTES:
        raise ChunkError(f"fletcher32: only {data.size} bytes are stored, too few for a checksum")
    body = data[:-_CHECKSUM_BYTES]
    stored = int.from_bytes(data[-_CHECKSUM_BYTES:].tobytes(), "little")
    computed = fletcher32(body)
    # HDF5 up to 1.6.2 wrote the bytes of each half the other way round; H5Z__filter_fletcher32 accepts both
    swapped = (computed & 0x00FF00FF) << 8 | (computed & 0xFF00FF00) >> 8
    if stored not in (computed, swapped):
        raise ChunkError(f"fletcher32: the checksum is {computed:#010x}, but {stored:#010x} is stored: damaged data")
    return body


def _verify(data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes:
    return verified(data)


def _add_checksum(data: Bytes, values: tuple[int, ...], chunk: ChunkType) -> Bytes:
    return np.concatenate([data, _checksum(data)])


def _checksum(data: Bytes) -> Bytes:
    return np.frombuffer(fletcher32(data).to_bytes(_CHECKSUM_BYTES, "little"), np.uint8)


def _unpack_bzip2(data: Bytes, values: tuple[int, ...], out: Bytes) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    # one byte more than expected is enough to notice a stream that is longer
    decoded = decompressor.decompress(data.data, max_length=out.size + 1)
    if not decompressor.eof and len(decoded) == out.size:
        decoded += decompressor.decompress(b"", max_length=1)
    if not decompressor.eof:
        raise ValueError("the stream does not end where it should")
    return decoded


def _pack_bzip2(data: Bytes, values: tuple[int, ...], chunk: ChunkType) -> bytes:
    return bz2.compress(data.data, min(max(values[0] if values else 9, 1), 9))


def _unpack_blosc(data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes:
    if libblosc2.library() is None or out.size > libblosc2.MAX_BYTES:
        header = libblosc2.BufferHeader.of(data)
        if header.nbytes != out.size or header.stored > data.size:
            raise ValueError(f"the header tells of {header.nbytes} bytes, expected {out.size}")
        _numcodecs_blosc().decompress(data, out)
    else:
        libblosc2.decompress(data, out)
    return out


_BLOSC_NAMES: Final = {code: name for name, code in BLOSC_CODES.items()}


def _blosc_settings(values: tuple[int, ...]) -> tuple[int, int, int]:
    """(level, shuffle, compressor code) from the client data of either Blosc filter, with the filters' defaults."""
    level = values[4] if len(values) > 4 else 5
    mode = values[5] if len(values) > 5 else 1
    code = values[6] if len(values) > 6 else BLOSC_CODES["blosclz"]
    return level, mode, code


def _why_not_blosc(values: tuple[int, ...]) -> str | None:
    code = _blosc_settings(values)[2]
    return None if code in _BLOSC_NAMES else f"compressor {code} is not known"


def _pack_blosc(data: Bytes, values: tuple[int, ...], chunk: ChunkType) -> Bytes | bytes | None:
    level, mode, code = _blosc_settings(values)
    itemsize = chunk.dtype.itemsize
    typesize = itemsize if itemsize <= _MAX_BLOSC1_TYPESIZE else 1
    compress = _blosc1_compress_ctx()
    if compress is None:
        encoded = bytes(_numcodecs_blosc().compress(data.view(f"V{typesize}"), _BLOSC_NAMES[code], level, mode))
        return encoded if len(encoded) < data.size else None
    # no larger than the data, as PyTables' filter does it: 0 is returned if that does not suffice
    out = np.empty(data.size, np.uint8)
    sizes = (level, mode, typesize, data.size)
    places = (libblosc2.pointer(data), libblosc2.pointer(out), out.size)
    name = _BLOSC_NAMES[code]
    got = compress(*sizes, *places, name.encode(), _ZSTD_BLOCK if name == "zstd" and level < 9 else 0, 1)
    if got < 0:
        raise ValueError(f"Blosc reports error {got}")
    return out[:got] if 0 < got < out.size else None  # of equal size: not to be told from data stored as they are


def _numcodecs_blosc() -> Any:
    """The Blosc 1 of numcodecs; imported late, as only writing Blosc 1 needs it and it starts threads."""
    from numcodecs import blosc

    return blosc


@functools.cache
def _blosc1_compress_ctx() -> Callable[..., int] | None:
    """`blosc_compress_ctx` of that library, None where its symbols are hidden.

    numcodecs' own function, called in the main thread, would set the library's global compressor and use its threads.
    (libblosc2 writes buffers that Blosc 1 cannot read.)
    """
    try:
        function = ctypes.CDLL(_numcodecs_blosc().__file__).blosc_compress_ctx
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = (
        ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int,
    )  # fmt: skip

    compress: Callable[..., int] = function
    return compress


def _unpack_blosc2(data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes:
    frame = libblosc2.Frame.of(data)
    if frame.shape is not None:
        decoded = math.prod(frame.shape) * frame.typesize
        if decoded != out.size:
            raise ValueError(f"the frame holds an array of {frame.shape}, {decoded} bytes; expected {out.size}")
        if frame.chunk is None:
            libblosc2.decompress_frame(data, frame, out)
        else:
            whole = tuple((0, length) for length in frame.shape)
            array = out.view(f"V{frame.typesize}").reshape(frame.shape)
            libblosc2.read_blocks(frame, array.dtype, whole, array)
        return out
    if frame.nbytes != out.size:
        raise ValueError(f"the frame holds {frame.nbytes} bytes, expected {out.size}")
    if frame.chunk is None:
        libblosc2.decompress_frame(data, frame, out)
    else:
        libblosc2.decompress(frame.chunk, out)
    return out


def _pack_blosc2(data: Bytes, values: tuple[int, ...], chunk: ChunkType) -> Bytes:
    level, mode, code = _blosc_settings(values)
    blocksize = values[1] if len(values) > 1 else 0
    settings = libblosc2.Compression(code, level, mode, chunk.dtype.itemsize, blocksize)
    # a b2nd array of multi-dimensional atoms would need their dimensions too: PyTables then makes a plain frame
    shape = chunk.chunkshape if not chunk.atom_shape and data.size == chunk.nbytes else ()
    return libblosc2.compress_frame(data, settings, shape)


def _why_not_blosc2(values: tuple[int, ...]) -> str | None:
    if libblosc2.library() is None:
        return "the library of the blosc2 package cannot be loaded"
    return _why_not_blosc(values)


def _unpack_nbit(data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes:
    from .packed_bits import unpack_nbit  # late, as few files need it

    return unpack_nbit(data, values, out)


def _unpack_scaleoffset(data: Bytes, values: tuple[int, ...], out: Bytes) -> Bytes:
    from .packed_bits import unpack_scaleoffset  # late, as few files need it

    return unpack_scaleoffset(data, values, out)


def _unpack_lzf(data: Bytes, values: tuple[int, ...], out: Bytes) -> Any:
    return _imagecodecs().lzf_decode(data, out=out)


def _unpack_szip(data: Bytes, values: tuple[int, ...], out: Bytes) -> Any:
    """The library does not tell of data that end too early: it leaves the last byte as it was, whatever that is."""
    for mark in _MARKS:
        out[-1:] = mark
        decoded = _imagecodecs().szip_decode(data, *values[:4], header=True, out=out)
        if not out.size or out[-1] != mark:
            return decoded
    raise ValueError(f"they end before {out.size} bytes are decoded")


_MARKS: Final = (0x55, 0xAA)
"""Two, as the last byte may really have the value of one."""


def _imagecodecs() -> Any:
    """The package, imported late: it is large, and these two filters alone need it."""
    return importlib.import_module("imagecodecs")


def _why_not_imagecodecs(values: tuple[int, ...]) -> str | None:
    if importlib.util.find_spec("imagecodecs") is None:
        return "the package imagecodecs, which decodes it, is not installed"
    return None


def _why_not_szip(values: tuple[int, ...]) -> str | None:
    return _why_not_imagecodecs(values) if len(values) >= 4 else "its client data are not complete"


_SAME_SIZE: Final = frozenset((SHUFFLE, FLETCHER32))
"""Filters that keep the size of the data, but for a checksum."""
# lz4, bitshuffle, zfp, zstd, sz, fcidecomp, sz3, sperr, htj2k
_PACKAGES: Final = dict.fromkeys((32004, 32008, 32013, 32015, 32017, 32018, 32024, 32028, 32041), "hdf5plugin")
"""What brings filters that are not decoded here: plug-ins of HDF5, which are found once the package is installed."""

CODECS: Final[dict[int, Codec]] = {
    DEFLATE: Codec("zlib", _inflate, _deflate, unpack=_inflate_up_to),
    SHUFFLE: Codec("shuffle", _unshuffle, _shuffle, _why_not_shuffle),
    FLETCHER32: Codec("fletcher32", _verify, _add_checksum),
    SZIP: Codec("szip", _unpack_szip, why_not=_why_not_szip),
    NBIT: Codec("nbit", _unpack_nbit),
    SCALEOFFSET: Codec("scaleoffset", _unpack_scaleoffset),
    LZF: Codec("lzf", _unpack_lzf, why_not=_why_not_imagecodecs),
    BZIP2: Codec("bzip2", _unpack_bzip2, _pack_bzip2),
    BLOSC: Codec("blosc", _unpack_blosc, _pack_blosc, _why_not_blosc),
    BLOSC2: Codec("blosc2", _unpack_blosc2, _pack_blosc2, _why_not_blosc2),
}
"""Codecs by HDF5 filter id. `find_codec` also knows those of other packages."""


@functools.cache
def find_codec(identifier: int) -> Codec | None:
    """The codec of a filter id: ours, else one that another package offers, else a plug-in of HDF5, else None."""
    if identifier in CODECS:
        return CODECS[identifier]
    for entry in entry_points(group=ENTRY_POINTS, name=str(identifier)):
        return _foreign(entry.value, entry.load())
    from . import plugins  # late, as few files need it

    plugin = plugins.find(identifier)
    return Codec(plugin.name, plugin.decode) if plugin is not None else None


def _foreign(name: str, decode: Callable[[memoryview, tuple[int, ...], int], Any]) -> Codec:
    def adapted(data: Bytes, values: tuple[int, ...], out: Bytes) -> Any:
        return decode(data.data, values, out.size)

    return Codec(name, adapted)
