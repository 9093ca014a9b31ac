"""What is changed in the bytes of a file: numbers, names, addresses and whole structures, with the checksums put right.

Where structures lie is found out by having them read: whatever `hdf5.Metadata` and the chunk indexes ask for is one.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest import mock

from xr_pytables.errors import FormatError
from xr_pytables.hdf5 import checksum
from xr_pytables.hdf5.chunk_entries import IndexFile
from xr_pytables.hdf5.file import File
from xr_pytables.hdf5.metadata import Metadata
from xr_pytables.sources.buffer import Buffer

LARGE = (2**64 - 1, 2**63, 2**63 - 1, 2**32 - 1, 2**32, 2**31, 2**48, 2**56 + 1)
NAMES = (b"..", b"/", b"\0", b"\x1b[2J", b"\xff\xfe", b"a" * 200, b"CLASS", b"TITLE", b"_i_table", b".", b"/../x")
HOW_MANY = (1, 1, 1, 2, 2, 4, 8)
"""Changes made to one file: mostly so few that it is still read."""


@dataclass(frozen=True)
class Piece:
    """Bytes that are one structure, or a part of one."""

    start: int
    count: int
    what: str


@dataclass
class Structure:
    """Where what lies in a file."""

    pieces: list[Piece] = field(default_factory=list)
    checked: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of what has its checksum in the four bytes behind it."""

    @classmethod
    def of(cls, data: bytes) -> Structure:
        """By reading all of it, or as much as can be read."""
        found, bodies = cls(), set[bytes]()
        read, index_read, nodes, sums = Metadata.read, IndexFile.read, IndexFile.nodes, checksum.checksums

        def noted(self: Metadata, address: int, count: int, what: str) -> bytes:
            found.pieces.append(Piece(address + self.base, count, what))
            return read(self, address, count, what)

        def index_noted(self: IndexFile, address: int, count: int, what: str) -> bytes:
            found.pieces.append(Piece(address + self.base, count, what))
            return index_read(self, address, count, what)

        def nodes_noted(self: IndexFile, addresses, size, what, used=None):  # type: ignore[no-untyped-def]
            found.pieces.extend(Piece(int(address) + self.base, size, what) for address in addresses)
            return nodes(self, addresses, size, what, used)

        def sums_noted(blocks):  # type: ignore[no-untyped-def]
            bodies.update(blocks)
            return sums(blocks)

        with (
            mock.patch.object(Metadata, "read", noted),
            mock.patch.object(IndexFile, "read", index_noted),
            mock.patch.object(IndexFile, "nodes", nodes_noted),
            mock.patch.object(checksum, "checksums", sums_noted),
        ):
            read_all_metadata(data)
        found.pieces.append(Piece(0, min(96, len(data)), "the superblock"))
        found.pieces = [piece for piece in dict.fromkeys(found.pieces) if piece.count and piece.start < len(data)]
        for body in sorted(bodies):
            block = body + struct.pack("<I", checksum.lookup3(body))
            start = data.find(block)
            if start >= 0:
                found.checked.append((start, start + len(body)))
        return found


def read_all_metadata(data: bytes) -> None:
    """Ask the reader for everything but raw data."""
    from xr_pytables.hdf5.chunk_indexes import read_index
    from xr_pytables.model.leaves import storage_of

    try:
        source = Buffer(data, "fuzzed")
        file = File(source)
    except FormatError:
        return
    for address in file.paths():
        for ask in (file.attributes, file.dataset, file.links):
            try:
                found = ask(address)
                if ask == file.dataset and found.chunkshape is not None and found.shape is not None:
                    read_index(source, storage_of(found, file.base_address))
            except (OSError, ValueError):
                continue


def mutated(data: bytes, structure: Structure, rng: random.Random) -> bytes:
    """The bytes with one to eight changes, and usually with the checksums of what was changed."""
    out = bytearray(data)
    for _ in range(rng.choice(HOW_MANY)):
        if out:
            rng.choices(CHANGES, WEIGHTS)[0](out, structure, rng)
    if rng.random() < 0.85:
        for start, end in structure.checked:
            if end + 4 <= len(out) and out[start:end] != data[start:end]:
                struct.pack_into("<I", out, end, checksum.lookup3(bytes(out[start:end])))
    return bytes(out)


WORDS = [
    *"""( ) [ ] { } , : . & | ~ ^ + - * / // ** % == != <= >= < > = and or not in is if else lambda import None
True a b s t_row nan inf sin sqrt where abs 0 1 -1 0x7f 1e400 9999999999999999999999 1j "" 'a' b'ab' r'' f'{a}' @ ; ä #
__class__ open exec a.b a[0] Timestamp('2020') '2020-01-01' size ranges data""".split(),
    " ",
    "\n",
    "\t",
    "\0",
    "\\",
]


