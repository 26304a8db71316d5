"""Rules of warehouse/policies.py and sql/masks: small written-out tables, laws, and a slow reference that knows no SQL."""

import hashlib
import itertools
import json
import math
import random
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.warehouse.ids import full, short
from warehouse import policies
from warehouse.connect import Warehouse
from warehouse.policies import BUILT_IN, COLUMNS, PolicySettings, mask_identity, write_mask
from warehouse.policy_settings import KNOWN
from warehouse.scores import ValueScores
from warehouse.token_columns import TokenColumns

TABLES = (
    "snapshot_examples", "example_sequences", "sequences", "direction_values", "signal_values", "scorings", "masks", "mask_values",
    "receipts", "pointers", "runs",
)  # fmt: skip


@dataclass
class Sequence:
    """A sequence as a test writes it: a column left out is all NULL; sources are those of the examples that share it."""

    name: str
    positions: list[int]
    values: dict[str, list[float | None]]
    end_of_turn: tuple[int, ...] = ()
    sources: tuple[str | None, ...] = (None,)

    def column(self, name):
        return self.values.get(name, [None] * len(self.positions))


def fill(warehouse, sequences):
    """Make the sequences the whole content of the warehouse, stored in the order given."""
    for table in TABLES:
        warehouse.con.execute(f"DELETE FROM record.{table}")
    append(warehouse, sequences)
    warehouse.con.execute("INSERT INTO record.scorings VALUES ('scoring', 'tok', 'A', 'S', 'G', 'R', '{}', 'run', TIMESTAMP '2026-01-01')")
    for name, value in {"scoring": "scoring", "snapshot": "snapshot", "tokenization": "tok"}.items():
        warehouse.point(name, value)


def append(warehouse, sequences):
    """Add sequences with their examples and values."""
    floats = pl.List(pl.Float32)
    rows = [
        (full(s.name), list(range(max(s.positions, default=-1) + 1)), s.positions, list(s.end_of_turn), *(s.column(c) for c in COLUMNS))
        for s in sequences
    ]
    schema = {"id": pl.String, **dict.fromkeys(("tokens", "positions", "ends"), pl.List(pl.Int32)), **dict.fromkeys(COLUMNS, floats)}
    examples = [(full(f"{s.name}-{i}"), full(s.name), source) for s in sequences for i, source in enumerate(s.sources)]
    warehouse.con.register("rows", pl.DataFrame(rows, schema, orient="row"))
    warehouse.con.register("links", pl.DataFrame(examples, {"example": pl.String, "id": pl.String, "source": pl.String}, orient="row"))
    for statement in (
        "INSERT INTO record.sequences SELECT id, tokens, positions, ends FROM rows",
        "INSERT INTO record.direction_values SELECT 'A', id, adapt_direct, adapt_causal, 0 FROM rows",
        "INSERT INTO record.direction_values SELECT 'S', id, stab_direct, stab_causal, 0 FROM rows",
        "INSERT INTO record.signal_values SELECT 'G', id, loss, entropy, margin, el2n, grad_norm FROM rows",
        "INSERT INTO record.signal_values SELECT 'R', id, ref_loss, ref_loss, NULL, NULL, NULL FROM rows",
        "INSERT INTO record.snapshot_examples SELECT 'snapshot', example, 2, source, NULL, 'f', 1 FROM links",
        "INSERT INTO record.example_sequences SELECT 'tok', example, 'sft', id, 0, 0, NULL, NULL FROM links",
    ):
        warehouse.con.execute(statement)
    warehouse.con.unregister("rows")
    warehouse.con.unregister("links")


def mask_of(warehouse, policy_settings, policy="policy"):
    """Write the mask and read it back: name of the sequence to its list."""
    receipt = write_mask(warehouse, policy, policy_settings, "run")
    query = "SELECT record.hex_id(sequence_id), keep, weight, num_tokens, num_kept FROM record.mask_rows WHERE mask_id = ?"
    rows = warehouse.con.execute(query, [receipt.mask_id]).fetchall()
    mask = {short(identity): keep for identity, keep, *_ in rows}
    assert [row[3:] for row in rows] == [(len(row[1]), sum(row[1])) for row in rows]
    assert len(rows) == len(mask) == receipt.num_sequences
    assert sum(map(sum, mask.values())) == receipt.num_kept
    for _, keep, weight, *_ in rows:  # kept = a weight above 0
        assert weight is None if policy_settings.soft == "none" or policy_settings.select == "all" else [w > 0 for w in weight] == keep
    return mask


def weights_of(warehouse, policy_settings):
    """Write the mask and read its weights back."""
    receipt = write_mask(warehouse, "policy", policy_settings, "run")
    query = "SELECT record.hex_id(sequence_id), weight FROM record.mask_rows WHERE mask_id = ?"
    return short(dict(warehouse.con.execute(query, [receipt.mask_id]).fetchall()))


def scores_of(warehouse, policy_settings, folder):
    """Compute the scores behind a mask: name of the sequence to its list."""
    folder.mkdir()
    columns = TokenColumns(warehouse, folder, policies._prepare(warehouse, "policy", policy_settings, warehouse.pointers()))
    scores = ValueScores(columns, policy_settings)
    flat = np.concatenate(columns.each(scores.of))
    names = short(warehouse.con.execute("SELECT record.hex_id(sequence_id) FROM mask_sequences ORDER BY place").fetchall())
    warehouse.run("masks/drop_sequences")
    return {name: part.tolist() for (name,), part in zip(names, np.split(flat, columns.starts[1:]), strict=True)}


def one(values, **rest):
    """A warehouse's worth: one sequence "s" with `loss` at positions 10, 11, ..."""
    return [Sequence("s", list(range(10, 10 + len(values))), {"loss": values}, **rest)]


