"""Makes the golden files of this folder with the pandas that runs it. See README.md for the versions.

    python make_files.py FOLDER

writes fixed.h5.gz, compressed.h5.gz and table.h5.gz, stores with one key for each case, and expected.json: what the
same pandas reads back from them, in plain numbers and text, so that the tests need no old pandas. Needs pandas, NumPy,
PyTables and nothing of this project.
"""

from __future__ import annotations

import datetime
import gzip
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import tables

NAT = np.iinfo("i8").min


# -- what to store -----------------------------------------------------------------------------------------


def days(count, **kwargs):
    return pd.date_range("2020-03-28", periods=count, **kwargs)


def numbers(index, name="v"):
    return pd.DataFrame({name: np.arange(float(len(index)))}, index=index)


def index_cases():
    return {
        "range": pd.RangeIndex(3),
        "integers": pd.Index([5, -1, 7], name="number"),
        "small_integers": pd.Index(np.array([5, 1, 7], "u2")),
        "floats": pd.Index([0.5, np.nan, -np.inf], name="x"),
        "strings": pd.Index(["a", "ö", "nan"], name="name"),
        "strings_missing": pd.Index(["a", None, "c"]),
        "dates": pd.Index([datetime.date(2020, 1, 1), datetime.date(1999, 12, 31), datetime.date(1, 1, 1)]),
        "datetimes": days(3, freq="D", name="time"),
        "datetimes_missing": pd.DatetimeIndex(["2020-01-01T00:00:00", None, "1677-10-01T00:00:01"]),
        "datetimes_utc": days(3, freq="h", tz="UTC"),
        "datetimes_zone": days(3, freq="D", tz="Europe/Berlin", name="time"),
        "timedeltas": pd.to_timedelta([1, -2, None], "s").rename("lag"),
        "timedeltas_freq": pd.timedelta_range("1h", periods=3, freq="h"),
        "periods_month": pd.period_range("2020-01", periods=3, freq="M", name="month"),
        "periods_day": pd.period_range("2020-01-30", periods=3, freq="D"),
        "periods_quarter": pd.period_range("2020Q1", periods=3, freq="Q-JAN"),
        "periods_two_days": pd.period_range("2020-01-30", periods=3, freq="2D"),
        "bools": pd.Index([True, False, True]),
        "objects": pd.Index(["a", 1, 2.5], dtype=object),
        "categories": pd.CategoricalIndex(["b", "a", "b"], name="kind"),
        "categories_missing": pd.CategoricalIndex([2, None, 1], categories=[1, 2, 3]),
        "multi": pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["number", "letter"]),
        "multi_unnamed": pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")]),
        "multi_times": pd.MultiIndex.from_product([days(2), [0.5, 1.5]], names=["time", "depth"]),
        "multi_missing": pd.MultiIndex.from_tuples(
            [(1, "a", 0.5), (None, None, None), (2, "b", 1.5)], names=["i", "s", "f"]
        ),
    }


def column_label_cases():
    values = np.arange(6.0).reshape(2, 3)
    return {
        "integer_labels": pd.DataFrame(values),
        "float_labels": pd.DataFrame(values, columns=[0.5, 1.5, 2.5]),
        "named_labels": pd.DataFrame(values, columns=pd.Index(["a", "b", "c"], name="letter")),
        "datetime_labels": pd.DataFrame(values, columns=days(3)),
        "zone_labels": pd.DataFrame(values, columns=days(3, tz="Europe/Berlin")),
        "period_labels": pd.DataFrame(values, columns=pd.period_range("2020-01", periods=3, freq="M")),
        "mixed_labels": pd.DataFrame(values, columns=["a", 1, 2.5]),
        "tuple_labels": pd.DataFrame(
            values, columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["letter", "number"])
        ),
        "pose_labels": pd.DataFrame(
            np.arange(24.0).reshape(2, 12),
            columns=pd.MultiIndex.from_product(
                [["DLC_resnet50"], ["nose", "left ear", "tail"], ["x", "y", "likelihood", "other"]],
                names=["scorer", "bodyparts", "coords"],
            ),
        ),
    }


