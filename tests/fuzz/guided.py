"""Changes guided by what they reach in the code: `python -m tests.fuzz.guided TARGET [FOLDER] [-max_total_time=600]`.

Needs the package `atheris`, which is no dependency of the tests. FOLDER keeps what reaches something new; the options
are those of libFuzzer. Ends at the first exception that is none of the errors which the target is to raise, and leaves
what caused it as `crash-...`: a case for the tests.
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import atheris
import numpy as np

with atheris.instrument_imports(include=["xr_pytables"], enable_loader_override=False):
    from xr_pytables.chunks import codecs
    from xr_pytables.chunks.filters import Filter, FilterPipeline
    from xr_pytables.errors import ChunkError, FormatError
    from xr_pytables.hdf5 import checksum, conversion, datatype
    from xr_pytables.hdf5.damage import Reading
    from xr_pytables.model import safe_pickle
    from xr_pytables.where.conditions import compile_condition

    from . import corpus, leftovers
    from .mutations import read_all_metadata

COLUMNS = {"a": np.dtype("i8"), "b": np.dtype("f8"), "s": np.dtype("S4"), "flag": np.dtype("?")}
FILTERS = sorted(number for number, codec in codecs.CODECS.items() if codec.decode is not None)


def try_pickle(data: bytes) -> None:
    with contextlib.suppress(safe_pickle.NotAPickleError, safe_pickle.UnsafePickleError):
        repr(safe_pickle.loads(data, max_items=10_000))


def _none(blocks: list[bytes]) -> list[str]:
    return [""] * len(blocks)


def try_format(data: bytes) -> None:
    """Objects, attributes, types, links, heaps and indexes of a file, whatever its checksums say."""
    with mock.patch.object(checksum, "mismatches", _none):
        read_all_metadata(data)


def try_datatype(data: bytes) -> None:
    with contextlib.suppress(FormatError), Reading("fuzzed", "a datatype", 0):
        found = datatype.decode_datatype(data)
        if found.dtype is not None and found.stored_size <= 4096:
            conversion.convert(
                np.frombuffer(data.ljust(4 * found.stored_size, b"x"), f"V{found.stored_size}", 4), found
            )


def try_filters(data: bytes) -> None:
    """A chunk behind one or two filters with parameters of any kind."""
    if len(data) < 20:
        return
    numbers = struct.unpack_from("<4I", data, 2)
    steps = [Filter(FILTERS[byte % len(FILTERS)], numbers[: 1 + byte % 4]) for byte in data[: 1 + data[0] % 2]]
    raw = np.frombuffer(data, np.uint8, offset=20).copy()
    with contextlib.suppress(ChunkError):
        codecs.decode_chunk(raw, 0, FilterPipeline(tuple(steps)), data[18] | data[19] << 8)


def try_condition(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        compile_condition(data.decode("utf-8", "replace"), COLUMNS)


def try_leftover(data: bytes, ending: str) -> None:
    """A journal, a segment or a saved index, as `leftovers` tries them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"0-numbers{ending}"
        path.write_bytes(data)
        found = {".journal": leftovers.try_journal, ".segment": leftovers.try_segment, ".index": leftovers.try_index}[
            ending
        ](path, random.Random(len(data)))
    if found.bad:
        raise AssertionError(found.bad)


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[str, ...]]] = {
    "pickle": (try_pickle, (".pickle",)),
    "format": (try_format, ("h5py-groups", "h5py-types", "h5py-text", "h5py-btree", "h5py-extensible", "netcdf4-all")),
    "datatype": (try_datatype, ()),
    "filters": (try_filters, ()),
    "condition": (try_condition, (".condition",)),
    "journal": (lambda data: try_leftover(data, ".journal"), (".journal",)),
    "segment": (lambda data: try_leftover(data, ".segment"), ("numbers.segment",)),
    "index": (lambda data: try_leftover(data, ".index"), (".index",)),
}
"""By name: what is tried, and words in the names of what the corpus begins with."""


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTargets: {', '.join(TARGETS)}")
    target, words = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        if words:
            corpus.write(Path(folder), words)
        leftovers.prepare()
        atheris.Setup([sys.argv[0], *sys.argv[2:], folder], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
