"""Makes `rows.h5`: a VLArray of each kind by PyTables, ragged arrays and references by h5py.

    python tests/data/make_rows.py

Made with PyTables 3.11.1 (HDF5 1.14.6) and h5py 3.16 (HDF5 2.0). The values are in tests/arrays/test_ragged.py.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import tables

PATH = Path(__file__).with_name("rows.h5")


def make(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tables.open_file(str(path), "w") as file:

            def rows(name: str, atom: object, *values: object) -> None:
                leaf = file.create_vlarray("/", name, atom, chunkshape=4, filters=tables.Filters(1, "zlib"))
                for value in values:
                    leaf.append(value)

            rows("numbers", tables.Int32Atom(), [1, 2, 3], [], [4])
            rows("pairs", tables.Float64Atom(shape=(2,)), [[0.5, 1.5]], [[2.5, 3.5], [4.5, 5.5]])
            rows("strings", tables.StringAtom(3), [b"ab", b"cde"], [b""])
            rows("truth", tables.BoolAtom(), [True, False])
            rows("waves", tables.ComplexAtom(16), [1 + 2j])
            rows("colours", tables.EnumAtom({"red": 4, "green": -2}, "red", "int8"), [4, -2, 4])
            rows("seconds", tables.Time32Atom(), [1409529600])
            rows("times", tables.Time64Atom(), [1409529600.25])
            rows("vlstring", tables.VLStringAtom(), b"ab", b"\xff")
            rows("vlunicode", tables.VLUnicodeAtom(), "Grüße", "")
            rows("objects", tables.ObjectAtom(), [1, "two"], {"a": None}, np.arange(3))
    with h5py.File(path, "a") as file:
        plane = file.create_dataset("plane", (2, 2), dtype=h5py.vlen_dtype(np.dtype(">i2")))
        for number, where in enumerate(np.ndindex(2, 2)):
            plane[where] = np.arange(number, dtype=">i2")
        file.create_dataset("text", data=["a", "", "Grüße"], dtype=h5py.string_dtype())
        file.create_dataset("paths", data=[file["numbers"].ref, h5py.Reference()], dtype=h5py.ref_dtype)


if __name__ == "__main__":
    make(PATH)