def common_frames():
    mixed = pd.DataFrame(
        {
            "i": [1, -2, 3],
            "f": [0.5, np.nan, np.inf],
            "text": ["a", "öü", "c"],
            "b": [True, False, True],
            "t": pd.DatetimeIndex(["2020-01-01T00:00:00", None, "2262-01-01T00:00:01"]),
            "j": [2**62, -(2**63), 0],
            "d": pd.to_timedelta([1, None, -3], "ms"),
            "missing": ["x", None, "z"],
        }
    )
    few_bits = pd.DataFrame(
        {
            "i1": np.array([1, -2, 3], "i1"), "u1": np.array([1, 2, 255], "u1"), "i2": np.array([1, -2, 3], "i2"),
            "u2": np.array([1, 2, 65535], "u2"), "i4": np.array([1, -2, 3], "i4"),
            "u4": np.array([1, 2, 2**32 - 1], "u4"), "f4": np.array([0.1, np.nan, 2], "f4"),
        }
    )  # fmt: skip
    zones = pd.DataFrame(
        {
            "berlin": days(3, tz="Europe/Berlin"),
            "utc": days(3, tz="UTC"),
            "fixed": days(3, tz=datetime.timezone(datetime.timedelta(hours=5, minutes=30))),
            "missing": pd.DatetimeIndex(["2020-07-01", None, "2020-01-01"], tz="America/New_York"),
        }
    )
    many_rows = pd.DataFrame(
        {name: np.arange(300.0) + number for number, name in enumerate("abcd")},
        index=pd.Index(np.arange(300) * 2, name="row"),
    )
    return {"mixed": mixed, "few_bits": few_bits, "zones": zones, "many_rows": many_rows}


def common_series():
    return {
        "series": pd.Series([1.5, np.nan, 3.0], name="s"),
        "series_unnamed": pd.Series([1, 2, 3], index=["a", "b", "c"]),
        "series_strings": pd.Series(["a", None, "c"], name="text"),
        "series_datetimes": pd.Series(days(3), name="t"),
        "series_zone": pd.Series(days(3, tz="Europe/Berlin"), name="t"),
        "series_timedeltas": pd.Series(pd.to_timedelta([1, None], "s"), name="lag"),
        "series_bools": pd.Series([True, False]),
        "series_multi": pd.Series([1.0, 2.0, 3.0, 4.0], pd.MultiIndex.from_product([[1, 2], ["a", "b"]]), name="s"),
    }


def fixed_cases():
    """Cases of the fixed format: key, object, arguments of `put`."""
    for name, index in index_cases().items():
        yield f"index/{name}", numbers(index), {}
    for name, frame in column_label_cases().items():
        yield f"labels/{name}", frame, {}
    for name, frame in common_frames().items():
        yield f"frames/{name}", frame, {}
    for name, series in common_series().items():
        yield f"series/{name}", series, {}
    yield "series/complex", pd.Series([1 + 2j, 0j]), {}
    yield "series/number_name", pd.Series([1, 2], name=7), {}
    yield "series/tuple_name", pd.Series([1, 2], name=("a", 1)), {}
    yield "series/periods", pd.Series(pd.period_range("2020-01", periods=3, freq="M")), {}
    objects = ["text", 1, 2.5, None, True, datetime.date(2020, 1, 2), pd.Timestamp("2020-01-01"), [1, "a"], b"raw"]
    yield "series/objects", pd.Series(objects, dtype=object), {}
    two = pd.DataFrame({"a": ["x", "y"], "n": [1, 2], "b": pd.Series([1, "z"], dtype=object)})
    yield "frames/two_object_columns", two, {}
    yield "frames/no_rows", pd.DataFrame({"a": np.array([], "i4"), "b": np.array([], "f8")}), {}
    kinds = {"s": pd.Series([], dtype=object), "t": pd.Series([], dtype="M8[ns]"), "i": pd.Series([], dtype="i8")}
    yield "frames/no_rows_of_kinds", pd.DataFrame(kinds), {}
    yield "frames/no_rows_zone", pd.DataFrame({"t": days(3, tz="Europe/Berlin")[:0]}, index=days(3)[:0]), {}
    yield "frames/no_columns", pd.DataFrame(index=[1, 2, 3]), {}
    yield "frames/nothing", pd.DataFrame(), {}
    yield "series/empty", pd.Series([], dtype="f8", name="s"), {}
    yield "series/empty_strings", pd.Series([], dtype=object, name="s"), {}
    yield "frames/latin", pd.DataFrame({"é": [1, 2]}, index=["ä", "ö"]), {"encoding": "latin-1"}
    yield "nested", numbers(pd.RangeIndex(2)), {}
    yield "nested/inner", numbers(pd.RangeIndex(3)), {}
    yield "frames/column_named_index", pd.DataFrame({"index": [1, 2], "a": [3, 4]}), {}


