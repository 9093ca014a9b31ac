"""The project's own checks: style, types, and every benchmark in small."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import xr_pytables

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


def test_codespell_finds_nothing():
    folders = ["docs", "xr_pytables", "tests", "benchmarks"]
    run("codespell_lib", *folders, *sorted(path.name for path in ROOT.glob("*.md")))


# -- what others expect of a project -------------------------------------------------------------------------


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def least_versions() -> dict[str, str]:
    """By name, of what is needed and of the extras that tests of the oldest versions use."""
    extras = project()["optional-dependencies"]
    asked = [
        *project()["dependencies"],
        *(one for name in ("distributed", "filters", "netcdf", "progress") for one in extras[name]),
    ]
    found = {}
    for one in asked:
        requirement = Requirement(one)
        (least,) = (each.version for each in requirement.specifier if each.operator == ">=")
        found[requirement.name] = least
    return found


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="source archives leave .ci out")
def test_the_oldest_versions_are_those_that_the_package_asks_for():
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name, least in least_versions().items():
        assert Version(pinned[name]).release[: len(Version(least).release)] == Version(least).release, name


@pytest.mark.skipif(not (ROOT / "recipe").exists(), reason="source archives leave the recipe out")
def test_the_recipe_for_conda_needs_what_the_package_needs():
    names = {"blosc2": "python-blosc2", "dask": "dask-core", "tables": "pytables"}
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    run_time = [one for one in recipe["requirements"]["run"] if not one.startswith("python >=")]
    needed = [Requirement(one) for one in project()["dependencies"]]
    assert sorted(run_time) == sorted(f"{names.get(one.name, one.name)} {one.specifier}" for one in needed)
    assert recipe["context"]["version"] == xr_pytables.__version__


@pytest.mark.skipif(not (ROOT / ".github").exists(), reason="source archives leave .github out")
def test_workflows_forms_and_citation_are_well_formed():
    parsed = {path: yaml.safe_load(path.read_text()) for path in (ROOT / ".github").rglob("*.yml")}
    workflows = {path.stem: content for path, content in parsed.items() if path.parent.name == "workflows"}
    assert set(workflows) == {"test", "nightly", "docs", "release"}
    matrix = workflows["test"]["jobs"]["test"]["strategy"]["matrix"]
    classifiers = project()["classifiers"]
    assert [f"Programming Language :: Python :: {version}" in classifiers for version in matrix["python"]] == [True] * 4
    scripts = " ".join(step.get("run", "") for each in workflows.values() for job in each["jobs"].values()
                       for step in job["steps"])  # fmt: skip
    for named in re.findall(r"(?<!\S)\.ci/\w+", scripts):
        assert (ROOT / named).exists()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == xr_pytables.__version__
    assert citation["license"] == project()["license"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "codespell", "mypy"}


def test_plots_are_those_of_what_was_measured(tmp_path: Path):
    subprocess.run([sys.executable, ROOT / "docs/performance/draw.py", "--folder", tmp_path], check=True)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(drawn) == {"about.txt", "read_field.svg", "write_field.svg"}
    assert {name: (ROOT / "docs/performance" / name).read_text() for name in drawn} == drawn


def test_what_a_benchmark_measured_is_kept(tmp_path: Path):
    kept = tmp_path / "measured.json"
    for name in ("read_field.py", "write_field.py"):
        command = [sys.executable, ROOT / "benchmarks" / name, *SMALL[name], "--codecs", "zlib", "--json", kept]
        subprocess.run(command, check=True, capture_output=True)
    measured = json.loads(kept.read_text())
    assert [row["title"] for row in measured["read_field"]["rows"]] == ["zlib, .values", "zlib, .mean()"]
    assert {"pytables", "netcdf4", "zarr"} <= set(measured["write_field"]["rows"][0]["speeds"])
    assert measured["read_field"]["versions"]["xarray"] == xr.__version__


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
    assert sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")) == sorted([*SMALL, "results.py"])


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
