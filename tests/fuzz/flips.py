"""`python -m tests.fuzz.flips`: single bits of sound files, one after the other, and what is noticed of each.

A bit in each byte of what is not raw data; bits of the chunks of our own files, compressed by each codec.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from xr_pytables import to_pytables

from . import corpus
from .mutations import Structure
from .supervisor import CPU_SECONDS, Process, judged

SMALL = (
    "pytables-plain.h5", "h5py-groups-earliest.h5", "h5py-groups-2.0.h5", "h5py-types-1.8.h5", "h5py-text-2.0.h5",
    "h5py-filtered-1.10.h5", "h5py-fixed-2.0.h5", "netcdf4-strings.h5", "ours-default.h5", "golden-keras2.h5",
)  # fmt: skip
"""Ten small files of several writers and versions of the format."""
CODECS = (
    "zlib", "bzip2", "blosc:blosclz", "blosc:lz4", "blosc:lz4hc", "blosc:zlib", "blosc:zstd", "blosc2:blosclz",
    "blosc2:lz4", "blosc2:lz4hc", "blosc2:zlib", "blosc2:zstd", None,
)  # fmt: skip


def metadata_places(data: bytes) -> list[int]:
    """Every byte that some structure of the file takes."""
    places = {
        place
        for piece in Structure.of(data).pieces
        for place in range(piece.start, min(piece.start + piece.count, len(data)))
    }
    return sorted(places)


def chunk_places(path: Path, name: str, count: int) -> list[tuple[int, int]]:
    """(byte, bit) of some bits of the stored chunks of an array, spread over all of them."""
    with h5py.File(path) as file:
        chunks = [file[name].id.get_chunk_info(number) for number in range(file[name].id.get_num_chunks())]
    bytes_of = [place for chunk in chunks for place in range(chunk.byte_offset, chunk.byte_offset + chunk.size)]
    rng = np.random.default_rng(len(bytes_of))
    chosen = rng.choice(len(bytes_of) * 8, count, replace=False)
    return [(bytes_of[number // 8], int(number % 8)) for number in chosen]


def write_with_codec(path: Path, complib: str | None) -> None:
    """An array as we write it by default, or with another codec."""
    values = np.random.default_rng(0).integers(0, 1000, (60, 50)).cumsum(0).astype("f8")
    encoding: dict[str, Any] = {"chunksizes": (20, 50)} | ({"complib": complib, "complevel": 5} if complib else {})
    to_pytables(xr.Dataset({"v": (("y", "x"), values)}), path, encoding={"v": encoding})


def outcomes(
    folder: Path, name: str, flips: Iterable[tuple[int, int]], judge: Callable[[dict[str, Any]], None] | None = None
) -> Counter[str]:
    """What was noticed of each flip: `refused`, `noticed` (an array or attribute is not shown), `harmless` (all values
    are as before), `differs`; or what must not be."""
    child, found = Process("child", folder, CPU_SECONDS), Counter[str]()
    path = folder.parent / f"flipped-{name}"
    sound = child.ask({"name": name, "path": str(path)})["values"]
    assert sound
    for place, bit in flips:
        answer = child.ask({"name": name, "path": str(path), "flip": (place, bit)})
        bad = judged(answer)
        if bad:
            found[bad[0][0]] += 1
        elif answer["verdict"] == "refused":
            found["refused"] += 1
        elif answer["verdict"] == "read in part" or answer["warned"]:
            found["noticed"] += 1
        else:
            found["harmless" if answer["values"] == sound else "differs"] += 1
        if judge is not None:
            judge({**answer, "bad": bad, "flip": (place, bit)})
    child.close()
    path.unlink(missing_ok=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.flips", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only each so many-th byte of metadata")
    parser.add_argument("--bits", type=int, default=200, help="of chunks, for each codec")
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "corpus"
        folder.mkdir()
        corpus.write(folder, SMALL)
        for name in SMALL:
            places = metadata_places((folder / name).read_bytes())[:: options.every]
            found = outcomes(folder, name, [(place, place * 5 % 8) for place in places])
            print(f"{name}: {found.total()} bits of metadata: {told(found)}", flush=True)
            bad += sum(found[verdict] for verdict in found if verdict not in SOUND)
        for complib in CODECS:
            name = f"{(complib or 'default').replace(':', '_')}.h5"
            write_with_codec(folder / name, complib)
            found = outcomes(folder, name, chunk_places(folder / name, "v", options.bits))
            print(f"{name}: {found.total()} bits of chunks: {told(found)}", flush=True)
            bad += sum(found[verdict] for verdict in found if verdict not in SOUND - {"differs"})
    sys.exit(bool(bad))


SOUND = {"refused", "noticed", "harmless", "differs"}


def told(found: Counter[str]) -> str:
    return ", ".join(f"{verdict} {count}" for verdict, count in found.most_common())


if __name__ == "__main__":
    main()
