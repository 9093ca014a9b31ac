"""`verify` finds damage wherever it is, names it, and finds none in sound files of any program."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import fsspec
import h5py
import numpy as np
import obstore.store
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables.errors import MissingNodeError
from xr_pytables.hdf5.checksum import lookup3
from xr_pytables.hdf5.file import File
from xr_pytables.sources.buffer import Buffer
from xr_pytables.tools.verifying import Damage, verify

from ..hdf5 import helpers_corpus

DATA = Path(__file__).parents[1] / "data"
GOLDEN = sorted(path for path in DATA.rglob("*") if path.suffix in (".h5", ".mat"))
OTHERS = [name for name in dir(helpers_corpus) if name.startswith("write_with_") and name != "write_with_h5py"]


def flipped(path: Path, offset: int, bit: int = 0) -> Path:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)
    return path


def chunk_places(path: Path, name: str) -> dict[tuple[int, ...], tuple[int, int]]:
    """Where h5py says that the chunks of an array lie."""
    with h5py.File(path) as file:
        stored = (file[name].id.get_chunk_info(i) for i in range(file[name].id.get_num_chunks()))
        return {chunk.chunk_offset: (chunk.byte_offset, chunk.size) for chunk in stored}


def only_damage(path: Path) -> Damage:
    report = verify(path)
    assert len(report.damage) == 1, report
    assert not report.sound
    return report.damage[0]


@pytest.fixture(params=["earliest", "latest"])
def checked(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of the oldest and of the newest format, all its data with checksums."""
    path = tmp_path / "checked.h5"
    with h5py.File(path, "w", libver=request.param) as file:
        options = {"chunks": (10, 10), "fletcher32": True}
        file.create_dataset("g/a", data=np.arange(1000.0).reshape(40, 25), compression=4, shuffle=True, **options)
        file.create_dataset("b", data=np.arange(100), chunks=(10,), maxshape=(None,), fletcher32=True)
        file.create_dataset("c", shape=(50, 40), maxshape=(None, None), dtype="i4", **options)[...] = 1
        file["b"].attrs["units"] = "K"
    return path


# -- sound files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files_are_sound(path: Path) -> None:
    assert verify(path).damage == ()


@pytest.mark.parametrize("version", helpers_corpus.VERSIONS)
def test_every_structure_of_every_version_is_sound(version: str, tmp_path: Path) -> None:
    helpers_corpus.write_with_h5py(tmp_path / "file.h5", version, userblock=512)
    report = verify(tmp_path / "file.h5")
    assert report.damage == ()
    assert set(report.unchecked.values()) == {"its data lie in other files"}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs_are_sound(name: str, tmp_path: Path) -> None:
    getattr(helpers_corpus, name)(tmp_path / "file.h5")
    assert verify(tmp_path / "file.h5").damage == ()


def test_a_report_counts_what_was_read(checked: Path) -> None:
    report = xr_pytables.verify(checked)
    stored = sum(size for name in ("g/a", "b", "c") for _, size in chunk_places(checked, name).values())
    assert report.sound
    assert (report.groups, report.arrays, report.attributes, report.chunks) == (2, 3, 1, 12 + 10 + 20)
    assert (report.stored_bytes, report.unprotected_bytes) == (stored, 0)


def test_bytes_without_a_checksum_are_counted(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "file.h5", "w") as file:
        file.create_array("/", "plain", np.zeros(100))
        file.create_carray("/", "zlib", obj=np.zeros(100), filters=tables.Filters(1, "zlib"))
        file.create_carray("/", "blosc", obj=np.zeros(1000), filters=tables.Filters(1, "blosc"))
    blosc = sum(size for _, size in chunk_places(tmp_path / "file.h5", "blosc").values())
    assert verify(tmp_path / "file.h5").unprotected_bytes == 800 + blosc


