"""What the page "Which engine?" says of readers of HDF5 files is what they do here.

Each cell of its table has a proof below, with the words of the cell, or the mark °: known from documentation.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import fsspec
import h5py
import icechunk
import numpy as np
import obstore.store
import pandas as pd
import pytest
import tables
import xarray as xr
from obspec_utils.registry import ObjectStoreRegistry
from virtualizarr.parsers import HDFParser, NetCDF3Parser

from xr_pytables import to_pytables
from xr_pytables.chunks.filters import BLOSCS

from .chunks import test_reading_chunks
from .helpers_server import running

PAGE = Path(__file__).parents[1] / "docs" / "engines.md"
OURS, NETCDF4, H5NETCDF, ZARR, HIDEFIX = "this engine", "`netcdf4`", "`h5netcdf`", "Zarr + VirtualiZarr", "hidefix"
TABLES, PANDAS = "plain PyTables", "`pd.read_hdf`"
XARRAYS = (OURS, NETCDF4, H5NETCDF, ZARR, HIDEFIX)
FIELD = np.arange(10_000.0).reshape(100, 100)
Proof = Callable[[str, Path], None]
PROOFS: dict[tuple[str, str], tuple[str, Proof]] = {}
"""By row and column: what the cell says, and a function of column and folder that fails if it is not so."""


def cells() -> dict[tuple[str, str], str]:
    """The table of the page, by row and column."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    (_, *columns), _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {(row, column): cell for row, *said in rows for column, cell in zip(columns, said, strict=True)}


def proves(row: str, said: dict[str, str]) -> Callable[[Proof], Proof]:
    """A proof of the cells of these columns of a row."""

    def register(proof: Proof) -> Proof:
        PROOFS.update({(row, column): (words, proof) for column, words in said.items()})
        return proof

    return register


def test_every_cell_is_proved_or_marked() -> None:
    assert {cell for cell, said in cells().items() if "°" not in said} == set(PROOFS)


@pytest.fixture(autouse=True)
def as_users_see_it() -> Iterator[None]:
    """Other readers warn of this and that, and leave files open."""
    with warnings.catch_warnings(), xr.set_options(warn_for_unclosed_files=False):  # type: ignore[no-untyped-call]
        warnings.simplefilter("ignore")
        yield
        tables.file._open_files.close_all()


# -- how each reads -----------------------------------------------------------------------------------------


def opened(column: str, path: Path, group: str | None = None, **options: Any) -> xr.Dataset:
    """A file as a dataset, by one of xarray's engines."""
    if column == ZARR:
        return virtual(HDFParser(group=group), path.as_uri(), "file://", obstore.store.LocalStore(), **options)
    engine = {OURS: "pytables"}.get(column, column.strip("`"))
    return xr.open_dataset(path, engine=engine, group=group, **options)


def virtual(parser: Any, url: str, prefix: str, store: Any, **options: Any) -> xr.Dataset:
    manifest = parser(url=url, registry=ObjectStoreRegistry({prefix: store}))
    return xr.open_dataset(manifest, engine="zarr", consolidated=False, zarr_format=3, **options)


def values(column: str, path: Path, name: str = "a") -> np.ndarray:
    """An array of the root of a file."""
    if column in XARRAYS:
        return opened(column, path)[name].values
    with tables.open_file(path) as file:
        return file.get_node("/", name)[:]


def fails(call: Callable[[], object], words: str) -> None:
    """Whatever is raised, which may be a panic of Rust, has these words."""
    with pytest.raises(BaseException) as raised:  # noqa: PT011
        call()
    assert re.search(words, f"{raised.type.__name__}: {raised.value}", re.DOTALL), raised.value


def field(path: Path, **filters: Any) -> Path:
    with tables.open_file(path, "w") as file:
        file.create_carray("/", "a", obj=FIELD, chunkshape=(50, 100), filters=tables.Filters(**filters))
    return path


def frame() -> pd.DataFrame:
    return pd.DataFrame({"v": [0.5, 1.5, 2.5]}, index=pd.Index([1, 2, 3], name="n"))


# -- opens files of PyTables --------------------------------------------------------------------------------

