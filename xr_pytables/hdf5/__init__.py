"""The HDF5 file format, read from bytes: no library, no lock, no file name.

Section numbers refer to the HDF5 File Format Specification, version 4.0. `file.File` is what others use; the modules
below it each know one structure of the format and decode it from bytes.
"""
