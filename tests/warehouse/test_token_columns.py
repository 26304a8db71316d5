"""Laws of warehouse/token_columns.py: columns in memory and in files hold the same, whatever the order in which lists come."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from tests.warehouse.test_policies import POLICIES, Sequence, drawn_sequences, fill, mask_of, policies, weights_of
from warehouse import ranking, token_columns
from warehouse.connect import Warehouse
from warehouse.token_columns import TokenColumns, by_group


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    with Warehouse(tmp_path_factory.mktemp("columns") / "wh") as opened:
        yield opened


def spread(patch):
    """Nothing is held, blocks and ranges are tiny."""
    patch.setattr(token_columns, "_HELD_BYTES", 0)
    patch.setattr(token_columns, "_BLOCK_TOKENS", 3)
    patch.setattr(token_columns, "_BATCH_SEQUENCES", 2)
    patch.setattr(ranking, "_RANGE_VALUES", 2)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sequences=drawn_sequences(), policy=POLICIES)
def test_masks_of_columns_in_files_are_those_of_columns_in_memory(warehouse, sequences, policy):
    fill(warehouse, sequences)
    expected = mask_of(warehouse, policy), weights_of(warehouse, policy)
    fill(warehouse, sequences)
    with pytest.MonkeyPatch.context() as patch:
        spread(patch)
        assert (mask_of(warehouse, policy), weights_of(warehouse, policy)) == expected


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_lists_are_put_where_their_sequences_lie_and_null_lists_are_nan(warehouse, tmp_path, monkeypatch, held):
    lengths = [3, 0, 1, 4, 2]
    fill(
        warehouse,
        [
            Sequence(f"s{i}", list(range(5, 5 + n)), {"loss": [i + j / 8 for j in range(n)], "adapt_direct": [3.0] * n})
            for i, n in enumerate(lengths)
        ],
    )
    spread(monkeypatch)
    monkeypatch.setattr(token_columns, "_HELD_BYTES", held)
    columns = TokenColumns(warehouse, tmp_path, policies._prepare(warehouse, "policy", policies.BUILT_IN["default"], warehouse.pointers()))
    expected = np.concatenate([i + np.arange(n) / 8 for i, n in enumerate(lengths)]).astype(np.float32)
    columns.read_values(["loss"])
    assert np.array_equal(np.concatenate([columns.of("loss", block) for block in columns.blocks()]), expected)

    columns._make("shuffled", np.float32)  # lists in any order, one of them NULL
    flat = np.split(expected, np.cumsum(lengths)[:-1])
    columns._clear("shuffled", np.array([3]))
    for places in ([4, 0], [1, 2]):
        columns._place("shuffled", np.array(places), pa.array([flat[i].tolist() for i in places], pa.list_(pa.float32())))
    found = np.concatenate([columns.of("shuffled", block) for block in columns.blocks()])
    assert np.array_equal(found, np.where(np.floor(expected) == 3, np.nan, expected), equal_nan=True)

    some = list(columns.blocks_of(np.array([4, 1, 0])))
    assert [block.sequences.tolist() for block in some] == [[4], [0]]  # one without tokens is in no block
    assert np.concatenate([columns.of("loss", block) for block in some]).tolist() == [*flat[4], *flat[0]]
    columns.weights = np.arange(5) / 2
    assert np.concatenate([columns.values("loss", block) for block in some]).tolist() == [*flat[4], *flat[0]]
    columns.read_values(["adapt_direct"])
    assert np.concatenate([columns.values("adapt_direct", block) for block in some]).tolist() == [6.0] * 2 + [0.0] * 3
    columns.drop("loss")
    assert not (tmp_path / "loss").exists()
    warehouse.run("masks/drop_sequences")


def test_a_list_of_another_length_is_damage(warehouse, tmp_path):
    fill(warehouse, [Sequence("s", [5, 6], {"loss": [1.0, 2.0]})])
    columns = TokenColumns(warehouse, tmp_path, policies._prepare(warehouse, "policy", policies.BUILT_IN["default"], warehouse.pointers()))
    columns._make("loss", np.float32)
    with pytest.raises(ValueError, match=r"values of 1 sequences are not as many as their response tokens"):
        columns._place("loss", np.array([0]), pa.array([[1.0]], pa.list_(pa.float32())))
    warehouse.run("masks/drop_sequences")


def test_columns_are_read_with_the_others_of_their_group():
    groups = by_group(["adapt_direct", "ref_loss", "loss", "stab_causal", "adapt_causal", "grad_norm"])
    assert groups == {
        "adapt": {"direct": "adapt_direct", "causal": "adapt_causal"}, "ref_signals": {"loss": "ref_loss"},
        "signals": {"loss": "loss", "grad_norm": "grad_norm"}, "stab": {"causal": "stab_causal"},
    }  # fmt: skip


def test_results_of_many_blocks_come_in_order_and_a_failing_one_is_told(warehouse, tmp_path, monkeypatch):
    fill(warehouse, [Sequence(f"s{i:02}", [5, 6], {"loss": [float(i), 0.0]}) for i in range(40)])
    spread(monkeypatch)
    columns = TokenColumns(warehouse, tmp_path, policies._prepare(warehouse, "policy", policies.BUILT_IN["default"], warehouse.pointers()))
    columns.read_values(["loss", "adapt_direct"])
    firsts = columns.each(lambda block: int(columns.of("loss", block)[0]))
    assert len(firsts) > 4 * columns.num_workers
    assert firsts == sorted(firsts)
    assert columns.each(lambda block: block.num_tokens, columns.blocks_of(np.array([7]))) == [2]
    with pytest.raises(ZeroDivisionError):
        columns.each(lambda block: 1 // int(columns.of("loss", block)[0]))  # the first sequence's loss is 0
    warehouse.run("masks/drop_sequences")
