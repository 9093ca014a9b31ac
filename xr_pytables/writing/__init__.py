"""Datasets to files: what a write will do, as a value that can be refused, and carrying it out."""
