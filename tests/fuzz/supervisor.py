"""Sends changed files to a child process, starts another when it dies, and compares with what libhdf5 reads."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
CPU_SECONDS = 20.0
"""Of one file, after which it counts as a hang."""
PATIENCE = 300.0
"""Seconds without an answer, after which a child is killed. Long: what uses the CPU for ever ends itself before."""


class Process:
    """A child process that answers a line with a line."""

    def __init__(self, module: str, *args: object) -> None:
        self._command = [sys.executable, "-m", f"tests.fuzz.{module}", *map(str, args)]
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self._process: subprocess.Popen[str] | None = None
        self.deaths = 0

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer; {"died": how, "detail": its last words} if there is none."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            line = process.stdout.readline() if ready else ""
        except BrokenPipeError:
            ready, line = [process.stdout], ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        return self._died(hung=not ready)

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=ROOT
        )

    def _died(self, *, hung: bool) -> dict[str, Any]:
        assert self._process is not None
        if hung:
            self._process.kill()
        self._process.communicate()
        code, self._process = self._process.returncode, None
        self.deaths += 1
        self._errors.seek(0)
        detail = self._errors.read()[-3000:]
        self._errors.seek(0)
        self._errors.truncate()
        how = "hang" if hung or code == -signal.SIGPROF else "crash"
        return {"died": how, "detail": f"exit status {code}: {detail}"}

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
        self._errors.close()


@dataclass
class Report:
    """What came of many files."""

    verdicts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, int, str]] = field(default_factory=list)
    """(verdict, name, seed, detail) of what must not be."""
    compared: int = 0
    """Files of which libhdf5 read something, too."""
    oracle_deaths: int = 0
    slowest: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{verdict} {count}" for verdict, count in self.verdicts.most_common())
        return (
            f"{self.verdicts.total()} files: {counts}; {self.compared} compared with libhdf5, which died "
            f"{self.oracle_deaths} times; slowest {self.slowest:.2f} s of CPU; {len(self.bad)} findings"
        )


def run(
    corpus: Path, jobs: Iterable[tuple[str, int, bool]], *, keep: Path | None = None, most_kept: int = 200
) -> Report:
    """Try each (name in the corpus, seed, whether to ask libhdf5 as well). What is found is kept in `keep`.

    Ctrl-C ends it; the report is about those before.
    """
    report, child, oracle = Report(), Process("child", corpus, CPU_SECONDS), Process("oracle")
    known = dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory(dir=corpus.parent) as folder, contextlib.suppress(KeyboardInterrupt):
        for name, seed, compare in jobs:
            if compare and name.endswith(".h5") and name not in known:
                known[name] = agreed(child, oracle, corpus, name, Path(folder))
            path = Path(folder) / f"{seed}-{name}"
            answer = child.ask({"name": name, "seed": seed, "path": str(path)})
            bad = judged(answer)
            report.verdicts[answer.get("died") or answer["verdict"]] += 1
            report.slowest = max(report.slowest, answer.get("seconds", 0.0))
            if answer.get("values") and name in known and compare:
                bad += differences(answer["values"], oracle.ask({"path": str(path)}), known[name], report)
            for verdict, detail in bad:
                report.bad.append((verdict, name, seed, detail))
            if bad and keep is not None and len(report.bad) < most_kept:
                keep.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # the child died before it was there
                    shutil.copy(path, keep / path.name)
                (keep / f"{path.name}.txt").write_text("\n\n".join(f"{verdict}: {detail}" for verdict, detail in bad))
            path.unlink(missing_ok=True)
    report.oracle_deaths = oracle.deaths
    child.close()
    oracle.close()
    return report


def judged(answer: dict[str, Any]) -> list[tuple[str, str]]:
    if "died" in answer:
        return [(answer["died"], answer["detail"])]
    return [(verdict, detail) for verdict, detail in answer["bad"]]


def agreed(child: Process, oracle: Process, corpus: Path, name: str, folder: Path) -> dict[str, Any]:
    """What both read alike of the sound file: only that can be compared (h5py shows some types in another way)."""
    path = folder / f"sound-{name}"
    ours = child.ask({"name": name, "path": str(path)}).get("values", {})
    theirs = oracle.ask({"path": str(path)})
    path.unlink()
    return {key: value for key, value in ours.items() if theirs.get(key) == value}


def differences(
    ours: dict[str, Any], theirs: dict[str, Any], known: dict[str, Any], report: Report
) -> list[tuple[str, str]]:
    """Values that differ although both read something; but ours are right if they are those of the sound file."""
    if "died" in theirs:
        return []
    report.compared += 1
    return [
        ("wrong value", f"{key}: {ours[key]}, libhdf5 {theirs[key]}")
        for key in ours
        if key in known and key in theirs and ours[key] not in (theirs[key], known[key])
    ]
