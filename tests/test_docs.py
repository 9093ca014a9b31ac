"""The README and the documentation are true: every example runs, every argument has a row, every named test exists.

The ```python blocks of a page run in order, in one namespace and in an empty folder. A block with `>>>` is a doctest:
what it prints must be what the page says (`...` stands for anything). Other blocks just run, with warnings as errors.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import gc
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables.backend import PyTablesBackendEntrypoint
from xr_pytables.chunks.filters import BLOSC_CODES, BLOSCS
from xr_pytables.writing.layouts import KEYS
from xr_pytables.writing.many_files import save_mfdataset
from xr_pytables.writing.shared_write import begin_write
from xr_pytables.writing.writer import to_pytables

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
CF_KEYS = {"_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "units", "calendar"}
_spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery" / "make.py")
assert _spec is not None
assert _spec.loader is not None
gallery: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gallery)
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TEST_NAME = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")


@pytest.fixture(autouse=True)
def files_need_not_be_closed() -> Iterator[None]:
    """Readers of the documentation may leave closing to Python; xarray's own suite, once imported, forbids it."""
    with xr.set_options(warn_for_unclosed_files=False):  # type: ignore[no-untyped-call]
        yield
        gc.collect()


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a language, each with the number of lines before its first."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start()) + 1, found[2]


# -- examples ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_client_stays() -> Iterator[None]:
    """A cluster that ends slowly, on a busy machine, must not compute for the next page."""
    yield
    with contextlib.suppress(ValueError):  # there is none
        distributed.default_client().close()


@pytest.mark.usefixtures("no_client_stays")
@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=relative)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text()
    if "import matplotlib" in text:
        pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
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
        if result.failed:
            pytest.fail("".join(told), pytrace=False)
        namespace = example.globs
    assert set(gallery.PICTURE.findall(text)) == {path.name for path in tmp_path.glob("*.png")}


def test_a_wrong_output_on_a_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nnumber = 1\n```\n\n```python\n>>> number\n2\n```\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"(?s)page.md.*Expected:\s+2\s+Got:\s+1"):
        test_examples_run(page, tmp_path, monkeypatch)


# -- the gallery -------------------------------------------------------------------------------------------


def test_a_notebook_has_the_text_and_the_code_of_its_page() -> None:
    text = (
        "# Page\n\n```python\nnumber = 1\n```\n\nSee [there](../there.md), [here](https://a.org).\n\n"
        "![A plot](plot.png)\n\n```python\n>>> number + 1\n2\n>>> for each in (1, 2):\n...     each\n1\n2\n"
        ">>> number / 0\nTraceback (most recent call last):\n  ...\nZeroDivisionError: division by zero\n```\n"
    )
    content = json.loads(gallery.notebook(text))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert [(cell["cell_type"], cell["source"], cell["metadata"]) for cell in content["cells"]] == [
        ("markdown", "# Page", {}),
        ("code", "number = 1", {}),
        ("markdown", "See there, [here](https://a.org).", {}),
        ("code", "number + 1", {}),
        ("code", "for each in (1, 2):\n    each", {}),
        ("code", "number / 0", {"tags": ["raises-exception"]}),
    ]
    assert len({cell["id"] for cell in content["cells"]}) == 6


def test_pictures_of_the_gallery_are_drawn_by_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport pathlib\n```\n\n```python\n>>> 1 / 0\nTraceback (most recent call last):\n  ...\n"
        "ZeroDivisionError: ...\n>>> pathlib.Path('plot.png').write_text('drawn')\n5\n```\n\n![A plot](plot.png)\n"
    )
    monkeypatch.setattr(gallery, "HERE", tmp_path)
    gallery.draw(page)
    assert (tmp_path / "plot.png").read_text() == "drawn"


def test_pictures_of_the_gallery_are_small_and_shown() -> None:
    shown = {picture for page in gallery.PAGES.values() for picture in gallery.PICTURE.findall(page.read_text())}
    kept = {path.name: path.stat().st_size for path in (DOCS / "gallery").glob("*.png")}
    assert set(kept) == shown
    assert max(kept.values()) < 60_000


# -- commands ----------------------------------------------------------------------------------------------


def readme_commands() -> list[str]:
    """The commands of the README that set everything up: one line each."""
    return [line for _, code in blocks(README, "sh") for line in code.splitlines() if "venv" in line]


