"""Makes the golden files of tables in this folder: python tests/data/make_tables.py

Each is what a writer made once; the versions are in the attributes `made_with` of the root. They are kept as they are,
so that later versions of anything are tested against what these wrote. `expected_rows` says what must be in them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import tables

HERE = Path(__file__).parent
ROWS = 600


def expected_rows() -> np.ndarray:
    """The rows of all golden files."""
    inner = np.dtype([("x", "i2"), ("y", "u8")])
    dtype = [
        ("energy", "f8"), ("name", "S6"), ("image", "f4", (2, 3)), ("good", "?"), ("wave", "c16"), ("code", "i4"),
        ("position", inner),
    ]  # fmt: skip
    at = np.arange(ROWS)
    rows = np.zeros(ROWS, dtype)
    rows["energy"] = (at * 7919 % 601) / 8
    rows["energy"][::50] = np.nan
    rows["name"] = [b"n%d" % (number % 40) for number in at]
    rows["image"] = at[:, None, None] + np.arange(6).reshape(2, 3) / 8
    rows["good"] = at % 3 == 0
    rows["wave"] = at - 1j * at
    rows["code"] = at * 31 % 97 - 40
    rows["position"]["x"] = at - 300
    rows["position"]["y"] = np.uint64(2**63) + at.astype("u8")
    return rows


def noted(file: tables.File) -> None:
    file.root._v_attrs.made_with = np.bytes_(f"tables {tables.__version__}, HDF5 {tables.hdf5_version}".encode())


def pytables_table(path: Path, *, kinds: dict[str, str], byteorder: str, complib: str | None) -> None:
    """A table of plain PyTables, its rows appended in two steps, with indexes of small blocks."""
    filters = tables.Filters(5, complib, fletcher32=True) if complib else None
    with tables.open_file(str(path), "w") as file:
        noted(file)
        rows = expected_rows()
        table = file.create_table("/", "t", rows.dtype, "golden", filters, chunkshape=32, byteorder=byteorder)
        table.append(rows[:500])
        for name, kind in kinds.items():
            table.cols._f_col(name).create_index(kind=kind, _blocksizes=(256, 128, 64, 16))
        table.append(rows[500:])
        table.attrs.energy_UNIT = "TeV"
        table.attrs.run = 7


def padded_table(path: Path) -> None:
    """Rows with gaps, as C programs write them; PyTables corrupts its memory when it reads such nested ones."""
    rows = expected_rows()
    inner = np.dtype({"names": ["x", "y"], "formats": ["i2", "u8"], "offsets": [2, 8], "itemsize": 24})
    names, formats, offsets, at = [], [], [], 0
    for name in rows.dtype.names:
        names.append(name)
        formats.append(inner if name == "position" else rows.dtype[name])
        offsets.append(at + 3)
        at += formats[-1].itemsize + 5
    padded = np.zeros(ROWS, np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at}))
    for name in names:
        padded[name] = rows[name]
    with h5py.File(path, "w") as file:
        file.attrs["made_with"] = f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
        file.create_dataset("t", data=padded, chunks=(50,), compression="gzip", shuffle=True)


def main() -> None:
    full, light = {"energy": "full", "code": "medium"}, {"name": "light", "code": "ultralight"}
    pytables_table(HERE / "table_blosc_zstd.h5", kinds=full, byteorder="little", complib="blosc:zstd")
    pytables_table(HERE / "table_blosc2.h5", kinds=light, byteorder="little", complib="blosc2:lz4")
    pytables_table(HERE / "table_zlib_big_endian.h5", kinds={}, byteorder="big", complib="zlib")
    pytables_table(HERE / "table_plain.h5", kinds={"code": "full"}, byteorder="little", complib=None)
    padded_table(HERE / "table_padded_h5py.h5")
    print(*sorted(path.name for path in HERE.glob("table_*.h5")), file=sys.stderr)


if __name__ == "__main__":
    main()
