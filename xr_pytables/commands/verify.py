"""`verify`: whether files are sound.

Tested in `tests/commands/test_verify.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .shared import DIFFERENT, LOCATION, Command, Location, bar, failure_of, printable

if TYPE_CHECKING:
    from ..tools.verifying import Report


@click.command(
    "verify",
    cls=Command,
    short_help="Read and check all that is in files.",
    examples=("xr-pytables verify sea.h5", "xr-pytables verify -q archive/*.h5"),
)
@click.argument("files", nargs=-1, required=True, type=LOCATION, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="At most so many threads. Default: one per CPU.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing about files that are sound.")
@click.pass_context
def command(
    context: click.Context, files: tuple[Location, ...], as_json: bool, threads: int | None, quiet: bool
) -> None:
    """Read and check all that is in each FILE: headers, indexes, checksums, chunks, values, dimensions.

    The exit status is 1 if something is damaged, and each damage is named; 2 if a file cannot be opened.
    """
    from ..sources.url import shown  # imports numpy
    from ..tools.verifying import checked_file  # imports numpy and xarray

    told: list[dict[str, object]] = []
    status = 0
    for where in files:
        try:
            report = checked_file(where.file, group=where.node, threads=threads, bar=lambda size: bar(size, "Verify"))
        except Exception as error:  # the other files are looked at all the same
            failure = failure_of(error)
            if failure is None:
                raise
            failure.show()
            told.append({"file": shown(where.file), "error": failure.message})
            status = max(status, failure.exit_code)
            continue
        told.append(report.as_dict())
        status = max(status, 0 if report.sound else DIFFERENT)
        if not as_json and not (quiet and report.sound):
            click.echo(printable("\n".join(_lines(where, report))))
    if as_json:
        click.echo(json.dumps(told if len(told) > 1 else told[0], indent=2))
    context.exit(status)


def _lines(where: Location, report: Report) -> list[str]:
    share = f", of which {_size(report.unprotected_bytes)} have no checksum" if report.unprotected_bytes else ""
    held = f"{_count(report.groups, 'group')}, {_count(report.arrays, 'array')}, {_count(report.chunks, 'chunk')}"
    state = "sound" if report.sound else f"DAMAGED in {_count(len(report.damage), 'place')}"
    return [
        f"{where}: {state}: {held}, {_size(report.stored_bytes)} read{share}",
        *(f"  {one}" for one in report.damage),
        *(f"  not checked: {path}: {reason}" for path, reason in report.unchecked.items()),
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} GiB"
