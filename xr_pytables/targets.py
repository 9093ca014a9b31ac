"""Where the data of a write go: into the open new file, or aside for the process that makes the file.

Arrays in memory are handed to `write_array`; `dask.array.store` puts blocks into a `DirectTarget` or a `SpoolTarget`.
All of them encode whole chunks in threads and outside HDF5, and take the one lock for writing the bytes.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .chunk_encode import EncodedChunk, encode_block
from .files import hdf5_lock
from .target_file import ArrayLayout, TargetFile
from .transaction import Transaction

_SLAB_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Effort:
    """How a write goes about it. Makes no difference to the values that are read back."""

    threads: int | None = None
    """How many threads may encode at once; None: one per CPU."""
    write_empty_chunks: bool = True
    """Whether chunks that hold nothing but the fill value are written in arrays that are new."""

    def __post_init__(self) -> None:
        if self.threads is not None and (isinstance(self.threads, bool) or self.threads < 1):
            raise ValueError(f"threads must be 1 or more, not {self.threads!r}")

    def budget(self) -> AbstractContextManager[Any]:
        """What all threads that encode for one write hold while they do, so that there are never more of them."""
        return nullcontext() if self.threads is None else threading.BoundedSemaphore(self.threads)


USUAL: Final = Effort()


@contextlib.contextmanager
def kept_open(path: str) -> Iterator[TargetFile]:
    """A file of the transaction, open. Whoever uses it takes the lock for each use; it is free in between."""
    with hdf5_lock():
        file = TargetFile(path, create=False)
    try:
        yield file
    except BaseException:
        with hdf5_lock(), contextlib.suppress(OSError):  # what went wrong first counts
            file.close()
        raise
    with hdf5_lock():
        file.close()


class DirectTarget:
    """Takes blocks, from any thread of the process that has the new file open."""

    def __init__(
        self,
        file: TargetFile,
        path: str,
        layout: ArrayLayout,
        *,
        new: bool,
        effort: Effort,
        budget: AbstractContextManager[Any],
    ) -> None:
        """For the array at `path`, which is in the file. `new` says that it has no values yet. Takes the lock."""
        self._file = file
        self._path = path
        self._effort = effort
        self._budget = budget
        self._leave_out = new and not effort.write_empty_chunks
        self.shape, self.dtype, self.ndim = layout.shape, layout.dtype, len(layout.shape)
        with hdf5_lock():
            self._storage = file.chunk_storage(path)
            self._masks = not new and self._storage is not None and file.may_have_masks(self._storage)
        self.chunkshape = layout.chunkshape if self._storage is None else self._storage.chunkshape

    def __setitem__(self, key: tuple[slice, ...], block: Any) -> None:
        self.write(_start(key), np.asarray(block))

    def write(self, start: tuple[int, ...], values: np.ndarray) -> None:
        """Put `values` at `start` (elements): whole chunks as encoded bytes, the rest through HDF5."""
        if self._storage is None or not values.ndim:
            self._write_part(start, values)
            return
        rest = encode_block(
            values,
            start,
            self._storage,
            self._put,
            threads=self._effort.threads,
            budget=self._budget,
            leave_out=self._leave_out,
        )
        for box in rest:
            inside = tuple(slice(first - begin, last - begin) for (first, last), begin in zip(box, start, strict=True))
            self._write_part(tuple(first for first, _ in box), values[inside])

    def write_all(self, values: np.ndarray) -> None:
        """The whole array. What HDF5 has to write goes a slab at a time, so that the lock is free in between."""
        if self._storage is not None or not values.ndim:
            self.write((0,) * values.ndim, values)
            return
        rows = _slab_rows(values, self.chunkshape)
        for start in range(0, len(values), rows):
            self._write_part((start,) + (0,) * (values.ndim - 1), values[start : start + rows])

    def _put(self, chunks: Sequence[EncodedChunk]) -> None:
        with hdf5_lock():
            self._file.write_chunks(self._path, chunks, masks=self._masks)

    def _write_part(self, start: tuple[int, ...], values: np.ndarray) -> None:
        with hdf5_lock():
            self._file.write(self._path, start, values)


def _slab_rows(values: np.ndarray, chunkshape: tuple[int, ...] | None) -> int:
    """How many rows to write at once: whole chunks, as HDF5 would encode one that is cut several times."""
    step = chunkshape[0] if chunkshape else 1
    rows = _SLAB_BYTES // max(values[:1].nbytes, 1)
    return max(step, rows // step * step)


@dataclass(frozen=True)
class SpoolTarget:
    """Takes blocks in any process: each becomes a file of the transaction, named after its place.

    A block that is stored twice, because its worker died or was slow, has the same name and the same content.
    """

    folder: str
    path: str
    number: int
    shape: tuple[int, ...]
    is_text: bool
    dtype: Any

    @classmethod
    def of(cls, transaction: Transaction, path: str, layout: ArrayLayout, number: int) -> SpoolTarget:
        """The target for the array at `path`, the `number`-th of the transaction."""
        return cls(
            transaction.folder, path, number, layout.shape, layout.dtype is None, layout.dtype or np.dtype(object)
        )

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def _name(self, start: Sequence[int]) -> str:
        return "-".join(["block", str(self.number), *map(str, start)]) + ".npy"

    def __setitem__(self, key: tuple[slice, ...], block: np.ndarray) -> None:
        values = np.asarray(block)
        if not values.size:
            return  # it would have the name of the block that begins where it does
        name = os.path.join(self.folder, self._name(_start(key)))
        making = f"{name}.{uuid.uuid4().hex[:8]}"
        # opening fails if the folder is not there: this worker does not see the file system, or the job is over
        with open(making, "xb") as file:
            for array in _lengths_and_bytes(values) if self.is_text else (values,):
                np.lib.format.write_array(file, array, allow_pickle=False)
        os.replace(making, name)

    def read(self, start: Sequence[int]) -> np.ndarray:
        """The block that was stored at `start`."""
        with open(os.path.join(self.folder, self._name(start)), "rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
            if not self.is_text:
                return values
            return _texts(values, np.lib.format.read_array(file, allow_pickle=False))


def _lengths_and_bytes(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts as the length of each in bytes, in their shape, and the UTF-8 of all in one."""
    encoded = [str(text).encode("utf-8", "surrogateescape") for text in texts.reshape(-1)]
    lengths = np.array([len(data) for data in encoded], "i8").reshape(texts.shape)
    return lengths, np.frombuffer(b"".join(encoded), "u1")