def test_what_we_write_is_sound(tmp_path: Path) -> None:
    ragged = np.empty(3, object)
    ragged[:] = [np.arange(n) for n in range(3)]
    data = xr.Dataset({"a": (("t", "x"), np.ones((5, 7))), "text": ("x", list("abcdefg")), "rows": ("r", ragged)})
    xr_pytables.to_pytables(data, tmp_path / "file.h5", unlimited_dims=["t"])
    xr_pytables.to_pytables(data[["a"]], tmp_path / "file.h5", append_dim="t")
    assert verify(tmp_path / "file.h5").damage == ()


# -- data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_every_flip_in_a_chunk_is_named(checked: Path, threads: int) -> None:
    sound = checked.read_bytes()
    for name, corner in (("g/a", (30, 20)), ("b", (90,)), ("c", (0, 10))):
        offset, size = chunk_places(checked, name)[corner]
        for place in (0, size // 2, size - 1):
            checked.write_bytes(sound)
            flipped(checked, offset + place, place % 8)
            (damage,) = verify(checked, threads=threads).damage
            assert (damage.path, damage.what, damage.chunk, damage.offset) == (f"/{name}", "chunk", corner, offset)
            assert "checksum" in damage.message or "cannot decode" in damage.message


def test_all_damage_is_told_not_only_the_first(checked: Path) -> None:
    places = chunk_places(checked, "g/a")
    for corner in ((0, 0), (20, 10)):
        flipped(checked, places[corner][0] + 5)
    assert [damage.chunk for damage in verify(checked).damage] == [(0, 0), (20, 10)]


def test_a_chunk_of_another_size_is_damage(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        array = file.create_dataset("a", (10,), "i4", chunks=(10,), shuffle=True)
        array.id.write_direct_chunk((0,), bytes(36))
    assert "36 bytes" in only_damage(tmp_path / "file.h5").message


def test_a_mask_that_leaves_out_the_checksum_is_damage(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        array = file.create_dataset("a", (10,), "i4", chunks=(10,), compression=1, fletcher32=True)
        array.id.write_direct_chunk((0,), bytes(40), filter_mask=1 << 0)
    masks = {"fletcher32": 1, "3 filters": 1 << 7}
    for told, mask in masks.items():
        with h5py.File(tmp_path / "file.h5", "w") as file:
            array = file.create_dataset("a", (10,), "i4", chunks=(10,), compression=1, shuffle=True, fletcher32=True)
            names = [array.id.get_create_plist().get_filter(i)[3] for i in range(3)]
            bit = 1 << names.index(b"fletcher32") if mask == 1 else mask
            array.id.write_direct_chunk((0,), bytes(40), filter_mask=bit)
        message = only_damage(tmp_path / "file.h5").message
        assert "the filter mask" in message
        assert (told if mask == 1 else "the array has 3") in message


def test_chunks_that_their_writer_did_not_filter_are_sound(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        for number, mask in enumerate((0b11, 0xFFFFFFFF)):
            array = file.create_dataset(f"a{number}", (10,), "i4", chunks=(10,), compression=1, shuffle=True)
            array.id.write_direct_chunk((0,), bytes(40), filter_mask=mask)
    assert verify(tmp_path / "file.h5").sound


@pytest.mark.parametrize("kind", ["text", "rows", "record"])
def test_damage_to_a_heap_of_values_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        if kind == "text":
            file.create_dataset("a", data=["one", "two"], dtype=h5py.string_dtype())
        elif kind == "rows":
            file.create_dataset("a", (2,), h5py.vlen_dtype("i4"), chunks=(2,))[:] = [[1], [2, 3]]
        else:
            dtype = np.dtype([("n", "i4"), ("t", h5py.string_dtype())])
            file.create_dataset("a", data=np.array([(1, "one"), (2, "two")], dtype))
    assert verify(path).sound
    flipped(path, path.read_bytes().index(b"GCOL"))
    damage = only_damage(path)
    assert (damage.path, damage.what) == ("/a", "values")


def test_contiguous_data_beyond_the_end_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file["a"] = np.arange(100)
        offset = file["a"].id.get_offset()
    data = path.read_bytes()
    where = data.index(struct.pack("<QQ", offset, 800))
    path.write_bytes(data[:where] + struct.pack("<Q", len(data) - 8) + data[where + 8 :])
    damage = only_damage(path)
    assert (damage.path, damage.what) == ("/a", "data")
    assert "beyond the end" in damage.message


# -- indexes -----------------------------------------------------------------------------------------------


def with_key(path: Path, change: Callable[[bytearray, int], None]) -> None:
    """Change the node of a v1 B-tree of `/a`, whose first key is at the given place."""
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("a", data=np.arange(100), chunks=(10,), maxshape=(None,), fletcher32=True)
    data = bytearray(path.read_bytes())
    place = data.index(b"TREE\x01") + 24
    change(data, place)
    path.write_bytes(data)


KEY = 4 + 4 + 8 + 8 + 8  # size, mask, two offsets, child


def swap(data: bytearray, place: int) -> None:
    first, second = data[place : place + KEY], data[place + KEY : place + 2 * KEY]
    data[place : place + 2 * KEY] = second + first


def twice(data: bytearray, place: int) -> None:
    data[place + KEY + 8 : place + KEY + 16] = data[place + 8 : place + 16]


def outside(data: bytearray, place: int) -> None:
    struct.pack_into("<Q", data, place + 9 * KEY + 8, 950)
    struct.pack_into("<Q", data, place + 10 * KEY + 8, 960)


def between(data: bytearray, place: int) -> None:
    struct.pack_into("<Q", data, place + 8, 3)


def shorter(data: bytearray, place: int) -> None:
    struct.pack_into("<I", data, place, 40)


def shared(data: bytearray, place: int) -> None:
    (address,) = struct.unpack_from("<Q", data, place + KEY - 8)
    struct.pack_into("<Q", data, place + 2 * KEY - 8, address + 40)


def impossible(data: bytearray, place: int) -> None:
    struct.pack_into("<Q", data, place + KEY - 8, 0)


def beyond(data: bytearray, place: int) -> None:
    struct.pack_into("<Q", data, place + KEY - 8, len(data) - 8)


@pytest.mark.parametrize(
    ("change", "what", "message"),
    [
        (swap, "index", "do not ascend"),
        (twice, "index", "twice, or not in order"),
        (outside, "index", "of a grid of (10,)"),
        (between, "index", "begins between two chunks"),
        (shorter, "chunk", "checksum"),
        (shared, "index", "share bytes"),
        (impossible, "chunk", "impossible address"),
        (beyond, "chunk", "beyond the end"),
    ],
)
def test_an_index_that_contradicts_itself_is_damage(
    change: Callable[[bytearray, int], None], what: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.h5"
    with_key(path, lambda data, place: None)
    assert verify(path).sound
    with_key(path, change)
    found = [damage for damage in verify(path).damage if damage.what == what and message in damage.message]
    assert found
    assert found[0].path == "/a"


def test_keys_of_inner_nodes_are_checked(tmp_path: Path) -> None:
    """A read of everything passes them by; a read of a part would miss chunks."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("a", data=np.arange(1000), chunks=(1,))
    assert verify(path).sound
    data = bytearray(path.read_bytes())
    place = data.index(b"TREE\x01\x01") + 24  # a node of level 1
    struct.pack_into("<Q", data, place + KEY + 8, 990)
    path.write_bytes(data)
    damage = only_damage(path)
    assert (damage.path, damage.what) == ("/a", "index")


@pytest.mark.parametrize("kind", ["ultralight", "light", "medium", "full"])
def test_an_index_that_contradicts_its_table_is_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    keys = np.random.default_rng(0).permutation(5000) // 3
    with tables.open_file(path, "w") as file:
        table = file.create_table("/g", "t", np.rec.fromarrays([keys], names="key"), createparents=True)
        table.cols.key.create_index(kind=kind, _blocksizes=(2048, 1024, 512, 64))
        table.append([(7,), (8,)])
        table.flush()
    assert verify(path).sound
    pristine = path.read_bytes()
    for name, place in (("indices", (2, 100)), ("indicesLR", 5), ("sorted", (3, 0)), ("bounds", (1, 2)), ("ranges", 4)):
        path.write_bytes(pristine)
        with h5py.File(path, "a") as file:
            node = file[f"g/_i_t/key/{name}"]
            node[place] = node[place] + 1
        damage = only_damage(path)
        assert (damage.path, damage.what) == ("/g/_i_t/key", "index"), name
        assert "it contradicts '/g/t'" in damage.message
    path.write_bytes(pristine)
    with h5py.File(path, "a") as file:
        file["g/_i_t/key"].attrs["DIRTY"] = True  # nobody uses it
        file["g/_i_t/key/indicesLR"][5] += 1
    assert verify(path).sound


def test_a_name_that_nobody_finds_is_told(tmp_path: Path) -> None:
    """Links are listed with names that the index of names does not lead to: a hash is wrong."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(40):
            file.create_group(f"d{number:02}")
    assert verify(path).sound
    data = bytearray(path.read_bytes())
    place = data.index(b"BTLF")
    end = place + 6 + 40 * 11  # behind the records, of 11 bytes each
    data[place + 6] ^= 1
    struct.pack_into("<I", data, end, lookup3(bytes(data[place:end])))
    path.write_bytes(data)
    damage = only_damage(path)
    assert (damage.path, damage.what) == ("/", "links")
    assert "whoever looks for 'd" in damage.message


@pytest.mark.parametrize("signature", [b"FAHD", b"FADB", b"EAHD", b"EAIB", b"BTHD", b"BTLF"])
def test_a_flip_in_any_index_of_the_newest_format_is_named(signature: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("fixed", data=np.arange(100), chunks=(10,), fletcher32=True)
        file.create_dataset("extensible", data=np.arange(100), chunks=(10,), maxshape=(None,), fletcher32=True)
        file.create_dataset("tree", data=np.ones((9, 9)), chunks=(3, 3), maxshape=(None, None), fletcher32=True)
    flipped(path, path.read_bytes().index(signature) + 12)
    damage = only_damage(path)
    assert damage.path == {b"F": "/fixed", b"E": "/extensible", b"B": "/tree"}[signature[:1]]
    assert damage.what == "index"


# -- headers -----------------------------------------------------------------------------------------------


def test_every_flip_in_a_header_with_a_checksum_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("g/a", data=np.arange(4))
        file["g/a"].attrs["units"] = "K"
    sound = path.read_bytes()
    header = File(Buffer(sound)).resolve("/g/a").address
    size = File(Buffer(sound)).header(header).size
    for place in range(0, size, 3):
        path.write_bytes(sound)
        flipped(path, header + place, place % 8)
        (damage,) = verify(path).damage
        assert (damage.path, damage.what) == ("/g/a", "header"), place


@pytest.mark.parametrize("cut", [0, 4, 60, -8])
def test_a_file_that_is_cut_off_is_damage(checked: Path, cut: int) -> None:
    checked.write_bytes(checked.read_bytes()[:cut])
    damage = only_damage(checked)
    assert (damage.path, damage.what) == ("/", "file")


def test_a_damaged_attribute_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file["a"] = [1]
        file["a"].attrs["units"] = np.bytes_(b"Kelvin")
    data = bytearray(path.read_bytes())
    place = data.index(b"units\0") - 8
    data[place] = 9  # its version
    path.write_bytes(data)
    damage = only_damage(path)
    assert (damage.path, damage.what) == ("/a", "attribute")
    assert "version 9" in damage.message


def test_a_damaged_group_is_named_and_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file["one/a"], file["two/a"] = [1], [2]
    flipped(path, path.read_bytes().rindex(b"SNOD"))
    damage = only_damage(path)
    assert (damage.path, damage.what) == ("/two", "links")
    assert verify(path, group="/one").sound


def test_a_writer_that_did_not_close_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["a"] = [1]
        file.flush()
        half = path.read_bytes()
    path.write_bytes(half)
    assert "did not close it" in verify(path).damage[0].message


# -- what objects say of one another -----------------------------------------------------------------------


def test_a_scale_of_another_length_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["a"] = np.arange(3), np.zeros((2, 4))
        file["x"].make_scale("x")
        file["a"].dims[1].attach_scale(file["x"])
    damage = only_damage(path)
    assert (damage.path, damage.what, damage.message) == (
        "/a", "dimensions", "dimension 1 has 4 elements, its scale 3"
    )  # fmt: skip


def test_a_scale_that_grows_may_be_longer(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("t", (5,), "f4", maxshape=(None,))
        file["a"] = np.zeros(4)
        file["t"].make_scale("t")
        file["a"].dims[0].attach_scale(file["t"])
    assert verify(path).sound


def test_a_reference_to_a_scale_that_is_none_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["a"] = np.arange(4), np.zeros(4)
        file["x"].make_scale("x")
        file["a"].dims[0].attach_scale(file["x"])
        file.create_group("g")
        file["a"].attrs["DIMENSION_LIST"][0][0] = file["g"].ref
        dtype = h5py.vlen_dtype(h5py.ref_dtype)
        rows = np.empty(1, object)
        rows[0] = np.array([file["g"].ref], h5py.ref_dtype)
        file["a"].attrs.create("DIMENSION_LIST", rows, dtype=dtype)
    assert "is no array" in only_damage(path).message


# -- how it is asked ---------------------------------------------------------------------------------------


def test_only_a_part_of_the_file_is_checked_on_request(checked: Path) -> None:
    flipped(checked, chunk_places(checked, "b")[(0,)][0])
    assert verify(checked, group="/g").sound
    assert verify(checked, group="g/a").chunks == 12
    assert not verify(checked, group="/b").sound
    with pytest.raises(MissingNodeError, match=r"there is no '/none'"):
        verify(checked, group="/none")


def test_whatever_can_be_opened_can_be_verified(checked: Path) -> None:
    flipped(checked, chunk_places(checked, "b")[(20,)][0])
    data = checked.read_bytes()
    stores = obstore.store.MemoryStore()
    stores.put("in/a.h5", data)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/verified.h5", data)
    with open(checked, "rb") as file, tables.open_file(checked) as opened:
        for what, options in (
            (data, {}), (io.BytesIO(data), {}), (file, {}), (opened.root, {}), ("in/a.h5", {"store": stores}),
            ("memory://verified.h5", {"storage_options": {"skip_instance_cache": True}}),
        ):  # fmt: skip
            report = verify(what, **options)
            assert [(damage.path, damage.chunk) for damage in report.damage] == [("/b", (20,))]
            assert (report.arrays, report.chunks) == (3, 42)
    memory.rm("/verified.h5")
    for wrong in (7, None):
        with pytest.raises(TypeError, match="path"):
            verify(wrong)


def test_a_file_that_is_not_there_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "none.h5")
    with pytest.raises(IsADirectoryError):
        verify(tmp_path)


def test_a_filter_that_nobody_knows_is_not_damage(checked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_pytables.chunks.codecs.why_not", lambda pipeline: "no such filter here")
    report = verify(checked)
    assert report.sound
    assert report.unchecked == dict.fromkeys(("/b", "/c", "/g/a"), "no such filter here")
    assert report.stored_bytes == 0


def test_a_report_can_be_kept_as_json(checked: Path) -> None:
    flipped(checked, chunk_places(checked, "b")[(10,)][0])
    kept = json.loads(json.dumps(verify(checked).as_dict()))
    assert (kept["sound"], kept["arrays"], kept["damage"][0]["chunk"]) == (False, 3, [10])


def test_a_bar_counts_all_bytes(checked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify(checked, progress=True)
    assert "100%" in capsys.readouterr().err
    assert report.sound


def test_memory_is_a_few_blocks(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("whole", (64 << 20,), "u1")[-1] = 1
        file.create_dataset("chunks", (64, 1 << 20), "u1", chunks=(1, 1 << 20), fletcher32=True)[...] = 1
    verify(path, threads=1)  # what is imported on first use
    tracemalloc.start()
    try:
        report = verify(path, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.stored_bytes == (128 << 20) + 64 * 4
    assert peak < 16 << 20
