"""The process in which changed files are tried: `python -m tests.fuzz.child CORPUS SECONDS`, one job and answer a line.

It may crash or hang (more than SECONDS of CPU for one file), so its parent (`supervisor`) watches it.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import random
import resource
import signal
import sys
import time
from pathlib import Path

import xarray as xr

from . import leftovers
from .mutations import Structure, mutated, mutated_text
from .trials import Watch, answers, trial_of

TEXTS = {".condition", ".index"}
SLOW_SECONDS = 4.0
MEMORY = 400 * 2**20
"""Bytes that one small file may cost at most, beyond what the process had before."""
ADDRESS_SPACE = 6 * 2**30


def limit() -> None:
    """A crash leaves no core, a hang ends with a traceback, and memory has an end."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)


def memory(what: str) -> int:
    """`VmRSS` or `VmHWM` of this process in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def tried(path: Path, rng: random.Random, watch: Watch, most_seconds: float) -> dict[str, object]:
    """The answer for one file."""
    forget_peak()
    before, began = memory("VmRSS"), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, most_seconds)
    try:
        with watch.watching(path):
            found = trial_of(path.name)(path, rng)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, grown = time.process_time() - began, memory("VmHWM") - before
    bad = list(found.bad)
    if watch.events:
        bad.append(("executed", "; ".join(watch.events)))
    if seconds > SLOW_SECONDS:
        bad.append(("slow", f"{seconds:.1f} s"))
    if grown > MEMORY:
        bad.append(("memory", f"{grown >> 20} MiB"))
    verdict = "read" if found.opened and not found.refusals else "read in part" if found.opened else "refused"
    return {
        "verdict": verdict,
        "bad": bad,
        "values": found.values,
        "warned": found.warned,
        "seconds": seconds,
        "grown": grown,
    }


def main() -> None:
    corpus, seconds, structures = Path(sys.argv[1]), float(sys.argv[2]), dict[str, Structure]()
    limit()
    to_parent = answers()
    xr.backends.list_engines()  # which imports them
    for sound in sorted(corpus.glob("golden-deepdish.h5")) + sorted(corpus.glob("*.h5"))[:1]:
        for seed in (
            0,
            1,
        ):  # so that all that reading imports is there before anybody watches: without and with decoding
            trial_of(sound.name)(sound, random.Random(seed))
    leftovers.prepare()
    watch = Watch(corpus.parent)
    for line in sys.stdin:
        job = json.loads(line)
        name, path = job["name"], Path(job["path"])
        data = (corpus / name).read_bytes()
        if "flip" in job:
            place, bit = job["flip"]
            data = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
        elif "seed" in job and path.suffix in TEXTS:
            data = mutated_text(data, random.Random(f"{name} {job['seed']}"))
        elif "seed" in job:
            if name not in structures:
                structures[name] = Structure.of(data)
            data = mutated(data, structures[name], random.Random(f"{name} {job['seed']}"))
        path.write_bytes(data)
        answer = tried(path, random.Random(job.get("seed", 0)), watch, seconds)
        if answer["grown"] > 2**25:  # type: ignore[operator]
            gc.collect()
        print(json.dumps(answer), file=to_parent, flush=True)


if __name__ == "__main__":
    main()