def by_loss(**rest):
    return PolicySettings(**({"weights": {"loss": 1.0}, "normalization": "none"} | rest))


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    with Warehouse(tmp_path_factory.mktemp("policies") / "wh") as opened:
        yield opened


# ---- written-out masks


def test_the_highest_are_kept_ties_at_the_lower_position_null_never_and_end_of_turn_on_top(warehouse):
    fill(warehouse, one([1.0, None, 3.0, 1.0, 1.0, 0.0], end_of_turn=(15,)))  # eligible: 1, 3, 1, 1; half of them: the 3 and the first 1
    assert mask_of(warehouse, by_loss(keep=0.5)) == {"s": [True, False, True, False, False, True]}
    assert mask_of(warehouse, by_loss(keep=0.5, protect_end_of_turn=False)) == {"s": [True, False, True, True, False, False]}
    assert mask_of(warehouse, by_loss(keep=0.5, weights={"loss": -2})) == {"s": [True, False, False, True, False, True]}
    assert mask_of(warehouse, by_loss(keep=0.0, min_kept=0)) == {"s": [False, False, False, False, False, True]}


@pytest.mark.parametrize(
    ("keep", "num_eligible", "num_kept"),
    [(0.7, 10, 7), (0.1, 30, 3), (0.07, 100, 7), (2 / 3, 3, 2), (1 / 3, 3, 1), (0.29, 100, 29), (0.5, 3, 2), (1e-9, 5, 1), (1.0, 7, 7)],
)
def test_the_count_is_the_ceiling_of_the_share_without_binary_noise(warehouse, keep, num_eligible, num_kept):
    fill(warehouse, one([float(i) for i in range(num_eligible)]))
    for scope in ("response", "source", "dataset"):
        kept = mask_of(warehouse, by_loss(keep=keep, scope=scope, min_kept=0))["s"]
        assert kept == [False] * (num_eligible - num_kept) + [True] * num_kept


def test_wider_scopes_break_ties_by_position_then_sequence_and_keep_the_minimum_of_each_response(warehouse):
    tied = [Sequence(name, [4, 5], {"loss": [1.0, 1.0]}, sources=("x",)) for name in ("b", "a")]
    low = Sequence("c", [4, 5], {"loss": [0.0, 0.5]}, sources=("y",))
    fill(warehouse, [*tied, low])
    assert mask_of(warehouse, by_loss(scope="dataset", keep=0.5, min_kept=0)) == {
        "a": [True, True],
        "b": [True, False],
        "c": [False, False],
    }
    assert mask_of(warehouse, by_loss(scope="source", keep=0.25, min_kept=0)) == {
        "a": [True, False],
        "b": [False, False],
        "c": [False, True],
    }
    assert mask_of(warehouse, by_loss(scope="dataset", keep=0.0, min_kept=1)) == {
        "a": [True, False],
        "b": [True, False],
        "c": [False, True],
    }


def test_a_shared_sequence_counts_once_with_its_smallest_source(warehouse):
    shared = Sequence("a", [1, 2, 3], {"loss": [3.0, 3.0, 3.0]}, sources=("y", None, "x", "z"))
    fill(warehouse, [shared, Sequence("b", [1], {"loss": [9.0]}, sources=("x",)), Sequence("c", [1], {"loss": [0.0]}, sources=(None,))])
    assert mask_of(warehouse, by_loss(scope="source", keep=0.5, min_kept=0)) == {"a": [True, False, False], "b": [True], "c": [True]}


def test_a_constant_column_contributes_nothing(warehouse):
    # Three times 0.1 (as FLOAT) over three is not 0.1 in binary: a deviation from that mean would be tiny, and divided by.
    fill(warehouse, [Sequence("a", [1, 2, 3], {"loss": [0.1] * 3}), Sequence("b", [1, 2, 3], {"loss": [1.0, 2.0, 3.0]})])
    policy = by_loss(normalization="zscore", normalize_over="response", scope="dataset", min_kept=0)
    # The order: 1.22 (b, 3); four zeros: (a, 1), (a, 2), (b, 2), (a, 3); -1.22 (b, 1).
    assert mask_of(warehouse, replace(policy, keep=3 / 6)) == {"a": [True, True, False], "b": [False, False, True]}
    assert mask_of(warehouse, replace(policy, keep=4 / 6)) == {"a": [True, True, False], "b": [False, True, True]}


def test_ranks_that_sum_to_the_same_are_tied(warehouse):
    values = {"loss": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "entropy": [3.0, 2.0, 1.0, 0.0, 5.0, 4.0]}  # 0 + 0.6, 0.2 + 0.4, 0.4 + 0.2, 0.6 + 0
    fill(warehouse, [Sequence("s", list(range(1, 7)), values)])
    ranked = PolicySettings(weights={"loss": 1, "entropy": 1}, normalization="rank", keep=0.5)
    assert mask_of(warehouse, ranked) == {"s": [True, False, False, False, True, True]}


def test_ranks_are_averages_among_equals_and_one_half_for_a_lone_value(warehouse):
    ranked = PolicySettings(weights={"loss": 1, "entropy": 1}, normalization="rank", min_kept=0)
    fill(warehouse, [Sequence("s", [1, 2, 3], {"loss": [1.0, 0.0, 1.0], "entropy": [0.0, 2.0, 1.0]})])  # 3/4 + 0, 0 + 1, 3/4 + 1/2
    assert mask_of(warehouse, replace(ranked, keep=1 / 3)) == {"s": [False, False, True]}
    assert mask_of(warehouse, replace(ranked, keep=2 / 3)) == {"s": [False, True, True]}
    fill(warehouse, [Sequence("a", [1], {"loss": [7.0]}), Sequence("b", [1, 2, 3], {"loss": [1.0, 2.0, 3.0]})])
    lone = by_loss(normalization="rank", normalize_over="response", scope="dataset", min_kept=0)
    assert mask_of(warehouse, replace(lone, keep=1 / 4)) == {"a": [False], "b": [False, False, True]}
    assert mask_of(warehouse, replace(lone, keep=2 / 4)) == {"a": [True], "b": [False, False, True]}


