"""In what two files differ: groups, arrays, dimensions, attributes, values. Compared block by block.

Values are compared as xarray decodes them, so two files that store the same in different ways are the same; or as they
are stored. Missing values are equal to missing values.

Tested in `tests/tools/test_differences.py`.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ..sources.source import printable
from ..time_units import are_equal, seconds_apart
from ..value_text import element, one_line, plain
from ..writing.progress import bar, check_available
from .opening import Groups, blocks, check_variables, chunks_of, opened

Comparable = str | os.PathLike[str] | xr.Dataset | xr.DataTree
_BLOCK: Final = 1 << 24  # bytes


@dataclass(frozen=True)
class Difference:
    """One way in which two files differ."""

    path: str
    """Of the group or array, from where both were opened."""
    what: str
    """`only in A`, `only in B`, `role`, `dims`, `shape`, `dtype`, `attribute` or `values`."""
    message: str
    count: int | None = None
    """How many values differ."""
    largest: float | None = None
    """The largest difference of numbers, as far as both are numbers; of times in seconds."""

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.what}{': ' if self.message else ''}{self.message}")

    def as_dict(self) -> dict[str, Any]:
        """The difference as what JSON can hold."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def diff(
    a: Comparable,
    b: Comparable,
    *,
    group: str | tuple[str, str] = "/",
    variables: Collection[str] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    attributes: bool = True,
    raw: bool = False,
    progress: bool = False,
) -> tuple[Difference, ...]:
    """In what two files differ; nothing if they are the same.

    Parameters
    ----------
    a, b
        Paths of files (of PyTables, HDF5, netCDF) or Zarr stores; or a Dataset or DataTree.
    group
        The group, or the array, to compare; a pair if it is another in each.
    variables
        Names of the arrays to compare. Default: all.
    rtol, atol
        Numbers are equal if they differ by no more than `atol + rtol * abs(b)`.
    attributes
        Whether attributes are compared, and so which arrays are coordinates.
    raw
        Compare values as they are stored (packed, times as numbers), and the attributes that say how.
    progress
        Show a bar of the bytes that are compared (by tqdm, an extra: `xr-pytables[progress]`).

    Raises
    ------
    OSError, ValueError
        For a file that cannot be read, or has no such group; KeyError for `variables` that neither has.
    """
    if progress:
        check_available()
    found = differences(
        a, b, group=group, variables=variables, rtol=rtol, atol=atol, attributes=attributes, raw=raw,
        bar=lambda size: bar(size, "compare", shown=progress),
    )  # fmt: skip
    return tuple(found)


def differences(
    a: Comparable,
    b: Comparable,
    *,
    group: str | tuple[str, str] = "/",
    variables: Collection[str] | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
    attributes: bool = True,
    raw: bool = False,
    bar: Callable[[int], AbstractContextManager[Callable[[int], None]]],
) -> Iterator[Difference]:
    """`diff`, one after the other as they are found, with any kind of bar."""
    if not (rtol >= 0 and atol >= 0):
        raise ValueError(f"tolerances must be 0 or more: rtol={rtol}, atol={atol}")
    check_variables(variables)
    nodes = (group, group) if isinstance(group, str) else group
    with _groups(a, nodes[0], raw) as one, _groups(b, nodes[1], raw) as other:
        if variables is not None:
            one, other = _only(one, other, variables)
        _same_name_of_arrays(one, other, nodes)
        shared = [path for path in one if path in other]
        size = sum(variable.nbytes for path in shared for variable in one[path].variables.values())
        with bar(size) as done:
            compare = _Comparison(rtol, atol, attributes, done)
            yield from compare.groups(one, other)


@contextlib.contextmanager
def _groups(which: Comparable, node: str, raw: bool) -> Iterator[Groups]:
    if isinstance(which, xr.Dataset):
        yield {"/": which}
    elif isinstance(which, xr.DataTree):
        yield {posixpath.join("/", node.path): node.to_dataset() for node in which.subtree}
    else:
        with opened(os.fspath(which), node, raw=raw) as groups:
            yield groups


def _only(one: Groups, other: Groups, names: Collection[str]) -> tuple[Groups, Groups]:
    known = {str(name) for groups in (one, other) for dataset in groups.values() for name in dataset.variables}
    missing = [name for name in names if name not in known]
    if missing:
        raise KeyError(f"neither has a variable {missing[0]!r}; there are {', '.join(map(repr, sorted(known)))}")

    def chosen(groups: Groups) -> Groups:
        return {
            path: dataset.drop_vars([n for n in dataset.variables if str(n) not in names])
            for path, dataset in groups.items()
        }

    return chosen(one), chosen(other)


