"""Sound files to begin with: small ones, each with few kinds of structures, by every writer and in every version.

A name says the writer and what is in it; its ending says how it is tried (`trials`).
"""

from __future__ import annotations

import gzip
import pickle
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tables
import xarray as xr

from xr_pytables import to_pytables

from ..hdf5.helpers_corpus import VERSIONS, write_with_h5py, write_with_netcdf4, write_with_pytables
from ..helpers_reading import plain_file
from . import leftovers

TESTS = Path(__file__).parents[1]
COMPLIBS = ("zlib", "bzip2", "blosc:blosclz", "blosc:lz4", "blosc:zstd", "blosc2:lz4", "blosc2:zstd", "lzo")
H5PY_CHUNKS: dict[str, dict[str, object]] = {
    "btree": {"maxshape": (None, None)},
    "extensible": {"maxshape": (None, 6)},
    "fixed": {},
    "single": {"chunks": (12, 6)},
    "filtered": {"maxshape": (None, 6), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "scaleoffset": {"scaleoffset": 5},
}


def write(folder: Path, only: Iterable[str] | None = None) -> None:
    """Put the corpus into a folder; with `only` what has one of these words in its name."""
    for name, maker in makers().items():
        if only is None or any(word in name for word in only):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                maker(folder / name)


def makers() -> dict[str, Callable[[Path], object]]:
    """What makes each file, by its name."""
    found: dict[str, Callable[[Path], object]] = {
        "netcdf4-all.h5": write_with_netcdf4,
        "pytables-all.h5": write_with_pytables,
        "pytables-plain.h5": pytables_plain,
        "pytables-indexed.table.h5": pytables_indexed,
        "pytables-ragged.h5": pytables_ragged,
        "pandas-fixed.h5": pandas_fixed,
        "pandas-table.h5": pandas_table,
        "ours-default.h5": ours,
        "ours-growing.h5": ours_growing,
        "ours-rows.h5": ours_table,
        "netcdf4-strings.h5": netcdf4_strings,
    }
    for complib in COMPLIBS:
        found[f"pytables-{complib.replace(':', '_')}.h5"] = lambda path, lib=complib: pytables_filtered(path, lib)
    for version in VERSIONS:
        found[f"h5py-all-{version}.h5"] = lambda path, v=version: write_with_h5py(path, v)
    for version in ("earliest", "1.8", "1.10", "2.0"):
        for what, make in {"groups": h5py_groups, "types": h5py_types, "text": h5py_text}.items():
            found[f"h5py-{what}-{version}.h5"] = lambda path, v=version, m=make: m(path, v)
        for kind, settings in H5PY_CHUNKS.items():
            found[f"h5py-{kind}-{version}.h5"] = lambda path, v=version, s=settings: h5py_chunks(path, v, s)
    for path in sorted([*(TESTS / "data").glob("*.h5"), *(TESTS / "data").glob("*.mat"),
                        *(TESTS / "hdf5" / "data").glob("*.h5")]):  # fmt: skip
        found[f"golden-{path.stem}.h5"] = lambda to, source=path: to.write_bytes(source.read_bytes())
    for path in sorted((TESTS / "data" / "hdfstore").glob("*/*.h5.gz")):
        name = f"golden-{path.parent.name}-{path.name.partition('.')[0]}.h5"
        found[name] = lambda to, source=path: to.write_bytes(gzip.decompress(source.read_bytes()))
    for protocol in range(6):
        found[f"{protocol}.pickle"] = lambda path, p=protocol: path.write_bytes(pickle.dumps(pickled_values(), p))
    found |= leftovers.makers()
    found["objects.pickle"] = lambda path: path.write_bytes(pickle.dumps(pandas_values(), 2))
    return found


def pytables_plain(path: Path) -> None:
    with plain_file(path, "w", title="t") as file:
        file.create_array("/", "a", np.arange(12.0).reshape(3, 4), title="numbers")
        file.create_array("/g/h", "s", [b"abc", b"d"], createparents=True)
        file.create_carray("/g", "c", obj=np.arange(20, dtype="i2").reshape(4, 5), chunkshape=(2, 3))
        file.create_earray("/g", "e", obj=np.arange(9)).attrs.user = [1, {"two": 3.0}]
        file.create_array("/g", "bool", np.array([True, False]))
        file.create_soft_link("/", "soft", "/g/c")
        file.create_hard_link("/", "hard", "/g/e")


def pytables_filtered(path: Path, complib: str) -> None:
    with plain_file(path, "w") as file:
        for number, shuffle in enumerate((False, True)):
            filters = tables.Filters(5, complib, shuffle=shuffle, fletcher32=bool(number))
            values = (np.arange(600, dtype="i4") % 50).reshape(30, 20)
            file.create_carray("/", f"a{number}", obj=values, filters=filters, chunkshape=(7, 20))


def pytables_indexed(path: Path) -> None:
    """A table with a full index of one column and a light one of another."""
    rng = np.random.default_rng(1)
    rows = np.zeros(3000, [("a", "i4"), ("b", "f8"), ("s", "S4")])
    rows["a"], rows["b"], rows["s"] = (
        rng.integers(0, 500, 3000),
        rng.random(3000),
        rng.integers(0, 99, 3000).astype("S"),
    )
    with plain_file(path, "w") as file:
        table = file.create_table("/", "t", rows, chunkshape=256, expectedrows=3000)
        table.cols.a.create_csindex()
        table.cols.s.create_index(kind="light", optlevel=3)


def pytables_ragged(path: Path) -> None:
    with plain_file(path, "w") as file:
        rows = file.create_vlarray("/", "rows", tables.Int32Atom(), chunkshape=4)
        for number in range(10):
            rows.append(list(range(number)))
        objects = file.create_vlarray("/", "objects", tables.ObjectAtom())
        objects.append({"a": [1, 2]})
        objects.append("text")
        file.create_vlarray("/", "text", tables.VLUnicodeAtom()).append("bü")


def pandas_fixed(path: Path) -> None:
    frame = pd.DataFrame({"a": range(5), "b": list("abcde")}, index=pd.date_range("2020", periods=5))
    frame.to_hdf(path, key="fixed")
    pd.Series([1.0, 2.0], index=pd.MultiIndex.from_product([["x"], [1, 2]])).to_hdf(path, key="series", mode="a")


def pandas_table(path: Path) -> None:
    frame = pd.DataFrame({"a": range(50), "b": list("abcde") * 10, "c": pd.Categorical(list("xxyzz") * 10)})
    frame.to_hdf(path, key="frame", format="table", data_columns=["a", "b"])


def dataset() -> xr.Dataset:
    return xr.Dataset(
        {"v": (("t", "x"), np.arange(200.0).reshape(10, 20)), "n": ("x", np.arange(20, dtype="i2")), "s": ((), 3)},
        {"t": pd.date_range("2021", periods=10), "x": np.arange(20) / 2, "name": ("x", list("abcdefghijklmnopqrst"))},
        {"title": "t", "values": [1, 2, 3]},
    )


def ours(path: Path) -> None:
    to_pytables(dataset(), path, encoding={"v": {"chunksizes": (3, 20)}})


def ours_growing(path: Path) -> None:
    encoding = {"v": {"chunksizes": (4, 7), "scale_factor": 0.5, "dtype": "i4", "_FillValue": -1}}
    to_pytables(dataset(), path, unlimited_dims=["t"], encoding=encoding)
    later = dataset().isel(t=slice(0, 3))
    to_pytables(later.assign_coords(t=later.t + np.timedelta64(30, "D")), path, append_dim="t")


def ours_table(path: Path) -> None:
    rows = xr.Dataset({"a": ("row", np.arange(40)), "t": ("row", pd.date_range("2020", periods=40))})
    to_pytables(rows, path, group="/t", layout="table")


def netcdf4_strings(path: Path) -> None:
    xr.Dataset({"s": ("x", ["a", "bü", ""]), "c": ("x", np.array([b"ab", b"c", b""]))}).to_netcdf(path)


def h5py_groups(path: Path, version: str) -> None:
    with h5py.File(path, "w", libver=VERSIONS[version], track_order=version != "earliest") as file:
        for name in ("a", "b"):
            file.create_dataset(f"{name}/x", data=np.arange(4)).attrs["units"] = "m"
            file[name].attrs["n"] = np.arange(3)
        for number in range(20):
            file[f"many/{number}"] = h5py.SoftLink("/a/x")
            file["many"].attrs[f"x{number}"] = number
        file["hard"], file["outside"] = file["a/x"], h5py.ExternalLink("other.h5", "/b")


def h5py_types(path: Path, version: str) -> None:
    record = np.dtype([("i", "<i2"), ("f", ">f8", (2,)), ("s", "S3"), ("n", [("u", "u1")])])
    with h5py.File(path, "w", libver=VERSIONS[version]) as file:
        file.create_dataset("record", data=np.ones(3, record))
        file.create_dataset("enum", data=[1, -3], dtype=h5py.enum_dtype({"A": 1, "B": -3}, ">i2"))
        file.create_dataset("array", (2,), np.dtype(("f4", (3,))))[:] = np.ones((2, 3), "f4")
        file.create_dataset("fill", (5,), "i4", fillvalue=7, chunks=(2,))
        file.create_dataset("c", data=np.array([1 + 2j]))
        file["named"] = np.dtype("f8")
        file.create_dataset("of named", data=[1.0, 2.0], dtype=file["named"])
        file.create_dataset("refs", data=[file["c"].ref], dtype=h5py.ref_dtype)


def h5py_text(path: Path, version: str) -> None:
    with h5py.File(path, "w", libver=VERSIONS[version]) as file:
        file.create_dataset("text", data=["a", "bü", "c" * 40], dtype=h5py.string_dtype())
        rows = file.create_dataset("rows", (3,), h5py.vlen_dtype("i4"), chunks=(2,), maxshape=(None,))
        rows[0], rows[2] = [1, 2, 3], [4]
        file.attrs["t"], file.attrs["list"] = "text", ["x", "y"]


def h5py_chunks(path: Path, version: str, settings: dict[str, object]) -> None:
    with h5py.File(path, "w", libver=VERSIONS[version]) as file:
        values = (np.arange(72) % 11).astype("i4").reshape(12, 6)
        file.create_dataset("a", data=values, **{"chunks": (3, 4), **settings})
        grows = (None,) if "maxshape" in settings else None
        file.create_dataset("many", data=np.arange(300, dtype="u1"), chunks=(1,), maxshape=grows)


def pickled_values() -> list[object]:
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    shared: list[object] = [1]
    return [
        None, True, -5, 2**70, 1.5, "text ü", b"bytes", (1, (2,)), {"k": [shared, shared]}, {1, 2}, frozenset("ab"),
        np.float32(1.5), array, np.dtype([("a", "i4"), ("b", "S3")]), slice(1, None), range(3), bytearray(b"x"),
        np.datetime64("2020-01-01"), np.array(["a", "b"]), np.array([1, "x"], object), tables.Filters(5, "zlib"),
    ]  # fmt: skip


def pandas_values() -> list[object]:
    return [pd.Timestamp("2020-01-01"), pd.Timedelta("1D"), pd.offsets.MonthEnd(2), pd.Period("2020", "Y").freq]
