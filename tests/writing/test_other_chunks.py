"""Chunked arrays that are not Dask's are computed by their own framework, block by block, and never as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pytest
import xarray as xr
from xarray.namedarray import parallelcompat
from xarray.namedarray.daskmanager import DaskManager

from xr_pytables import begin_write, save_mfdataset, to_pytables


class Blocks:
    """A lazy array of blocks that nobody else knows."""

    def __init__(self, data: dask.array.Array) -> None:
        self.dask = data
        self.shape, self.dtype, self.ndim, self.chunks = data.shape, data.dtype, data.ndim, data.chunks

    def __array__(self, *args: object, **words: object) -> np.ndarray:
        raise AssertionError("it was materialised")

    def __array_function__(self, *args: object) -> object:
        return NotImplemented

    def __array_ufunc__(self, *args: object, **words: object) -> object:
        return NotImplemented


class Manager(parallelcompat.ChunkManagerEntrypoint):  # type: ignore[misc]
    array_cls = Blocks
    computed: list[tuple[int, ...]]

    def __init__(self) -> None:
        self.computed = []

    def chunks(self, data: Blocks) -> Any:
        return data.chunks

    def map_blocks(self, func: Callable[..., Any], data: Blocks, *, dtype: Any, chunks: Any) -> Blocks:
        def noted(block: np.ndarray, block_id: Any = None) -> np.ndarray:
            self.computed.append(block.shape)
            return func(block, block_id=block_id)

        return Blocks(data.dask.map_blocks(noted, dtype=dtype, chunks=chunks, meta=np.empty((0,) * data.ndim, dtype)))

    def compute(self, *data: Blocks, **words: object) -> Any:
        return dask.compute(*(each.dask for each in data), scheduler="synchronous")

    def normalize_chunks(self, *args: object, **words: object) -> Any:
        raise NotImplementedError

    from_array = apply_gufunc = normalize_chunks  # type: ignore[assignment]


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Manager:
    made = Manager()
    monkeypatch.setattr(parallelcompat, "list_chunkmanagers", lambda: {"blocks": made, "dask": DaskManager()})
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.h5"


def plain(first: int = 0, count: int = 12) -> xr.Dataset:
    values = np.arange(first * 6.0, (first + count) * 6).reshape(count, 6)
    return xr.Dataset({"v": (("t", "x"), values, {"units": "m"})}, {"t": np.arange(first, first + count)})


def blocks(dataset: xr.Dataset, rows: int = 4) -> xr.Dataset:
    data = dask.array.from_array(dataset.v.values, chunks=(rows, 6))
    return dataset.assign(v=dataset.v.copy(data=Blocks(data)))


def read(path: Path) -> xr.Dataset:
    return xr.load_dataset(path, engine="pytables")


def test_a_new_file_is_written_block_by_block(manager, path):
    to_pytables(blocks(plain()), path, encoding={"v": {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}})
    xr.testing.assert_identical(read(path), plain())
    assert sorted(manager.computed) == [(4, 6)] * 3  # each once
    with h5py.File(path) as file:
        assert (file["v"].dtype, file["v"].chunks) == ("int16", (4, 6))
    assert os.listdir(path.parent) == [path.name]


def test_parts_of_a_file_are_written_block_by_block(manager, path):
    to_pytables(blocks(plain()), path, unlimited_dims=["t"])
    to_pytables(blocks(plain(12, 5), 3), path, append_dim="t")
    to_pytables(blocks(plain(2, 4) * 2, 3), path, region={"t": slice(2, 6)})
    expected = plain(0, 17)
    expected.v[2:6] *= 2
    xr.testing.assert_equal(read(path), expected)
    to_pytables(blocks(plain(0, 17), 5), path, mode="r+")
    xr.testing.assert_equal(read(path), plain(0, 17))
    assert os.listdir(path.parent) == [path.name]


def test_all_objects_and_layouts(manager, path):
    tree = xr.DataTree.from_dict({"/a": blocks(plain()), "/b": plain().chunk(t=3)})
    to_pytables(tree, path)
    xr.testing.assert_identical(xr.load_dataset(path, group="/a", engine="pytables"), plain())
    to_pytables(blocks(plain()).v.assign_coords(c=blocks(plain()).v.variable), path)
    assert (read(path).c.values == plain().v.values).all()
    rows = xr.Dataset({"a": ("r", Blocks(dask.array.arange(10, chunks=4))), "b": ("r", np.arange(10.0))})
    to_pytables(rows, path, group="/rows", layout="table")
    assert xr.load_dataset(path, group="/rows", engine="pytables").a.values.tolist() == list(range(10))
    none = xr.Dataset({"v": (("t", "x"), Blocks(dask.array.zeros((0, 6), chunks=(2, 6))))})
    to_pytables(none, path)
    assert read(path).v.shape == (0, 6)
    single = xr.Dataset({"v": ((), Blocks(dask.array.from_array(np.array(7.0), chunks=())))})
    to_pytables(single, path)
    assert read(path).v == 7


def test_many_files(manager, path):
    paths = [path, path.with_name("other.h5")]
    save_mfdataset([blocks(plain()), plain()], paths)
    for each in paths:
        xr.testing.assert_identical(read(each), plain())
    assert sorted(os.listdir(path.parent)) == ["file.h5", "other.h5"]


def test_a_template_of_them_is_not_computed(manager, path):
    write = begin_write(blocks(plain()), path)
    assert write.missing() == [("/v", (0, 0)), ("/v", (4, 0)), ("/v", (8, 0))]
    write.write(plain())
    write.commit()
    xr.testing.assert_identical(read(path), plain())
    assert manager.computed == []


def test_nothing_is_computed_for_what_is_refused(manager, path):
    with pytest.raises(ValueError, match=r"compute=False makes a graph of Dask, but .* Write it with compute=True"):
        to_pytables(blocks(plain()), path, compute=False)
    with pytest.raises(ValueError, match="compute=False makes a graph of Dask"):
        save_mfdataset([blocks(plain())], [path], compute=False)
    with pytest.raises(ValueError, match="chunksizes"):
        to_pytables(blocks(plain()), path, encoding={"v": {"chunksizes": (3,)}})
    assert manager.computed == []
    assert os.listdir(path.parent) == []


def test_a_failure_leaves_the_old_file_and_nothing_else(manager, path):
    def fails(block: np.ndarray) -> np.ndarray:
        if block[0, 0] >= 24:
            raise ArithmeticError
        return block

    to_pytables(xr.Dataset({"old": 1}), path)
    made = plain().v.copy(data=Blocks(dask.array.from_array(plain().v.values, (4, 6)).map_blocks(fails, dtype="f8")))
    with pytest.raises(ArithmeticError):
        to_pytables(plain().assign(v=made), path)
    assert list(read(path)) == ["old"]
    assert os.listdir(path.parent) == [path.name]


def test_arrays_of_cubed(path, tmp_path):
    cubed = pytest.importorskip("cubed")
    pytest.importorskip("cubed_xarray")
    import cubed.array_api as xp

    spec = cubed.Spec(work_dir=str(tmp_path / "work"), allowed_mem="200MB")
    values = xp.reshape(xp.arange(72, chunks=12, spec=spec), (12, 6)).rechunk((4, 6))
    dataset = plain().assign(v=(("t", "x"), xp.astype(values, xp.float64), {"units": "m"}))
    to_pytables(dataset, path, encoding={"v": {"complib": "blosc:zstd"}})
    xr.testing.assert_identical(read(path), plain())
    with h5py.File(path) as file:
        assert file["v"].chunks == (4, 6)
    assert sorted(os.listdir(tmp_path)) == ["file.h5", "work"]
