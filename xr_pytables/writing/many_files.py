"""Many datasets to many files in one call, as `xarray.save_mfdataset` does it for netCDF."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import dask
from dask.delayed import Delayed
from xarray import Dataset

from ..disk.files import checked_group
from ..sources.url import only_local
from .execution import Job, Write, delayed, execute
from .other_chunks import check_dask, in_dask
from .placement import Mode
from .progress import check_available
from .request import MODES, WriteRequest
from .targets import Effort
from .writer import planned

if TYPE_CHECKING:
    from tables import Filters

_FILES: Final = 100  # open at once: processes may have few descriptors


def save_mfdataset(
    datasets: Sequence[Dataset],
    paths: Sequence[str | os.PathLike[str]],
    *,
    mode: Mode = "w",
    groups: Sequence[str | None] | None = None,
    encoding: Mapping[Any, Any] | None = None,
    filters: Filters | None = None,
    unlimited_dims: Iterable[str] | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    write_empty_chunks: bool = True,
    checksums: bool = True,
    compute: bool = True,
    fsync: bool = True,
    threads: int | None = None,
    progress: bool = False,
) -> Delayed | None:
    """Write many datasets to many files at once.

    All is checked before the disk is touched, and Dask computes all data together, so that what datasets share is
    computed once. Each file is replaced as a whole, and none before all are written; of more than 100 files, 100 are
    written at a time. On an error the files that are not replaced yet stay as they were.

    Parameters
    ----------
    datasets, paths
        What to write, and where to.
    mode
        As for `to_pytables`. With `"w"` no path may occur twice; with `"a"` one may, for different groups.
    groups
        Group in the file for each dataset. Default: the root.
    compute
        False returns a Delayed that writes all files when it is computed.
    encoding, filters, unlimited_dims, safe_chunks, align_chunks, write_empty_chunks, checksums, fsync, threads
        As `to_pytables`, for each of the datasets.
    progress
        As for `to_pytables`, for each of the datasets.

    Raises
    ------
    TypeError, ValueError
        As `to_pytables` does, and for lists of different lengths.
    """
    where = _checked(datasets, paths, groups, mode)
    effort = Effort(threads, write_empty_chunks)
    rounds = list(_rounds(where))
    if not compute and (progress or len(rounds) > 1):
        raise ValueError(
            "progress=True is about a write that happens now, not with compute=False"
            if progress
            else "compute=False needs a path of its own for each dataset: each write replaces the whole file"
        )
    if progress:
        check_available()

    if not compute:
        for dataset in datasets:
            check_dask(dataset)
    asides = [in_dask(dataset, path) for dataset, (path, _) in zip(datasets, where, strict=True)]

    def plans(numbers: Sequence[int]) -> list[Job]:
        return [
            planned(
                WriteRequest(
                    asides[number][0],
                    where[number][0],
                    mode=mode,
                    group=where[number][1],
                    encoding=encoding,
                    filters=filters,
                    unlimited_dims=unlimited_dims,
                    safe_chunks=safe_chunks,
                    align_chunks=align_chunks,
                    checksums=checksums,
                )
            )
            for number in numbers
        ]

    jobs = plans(rounds[0]) if rounds else []
    if not compute:
        each = [delayed(*job, fsync=fsync, effort=effort) for job in jobs]
        return Write(dask.delayed(each), [transaction for _, transaction in jobs])
    with contextlib.ExitStack() as stack:
        for _, others in asides:
            stack.enter_context(others.computed())
        for number, numbers in enumerate(rounds):
            # a second dataset for a file can only be planned when the first is there
            jobs = plans(numbers) if number else jobs
            for first in range(0, len(jobs), _FILES):
                some = jobs[first : first + _FILES]
                title = f"{len(some)} files"
                execute(some, title, fsync=fsync, effort=effort, progress=progress)
    return None


def _checked(
    datasets: Sequence[Dataset],
    paths: Sequence[str | os.PathLike[str]],
    groups: Sequence[str | None] | None,
    mode: Mode,
) -> list[tuple[str, str]]:
    """Path and group of each dataset. Raises TypeError and ValueError, with the words of xarray where it has some."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    for number, dataset in enumerate(datasets):
        if not isinstance(dataset, Dataset):
            raise TypeError(
                "save_mfdataset only supports writing Dataset objects, received type "
                f"{type(dataset).__name__} at position {number}. to_pytables writes DataArray and DataTree"
            )
    named = [None] * len(datasets) if groups is None else list(groups)
    if len({len(datasets), len(paths), len(named)}) > 1:
        raise ValueError(
            "must supply lists of the same length for the datasets, paths and groups arguments to save_mfdataset; "
            f"there are {len(datasets)} datasets, {len(paths)} paths and {len(named)} groups"
        )
    local = [only_local(path, "save_mfdataset") for path in paths]
    files = [os.path.realpath(os.path.expanduser(os.fspath(path))) for path in local]
    where = [(file, checked_group(group or "/")) for file, group in zip(files, named, strict=True)]
    twice = _first_twice(files if mode in ("w", "w-", "x") else where)
    if twice is not None:
        raise ValueError(
            f"cannot use mode={mode!r} when writing multiple datasets to the same path: {twice} is there twice. "
            "mode='a' with groups adds them to one file"
        )
    return where


def _first_twice(items: Sequence[Any]) -> Any:
    seen = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return None


def _rounds(where: Sequence[tuple[str, str]]) -> Iterator[list[int]]:
    """Numbers of the datasets, in groups of which no two go to the same file, in order."""
    by_file: dict[str, list[int]] = {}
    for number, (file, _) in enumerate(where):
        by_file.setdefault(file, []).append(number)
    for numbers in itertools.zip_longest(*by_file.values()):
        yield [number for number in numbers if number is not None]