def test_readme_has_two_commands_that_do_all_the_set_up() -> None:
    first, second = readme_commands()
    assert first.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert first.endswith("&& .venv/bin/python -m xr_pytables demo")
    assert second.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert second.endswith("&& .venv/bin/python -m pytest -n auto")


def test_continuous_integration_does_the_steps_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not a checkout: source archives leave .ci out")
    lines = [line for line in script.read_text().splitlines() if not line.startswith("#")]
    steps = readme_commands()[1].split(" && ")
    assert [line for line in lines if line in steps] == steps


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
    from xr_pytables.cli import COMMANDS

    for _, code in blocks(page, "sh"):
        for name in re.findall(r"(?:xr-pytables|-m xr_pytables) (\w+)", code):
            assert name in COMMANDS


def test_demo_as_the_readme_calls_it() -> None:
    command = shlex.split(readme_commands()[0].rpartition("&&")[2])
    done = subprocess.run([sys.executable, "-W", "error", *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "All as it should be." in done.stdout


# -- reference ---------------------------------------------------------------------------------------------


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
        ("Arguments of save_mfdataset", parameters(save_mfdataset) - parameters(to_pytables) | {"mode", "paths"}),
        ("Arguments of begin_write", parameters(begin_write)),
        ("Encoding keys", set(KEYS | CF_KEYS)),
    ],
)
def test_every_argument_has_a_row_that_names_a_test(heading: str, names: set[str]) -> None:
    described = rows(heading)
    assert set(described) == names
    without = [name for name, row in described.items() if not _TEST_NAME.search(row)]
    assert not without, f"no test is named for {without}"


@pytest.mark.parametrize(
    ("thing", "function"),
    [
        (PyTablesBackendEntrypoint, PyTablesBackendEntrypoint.open_dataset),
        (PyTablesBackendEntrypoint, PyTablesBackendEntrypoint.open_groups_as_dict),
        (to_pytables, to_pytables),
        (save_mfdataset, save_mfdataset),
        (xr_pytables.convert, xr_pytables.convert),
        (xr_pytables.diff, xr_pytables.diff),
        (xr_pytables.verify, xr_pytables.verify),
        (xr_pytables.tree, xr_pytables.tree),
        (xr_pytables.save_index, xr_pytables.save_index),
    ],
    ids=lambda value: value.__qualname__,
)
def test_help_shows_every_argument(thing: object, function: object) -> None:
    """Each as a line of its own, in numpy's form, or in a sentence between backticks."""
    assert callable(function)
    text = inspect.getdoc(thing)
    assert text is not None
    lines = {name for line in text.splitlines() for name in line.strip().split(", ")}
    names = set(inspect.signature(function).parameters) - {"self"}
    assert [name for name in sorted(names) if name not in lines and f"`{name}`" not in text] == []


def test_open_groups_takes_what_open_dataset_takes() -> None:
    assert parameters(PyTablesBackendEntrypoint.open_groups_as_dict) == parameters(
        PyTablesBackendEntrypoint.open_dataset
    )


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text()
    assert [name for name in xr_pytables.__all__ if f"`{name}`" not in text] == []


def test_modules_of_the_design_exist() -> None:
    section = (DOCS / "design.md").read_text().split("\n## Layers\n")[1].split("\n## ")[0]
    named = {
        name for line in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall("`(.*?)`", line)
    }
    assert "disk/door" in named
    assert [name for name in named if not (ROOT / "xr_pytables" / f"{name}.py").exists()] == []


def is_test(name: str) -> bool:
    """Whether `file.py::function` or `file.py::Class::method` exists."""
    file, *inside = name.split("::")
    if not (ROOT / file).exists():
        return False
    scope = ast.parse((ROOT / file).read_text()).body
    for part in inside:
        found = {node.name: node for node in scope if isinstance(node, ast.FunctionDef | ast.ClassDef)}.get(part)
        if found is None:
            return False
        scope = found.body
    return True


@pytest.mark.parametrize("page", [page for page in PAGES if _TEST_NAME.search(page.read_text())], ids=relative)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in _TEST_NAME.findall(page.read_text()) if not is_test(name)] == []


