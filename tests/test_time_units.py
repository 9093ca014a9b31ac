"""Times of different units, and as far apart as 64 bits reach, compare as Python's integers do."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xr_pytables.time_units import NANOSECONDS, are_equal, are_whole, seconds_apart, size_of

from .helpers_properties import examples

NAT = -(2**63)
COUNTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([NAT, NAT + 1, 2**63 - 1, 0, 10**9, -(10**9)])
TIMES = st.tuples(COUNTS, st.sampled_from("Mm"), st.sampled_from(["s", "ms", "us", "ns"]))


def as_array(count: int, kind: str, unit: str) -> np.ndarray:
    return np.array([count], "i8").view(f"{kind}8[{unit}]")


@examples(200)
@given(TIMES, TIMES, st.booleans())
def test_times_compare_as_integers_do(one, other, near):
    if near and one[0] != NAT:  # the same instant, if the other unit has it
        count = one[0] * NANOSECONDS[one[2]] // NANOSECONDS[other[2]]
        other = (max(min(count, 2**63 - 1), NAT + 1), *other[1:])
    x, y = as_array(*one), as_array(*other)
    exact = [count * NANOSECONDS[unit] for count, _, unit in (one, other)]
    missing = NAT in (one[0], other[0])
    assert bool(are_equal(x, y)[0]) == (exact[0] == exact[1] and not missing)
    apart = seconds_apart(x, y)[0]
    if missing:
        assert np.isnan(apart)
    else:
        assert apart == pytest.approx(float(Fraction(abs(exact[0] - exact[1]), 10**9)), rel=1e-12, abs=1e-3)


@examples(100)
@given(TIMES, st.sampled_from([*NANOSECONDS]))
def test_whole_numbers_of_a_unit(one, unit):
    count, _, own = one
    if count != NAT:
        assert bool(are_whole(as_array(*one), unit)[0]) == (count * NANOSECONDS[own] % NANOSECONDS[unit] == 0)


@pytest.mark.parametrize("unit", NANOSECONDS)
def test_units_are_those_of_numpy(unit):
    assert size_of(np.dtype(f"m8[{unit}]")) == int(np.timedelta64(1, unit) // np.timedelta64(1, "ns"))