def test_full_keeps_every_response_token_and_the_others_none_without_a_loss(warehouse):
    direct = [None, 1.0, 2.0]
    fill(warehouse, [Sequence("s", [0, 1, 2], dict.fromkeys(COLUMNS[:4], direct)), Sequence("none", [0], {}), Sequence("empty", [], {})])
    assert mask_of(warehouse, BUILT_IN["full"]) == {"s": [True, True, True], "none": [True], "empty": []}
    for policy in (PolicySettings(keep=1.0), PolicySettings(select="random", keep=1.0)):
        assert mask_of(warehouse, policy) == {"s": [False, True, True], "none": [False], "empty": []}


def test_a_threshold_keeps_every_score_that_reaches_it_in_units_of_the_score_and_the_minimum_of_each_response(warehouse):
    low = Sequence("t", [1, 2], {"loss": [0.1, 0.2]})
    fill(warehouse, [*one([1.0, None, 3.0, 2.0, 0.0], end_of_turn=(14,)), low])
    for scope in ("response", "source", "dataset"):
        policy = by_loss(threshold=2.0, scope=scope, weights={"loss": 2.0})  # twice the loss
        assert mask_of(warehouse, policy) == {"s": [True, False, True, True, True], "t": [False, True]}
        assert mask_of(warehouse, replace(policy, min_kept=0)) == {"s": [True, False, True, True, True], "t": [False, False]}
    sums = by_loss(threshold=0.3, weights={"loss": 1.0, "entropy": 1.0}, min_kept=0)
    fill(warehouse, [Sequence("s", [1, 2], {"loss": [0.125, 0.125], "entropy": [0.175, 0.1749]})])
    assert mask_of(warehouse, sums) == {"s": [False, False]}  # 0.175 as FLOAT is below 0.175
    assert mask_of(warehouse, replace(sums, threshold=float(np.float32(0.175)) + 0.125)) == {"s": [True, False]}


def test_random_with_a_threshold_keeps_as_many_of_each_scope_as_the_selection_by_value(warehouse):
    draw = random.Random(1)
    sequences = [
        Sequence(name, list(range(1, 41)), {c: [draw.gauss(0, 1) for _ in range(40)] for c in COLUMNS[:4]}, sources=(name[0],))
        for name in ("xa", "xb", "ya", "yb")
    ]
    fill(warehouse, sequences)
    for scope, num_scopes in (("response", 4), ("source", 2), ("dataset", 1)):
        policy = PolicySettings(threshold=0.5, scope=scope, min_kept=0)
        counted = []
        for select in ("value", "random"):
            mask, sizes = mask_of(warehouse, replace(policy, select=select)), defaultdict(int)
            for name, keep in mask.items():
                sizes[{"response": name, "source": name[0], "dataset": 0}[scope]] += sum(keep)
            counted.append(sizes)
        assert counted[0] == counted[1]
        assert len(counted[0]) == num_scopes
        assert 0 < sum(counted[0].values()) < 160


def test_a_window_takes_the_mean_of_the_scores_around_a_token_and_ends_with_the_response(warehouse):
    fill(warehouse, one([0.0, 9.0, 0.0, 0.0, 6.0, None, 6.0]))  # means of three: 4.5, 3, 3, 2, 3 (of two), none, 6
    assert mask_of(warehouse, by_loss(window=3, threshold=3.0)) == {"s": [True, True, True, False, True, False, True]}
    gap = Sequence("s", [1, 2, 3, 7, 8, 9], {"loss": [0.0, 0.0, 3.0, 3.0, 0.0, 0.0]})  # two turns: 3 and 7 are no neighbours
    fill(warehouse, [gap])
    assert mask_of(warehouse, by_loss(window=3, threshold=1.5)) == {"s": [False, False, True, True, False, False]}
    assert mask_of(warehouse, by_loss(window=3, threshold=1.6, min_kept=0)) == {"s": [False] * 6}


def test_soft_weights_are_shares_of_the_scope_and_one_for_protected_tokens(warehouse):
    fill(warehouse, one([1.0, None, 3.0, 1.0, 2.0, 0.0], end_of_turn=(15,)))
    assert weights_of(warehouse, by_loss(soft="rank", keep=1.0)) == {"s": [0.5, 0.0, 1.0, 0.5, 0.75, 1.0]}
    assert weights_of(warehouse, by_loss(soft="rank", keep=0.5)) == {"s": [0.0, 0.0, 1.0, 0.0, 0.75, 1.0]}
    fill(warehouse, [*one([1.0, 2.0]), Sequence("t", [4, 5], {"loss": [2.0, 3.0]})])
    assert weights_of(warehouse, by_loss(soft="rank", keep=1.0, scope="dataset")) == {"s": [0.25, 0.75], "t": [0.75, 1.0]}
    write_mask(warehouse, "hard", by_loss(keep=0.5), "run")
    shown = warehouse.con.execute(
        "SELECT sequence_id, position, keep, weight FROM token_masks WHERE policy = 'hard' ORDER BY sequence_id, position"
    ).fetchall()
    assert short(shown) == [("s", 10, False, 0.0), ("s", 11, True, 1.0), ("t", 4, False, 0.0), ("t", 5, True, 1.0)]
    assert mask_of(warehouse, by_loss(soft="rank", keep=0.5)) == mask_of(warehouse, by_loss(keep=0.5))


