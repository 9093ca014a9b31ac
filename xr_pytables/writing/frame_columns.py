"""What goes into the columns and the index of a pandas object: from datasets, DataFrames and Series.

Each becomes the numbers or text that are stored, and one value from which pandas learns what they mean. Knows xarray
and pandas, and nothing of files.

Tested in `tests/writing/test_frame_writing.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import dask.array
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.extensions import ExtensionArray
from pandas.api.types import infer_dtype
from xarray import DataArray, Dataset, Variable

from ..model.frames import FREQUENCY, TIME_ZONE
from ..sources.warning import warn
from .extension_types import no_form
from .group_dimensions import check_sizes
from .here import streamable

_FIRST: Final = "x"
"""A text to show pandas; how wide the column shall be is said beside."""


@dataclass(frozen=True)
class Given:
    """One column, or one level of the index."""

    name: Hashable
    label: str
    """What messages call it."""
    data: Any = field(repr=False)
    """NumPy or Dask, of one dimension: numbers, times as datetime64 in UTC, codes of categories, or text as objects."""
    sample: pd.Index | pd.Series = field(repr=False)
    """One value, of the type in which pandas shall give them back. An index, but for numbers that no index is of."""
    width: int | None = None
    """Of text: bytes of the longest one. None for all else."""
    has_nan: bool = False
    """Whether one of the texts, or categories, is `nan`, by which pandas means a missing one."""

    @property
    def zone(self) -> str | None:
        """Of times."""
        zone = getattr(self.sample.dtype, "tz", None)
        return None if zone is None else str(zone)

    @property
    def freq(self) -> str | None:
        """Of periods."""
        return str(self.sample.freqstr) if isinstance(self.sample.dtype, pd.PeriodDtype) else None

    @property
    def categories(self) -> pd.Index | None:
        return self.sample.dtype.categories if isinstance(self.sample.dtype, pd.CategoricalDtype) else None

    @property
    def is_ordered(self) -> bool:
        """Of categories: whether their order means something."""
        return bool(getattr(self.sample.dtype, "ordered", False))

    def shown(self) -> str:
        """What it is, for messages."""
        return "text" if self.width is not None else str(self.sample.dtype)


@dataclass(frozen=True)
class GivenFrame:
    """A pandas object to store."""

    dim: str
    """What the rows are called: the name of their index, or `index` where it has none or several levels."""
    rows: int
    index: tuple[Given, ...]
    columns: tuple[Given, ...]
    labels: pd.Index | None
    """Of the columns; None for a Series."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    encoding: Mapping[str, Any] = field(default_factory=dict)
    variables: Dataset = field(default_factory=Dataset, repr=False)
    """Where the columns come from, if it was a dataset: chunks and compression of the source are advice."""

    def sample(self) -> pd.DataFrame | pd.Series:
        """The object with one row."""
        index = self.index[0].sample
        if len(self.index) > 1:
            names = [level.sample.name for level in self.index]
            index = pd.MultiIndex.from_arrays([level.sample for level in self.index], names=names)
        columns = [pd.Series(column.sample.array, index=index) for column in self.columns]
        if self.labels is None:
            return columns[0].rename(self.columns[0].name)
        frame = pd.DataFrame(
            dict(enumerate(columns)), index=index
        )  # columns of a type are a block, as pandas makes them
        return frame.set_axis(self.labels, axis=1)


def given_frame(obj: object, where: str, widths: Mapping[Hashable, int | None]) -> GivenFrame:
    """`obj` as columns; `widths` are those of text that is asked for, in bytes.

    Raises TypeError and ValueError, naming the variable and the way out, for what pandas' tables cannot hold.
    """
    if isinstance(obj, DataArray):
        return _of_dataarray(obj, where, widths)
    if isinstance(obj, Dataset):
        return _of_dataset(obj, where, widths)
    if isinstance(obj, pd.Series):
        index = _index(obj.index, where, _but(widths, [obj.name]))
        column = _column(obj.name, obj.array, f"{where}: series {obj.name!r}", widths)
        return GivenFrame(_dim_of(obj.index), len(obj), index, (column,), None, obj.attrs)
    if isinstance(obj, pd.DataFrame):
        index = _index(obj.index, where, _but(widths, obj.columns))
        columns = tuple(
            _column(name, obj.iloc[:, number].array, f"{where}: column {name!r}", widths)
            for number, name in enumerate(obj.columns)
        )
        return GivenFrame(_dim_of(obj.index), len(obj), index, columns, obj.columns, obj.attrs)
    raise TypeError(
        f"{where}: layout='pandas' writes a Dataset or DataArray, a DataFrame or Series, not {type(obj).__name__}"
    )


