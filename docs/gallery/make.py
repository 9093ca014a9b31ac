"""Runs the pages of the gallery, keeps the pictures that they draw, and makes notebooks of them.

    python docs/gallery/make.py              # the pictures of all pages anew
    python docs/gallery/make.py plots events

When mkdocs builds the site it calls `on_files`, which adds a notebook for each page. Nothing but the pages is kept by
hand. Tested in `tests/test_docs.py`, which runs the pages too and compares what they print.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = {page.stem: page for page in sorted(HERE.glob("*.md")) if page.stem != "index"}
PICTURE = re.compile(r"^!\[[^]]*\]\((\w+\.png)\)\n", re.MULTILINE)
_CODE = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_LINK_TO_A_PAGE = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]+\)")


def cells(text: str) -> Iterator[dict[str, Any]]:
    """The cells of a notebook. An example with outputs becomes one for each statement, which prints as on the page."""
    for number, part in enumerate(_CODE.split(text)):
        if number % 2 == 0:
            words = _LINK_TO_A_PAGE.sub(r"\1", PICTURE.sub("", part)).strip()
            if words:
                yield {"cell_type": "markdown", "metadata": {}, "source": words}
        elif ">>>" not in part:
            yield _code_cell(part)
        else:
            for example in doctest.DocTestParser().get_examples(part):
                yield _code_cell(example.source, raises=example.exc_msg is not None)


def _code_cell(source: str, *, raises: bool = False) -> dict[str, Any]:
    metadata = {"tags": ["raises-exception"]} if raises else {}  # with it Jupyter goes on after the error
    return {
        "cell_type": "code",
        "metadata": metadata,
        "execution_count": None,
        "outputs": [],
        "source": source.rstrip("\n"),
    }


def notebook(text: str) -> str:
    """A page as JSON of Jupyter."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells(text))]
    content = {"cells": numbered, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False)


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs with the files of the site: adds the notebooks."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, f"gallery/{name}.ipynb", content=notebook(page.read_text("utf-8"))))
    return files


def draw(page: Path) -> None:
    """Run a page in an empty folder and take the pictures that it shows."""
    text = page.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        namespace: dict[str, object] = {"__name__": "page"}
        for cell in cells(text):
            if cell["cell_type"] == "code":
                expected = (Exception,) if cell["metadata"] else ()
                with contextlib.suppress(*expected):
                    exec(compile(cell["source"], str(page), "exec"), namespace)
        for picture in PICTURE.findall(text):
            shutil.copy(picture, HERE / picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pages", nargs="*", metavar="PAGE", help=f"which: {', '.join(PAGES)}; all that have pictures, if none is named"
    )
    arguments = parser.parse_args()
    os.environ["MPLBACKEND"] = "agg"
    for name in arguments.pages or [name for name, page in PAGES.items() if PICTURE.search(page.read_text("utf-8"))]:
        draw(PAGES[name])


if __name__ == "__main__":
    main()
