"""`xr_pytables.tree` lists every node of a file with how it is stored, and what is not shown with the reason."""

from __future__ import annotations

import html.parser
import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tables

import xr_pytables

from .helpers_reading import plain_file


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """One node of each kind."""
    path = tmp_path / "mixed.h5"
    with plain_file(path, "w") as file:
        file.root._v_attrs.note = 1
        file.create_array("/", "plain", np.zeros((2, 3)))
        file.create_carray("/", "packed", obj=np.zeros((100, 100)), chunkshape=(10, 100), filters=tables.Filters(5))
        file.create_earray("/", "grows", tables.Int16Atom(), (0, 4))
        file.create_vlarray("/", "rows", tables.Float32Atom(shape=(2,))).append(np.zeros((3, 2)))
        file.create_vlarray("/", "objects", tables.ObjectAtom()).append([1])
        file.create_table("/group", "events", np.zeros(5, [("a", "f8"), ("b", "S3")]), createparents=True)
        file.create_soft_link("/", "lost", "/nowhere")
    with h5py.File(path, "a") as file:
        file["<b>text"] = ["a", "b"]
        file["refs"] = np.array([file["plain"].ref], h5py.ref_dtype)
        file["empty"] = h5py.Empty("f8")
    return path


def test_every_node_is_listed_with_how_it_is_stored(mixed: Path) -> None:
    listed = xr_pytables.tree(mixed)
    root, group, table = listed.groups
    assert [entry.group for entry in listed.groups] == ["/", "/group", "/group/events"]
    assert [entry.kind for entry in listed.groups] == ["group", "group", "table"]
    found = {array.name: array for array in root.arrays}
    assert {name: (array.kind, array.dtype) for name, array in found.items()} == {
        "plain": ("Array", "float64"),
        "packed": ("CArray", "float64"),
        "grows": ("EArray", "int16"),
        "rows": ("VLArray", "rows of float32[2]"),
        "objects": ("VLArray", "objects"),
        "<b>text": ("text", "str"),
        "refs": ("references", "paths"),
    }
    packed = found["packed"]
    assert packed.chunks == (10, 100)
    assert packed.filters == {"complib": "zlib", "complevel": 5, "shuffle": True}
    with tables.open_file(mixed) as file:
        assert packed.stored_bytes == file.root.packed.size_on_disk
    assert packed.ratio == 80_000 / packed.stored_bytes > 10
    assert found["plain"].ratio == 1
    assert found["rows"].stored_bytes is None
    assert {node.path: node.reason for node in root.skipped}.keys() == {"/lost", "/empty"}
    assert root.attributes == {"note": 1}
    assert [(column.name, column.kind, column.dtype) for column in table.arrays] == [
        ("a", "column", "float64"),
        ("b", "column", "|S3"),
    ]
    assert group.arrays == ()


def test_repr_names_file_kinds_and_reasons(mixed: Path) -> None:
    told = repr(xr_pytables.tree(str(mixed)))
    assert told.startswith(f"<FileTree of {mixed}>\n/  [note]\n")
    assert "  grows (dim_0: 0, dim_4: 4)  EArray, int16, chunks" in told
    assert "  not shown: /empty: it has a null dataspace" in told
    assert repr(xr_pytables.tree(mixed, group="/group/events")).count("\n") == 3


def test_html_is_well_formed_and_runs_nothing_of_the_file(mixed: Path) -> None:
    text = xr_pytables.tree(mixed)._repr_html_()
    stack: list[str] = []

    class Checker(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            assert tag in {"b", "details", "summary", "i", "table", "tr", "th", "td", "ul", "li"}
            stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert stack.pop() == tag

    Checker().feed(text)
    assert stack == []
    assert "<td>&lt;b&gt;text</td>" in text
    assert "<b>text" not in text
    assert "null dataspace" in text


def test_external_links_as_in_open_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0]
    with h5py.File(tmp_path / "main.h5", "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "/x")
    (near,) = xr_pytables.tree(tmp_path / "main.h5").groups
    assert [array.name for array in near.arrays] == ["link"]
    assert near.arrays[0].stored_bytes is None
    (never,) = xr_pytables.tree(tmp_path / "main.h5", external_links="never").groups
    assert "external_links='never'" in never.skipped[0].reason
    with pytest.raises(OSError, match=r"there is no '/none'"):
        xr_pytables.tree(tmp_path / "main.h5", group="none")


def test_listing_reads_no_data(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("xr_pytables.chunks.reading.read_into", refuse)
    monkeypatch.setattr("xr_pytables.chunks.vlen.read_values", refuse)
    assert len(xr_pytables.tree(mixed).groups) == 3


def test_pandas_objects_are_listed_by_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [1, 2]})
    frame.to_hdf(path, key="fixed")
    frame.to_hdf(path, key="flat", format="table")
    groups = {group.group: group for group in xr_pytables.tree(path).groups}
    assert list(groups) == ["/", "/fixed", "/flat"]
    for name in ("/fixed", "/flat"):
        assert groups[name].kind == "pandas object"
        assert {array.name: array.kind for array in groups[name].arrays} == {
            "index": "column",
            "a": "column",
            "b": "column",
        }
    assert "pandas object" in repr(xr_pytables.tree(path))


def test_arrays_for_which_a_filter_is_missing_are_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("lzf", data=np.arange(10), compression="lzf")
        file.create_dataset("zlib", data=np.arange(10), compression="gzip")
    assert [array.lacks for array in xr_pytables.tree(tmp_path / "a.h5").groups[0].arrays] == ["", ""]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imagecodecs" else find(name))
    tree = xr_pytables.tree(tmp_path / "a.h5")
    lacks = {array.name: array.lacks for array in tree.groups[0].arrays}
    assert "imagecodecs" in lacks["lzf"]
    assert lacks["zlib"] == ""
    assert f"cannot be read here: {lacks['lzf']}" in repr(tree)
    assert "cannot be read here" in tree._repr_html_()


def test_a_name_makes_no_line_of_its_own(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("ok\na.h5: sound").create_dataset("b\nc", data=[1])
        file["null\nd"] = h5py.Empty("f4")
    lines = list(xr_pytables.tree(tmp_path / "a.h5").lines(values=True))
    assert not [line for line in lines if "\n" in line]
    assert any("ok\\na.h5: sound" in line for line in lines)
