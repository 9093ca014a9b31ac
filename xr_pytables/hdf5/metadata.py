"""The bytes of a file by HDF5's addresses, which count from the base address: small reads come from cached blocks.

Metadata are many small structures, often side by side: a block is read once and serves all of them.

Tested in `tests/hdf5/test_structures.py` and `tests/hdf5/test_oracles.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..errors import FormatError
from ..sources.source import Source
from . import checksum

UNDEFINED: Final = 2**64 - 1
"""The address that stands for none."""
_BLOCK: Final = 1 << 16  # bytes
_MAX_BLOCKS: Final = 1024
_AT_ONCE: Final = 1 << 24  # bytes whose checksums are computed side by side


class Metadata:
    """Reads at addresses of one file. Safe from several threads."""

    def __init__(self, source: Source, base: int) -> None:
        self._source = source
        self._exact = bool(getattr(source, "exact", False))
        self._blocks: dict[int, bytes] = {}
        self._sound = set[tuple[int, int]]()
        """Addresses and sizes of structures whose checksums are known to be right."""
        self.base = base
        self.size = source.size - base
        """Bytes from the base address to the end."""
        self._unverified = 2 * self.size
        """Bytes that `verify` may still look at."""
        self.name = source.name

    def read(self, address: int, count: int, what: str) -> bytes:
        """`count` bytes at `address`. Raises FormatError, saying `what` should be there, if the file has fewer."""
        if address < 0 or address + count > self.size:
            place = "no address" if address == UNDEFINED else f"address {address}"
            raise FormatError(
                f"{self.name}: {what} of {count} bytes at {place} lies beyond the end of the file, "
                f"{self.size} bytes from its base address"
            )
        if self._exact:
            return self._source.read(self.base + address, count)
        number, start = divmod(address, _BLOCK)
        if start + count <= _BLOCK:
            block = self._blocks.get(number) or self._block(number)
            return block[start : start + count]
        if count > _BLOCK:
            return self._source.read(self.base + address, count)
        head = (self._blocks.get(number) or self._block(number))[start:]
        return head + (self._blocks.get(number + 1) or self._block(number + 1))[: count - len(head)]

    def peek(self, address: int, most: int, what: str) -> bytes:
        """As many bytes at `address` as there are, `most` at most, one at least."""
        return self.read(address, max(1, min(most, self.size - address)), what)

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Have the blocks of all (address, count) that lie within the file, with one read of many."""
        wanted = dict[int, None]()
        for address, count in () if self._exact else ranges:
            if 0 <= address < self.size and count <= _BLOCK:
                last = min(address + count, self.size) - 1
                wanted[address // _BLOCK] = None
                wanted[last // _BLOCK] = None
        missing = [number for number in wanted if number not in self._blocks][: _MAX_BLOCKS // 2]
        if len(missing) > 1:
            blocks = self._source.read_many([self._extent(number) for number in missing])
            for number, block in zip(missing, blocks, strict=True):
                self._keep(number, block)

    def verify(self, extents: Iterable[tuple[int, int]], gap: int = -4) -> None:
        """Compute the checksums of many structures side by side, so that `check` of a sound one then costs little.

        The extents are addresses and sizes in bytes; those beyond the end of the file are left out, and what would be
        much more than the file in all. A checksum lies `gap` bytes from the beginning (the end, if that is negative) of
        its structure, and is the one of all other bytes and of zeros in its place.
        """
        some, waiting = list[tuple[int, int]](), 0
        for extent in dict.fromkeys(extents):
            address, size = extent
            if not 0 <= address <= self.size - size or extent in self._sound:
                continue
            self._unverified -= size
            if self._unverified < 0:
                break
            if waiting + size > _AT_ONCE:
                self._verify(some, gap)
                some, waiting = [], 0
            some.append(extent)
            waiting += size
        self._verify(some, gap)

    def _verify(self, extents: list[tuple[int, int]], gap: int) -> None:
        self.prefetch(extents)
        blocks = [self.read(*extent, "a structure with a checksum") for extent in extents]
        stored = [int.from_bytes(block[gap:][:4], "little") for block in blocks]
        found = checksum.checksums([_protected(block, gap) for block in blocks])
        self._sound.update(extent for extent, own, right in zip(extents, stored, found, strict=True) if own == right)

    def check(self, address: int, data: bytes, gap: int = -4) -> None:
        """Raise Damaged unless the checksum of the structure `data` at `address` is right; `gap` as for `verify`."""
        if (address, len(data)) not in self._sound:
            checksum.check(_protected(data, gap) + data[gap:][:4])

    def _block(self, number: int) -> bytes:
        block = self._source.read(*self._extent(number))
        self._keep(number, block)
        return block

    def _extent(self, number: int) -> tuple[int, int]:
        address = number * _BLOCK
        return self.base + address, min(_BLOCK, self.size - address)

    def _keep(self, number: int, block: bytes) -> None:
        if len(self._blocks) >= _MAX_BLOCKS:
            self._blocks.clear()
        self._blocks[number] = block


def _protected(block: bytes, gap: int) -> bytes:
    """The bytes that a checksum is of; see `Metadata.verify`."""
    return block[:gap] if gap < 0 else block[:gap] + bytes(4) + block[gap + 4 :]
