"""The project's own checks: style, types, and every benchmark in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {
    "append_many.py": ["--steps", "4"],
    "decode_scaling.py": ["--megabytes", "2", "--rounds", "1"],
    "encode_scaling.py": ["--megabytes", "2", "--rounds", "1"],
    "open_many.py": ["--variables", "5", "--rounds", "1"],
    "read_field.py": ["--shape", "4,20,30", "--rounds", "1"],
    "read_parts.py": ["--shape", "4,20,30", "--small", "50", "--rounds", "1"],
    "read_table.py": ["--rows", "3000", "--rounds", "1"],
    "read_ragged.py": ["--rows", "3000", "--rounds", "1"],
    "write_field.py": ["--shape", "4,20,30", "--rounds", "1"],
    "write_memory.py": ["--elements", "100000", "--codecs", "none"],
}


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ruff_finds_nothing():
    run("ruff", "check", ".")
    run("ruff", "format", "--check", ".")


def test_mypy_finds_nothing():
    run("mypy")


def test_every_benchmark_has_a_small_run():
    assert sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")) == sorted(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_benchmark_runs(name):
    command = [sys.executable, str(ROOT / "benchmarks" / name), *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