KINDS: dict[str, Callable[[tables.File], object]] = {
    "numbers": lambda file: file.create_array("/", "a", FIELD),
    "truth": lambda file: file.create_array("/", "a", np.array([True, False])),
    "complex": lambda file: file.create_array("/", "a", np.array([1 + 2j])),
    "text": lambda file: file.create_array("/", "a", [b"ab", b"c"]),
    "time": lambda file: file.create_carray("/", "a", tables.Time64Atom(), obj=np.array([0.5])),
    "cells": lambda file: file.create_earray("/", "a", tables.Int32Atom((2,)), (0,)).append(np.ones((3, 2), "i4")),
    "ragged": lambda file: file.create_vlarray("/", "a", tables.Int32Atom()).append([1, 2]),
}


def of_kind(folder: Path, kind: str) -> Path:
    with tables.open_file(folder / f"{kind}.h5", "w") as file:
        KINDS[kind](file)
    return folder / f"{kind}.h5"


def readable(column: str, folder: Path) -> set[str]:
    """The kinds of arrays of which a reader shows the values."""
    found: set[str] = set()
    for kind in KINDS:
        path = of_kind(folder, kind)
        with tables.open_file(path) as file:
            expected = file.root.a[:]
        if kind == "time" and column == OURS:
            expected = np.array(["1970-01-01T00:00:00.5"], "M8[ns]")
        with contextlib.suppress(BaseException):  # hidefix panics
            shown = values(column, path)
            same = map(np.array_equal, shown, expected) if kind == "ragged" else [np.array_equal(shown, expected)]
            found |= {kind} if all(same) else set()
    return found


@proves("opens files of PyTables", {OURS: "all"})
def _(column: str, folder: Path) -> None:
    assert readable(column, folder) == set(KINDS)


@proves("opens files of PyTables", {NETCDF4: "some: not all types"})
def _(column: str, folder: Path) -> None:
    assert readable(column, folder) == {"numbers", "ragged"}


@proves("opens files of PyTables", {H5NETCDF: "some: not all types"})
def _(column: str, folder: Path) -> None:
    assert readable(column, folder) == {"numbers", "truth", "complex", "text", "cells"}


@proves("opens files of PyTables", {ZARR: "arrays of numbers and text"})
def _(column: str, folder: Path) -> None:
    assert readable(column, folder) == {"numbers", "truth", "complex", "text"}


@proves("opens files of PyTables", {HIDEFIX: "arrays of numbers"})
def _(column: str, folder: Path) -> None:
    assert readable(column, folder) == {"numbers"}


@proves("opens files of PyTables", {TABLES: "all"})
def _(column: str, folder: Path) -> None:
    for kind in KINDS:
        with tables.open_file(of_kind(folder, kind)) as file:
            assert len(file.root.a[:]) > 0


@proves("opens files of PyTables", {PANDAS: "its own objects, tables"})
def _(column: str, folder: Path) -> None:
    frame().to_hdf(folder / "store.h5", key="e")
    assert pd.read_hdf(folder / "store.h5", "e").equals(frame())
    assert pd.read_hdf(indexed(folder / "t.h5"), "t")["n"].tolist() == list(range(1000))
    fails(lambda: pd.read_hdf(of_kind(folder, "numbers"), "a"), "TypeError: cannot create a storer")


# -- names of dimensions ------------------------------------------------------------------------------------


@proves("names of dimensions where the file has none", {OURS: "by size, by `dims=`"})
def _(column: str, folder: Path) -> None:
    path = field(folder / "a.h5")
    assert opened(column, path)["a"].dims == ("dim_100", "dim_100_1")
    assert opened(column, path, dims={"a": ("y", "x")})["a"].dims == ("y", "x")


MADE_UP = dict.fromkeys((NETCDF4, ZARR, HIDEFIX), "made up") | {H5NETCDF: "made up, `phony_dims`"}


@proves("names of dimensions where the file has none", MADE_UP)
def _(column: str, folder: Path) -> None:
    path = field(folder / "a.h5")
    options = {"phony_dims": "sort"} if column == H5NETCDF else {}
    assert opened(column, path, **options)["a"].dims == ("phony_dim_0", "phony_dim_1")


@proves("names of dimensions where the file has none", {TABLES: "none", PANDAS: "none"})
def _(column: str, folder: Path) -> None:
    frame().to_hdf(folder / "store.h5", key="e", format="table")
    assert not hasattr(pd.read_hdf(folder / "store.h5", "e"), "dims")
    with tables.open_file(folder / "store.h5") as file:
        assert not hasattr(file.root.e.table, "dims")


