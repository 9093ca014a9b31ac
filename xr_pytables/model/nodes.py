"""What each node of a file becomes: a variable, a child group, or something left out for a reason.

Walks groups and links of a `File` and describes arrays as `VariableSpec`s, plain values that the xarray side turns
into lazy arrays. Reads attributes and headers, never data. Knows no xarray; the caller holds the HDF5 lock.

Tested in `tests/test_reading.py` and `tests/model/test_odd_types.py`.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from ..errors import FormatError, MissingNodeError
from ..hdf5.attributes import RawAttribute
from ..hdf5.dataset import DatasetInfo
from ..hdf5.dataspace import UNLIMITED
from ..hdf5.datatype import Datatype
from ..hdf5.file import ExternalLinkError, ExternalTarget, File
from ..sources.source import printable, shortened
from ..sources.url import is_url
from . import attributes, dimensions
from .columns import Column, describe_columns, is_table
from .dimensions import Leaf, Scales
from .forms import Form
from .matlab import MatlabArray, holds_sizes
from .meanings import TEXT, becomes, meaning_of, named, why_not_array
from .netcdf import as_netcdf, is_netcdf
from .pytables_types import as_pytables, with_truth
from .specs import GroupSpec, RawFile, ReadOptions, Scale, Skipped, VariableSpec

if TYPE_CHECKING:
    from . import frames, hdfstore
    from .mappings import Part


_HIDDEN_NAME: Final = re.compile(r"_[pi]_")
"""PyTables' own groups: indexes of tables and the undo log (tables.path)."""
MAX_GROUPS: Final = 1_000_000
MAX_DEPTH: Final = 256
"""Levels of groups in a tree: xarray takes seconds for a thousand, and fails for more."""
MAX_EXTERNAL_LINKS: Final = 16
"""One behind the other: as many as HDF5 follows."""
_GROUPS_AT_ONCE: Final = 64  # that are asked for together, behind a network


class _Place(NamedTuple):
    """An object: the file it is in, its path there and the address of its header."""

    file: File
    path: str
    address: int

    @property
    def label(self) -> str:
        """File and node, as messages name them."""
        return f"{self.file.name}:{printable(self.path)}"


@dataclass
class _Member:
    name: str
    place: _Place
    kind: Literal["group", "table"]
    by_link: bool


