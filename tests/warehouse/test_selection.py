"""Laws of warehouse/selection.py: ranks and selections agree with a sort in plain Python, for both shapes of group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse import selection
from warehouse.selection import highest, kth_highest, num_of_share, ranks_in_rows, responses

VALUES = st.one_of(st.sampled_from([np.nan, 0.0, -0.0, 1.0, -1.0]), st.floats(width=32, allow_nan=False, allow_infinity=False))


def slow_ranks(values):
    """First and last rank among the values that are not NaN; None for NaN."""
    present = [x for x in values if x == x]
    return [(sum(y < x for y in present) + 1, sum(y <= x for y in present)) if x == x else None for x in values]


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, min_size=1, max_size=40), st.sampled_from([np.float32, np.float64]))
def test_ranks_in_rows_are_those_of_a_slow_count(values, dtype):
    expected = slow_ranks(values)
    for place_bits in (16, 0):  # with room for places beside values, and without
        before, selection._PLACE_BITS = selection._PLACE_BITS, place_bits
        try:
            first, last = ranks_in_rows(np.array([values, values[::-1]], dtype))
        finally:
            selection._PLACE_BITS = before
        for row, one in enumerate((expected, expected[::-1])):
            assert [None if rank is None else (first[row, i], last[row, i]) for i, rank in enumerate(one)] == one


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, min_size=1, max_size=20), st.integers(0, 25))
def test_the_highest_of_a_row_are_those_of_a_stable_sort(values, num_kept):
    order = sorted((i for i, x in enumerate(values) if x == x), key=lambda i: (-values[i], i))
    kept = highest(np.array([values]), np.array([num_kept]))[0]
    assert np.flatnonzero(kept).tolist() == sorted(order[:num_kept])


def each_of(parts, gathered):
    """Apply functions to parts, noting how many values come back at once."""

    def each(work):
        results = [work(part) for part in parts]
        gathered.append(sum(len(one[1]) for one in results if isinstance(one, tuple)))
        return results

    return each


@settings(deadline=None, max_examples=80)
@given(st.lists(st.lists(VALUES, max_size=12), min_size=1, max_size=8), st.sampled_from([1, 2, 61]), st.data())
def test_the_kth_highest_is_that_of_a_sort(lists, sampled, data):
    ordered = sorted((x for values in lists for x in values if x == x), reverse=True)
    if not ordered:
        return
    k = data.draw(st.integers(1, len(ordered)))
    before, selection._SAMPLED = selection._SAMPLED, sampled
    try:
        value, num_above, num_tied = kth_highest(each_of([np.array(values) for values in lists], []), len(ordered), k)
    finally:
        selection._SAMPLED = before
    assert value == ordered[k - 1]
    assert (num_above, num_tied) == (sum(x > value for x in ordered), ordered.count(value))


@pytest.mark.parametrize("is_odd", [False, True])
def test_few_values_are_gathered_for_the_kth_highest_unless_the_sample_misleads(is_odd):
    values = np.random.Generator(np.random.Philox(3)).standard_normal(61 * 4000)
    if is_odd:  # every value that is looked at is one of the lowest
        values = np.sort(values)
        values = np.concatenate([values[:4000, None], values[4000:].reshape(4000, 60)], axis=1).ravel()
    gathered = []
    k = len(values) // 3
    value, num_above, num_tied = kth_highest(each_of(np.split(values, 4), gathered), len(values), k)
    assert value == np.sort(values)[-k]
    assert (num_above, num_tied) == (k - 1, 1)
    if is_odd:
        assert gathered[-1] == len(values), "a second look takes all of them"
    else:
        assert len(gathered) == 2
        assert gathered[-1] < len(values) // 8


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 40))
def test_every_token_is_in_one_place_of_one_matrix(lengths, places):
    before, selection._MATRIX_PLACES = selection._MATRIX_PLACES, places
    try:
        seen, found = np.zeros(sum(lengths), int), np.zeros(sum(lengths))
        for rows in responses(np.array(lengths, np.int64)):
            values = rows.take(np.arange(sum(lengths), dtype=np.float64))
            assert np.isnan(values).sum() == (~rows.there_RN).sum()
            rows.put(found, values)
            np.add.at(seen, rows.places_RN[rows.there_RN], 1)
    finally:
        selection._MATRIX_PLACES = before
    assert (seen == 1).all()
    assert found.tolist() == list(range(sum(lengths)))


@pytest.mark.parametrize(
    ("keep", "counts", "expected"), [(0.07, [100, 0, 1], [7, 0, 1]), (1.0, [3], [3]), (0.0, [3], [0]), (1e-9, [5], [1])]
)
def test_a_share_is_rounded_up_without_binary_noise(keep, counts, expected):
    assert num_of_share(keep, np.array(counts)).tolist() == expected
