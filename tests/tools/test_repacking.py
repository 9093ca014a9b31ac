"""`repack` keeps all of a file but its holes, and changes the storage of arrays on request."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables.errors import FormatError
from xr_pytables.tools.differences import diff
from xr_pytables.tools.repacking import repack
from xr_pytables.tools.verifying import verify
from xr_pytables.writing.writer import to_pytables

from ..hdf5 import helpers_corpus
from ..helpers_reading import plain_file, run_python
from .test_verifying import GOLDEN, OTHERS, chunk_places, flipped


def value(file: h5py.File, stored: Any) -> Any:
    """A value that compares, with references as the paths that they lead to."""
    if isinstance(stored, h5py.h5r.Reference):
        return ("reference", file[stored].name if stored else None)
    if isinstance(stored, np.ndarray) and stored.dtype.kind == "O":
        return [value(file, one) for one in stored.reshape(-1)]
    if isinstance(stored, np.void | np.ndarray) and stored.dtype.names:
        return {name: value(file, np.asarray(stored)[name]) for name in stored.dtype.names}
    if isinstance(stored, np.ndarray):
        return stored.dtype.str, stored.shape, stored.tobytes()
    return "empty" if isinstance(stored, h5py.Empty) else repr(stored)


def everything(path: Path, *, layout: bool = True) -> dict[str, Any]:
    """What h5py finds in a file: links, types, attributes in their order, values; and how arrays are stored."""
    found: dict[str, Any] = {}

    def quiet(get: Any) -> Any:
        try:
            return value(file, get())
        except (OSError, TypeError, ValueError, RuntimeError) as error:  # h5py has no form for it
            return type(error).__name__

    def attributes(node: Any) -> list[tuple[str, Any]]:
        return [(name, quiet(lambda name=name: node.attrs[name])) for name in node.attrs]

    def look(group: h5py.Group, at: str) -> None:
        found[at or "/"] = attributes(group), [name for name in group if isinstance(name, str)]
        for name in group:
            try:
                link = group.get(name, getlink=True)
            except UnicodeDecodeError:
                continue
            if isinstance(link, h5py.SoftLink):
                found[f"{at}/{name}"] = "soft", link.path
            elif isinstance(link, h5py.ExternalLink):
                found[f"{at}/{name}"] = "external", link.filename, link.path
            elif isinstance(node := group[name], h5py.Group):
                if f"{at}/{name}" not in found and at.count("/") < 8:
                    look(node, f"{at}/{name}")
            elif isinstance(node, h5py.Dataset):
                plist = node.id.get_create_plist()
                filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
                stored = node.maxshape, node.chunks, filters
                found[f"{at}/{name}"] = (
                    node.id.get_type().get_class(), node.shape, quiet(lambda node=node: node[()]), attributes(node),
                    stored if layout else None,
                )  # fmt: skip
            else:
                found[f"{at}/{name}"] = "type", attributes(node)

    with h5py.File(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        look(file, "")
    return found


def array(path: Path, name: str) -> xr_pytables.listing.ListedArray:  # type: ignore[name-defined]
    return next(one for group in xr_pytables.tree(path).groups for one in group.arrays if one.name == name)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Any:
    yield
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# -- all is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files_are_the_same(path: Path, tmp_path: Path) -> None:
    repack(path, tmp_path / "new.h5")
    assert everything(tmp_path / "new.h5") == everything(path)


@pytest.mark.parametrize("version", [name for name in helpers_corpus.VERSIONS if name != "2.0"])
@pytest.mark.parametrize("track_order", [False, True])
def test_every_structure_is_kept(version: str, track_order: bool, tmp_path: Path) -> None:
    helpers_corpus.write_with_h5py(tmp_path / "old.h5", version, track_order=track_order, userblock=512)
    repack(tmp_path / "old.h5", tmp_path / "new.h5")
    assert everything(tmp_path / "new.h5") == everything(tmp_path / "old.h5")
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.userblock_size == 512
    repack(tmp_path / "old.h5", tmp_path / "zlib.h5", complib="zlib", fletcher32=True)
    assert everything(tmp_path / "zlib.h5", layout=False) == everything(tmp_path / "old.h5", layout=False)


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs_are_the_same(name: str, tmp_path: Path) -> None:
    getattr(helpers_corpus, name)(tmp_path / "old.h5")
    repack(tmp_path / "old.h5", tmp_path / "new.h5")
    assert everything(tmp_path / "new.h5") == everything(tmp_path / "old.h5")


def test_a_file_that_pytables_hdf5_cannot_read_is_told(tmp_path: Path) -> None:
    helpers_corpus.write_with_h5py(tmp_path / "old.h5", "2.0")
    with pytest.raises(OSError, match=r"old\.h5: the HDF5 of PyTables .* cannot copy it"):
        repack(tmp_path / "old.h5", tmp_path / "new.h5")
    assert not (tmp_path / "new.h5").exists()


def test_dimensions_are_kept_for_all_readers(tmp_path: Path) -> None:
    data = xr.Dataset({"a": (("t", "x"), np.ones((4, 3)))}, {"t": np.arange(4)}, {"title": "sea"})
    to_pytables(data, tmp_path / "old.h5", unlimited_dims=["t"])
    with h5py.File(tmp_path / "scales.h5", "w") as file:
        file["x"], file["a"] = np.arange(3), np.ones(3)
        file["x"].make_scale("x")
        file["a"].dims[0].attach_scale(file["x"])  # REFERENCE_LIST, too
    for name in ("old.h5", "scales.h5"):
        repack(tmp_path / name, tmp_path / f"new-{name}", complib="zlib")
        assert diff(tmp_path / name, tmp_path / f"new-{name}") == ()
    with netCDF4.Dataset(tmp_path / "new-old.h5") as file:
        assert file["a"].dimensions == ("t", "x")
        assert file.dimensions["t"].isunlimited()
    with h5py.File(tmp_path / "new-scales.h5") as file:
        assert file["a"].dims[0]["x"].name == "/x"
        assert file[file["x"].attrs["REFERENCE_LIST"]["dataset"][0]].name == "/a"


def test_references_lead_to_the_new_objects(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.create_group("pad")
        file["x"], file["y"] = [1], [2]
        del file["pad"]
        file["one"] = np.array([file["x"].ref, file["y"].ref], h5py.ref_dtype)
        record = np.dtype([("n", "i4"), ("to", h5py.ref_dtype, (2,))])
        file["records"] = np.array([(1, [file["x"].ref, file["y"].ref])], record)
        rows = file.create_dataset("rows", (2,), h5py.vlen_dtype(h5py.ref_dtype))
        rows[0] = np.array([file["y"].ref], h5py.ref_dtype)
        file.attrs["single"] = file["y"].ref
    repack(tmp_path / "old.h5", tmp_path / "new.h5")
    assert everything(tmp_path / "new.h5") == everything(tmp_path / "old.h5")


def test_references_to_regions_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["x"] = np.arange(5)
        file["regions"] = np.array([file["x"].regionref[1:3]], h5py.regionref_dtype)
    with pytest.raises(ValueError, match=r"old\.h5:/regions: references to regions are not copied"):
        repack(tmp_path / "old.h5", tmp_path / "new.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["x"] = np.arange(5)
        file["x"].attrs["region"] = file["x"].regionref[1:3]
    with pytest.raises(ValueError, match=r"old\.h5:/x: an attribute: references to regions are not copied"):
        repack(tmp_path / "old.h5", tmp_path / "new.h5")


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("complib", ["blosc:lz4", "blosc2:zstd", "zlib"])
def test_values_of_variable_length_keep_their_filters(compression: str | None, complib: str, tmp_path: Path) -> None:
    """Blosc of PyTables ends the process on their descriptors."""
    code = f"""
        import h5py, numpy as np, xr_pytables
        old, new = {str(tmp_path / "old.h5")!r}, {str(tmp_path / "new.h5")!r}
        record = np.dtype([("s", h5py.string_dtype()), ("n", "i4")])
        with h5py.File(old, "w") as file:
            words = {{"chunks": (2,), "compression": {compression!r}}}
            file.create_dataset("text", data=["a", "bb", "", "d"], dtype=h5py.string_dtype(), **words)
            file.create_dataset("rows", (4,), h5py.vlen_dtype("i4"), **words)[1] = [1, 2]
            file.create_dataset("records", data=np.array([("a", 1), ("bb", 2)], record), **words)
            file.create_dataset("n", data=np.arange(4), **words)
        xr_pytables.repack(old, new, complib={complib!r}, chunks=(3,))
        with h5py.File(old) as one, h5py.File(new) as other:
            for name in ("text", "rows"):
                assert (other[name].chunks, other[name].compression) == ((3,), one[name].compression), name
                assert [str(each) for each in one[name][:]] == [str(each) for each in other[name][:]], name
        assert xr_pytables.diff(old, new) == ()
        print(xr_pytables.verify(new).sound)
    """
    assert run_python(code).split() == ["True"]


def test_pickles_of_pytables_are_kept_and_not_run(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "old.h5", "w") as file:
        file.root._v_attrs.listed = [1, "a"]
        file.root._v_attrs._g_setattr(file.root, "evil", np.bytes_(b"cos\nsystem\n(S'touch ran'\ntR."))
        file.create_vlarray("/", "objects", tables.ObjectAtom()).append({"a": 1})
    repack(tmp_path / "old.h5", tmp_path / "new.h5")
    assert everything(tmp_path / "new.h5") == everything(tmp_path / "old.h5")
    assert not Path("ran").exists()


# -- what changes ------------------------------------------------------------------------------------------


def test_holes_are_closed_in_place(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_array("/", "large", np.random.default_rng(0).random(100_000))
        file.create_carray("/", "kept", obj=np.arange(10_000), filters=tables.Filters(1, "blosc:lz4"))
        file.create_table("/", "t", np.zeros(5, [("a", "i4")])).cols.a.create_index()
        file.remove_node("/large")
    before = path.stat()
    done = repack(path)
    assert (done.before, done.after, done.changed) == (before.st_size, path.stat().st_size, ())
    assert done.after < done.before - 700_000
    assert path.stat().st_mode == before.st_mode
    with tables.open_file(path) as file:
        np.testing.assert_array_equal(file.root.kept[:], np.arange(10_000))
        assert file.root.kept.filters.complib == "blosc:lz4"
        assert file.root.t.cols.a.is_indexed
        assert len(file.root.t.read_where("a == 0")) == 5


def test_chunks_at_the_edge_are_compressed(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    data = xr.Dataset({"a": (("t", "x"), np.zeros((3, 1000)))})
    to_pytables(data, path, unlimited_dims=["t"], encoding={"a": {"complib": "zlib", "chunksizes": (8, 1000)}})
    to_pytables(data, path, append_dim="t")  # the last chunk stays as it is, until the next begins
    masks = [chunk.filter_mask for chunk in chunk_infos(path, "a")]
    repack(path)
    assert any(masks)
    assert [chunk.filter_mask for chunk in chunk_infos(path, "a")] == [0]
    np.testing.assert_array_equal(xr.open_dataset(path, engine="pytables")["a"], np.zeros((6, 1000)))
    to_pytables(data, path, append_dim="t")
    assert verify(path).sound


def chunk_infos(path: Path, name: str) -> list[Any]:
    with h5py.File(path) as file:
        return [file[name].id.get_chunk_info(i) for i in range(file[name].id.get_num_chunks())]


@pytest.mark.parametrize("complib", ["zlib", "bzip2", "blosc:zstd", "blosc2:lz4", "none"])
def test_compressors_and_chunks_change(complib: str, tmp_path: Path) -> None:
    path, values = tmp_path / "file.h5", np.random.default_rng(0).integers(0, 9, (70, 50))
    with tables.open_file(path, "w") as file:
        filters = tables.Filters(5, "zlib", fletcher32=True)
        file.create_carray("/", "a", obj=values, chunkshape=(16, 50), filters=filters)
        file.create_earray("/", "e", obj=values, chunkshape=(16, 50), filters=filters)
        file.create_table("/", "t", np.zeros(20, [("x", "f8")]), filters=filters)
    done = repack(path, tmp_path / "new.h5", complib=complib, complevel=3, chunks=(40, 25))
    assert set(done.changed) == {"/a", "/e", "/t"}
    for name in ("a", "e"):
        found = array(tmp_path / "new.h5", name)
        expected = {} if complib == "none" else {"complib": complib, "complevel": 3, "shuffle": True}
        assert (found.chunks, found.filters) == ((40, 25), {**expected, "fletcher32": True})
    assert diff(path, tmp_path / "new.h5") == ()
    with tables.open_file(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file.root.a[:], values)
        assert isinstance(file.root.e, tables.EArray)
    assert verify(tmp_path / "new.h5").sound


def test_compressors_that_pytables_lacks_are_taken_away_or_named(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    path, values = tmp_path / "file.h5", np.arange(1000) // 7
    with h5py.File(path, "w") as file:
        file.create_dataset("lzf", data=values, chunks=(100,), compression="lzf", shuffle=True)
        file.create_dataset("packed", data=values, chunks=(100,), scaleoffset=0)
    assert set(repack(path, tmp_path / "plain.h5", complib="none", fletcher32=True).changed) == {"/lzf", "/packed"}
    with h5py.File(tmp_path / "plain.h5") as file:
        for name in ("lzf", "packed"):
            pipeline = file[name].id.get_create_plist()
            assert [pipeline.get_filter(n)[0] for n in range(pipeline.get_nfilters())] == [h5py.h5z.FILTER_FLETCHER32]
            np.testing.assert_array_equal(file[name], values)
    with pytest.raises(ValueError, match=r"file\.h5:/lzf: the compressor 'lzf' is not part of this build of PyTables"):
        repack(path, tmp_path / "other.h5", chunks=(50,))


def test_level_0_is_no_compression(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=np.zeros(1000), filters=tables.Filters(7, "zlib", fletcher32=True))
        file.create_carray("/", "b", obj=np.zeros(1000))
    for options in ({}, {"complib": "blosc:zstd"}):
        repack(path, tmp_path / "new.h5", complevel=0, overwrite=True, **options)
        assert array(tmp_path / "new.h5", "a").filters == {"fletcher32": True}
        assert array(tmp_path / "new.h5", "b").filters == {}


def test_chunks_larger_than_a_block_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_pytables.tools.repacking._BLOCK", 100)
    path, values = tmp_path / "file.h5", np.arange(7000).reshape(70, 100)
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=values, chunkshape=(10, 10))
    repack(path, chunks=(40, 60), complib="zlib")
    assert array(path, "a").chunks == (40, 60)
    np.testing.assert_array_equal(xr.open_dataset(path, engine="pytables")["a"], values)


def test_checksums_come_and_go_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=np.zeros(1000), filters=tables.Filters(7, "blosc2:zstd", bitshuffle=True))
    before = array(path, "a").filters
    repack(path, fletcher32=True)
    assert array(path, "a").filters == {**before, "fletcher32": True}
    assert repack(path, fletcher32=True).changed == ()
    repack(path, fletcher32=False)
    assert array(path, "a").filters == before


def test_some_arrays_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        for name in ("a", "b"):
            file.create_carray("/g", name, obj=np.zeros(1000), createparents=True)
    assert repack(path, complib="zlib", arrays=["g/b"]).changed == ("/g/b",)
    assert (array(path, "a").filters, array(path, "b").filters["complib"]) == ({}, "zlib")
    with pytest.raises(ValueError, match="there is no array '/none'; there are '/g/a', '/g/b'"):
        repack(path, arrays=["/none"])


def test_large_contiguous_arrays_are_compressed_on_request(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_array("/", "large", np.zeros((300, 1000)), title="kept").attrs.units = "K"
        file.create_array("/", "small", np.zeros(10))
    assert repack(path).changed == ()
    assert repack(path, complib="blosc:lz4").changed == ("/large",)
    assert path.stat().st_size < 100_000
    with tables.open_file(path) as file:
        assert isinstance(file.root.large, tables.CArray)
        assert (file.root.large.title, file.root.large.attrs.units) == ("kept", "K")
        np.testing.assert_array_equal(file.root.large[:], np.zeros((300, 1000)))
        assert isinstance(file.root.small, tables.Array)


def test_missing_chunks_stay_missing(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        sparse = file.create_carray("/", "a", tables.Int32Atom(dflt=7), (100,), chunkshape=(10,))
        sparse[35] = 1
        file.create_carray("/", "nothing", tables.Int32Atom(dflt=7), (100,), chunkshape=(10,))
    repack(path, complib="zlib")
    assert (len(chunk_infos(path, "a")), len(chunk_infos(path, "nothing"))) == (1, 0)
    expected = np.full(100, 7)
    expected[35] = 1
    np.testing.assert_array_equal(xr.open_dataset(path, engine="pytables")["a"], expected)


# -- what is refused ---------------------------------------------------------------------------------------


def test_a_damaged_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=np.arange(100), chunkshape=(10,), filters=tables.Filters(fletcher32=True))
    flipped(path, chunk_places(path, "a")[(20,)][0])
    before = path.read_bytes()
    with pytest.raises(FormatError, match=r"damaged, so it is left alone: /a: chunk at \(20,\)"):
        repack(path)
    assert path.read_bytes() == before


def test_a_target_that_is_there_is_replaced_on_request_alone(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "old.h5", "w") as file:
        file.create_array("/", "a", [1])
    (tmp_path / "new.h5").write_text("mine")
    with pytest.raises(FileExistsError, match="it is there already"):
        repack(tmp_path / "old.h5", tmp_path / "new.h5")
    repack(tmp_path / "old.h5", tmp_path / "new.h5", overwrite=True)
    assert diff(tmp_path / "old.h5", tmp_path / "new.h5") == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"complib": "nonsense"}, "complib 'nonsense' is unknown"),
        ({"complib": "zlib", "complevel": 11}, "complevel must be from 0 to 9"),
        ({"chunks": (0,)}, "must be 1 or more"),
    ],
)
def test_wishes_that_cannot_be_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=np.arange(100))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        repack(path, **options)
    assert path.read_bytes() == before


def test_a_change_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_array("/", "a", np.arange(10))
    original = xr_pytables.tools.repacking._write

    def write_and_change(*args: Any) -> None:
        original(*args)
        with plain_file(path, "a") as file:
            file.create_array("/", "b", np.arange(10))

    monkeypatch.setattr("xr_pytables.tools.repacking._write", write_and_change)
    with pytest.raises(xr_pytables.FileChangedError):
        repack(path)
    with plain_file(path) as file:
        assert "/b" in file


def test_a_bar_counts_all_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=np.arange(10_000), chunkshape=(1000,))
        file.create_array("/", "b", np.arange(10_000))
    repack(path, progress=True, threads=1)
    assert "156k/156k" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"complib": "zlib", "complevel": 1}])
def test_memory_is_some_blocks(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("chunks", (96, 1 << 20), "u1", chunks=(1, 1 << 20))[...] = 1
        file.create_dataset("whole", (96 << 20,), "u1")[-1] = 1
    tracemalloc.start()
    try:
        repack(path, tmp_path / "new.h5", threads=1, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