def test_a_score_is_a_weight_within_zero_and_one(warehouse):
    fill(warehouse, [*one([0.5, None, 4.0, -1.0, 0.25, 0.0], end_of_turn=(15,)), Sequence("t", [3, 4], {"loss": [0.75, 2.0]})])
    assert weights_of(warehouse, by_loss(soft="score", keep=1.0)) == {"s": [0.5, 0.0, 1.0, 0.0, 0.25, 1.0], "t": [0.75, 1.0]}
    dataset = by_loss(soft="score", keep=0.5, scope="dataset")
    assert weights_of(warehouse, dataset) == {"s": [0.0, 0.0, 1.0, 0.0, 0.0, 1.0], "t": [0.75, 1.0]}
    dft = PolicySettings(expression="exp(-loss)", soft="score", keep=1.0)
    found = weights_of(warehouse, dft)["t"]
    assert found == pytest.approx([math.exp(-0.75), math.exp(-2.0)], rel=1e-6)
    with pytest.raises(ValueError, match="scores at random are no weights"):
        PolicySettings(select="random", soft="score")


def test_an_optional_signal_that_was_not_asked_for_is_an_error_that_says_so(warehouse):
    fill(warehouse, [Sequence("s", [1, 2], {"loss": [1.0, 2.0], "el2n": [2.0, 1.0]})])
    assert mask_of(warehouse, by_loss(weights={"el2n": 1.0}, keep=0.5)) == {"s": [True, False]}
    assert mask_of(warehouse, PolicySettings(expression="-el2n", keep=0.5)) == {"s": [False, True]}
    warehouse.con.execute("UPDATE record.signal_values SET el2n = NULL").fetchall()
    for policy in (by_loss(weights={"el2n": 2.0}), PolicySettings(expression="zscore_el2n")):
        with pytest.raises(
            ValueError, match=r"policy 'mine' reads el2n, which the current scoring does not hold; add it to scoring.signals"
        ):
            write_mask(warehouse, "mine", policy, "run")
    assert temporary_tables(warehouse) == []


def test_an_expression_that_fails_on_some_value_is_an_error_that_says_how_to_guard_it(warehouse):
    fill(warehouse, one([1.0, -1.0, 2e10]))
    whole = (
        r"policy 'mine': the expression 'loss::INTEGER' cannot be computed of some token's values: .*out of range.*; guard it, as in CASE"
    )
    with pytest.raises(ValueError, match=whole):
        write_mask(warehouse, "mine", PolicySettings(expression="loss::INTEGER"), "run")
    assert temporary_tables(warehouse) == []
    guarded = PolicySettings(expression="CASE WHEN loss < 1e9 THEN loss::INTEGER END", keep=1.0)
    assert mask_of(warehouse, guarded) == {"s": [True, True, False]}
    assert mask_of(warehouse, PolicySettings(expression="exp(loss)", keep=1.0)) == {"s": [True, True, False]}  # infinite: no score


# ---- laws


def test_random_has_the_rate_of_a_selection_by_value(warehouse):
    values = dict.fromkeys(COLUMNS[:4], [None] + [float(i) for i in range(24)])
    fill(warehouse, [Sequence(name, list(range(25)), values, end_of_turn=tuple(range(15, 25))) for name in "abcd"])
    for scope, num_kept in (("response", 4 * (10 + 7)), ("dataset", 40 + 28)):  # eligible: positions 1 to 14, half of them kept
        for select in ("value", "random"):
            mask = mask_of(warehouse, PolicySettings(select=select, keep=0.5, scope=scope))
            assert sum(map(sum, mask.values())) == num_kept
            assert not any(kept[0] for kept in mask.values())


def test_appended_sequences_do_not_reshuffle_random_in_the_scope_of_responses(warehouse):
    def sequences(names):
        return [Sequence(n, list(range(5, 25)), {"adapt_direct": [1.0] * 20}, sources=("x",)) for n in names]

    fill(warehouse, sequences("bdf"))
    before = mask_of(warehouse, PolicySettings(select="random"))
    append(warehouse, sequences("aceg"))
    warehouse.point("snapshot", "snapshot")
    warehouse.con.execute("DELETE FROM record.receipts")  # the identity is unchanged here; a real append has another snapshot
    after = mask_of(warehouse, PolicySettings(select="random"))
    assert {name: after[name] for name in before} == before
    assert len(after) == 7
    assert {sum(kept) for kept in after.values()} == {14}
    assert len({tuple(kept) for kept in after.values()}) == 7
    assert mask_of(warehouse, PolicySettings(select="random", seed=1)) != after


@pytest.mark.parametrize("normalization", ["zscore", "rank"])
def test_storage_order_and_threads_do_not_change_a_mask(tmp_path, normalization):
    draw = random.Random(0)

    def value():  # large ones that cancel: the order of a sum then shows in more than its last bits
        return draw.gauss(0, 1) if draw.random() < 0.99 else draw.choice([-1e8, 1e8])

    sequences = [
        Sequence(f"{i:05}", [1, 2, 3, 4], {c: [value() for _ in range(4)] for c in COLUMNS[:4]}, sources=(draw.choice("xyz"),))
        for i in range(6_000)
    ]
    policy = PolicySettings(normalization=normalization, normalize_over="source", scope="dataset", keep=0.37, min_kept=0)
    masks, scores = [], []
    for name, num_threads in (("a", 1), ("b", 4)):
        with Warehouse(tmp_path / name) as warehouse:
            warehouse.con.execute(f"SET threads = {num_threads}")
            fill(warehouse, sequences)
            masks.append(mask_of(warehouse, policy))
            scores.append(scores_of(warehouse, policy, tmp_path / f"{name}-columns"))
        draw.shuffle(sequences)
    assert masks[0] == masks[1]
    assert scores[0] == scores[1]
    assert sum(map(sum, masks[0].values())) == math.ceil(0.37 * 24_000)


