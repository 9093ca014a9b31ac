"""Running a command as a user does, without a process of its own."""

from __future__ import annotations

from click.testing import CliRunner, Result

from xr_pytables import cli


def run(*arguments: object) -> Result:
    """A command that must not end in an exception: those are for bugs."""
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
