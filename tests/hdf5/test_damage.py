"""Wrong bytes are one FormatError that says where, cost nothing else, and never time or memory without end."""

from __future__ import annotations

import random
import struct

import h5py
import numpy as np
import pytest

from xr_pytables.errors import FormatError
from xr_pytables.hdf5 import checksum
from xr_pytables.hdf5.attributes import Unreadable
from xr_pytables.hdf5.file import File
from xr_pytables.sources.buffer import Buffer

from .helpers_corpus import write_with_h5py, write_with_netcdf4, write_with_pytables


def explore(data: bytes) -> list[str]:
    """Ask for everything in a file; the errors there were."""
    errors = []
    try:
        file = File(Buffer(data, "a.h5"))
    except FormatError as error:
        return [str(error)]
    for address in file.paths():
        for ask in (file.dataset, file.links, file.datatype, file.attributes):
            if ask.__name__ in (file_kind(file, address), "attributes"):
                try:
                    found = ask(address)
                    if ask == file.dataset:
                        file.fill_value(found)
                except FormatError as error:
                    errors.append(str(error))
    return errors


def file_kind(file: File, address: int) -> str:
    try:
        return {"group": "links"}.get(file.kind(address), file.kind(address))
    except FormatError:
        return "links"


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    places = [place for place, byte in enumerate(out) if byte]  # where something is
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.choice(places)
        how = rng.random()
        if how < 0.4:
            out[place] = rng.randrange(256)
        elif how < 0.8:
            out[place] ^= 1 << rng.randrange(8)
        else:
            number = rng.choice((2**64 - 1, 0, rng.randrange(len(out)), 2**63))
            out[place : place + 8] = number.to_bytes(8, "little")
    return bytes(out[: rng.randrange(len(out))] if rng.random() < 0.05 else out[: len(data)])


@pytest.mark.parametrize("checked", [True, False], ids=["with checksums", "as if checksums were right"])
@pytest.mark.parametrize("kind", ["earliest", "1.10", "2.0", "pytables", "netcdf4"])
def test_no_byte_makes_any_other_error(tmp_path, monkeypatch, kind, checked):
    if not checked:
        monkeypatch.setattr(checksum, "mismatches", lambda blocks: [""] * len(blocks))
    writers = {"pytables": write_with_pytables, "netcdf4": write_with_netcdf4}
    path = tmp_path / "a.h5"
    writers[kind](path) if kind in writers else write_with_h5py(path, kind)
    data, rng, found = path.read_bytes(), random.Random(kind), 0
    for _ in range(15):
        errors = explore(damaged(data, rng))
        assert all(error.startswith("a.h5: ") for error in errors)
        found += bool(errors)
    assert found


def small_file(version: str = "earliest") -> bytearray:
    """Two arrays with attributes, in memory."""
    with h5py.File("none.h5", "w", driver="core", backing_store=False, libver=version) as file:
        for name in ("first", "second"):
            file.create_dataset(name, data=np.arange(4)).attrs["units"] = "K"
        file.flush()
        return bytearray(file.id.get_file_image())


def opened(data: bytes) -> File:
    return File(Buffer(bytes(data), "a.h5"))


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_damaged_object_costs_no_other(version):
    data = small_file(version)
    first, second = (link.address for link in opened(data).links(opened(data).root))
    data[first + (0 if version == "earliest" else 20)] ^= 0xFF  # its version, or what its checksum covers
    file = opened(data)
    file.prefetch([first, second])
    with pytest.raises(FormatError, match=f"a.h5: the object header at address {first}: "):
        file.dataset(first)
    assert file.dataset(second).shape == (4,)
    assert file.attributes(second)["units"].value[()] == b"K"


def test_a_damaged_attribute_costs_no_other():
    with h5py.File("none.h5", "w", driver="core", backing_store=False) as h5:
        h5.attrs["a"], h5.attrs["b"] = np.arange(3), np.arange(4)
        h5.flush()
        data = bytearray(h5.id.get_file_image())
    place = data.index(b"a\0\0\0\0\0\0\0")
    data[place + 8] = 0x1D  # the class of its datatype, which is none
    found = opened(data).attributes(opened(data).root)
    assert found["a"].value == Unreadable("the class 13 of datatypes is unknown", damaged=True)
    np.testing.assert_array_equal(found["b"].value, np.arange(4))


