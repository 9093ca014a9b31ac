"""Finding objects: by path, by name, all of them, with few reads and each structure once."""

from __future__ import annotations

import itertools
import threading

import h5py
import numpy as np
import pytest
import tables

from xr_pytables.errors import MissingNodeError
from xr_pytables.hdf5 import checksum, object_header
from xr_pytables.hdf5.attributes import Unreadable
from xr_pytables.hdf5.file import ExternalLinkError, ExternalTarget, File, Place
from xr_pytables.hdf5.metadata import Metadata
from xr_pytables.sources.buffer import Buffer
from xr_pytables.sources.filesystems import UrlTarget
from xr_pytables.sources.remote import RemotePlace, Transfer

from ..helpers_reading import plain_file
from ..helpers_server import running
from ..helpers_threads import WATCHDOG


class Counting(Buffer):
    """Counts how often it is asked."""

    reads = 0

    def read(self, offset, count):
        self.reads += 1
        return super().read(offset, count)


def image(write, **kwargs) -> bytes:
    """The bytes of a file by h5py."""
    with h5py.File("none.h5", "w", driver="core", backing_store=False, **kwargs) as file:
        write(file)
        file.flush()
        return file.id.get_file_image()


def with_links(file):
    file.create_dataset("group/array", data=[1, 2])
    file["soft"] = h5py.SoftLink("/group")
    file["group/relative"] = h5py.SoftLink("array")
    file["circle"] = h5py.SoftLink("/circle")
    file["dangling"] = h5py.SoftLink("/nowhere/at all")
    file["external"] = h5py.ExternalLink("other.h5", "/x")
    file["again"] = file["group"]


@pytest.fixture
def file():
    return File(Buffer(image(with_links), "a.h5"))


@pytest.mark.parametrize("path", ["/group/array", "group//array/", "/soft/array", "/soft/relative", "./group/array"])
def test_paths_through_links(file, path):
    assert file.resolve(path) == Place(
        "/group/array", file.link(file.link(file.root, "group").address, "array").address
    )


def test_the_root_has_many_names(file):
    assert file.resolve("/") == file.resolve("") == file.resolve(".") == Place("/", file.root)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/nothing",
            "a.h5: there is no '/nothing'; '/' has 'again', 'circle', 'dangling', 'external', 'group', 'soft'",
        ),
        ("/group/nothing", "a.h5: there is no '/group/nothing'; '/group' has 'array', 'relative'"),
        ("/group/array/x", "a.h5: there is no '/group/array/x'; '/group/array' is an array, not a group"),
        ("/circle", "a.h5: the soft link '/circle' leads in circles"),
        ("/dangling", r"there is no '/nowhere' \(on the way of the links from '/dangling'\)"),
    ],
)
def test_what_is_not_there(file, path, message):
    with pytest.raises(MissingNodeError, match=message):
        file.resolve(path)


def test_a_way_out_of_the_file(file):
    with pytest.raises(ExternalLinkError, match=r"a\.h5: '/external' is an external link to other\.h5:/x/y") as raised:
        file.resolve("/external/y")
    assert raised.value.target == ExternalTarget("other.h5", "/x/y")


def test_paths_of_all_objects_are_the_shortest(file):
    assert sorted(file.paths().values()) == ["/", "/again", "/again/array"]


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_link_is_found_without_listing_the_group(version):
    def write(file):
        for number in range(3000):
            file[f"link {number}"] = h5py.SoftLink(f"/target {number}")

    data = image(write, libver=version)
    file = File(Buffer(data))
    assert [file.link(file.root, f"link {number}").target for number in range(0, 3000, 7)] == [
        f"/target {number}" for number in range(0, 3000, 7)
    ]
    assert file.link(file.root, "link 3000") is None
    assert file.link(file.root, "") is None
    assert [link.name for link in file.links(file.root)] == sorted(f"link {number}" for number in range(3000))


def test_order_of_creation_where_the_file_has_an_index_of_it():
    def write(file):
        for number in range(40):
            file.create_group(f"{number * 7 % 40}")

    file = File(Buffer(image(write, track_order=True)))
    assert [link.name for link in file.links(file.root)] == [f"{number * 7 % 40}" for number in range(40)]


