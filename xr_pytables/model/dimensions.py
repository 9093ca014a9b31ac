"""Names of dimensions: how other writers record them, and how this project does.

An ordered list of conventions, each a function from a leaf to the names it gives. Knows attributes, shapes and the
dimension scales of a group and its ancestors; knows no data and no xarray.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ..hdf5.attributes import RawAttribute, Reference
from . import attributes

PhonyDims = Literal["size", "leaf", "sort", "access"]
ONE_ARRAY: Final = ""
"""In place of the name of an array: `dims` are for the one array that there is."""
Names = tuple[str | None, ...]
Sized = tuple[str, int]
"""A dimension's name and size."""

NOT_A_VARIABLE: Final = "This is a netCDF dimension but not a netCDF variable."
"""How netCDF-4 begins the NAME of a dimension scale that only carries a dimension (netCDF-4 file format)."""
NON_COORDINATE_PREFIX: Final = "_nc4_non_coord_"
"""What netCDF-4 puts before a variable that is named as a dimension of its group but does not describe it."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What naming the dimensions of one array needs to know of it."""

    name: str
    path: str
    shape: tuple[int, ...]
    """Elements, with the atom's own dimensions at the end."""
    extendable: tuple[bool, ...]
    """For each dimension of `shape`, whether it may grow."""
    raw: Mapping[str, RawAttribute] = field(repr=False)
    address: int = 0
    """Of the object header: what DIMENSION_LIST refers to."""
    file: str = ""
    """The file that holds it (a group may show arrays of other files): addresses and ids mean something there only."""
    keeps_name: bool = False
    """A sibling has the name that `variable_name` would give it."""
    made_up: tuple[str, ...] = ()
    """Names for dimensions that nobody names, where their size says nothing."""

    @property
    def is_scale(self) -> bool:
        """Whether it is an HDF5 dimension scale."""
        return attributes.text(self.raw.get("CLASS")) == "DIMENSION_SCALE"

    @property
    def is_only_dimension(self) -> bool:
        """Whether it stands for a dimension without values: hidden from the user."""
        return self.is_scale and (attributes.text(self.raw.get("NAME")) or "").startswith(NOT_A_VARIABLE)

    @property
    def netcdf4_id(self) -> int | None:
        """The id of the dimension that it is a scale of."""
        return (attributes.numbers(self.raw.get("_Netcdf4Dimid")) or (None,))[0]

    @property
    def variable_name(self) -> str:
        """The name a user knows it by."""
        return self.name if self.keeps_name else self.name.removeprefix(NON_COORDINATE_PREFIX)


@dataclass(frozen=True)
class Scales:
    """The dimension scales that the variables of one group may refer to."""

    by_address: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Keys are the file and the address of the object header."""
    by_id: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Keys are the file and the netCDF-4 dimension id, unique in it."""

    @classmethod
    def of(cls, leaves: Iterable[Leaf]) -> Scales:
        """The scales among `leaves`."""
        by_address, by_id = {}, {}
        for leaf in leaves:
            if not leaf.is_scale:
                continue
            by_address[leaf.file, leaf.address] = leaf.name
            if leaf.netcdf4_id is not None:
                by_id[leaf.file, leaf.netcdf4_id] = leaf.name
        return cls(by_address, by_id)

    def known(self, leaf: Leaf) -> bool:
        """Whether all scales that a leaf refers to are among these."""
        listed = leaf.raw.get("DIMENSION_LIST")
        if listed is not None and isinstance(listed.value, list):
            return all(not row or any((leaf.file, to.address) in self.by_address for to in row) for row in listed.value)
        numbers = attributes.numbers(leaf.raw.get("_Netcdf4Coordinates")) or ()
        return all((leaf.file, number) in self.by_id for number in numbers)

    def over(self, outer: Scales) -> Scales:
        """These and, behind them, those of the enclosing groups."""
        return Scales({**outer.by_address, **self.by_address}, {**outer.by_id, **self.by_id})


Convention = Callable[[Leaf, Scales], Names | None]


def _dimension_list(leaf: Leaf, scales: Scales) -> Names | None:
    """HDF5 Dimension Scale specification: for each dimension, references to its scales; the first gives the name."""
    raw = leaf.raw.get("DIMENSION_LIST")
    if raw is None or not isinstance(raw.value, list):
        return None
    return tuple(_first_known(references, leaf.file, scales) for references in raw.value)


