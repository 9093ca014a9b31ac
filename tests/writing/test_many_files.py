"""`save_mfdataset`: many datasets to many files, as xarray's does for netCDF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr

from xr_pytables import save_mfdataset, to_pytables
from xr_pytables.writing import execution, many_files


def some(count: int, *, lazy: bool = True) -> list[xr.Dataset]:
    return [
        xr.Dataset(
            {"v": ("x", dask.array.arange(n, n + 6, chunks=2) if lazy else np.arange(n, n + 6)), "n": n},
            coords={"x": np.arange(6.0)},
        )
        for n in range(count)
    ]


def read(path: Path, group: str = "/") -> xr.Dataset:
    with xr.open_dataset(path, engine="pytables", group=group) as dataset:
        return dataset.load()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("compute", [True, False])
def test_each_dataset_goes_to_its_file(tmp_path, scheduler, compute):
    datasets = some(3)
    paths = [tmp_path / f"{n}.h5" for n in range(3)]
    with dask.config.set(scheduler=scheduler, num_workers=2):
        result = save_mfdataset(datasets, paths, encoding={"v": {"zlib": True}}, compute=compute)
        if compute:
            assert result is None
        else:
            assert not os.listdir(tmp_path)
            result.compute()
    for dataset, path in zip(datasets, paths, strict=True):
        xr.testing.assert_equal(read(path), dataset)
        assert read(path).v.encoding["zlib"]
    assert sorted(os.listdir(tmp_path)) == ["0.h5", "1.h5", "2.h5"]


def test_files_are_read_back_as_one(tmp_path):
    whole = xr.Dataset({"v": (("time", "x"), dask.array.random.random((6, 4), chunks=(1, 4)))}, {"time": range(6)})
    _, datasets = zip(*whole.persist().groupby("time"), strict=True)
    paths = [tmp_path / f"{n}.h5" for n in range(6)]
    save_mfdataset(datasets, paths)
    with xr.open_mfdataset(paths, engine="pytables") as found:
        assert found.v.shape == (6, 4)


def test_what_the_datasets_share_is_computed_once(tmp_path):
    times = []

    def costly(block: np.ndarray) -> np.ndarray:
        times.append(1)
        return block

    shared = dask.array.ones(4, chunks=4).map_blocks(costly, dtype="f8", meta=np.zeros(0))
    datasets = [xr.Dataset({"v": ("x", shared + n)}) for n in range(5)]
    save_mfdataset(datasets, [tmp_path / f"{n}.h5" for n in range(5)])
    assert len(times) == 1
    assert [float(read(tmp_path / f"{n}.h5").v[0]) for n in range(5)] == [1, 2, 3, 4, 5]


def test_mode_a_adds_groups_of_one_file(tmp_path):
    datasets = some(3)
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    save_mfdataset(datasets, [first, first, second], mode="a", groups=["/a", "/b", None])
    assert xr.open_datatree(first, engine="pytables").groups == ("/", "/a", "/b")
    xr.testing.assert_equal(read(first, "/a"), datasets[0])
    xr.testing.assert_equal(read(first, "/b"), datasets[1])
    xr.testing.assert_equal(read(second), datasets[2])


def bad(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_attrs(handle=object())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"paths": ["a.h5"]}, ValueError, "must supply lists of the same length .* 2 datasets, 1 paths and 2 groups"),
        ({"groups": ["/a"]}, ValueError, "must supply lists of the same length"),
        (
            {"paths": ["a.h5", "./a.h5"]},
            ValueError,
            "cannot use mode='w' when writing multiple datasets",
        ),
        ({"paths": ["a.h5"] * 2, "mode": "a"}, ValueError, "is there twice"),
        ({"mode": "z"}, ValueError, "mode must be one of"),
        ({"datasets": [some(1)[0], some(1)[0].v]}, TypeError, "only supports writing Dataset objects, .*DataArray at"),
        ({"datasets": [some(1)[0], bad(some(1)[0])]}, TypeError, r"b\.h5:/: attribute 'handle'"),
        ({"encoding": {"w": {}}}, KeyError, "encoding names 'w'"),
        ({"threads": 0}, ValueError, "threads must be 1 or more"),
        (
            {"paths": ["a.h5"] * 2, "groups": ["/a", "/b"], "mode": "a", "compute": False},
            ValueError,
            "compute=False needs a path of its own",
        ),
        ({"progress": True, "compute": False}, ValueError, "progress=True is about a write that happens now"),
    ],
)
def test_everything_is_checked_before_the_disk_is_touched(tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"datasets": some(2), "paths": ["a.h5", "b.h5"], **arguments}
    with pytest.raises(error, match=message):
        save_mfdataset(given.pop("datasets"), given.pop("paths"), **given)
    assert not os.listdir(tmp_path)


def test_no_file_is_replaced_if_a_task_fails(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path in paths:
        to_pytables(xr.Dataset({"old": 1}), path)

    def fails(block: np.ndarray) -> np.ndarray:
        raise ArithmeticError("as asked")

    good, broken = some(2)
    broken["v"] = broken.v.copy(data=broken.v.data.map_blocks(fails, dtype="i8", meta=np.zeros(0, "i8")))
    with pytest.raises(ArithmeticError, match="as asked"):
        save_mfdataset([good, broken], paths)
    assert [list(read(path)) for path in paths] == [["old"], ["old"]]
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]


@pytest.mark.parametrize("lazy", [True, False])
def test_many_files_are_not_all_open_at_once(tmp_path, monkeypatch, lazy):
    monkeypatch.setattr(many_files, "_FILES", 3)
    sizes = []
    real = execution.execute
    monkeypatch.setattr(many_files, "execute", lambda jobs, *a, **k: sizes.append(len(jobs)) or real(jobs, *a, **k))
    save_mfdataset(some(8, lazy=lazy), [tmp_path / f"{n}.h5" for n in range(8)])
    assert sizes == [3, 3, 2]
    assert [int(read(tmp_path / f"{n}.h5").v[0]) for n in range(8)] == list(range(8))


def test_no_datasets_are_no_files(tmp_path):
    assert save_mfdataset([], []) is None
    assert save_mfdataset([], [], compute=False).compute() == []