# -- tables, HDFStore ---------------------------------------------------------------------------------------


def indexed(path: Path) -> Path:
    rows = np.rec.array([(number, number / 2) for number in range(1000)], dtype=[("n", "i4"), ("energy", "f8")])
    with tables.open_file(path, "w") as file:
        file.create_table("/", "t", rows).cols.energy.create_index()
    return path


@proves("tables as columns, queries with indexes", {OURS: "yes"})
def _(column: str, folder: Path) -> None:
    found = opened(column, indexed(folder / "t.h5"), group="/t", where="energy > 498.6")
    assert found["n"].values.tolist() == [998, 999]


@proves("tables as columns, queries with indexes", dict.fromkeys((NETCDF4, H5NETCDF, ZARR), "as one array of records"))
def _(column: str, folder: Path) -> None:
    ds = opened(column, indexed(folder / "t.h5"))
    assert ds["t"].dtype.names == ("n", "energy")
    assert ds["t"].values["n"].tolist() == list(range(1000))


@proves("tables as columns, queries with indexes", {HIDEFIX: "no"})
def _(column: str, folder: Path) -> None:
    fails(lambda: opened(column, indexed(folder / "t.h5"))["t"].values, "KeyError|PanicException|RuntimeError")


@proves("tables as columns, queries with indexes", {TABLES: "yes"})
def _(column: str, folder: Path) -> None:
    with tables.open_file(indexed(folder / "t.h5")) as file:
        assert file.root.t.will_query_use_indexing("energy > 498.6") == {"energy"}
        assert file.root.t.read_where("energy > 498.6")["n"].tolist() == [998, 999]


@proves("tables as columns, queries with indexes", {PANDAS: "yes, with data columns"})
def _(column: str, folder: Path) -> None:
    frame().to_hdf(folder / "store.h5", key="e", format="table", data_columns=["v"])
    assert pd.read_hdf(folder / "store.h5", "e", where="v > 1")["v"].tolist() == [1.5, 2.5]
    frame().to_hdf(folder / "plain.h5", key="e", format="table")
    fails(lambda: pd.read_hdf(folder / "plain.h5", "e", where="v > 1"), "ValueError: The passed where expression")


def stores(folder: Path) -> tuple[Path, Path]:
    frame().to_hdf(folder / "fixed.h5", key="e")
    frame().to_hdf(folder / "table.h5", key="e", format="table")
    return folder / "fixed.h5", folder / "table.h5"


@proves("pandas' HDFStore", {OURS: "lazily"})
def _(column: str, folder: Path) -> None:
    for path in stores(folder):
        ds = opened(column, path, group="/e", chunks={})
        assert dask.is_dask_collection(ds["v"])
        pd.testing.assert_frame_equal(ds.to_dataframe(), frame())


@proves("pandas' HDFStore", {NETCDF4: "as nodes", H5NETCDF: "as nodes", TABLES: "as nodes"})
def _(column: str, folder: Path) -> None:
    fixed, table = stores(folder)
    if column == TABLES:
        with tables.open_file(fixed) as file:
            assert {"axis0", "axis1", "block0_values"} <= set(file.root.e._v_children)
    else:
        assert {"axis0", "axis1", "block0_values"} <= set(opened(column, fixed, group="/e").variables)
        assert "table" in opened(column, table, group="/e")


@proves("pandas' HDFStore", {ZARR: "no", HIDEFIX: "no"})
def _(column: str, folder: Path) -> None:
    fails(lambda: opened(column, stores(folder)[0], group="/e")["block0_values"].values, "conflicting sizes|IndexError")


@proves("pandas' HDFStore", {PANDAS: "yes, in memory"})
def _(column: str, folder: Path) -> None:
    for path in stores(folder):
        pd.testing.assert_frame_equal(pd.read_hdf(path, "e"), frame())


# -- lazy, in parallel --------------------------------------------------------------------------------------


@proves("lazy, with Dask", dict.fromkeys(XARRAYS, "yes"))
def _(column: str, folder: Path) -> None:
    lazy = opened(column, field(folder / "a.h5"), chunks={})["a"]
    assert isinstance(lazy.data, dask.array.Array)
    assert float(lazy.sum()) == FIELD.sum()


