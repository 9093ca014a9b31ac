"""Saved indexes: one request opens a file, the data are the same, and an index of another version is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import tables
import xarray as xr

from xr_pytables import FileChangedError, save_index, to_pytables
from xr_pytables.sources.remote import ObjectVersion
from xr_pytables.sources.saved_index import SavedIndex, find_index

from .helpers_reading import open_quietly, plain_file
from .helpers_server import Server, running

FIELD = np.random.default_rng(0).random((300, 400))
ENERGY = np.random.default_rng(1).permutation(20_000) / 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays, coordinates, a table with an index, a pandas object; larger than the head that is read at once."""
    path = tmp_path_factory.mktemp("indexes") / "a.h5"
    ds = xr.Dataset(
        {f"v{i}": (("y", "x"), FIELD + i) for i in range(12)},
        coords={"x": np.arange(400.0), "y": pd.date_range("2020", periods=300)},
    )
    to_pytables(ds, path, encoding={f"v{i}": {"chunksizes": (50, 100)} for i in range(12)})
    with plain_file(path, "a") as file:
        table = file.create_table("/", "events", np.rec.array([ENERGY, np.arange(20_000)], names="energy,number"))
        table.cols.energy.create_csindex()
        file.create_vlarray("/deep", "rows", tables.Int32Atom(), createparents=True).append([1, 2])
    pd.DataFrame({"a": np.arange(50.0)}).to_hdf(path, key="frame", format="table")
    return path


@pytest.fixture
def server(whole: Path) -> Iterator[Server]:
    with running(objects={"a.h5": whole.read_bytes()}) as server:
        yield server


