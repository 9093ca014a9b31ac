"""The README and the documentation are true: every example runs, every argument has a row, every named test exists.

The ```python blocks of a page run in order, in one namespace and in an empty folder. A block with `>>>` is a doctest:
what it prints must be what the page says (`...` stands for anything). Other blocks just run, with warnings as errors.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import xr_pytables
from xr_pytables.backend import PyTablesBackendEntrypoint
from xr_pytables.layouts import KEYS
from xr_pytables.writer import to_pytables

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
CF_KEYS = {"_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "units", "calendar"}
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)+)`")


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a language, each with the number of lines before its first."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start()) + 1, found[2]


# -- examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=relative)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    runner = doctest.DocTestRunner(optionflags=_OPTIONS)
    for line, code in blocks(page, "python"):
        if ">>>" not in code:
            exec(compile("\n" * line + code, str(page), "exec"), namespace)
            continue
        example = doctest.DocTestParser().get_doctest(code, namespace, relative(page), str(page), line)
        told: list[str] = []
        result = runner.run(example, out=told.append, clear_globs=False)
        assert not result.failed, "".join(told)
        namespace = example.globs


def test_a_wrong_output_on_a_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nnumber = 1\n```\n\n```python\n>>> number\n2\n```\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)page.md.*Expected:\s+2\s+Got:\s+1"):
        test_examples_run(page, tmp_path, monkeypatch)


# -- commands ------------------------------------------------------------------------------------------------------


def readme_commands() -> list[str]:
    """The commands of the README that set everything up: one line each."""
    return [line for _, code in blocks(README, "sh") for line in code.splitlines() if "venv" in line]


def test_readme_has_two_commands_that_do_all_the_set_up() -> None:
    first, second = readme_commands()
    assert first.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert first.endswith("&& .venv/bin/python -m xr_pytables demo")
    assert second.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert second.endswith("&& .venv/bin/python -m pytest")


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not a checkout: source archives leave .ci out")
    assert readme_commands()[1] in script.read_text()


def test_commands_ask_for_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {
        extra
        for page in PAGES
        for _, code in blocks(page, "sh")
        for group in re.findall(r"\[([\w,-]+)\]", code)
        for extra in group.split(",")
    }
    assert asked
    assert asked <= set(extras)


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "sh"))], ids=relative)
def test_commands_of_this_package_exist(page: Path) -> None:
    from xr_pytables.cli import main

    for _, code in blocks(page, "sh"):
        for name in re.findall(r"(?:xr-pytables|-m xr_pytables) (\w+)", code):
            assert name in main.commands


def test_demo_as_the_readme_calls_it() -> None:
    command = shlex.split(readme_commands()[0].rpartition("&&")[2])
    done = subprocess.run([sys.executable, "-W", "error", *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "All as it should be." in done.stdout


# -- reference -----------------------------------------------------------------------------------------------------


def rows(heading: str) -> dict[str, str]:
    """The rows of the table below a heading of the reference, by what stands in the first column."""
    text = (DOCS / "reference.md").read_text()
    section = re.split(r"^## ", text.split(f"## {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return {
        name: line
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def parameters(function: object) -> set[str]:
    assert callable(function)
    return set(inspect.signature(function).parameters) - {"self", "filename_or_obj", "obj", "path"}


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Arguments of open_dataset", parameters(PyTablesBackendEntrypoint.open_dataset)),
        ("Arguments of to_pytables", parameters(to_pytables)),
        ("Encoding keys", set(KEYS | CF_KEYS)),
    ],
)
def test_every_argument_has_a_row_that_names_a_test(heading: str, names: set[str]) -> None:
    described = rows(heading)
    assert set(described) == names
    without = [name for name, row in described.items() if not _TEST_NAME.search(row)]
    assert not without, f"no test is named for {without}"


def test_open_groups_takes_what_open_dataset_takes() -> None:
    assert parameters(PyTablesBackendEntrypoint.open_groups_as_dict) == parameters(
        PyTablesBackendEntrypoint.open_dataset
    )


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text()
    assert [name for name in xr_pytables.__all__ if f"`{name}`" not in text] == []


def defined_tests(path: Path) -> set[str]:
    """`::name` and `::Class::name` of the tests that a file defines itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(f"::{node.name}")
        elif isinstance(node, ast.ClassDef):
            found.add(f"::{node.name}")
            found |= {f"::{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if _TEST_NAME.search(page.read_text())], ids=relative)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    missing = [
        file + name
        for file, name in _TEST_NAME.findall(page.read_text())
        if not (ROOT / file).exists() or name not in defined_tests(ROOT / file)
    ]
    assert missing == []


# -- the site ------------------------------------------------------------------------------------------------------


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    for page in DOCS.rglob("*.md"):
        built = page.relative_to(DOCS).with_suffix("")
        folder = built.parent if built.name == "index" else built
        assert (tmp_path / "site" / folder / "index.html").exists()