@dataclass
class _Contents:
    """A group before its dimensions have names."""

    members: list[_Member]
    leaves: list[Leaf]
    infos: dict[str, DatasetInfo]
    raws: dict[str, Mapping[str, RawAttribute]]
    """Attributes of the tables."""
    places: dict[str, _Place]
    skipped: list[Skipped]
    parts: dict[str, tuple[Part[VariableSpec], ...]] = field(default_factory=dict)
    """Of the virtual datasets."""
    raw_files: dict[str, tuple[RawFile, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unnamed: list[tuple[int, ...]] = field(default_factory=list)
    """Shapes of the arrays that refer to no scales."""
    empty_scales: list[Leaf] = field(default_factory=list)
    """Dimension scales without a shape: names and nothing else."""
    datatypes: list[str] = field(default_factory=list)
    """Names of committed datatypes."""
    pandas_object: hdfstore.PandasObject | None = None


def _is_near(path: str, target: str) -> bool:
    """Whether an external link of the file at a path leads into its folder, or below. (Of a URL nothing else does.)"""
    if is_url(path):
        return True
    near = os.path.realpath(os.path.dirname(path))
    return os.path.commonpath([os.path.realpath(os.path.join(near, target)), near]) == near


class NodeReader:
    """Describes the groups of one file and of the files that its external links lead to."""

    def __init__(
        self,
        file: File,
        options: ReadOptions,
        linked: Callable[[str, str], File],
        raw: Callable[[str, str], tuple[str, int]] | None = None,
    ) -> None:
        """`linked` opens the file to which a link in the file of a path leads, and keeps it open as long as this
        reader is used; `raw` opens one without a format in the same way, and gives its path and its size in bytes.
        None: for a writer, who writes through no array whose values lie elsewhere; such are not shown."""
        self._root_file = file
        self._options = options
        self._linked = linked
        self._raw = raw
        self._virtual = set[tuple[str, int]]()
        self._files = {file.path: file}
        self._made_by: dict[str, tuple[bool, bool]] = {}
        self._scales: dict[tuple[str, str], Scales] = {}
        self._paths: dict[str, Scales] = {}
        self._whole_tree = False
        self._numbers: dict[str, dict[int, tuple[int, int]]] = {}

    def file_of(self, spec: GroupSpec) -> File:
        """The opened file that a group is in."""
        return self._files[spec.file]

    def dataset(self, path: str) -> GroupSpec:
        """The group at `path`; for an array, a group of that one variable. Follows links on the way.

        Raises MissingNodeError, naming what there is instead.
        """
        place = self._find(self._root_file, path)
        kind = place.file.kind(place.address)
        if kind == "group":
            return self._group(place)
        if kind == "dataset":
            return self._one_leaf(place)
        what = "a committed datatype" if kind == "datatype" else "of an unknown kind"
        raise ValueError(f"{place.file.name}: {shortened(place.path)!r} is {what}, not a group or an array")

    def tree(self, path: str) -> Iterator[tuple[str, GroupSpec]]:
        """The group at `path` and all below it, each group once, with its path relative to `path` ("/" for itself).

        A group reached by a hard link is shown there; one reached only through soft or external links is shown at
        the first of them. Arrays are as long as the growing dimensions of the groups above.
        """
        yield from _filled_up(list(self._tree(path)))

    def _tree(self, path: str) -> Iterator[tuple[str, GroupSpec]]:
        start = self._find(self._root_file, path)
        if start.file.kind(start.address) != "group":
            yield "/", self._one_leaf(start)
            return
        self._whole_tree = True
        hard, linked = deque([("/", start)]), deque[tuple[str, _Place]]()
        shown: dict[tuple[str, int], str] = {}
        known = 0  # of the next ones
        while hard or linked:
            if not known:
                some = list(islice(hard, _GROUPS_AT_ONCE))
                for file in {one.file for _, one in some}:
                    file.prefetch_groups([one.address for _, one in some if one.file is file])
                known = len(some)
            known = max(known - 1, 0)
            relative, place = (hard or linked).popleft()
            key = (place.file.path, place.address)
            if key in shown or len(shown) >= MAX_GROUPS:
                continue
            shown[key] = relative
            try:
                contents = self._contents(place)
                spec = self._described(place, contents)
                if contents.members and relative.count("/") >= MAX_DEPTH:
                    deeper = Skipped(place.path, f"what is deeper than {MAX_DEPTH} levels: open it with group=")
                    spec = replace(spec, skipped=(*spec.skipped, deeper))
            except OSError as error:  # a damaged group costs what is in it, not the others
                if place is start:
                    raise
                skipped = Skipped(place.path, _reason(error, place.file.path))
                yield relative, GroupSpec(place.file.path, place.path, (), {}, skipped=(skipped,))
                continue
            yield relative, spec
            for member in contents.members if relative.count("/") < MAX_DEPTH else ():
                child = posixpath.join(relative, member.name)
                if member.kind == "group":
                    (linked if member.by_link else hard).append((child, member.place))
                    continue
                yield child, self._table(member.place, contents.infos[member.name], contents.raws[member.name])

    # -- finding --------------------------------------------------------------------------------------------

    def _find(self, file: File, path: str, hops: int = 0) -> _Place:
        """The object at `path`, through soft and (as far as allowed) external links."""
        try:
            resolved = file.resolve(path)
        except ExternalLinkError as error:
            if hops >= MAX_EXTERNAL_LINKS:
                raise MissingNodeError(
                    f"{file.name}: the external links of {shortened(path)!r} lead in circles, or through more than "
                    f"{MAX_EXTERNAL_LINKS} files"
                ) from None
            other = self._external_file(file, error.target, str(error))
            return self._find(other, error.target.path, hops + 1)
        return _Place(file, *resolved)

    def _external_file(self, file: File, target: ExternalTarget, what: str) -> File:
        self._check_allowed(file, target.file, what)
        try:
            other = self._linked(file.path, target.file)
        except FileNotFoundError as error:
            raise MissingNodeError(f"{what}, but {error}") from None
        return self._files.setdefault(other.path, other)

    def _check_allowed(self, file: File, name: str, what: str) -> None:
        """Raise MissingNodeError unless another file that `file` names may be opened."""
        policy = self._options.external_links
        if policy == "never":
            raise MissingNodeError(f"{what}, not followed with external_links='never'")
        if policy == "near" and not _is_near(file.path, name):
            raise MissingNodeError(
                f"{what}, outside the folder of the file: not followed. external_links='any' follows it, "
                "if you trust the file"
            )

    # -- groups ---------------------------------------------------------------------------------------------

    def _group(self, place: _Place) -> GroupSpec:
        return self._described(place, self._contents(place))

    def _contents(self, place: _Place) -> _Contents:
        """The group's members, and the headers and attributes of its arrays."""
        contents = _Contents([], [], {}, {}, {}, [])
        links = place.file.links(place.address)
        addresses = [link.address for link in links if link.kind == "hard"]
        place.file.prefetch(addresses)
        place.file.prefetch_attributes(addresses)
        if self._options.pandas_objects and attributes.PANDAS_MARKER in _group_attributes(place)[0]:
            self._add_pandas_object(contents, place)
        parts = contents.pandas_object.frame.parts if contents.pandas_object else frozenset[str]()
        for link in links:
            path = posixpath.join(place.path, link.name)
            if _HIDDEN_NAME.match(link.name) or link.name in self._options.drop_variables or link.name in parts:
                continue
            if link.kind == "unknown":
                contents.skipped.append(Skipped(path, "a link of an unknown kind, or with a name that HDF5 forbids"))
                continue
            try:
                linked = link.kind != "hard"
                target = self._find(place.file, path) if linked else _Place(place.file, path, link.address)
                self._add_member(contents, path, link.name, target, by_link=linked)
            except (OSError, ValueError) as error:  # one unreadable node never costs the others
                contents.skipped.append(Skipped(path, _reason(error, place.file.path)))
        taken = {member.name for member in contents.members}
        taken |= {leaf.name for leaf in contents.leaves if not leaf.is_only_dimension}
        contents.leaves = [
            replace(leaf, keeps_name=True) if leaf.variable_name != leaf.name and leaf.variable_name in taken else leaf
            for leaf in contents.leaves
        ]
        return contents

    def _add_member(self, contents: _Contents, path: str, name: str, place: _Place, *, by_link: bool) -> None:
        """Look at the object at `place`, which the group shows as `name`."""
        kind = place.file.kind(place.address)
        if kind == "group":
            contents.members.append(_Member(name, place, "group", by_link))
            return
        if kind != "dataset":  # a committed datatype, as netCDF-4 keeps for enumerations: holds no data
            contents.datatypes.append(name)
            return
        info, raw = self._dataset(place), place.file.attributes(place.address)
        if info.layout == "virtual" or info.external_files:
            if self._raw is None:
                contents.skipped.append(Skipped(path, "its values lie in other arrays or files (virtual, external)"))
                return
            if not is_table(info):
                info = self._elsewhere(contents, name, place, info, raw)
        if info.shape is not None and not _is_scale(raw) and not _refers_to_scales(raw):
            contents.unnamed.append(info.shape)
        matlab = MatlabArray.of(raw)
        if matlab is not None and matlab.is_empty and holds_sizes(info):
            from . import leaves  # late, as hardly any file is described by its data

            info = matlab.without_elements(info, leaves.read(place.file, info))
        if info.shape is None and _is_scale(raw):
            contents.empty_scales.append(_leaf(name, place, info, raw))
            return
        reason = why_not_array(info, raw)
        if reason:
            contents.skipped.append(Skipped(path, reason))
            return
        if is_table(info):
            contents.members.append(_Member(name, place, "table", by_link))
            contents.infos[name], contents.raws[name] = info, raw
            return
        contents.leaves.append(_leaf(name, place, info, raw))
        contents.infos[name], contents.places[name] = info, place

    # -- data that lie elsewhere ------------------------------------------------------------------------------

    def _elsewhere(
        self, contents: _Contents, name: str, place: _Place, info: DatasetInfo, raw: Mapping[str, RawAttribute]
    ) -> DatasetInfo:
        """The dataset `name` whose data lie elsewhere, with where they do in `contents`."""
        if info.layout == "virtual":
            info, contents.parts[name] = self._parts(place, info, raw)
        else:
            info, contents.raw_files[name] = self._in_raw_files(place, info)
        return info

    def _parts(
        self, place: _Place, info: DatasetInfo, raw: Mapping[str, RawAttribute]
    ) -> tuple[DatasetInfo, tuple[Part[VariableSpec], ...]]:
        """A virtual dataset, as long as its sources make it, and its parts. Raises for sources that do not fit."""
        key = (place.file.path, place.address)
        if key in self._virtual:
            raise ValueError("its sources lead in circles")
        self._virtual.add(key)

        def find(file: str, dataset: str) -> VariableSpec:
            what = f"its source {printable(f'{file}:{dataset}')}"
            source = place.file if file == "." else self._external_file(place.file, ExternalTarget(file, dataset), what)
            return self._source(self._find(source, dataset), info, raw, what)

        def exists(file: str, dataset: str) -> bool:
            if file != ".":
                self._check_allowed(place.file, file, f"its source {printable(f'{file}:{dataset}')}")
            try:
                find(file, dataset)
            except MissingNodeError:
                return False
            return True

        from .mappings import describe_parts  # late, as few files have virtual datasets

        try:
            shape, parts = describe_parts(info.mappings, info.shape or (), find, exists)
        finally:
            self._virtual.remove(key)
        return replace(info, shape=shape), parts

    def _source(self, place: _Place, virtual: DatasetInfo, raw: Mapping[str, RawAttribute], what: str) -> VariableSpec:
        """An array that a virtual dataset takes elements from, shown as that dataset is."""
        info = place.file.dataset(place.address)
        if with_truth(virtual.datatype) is not virtual.datatype and virtual.datatype.kind == "bool":
            info = as_pytables(info)
        parts: tuple[Part[VariableSpec], ...] = ()
        raw_files: tuple[RawFile, ...] = ()
        if info.layout == "virtual":
            info, parts = self._parts(place, info, raw)
        elif info.external_files:
            info, raw_files = self._in_raw_files(place, info)
        if info.shape is None or not becomes(info.datatype, virtual.datatype):
            raise ValueError(f"{what} has another type: {named(info.datatype)}, expected {named(virtual.datatype)}")
        dtype, form, _, rows = meaning_of(info.datatype, raw, self._options)
        atom = info.datatype.shape
        return VariableSpec(
            file=place.file.path,
            path=place.path,
            name=posixpath.basename(place.path),
            info=info,
            shape=(*info.shape, *atom),
            dtype=dtype,
            dims=tuple(f"dim_{axis}" for axis in range(len(info.shape) + len(atom))),
            chunks=None if info.chunkshape is None else (*info.chunkshape, *atom),
            form=form,
            base_address=place.file.base_address,
            rows=rows,
            parts=parts,
            raw_files=raw_files,
        )

    def _in_raw_files(self, place: _Place, info: DatasetInfo) -> tuple[DatasetInfo, tuple[RawFile, ...]]:
        """A dataset whose bytes lie in other files, and those. A relative name counts from the folder of the file."""
        assert self._raw is not None  # `_add_member`
        found, left = [], math.prod(info.shape or ()) * info.datatype.itemsize
        for one in info.external_files:
            what = f"its data lie in the file {printable(one.name)}"
            self._check_allowed(place.file, one.name, what)
            try:
                path, whole = self._raw(place.file.path, one.name)
            except FileNotFoundError as error:
                raise MissingNodeError(f"{what}, but {error}") from None
            there = max(whole - one.offset, 0)
            size = there if one.size == UNLIMITED else one.size
            if min(size, left) > there:
                raise FormatError(f"{what}, which is too short: {there} bytes from {one.offset}, expected {size}")
            found.append(RawFile(path, one.offset, min(size, left)))
            left -= found[-1].size
        if left:
            raise FormatError(f"{left} bytes of its data are missing: the files that it names are too short")
        return replace(info, offset=0), tuple(found)

    def _dataset(self, place: _Place) -> DatasetInfo:
        info = place.file.dataset(place.address)
        if info.fill_off and self._is_netcdf(place.file):
            info = as_netcdf(info)
        return as_pytables(info) if self._is_by_pytables(place.file) else info

    def _described(self, place: _Place, contents: _Contents) -> GroupSpec:
        scales = Scales.of((*contents.leaves, *contents.empty_scales))
        self._scales[place.file.path, place.path] = scales
        problems: list[str] = []
        resolved = dimensions.resolve(
            contents.leaves,
            scales.over(self._outer_scales(place, contents.leaves, scales)),
            dims=self._options.dims,
            phony_dims=self._options.phony_dims,
            where=place.file.name,
            numbered=self._numbered(place, contents),
        )
        problems.extend(f"{place.file.name}: {problem}" for problem in resolved.problems)
        variables = []
        for leaf in contents.leaves:
            if leaf.is_only_dimension or leaf.variable_name in self._options.drop_variables:
                continue
            info, at = contents.infos[leaf.name], contents.places[leaf.name]
            shape = resolved.shapes.get(leaf.name, leaf.shape)
            spec, said = self._variable(
                leaf,
                at,
                info,
                resolved.names[leaf.name],
                shape,
                parts=contents.parts.get(leaf.name, ()),
                raw_files=contents.raw_files.get(leaf.name, ()),
                repeated=resolved.repeated.get(leaf.name, ()),
            )
            variables.append(spec)
            problems.extend(said)
        raw, said = _group_attributes(place)
        problems.extend((*contents.problems, *said))
        coordinates: frozenset[Hashable] = frozenset()
        if contents.pandas_object is not None:
            variables, coordinates, said = self._with_columns(place, contents.pandas_object, variables)
            problems.extend(said)
            raw = dict(contents.pandas_object.attributes)
        user = attributes.read(
            raw, by_pytables=self._is_by_pytables(place.file), allow_pickle=self._options.allow_pickle
        )
        problems.extend(f"{place.label}: {problem}" for problem in user.problems)
        return GroupSpec(
            file=place.file.path,
            path=place.path,
            variables=tuple(variables),
            attributes=user.values,
            scales={
                leaf.name: Scale(
                    resolved.shapes.get(leaf.name, leaf.shape)[0],
                    leaf.netcdf4_id,
                    leaf.extendable[0],
                )
                for leaf in contents.leaves
                if leaf.is_scale and len(leaf.shape) == 1
            },
            skipped=tuple(contents.skipped),
            problems=tuple(problems),
            groups=tuple(member.name for member in contents.members if member.kind == "group"),
            tables=tuple(member.name for member in contents.members if member.kind == "table"),
            datatypes=tuple(contents.datatypes),
            coordinates=coordinates,
            row_dim="" if contents.pandas_object is None else contents.pandas_object.frame.dim,
            is_pandas_object=contents.pandas_object is not None,
        )

    def _one_leaf(self, place: _Place) -> GroupSpec:
        """The dataset of one leaf: a table's columns, or one array."""
        info = self._dataset(place)
        if not is_table(info):
            return self._one_array(place)
        return self._table(place, info, place.file.attributes(place.address))

    def _table(self, place: _Place, info: DatasetInfo, raw: Mapping[str, RawAttribute]) -> GroupSpec:
        """A table as a dataset of its columns."""
        options = self._options
        columns = describe_columns(
            place.path,
            info,
            raw,
            row_dim=self._row_dim(place, info, raw),
            drop=frozenset(name for name in options.drop_variables if isinstance(name, str)),
        )
        rows, grows = (info.shape or ()), tuple(size == UNLIMITED for size in info.maxshape)
        leaves = [
            Leaf(
                name=column.name,
                path=posixpath.join(place.path, column.name),
                shape=(*rows, *column.datatype.shape),
                extendable=(*grows, *(False for _ in column.datatype.shape)),
                raw=column.raw,
                file=place.file.path,
                keeps_name=True,
            )
            for column in columns.shown
        ]
        resolved = dimensions.resolve(
            leaves, Scales(), dims=options.dims, phony_dims=options.phony_dims, where=place.file.name
        )
        problems = [f"{place.file.name}: {problem}" for problem in resolved.problems]
        variables = []
        for leaf, column in zip(leaves, columns.shown, strict=True):
            spec, said = self._variable(leaf, place, info, resolved.names[leaf.name], leaf.shape, column)
            variables.append(spec)
            problems.extend(said)
        user = attributes.read(
            columns.raw, by_pytables=self._is_by_pytables(place.file), allow_pickle=options.allow_pickle
        )
        problems.extend(f"{place.label}: {problem}" for problem in user.problems)
        skipped = [Skipped(posixpath.join(place.path, name), reason) for name, reason in columns.left_out]
        return GroupSpec(
            file=place.file.path,
            path=place.path,
            variables=tuple(variables),
            attributes=user.values,
            skipped=tuple(skipped),
            problems=tuple(problems),
            row_dim=columns.row_dim,
        )

    def _row_dim(self, place: _Place, info: DatasetInfo, raw: Mapping[str, RawAttribute]) -> str | None:
        """The name of a table's rows that `dims` gives, or the scale that is attached to them."""
        dims = self._options.dims
        given = dims.get(posixpath.basename(place.path), dims.get(place.path, dims.get(dimensions.ONE_ARRAY)))
        if given is not None:
            return _checked_row_dim(given, place)
        if not _refers_to_scales(raw):
            return None
        leaf = _leaf(posixpath.basename(place.path), place, info, raw)
        parent = self._find(place.file, posixpath.dirname(place.path))
        own = self._scales_of(parent)
        names, _ = dimensions.recorded_names(leaf, own.over(self._outer_scales(parent, [leaf], own)))
        return names[0]

    def _one_array(self, place: _Place) -> GroupSpec:
        """The dataset of one leaf: named and with dimensions as its group would show it, without its siblings."""
        name = posixpath.basename(place.path)
        parent_path = posixpath.dirname(place.path)
        contents = _Contents([], [], {}, {}, {}, [])
        parent = self._find(place.file, parent_path)
        try:
            self._add_member(contents, place.path, name, place, by_link=False)
        except (MissingNodeError, ValueError) as error:  # of a source
            raise type(error)(f"{place.file.name}: {place.path!r} cannot be opened: {error}") from error
        if not contents.leaves:
            reason = contents.skipped[0].reason if contents.skipped else "it is a dimension without a size"
            raise ValueError(f"{place.file.name}: {shortened(place.path)!r} cannot be opened: {reason}")
        scales = self._scales_of(parent) if _refers_to_scales(contents.leaves[0].raw) else Scales.of(contents.leaves)
        resolved = dimensions.resolve(
            contents.leaves,
            scales.over(self._outer_scales(parent, contents.leaves, scales)),
            dims=self._options.dims,
            phony_dims=self._options.phony_dims,
            where=place.file.name,
            numbered=self._numbered(parent, None),
        )
        spec, problems = self._variable(
            contents.leaves[0],
            place,
            contents.infos[name],
            resolved.names[name],
            contents.leaves[0].shape,
            parts=contents.parts.get(name, ()),
            raw_files=contents.raw_files.get(name, ()),
        )
        return GroupSpec(place.file.path, place.path, (spec,), {}, problems=(*resolved.problems, *problems))

    # -- pandas objects ---------------------------------------------------------------------------------------

    def _add_pandas_object(self, contents: _Contents, place: _Place) -> None:
        """Describe the pandas object that a group is marked as; if it is none that is known, say why."""
        from . import frames, hdfstore, safe_pickle  # late, as most files have no pandas object

        try:
            contents.pandas_object = hdfstore.describe(place.file, place.path, allow_pickle=self._options.allow_pickle)
        except (frames.UnknownLayoutError, safe_pickle.UnsafePickleError, safe_pickle.NotAPickleError) as error:
            reason = f"marked as a pandas object, but shown as a plain group: {error}"
            contents.problems.append(f"{place.label}: {reason}")

    def _with_columns(
        self, place: _Place, found: hdfstore.PandasObject, others: Sequence[VariableSpec]
    ) -> tuple[list[VariableSpec], frozenset[Hashable], list[str]]:
        """The variables of a pandas object, and of those `others` in its group that are not in their way."""
        frame, where = found.frame, place.label
        problems = [f"{where}: {problem}" for problem in frame.problems]
        columns = [
            self._column(place, found, column)
            for column in (*frame.index, *frame.columns)
            if column.name not in self._options.drop_variables
        ]
        names = {column.name for column in columns}
        for other in others:
            if other.name in names or frame.dim in (other.name, *other.dims):
                problems.append(f"{where}: the array {other.path!r} is not shown: a pandas object uses its names")
            else:
                columns.append(other)
        return columns, frame.coordinates & names, problems

    def _column(self, place: _Place, found: hdfstore.PandasObject, column: frames.Column) -> VariableSpec:
        info = found.infos[column.array]
        decoding = replace(column.decoding, unpickle=self._options.allow_pickle)
        return VariableSpec(
            file=place.file.path,
            path=found.paths[column.array],
            name=column.name,
            info=info,
            shape=(column.rows,),
            dtype=column.dtype,
            dims=(found.frame.dim,),
            chunks=None if info.chunkshape is None else info.chunkshape[:1],
            attributes=dict(column.attributes),
            base_address=place.file.base_address,
            decoding=decoding,
            member=() if column.member is None else (column.member,),
            element=_member_type(info, column.member),
            item=() if column.item is None else (column.item,),
            categories=None if column.categories is None else self._column(place, found, column.categories),
        )

    # -- dimensions and variables ---------------------------------------------------------------------------

    def _outer_scales(self, place: _Place, leaves: Sequence[Leaf], own: Scales) -> Scales:
        """The scales of the enclosing groups, looked up only if some leaf refers to one that is not its group's."""
        outer, path = Scales(), place.path
        strays = [leaf for leaf in leaves if not own.known(leaf)]
        while path != "/" and strays:
            path = posixpath.dirname(path)
            outer = outer.over(self._scales_of(_Place(place.file, *place.file.resolve(path))))
            known = own.over(outer)
            strays = [leaf for leaf in strays if not known.known(leaf)]
        for file in {leaf.file for leaf in strays if "DIMENSION_LIST" in leaf.raw}:  # they lie in other groups
            outer = outer.over(self._all_paths(file))
        return outer

    def _numbered(self, place: _Place, contents: _Contents | None) -> list[dimensions.Sized]:
        """The dimensions that arrays of the group take names from, if they are numbered through the file."""
        mode = self._options.phony_dims
        if mode not in ("sort", "access"):
            return []
        file = place.file
        if mode == "sort" or self._whole_tree:
            if file.path not in self._numbers:
                self._numbers[file.path] = self._counted(self._all_groups(file))
            before = self._numbers[file.path].get(place.address, (0, 0))
        else:
            before = self._counted((*self._groups_above(place), place))[place.address]
        contents = contents or self._contents(place)
        _, own = _numbered_in(contents, 0)  # "sort" leaves room for the ids of the scales
        return _numbered_in(contents, before[0] + (before[1] + own if mode == "sort" else 0))[0]

    def _counted(self, places: Iterable[_Place]) -> dict[int, tuple[int, int]]:
        """For each of the groups, by address, how many numbered dimensions and scales those before it have."""
        found, made_up, scales = {}, 0, 0
        for place in places:
            found[place.address] = made_up, scales
            every, own = _numbered_in(self._contents(place), 0)
            made_up, scales = made_up + len(every) - own, scales + own
        return found

    def _groups_above(self, place: _Place) -> Iterator[_Place]:
        """The groups on the way to a group, from the root on."""
        names = [name for name in place.path.split("/") if name]
        for depth in range(len(names)):
            yield self._find(place.file, "/" + "/".join(names[:depth]))

    def _all_groups(self, file: File) -> Iterator[_Place]:
        """All groups of a file, each before those in it."""
        todo, seen = [self._find(file, "/")], set[int]()
        while todo:
            place = todo.pop()
            if place.address in seen:
                continue
            seen.add(place.address)
            yield place
            members = self._contents(place).members
            todo += [member.place for member in reversed(members) if member.kind == "group" and not member.by_link]

    def _scales_of(self, place: _Place) -> Scales:
        """The dimension scales of a group."""
        key = (place.file.path, place.path)
        if key not in self._scales:
            contents = self._contents(place)
            self._scales[key] = Scales.of((*contents.leaves, *contents.empty_scales))
        return self._scales[key]

    def _all_paths(self, file: str) -> Scales:
        """All objects of a file as scales, named as the nodes that they are: which of them are is said by those who
        refer to them."""
        if file not in self._paths:
            paths = self._files[file].paths()
            self._paths[file] = Scales(
                {(file, at): posixpath.basename(path) for at, path in paths.items() if path != "/"}
            )
        return self._paths[file]

    def _variable(
        self,
        leaf: Leaf,
        place: _Place,
        info: DatasetInfo,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        column: Column | None = None,
        parts: tuple[Part[VariableSpec], ...] = (),
        raw_files: tuple[RawFile, ...] = (),
        repeated: tuple[str, ...] = (),
    ) -> tuple[VariableSpec, list[str]]:
        datatype = info.datatype if column is None else column.datatype
        user = attributes.read(
            leaf.raw, by_pytables=self._is_by_pytables(place.file), allow_pickle=self._options.allow_pickle
        )
        unlimited = tuple(dim for dim, grows in zip(dims, leaf.extendable, strict=True) if grows)
        dtype, form, added, rows = meaning_of(datatype, leaf.raw, self._options)
        matlab = MatlabArray.of(leaf.raw) if column is None else None
        if matlab is not None and matlab.is_text(info):
            dtype, form = TEXT, Form.UTF16
        elif matlab is not None:
            dtype = np.dtype(bool) if matlab.is_truth(info) else dtype
            dims, shape = dims[::-1], shape[::-1]
        chunks = None
        if info.chunkshape is not None:
            chunks = (*info.chunkshape, *datatype.shape)
        spec = VariableSpec(
            file=place.file.path,
            path=place.path,
            name=leaf.variable_name,
            info=info,
            shape=shape,
            dtype=dtype,
            dims=dims,
            chunks=chunks,
            form=form,
            attributes={**user.values, **added},
            unlimited_dims=unlimited,
            repeated_dims=repeated,
            base_address=place.file.base_address,
            characters=(column is None and not self._is_by_pytables(place.file))
            or attributes.text(leaf.raw.get(attributes.TEXT_MARKER)) == "characters",
            reverse=matlab is not None and form is not Form.UTF16,
            rows=rows,
            ragged=self._options.ragged,
            member=() if column is None else column.member,
            element=None if column is None else datatype,
            parts=parts,
            raw_files=raw_files,
        )
        return spec, [f"{place.label}: {problem}" for problem in user.problems]

    def _is_by_pytables(self, file: File) -> bool:
        return self._makers(file)[0]

    def _is_netcdf(self, file: File) -> bool:
        return self._makers(file)[1]

    def _makers(self, file: File) -> tuple[bool, bool]:
        """Whether PyTables, and whether a library of netCDF-4, left its mark on a file."""
        if file.path not in self._made_by:
            root, _ = _group_attributes(_Place(file, "/", file.root))
            self._made_by[file.path] = attributes.format_version(root) is not None, is_netcdf(root)
        return self._made_by[file.path]


def _filled_up(found: list[tuple[str, GroupSpec]]) -> list[tuple[str, GroupSpec]]:
    """The groups of a tree, their arrays as long as the longest that has the same growing dimension of a group above.

    As `dimensions.resolve` does it for the arrays of one group, and netCDF-4 for all of a file.
    """
    declared = {(spec.file, spec.path): spec.scales for _, spec in found if spec.scales}
    if len(found) < 2 or not any(scale.extensible for scales in declared.values() for scale in scales.values()):
        return found
    lengths: dict[tuple[str, str, str], int] = {}
    fixed: set[tuple[str, str, str]] = set()

    def owner(spec: GroupSpec, dim: str) -> tuple[str, str, str]:
        path = spec.path
        while path != "/" and dim not in declared.get((spec.file, path), {}):
            path = posixpath.dirname(path)
        return spec.file, path, dim

    for _, spec in found:
        for name, scale in spec.scales.items():
            key = (spec.file, spec.path, name)
            lengths[key] = max(scale.size, lengths.get(key, 0))
            if not scale.extensible:
                fixed.add(key)
        for variable in spec.variables:
            for dim, size in zip(variable.dims, variable.shape, strict=True):
                key = owner(spec, dim)
                lengths[key] = max(size, lengths.get(key, 0))
                if dim not in variable.unlimited_dims or key[2] not in declared.get(key[:2], {}):
                    fixed.add(key)

    def full(spec: GroupSpec, dim: str, size: int) -> int:
        key = owner(spec, dim)
        return size if key in fixed else lengths.get(key, size)

    filled = []
    for relative, spec in found:
        variables = tuple(
            replace(one, shape=tuple(full(spec, *sized) for sized in zip(one.dims, one.shape, strict=True)))
            for one in spec.variables
        )
        scales = {dim: replace(scale, size=full(spec, dim, scale.size)) for dim, scale in spec.scales.items()}
        filled.append((relative, replace(spec, variables=variables, scales=scales)))
    return filled


def _checked_row_dim(given: Sequence[str] | None, place: _Place) -> str | None:
    """The name that the argument `dims` gives to the rows of the table at `place`."""
    if given is None:
        return None
    if len(given) != 1 or not all(isinstance(name, str) and name for name in given):
        raise ValueError(
            f"{place.file.name}: dims[{posixpath.basename(place.path)!r}] must be one name, for the rows of the table "
            f"{place.path!r}, not {given!r}; the dimensions of a column are named by dims[<column>]"
        )
    return given[0]


def _leaf(name: str, place: _Place, info: DatasetInfo, raw: Mapping[str, RawAttribute]) -> Leaf:
    shape = info.shape or ()
    atom = info.datatype.shape
    is_ragged = info.datatype.kind == "vlen" and len(shape) == 1
    whole = (*shape, *atom)
    extendable = (*(size == UNLIMITED for size in info.maxshape), *(False for _ in atom))
    matlab = MatlabArray.of(raw)
    if matlab is not None and not matlab.is_text(info):  # named in the order in which the user sees them
        whole, extendable = whole[::-1], extendable[::-1]
    return Leaf(
        name=name,
        path=place.path,
        shape=whole,
        extendable=extendable,
        raw=raw,
        address=place.address,
        file=place.file.path,
        made_up=(f"{name}_row",) if is_ragged else (),
    )


def _group_attributes(place: _Place) -> tuple[dict[str, RawAttribute], list[str]]:
    """A group's attributes; where they cannot be read, none, and a sentence that says so."""
    try:
        return place.file.attributes(place.address), []
    except OSError as error:  # costs none of the group's arrays
        reason = _reason(error, place.file.path)
        return {}, [f"{place.label}: the group's attributes cannot be read: {reason}"]


def _member_type(info: DatasetInfo, member: str | None) -> Datatype | None:
    return next((field.datatype for field in info.datatype.fields if field.name == member), None)


def _numbered_in(contents: _Contents, first: int) -> tuple[list[dimensions.Sized], int]:
    """The dimensions of a group, and how many of them are scales."""
    scales = sum(leaf.is_scale and bool(leaf.shape) for leaf in contents.leaves)
    return dimensions.number_dimensions(contents.leaves, contents.unnamed, first), scales


def _refers_to_scales(raw: Mapping[str, RawAttribute]) -> bool:
    return "DIMENSION_LIST" in raw or "_Netcdf4Coordinates" in raw


def _is_scale(raw: Mapping[str, RawAttribute]) -> bool:
    return attributes.text(raw.get("CLASS")) == "DIMENSION_SCALE"


def _reason(error: Exception, file: str) -> str:
    return str(error).removeprefix(f"{printable(file)}: ") or type(error).__name__
