"""Who reads an array: past HDF5 where it can be done, through HDF5 where there is a reason; and beside writers."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from xarray.backends import BackendArray
from xarray.core import indexing

from xr_pytables import FileChangedError
from xr_pytables.arrays import leaf_arrays
from xr_pytables.arrays.leaf_arrays import PyTablesArray
from xr_pytables.chunks import memory
from xr_pytables.errors import ChunkError

from ..helpers_properties import examples
from ..helpers_reading import plain_file
from ..helpers_threads import WATCHDOG


def lazy_array(dataset: xr.Dataset, name: str) -> PyTablesArray:
    """The backend array below xarray's wrappers."""
    data = dataset.variables[name]._data
    while not isinstance(data, PyTablesArray):
        data = data.array
    return data


def opened(path, **kwargs) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", decode_cf=False, cache=False, **kwargs)


COMPLIBS = [None, "zlib", "bzip2", "blosc:blosclz", "blosc:lz4", "blosc:lz4hc", "blosc:zlib", "blosc:zstd",
            "blosc2:blosclz", "blosc2:lz4", "blosc2:lz4hc", "blosc2:zlib", "blosc2:zstd"]  # fmt: skip


@pytest.mark.parametrize("complib", COMPLIBS)
@pytest.mark.parametrize("fletcher32", [False, True])
@pytest.mark.parametrize("user_block", [0, 1024])
def test_what_pytables_writes_is_read_past_hdf5(tmp_path, complib, fletcher32, user_block):
    path = tmp_path / "file.h5"
    values = np.random.default_rng(0).integers(0, 50, (50, 40)).astype("f4")
    filters = tables.Filters(5 if complib else 0, complib or "zlib", fletcher32=fletcher32)
    with tables.open_file(path, "w", user_block_size=user_block) as file:
        file.create_carray("/", "chunked", obj=values, chunkshape=(7, 16), filters=filters)
        file.create_array("/", "contiguous", values.astype(">f4"))
        extendable = file.create_earray(
            "/", "extendable", tables.Float32Atom(), (0, 40), chunkshape=(8, 9), filters=filters
        )
        for row in values:
            extendable.append(row[None])
    with opened(path) as dataset:
        for name in dataset:
            np.testing.assert_array_equal(dataset[name].values, values)
            np.testing.assert_array_equal(dataset[name][3:45:4, ::-3].values, values[3:45:4, ::-3])
            np.testing.assert_array_equal(dataset[name][[5, 1, 1, 49]].values, values[[5, 1, 1, 49]])


def test_every_layout_type_and_filter_that_hdf5_has_is_read_without_it(tmp_path):
    path = tmp_path / "file.h5"
    data = np.arange(64.0).reshape(8, 8)
    with h5py.File(path, "w") as file:
        file.create_dataset("scaleoffset", data=data, chunks=(4, 4), scaleoffset=3)
        file.create_dataset("lzf", data=data, chunks=(4, 4), compression="lzf")
        file.create_dataset("zstd", data=data, chunks=(4, 4), **hdf5plugin.Zstd())
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((2,))
        h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F64LE, space, compact).write(
            h5py.h5s.ALL, h5py.h5s.ALL, data[0, :2]
        )
        odd = h5py.h5t.STD_I32LE.copy()
        odd.set_precision(20)
        h5py.h5d.create(file.id, b"bits", odd, space).write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([-5, 7], "i4"))
    with h5py.File(path) as file, opened(path) as dataset:
        for name in ("scaleoffset", "lzf", "zstd", "compact", "bits"):
            np.testing.assert_array_equal(dataset[name].values, file[name][:])
            np.testing.assert_array_equal(dataset[name][::-1].values, file[name][:][::-1])
            np.testing.assert_array_equal(dataset[name][1].values, file[name][1])


