"""HDF5's filters as one codec of numcodecs and of zarr: what their own codecs do not undo.

Both have entry points for it, so that a reader needs no more than this package installed.

Tested in `tests/virtual/test_virtual.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ndarray_copy
from numcodecs.registry import register_codec
from numpy.typing import NDArray

from ..chunks import codecs
from ..chunks.filters import Filter, FilterPipeline

NAME = "xr_pytables.hdf5"
"""How Zarr metadata call it."""


class HDF5Filters(Codec):  # type: ignore[misc]  # numcodecs has no types
    """The filters of a chunk, undone; of rows of a table also the picking of one column."""

    codec_id: ClassVar[str] = NAME

    def __init__(
        self,
        filters: Sequence[Sequence[Any]],
        nbytes: int,
        column: Sequence[int] | None = None,
        masks: Sequence[Sequence[int]] = (),
    ) -> None:
        """`filters` are (HDF5 id, client data) in the order of writing, `nbytes` the size of the chunk without them.

        `column` is (first byte, bytes) of what is wanted of each row, and the bytes of a row. `masks` are
        (stored bytes, filter mask): chunks of such a size skip those filters.
        """
        self.masks = [[int(size), int(mask)] for size, mask in masks]
        self.filters = [(int(identifier), [int(value) for value in values]) for identifier, values in filters]
        self.nbytes = int(nbytes)
        self.column = None if column is None else [int(number) for number in column]
        if self.column is not None:
            first, width, row = self.column
            if not (first >= 0 and width > 0 and first + width <= row and self.nbytes % row == 0):
                raise ValueError(f"column {self.column} is no part of rows in {self.nbytes} bytes")

    def get_config(self) -> dict[str, Any]:
        """What Zarr metadata say of it."""
        column = {} if self.column is None else {"column": self.column}
        masks = {"masks": self.masks} if self.masks else {}
        return {
            "id": self.codec_id,
            "filters": [list(step) for step in self.filters],
            "nbytes": self.nbytes,
            **column,
            **masks,
        }

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The bytes of a chunk. Raises ChunkError, an OSError, for what is damaged."""
        raw = np.frombuffer(buf, np.uint8)
        pipeline = FilterPipeline(tuple(Filter(identifier, tuple(values)) for identifier, values in self.filters))
        mask = next((mask for size, mask in self.masks if size == raw.size), 0)
        data = codecs.decode_chunk(raw, mask, pipeline, self.nbytes)
        if self.column is not None:
            data = _picked(data, *self.column)
        return data if out is None else ndarray_copy(data, out)

    def encode(self, buf: Any) -> Any:
        """Refused: virtual stores are read."""
        raise NotImplementedError(f"{NAME} reads chunks of HDF5 files; it does not write any")


def _picked(data: NDArray[np.uint8], first: int, width: int, row: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(data.reshape(-1, row)[:, first : first + width]).reshape(-1)


register_codec(HDF5Filters)
