"""PyTables' open objects as what is opened: the values that they have, and messages about those that cannot be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tables
import xarray as xr

import xr_pytables
from xr_pytables import FileChangedError

ROWS = np.array([(1, 2.5), (2, 3.5), (3, 4.5)], [("a", "i4"), ("b", "f8")])


@pytest.fixture(params=["w", "r", "in memory"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tables.File]:
    """The founding recipe's file, open in some way."""
    kind = request.param
    options = {"driver": "H5FD_CORE", "driver_core_backing_store": 0} if kind == "in memory" else {}
    with tables.open_file(tmp_path / "a.h5", "w", **options) as made:
        group = made.create_group("/", "experiment1")
        made.set_node_attr(group, "data", "2014-09-01")
        made.create_carray(group, "array1", obj=np.arange(24.0).reshape(4, 6), chunkshape=(2, 3))
        made.create_table(group, "events", ROWS)
        made.create_group(group, "inner")
        made.create_array(group.inner, "x", np.arange(3))
        made.create_soft_link("/", "link", "/experiment1/array1")
        if kind != "r":
            yield made
            return
    with tables.open_file(tmp_path / "a.h5") as made:
        yield made


def test_a_group_a_leaf_a_table_a_link_and_a_file(file: tables.File) -> None:
    node = file.root.experiment1
    with pytest.warns(UserWarning, match="also has tables: '/experiment1/events'"):
        ds = xr.open_dataset(node, engine="pytables")
    assert (ds.attrs["data"], list(ds.variables)) == ("2014-09-01", ["array1"])
    np.testing.assert_array_equal(ds["array1"].values, node.array1[:])
    leaf = xr.open_dataarray(node.array1, engine="pytables", dims=("y", "x"), chunks={})
    np.testing.assert_array_equal(leaf[1:, ::-2].values, node.array1[:][1:, ::-2])
    table = xr.open_dataset(node.events, engine="pytables", where="a > 1")
    assert table["b"].values.tolist() == [3.5, 4.5]
    np.testing.assert_array_equal(xr.open_dataarray(file.get_node("/link"), engine="pytables"), node.array1[:])
    tree = xr.open_datatree(file, engine="pytables")
    assert sorted(tree.groups) == ["/", "/experiment1", "/experiment1/events", "/experiment1/inner"]
    assert sorted(xr.open_groups(node, engine="pytables")) == ["/", "/events", "/inner"]
    assert [group.group for group in xr_pytables.tree(node.inner).groups] == ["/"]


def test_group_counts_from_the_node(file: tables.File) -> None:
    for group in ("inner", "/inner", "inner/"):
        assert xr.open_dataset(file.root.experiment1, engine="pytables", group=group)["x"].values.tolist() == [0, 1, 2]
    assert xr.open_dataset(file, engine="pytables", group="/experiment1/inner")["x"].shape == (3,)
    with pytest.raises(OSError, match="there is no '/experiment1/nothing'"):
        xr.open_dataset(file.root.experiment1, engine="pytables", group="nothing")


def test_the_engine_is_found_without_its_name(file: tables.File) -> None:
    assert xr.open_dataset(file.root.experiment1.inner)["x"].values.tolist() == [0, 1, 2]