def mutated_text(data: bytes, rng: random.Random) -> bytes:
    """The same of what is made of words: some are another, elsewhere, twice, or away. Now and then it is bytes."""
    words = re.findall(r"\w+|\s+|.", data.decode("latin-1"))
    for _ in range(rng.choice(HOW_MANY)):
        place = rng.randrange(len(words) + 1)
        again, times = rng.choice(words or [""]), rng.choice((1, 1, 500))
        new = rng.choice([rng.choice(WORDS), *words[place : place + 1], again * (times if len(again) < 1000 else 1)])
        words[place : place + rng.choice((0, 1, 1, 2, 5))] = [new] if rng.random() < 0.8 else []
    text = "".join(words).encode("utf-8", "replace")
    return mutated(text, Structure(), rng) if rng.random() < 0.1 else text


def bit(out: bytearray, structure: Structure, rng: random.Random) -> None:
    out[place_in(out, structure, rng)] ^= 1 << rng.randrange(8)


def byte(out: bytearray, structure: Structure, rng: random.Random) -> None:
    out[place_in(out, structure, rng)] = rng.choice((0, 1, 2, 3, 4, 8, 127, 128, 255, rng.randrange(256)))


def number(out: bytearray, structure: Structure, rng: random.Random) -> None:
    """A number of 2, 4 or 8 bytes: one larger, much larger, or one that stands elsewhere."""
    width = rng.choice((2, 4, 8, 8))
    place = place_in(out, structure, rng) // 2 * 2
    old = int.from_bytes(out[place : place + width], "little")
    new = rng.choice(
        (0, 1, old + 1, old - 1, old * 2, old // 2, old + 8, len(out), rng.randrange(len(out) or 1), rng.choice(LARGE))
    )
    replace(out, place, (new % 256**width).to_bytes(width, "little"))


def address(out: bytearray, structure: Structure, rng: random.Random) -> None:
    """Where the address of one structure stands, the address of another."""
    old, new = (rng.choice(structure.pieces).start for _ in range(2)) if structure.pieces else (0, 0)
    stands = [match.start() for match in re.finditer(re.escape(struct.pack("<Q", old)), out)]
    if stands:
        replace(out, rng.choice(stands), struct.pack("<Q", new))


def copy(out: bytearray, structure: Structure, rng: random.Random) -> None:
    """One structure over another, more often one of its kind."""
    if len(structure.pieces) < 2:
        return
    source = rng.choice(structure.pieces)
    alike = [piece for piece in structure.pieces if piece.what == source.what]
    target = rng.choice(alike if rng.random() < 0.7 else structure.pieces)
    count = min(source.count, target.count)
    skipped = rng.choice((0, 0, count // 2 // 8 * 8))
    replace(out, target.start + skipped, bytes(out[source.start + skipped : source.start + count]))


def name(out: bytearray, structure: Structure, rng: random.Random) -> None:
    """Another text of the same length, or a longer one over what follows."""
    texts = [match.span() for match in re.finditer(rb"[\x20-\x7e]{2,}", out)]
    if texts:
        start, end = rng.choice(texts)
        new = rng.choice(NAMES)
        replace(
            out, start, new if rng.random() < 0.3 else new.ljust(end - start, rng.choice((b"x", b"\0")))[: end - start]
        )


def zeros(out: bytearray, structure: Structure, rng: random.Random) -> None:
    replace(out, place_in(out, structure, rng), bytes(rng.randrange(1, 64)))


def anywhere(out: bytearray, structure: Structure, rng: random.Random) -> None:
    if out:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def cut(out: bytearray, structure: Structure, rng: random.Random) -> None:
    del out[rng.randrange(len(out) or 1) :]


def length(out: bytearray, structure: Structure, rng: random.Random) -> None:
    """Bytes put in or taken away, so that all behind them is somewhere else."""
    place = place_in(out, structure, rng)
    if rng.random() < 0.5:
        out[place:place] = bytes(rng.choice((1, 8, 512)))
    else:
        del out[place : place + rng.choice((1, 8, 512))]


Change = Callable[[bytearray, Structure, random.Random], None]
_CHANGES: dict[Change, int] = {
    bit: 20, byte: 20, number: 25, address: 12, copy: 10, name: 6, zeros: 3, anywhere: 6, cut: 1, length: 1,
}  # fmt: skip
CHANGES, WEIGHTS = list(_CHANGES), list(_CHANGES.values())


def place_in(out: bytearray, structure: Structure, rng: random.Random) -> int:
    piece = rng.choice(structure.pieces) if structure.pieces else Piece(0, len(out), "")
    return min(piece.start + rng.randrange(max(1, piece.count)), max(0, len(out) - 1))


def replace(out: bytearray, place: int, new: bytes) -> None:
    """Put bytes in place of others, as far as the file reaches."""
    new = new[: max(0, len(out) - place)]
    out[place : place + len(new)] = new