@pytest.mark.parametrize("data", [b"", b"\x89HDF", b"no HDF5 " * 1000])
def test_what_is_no_hdf5_file(data):
    with pytest.raises(FormatError, match=r"a\.h5: (the file is empty, )?not an HDF5 file"):
        opened(data)


def test_a_file_that_is_cut_off():
    data = small_file()
    with pytest.raises(FormatError, match=f"truncated HDF5 file of 900 bytes, .* has {len(data)} bytes"):
        opened(data[:900])


def test_the_member_of_a_family_of_files(tmp_path):
    with h5py.File(tmp_path / "a%05d.h5", "w", driver="family", memb_size=2**20) as file:
        file["a"] = np.arange(10)
    with pytest.raises(FormatError, match="one member of a family of files"):
        opened((tmp_path / "a00000.h5").read_bytes())
    with h5py.File(tmp_path / "b%05d.h5", "w", driver="family", memb_size=2048) as file:
        file["a"] = np.arange(1000)
    with pytest.raises(FormatError, match=r"of 2048 bytes, .* or the first of a family of files, .*h5repack"):
        opened((tmp_path / "b00000.h5").read_bytes())


def test_one_of_the_files_of_the_split_driver(tmp_path):
    with h5py.File(tmp_path / "a", "w", driver="split") as file:
        file["a"] = np.arange(10)
    with pytest.raises(FormatError, match="multi or split driver"):
        opened((tmp_path / "a-m.h5").read_bytes())


def group_of(data: bytes) -> tuple[int, int]:
    """Addresses of the B-tree and the heap of the root group of an old file."""
    file = opened(data)
    return struct.unpack("<QQ", file.header(file.root).messages[0][2])


def test_a_tree_that_leads_back_to_itself():
    data = small_file()
    tree, _ = group_of(data)
    data[tree + 5] = 1  # now its child should be a node, and is the tree itself
    struct.pack_into("<Q", data, tree + 32, tree)
    with pytest.raises(FormatError, match="refers to a node twice"):
        opened(data).links(opened(data).root)


def test_two_groups_that_claim_the_same_links():
    with h5py.File("none.h5", "w", driver="core", backing_store=False) as h5:
        h5.create_group("a"), h5.create_group("b")
        h5.flush()
        data = bytearray(h5.id.get_file_image())
    a, b = (link.address for link in opened(data).links(opened(data).root))
    data[b + 24 : b + 40] = data[a + 24 : a + 40]
    file = opened(data)
    assert file.links(a) == []
    with pytest.raises(FormatError, match=f"belongs to the object at {a} too"):
        file.links(b)


def test_links_whose_names_share_bytes():
    """Each could be as long as the heap: many of them would take memory without end."""
    with h5py.File("none.h5", "w", driver="core", backing_store=False) as h5:
        for number in range(8):
            h5[f"x{number}" + "y" * 100] = h5py.SoftLink("/")
        h5.flush()
        data = bytearray(h5.id.get_file_image())
    file = opened(data)
    _, heap = group_of(data)
    segment = struct.unpack_from("<Q", data, heap + 24)[0]
    size = struct.unpack_from("<Q", data, heap + 8)[0]
    for place in range(segment + 8, segment + size - 1):
        data[place] = data[place] or ord("z")
    with pytest.raises(FormatError, match=r"the names of links share their bytes|two links are called"):
        opened(data).links(file.root)


def test_names_with_control_characters_are_escaped_in_messages():
    with h5py.File("none.h5", "w", driver="core", backing_store=False) as h5:
        h5["\x1b[31mred"] = h5py.SoftLink("/nowhere")
        h5.flush()
        file = File(Buffer(h5.id.get_file_image(), "bad\x07name.h5"))
    with pytest.raises(OSError, match="bad") as raised:
        file.resolve("/missing")
    assert str(raised.value) == r"bad\x07name.h5: there is no '/missing'; '/' has '\x1b[31mred'"


def test_an_inner_node_of_a_group_without_children_is_damage():
    data = small_file()
    node = data.index(b"TREE")
    data[node + 5 : node + 8] = b"\x02\0\0"  # level 2, no children
    file = opened(data)
    with pytest.raises(FormatError, match=r"level 2 and 0 children; expected .* none only at level 0"):
        file.links(file.root)
