"""Draws the plots of the page Performance from what the benchmarks measured.

    python benchmarks/read_field.py --json docs/performance/measured.json
    python benchmarks/write_field.py --json docs/performance/measured.json
    python docs/performance/draw.py

`measured.json` maps the name of a benchmark to its machine, versions and rows; each row has a title and the speed of
each engine in MB/s. One picture is made of each benchmark, and dark systems see it in light colours.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
_WIDTH, _LEFT, _BAR, _GAP = 720, 150, 14, 18
_OWN = {"pytables": "this engine", "with fletcher32": "... with checksums", "with fsync": "... with fsync"}
_STYLE = """
text { font: 12px sans-serif; fill: #333 } .title { font-weight: bold }
.own { fill: #3f51b5 } .other { fill: #9fa8da }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .own { fill: #8c9eff } .other { fill: #4a5491 } }
"""


def picture(rows: list[dict]) -> str:
    """Groups of bars, one group for each row, as SVG."""
    longest = max(speed for row in rows for speed in row["speeds"].values())
    parts, y = [], _GAP
    for row in rows:
        parts.append(f'<text class="title" x="4" y="{y}">{escape(row["title"])}</text>')
        y += 6
        for engine, speed in sorted(row["speeds"].items(), key=lambda item: -item[1]):
            length = (_WIDTH - _LEFT - 90) * speed / longest
            kind = "own" if engine in _OWN else "other"
            name = _OWN.get(engine, engine)
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 2}"/>')
            parts.append(f'<text x="{_LEFT + length + 5:.1f}" y="{y + 11}">{speed:.0f} MB/s</text>')
            y += _BAR
        y += _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write the pictures")
    arguments = parser.parse_args()
    about = []
    for name, measured in json.loads((HERE / "measured.json").read_text()).items():
        (arguments.folder / f"{name}.svg").write_text(picture(measured["rows"]))
        versions = ", ".join(f"{package} {version}" for package, version in measured["versions"].items())
        about.append(
            f"`{name}`: {measured['settings']}. {measured['machine']}. Python {measured['python']}, {versions}.\n"
        )
    (arguments.folder / "about.txt").write_text("\n".join(about))


if __name__ == "__main__":
    main()
