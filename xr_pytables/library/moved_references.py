"""References in a file that is changed, to objects whose place others took.

HDF5 refers to an object by its address. What is made anew has another one, so that references to it would lead nowhere,
or to whatever comes to lie there. Finds what holds references past HDF5, and changes them through it; the caller holds
its lock.

Tested in `tests/writing/test_references.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import FormatError, HDF5Error
from ..hdf5.attributes import RawAttribute
from ..hdf5.conversion import referenced_addresses
from ..hdf5.damage import Unsupported
from ..hdf5.datatype import Datatype
from ..hdf5.file import File
from ..model import leaves
from .object_copy import References, change_attribute, copy_values
from .target_file import TargetFile


class Holder(NamedTuple):
    """An object with references in it."""

    address: int
    path: str
    attributes: dict[str, RawAttribute]
    """Those that hold some."""
    in_values: bool
    """Whether it is a dataset of some."""


def holders(file: File) -> Iterator[Holder]:
    """All objects with references in them; what is damaged is left out."""
    for address, path in file.paths().items():
        try:
            attributes = {name: each for name, each in file.attributes(address).items() if _refers(each.datatype)}
            in_values = file.kind(address) == "dataset" and _refers(file.dataset(address).datatype)
        except FormatError:
            continue
        if attributes or in_values:
            yield Holder(address, path, attributes, in_values)


def _refers(datatype: Datatype) -> bool:
    inner = [field.datatype for field in datatype.fields] + ([] if datatype.base is None else [datatype.base])
    return datatype.kind == "reference" or any(map(_refers, inner))


def lead_to_new(file: TargetFile, given_up: Mapping[int, str]) -> None:
    """Have references to objects that were at addresses lead to what is at their paths now, or nowhere.

    Raises ValueError for references to regions of them, which HDF5 has no way to change, and for values that HDF5
    cannot read and that may lead to them.
    """
    moved = {old: file.address(path) if file.exists(path) else 0 for old, path in given_up.items()}
    with file.on_disk() as stored:
        references = _WithinFile(moved, stored, given_up)
        found = [(each, each.in_values and _values_may_lead_to(stored, each, moved)) for each in holders(stored)]
        for holder, in_values in found:  # looked at before anything changes
            names = [name for name, each in holder.attributes.items() if _may_lead_to(each, moved)]
            try:
                if names:
                    with file.open(holder.path) as node:
                        for name in names:
                            change_attribute(node, name, references)
                if in_values:
                    copy_values(file.id, file.id, holder.path, references, lambda _: None)
            except HDF5Error as error:
                if error.errno is not None:
                    raise
                raise ValueError(
                    f"{holder.path}: nobody can tell whether references in it lead to {_listed(given_up)}, which would "
                    f"be made anew: {error}. Delete it before, or write to a new file"
                ) from None
            except ValueError as error:
                raise ValueError(f"{holder.path}: {error}") from None


def _listed(given_up: Mapping[int, str]) -> str:
    first, *others = given_up.values()
    return f"{first!r} or {len(others)} others" if others else repr(first)


def _may_lead_to(attribute: RawAttribute, moved: Mapping[int, int]) -> bool:
    """Whether there may be a reference to a moved object: only of plain ones the reader knows where they lead."""
    value = attribute.value
    if not isinstance(value, list):
        return value is not None
    return any(reference.address in moved for row in value for reference in row)


def _values_may_lead_to(file: File, holder: Holder, moved: Mapping[int, int]) -> bool:
    """The same of the values of a dataset. HDF5 has not all filters, and cannot change references of all kinds."""
    info = file.dataset(holder.address)
    if info.datatype.kind != "reference" or not info.shape or info.external or info.layout == "virtual":
        return True
    row = math.prod(info.shape[1:]) * info.datatype.stored_size
    step = max(1, _AT_ONCE // max(row, 1))
    storage = leaves.storage_of(info, file.base_address)
    try:
        for start in range(0, info.shape[0], step):
            stored = leaves.read_stored(file.source, info, storage, (slice(start, start + step),))
            if np.isin(referenced_addresses(stored, info.datatype), list(moved)).any():
                return True
    except (FormatError, Unsupported, NotImplementedError):
        return True
    return False


_AT_ONCE = 1 << 24  # bytes of references that are looked at


@dataclass(frozen=True)
class _WithinFile(References):
    """References to what did not move stay as they are."""

    file: File
    given_up: Mapping[int, str]

    def to_object(self, address: int) -> int:
        return self.moved.get(address, address)

    def to_region(self, heap: int, number: int) -> None:
        path = self.given_up.get(self.file.region_target(heap, number))
        if path is not None:
            raise ValueError(
                f"a reference to a region of {path!r} would be lost, since that is made anew. Write to a new file, or "
                "delete the reference before"
            )
