"""A number that a file says decides neither how much is read nor how much memory it takes, but where somebody asks."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr

from xr_pytables import NeedsRecoveryError, tree
from xr_pytables.arrays import leaf_arrays
from xr_pytables.disk import journal
from xr_pytables.model.nodes import MAX_DEPTH
from xr_pytables.sources.source import MOST_SIGNS

from .helpers_reading import open_quietly, plain_file, run_python

PEAK = """
import resource, sys
import numpy as np, xarray as xr

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
"""


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_an_array_of_millions_of_chunks_costs_about_its_values(version: str, tmp_path: Path) -> None:
    path, size = tmp_path / "a.h5", 2**26
    with h5py.File(path, "w", libver=version) as file:
        data = file.create_dataset("a", (size,), "u1", chunks=(1,))
        data[5], data[size - 1] = 1, 2
    grown = run_python(
        PEAK
        + f"""
array = xr.open_dataset(sys.argv[1], engine="pytables")["a"]
before = peak()
values = array.values
assert values.nonzero()[0].tolist() == [5, {size - 1}] and values[-1] == 2
print(peak() - before)
""",
        path,
    )
    assert int(grown) < 5 * size


@pytest.mark.parametrize("key", [np.s_[3:], np.s_[::-7], np.s_[[5, 39, 7], :], np.s_[4, 1:], np.s_[5:30:3, [1, 0, 9]]])
def test_selections_of_more_chunks_than_are_planned_at_once(
    key: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaf_arrays, "_MOST_CHUNKS", 3)
    values = np.arange(600).reshape(40, 15)
    with plain_file(tmp_path / "a.h5", "w") as file:
        file.create_carray("/", "a", obj=values, chunkshape=(2, 4))
        file.create_carray("/", "b", obj=np.dstack([values, -values]), chunkshape=(2, 4, 2))
    expected = xr.Dataset({"a": (("y", "x"), values), "b": (("y", "x", "z"), np.dstack([values, -values]))})
    with open_quietly(tmp_path / "a.h5", cache=False) as ds:
        for name in ("a", "b"):
            np.testing.assert_array_equal(ds[name][key].values, expected[name][key].values)


def test_no_elements_of_a_long_array_cost_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (2**50, 0, 3), "f8", chunks=(1, 1, 1), maxshape=(None, None, 3))
    with open_quietly(tmp_path / "a.h5", decode_cf=False) as ds:
        assert ds["a"].values.shape == (2**50, 0, 3)
        assert ds["a"][::3, :, 1].values.size == 0


def rows_without_end(path: Path) -> None:
    with tables.open_file(path, "w") as file:
        table = file.create_table("/", "t", {"a": tables.Int32Col(), "b": tables.Float64Col()}, chunkshape=100)
        table.append([(1, 1.0), (2, 2.0), (3, 3.0)])
    with h5py.File(path, "r+") as file:
        file["t"].resize((2**45,))


def test_a_search_of_rows_that_the_file_cannot_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    rows_without_end(path)
    with pytest.raises(ValueError, match=rf"a\.h5:/t: .* is said to have {2**45} rows.*start= and stop="):
        xr.open_dataset(path, engine="pytables", group="t", where="a > 1")
    with xr.open_dataset(path, engine="pytables", group="t", where="a > 1", stop=1000) as ds:
        assert ds["t_row"].values.tolist() == [1, 2]
    with xr.open_dataset(path, engine="pytables", group="t") as ds:
        assert ds["b"][:4].values.tolist() == [1, 2, 3, 0]


def test_groups_in_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file["/"]
        for _ in range(1000):
            group = group.create_group("g")
            group["x"] = [1, 2]
    with (
        pytest.warns(UserWarning, match=rf"1 node\(s\) are not shown: /g/.*deeper than {MAX_DEPTH} levels"),
        xr.open_datatree(path, engine="pytables") as found,
    ):
        assert found.depth == MAX_DEPTH
        assert found["/g/g/g/x"].values.tolist() == [1, 2]
    with pytest.warns(UserWarning, match="deeper than"):
        assert len(xr.open_groups(path, engine="pytables")) == MAX_DEPTH + 1
    assert len(tree(path).groups) == MAX_DEPTH + 1
    with open_quietly(path, group="g/" * 1000) as ds:
        assert ds["x"].values.tolist() == [1, 2]


def test_names_of_a_megabyte_make_no_messages_of_a_megabyte(tmp_path: Path) -> None:
    path, long = tmp_path / "a.h5", "n" * 2**20
    with h5py.File(path, "w", libver="latest") as file:
        file[f"{long}1"] = [1, 2]
        file[f"{long}2"] = h5py.Empty("f8")
        file[f"{long}3"] = h5py.SoftLink("/nowhere/" + "x" * 60_000)
        file[f"{long}4"] = h5py.ExternalLink("y" * 60_000, "/z")
        damaged = file.create_dataset(f"g/{long}5", data=np.arange(9), chunks=(9,), fletcher32=True)
        place = damaged.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        groups = xr.open_groups(path, engine="pytables")
    messages = [str(warning.message) for warning in caught]
    assert "3 node(s) are not shown" in messages[0]
    with pytest.raises(OSError, match="fletcher32") as error:
        groups["/g"][f"{long}5"].load()
    messages.append(str(error.value))
    for group in (f"{long}1/x", f"{long}3", f"{long}4", "missing", f"g/{long}6"):
        with pytest.raises(OSError, match=r"a\.h5") as error:
            xr.open_dataset(path, engine="pytables", group=group)
        messages.append(str(error.value))
    assert groups["/"][f"{long}1"].values.tolist() == [1, 2]
    assert [len(message) for message in messages if len(message) > 12 * MOST_SIGNS] == []


def test_a_coordinate_without_end_is_not_read_to_open_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (2**40,), "f8", chunks=(1000,))
        file.create_dataset("v", (2**40,), "i1", chunks=(1000,))
        x.make_scale()
        file["v"].dims[0].attach_scale(x)
        file["y"] = [1, 2]
    for opener in (xr.open_groups, xr.open_datatree):
        with pytest.warns(UserWarning, match=rf"a\.h5:/: coordinates .* left out: 'x': of {2**43} bytes in a file of"):
            found = opener(path, engine="pytables")
        assert found["/"]["y"].values.tolist() == [1, 2]
        assert found["/"]["v"][7] == 0
        assert found["/"].sizes["x"] == 2**40
    with pytest.raises(ValueError, match=r"a\.h5:/: coordinate 'x' of .* Leave it out with drop_variables='x'"):
        xr.open_dataset(path, engine="pytables")
    with xr.open_dataset(path, engine="pytables", drop_variables="x") as ds:
        assert ds["v"][7] == 0


@pytest.mark.parametrize("node", ["axis0_level0", "axis1_label0", "axis0_label1", "block0_items_level1"])
def test_labels_without_end_are_not_read_to_open_the_file(node: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    index = pd.MultiIndex.from_product([["a", "b"], [1, 2]])
    pd.DataFrame(np.ones((4, 4)), index=index, columns=index).to_hdf(path, key="f")
    with h5py.File(path, "a") as file:
        attributes = dict(file[f"f/{node}"].attrs)
        del file[f"f/{node}"]
        labels = file.create_dataset(f"f/{node}", (2**40,), "i8", chunks=(1000,))
        labels.attrs.update(attributes)
    with open_quietly(path, group="f") as ds:
        assert ds.nbytes < 2**60  # what is described, whatever it is: nothing of it was read


def sparse_journal(path: Path, size: int) -> None:
    """A journal that says to have saved `size` bytes, and is almost all hole."""
    status = path.stat()
    table = struct.pack("<QQI4x", 0, size, 0)
    known = size, status.st_mtime_ns, status.st_dev, status.st_ino, 1, 0
    header = journal._HEADER.pack(journal.MAGIC, 1, 0, *known, zlib.crc32(table))
    checksum = struct.pack("<I", zlib.crc32(header[16:]))
    place = Path(journal.path_of(str(path)))
    place.write_bytes(header[:12] + checksum + header[16:] + table)
    os.truncate(place, len(header) + len(table) + size)


def test_a_sparse_journal_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a"] = [1, 2]
    before = path.read_bytes()
    sparse_journal(path, 2**42)
    with pytest.raises(NeedsRecoveryError, match="the journal is damaged"):
        xr.open_dataset(path, engine="pytables")
    assert path.read_bytes() == before


def test_a_link_that_makes_no_sense_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["a"] = [1, 2]
        file["out"] = h5py.ExternalLink("o" * 60_000, "p" * 60_000)  # more than fits: HDF5 cuts the path off
    with (
        pytest.warns(UserWarning, match=r"1 node\(s\) are not shown: /out: a link of an unknown kind"),
        xr.open_dataset(path, engine="pytables") as ds,
    ):
        assert ds["a"].values.tolist() == [1, 2]
