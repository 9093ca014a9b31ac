"""Indexes that PyTables keeps of a table's columns: where they are, and which rows a comparison can be true for.

An index of `/events`, column `energy`, is the group `/_i_events/energy` (tables.index). The column is cut into slices
of `slicesize` rows; `sorted` has the values of each slice in ascending order (every `reduction`-th of them), and
`indices` where each came from: the row itself in a "full" index, else a bucket of `bucket` rows ("medium": counted
from the first row, "light": from the block, "ultralight": from the slice). `ranges` has the first and last value of
each slice, `bounds` the first of each chunk of it but the first. What is left over after the last whole slice is in
`sortedLR` and `indicesLR`, whose attributes `nelements` tell how much of them counts.

Describing and searching (through arrays) are apart.

Tested in `tests/where/test_queries.py`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingNodeError
from ..hdf5.attributes import RawAttribute
from ..hdf5.file import File, Place
from ..model import attributes
from ..model.pytables_types import as_pytables
from ..model.specs import VariableSpec
from .conditions import Comparison

_ARRAYS: Final = ("sorted", "indices", "ranges", "bounds", "sortedLR", "indicesLR")
_KINDS: Final = {1: "ultralight", 2: "light", 4: "medium", 8: "full"}


class UnusableIndexError(Exception):
    """An index is missing, out of date, or not what PyTables writes; the message says which."""


@dataclass(frozen=True)
class IndexSpec:
    """One usable index. A plain value."""

    column: str
    arrays: Mapping[str, VariableSpec]
    """By the name of the node; `sorted` and `indices` have a row for each slice."""
    slicesize: int
    """Rows."""
    chunksize: int
    """Rows whose values are in one chunk of `sorted`."""
    reduction: int
    """One of so many sorted values is kept."""
    bucket: int
    """Rows that an entry of `indices` stands for; 1 for a full index."""
    slices_per_block: int
    rest: int
    """Rows behind the last whole slice that are indexed."""
    rest_values: int
    """How many of their sorted values are kept."""
    optlevel: int = 6
    """How far PyTables went in sorting it."""

    @property
    def kind(self) -> str:
        """In PyTables' words."""
        return _KINDS[self.arrays["indices"].dtype.itemsize]

    @property
    def slices(self) -> int:
        """Whole slices."""
        return self.arrays["sorted"].shape[0]

    @property
    def rows(self) -> int:
        """Rows that are indexed, from the first."""
        return self.slices * self.slicesize + self.rest


def describe_index(file: File, table: VariableSpec, column: str) -> IndexSpec:
    """The index of the column `column` of the table that `table` is a column of; reads headers and attributes only.

    Raises UnusableIndexError with the reason.
    """
    path = _path_of(table, column)
    try:
        if not _exists(file, path):
            raise UnusableIndexError("there is no index")
        raw = file.attributes(file.resolve(path).address)
        arrays, lengths = {}, {}
        for name in _ARRAYS:
            place = file.resolve(posixpath.join(path, name))
            arrays[name] = array_spec(file, place)
            lengths[name] = _number(file.attributes(place.address), "nelements", 0)
    except OSError as error:
        raise UnusableIndexError(f"it cannot be read: {error}") from None
    if attributes.text(raw.get("VERSION")) not in ("2.1",):
        raise UnusableIndexError(f"its version is {attributes.text(raw.get('VERSION'))!r}, not '2.1'")
    if _is_dirty(raw.get("DIRTY")):
        raise UnusableIndexError("PyTables marked it as out of date")
    return _checked(column, table, arrays, lengths, raw)


@dataclass(frozen=True)
class TableIndexes:
    """What a table has of indexes. A plain value."""

    usable: Mapping[str, IndexSpec] = field(default_factory=dict)
    """By the path of the column in the table: `a/b` for a nested one."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Why an index can be neither used nor made again."""
    any: bool = False
    """Whether there is anything where PyTables keeps indexes of the table."""


