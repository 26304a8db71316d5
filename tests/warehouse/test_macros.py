"""Laws of warehouse/sql/schema/macros.sql: expressions that views and queries have in common agree with plain Python."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warehouse.connect import Warehouse


@pytest.fixture(scope="module")
def compute(tmp_path_factory):
    with Warehouse(tmp_path_factory.mktemp("macros")) as warehouse:
        yield lambda text, **parameters: warehouse.con.execute(f"SELECT {text}", parameters).fetchall()[0][0]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.uuids(), min_size=2, max_size=5))
def test_an_identity_keeps_its_digits_and_its_place_in_the_order(compute, ids):
    digits = [one.hex for one in ids]
    assert [compute("record.hex_id($id::UUID)", id=one) for one in digits] == digits
    in_order = compute("(SELECT list(record.hex_id(id) ORDER BY id) FROM (SELECT unnest($ids)::UUID AS id))", ids=digits)
    assert in_order == sorted(digits)


def test_no_identity_stays_none(compute):
    assert compute("record.hex_id(NULL::UUID)") is None
    assert compute("record.hex_id($id)", id=uuid.UUID(int=0)) == 32 * "0"


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_tokens_at_positions_are_those_at_their_indices(compute, drawn):
    size, chosen = drawn
    token_ids, positions = [100 + i for i in range(size)], sorted(chosen)
    found = compute("record.tokens_at($token_ids::INTEGER[], $positions::INTEGER[])", token_ids=token_ids, positions=positions)
    assert found == [token_ids[p] for p in positions]


@pytest.mark.parametrize(
    ("value", "expected"), [(-9, 0), (-4, 0), (-1.1, 0), (-0.9, 1), (-0.1, 1), (0, 2), (0.9, 2), (1.1, 3), (3.9, 3), (4, 3), (7, 3)]
)
def test_bins_are_equal_in_the_root(compute, value, expected):
    bounds = "record.signed_root(-4::DOUBLE), record.signed_root(4::DOUBLE)"
    assert compute(f"record.root_bin($value::DOUBLE, {bounds}, 4)", value=value) == expected


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@settings(deadline=None, max_examples=150)
@given(FLOATS, FLOATS)
def test_keys_of_ranks_are_in_the_order_of_the_values_and_shared_by_near_ones(compute, one, other):
    keys = [compute("record.rank_key($x::FLOAT)", x=x) for x in (one, other)]
    low, high = sorted((one, other))
    if keys[0] != keys[1]:
        assert (keys[0] < keys[1]) == (one < other)
    else:
        assert high - low <= max(abs(low), abs(high)) / 4096 or max(abs(low), abs(high)) < 1e-37


@pytest.mark.parametrize(("value", "sign"), [(0.0, 0), (-0.0, 0), (1e-30, 1), (-1e-30, -1), (3e38, 1), (-3e38, -1)])
def test_keys_have_the_sign_of_the_value(compute, value, sign):
    key = compute("record.rank_key($x::FLOAT)", x=value)
    assert (key > 0) - (key < 0) == sign


def test_near_values_of_few_bits_have_keys_of_their_own(compute):
    values = [1 + i / 4096 for i in range(64)]
    assert len({compute("record.rank_key($x::FLOAT)", x=x) for x in values}) == 64
    assert compute("record.rank_key(NULL::FLOAT)") is None


@settings(deadline=None, max_examples=40)
@given(st.none() | st.lists(st.none() | st.floats(-9, 9, width=32), max_size=6))
def test_values_are_counted_without_those_that_are_none(compute, values):
    assert (compute("record.num_values($values::FLOAT[])", values=values) or 0) == sum(one is not None for one in values or [])
