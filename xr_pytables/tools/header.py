"""What a file holds as a header in CDL, the language of `ncdump -h`: dimensions, variables, attributes, groups.

Like CDL rather than CDL: HDF5 has types and names that netCDF has no word for, which stand as NumPy has them.

Tested in `tests/commands/test_info.py`.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from ..listing import FileTree, ListedArray, ListedGroup
from ..sources.source import printable
from ..value_text import cdl

_TYPES: Final = {
    "int8": "byte", "uint8": "ubyte", "int16": "short", "uint16": "ushort", "int32": "int", "uint32": "uint",
    "int64": "int64", "uint64": "uint64", "float32": "float", "float64": "double", "str": "string", "|S1": "char",
}  # fmt: skip
_NAME: Final = re.compile(r"[\w][\w.@+-]*")


def header_lines(tree: FileTree) -> Iterator[str]:
    """The lines of the header, without the ends of lines."""
    name = os.path.splitext(os.path.basename(tree.path))[0]
    yield f"netcdf {_name(name)} {{"
    yield from _inside(tree, tree.groups[0], {}, "")
    yield "}"


def _inside(tree: FileTree, group: ListedGroup, known: Mapping[str, int], indent: str) -> Iterator[str]:
    """What a group holds; `known` are the dimensions of those around it."""
    dims = {dim: size for array in group.arrays for dim, size in zip(array.dims, array.shape, strict=True)}
    growing = {dim for array in group.arrays for dim in array.unlimited_dims}
    new = {dim: size for dim, size in dims.items() if known.get(dim) != size}
    if new:
        yield f"{indent}dimensions:"
    for dim, size in new.items():
        length = f"UNLIMITED ; // ({size} currently)" if dim in growing else f"{size} ;"
        yield f"{indent}    {_name(dim)} = {length}"
    if group.arrays:
        yield f"{indent}variables:"
    for array in group.arrays:
        yield from _variable(array, indent)
    if group.attributes:
        yield ""
        yield f"{indent}// {'global' if group.group == '/' else 'group'} attributes:"
        yield from _attributes("", group.attributes, indent)
    for node in group.skipped:
        yield f"{indent}// not shown: {printable(node.path)}: {printable(node.reason)}"
    for problem in group.problems:
        yield f"{indent}// mind: {printable(problem)}"
    for child in tree.groups:
        if child.group == "/" or posixpath.dirname(child.group) != group.group:
            continue
        name = _name(posixpath.basename(child.group))
        yield ""
        yield f"{indent}group: {name} {{" + (f" // {child.kind}" if child.kind != "group" else "")
        yield from _inside(tree, child, {**known, **dims}, indent + "  ")
        yield f"{indent}  }} // group {name}"


def _variable(array: ListedArray, indent: str) -> Iterator[str]:
    dims = f"({', '.join(map(_name, array.dims))})" if array.dims else ""
    yield f"{indent}    {_TYPES.get(array.dtype, array.dtype)} {_name(array.name)}{dims} ;"
    yield from _attributes(_name(array.name), array.attributes, indent)
    special: dict[str, object] = {"_Storage": "contiguous" if array.chunks is None else "chunked"}
    if array.chunks is not None:
        special["_ChunkSizes"] = np.array(array.chunks, "i4")
    special |= {
        f"_{word.capitalize()}": str(value).lower() if value is True else value for word, value in array.filters.items()
    }
    yield from _attributes(_name(array.name), special, indent)


def _attributes(variable: str, attributes: Mapping[str, object], indent: str) -> Iterator[str]:
    for name, value in attributes.items():
        text = cdl(value)
        yield f"{indent}        {variable}:{_name(name)} = {text or json.dumps('')} ;"


def _name(name: object) -> str:
    """A name as CDL wants it: signs that mean something in it have a backslash before them."""
    text = printable(str(name))
    return text if _NAME.fullmatch(text) else re.sub(r"([^\w.@+-])", r"\\\1", text)