INDEPENDENT = [
    PolicySettings(select="random"), BUILT_IN["full"], by_loss(keep=0.5), PolicySettings(expression="loss - entropy", keep=0.3), by_loss(soft="rank"),
    PolicySettings(normalize_over="response", weights={"loss": 1.0, "entropy": 1.0}, keep=0.5, window=3), by_loss(threshold=0.1),
    PolicySettings(select="random", threshold=0.1, weights={"loss": 1.0}, normalization="none"),
]  # fmt: skip
"""Policies whose rows do not depend on other sequences."""


def drawn(names, seed):
    draw = random.Random(seed)
    columns = ("adapt_direct", "loss", "entropy")
    return [Sequence(n, list(range(1, 12)), {c: [draw.gauss(0, 1) for _ in range(11)] for c in columns}, (11,)) for n in names]


def change_snapshot(warehouse, snapshot_id, gone):
    """Make a snapshot of all examples but those of one sequence the current one."""
    warehouse.con.execute(
        "INSERT INTO record.snapshot_examples SELECT $1, example_id, multiplicity, source, extra, file, line FROM record.snapshot_examples "
        "WHERE snapshot_id = 'snapshot' "
        "AND example_id NOT IN (SELECT example_id FROM record.example_sequences WHERE sequence_id = $2::UUID)",
        [snapshot_id, full(gone)],
    )  # fmt: skip
    warehouse.point("snapshot", snapshot_id)


@pytest.mark.parametrize("policy", INDEPENDENT, ids=range(len(INDEPENDENT)))
def test_rows_that_depend_on_no_other_sequence_are_kept_for_another_snapshot_and_say_what_a_new_mask_would(warehouse, policy):
    old, new = drawn("abc", 0), drawn("xy", 1)
    fill(warehouse, old)
    first = write_mask(warehouse, "mine", policy, "run")
    rows = warehouse.con.execute("SELECT rowid, * FROM record.mask_values ORDER BY rowid").fetchall()
    append(warehouse, new)
    change_snapshot(warehouse, "next", "b")
    second = write_mask(warehouse, "mine", policy, "run")
    assert second.written
    assert second.mask_id != first.mask_id
    assert warehouse.con.execute("SELECT rowid, * FROM record.mask_values ORDER BY rowid").fetchall()[: len(rows)] == rows
    assert len(rows) == 3
    assert warehouse.con.execute("SELECT count(*) FROM record.mask_values").fetchone() == (5,)  # those of x and y came
    shown = "SELECT sequence_id, list(keep ORDER BY position), list(weight ORDER BY position) FROM token_masks GROUP BY ALL ORDER BY ALL"
    incremental = warehouse.con.execute(shown).fetchall()
    assert [name for name, _, _ in short(incremental)] == ["a", "c", "x", "y"]
    fill(warehouse, [s for s in (*old, *new) if s.name != "b"])
    fresh = write_mask(warehouse, "mine", policy, "run")
    assert warehouse.con.execute(shown).fetchall() == incremental
    assert (fresh.num_tokens, fresh.num_kept, fresh.num_sequences) == (second.num_tokens, second.num_kept, second.num_sequences)
    warehouse.con.execute("DELETE FROM record.masks")


def test_a_snapshot_that_comes_back_needs_no_new_rows(warehouse):
    fill(warehouse, drawn("abc", 0))
    change_snapshot(warehouse, "next", "b")
    smaller = write_mask(warehouse, "mine", by_loss(), "run")
    warehouse.point("snapshot", "snapshot")
    larger = write_mask(warehouse, "mine", by_loss(), "run")
    assert (smaller.num_sequences, larger.num_sequences) == (2, 3)
    assert warehouse.con.execute("SELECT count(*) FROM record.mask_values").fetchone() == (3,)
    warehouse.point("snapshot", "next")
    assert write_mask(warehouse, "mine", by_loss(), "run") == replace(smaller, written=False)


def test_rows_that_depend_on_the_data_set_are_made_anew_for_another_snapshot(warehouse):
    for dependent in (
        PolicySettings(weights={"loss": 1.0}),
        by_loss(scope="dataset"),
        by_loss(scope="source"),
        by_loss(normalization="rank"),
    ):
        assert not dependent.is_independent()
        fill(warehouse, drawn("abc", 0))
        write_mask(warehouse, "mine", dependent, "run")
        change_snapshot(warehouse, "next", "b")
        write_mask(warehouse, "mine", dependent, "run")
        assert warehouse.con.execute("SELECT count(*) FROM record.mask_values").fetchone() == (5,)


def counts(warehouse):
    return {table: warehouse.con.execute(f"SELECT count(*) FROM record.{table}").fetchone() for table in TABLES}


def temporary_tables(warehouse):
    return warehouse.con.execute("SELECT table_name FROM duckdb_tables() WHERE temporary").fetchall()


def test_a_second_call_writes_nothing_and_another_name_for_the_same_policy_only_its_pointer(warehouse):
    fill(warehouse, one([1.0, 2.0, 3.0]))
    first = write_mask(warehouse, "mine", by_loss(), "run")
    assert (first.written, first.num_tokens, first.num_kept, first.num_sequences) == (True, 3, 3, 1)
    before = counts(warehouse)
    second = write_mask(warehouse, "mine", by_loss(), "other run")
    assert second == replace(first, written=False)
    assert counts(warehouse) == before
    third = write_mask(warehouse, "yours", by_loss(seed=5), "run")
    assert third == replace(first, policy="yours", written=False)
    assert counts(warehouse) == before | {"pointers": (before["pointers"][0] + 1,)}
    assert warehouse.pointer("mask:mine") == warehouse.pointer("mask:yours") == first.mask_id
    settings_text = warehouse.con.execute("SELECT settings FROM masks").fetchone()[0]
    assert PolicySettings(**json.loads(settings_text)) == by_loss()
    assert warehouse.con.execute("SELECT stage, num_rows FROM record.receipts").fetchall() == [("mask", 1)]
    assert temporary_tables(warehouse) == []


