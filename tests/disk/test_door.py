"""Whatever names a file leads to the same data: paths, URLs, bytes, file objects, stores."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import mmap
import os
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import dask
import fsspec
import h5py
import numpy as np
import obstore.store
import pandas as pd
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables import FileChangedError, RemoteError, to_pytables, tree
from xr_pytables.disk.door import checked_transfer, place_of
from xr_pytables.sources.disk_cache import DiskCache

from ..helpers_reading import open_quietly, plain_file, run_python
from ..helpers_server import Server, cut, running, status

RANDOM = np.random.default_rng(0)
FIELD = RANDOM.random((300, 400)).round(2)
EVENTS = np.rec.array([np.arange(20_000), RANDOM.permutation(20_000) / 4], names="number,energy")
WAYS = [
    "path", "file URL", "bytes", "bytearray", "mmap", "BytesIO", "file", "file object", "http", "memory", "simplecache",
    "zip", "zip over http", "OpenFile", "fsspec file", "fsspec http file", "store", "http store",
]  # fmt: skip


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with something of everything."""
    path = tmp_path_factory.mktemp("door") / "a.h5"
    ds = xr.Dataset(
        {
            "packed": (("y", "x"), FIELD, {"units": "m"}),
            "plain": (("y", "x"), FIELD[::-1].copy()),
            "text": ("y", np.array([f"row {i}" for i in range(300)], object)),
        },
        coords={"x": np.arange(400.0), "time": ("y", pd.date_range("2020", periods=300))},
    )
    to_pytables(
        ds, path, encoding={"packed": {"chunksizes": (50, 100), "complib": "blosc:zstd"}, "plain": {"contiguous": True}}
    )
    with plain_file(path, "a") as file:
        table = file.create_table("/deep/er", "events", EVENTS, createparents=True, chunkshape=500)
        table.cols.energy.create_csindex()
        rows = file.create_vlarray("/deep", "rows", tables.Int32Atom())
        for i in range(40):
            rows.append(np.arange(i))
        file.create_soft_link("/", "link", "/deep/er/events")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = pd.DataFrame({"a": np.arange(1000.0), "b": np.arange(1000)}, index=pd.date_range("2020", periods=1000))
        frame.to_hdf(path, key="frame", format="table", data_columns=["b"])
    with h5py.File(path, "r+") as file:
        file["nodes"] = np.array([file["deep"].ref, file["packed"].ref], h5py.ref_dtype)
    return path


@pytest.fixture
def server(whole: Path) -> Iterator[Server]:
    with running(objects={"a.h5": whole.read_bytes()}) as server:
        yield server


Way = Callable[[str], tuple[object, dict[str, object]]]


@pytest.fixture
def way(whole: Path, server: Server, tmp_path: Path) -> Iterator[Way]:
    """From the name of a way to what is opened, and the arguments for it."""
    with ExitStack() as stack:

        def made(name: str) -> tuple[object, dict[str, object]]:
            data = whole.read_bytes()
            memory = fsspec.filesystem("memory")
            memory.pipe_file("/door/a.h5", data)
            stack.callback(memory.rm, "/door", recursive=True)
            with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
                archive.writestr("in/a.h5", data)
            server.objects["b.zip"] = (tmp_path / "b.zip").read_bytes()
            store = obstore.store.MemoryStore()
            obstore.put(store, "in/a.h5", data)
            if name == "mmap":
                file = stack.enter_context(whole.open("rb"))
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), {}
            found: dict[str, Callable[[], tuple[object, dict[str, object]]]] = {
                "path": lambda: (whole, {}),
                "file URL": lambda: (whole.as_uri(), {}),
                "bytes": lambda: (data, {}),
                "bytearray": lambda: (bytearray(data), {}),
                "BytesIO": lambda: (io.BytesIO(data), {}),
                "file": lambda: (stack.enter_context(whole.open("rb")), {}),
                "file object": lambda: (stack.enter_context(io.BufferedReader(Raw(data))), {}),
                "http": lambda: (server.url(), {}),
                "memory": lambda: ("memory://door/a.h5", {}),
                "simplecache": lambda: (
                    f"simplecache::{server.url()}",
                    {"storage_options": {"simplecache": {"cache_storage": str(tmp_path / "copies")}}},
                ),
                "zip": lambda: (f"zip://in/a.h5::{tmp_path}/b.zip", {}),
                "zip over http": lambda: (f"zip://in/a.h5::{server.url('b.zip')}", {}),
                "OpenFile": lambda: (fsspec.open(server.url()), {}),
                "fsspec file": lambda: (stack.enter_context(fsspec.open("memory://door/a.h5")), {}),
                "fsspec http file": lambda: (stack.enter_context(fsspec.open(server.url())), {}),
                "store": lambda: ("in/a.h5", {"store": store}),
                "http store": lambda: (
                    "a.h5",
                    {"store": obstore.store.HTTPStore(server.url(""), client_options={"allow_http": True})},
                ),
            }
            return found[name]()

        yield made


