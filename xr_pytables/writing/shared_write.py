"""One new file that processes fill which no Dask graph holds together: a job array, Beam, Ray, a script on each host.

One process begins and describes the whole by a template, any number write parts, in any order and more than once, and
one commits. It is the way of Dask's workers (`new_file`), in public steps.

Tested in `tests/writing/test_shared_write.py`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from xarray import DataArray, Dataset, Variable

from ..disk.arenas import SharedRoom
from ..disk.transaction import Transaction
from ..model.attributes import TEXT_MARKER
from ..sources.url import only_local
from .execution import begin_file, commit_delayed
from .new_file import Part, parts_of, places_of
from .other_chunks import in_dask
from .plan import plan_write
from .plans import VariablePlan, WritePlan
from .request import WriteRequest
from .targets import Effort, Place, SharedNotes
from .text_layout import in_bytes
from .writer import planned

if TYPE_CHECKING:
    from tables import Filters


def begin_write(
    template: Dataset | DataArray,
    path: str | os.PathLike[str],
    *,
    mode: Literal["w", "w-", "x"] = "w",
    group: str = "/",
    encoding: Mapping[Any, Any] | None = None,
    filters: Filters | None = None,
    unlimited_dims: Iterable[Hashable] | None = None,
    write_empty_chunks: bool = True,
    checksums: bool = True,
) -> SharedWrite:
    """Begin a new file that many processes fill, also without Dask. Nothing is at `path` before `commit`.

    Parameters
    ----------
    template
        Shapes, dtypes, attributes and encodings of all variables. Those with Dask arrays (`dask.array.zeros` will do),
        or chunked arrays of others, are not computed: their blocks are the pieces to write. Variables in memory are
        written now.
    path
        The file. Its folder must exist, and all processes must see it.
    mode
        `"w"` replaces the file in the end; `"w-"` or `"x"` refuses if it exists.
    group, encoding, filters, unlimited_dims, write_empty_chunks, checksums
        As for `to_pytables`.

    Raises
    ------
    TypeError, ValueError, FileExistsError, FileNotFoundError, PermissionError, FileBusyError
        As `to_pytables` does.
    """
    if mode not in ("w", "w-", "x"):
        raise ValueError(
            f"mode must be one of 'w', 'w-', 'x', not {mode!r}: begin_write makes a new file. In a file that is there, "
            "to_pytables(part, path, region=..., wait=...) writes parts"
        )
    path = only_local(path, "begin_write")
    template, _ = in_dask(template, os.fspath(path))
    request = WriteRequest(
        template, path, mode=mode, group=group, encoding=encoding, filters=filters, unlimited_dims=unlimited_dims,
        checksums=checksums, safe_chunks=False,
    )  # fmt: skip
    plan, transaction = planned(request)
    effort = Effort(write_empty_chunks=write_empty_chunks)
    parts = parts_of(plan, transaction, SharedRoom(transaction.folder), SharedNotes(transaction.folder), effort)
    transaction.begin_unowned()  # between two jobs of an array no process may live
    begin_file(plan.without_lazy_data(), transaction, effort)
    variables = (
        template.to_dataset(name=template.name or "_").variables
        if isinstance(template, DataArray)
        else (template.variables)
    )
    kept = {str(name): dict(variable.encoding) for name, variable in variables.items()}
    forms = {
        f"{group_plan.path.rstrip('/')}/{each.name}": replace(each, data=None, stored=None) for group_plan, each in plan
    }
    return SharedWrite(
        request.target, replace(request, obj=None), kept, forms, transaction, plan.without_data(), tuple(parts), effort
    )


@dataclass(frozen=True)
class SharedWrite:
    """A new file that is being written. Pickles; each process that sees the folder of the file can write to it."""

    path: str
    _request: WriteRequest = field(repr=False)
    _encodings: Mapping[str, Mapping[Any, Any]] = field(repr=False)
    _forms: Mapping[str, VariablePlan] = field(repr=False)
    """How each array is stored, by its path."""
    _transaction: Transaction = field(repr=False)
    _plan: WritePlan = field(repr=False)
    _parts: tuple[Part, ...] = field(repr=False)
    _effort: Effort = field(repr=False)

    def write(self, part: Dataset | DataArray, region: Mapping[str, slice] | None = None) -> None:
        """Write a part of the variables, whose place is `region`: slices of elements, by dimension; all of the others.

        Along each dimension a part begins and ends where blocks of the template do. A block may be written again; the
        last whole copy counts. Raises ValueError for other parts, and for values that the stored form cannot hold;
        FileNotFoundError if the write was committed or given up, or this process does not see the folder.
        """
        self._check_begun()
        by_path = {each.path: each for each in self._parts}
        prefix = self._request.group.rstrip("/")
        dataset = part if isinstance(part, Dataset) else self._as_dataset(part, [*by_path])
        for name in dataset.data_vars:
            if f"{prefix}/{name}" not in by_path:
                raise ValueError(
                    f"{self.path}: the template has no Dask array {name!r} to write; it has "
                    f"{', '.join(path.removeprefix(prefix + '/') for path in by_path) or 'none'}"
                )
        wanted = {name: each for name, each in dataset.variables.items() if f"{prefix}/{name}" in by_path}
        encoded = self._encoded(Dataset({name: each.copy(deep=False) for name, each in wanted.items()}))
        for name, values in encoded.items():
            whole = by_path[f"{prefix}/{name}"]
            for box, inside in _blocks(
                whole, self._forms[whole.path].dims, region or {}, values.shape, f"{self.path}:{name}"
            ):
                self._transaction.store(whole.target, box, values[inside])

    def _as_dataset(self, part: DataArray, paths: list[str]) -> Dataset:
        """A part without a name is one of the template's only array."""
        name = part.name if part.name is not None or len(paths) != 1 else os.path.basename(paths[0])
        if name is None:
            raise ValueError(f"{self.path}: the part is a DataArray without a name: which of {', '.join(paths)} is it?")
        return part.to_dataset(name=name)

    def _encoded(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """The values as the template's arrays store them. Raises ValueError for what would be stored otherwise."""
        prefix = self._request.group.rstrip("/")
        whole = self._forms
        wishes = {
            str(name): {
                **{key: value for key, value in words.items() if key != "chunksizes"},
                **_form_of(whole[f"{prefix}/{name}"], dataset.variables[name]),
            }
            for name, words in {**dict.fromkeys(dataset.variables, {}), **(self._request.encoding or {})}.items()
            if name in dataset.variables
        }
        for name, variable in dataset.variables.items():
            variable.encoding = {
                key: value for key, value in self._encodings.get(str(name), {}).items() if key not in _OF_THE_WHOLE
            }
            array = whole[f"{prefix}/{name}"]
            if array.layout.dtype == "S1" and len(array.dims) == variable.ndim + 1:  # as many characters as there
                charset, label = str(_said(array).get("_Encoding", "utf-8")), f"{self.path}: variable {name!r}"
                variable.data = in_bytes(np.asarray(variable.data), array.layout.shape[-1], charset, label)
        plan = plan_write(replace(self._request, obj=dataset, encoding=wishes, unlimited_dims=None), {})
        for _, each in plan:
            is_time = dataset.variables[each.name].dtype.kind in "mM"
            self._check_same_form(each, whole[f"{prefix}/{each.name}"], is_time=is_time)
        return {each.name: np.asarray(each.data) for _, each in plan}

    def _check_same_form(self, part: VariablePlan, whole: VariablePlan, *, is_time: bool) -> None:
        """Raise ValueError unless the part is stored as the template says that the whole is."""
        label = f"{self.path}: variable {whole.name!r}"
        if part.dims != whole.dims:
            raise ValueError(f"{label}: the part has the dimensions {part.dims}, the template {whole.dims}")
        kinds = [_kind(one.layout.dtype) for one in (part, whole)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{label}: the part would be stored as {kinds[0]}, the template says {kinds[1]}")
        ours, theirs = _said(part), _said(whole)
        counts = is_time or " since " in str(theirs.get("units"))
        for key in (*_MEANING, *(("units", "calendar") if counts else ())):
            if ours.get(key) != theirs.get(key):
                raise ValueError(
                    f"{label}: the part would be stored with {key}={ours.get(key)!r}, the template says "
                    f"{theirs.get(key)!r}. Give begin_write an encoding that fits all parts"
                )

    def missing(self) -> list[tuple[str, Place]]:
        """Path of the array and first element of each block that was not written yet."""
        self._check_begun()
        return [
            (part.path, start)
            for part in self._parts
            for start, _ in places_of(part.blocks)
            if not os.path.exists(part.file_of(start))
        ]

    def commit(self, *, fsync: bool = True) -> None:
        """Put the file into its place. Raises OSError if a block is missing: it can be written, and this called again.

        With `fsync` it is on the disk then.
        """
        if missing := self.missing():
            path, start = missing[0]
            raise OSError(
                f"{self.path}: {len(missing)} blocks were not written yet, not the one of {path} that begins at {start}"
            )
        commit_delayed(None, self._plan, self._transaction, self._parts, self._effort, fsync)
        self._transaction.forget()

    def abandon(self) -> None:
        """Give the write up: what was at `path` stays, and all that was written goes."""
        self._transaction.remove()

    def _check_begun(self) -> None:
        if not os.path.exists(self._transaction.folder):
            raise FileNotFoundError(
                f"{self.path}: this write was committed or given up, or this process does not see the folder"
            )


_MEANING = ("dtype", "scale_factor", "add_offset", TEXT_MARKER)
"""Attributes by which stored values mean what they mean, besides the units of times."""


def _said(plan: VariablePlan) -> dict[str, Any]:
    """The attributes of an array as Python has them."""
    found = {each.name: np.asarray(each.value) for each in plan.attributes}
    return {
        name: value.item().decode("utf-8", "replace") if value.dtype.kind == "S" and not value.ndim else value.tolist()
        for name, value in found.items()
    }


def _form_of(whole: VariablePlan, part: Variable) -> dict[str, Any]:
    """How the template stores an array, as `encoding` says it, where the values of a part would be asked instead."""
    said, dtype = _said(whole), whole.layout.dtype
    if part.dtype.kind in "mM" and "units" in said and dtype is not None and dtype.kind in "iuf":
        form: dict[str, Any] = {key: said[key] for key in ("units", "calendar") if key in said}
        return {**form, "dtype": dtype.newbyteorder("=")}
    if dtype is None and whole.layout.row_dtype is None and part.dtype.kind in "OUT":
        return {"string": "vlen"}
    return {}


def _kind(dtype: np.dtype | None) -> str:
    """What elements are, as far as one may not be put into the place of another."""
    if dtype is None:
        return "values of any length"
    return {"S": "fixed-length strings", "V": "records or opaque bytes"}.get(dtype.kind, "numbers")


_OF_THE_WHOLE = ("chunksizes", "preferred_chunks", "source", "original_shape", "unlimited_dims", "contiguous")


def _blocks(
    part: Part, dims: tuple[str, ...], region: Mapping[str, slice], shape: tuple[int, ...], label: str
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Where each block of a part is, in the whole and in the part. Raises ValueError if the part is no whole blocks."""
    if not all(isinstance(one, slice) for one in region.values()):
        raise TypeError(f"{label}: region must be slices by dimension, not {region!r}")
    unknown = [dim for dim in region if dim not in dims]
    if unknown:
        raise ValueError(f"{label}: region has the dimension {unknown[0]!r}, the variable has {dims}")
    along = []
    for dim, size, blocks, count in zip(dims, part.shape, part.blocks, shape, strict=True):
        first, last, step = region.get(dim, slice(None)).indices(size)
        edges = [0, *itertools.accumulate(blocks)]
        if step != 1 or last - first != count or first not in edges or last not in edges:
            raise ValueError(
                f"{label}: along dimension {dim!r} the part of {count} elements for {first} to {last} is not whole "
                f"blocks of the template, which are {blocks[:6]}. Write whole blocks, or chunk the template otherwise"
            )
        inside = [(a, b) for a, b in itertools.pairwise(edges) if first <= a and b <= last and a < b]
        along.append([(slice(a, b), slice(a - first, b - first)) for a, b in inside])
    for sides in itertools.product(*along):
        yield tuple(box for box, _ in sides), tuple(inside for _, inside in sides)
