"""Saving what opening a file reads, so that opening it again takes one request.

Tested in `tests/test_indexes.py`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from .backend import PyTablesBackendEntrypoint
from .disk.door import Visit, checked_transfer, place_of
from .errors import FileChangedError, FormatError
from .hdf5.chunk_indexes import read_index
from .hdf5.dataset import DatasetInfo
from .hdf5.file import File
from .model.leaves import storage_of
from .model.nodes import NodeReader
from .model.options import read_options
from .sources.remote import RemotePlace
from .sources.saved_index import FORMAT, RecordedPlace
from .sources.url import local_argument
from .where.table_index import describe_indexes


def save_index(
    path: object,
    out: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    store: object = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
) -> None:
    """Save what has to be known of files to open them: `xr.open_dataset(path, index=out)` then takes one request.

    Parameters
    ----------
    path
        A file that is not local, as `xr.open_dataset` takes it, or a list of such. Each is opened once, with all of its
        groups, and the chunk index of each array is read.
    out
        Path of the file to write, a JSON of some kB for each file. Replaced in one step.
    storage_options, store, cache_dir, cache_bytes
        As in `xr.open_dataset`.

    An index belongs to one version of a file: with another one, opening raises FileChangedError. It has the bytes that
    describe the file, and the values of coordinates that are indexes, but no other data, and no credentials. Raises
    ValueError for a local file, and what opening raises.
    """
    paths: Sequence[object] = path if isinstance(path, list | tuple) else [path]
    target = local_argument(out, "out")
    files, transfer = dict[str, dict[str, Any]](), checked_transfer(cache_dir=cache_dir, cache_bytes=cache_bytes)
    for one in paths:
        place = place_of(one, storage_options=storage_options, store=store, transfer=transfer)
        if not isinstance(place, RemotePlace):
            raise ValueError(f"{place.path}: a local file opens quickly without an index")
        index = _described(RecordedPlace(place.target, place.path, place.transfer))
        if files.setdefault(place.path, index) != index:
            raise ValueError(f"{place.path}: several of these files are called that. Save their indexes apart")
    making = f"{target}.{os.getpid()}.part"
    try:
        with open(making, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "files": files}, file)
        os.replace(making, target)
    except BaseException:
        if os.path.exists(making):
            os.unlink(making)
        raise


def _described(place: RecordedPlace) -> dict[str, Any]:
    """The index of one file: that of all reads that opening it in any way makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come when the file is opened
        for dataset in PyTablesBackendEntrypoint().open_groups_as_dict(place).values():
            for name in dataset.dims:  # xarray reads them when it makes a Dataset
                if name in dataset.variables:
                    dataset.variables[name].load()
            dataset.close()
    options = read_options(
        dims=None, phony_dims="size", external_links="never", allow_pickle=False, drop_variables=None
    )
    with Visit() as visit:
        file = visit.file(place)
        for _, spec in NodeReader(file, options, visit.linked).tree("/"):
            for variable in spec.variables:
                _locate(file, variable.info)
            if spec.row_dim:
                describe_indexes(file, spec.variables)
        visit.check_unchanged()
    if len({recorder.version for recorder in place.recorders}) > 1:
        raise FileChangedError(f"{place.path}: the object was replaced while its index was made")
    return place.recorders[0].index(place.recorders[1:]).as_dict()


def _locate(file: File, info: DatasetInfo) -> None:
    """Read the chunk index of a dataset. (A damaged one is an error when its data are read.)"""
    if info.layout != "chunked":
        return
    try:
        read_index(file.source, storage_of(info, file.base_address))
    except (FormatError, ValueError):
        return