def _but(widths: Mapping[Hashable, int | None], columns: Iterable[Hashable]) -> dict[Hashable, int | None]:
    """Without those of columns: an index that is called like one, or `index` for want of a name, has none there."""
    taken = set(columns)
    return {name: width for name, width in widths.items() if name not in taken}


def _dim_of(index: pd.Index) -> str:
    return "index" if index.name is None or isinstance(index, pd.MultiIndex) else str(index.name)


def _of_dataarray(array: DataArray, where: str, widths: Mapping[Hashable, int | None]) -> GivenFrame:
    """A DataArray as a Series."""
    others = [name for name in array.coords if name not in array.xindexes]
    if others:
        raise ValueError(
            f"{where}: a Series of pandas has no coordinates besides its index; this array has "
            f"{', '.join(map(repr, others))}. Leave them out with drop_vars, or write array.to_dataset()"
        )
    name = "values" if array.name is None else array.name
    frame = _of_dataset(array.to_dataset(name=name, promote_attrs=True), where, widths)
    [column] = frame.columns
    column = replace(column, name=array.name)
    return replace(frame, columns=(column,), labels=None)


def _of_dataset(dataset: Dataset, where: str, widths: Mapping[Hashable, int | None]) -> GivenFrame:
    """A dataset of one dimension; its index is the coordinate of that name, or counts the rows."""
    many = {name: variable.dims for name, variable in dataset.variables.items() if variable.ndim != 1}
    if many or len(dataset.sizes) != 1:
        told = many or {name: variable.dims for name, variable in dataset.variables.items()}
        raise ValueError(
            f"{where}: columns of a pandas object have one dimension, the same for all; these have "
            f"{', '.join(f'{name!r} {dims}' for name, dims in told.items()) or 'none'}. Write arrays "
            "(layout='arrays'), leave them out with drop_vars, or write dataset.to_dataframe(), which repeats them"
        )
    [(dim, rows)] = dataset.sizes.items()
    check_sizes(dataset, where)
    for name, variable in dataset.variables.items():
        if name in dataset.xindexes and variable.dtype == np.float16:
            raise TypeError(f"{where}: index {name!r}: pandas has no index of float16. Convert it with astype()")
    index = dataset.xindexes[dim].to_pandas_index() if dim in dataset.xindexes else pd.RangeIndex(rows)
    if not isinstance(index, pd.MultiIndex):
        index = as_attributes_say(index, dataset.variables[dim].attrs if dim in dataset.variables else {}, where)
        index = index.rename(None if dim == "index" else dim)  # as Dataset.from_dataframe names it
    of_index = {dim, *(index.names if isinstance(index, pd.MultiIndex) else ())}
    columns = {name: variable for name, variable in dataset.variables.items() if name not in of_index}
    _tell_what_is_lost(dataset)
    given = tuple(
        _of_variable(name, variable, f"{where}: variable {name!r}", widths) for name, variable in columns.items()
    )
    labels = pd.Index(list(columns), dtype=object if not columns else None)
    return GivenFrame(
        str(dim), rows, _index(index, where, widths), given, labels, dataset.attrs, dataset.encoding, dataset
    )


def _meant(attributes: Mapping[str, Any]) -> dict[str, str]:
    """What attributes of a variable say to pandas; those that are no text are somebody else's."""
    return {name: attributes[name] for name in (TIME_ZONE, FREQUENCY) if isinstance(attributes.get(name), str)}


def _tell_what_is_lost(dataset: Dataset) -> None:
    names = [name for name, variable in dataset.variables.items() if set(variable.attrs) - set(_meant(variable.attrs))]
    if names:
        warn(
            f"layout='pandas' writes no attributes of variables, as pandas has none: those of "
            f"{', '.join(map(repr, names))} are left out. dataset.drop_attrs() says that this is meant"
        )


def as_attributes_say(index: pd.Index, attributes: Mapping[str, Any], where: str) -> pd.Index:
    """An index that was read from an HDFStore with the zone, or as the periods, that pandas has it in."""
    meant = _meant(attributes)
    zone, freq = meant.get(TIME_ZONE), meant.get(FREQUENCY)
    try:
        if zone is not None and isinstance(index, pd.DatetimeIndex) and index.tz is None:
            return index.tz_localize("UTC").tz_convert(zone)
        if freq is not None and index.dtype.kind == "i":
            return pd.PeriodIndex.from_ordinals(index.to_numpy(), freq=freq, name=index.name)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(
            f"{where}: the index has the attributes {dict(attributes)}, with which pandas cannot make it: {error}"
        ) from None
    return index