@proves("lazy, with Dask", {TABLES: "slices, no Dask", PANDAS: "ranges of rows, no Dask"})
def _(column: str, folder: Path) -> None:
    with tables.open_file(field(folder / "a.h5")) as file:
        assert not dask.is_dask_collection(file.root.a)
        assert np.array_equal(file.root.a[3:5], FIELD[3:5])
    frame().to_hdf(folder / "store.h5", key="e", format="table")
    part = pd.read_hdf(folder / "store.h5", "e", start=1, stop=2)
    assert not dask.is_dask_collection(part)
    assert part["v"].tolist() == [1.5]


@proves("chunks decoded in parallel", {OURS: "yes"})
def _(column: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_reading_chunks.test_threads_are_bounded_by_the_cpus(folder, patch)


# -- filters, damage ----------------------------------------------------------------------------------------

COMPLIBS = ["zlib", "bzip2", *BLOSCS, "blosc2:zstd"]


@proves("filters", {OURS: "all of PyTables; others with plug-ins", TABLES: "all of PyTables"})
def _(column: str, folder: Path) -> None:
    for complib in COMPLIBS:
        path = field(folder / "a.h5", complevel=1, complib=complib, fletcher32=True)
        assert np.array_equal(values(column, path), FIELD), complib
    if column == OURS:
        import hdf5plugin

        with h5py.File(folder / "b.h5", "w") as file:
            file.create_dataset("a", data=FIELD, chunks=(50, 100), **hdf5plugin.Zstd())
        assert np.array_equal(values(column, folder / "b.h5"), FIELD)


@proves("filters", {PANDAS: "all of PyTables"})
def _(column: str, folder: Path) -> None:
    for complib in COMPLIBS:
        frame().to_hdf(folder / "store.h5", key="e", format="table", mode="w", complib=complib, complevel=1)
        assert pd.read_hdf(folder / "store.h5", "e").equals(frame())


def alone(engine: str, path: Path) -> str:
    """What an engine says that reads a file in a process without other libraries of HDF5."""
    code = f"import xarray; print(xarray.open_dataset({str(path)!r}, engine={engine!r})['a'].values.sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@proves("filters", {NETCDF4: "zlib, and plug-ins of HDF5", H5NETCDF: "zlib, and plug-ins of HDF5"})
def _(column: str, folder: Path) -> None:
    zlib = field(folder / "zlib.h5", complevel=1, complib="zlib")
    blosc2 = field(folder / "blosc2.h5", complevel=1, complib="blosc2:zstd")
    assert float(alone(column.strip("`"), zlib)) == FIELD.sum()
    assert re.search("Filter error|can't open directory|synchronously read", alone(column.strip("`"), blosc2))


@proves("filters", {ZARR: "those of its codecs"})
def _(column: str, folder: Path) -> None:
    for complib in ("zlib", "blosc:zstd"):
        assert np.array_equal(values(column, field(folder / "a.h5", complevel=1, complib=complib)), FIELD)
    fails(lambda: values(column, field(folder / "a.h5", complevel=1, complib="blosc2:zstd")), "codec not available")


@proves("filters", {HIDEFIX: "zlib, shuffle"})
def _(column: str, folder: Path) -> None:
    assert np.array_equal(values(column, field(folder / "a.h5", complevel=1, complib="zlib", shuffle=True)), FIELD)
    fails(lambda: values(column, field(folder / "b.h5", complevel=1, complib="blosc:zstd")), "Unsupported filter")


def flip(path: Path, name: str) -> Path:
    """Flip a bit in a chunk."""
    with h5py.File(path) as file:
        place = file[name].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(place + 20)
        byte = file.read(1)[0]
        file.seek(place + 20)
        file.write(bytes([byte ^ 1]))
    return path


CHECKSUMS = dict.fromkeys((NETCDF4, H5NETCDF, ZARR, TABLES), "checksums") | {OURS: "checksums, sizes, masks"}


@proves("damage is noticed", CHECKSUMS)
def _(column: str, folder: Path) -> None:
    sound = field(folder / "a.h5", fletcher32=True)
    assert np.array_equal(values(column, sound), FIELD)
    words = {
        OURS: "ChunkError.*fletcher32",
        NETCDF4: "HDF error",
        H5NETCDF: "filter returned failure",
        ZARR: "fletcher32 checksum",
        TABLES: "HDF5ExtError",
    }
    fails(lambda: values(column, flip(sound, "a")), words[column])


@proves("damage is noticed", {HIDEFIX: "no: refuses files with checksums"})
def _(column: str, folder: Path) -> None:
    fails(lambda: values(column, field(folder / "a.h5", fletcher32=True)), "Unsupported filter")
    damaged = values(column, flip(field(folder / "b.h5"), "a"))
    assert (damaged != FIELD).sum() == 1


@proves("damage is noticed", {PANDAS: "checksums"})
def _(column: str, folder: Path) -> None:
    with pd.HDFStore(folder / "store.h5", complib="zlib", complevel=1, fletcher32=True) as store:
        store.put("e", frame(), format="table")
    assert pd.read_hdf(folder / "store.h5", "e").equals(frame())
    fails(lambda: pd.read_hdf(flip(folder / "store.h5", "e/table"), "e"), "HDF5ExtError")


# -- code of the file ---------------------------------------------------------------------------------------


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def trapped(path: Path, node: str) -> Path:
    with h5py.File(path, "a") as file:
        file[node].attrs["trap"] = np.bytes_(pickle.dumps(Trap(path.parent / "sprung"), 0))
    return path


@proves("opening runs code of the file", {OURS: "never"} | dict.fromkeys((NETCDF4, H5NETCDF, ZARR, HIDEFIX), "no"))
def _(column: str, folder: Path) -> None:
    ds = opened(column, trapped(field(folder / "a.h5"), "a"))
    assert np.array_equal(ds["a"].values, FIELD)
    repr(ds["a"].attrs)
    assert not (folder / "sprung").exists()


@proves("opening runs code of the file", {TABLES: "unpickles attributes", PANDAS: "unpickles"})
def _(column: str, folder: Path) -> None:
    if column == TABLES:
        values(column, trapped(field(folder / "a.h5"), "a"))
    else:
        frame().to_hdf(folder / "store.h5", key="e")
        pd.read_hdf(trapped(folder / "store.h5", "e"), "e")
    assert (folder / "sprung").exists()


# -- object stores ------------------------------------------------------------------------------------------


def remote(folder: Path) -> dict[str, bytes]:
    ds = xr.Dataset({"a": (("y", "x"), FIELD)})
    to_pytables(ds, folder / "a.h5", encoding={"a": {"chunksizes": (10, 100)}})
    return {"a.h5": (folder / "a.h5").read_bytes()}


@proves("object stores", {OURS: "few requests"})
def _(column: str, folder: Path) -> None:
    with running(objects=remote(folder)) as server:
        ds = xr.open_dataset(server.url(), engine="pytables")
        assert np.array_equal(ds["a"], FIELD)
        assert len(server.asked) <= 2


@proves("object stores", {NETCDF4: "`#mode=bytes` in URLs"})
def _(column: str, folder: Path) -> None:
    with (
        running(objects=remote(folder)) as server,
        xr.open_dataset(f"{server.url()}#mode=bytes", engine="netcdf4") as ds,
    ):
        assert np.array_equal(ds["a"], FIELD)
        assert len(server.asked) > 2


@proves("object stores", {H5NETCDF: "with fsspec"})
def _(column: str, folder: Path) -> None:
    with running(objects=remote(folder)) as server, fsspec.open(server.url()) as file:
        assert np.array_equal(xr.open_dataset(file, engine="h5netcdf")["a"], FIELD)


@proves("object stores", {ZARR: "yes"})
def _(column: str, folder: Path) -> None:
    with running(objects=remote(folder)) as server:
        base = server.url("").rstrip("/")
        store = obstore.store.HTTPStore.from_url(base, client_options={"allow_http": True})
        assert np.array_equal(virtual(HDFParser(), server.url(), base, store)["a"], FIELD)


@proves("object stores", dict.fromkeys((HIDEFIX, TABLES, PANDAS), "no"))
def _(column: str, folder: Path) -> None:
    with running(objects=remote(folder)) as server:
        call: dict[str, Callable[[], object]] = {
            HIDEFIX: lambda: xr.open_dataset(server.url(), engine="hidefix"),
            TABLES: lambda: tables.open_file(server.url()),
            PANDAS: lambda: pd.read_hdf(server.url(), "a"),
        }
        fails(call[column], "unable to open file|does not exist")
        assert server.asked == []


# -- writing ------------------------------------------------------------------------------------------------


@proves("writes what the others read", dict.fromkeys((OURS, NETCDF4, H5NETCDF), "yes"))
def _(column: str, folder: Path) -> None:
    ds, path = xr.Dataset({"a": (("y", "x"), FIELD)}), folder / "a.h5"
    if column == OURS:
        to_pytables(ds, path)
    else:
        ds.to_netcdf(path, engine=column.strip("`"))
    for reader in (OURS, NETCDF4, H5NETCDF, ZARR, TABLES):
        assert np.array_equal(values(reader, path), FIELD), reader


@proves("writes what the others read", {ZARR: "its own format"})
def _(column: str, folder: Path) -> None:
    xr.Dataset({"a": (("y", "x"), FIELD)}).to_zarr(folder / "a.zarr", zarr_format=3)
    for reader in (OURS, NETCDF4, H5NETCDF):
        fails(lambda reader=reader: values(reader, folder / "a.zarr"), "Error")


@proves("writes what the others read", {HIDEFIX: "writes nothing"})
@proves("a killed writer leaves the old file", {HIDEFIX: "writes nothing"})
def _(column: str, folder: Path) -> None:
    import hidefix

    names = {*dir(hidefix), *dir(hidefix.Index)}
    assert "dataset" in names
    assert [name for name in names if re.search("write|create|save", name)] == []


@proves("writes what the others read", {TABLES: "arrays and tables"})
def _(column: str, folder: Path) -> None:
    with h5py.File(indexed(folder / "t.h5")) as file:
        assert file["t"]["n"].tolist() == list(range(1000))
    for reader in (NETCDF4, H5NETCDF, ZARR, HIDEFIX):
        assert np.array_equal(values(reader, of_kind(folder, "numbers")), FIELD)


@proves("writes what the others read", {PANDAS: "for itself"})
def _(column: str, folder: Path) -> None:
    pd.DataFrame({"word": pd.Series(["a", None], dtype=object), "v": [1.0, 2.0]}).to_hdf(folder / "store.h5", key="e")
    with h5py.File(folder / "store.h5") as file:
        assert any(b"pickle" in dataset.attrs.get("PSEUDOATOM", b"") or dataset.dtype.kind == "O"
                   for dataset in file["e"].values())  # fmt: skip


# -- killed writers -----------------------------------------------------------------------------------------

OLD = xr.Dataset({"a": (("y", "x"), FIELD)})
DYING = """
    import os, sys
    import dask.array, numpy as np, pandas as pd, tables, xarray as xr
    from xr_pytables import to_pytables

    begun = []

    def block(zeros):
        begun.append(zeros)
        if len(begun) == 2:
            os._exit(9)
        return zeros - 1

    whole = dask.array.zeros((100, 100), chunks=(50, 100))
    values = whole.map_blocks(block, dtype="f8", meta=np.zeros((0, 0)))
    new = xr.Dataset({"a": (("y", "x"), values)})
    path = sys.argv[1]
    dask.config.set(scheduler="synchronous")
"""


def die(path: Path, *lines: str) -> None:
    code = textwrap.dedent(DYING) + "\n".join(lines)
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(path)], check=False).returncode == 9