def test_a_failing_commit_leaves_nothing(warehouse, monkeypatch):
    fill(warehouse, one([1.0, 2.0, 3.0]))
    before = counts(warehouse)

    def fail(name, value):
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(warehouse, "point", fail)
        with pytest.raises(RuntimeError, match="boom"):
            write_mask(warehouse, "mine", by_loss(), "run")
    assert counts(warehouse) == before
    assert temporary_tables(warehouse) == []
    assert write_mask(warehouse, "mine", by_loss(), "run").written


def test_a_mask_without_its_receipt_is_made_again(warehouse):
    fill(warehouse, one([1.0, 2.0, 3.0]))
    write_mask(warehouse, "mine", by_loss(), "run")
    before = counts(warehouse)
    warehouse.con.execute("DELETE FROM record.receipts")
    assert write_mask(warehouse, "mine", by_loss(), "run").written
    assert counts(warehouse) == before


def test_what_is_missing_is_said(warehouse):
    fill(warehouse, one([1.0]))
    warehouse.con.execute("DELETE FROM record.signal_values WHERE signals_id = 'R'")
    with pytest.raises(ValueError, match="0 of the 1 sequences"):
        write_mask(warehouse, "mine", by_loss(), "run")
    assert temporary_tables(warehouse) == []
    for name in ("snapshot", "scoring"):
        warehouse.run("runs/delete_pointer", name=name)
        with pytest.raises(ValueError, match=f"no current {name}"):
            write_mask(warehouse, "mine", by_loss(), "run")