def _of_variable(name: Hashable, variable: Variable, label: str, widths: Mapping[Hashable, int | None]) -> Given:
    variable = streamable(variable.copy(deep=False))
    if not isinstance(variable.dtype, np.dtype):
        return _column(name, variable.to_index().array, label, widths)
    zone = _meant(variable.attrs).get(TIME_ZONE)
    data = variable.data if variable.chunks is not None else variable.values
    found = _column(name, data, label, widths)
    if zone is None or variable.dtype.kind != "M":
        return found
    return replace(found, sample=as_attributes_say(found.sample, {TIME_ZONE: zone}, label))


def _index(index: pd.Index, where: str, widths: Mapping[Hashable, int | None]) -> tuple[Given, ...]:
    levels = [index]
    if isinstance(index, pd.MultiIndex):
        levels = [index.get_level_values(number) for number in range(index.nlevels)]
    found = []
    for level in levels:
        label = f"{where}: index {level.name!r}"
        if isinstance(level, pd.PeriodIndex) and not isinstance(index, pd.MultiIndex):
            found.append(Given(level.name, label, level.asi8, level[:1]))
            continue
        asked: Mapping[Hashable, int | None] = widths if level.name is not None else {None: widths.get("index")}
        given = _column(level.name, level.array, label, asked)
        if given.width is not None and len(levels) == 1:
            if level.hasnans:
                raise ValueError(f"{label}: a text is missing, for which pandas has no form in an index. Fill it in")
            # as wide as it shall be: pandas takes a width said beside for that of a column called `index`
            given = replace(given, sample=pd.Index([_FIRST * given.width], dtype=given.sample.dtype))
        if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex) and len(index):
            given = replace(given, sample=index[:1])  # with its frequency
        found.append(replace(given, sample=given.sample.rename(level.name)))
    return tuple(found)


def _column(name: Hashable, values: Any, label: str, widths: Mapping[Hashable, int | None]) -> Given:
    """Values of any kind. Raises TypeError for a kind that pandas' tables do not have."""
    if isinstance(values, ExtensionArray) and isinstance(values.dtype, pd.CategoricalDtype):
        for each in values.categories:
            if isinstance(each, str):
                as_bytes(each, label)
        sample = pd.CategoricalIndex(_sample_of_categories(values))
        return Given(name, label, np.asarray(values.codes), sample, has_nan=MISSING[0] in values.categories.tolist())
    if isinstance(values, ExtensionArray) and isinstance(values.dtype, pd.DatetimeTZDtype):
        utc = np.asarray(values.asi8).view(f"M8[{values.unit}]")
        return Given(name, label, utc, pd.DatetimeIndex(np.zeros(1, utc.dtype), tz="UTC").tz_convert(values.dtype.tz))
    if isinstance(values, ExtensionArray) and isinstance(values.dtype, pd.StringDtype):
        return _text(name, values.to_numpy(object), values.dtype, label, widths)
    if isinstance(values, pd.arrays.NumpyExtensionArray):
        values = values.to_numpy()
    if isinstance(values, ExtensionArray) and not isinstance(values.dtype, np.dtype):
        raise _refused(str(values.dtype), label)
    values = values if isinstance(values, dask.array.Array) else np.asarray(values)
    dtype = values.dtype
    if dtype.kind == "O" and isinstance(values, np.ndarray) and infer_dtype(values) == "datetime":
        return _column(name, _times(values, label), label, widths)
    if dtype.kind in "UT" or (dtype.kind == "O" and values.ndim):
        return _text(name, values.astype(object), None if dtype.kind != "O" else dtype, label, widths)
    if dtype.kind not in "biufcmM" or (dtype.kind in "fc" and dtype.itemsize not in (2, 4, 8, 16)) or dtype == "f16":
        raise _refused(str(dtype), label)
    zero = np.zeros(1, dtype.newbyteorder("="))
    return Given(name, label, values, pd.Series(zero) if dtype == np.float16 else pd.Index(zero))


def _sample_of_categories(values: pd.Categorical) -> pd.Categorical:
    return pd.Categorical.from_codes([0 if len(values.categories) else -1], dtype=values.dtype)


