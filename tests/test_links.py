"""Links: followed inside the file and (as far as allowed) to others, never in circles, each group shown once."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from .helpers_reading import open_raw, plain_file


def values(path: Path, **kwargs: object) -> dict[str, list[int]]:
    with open_raw(path, **kwargs) as ds:
        return {name: variable.values.tolist() for name, variable in ds.variables.items()}


def tree_paths(path: Path, **kwargs: object) -> list[str]:
    with xr.open_datatree(path, engine="pytables", **kwargs) as tree:
        return [node.path for node in tree.subtree]


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Soft and hard links of every kind that leads somewhere."""
    path = tmp_path / "linked.h5"
    with plain_file(path, "w") as file:
        file.create_array("/g/deep", "a", [1, 2], createparents=True)
        file.create_soft_link("/", "soft", "/g/deep/a")
        file.create_soft_link("/", "soft_to_soft", "/soft")
        file.create_soft_link("/g", "relative", "deep/a")
        file.create_soft_link("/", "through_group", "/soft_group/a")
        file.create_soft_link("/", "soft_group", "/g/deep")
        file.create_hard_link("/", "hard", "/g/deep/a")
    return path


def test_soft_and_hard_links_to_arrays_are_variables(linked: Path) -> None:
    names = ["hard", "soft", "soft_to_soft", "through_group"]
    assert values(linked) == dict.fromkeys(names, [1, 2])
    assert values(linked, group="g") == {"relative": [1, 2]}


@pytest.mark.parametrize("group", ["/g/deep", "/soft_group", "soft_group/"])
def test_group_argument_leads_through_soft_links(linked: Path, group: str) -> None:
    assert values(linked, group=group) == {"a": [1, 2]}


@pytest.mark.parametrize("leaf", ["/g/deep/a", "/soft_group/a", "/soft_to_soft", "/hard"])
def test_leaf_path_gives_the_dataset_of_that_array(linked: Path, leaf: str) -> None:
    with open_raw(linked, group=leaf) as ds:
        assert [variable.values.tolist() for variable in ds.variables.values()] == [[1, 2]]
        assert ds.attrs == {}
    with xr.open_datatree(linked, engine="pytables", group=leaf) as tree:
        assert len(tree.variables) == 1
        assert not tree.children