def test_files_of_the_newest_format(tmp_path):
    path = tmp_path / "new.h5"
    values = np.arange(64.0).reshape(8, 8)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("latest", data=values, chunks=(4, 4))
    with opened(path) as dataset:
        np.testing.assert_array_equal(dataset.latest[::-2, [1, 5]].values, values[::-2, [1, 5]])
        np.testing.assert_array_equal(dataset.latest[:, 3].values, values[:, 3])


@examples(60)
@given(data=st.data())
def test_pointwise_selections(tmp_path_factory, data):
    rank = data.draw(st.integers(1, 3))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=rank, max_size=rank)))
    values = np.arange(np.prod(shape)).reshape(shape)
    path = tmp_path_factory.mktemp("points") / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "chunked", obj=values, chunkshape=tuple(data.draw(st.integers(1, n)) for n in shape))
        file.create_array("/", "contiguous", values)
    points = data.draw(st.sampled_from([(0,), (4,), (2, 3)]))
    dims = [f"d{number}" for number in range(rank)]
    indexers = {}
    for number, size in enumerate(shape):
        kind = data.draw(st.sampled_from(["points", "slice", "int"]))
        if kind == "points":
            index = data.draw(
                st.lists(st.integers(-size, size - 1), min_size=int(np.prod(points)), max_size=int(np.prod(points)))
            )
            indexers[dims[number]] = (("p", "q")[: len(points)], np.array(index, int).reshape(points))
        elif kind == "slice":
            indexers[dims[number]] = slice(None, None, data.draw(st.sampled_from([1, 2, -1])))
        else:
            indexers[dims[number]] = data.draw(st.integers(0, size - 1))
    expected = xr.Variable(dims, values).isel(
        {k: xr.Variable(*v) if isinstance(v, tuple) else v for k, v in indexers.items()}
    )
    with opened(path, dims={"chunked": dims, "contiguous": dims}) as dataset:
        for name in dataset:
            actual = dataset.variables[name].isel(
                {k: xr.Variable(*v) if isinstance(v, tuple) else v for k, v in indexers.items()}
            )
            xr.testing.assert_equal(actual, expected)


def test_few_chunks_of_a_huge_grid_do_not_cost_the_whole_index(tmp_path, monkeypatch):
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_carray("/", "x", tables.Int8Atom(), (300_000,), chunkshape=(2,))
        leaf[:1000] = 1
        leaf[-1] = 2
    regions = []
    real = leaf_arrays.read_index

    def noted(source, storage, region=None, **label):
        regions.append(region)
        return real(source, storage, region, **label)

    monkeypatch.setattr(leaf_arrays, "read_index", noted)
    with opened(path) as dataset:
        assert dataset.x[10:13].values.tolist() == [1, 1, 1]
        assert dataset.x[-1].values == 2
        assert None not in regions
        assert dataset.x[:].values.sum() == 1002  # more than a sixteenth of it: from now on the whole index is kept
        assert dataset.x[5000:5003].values.tolist() == [0, 0, 0]
        assert regions[-1] is None
        count = len(regions)
        assert dataset.x[0].values == 1
        assert len(regions) == count


