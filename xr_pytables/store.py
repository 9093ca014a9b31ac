"""The groups of a file as xarray data stores: variables, attributes, dimensions and encoding.

Describes what was asked for, in one look at the file.

Tested in `tests/test_reading.py` and `tests/test_docs.py`.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from xarray import Dataset, Variable
from xarray.backends import BackendArray
from xarray.backends.common import AbstractDataStore
from xarray.core import indexing

from .arrays.leaf_arrays import PyTablesArray
from .decoding import no_garbage_collection
from .disk.door import Visit
from .disk.files import checked_group
from .disk.opened_files import OpenedFile
from .errors import FileChangedError, RemoteError
from .model import leaves
from .model.dimensions import ONE_ARRAY
from .model.encodings import ROW_BLOCK_BYTES, encoding
from .model.forms import Form
from .model.nodes import NodeReader
from .model.specs import GroupSpec, ReadOptions, VariableSpec
from .sources.place import Place
from .sources.source import printable, shortened
from .sources.warning import warn

if TYPE_CHECKING:
    from .where.queries import RowQuery, TableQuery

_ATTEMPTS: Final = 3
_T = TypeVar("_T")


def row_query(
    where: str | None, condvars: Mapping[str, object] | None, start: int | None, stop: int | None, step: int | None
) -> RowQuery | None:
    """Which rows of a table the user asks for, unchecked; None for all."""
    if all(argument is None for argument in (where, condvars, start, stop, step)):
        return None
    from .where.queries import RowQuery  # late, as most openings need none of it

    return RowQuery(where, condvars, start, stop, step)


def checked_threads(threads: object) -> int | None:
    """A bound for the number of threads of one read. Raises ValueError for anything but None and positive integers."""
    if threads is None:
        return None
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ValueError(f"threads must be a positive integer or None, not {threads!r}")
    return threads


class PyTablesDataStore(AbstractDataStore):
    """One group of one file, described but not read; of a table perhaps only some rows."""

    __slots__ = ("_files", "_rows", "_spec", "_threads")

    def __init__(
        self,
        spec: GroupSpec,
        files: Mapping[str, OpenedFile],
        threads: int | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self._spec = spec
        self._files = files
        self._threads = threads
        self._rows = rows

    @classmethod
    def open(
        cls,
        place: Place,
        *,
        group: object,
        options: ReadOptions,
        query: RowQuery | None = None,
        threads: int | None = None,
    ) -> PyTablesDataStore:
        """The group (or the array) at `group`, to be read with at most `threads` threads.

        With a `query` it must be a table, and has the rows that the query finds. Raises OSError for a missing or
        broken file or group, ValueError for arguments that do not fit it.
        """
        where, at_most = checked_group(group), checked_threads(threads)

        def describe(reader: NodeReader) -> tuple[GroupSpec, TableQuery | None]:
            spec = reader.dataset(where)
            if not query:
                return spec, None
            from .where.queries import plan_query  # late, as in `row_query`

            return spec, plan_query(spec, query, reader.file_of(spec))

        with no_garbage_collection():
            (spec, planned), files = _described(place, options, describe)
        _check_dims_used(options, [spec])
        _warn([spec], alone=True)
        rows = None
        if planned is not None:
            from .where.queries import find_rows  # late, as in `row_query`

            try:
                rows = find_rows(planned, files[spec.file], threads=at_most).rows
            except BaseException:
                for file in files.values():
                    file.close()
                raise
        return cls(spec, files, at_most, rows)

    @classmethod
    def open_tree(
        cls,
        place: Place,
        *,
        group: object,
        options: ReadOptions,
        query: RowQuery | None = None,
        threads: int | None = None,
    ) -> dict[str, PyTablesDataStore]:
        """The group at `group` and all below it, by path relative to it ("/" for itself)."""
        if query:  # a table has nothing below it
            return {"/": cls.open(place, group=group, options=options, query=query, threads=threads)}
        where = checked_group(group)
        with no_garbage_collection():
            specs, files = _described(place, options, lambda reader: list(reader.tree(where)))
        _check_dims_used(options, [spec for _, spec in specs])
        _warn([spec for _, spec in specs], alone=False)
        return {relative: cls(spec, files, checked_threads(threads)) for relative, spec in specs}

    @property
    def label(self) -> str:
        """File and group, as messages name them."""
        return self._spec.label

    @property
    def file_size(self) -> int:
        """Of the file that the group is in, in bytes."""
        return self._files[self._spec.file].identity.size

    def get_variables(self) -> dict[Hashable, Variable]:
        """Lazy variables by name, to be decoded by xarray."""
        found: dict[Hashable, Variable] = {}
        taken = {spec.name for spec in self._spec.variables}
        for spec in self._spec.variables:
            if spec.decoding is not None:
                continue
            flat = self._flat(spec) if spec.rows is not None and spec.ragged == "flat" else None
            if flat is not None:
                from .arrays.ragged import ROW_SIZE  # late, as in `lazy_array`

                found[spec.name], sizes = flat
                name = free_name(f"{spec.name}_{ROW_SIZE}", taken)
                taken.add(name)
                found[name] = sizes
            else:
                found[spec.name] = self._variable(spec)
        if self._rows is not None:
            found[self._name_of_row_numbers()] = Variable((self._spec.row_dim,), self._rows)
        return found

    def _flat(self, spec: VariableSpec) -> tuple[Variable, Variable] | None:
        """A ragged array as values and row sizes; None, with a warning, if its sizes cannot be read."""
        from .arrays.ragged import flat_variables, is_flat  # late, as in `lazy_array`

        if not is_flat(spec):
            return None
        try:
            return flat_variables(self._files[spec.file], spec, encoding(spec), threads=self._threads)
        except (FileChangedError, RemoteError):
            raise
        except OSError as error:  # costs none of the others
            warn(f"{error}. So it is shown as rows, not flat")
            return None

    def columns(self) -> dict[Hashable, Variable]:
        """Lazy columns and index of a pandas object, as they are."""
        return {spec.name: self._variable(spec) for spec in self._spec.variables if spec.decoding is not None}

    def coordinates(self) -> frozenset[Hashable]:
        """Names of variables that are coordinates whatever their dimensions are called."""
        numbers = frozenset() if self._rows is None else frozenset({self._name_of_row_numbers()})
        return self._spec.coordinates | numbers

    def _name_of_row_numbers(self) -> str:
        name, taken = self._spec.row_dim, {spec.name for spec in self._spec.variables}
        if name not in taken and not self._spec.is_pandas_object:
            return name
        return free_name(f"{name}_number", taken)

    def _variable(self, spec: VariableSpec) -> Variable:
        array: BackendArray
        if spec.decoding is not None:
            from .arrays.frame_arrays import FrameArray  # late, with all that knows pandas' formats

            array, dims = FrameArray(self._files[spec.file], spec, threads=self._threads), spec.dims
        else:
            array, dims = shown(spec, lazy_array(self._files, spec, threads=self._threads))
        stored = encoding(spec)
        key = None
        if self._rows is not None and spec.dims[:1] == (self._spec.row_dim,):
            key = indexing.OuterIndexer((self._rows, *(slice(None) for _ in spec.shape[1:])))
            stored["preferred_chunks"] = _blocks_of_rows(spec, len(self._rows))
        data = indexing.LazilyIndexedArray(array, key or _whole(len(dims)))
        return Variable(dims, data, _of_kind(spec.attributes, spec.dtype), stored, fastpath=True)

    def get_attrs(self) -> dict[str, object]:
        """The group's attributes."""
        return dict(self._spec.attributes)

    def get_dimensions(self) -> dict[str, int]:
        """Sizes of all dimensions, in elements."""
        if self._rows is not None:
            variables = {**self.columns(), **self.get_variables()}
            return {str(dim): size for variable in variables.values() for dim, size in variable.sizes.items()}
        return {dim: size for spec in self._spec.variables for dim, size in zip(spec.dims, spec.shape, strict=True)}

    def get_encoding(self) -> dict[str, object]:
        """What the dataset keeps of the file's layout."""
        growing = {dim for spec in self._spec.variables for dim in spec.unlimited_dims}
        return {"unlimited_dims": growing, "source": self._spec.file}

    def single_characters(self) -> dict[str, bool]:
        """For each variable, whether it is text if it is an `S1` array (netCDF), and not bytes of one character."""
        return {str(spec.name): spec.dtype != "S1" or spec.characters for spec in self._spec.variables}

    def close(self) -> None:
        """Give the file descriptors back."""
        for file in self._files.values():
            file.close()