# -- arguments that no other test varies -------------------------------------------------------------------


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    """A file with something for each decoder."""
    path = tmp_path / "coded.h5"
    with tables.open_file(path, "w") as file:
        packed = file.create_array("/", "packed", np.array([1, -1, 3], "i2"))
        packed.attrs._FillValue, packed.attrs.scale_factor = np.int16(-1), 0.5
        clock = file.create_array("/", "clock", np.array([0, 1, 2]))
        clock.attrs.units = "days since 2014-09-01"
        wait = file.create_array("/", "wait", np.array([0, 1, 2]))
        wait.attrs.units, wait.attrs.dtype = "hours", "timedelta64[ns]"
        packed.attrs.coordinates = "clock"
    return path


@pytest.mark.parametrize(
    ("argument", "value", "name", "kind"),
    [
        ("mask_and_scale", True, "packed", "f"),
        ("mask_and_scale", False, "packed", "i"),
        ("mask_and_scale", {"packed": False}, "packed", "i"),
        ("decode_times", True, "clock", "M"),
        ("decode_times", False, "clock", "i"),
        ("decode_times", xr.coders.CFDatetimeCoder(use_cftime=True), "clock", "O"),
        ("decode_timedelta", True, "wait", "m"),
        ("decode_timedelta", False, "wait", "i"),
    ],
)
@pytest.mark.parametrize("opener", [xr.open_dataset, xr.open_datatree, xr.open_groups])
def test_decoders(coded: Path, opener: object, argument: str, value: object, name: str, kind: str) -> None:
    assert callable(opener)
    opened = opener(coded, engine="pytables", **{argument: value})
    assert (opened["/"] if opener is xr.open_groups else opened)[name].dtype.kind == kind


@pytest.mark.parametrize(("value", "coordinates"), [(True, {"clock"}), ("all", {"clock"}), (False, set())])
def test_decode_coords(coded: Path, value: Any, coordinates: set[str]) -> None:
    assert set(xr.open_dataset(coded, engine="pytables", decode_coords=value).coords) == coordinates


@pytest.mark.parametrize(("value", "shape"), [(True, (2,)), (False, (2, 3))])
def test_concat_characters(tmp_path: Path, value: bool, shape: tuple[int, ...]) -> None:
    words = xr.Dataset({"word": ("n", np.array([b"lat", b"lon"]))})
    words.to_netcdf(tmp_path / "words.nc", engine="h5netcdf", encoding={"word": {"dtype": "S1"}})
    opened = xr.open_dataset(tmp_path / "words.nc", engine="pytables", concat_characters=value)
    assert opened["word"].shape == shape


def test_use_cftime_is_deprecated_by_xarray(coded: Path) -> None:
    with pytest.warns(FutureWarning, match="use_cftime"):
        assert xr.open_dataset(coded, engine="pytables", use_cftime=True)["clock"].dtype.kind == "O"


def stored(path: Path, encoding: dict[str, object]) -> tuple[tables.Filters, np.dtype, np.ndarray]:
    """Filters, type and values that plain PyTables sees after a write with that encoding."""
    values = xr.Dataset({"v": (("y", "x"), np.arange(600.0).reshape(20, 30))})
    to_pytables(values, path, encoding={"v": encoding})
    with tables.open_file(path) as file:
        with pytest.warns(tables.exceptions.DataTypeWarning, match="DIMENSION_LIST"):
            leaf = file.root.v
        return leaf.filters, leaf.atom.dtype, leaf[:]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({}, {"complib": None, "complevel": 0, "shuffle": False, "fletcher32": True}),
        ({"fletcher32": False}, {"complevel": 0, "fletcher32": False}),
        ({"fletcher32": True}, {"fletcher32": True}),
        ({"complib": "zlib"}, {"complib": "zlib", "complevel": 4, "shuffle": True, "fletcher32": True}),
        ({"zlib": True, "complevel": 9}, {"complib": "zlib", "complevel": 9}),
        ({"complib": "bzip2", "shuffle": False}, {"complib": "bzip2", "shuffle": False}),
        ({"complib": "blosc:zstd", "complevel": 0}, {"complib": None, "complevel": 0}),
        ({"complib": "blosc:zstd", "complevel": 7}, {"complib": "blosc:zstd", "complevel": 7, "shuffle": True}),
        ({"complib": "blosc2:lz4", "shuffle": True}, {"complib": "blosc2:lz4", "shuffle": True, "bitshuffle": False}),
        ({"complib": "blosc:lz4", "bitshuffle": True}, {"shuffle": False, "bitshuffle": True}),
    ],
)
def test_encoding_keys_reach_the_file(tmp_path: Path, encoding: dict[str, object], expected: dict[str, object]) -> None:
    filters, dtype, values = stored(tmp_path / "v.h5", encoding)
    assert {key: getattr(filters, key) for key in expected} == expected
    assert dtype == np.float64
    np.testing.assert_array_equal(values, np.arange(600.0).reshape(20, 30))