def test_a_damaged_chunk_raises_naming_file_node_and_chunk(tmp_path):
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        filters = tables.Filters(5, "blosc2:zstd", fletcher32=True)
        leaf = file.create_carray("/", "x", obj=np.arange(1000), chunkshape=(100,), filters=filters)
        info = leaf.chunk_info((300,))
    with open(path, "r+b") as raw:
        raw.seek(info.offset + info.size // 2)
        byte = raw.read(1)
        raw.seek(-1, 1)
        raw.write(bytes([byte[0] ^ 4]))
    with opened(path) as dataset:
        np.testing.assert_array_equal(dataset.x[:300].values, np.arange(300))
        with pytest.raises(ChunkError, match=r"file\.h5:/x: chunk at \(300,\).*[fF]letcher"):
            dataset.x.load()


def test_a_damaged_chunk_index_names_file_and_node(tmp_path):
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "x", obj=np.arange(1000), chunkshape=(100,))
    with tables.open_file(tmp_path / "table.h5", "w") as file:
        file.create_table("/g", "t", np.zeros(5, [("a", "i4")]), createparents=True)
    for each in (path, tmp_path / "table.h5"):
        each.write_bytes(each.read_bytes().replace(b"TREE\x01", b"BUSH\x01"))
    with (
        opened(path) as dataset,
        pytest.raises(ChunkError, match=r"file\.h5:/x: a node of the chunk B-tree has no sig"),
    ):
        dataset.x.load()
    with (
        opened(tmp_path / "table.h5", group="/g/t") as dataset,
        pytest.raises(ChunkError, match=r"table\.h5:/g/t: a node of the chunk B-tree"),
    ):
        dataset.a.load()


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads_bound_the_threads(tmp_path, threads):
    path = tmp_path / "file.h5"
    values = np.arange(10_000).reshape(100, 100)
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "x", obj=values, chunkshape=(10, 10), filters=tables.Filters(1, "zlib"))
    with opened(path, threads=threads) as dataset:
        np.testing.assert_array_equal(dataset.x.values, values)
        assert lazy_array(dataset, "x").threads == threads
        assert lazy_array(pickle.loads(pickle.dumps(dataset)), "x").threads == threads


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_bad_threads_are_refused(tmp_path, threads):
    path = tmp_path / "file.h5"
    tables.open_file(path, "w").close()
    with pytest.raises(ValueError, match="threads must be a positive integer"):
        opened(path, threads=threads)


def test_growth_in_place_is_read_with_the_old_shape(tmp_path):
    path = tmp_path / "file.h5"
    with tables.open_file(path, "w") as file:
        leaf = file.create_earray("/", "x", obj=np.arange(25), chunkshape=(10,), filters=tables.Filters(5, "zlib"))
    with opened(path) as dataset:
        for start in (25, 10_000):
            with tables.open_file(path, "a") as file:
                leaf = file.root.x
                leaf.append(np.arange(len(leaf), start + 9999))
            np.testing.assert_array_equal(dataset.x.values, np.arange(25))
            np.testing.assert_array_equal(dataset.x[20:].values, np.arange(20, 25))


def test_a_reader_beside_a_writer_in_place_gets_right_data_or_an_error(tmp_path):
    """500 reads while another process rewrites the file in place again and again."""
    path = tmp_path / "file.h5"
    writer = f"""
        import sys, time, numpy as np, tables
        filters = tables.Filters(1, "blosc:lz4")
        with tables.open_file({str(path)!r}, "w") as file:
            file.create_earray("/", "x", obj=np.arange(1005), chunkshape=(10,), filters=filters)
        print("made", flush=True)
        sys.stdin.readline()
        for step in range(100_000):
            with tables.open_file({str(path)!r}, "a") as file:
                leaf = file.root.x
                leaf.append(np.arange(len(leaf), len(leaf) + 7))
                if len(leaf) > 100_000:
                    leaf.truncate(1005)
    """
    right = changed = 0
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(writer)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "made\n"
        with opened(path) as dataset:
            assert dataset.x[3].values == 3  # the index is checked before the writer starts
            process.stdin.write("go\n")
            process.stdin.flush()
            for _ in range(500):
                try:
                    values = dataset.x.values
                except (FileChangedError, BlockingIOError):
                    changed += 1
                else:
                    np.testing.assert_array_equal(values, np.arange(1005))
                    right += 1
        process.kill()
    assert right + changed == 500


