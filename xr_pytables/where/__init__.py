"""Rows that meet a condition: `where=` parsed and computed, and the indexes that say where to look.

Above `arrays`, through which it reads candidates.
"""
