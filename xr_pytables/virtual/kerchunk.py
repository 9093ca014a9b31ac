"""References for fsspec: a file of JSON, or a folder of Parquet, that a Zarr reader takes for a store of format 2.

Tested in `tests/virtual/test_virtual.py`.
"""

from __future__ import annotations

import base64
import json
import math
import os
import posixpath
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ..disk.door import place_of
from ..sources.url import local_argument
from .arrays import NotVirtualError, VirtualArray
from .chunk_codec import NAME
from .description import VirtualGroup, described, json_attributes, missing_chunks, split_fill, url_of

_MOST_FILLED: Final = 1 << 24  # bytes of chunks that have to be in the references because nobody wrote them

_INLINE: Final = "base64:"

_References = dict[str, Any]


def to_kerchunk(
    path: object,
    out: str | os.PathLike[str] | None = None,
    *,
    group: str = "/",
    storage_options: Mapping[str, Any] | None = None,
) -> _References:
    """Write references to the chunks of a file, with which any Zarr reader reads them where they are.

    Parameters
    ----------
    path
        A local path or a URL, as `xr.open_dataset` takes it. The references have it as it is, without any credentials.
    out
        A file of JSON to write, or a folder of Parquet if it ends in `.parq` or `.parquet` (needs
        `fastparquet`). None writes nothing.
    group
        Where to begin.
    storage_options
        As in `xr.open_dataset`.

    Returns the references. Variables that Zarr cannot have (values of variable length, types without an equal) are left
    out, with one warning that gives the reasons. Filters that numcodecs lacks, and columns of tables, need this package
    where they are read. Raises ValueError for what has no plain path or URL, and what opening raises.
    """
    target = None if out is None else local_argument(out, "out")
    place = place_of(path, storage_options=storage_options)
    url = url_of(place)
    references: _References = {"version": 1, "refs": {}}
    groups = described(place, group, _with_all_chunks)
    for one in groups:
        _add_group(references["refs"], one, url)
    for one in groups:
        _consolidate(references["refs"], one.path)
    if target is not None:
        _write(references, target)
    return references


def _write(references: _References, out: str) -> None:
    if out.endswith((".parq", ".parquet")):
        _write_parquet(references["refs"], out)
        return
    making = f"{out}.{os.getpid()}.part"
    try:
        with open(making, "w", encoding="utf-8") as file:
            json.dump(references, file)
        os.replace(making, out)
    except BaseException:
        if os.path.exists(making):
            os.unlink(making)
        raise


def _write_parquet(refs: _References, out: str) -> None:
    from fsspec.implementations.reference import LazyReferenceMapper  # imports pandas

    if os.path.lexists(out):
        raise FileExistsError(f"{out}: there is something already; a folder of Parquet is not written over")
    mapper = LazyReferenceMapper.create(out)
    for key, value in refs.items():
        if posixpath.basename(key) != ".zmetadata":  # it keeps metadata in a file of its own
            mapper[key] = value if isinstance(value, list) else _plain(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pandas does not like the library that fsspec reads with
        mapper.flush()


def _plain(text: str) -> bytes:
    return base64.b64decode(text[len(_INLINE) :]) if text.startswith(_INLINE) else text.encode()


def _add_group(refs: _References, group: VirtualGroup, url: str) -> None:
    refs[posixpath.join(group.path, ".zgroup")] = json.dumps({"zarr_format": 2})
    refs[posixpath.join(group.path, ".zattrs")] = json.dumps(json_attributes(group.attributes))
    for array in group.arrays:
        prefix = posixpath.join(group.path, array.name)
        fill, attributes = split_fill(array)
        standard = array.standard()
        filters = [{"id": NAME, **array.own()}] if standard is None else standard
        refs[f"{prefix}/.zarray"] = json.dumps(
            {
                "zarr_format": 2,
                "shape": list(array.shape),
                "chunks": list(array.chunks),
                "dtype": array.dtype.str,
                "order": "C",
                "fill_value": _fill(fill),
                "filters": filters or None,
                "compressor": None,
            }
        )
        if array.is_text:
            attributes["_Encoding"] = "utf-8"
        refs[f"{prefix}/.zattrs"] = json.dumps({**json_attributes(attributes), "_ARRAY_DIMENSIONS": list(array.dims)})
        for key, (offset, size) in array.places.items():
            refs[f"{prefix}/{_name(key)}"] = [url, offset, size]
        for key, data in array.inline.items():
            refs[f"{prefix}/{_name(key)}"] = _INLINE + base64.b64encode(data).decode("ascii")


def _consolidate(refs: _References, group: str) -> None:
    """Put all metadata of a group, and of those below, beside it: readers then need not list what is there."""
    start = f"{group}/" if group else ""
    found = {
        key[len(start) :]: json.loads(text)
        for key, text in refs.items()
        if key.startswith(start) and posixpath.basename(key) in (".zarray", ".zattrs", ".zgroup")
    }
    refs[f"{start}.zmetadata"] = json.dumps({"zarr_consolidated_format": 1, "metadata": found})


def _name(key: tuple[int, ...]) -> str:
    return ".".join(map(str, key)) or "0"


def _fill(value: Any) -> Any:
    """CF's fill value in the words of Zarr 2, in which `fill_value` means that and not what HDF5 means."""
    if value is None:
        return None
    if value.dtype.kind == "S":
        return base64.b64encode(bytes(value)).decode("ascii")
    if value.dtype.kind == "c":
        return [_number(value.real), _number(value.imag)]
    return _number(value)


def _number(value: Any) -> Any:
    plain = value.item()
    if isinstance(plain, float) and not np.isfinite(plain):
        return "NaN" if np.isnan(plain) else "Infinity" if plain > 0 else "-Infinity"
    return plain


def _with_all_chunks(array: VirtualArray) -> VirtualArray:
    """The array, with the chunks that are stored nowhere, where a reader would fill in other values than HDF5 does."""
    fill, _ = split_fill(array)
    zero = np.zeros((), array.dtype)[()]
    expected, meant = (zero if value is None else value for value in (fill, array.fill))
    if meant.tobytes() == expected.tobytes():
        return array
    missing = math.prod(array.grid) - len(array.places) - len(array.inline)
    data = array.never_written() if missing else b""
    if missing * len(data) > _MOST_FILLED:
        raise NotVirtualError(f"{missing} chunks were never written, and have a value that is not its _FillValue")
    return replace(array, inline={**array.inline, **dict.fromkeys(missing_chunks(array), data)})