def _of_kind(attributes: Mapping[str, object], dtype: np.dtype[Any]) -> Mapping[str, object]:
    """The attributes, the fill values of bytes as bytes: other programs store them as any text."""
    if dtype.kind != "S":
        return attributes
    fills = [(key, attributes.get(key)) for key in ("_FillValue", "missing_value")]
    as_bytes = {key: np.bytes_(fill.encode("utf-8", "surrogateescape")) for key, fill in fills if isinstance(fill, str)}
    return {**attributes, **as_bytes}


@lru_cache
def _whole(dimensions: int) -> indexing.BasicIndexer:
    """The key of all elements."""
    return indexing.BasicIndexer((slice(None),) * dimensions)


def check_indexes(dataset: Dataset, where: str, size: int) -> None:
    """Raise ValueError for coordinates of dimensions that are far larger than what a file of `size` bytes can say.

    xarray reads them as soon as it has the dataset, so that a few bytes of a file would fill the memory.
    """
    for name in [name for name in dataset.dims if name in dataset.variables]:
        reason = _too_large(dataset.variables[name], size)
        if reason:
            raise ValueError(f"{where}: coordinate {name!r} {reason}. Leave it out with drop_variables={name!r}")


def _too_large(variable: Variable, size: int) -> str | None:
    if not leaves.is_implausible(variable.nbytes, size):
        return None
    return f"of {variable.nbytes} bytes in a file of {size} would be read to make an index of it"


