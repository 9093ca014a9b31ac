"""The codec of HDF5's filters for Zarr 3: `chunk_codec` in the form that zarr wants.

Tested in `tests/virtual/test_virtual.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

from zarr.abc.codec import BytesBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.registry import register_codec

from .chunk_codec import NAME, HDF5Filters


@dataclass(frozen=True)
class HDF5Codec(BytesBytesCodec):
    """Bytes of a chunk as they lie in an HDF5 file to the bytes of its elements."""

    is_fixed_size = False
    configuration: Any

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From what Zarr metadata say of it. Raises ValueError for what is no such codec."""
        configuration = dict(data["configuration"])
        HDF5Filters(**configuration)
        return cls(configuration)

    def to_dict(self) -> dict[str, Any]:
        """What Zarr metadata say of it."""
        return {"name": NAME, "configuration": dict(self.configuration)}

    def __hash__(self) -> int:
        return hash(repr(self.configuration))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        codec = HDF5Filters(**self.configuration)
        data = await asyncio.to_thread(codec.decode, chunk_data.as_numpy_array())
        return chunk_spec.prototype.buffer.from_array_like(data)

    async def _encode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        raise NotImplementedError(f"{NAME} reads chunks of HDF5 files; it does not write any")

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Unknown: compressors differ."""
        raise NotImplementedError


register_codec(NAME, HDF5Codec)
