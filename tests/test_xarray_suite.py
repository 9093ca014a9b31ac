"""xarray's own backend tests, driven through the engine and `to_pytables`.

The base classes are xarray's; a test that does not apply is skipped here with its reason.
"""

from __future__ import annotations

import contextlib

import pytest
import xarray as xr
from xarray.backends.common import AbstractWritableDataStore
from xarray.tests import has_dask, has_h5netcdf, has_netCDF4
from xarray.tests.conftest import create_test_datatree, simple_datatree, time_unit, use_dask  # noqa: F401  fixtures
from xarray.tests.test_backends import CFEncodedBase, NetCDF4Base, create_tmp_file
from xarray.tests.test_backends_datatree import NetCDFIOBase
from xarray.tests.test_distributed import (
    cleanup,  # noqa: F401  fixture
    loop,  # noqa: F401  fixture
    loop_in_thread,  # noqa: F401  fixture
)
from xarray.tests.test_distributed import (
    test_dask_distributed_netcdf_roundtrip as distributed_roundtrip,
)
from xarray.tests.test_distributed import (
    test_dask_distributed_read_netcdf_integration_test as distributed_read,
)

from xr_pytables import to_pytables

assert has_dask
assert has_netCDF4
assert has_h5netcdf


def _save(obj, path, *, mode="w", format=None, engine="pytables", write_inherited_coords=False, **kwargs):
    """`to_netcdf` as far as it has a meaning here."""
    assert engine == "pytables"
    del format
    inherited = {"write_inherited_coords": True} if write_inherited_coords else {}
    return to_pytables(obj, path, mode=mode, **inherited, **kwargs)


@pytest.fixture(autouse=True)
def to_netcdf_with_this_engine(monkeypatch):
    """Some tests write with `to_netcdf(engine=self.engine)`, which is closed to other engines."""
    for kind in (xr.Dataset, xr.DataTree):
        original = kind.to_netcdf

        def to_netcdf(self, path=None, *args, engine=None, _original=original, **kwargs):
            if engine != "pytables":
                return _original(self, path, *args, engine=engine, **kwargs)
            return _save(self, path, *args, **kwargs)

        monkeypatch.setattr(kind, "to_netcdf", to_netcdf)


class WritableStore(AbstractWritableDataStore):
    """What `Dataset.dump_to_store` needs: writes with `to_pytables`, reads without decoding."""

    def __init__(self, path):
        self.path = path

    def store(self, variables, attributes, check_encoding_set=frozenset(), writer=None, unlimited_dims=None):
        dataset = xr.Dataset({}, attrs=attributes)
        for name, variable in variables.items():
            dataset[name] = variable
            dataset[name].encoding = variable.encoding
        coordinates = dataset.attrs.pop("coordinates", None)
        if coordinates:
            dataset = dataset.set_coords(coordinates.split())
        to_pytables(dataset, self.path)

    def load(self):
        with xr.open_dataset(self.path, engine="pytables", decode_cf=False) as raw:
            return dict(raw.load().variables), raw.attrs

    def get_encoding(self):
        return {}


class Hooks:
    engine = "pytables"
    file_format = "NETCDF4"  # what the format can hold, such as unsigned integers

    @contextlib.contextmanager
    def create_store(self):
        with create_tmp_file() as path:
            yield WritableStore(path)

    def save(self, dataset, path, **kwargs):
        return _save(dataset, path, **kwargs)


class TestNetCDF4(Hooks, NetCDF4Base):
    @pytest.mark.skip(reason="bytes come back as bytes, NULs included, not as str: nothing is lost")
    def test_byte_attrs(self):
        pass

    @pytest.mark.skip(
        reason="variable-length text stays lazy with dtype object; xarray's engines load it to find a width"
    )
    def test_encoding_kwarg_vlen_string(self):
        pass

    @pytest.mark.skip(reason="text in a Dask array of objects is written block by block: there is nothing to warn of")
    def test_string_object_warning(self):
        pass


class TestCFEncodedDask(Hooks, CFEncodedBase):
    @contextlib.contextmanager
    def roundtrip(self, data, save_kwargs=None, open_kwargs=None, allow_cleanup_failure=False):
        with super().roundtrip(
            data, save_kwargs or {}, {"chunks": -1, **(open_kwargs or {})}, allow_cleanup_failure
        ) as actual:
            yield actual

    @pytest.mark.skip(reason="caching behaviour differs for dask; xarray skips it for its engines, too")
    def test_dataset_caching(self):
        pass

    @pytest.mark.skip(reason="text in a Dask array of objects is written block by block: there is nothing to warn of")
    def test_string_object_warning(self):
        pass

    @pytest.mark.skip(reason="asynchronous loading works differently with dask; xarray skips it for its engines, too")
    def test_load_async(self):
        pass


class TestDataTree(Hooks, NetCDFIOBase):
    def test_compute_false(self, tmpdir, simple_datatree, monkeypatch):  # noqa: F811
        """xarray's engines have the structure at the path at once; here that is asked for."""
        monkeypatch.setattr(
            xr.DataTree, "to_netcdf", lambda self, path, **words: _save(self, path, structure_first=True, **words)
        )
        super().test_compute_false(tmpdir, simple_datatree)

    @pytest.mark.skip(reason="there is no writing to memory: files are replaced by renaming")
    def test_roundtrip_via_memoryview(self):
        pass

    @pytest.mark.skip(reason="there is no writing to memory: files are replaced by renaming")
    def test_to_memoryview_compute_false(self):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks:UserWarning")
@pytest.mark.parametrize("compute", [True, False])
def test_distributed_roundtrip(loop, tmp_path, compute):  # noqa: F811
    distributed_roundtrip(loop, str(tmp_path / "file.h5"), "pytables", "NETCDF4", compute)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks:UserWarning")
def test_distributed_read(loop, tmp_path):  # noqa: F811
    distributed_read(loop, str(tmp_path / "file.h5"), "pytables", "NETCDF4")