@pytest.mark.parametrize("complib", [f"{name}:{code}" for name in BLOSCS for code in BLOSC_CODES])
def test_every_blosc_reaches_the_file(tmp_path: Path, complib: str) -> None:
    filters, _, values = stored(tmp_path / "v.h5", {"complib": complib})
    assert filters.complib == complib
    np.testing.assert_array_equal(values, np.arange(600.0).reshape(20, 30))


@pytest.mark.parametrize(
    ("values", "encoding", "dtype", "on_disk", "attributes"),
    [
        ([1.0, 2.0], {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}, "i2", [2, 4], {"scale_factor": 0.5}),
        ([1.0, 2.0], {"dtype": "int16", "add_offset": 1.0, "_FillValue": -1}, "i2", [0, 1], {"add_offset": 1.0}),
        ([1.0, np.nan], {"dtype": "int16", "_FillValue": -9}, "i2", [1, -9], {"_FillValue": -9}),
        ([1.0, np.nan], {"missing_value": -9.0, "_FillValue": None}, "f8", [1, -9], {"missing_value": -9.0}),
        ([1, 250], {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1}, "i1", [1, -6], {"_Unsigned": "true"}),
        ([1.0, 2.0], {"dtype": ">f4"}, ">f4", [1, 2], {}),
        (
            np.array(["2014-09-02", "2014-09-03"], "M8[ns]"),
            {"units": "hours since 2014-09-01", "calendar": "standard", "dtype": "i4"},
            "i4",
            [24, 48],
            {"units": "hours since 2014-09-01", "calendar": "standard"},
        ),
    ],
)
def test_encoding_keys_of_cf_reach_the_file(
    tmp_path: Path,
    values: object,
    encoding: dict[str, object],
    dtype: str,
    on_disk: object,
    attributes: dict[str, object],
) -> None:
    array = np.asarray(values, "u1") if "_Unsigned" in encoding else np.asarray(values)
    path = tmp_path / "v.h5"
    to_pytables(xr.Dataset({"v": ("x", array)}), path, encoding={"v": encoding})
    raw = xr.open_dataset(path, engine="pytables", decode_cf=False)["v"]
    assert raw.encoding["dtype"] == np.dtype(dtype)
    assert raw.values.tolist() == on_disk
    assert {key: raw.attrs[key] for key in attributes} == attributes
    np.testing.assert_array_equal(xr.open_dataset(path, engine="pytables")["v"], array)


# -- the site ----------------------------------------------------------------------------------------------


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
    for name, page in gallery.PAGES.items():
        assert (tmp_path / "site" / "gallery" / f"{name}.ipynb").read_text("utf-8") == gallery.notebook(
            page.read_text()
        )


# -- what the page about installing says -------------------------------------------------------------------


def test_install_has_the_versions_and_extras_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (DOCS / "install.md").read_text()
    needs = dict(re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", each).groups() for each in project["dependencies"])  # type: ignore[union-attr]
    names = {"xarray": "xarray", "Dask": "dask", "NumPy": "numpy", "pandas": "pandas", "tables": "tables",
             "blosc2": "blosc2", "numexpr": "numexpr"}  # fmt: skip
    told = dict(re.findall(r"^\| (\w+)[^|]* \| ([\d.]+)", text.split("## Versions")[1], re.MULTILINE))
    assert told == {name: needs[package] for name, package in names.items()}
    extras = project["optional-dependencies"]
    table = text.split("## Extras")[1].split("## Versions")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", table, re.MULTILINE)
    assert {name for name, _ in rows} == set(extras) - {"docs", "test", "benchmark"}
    for name, brings in rows:
        packages = {re.split(r"[\[>=;]", each)[0].lower() for each in extras[name]}
        assert {each.lower() for each in brings.split(", ")} == packages, name
    python = [each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each]
    assert text.splitlines()[2].startswith(f"Python {python[0]} to {python[-1]} on Linux, macOS or Windows")
