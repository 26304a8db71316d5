"""Rules of warehouse/policies.py and sql/masks: small written-out tables, laws, and a slow reference that knows no SQL."""

import hashlib
import itertools
import json
import math
import random
from collections import defaultdict
from dataclasses import dataclass, replace

import polars as pl
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warehouse import policies
from warehouse.connect import Warehouse
from warehouse.policies import BUILT_IN, COLUMNS, PolicySettings, mask_identity, write_mask

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
        (s.name, list(range(max(s.positions, default=-1) + 1)), s.positions, list(s.end_of_turn), *(s.column(c) for c in COLUMNS))
        for s in sequences
    ]
    schema = {"id": pl.String, **dict.fromkeys(("tokens", "positions", "ends"), pl.List(pl.Int32)), **dict.fromkeys(COLUMNS, floats)}
    examples = [(f"{s.name}-{i}", s.name, source) for s in sequences for i, source in enumerate(s.sources)]
    warehouse.con.register("rows", pl.DataFrame(rows, schema, orient="row"))
    warehouse.con.register("links", pl.DataFrame(examples, {"example": pl.String, "id": pl.String, "source": pl.String}, orient="row"))
    for statement in (
        "INSERT INTO record.sequences SELECT id, tokens, positions, ends FROM rows",
        "INSERT INTO record.direction_values SELECT 'A', id, adapt_direct, adapt_causal, 0 FROM rows",
        "INSERT INTO record.direction_values SELECT 'S', id, stab_direct, stab_causal, 0 FROM rows",
        "INSERT INTO record.signal_values SELECT 'G', id, loss, entropy FROM rows",
        "INSERT INTO record.signal_values SELECT 'R', id, ref_loss, ref_loss FROM rows",
        "INSERT INTO record.snapshot_examples SELECT 'snapshot', example, 2, source, NULL, 'f', 1 FROM links",
        "INSERT INTO record.example_sequences SELECT 'tok', example, 'sft', id, 0, 0, NULL, NULL FROM links",
    ):
        warehouse.con.execute(statement)
    warehouse.con.unregister("rows")
    warehouse.con.unregister("links")


def mask_of(warehouse, policy_settings, policy="policy"):
    """Write the mask and read it back: name of the sequence to its list."""
    receipt = write_mask(warehouse, policy, policy_settings, "run")
    rows = warehouse.con.execute("SELECT sequence_id, keep FROM record.mask_values WHERE mask_id = ?", [receipt.mask_id]).fetchall()
    assert len(rows) == len(dict(rows)) == receipt.num_sequences
    assert sum(map(sum, dict(rows).values())) == receipt.num_kept
    return dict(rows)


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
    for name in ("default", "random"):
        assert mask_of(warehouse, replace(BUILT_IN[name], keep=1.0)) == {"s": [False, True, True], "none": [False], "empty": []}


# ---- laws


def test_random_has_the_rate_of_a_selection_by_value(warehouse):
    values = dict.fromkeys(COLUMNS[:4], [None] + [float(i) for i in range(24)])
    fill(warehouse, [Sequence(name, list(range(25)), values, end_of_turn=tuple(range(15, 25))) for name in "abcd"])
    for scope, num_kept in (("response", 4 * (10 + 7)), ("dataset", 40 + 28)):  # eligible: positions 1 to 14, half of them kept
        for name in ("default", "random"):
            mask = mask_of(warehouse, replace(BUILT_IN[name], keep=0.5, scope=scope))
            assert sum(map(sum, mask.values())) == num_kept
            assert not any(kept[0] for kept in mask.values())


def test_appended_sequences_do_not_reshuffle_random_in_the_scope_of_responses(warehouse):
    def sequences(names):
        return [Sequence(n, list(range(5, 25)), {"adapt_direct": [1.0] * 20}, sources=("x",)) for n in names]

    fill(warehouse, sequences("bdf"))
    before = mask_of(warehouse, BUILT_IN["random"])
    append(warehouse, sequences("aceg"))
    warehouse.point("snapshot", "snapshot")
    warehouse.con.execute("DELETE FROM record.receipts")  # the identity is unchanged here; a real append has another snapshot
    after = mask_of(warehouse, BUILT_IN["random"])
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
        for i in range(20_000)
    ]
    policy = PolicySettings(normalization=normalization, normalize_over="source", scope="dataset", keep=0.37, min_kept=0)
    masks, scores = [], []
    for name, num_threads in (("a", 1), ("b", 4)):
        with Warehouse(tmp_path / name) as warehouse:
            warehouse.con.execute(f"SET threads = {num_threads}")
            fill(warehouse, sequences)
            masks.append(mask_of(warehouse, policy))
            policies._score(warehouse, "policy", policy)
            scores.append(dict(warehouse.con.execute("SELECT sequence_id, scores FROM mask_scores").fetchall()))
        draw.shuffle(sequences)
    assert masks[0] == masks[1]
    assert scores[0] == scores[1]
    assert sum(map(sum, masks[0].values())) == math.ceil(0.37 * 80_000)


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
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(wrong, message):
    with pytest.raises(ValueError, match=message):
        PolicySettings(**wrong)


