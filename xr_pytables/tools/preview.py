"""The values of an array, or of a part of it, as `ncdump -v` prints them: decoded, so times are times.

Without a slice, of many values only those at the edges are read. With one, all that it selects are printed, and read
in pieces.

Tested in `tests/commands/test_info.py`.
"""

from __future__ import annotations

import itertools
import math
import posixpath
import re
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Final

import numpy as np
import xarray as xr

from ..sources.source import printable
from ..sources.url import shown
from ..value_text import element, wrapped

_WHOLE: Final = 1000
"""More values are not printed unless they are asked for by a slice."""
_EDGE: Final = 3
_AT_ONCE: Final = 1 << 20  # values that are read together
_PART = re.compile(r"(?P<name>.*?)(\[(?P<slice>[^\[\]]*)\])?\Z", re.DOTALL)
Index = int | slice


def preview_lines(file: str, node: str, variable: str) -> Iterator[str]:
    """The values of `variable`, which may end in a slice as NumPy has it (`sst[0, ::2, -1]`), in `node` of a file.

    An array that is called like that, brackets and all, wins. Raises ValueError for a slice that is none or does not
    fit, OSError for a file or variable that is not there.
    """
    found = _PART.match(variable)
    assert found is not None  # it matches everything
    group, name = posixpath.split(posixpath.join(node, found["name"].strip()))
    inside, whole = found["slice"], posixpath.basename(variable)
    with xr.open_dataset(file, engine="pytables", group=group, decode_timedelta=True) as dataset:
        if whole in map(str, dataset.variables):
            name, inside = whole, None
        _check_name(name, dataset, f"{shown(file)}:{group}")
        array = dataset[next(known for known in dataset.variables if str(known) == name)]
        if inside is None:
            yield f"{printable(name)}{_sizes(array)} ="
            yield from _edges(array)
            return
        index = parsed(inside, array.ndim)
        if len(index) > array.ndim:
            raise ValueError(f"{name!r} has {array.ndim} dimensions, and [{inside}] has {len(index)} indices")
        try:
            chosen = array[tuple(index)]
        except IndexError as error:
            raise ValueError(f"{name!r} has shape {array.shape}: [{inside}]: {error}") from None
        yield f"{printable(name)}[{inside.strip()}]{_sizes(chosen)} ="
        yield from _all(chosen)


def _check_name(name: str, dataset: xr.Dataset, where: str) -> None:
    if name not in map(str, dataset.variables):
        known = ", ".join(repr(str(one)) for one in dataset.variables) or "none"
        raise ValueError(f"{where}: there is no array {name!r}; there are {known}")


def _sizes(array: xr.DataArray) -> str:
    sizes = ", ".join(f"{printable(str(dim))}: {size}" for dim, size in array.sizes.items())
    return f" ({sizes})" if sizes else ""


def parsed(text: str, ndim: int) -> list[Index]:
    """Indices as NumPy has them: integers, slices, one ellipsis. Raises ValueError naming the one that is neither."""
    index: list[Index | EllipsisType] = (
        [_parsed_one(part.strip(), text) for part in text.split(",")] if text.strip() else []
    )
    if index.count(...) > 1:
        raise ValueError(f"[{text}] has more than one ellipsis")
    if ... in index:
        place = index.index(...)
        index[place : place + 1] = [slice(None)] * max(0, ndim - len(index) + 1)
    return [one for one in index if not isinstance(one, EllipsisType)]


def _parsed_one(part: str, whole: str) -> Index | EllipsisType:
    if part == "...":
        return ...
    try:
        numbers = [int(number) if number.strip() else None for number in part.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] is not None:
        return numbers[0]
    if not 2 <= len(numbers) <= 3 or numbers[-1:] * (len(numbers) == 3) == [0]:
        raise ValueError(f"[{whole}]: {part!r} is no integer and no slice such as 0:10 or ::2")
    return slice(*numbers)


def _edges(array: xr.DataArray) -> Iterator[str]:
    """All values, or of many those at the edges, with dots between them."""
    if array.size <= _WHOLE:
        yield from _all(array)
        return
    cut = [size > 2 * _EDGE for size in array.shape]
    picked = {
        dim: np.r_[:_EDGE, size - _EDGE : size] if short else np.arange(size)
        for (dim, size), short in zip(array.sizes.items(), cut, strict=True)
    }
    values = array.isel(picked).values
    yield from _rows(values, "  ", cut)


def _rows(values: np.ndarray, indent: str, cut: Sequence[bool]) -> Iterator[str]:
    if values.ndim <= 1:
        words = [element(value) for value in values.reshape(-1)]
        if cut and cut[0]:
            words.insert(_EDGE, "...")
        yield from wrapped(iter(words), indent)
        return
    for number, row in enumerate(values):
        if cut[0] and number == _EDGE:
            yield f"{indent}..."
        yield from _rows(row, indent, cut[1:])


def _all(array: xr.DataArray) -> Iterator[str]:
    """All values, a line or more for each run along the last dimension; read in pieces."""
    if array.ndim == 0:
        yield f"  {element(array.values[()])}"
        return
    row = math.prod(array.shape[1:])
    step = max(1, _AT_ONCE // max(row, 1))
    for start in range(0, array.shape[0], step):
        values = array[start : start + step].values
        if array.ndim == 1:
            yield from wrapped(map(element, values), "  ")
            continue
        for where in itertools.product(*map(range, values.shape[:-1])):
            yield from wrapped(map(element, values[where]), "  ")
