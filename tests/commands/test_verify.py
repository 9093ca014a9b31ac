"""`verify`: what it prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tables

from xr_pytables import verify

from ..tools.test_verifying import chunk_places, flipped
from .helpers_commands import run


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.h5"
    with tables.open_file(path, "w") as file:
        filters = tables.Filters(1, "zlib", fletcher32=True)
        file.create_carray("/g", "a", obj=np.arange(100), chunkshape=(10,), filters=filters, createparents=True)
        file.create_array("/", "plain", np.zeros(256))
    return path


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.h5"
    path.write_bytes(sound.read_bytes())
    return flipped(path, chunk_places(path, "g/a")[(20,)][0] + 3)


def test_a_sound_file_is_a_line_and_status_0(sound: Path) -> None:
    result = run("verify", sound)
    assert result.exit_code == 0
    stored = 2048 + sum(size for _, size in chunk_places(sound, "g/a").values())
    assert result.output == (
        f"{sound}: sound: 2 groups, 2 arrays, 10 chunks, {stored / 1024:.4g} KiB read, "
        "of which 2 KiB have no checksum\n"
    )


def test_damage_is_named_and_status_1(sound: Path, damaged: Path) -> None:
    result = run("verify", sound, damaged)
    assert result.exit_code == 1
    offset = chunk_places(damaged, "g/a")[(20,)][0]
    first, second, third = result.output.splitlines()
    assert first.startswith(f"{sound}: sound: ")
    assert second.startswith(f"{damaged}: DAMAGED in 1 place: 2 groups, 2 arrays")
    assert third.startswith(f"  /g/a: chunk at (20,) (byte {offset} of the file): fletcher32: the checksum is ")


def test_quiet_tells_of_damage_alone(sound: Path, damaged: Path) -> None:
    assert run("verify", "-q", sound).output == ""
    assert run("verify", "-q", sound, damaged).output.startswith(f"{damaged}: DAMAGED")


def test_json(sound: Path, damaged: Path) -> None:
    one = run("verify", "--json", damaged, "--threads", 1)
    assert one.exit_code == 1
    assert json.loads(one.output)["damage"][0]["path"] == "/g/a"
    both = json.loads(run("verify", "--json", sound, damaged).output)
    assert [report["sound"] for report in both] == [True, False]


def test_a_node_alone(damaged: Path) -> None:
    assert run("verify", f"{damaged}:/plain").exit_code == 0
    assert run("verify", f"{damaged}:/g").exit_code == 1


def test_what_is_no_hdf5_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not HDF5")
    result = run("verify", tmp_path / "text.h5")
    assert result.exit_code == 1
    assert "/: file: not an HDF5 file" in result.output


@pytest.mark.parametrize("arguments", [["none.h5"], ["sound.h5:/none"], ["sound.h5", "--threads", "0"], []])
def test_wrong_use_is_status_2(arguments: list[str], sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sound.parent)
    assert run("verify", *arguments).exit_code == 2


def test_names_from_files_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "colours.h5"
    with tables.open_file(path, "w") as file, pytest.warns(tables.NaturalNameWarning):
        file.create_carray(
            "/", "\x1b[31mred", obj=np.arange(10), chunkshape=(10,), filters=tables.Filters(fletcher32=True)
        )
    flipped(path, chunk_places(path, "\x1b[31mred")[(0,)][0])
    result = run("verify", path)
    assert result.exit_code == 1
    assert "  /\\x1b[31mred: chunk at (0,)" in result.output
    assert "\x1b" not in result.output


def test_a_missing_file_does_not_hide_the_others(sound: Path, damaged: Path, tmp_path: Path) -> None:
    result = run("verify", sound, tmp_path / "nope.h5", damaged)
    assert result.exit_code == 2
    assert f"{sound}: sound" in result.output
    assert "nope.h5" in result.output
    assert f"{damaged}: DAMAGED" in result.output
    told = json.loads(run("verify", "--json", tmp_path / "nope.h5", sound).stdout)
    assert "nope.h5" in told[0]["error"]
    assert told[1]["sound"] is True


def test_too_many_chunks_are_not_checked_and_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("v", (10**5, 10**5), "f4", chunks=(1, 1))
    result = run("verify", path)
    assert result.exit_code == 0
    reason = "10000000000 chunks of 4 bytes cannot be located at once, 134217728 can"
    assert f"not checked: /v: {reason}\n" in result.output
    assert verify(path).unchecked == {"/v": reason}
    result = run("repack", path, tmp_path / "new.h5")
    assert result.exit_code == 2
    assert "10000000000 chunks" in result.output
    assert "damage" not in result.output.lower()
    assert not (tmp_path / "new.h5").exists()


def test_a_url_is_shown_without_its_password(tmp_path: Path) -> None:
    result = run("verify", "--json", "http://user:secret@127.0.0.1:1:1/none.h5")
    assert result.exit_code == 2
    assert "secret" not in result.output
