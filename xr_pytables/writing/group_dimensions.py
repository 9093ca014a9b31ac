"""The dimensions of the groups that are written: which there are, which are new, which grow.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from xarray import Dataset

from ..model.specs import GroupSpec, Scale
from ..sources.warning import warn
from .here import Here, are_named, is_named
from .plans import Attachment, DimensionPlan, Existing, GroupPlan, VariablePlan

_Key: TypeAlias = tuple[str, str]
"""A group and the name of a dimension that it declares."""


class Dimensions:
    """Where the scale of each dimension is, and its id: in the file, and as planned so far."""

    def __init__(self, existing: Existing) -> None:
        self._scales = {(path, name): scale for path, spec in existing.items() for name, scale in spec.scales.items()}
        numbers = [scale.number for scale in self._scales.values() if scale.number is not None]
        self._next = max(numbers, default=-1) + 1
        self._waiting = _waiting(self._scales, existing)
        for key in self._waiting:
            del self._scales[key]
        along = [
            (path, name) for path, spec in existing.items() for array in spec.variables for name in array.unlimited_dims
        ]
        self._growing = {found[0] for found in (self.find(path, name) for path, name in along) if found}

    def of_group(self, group: str) -> dict[str, Scale]:
        """The dimensions that `group` itself declares."""
        return {name: scale for (path, name), scale in self._scales.items() if path == group}

    def find(self, group: str, name: str) -> tuple[str, Scale] | None:
        """Path of the scale and the scale, in `group` or the nearest group above that has it.

        None if the nearest one waits for values: for netCDF-4 it hides those further above.
        """
        key = _nearest((self._scales, self._waiting), group, name)
        return (posixpath.join(*key), self._scales[key]) if key in self._scales else None

    def waits(self, group: str, name: str) -> bool:
        """Whether `group` declares an unlimited dimension that nothing has yet: it takes any size, and is made anew."""
        return (group, name) in self._waiting

    def resize(self, scale: str, size: int) -> None:
        """The dimension of the scale at that path has another size from now on, and can grow."""
        key = posixpath.dirname(scale), posixpath.basename(scale)
        self._scales[key] = replace(self._scales[key], size=size)
        self._growing.add(scale)

    def grows(self, scale: str) -> bool:
        """Whether arrays that use the scale at that path are unlimited along it."""
        return scale in self._growing

    def declare(self, group: str, name: str, size: int, *, grows: bool) -> int:
        """A new dimension of `group`; its id.

        One that waits for values keeps its own: arrays that are not shown here may have it.
        """
        waiting = self._waiting.get((group, name))
        number = self._next if waiting is None or waiting.number is None else waiting.number
        self._next = max(self._next, number + 1)
        self._scales[group, name] = Scale(size, number, extensible=grows)
        if grows:
            self._growing.add(posixpath.join(group, name))
        return number

    def attached(self, group: str, dims: Iterable[str]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
        """Paths and ids of the scales of an array in `group`; no paths if some dimension has none."""
        found = [self.find(group, dim) for dim in dims]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return (), None
        numbers = tuple(scale.number for _, scale in known if scale.number is not None)
        return tuple(path for path, _ in known), numbers if len(numbers) == len(known) else None


def _nearest(declared: Sequence[Mapping[_Key, Scale]], group: str, name: str) -> _Key:
    """Which dimension a name means in `group`: that of the nearest group, itself or above; of "/" if none has it."""
    while group != "/" and not any((group, name) in scales for scales in declared):
        group = posixpath.dirname(group)
    return group, name


def _waiting(scales: Mapping[_Key, Scale], existing: Existing) -> dict[_Key, Scale]:
    """The unlimited dimensions without length that no array has."""
    used = {
        _nearest((scales,), path, name)
        for path, spec in existing.items()
        for array in spec.variables
        for name in array.dims
    }
    return {key: scale for key, scale in scales.items() if not scale.size and scale.extensible and key not in used}


def check_sizes(dataset: Dataset, where: object) -> None:
    """Raise ValueError, which begins with `where`, for a dimension whose size only a computation tells."""
    unknown = [dim for dim, size in dataset.sizes.items() if size != size]
    if unknown:
        raise ValueError(
            f"{where}: dimension {unknown[0]!r} has Dask blocks of unknown sizes. Call compute_chunk_sizes() on the "
            "Dask array before"
        )


def growing_dims(
    dataset: Dataset,
    sizes: Mapping[str, int],
    asked: frozenset[str],
    dimensions: Dimensions,
    here: Here,
    *,
    strict: bool,
) -> frozenset[str]:
    """The dimensions along which arrays shall be able to grow: where the file has a dimension, as it is there.

    Arrays along one dimension must agree. Raises ValueError if they would not, and the user (`strict`) asked for it.
    """
    grows = set()
    for name, size in sizes.items():
        found = dimensions.find(here.path, name)
        own = name in dimensions.of_group(here.path)
        coordinate = name in dataset.variables and dataset.variables[name].dims == (name,)
        if found is None or not (own or (not coordinate and found[1].size == size)):
            grows |= {name} if dimensions.waits(here.path, name) else {name} & asked
        elif dimensions.grows(found[0]):
            grows.add(name)
        elif name in asked and strict:
            raise ValueError(
                f"{here}: dimension {name!r} is {found[0]} in the file, which cannot grow, so that unlimited_dims "
                "cannot name it. Write all of the file with mode='w', or to a group with a dimension of its own"
            )
    return frozenset(grows)


def newly_growing(here: Here, dimensions: Dimensions) -> frozenset[str]:
    """The dimension that is appended along, if arrays of the file have it and no scale stands for it yet."""
    append_dim = here.placement.append_dim if here.placement is not None else None
    is_new = append_dim is not None and dimensions.find(here.path, append_dim) is None
    return frozenset({append_dim} if append_dim is not None and is_new else ())


def checked_unlimited(dataset: Dataset, given: Any, here: Here) -> frozenset[str]:
    asked, origin = given, "unlimited_dims-kwarg"
    if asked is None:
        asked, origin = dataset.encoding.get("unlimited_dims") or (), "dataset.encoding"
    wanted = {asked} if isinstance(asked, str) or not isinstance(asked, Iterable) else set(asked)
    undeclared = wanted - set(dataset.sizes)
    if undeclared:
        message = (
            f"{here}: Unlimited dimension(s) {sorted(map(str, undeclared))} declared in {origin!r}, but not part of"
        )
        message += f" current dataset dimensions {tuple(dataset.sizes)}"
        if given is not None:
            raise ValueError(message)
        if here.existing is None:  # else they are about the file that is there
            warn(message)
    return frozenset(str(dim) for dim in wanted - undeclared)


def own_dimensions(
    plans: Iterable[VariablePlan],
    dataset_sizes: Mapping[str, int],
    unlimited: frozenset[str],
    dimensions: Dimensions,
    here: Here,
) -> tuple[DimensionPlan, ...]:
    """The dimensions that this group must declare: not those that the file or a group above has already.

    Nor those of arrays that stay in the file and name none.
    """
    sizes: dict[str, int] = {}
    coordinates = {plan.name for plan in plans if plan.is_coordinate}
    unnamed: set[str] = set()
    for plan in plans:
        stays = plan.stored if plan.action in ("put", "keep") else None
        named = (True,) * len(plan.dims) if stays is None else are_named(stays, here)
        sizes.update(itertools.compress(zip(plan.dims, plan.layout.shape, strict=True), named))
        unnamed.update(dim for dim, known in zip(plan.dims, named, strict=True) if not known)
    others = set(dataset_sizes).difference(sizes, unnamed)
    sizes.update({dim: size for dim, size in dataset_sizes.items() if dim in unlimited & others})
    present = dimensions.of_group(here.path)
    own = []
    for name, size in sizes.items():
        if name in present:
            if present[name].size != size:
                raise ValueError(
                    f"{here}: Unable to update size for existing dimension {name!r} ({size} != {present[name].size}). "
                    "Write to another group, or all of it with mode='w'"
                )
            continue
        above = dimensions.find(here.path, name)
        if name in coordinates or above is None or above[1].size != size:
            own.append(
                DimensionPlan(
                    name, size, name in unlimited, dimensions.declare(here.path, name, size, grows=name in unlimited)
                )
            )
    return tuple(own)


def check_not_above(append_dim: str, here: Here, existing: Existing, dimensions: Dimensions) -> None:
    """Raise ValueError for a new group below one that has the dimension: it would be shorter than that."""
    above = here.path
    while here.existing is None and above != "/":
        above = posixpath.dirname(above)
        if dimensions.waits(above, append_dim):
            return
        if above in existing and append_dim in dimensions_of(existing[above]):
            raise ValueError(
                f"{here} is not in the file, and the group {above!r} has the dimension {append_dim!r} already: what "
                "the new group has before the appended values is not known. Write it with mode='a' in the full size"
            )


def dimensions_of(group: GroupSpec | None) -> set[str]:
    if group is None:
        return set()
    return {*group.scales, *(dim for spec in group.variables for dim in spec.dims)}


def sizes_in_file(dataset: Dataset, here: Here, dimensions: Dimensions) -> dict[str, int]:
    """The sizes of the dataset's dimensions; where its values are a part of what is in the file, those there."""
    sizes = {str(dim): size for dim, size in dataset.sizes.items()}
    if here.placement is None:
        return sizes
    for dim in {*here.placement.region, *filter(None, [here.placement.append_dim])} & set(sizes):
        found = dimensions.find(here.path, dim)
        if found is not None:
            sizes[dim] = found[1].size
    return sizes


