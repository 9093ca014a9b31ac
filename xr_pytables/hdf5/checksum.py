"""Jenkins' lookup3 ("hashlittle"), with which the structures of version 2 are protected and names are hashed.

A round of it takes a few microseconds in Python, so many blocks are done at once with NumPy: round by round, all
blocks that are long enough together.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .damage import Damaged

_MASK: Final = 0xFFFFFFFF
_SEED: Final = 0xDEADBEEF
_FEW: Final = 24  # blocks: so few are quicker one by one
_STEPS: Final = ((0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4))


def lookup3(data: bytes) -> int:
    """The checksum of `data`."""
    seed = (_SEED + len(data)) & _MASK
    return _finished(data, 0, seed, seed, seed)


def _finished(data: bytes, start: int, a: int, b: int, c: int) -> int:
    """The checksum, if `start` bytes (a multiple of 12) of the data gave the state so far."""
    length = len(data)
    if not length:
        return c
    words = struct.iter_unpack("<III", data[start : start + (length - start - 1) // 12 * 12])
    mask = _MASK
    for x, y, z in words:
        a, b, c = a + x, b + y, (c + z) & mask
        a = (a - c & mask) ^ ((c << 4 & mask) | c >> 28)
        c += b
        b = (b - a & mask) ^ ((a << 6 & mask) | a >> 26)
        a += c
        c = (c - b & mask) ^ ((b << 8 & mask) | b >> 24)
        b += a
        a = (a - c & mask) ^ ((c << 16 & mask) | c >> 16)
        c += b
        b = (b - a & mask) ^ ((a << 19 & mask) | a >> 13)
        a += c
        c = (c - b & mask) ^ ((b << 4 & mask) | b >> 28)
        b += a
    rest = data[start + (length - start - 1) // 12 * 12 :]
    x, y, z = struct.unpack("<III", rest + bytes(12 - len(rest)))
    a, b, c = a + x & mask, b + y & mask, c + z & mask
    c = (c ^ b) - _rotated(b, 14) & mask
    a = (a ^ c) - _rotated(c, 11) & mask
    b = (b ^ a) - _rotated(a, 25) & mask
    c = (c ^ b) - _rotated(b, 16) & mask
    a = (a ^ c) - _rotated(c, 4) & mask
    b = (b ^ a) - _rotated(a, 14) & mask
    return (c ^ b) - _rotated(b, 24) & mask


def _rotated(value: int, by: int) -> int:
    return (value << by & _MASK) | value >> 32 - by


def checksums(blocks: Sequence[bytes]) -> list[int]:
    """`lookup3` of each of the blocks."""
    if len(blocks) < _FEW:
        return [lookup3(block) for block in blocks]
    order = sorted(range(len(blocks)), key=lambda number: -len(blocks[number]))
    lengths = np.array([len(blocks[number]) for number in order])
    rounds = np.maximum(lengths - 1, 0) // 12
    together = int(rounds[_FEW - 1])  # rounds in which enough blocks take part
    words = np.zeros((max(together, 1), 3, len(blocks)), np.uint32)
    for column, number in enumerate(order):
        count = min(int(rounds[column]), together)
        words[:count, :, column] = np.frombuffer(blocks[number], "<u4", 3 * count).reshape(count, 3)
    state = np.empty((3, len(blocks)), np.uint32)
    state[:] = (lengths + _SEED).astype(np.uint32)
    for number in range(together):
        active = int(np.count_nonzero(rounds > number))
        _mix(state[:, :active], words[number, :, :active])
    found = [0] * len(blocks)
    for column, number in enumerate(order):
        start = 12 * min(int(rounds[column]), together)
        found[number] = _finished(blocks[number], start, *state[:, column].tolist())
    return found


def _mix(state: NDArray[np.uint32], words: NDArray[np.uint32]) -> None:
    """One round for all columns: in each step one third is mixed with the third before it, which then grows."""
    state += words
    for to, by, grown, shift in _STEPS:
        state[to] -= state[by]
        state[to] ^= (state[by] << np.uint32(shift)) | (state[by] >> np.uint32(32 - shift))
        state[by] += state[grown]


def check(block: bytes) -> None:
    """Raise Damaged unless the last four bytes are the checksum of those before."""
    check_all([block])


def mismatches(blocks: Sequence[bytes]) -> list[str]:
    """For each block whose last four bytes should be its checksum, what is wrong with it: empty for sound ones."""
    problems = []
    for block, found in zip(blocks, checksums([block[:-4] for block in blocks]), strict=True):
        stored = int.from_bytes(block[-4:], "little")
        problems.append("" if stored == found else f"the checksum is {stored:#010x}, of these bytes {found:#010x}")
    return problems


def check_all(blocks: Sequence[bytes]) -> None:
    """`check` for many blocks at once."""
    for problem in mismatches(blocks):
        if problem:
            raise Damaged(problem)
