"""Adjusted p-values, letters and ranges of ranks; published examples are in `test_fixtures`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.evaluation.multiplicity import benjamini_hochberg, holm, letters, rank_intervals


def test_holm_keeps_the_order_it_was_given():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p[::-1]) == pytest.approx(holm(p)[::-1], rel=1e-12)
    assert (holm(p) >= p).all()


def test_benjamini_hochberg_leaves_out_what_was_not_tested():
    q = benjamini_hochberg([0.04, np.nan, 0.01, 0.03])
    assert np.isnan(q[1])
    assert q[[0, 2, 3]] == pytest.approx(stats.false_discovery_control([0.04, 0.01, 0.03]))
    assert np.isnan(benjamini_hochberg([np.nan])).all()
    assert benjamini_hochberg([]).size == 0


def test_holm_of_nothing_is_nothing():
    assert holm([]).size == 0


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda p: p[0] < p[1])))
def test_letters_are_shared_exactly_by_those_that_do_not_differ(pairs):
    names = "ABCDEFG"
    shown = letters(names, [(names[i], names[j]) for i, j in pairs])
    for i in range(7):
        for j in range(i + 1, 7):
            assert bool(set(shown[names[i]]) & set(shown[names[j]])) == ((i, j) not in pairs)


def test_rank_intervals():
    assert rank_intervals("ABC", []) == dict.fromkeys("ABC", (1, 3))
    assert rank_intervals("ABC", [("A", "B"), ("A", "C"), ("A", "C")]) == {
        "A": (1, 1),
        "B": (2, 3),
        "C": (2, 3),
    }
