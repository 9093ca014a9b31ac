"""`diff`: what it prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tables

from .helpers_commands import run


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`a.h5` and `b.h5`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("a.h5", 1.0), ("b.h5", 1.25)):
        with tables.open_file(name, "w") as file:
            file.root._v_attrs.source = name
            file.create_array("/g", "x", np.array([0.0, value]), createparents=True)
            file.create_array("/g", "same", np.arange(3))


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["a.h5", "a.h5"], []),
        (["a.h5", "b.h5"], [
            "/: attribute: 'source': \"a.h5\" against \"b.h5\"",
            "/g/x: values: 1 of 2 differ, first at [1]: 1.0 against 1.25, by up to 0.25",
        ]),
        (["a.h5", "b.h5", "--no-attributes", "--rtol", "0.2"], []),
        (["a.h5", "b.h5", "--no-attributes", "--atol", "0.25"], []),
        (["a.h5", "b.h5", "--no-attributes", "--vars", "same"], []),
        (["a.h5:/g/same", "b.h5:/g/same"], []),
        (["a.h5:/g/x", "b.h5:/g/x", "--raw"], [
            "/x: values: 1 of 2 differ, first at [1]: 1.0 against 1.25, by up to 0.25"
        ]),
        (["a.h5:/g/x", "b.h5:/g/same"], [
            "/x: dtype: float64 against int64", "/x: dims: (dim_2) against (dim_3)", "/x: shape: (2,) against (3,)"
        ]),
    ],
)  # fmt: skip
def test_differences_are_lines_and_status_1(arguments: list[str], printed: list[str]) -> None:
    result = run("diff", *arguments)
    assert sorted(result.stdout.splitlines()) == sorted(printed)
    assert result.exit_code == bool(printed)
    quiet = run("diff", "-q", *arguments)
    assert (quiet.exit_code, quiet.output) == (bool(printed), "")


@pytest.mark.usefixtures("two")
def test_json() -> None:
    result = run("diff", "--json", "a.h5", "b.h5", "--no-attributes")
    assert result.exit_code == 1
    (found,) = json.loads(result.output)
    assert (found["path"], found["what"], found["count"], found["largest"]) == ("/g/x", "values", 1, 0.25)
    assert json.loads(run("diff", "--json", "a.h5", "a.h5").output) == []


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.h5", "none.h5"], "No such file"),
        (["a.h5", "b.h5:/none"], "there is no '/none'"),
        (["a.h5", "b.h5", "--vars", "none"], "neither has a variable 'none'"),
        (["a.h5", "b.h5", "--rtol", "-1"], "must be 0 or more"),
        (["a.h5", "b.h5", "--rtol", "nan"], "must be 0 or more"),
        (["a.h5", "b.h5", "--vars", ""], "(--vars) names no array"),
        (["a.h5", "b.h5", "--vars", ","], "(--vars) names no array"),
        (["a.h5"], "Missing argument 'B'"),
    ],
)
def test_wrong_use_is_status_2(arguments: list[str], message: str) -> None:
    result = run("diff", *arguments)
    assert result.exit_code == 2
    assert message in result.output