def test_many_arrays_take_few_reads_and_each_header_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with plain_file(path, "w") as h5:
        for number in range(200):
            array = h5.create_carray("/", f"v{number}", obj=np.zeros((4, 5)), filters=tables.Filters(5))
            array.attrs.units = "K"
    read, headers = object_header.read_headers, []
    monkeypatch.setattr(
        "xr_pytables.hdf5.file.read_headers", lambda data, addresses: headers.extend(addresses) or read(data, addresses)
    )
    source = Counting(path.read_bytes())
    file = File(source)
    links = file.links(file.root)
    file.prefetch(link.address for link in links)
    for _ in range(2):
        for link in links:
            assert file.kind(link.address) == "dataset"
            assert file.dataset(link.address).shape == (4, 5)
            assert file.attributes(link.address)["units"].value[()] == b"K"
    assert sorted(headers) == sorted({file.root, *(link.address for link in links)})
    assert source.reads <= source.size // 65536 + 10


def with_dense_attributes(h5):
    for number in range(30):
        for name in range(12):
            h5.create_dataset(f"{number}/a", data=number) if not name else None
            h5[f"{number}/a"].attrs[f"attribute {name}"] = np.bytes_(f"{name} of {number}")


class Rounds(Buffer):
    """Notes what is asked for together: each time somebody waits, behind a network."""

    def __init__(self, data, name="a.h5"):
        super().__init__(data, name)
        self.rounds = []

    def read(self, offset, count):
        self.rounds.append([offset])
        return super().read(offset, count)

    def read_many(self, ranges):
        self.rounds.append([offset for offset, _ in ranges])
        return [Buffer.read(self, *extent) for extent in ranges]


def scattered(file):
    """Links and attributes outside of headers, with data between everything."""
    group = file.create_group("group", track_order=True)
    for number in range(200):
        array = group.create_dataset(f"array_{number:03}", data=np.full(20_000, number))
        for name in range(10):
            array.attrs[f"attribute {name}"] = f"{number} {name}"


def test_structures_of_a_group_that_are_known_of_are_read_together():
    source = Rounds(image(scattered, libver="latest"))
    file = File(source)
    group = file.link(file.root, "group").address
    file.header(group)
    source.rounds.clear()
    links = file.links(group)
    assert [link.name for link in links] == [f"array_{number:03}" for number in range(200)]
    assert len(source.rounds) <= 3  # the heads of heap and tree, their roots, what is below the roots
    assert max(map(len, source.rounds)) > 3
    source.rounds.clear()
    addresses = [link.address for link in links]
    file.prefetch(addresses)
    file.prefetch_attributes(addresses)
    assert len(source.rounds) <= 4  # headers, their continuations, heads of heaps and trees, what is in them
    assert file.attributes(addresses[7])["attribute 3"].value.item() == b"7 3"


def test_groups_behind_a_network_are_looked_at_side_by_side():
    def write(file):
        groups = [file.create_group(f"group_{number}") for number in range(40)]
        for name in "abc":
            for group in groups:
                group.create_dataset(name, data=np.zeros(10_000)).attrs["is"] = name

    data = image(write)
    with running(objects={"a.h5": data}) as server:
        file = File(RemotePlace.of(UrlTarget(server.url()), Transfer(gap=0)).open(None).source)
        groups = [link.address for link in file.links(file.root)]
        file.prefetch(groups)
        number, several = itertools.count(1), threading.Event()

        def wait(handler):  # until three are under way
            if next(number) == 3:
                several.set()
            return not several.wait(WATCHDOG)

        server.always = wait
        file.prefetch_groups(groups)
        server.always = None
        server.asked.clear()
        for group in groups:
            assert [file.attributes(link.address)["is"].value.item() for link in file.links(group)] == [
                b"a",
                b"b",
                b"c",
            ]
        assert server.asked == []