def compressed_cases():
    """Cases of the fixed format in a store whose arrays are all compressed."""
    for name, frame in common_frames().items():
        yield f"frames/{name}", frame, {}
    for name, series in common_series().items():
        yield f"series/{name}", series, {}
    yield "series/empty", pd.Series([], dtype="f8", name="s"), {}
    yield "index/strings", numbers(index_cases()["strings"]), {}
    yield "nested/inner", numbers(pd.RangeIndex(3)), {}


def table_cases():
    """Cases of the table format: key, object, arguments of `put`."""
    for name, index in index_cases().items():
        if not name.startswith("multi"):
            yield f"index/{name}", numbers(index), {}
            continue
        yield f"index/{name}", numbers(index), {}
        yield f"index/{name}_series", numbers(index)["v"], {}
    for name, frame in column_label_cases().items():
        yield f"labels/{name}", frame, {}
    for name, frame in common_frames().items():
        yield f"frames/{name}", frame, {"nan_rep": "nan"} if name == "mixed" else {}
    for name, series in common_series().items():
        yield f"series/{name}", series, {}
    mixed = common_frames()["mixed"]
    yield "frames/data_columns", mixed, {"data_columns": True}
    yield "frames/some_data_columns", mixed, {"data_columns": ["i", "text"]}
    yield "frames/own_nan", mixed[["missing", "text"]], {"nan_rep": "_missing_"}
    yield "frames/literal_nan", pd.DataFrame({"s": ["nan", None, "x"], "t": ["nan", "y", "x"]}), {}
    categories = pd.DataFrame(
        {
            "text": pd.Categorical(["b", None, "a"], categories=["c", "b", "a"]),
            "number": pd.Categorical([20, 10, 20]),
            "number_missing": pd.Categorical([20, None, 20]),
            "float": pd.Categorical([0.5, None, 1.5]),
            "time": pd.Categorical(pd.to_datetime(["2020-01-01", None, "2020-01-02"])),
            "ordered": pd.Categorical(["low", "high", "low"], categories=["low", "high"], ordered=True),
            "none": pd.Categorical([None, None, None]),
            "plain": [1, 2, 3],
        }
    )
    for name in ("text", "number", "number_missing", "float", "time", "ordered", "none"):
        yield f"categories/{name}", categories[[name, "plain"]], {}
    yield "categories/all", categories, {"data_columns": ["text", "plain"]}
    yield "series/categories", categories["text"], {}
    yield "frames/multi_data_columns", numbers(index_cases()["multi"]).assign(w=["p", "q", "r"]), {"data_columns": True}
    yield "frames/min_itemsize", mixed[["text", "i"]], {"min_itemsize": 30}
    yield "frames/compressed", common_frames()["many_rows"], {"complib": "blosc:zstd", "complevel": 5}
    yield "frames/indexed", common_frames()["many_rows"][["a", "b"]], {"data_columns": ["a"], "index": True}
    odd = pd.DataFrame({"a b": [1, 2], "c/d": [3, 4], "é": [5.0, 6.0], "values": ["p", "q"]})
    yield "frames/odd_names", odd, {"data_columns": ["a b"]}
    yield "frames/latin", pd.DataFrame({"é": ["ß", "ø"]}, index=["ä", "ö"]), {"encoding": "latin-1"}
    yield "frames/periods", pd.DataFrame({"p": pd.period_range("2020-01", periods=3, freq="M")}), {}
    yield "nested", numbers(pd.RangeIndex(2)), {}
    yield "nested/inner", numbers(pd.RangeIndex(3)), {}
    yield "frames/column_named_index", pd.DataFrame({"index": [1, 2], "a": [3, 4]}), {}


# -- what pandas reads back, in plain values ---------------------------------------------------------------