def with_readable_indexes(dataset: Dataset, where: str, size: int) -> Dataset:
    """The dataset without coordinates of its dimensions that cannot be read; the warning begins with `where`.

    xarray reads them as soon as it has the dataset: one of them would cost a whole tree. What could be read is kept.
    `size` is that of the file, see `check_indexes`.
    """
    lost = {}
    for name in [name for name in dataset.dims if name in dataset.variables]:
        reason = _too_large(dataset.variables[name], size)
        if reason:
            lost[name] = reason
            continue
        try:
            dataset.variables[name].load()
        except (FileChangedError, RemoteError):
            raise
        except (OSError, ValueError) as error:
            lost[name] = str(error)
    if not lost:
        return dataset
    told = "; ".join(printable(f"{name!r}: {reason}") for name, reason in lost.items())
    warn(f"{where}: coordinates that cannot be read are left out: {told}")
    rest = dataset.drop_vars(lost)
    rest.set_close(dataset._close)
    return rest


def _described(
    place: Place, options: ReadOptions, describe: Callable[[NodeReader], _T]
) -> tuple[_T, dict[str, OpenedFile]]:
    """What `describe` says of the file, and that very version of it (and of the files it links to), opened."""
    for attempt in range(_ATTEMPTS):
        with Visit() as visit:
            try:
                result = describe(NodeReader(visit.file(place), options, visit.linked, visit.raw))
            except OSError:
                if attempt < _ATTEMPTS - 1 and visit.changed():
                    continue
                raise
            if not visit.changed():
                return result, dict(visit.opened())
    raise FileChangedError(f"{place.path}: the file changes while it is opened; tried {_ATTEMPTS} times")


def _check_dims_used(options: ReadOptions, specs: Sequence[GroupSpec]) -> None:
    arrays = [variable for spec in specs for variable in spec.variables if variable.decoding is None]
    known = {name for variable in arrays for name in (variable.name, variable.path)}
    known |= {posixpath.basename(spec.path) for spec in specs if spec.row_dim and not spec.is_pandas_object}
    unknown = [name for name in options.dims if name not in known and name != ONE_ARRAY]
    if unknown:
        raise ValueError(
            f"{printable(specs[0].file)}: dims names {', '.join(map(repr, unknown))}, but there is no such array; "
            f"there are {', '.join(map(repr, sorted(str(variable.name) for variable in arrays))) or 'none'}"
        )


