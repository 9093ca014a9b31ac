"""What both forms of virtual stores share: opening the file, attributes as JSON, one warning for what is left out.

Tested in `tests/virtual/test_virtual.py`.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..disk.door import Visit
from ..disk.files import LocalPlace, checked_group
from ..model.nodes import NodeReader
from ..model.options import read_options
from ..model.specs import GroupSpec
from ..sources.filesystems import UrlTarget
from ..sources.place import Place
from ..sources.remote import RemotePlace
from ..sources.url import shown
from ..sources.warning import warn
from .arrays import NotVirtualError, VirtualArray, check_name, virtual_arrays


@dataclass(frozen=True, eq=False)
class VirtualGroup:
    """One group."""

    path: str
    """From where the store begins, without a leading slash; empty for the first."""
    attributes: Mapping[str, object]
    arrays: tuple[VirtualArray, ...]


def url_of(place: Place) -> str:
    """What chunks are found by. Raises ValueError for what cannot be found again."""
    if isinstance(place, LocalPlace):
        return place.path
    target = place.target if isinstance(place, RemotePlace) else None
    if isinstance(target, UrlTarget) and "::" not in target.url and shown(target.url) == target.url:
        return target.url
    if (
        not isinstance(target, UrlTarget | None)
        and "://" in target.name
        and "?" not in target.name
        and "::" not in target.name
    ):
        return target.name
    raise ValueError(
        f"{place.path}: references need a plain path or URL. Give a signature or a password as storage_options to "
        "whoever reads the references"
    )


def described(place: Place, group: str, fit: Callable[[VirtualArray], VirtualArray]) -> list[VirtualGroup]:
    """The group and all below it. One warning names the variables that are left out.

    `fit` gives each array the form that it has to have, or raises NotVirtualError.
    """
    options = read_options(
        dims=None, phony_dims="size", external_links="never", allow_pickle=False, drop_variables=None
    )
    groups, left_out = [], []
    with Visit() as visit:
        file = visit.file(place)
        for relative, spec in NodeReader(file, options, visit.linked).tree(checked_group(group)):
            arrays = []
            try:
                check_name(relative)
            except NotVirtualError as error:
                left_out.append(f"{spec.path}: {error}")
                continue
            for name, found in virtual_arrays(file, spec):
                try:
                    if isinstance(found, str):
                        raise NotVirtualError(found)
                    arrays.append(fit(found))
                except NotVirtualError as error:
                    left_out.append(f"{posixpath.join(spec.path, name)}: {error}")
            left_out += [f"{node.path}: {node.reason}" for node in spec.skipped]
            groups.append(VirtualGroup(relative.strip("/"), _group_attributes(spec, arrays), tuple(arrays)))
        visit.check_unchanged()
    if left_out:
        warn(f"{place.path}: {len(left_out)} variable(s) are left out: {'; '.join(left_out)}")
    return groups


def _group_attributes(spec: GroupSpec, arrays: list[VirtualArray]) -> dict[str, object]:
    names = [array.name for array in arrays if array.name in spec.coordinates]
    return {**spec.attributes, **({"coordinates": " ".join(names)} if names else {})}


def json_attributes(attributes: Mapping[str, object]) -> dict[str, Any]:
    """Attributes as JSON has them; those that it has no form for are left out."""
    found = {}
    for name, value in attributes.items():
        try:
            found[str(name)] = _json(value)
        except TypeError:
            continue
    return found


def _json(value: object) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        if value.dtype.kind not in "biufSU":
            raise TypeError("no form in JSON")
        return _json(value.tolist())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError("no form in JSON")
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    if isinstance(value, str | bool | int | float):
        return value
    raise TypeError("no form in JSON")


def split_fill(array: VirtualArray) -> tuple[Any, dict[str, object]]:
    """CF's `_FillValue` as a number of the array's type, None without one; and the other attributes."""
    attributes = dict(array.attributes)
    for name in ("missing_value", "scale_factor", "add_offset"):
        numbers = np.asarray(attributes.get(name, 0))
        if numbers.dtype.kind == "f" and np.isinf(numbers).any():
            raise NotVirtualError(f"its {name} is infinite, which JSON cannot say")
    given = attributes.pop("_FillValue", None)
    if given is None:
        return None, attributes
    try:
        with np.errstate(invalid="ignore"):
            (value,) = np.asarray(given.encode() if isinstance(given, str) else given).reshape(-1)
            found = value.astype(array.dtype)
        if found.item() != value.item() and not (found != found and value != value):  # another one, or not both NaN
            raise ValueError("another value")
    except (TypeError, ValueError, OverflowError):
        raise NotVirtualError("its _FillValue is no value of its type") from None
    return found, attributes


def missing_chunks(array: VirtualArray) -> Iterator[tuple[int, ...]]:
    """Chunks that are stored nowhere."""
    for key in np.ndindex(array.grid):
        if key not in array.places and key not in array.inline:
            yield key
