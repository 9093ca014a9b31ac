"""Each structure, decoded from bytes made by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from xr_pytables.chunks.filters import Filter, FilterPipeline
from xr_pytables.hdf5 import checksum
from xr_pytables.hdf5.damage import Damaged, Unsupported
from xr_pytables.hdf5.data_layout import IndexParameters, Layout, decode_layout
from xr_pytables.hdf5.dataspace import UNLIMITED, decode_dataspace
from xr_pytables.hdf5.datatype import Datatype, Field, decode_datatype
from xr_pytables.hdf5.fill_value import decode_fill_value, decode_old_fill_value
from xr_pytables.hdf5.filter_pipeline import decode_filter_pipeline
from xr_pytables.hdf5.global_heap import decode_collection
from xr_pytables.hdf5.links import Link, decode_link
from xr_pytables.hdf5.numbers import FloatBits
from xr_pytables.hdf5.object_header import DATASPACE, DATATYPE, Message, decode_block, decode_prefix
from xr_pytables.hdf5.selections import Selection, decode_selection
from xr_pytables.hdf5.shared_messages import Place, decode_shared
from xr_pytables.hdf5.superblock import decode_superblock
from xr_pytables.hdf5.virtual import Mapping, decode_mappings

UNDEFINED = b"\xff" * 8


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xDEADBEEF),
        (b"Four score and seven years ago", 0x17770551),  # Jenkins' own examples
        (b"\0", 0x8BA9414B),
    ],
)
def test_lookup3(data, expected):
    assert checksum.lookup3(data) == expected


@pytest.mark.parametrize("copies", [1, 2, 7, 30])  # few in lanes, many in arrays
def test_many_checksums_are_those_of_each_block(copies):
    rng = np.random.default_rng(copies)
    blocks = [rng.bytes(length) for length in [*range(60), 500, 1000, 12, 24] for _ in range(copies)]
    blocks += [b"\xff" * 600, b"\xff" * 601]  # all that can be carried over
    assert checksum.checksums(blocks) == [checksum.lookup3(block) for block in blocks]


def test_wrong_checksum_is_told():
    block = b"abc" + struct.pack("<I", checksum.lookup3(b"abc"))
    checksum.check(block)
    with pytest.raises(Damaged, match=r"the checksum is 0x.*, of these bytes 0x"):
        checksum.check(b"abd" + block[3:])


def test_superblock_of_version_0():
    data = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
    data += words(0) + UNDEFINED + words(2048) + UNDEFINED + words(0, 96) + bytes(24)
    found = decode_superblock(data, 512)  # it stands behind a user block that somebody put before it
    assert (found.version, found.base, found.root, found.end, found.group_k, found.chunk_k) == (
        0,
        512,
        96,
        2560,
        16,
        32,
    )


def test_superblock_of_version_3():
    data = b"\x89HDF\r\n\x1a\n" + bytes([3, 8, 8, 5]) + words(0) + UNDEFINED + words(2048, 48)
    data += struct.pack("<I", checksum.lookup3(data))
    found = decode_superblock(data, 0)
    assert (found.root, found.end, found.open_for_writing, found.swmr) == (48, 2048, True, True)
    with pytest.raises(Damaged, match="checksum"):
        decode_superblock(data[:40] + b"x" + data[41:], 0)
    with pytest.raises(Unsupported, match="addresses of 4 and lengths of 8 bytes"):
        decode_superblock(data[:9] + b"\4" + data[10:], 0)


def test_messages_of_a_header_of_version_1():
    block = struct.pack("<HHB3x", DATASPACE, 8, 0) + b"8 bytes."
    block += struct.pack("<HHB3x", 0, 8, 0) + bytes(8)  # nothing
    block += struct.pack("<HHB3x", DATATYPE, 8, 2) + b"a place."
    prefix = b"\1\0" + struct.pack("<HIII", 3, 1, len(block), 0)
    assert decode_prefix(prefix) == (1, 8, 16, 16 + len(block))
    expected = [Message(DATASPACE, False, b"8 bytes."), Message(DATATYPE, True, b"a place.")]
    assert decode_block(prefix + block, 16, 16 + len(block), 8) == expected
    with pytest.raises(Damaged, match="type 3 with 8 bytes reaches over the end"):
        decode_block(prefix + block, 16, 15 + len(block), 8)
    with pytest.raises(Damaged, match="the unknown type 99, which must not be ignored"):
        decode_block(struct.pack("<HHB3x", 99, 0, 0x80), 0, 8, 8)


def test_messages_of_a_header_of_version_2_with_times_orders_and_a_gap():
    head = b"OHDR\2" + bytes([0x24]) + bytes(16) + b"\x0d"
    block = struct.pack("<BHBH", DATASPACE, 4, 0, 7) + b"abcd" + b"\0\0\0"
    assert decode_prefix(head + block) == (2, 6, len(head), len(head) + 13)
    assert decode_block(head + block, len(head), len(head) + 13, 6) == [Message(DATASPACE, False, b"abcd")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\1\2\1" + bytes(5) + words(3, 4) + words(5) + UNDEFINED, ((3, 4), (5, UNLIMITED))),
        (b"\1\0\0" + bytes(5), ((), ())),
        (b"\2\1\0\1" + words(7), ((7,), (7,))),
        (b"\2\0\0\0", ((), ())),
        (b"\2\0\0\2", (None, ())),
    ],
)
def test_dataspaces(body, expected):
    assert decode_dataspace(body) == expected


@pytest.mark.parametrize("body", [b"\2\1\1\1" + words(7, 6), b"\2\x21\0\1" + bytes(300), b"\2\1\0\1" + UNDEFINED])
def test_dataspaces_that_cannot_be(body):
    with pytest.raises(Damaged):
        decode_dataspace(body)


def number(version: int, kind: int, flags: int, size: int, properties: bytes) -> bytes:
    return struct.pack("<II", kind | version << 4 | flags << 8, size) + properties


I4 = number(1, 0, 8, 4, struct.pack("<HH", 0, 32))
F8 = number(1, 1, 0x3F20, 8, struct.pack("<HHBBBBI", 0, 64, 52, 11, 0, 52, 1023))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (I4, Datatype("integer", np.dtype("<i4"), 4)),
        (number(1, 0, 1, 2, struct.pack("<HH", 0, 16)), Datatype("integer", np.dtype(">u2"), 2)),
        (F8, Datatype("float", np.dtype("<f8"), 8)),
        (number(1, 3, 0x12, 5, b""), Datatype("string", np.dtype("S5"), 5, utf8=True, padding="space-padded")),
        (number(1, 4, 0, 1, struct.pack("<HH", 0, 8)), Datatype("bitfield", np.dtype("u1"), 1)),
        (number(1, 5, 8, 3, b"a tag\0\0\0"), Datatype("opaque", np.dtype("V3"), 3, tag="a tag")),
        (number(1, 9, 0x101, 16, number(1, 3, 0, 1, b"")), Datatype("text", None, 16, utf8=True)),
        (number(1, 9, 0, 16, I4), Datatype("vlen", None, 16, base=Datatype("integer", np.dtype("<i4"), 4))),
        (
            number(3, 10, 0, 24, b"\2" + struct.pack("<II", 2, 3) + I4),
            Datatype("integer", np.dtype("<i4"), 4, shape=(2, 3)),
        ),
        (
            number(2, 10, 0, 8, b"\1\0\0\0" + struct.pack("<II", 2, 0) + I4),
            Datatype("integer", np.dtype("<i4"), 4, shape=(2,)),
        ),
        (
            number(3, 8, 2, 4, I4 + b"a\0bc\0" + struct.pack("<ii", 7, -1)),
            Datatype("enum", np.dtype("<i4"), 4, members=(("a", 7), ("bc", -1))),
        ),
        (number(5, 11, 1, 16, F8), Datatype("complex", np.dtype("<c16"), 16)),
        (
            number(1, 1, 0x0F20, 2, struct.pack("<HHBBBBI", 0, 16, 7, 8, 0, 7, 127)),
            Datatype(
                "float", np.dtype("f4"), 2, exact=False,
                bits=FloatBits(2, "little", 15, 7, 8, 0, 7, 127, implied=True),
            ),
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)  # fmt: skip
def test_datatypes(body, expected):
    assert decode_datatype(body) == expected
    for length in range(len(body)):
        with pytest.raises((ValueError, struct.error, IndexError)):
            decode_datatype(body[:length])


COMPOUNDS = {
    1: b"ab\0\0\0\0\0\0" + struct.pack("<IB3xII4I", 4, 1, 0, 0, 2, 0, 0, 0) + I4,
    2: b"ab\0\0\0\0\0\0" + struct.pack("<I", 4) + number(2, 10, 0, 8, b"\1\0\0\0" + struct.pack("<II", 2, 0) + I4),
    3: b"ab\0" + b"\4" + number(3, 10, 0, 8, b"\1" + struct.pack("<I", 2) + I4),
}


@pytest.mark.parametrize("version", COMPOUNDS)
def test_compounds_of_each_version(version):
    found = decode_datatype(number(version, 6, 1, 20, COMPOUNDS[version]))
    assert found.fields == (Field("ab", 4, 8, Datatype("integer", np.dtype("<i4"), 4, shape=(2,))),)
    expected = {"names": ["ab"], "formats": [("<i4", (2,))], "offsets": [4], "itemsize": 20}
    assert (found.dtype, found.itemsize) == (np.dtype(expected), 20)


def test_a_type_that_is_nested_without_end():
    body = I4
    for _ in range(40):
        body = number(3, 10, 0, 4, b"\1" + struct.pack("<I", 1) + body)
    with pytest.raises(Damaged, match="nested more than 32 levels deep"):
        decode_datatype(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\1\2\0\1" + struct.pack("<I", 2) + b"xy", b"xy"),
        (b"\1\2\0\1" + struct.pack("<I", 0), "default"),
        (b"\2\2\1\1" + struct.pack("<I", 0), "never"),
        (b"\2\2\1\1" + struct.pack("<I", 2) + b"xy", b"xy"),
        (b"\2\2\0\0", "undefined"),
        (b"\3\x20" + struct.pack("<I", 2) + b"xy", b"xy"),
        (b"\3\x09", "default"),
        (b"\3\x05", "never"),
        (b"\3\x10", "undefined"),
    ],
)
def test_fill_values(body, expected):
    assert decode_fill_value(body) == expected


def test_old_fill_values():
    assert decode_old_fill_value(struct.pack("<I", 2) + b"xy") == b"xy"
    with pytest.raises(Damaged, match="9 bytes expected from byte 4, there are 2"):
        decode_old_fill_value(struct.pack("<I", 9) + b"xy")


@pytest.mark.parametrize(
    "body",
    [
        b"\1\2" + bytes(6) + struct.pack("<HHHH", 1, 8, 1, 1) + b"deflate\0" + struct.pack("<II", 6, 0)
        + struct.pack("<HHHH", 32001, 6, 0, 2) + b"blosc\0\0\0" + struct.pack("<II", 2, 3),
        b"\2\2" + struct.pack("<HHHI", 1, 1, 1, 6) + struct.pack("<HHHH", 32001, 6, 0, 2) + b"blosc\0"
        + struct.pack("<II", 2, 3),
    ],
    ids=["version 1", "version 2"],
)  # fmt: skip
def test_filter_pipelines(body):
    assert decode_filter_pipeline(body) == FilterPipeline(
        (Filter(1, (6,), "deflate", optional=True), Filter(32001, (2, 3), "blosc", optional=False))
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\3\0" + struct.pack("<H", 3) + b"abc", Layout("compact", data=b"abc")),
        (b"\3\1" + words(800, 40), Layout("contiguous", 800, 40)),
        (b"\1\2\1" + bytes(5) + words(800) + struct.pack("<II", 5, 8), Layout("contiguous", 800)),
        (b"\1\2\0" + bytes(5) + struct.pack("<III", 1, 3, 3) + b"abc", Layout("compact", data=b"abc")),
        (
            b"\3\2\3" + UNDEFINED + struct.pack("<III", 4, 5, 8),
            Layout("chunked", chunk=(4, 5, 8), index=IndexParameters("v1 B-tree", None, 3, 7)),
        ),
        (
            b"\4\2\3\2\1" + b"\4\x08" + b"\1" + struct.pack("<QI", 99, 1) + words(800),
            Layout(
                "chunked", chunk=(4, 8), whole_chunks_filtered_only=True,
                index=IndexParameters("single chunk", 800, 4, chunk_size=99, filter_mask=1),
            ),
        ),
        (
            b"\5\2\0\2\1" + b"\4\x08" + b"\4" + bytes([32, 4, 5, 16, 10]) + words(800),
            Layout(
                "chunked", chunk=(4, 8),
                index=IndexParameters(
                    "extensible array", 800, 5, page_bits=10, max_bits=32, index_elements=4, min_pointers=5,
                    min_elements=16,
                ),
            ),
        ),
        (b"\4\3" + struct.pack("<QI", 800, 2), Layout("virtual", 800, heap_index=2)),
    ],
)  # fmt: skip
def test_layouts(body, expected):
    assert decode_layout(body, 7) == expected
    for length in range(len(body)):
        with pytest.raises((ValueError, struct.error, IndexError)):
            decode_layout(body[:length], 7)


def test_links():
    assert decode_link(b"\1\0\2ab" + words(800)) == (Link("ab", "hard", address=800), 0)
    ordered = b"\1\x1c\1" + struct.pack("<q", 5) + b"\1\2ab" + struct.pack("<H", 3) + b"/cd"
    assert decode_link(ordered) == (Link("ab", "soft", "/cd"), 5)
    external = b"\1\x08\x40\1a" + struct.pack("<H", 8) + b"\0x.h5\0/b"
    assert decode_link(external) == (Link("a", "external", "x.h5\0/b"), 0)
    assert decode_link(b"\1\x08\x50\1a" + struct.pack("<H", 1) + b"?") == (Link("a", "unknown"), 0)
    assert decode_link(b"\1\0\3a/b" + words(800)) == (Link("a/b", "unknown"), 0)


def test_objects_of_a_heap_collection():
    head = b"GCOL\1\0\0\0" + words(96)
    objects = struct.pack("<HHIQ", 2, 1, 0, 3) + b"abc\0\0\0\0\0" + struct.pack("<HHIQ", 1, 1, 0, 8) + b"8 bytes."
    free = struct.pack("<HHIQ", 0, 0, 0, 32) + bytes(16)
    assert decode_collection(head + objects + free) == {2: b"abc", 1: b"8 bytes."}
    with pytest.raises(Damaged, match="object 2 of a heap collection has 99 bytes"):
        decode_collection(head + struct.pack("<HHIQ", 2, 1, 0, 99) + bytes(16))


def test_shared_messages():
    assert decode_shared(b"\1\0" + bytes(6) + words(0, 800)) == Place(800, b"")
    assert decode_shared(b"\2\0" + words(800)) == Place(800, b"")
    assert decode_shared(b"\3\2" + words(800)) == Place(800, b"")
    assert decode_shared(b"\3\1" + b"heap id.") == Place(None, b"heap id.")


def hyperslab(version: int) -> bytes:
    """Rows 1 and 3, columns 2 to 4."""
    head = struct.pack("<II", 2, version)
    if version == 1:
        boxes = (1, 2, 1, 4), (3, 2, 3, 4)
        return head + bytes(8) + struct.pack("<II", 2, 2) + b"".join(struct.pack("<4I", *box) for box in boxes)
    numbers = (1, 2, 2, 1, 2, 3, 1, 3)
    if version == 2:
        return head + b"\1" + bytes(4) + struct.pack("<I", 2) + words(*numbers)
    return head + b"\1\2" + struct.pack("<I8H", 2, *numbers)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_hyperslabs_of_each_version_are_the_same(version):
    found, end = decode_selection(hyperslab(version) + b"more", 0)
    assert (found.kind, found.start, found.stride, found.count, found.block) == (
        "hyperslab", (1, 2), (2, 3), (2, 1), (1, 3),
    )  # fmt: skip
    assert end == len(hyperslab(version))


def test_selections_without_order():
    uneven = struct.pack("<II8x", 2, 1) + struct.pack("<II", 1, 3) + struct.pack("<6I", 0, 1, 3, 3, 7, 9)
    assert decode_selection(uneven, 0)[0] == Selection("boxes", boxes=(((0,), (2,)), ((3,), (4,)), ((7,), (10,))))
    points = struct.pack("<II8xII", 1, 1, 2, 2) + struct.pack("<4I", 1, 2, 3, 4)
    assert decode_selection(points, 0)[0] == Selection("points", points=((1, 2), (3, 4)))
    assert decode_selection(struct.pack("<II8x", 3, 1), 0) == (Selection("all"), 16)
    unlimited = struct.pack("<II", 2, 3) + b"\1\2" + struct.pack("<I4H", 1, 0, 1, 0xFFFF, 1)
    assert decode_selection(unlimited, 0)[0].count == (UNLIMITED,)


def test_mappings_that_share_names():
    everything = struct.pack("<II8x", 3, 1)
    data = b"\1" + words(2) + b"\0a.h5\0/x\0" + everything * 2 + b"\3" + words(0, 0) + everything * 2
    block = data + struct.pack("<I", checksum.lookup3(data))
    assert decode_mappings(block) == (Mapping("a.h5", "/x", Selection("all"), Selection("all")),) * 2