# ---- settings and identity


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"select": "best"}, "expected one of value, random, all"),
        ({"normalization": "softmax"}, "expected one of none, zscore, rank"),
        ({"scope": "batch"}, "expected one of response, source, dataset"),
        ({"normalize_over": "batch"}, "expected one of response, source, dataset"),
        ({"keep": 1.5}, "got 1.5, expected a share between 0 and 1"),
        ({"keep": math.nan}, "got nan"),
        ({"min_kept": -1}, "got -1"),
        ({"weights": {"adapt_dirct": 1.0}}, "did you mean 'adapt_direct'"),
        ({"weights": {"loss": math.inf}}, "got inf for loss"),
        ({"weights": {"loss": 0.0}}, "weight other than 0"),
        ({"weights": {}}, "weight other than 0"),
        ({"soft": "logistic"}, "expected one of none, rank, score"),
        ({"window": 4}, "got 4, expected an odd number"),
        ({"window": -1}, "got -1, expected an odd number"),
        ({"threshold": math.inf}, "got inf, expected a finite number"),
        ({"threshold": math.nan}, "got nan, expected a finite number"),
        ({"expression": "adapt_dirct"}, "did you mean 'adapt_direct'"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(wrong, message):
    with pytest.raises(ValueError, match=message):
        PolicySettings(**wrong)


def test_settings_are_read_from_a_configuration_without_unknown_fields():
    read = pydantic.TypeAdapter(PolicySettings).validate_python
    assert read({}) == PolicySettings(weights=dict.fromkeys(COLUMNS[:4], 1.0), keep=0.7)
    assert read({"weights": {"loss": 1}, "keep": 0.5}) == PolicySettings(weights={"loss": 1.0}, keep=0.5)
    with pytest.raises(pydantic.ValidationError, match="ratio"):
        read({"ratio": 0.5})


def test_the_default_compares_single_responses_with_the_validation_set_and_keeps_a_share_of_each_branch_of_pairs():
    default, random = BUILT_IN["default"], BUILT_IN["random"]
    assert default.parts(has_pairs=False) == [(None, PolicySettings(expression="-ref_loss", keep="auto"))]
    components = [part.decisive() for _, part in PolicySettings().parts(has_pairs=True)]
    assert [part.decisive() for _, part in default.parts(has_pairs=True)] == components
    assert default.compares
    assert not default.needs_folds  # no value along D_A is read, so no direction of a fold is made
    assert replace(random, select="value") == default


def test_an_identity_holds_what_the_mask_depends_on_and_nothing_else(monkeypatch):
    def identity(**rest):
        return mask_identity(PolicySettings(**rest), "scoring", "snapshot")

    same = [
        ({}, {"seed": 3}),
        ({}, {"weights": dict.fromkeys(COLUMNS[:4], 1) | {"loss": 0}}),
        ({"normalization": "none"}, {"normalization": "none", "normalize_over": "source"}),
        ({"select": "random"}, {"select": "random", "weights": {"loss": 1.0}, "normalization": "rank"}),
        ({"select": "all"}, {"select": "all", "keep": 0.1, "scope": "source"}),
        ({"select": "all"}, {"select": "all", "soft": "rank", "window": 3, "threshold": 1.0}),
        ({"select": "random"}, {"select": "random", "window": 3, "expression": "loss"}),
        ({"threshold": 1.0}, {"threshold": 1.0, "keep": 0.2}),
        ({"expression": "loss-1"}, {"expression": "(loss - 1) -- mine", "weights": {"loss": 1.0}, "normalization": "rank"}),
        ({"expression": "loss"}, {"expression": "LOSS", "normalize_over": "source"}),
    ]
    assert all(identity(**left) == identity(**right) for left, right in same)
    other = [
        {}, {"keep": 0.6}, {"scope": "source"}, {"min_kept": 2}, {"protect_end_of_turn": False}, {"normalization": "rank"},
        {"normalize_over": "source"}, {"weights": {"loss": 1.0}}, {"select": "random"}, {"select": "random", "seed": 1}, {"select": "all"},
        {"threshold": 1.0}, {"threshold": 2.0}, {"window": 3}, {"soft": "rank"}, {"select": "random", "soft": "rank"}, {"expression": "loss"},
        {"expression": "zscore_loss"}, {"expression": "zscore_loss", "normalize_over": "source"}, {"select": "random", "threshold": 1.0},
        {"select": "random", "threshold": 1.0, "window": 3},
    ]  # fmt: skip
    assert len({identity(**rest) for rest in other}) == len(other)
    assert mask_identity(PolicySettings(), "other", "snapshot") != identity() != mask_identity(PolicySettings(), "scoring", "other")
    before = identity()
    monkeypatch.setattr(policies, "CODE_VERSION", policies.CODE_VERSION + 1)
    assert identity() != before


# ---- against a slow reference


def reference_weights(sequences, policy):
    """The arithmetic of a policy token by token, in plain Python; sums run in the documented order, so floats agree to the last bit.

    Kept tokens have a weight above 0: what it is matters for soft policies.
    """
    sequences = sorted(sequences, key=lambda s: s.name)
    if policy.select == "all":
        return {s.name: [1.0] * len(s.positions) for s in sequences}
    source = {s.name: min((x for x in s.sources if x is not None), default=None) for s in sequences}

    def group(s, over):
        return {"response": s.name, "source": source[s.name], "dataset": 0}[over]

    protected = {(s.name, p) for s in sequences for p in s.positions if policy.protect_end_of_turn and p in s.end_of_turn}
    by_value = reference_scores(sequences, replace(policy, select="value"), group) if policy.threshold is not None else {}
    scores = reference_scores(sequences, policy, group)
    order = {token: (-score, token[1], token[0]) for token, score in scores.items() if score is not None and token not in protected}
    scopes, responses, names = defaultdict(list), defaultdict(list), defaultdict(list)
    for s in sequences:
        mine = [(s.name, p) for p in s.positions if (s.name, p) in order]
        scopes[group(s, policy.scope)] += mine
        names[group(s, policy.scope)].append(s.name)
        responses[s.name] += mine
    kept = set(protected)
    for scope, tokens in scopes.items():
        num_kept = math.ceil(round(policy.keep * len(tokens), 9))
        if policy.threshold is not None:
            threshold = to_37_bits(policy.threshold / scale(policy))
            num_kept = sum(t[0] in names[scope] and t not in protected and x is not None and x >= threshold for t, x in by_value.items())
        kept |= set(sorted(tokens, key=order.get)[:num_kept])
    for tokens in responses.values():
        kept |= set(sorted(tokens, key=order.get)[: policy.min_kept])
    weights = dict.fromkeys(protected, 1.0) | {
        token: float(np.float32(sum(scores[other] <= scores[token] for other in tokens) / len(tokens)))
        for tokens in scopes.values()
        for token in tokens
    }
    return {s.name: [weights[s.name, p] if (s.name, p) in kept else 0.0 for p in s.positions] for s in sequences}


def scale(policy):
    return 1.0 if policy.expression is not None else max(map(abs, policy.weights.values()))


def reference_scores(sequences, policy, group):
    if policy.select == "random":
        return {
            (s.name, p): None if x is None else random_score(policy.seed, s.name, p)
            for s in sequences
            for p, x in zip(s.positions, s.column("adapt_direct"), strict=True)
        }
    columns = {name: reference_column(sequences, policy, group, name) for name in KNOWN}
    tokens = {(s.name, p): {name: columns[name][s.name, p] for name in KNOWN} for s in sequences for p in s.positions}
    if policy.expression is not None:
        scores = {token: finite(EXPRESSIONS[policy.expression](values)) for token, values in tokens.items()}
    else:
        scores = {token: reference_sum(values, policy) for token, values in tokens.items()}
    pooled = {}
    for s in sequences:
        for p in s.positions:
            around = [scores[s.name, q] for q in s.positions if abs(q - p) <= policy.window // 2]
            around = [x for x in around if x is not None]
            own = scores[s.name, p]
            pooled[s.name, p] = own if own is None or policy.window == 1 else add(around) / len(around)
    return {token: None if score is None else to_37_bits(score) for token, score in pooled.items()}


def reference_sum(values, policy):
    prefix = "" if policy.normalization == "none" else f"{policy.normalization}_"
    terms = [
        (policy.weights[column] / scale(policy), values[prefix + column]) for column in COLUMNS if policy.weights.get(column, 0.0) != 0
    ]
    return None if any(x is None for _, x in terms) else add(weight * x for weight, x in terms)


def reference_column(sequences, policy, group, name):
    """One column of an expression, of every token: as it is stored, as z-scores or as ranks."""
    form, column = next(((f, name.removeprefix(f"{f}_")) for f in ("zscore", "rank") if name.startswith(f)), ("none", name))
    members, found = defaultdict(list), {}
    for s in sequences:
        members[group(s, policy.normalize_over)].append(s)
    for group_sequences in members.values():
        normalise = reference_normalisation([s.column(column) for s in group_sequences], form)
        for s in group_sequences:
            for p, x in zip(s.positions, s.column(column), strict=True):
                found[s.name, p] = None if x is None else normalise(x)
    return found


def finite(score):
    return None if score is None or not abs(score) <= 1e300 else score


def strict_in(*names):
    """NULL where a column is NULL, as most of SQL."""

    def decorate(function):
        return lambda values: None if any(values[n] is None for n in names) else function(*(values[n] for n in names))

    return decorate


EXPRESSIONS = {
    "adapt_direct - 0.5 * loss": strict_in("adapt_direct", "loss")(lambda a, b: a - 0.5 * b),
    "zscore_stab_causal + rank_entropy": strict_in("zscore_stab_causal", "rank_entropy")(lambda a, b: a + b),
    "coalesce(loss, -1) * 2": lambda v: (-1.0 if v["loss"] is None else v["loss"]) * 2,
    "CASE WHEN loss > 0.5 AND entropy IS NOT NULL THEN abs(entropy) ELSE -adapt_direct END": lambda v: (
        (None if v["entropy"] is None else abs(v["entropy"]))
        if v["loss"] is not None and v["loss"] > 0.5 and v["entropy"] is not None
        else (None if v["adapt_direct"] is None else -v["adapt_direct"])
    ),
    "greatest(loss, entropy)": lambda v: max((x for x in (v["loss"], v["entropy"]) if x is not None), default=None),
    "loss BETWEEN 0 AND 1": strict_in("loss")(lambda a: float(0 <= a <= 1)),
    "rank_adapt_direct - rank_loss": strict_in("rank_adapt_direct", "rank_loss")(lambda a, b: a - b),
}
"""Expressions of SQL and the same in Python."""


def reference_normalisation(lists, normalization):
    lists = [[x for x in values if x is not None] for values in lists]
    values = list(itertools.chain(*lists))
    if normalization == "none":
        return lambda x: x
    if normalization == "rank":
        if len(values) <= 1:
            return lambda x: 0.5
        return lambda x: (sum(y < x for y in values) + (sum(y == x for y in values) - 1) / 2) / (len(values) - 1)
    if len(set(values)) <= 1:
        return lambda x: 0.0
    lists = [xs for xs in lists if xs]
    mean = add(map(add, lists)) / len(values)
    square = add(add((x - mean) * (x - mean) for x in xs) for xs in lists)
    factor = 1 / math.sqrt(square / len(values))
    return lambda x: (x - mean) * factor


def random_score(seed, name, position):
    """37 bits of SplitMix64 of the position, keyed by MD5 of the seed and the sequence's digits."""
    key = int.from_bytes(hashlib.md5(f"{seed}:{full(name)}".encode()).digest(), "little") >> 64
    mixed = (key + (position + 1) * 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * factor % 2**64
    return float((mixed ^ (mixed >> 31)) >> 27)


def add(numbers):
    total = 0.0
    for number in numbers:
        total += number
    return total


def to_37_bits(score):
    mantissa, exponent = math.frexp(score)
    return math.ldexp(round(mantissa * 2**37), exponent - 37)


VALUES = st.one_of(
    st.none(),
    st.sampled_from([-1.0, 0.0, 0.25, 1.0]),
    st.floats(-4, 4, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def drawn_sequences(draw):
    sequences = []
    for name in draw(st.lists(st.sampled_from("abcdefg"), unique=True, max_size=5)):
        positions = sorted(draw(st.sets(st.integers(0, 8), max_size=6)))
        lists = st.lists(VALUES, min_size=len(positions), max_size=len(positions))
        values = {column: draw(lists) for column in ("adapt_direct", "stab_causal", "loss", "entropy")}
        sources = draw(st.lists(st.sampled_from(["x", "y", None]), min_size=1, max_size=2))
        sequences.append(Sequence(name, positions, values, tuple(draw(st.sets(st.integers(0, 8), max_size=2))), tuple(sources)))
    return sequences


GROUPS = st.sampled_from(["response", "source", "dataset"])
POLICIES = st.builds(
    PolicySettings,
    select=st.sampled_from(["value", "value", "value", "random", "all"]),
    weights=st.dictionaries(
        st.sampled_from(["adapt_direct", "stab_causal", "loss", "entropy"]), st.sampled_from([1.0, -1.0, 0.3, 2.0]), min_size=1
    ),
    expression=st.one_of(st.none(), st.none(), st.sampled_from(sorted(EXPRESSIONS))),
    normalization=st.sampled_from(["none", "zscore", "rank"]),
    normalize_over=GROUPS,
    window=st.sampled_from([1, 1, 3, 5, 15]),
    scope=GROUPS,
    keep=st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.floats(0.001, 1)),
    threshold=st.one_of(st.none(), st.none(), st.sampled_from([-1.0, 0.0, 0.25, 0.5]), st.floats(-3, 3)),
    soft=st.sampled_from(["none", "none", "rank"]),
    protect_end_of_turn=st.booleans(),
    min_kept=st.integers(0, 3),
    seed=st.integers(-3, 3),
)


@settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sequences=drawn_sequences(), policy=POLICIES)
def test_masks_agree_with_the_reference(warehouse, sequences, policy):
    fill(warehouse, sequences)
    expected = reference_weights(sequences, policy)
    assert mask_of(warehouse, policy) == {name: [weight > 0 for weight in weights] for name, weights in expected.items()}
    if policy.soft == "rank" and policy.select != "all":
        assert weights_of(warehouse, policy) == expected


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sequences=drawn_sequences(), policy=POLICIES, seed=st.integers(0, 99))
def test_the_order_of_storage_does_not_change_masks_or_weights(warehouse, sequences, policy, seed):
    policy = replace(policy, soft="rank")
    fill(warehouse, sequences)
    before = mask_of(warehouse, policy), weights_of(warehouse, policy)
    random.Random(seed).shuffle(sequences)
    fill(warehouse, sequences)
    assert (mask_of(warehouse, policy), weights_of(warehouse, policy)) == before
