"""What the commands share: FILE:/node, failures in a line, bars that come when something takes long.

Tested in `tests/commands/test_cli.py`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import click

DIFFERENT: Final = 1
"""Exit status of a difference, or of damage."""
WRONG_USE: Final = 2
_PATIENCE: Final = 1.0  # seconds without a bar


def printable(text: str) -> str:
    """Lines of text without what a terminal would obey."""
    from ..sources.source import printable  # imports numpy

    return "\n".join(map(printable, text.split("\n")))


class Failure(click.ClickException):
    """A message for a user about wrong use."""

    exit_code = WRONG_USE

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Damage(Failure):
    """A message for a user about a file that is damaged."""

    exit_code = DIFFERENT


def failure_of(error: Exception) -> Failure | None:
    """What to tell of an exception that files and arguments of users cause; None for others.

    A damaged file is status 1, as it is for `verify`.
    """
    if isinstance(error, BrokenPipeError):  # click's to handle
        return None
    if isinstance(error, KeyError):  # whose text is a representation
        return Failure(str(error.args[0]) if error.args else "KeyError")
    if isinstance(error, OSError | ValueError | TypeError | ImportError | NotImplementedError | MemoryError):
        from ..errors import FormatError, TooManyChunksError

        message = str(error) or type(error).__name__
        damaged = isinstance(error, FormatError) and not isinstance(error, TooManyChunksError)
        return Damage(message) if damaged else Failure(message)
    return None


def tell_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """A warning as a line on stderr."""
    click.echo(f"Warning: {printable(str(message))}", err=True)


class Location(NamedTuple):
    """A file, and a node in it."""

    file: str
    node: str

    def __str__(self) -> str:
        from ..sources.url import shown  # imports numpy

        return shown(self.file) if self.node == "/" else f"{shown(self.file)}:{self.node}"


if TYPE_CHECKING:
    _ParamType = click.ParamType[Location]
else:
    _ParamType = click.ParamType  # older versions are not generic


class LocationType(_ParamType):
    """FILE or FILE:/node, where a file that is called like that wins; nodes may have `:/` in their paths, too."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Location:
        if isinstance(value, Location):
            return value
        text = os.fspath(value)
        file, colon, node = text.rpartition(":/")
        if not colon or node.startswith("/") or len(file) < 2 or os.path.exists(text):  # of C:/x, file is a letter
            return Location(text, "/")
        pieces = text.split(":/")
        for count in range(len(pieces) - 1, 0, -1):
            if os.path.isfile(known := ":/".join(pieces[:count])):
                file, node = known, ":/".join(pieces[count:])
                break
        return Location(file, "/" + node.strip("/"))

    def shell_complete(self, context: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return [click.shell_completion.CompletionItem(incomplete, type="file")]


LOCATION: Final = LocationType()


class Command(click.Command):
    """A command whose help ends with examples, and may have headings for groups of its options.

    `examples` are lines as they are typed; `headings` name the parameters below each, and the others come last.
    """

    def __init__(
        self, *args: Any, examples: Sequence[str], headings: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples, self.headings = examples, headings or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = {each.name: each for each in self.get_params(ctx) if isinstance(each, click.Option)}
        groups = {heading: [options.pop(name) for name in names] for heading, names in self.headings.items()}
        for heading, group in {**groups, "Options": list(options.values())}.items():
            with formatter.section(heading):
                formatter.write_dl([line for line in (option.get_help_record(ctx) for option in group) if line])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in self.examples))


Done = Callable[[int], None]
"""Takes how much was done since the last call; from any thread."""


@contextlib.contextmanager
def bar(length: int, label: str, *, patience: float = _PATIENCE) -> Iterator[Done]:
    """A bar on stderr for what takes longer than `patience` seconds; none where stderr is no terminal."""
    began, lock, done_so_far = time.monotonic(), threading.Lock(), 0
    with contextlib.ExitStack() as opened:
        shown: Any = None

        def done(count: int) -> None:
            nonlocal shown, done_so_far
            with lock:
                done_so_far += count
                if shown is not None:
                    shown.update(count)
                elif time.monotonic() - began >= patience and sys.stderr.isatty():
                    shown = opened.enter_context(click.progressbar(length=length, label=label, file=sys.stderr))
                    shown.update(done_so_far)

        yield done


def names_of(text: str | None) -> list[str] | None:
    """Names with commas between them; None for none."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
