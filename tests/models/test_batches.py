"""Laws of models/batches.py: a plan depends on contents alone and keeps its budget; padding changes nothing that counts."""

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.batches import collate, plan_batches

torch.set_num_threads(1)

LENGTHS = st.dictionaries(st.text("abc", max_size=4), st.integers(1, 40), max_size=25)


@given(LENGTHS, st.integers(1, 100))
def test_every_sequence_is_in_one_batch_and_none_is_over_the_budget_but_single_ones(lengths, budget):
    batches = plan_batches(lengths.items(), budget)
    assert sorted(s for batch in batches for s in batch) == sorted(lengths)
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[s] for s in batch) <= budget


@given(LENGTHS, st.integers(1, 100), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_given(lengths, budget, generator):
    shuffled = list(lengths.items())
    generator.shuffle(shuffled)
    assert plan_batches(shuffled, budget) == plan_batches(iter(lengths.items()), budget)


@given(LENGTHS, st.integers(1, 100))
def test_the_longest_come_first_ties_by_id_and_no_batch_has_room_for_the_next(lengths, budget):
    batches = plan_batches(lengths.items(), budget)
    flat = [s for batch in batches for s in batch]
    assert flat == sorted(lengths, key=lambda s: (-lengths[s], s))
    for one, following in itertools.pairwise(batches):
        assert (len(one) + 1) * lengths[one[0]] > budget, following


def test_a_plan_written_out():
    lengths = [("d", 4), ("a", 10), ("c", 4), ("b", 5), ("e", 1), ("f", 99)]
    assert plan_batches(lengths, 12) == [["f"], ["a"], ["b", "c"], ["d", "e"]]
    assert plan_batches([], 12) == []


# ---- padding


@pytest.mark.parametrize("pad_left", [False, True])
def test_a_batch_holds_each_sequence_with_its_weights_and_zeros_beside(pad_left):
    ids, responses = [[5, 6, 7], [8], [9, 4]], [[0, 2], [], [1]]
    batch = collate(ids, responses, pad_left=pad_left)
    expected = {
        False: ([[5, 6, 7], [8, 0, 0], [9, 4, 0]], [[1, 1, 1], [1, 0, 0], [1, 1, 0]], [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        True: ([[5, 6, 7], [0, 0, 8], [0, 9, 4]], [[1, 1, 1], [0, 0, 1], [0, 1, 1]], [[1, 0, 1], [0, 0, 0], [0, 0, 1]]),
    }[pad_left]
    assert (batch.input_ids_BT.tolist(), batch.attention_mask_BT.tolist(), batch.weights_BT.tolist()) == expected
    assert (batch.input_ids_BT.dtype, batch.attention_mask_BT.dtype, batch.weights_BT.dtype) == (torch.int64, torch.int64, torch.float32)


@pytest.mark.parametrize("pad_left", [False, True])
def test_positions_are_counted_over_tokens_on_either_side(pad_left):
    generator = random.Random(0)
    ids = [[generator.randrange(1, 9) for _ in range(n)] for n in (4, 1, 3)]
    batch = collate(ids, [[], [], []], pad_left=pad_left)
    positions = [batch.position_ids_BT[row][batch.attention_mask_BT[row] == 1].tolist() for row in range(3)]
    assert positions == [list(range(len(one))) for one in ids]
    assert batch.position_ids_BT.min() >= 0


def test_a_copy_to_a_device_is_the_same_batch():
    batch = collate([[1, 2], [3]], [[1], [0]])
    copy = batch.to("cpu")
    assert all(torch.equal(getattr(batch, name), getattr(copy, name)) for name in ("input_ids_BT", "attention_mask_BT", "weights_BT"))