@proves("a killed writer leaves the old file", {OURS: "yes"})
def _(column: str, folder: Path) -> None:
    to_pytables(OLD, folder / "a.h5")
    die(folder / "a.h5", "to_pytables(new, path)")
    assert np.array_equal(values(OURS, folder / "a.h5"), FIELD)


@proves("a killed writer leaves the old file", {NETCDF4: "no", H5NETCDF: "no"})
def _(column: str, folder: Path) -> None:
    OLD.to_netcdf(folder / "a.h5", engine=column.strip("`"))
    die(folder / "a.h5", f"new.to_netcdf(path, engine={column.strip('`')!r})")
    fails(lambda: np.testing.assert_array_equal(values(column, folder / "a.h5"), FIELD), "Error")


@proves("a killed writer leaves the old file", {ZARR: "by chunk; icechunk: yes"})
def _(column: str, folder: Path) -> None:
    OLD.chunk(y=50).to_zarr(folder / "a.zarr", zarr_format=3)
    die(folder / "a.zarr", 'new.to_zarr(path, mode="r+", region={"y": slice(None), "x": slice(None)})')
    left = xr.open_zarr(folder / "a.zarr", consolidated=False)["a"].values
    chunks = [(left[half], FIELD[half]) for half in (slice(50), slice(50, None))]
    assert sorted((bool((now == -1).all()), np.array_equal(now, before)) for now, before in chunks) == [
        (False, True),
        (True, False),
    ]

    def repository() -> Any:
        return icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(str(folder / "ice")))

    session = repository().writable_session("main")
    OLD.chunk(y=50).to_zarr(session.store, consolidated=False)
    session.commit("old")
    die(
        folder / "ice",
        "import icechunk",
        "repository = icechunk.Repository.open(icechunk.local_filesystem_storage(path))",
        'session = repository.writable_session("main")',
        'new.to_zarr(session.store, mode="w", consolidated=False)',
    )
    store = repository().readonly_session("main").store
    assert np.array_equal(xr.open_zarr(store, consolidated=False)["a"], FIELD)


