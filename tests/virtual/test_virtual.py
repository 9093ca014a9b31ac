"""Virtual Zarr stores: what a Zarr reader sees through kerchunk, VirtualiZarr and Icechunk is what the file has."""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pytest
import tables
import xarray as xr

from xr_pytables import to_pytables
from xr_pytables.virtual import parser, to_kerchunk
from xr_pytables.virtual.chunk_codec import NAME, HDF5Filters

from ..helpers_reading import open_quietly, plain_file
from ..helpers_server import running

DATA = Path(__file__).parent.parent / "data"
GOLDEN = sorted([*DATA.rglob("*.h5"), *(DATA.parent / "hdf5" / "data").rglob("*.h5"), DATA / "matlab.mat"])
NOISE = np.random.default_rng(0).random((40, 30))
FILTERS = {
    "none": {},
    "zlib": {"complevel": 1, "complib": "zlib", "shuffle": True},
    "checksum": {"complevel": 1, "complib": "zlib", "shuffle": True, "fletcher32": True},
    "bzip2": {"complevel": 1, "complib": "bzip2"},
    "blosc": {"complevel": 1, "complib": "blosc:lz4"},
    "blosc2": {"complevel": 1, "complib": "blosc2:zstd"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays with every filter of PyTables, and every layout that Zarr can have."""
    path = tmp_path_factory.mktemp("virtual") / "a.h5"
    with plain_file(path, "w") as file:
        for name, filters in FILTERS.items():
            options = {"filters": tables.Filters(**filters), "chunkshape": (7, 8)}
            file.create_carray("/", name, obj=NOISE.round(1), **options)
            array = file.create_earray("/grown", f"{name}_grown", tables.Int32Atom(), (0, 5), createparents=True,
                                       filters=tables.Filters(**filters), chunkshape=(4, 5))  # fmt: skip
            for start in range(0, 23, 3):
                array.append(np.arange(start * 5, start * 5 + 15, dtype="i4").reshape(3, 5))
        file.create_array("/kinds", "contiguous", NOISE, createparents=True)
        file.create_array("/kinds", "flags", NOISE > 0.5)
        file.create_array("/kinds", "complex", NOISE + 1j)
        file.create_array("/kinds", "scalar", 5.0)
        file.create_array("/kinds", "names", [b"abc", b"de"])
        file.create_carray("/kinds", "atoms", tables.Float32Atom((2, 3)), (5,), chunkshape=(2,))[:] = np.ones((5, 2, 3))
        file.create_carray("/kinds", "unwritten", tables.Float64Atom(dflt=3.5), (9, 4), chunkshape=(2, 4))[4:6] = 1.0
        rows = np.ones(100, [("a", "i8"), ("b", "f8"), ("c", "f4", (3,))])
        rows["a"], rows["b"] = np.arange(100), np.arange(100)[::-1]
        file.create_table("/", "events", rows, filters=tables.Filters(1, "blosc2:lz4"), chunkshape=30)
    with h5py.File(path, "r+") as file:
        file["kinds"].create_dataset("big", data=NOISE.astype(">f4"), chunks=(10, 10))
        mixed = file["kinds"].create_dataset("mixed", (4, 20), "f8", chunks=(1, 20), compression="gzip", shuffle=True)
        mixed[:] = np.arange(80.0).reshape(4, 20)
        mixed.id.write_direct_chunk((2, 0), np.arange(20.0).tobytes(), filter_mask=3)
        file["kinds"].create_dataset("text", data=["a", "b"], dtype=h5py.string_dtype())
        space = h5py.h5s.create_simple((3,))
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file["kinds"].id, b"compact", h5py.h5t.NATIVE_INT64, space, dcpl=layout)
        file["kinds/compact"][:] = [1, 2, 3]
    return path


@pytest.fixture
def quiet() -> Iterator[None]:
    """zarr warns of numcodecs' codecs and of text in format 3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def through_kerchunk(references: object, group: str = "/", **kwargs: object) -> xr.Dataset:
    options = {"storage_options": {"fo": references}}
    return xr.open_dataset(
        "reference://", engine="zarr", group=group.strip("/") or None, backend_kwargs=options, **kwargs
    )


def assert_same_values(found: xr.Dataset, expected: xr.Dataset) -> None:
    for name in found.variables:
        one, other = found[name].values, expected[name].values
        assert one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=")
        np.testing.assert_array_equal(one, other, err_msg=str(name))
        assert found[name].dims == expected[name].dims


# -- kerchunk -----------------------------------------------------------------------------------------------


def test_every_array_reads_equal_through_kerchunk(whole: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"1 variable\(s\) are left out: /kinds/text: its values have a variable length"
    ):
        references = to_kerchunk(whole)
    expected = xr.open_groups(whole, engine="pytables")
    count = 0
    for group, dataset in expected.items():
        found = through_kerchunk(references, group)
        assert_same_values(found, dataset)
        assert set(dataset.variables) - set(found.variables) == ({"text"} if group == "/kinds" else set())
        count += len(found.variables)
        dataset.close()
    assert count == 6 + 6 + 10 + 3


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files_read_equal_through_kerchunk_or_say_why_not(path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        references = to_kerchunk(path)
        expected = xr.open_groups(path, engine="pytables", decode_cf=False)
    for group, dataset in expected.items():
        found = through_kerchunk(references, group, decode_cf=False)
        assert_same_values(found, dataset)
        for name in set(dataset.variables) - set(found.variables):
            node = f"{group.rstrip('/')}/{name}"
            assert any(f"{node}: " in str(warning.message) for warning in told), node
        dataset.close()


def test_what_numcodecs_has_needs_nothing_of_this_package(whole: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        references = to_kerchunk(whole)["refs"]
    used = {name: json.loads(references[f"{name}/.zarray"])["filters"] or [] for name in FILTERS}
    names = {name: [step["id"] for step in steps] for name, steps in used.items()}
    assert names == {
        "none": [], "zlib": ["shuffle", "zlib"], "checksum": ["shuffle", "zlib", "fletcher32"],
        "bzip2": ["shuffle", "bz2"], "blosc": ["blosc"], "blosc2": [NAME],
    }  # fmt: skip


def test_fill_values_of_cf_mask_and_those_of_hdf5_do_not(tmp_path: Path) -> None:
    values = np.array([0.0, 1.0, np.nan])
    ds = xr.Dataset({"masked": ("x", values), "zeros": ("x", np.array([0, 1, 2]))})
    encoding = {"masked": {"_FillValue": -9.0, "dtype": "f4"}, "zeros": {"_FillValue": None}}
    to_pytables(ds, tmp_path / "a.h5", encoding=encoding)
    found = through_kerchunk(to_kerchunk(tmp_path / "a.h5"))
    np.testing.assert_array_equal(found["masked"], values)
    assert found["zeros"].values.tolist() == [0, 1, 2]
    assert found["zeros"].dtype.kind == "i"


@pytest.mark.parametrize(
    ("fill", "expected"), [(3, ">i4"), (3.5, ">f2"), (1 - 2j, ">c16"), (b"ab", "S5"), (7, "<u2"), (True, "?")]
)
@pytest.mark.parametrize("chunks", [(2, 3), None], ids=["chunks", "one piece"])
def test_what_nobody_wrote_has_the_fill_value_in_any_byte_order(
    fill: object, expected: str, chunks: tuple[int, int] | None, tmp_path: Path
) -> None:
    values = np.full((5, 7), fill, expected)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (5, 7), expected, chunks=chunks, fillvalue=fill)
    found = through_kerchunk(to_kerchunk(tmp_path / "a.h5"))["a"].values
    np.testing.assert_array_equal(found, values)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("dtype", "name", "value"),
    [
        ("i1", "_FillValue", np.int32(300)),
        ("u1", "_FillValue", np.int32(-1)),
        ("i4", "_FillValue", 4.5),
        ("f4", "_FillValue", 0.1),
        ("i4", "_FillValue", np.nan),
        ("i4", "_FillValue", "3"),
        ("i4", "_FillValue", np.array([3, 4])),
        ("f8", "missing_value", np.inf),
        ("i2", "scale_factor", np.inf),
    ],
)
def test_a_fill_value_that_becomes_another_in_zarr_is_refused(
    dtype: str, name: str, value: object, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.arange(45, 50).astype(dtype)
        file["a"].attrs[name] = value
        file["b"] = np.arange(5.0)
        file["b"].attrs["_FillValue"], file["b"].attrs["missing_value"] = np.float32(3), np.nan
    for read in (
        lambda: through_kerchunk(to_kerchunk(tmp_path / "a.h5")),
        lambda: through_virtualizarr(tmp_path / "a.h5", "/"),
    ):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = read()
        assert any(f"/a: its {name} is" in str(warning.message) for warning in told)
        assert set(found.variables) == {"b"}
        np.testing.assert_array_equal(found["b"], [0, 1, 2, np.nan, 4])


@pytest.mark.usefixtures("quiet")
def test_what_zarr_cannot_have_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    long = np.arange(6, dtype=np.longdouble)
    with h5py.File(path, "w") as file:
        file["good"] = np.arange(5)
        file["odd\\name"] = file["zarr.json"] = np.arange(3)
        file["fine/good"] = np.arange(4)
        file["odd\\group/v"] = np.arange(3)
        if long.itemsize > 8:  # not so on Windows
            file["long"], file["twice"], file["records"] = long, long + 1j, long.view([("a", long.dtype)])
    left_out = {"long", "twice", "odd\\name"}
    with pytest.warns(UserWarning, match=r"left out") as told:
        references = to_kerchunk(path)
    assert ("/long: its type (float128) has no equal in Zarr" in str(told[0].message)) is (long.itemsize > 8)
    assert "/odd\\name: there is a backslash in its name, which Zarr takes for a slash" in str(told[0].message)
    assert "/odd\\group: there is a backslash" in str(told[0].message)
    for found, others in ((through_kerchunk(references), set()), (through_virtualizarr(path, "/"), {"zarr.json"})):
        assert_same_values(found, open_quietly(path))
        assert set(found.variables) == {"good", "zarr.json"} - others
        assert left_out.isdisjoint(found.variables)
    assert np.array_equal(through_kerchunk(references, "/fine")["good"], np.arange(4))


def test_references_are_written_to_this_machine(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^out must be a local path, not memory://x\.parq"):
        to_kerchunk(whole, "memory://x.parq")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        to_kerchunk(whole, f"file://{tmp_path}/a%20b.json")
    assert np.array_equal(through_kerchunk(str(tmp_path / "a b.json"))["zlib"], NOISE.round(1))


def test_times_coordinates_and_attributes(tmp_path: Path) -> None:
    ds = xr.Dataset(
        {"v": (("t",), np.arange(3.0), {"units": "K", "list": [1, 2], "flag": True})},
        {"t": np.array(["2020-01-01", "2020-01-02", "2020-01-04"], "M8[ns]"), "lat": ("t", [1.0, 2.0, 3.0])},
        {"title": "é", "size": np.float32(2.5)},
    )
    to_pytables(ds, tmp_path / "a.h5")
    found = through_kerchunk(to_kerchunk(tmp_path / "a.h5"))
    with open_quietly(tmp_path / "a.h5") as expected:
        assert_same_values(found, expected)
        assert set(found.coords) == {"t", "lat"}
        assert found.attrs["title"] == "é"
        assert found["v"].attrs["units"] == "K"


def test_references_in_a_file_of_json_and_of_urls(whole: Path, tmp_path: Path) -> None:
    with running(objects={"a.h5": whole.read_bytes()}) as server:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            to_kerchunk(server.url(), tmp_path / "a.json")
        references = json.loads((tmp_path / "a.json").read_text())
        assert {value[0] for value in references["refs"].values() if isinstance(value, list)} == {server.url()}
        options = {"storage_options": {"fo": str(tmp_path / "a.json"), "remote_options": {"asynchronous": True}}}
        found = xr.open_dataset("reference://", engine="zarr", backend_kwargs=options)
        np.testing.assert_array_equal(found["blosc2"], NOISE.round(1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.usefixtures("quiet")
def test_references_in_parquet(whole: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "a.parq")
    to_kerchunk(whole, out, group="/grown")
    options = {"storage_options": {"fo": out, "remote_protocol": "file"}, "consolidated": False}
    found = xr.open_dataset("reference://", engine="zarr", backend_kwargs=options)
    with xr.open_dataset(whole, engine="pytables", group="/grown") as expected:
        assert_same_values(found, expected)
    with pytest.raises(FileExistsError, match=r"a\.parq: there is something already"):
        to_kerchunk(whole, out, group="/grown")


@pytest.mark.parametrize("url", ["http://me:pw@127.0.0.1/a.h5", "http://127.0.0.1/a.h5?sig=1", "zip://a.h5::b.zip"])
def test_urls_with_secrets_and_chains_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="references need a plain path or URL"):
        to_kerchunk(url)
    with pytest.raises(ValueError, match="references need a plain path or URL"):
        to_kerchunk(b"bytes")


# -- VirtualiZarr and Icechunk ------------------------------------------------------------------------------


def virtual(path: Path, group: str = "/") -> xr.Dataset:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr import open_virtual_dataset

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    return open_virtual_dataset(f"file://{path}", registry=registry, parser=parser(group=group), loadable_variables=[])


def through_virtualizarr(path: Path, group: str, **kwargs: object) -> xr.Dataset:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore

    registry = ObjectStoreRegistry({"file://": LocalStore()})
    store = parser(group=group)(f"file://{path}", registry)
    return xr.open_dataset(store, engine="zarr", consolidated=False, zarr_format=3, **kwargs)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("group", ["/", "/grown", "/kinds", "/events"])
def test_every_array_reads_equal_through_virtualizarr(whole: Path, group: str) -> None:
    found = through_virtualizarr(whole, group)
    with xr.open_dataset(whole, engine="pytables", group=group) as expected:
        assert_same_values(found, expected)
        left_out = {"text", "compact"} if group == "/kinds" else set()
        assert set(expected.variables) - set(found.variables) == left_out


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files_read_equal_through_virtualizarr_or_say_why_not(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = xr.open_groups(path, engine="pytables", decode_cf=False)
    for group, dataset in expected.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = through_virtualizarr(path, group, decode_cf=False)
            assert_same_values(found, dataset)
        for name in set(dataset.variables) - set(found.variables):
            node = f"{group.rstrip('/')}/{name}"
            assert any(f"{node}: " in str(warning.message) for warning in told), node
        dataset.close()


@pytest.mark.usefixtures("quiet")
def test_virtual_datasets_go_into_icechunk(whole: Path, tmp_path: Path) -> None:
    found = through_icechunk(whole, tmp_path)
    with xr.open_dataset(whole, engine="pytables") as expected:
        assert_same_values(found, expected)
        assert set(found.variables) == set(FILTERS)


@pytest.mark.usefixtures("quiet")
def test_empty_arrays_go_into_icechunk(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("empty", (0, 3), "f4", chunks=(2, 3), maxshape=(None, 3))
        file["full"] = np.arange(5)
    found = through_icechunk(tmp_path / "a.h5", tmp_path)
    assert found["empty"].shape == found["empty"].values.shape == (0, 3)
    assert found["empty"].dtype == "f4"
    assert found["full"].values.tolist() == [0, 1, 2, 3, 4]


def through_icechunk(whole: Path, tmp_path: Path) -> xr.Dataset:
    import icechunk

    config = icechunk.RepositoryConfig.default()
    container = icechunk.VirtualChunkContainer(
        f"file://{whole.parent}/", icechunk.local_filesystem_store(str(whole.parent))
    )
    config.set_virtual_chunk_container(container)
    allowed = icechunk.containers_credentials({f"file://{whole.parent}/": None})
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
    repository = icechunk.Repository.create(storage, config, authorize_virtual_chunk_access=allowed)
    session = repository.writable_session("main")
    virtual(whole).vz.to_icechunk(session.store)
    session.commit("all")
    return xr.open_zarr(repository.readonly_session("main").store, consolidated=False)


@pytest.mark.usefixtures("quiet")
def test_fill_values_in_format_3(tmp_path: Path) -> None:
    values = np.array([0.0, 1.0, np.nan])
    ds = xr.Dataset({"masked": ("x", values), "zeros": ("x", np.array([0, 1, 2]))})
    to_pytables(
        ds, tmp_path / "a.h5", encoding={"masked": {"_FillValue": -9.0, "dtype": "f4"}, "zeros": {"_FillValue": None}}
    )
    found = through_virtualizarr(tmp_path / "a.h5", "/")
    np.testing.assert_array_equal(found["masked"], values)
    assert found["zeros"].values.tolist() == [0, 1, 2]


# -- the codec ----------------------------------------------------------------------------------------------


def test_the_codec_is_known_by_its_name() -> None:
    config = {"id": NAME, "filters": [[1, [5]]], "nbytes": 80, "column": [0, 8, 16], "masks": [[80, 1]]}
    codec = numcodecs.get_codec(dict(config))
    assert isinstance(codec, HDF5Filters)
    assert codec.get_config() == config
    assert HDF5Filters([], 4).get_config() == {"id": NAME, "filters": [], "nbytes": 4}


def test_the_codec_picks_a_column_and_heeds_masks() -> None:
    rows = np.arange(10, dtype="u8")
    codec = HDF5Filters([[1, [1]]], 80, (8, 8, 16), [[80, 1]])
    out = np.empty(5, "u8")
    assert np.array_equal(codec.decode(rows.tobytes()).view("u8"), rows[1::2])
    codec.decode(rows.tobytes(), out)
    assert np.array_equal(out, rows[1::2])


def test_damage_is_an_error_of_the_codec() -> None:
    with pytest.raises(OSError, match="zlib cannot decode the 7 bytes stored"):
        HDF5Filters([[1, [1]]], 80).decode(b"nothing")
    with pytest.raises(OSError, match="holds 3 bytes, expected 80"):
        HDF5Filters([], 80).decode(b"abc")
    with pytest.raises(ValueError, match="no part of rows"):
        HDF5Filters([], 80, (12, 8, 16))
    with pytest.raises(NotImplementedError, match="does not write"):
        HDF5Filters([], 80).encode(b"")


def test_entry_points_name_what_there_is() -> None:
    found = {
        point.group: point.load()
        for group in ("numcodecs.codecs", "zarr.codecs")
        for point in importlib.metadata.entry_points(group=group, name=NAME)
    }
    if not found:
        pytest.skip("installed before there was a codec")
    assert found["numcodecs.codecs"] is HDF5Filters
    assert found["zarr.codecs"].__name__ == "HDF5Codec"
