"""pandas' HDFStore files: every layout, equal to what pandas reads, lazily and without unpickling.

Golden files of several versions of pandas are in data/hdfstore, with what that pandas read back from them.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

DATA = Path(__file__).parent / "data" / "hdfstore"
VERSIONS = sorted(folder.name for folder in DATA.glob("pandas-*"))
FORMATS = ["fixed", "compressed", "table"]
PANDAS_READS_INTEGERS = {
    ("pandas-1.5.3", "table"): {"index/dates", "index/timedeltas", "index/timedeltas_freq"},
    ("pandas-2.2.3", "table"): {"index/dates", "index/timedeltas", "index/timedeltas_freq"},
    ("pandas-3.1.1", "table"): {"index/dates"},
}
"""Cases in which pandas forgets what the index was, though the file says it: what we read is what was stored."""
made = runpy.run_path(str(DATA / "make_files.py"))


@functools.cache
def expected_of(version: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((DATA / version / "expected.json").read_text())
    return expected


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder, found = tmp_path_factory.mktemp("stores"), {}
    for version in VERSIONS:
        for packed in (DATA / version).glob("*.h5.gz"):
            name = packed.name.removesuffix(".h5.gz")
            found[version, name] = folder / f"{version}-{name}.h5"
            found[version, name].write_bytes(gzip.decompress(packed.read_bytes()))
    return found


def cases(formats: list[str]) -> list[Any]:
    return [
        pytest.param(version, name, key, id=f"{version}-{name}-{key}")
        for version in VERSIONS
        for name in formats
        for key in expected_of(version)[name]
    ]


def opened(path: Path, key: str, **kwargs: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine="pytables", group=key, **kwargs)


# -- golden files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "name", "key"), cases(FORMATS))
@pytest.mark.filterwarnings("ignore:.*is called 'index' like the index")
def test_golden_files_read_as_pandas_reads_them(
    stores: dict[tuple[str, str], Path], version: str, name: str, key: str
) -> None:
    stored_right = "fixed" if key in PANDAS_READS_INTEGERS.get((version, name), ()) else name
    expected = expected_of(version)[stored_right][key]
    ds = opened(stores[version, name], key)
    index = list(ds.coords.values())
    assert not ds.data_vars or set(ds.sizes) == set(next(iter(ds.data_vars.values())).dims)
    levels = expected["index"]["levels"]
    assert len(index) == len(levels)
    for number, (variable, level) in enumerate(zip(index, levels, strict=True)):
        assert_described(variable, level)
        wanted = expected["index"]["names"][number]
        default = f"level_{number}" if expected["index"]["multi"] else "index"
        if key != "frames/column_named_index":
            assert variable.name == (label_of(wanted) if wanted is not None else default)
    names = [expected["name"]] if expected["series"] else column_labels(expected["columns"])
    labels = [label_of(name) for name in names] if not expected["series"] or names[0] is not None else ["values"]
    assert list(ds.data_vars) == labels
    for variable, column in zip(ds.data_vars.values(), expected["data"], strict=True):
        assert_described(variable, column)


def column_labels(axis: dict[str, Any]) -> list[Any]:
    """Of columns: for each the plain form of its label, or of the labels of its levels."""
    levels = [list(map(tuple, zip_described(level))) for level in axis["levels"]]
    return [["list", list(labels)] for labels in zip(*levels, strict=True)] if axis["multi"] else levels[0]


def zip_described(level: dict[str, Any]) -> list[Any]:
    """The values of a described array as elements of an object array are described."""
    dtype = level["dtype"]
    if dtype == "object":
        return list(level["values"])
    if dtype == "period":
        return [("period", str(period)) for period in pd.PeriodIndex.from_ordinals(level["values"], freq=level["freq"])]
    if dtype.startswith("M8"):
        times = pd.DatetimeIndex(np.array(level["values"]).view(dtype))
        if "zone" in level:
            times = times.tz_localize("UTC").tz_convert(level["zone"])
        return [("timestamp", time.isoformat()) for time in times]
    return [({"f": "float", "i": "int"}[dtype[0]], value) for value in level["values"]]


def label_of(described: Any) -> Any:
    kind, value = described
    if kind == "list":
        return tuple(label_of(item) for item in value)
    if kind in ("timestamp", "period"):
        return getattr(pd, kind.capitalize())(value)
    return {"int": int, "float": float, "str": str}[kind](value)


def assert_described(variable: xr.DataArray, expected: dict[str, Any]) -> None:
    """The variable has the values, the dtype and the zone or frequency of what pandas read."""
    values, wanted, dtype = variable.values, expected["values"], expected["dtype"]
    assert len(values) == len(wanted)
    if dtype == "period":
        assert values.dtype == "i8"
        assert values.tolist() == wanted
        assert variable.attrs == {"freq": expected["freq"]}
        return
    if dtype == "object" and wanted and (wanted[0] or [""])[0] == "date" and values.dtype != object:
        assert values.dtype == "M8[s]"  # an index of dates; among other objects they stay dates
        wanted = [datetime.date.fromisoformat(value) for _, value in wanted]
        assert values.astype("M8[D]").tolist() == wanted
        return
    if dtype in ("object", "category"):
        inner = expected.get("categories", "object")
        if values.dtype != object:
            assert inner != "object"
            values = values.astype(object) if values.dtype.kind not in "mM" else pd.Index(values).astype(object)
        plain = [made["plain"](value) for value in np.asarray(values, object).tolist()]
        assert plain == [as_float(value) if inner[0] in "iu" else value for value in wanted]
        return
    assert values.dtype == np.dtype(dtype)
    if values.dtype.kind in "mM":
        assert values.view("i8").tolist() == [made["NAT"] if value is None else value for value in wanted]
        assert variable.attrs == ({"time_zone": expected["zone"]} if "zone" in expected else {})
        return
    assert not variable.attrs
    if values.dtype.kind in "fc":
        assert [repr(value) for value in values.astype("c16" if values.dtype.kind == "c" else "f8").tolist()] == wanted
    else:
        assert values.tolist() == wanted


def as_float(described: Any) -> Any:
    """Categories of integers are floats, since one may be missing."""
    return None if described is None else ["float", repr(float(described[1]))]
