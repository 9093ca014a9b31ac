"""Chunks: where they lie, their filters, what a selection needs of them, and how it gets to its place.

Knows sources, integers and buffers; no HDF5 handle, no lock, nothing of xarray.
"""