def test_many_threads_read_while_others_use_plain_pytables_and_h5py(tmp_path):
    """Without our lock around the others."""
    path, other = tmp_path / "file.h5", tmp_path / "other.h5"
    values = np.arange(40_000.0).reshape(200, 200)
    with tables.open_file(path, "w") as file:
        for number, complib in enumerate(["zlib", "blosc:lz4", "blosc2:zstd", "bzip2"]):
            file.create_carray("/", f"x{number}", obj=values, chunkshape=(20, 50), filters=tables.Filters(1, complib))
    with h5py.File(other, "w") as file:
        file.create_dataset("y", data=values, chunks=(20, 50), compression="gzip")
    stop, problems = threading.Event(), []

    def guarded(work):
        def run():
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                problems.append(error)

        return threading.Thread(target=run)

    with opened(path) as dataset:

        def ours():
            for name in dataset:
                np.testing.assert_array_equal(dataset[name].values, values)

        def theirs():
            with h5py.File(other) as file:
                np.testing.assert_array_equal(file["y"][:], values)

        workers = [guarded(ours) for _ in range(8)] + [guarded(theirs) for _ in range(2)]
        for worker in workers:
            worker.start()
        for _ in range(20):  # PyTables' own registry is not thread-safe: one thread
            with tables.open_file(path) as file:
                np.testing.assert_array_equal(file.root.x2[:], values)
        stop.set()
        for worker in workers:
            worker.join(WATCHDOG)
            assert not worker.is_alive()
    assert not problems


# -- indices that are not there ------------------------------------------------------------------------------


def every_kind_of_array(folder: Path) -> xr.Dataset:
    """Two dimensions (or rows) of each array that this package makes, 3 long at the beginning."""
    values = np.arange(12).reshape(3, 4)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("chunked", data=values, chunks=(2, 4))
        file.create_dataset("by_hdf5", data=values, chunks=(3, 4), scaleoffset=0)
        file.create_dataset("contiguous", data=values)
        file.create_dataset("text", data=["a", "b", "c"], dtype=h5py.string_dtype())
        file.create_dataset("references", data=[file.ref] * 3, dtype=h5py.ref_dtype)
        file["reversed"] = values.T
        file["reversed"].attrs["MATLAB_class"] = np.bytes_("double")
        file.create_dataset("rows", data=np.array([(1, 2.0)] * 3, [("i", "i4"), ("f", "f8")]), chunks=(2,))
    with tables.open_file(folder / "v.h5", "w") as file:
        rows = file.create_vlarray("/", "v", tables.Int16Atom())
        for row in ([1], [2, 3], []):
            rows.append(row)
    pd.DataFrame({"number": [1, 2, 3], "text": ["a", "b", None]}).to_hdf(folder / "p.h5", key="k", format="table")
    pd.DataFrame({"fixed": [1, 2, 3], "objects": ["a", "b", None]}).to_hdf(folder / "f.h5", key="k")
    parts = [opened(folder / "a.h5"), opened(folder / "a.h5", group="/rows"), opened(folder / "v.h5")]
    parts += [opened(folder / "v.h5", ragged="flat"), *(opened(folder / f"{name}.h5", group="/k") for name in "pf")]
    return {f"{number} {name}": ds[name] for number, ds in enumerate(parts) for name in ds.data_vars}


@pytest.mark.filterwarnings("ignore")
def test_an_index_out_of_range_is_an_error_on_every_path(tmp_path):
    for name, array in every_kind_of_array(tmp_path).items():
        assert array.sizes[array.dims[0]] == 3, name
        lazy = array.variable._data
        for position in (3, 1000, -4):
            kinds = (indexing.BasicIndexer, indexing.OuterIndexer, indexing.VectorizedIndexer)
            indices = (position, np.array([0, position]), np.array([[0], [position]]))
            for kind, index in zip(kinds, indices, strict=True):
                key = kind((index, *(slice(None) for _ in array.shape[1:])))
                source = lazy
                while not isinstance(source, BackendArray):
                    source = source.array
                with pytest.raises(IndexError, match=r"\.h5.*index -?\d+ is out of bounds for dimension 0 of 3"):
                    source[key]
        assert array[-3].identical(array[0]), name
        with pytest.raises(IndexError):
            array[3].load()


# -- without blocking an event loop -----------------------------------------------------------------------------