def _times(values: NDArray[Any], label: str) -> ExtensionArray:
    """Times as objects, as xarray has those with a zone."""
    try:
        return pd.DatetimeIndex(values).array
    except (ValueError, TypeError) as error:
        raise ValueError(f"{label}: pandas makes no times of one zone of these: {error}") from None


def _refused(kind: str, label: str) -> TypeError:
    if kind.startswith(("period", "interval")):
        return no_form(kind, label)
    way_out = "Decode it to str" if kind.startswith("|S") else "Convert it with astype(), to float say"
    return TypeError(f"{label}: pandas' tables have no column of {kind}. {way_out}, or leave it out")


# -- text --------------------------------------------------------------------------------------------------


def _text(name: Hashable, values: Any, dtype: Any, label: str, widths: Mapping[Hashable, int | None]) -> Given:
    missing = str(dtype) == "object" and isinstance(values, np.ndarray) and bool(np.asarray(pd.isna(values)).all())
    sample = pd.Index([None if missing else _FIRST], dtype=dtype)
    width, has_nan = widths.get(name), False
    if width is None:
        width, has_nan = _measured(values, label)
    return Given(name, label, values, sample, width, has_nan)


def _measured(values: Any, label: str) -> tuple[int, bool]:
    """Bytes of the longest text, and whether one is `nan`. Dask arrays are computed: again when they are written."""
    if not isinstance(values, dask.array.Array):
        measures = _measures(values, label)
    elif values.size:
        chunks = ((1,) * values.numblocks[0], (2,))
        measures = values.map_blocks(_measures, label, dtype=np.int64, chunks=chunks, new_axis=1).max(axis=0).compute()
    else:
        return 1, False
    width, has_nan = measures.reshape(-1, 2).max(axis=0).tolist()
    return max(width, 1), bool(has_nan)


def _measures(values: NDArray[Any], label: str) -> NDArray[np.int64]:
    missing = np.asarray(pd.isna(values))
    kind = infer_dtype(values[~missing], skipna=False)
    if kind not in ("string", "empty"):
        raise TypeError(
            f"{label}: pandas' tables hold text or numbers in a column, no objects of kind {kind!r}. Convert them "
            "with astype(), or write them with pandas in its fixed format, which pickles them"
        )
    texts = values[~missing].tolist()
    widths = [len(MISSING[0]) * bool(missing.any()), *(len(as_bytes(text, label)) for text in texts)]
    return np.array([[max(widths), MISSING[0] in texts]], np.int64)


MISSING: Final = ("nan", "\ue000")
"""What stands for a missing text: as in pandas, and where a text is that, a character without a meaning of 3 bytes."""


def as_bytes(text: str, label: str) -> bytes:
    """A text as pandas stores it."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"{label}: {text!r} holds lone surrogates, which are bytes that are no UTF-8. Decode it anew"
        ) from None


def stored_text(values: NDArray[Any], width: int, nan_rep: str | None, label: str) -> NDArray[np.bytes_]:
    """Texts as bytes of `width`, missing ones as `nan_rep`. Raises ValueError for one that would not come back."""
    stored = []
    for text, is_missing in zip(values.tolist(), np.asarray(pd.isna(values)).tolist(), strict=True):
        if is_missing and nan_rep is None:
            raise ValueError(
                f"{label}: a text is missing, and the column has no text that stands for it. Fill it with fillna(''), "
                "or append with pandas, which chooses one"
            )
        if not is_missing and not isinstance(text, str):
            raise TypeError(f"{label}: {text!r} is no text. Convert the values with astype(str)")
        if not is_missing and text == nan_rep:
            raise ValueError(f"{label}: the text {text!r} stands for a missing one in this table. Write another text")
        data = as_bytes(nan_rep if is_missing and nan_rep is not None else text, label)
        if data.endswith(b"\0"):
            raise ValueError(f"{label}: the text {text!r} ends in NUL, which would be lost. Strip it: rstrip('\\0')")
        if len(data) > width:
            what, other = f"the text {text!r}", "Shorten it"
            if is_missing:
                what, other = f"a missing text, stored as {nan_rep!r},", "Fill it with fillna('')"
            raise ValueError(
                f"{label}: {what} takes {len(data)} bytes, and the column has {width}. {other}, or write the table "
                f"anew, with encoding={{...: {{'dtype': 'S{len(data)}'}}}}"
            )
        stored.append(data)
    return np.array(stored, f"S{width}")