@proves("a killed writer leaves the old file", {TABLES: "no"})
def _(column: str, folder: Path) -> None:
    path = field(folder / "a.h5")
    die(path, 'file = tables.open_file(path, "w")', 'file.create_array("/", "a", np.ones(3))', "os._exit(9)")
    fails(lambda: np.testing.assert_array_equal(values(column, path), FIELD), "Error")


@proves("a killed writer leaves the old file", {PANDAS: "no"})
def _(column: str, folder: Path) -> None:
    frame().to_hdf(folder / "store.h5", key="e")
    die(folder / "store.h5", 'store = pd.HDFStore(path, "w")', 'store.put("e", pd.Series([1.0]))', "os._exit(9)")
    fails(lambda: pd.testing.assert_frame_equal(pd.read_hdf(folder / "store.h5", "e"), frame()), "Error")


# -- files of the netCDF libraries --------------------------------------------------------------------------


def netcdf(folder: Path) -> tuple[Path, Path]:
    """One on HDF5, one of netCDF 3."""
    OLD.to_netcdf(folder / "four.nc", engine="netcdf4")
    OLD.to_netcdf(folder / "three.nc", format="NETCDF3_64BIT", engine="netcdf4")
    return folder / "four.nc", folder / "three.nc"


@proves("files of the netCDF libraries", {NETCDF4: "all"})
def _(column: str, folder: Path) -> None:
    for path in netcdf(folder):
        assert opened(column, path).identical(OLD)