def grown_scales(
    plans: Sequence[VariablePlan], here: Here, dimensions: Dimensions
) -> tuple[tuple[tuple[str, int], ...], tuple[DimensionPlan, ...]]:
    """Scales without values that grow with the arrays of the plan: as they are, and those to be made anew for that."""
    append_dim = here.placement.append_dim if here.placement is not None else None
    found = dimensions.find(here.path, append_dim) if append_dim is not None else None
    if found is None or append_dim is None:
        return (), ()
    sizes = {
        size
        for plan in plans
        for dim, size in zip(plan.dims, plan.layout.shape, strict=True)
        if dim == append_dim and plan.action in ("put", "replace")
    }
    scale, size = found[0], max(sizes, default=found[1].size)
    if size == found[1].size:
        return (), ()
    has_values = here.variable(append_dim) is not None
    could_grow = dimensions.grows(scale) and (has_values or found[1].extensible)
    if not could_grow and posixpath.dirname(scale) != here.path:
        raise ValueError(
            f"{here}: append_dim={append_dim!r} is {scale} in the file, of a group above, and cannot grow. Append to "
            "that group first, or write all of the file with mode='w'"
        )
    dimensions.resize(scale, size)
    if posixpath.dirname(scale) == here.path and has_values:
        return (), ()
    if could_grow:
        return ((scale, size),), ()
    return (), (DimensionPlan(append_dim, size, True, found[1].number),)