def _texts(lengths: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The reverse of `_lengths_and_bytes`."""
    texts = np.empty(lengths.shape, object)
    ends = np.cumsum(lengths.reshape(-1)).tolist()
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        texts.reshape(-1)[number] = data[start:end].tobytes().decode("utf-8", "surrogateescape")
    return texts


def _stored_blocks(folder: str) -> dict[int, list[tuple[int, ...]]]:
    """Where the blocks that were put aside begin, in order, by the number of their target."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for name in os.listdir(folder):
        if name.startswith("block-") and name.endswith(".npy"):
            number, *start = map(int, name.removeprefix("block-").removesuffix(".npy").split("-"))
            found.setdefault(number, []).append(tuple(start))
    return {number: sorted(starts) for number, starts in found.items()}


def _start(key: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(int(part.start or 0) for part in key)


def unspool(transaction: Transaction, targets: Sequence[SpoolTarget]) -> None:
    """Write the blocks that were put aside into the new file. Raises OSError if one is missing."""
    if not targets:
        return
    blocks = _stored_blocks(transaction.folder)
    with kept_open(transaction.new_file) as file:
        for target in targets:
            written = 0
            for start in blocks.get(target.number, []):
                values = target.read(start)
                with hdf5_lock():
                    file.write(target.path, start, values)
                written += values.size
            expected = math.prod(target.shape)
            if written != expected:
                raise OSError(
                    f"{transaction.target}:{target.path}: only {written} of {expected} elements were stored; the file "
                    "was not replaced. Every worker must see the folder of the file"
                )
