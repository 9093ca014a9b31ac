"""Makes small files in the layouts of deepdish/flammkuchen (`deepdish.h5`) and of Keras 2 (`keras2.h5`).

    python tests/data/make_others.py

`deepdish.h5` is what `deepdish.io.save(path, {"name": "run", "n": 3, "flag": True, "none": None, "w": {"a": array},
"l": [1, array], "odd": {1, 2}})` writes through PyTables: groups titled `dict:N` and `list:N`, scalars as attributes
of the group, the rest as pickles in a VLArray. `keras2.h5` is what `model.save_weights(path)` of Keras 2 writes with
h5py: fixed-length strings in `layer_names` and `weight_names`. Made with PyTables 3.11.1 and h5py 3.16.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import tables

FOLDER = Path(__file__).parent


def deepdish(path: Path) -> None:
    with tables.open_file(path, "w") as file:
        root = file.root
        root._v_title = "dict:7"
        root._v_attrs.DEEPDISH_IO_VERSION = 12
        root._v_attrs.name, root._v_attrs.n, root._v_attrs.flag = "run", 3, True
        file.create_group("/", "none", "nonetype:")
        inner = file.create_group("/", "w", "dict:1")
        file.create_carray(inner, "a", obj=np.arange(6.0).reshape(2, 3), filters=tables.Filters(9, "blosc:zstd"))
        items = file.create_group("/", "l", "list:2")
        items._v_attrs.i0 = 1
        file.create_array(items, "i1", np.array([1, 2], "i4"))
        odd = file.create_vlarray("/", "odd", tables.ObjectAtom(), chunkshape=8)  # deepdish: 65536, a megabyte
        odd.append({1, 2})


def keras(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"dense", b"dropout"])
        file.attrs["backend"], file.attrs["keras_version"] = np.bytes_(b"tensorflow"), np.bytes_(b"2.4.0")
        dense = file.create_group("dense")
        dense.attrs["weight_names"] = np.array([b"dense/kernel:0", b"dense/bias:0"])
        dense["dense/kernel:0"] = np.arange(6, dtype="f4").reshape(2, 3)
        dense["dense/bias:0"] = np.zeros(3, "f4")
        file.create_group("dropout").attrs["weight_names"] = np.array([], "f8")


if __name__ == "__main__":
    deepdish(FOLDER / "deepdish.h5")
    keras(FOLDER / "keras2.h5")