def test_leaf_path_does_not_look_at_the_siblings(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a"] = [1]
        file["opaque"] = np.zeros(1, "V3")
        file["dangling"] = h5py.SoftLink("/nowhere")
    assert values(tmp_path / "h.h5", group="a") == {"a": [1]}


def test_tree_shows_each_group_once_at_its_hard_link(linked: Path) -> None:
    assert tree_paths(linked) == ["/", "/g", "/g/deep"]


def test_group_reached_only_by_a_soft_link_is_shown_there(tmp_path: Path) -> None:
    with plain_file(tmp_path / "f.h5", "w") as file:
        file.create_array("/outside/of", "a", [1], createparents=True)
        file.create_soft_link("/start", "link", "/outside/of", createparents=True)
        file.create_soft_link("/start", "link2", "/outside/of")
    assert tree_paths(tmp_path / "f.h5", group="/start") == ["/", "/link"]


def test_hard_link_cycles_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        inner = file.create_group("a/b")
        inner["x"] = [1]
        inner["up"] = file["a"]
        inner["root"] = file["/"]
        file["a/self"] = file["a"]
    assert tree_paths(tmp_path / "h.h5") == ["/", "/a", "/a/b"]
    assert values(tmp_path / "h.h5", group="a/b/up/b/root/a/self/b") == {"x": [1]}


def test_links_that_lead_nowhere_or_in_circles_are_told_and_left_out(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a"] = [1]
        file["dangling"] = h5py.SoftLink("/not/there")
        file["loop"] = h5py.SoftLink("/pool")
        file["pool"] = h5py.SoftLink("/loop")
        file["self"] = h5py.SoftLink("self")
        file["inside_itself"] = h5py.SoftLink("/inside_itself/x")
    with pytest.warns(UserWarning, match=r"5 node\(s\) are not shown") as caught:
        assert values(tmp_path / "h.h5") == {"a": [1]}
    message = str(caught[0].message)
    assert len(caught) == 1
    assert "/dangling: there is no '/not'" in message
    for name in ("loop", "pool", "self", "inside_itself"):
        assert f"/{name}: the soft link" in message
    assert message.count("leads in circles") == 4
    with pytest.raises(OSError, match=r"h\.h5: the soft link .* leads in circles"):
        xr.open_dataset(tmp_path / "h.h5", engine="pytables", group="loop")


def test_long_chain_of_soft_links_is_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a0"] = [1]
        for number in range(1, 40):
            file[f"a{number}"] = h5py.SoftLink(f"/a{number - 1}")
    assert len(values(tmp_path / "h.h5")) == 40


# -- external links ----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """home/main.h5 with external links to its own folder, below, beside, and nowhere."""
    home = tmp_path / "home"
    (home / "below").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    for number, path in enumerate((home / "near.h5", home / "below" / "low.h5", tmp_path / "beside" / "far.h5")):
        with plain_file(path, "w") as file:
            file.create_array("/g", "a", [number], createparents=True)
            file.create_array("/g/inner", "b", [10 + number], createparents=True)
    with h5py.File(home / "main.h5", "w") as file:
        file.attrs["PYTABLES_FORMAT_VERSION"] = np.bytes_(b"2.1")
        file["own"] = [5]
        file["near"] = h5py.ExternalLink("near.h5", "/g/a")
        file["below"] = h5py.ExternalLink("below/low.h5", "/g/a")
        file["far"] = h5py.ExternalLink("../beside/far.h5", "/g/a")
        file["far_absolute"] = h5py.ExternalLink(str(tmp_path / "beside" / "far.h5"), "/g/a")
        file["missing"] = h5py.ExternalLink("not_there.h5", "/g/a")
        file["missing_node"] = h5py.ExternalLink("near.h5", "/g/zzz")
    return home


def test_near_external_links_are_followed_and_others_told(files: Path) -> None:
    with pytest.warns(UserWarning, match=r"4 node\(s\) are not shown") as caught:
        assert values(files / "main.h5") == {"own": [5], "near": [0], "below": [1]}
    message = str(caught[0].message)
    assert "/far: " in message
    assert "external_links='any' follows it, if you trust the file" in message
    assert f"there is no file {files}/not_there.h5" in message
    assert "there is no '/g/zzz'" in message


def test_any_external_link_is_followed_on_request(files: Path) -> None:
    with pytest.warns(UserWarning, match=r"2 node\(s\) are not shown: .*not_there\.h5"):
        assert values(files / "main.h5", external_links="any") == {
            "own": [5], "near": [0], "below": [1], "far": [2], "far_absolute": [2],
        }  # fmt: skip


def test_no_external_link_is_followed_on_request(files: Path) -> None:
    with pytest.warns(UserWarning, match=r"6 node\(s\) are not shown: .*external_links='never'"):
        assert values(files / "main.h5", external_links="never") == {"own": [5]}
    with pytest.raises(OSError, match=r"main\.h5: '/near' is an external link to near\.h5:/g/a, not followed"):
        xr.open_dataset(files / "main.h5", engine="pytables", group="near", external_links="never")


def test_near_is_judged_after_symbolic_links(files: Path) -> None:
    os.symlink(files.parent / "beside" / "far.h5", files / "looks_near.h5")
    os.symlink(files.parent / "beside", files / "folder")
    with h5py.File(files / "links.h5", "w") as file:
        file["own"] = [5]
        file["file"] = h5py.ExternalLink("looks_near.h5", "/g/a")
        file["folder"] = h5py.ExternalLink("folder/far.h5", "/g/a")
    with pytest.warns(UserWarning, match=r"2 node\(s\) are not shown: .*outside the folder"):
        assert values(files / "links.h5") == {"own": [5]}


def test_file_opened_through_a_symbolic_link_finds_what_is_near_that(files: Path) -> None:
    os.symlink(files, files.parent / "alias")
    with pytest.warns(UserWarning, match=r"4 node\(s\)"):
        assert values(files.parent / "alias" / "main.h5") == {"own": [5], "near": [0], "below": [1]}


def test_external_link_to_a_group_is_a_group(files: Path) -> None:
    with h5py.File(files / "groups.h5", "w") as file:
        file["own"] = [5]
        file["group"] = h5py.ExternalLink("near.h5", "/g")
        file["same_group"] = h5py.ExternalLink("./near.h5", "g")
    assert tree_paths(files / "groups.h5") == ["/", "/group", "/group/inner"]
    assert values(files / "groups.h5", group="group/inner") == {"b": [10]}
    assert values(files / "groups.h5", group="/group/a") == {"a": [0]}


def test_external_link_to_something_else_than_hdf5(files: Path) -> None:
    (files / "text.h5").write_text("no")
    if hasattr(os, "mkfifo"):
        os.mkfifo(files / "pipe.h5")
    with h5py.File(files / "odd.h5", "w") as file:
        file["own"] = [5]
        file["text"] = h5py.ExternalLink("text.h5", "/")
        file["pipe"] = h5py.ExternalLink("pipe.h5", "/")
        file["folder"] = h5py.ExternalLink("below", "/")
    with pytest.warns(UserWarning, match=r"3 node\(s\) are not shown: .*text\.h5: not an HDF5 file"):
        assert values(files / "odd.h5") == {"own": [5]}


def test_external_links_in_circles_end(tmp_path: Path) -> None:
    for this, other in ("ab", "ba"):
        with h5py.File(tmp_path / f"{this}.h5", "w") as file:
            file["own"] = [5]
            file["other"] = h5py.ExternalLink(f"{other}.h5", "/other")
            file["root"] = h5py.ExternalLink(f"{other}.h5", "/")
            file["self"] = h5py.ExternalLink(f"{this}.h5", "/own")
    with pytest.warns(UserWarning, match="lead in circles"):
        assert values(tmp_path / "a.h5") == {"own": [5], "self": [5]}
    with pytest.warns(UserWarning, match="lead in circles"):
        assert tree_paths(tmp_path / "a.h5") == ["/", "/root"]


def test_chains_of_external_links_are_followed_as_far_as_by_hdf5(tmp_path: Path) -> None:
    for number in range(18):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["a"] = h5py.ExternalLink(f"{number - 1}.h5", "/a") if number else [1, 2]
    for length in (9, 16):
        with h5py.File(tmp_path / f"{length}.h5") as file:
            assert values(tmp_path / f"{length}.h5") == {"a": file["a"][:].tolist()} == {"a": [1, 2]}
    with h5py.File(tmp_path / "17.h5") as file, pytest.raises(KeyError, match="too many links"):
        file["a"]
    with pytest.raises(OSError, match=r"1\.h5: .*lead in circles, or through more than 16 files"):
        xr.open_dataset(tmp_path / "17.h5", engine="pytables", group="/a")


def test_the_warning_names_the_file_of_nodes_behind_an_external_link(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["inner/lost"] = h5py.SoftLink("/nothing")
    with h5py.File(tmp_path / "first.h5", "w") as file:
        file["group"], file["gone"] = h5py.ExternalLink("other.h5", "/inner"), h5py.SoftLink("/nowhere")
    with pytest.warns(UserWarning, match=r"first\.h5: 2 node") as told:
        xr.open_datatree(tmp_path / "first.h5", engine="pytables")
    message = str(told[0].message)
    assert "shown: /gone: there is no '/nowhere'" in message
    assert f"; {tmp_path / 'other.h5'}:/inner/lost: there is no '/nothing'" in message


def test_pickles_behind_an_external_link_are_not_executed(tmp_path: Path) -> None:
    with plain_file(tmp_path / "target.h5", "w") as file:
        file.create_array("/", "a", [1])
    payload = b"cposix\nsystem\n(S'touch " + os.fsencode(tmp_path / "executed") + b"'\ntR."
    with h5py.File(tmp_path / "target.h5", "r+") as file:
        for node in (file, file["a"]):
            node.attrs["TITLE"] = node.attrs["user"] = np.bytes_(payload)
    with h5py.File(tmp_path / "main.h5", "w") as file:
        file["a"] = h5py.ExternalLink("target.h5", "/a")
        file["g"] = h5py.ExternalLink("target.h5", "/")
    with pytest.warns(UserWarning, match="undecoded"):
        assert tree_paths(tmp_path / "main.h5") == ["/", "/g"]
    assert not (tmp_path / "executed").exists()


def test_linked_file_that_is_replaced_reads_as_it_was(files: Path) -> None:
    with h5py.File(files / "one.h5", "w") as file:
        file["near"] = h5py.ExternalLink("near.h5", "/g/a")
    with open_raw(files / "one.h5") as ds:
        with plain_file(files / "new.h5", "w") as file:
            file.create_array("/g", "a", [99], createparents=True)
        os.replace(files / "new.h5", files / "near.h5")
        assert ds["near"].values.tolist() == [0]
