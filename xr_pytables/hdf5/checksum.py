"""Jenkins' lookup3 ("hashlittle"), with which the structures of version 2 are protected and names are hashed.

A round of it takes a microsecond in Python, so many blocks are done at once, round by round, all blocks that are long
enough together: some as lanes of 64 bits in Python's long integers, whose operations cost little more than those of
short ones; hundreds in NumPy's arrays.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .damage import Damaged

_MASK: Final = 0xFFFFFFFF
_SEED: Final = 0xDEADBEEF
_MANY: Final = 200  # blocks: from here on NumPy is quicker than lanes
_LONG: Final = 17  # bits of a length: longer blocks are not worth the memory that lanes take
_Words = NDArray[np.uint32]


def _shifts(by: int) -> tuple[np.uint32, np.uint32]:
    """What to shift left and right by for a rotation."""
    return np.uint32(by), np.uint32(32 - by)


# a, b and c are 0, 1 and 2
_STEPS: Final = tuple(
    (to, by, grown, *_shifts(shift))
    for to, by, grown, shift in ((0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4))
)
_LAST_STEPS: Final = tuple(
    (to, by, *_shifts(shift))
    for to, by, shift in ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))
)


def lookup3(data: bytes) -> int:
    """The checksum of `data`."""
    length = len(data)
    a = b = c = (_SEED + length) & _MASK
    if not length:
        return c
    whole = (length - 1) // 12 * 12
    words = struct.iter_unpack("<III", data[:whole])
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
    rest = data[whole:]
    x, y, z = struct.unpack("<III", rest + bytes(12 - len(rest)))
    a, b, c = a + x & mask, b + y & mask, c + z & mask
    c = (c ^ b) - _rotated(b, 14) & mask
    a = (a ^ c) - _rotated(c, 11) & mask
    b = (b ^ a) - _rotated(a, 25) & mask
    c = (c ^ b) - _rotated(b, 16) & mask
    a = (a ^ c) - _rotated(c, 4) & mask
    b = (b ^ a) - _rotated(a, 14) & mask
    result: int = (c ^ b) - _rotated(b, 24) & mask
    return result


def _rotated(value: int, by: int) -> int:
    return (value << by & _MASK) | value >> 32 - by


def checksums(blocks: Sequence[bytes]) -> list[int]:
    """`lookup3` of each of the blocks."""
    alike: dict[int, list[int]] = {}
    for number, block in enumerate(blocks):
        alike.setdefault(len(block).bit_length(), []).append(number)
    found = [0] * len(blocks)
    for bits, numbers in alike.items():
        some = [blocks[number] for number in numbers]
        in_lanes = len(some) > 1 and bits <= _LONG
        checksums_of = _in_arrays if len(some) >= _MANY else _in_lanes if in_lanes else _alone
        for number, value in zip(numbers, checksums_of(some), strict=True):
            found[number] = value
    return found


def _alone(blocks: Sequence[bytes]) -> list[int]:
    return [lookup3(block) for block in blocks]


def _in_lanes(blocks: Sequence[bytes]) -> list[int]:
    """The same for blocks of similar lengths: 64 bits of three long integers for each, of which 32 are used.

    The upper ones take what a sum or a shift carries over, and lend one bit (`borrow`) to each difference.
    """
    order = sorted(range(len(blocks)), key=lambda number: -len(blocks[number]))
    lengths = [len(blocks[number]) for number in order]
    rounds = [max(length - 1, 0) // 12 for length in lengths]
    width = 12 * (rounds[0] + 1)
    padded = b"".join([blocks[number].ljust(width, b"\0") for number in order])
    words = np.frombuffer(padded, "<u4").reshape(len(blocks), -1, 3)
    last = [_lanes(part) for part in words[np.arange(len(blocks)), rounds].T]
    rows, row = words.transpose(1, 2, 0).astype("<u8").tobytes(), 8 * len(blocks)
    ones = _lanes(np.ones(len(blocks), "<u8"))
    mask = all_lanes = ones * _MASK
    borrow = ones << 32
    a = b = c = _lanes(np.array(lengths, "<u8") + np.uint64(_SEED)) & mask
    ended = [0, 0, 0]
    live, place, number_of = len(blocks), 0, int.from_bytes
    for turn in range(rounds[0]):
        if rounds[live - 1] <= turn:  # the shortest are behind the others, in the highest bits
            while rounds[live - 1] <= turn:
                live -= 1
            edge = 64 * live
            ended = [old | part >> edge << edge for old, part in zip(ended, (a, b, c), strict=True)]
            mask &= (1 << edge) - 1
            borrow &= (1 << edge) - 1
            a, b, c = a & mask, b & mask, c & mask
        size = 8 * live
        a = a + number_of(rows[place : place + size], "little") & mask
        b = b + number_of(rows[place + row : place + row + size], "little") & mask
        c = c + number_of(rows[place + 2 * row : place + 2 * row + size], "little") & mask
        place += 3 * row
        a = ((a | borrow) - c ^ c << 4 ^ c >> 28) & mask
        c = c + b & mask
        b = ((b | borrow) - a ^ a << 6 ^ a >> 26) & mask
        a = a + c & mask
        c = ((c | borrow) - b ^ b << 8 ^ b >> 24) & mask
        b = b + a & mask
        a = ((a | borrow) - c ^ c << 16 ^ c >> 16) & mask
        c = c + b & mask
        b = ((b | borrow) - a ^ a << 19 ^ a >> 13) & mask
        a = a + c & mask
        c = ((c | borrow) - b ^ b << 4 ^ b >> 28) & mask
        b = b + a & mask
    state = [part | old for part, old in zip((a, b, c), ended, strict=True)]
    mixed = [part + own & all_lanes for part, own in zip(state, last, strict=True)]
    for to, by, left, right in _LAST_STEPS:
        turned = (mixed[by] << int(left) | mixed[by] >> int(right)) & all_lanes
        mixed[to] = ((mixed[to] ^ mixed[by]) | ones << 32) - turned & all_lanes
    values = np.frombuffer(mixed[2].to_bytes(row, "little"), "<u8").tolist()
    found = [0] * len(blocks)
    for number, value in zip(order, values, strict=True):
        found[number] = value if blocks[number] else _SEED
    return found


def _lanes(words: NDArray[Any]) -> int:
    return int.from_bytes(words.astype("<u8").tobytes(), "little")


def _in_arrays(blocks: Sequence[bytes]) -> list[int]:
    """The same for blocks of similar lengths: a column of the arrays for each, the longest first."""
    order = sorted(range(len(blocks)), key=lambda number: -len(blocks[number]))
    lengths = np.array([len(blocks[number]) for number in order])
    width = -(-int(lengths[0]) // 12) * 12
    padded = b"".join([blocks[number].ljust(width, b"\0") for number in order])
    words = np.frombuffer(padded, "<u4").astype(np.uint32).reshape(len(blocks), -1, 3)
    rounds = np.maximum(lengths - 1, 0) // 12
    last = words[np.arange(len(blocks)), rounds].T if width else np.zeros((3, len(blocks)), np.uint32)
    words = np.ascontiguousarray(words.transpose(1, 2, 0))
    state = [(lengths + _SEED).astype(np.uint32) for _ in range(3)]
    active = np.searchsorted(-rounds, -np.arange(1, int(rounds[0]) + 1), side="right").tolist()
    for part, count in zip(words, active, strict=False):
        _mix([third[:count] for third in state], part[:, :count])
    result = np.where(lengths > 0, _final(state, last), state[2])
    found = [0] * len(blocks)
    for number, value in zip(order, result.tolist(), strict=True):
        found[number] = value
    return found


def _mix(state: list[_Words], words: _Words) -> None:
    """One round for all columns: in each step one third is mixed with another, which then grows by the third one."""
    for third, own in zip(state, words, strict=True):
        third += own
    for to, by, grown, left, right in _STEPS:
        state[to] -= state[by]
        state[to] ^= (state[by] << left) | (state[by] >> right)
        state[by] += state[grown]


def _final(state: list[_Words], words: _Words) -> _Words:
    """The end of it: the last words, and more mixing. The result is the last of the three."""
    mixed = [third + own for third, own in zip(state, words, strict=True)]
    for to, by, left, right in _LAST_STEPS:
        mixed[to] ^= mixed[by]
        mixed[to] -= (mixed[by] << left) | (mixed[by] >> right)
    c: _Words = mixed[2]
    return c


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
