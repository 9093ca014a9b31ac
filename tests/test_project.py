"""The project's own checks: style, types, and every benchmark in small."""

from __future__ import annotations

import ast
import os
import re
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
    "read_remote.py": ["--megabytes", "2", "--milliseconds", "0", "--rounds", "1", "--rows", "2000"],
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


@pytest.mark.parametrize(("times", "fixed"), [("1", True), ("20", False)])
def test_properties_try_fixed_examples_or_many_random_ones(times: str, fixed: bool) -> None:
    code = """
from hypothesis import settings
from tests.helpers_properties import examples, use_profile
use_profile()
print(examples(30).max_examples, examples(30).derandomize, settings.default.derandomize)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "XR_PYTABLES_EXAMPLES": times},
    )  # fmt: skip
    assert done.stdout.split() == [str(30 * int(times)), str(fixed), str(fixed)]


def test_every_benchmark_has_a_small_run():
    assert sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")) == sorted(SMALL)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_benchmark_runs(name):
    command = [sys.executable, str(ROOT / "benchmarks" / name), *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def files_for(module: Path) -> list[str]:
    """The test files of a module: the one of the same name, or those that its first lines name."""
    own = list((ROOT / "tests").rglob(f"test_{module.stem}.py"))
    if own:
        return [str(own[0].relative_to(ROOT))]
    return re.findall(r"`(tests/[\w/]*test_\w+\.py)`", ast.get_docstring(ast.parse(module.read_text())) or "")


MODULES = sorted(path for path in (ROOT / "xr_pytables").rglob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_its_test_file_or_says_where_it_is_tested(module: Path) -> None:
    named = files_for(module)
    assert named, f"there is no test_{module.stem}.py; end the docstring with 'Tested in `tests/test_x.py`.'"
    assert [name for name in named if not (ROOT / name).exists()] == []
