"""A parser for VirtualiZarr, and so for Icechunk: the arrays of a file as manifests of Zarr 3.

Tested in `tests/virtual/test_virtual.py`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..disk.door import place_of
from ..sources.url import is_url
from .arrays import NotVirtualError, VirtualArray
from .chunk_codec import NAME
from .description import VirtualGroup, described, json_attributes, split_fill

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from obspec_utils.registry import ObjectStoreRegistry
    from virtualizarr.manifests import ManifestArray, ManifestGroup, ManifestStore


def parser(
    *, group: str = "/", storage_options: Mapping[str, Any] | None = None
) -> Callable[[str, ObjectStoreRegistry], ManifestStore]:
    """A parser for `virtualizarr.open_virtual_dataset(url, registry=..., parser=...)`; needs the extra `virtual`.

    It reads the metadata of the file at `url` as `xr.open_dataset` does, with `storage_options`, or by the store that
    the registry has for a URL that is no local file. Variables that Zarr cannot have are left out, with one warning.
    `group` is the group, or the table, whose variables are parsed.
    """

    def parse(url: str, registry: ObjectStoreRegistry) -> ManifestStore:
        from virtualizarr.manifests import ManifestStore

        place = _place(url, registry, storage_options)
        one, *_ = described(place, group, _in_the_file)
        return ManifestStore(registry=registry, group=_group(one, url))

    return parse


def _place(url: str, registry: ObjectStoreRegistry, storage_options: Mapping[str, Any] | None) -> Any:
    if not is_url(url) or url.startswith("file://"):
        return place_of(url)
    if storage_options is not None or not _is_obstore(store_and_path := registry.resolve(url)):
        return place_of(url, storage_options=storage_options)
    store, path = store_and_path
    return place_of(path, store=store)


def _is_obstore(store_and_path: tuple[Any, str]) -> bool:
    return type(store_and_path[0]).__module__.startswith("obstore")


def _group(group: VirtualGroup, url: str) -> ManifestGroup:
    from virtualizarr.manifests import ManifestGroup

    path = url if is_url(url) else f"file://{os.path.abspath(url)}"
    arrays = {array.name: _array(array, path) for array in group.arrays}
    return ManifestGroup(arrays=arrays, attributes=json_attributes(group.attributes))


def _in_the_file(array: VirtualArray) -> VirtualArray:
    """The array, of which all chunks are in the file. Raises NotVirtualError."""
    if array.name == "zarr.json":
        raise NotVirtualError("Zarr has metadata under its name")
    split_fill(array)  # raises if it has a wrong one
    if array.inline and not array.odd:
        raise NotVirtualError("its data lie in an object header, not in a chunk")
    if array.odd and array.masks is None:
        raise NotVirtualError("chunks that skip filters cannot be told from others by their size")
    return array


def _array(array: VirtualArray, url: str) -> ManifestArray:
    from virtualizarr.manifests import ChunkManifest, ManifestArray
    from virtualizarr.manifests.utils import create_v3_array_metadata
    from xarray.backends.zarr import FillValueCoder

    from . import zarr_codec as zarr_codec  # registers the codec

    fill, attributes = split_fill(array)
    native = array.dtype
    attributes = json_attributes(attributes)
    if array.is_text:
        attributes["_Encoding"] = "utf-8"
    if fill is not None:
        attributes["_FillValue"] = FillValueCoder.encode(fill, native)
    standard = array.standard() if not array.odd else None
    if standard is None:
        codecs = [{"name": NAME, "configuration": array.own(masks=bool(array.odd))}]
    else:
        codecs = [
            {"name": f"numcodecs.{words['id']}", "configuration": {k: v for k, v in words.items() if k != "id"}}
            for words in standard
        ]
    metadata = create_v3_array_metadata(
        shape=array.shape,
        data_type=native,
        chunk_shape=array.chunks,
        fill_value=None if array.fill is None else array.fill,
        codecs=codecs,
        attributes=attributes,
        dimension_names=array.dims,
    )
    shape = tuple(max(number, 1) for number in array.grid)  # its writers cannot go through an empty manifest
    paths = np.full(shape, "", np.dtypes.StringDType())
    offsets, lengths = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    for key, (offset, size) in {**array.places, **array.odd}.items():
        paths[key], offsets[key], lengths[key] = url, offset, size
    manifest = ChunkManifest.from_arrays(paths=paths, offsets=offsets, lengths=lengths)
    return ManifestArray(metadata=metadata, chunkmanifest=manifest)