def test_dense_attributes_of_many_objects_are_checked_together(monkeypatch):
    file = File(Buffer(image(with_dense_attributes, libver="latest")))
    addresses = [file.resolve(f"/{number}/a").address for number in range(30)]
    file.prefetch(addresses)
    calls = []
    summed = checksum.checksums
    monkeypatch.setattr(checksum, "checksums", lambda blocks: calls.append(len(blocks)) or summed(blocks))
    file.prefetch_attributes(addresses)
    assert sorted(calls) == [30, 30, 30, 30]  # headers of heaps, headers of trees, their roots, blocks of heaps
    for number, address in enumerate(addresses):
        found = file.attributes(address)
        assert [found[f"attribute {name}"].value[()] for name in range(12)] == [
            f"{name} of {number}".encode() for name in range(12)
        ]
    assert len(calls) == 4


def test_a_damaged_heap_costs_the_attributes_of_no_other_object():
    data = bytearray(image(with_dense_attributes, libver="latest"))
    data[data.index(b"5 of 7")] ^= 1
    file = File(Buffer(bytes(data)))
    addresses = [file.resolve(f"/{number}/a").address for number in range(30)]
    file.prefetch(addresses)
    file.prefetch_attributes(addresses)
    for number, address in enumerate(addresses):
        sound = [one for one in file.attributes(address).values() if not isinstance(one.value, Unreadable)]
        assert len(sound) == (0 if number == 7 else 12)


def test_structures_that_claim_more_than_the_file_are_not_looked_at_in_advance(monkeypatch):
    metadata = Metadata(Buffer(bytes(1000)), 0)
    sizes = []
    monkeypatch.setattr(checksum, "checksums", lambda blocks: sizes.extend(map(len, blocks)) or [1] * len(blocks))
    metadata.verify((place, 500) for place in range(400))
    assert sum(sizes) <= 2000
    metadata.verify([(900, 200), (2**64 - 1, 10), (-5, 10)])
    assert sum(sizes) <= 2000


def test_swmr_and_open_for_writing_can_be_seen(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as writer:
        writer.create_dataset("a", shape=(3,), maxshape=(None,), dtype="i4")
        writer.swmr_mode = True
        writer["a"].resize((5,))
        writer["a"].flush()
        writer.flush()
        file = File(Buffer((tmp_path / "a.h5").read_bytes()))
        assert (file.superblock.open_for_writing, file.superblock.swmr) == (True, True)
        assert file.dataset(file.resolve("/a").address).shape == (5,)
    assert not File(Buffer((tmp_path / "a.h5").read_bytes())).superblock.open_for_writing


def test_mappings_of_a_virtual_dataset():
    def write(file):
        layout = h5py.VirtualLayout((4, 10), maxshape=(None, 10), dtype="i4")
        layout[0:2, ::2] = h5py.VirtualSource("one.h5", "a/b", (2, 5))
        layout[2, 1:4] = h5py.VirtualSource(".", "c", (20,))[5::5]
        file.create_virtual_dataset("v", layout)

    file = File(Buffer(image(write, libver="latest")))
    first, second = file.dataset(file.resolve("/v").address).mappings
    assert (first.file, first.dataset, second.file, second.dataset) == ("one.h5", "a/b", ".", "c")
    assert (first.virtual.start, first.virtual.stride, first.virtual.count, first.virtual.block) == (
        (0, 0), (1, 2), (1, 5), (2, 1),
    )  # fmt: skip
    assert first.source.kind == "all"
    assert (second.virtual.start, second.virtual.count, second.virtual.block) == ((2, 1), (1, 1), (1, 3))
    assert (second.source.start, second.source.stride, second.source.count) == ((5,), (5,), (3,))


def test_references_to_regions_are_unreadable_and_no_damage():
    def write(file):
        array = file.create_dataset("array", data=np.arange(4))
        file.attrs["region"] = array.regionref[1:3]
        file.create_dataset("regions", shape=(2,), dtype=h5py.regionref_dtype)

    file = File(Buffer(image(write)))
    found = file.attributes(file.root)["region"]
    assert (found.value, found.datatype.kind) == (Unreadable("region references are not supported"), "reference")
    info = file.dataset(file.resolve("/regions").address)
    assert file.fill_value(info) == Unreadable("region references are not supported")


def test_the_fill_value_of_text_is_read():
    def write(file):
        file.create_dataset("a", shape=(3,), dtype=h5py.string_dtype(), fillvalue="nothing ü")

    file = File(Buffer(image(write)))
    assert file.fill_value(file.dataset(file.resolve("/a").address))[()] == "nothing ü".encode()
