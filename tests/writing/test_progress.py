"""`progress=True`: a bar of bytes, whoever computes."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import tqdm.auto
import xarray as xr
from dask.diagnostics import ProgressBar

from xr_pytables import to_pytables
from xr_pytables.writing import progress


class Recorded(tqdm.auto.tqdm):
    """A bar that remembers."""

    made: list[Recorded] = []  # noqa: RUF012 - the tests empty it
    steps: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, file=io.StringIO(), **kwargs)
        self.steps = 0
        self.made.append(self)

    def update(self, n: float | None = 1) -> bool | None:
        self.steps += 1
        return super().update(n)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    Recorded.made = []
    monkeypatch.setattr(tqdm.auto, "tqdm", Recorded)
    return Recorded.made


def some() -> xr.Dataset:
    values = dask.array.arange(1000, chunks=200, dtype="f8")
    text = np.array(["a", "bc"])
    return xr.Dataset(
        {"v": ("x", values), "w": ("y", np.arange(50, dtype="i2")), "text": ("z", text), "one": 1.0},
        coords={"y": np.arange(50.0)},
    )


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_the_bar_counts_all_bytes(tmp_path, bars, scheduler):
    encoding = {"v": {"chunksizes": (100,)}, "text": {"string": "vlen"}}
    with dask.config.set(scheduler=scheduler, num_workers=1):
        to_pytables(some(), tmp_path / "file.h5", encoding=encoding, progress=True)
    (bar,) = bars
    assert (bar.n, bar.total) == (8000 + 100 + 16 + 8 + 400,) * 2
    assert (bar.unit, bar.desc) == ("B", "file.h5")
    assert bar.steps > 5


def test_chunks_that_are_left_out_or_shared_count_too(tmp_path, bars):
    values = dask.array.zeros(1000, chunks=150)
    to_pytables(
        xr.Dataset({"v": ("x", values)}),
        tmp_path / "file.h5",
        encoding={"v": {"chunksizes": (100,), "_FillValue": 0.0}},
        safe_chunks=False,
        write_empty_chunks=False,
        progress=True,
    )
    (bar,) = bars
    assert bar.n == bar.total == 8000


def test_no_bar_unless_asked_for(tmp_path, bars, capsys):
    to_pytables(some(), tmp_path / "file.h5")
    assert not bars
    assert capsys.readouterr() == ("", "")


def test_without_tqdm_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'xr-pytables\[progress\]'"):
        to_pytables(some(), tmp_path / "file.h5", progress=True)
    assert not os.listdir(tmp_path)


def test_a_delayed_write_says_how_to_see_its_progress(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dask\.diagnostics\.ProgressBar"):
        to_pytables(some(), tmp_path / "file.h5", progress=True, compute=False)


def test_the_bar_of_dask_works(tmp_path):
    out = io.StringIO()
    with ProgressBar(out=out):
        to_pytables(some(), tmp_path / "file.h5")
    assert "100% Completed" in out.getvalue()


def test_watching_survives_a_folder_that_is_gone():
    def gone() -> int:
        raise FileNotFoundError

    told: list[int] = []
    with progress.watched(gone, told.append):
        pass
    assert told == []