def _warn(specs: Sequence[GroupSpec], *, alone: bool) -> None:
    """One warning for all that is not shown (there, or at all), one for all that was read differently."""
    file = specs[0].file
    skipped = [(node, "" if spec.file == file else f"{spec.file}:") for spec in specs for node in spec.skipped]
    told = []
    if skipped:
        nodes = [f"{where}{node.path}: {node.reason}" for node, where in skipped[:_MOST_TOLD]]
        told.append(f"{len(skipped)} node(s) are not shown: {'; '.join([*nodes, *_more(skipped)])}")
    inside = _inner_datasets(specs[0]) if alone else None
    if inside:
        told.append(inside)
    if told:
        warn(printable(f"{file}: {'. '.join(told)}"))
    problems = list(dict.fromkeys(problem for spec in specs for problem in spec.problems))
    if problems:
        some = map(printable, problems[:_MOST_TOLD])
        warn("; ".join([*some, *_more(problems)]))


_MOST_TOLD: Final = 100


def _more(things: Sequence[object]) -> list[str]:
    """What a message says of those that it does not name."""
    rest = len(things) - _MOST_TOLD
    return [f"and {rest} more, which xr_pytables.tree(path) lists"] if rest > 0 else []


def _inner_datasets(spec: GroupSpec) -> str | None:
    """Where the data are, if a group has none of its own, and where its tables are."""
    kinds = {"groups": spec.groups if not spec.variables else (), "tables": spec.tables}
    inside = [
        f"{kind}: " + ", ".join(repr(shortened(posixpath.join(spec.path, name))) for name in names[:_MOST_TOLD])
        for kind, names in kinds.items()
        if names
    ]
    if not inside:
        return None
    has = "also has" if spec.variables else "holds no arrays, only"
    return (
        f"group {shortened(spec.path)!r} {has} {'; '.join(inside)}. Open one with group=, or all with xr.open_datatree"
    )


def lazy_array(files: Mapping[str, OpenedFile], spec: VariableSpec, *, threads: int | None) -> PyTablesArray:
    """The lazy array that fits a variable; `files` are all that were opened, by path."""
    elsewhere = spec.parts or spec.raw_files
    if elsewhere or spec.member or spec.form is Form.PATHS or spec.info.datatype.kind in ("text", "vlen"):
        from .arrays.virtual_arrays import array_of  # late, as most files have only plain arrays

        return array_of(files, spec, threads=threads)
    return PyTablesArray(files[spec.file], spec, threads=threads)


def shown(spec: VariableSpec, array: PyTablesArray) -> tuple[BackendArray, tuple[str, ...]]:
    """The array as the user sees it, and its dimensions."""
    if spec.form is Form.UTF16 or spec.reverse:
        from .arrays.views import ReversedArray, UTF16Rows  # late, as only MATLAB's arrays are shown so
    if spec.form is Form.UTF16:
        text = UTF16Rows(array)
        return text, spec.dims[1:] if text.shape else ()
    if spec.reverse:
        return ReversedArray(array), spec.dims[::-1]
    return array, spec.dims


def free_name(wanted: str, taken: Container[Hashable]) -> str:
    """`wanted`, with underscores behind it until nothing else has that name."""
    while wanted in taken:
        wanted += "_"
    return wanted


def _blocks_of_rows(spec: VariableSpec, rows: int) -> dict[str, int]:
    """Dask blocks of some rows of a table, wherever they are in it."""
    size = max(spec.dtype.itemsize * math.prod(spec.shape[1:]), 1)
    sizes = (max(1, min(rows, ROW_BLOCK_BYTES // size)), *spec.shape[1:])
    return dict(zip(spec.dims, sizes, strict=True))
