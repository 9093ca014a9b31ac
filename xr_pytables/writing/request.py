"""What the caller of one write wants, as one value: all arguments that say what is written, checked on their own.

Tested in `tests/writing/test_writing.py`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final, Literal

from xarray import DataTree

from ..disk.files import checked_group
from . import words
from .layouts import asks_for_checksums, filters_as_encoding
from .placement import Mode

MODES: Final = ("w", "w-", "x", "a", "r+")
Layout = Literal["arrays", "table", "pandas"]


@dataclass(frozen=True)
class WriteRequest:
    """The arguments of `to_pytables` that are about one file and what goes there, by their names.

    Raises TypeError and ValueError for those that make no sense.
    """

    obj: Any = field(repr=False)
    path: str | os.PathLike[str]
    _: KW_ONLY
    mode: Mode = "w"
    group: str = "/"
    encoding: Mapping[Any, Any] | None = None
    filters: object | None = None
    unlimited_dims: Any = None
    append_dim: str | None = None
    region: Any = None
    safe_chunks: bool = True
    align_chunks: bool = False
    checksums: bool = True
    write_inherited_coords: bool = False
    layout: Layout = "arrays"
    index: Iterable[str] | Mapping[str, str] = ()
    data_columns: bool | Iterable[Hashable] = ()

    def for_its_values(self) -> WriteRequest:
        """What is left to do when the structure is in the file: the values of all variables, in the form they have."""
        return replace(self, mode="r+", encoding=None, filters=None, unlimited_dims=None, checksums=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", checked_group(self.group))
        if isinstance(self.obj, DataTree):
            _check_group_keys(self.obj, self.encoding, "encoding")
            _check_group_keys(self.obj, self.unlimited_dims, "unlimited_dims")
        if self.encoding is not None:
            depth = 3 if isinstance(self.obj, DataTree) else 2
            _check_encoding(self.encoding, depth, f"{self.target}:{self.group}: encoding")
        if not self.checksums and (
            asks_for_checksums(self.encoding or {}) or getattr(self.filters, "fletcher32", False)
        ):
            raise ValueError("checksums=False writes none in any array, but encoding or filters ask for fletcher32")
        if self.mode == "r+" and self.filters is not None:
            raise ValueError("filters has no effect with mode='r+', which makes no array. Leave it out")
        if self.layout not in ("arrays", "table", "pandas"):
            raise ValueError(f"layout must be 'arrays', 'table' or 'pandas', not {self.layout!r}")
        if self.index and self.layout != "table":
            way_out = "data_columns= says which get one" if self.layout == "pandas" else "index needs layout='table'"
            raise ValueError(f"only the columns of a table can have an index: {way_out}")
        if self.data_columns and self.layout != "pandas":
            raise ValueError("only pandas' tables have data columns: data_columns needs layout='pandas'")
        ours = _in_our_words(self.obj, self.encoding, f"{self.target}:{self.group}")
        object.__setattr__(self, "encoding", ours)
        if self.layout != "arrays" and self.region is not None:
            raise NotImplementedError(
                f"{self.target}: region cannot change rows of a table. Change them with plain PyTables "
                "(Table.modify_rows), or write the whole table again; append_dim appends rows"
            )

    @property
    def target(self) -> str:
        """The absolute path of the file."""
        return os.path.abspath(os.path.expanduser(os.fspath(self.path)))

    @property
    def filter_words(self) -> dict[str, Any]:
        """What `filters` say, as `encoding` says it."""
        return {} if self.filters is None else filters_as_encoding(self.filters)


def tree_key(key: object) -> str:
    """The path of a group relative to the top of a tree, as the keys of arguments may have it."""
    return posixpath.normpath(str(key).strip("/") or ".")


def _check_group_keys(tree: DataTree, given: object, argument: str) -> None:
    known = {node.relative_to(tree) for node in tree.subtree}
    unknown = [key for key in given if tree_key(key) not in known] if isinstance(given, Mapping) else []
    if unknown:
        raise ValueError(
            f"unexpected {argument} group name(s) provided: {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(repr('/' + name.strip('.')) for name in sorted(known))}"
        )


def _check_encoding(encoding: object, depth: int, what: str) -> None:
    """Raise ValueError unless `encoding` maps names (of a DataTree: groups to names) to keys that are text."""
    if not isinstance(encoding, Mapping):
        raise ValueError(f"{what} must be castable to dict, not {encoding!r}")
    for key, value in encoding.items():
        if depth > 1:
            _check_encoding(value, depth - 1, f"{what}[{key!r}]")
        elif not isinstance(key, str):
            raise ValueError(f"{what} has the key {key!r}, which is no text")


def _in_our_words(obj: object, encoding: Mapping[Any, Any] | None, where: str) -> Mapping[Any, Any] | None:
    """`encoding=` in our own words, that of a DataTree group by group."""
    if encoding is None:
        return None
    if isinstance(obj, DataTree):
        return {key: _in_our_words(None, value, f"{where}: group {key!r}") for key, value in encoding.items()}
    found = {}
    for name, asked in encoding.items():
        label = f"{where}: variable {name!r}"
        found[name] = words.in_our_words(asked, label)
        words.check_dtype(asked, label)
    return found
