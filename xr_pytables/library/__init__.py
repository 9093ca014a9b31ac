"""libhdf5 through ctypes, for writing only: the C calls, types, and one file opened for writing."""