def plain(value):
    """One element of an object array."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (bool, np.bool_)):
        return ["bool", bool(value)]
    if isinstance(value, (int, np.integer)):
        return ["int", int(value)]
    if isinstance(value, (float, np.floating)):
        return ["float", repr(float(value))]
    if isinstance(value, str):
        return ["str", str(value)]
    if isinstance(value, bytes):
        return ["bytes", value.decode("latin-1")]
    if isinstance(value, pd.Timestamp):
        return ["timestamp", value.isoformat()]
    if isinstance(value, datetime.date):
        return ["date", value.isoformat()]
    if isinstance(value, pd.Period):
        return ["period", str(value)]
    if isinstance(value, (list, tuple)):
        return ["list", [plain(item) for item in value]]
    raise TypeError(type(value))


def described(values):
    """dtype and values of an Index or Series, without pandas' types."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        whole = described(pd.Series(values.astype(object)))
        return {"dtype": "category", "values": whole["values"], "categories": described(dtype.categories)["dtype"]}
    if isinstance(dtype, pd.PeriodDtype):
        periods = pd.PeriodIndex(values)
        return {"dtype": "period", "freq": periods.freqstr, "values": periods.asi8.tolist()}
    if isinstance(dtype, pd.DatetimeTZDtype):
        zone = str(dtype.tz)
        naive = pd.DatetimeIndex(values).tz_convert("UTC").tz_localize(None).values
        return {**described(pd.Series(naive)), "zone": zone}
    array = np.asarray(values)
    if array.dtype.kind in "mM":
        return {"dtype": array.dtype.str[1:], "values": [None if n == NAT else n for n in array.view("i8").tolist()]}
    if array.dtype.kind in "biu":
        return {"dtype": array.dtype.str[1:], "values": array.tolist()}
    if array.dtype.kind == "f":
        return {"dtype": array.dtype.str[1:], "values": [repr(float(value)) for value in array]}
    if array.dtype.kind == "c":
        return {"dtype": array.dtype.str[1:], "values": [repr(complex(value)) for value in array]}
    return {"dtype": "object", "values": [plain(value) for value in array.tolist()]}


def axis(index):
    names = [plain(name) for name in index.names]
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    return {"multi": isinstance(index, pd.MultiIndex), "names": names, "levels": [described(level) for level in levels]}


def expected(obj):
    if isinstance(obj, pd.Series):
        name = list(obj.name) if isinstance(obj.name, tuple) else obj.name
        return {"series": True, "name": plain(name), "index": axis(obj.index), "data": [described(obj)]}
    columns = [described(obj.iloc[:, number]) for number in range(obj.shape[1])]
    return {"series": False, "columns": axis(obj.columns), "index": axis(obj.index), "data": columns}


def make(path, cases, store_arguments, **defaults):
    found, refused = {}, {}
    for key, obj, arguments in cases:
        with pd.HDFStore(path, "a", **store_arguments) as store:
            try:
                store.put(key, obj, track_times=False, **{**defaults, **arguments})
                found[key] = expected(store.get(key))
            except Exception as error:  # what one version stores, another refuses
                refused[key] = f"{type(error).__name__}: {error}"
                if key in store:
                    store.remove(key)
    with pd.HDFStore(path, "a") as store:
        store.get_storer("nested/inner").attrs.metadata = {"made": "by hand", "version": 1}
        store.get_storer("nested/inner").attrs.units = "m"
    return found, refused


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    made = {"pandas": pd.__version__, "numpy": np.__version__, "tables": tables.__version__}
    formats = {
        "fixed": (fixed_cases(), {}, {"format": "fixed"}),
        "compressed": (compressed_cases(), {"complib": "blosc:zstd", "complevel": 5}, {"format": "fixed"}),
        "table": (table_cases(), {}, {"format": "table", "complib": "zlib", "complevel": 9, "index": False}),
    }
    for name, (cases, store_arguments, defaults) in formats.items():
        path = folder / f"{name}.h5"
        path.unlink(missing_ok=True)
        made[name], made[f"{name} refused"] = make(path, cases, store_arguments, **defaults)
        with gzip.GzipFile(path.with_suffix(".h5.gz"), "wb", mtime=0) as packed:  # mostly room that PyTables left
            packed.write(path.read_bytes())
        path.unlink()
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in made.items()
        if not isinstance(value, dict)
    ]
    for name, cases in made.items():
        if isinstance(cases, dict):  # a line for each case
            inside = [
                f"{json.dumps(key)}: {json.dumps(case, ensure_ascii=False, allow_nan=False)}"
                for key, case in cases.items()
            ]
            lines.append(f"{json.dumps(name)}: {{\n" + ",\n".join(inside) + "\n}")
    (folder / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