@proves("files of the netCDF libraries", dict.fromkeys((OURS, H5NETCDF, HIDEFIX), "HDF5 based ones"))
def _(column: str, folder: Path) -> None:
    four, three = netcdf(folder)
    assert opened(column, four).identical(OLD)
    fails(lambda: opened(column, three), "signature|no HDF5 file")


@proves("files of the netCDF libraries", {ZARR: "HDF5 based ones, netCDF 3"})
def _(column: str, folder: Path) -> None:
    four, three = netcdf(folder)
    assert opened(column, four).identical(OLD)
    ds = virtual(NetCDF3Parser(), three.as_uri(), "file://", obstore.store.LocalStore())
    assert np.array_equal(ds["a"], FIELD)


@proves("files of the netCDF libraries", {TABLES: "as nodes"})
def _(column: str, folder: Path) -> None:
    assert np.array_equal(values(column, netcdf(folder)[0]), FIELD)


@proves("files of the netCDF libraries", {PANDAS: "no"})
def _(column: str, folder: Path) -> None:
    fails(lambda: pd.read_hdf(netcdf(folder)[0], "a"), "TypeError: cannot create a storer")


@pytest.mark.parametrize(("row", "column"), PROOFS)
def test_a_cell_says_what_is(row: str, column: str, tmp_path: Path) -> None:
    if column == HIDEFIX:
        pytest.importorskip("hidefix")
    said, proof = PROOFS[row, column]
    assert cells()[row, column] == said
    proof(column, tmp_path)
