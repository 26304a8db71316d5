"""Laws of warehouse/ranking.py: ranks agree with a slow count however the values are cut into parts, ranges and runs."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.warehouse.test_selection import VALUES, slow_ranks
from warehouse import ranking
from warehouse.ranking import ranked


def ranks_of_all(values):
    return ranked(lambda: iter([(slice(0, len(values)), values)]), len(values))


def collected(parts):
    return {int(p): (int(a), int(b)) for part in parts for p, a, b in zip(*part, strict=True)}


@settings(deadline=None, max_examples=80)
@given(
    st.lists(VALUES, min_size=1, max_size=40),
    st.sampled_from([np.float32, np.float64]),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 16),
)
def test_ranks_are_those_of_a_slow_count(values, dtype, run_block, range_values, bits):
    array = np.array(values, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_RUN_BLOCK", run_block)
        patch.setattr(ranking, "_RANGE_VALUES", range_values)
        patch.setattr(ranking, "_HISTOGRAM_BITS", bits)
        found = collected(ranks_of_all(array))
        order = np.random.default_rng(len(values)).permutation(len(values))  # places need not be in order, nor be all there are
        cuts = [order[: len(order) // 3], order[len(order) // 3 :]]
        scattered = collected(ranked(lambda: ((cut + 100, array[cut]) for cut in cuts), 200))
    assert [found.get(place) for place in range(len(values))] == slow_ranks(values)
    assert scattered == {place + 100: ranks for place, ranks in found.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_of_either_sign_has_no_rank(dtype):
    values = np.array([1, np.nan, -np.inf, np.copysign(np.nan, -1), np.inf], dtype)
    assert collected(ranks_of_all(values)) == {2: (1, 1), 0: (2, 2), 4: (3, 3)}
    assert collected(ranks_of_all(values[[1, 3]])) == {}


def test_a_range_holds_few_values_unless_they_are_equal(monkeypatch):
    monkeypatch.setattr(ranking, "_RANGE_VALUES", 10)
    values = np.concatenate([np.zeros(50), np.random.default_rng(0).standard_normal(500), np.full(3, np.nan)]).astype(np.float32)
    ranges = list(ranking._ranges(lambda: iter([(slice(0, len(values)), values)])))
    assert sum(num for _, _, num in ranges) == 550
    assert all(num <= 10 or high - low == 1 for low, high, num in ranges)
    assert all(one[1] <= other[0] for one, other in pairwise(ranges))
