"""Changed files are read or refused, in small. Long runs: `python -m tests.fuzz` and `python -m tests.fuzz.flips`.

And that the harness notices what it is there to notice.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr

from xr_pytables.disk import journal
from xr_pytables.hdf5.checksum import lookup3

from ..helpers_threads import WATCHDOG
from . import corpus, leftovers
from .flips import CODECS, SMALL, SOUND, chunk_places, metadata_places, outcomes, write_with_codec
from .mutations import Structure, mutated
from .supervisor import Process, judged, run

COMMON = ("0.pickle", "2.pickle", "objects.pickle", "pytables-plain", "pytables-indexed", "pytables-ragged",
          "pytables-blosc2_zstd", "netcdf4-all", "pandas-table", "ours-growing", "h5py-groups-2.0", "h5py-types-1.8",
          "h5py-btree-1.10", "h5py-extensible-2.0", "h5py-filtered-earliest", "h5py-text-1.10")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    return tmp_path / "corpus"


def test_some_hundred_changed_files_are_read_or_refused(folder: Path) -> None:
    corpus.write(folder, COMMON)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == len(COMMON)
    report = run(folder, [(names[seed % len(names)], seed, seed % 2 == 0) for seed in range(240)])
    assert not report.bad, report.bad[0]
    assert report.verdicts.total() == 240
    assert report.verdicts["read"] > 40
    assert report.verdicts["refused"] > 20
    assert report.compared > 20


def test_leftovers_that_were_changed_are_refused_or_of_no_consequence(folder: Path) -> None:
    """Journals, segments, saved indexes, and conditions."""
    corpus.write(folder, [*leftovers.makers()])
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) > 10
    report = run(folder, [(names[seed % len(names)], seed, False) for seed in range(150)])
    assert not report.bad, report.bad[0]
    assert report.verdicts["read"] > 10
    assert report.verdicts["refused"] > 60


def test_a_journal_that_is_whole_is_put_back_however_often(tmp_path: Path) -> None:
    """Else nothing were shown by those that were changed."""
    old, changed, left = leftovers.half_changed()
    path = tmp_path / "a.h5"
    for _ in range(2):
        path.write_bytes(changed)
        Path(journal.path_of(str(path))).write_bytes(leftovers.repaired(left))
        xr.open_dataset(path, engine="pytables").close()
        assert path.read_bytes() == old != changed


@pytest.mark.parametrize("name", [SMALL[1], SMALL[4]])
def test_bits_of_metadata_crash_nothing(name: str, folder: Path) -> None:
    corpus.write(folder, [name])
    places = metadata_places((folder / name).read_bytes())
    found = outcomes(folder, name, [(place, place * 5 % 8) for place in places[:: len(places) // 60]])
    assert set(found) <= SOUND
    assert found["refused"] + found["noticed"] > 5


def test_bits_of_our_chunks_are_never_read_as_data(folder: Path) -> None:
    for complib in CODECS[::5]:
        name = f"{(complib or 'default').replace(':', '_')}.h5"
        write_with_codec(folder / name, complib)
        found = outcomes(folder, name, chunk_places(folder / name, "v", 12))
        assert set(found) <= {"noticed", "harmless"}
        assert found["noticed"] >= 11


# -- the harness itself ---------------------------------------------------------------------------------------

WHAT_MUST_NEVER_BE = {
    "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hang": "while True: pass",
    "bare exception": "{}['key']",
    "executed": "import os; os.system('true')",
    "memory": "bytes(bytearray(b'x') * 500_000_000)",
    "control characters": "raise OSError(f'{path.name} \\x1b[2J')",
}


def test_what_must_never_be_is_noticed(folder: Path) -> None:
    (folder / "harmless.py").write_text("found.opened = True")
    with (
        contextlib.closing(Process("child", folder, WATCHDOG)) as patient,
        contextlib.closing(Process("child", folder, 2.0)) as impatient,
    ):
        for verdict, code in WHAT_MUST_NEVER_BE.items():
            child = impatient if verdict == "hang" else patient
            (folder / "attack.py").write_text(code)
            answer = child.ask({"name": "attack.py", "path": str(folder.parent / "attack.py")})
            assert verdict in [bad for bad, _ in judged(answer)], answer
            after = child.ask({"name": "harmless.py", "path": str(folder.parent / "harmless.py")})
            assert (after["verdict"], after["bad"]) == ("read", [])  # by the next child, if this one died
        assert (patient.deaths, impatient.deaths) == (1, 1)


def test_other_values_than_those_of_libhdf5_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.write(folder, ["h5py-fixed-2.0"])
    asked = Process.ask

    def wrong(self: Process, job: dict[str, object]) -> dict[str, object]:
        answer = asked(self, job)
        if "seed" in job and "values" in answer:
            answer["values"] = {key: ["<i4", [1], "another"] for key in answer["values"]}
        return answer

    monkeypatch.setattr(Process, "ask", wrong)
    report = run(folder, [("h5py-fixed-2.0.h5", seed, True) for seed in range(12)])
    assert {verdict for verdict, _, _, _ in report.bad} == {"wrong value"}


def test_ctrl_c_ends_a_run_with_a_report_of_those_before(folder: Path) -> None:
    def jobs() -> Iterator[tuple[str, int, bool]]:
        yield from [("h5py-fixed-2.0.h5", seed, False) for seed in range(3)]
        raise KeyboardInterrupt

    corpus.write(folder, ["h5py-fixed-2.0"])
    assert run(folder, jobs()).verdicts.total() == 3


def test_the_same_seed_makes_the_same_change_and_checksums_are_right(folder: Path) -> None:
    corpus.write(folder, ["h5py-groups-2.0"])
    data = (folder / "h5py-groups-2.0.h5").read_bytes()
    structure = Structure.of(data)
    assert len(structure.checked) > 5
    changed = [mutated(data, structure, random.Random(seed)) for seed in range(40)]
    assert changed == [mutated(data, structure, random.Random(seed)) for seed in range(40)]
    assert all(one != data for one in changed[:3])
    sound = [
        all(int.from_bytes(one[end : end + 4], "little") == lookup3(one[start:end]) for start, end in structure.checked)
        for one in changed
    ]
    assert 10 < sum(sound) < 40