def describe_indexes(file: File, columns: Sequence[VariableSpec]) -> TableIndexes:
    """The indexes of a table whose columns are `columns`; reads headers and attributes only."""
    if not columns or not _exists(file, _path_of(columns[0], "")):
        return TableIndexes()
    usable, unusable = {}, {}
    for spec in columns:
        column, stored = "/".join(spec.member), spec.datatype.dtype
        if not _exists(file, _path_of(spec, column)):
            continue
        try:
            if (
                stored is None
                or len(spec.shape) > 1
                or stored.str[1:] == "u8"
                or any("/" in name for name in spec.member)
            ):
                raise UnusableIndexError("PyTables does not index such columns")
            usable[column] = describe_index(file, replace(spec, dtype=stored.newbyteorder("=")), column)
        except UnusableIndexError as reason:
            unusable[column] = str(reason)
    return TableIndexes(usable, unusable, True)


def _path_of(table: VariableSpec, column: str) -> str:
    folder, leaf = posixpath.split(table.path)
    return posixpath.join(folder, f"_i_{leaf}", column).rstrip("/")


def _exists(file: File, path: str) -> bool:
    try:
        file.resolve(path)
    except MissingNodeError:
        return False
    return True


def array_spec(file: File, place: Place) -> VariableSpec:
    """An array of an index. Raises UnusableIndexError if it is none of simple values."""
    path, info = place.path, as_pytables(file.dataset(place.address))
    dtype, shape = info.datatype.dtype, info.shape
    if dtype is None or shape is None or info.datatype.shape or info.datatype.kind not in _VALUES:
        raise UnusableIndexError(f"{path} is not an array of simple values")
    return VariableSpec(
        file=file.path,
        path=path,
        name=posixpath.basename(path),
        info=info,
        shape=shape,
        dtype=dtype.newbyteorder("="),
        dims=tuple(f"dim_{axis}" for axis in range(len(shape))),
        chunks=info.chunkshape,
        base_address=file.base_address,
    )


_VALUES: Final = frozenset({"integer", "float", "bool", "string", "enum"})
"""Values that are sorted as they are stored; time64 is not."""


def _number(raw: Mapping[str, RawAttribute], name: str, default: int | None = None) -> int:
    found = attributes.numbers(raw.get(name)) or (() if default is None else (default,))
    if len(found) != 1 or found[0] < 0:
        raise UnusableIndexError(f"its attribute {name} is no number")
    return found[0]


def _is_dirty(raw: RawAttribute | None) -> bool:
    return raw is not None and not (isinstance(raw.value, np.ndarray) and not raw.value.any())


