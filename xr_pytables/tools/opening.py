"""Files and folders of any format that xarray reads here, as groups of datasets: HDF5 by our engine, others by theirs.

Tested in `tests/tools/test_differences.py` and `tests/tools/test_converting.py`.
"""

from __future__ import annotations

import importlib.util
import math
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import xarray as xr

from ..disk.files import checked_group
from ..errors import FormatError
from ..sources.source import printable
from ..sources.url import is_url

Groups = dict[str, xr.Dataset]
"""Datasets by path from where they were opened ("/" for that itself)."""

_SIGNATURES: Final = {
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"CDF\x01": "netCDF-3",
    b"CDF\x02": "netCDF-3",
    b"CDF\x05": "netCDF-3",
}
_ZARR: Final = ("zarr.json", ".zgroup", ".zarray")
AS_STORED: Final[Mapping[str, Any]] = {"mask_and_scale": False, "decode_times": False, "decode_timedelta": False}
"""Values without xarray's decoders; but text is text."""
_DECODED: Final[Mapping[str, Any]] = {"decode_timedelta": True}


def format_of(path: str) -> str:
    """`HDF5`, `netCDF-3` or `Zarr`, judged by the bytes; empty for what is none of them. By URL there is HDF5 alone.

    Raises FileNotFoundError, IsADirectoryError for a folder that is no Zarr store, and OSError for pipes and devices.
    """
    if is_url(path):
        return "HDF5"
    if os.path.isdir(path):
        if not is_zarr(path):
            raise IsADirectoryError(f"{path}: this is a folder, and no Zarr store")
        return "Zarr"
    check_is_file(path)
    with open(path, "rb") as file:
        for place in (0, 512, 1024, 2048):
            file.seek(place)
            found = _SIGNATURES.get(file.read(8))
            if found:
                return found
        file.seek(0)
        return _SIGNATURES.get(file.read(4), "")


def check_is_file(path: str) -> None:
    """Raise OSError for pipes and devices, which may wait for ever for somebody who writes to them."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError(f"{printable(path)}: this is not a regular file")


def is_zarr(path: str) -> bool:
    """Whether a folder is a Zarr store."""
    return any(os.path.isfile(os.path.join(path, name)) for name in _ZARR)


@contextmanager
def opened(path: str, node: str = "/", *, raw: bool = False, **options: Any) -> Iterator[Groups]:
    """The datasets of a file, from `node` on, lazily and without indexes; closed at the end of the block.

    `raw` leaves values as they are stored. `options` go to our engine, if the file is of HDF5.
    """
    path = path if is_url(path) else os.path.abspath(os.path.expanduser(path))
    group, kind = checked_group(node), format_of(path)
    decoders = {**(AS_STORED if raw else _DECODED), "cache": False, "create_default_indexes": False, "chunks": None}
    if not kind:
        raise FormatError(f"{printable(path)}: neither an HDF5 file nor another format that is known here")
    if kind == "HDF5":
        groups = xr.open_groups(path, engine="pytables", group=group, **decoders, **options)
    elif options.get("where") is not None:
        raise ValueError(f"{path}: where= is for tables in HDF5 files, this is {kind}")
    elif kind == "Zarr":
        groups = _zarr_groups(path, group, decoders)
    else:
        groups = {"/": xr.open_dataset(path, **decoders)}
    try:
        yield {posixpath.join("/", name): _called_by_text(dataset) for name, dataset in groups.items()}
    finally:
        for dataset in groups.values():
            dataset.close()


def _called_by_text(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset, labels of pandas' columns that are no text as text: files, and who types a name, have no others.

    Labels whose text another variable has stay as they are.
    """
    texts = {name: str(name) for name in dataset.variables if not isinstance(name, str)}
    if not texts:
        return dataset
    count = Counter(map(str, dataset.variables))
    return dataset.rename({name: text for name, text in texts.items() if count[text] == 1})


def _zarr_groups(path: str, group: str, decoders: Mapping[str, Any]) -> Groups:
    check_zarr(path)
    where = None if group == "/" else group
    groups: Groups = xr.open_groups(path, engine="zarr", group=where, consolidated=False, **decoders)
    return groups


def check_variables(names: Collection[str] | None, argument: str = "variables") -> None:
    """Raise ValueError for a choice of no arrays at all."""
    if names is not None and not names:
        raise ValueError(f"{argument} (--vars) names no array. Leave it out to take all")


def named_alone(dataset: xr.Dataset, names: Collection[str]) -> xr.Dataset:
    """The variables of these names, without their coordinates."""
    return dataset.drop_vars([name for name in dataset.variables if str(name) not in names])


def check_zarr(path: str) -> None:
    """Raise ModuleNotFoundError, naming the extra, if there is nothing to read or write Zarr with."""
    if importlib.util.find_spec("zarr") is None:
        raise ModuleNotFoundError(
            f"{path}: Zarr stores need zarr, which is not installed. Get it by: pip install 'xr-pytables[convert]'"
        )


def blocks(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, nbytes: int) -> Iterator[tuple[slice, ...]]:
    """Parts of an array of up to about `nbytes`, each of whole chunks where these are smaller; in C order."""
    if 0 not in shape:
        yield from _boxes(shape, steps(shape, chunks, itemsize, nbytes))


def steps(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, nbytes: int) -> tuple[int, ...]:
    """The shape of such parts. Chunks are joined along the last dimensions first, and cut where one is too large."""
    found = [max(1, min(chunk, size)) for chunk, size in zip(chunks, shape, strict=True)]
    room = max(nbytes // max(itemsize, 1), 1)
    for axis in reversed(range(len(shape))):
        whole = room // math.prod(found)  # chunks that fit
        found[axis] = max(1, min(shape[axis], max(whole, 1) * found[axis]))
    for axis in range(len(shape)):
        while found[axis] > 1 and math.prod(found) * itemsize > 2 * nbytes:
            found[axis] = -(-found[axis] // 2)
    return tuple(found)


def _boxes(shape: tuple[int, ...], step: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    if not shape:
        yield ()
        return
    for start in range(0, shape[0], step[0]):
        for rest in _boxes(shape[1:], step[1:]):
            yield (slice(start, min(start + step[0], shape[0])), *rest)


def chunks_of(variable: xr.Variable) -> tuple[int, ...]:
    """What is best read together of a lazy variable; all of it where nothing is known."""
    preferred = variable.encoding.get("preferred_chunks", {})
    return tuple(int(preferred.get(dim, size)) for dim, size in variable.sizes.items())