def _first_known(references: Sequence[Reference], file: str, scales: Scales) -> str | None:
    for reference in references:
        if (file, reference.address) in scales.by_address:
            return scales.by_address[file, reference.address]
    return None


def _netcdf4_ids(leaf: Leaf, scales: Scales) -> Names | None:
    """What netCDF-4 libraries leave on each variable beside DIMENSION_LIST: the ids of its dimensions."""
    ids = attributes.numbers(leaf.raw.get("_Netcdf4Coordinates"))
    if ids is None:
        return None
    return tuple(scales.by_id.get((leaf.file, number)) for number in ids)


def _own_scale(leaf: Leaf, scales: Scales) -> Names | None:
    """A scale of one dimension names that dimension."""
    return (leaf.name,) if leaf.is_scale and len(leaf.shape) == 1 else None


def _array_dimensions(leaf: Leaf, scales: Scales) -> Names | None:
    """The attribute of Zarr version 2, which some HDF5 writers borrow; an empty name is none."""
    return attributes.names(leaf.raw.get("_ARRAY_DIMENSIONS"))


def _labels(leaf: Leaf, scales: Scales) -> Names | None:
    """HDF5 dimension labels (H5DSset_label); an empty one is no name."""
    return attributes.names(leaf.raw.get("DIMENSION_LABELS"))


CONVENTIONS: Final[tuple[Convention, ...]] = (
    _dimension_list,
    _netcdf4_ids,
    _own_scale,
    _array_dimensions,
    _labels,
)
"""In order of trust: of two conventions that name the same dimension of a leaf, the earlier one counts."""


