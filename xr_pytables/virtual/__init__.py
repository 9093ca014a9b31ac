"""Files as virtual Zarr stores: metadata and places of chunks, which any Zarr reader reads from the file itself.

`to_kerchunk` writes references for fsspec, `parser` is a parser for VirtualiZarr, and so for Icechunk. Importing this
registers the codec of HDF5's filters with numcodecs and, if it is installed, zarr.
"""

from __future__ import annotations

from . import chunk_codec as chunk_codec
from .kerchunk import to_kerchunk as to_kerchunk
from .manifests import parser as parser

__all__ = ["parser", "to_kerchunk"]