def _same_name_of_arrays(one: Groups, other: Groups, nodes: tuple[str, str]) -> None:
    """Two arrays that are asked for by their paths are compared whatever they are called."""
    names = [posixpath.basename(node.rstrip("/")) for node in nodes]
    for groups, name in zip((one, other), names, strict=True):
        if len(groups) != 1 or [str(known) for known in groups["/"].variables] != [name]:
            return
    if names[0] != names[1]:
        other["/"] = other["/"].rename({names[1]: names[0]})


@dataclass(frozen=True)
class _Comparison:
    rtol: float
    atol: float
    with_attributes: bool
    done: Callable[[int], None]

    def groups(self, one: Groups, other: Groups) -> Iterator[Difference]:
        yield from _only_in_one("/", one, other, "group")
        for path, dataset in one.items():
            if path in other:
                yield from self._dataset(path, dataset, other[path])

    def _dataset(self, path: str, one: xr.Dataset, other: xr.Dataset) -> Iterator[Difference]:
        yield from self._attributes(path, one.attrs, other.attrs)
        yield from _only_in_one(path, one.variables, other.variables, "array")
        for name, variable in one.variables.items():
            if name in other.variables:
                place = posixpath.join(path, str(name))
                if self.with_attributes and (name in one.coords) != (name in other.coords):
                    roles = ("coordinate", "data variable") if name in one.coords else ("data variable", "coordinate")
                    yield Difference(place, "role", " against ".join(roles))
                yield from self._variable(place, variable, other.variables[name])

    def _attributes(self, path: str, one: Mapping[Any, Any], other: Mapping[Any, Any]) -> Iterator[Difference]:
        if not self.with_attributes:
            return
        for name in dict.fromkeys((*one, *other)):
            if name not in other:
                yield Difference(path, "attribute", f"{name!r} only in A: {one_line(one[name])}")
            elif name not in one:
                yield Difference(path, "attribute", f"{name!r} only in B: {one_line(other[name])}")
            elif not same_values(one[name], other[name]):
                yield Difference(path, "attribute", f"{name!r}: {one_line(one[name])} against {one_line(other[name])}")

    def _variable(self, path: str, one: xr.Variable, other: xr.Variable) -> Iterator[Difference]:
        yield from self._attributes(path, one.attrs, other.attrs)
        if one.dims != other.dims:
            yield Difference(path, "dims", f"{_listed(one.dims)} against {_listed(other.dims)}")
        if _type(one.dtype) != _type(other.dtype):
            yield Difference(path, "dtype", f"{one.dtype} against {other.dtype}")
        if one.shape != other.shape:
            yield Difference(path, "shape", f"{one.shape} against {other.shape}")
            self.done(one.nbytes)
        else:
            yield from self._values(path, one, other)

    def _values(self, path: str, one: xr.Variable, other: xr.Variable) -> Iterator[Difference]:
        count, largest, first = 0, None, None
        for box in blocks(one.shape, chunks_of(one), one.dtype.itemsize, _BLOCK):
            x, y = one[box].values, other[box].values
            unequal, apart = self._unequal(x, y)
            if apart is not None:
                largest = apart if largest is None else max(largest, apart)
            if first is None and unequal.any():
                inside = np.unravel_index(int(np.argmax(unequal)), unequal.shape)
                where = [int(i) + part.start for i, part in zip(inside, box, strict=True)]
                first = f"first at {where}: {element(x[inside])} against {element(y[inside])}"
            count += int(np.count_nonzero(unequal))
            self.done(x.nbytes)
        if first is not None:
            told = [f"{count} of {one.size} differ", first]
            if largest is not None:
                unit = " seconds" if one.dtype.kind in "mM" else ""
                told.append(f"by up to {largest:.6g}{unit}")
            yield Difference(path, "values", ", ".join(told), count, largest)

    def _unequal(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.bool_], float | None]:
        """Which values differ, and by how much the numbers among them do at most."""
        if x.dtype.kind in "OV" or y.dtype.kind in "OV":
            differ = np.frompyfunc(self._differ, 2, 1)(x.astype(object), y.astype(object))
            return np.asarray(differ, bool).reshape(x.shape), None
        numbers = x.dtype.kind in "biufc" and y.dtype.kind in "biufc"
        if not numbers and x.dtype.kind != y.dtype.kind:
            return np.ones(x.shape, bool), None
        unequal = ~are_equal(x, y) if x.dtype.kind in "mM" else np.asarray(x != y)
        if x.dtype.kind in "fcmM" and y.dtype.kind in "fcmM":
            unequal &= ~(_missing(x) & _missing(y))
        if not unequal.any() or x.dtype.kind in "SUT":
            return unequal, None
        apart = _distance(x[unequal], y[unequal])
        if numbers and "b" not in (x.dtype.kind, y.dtype.kind) and (self.rtol or self.atol):
            with np.errstate(invalid="ignore"):
                near = apart <= self.atol + self.rtol * np.abs(_wide(y[unequal]))
            beyond = ~(near & np.isfinite(apart))
            unequal[unequal] = beyond
            apart = apart[beyond]
        finite = apart[~np.isnan(apart)]
        return unequal, float(finite.max()) if finite.size else None

    def _differ(self, one: object, other: object) -> bool:
        """Whether two elements differ: records, text, or rows of numbers."""
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.shape == other.shape:
            return bool(self._unequal(one, other)[0].any())
        return not _same_elements(one, other)


