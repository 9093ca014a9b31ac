"""The entry point that xarray finds: arguments and their documentation, no logic.

xarray imports this module whenever it looks an engine up, for files of any kind: what opens files is imported inside
the functions.

Tested in `tests/test_docs.py` and `tests/disk/test_files.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from xarray import Coordinates, Dataset, DataTree, Variable
from xarray.backends import BackendEntrypoint

from . import accessor  # noqa: F401 - registers `obj.pytables`
from .decoding import as_tree, decoded, no_garbage_collection

if TYPE_CHECKING:
    from .store import PyTablesDataStore

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNATURE_PLACES = (0, 512, 1024, 2048)
_MARK = b"PYTABLES_FORMAT_VERSION"
_MARK_WITHIN = 65536
"""PyTables writes the mark when it makes the root group, so it stands near the beginning."""


class PyTablesBackendEntrypoint(BackendEntrypoint):
    """Open PyTables files: `xr.open_dataset(path, engine="pytables")`.

    What `open_dataset`, `open_datatree` and `open_groups` take is below. Nodes that cannot be shown are named in one
    warning.

    Parameters
    ----------
    filename_or_obj
        A path, a URL, bytes, a file object, or an open `tables.File` or node.
    group
        Path of a group, or of one array. Soft links on the way are followed.
    dims
        Names of dimensions by array (name or path), e.g. `{"sst": ("time", "y", "x")}`; a string is one name, names
        alone are those of the one array. Wins over what the file says.
    phony_dims
        How to name a dimension that neither `dims` nor the file names: `"size"` gives `dim_1000`, the same name for
        the same size everywhere; `"leaf"` gives `array1_0`, `array1_1`, as concatenating files of different lengths
        needs; `"sort"` and `"access"` give `phony_dim_0`, numbered as h5netcdf does.
    external_links
        Which external links to follow: `"near"` those into the file's own folder or below, `"any"`, `"never"`. The same
        for the other files that virtual datasets and external raw data lie in.
    allow_pickle
        Unpickle for real the attributes and the rows of objects that the restricted decoder refuses. That runs code
        from the file: only for files that you trust. Without it they are shown as opaque bytes, with a warning.
    threads
        How many threads may decode chunks for one read: None as many as there are CPUs, 1 none but the caller's.
    ragged
        How to show ragged arrays (VLArray): `"object"` as one variable of rows, each a NumPy array; `"flat"` as the
        values of all rows one behind the other and a variable `<name>_row_size` beside them (CF's contiguous ragged
        arrays).
    string
        How to show strings: None as the file says (text where it is marked as text, else bytes), `"text"` all decoded
        from UTF-8, `"bytes"` none.
    drop_variables
        Names of nodes to leave out; they are not even looked at.
    where
        For a table: the condition that its rows must meet, e.g. `"(energy > 10) & (name == b'x')"`, as PyTables has
        it, or with a list: `"number in [1, 2]"`. Found with PyTables' indexes where the columns have them. A coordinate
        holds the numbers of the rows.
    condvars
        Values of further names in `where`; lists and arrays for `in`.
    start, stop, step
        For a table: look only at these rows.
    storage_options
        For a URL: what its file system needs to know, as fsspec and xarray have it. Never shown in messages.
    store
        An `obstore` store, in which the first argument is the path.
    index
        For files that are not local: a file of indexes that `xr_pytables.save_index` made, or what it holds.
    concurrency
        For files that are not local: how many requests may be in flight for one file (32).
    gap
        For files that are not local: bytes between two ranges up to which one request fetches both, with what lies
        between (512 KiB).
    timeout
        For files that are not local: seconds until a request that gets no answer is tried again (60).
    cache_dir
        For files that are not local: a folder in which what was read of them is kept for the next time, by URL and
        version. It must belong to the user alone. None keeps nothing on disk.
    cache_bytes
        How many bytes about `cache_dir` may hold (10 GiB); what was used longest ago goes.
    mask_and_scale
        Whether to apply `_FillValue`, `scale_factor`, `add_offset` and `_Unsigned`; or a dict by variable, as for the
        decoders below.
    decode_times
        Whether to make `datetime64` of CF's times and of PyTables' Time columns and arrays; or a `CFDatetimeCoder`.
    decode_timedelta
        Whether to make `timedelta64` of CF's time differences; or a `CFTimedeltaCoder`. Default: as `decode_times`.
    use_cftime
        Deprecated by xarray in favour of `decode_times=CFDatetimeCoder(use_cftime=...)`.
    concat_characters
        Whether to join netCDF's arrays of characters to text; those that PyTables made are left alone.
    decode_coords
        Whether to make coordinates of what the attribute `coordinates` names; `"all"` takes CF's others too.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        For the path.
    OSError
        For a file that is not HDF5, is damaged, or has no such group.
    RemoteError
        If a server does not answer, or wrongly.
    BlockingIOError
        If another process has the file open for writing.
    TypeError
        For what names no file.
    ValueError
        For arguments that do not fit the file.
    """

    description = "Open PyTables (.h5) files in Xarray"
    url = "https://www.pytables.org"
    supports_groups = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj", "mask_and_scale", "decode_times", "concat_characters", "decode_coords", "drop_variables",
        "use_cftime", "decode_timedelta", "group", "dims", "phony_dims", "external_links", "allow_pickle", "threads",
        "ragged", "string", "where", "condvars", "start", "stop", "step", "storage_options", "store", "index",
        "concurrency", "gap", "timeout", "cache_dir", "cache_bytes",
    )  # fmt: skip

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Whether a path names an HDF5 file that PyTables wrote, judged by its bytes; or an open object of PyTables."""
        tables = sys.modules.get("tables")
        if tables is not None and isinstance(filename_or_obj, tables.File | tables.Node):
            return True
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        path = os.path.expanduser(os.fspath(filename_or_obj))
        if not os.path.isfile(path):
            return False
        try:
            with open(path, "rb") as file:
                head = file.read(_MARK_WITHIN)
        except OSError:
            return False
        return any(head.startswith(_SIGNATURE, place) for place in _SIGNATURE_PLACES) and _MARK in head

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        mask_and_scale: bool | Mapping[str, bool] = True,
        decode_times: Any = True,
        concat_characters: bool | Mapping[str, bool] = True,
        decode_coords: Any = True,
        drop_variables: str | Iterable[str] | None = None,
        use_cftime: bool | Mapping[str, bool] | None = None,
        decode_timedelta: Any = None,
        group: str | None = "/",
        dims: Mapping[str, str | Sequence[str]] | str | Sequence[str] | None = None,
        phony_dims: str = "size",
        external_links: str = "near",
        allow_pickle: bool = False,
        threads: int | None = None,
        ragged: str = "object",
        string: str | None = None,
        where: str | None = None,
        condvars: Mapping[str, object] | None = None,
        start: int | None = None,
        stop: int | None = None,
        step: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        store: object = None,
        index: object = None,
        concurrency: int | None = None,
        gap: int | None = None,
        timeout: float | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> Dataset:
        """One group (or one array) as a lazy Dataset; what the parameters mean stands in the docstring of the class."""
        with no_garbage_collection():
            from .disk.door import checked_transfer, located
            from .model.options import read_options
            from .store import PyTablesDataStore, check_indexes, row_query

        options = read_options(
            dims=dims,
            phony_dims=phony_dims,
            external_links=external_links,
            allow_pickle=allow_pickle,
            drop_variables=drop_variables,
            ragged=ragged,
            string=string,
        )
        query = row_query(where, condvars, start, stop, step)
        place, group = located(
            filename_or_obj,
            group,
            storage_options=storage_options,
            store=store,
            index=index,
            transfer=checked_transfer(concurrency, gap, timeout, cache_dir, cache_bytes),
        )
        opened = PyTablesDataStore.open(place, group=group, options=options, query=query, threads=threads)
        dataset = _decoded(
            opened,
            mask_and_scale=mask_and_scale,
            decode_times=decode_times,
            concat_characters=concat_characters,
            decode_coords=decode_coords,
            drop_variables=drop_variables,
            use_cftime=use_cftime,
            decode_timedelta=decode_timedelta,
        )
        check_indexes(dataset, opened.label, opened.file_size)
        return dataset

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        mask_and_scale: bool | Mapping[str, bool] = True,
        decode_times: Any = True,
        concat_characters: bool | Mapping[str, bool] = True,
        decode_coords: Any = True,
        drop_variables: str | Iterable[str] | None = None,
        use_cftime: bool | Mapping[str, bool] | None = None,
        decode_timedelta: Any = None,
        group: str | None = "/",
        dims: Mapping[str, str | Sequence[str]] | str | Sequence[str] | None = None,
        phony_dims: str = "size",
        external_links: str = "near",
        allow_pickle: bool = False,
        threads: int | None = None,
        ragged: str = "object",
        string: str | None = None,
        where: str | None = None,
        condvars: Mapping[str, object] | None = None,
        start: int | None = None,
        stop: int | None = None,
        step: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        store: object = None,
        index: object = None,
        concurrency: int | None = None,
        gap: int | None = None,
        timeout: float | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> dict[str, Dataset]:
        """The group and all groups below it, by path relative to it, from one opening of the file.

        What the parameters mean stands in the docstring of the class.
        """
        with no_garbage_collection():
            from .disk.door import checked_transfer, located
            from .model.options import read_options
            from .store import PyTablesDataStore, row_query, with_readable_indexes

        options = read_options(
            dims=dims,
            phony_dims=phony_dims,
            external_links=external_links,
            allow_pickle=allow_pickle,
            drop_variables=drop_variables,
            ragged=ragged,
            string=string,
        )
        query = row_query(where, condvars, start, stop, step)
        place, group = located(
            filename_or_obj,
            group,
            storage_options=storage_options,
            store=store,
            index=index,
            transfer=checked_transfer(concurrency, gap, timeout, cache_dir, cache_bytes),
        )
        stores = PyTablesDataStore.open_tree(place, group=group, options=options, query=query, threads=threads)
        return {
            path: with_readable_indexes(
                _decoded(
                    one,
                    mask_and_scale=mask_and_scale,
                    decode_times=decode_times,
                    concat_characters=concat_characters,
                    decode_coords=decode_coords,
                    drop_variables=drop_variables,
                    use_cftime=use_cftime,
                    decode_timedelta=decode_timedelta,
                ),
                one.label,
                one.file_size,
            )
            for path, one in stores.items()
        }

    def open_datatree(self, filename_or_obj: Any, *, drop_variables: Any = None, **kwargs: Any) -> DataTree:
        """The group and all groups below it as a lazy DataTree; takes what `open_groups_as_dict` takes."""
        groups = self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables, **kwargs)
        try:
            tree = as_tree(groups)
        except Exception:
            for dataset in groups.values():
                dataset.close()
            raise
        for path, dataset in groups.items():
            tree[path].set_close(dataset._close)
        return tree


def _decoded(store: PyTablesDataStore, *, concat_characters: bool | Mapping[str, bool], **decoders: Any) -> Dataset:
    """A store's Dataset, its variables decoded as asked."""
    if concat_characters is True:  # arrays of single characters that PyTables wrote are not text
        concat_characters = store.single_characters()
    with no_garbage_collection():
        opened = decoded(store, store.label, {"concat_characters": concat_characters, **decoders})
        columns = store.columns()
        return _with_columns(opened, columns, store.coordinates()) if columns else opened


def _with_columns(opened: Dataset, columns: Mapping[Hashable, Variable], coordinates: frozenset[Hashable]) -> Dataset:
    """`opened` with the variables of a pandas object before its own; they mean what they are, and need no decoding.

    xarray's decoder would look at the first value of each column of text, and so read it.
    """
    variables = {**columns, **opened.variables}
    outer = {
        name: variable
        for name, variable in variables.items()
        if name in coordinates or name in opened.coords or variable.dims == (name,)
    }
    inner = {name: variable for name, variable in variables.items() if name not in outer}
    whole = Dataset(inner, coords=Coordinates(outer, indexes={}), attrs=opened.attrs)
    whole.set_close(opened._close)
    whole.encoding = opened.encoding
    return whole
