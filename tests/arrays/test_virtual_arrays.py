"""Virtual datasets and raw data in other files, against h5py: elements of other arrays, wherever they are."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import xr_pytables
from xr_pytables import FileChangedError
from xr_pytables.errors import MissingNodeError

from ..helpers_properties import examples
from ..helpers_reading import run_python


def values(*shape: int, dtype: str = "f8") -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def source(path: Path, data: np.ndarray, **how: object) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data, **how)


def make_virtual(path: Path, layout: h5py.VirtualLayout, **how: object) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("v", layout, **how)


def expected(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return file["v"][()]


def opened(path: Path, name: str = "v", **options: object) -> xr.DataArray:
    return xr.open_dataset(path, engine="pytables", **options)[name]


def assert_same(path: Path, **options: object) -> None:
    want, array = expected(path), opened(path, **options)
    assert array.dtype == want.dtype.newbyteorder("=")
    np.testing.assert_array_equal(array.values, want)
    for key in [(slice(None, None, -1),) * want.ndim, (slice(1, None, 2),) * want.ndim, (0,) * want.ndim]:
        np.testing.assert_array_equal(opened(path, **options)[key].values, want[key])
    if want.ndim == 2:
        rows, columns = [len(want) - 1, 0, 1], [1, 0, 1]
        np.testing.assert_array_equal(opened(path, **options)[rows, columns].values, want[np.ix_(rows, columns)])


def test_files_one_after_the_other(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((5, 100), "f8", maxshape=(None, 100))
    for number in range(4):
        data = values(100) * 10**number
        source(tmp_path / f"{number}.h5", data, chunks=(30,), compression="gzip", fletcher32=True)
        layout[number] = h5py.VirtualSource(f"{number}.h5", "data", (100,))
    make_virtual(tmp_path / "v.h5", layout, fillvalue=-1)
    assert (expected(tmp_path / "v.h5")[4] == -1).all()
    assert_same(tmp_path / "v.h5")
    with xr.open_dataset(tmp_path / "v.h5", engine="pytables", chunks={}) as ds:
        assert float(ds["v"].sum()) == expected(tmp_path / "v.h5").sum()


def test_parts_of_one_dataset_of_the_same_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w", libver="latest") as file:
        data = file.create_dataset("data", data=values(6, 8))
        layout = h5py.VirtualLayout((3, 8), "f8")
        layout[:, ::2] = h5py.VirtualSource(data)[::2, 4:]
        layout[:, 1::2] = h5py.VirtualSource(data)[1::2, :4]
        file.create_virtual_dataset("v", layout)
    assert_same(tmp_path / "v.h5")


@pytest.mark.parametrize("stored", ["<f4", ">f8", "<i2", ">u8", "|S5", "bool"])
def test_other_types_of_the_source(tmp_path: Path, stored: str) -> None:
    shown = {"<f4": "<f8", "<i2": ">i4", ">u8": "<u8"}.get(stored, stored)
    source(tmp_path / "a.h5", values(4, 3).astype(stored))
    layout = h5py.VirtualLayout((4, 3), shown)
    layout[...] = h5py.VirtualSource(tmp_path / "a.h5", "data", (4, 3))
    make_virtual(tmp_path / "v.h5", layout)
    assert_same(tmp_path / "v.h5")


def test_text_and_times_and_enumerations(tmp_path: Path) -> None:
    enum = h5py.enum_dtype({"OFF": 0, "ON": 1}, "i1")
    with h5py.File(tmp_path / "v.h5", "w", libver="latest") as file:
        text = file.create_dataset("text", data=["aé", "b", ""], dtype=h5py.string_dtype())
        state = file.create_dataset("state", data=np.array([0, 1, 0], "i1"), dtype=enum)
        for name, data in (("v", text), ("s", state)):
            layout = h5py.VirtualLayout((2,), data.dtype)
            layout[...] = h5py.VirtualSource(data)[1:]
            file.create_virtual_dataset(name, layout)
    assert opened(tmp_path / "v.h5").values.tolist() == ["b", ""]
    state = opened(tmp_path / "v.h5", "s")
    assert (state.values.tolist(), state.attrs["flag_meanings"]) == ([1, 0], "OFF ON")


def test_elements_that_correspond_in_another_order_of_dimensions(tmp_path: Path) -> None:
    """A row of a matrix that becomes a block of another: only the order of elements is the same."""
    source(tmp_path / "a.h5", values(24, dtype="i4"))
    layout = h5py.VirtualLayout((6, 5), "i4")
    layout[:, 1:5] = h5py.VirtualSource(tmp_path / "a.h5", "data", (24,))
    make_virtual(tmp_path / "v.h5", layout, fillvalue=7)
    assert_same(tmp_path / "v.h5")


def test_irregular_selections(tmp_path: Path) -> None:
    source(tmp_path / "a.h5", values(10, 3, dtype="i4"))
    layout = h5py.VirtualLayout((4, 3), "i4")
    layout[...] = h5py.VirtualSource(tmp_path / "a.h5", "data", (10, 3))[[0, 1, 5, 8]]
    make_virtual(tmp_path / "v.h5", layout)
    assert_same(tmp_path / "v.h5")


@examples(60)
@given(st.data())
def test_any_slices_equal_h5py(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("virtual")
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * data.draw(st.integers(1, 3))), "source")
    source(folder / "a.h5", values(*shape, dtype="i4"), chunks=tuple(min(3, size) for size in shape))
    taken = tuple(data.draw(pieces(size), "taken") for size in shape)
    counts = [len(range(size)[one]) for size, one in zip(shape, taken, strict=True)]
    placed, whole = [], []
    for count in counts:
        start, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
        placed.append(slice(start, start + (count - 1) * step + 1, step))
        whole.append(placed[-1].stop + data.draw(st.integers(0, 2)))
    layout = h5py.VirtualLayout(tuple(whole), "i4")
    layout[tuple(placed)] = h5py.VirtualSource(folder / "a.h5", "data", shape)[taken]
    make_virtual(folder / "v.h5", layout, fillvalue=-5)
    want = expected(folder / "v.h5")
    key = tuple(data.draw(keys(size), "key") for size in whole)
    with xr.open_dataset(folder / "v.h5", engine="pytables") as ds:
        got = ds["v"].isel(dict(zip(ds["v"].dims, key, strict=True))) if len(set(ds["v"].dims)) == len(key) else ds["v"]
        if len(set(ds["v"].dims)) != len(key):
            key = (slice(None),) * len(key)
        for axis in reversed(range(len(key))):
            want = want[(slice(None),) * axis + (key[axis],)]
        np.testing.assert_array_equal(got.values, want)


def pieces(size: int) -> st.SearchStrategy[slice]:
    return st.builds(
        lambda start, length, step: slice(start, min(size, start + length), step),
        st.integers(0, size - 1), st.integers(1, size), st.integers(1, 3),
    )  # fmt: skip


def keys(size: int) -> st.SearchStrategy[object]:
    return st.one_of(
        pieces(size), st.integers(0, size - 1), st.lists(st.integers(0, size - 1), min_size=1, max_size=4).map(np.array)
    )


# -- dimensions without end ----------------------------------------------------------------------------------


def endless(path: Path, name: str, *, blocks: bool) -> None:
    """A virtual dataset that is as long as its source, or as there are files."""
    unlimited = h5py.h5s.UNLIMITED
    with h5py.File(path, "w", libver="latest") as file:
        space = h5py.h5s.create_simple((0, 3), (unlimited, 3))
        space.select_hyperslab(
            (0, 0), (unlimited, 1) if blocks else (1, 1), (2, 3), (2, 3) if blocks else (unlimited, 3)
        )
        inner = h5py.h5s.create_simple((2, 3), (2, 3)) if blocks else h5py.h5s.create_simple((2, 3), (unlimited, 3))
        if not blocks:
            inner.select_hyperslab((0, 0), (1, 1), (2, 3), (unlimited, 3))
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_virtual(space, name.encode(), b"data", inner)
        h5py.h5d.create(file.id, b"v", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((0, 3), (unlimited, 3)), create)


def test_as_long_as_the_source(tmp_path: Path) -> None:
    source(tmp_path / "a.h5", values(4, 3, dtype="i4"), maxshape=(None, 3), chunks=(2, 3))
    endless(tmp_path / "v.h5", "a.h5", blocks=False)
    assert expected(tmp_path / "v.h5").shape == (4, 3)
    assert_same(tmp_path / "v.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["data"].resize((7, 3))
        file["data"][4:] = 9
    assert_same(tmp_path / "v.h5")


def test_as_many_files_as_there_are(tmp_path: Path) -> None:
    endless(tmp_path / "v.h5", "part%b.h5", blocks=True)
    assert opened(tmp_path / "v.h5").shape == (0, 3)
    for number in range(3):
        source(tmp_path / f"part{number}.h5", values(2, 3, dtype="i4") * 10**number)
        assert len(expected(tmp_path / "v.h5")) == 2 * number + 2
        assert_same(tmp_path / "v.h5")


# -- what is refused ----------------------------------------------------------------------------------------


def one_source(tmp_path: Path, name: str | Path, **how: object) -> Path:
    layout = h5py.VirtualLayout((3,), "i4")
    layout[...] = h5py.VirtualSource(name, "data", (3,))
    make_virtual(tmp_path / "v.h5", layout, **how)
    return tmp_path / "v.h5"


def test_a_missing_source_is_an_error_and_no_fill_value(tmp_path: Path) -> None:
    path = one_source(tmp_path, "gone.h5")
    assert (expected(path) == 0).all()  # what HDF5 makes of it
    with pytest.warns(UserWarning, match=r"/v: its source gone.h5:data, but there is no file .*gone.h5"):
        assert not xr.open_dataset(path, engine="pytables").variables
    with pytest.raises(MissingNodeError, match=r"v\.h5: '/v' cannot be opened: its source gone\.h5:data.*no file"):
        xr.open_dataarray(path, engine="pytables", group="v")


def test_a_source_elsewhere_follows_the_policy_of_links(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    source(tmp_path / "a.h5", values(3, dtype="i4"))
    path = one_source(tmp_path / "inside", "../a.h5")
    with pytest.warns(UserWarning, match="outside the folder of the file: not followed"):
        xr.open_dataset(path, engine="pytables")
    assert_same(path, external_links="any")
    (tmp_path / "b.h5").symlink_to(tmp_path / "inside" / "v.h5")
    with pytest.warns(UserWarning, match="not followed with external_links='never'"):
        xr.open_dataset(path, engine="pytables", external_links="never")


def test_types_that_would_lose_something(tmp_path: Path) -> None:
    source(tmp_path / "a.h5", values(3) + 0.5)
    with pytest.warns(UserWarning, match="its source a.h5:data has another type: float64, expected int32"):
        xr.open_dataset(one_source(tmp_path, "a.h5"), engine="pytables")


def test_sources_in_circles(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((3,), "i4")
    layout[...] = h5py.VirtualSource("v.h5", "v", (3,))
    make_virtual(tmp_path / "v.h5", layout)
    with pytest.warns(UserWarning, match="circles"):
        xr.open_dataset(tmp_path / "v.h5", engine="pytables")


def test_a_source_that_is_too_short(tmp_path: Path) -> None:
    source(tmp_path / "a.h5", values(2, dtype="i4"))
    with pytest.warns(UserWarning, match=r"(reaches to 3 of 2 elements|2 elements of a source for 3).*'a\.h5'"):
        xr.open_dataset(one_source(tmp_path, "a.h5"), engine="pytables")


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    source(tmp_path / "a.h5", values(3, dtype="i4"))
    array = opened(one_source(tmp_path, "a.h5"))
    source(tmp_path / "b.h5", values(3, dtype="i4") * 2)
    os.replace(tmp_path / "b.h5", tmp_path / "a.h5")
    assert array.values.tolist() == [1, 2, 3]  # the version that was opened
    again = opened(tmp_path / "v.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["data"][0] = 5
    os.utime(tmp_path / "a.h5", (1, 1))
    with pytest.raises(FileChangedError, match=r"a\.h5"):
        again.load()


def test_virtual_datasets_of_virtual_ones_pickle_and_travel(tmp_path: Path) -> None:
    source(tmp_path / "a.h5", values(6, dtype="i4"), chunks=(2,))
    layout = h5py.VirtualLayout((4,), "i4")
    layout[...] = h5py.VirtualSource("a.h5", "data", (6,))[1:5]
    make_virtual(tmp_path / "inner.h5", layout)
    outer = h5py.VirtualLayout((2,), "i8")
    outer[...] = h5py.VirtualSource("inner.h5", "v", (4,))[::2]
    make_virtual(tmp_path / "v.h5", outer)
    assert_same(tmp_path / "v.h5")
    code = """
        import pickle, sys
        print(pickle.load(open(sys.argv[1], "rb")).values.tolist())
    """
    import pickle

    (tmp_path / "p").write_bytes(pickle.dumps(opened(tmp_path / "v.h5")))
    assert run_python(code, tmp_path / "p") == "[2, 4]\n"


def test_the_listing_shows_them_and_copies_are_plain(tmp_path: Path) -> None:
    source(tmp_path / "a.h5", values(3, dtype="i4"))
    path = one_source(tmp_path, "a.h5")
    (array,) = xr_pytables.tree(path).groups[0].arrays
    assert (array.name, array.shape, array.kind) == ("v", (3,), "virtual")
    xr_pytables.to_pytables(xr.open_dataset(path, engine="pytables"), tmp_path / "copy.h5")
    os.remove(tmp_path / "a.h5")
    assert opened(tmp_path / "copy.h5").values.tolist() == [1, 2, 3]


@pytest.mark.parametrize("mode", [{"region": {"dim_3": slice(0, 2)}}, {"append_dim": "dim_3"}])
def test_nothing_is_written_through_them(tmp_path: Path, mode: dict[str, object]) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w", libver="latest") as file:
        layout = h5py.VirtualLayout((3,), "i4")
        layout[...] = h5py.VirtualSource(file.create_dataset("inner/data", data=values(3, dtype="i4")))
        file.create_virtual_dataset("v", layout)
    before = path.read_bytes()
    ds = xr.Dataset({"v": ("dim_3", np.array([8, 9], "i4"))})
    with pytest.raises(ValueError, match=r"v\.h5:/: .*(nothing in this group|values lie in other arrays or files)"):
        xr_pytables.to_pytables(ds, path, **mode)
    assert before == path.read_bytes()


# -- raw data in other files ----------------------------------------------------------------------------------


def raw(path: Path, pieces: list[tuple[str, int, int]], shape: tuple[int, ...], dtype: str = "<i4") -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("v", shape, dtype, external=pieces)


def test_raw_data_in_pieces_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = values(5, 4, dtype="<i4")
    (tmp_path / "a.bin").write_bytes(b"head" + data.tobytes()[:30])
    (tmp_path / "b.bin").write_bytes(data.tobytes()[30:] + b"more")
    raw(tmp_path / "v.h5", [("a.bin", 4, 30), ("b.bin", 0, h5py.h5f.UNLIMITED)], (5, 4))
    monkeypatch.chdir(tmp_path)  # where HDF5 looks for relative names
    assert_same(tmp_path / "v.h5")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(opened(tmp_path / "v.h5").values, data)
    assert opened(tmp_path / "v.h5", chunks={"dim_5": 2})[1:4].sum().compute() == data[1:4].sum()


def test_raw_data_that_are_missing_or_too_short_or_elsewhere(tmp_path: Path) -> None:
    raw(tmp_path / "v.h5", [("a.bin", 0, 80)], (5, 4))
    with pytest.warns(UserWarning, match=r"its data lie in the file a.bin, but there is no file"):
        xr.open_dataset(tmp_path / "v.h5", engine="pytables")
    (tmp_path / "a.bin").write_bytes(bytes(79))
    with pytest.warns(UserWarning, match="too short: 79 bytes from 0, expected 80"):
        xr.open_dataset(tmp_path / "v.h5", engine="pytables")
    raw(tmp_path / "v.h5", [("/etc/passwd", 0, h5py.h5f.UNLIMITED)], (4,), "S1")
    with pytest.warns(UserWarning, match="outside the folder of the file: not followed"):
        assert not xr.open_dataset(tmp_path / "v.h5", engine="pytables").variables


def test_raw_data_that_change_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(values(4, dtype="<i4").tobytes())
    raw(tmp_path / "v.h5", [("a.bin", 0, 16)], (4,))
    array = opened(tmp_path / "v.h5")
    (tmp_path / "a.bin").write_bytes(bytes(16))
    os.utime(tmp_path / "a.bin", (1, 1))
    with pytest.raises(FileChangedError):
        array.load()


def test_missing_paths_name_no_control_characters(tmp_path: Path) -> None:
    path = one_source(tmp_path, "go\x1b[31mne.h5")
    with pytest.warns(UserWarning, match="go") as caught:
        xr.open_dataset(path, engine="pytables")
    assert "\x1b" not in str(caught[0].message)
