"""Lazy arrays in xarray's form: of leaves, of columns, of rows of variable length, of pandas objects."""