@dataclass(frozen=True)
class Resolved:
    """The dimension names of a group's leaves."""

    names: dict[str, tuple[str, ...]]
    """By the name of the leaf."""
    problems: tuple[str, ...] = ()
    """One sentence for each name in the file that could not be used."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Of leaves that are shorter on disk than their unlimited dimension: the shape with the dimension's full length."""
    repeated: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of leaves that have a dimension more than once: those of their `names` that stand for such a one."""


def resolve(
    leaves: Sequence[Leaf],
    scales: Scales,
    *,
    dims: Mapping[str, Sequence[str]],
    phony_dims: PhonyDims,
    where: str,
    numbered: Sequence[Sized] = (),
) -> Resolved:
    """Names for every dimension of `leaves`, the arrays of one group.

    `dims` (by leaf name, or by path) wins over what the file says; an array that has the name and the size of a
    dimension in it is its coordinate. A dimension that nobody names gets a phony name:
    `dim_<size>`, with a number added for its repeats within one array, or `<leaf>_<number>` for
    `phony_dims="leaf"`; with "sort" and "access" it is one of the group's `numbered` dimensions, as far as they go. A
    name from the file that stands for different sizes, or for a scalar, is given up, and said in `problems`.
    Raises ValueError for a `dims` that does not fit, naming the array; messages begin with `where`.
    """
    found: dict[str, list[str | None]] = {}
    given: set[str] = set()
    repeats: dict[str, list[int]] = {}
    problems: list[str] = []
    one = _only(leaves, dims[ONE_ARRAY], where) if ONE_ARRAY in dims else None
    for leaf in leaves:
        names = dims[ONE_ARRAY] if leaf is one else dims.get(leaf.name, dims.get(leaf.path))
        if names is not None:
            given.add(leaf.name)
            found[leaf.name] = list(_checked(leaf, names, where))
        else:
            every, said = _names_in_file(leaf, scales)
            found[leaf.name], more = _without_repeats(leaf, every)
            if more:
                repeats[leaf.name] = [axis for axis, name in enumerate(every) if name and every.count(name) > 1]
            problems.extend((*said, *more))
    _name_coordinates(leaves, found, given)
    shapes = _filled_up(leaves, found)
    scalars = {leaf.variable_name: leaf for leaf in leaves if not leaf.shape and not leaf.is_only_dimension}
    problems.extend(_give_up_contradictions(leaves, found, given, shapes, scalars, where))
    sizes: dict[str, int | None] = dict.fromkeys(scalars) | {
        name: size
        for leaf in leaves
        for name, size in zip(found[leaf.name], shapes.get(leaf.name, leaf.shape), strict=True)
        if name is not None
    }
    names_of = {
        leaf.name: _complete(leaf, found[leaf.name], shapes.get(leaf.name, leaf.shape), phony_dims, numbered, sizes)
        for leaf in leaves
    }
    repeated = {name: tuple(names_of[name][axis] for axis in axes) for name, axes in repeats.items()}
    return Resolved(names_of, tuple(problems), shapes, repeated)


def _only(leaves: Sequence[Leaf], names: Sequence[str], where: str) -> Leaf:
    """The one array that has as many dimensions as there are names."""
    fitting = [leaf for leaf in leaves if not leaf.is_only_dimension and len(leaf.shape) == len(names)]
    if len(fitting) != 1:
        shown = ", ".join(repr(leaf.path) for leaf in fitting) or "none"
        raise ValueError(
            f"{where}: dims={tuple(names)!r} is for one array of {len(names)} dimensions; there are: {shown}. "
            "Give a mapping: {array: names}"
        )
    return fitting[0]


def _name_coordinates(leaves: Sequence[Leaf], found: dict[str, list[str | None]], given: set[str]) -> None:
    """Name the dimension of an array that is called and as long as a dimension which `dims` gives to others."""
    sizes: dict[str, set[int]] = {}
    for leaf in leaves if given else ():
        for name, size in zip(found[leaf.name], leaf.shape, strict=True) if leaf.name in given else ():
            sizes.setdefault(name or "", set()).add(size)
    for leaf in leaves if sizes else ():
        if found[leaf.name] == [None] and sizes.get(leaf.variable_name) == set(leaf.shape):
            found[leaf.name] = [leaf.variable_name]


def _checked(leaf: Leaf, names: Sequence[str], where: str) -> tuple[str, ...]:
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where}: dims[{leaf.name!r}] must be a name or a sequence of names, not {names!r}")
    if len(names) != len(leaf.shape) or len(set(names)) != len(names):
        raise ValueError(
            f"{where}: array {leaf.path!r} has shape {leaf.shape}, so dims[{leaf.name!r}] needs {len(leaf.shape)} "
            f"different names; it has {tuple(names)!r}"
        )
    return tuple(names)


def recorded_names(leaf: Leaf, scales: Scales) -> tuple[list[str | None], list[str]]:
    """The names that the conventions give, dimension by dimension, and which conventions did not fit."""
    every, problems = _names_in_file(leaf, scales)
    names, more = _without_repeats(leaf, every)
    return names, [*problems, *more]


def _names_in_file(leaf: Leaf, scales: Scales) -> tuple[list[str | None], list[str]]:
    names: list[str | None] = [None] * len(leaf.shape)
    problems = []
    for convention in CONVENTIONS:
        if None not in names:
            break
        said = convention(leaf, scales)
        if said is None:
            continue
        if len(said) != len(leaf.shape):
            problems.append(f"array {leaf.path!r} has shape {leaf.shape} but {len(said)} dimension names: {said}")
            continue
        names = [old or new for old, new in zip(names, said, strict=True)]
    return names, problems


def _without_repeats(leaf: Leaf, names: list[str | None]) -> tuple[list[str | None], list[str]]:
    """The names, each but once: xarray has no variables with the same dimension twice; and what that is about."""
    if len(set(names)) == len(names):
        return names, []
    repeated = [name for name, count in Counter(filter(None, names)).items() if count > 1]
    for repeat in repeated:
        first = names.index(repeat)
        names = [name if name != repeat or axis == first else None for axis, name in enumerate(names)]
    return names, [f"array {leaf.path!r} has dimension {name!r} more than once" for name in repeated[:1]]


def _filled_up(leaves: Sequence[Leaf], found: Mapping[str, Sequence[str | None]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves that are shorter than a dimension which may grow in all that have it.

    netCDF-4 extends an array when it is written to, and reads what is missing up to the longest as fill values.
    """
    lengths: dict[str, set[int]] = {}
    fixed: set[str] = set()
    for leaf in leaves:
        for name, size, grows in zip(found[leaf.name], leaf.shape, leaf.extendable, strict=True):
            if name is not None:
                lengths.setdefault(name, set()).add(size)
                if not grows:
                    fixed.add(name)
    longest = {name: max(sizes) for name, sizes in lengths.items() if len(sizes) > 1 and name not in fixed}
    shapes = {}
    for leaf in leaves if longest else ():
        full = tuple(longest.get(name or "", size) for name, size in zip(found[leaf.name], leaf.shape, strict=True))
        if full != leaf.shape:
            shapes[leaf.name] = full
    return shapes


