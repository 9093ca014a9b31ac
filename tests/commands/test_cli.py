"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import xarray as xr
from click.testing import CliRunner

from xr_pytables import __version__, cli
from xr_pytables.commands import convert
from xr_pytables.commands.shared import LOCATION, bar
from xr_pytables.tools import recipe
from xr_pytables.writing.writer import to_pytables

from ..disk.test_journal import leave_half_done, make
from .helpers_commands import run


def test_demo_shows_the_tree_and_finds_all_equal() -> None:
    result = run("demo")
    assert result.exit_code == 0, result.output
    assert "Group: /experiment1" in result.output
    assert "chunksize=(250, 500)" in result.output
    assert result.output.count("  same ") == 5
    assert "DIFFERS" not in result.output


def test_demo_exits_with_1_when_the_copy_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def writes_something_else(tree: xr.DataTree, path: str) -> None:
        to_pytables(tree.isel(x=slice(1), missing_dims="ignore"), path)

    monkeypatch.setattr(recipe, "to_pytables", writes_something_else)
    result = run("demo")
    assert result.exit_code == 1
    assert "DIFFERS  the copy" in result.output
    assert result.output.count("  same ") == 4


def test_demo_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("demo").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_version() -> None:
    assert run("--version").output == f"xr-pytables, version {__version__}\n"


def test_module_runs_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]) -> None:
    monkeypatch.setattr("sys.argv", ["xr_pytables", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("xr_pytables", run_name="__main__")
    assert ended.value.code == 0
    assert "python -m xr_pytables" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_imports_neither_xarray_nor_numpy(command: str, option: str) -> None:
    code = f"""
import sys
from xr_pytables.cli import main
try:
    main({[command, option] if command else [option]!r}, prog_name="xr-pytables")
finally:
    assert not sys.modules.keys() & {{"xarray", "numpy", "tables", "dask"}}, "imported too much"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: xr-pytables")


def test_help_lists_every_command_that_there_is_a_module_for() -> None:
    modules = {path.stem for path in (Path(cli.__file__).parent / "commands").glob("*.py")}
    assert modules - {"__init__", "shared"} == set(cli.COMMANDS)
    listed = run("--help").output.partition("Commands:")[2].split()
    assert [word for word in listed if word in cli.COMMANDS][: len(cli.COMMANDS)] == list(cli.COMMANDS)


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_fits_a_terminal_and_lists_all_in_whole_lines(command: str) -> None:
    printed = run(*([command] if command else []), "--help").output
    assert max(map(len, printed.splitlines())) <= 80
    assert "...\n" not in printed.partition("Commands:")[2]
    if command:
        examples = printed.partition("\nExamples:\n")[2].splitlines()
        assert examples
        for example in examples:
            name, *arguments = shlex.split(example.removeprefix("  xr-pytables "))
            assert name == command
            cli.main.get_command(click.Context(cli.main), name).make_context(name, arguments)


def test_help_has_each_option_once_and_under_its_heading() -> None:
    printed = run("convert", "--help").output
    sections = dict(re.findall(r"^([A-Z][^\n]*):\n((?:  .*\n)+)", printed, re.MULTILINE))
    found = {
        heading: re.findall(r"^  (?:-\w, )?(--[\w-]+)", lines, re.MULTILINE) for heading, lines in sections.items()
    }
    assert found["What to take"] == ["--from", "--vars", "--select", "--where"]
    assert found["Options"] == ["--threads", "--help"]
    listed = [option for options in found.values() for option in options]
    assert sorted(listed) == sorted(
        {option.opts[-1] for option in convert.command.params if isinstance(option, click.Option)} | {"--help"}
    )


@pytest.mark.parametrize("arguments", [["infoo", "x"], ["info"], ["info", "--nothing", "x"]])
def test_wrong_use_is_status_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith("Usage: ")


def test_a_bug_of_ours_is_no_message_to_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("xr_pytables.listing.tree", broken)
    assert isinstance(CliRunner().invoke(cli.main, ["info", str(tmp_path)]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("text", "file", "node"),
    [
        ("a.h5", "a.h5", "/"),
        ("a.h5:/", "a.h5", "/"),
        ("a.h5:/g/x", "a.h5", "/g/x"),
        ("d:/f/a.h5:/g/", "d:/f/a.h5", "/g"),
        ("C:/a.h5", "C:/a.h5", "/"),
        ("s3://bucket/a.h5", "s3://bucket/a.h5", "/"),
        ("odd:/name.h5", "odd:/name.h5", "/"),
        ("odd:/name.h5:/g:/x", "odd:/name.h5", "/g:/x"),
    ],
)
def test_a_file_and_a_node_in_it(
    text: str, file: str, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd:").mkdir()
    (tmp_path / "odd:" / "name.h5").touch()
    monkeypatch.chdir(tmp_path)
    assert LOCATION.convert(text, None, None) == (file, node)


# -- bars --------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bar_of(stream: io.StringIO, patience: float, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    with bar(10, "Read", patience=patience) as done:
        for _ in range(10):
            done(1)
    return stream.getvalue()


def test_a_bar_comes_when_something_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = bar_of(Terminal(), 0, monkeypatch)
    assert "Read" in shown
    assert "100%" in shown


@pytest.mark.parametrize(("stream", "patience"), [(Terminal, 1000), (io.StringIO, 0)])
def test_there_is_no_bar_at_once_nor_without_a_terminal(
    stream: type[io.StringIO], patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bar_of(stream(), patience, monkeypatch) == ""


# -- recover -----------------------------------------------------------------------------------------------


def test_recover_puts_a_file_back(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    make(path)
    before = path.read_bytes()
    leave_half_done(path)
    assert path.read_bytes() != before
    result = run("recover", path)
    assert (result.exit_code, result.output) == (0, f"{path}: put back\n")
    assert path.read_bytes() == before
    assert run("recover", path).output == f"{path}: nothing to recover\n"


def test_recover_of_no_file_is_wrong_use(tmp_path: Path) -> None:
    result = run("recover", tmp_path / "none.h5")
    assert result.exit_code == 2
    assert "No such file" in result.output


# -- completion --------------------------------------------------------------------------------------------


def test_the_shell_completes_commands_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str, number: int) -> list[str]:
        environment = {"_XR_PYTABLES_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        result = CliRunner().invoke(cli.main, prog_name="xr-pytables", env=environment)
        return result.output.splitlines()

    assert completed("xr-pytables in", 1) == ["plain,info"]
    assert completed("xr-pytables info a.h", 2) == ["file,a.h"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_as_ctrl_c_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 128 and its number, and nothing of what was in the making."""
    if not hasattr(signal, name):
        pytest.skip(f"the system has no {name}")
    number = getattr(signal, name)
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    to_pytables(xr.Dataset({"a": ("x", [1.0, 2.0])}), tmp_path / "a.h5")

    def killed(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr("xr_pytables.tools.converting.write_npy", killed)
    before = signal.signal(number, usual)  # whoever started this process may have it ignored, as nohup does
    try:
        result = run("convert", tmp_path / "a.h5", tmp_path / "b.npy")
        assert (result.exit_code, result.output) == (128 + number, "\nAborted!\n")
        assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)