def _checked(
    column: str,
    table: VariableSpec,
    arrays: Mapping[str, VariableSpec],
    lengths: Mapping[str, int],
    raw: Mapping[str, RawAttribute],
) -> IndexSpec:
    blocksize, slicesize, chunksize = (_number(raw, name) for name in ("blocksize", "slicesize", "chunksize"))
    reduction = _number(raw, "reduction")
    indices, values = arrays["indices"], arrays["sorted"]
    size = indices.dtype.itemsize
    if min(reduction, chunksize, slicesize, blocksize) < 1:
        raise UnusableIndexError("its sizes do not fit together")
    fits = (
        slicesize % chunksize == chunksize % reduction == blocksize % slicesize == 0
        and len(indices.shape) == len(values.shape) == len(arrays["bounds"].shape) == len(arrays["ranges"].shape) == 2
        and indices.shape == (values.shape[0], slicesize)
        and values.shape[1] * reduction == slicesize
        and arrays["ranges"].shape == (values.shape[0], 2)
        and arrays["bounds"].shape == (values.shape[0], (slicesize - 1) // chunksize)
        and lengths["indicesLR"] <= min(arrays["indicesLR"].shape[0], slicesize)
        and lengths["sortedLR"] == -(-lengths["indicesLR"] // reduction)
        and lengths["sortedLR"] <= arrays["sortedLR"].shape[0]
    )
    if not fits or indices.dtype.kind != "u" or size not in _KINDS:
        raise UnusableIndexError("its arrays do not fit together")
    if values.dtype != table.dtype or arrays["sortedLR"].dtype != table.dtype:
        raise UnusableIndexError("its values are of another type than the column")
    found = IndexSpec(
        column=column,
        arrays=dict(arrays),
        slicesize=slicesize,
        chunksize=chunksize,
        reduction=reduction,
        bucket=1 if size == 8 else _bucket(size, (table.info.chunkshape or (0,))[0], chunksize, slicesize, blocksize),
        slices_per_block=blocksize // slicesize,
        rest=lengths["indicesLR"],
        rest_values=lengths["sortedLR"],
        optlevel=min(_number(raw, "optlevel", 6), 9),
    )
    if found.rows > table.shape[0]:
        raise UnusableIndexError("it is about more rows than the table has")
    return found


def _bucket(size: int, table_chunk: int, chunksize: int, slicesize: int, blocksize: int) -> int:
    """Rows of a bucket (tables.index.Index.lbucket)."""
    if not table_chunk:
        raise UnusableIndexError("the table is not chunked")
    bucket = min(table_chunk, chunksize)
    if size == 1 and slicesize > bucket << 8:
        return -(-slicesize >> 8)
    if size == 2 and blocksize > bucket << 16:
        return -(-blocksize >> 16)
    return bucket


# -- searching ------------------------------------------------------------------------------------------------

Reader = Callable[[VariableSpec, tuple[Any, ...]], NDArray[Any]]
"""Reads the elements of an array of the index that a key of integers and slices selects."""


class IndexSearch:
    """Searches in one index."""

    def __init__(self, spec: IndexSpec, table_rows: int, read: Reader) -> None:
        self.spec = spec
        self.table_rows = table_rows
        self._read = read

    def rows(self, together: Sequence[Comparison], limit: int) -> NDArray[np.int64] | None:
        """The rows (ascending) for which all comparisons can be true; None if there may be more than `limit`.

        With a full index these are the rows for which they are true, as far as they are indexed; rows behind the last
        indexed one are always among them. Raises UnusableIndexError for an index that contradicts itself.
        """
        spec = self.spec
        if self.table_rows - spec.rows > limit:
            return None
        spans = self._common_spans(together)
        if sum(stop - start for _, start, stop in spans) > limit:
            return None
        found = [self.entries(number, start, stop) for number, start, stop in spans]
        entries = np.concatenate([np.empty(0, np.int64), *found])
        if spec.bucket == 1:
            rows = np.sort(entries)
            if (rows[1:] == rows[:-1]).any():
                raise UnusableIndexError("it names a row twice")
        else:
            buckets = np.unique(np.concatenate([entries, entries + 1])) if self._may_be_next else np.unique(entries)
            if len(buckets) * spec.bucket > limit:
                return None
            rows = (buckets[:, np.newaxis] * spec.bucket + np.arange(spec.bucket)).reshape(-1)
            rows = rows[rows < spec.rows]
        if len(rows) and not (rows[0] >= 0 and rows[-1] < spec.rows):
            raise UnusableIndexError("it names rows that are not there")
        return np.concatenate([rows, np.arange(spec.rows, self.table_rows)])

    @property
    def _may_be_next(self) -> bool:
        """Whether the bucket of a row can be the one behind what its entry says.

        In a light index, PyTables rounds where a block begins and where a slice begins in it, each down to a bucket.
        """
        spec = self.spec
        return spec.kind == "light" and spec.slices >= spec.slices_per_block and spec.slicesize % spec.bucket != 0

    def stored_buckets(self, start: int, stop: int) -> NDArray[np.int64]:
        """What `entries` are for the rows from `start` to `stop`."""
        spec, rows = self.spec, np.arange(start, stop)
        if spec.kind != "light":
            return rows // spec.bucket
        slices = np.arange(start // spec.slicesize, stop // spec.slicesize + 1)
        in_block = slices % spec.slices_per_block
        begins = [begin * spec.slicesize // spec.bucket for begin in (slices, slices - in_block, in_block)]
        rounded = begins[1] + begins[2] - begins[0]
        buckets: NDArray[np.int64] = rows // spec.bucket + rounded[rows // spec.slicesize - slices[0]]
        return buckets

    def _common_spans(self, together: Sequence[Comparison]) -> list[tuple[int, int, int]]:
        """What the spans of all comparisons have in common."""
        common = {number: (start, stop) for number, start, stop in self._spans(together[0])}
        for comparison in together[1:]:
            common = {
                number: (max(start, common[number][0]), min(stop, common[number][1]))
                for number, start, stop in self._spans(comparison)
                if number in common
            }
        return [(number, start, stop) for number, (start, stop) in common.items() if stop > start]

    def _spans(self, comparison: Comparison) -> list[tuple[int, int, int]]:
        """(slice, start, stop) of the entries of `indices` whose values the comparison can be true for.

        The rest behind the last whole slice counts as one more slice.
        """
        spec = self.spec
        spans = []
        if spec.slices:
            ranges = self._read(spec.arrays["ranges"], (slice(None), slice(None)))
            if not _ascends(ranges[:, 0], ranges[:, 1]).all():
                raise UnusableIndexError("its ranges end before they begin")
            bounds = self._read(spec.arrays["bounds"], (slice(None), slice(None)))
            values = spec.arrays["sorted"]
            for number in _overlapping(ranges, comparison, exact=spec.reduction == 1).tolist():

                def chunk(start: int, stop: int, number: int = number) -> NDArray[Any]:
                    return self._read(values, (number, slice(start, stop)))

                edges = _edges(ranges[number], bounds[number])
                start, stop = self._search(comparison, edges, values.shape[1], chunk)
                spans.append((number, *self._unreduced(start, stop, spec.slicesize)))
        if spec.rest:
            values = spec.arrays["sortedLR"]

            def chunk_of_rest(start: int, stop: int) -> NDArray[Any]:
                return self._read(values, (slice(start, stop),))

            start, stop = self._search(comparison, self._edges_of_rest(), spec.rest_values, chunk_of_rest)
            spans.append((spec.slices, *self._unreduced(start, stop, spec.rest)))
        return [span for span in spans if span[2] > span[1]]

    def _unreduced(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """Places among all sorted values from places among those that are kept.

        A value that is not kept lies between its neighbours, so the last kept one before `start` counts in part.
        """
        factor = self.spec.reduction
        return max((start - 1) * factor + 1, 0), min(stop * factor, length)

    def _search(
        self,
        comparison: Comparison,
        edges: NDArray[Any],
        count: int,
        chunk: Callable[[int, int], NDArray[Any]],
    ) -> tuple[int, int]:
        """Places of the first value that the comparison is true for and behind the last, in `count` sorted values.

        `edges` are the first value of each chunk of them, and the last of all, which may be none that is kept.
        """
        step = self.spec.chunksize // self.spec.reduction
        kept: dict[int, NDArray[Any]] = {}

        def place(value: Any, side: Any) -> int:
            number = int(np.searchsorted(bounds, value, side))
            start = number * step
            if number not in kept:
                kept[number] = _checked_order(chunk(start, min(start + step, count)))
                _check_edges(kept[number], edges[number : number + 2])
            return start + int(np.searchsorted(kept[number], value, side))

        bounds = _checked_order(edges)[1:-1]
        symbol, value = comparison.operator, _sortable(comparison.value)
        start = place(value, "left") if symbol in (">=", "==") else place(value, "right") if symbol == ">" else 0
        if symbol in ("<=", "=="):
            return start, place(value, "right")
        if symbol == "<":
            return start, place(value, "left")
        if self.spec.arrays["sorted"].dtype.kind == "f":  # NaN is sorted to the end
            return start, place(np.inf, "right")
        return start, count

    def entries(self, number: int, start: int, stop: int) -> NDArray[np.int64]:
        """Rows or buckets of a part of a slice, or of the rest, counted from the beginning of the table."""
        spec = self.spec
        if number < spec.slices:
            entries = self._read(spec.arrays["indices"], (number, slice(start, stop)))
        else:
            entries = self._read(spec.arrays["indicesLR"], (slice(start, stop),))
        if entries.size and int(entries.max()) > spec.rows:
            raise UnusableIndexError("it names rows that are not there")
        size, entries = entries.dtype.itemsize, entries.astype(np.int64)
        if size == 2:
            blocksize = spec.slices_per_block * spec.slicesize
            entries += int((number // spec.slices_per_block) * (blocksize / spec.bucket))
        elif size == 1:
            entries += number * spec.slicesize // spec.bucket
        return entries

    def checked_values(self, number: int) -> NDArray[Any]:
        """The kept values of a slice, or of the rest. Raises UnusableIndexError if they are not in order."""
        spec = self.spec
        if number < spec.slices:
            values, ranges, bounds = (
                self._read(spec.arrays[name], (number, slice(None))) for name in ("sorted", "ranges", "bounds")
            )
            edges = _edges(ranges, bounds)
        else:
            values = self._read(spec.arrays["sortedLR"], (slice(0, spec.rest_values),))
            edges = self._edges_of_rest()
        step = spec.chunksize // spec.reduction
        for number, start in enumerate(range(0, len(_checked_order(values)), step)):
            _check_edges(values[start : start + step], edges[number : number + 2])
        return values

    def _edges_of_rest(self) -> NDArray[Any]:
        """The edges of the rest, which are kept behind its values."""
        spec = self.spec
        begin, values = spec.rest_values, spec.arrays["sortedLR"]
        step = spec.chunksize // spec.reduction
        end = begin + -(-begin // step) + 1
        if end > values.shape[0]:
            raise UnusableIndexError("its last values have no bounds")
        return self._read(values, (slice(begin, end),))


def _checked_order(values: NDArray[Any]) -> NDArray[Any]:
    """`values`, if they are sorted, NaN behind all others. A search among others would pass rows by."""
    if not _ascends(values[:-1], values[1:]).all():
        raise UnusableIndexError("its values are not sorted")
    return values


def _ascends(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether values are in order, one by one: NaN comes last."""
    return np.asarray((before <= after) | (after != after))


def _edges(ranges: NDArray[Any], bounds: NDArray[Any]) -> NDArray[Any]:
    """The first value of each chunk of a slice, and the last of all."""
    return np.concatenate([ranges[:1], bounds, ranges[1:]])


def _check_edges(values: NDArray[Any], edges: NDArray[Any]) -> None:
    """Raise UnusableIndexError unless a chunk begins with the first of two edges and ends by the other."""
    first, begin = values[0], edges[0]
    is_same = first == begin or (first != first and begin != begin)
    if not is_same or not _ascends(values[-1:], edges[1:]).all():
        raise UnusableIndexError("its values are not those that its bounds say")


def _sortable(value: Any) -> Any:
    """A constant that NumPy compares with an array as numexpr does: Python's numbers would be cut to its type."""
    return np.asarray(value)


def _overlapping(ranges: NDArray[Any], comparison: Comparison, *, exact: bool) -> NDArray[np.intp]:
    """The slices with values that the comparison can be true for.

    Where not all values are kept (`exact` is false), the last of a range may be the last one kept.
    """
    first, last = ranges[:, 0], ranges[:, 1]
    value, symbol = _sortable(comparison.value), comparison.operator
    # searchsorted orders as the index does: NaN behind all numbers
    below = np.array([exact and np.searchsorted(last[i : i + 1], value, "left") for i in range(len(last))])
    above = np.array([np.searchsorted(first[i : i + 1], value, "right") for i in range(len(first))])
    if symbol in (">", ">="):
        return np.flatnonzero(below == 0)
    if symbol in ("<", "<="):
        return np.flatnonzero(above == 1)
    return np.flatnonzero((below == 0) & (above == 1))


def combined(sets: Sequence[NDArray[np.int64] | None], *, every: bool) -> NDArray[np.int64] | None:
    """The rows in every set, or in any of them; None stands for all rows of the table."""
    known = [rows for rows in sets if rows is not None]
    if not known or (not every and len(known) < len(sets)):
        return None
    result = known[0]
    for rows in known[1:]:
        result = np.intersect1d(result, rows, assume_unique=True) if every else np.union1d(result, rows)
    return result
