"""The functions of libhdf5 are found under the names that the library in use has for them."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from xr_pytables.library import libhdf5


def test_a_function_that_was_renamed_is_found_by_its_new_name(monkeypatch):
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)
    library = SimpleNamespace(H5Dread_chunk1=answer)
    monkeypatch.setattr(libhdf5, "_libraries", lambda: (library, library))
    found = libhdf5._Functions()
    assert found["H5Dread_chunk"] is answer
    assert answer.argtypes == libhdf5._SIGNATURES["H5Dread_chunk"][1]
    with pytest.raises(AttributeError, match="H5Dread"):
        found["H5Dread"]
