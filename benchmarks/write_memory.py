"""How much memory it takes to stream an array that is larger than memory from Dask to a file.

    python benchmarks/write_memory.py [--elements 1000000000] [--codecs none,zlib,blosc:lz4] [--scheduler threads]

An array of 10^9 float32 is made by Dask in blocks of 10^7 and written while it is made. A process of its own measures
the most memory that it ever held (VmHWM), less what it held when everything was imported. The project asks for at most
400 MB.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

BLOCK = 10_000_000


def peak() -> int:
    """Most bytes of memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(path: str, elements: int, complib: str, scheduler: str) -> None:
    """In the process that is measured."""
    import dask
    import dask.array
    import xarray as xr

    from xr_pytables import to_pytables

    words = {} if complib == "none" else {"complib": complib, "complevel": 1}

    def dataset(length: int) -> xr.Dataset:
        made = dask.array.arange(length, chunks=min(BLOCK, length), dtype="f4") % 1000
        return xr.Dataset({"x": ("i", made)})

    with dask.config.set(scheduler=scheduler):
        to_pytables(dataset(1000), path, encoding={"x": words})  # imports, pools
        before, began = peak(), time.perf_counter()
        to_pytables(dataset(elements), path, encoding={"x": words}, fsync=False)
        seconds = time.perf_counter() - began
    print(
        f"{complib:12} {4 * elements / 1e6:.0f} MB of data, {os.path.getsize(path) / 1e6:.0f} MB on disk, "
        f"{4 * elements / seconds / 1e6:.0f} MB/s: {(peak() - before) / 1e6:.0f} MB above {before / 1e6:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1_000_000_000)
    parser.add_argument("--codecs", default="none,zlib,blosc:lz4,blosc2:zstd")
    parser.add_argument("--scheduler", default="threads")
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        write(options.inside, options.elements, options.codecs, options.scheduler)
        return
    for complib in options.codecs.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            words = ["--inside", os.path.join(folder, "x.h5"), "--codecs", complib, "--scheduler", options.scheduler]
            subprocess.run([sys.executable, __file__, *words, "--elements", str(options.elements)], check=True)


if __name__ == "__main__":
    main()