class Raw(io.RawIOBase):
    """A file object that is nothing else."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.inner.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:
        return self.inner.readinto(buffer)


def assert_equal(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Identical; rows of ragged arrays one by one, which xarray cannot compare."""
    assert found.variables.keys() == expected.variables.keys()
    for name, variable in expected.variables.items():
        if variable.dtype == object and isinstance(variable.values.flat[0], np.ndarray):
            for one, other in zip(found[name].values, variable.values, strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            xr.testing.assert_identical(found[name].variable, variable)
    assert found.attrs == expected.attrs


# -- the same data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WAYS)
def test_every_way_leads_to_the_same_data(name: str, way: Way, whole: Path) -> None:
    what, arguments = way(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = xr.open_groups(what, engine="pytables", **arguments)
        expected = xr.open_groups(whole, engine="pytables")
    assert found.keys() == expected.keys()
    for group, dataset in expected.items():
        assert_equal(found[group], dataset)
        found[group].close()
        dataset.close()
    assert expected["/deep/er/events"].sizes["events_row"] == 20_000


@pytest.mark.parametrize("name", ["http", "bytes", "memory", "store", "file object"])
def test_any_part_of_arrays_of_every_kind(name: str, way: Way, whole: Path) -> None:
    what, arguments = way(name)
    with open_quietly(what, cache=False, **arguments) as ds, open_quietly(whole) as expected:
        for variable in ("packed", "plain"):
            for key in (
                (slice(10, 20), slice(None, None, 7)),
                (slice(None), slice(3, 4)),
                ([5, 290, 7], slice(380, None)),
                (0, 399),
                (slice(None, None, -50), [0, 1]),
            ):
                assert np.array_equal(ds[variable][key].values, expected[variable][key].values)
            points = {"y": xr.DataArray([1, 200, 30], dims="p"), "x": xr.DataArray([5, 390, 77], dims="p")}
            assert np.array_equal(ds[variable].isel(points), expected[variable].isel(points))
        assert ds["text"][250:252].values.tolist() == ["row 250", "row 251"]
        assert ds["nodes"].values.tolist() == ["/deep", "/packed"]
    with open_quietly(what, group="/deep", ragged="flat", **arguments) as flat:
        assert flat["rows"].values.tolist() == [i for n in range(40) for i in range(n)]


@pytest.mark.parametrize("name", ["http", "bytes", "store"])
def test_conditions_are_found_by_indexes(name: str, way: Way, server: Server) -> None:
    what, arguments = way(name)
    server.asked.clear()
    with xr.open_dataset(what, engine="pytables", group="/deep/er/events", where="energy == 17.25", **arguments) as ds:
        assert ds["number"].values.tolist() == EVENTS.number[EVENTS.energy == 17.25].tolist()
    with xr.open_dataset(what, engine="pytables", group="/frame", where="b > 997", **arguments) as ds:
        assert ds["a"].values.tolist() == [998.0, 999.0]


@pytest.mark.parametrize("name", ["http", "store", "bytes"])
def test_lists_of_what_a_file_holds(name: str, way: Way, whole: Path) -> None:
    what, arguments = way(name)
    assert list(tree(what, **arguments).lines()) == list(tree(whole).lines())
    assert [group.group for group in tree(what, group="/deep", **arguments).groups] == ["/", "/er", "/er/events"]


def test_trees_open_lazily(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with xr.open_datatree(server.url(), engine="pytables", chunks={}) as opened:
            assert float(opened["/packed"].mean()) == pytest.approx(FIELD.mean())
            assert opened.encoding["source"] == server.url() if "source" in opened.encoding else True


def test_files_are_combined_by_url(server: Server, tmp_path: Path) -> None:
    urls = []
    for i in range(3):
        to_pytables(xr.Dataset({"v": ("t", np.arange(5) + 10 * i)}), tmp_path / f"{i}.h5")
        server.objects[f"{i}.h5"] = (tmp_path / f"{i}.h5").read_bytes()
        urls.append(server.url(f"{i}.h5"))
    with xr.open_mfdataset(urls, engine="pytables", combine="nested", concat_dim="t") as ds:
        assert ds["v"].values.tolist() == [*range(5), *range(10, 15), *range(20, 25)]


def test_dask_processes_read_by_url(server: Server) -> None:
    with open_quietly(server.url(), chunks={"y": 100}) as ds, dask.config.set(scheduler="processes", num_workers=2):
        assert float(ds["packed"].sum()) == pytest.approx(FIELD.sum())


def test_the_command_takes_urls(server: Server) -> None:
    told = run_python("import sys; from xr_pytables.cli import main; main(['info', sys.argv[1]])", server.url())
    assert "packed (y: 300, x: 400)" in told


# -- pickles and identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["http", "bytes", "BytesIO", "file", "memory", "simplecache", "OpenFile", "fsspec file"]
)
def test_lazy_arrays_pickle(name: str, way: Way) -> None:
    what, arguments = way(name)
    with open_quietly(what, **arguments) as ds:
        copy = pickle.loads(pickle.dumps(ds))
    assert np.array_equal(copy["packed"], FIELD)
    copy.close()


def test_a_copy_in_this_process_needs_no_new_head(server: Server) -> None:
    with open_quietly(server.url(), cache=False) as ds:
        sent = pickle.dumps(ds)
        server.asked.clear()
        copy = pickle.loads(sent)
        assert np.array_equal(copy["plain"][:5], FIELD[::-1][:5])
        assert len(server.asked) <= 1


def test_file_objects_that_have_no_path_do_not_pickle(way: Way) -> None:
    what, _ = way("file object")
    with open_quietly(what) as ds, pytest.raises(TypeError, match=r"<BufferedReader>: a BufferedReader cannot be sent"):
        pickle.dumps(ds)


def test_credentials_are_in_no_repr(server: Server) -> None:
    options = {"headers": {"X-Key": "geheim"}}
    with open_quietly(server.url() + "?sig=signed", storage_options=options, cache=False) as ds:
        assert server.headers[-1]["X-Key"] == "geheim"
        assert ds.encoding["source"] == server.url() + "?..."
        told = f"{ds!r} {ds['packed'].encoding} {ds['packed'].variable._data!r}"
        server.always = status(403)
        with pytest.raises(PermissionError) as caught:
            ds["packed"].load()
        told += str(caught.value)
        assert "geheim" not in told
        assert "signed" not in told


def test_an_object_that_is_replaced_is_an_error(server: Server, whole: Path) -> None:
    with open_quietly(server.url(), cache=False) as ds:
        server.objects["a.h5"] = whole.read_bytes()[:-1] + b"x"
        with pytest.raises(
            FileChangedError, match=r"a\.h5: bytes .* was replaced since it was opened.*\(while '/packed' was read"
        ):
            ds["packed"].load()


def test_an_object_that_is_replaced_while_it_is_opened_is_opened_again(server: Server, whole: Path) -> None:
    """The second request, for what is not in the head, finds another version."""
    padded = whole.read_bytes() + b"\0" * 10
    server.faults = [lambda handler: False, lambda handler: bool(server.objects.update({"a.h5": padded}))]
    with open_quietly(server.url()) as ds:
        assert np.array_equal(ds["packed"], FIELD)


def test_a_server_that_fails_while_a_file_is_opened_is_an_error_and_leaves_nothing_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xr_pytables.sources.remote.HEAD", 1 << 14)
    asked = iter(range(1000))
    server.always = lambda handler: next(asked) > 0 and status(400)(handler)
    with pytest.raises(RemoteError, match="the server says 400"):
        open_quietly(server.url())


def test_errors_name_the_node(server: Server) -> None:
    with open_quietly(server.url(), cache=False) as ds:
        server.always = status(400)
        with pytest.raises(
            RemoteError, match=r"a\.h5: bytes \d+ to \d+: the server says 400 .* \(while '/packed' was read"
        ):
            ds["packed"].load()


def test_damaged_chunks_of_remote_files_are_errors(server: Server, whole: Path) -> None:
    with h5py.File(whole) as file:
        at = file["packed"].id.get_chunk_info(3).byte_offset
    data = bytearray(whole.read_bytes())
    data[at + 100 : at + 110] = b"\xff" * 10
    server.objects["a.h5"] = bytes(data)
    with open_quietly(server.url()) as ds, pytest.raises(OSError, match=r"a\.h5:/packed: chunk at \(0, 300\)"):
        ds["packed"].load()


def test_a_cut_connection_is_no_wrong_data(server: Server) -> None:
    with open_quietly(server.url(), cache=False) as ds:
        server.faults = [cut]
        assert np.array_equal(ds["plain"], FIELD[::-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_reads_on(server: Server) -> None:
    told = run_python(
        """
        import os, sys, warnings
        import xarray as xr
        warnings.simplefilter("ignore")
        ds = xr.open_dataset(sys.argv[1], engine="pytables", cache=False)
        before = float(ds["packed"].sum())
        child = os.fork()
        if not child:
            os._exit(0 if float(ds["packed"].sum()) == before else 1)
        print(os.waitpid(child, 0)[1])
        """,
        server.url(),
    )
    assert told.strip() == "0"


# -- links --------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(server: Server, tmp_path: Path) -> Server:
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["far"] = np.arange(5)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["near"] = h5py.ExternalLink("sub/b.h5", "/far")
        file["up"] = h5py.ExternalLink("../b.h5", "/far")
        file["absolute"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "/far")
        file["missing"] = h5py.ExternalLink("none.h5", "/far")
    for name, path in (("x/c.h5", "c.h5"), ("x/sub/b.h5", "b.h5"), ("b.h5", "b.h5")):
        server.objects[name] = (tmp_path / path).read_bytes()
    return server


@pytest.mark.parametrize("policy", ["near", "any"])
def test_external_links_lead_below_the_folder_of_the_url_and_nowhere_else(linked: Server, policy: str) -> None:
    with pytest.warns(UserWarning, match=r"3 node\(s\) are not shown.*no such object.*below its own") as told:
        ds = xr.open_dataset(linked.url("x/c.h5"), engine="pytables", external_links=policy)
    assert len(told) == 1
    assert ds["near"].values.tolist() == [0, 1, 2, 3, 4]
    assert list(ds.variables) == ["near"]
    ds.close()


def test_bytes_have_nothing_beside_them(linked: Server) -> None:
    with pytest.warns(UserWarning, match=r"4 node\(s\) are not shown.*bytes in memory, which has nothing beside"):
        ds = xr.open_dataset(linked.objects["x/c.h5"], engine="pytables", external_links="any")
    assert not ds.variables
    ds.close()


# -- arguments ----------------------------------------------------------------------------------------------


def test_arguments_of_requests_reach_them(server: Server, tmp_path: Path) -> None:
    kept = {"cache_dir": tmp_path / "kept", "cache_bytes": 10**6}
    with open_quietly(server.url(), cache=False, concurrency=3, gap=0, timeout=7, **kept) as ds:
        array = ds["packed"].variable._data
        while not hasattr(array, "file"):
            array = array.array
        transfer = array.file._pin.place.transfer
        assert (transfer.concurrency, transfer.gap, transfer.timeout) == (3, 0, 7.0)
        assert transfer.cache == DiskCache(str(tmp_path / "kept"), 10**6)
        server.asked.clear()
        ds["packed"][:, 0].load()
        apart = len(server.asked)
        assert apart > 0
    with open_quietly(server.url(), cache=False, gap=10_000_000) as ds:
        server.asked.clear()
        ds["packed"][:, 0].load()
        assert len(server.asked) == 1 < apart


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concurrency": 0}, "concurrency must be an integer of at least 1, not 0"),
        ({"concurrency": True}, "concurrency must be an integer"),
        ({"gap": -1}, "gap must be an integer of at least 0, not -1"),
        ({"gap": 1.5}, "gap must be an integer"),
        ({"cache_dir": 5}, "cache_dir must be the path of a folder, not 5"),
        ({"cache_dir": ""}, "cache_dir must be the path of a folder, not ''"),
        ({"cache_dir": "a\0b"}, "cache_dir must be the path of a folder, not 'a.x00b'"),
        ({"cache_dir": "a", "cache_bytes": 0}, "cache_bytes must be an integer of at least 1, not 0"),
        ({"cache_bytes": 100}, "cache_bytes has no effect without cache_dir"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
        ({"timeout": float("nan")}, "timeout must be"),
    ],
)
def test_arguments_of_requests_are_checked(arguments: dict[str, object], message: str) -> None:
    whole: dict[str, object] = {"concurrency": None, "gap": None, "timeout": None}
    with pytest.raises(ValueError, match=message):
        checked_transfer(**{**whole, **arguments})


def test_options_that_have_no_effect_are_refused(whole: Path) -> None:
    for what in (whole, whole.as_uri(), whole.read_bytes(), fsspec.open("memory://a.h5")):
        with pytest.raises(ValueError, match="storage_options has no effect on"):
            xr.open_dataset(what, engine="pytables", storage_options={"anon": True})
    with pytest.raises(ValueError, match="a file in a store"):
        place_of("a.h5", store=obstore.store.MemoryStore(), storage_options={"anon": True})


def test_what_names_no_file(whole: Path) -> None:
    with pytest.raises(TypeError, match=r"^storage_options must be a dict, not str$"):
        xr.open_dataset("memory://a.h5", engine="pytables", storage_options="geheim")
    with pytest.raises(TypeError, match="with store= a path in that store is needed, not bytes"):
        place_of(b"a", store=obstore.store.MemoryStore())
    with pytest.raises(TypeError, match="opened in binary mode"), io.StringIO("x") as file:
        place_of(file)
    with pytest.raises(TypeError, match="compressed as a whole"):
        place_of(fsspec.open(str(whole), compression="gzip"))
    with pytest.raises(ValueError, match=r"nowhere://a\.h5: Protocol not known"):
        xr.open_dataset("nowhere://a.h5", engine="pytables")
    with pytest.raises(FileNotFoundError, match=r"memory://nope\.h5"):
        xr.open_dataset("memory://nope.h5", engine="pytables")


def test_errors_of_file_objects_name_them(whole: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(whole, "in.h5")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("in.h5") as member:
        ds = open_quietly(member)
    with pytest.raises(OSError, match=r"in\.h5: this file object cannot be read: seek on closed file"):
        ds["plain"].load()
    reading, writing = os.pipe()
    os.close(writing)
    closed = io.BytesIO(b"x")
    closed.close()
    with os.fdopen(reading, "rb") as pipe, open(tmp_path / "new.h5", "wb") as written:
        for what, name in ((member, "in.h5"), (closed, "<BytesIO>"), (pipe, "<BufferedReader>"), (written, "new.h5")):
            with pytest.raises(OSError, match=f"{name}: this file object cannot be read: ."):
                xr.open_dataset(what, engine="pytables")


def test_the_system_s_number_of_an_error_of_a_file_object_is_kept() -> None:
    class Failing:
        def seek(self, *_: object) -> int:
            return 1000

        def read(self, *_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="this file object cannot be read: Input/output error") as raised:
        xr.open_dataset(Failing(), engine="pytables")
    assert raised.value.errno == errno.EIO


def test_bytes_that_are_no_hdf5_file() -> None:
    for data in (b"", b"file.h5", bytes(5000)):
        with pytest.raises(OSError, match=r"<bytes>"):
            xr.open_dataset(data, engine="pytables")


def test_one_file_object_serves_several_threads(way: Way) -> None:
    what, _ = way("file object")
    with open_quietly(what, chunks={"y": 10}) as ds:
        assert float(ds["plain"].sum().compute(scheduler="threads")) == pytest.approx(FIELD.sum())


def test_datasets_of_one_file_object_do_not_move_it_under_each_other(whole: Path) -> None:
    class Reader:
        file, moved = io.BytesIO(whole.read_bytes()), False

        def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
            assert not self.moved, "somebody is between seek and read"
            self.moved = whence == os.SEEK_SET
            return self.file.seek(offset, whence)

        def read(self, count: int = -1) -> bytes:
            time.sleep(0.001)
            self.moved = False
            return self.file.read(count)

    reader = Reader()
    one, other = open_quietly(reader, cache=False), open_quietly(reader, cache=False)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: (one, other)[number % 2]["plain"][number].values, range(40)))
    np.testing.assert_array_equal(found, FIELD[::-1][:40])


def test_nothing_stays_when_a_dataset_is_closed(server: Server) -> None:
    from xr_pytables.disk import files

    with open_quietly(server.url()) as ds:
        ds["packed"].load()
    del ds
    gc.collect()
    assert not [opened for opened in files._opened if opened.path == server.url()]


def test_public_names() -> None:
    assert issubclass(xr_pytables.RemoteError, OSError)


def test_a_compressed_file_object_is_what_it_reads_and_not_the_file_behind_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = [1, 2]
    with gzip.open(tmp_path / "a.gz", "wb") as packed:
        packed.write((tmp_path / "a.h5").read_bytes())
    with gzip.open(tmp_path / "a.gz") as packed, xr.open_dataset(packed, engine="pytables") as ds:
        assert ds["a"].values.tolist() == [1, 2]
    with open(tmp_path / "a.h5") as text, pytest.raises(TypeError, match="binary mode"):
        xr.open_dataset(text, engine="pytables")
