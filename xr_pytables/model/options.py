"""What users say of how a file is to be read, checked.

Tested in `tests/test_bad_input.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from .dimensions import ONE_ARRAY, PhonyDims
from .specs import ExternalLinks, Ragged, ReadOptions, Strings


def read_options(
    *,
    dims: Mapping[str, str | Sequence[str]] | str | Sequence[str] | None,
    phony_dims: str,
    external_links: str,
    allow_pickle: bool,
    drop_variables: str | Iterable[str] | None,
    ragged: str = "object",
    string: str | None = None,
) -> ReadOptions:
    """The user's arguments, checked. Raises ValueError and TypeError naming the argument."""
    if phony_dims not in ("size", "leaf", "sort", "access"):
        raise ValueError(f"phony_dims must be 'size', 'leaf', 'sort' or 'access', not {phony_dims!r}")
    if external_links not in ("near", "any", "never"):
        raise ValueError(f"external_links must be 'near', 'any' or 'never', not {external_links!r}")
    if ragged not in ("object", "flat"):
        raise ValueError(f"ragged must be 'object' or 'flat', not {ragged!r}")
    if string not in (None, "text", "bytes"):
        raise ValueError(f"string must be 'text', 'bytes' or None (as the file says), not {string!r}")
    dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or ()
    phony = cast(PhonyDims, phony_dims)
    links: ExternalLinks = "any" if external_links == "any" else "never" if external_links == "never" else "near"
    rows: Ragged = "flat" if ragged == "flat" else "object"
    strings: Strings = "text" if string == "text" else "bytes" if string == "bytes" else "as stored"
    return ReadOptions(_checked_dims(dims), phony, links, bool(allow_pickle), frozenset(dropped), rows, strings)


def _checked_dims(dims: object) -> dict[str, Sequence[str]]:
    """The names of dimensions by name or absolute path of an array; names alone are those of the one array."""
    if dims is None:
        return {}
    if isinstance(dims, str | tuple | list):
        dims = {ONE_ARRAY: dims}
    if not isinstance(dims, Mapping):
        raise TypeError(f"dims must map names of arrays to names of their dimensions, not {type(dims).__name__}")
    found: dict[str, Sequence[str]] = {}
    for array, names in dims.items():
        path = f"/{array}" if isinstance(array, str) and "/" in array.lstrip("/") and array[0] != "/" else array
        found[path] = (names,) if isinstance(names, str) else names
    return found
