"""What the nodes of a file become, as values: variables, dimensions, attributes, columns, pandas objects.

Reads a file through `hdf5`; knows neither xarray nor the C library.
"""