def _give_up_contradictions(
    leaves: Sequence[Leaf],
    found: dict[str, list[str | None]],
    given: set[str],
    shapes: Mapping[str, tuple[int, ...]],
    scalars: Mapping[str, Leaf],
    where: str,
) -> list[str]:
    """Take away names that stand for different sizes, or for a scalar; raise if the user gave such a name."""
    sizes: dict[str, dict[int, list[Leaf]]] = {}
    for leaf in leaves:
        for name, size in zip(found[leaf.name], shapes.get(leaf.name, leaf.shape), strict=True):
            if name is not None:
                sizes.setdefault(name, {}).setdefault(size, []).append(leaf)
    problems = []
    for name, by_size in sizes.items():
        scalar = scalars.get(name)
        if scalar is None and len(by_size) == 1:
            continue
        what = "different sizes" if scalar is None else f"the name of the scalar {scalar.path}"
        told = "; ".join(f"{size} in {', '.join(leaf.path for leaf in those)}" for size, those in by_size.items())
        if any(leaf.name in given for those in by_size.values() for leaf in those):
            raise ValueError(f"{where}: dims gives dimension {name!r} {what}: {told}")
        problems.append(f"dimension {name!r} has {what} ({told}), so these get made-up names; dims= sets them")
        keeper = _scale_size(name, by_size) if scalar is None else None
        for size, those in by_size.items():
            for leaf in those if size != keeper else ():
                found[leaf.name] = [None if known == name else known for known in found[leaf.name]]
    return problems


def _scale_size(name: str, by_size: Mapping[int, list[Leaf]]) -> int | None:
    """The size that the dimension's own scale has, if there is one."""
    sizes = [size for size, those in by_size.items() if any(leaf.name == name and leaf.is_scale for leaf in those)]
    return sizes[0] if sizes else None


def number_dimensions(leaves: Sequence[Leaf], unnamed: Sequence[tuple[int, ...]], first: int) -> list[Sized]:
    """The dimensions of a group as h5netcdf has them: those of its scales, then numbered ones from `first` on.

    There are as many numbered ones of each size as an array without names, of the shapes `unnamed`, needs at most and
    scales do not provide.
    """
    scales = [leaf for leaf in leaves if leaf.is_scale and leaf.shape]
    fixed = Counter(leaf.shape[0] for leaf in scales if not leaf.extendable[0])
    wanted: Counter[int] = Counter()
    for shape in unnamed:
        wanted |= Counter(shape)
    sizes = [size for size, count in wanted.items() for _ in range(fixed[size], count)]
    numbered = [(f"phony_dim_{number}", size) for number, size in enumerate(sizes, first)]
    return [*((leaf.name, leaf.shape[0]) for leaf in scales), *numbered]


def _complete(
    leaf: Leaf,
    names: Sequence[str | None],
    shape: Sequence[int],
    phony_dims: PhonyDims,
    numbered: Sequence[Sized],
    sizes: Mapping[str, int | None],
) -> tuple[str, ...]:
    """All names of a leaf. `sizes` has what names of the group stand for already; None for scalars."""
    known = [name for name in names if name is not None]
    if len(known) == len(names):
        return tuple(known)
    taken, complete = set(known), list[str]()
    for axis, (name, size) in enumerate(zip(names, shape, strict=True)):
        if name is None:
            possible = itertools.chain(
                (free for free, its in numbered if its == size), _phony(leaf, axis, size, phony_dims)
            )
            name = next(free for free in possible if free not in taken and sizes.get(free, size) == size)
        complete.append(name)
        taken.add(name)
    return tuple(complete)


def _phony(leaf: Leaf, axis: int, size: int, phony_dims: PhonyDims) -> Iterator[str]:
    """Made-up names, the best first."""
    base = f"{leaf.variable_name}_{axis}" if phony_dims == "leaf" else f"dim_{size}"
    if axis < len(leaf.made_up):
        base = leaf.made_up[axis]
    yield base
    yield from (f"{base}_{number}" for number in itertools.count(1))