@pytest.fixture
def index(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "a.index.json"
    save_index(server.url(), path)
    server.asked.clear()
    return path


def test_opening_takes_one_request_and_reading_asks_for_chunks_alone(server: Server, index: Path) -> None:
    with open_quietly(server.url(), index=index, cache=False) as ds:
        assert len(server.asked) == 1
        assert server.bytes_asked == 512
        server.asked.clear()
        assert np.array_equal(ds["v7"], FIELD + 7)
        assert FIELD.nbytes <= server.bytes_asked <= FIELD.nbytes * 1.05
        assert len(server.asked) == 1


def test_trees_are_the_same(server: Server, index: Path, whole: Path) -> None:
    found = xr.open_groups(server.url(), engine="pytables", index=index)
    assert len(server.asked) == 1
    expected = xr.open_groups(whole, engine="pytables")
    assert found.keys() == expected.keys() >= {"/", "/events", "/deep", "/frame"}
    for group, dataset in expected.items():
        if group == "/deep":
            assert found[group]["rows"].values[0].tolist() == [1, 2]
        else:
            xr.testing.assert_identical(found[group].load(), dataset.load())
        found[group].close()
        dataset.close()


def test_conditions_work_too(server: Server, index: Path) -> None:
    with open_quietly(server.url(), index=index, group="/events", where="energy == 17.25") as ds:
        assert ds["number"].values.tolist() == np.flatnonzero(ENERGY == 17.25).tolist()


def test_an_index_is_small_and_has_no_credentials(server: Server, tmp_path: Path) -> None:
    save_index(
        server.url(user="me:geheim@") + "?sig=signed", tmp_path / "b.json", storage_options={"headers": {"X": "token"}}
    )
    text = (tmp_path / "b.json").read_text()
    assert len(text) < 60_000
    assert not any(secret in text for secret in ("geheim", "signed", "token"))
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_an_index_of_another_version_is_refused(server: Server, index: Path, whole: Path) -> None:
    server.objects["a.h5"] = whole.read_bytes()[:-1] + b"x"
    with pytest.raises(FileChangedError, match="The index is of another version: save it again"):
        xr.open_dataset(server.url(), engine="pytables", index=index)


def test_lazy_arrays_pickle_with_their_index(server: Server, index: Path) -> None:
    with open_quietly(server.url(), index=index, cache=False) as ds:
        sent = pickle.dumps(ds["v3"])
    server.asked.clear()
    index.unlink()
    again = pickle.loads(sent)
    assert np.array_equal(again, FIELD + 3)
    assert len(server.asked) == 1
    again.close()


def test_many_files_by_one_file_of_indexes(server: Server, tmp_path: Path) -> None:
    urls = []
    for i in range(5):
        to_pytables(xr.Dataset({"v": ("t", np.arange(5) + 10 * i)}), tmp_path / f"{i}.h5")
        server.objects[f"{i}.h5"] = (tmp_path / f"{i}.h5").read_bytes()
        urls.append(server.url(f"{i}.h5"))
    save_index(urls, tmp_path / "all.json")
    server.asked.clear()
    index = json.loads((tmp_path / "all.json").read_text())
    for given in (tmp_path / "all.json", index):
        with xr.open_mfdataset(urls, engine="pytables", combine="nested", concat_dim="t", index=given) as ds:
            assert ds["v"].values.tolist() == [10 * i + j for i in range(5) for j in range(5)]
    with pytest.raises(ValueError, match=r"all\.json: this has no index of http://.*/a\.h5"):
        xr.open_dataset(server.url(), engine="pytables", index=tmp_path / "all.json")


def test_files_whose_urls_differ_in_what_is_not_shown_are_not_mixed_up(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as one, h5py.File(tmp_path / "b.h5", "w") as other:
        one["a"], other["a"] = np.arange(5), np.arange(700)
    urls = ["memory://indexes/get?id=a", "memory://indexes/get?id=b"]
    for url, name in zip(urls, "ab", strict=True):
        fsspec.filesystem("memory").pipe_file(url, (tmp_path / f"{name}.h5").read_bytes())
    with pytest.raises(ValueError, match=r"/get\?\.\.\.: several of these files are called that"):
        save_index(urls, tmp_path / "a.json")
    save_index([urls[0], urls[0]], tmp_path / "a.json")
    with xr.open_dataset(urls[0], engine="pytables", index=tmp_path / "a.json") as ds:
        assert ds["a"].values.tolist() == [0, 1, 2, 3, 4]


def test_dense_links_attributes_and_user_blocks(server: Server, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "b.h5", "w", libver="latest", userblock_size=512) as file:
        for i in range(40):
            file.create_dataset(f"v{i}", data=np.arange(100) + i, chunks=(10,))
            for j in range(12):
                file[f"v{i}"].attrs[f"a{j}"] = j
    server.objects["b.h5"] = (tmp_path / "b.h5").read_bytes()
    save_index(server.url("b.h5"), tmp_path / "b.json")
    server.asked.clear()
    with open_quietly(server.url("b.h5"), index=tmp_path / "b.json") as ds:
        assert len(server.asked) == 1
        assert ds["v39"].attrs == {f"a{j}": j for j in range(12)}
        assert ds["v39"].values.tolist() == list(range(39, 139))


# -- what is refused ----------------------------------------------------------------------------------------


def test_indexes_and_caches_are_local(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_index(server.url(), "~/of home.json")
    save_index(server.url(), (tmp_path / "by%20url.json").as_uri())
    assert sorted(os.listdir()) == ["by%20url.json", "of home.json"]
    kept = (tmp_path / "kept").as_uri()
    for index in ("~/of home.json", (tmp_path / "by%20url.json").as_uri()):
        open_quietly(server.url(), index=index, cache_dir=kept).close()
    assert len(os.listdir()) == 3
    with pytest.raises(ValueError, match=r"^out must be a local path, not s3://b/i\.json"):
        save_index(server.url(), "s3://me:pw@b/i.json")
    with pytest.raises(
        ValueError, match=r"what json\.load finds in its file.* must be a local path, not s3://b/i\.json"
    ):
        open_quietly(server.url(), index="s3://b/i.json")
    with pytest.raises(ValueError, match=r"^cache_dir must be a local path, not memory://kept"):
        open_quietly(server.url(), cache_dir="memory://kept")
    assert len(os.listdir()) == 3


def test_local_files_need_no_index(whole: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.h5: a local file opens quickly without an index"):
        save_index(whole, tmp_path / "b.json")
    with pytest.raises(ValueError, match=r"index has no effect on .*a\.h5"):
        xr.open_dataset(whole, engine="pytables", index=index)


def test_a_failed_write_leaves_the_old_index(
    server: Server, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = index.read_text()

    def fail(*args: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("xr_pytables.indexes.os.replace", fail)
    with pytest.raises(OSError, match="no"):
        save_index(server.url(), index)
    assert index.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == [index.name]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", "x", "it has no size"),
        ("ranges", [1], "no ranges"),
        ("ranges", [-1, 5], "no positions in the file"),
        ("ranges", [0, True], "no positions in the file"),
        ("ranges", [0, 10**30], "no positions in the file"),
        ("ranges", [0, 5, 3, 5], "its parts overlap"),
        ("ranges", [0, 5], "do not fit its bytes"),
        ("tag", '"a\r\nHost: b"', "control characters"),
        ("data", "!", "cannot be decoded"),
        ("data", "eJw=", "do not fit its bytes|cannot be decoded"),
        ("data", None, "cannot be decoded|do not fit"),
    ],
)
def test_damaged_indexes_are_refused(index: Path, server: Server, key: str, value: object, message: str) -> None:
    found = json.loads(index.read_text())
    damaged = copy.deepcopy(found)
    damaged["files"][server.url()][key] = value
    with pytest.raises(ValueError, match=rf"the index of http.* cannot be used: .*({message}).*Save it again"):
        find_index(damaged, server.url())
    assert find_index(found, "any name: there is one").version.size == len(server.objects["a.h5"])


@pytest.mark.parametrize("found", [{}, {"format": "other"}, {"format": "xr_pytables index 1", "files": []}, []])
def test_what_is_no_index(tmp_path: Path, found: object) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"a\.json: this is no index as xr_pytables\.save_index writes it"):
        find_index(path, "a")
    for text in ("{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ValueError, match="this is no JSON"):
            find_index(path, "a")
    with pytest.raises(TypeError, match="index must be a path"):
        find_index(5, "a")


def test_an_index_that_claims_much_is_refused_before_memory_is_taken() -> None:
    found = {"size": 1 << 50, "ranges": [0, 1 << 40], "data": ""}
    with pytest.raises(ValueError, match="claims to have"):
        SavedIndex.of(found)
    with pytest.raises(ValueError, match="no object of JSON"):
        SavedIndex.of([])
    assert SavedIndex(ObjectVersion(5), ((0, 2),), b"ab").as_dict()["ranges"] == [0, 2]
