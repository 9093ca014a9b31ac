"""Every block of the guide to the commands runs: `$` lines as commands, what stands below is what they print."""

from __future__ import annotations

import doctest
import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest

from xr_pytables.cli import COMMANDS

from .helpers_commands import run

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "commands.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def check(page: str) -> list[str]:
    """Run the blocks of a page in the current folder; the commands that did not print what it says."""
    wrong, namespace = [], dict[str, object]()
    for language, code in _FENCE.findall(page):
        if language == "python":
            exec(code, namespace)
        if language != "console":
            continue
        for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            program, *arguments = shlex.split(command.partition("  #")[0])
            assert program == "xr-pytables"
            printed = run(*arguments).output
            if not doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS):
                wrong.append(f"$ {command}\n{printed}")
    return wrong


def test_every_block_of_the_guide_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(PAGE.read_text()) == []


def test_a_wrong_output_is_found() -> None:
    assert check("```console\n$ xr-pytables info\nfine\n```\n")[0].startswith("$ xr-pytables info\nUsage:")


def test_every_command_is_in_the_guide_and_in_the_reference() -> None:
    listed = re.findall(r"^\| `(\w+)[ `]", PAGE.read_text(), re.MULTILINE)
    assert listed == list(COMMANDS)
    reference = (PAGE.parents[1] / "reference.md").read_text().split("\n## Command line\n")[1]
    assert re.findall(r"^\| `(\w+)", reference, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_reference_and_in_the_help(name: str) -> None:
    command = import_module(f"xr_pytables.commands.{name}").command
    reference = (PAGE.parents[1] / "reference.md").read_text().split("\n## Command line\n")[1]
    row = next(line for line in reference.splitlines() if line.startswith(f"| `{name}`"))
    options = [option for option in command.params if isinstance(option, click.Option)]
    listed = set(re.findall(r"`(-[\w-]+)", row.split("|")[2]))
    assert listed == {option for each in options for option in (*each.opts, *each.secondary_opts)} - {"--variable"}
    assert [option.name for option in options if not option.help] == []
    assert command.help