def test_rows_that_were_not_flushed_are_there(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        table = file.create_table("/", "events", ROWS)
        table.append(ROWS)
        grows = file.create_earray("/", "grows", tables.Float64Atom(), (0,))
        grows.append([1.0, 2.0])
        assert xr.open_dataset(table, engine="pytables")["a"].values.tolist() == [1, 2, 3] * 2
        lazy = xr.open_dataarray(grows, engine="pytables")
        assert lazy.values.tolist() == [1.0, 2.0]
        grows.append([3.0])
        assert xr.open_dataarray(grows, engine="pytables").values.tolist() == [1.0, 2.0, 3.0]
        assert xr.open_dataarray(grows, engine="pytables", chunks={}).compute().values.tolist() == [1.0, 2.0, 3.0]


def test_a_change_in_place_is_noticed(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        array = file.create_array("/", "a", np.arange(4.0))
        lazy = xr.open_dataarray(array, engine="pytables", cache=False)
        assert lazy.values.tolist() == [0, 1, 2, 3]
        array[0] = 9.0
        file.flush()
        os.utime(tmp_path / "a.h5", (1, 1))
        with pytest.raises(FileChangedError):
            lazy.load()


def test_memory_is_read_as_it_was_when_it_was_opened(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "none.h5", "w", driver="H5FD_CORE", driver_core_backing_store=0) as file:
        array = file.create_array("/", "a", np.arange(4.0))
        lazy = xr.open_dataarray(array, engine="pytables")
        array[0] = 9.0
        assert lazy.values.tolist() == [0, 1, 2, 3]
        assert xr.open_dataarray(array, engine="pytables").values.tolist() == [9, 1, 2, 3]
        assert "none.h5" in lazy.encoding["source"]
    assert not (tmp_path / "none.h5").exists()


def test_a_relative_path_and_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with tables.open_file("a.h5", "w") as file:
        file.create_array("/", "a", [1, 2])
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert xr.open_dataarray(file.root.a, engine="pytables").values.tolist() == [1, 2]
        (tmp_path / "a.h5").rename(tmp_path / "b.h5")
        assert xr.open_dataarray(file.root.a, engine="pytables").values.tolist() == [1, 2]
        (tmp_path / "b.h5").unlink()
        with pytest.raises(FileNotFoundError, match=r"a\.h5: .*moved, replaced or removed"):
            xr.open_dataset(file, engine="pytables")


def test_paths_count_from_the_entry_point_of_the_user(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_array("/", "a", [0, 1])
        file.create_array("/g/h", "a", [5, 6, 7], createparents=True)
        file.create_table("/g", "events", ROWS)
    for entry in ("/g", "/g/"):
        with tables.open_file(tmp_path / "a.h5", root_uep=entry) as file:
            assert xr.open_dataset(file, engine="pytables", group="/h")["a"].values.tolist() == [5, 6, 7]
            assert xr.open_dataset(file.root.h, engine="pytables")["a"].values.tolist() == [5, 6, 7]
            assert xr.open_dataarray(file.root.h.a, engine="pytables").values.tolist() == [5, 6, 7]
            found = xr.open_dataset(file.root.events, engine="pytables", where="a > 1")
            assert found["b"].values.tolist() == [3.5, 4.5]
            for whole in (file, file.root):
                tree = xr.open_datatree(whole, engine="pytables")
                assert sorted(tree.groups) == ["/", "/events", "/h"]
                assert "a" not in tree.variables


def test_files_of_the_driver_stdio_are_no_hindrance_and_open_by_their_path(tmp_path: Path) -> None:
    with tables.open_file(tmp_path / "other.h5", "w") as other:
        other.create_array("/", "a", [1, 2])
    with tables.open_file(tmp_path / "a.h5", "w", driver="H5FD_STDIO") as file:
        file.create_earray("/", "a", obj=np.arange(3))
        file.root.a.append([9])
        with pytest.raises(ValueError, match=r"a\.h5: .*driver H5FD_STDIO, .*open it by its path"):
            xr.open_dataset(file.root, engine="pytables")
        for name, values in (("a.h5", [0, 1, 2, 9]), ("other.h5", [1, 2])):
            assert xr.open_dataarray(tmp_path / name, engine="pytables").values.tolist() == values


def test_what_is_closed_or_in_no_single_file_is_refused(tmp_path: Path) -> None:
    file = tables.open_file(tmp_path / "a.h5", "w")
    array, gone = file.create_array("/", "a", [1]), file.create_array("/", "gone", [1])
    group = file.create_group("/", "group")
    gone.remove()
    with pytest.raises(ValueError, match=r"Array.*: this object of PyTables is closed, or was removed"):
        xr.open_dataset(gone, engine="pytables")
    with pytest.raises(ValueError, match="storage_options has no effect on an open object of PyTables"):
        xr.open_dataset(array, engine="pytables", storage_options={"key": 1})
    file.close()
    for what in (file, array, group):
        with pytest.raises(ValueError, match="this object of PyTables is closed, or was removed"):
            xr.open_dataset(what, engine="pytables")
    with tables.open_file(tmp_path / "split", "w", driver="H5FD_SPLIT") as split:
        split.create_array("/", "a", [1])
        with pytest.raises(ValueError, match="driver H5FD_SPLIT, and in no single file"):
            xr.open_dataset(split.root, engine="pytables")