def test_settings_are_read_from_a_configuration_without_unknown_fields():
    read = pydantic.TypeAdapter(PolicySettings).validate_python
    assert read({}) == BUILT_IN["default"] == PolicySettings(weights=dict.fromkeys(COLUMNS[:4], 1.0))
    assert read({"weights": {"loss": 1}, "keep": 0.5}) == PolicySettings(weights={"loss": 1.0}, keep=0.5)
    with pytest.raises(pydantic.ValidationError, match="ratio"):
        read({"ratio": 0.5})


def test_an_identity_holds_what_the_mask_depends_on_and_nothing_else(monkeypatch):
    def identity(**rest):
        return mask_identity(PolicySettings(**rest), "scoring", "snapshot")

    same = [
        ({}, {"seed": 3}),
        ({}, {"weights": dict.fromkeys(COLUMNS[:4], 1) | {"loss": 0}}),
        ({"normalization": "none"}, {"normalization": "none", "normalize_over": "source"}),
        ({"select": "random"}, {"select": "random", "weights": {"loss": 1.0}, "normalization": "rank"}),
        ({"select": "all"}, {"select": "all", "keep": 0.1, "scope": "source"}),
    ]
    assert all(identity(**left) == identity(**right) for left, right in same)
    other = [
        {}, {"keep": 0.6}, {"scope": "source"}, {"min_kept": 2}, {"protect_end_of_turn": False}, {"normalization": "rank"},
        {"normalize_over": "source"}, {"weights": {"loss": 1.0}}, {"select": "random"}, {"select": "random", "seed": 1}, {"select": "all"},
    ]  # fmt: skip
    assert len({identity(**rest) for rest in other}) == len(other)
    assert mask_identity(PolicySettings(), "other", "snapshot") != identity() != mask_identity(PolicySettings(), "scoring", "other")
    before = identity()
    monkeypatch.setattr(policies, "CODE_VERSION", policies.CODE_VERSION + 1)
    assert identity() != before


# ---- against a slow reference


def reference_mask(sequences, policy):
    """The arithmetic of a policy token by token, in plain Python; sums run in the documented order, so floats agree to the last bit."""
    sequences = sorted(sequences, key=lambda s: s.name)
    if policy.select == "all":
        return {s.name: [True] * len(s.positions) for s in sequences}
    source = {s.name: min((x for x in s.sources if x is not None), default=None) for s in sequences}

    def group(s, over):
        return {"response": s.name, "source": source[s.name], "dataset": 0}[over]

    protected = {(s.name, p) for s in sequences for p in s.positions if policy.protect_end_of_turn and p in s.end_of_turn}
    scores = reference_scores(sequences, policy, group)
    order = {token: (-score, token[1], token[0]) for token, score in scores.items() if score is not None and token not in protected}
    scopes, responses = defaultdict(list), defaultdict(list)
    for s in sequences:
        mine = [(s.name, p) for p in s.positions if (s.name, p) in order]
        scopes[group(s, policy.scope)] += mine
        responses[s.name] += mine
    kept = set(protected)
    for tokens in scopes.values():
        kept |= set(sorted(tokens, key=order.get)[: math.ceil(round(policy.keep * len(tokens), 9))])
    for tokens in responses.values():
        kept |= set(sorted(tokens, key=order.get)[: policy.min_kept])
    return {s.name: [(s.name, p) in kept for p in s.positions] for s in sequences}


def reference_scores(sequences, policy, group):
    if policy.select == "random":
        return {
            (s.name, p): None if x is None else int.from_bytes(hashlib.md5(f"{policy.seed}:{s.name}:{p}".encode()).digest()[8:], "little")
            for s in sequences
            for p, x in zip(s.positions, s.column("adapt_direct"), strict=True)
        }
    scores = {(s.name, p): 0.0 for s in sequences for p in s.positions}
    largest = max(map(abs, policy.weights.values()))
    for name in COLUMNS:
        weight = policy.weights.get(name, 0.0) / largest
        if weight == 0:
            continue
        members = defaultdict(list)
        for s in sequences:
            members[group(s, policy.normalize_over)].append(s)
        for group_sequences in members.values():
            normalise = reference_normalisation([s.column(name) for s in group_sequences], policy.normalization)
            for s in group_sequences:
                for token, x in zip(((s.name, p) for p in s.positions), s.column(name), strict=True):
                    scores[token] = None if x is None or scores[token] is None else scores[token] + weight * normalise(x)
    return {token: None if score is None else to_37_bits(score) for token, score in scores.items()}


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
    mean = add(map(add, lists)) / len(values)
    factor = 1 / math.sqrt(add(add((x - mean) * (x - mean) for x in xs) for xs in lists) / len(values))
    return lambda x: (x - mean) * factor


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
    normalization=st.sampled_from(["none", "zscore", "rank"]),
    normalize_over=GROUPS,
    scope=GROUPS,
    keep=st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.floats(0.001, 1)),
    protect_end_of_turn=st.booleans(),
    min_kept=st.integers(0, 3),
    seed=st.integers(-3, 3),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sequences=drawn_sequences(), policy=POLICIES)
def test_masks_agree_with_the_reference(warehouse, sequences, policy):
    fill(warehouse, sequences)
    assert mask_of(warehouse, policy) == reference_mask(sequences, policy)
