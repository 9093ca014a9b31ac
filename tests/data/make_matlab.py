"""Makes `matlab.mat`, a file with exactly what MATLAB R2023a writes with `save -v7.3` for

    A = reshape(1:6, 2, 3);  v = single([1.5 2.5 3.5]);  s = int8(-3);  z = [1+2i 3-4i];  t = true(1, 2);  t(2) = false;
    name = 'Grüße';  words = ['ab '; 'cde'];  nothing = [];  noname = '';
    c = {1, 'two'; [], {3}};  p = struct('x', 1, 'label', 'p');  q = struct('x', {10, 20});  sp = sparse([0 1; 2 0]);

by h5py: user block of 512 bytes, dimensions in reverse, MATLAB's attributes, cells and struct arrays as references.

    python tests/data/make_matlab.py

Made with h5py 3.16 (HDF5 2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

PATH = Path(__file__).with_name("matlab.mat")
_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Sep  1 12:00:00 2014 HDF5 schema 1.00 ."


def text_attribute(node: h5py.HLObject, name: str, value: str) -> None:
    node.attrs.create(name, np.bytes_(value.encode()), dtype=h5py.string_dtype("ascii", len(value)))


def dataset(group: h5py.Group, name: str, values: np.ndarray, kind: str, *, path: str | None = None) -> h5py.Dataset:
    """`values` in MATLAB's shape (at least two dimensions)."""
    stored = group.create_dataset(name, data=values.transpose() if values.size else np.array(values.shape, "u8"))
    text_attribute(stored, "MATLAB_class", kind)
    if not values.size:
        stored.attrs["MATLAB_empty"] = np.uint8(1)
    if kind in ("char", "logical"):
        stored.attrs["MATLAB_int_decode"] = np.int32(2 if kind == "char" else 1)
    if path is not None:
        text_attribute(stored, "H5PATH", path)
    return stored


def characters(*rows: str) -> np.ndarray:
    return np.array([list(row.encode("utf-16-le")) for row in rows], "u1").view("<u2")


def references(group: h5py.Group, name: str, targets: np.ndarray, kind: str, path: str) -> None:
    cells = group.create_dataset(name, data=targets.transpose(), dtype=h5py.ref_dtype)
    if kind:
        text_attribute(cells, "MATLAB_class", kind)
    text_attribute(cells, "H5PATH", path)


def objects(*rows: list[h5py.Reference]) -> np.ndarray:
    found = np.empty((len(rows), len(rows[0])), object)
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            found[row, column] = value
    return found


def struct(file: h5py.File, name: str, fields: list[str]) -> h5py.Group:
    group = file.create_group(name)
    text_attribute(group, "MATLAB_class", "struct")
    names: Any = np.empty(len(fields), object)
    for number, field in enumerate(fields):
        names[number] = np.frombuffer(field.encode(), "S1")
    group.attrs.create("MATLAB_fields", names, dtype=h5py.vlen_dtype(np.dtype("S1")))
    return group


def make(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        dataset(file, "A", np.arange(1.0, 7).reshape(3, 2).transpose(), "double")
        dataset(file, "v", np.array([[1.5, 2.5, 3.5]], "f4"), "single")
        dataset(file, "s", np.array([[-3]], "i1"), "int8")
        parts = np.array([[(1, 2), (3, -4)]], [("real", "f8"), ("imag", "f8")])
        dataset(file, "z", parts, "double")
        dataset(file, "t", np.array([[1, 0]], "u1"), "logical")
        dataset(file, "name", characters("Grüße"), "char")
        dataset(file, "words", characters("ab ", "cde"), "char")
        dataset(file, "nothing", np.empty((0, 0)), "double")
        dataset(file, "noname", np.empty((0, 0)), "char")
        hidden = file.create_group("#refs#")
        a = dataset(hidden, "a", np.array([[1.0]]), "double", path="/c")
        b = dataset(hidden, "b", characters("two"), "char", path="/c")
        empty = dataset(hidden, "d", np.empty((0, 0)), "double", path="/c")
        three = dataset(hidden, "f", np.array([[3.0]]), "double", path="/#refs#/e")
        references(hidden, "e", objects([three.ref]), "cell", "/c")
        references(file, "c", objects([a.ref, b.ref], [empty.ref, hidden["e"].ref]), "cell", "/")
        p = struct(file, "p", ["x", "label"])
        dataset(p, "x", np.array([[1.0]]), "double", path="/p")
        dataset(p, "label", characters("p"), "char", path="/p")
        q = struct(file, "q", ["x"])
        ten, twenty = (
            dataset(hidden, name, np.array([[value]]), "double", path="/q")
            for name, value in (("g", 10.0), ("h", 20.0))
        )
        references(q, "x", objects([ten.ref, twenty.ref]), "", "/q")
        sparse = file.create_group("sp")
        text_attribute(sparse, "MATLAB_class", "double")
        sparse.attrs["MATLAB_sparse"] = np.uint64(2)
        sparse["data"], sparse["ir"] = np.array([2.0, 1.0]), np.array([1, 0], "u8")
        sparse["jc"] = np.array([0, 1, 2], "u8")
    with open(path, "r+b") as raw:
        raw.write(_HEADER.ljust(116) + bytes(8) + b"\x00\x02IM")


if __name__ == "__main__":
    make(PATH)