def _only_in_one(path: str, one: Iterable[Any], other: Iterable[Any], what: str) -> Iterator[Difference]:
    names, others = list(one), list(other)
    for name in names:
        if name not in others:
            yield Difference(posixpath.join(path, str(name)), "only in A", what)
    for name in others:
        if name not in names:
            yield Difference(posixpath.join(path, str(name)), "only in B", what)


def _listed(dims: Iterable[Any]) -> str:
    return f"({', '.join(map(str, dims))})"


def _type(dtype: np.dtype[Any]) -> str:
    """What counts of a type: neither the byte order nor the length of text."""
    if dtype.kind in "UTO":
        return "text"
    return "times" if dtype.kind in "mM" else dtype.newbyteorder("=").str


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.isnat(values) if values.dtype.kind in "mM" else np.isnan(values))


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype("c16" if values.dtype.kind == "c" else "f8")


def _distance(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """How far numbers are apart; times in seconds."""
    if x.dtype.kind in "mM":
        return seconds_apart(x, y)
    with np.errstate(all="ignore"):
        exact = x.dtype.kind in "iu" and y.dtype.kind in "iu"
        if exact:  # float64 holds no large integers
            apart = np.where(x > y, x.astype(object) - y.astype(object), y.astype(object) - x.astype(object))
            return np.asarray(apart, np.float64)
        return np.asarray(np.abs(_wide(x) - _wide(y)), np.float64)


def same_values(one: object, other: object) -> bool:
    """Whether two values of attributes or elements are the same: NaN and NaN are, 1 and 1.0, but not 1 and True."""
    if isinstance(one, str | bytes) or isinstance(other, str | bytes):
        return (type(one) is type(other) and one == other) or (_is_text(one, other) and str(one) == str(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_values(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) or isinstance(other, list | tuple):
        rows, others = _rows(one), _rows(other)
        if rows is None or others is None:
            return False
        return len(rows) == len(others) and all(map(same_values, rows, others))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        x, y = np.asarray(one), np.asarray(other)
        same_kind = (x.dtype.kind == "b") == (y.dtype.kind == "b")
        return x.shape == y.shape and same_kind and bool(np.all(_same_one_by_one(x, y)))
    if isinstance(one, bool | np.bool_) != isinstance(other, bool | np.bool_):
        return False
    try:
        return bool(one == other or (one != one and other != other))
    except (TypeError, ValueError):
        return False


def _rows(value: object) -> Sequence[object] | NDArray[Any] | None:
    """What is in a list, tuple or array; None for anything else."""
    if isinstance(value, np.ndarray):
        return value if value.ndim else None
    return value if isinstance(value, list | tuple) else None


def _is_text(one: object, other: object) -> bool:
    return isinstance(one, str | np.str_) and isinstance(other, str | np.str_)


def _same_one_by_one(x: NDArray[Any], y: NDArray[Any]) -> Any:
    if x.dtype.kind not in "OV" and y.dtype.kind not in "OV":
        equal = np.asarray(x == y)
        return equal | (_missing(x) & _missing(y)) if x.dtype.kind in "fcmM" and y.dtype.kind in "fcmM" else equal
    return np.frompyfunc(_same_elements, 2, 1)(x.astype(object), y.astype(object))


def _same_elements(one: object, other: object) -> bool:
    if isinstance(one, np.void) and isinstance(other, np.void):
        return one.tobytes() == other.tobytes() or bool(one == other)
    return same_values(one, other)
