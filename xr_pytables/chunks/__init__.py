"""Chunks as bytes: filters and codecs, decoding and encoding in threads, where elements lie, what a selection meets.

Knows sources and integers; no name of a file, no HDF5 object, neither PyTables nor xarray.
"""
