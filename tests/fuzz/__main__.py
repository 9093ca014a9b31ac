"""`python -m tests.fuzz`: try changed files for some minutes, or a number of them."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import corpus
from .supervisor import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=10**9, help="files at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first change; each file takes the next")
    parser.add_argument("--only", nargs="*", help="words in names of the corpus")
    parser.add_argument("--compare", type=float, default=0.5, help="part of the files that libhdf5 reads as well")
    parser.add_argument("--keep", type=Path, help="folder for what is found")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "corpus"
        folder.mkdir()
        corpus.write(folder, options.only)
        names = sorted(path.name for path in folder.iterdir())

        def jobs() -> Iterator[tuple[str, int, bool]]:
            for number in itertools.count():
                if time.monotonic() > end or number >= options.count:
                    return
                # each file of the corpus is taken as often as the others, whatever its size
                yield (
                    names[number % len(names)],
                    options.seed + number,
                    number * options.compare % 1 + options.compare >= 1,
                )

        report = run(folder, jobs(), keep=options.keep)
    for verdict, name, seed, detail in report.bad:
        print(f"{verdict}: {name}, seed {seed}: {detail}\n")
    print(report)
    sys.exit(bool(report.bad))


if __name__ == "__main__":
    main()
