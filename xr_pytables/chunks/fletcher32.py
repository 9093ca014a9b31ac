"""The checksum of HDF5's Fletcher32 filter, in NumPy, which releases the GIL meanwhile.

It has two sums over the big-endian words of 16 bits of a chunk, modulo 65535: of the words, and of the words times how
many words there are from each to the end. Modulo 65535 a big-endian word is 256 times the little-endian word of the
same bytes, and the second sum follows from the sums of the rows and of the columns of a matrix of words.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_COLUMNS: Final = 1024  # words of a row: the sum of one has 32 bits
_ROWS: Final = 128  # of a block that stays in the processor's cache
_MODULUS: Final = 65535


def fletcher32(data: NDArray[np.uint8]) -> int:
    """The checksum of contiguous bytes, as H5_checksum_fletcher32 has it; a zero follows an odd last byte."""
    words = data[: data.size // 2 * 2].view("<u2")
    whole = words.size // _COLUMNS * _COLUMNS
    rows, columns = _sums(words[:whole].reshape(-1, _COLUMNS))
    rest = words[whole:].astype(np.int64)
    if data.size % 2:
        rest = np.append(rest, int(data[-1]))
    count = whole + len(rest)
    total = int(rows.sum()) + int(rest.sum())
    if not total:
        return 0
    # what a word has before it: whole rows, and its place in the row
    before = _COLUMNS * int((rows % _MODULUS * np.arange(len(rows))).sum())
    before += int((columns % _MODULUS * np.arange(_COLUMNS)).sum())
    before += int((rest * np.arange(whole, count)).sum())
    return _sum16(count * total - before) << 16 | _sum16(total)


def _sums(words: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sums of the rows and of the columns."""
    rows = np.empty(len(words), np.int64)
    columns = np.zeros(_COLUMNS, np.int64)
    for begin in range(0, len(words), _ROWS):
        block = words[begin : begin + _ROWS]
        rows[begin : begin + _ROWS] = np.add.reduce(block, axis=1, dtype=np.uint32)
        columns += np.add.reduce(block, axis=0, dtype=np.uint32)
    return rows, columns


def _sum16(little: int) -> int:
    """The sum over big-endian words. HDF5 keeps a sum that is not nothing from becoming 0: it is 65535 then."""
    return 256 * little % _MODULUS or _MODULUS