def check_all_grow(
    path: str, append_dim: str, planned: Sequence[GroupPlan], existing: Existing, dimensions: Dimensions
) -> None:
    """Raise ValueError if an array in the file would stay short along the dimension that others grow along.

    One that is written under another of its names (hard links) grows with that, but cannot be made anew.
    """
    plans = {posixpath.join(group.path, plan.name): plan for group in planned for plan in group.variables}
    written = {plan.stored.info.address: path for path, plan in plans.items() if plan.stored}
    for spec in (spec for group in existing.values() for spec in group.variables):
        other = written.get(spec.info.address, spec.path)
        if other != spec.path and plans[other].action == "replace":
            raise ValueError(
                f"{path}:{other}: the array cannot grow along {append_dim!r}, so that appending makes it anew, and "
                f"{spec.path!r} is another name of it (a hard link), which would keep the old one. Delete one of the "
                "names, or write to a new file"
            )
    before = Dimensions(existing)
    after = [dimensions.find(group.path, append_dim) for group in planned]
    sizes = {found[0]: found[1].size for found in after if found}
    for group_path, group in existing.items():
        found = before.find(group_path, append_dim)
        size = sizes.get(found[0] if found else posixpath.join(group_path, append_dim))  # a scale is made for arrays
        if size is None or not (found or is_named(append_dim, group)):
            continue
        short = [
            spec.path
            for spec in group.variables
            if spec.path not in plans
            and spec.info.address not in written
            and dict(zip(spec.dims, spec.shape, strict=True)).get(append_dim, size) != size
        ]
        if short:
            raise ValueError(
                f"{path}: {', '.join(map(repr, short))} has the dimension {append_dim!r} as well and is not in the "
                "dataset that is appended: it would stay short. Append to all arrays along a dimension in one call"
            )


def attachments_of(planned: Iterable[GroupPlan], existing: Existing, dimensions: Dimensions) -> tuple[Attachment, ...]:
    """Arrays in the file that refer to a dimension scale which is going to be another object."""
    attached = {  # by the way in which they are written
        posixpath.join(group.path, plan.name)
        for group in planned
        for plan in group.variables
        if plan.action not in ("put", "keep")
    }
    moved = {
        posixpath.join(group.path, plan.name)
        for group in planned
        for plan in group.variables
        if plan.action == "replace"
    }
    given_up = {posixpath.join(group.path, name) for group in planned for name in group.removed}
    moved |= given_up
    found = []
    for path, group in existing.items():
        for spec in group.variables:
            scales, numbers = dimensions.attached(path, spec.dims)
            if spec.path not in attached | given_up and moved & set(scales) and posixpath.dirname(spec.path) == path:
                found.append(Attachment(spec.path, scales, numbers))
    return tuple(found)