def test_everything_loads_asynchronously(tmp_path):
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_carray("/", "chunked", obj=np.arange(1000.0), chunkshape=(100,))
        file.create_array("/", "strings", np.array([b"a", b"bc"]))
        file.create_array("/", "times", np.array([0, 86400], "i4"), atom=tables.Time32Atom())
        rows = file.create_vlarray("/", "rows", tables.Int32Atom())
        rows.append([1, 2])
        rows.append([3])
        file.create_table("/", "table", np.array([(1, 2.0)], "i4,f8"))
    tree = xr.open_datatree(tmp_path / "a.h5", engine="pytables")
    flat = xr.open_dataset(tmp_path / "a.h5", engine="pytables", ragged="flat", drop_variables="table")

    async def load():
        loaded = await asyncio.gather(*(node.to_dataset().load_async() for node in tree.subtree), flat.load_async())
        return loaded[-1]

    loaded = asyncio.run(load())
    assert loaded["rows"].values.tolist() == [1, 2, 3]
    again = xr.open_datatree(tmp_path / "a.h5", engine="pytables")
    assert asyncio.run(again["/"].to_dataset()["chunked"][::300].load_async()).values.tolist() == [0, 300, 600, 900]
    xr.testing.assert_identical(asyncio.run(again["/table"].to_dataset().load_async()), again["/table"].to_dataset())


def test_a_read_leaves_the_event_loop_free(tmp_path, monkeypatch):
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_carray("/", "a", obj=np.arange(10.0))
    inside, free = threading.Event(), threading.Event()
    read = PyTablesArray._fetch

    def waiting(self, *args):
        inside.set()
        assert free.wait(WATCHDOG)
        return read(self, *args)

    monkeypatch.setattr(PyTablesArray, "_fetch", waiting)
    array = xr.open_dataset(tmp_path / "a.h5", engine="pytables")["a"]

    async def both():
        loading = asyncio.create_task(array.load_async())
        while not inside.is_set():
            await asyncio.sleep(0)
        free.set()  # by the loop, while the read waits for it
        return await loading

    assert asyncio.run(both()).values.tolist() == list(range(10))


# -- memory that does not suffice -----------------------------------------------------------------------------


def test_an_array_that_does_not_fit_the_memory_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_file(tmp_path / "plain.h5", "w") as file:
        file.create_carray("/experiment1", "array1", obj=np.arange(6.0), createparents=True)
    pd.DataFrame({"a": [1.0, 2.0]}).to_hdf(tmp_path / "frame.h5", key="frame", format="table")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["turned"] = np.arange(6.0).reshape(2, 3)
        file["turned"].attrs["MATLAB_class"] = np.bytes_("double")

    def none_left(*_: object) -> np.ndarray:
        raise MemoryError("7 GiB are too much")

    monkeypatch.setattr(memory, "empty", none_left)
    told = "7 GiB are too much. Read it in parts: select some, or open with chunks={}"
    for name, group, array, label in (
        ("plain.h5", "/experiment1", "array1", "plain.h5:/experiment1/array1"),
        ("frame.h5", "/frame", "a", "frame.h5:/frame/table"),
        ("other.h5", "/", "turned", "other.h5:/turned"),
    ):
        with pytest.raises(MemoryError) as raised, opened(tmp_path / name, group=group) as dataset:
            dataset[array].load()
        assert str(raised.value) == f"{tmp_path}/{label}: {told}"


def test_an_empty_array_that_numpy_cannot_have_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        space = h5py.h5s.create_simple((2**61, 0))
        h5py.h5d.create(file.id, b"v", h5py.h5t.NATIVE_DOUBLE, space)
        file["w"] = [1]
    with opened(tmp_path / "file.h5") as dataset:
        assert dataset["w"].values.tolist() == [1]
        assert dataset["v"].shape == (2**61, 0)
        assert dataset["v"][:5].values.shape == (5, 0)
        with pytest.raises(
            MemoryError, match=r"file\.h5:/v: shape \(2305843009213693952, 0\) of dtype float64 is more"
        ):
            dataset["v"].load()
