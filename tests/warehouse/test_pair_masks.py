"""Laws of masks of pairs: values count times ω, each branch by itself unless told otherwise, one mask for a response that several pairs share."""

import math

import pytest

from tests.warehouse.ids import full, short
from tests.warehouse.test_policies import Sequence, append, fill
from warehouse.connect import Warehouse
from warehouse.policies import PolicySettings, mask_identity, write_mask
from warehouse.policy_settings import BranchSettings
from warehouse.write import write_beta

PAIRS = [("a", "good", "bad"), ("b", "good", "worse"), ("c", "fine", "bad")]
"""(example, chosen, rejected): `good` and `bad` are shared by two examples each."""
VALUES = {"good": [4.0, 1.0, 2.0], "fine": [3.0, 0.5, 6.0], "bad": [-1.0, 5.0, 2.0], "worse": [7.0, -2.0, 1.0]}
LOSSES = {"good": [1.0, 1.0, 1.0], "fine": [2.0, 1.0, 0.5], "bad": [3.0, 0.1, 0.2], "worse": [0.5, 0.5, 0.5]}
REFERENCE = {"good": [3.0, 2.0, 2.0], "fine": [2.0, 1.0, 0.5], "bad": [1.0, 0.1, 0.2], "worse": [0.5, 1.5, 2.5]}


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    with Warehouse(tmp_path_factory.mktemp("pairs") / "wh") as opened:
        fill(opened, [])
        columns = [("adapt_direct", VALUES), ("adapt_causal", VALUES), ("stab_direct", VALUES), ("stab_causal", VALUES)]
        columns += [("loss", LOSSES), ("ref_loss", REFERENCE)]
        append(opened, [Sequence(name, [5, 6, 7], {column: values[name] for column, values in columns}, sources=()) for name in VALUES])
        for example, chosen, rejected in PAIRS:
            opened.con.execute("INSERT INTO record.snapshot_examples VALUES ('snapshot', ?, 1, NULL, NULL, 'f', 1)", [full(example)])
            for branch, name in (("chosen", chosen), ("rejected", rejected)):
                opened.con.execute(
                    "INSERT INTO record.example_sequences VALUES ('tok', ?, ?, ?, 0, 0, NULL, NULL)", [full(example), branch, full(name)]
                )
        opened.con.execute(
            "INSERT INTO record.snapshots VALUES ('snapshot', 'train', 'preference', 3, 3, 0, 'run', TIMESTAMP '2026-01-01')"
        )
        opened.con.execute("INSERT INTO record.tokenizations VALUES ('tok', 'v', '{}', 'run', TIMESTAMP '2026-01-01')")
        write_beta(opened, 0.5)
        yield opened


def omega(chosen, rejected, beta=0.5):
    ratio = {name: sum(REFERENCE[name]) - sum(LOSSES[name]) for name in (chosen, rejected)}
    return beta / (1 + math.exp(beta * (ratio[chosen] - ratio[rejected])))


def mean_omega(name):
    of_pairs = [omega(chosen, rejected) for _, chosen, rejected in PAIRS if name in (chosen, rejected)]
    return sum(of_pairs) / len(of_pairs)


def mask_of(warehouse, **settings):
    receipt = write_mask(warehouse, "policy", PolicySettings(**({"normalization": "none", "min_kept": 0} | settings)), "run")
    rows = "SELECT record.hex_id(sequence_id), keep FROM record.mask_values WHERE mask_id = ?"
    return short(dict(warehouse.con.execute(rows, [receipt.mask_id]).fetchall()))


def test_views_multiply_by_the_weight_of_the_pair_and_masks_by_the_mean(warehouse):
    rows = warehouse.con.execute(
        "SELECT example_id, sequence_id, list(adapt_direct ORDER BY position) FROM token_values GROUP BY ALL"
    ).fetchall()
    assert len(rows) == 6
    of = {example: omega(chosen, rejected) for example, chosen, rejected in PAIRS}
    for example, name, values in short(rows):
        assert values == pytest.approx([of[example] * v for v in VALUES[name]], rel=1e-6)
    weights = short(dict(warehouse.con.execute("SELECT record.hex_id(sequence_id), weight FROM record.sequence_weights").fetchall()))
    assert weights == pytest.approx({name: mean_omega(name) for name in VALUES}, rel=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8])
def test_the_best_of_a_branch_are_taken_by_value_times_weight(warehouse, share):
    kept = mask_of(warehouse, weights={"adapt_direct": 1.0}, scope="dataset", keep=share)
    for names in (("good", "fine"), ("bad", "worse")):
        ranked = sorted(((-mean_omega(name) * v, i, name) for name in names for i, v in enumerate(VALUES[name])))
        best = {(name, i) for _, i, name in ranked[: math.ceil(share * 6 - 1e-9)]}
        assert {(name, i) for name in names for i, keep in enumerate(kept[name]) if keep} == best


def test_across_branches_the_best_of_all_are_taken(warehouse):
    kept = mask_of(warehouse, weights={"adapt_direct": 1.0}, scope="dataset", keep=0.25, across_branches=True)
    ranked = sorted(((-mean_omega(name) * v, i, name) for name in VALUES for i, v in enumerate(VALUES[name])))
    assert {(name, i) for name in VALUES for i, keep in enumerate(kept[name]) if keep} == {(name, i) for _, i, name in ranked[:3]}


@pytest.mark.parametrize("normalization", ["zscore", "rank"])
def test_z_scores_and_ranks_are_of_weighted_values_within_the_branch(warehouse, normalization):
    threshold = 0.3
    kept = mask_of(warehouse, weights={"adapt_direct": 1.0}, normalization=normalization, scope="dataset", threshold=threshold)
    for names in (("good", "fine"), ("bad", "worse")):
        weighted = {(name, i): mean_omega(name) * v for name in names for i, v in enumerate(VALUES[name])}
        values = list(weighted.values())
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        for (name, i), value in weighted.items():
            rank = (sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2) / (len(values) - 1)
            assert kept[name][i] == ((value - mean) / deviation >= threshold if normalization == "zscore" else rank >= threshold)


def test_signals_have_no_weight(warehouse):
    kept = mask_of(warehouse, weights={"loss": 1.0}, scope="dataset", threshold=0.9)
    assert kept == {name: [loss >= 0.9 for loss in losses] for name, losses in LOSSES.items()}


def test_a_branch_may_have_another_share_threshold_or_score(warehouse):
    def of(**branch):
        return mask_of(warehouse, weights={"adapt_direct": 1.0}, keep=1 / 3, branches={"rejected": BranchSettings(**branch)})

    plain = mask_of(warehouse, weights={"adapt_direct": 1.0}, keep=1 / 3)
    assert plain == {"good": [True, False, False], "fine": [False, False, True], "bad": [False, True, False], "worse": [True, False, False]}
    for branch, expected in (
        ({"keep": 1.0}, {"bad": [True] * 3, "worse": [True] * 3}),
        ({"select": "all"}, {"bad": [True] * 3, "worse": [True] * 3}),
        ({"keep": 0.0}, {"bad": [False] * 3, "worse": [False] * 3}),
        ({"keep": 0.0, "min_kept": 1}, {"bad": [False, True, False], "worse": [True, False, False]}),
        ({"weights": {"loss": 1.0}}, {"bad": [True, False, False], "worse": [True, False, False]}),
        ({"expression": "-adapt_direct"}, {"bad": [True, False, False], "worse": [False, True, False]}),
        ({"threshold": 0.0}, {"bad": [False, True, True], "worse": [True, False, True]}),
    ):
        assert of(**branch) == plain | expected, branch


def test_beta_counts_where_values_of_a_direction_are_read_and_only_there():
    def depends(**settings):
        policy = PolicySettings(**settings)
        return mask_identity(policy, "s", "t", 0.1) != mask_identity(policy, "s", "t", 0.2)

    assert depends()
    assert depends(weights={"loss": 1.0}, branches={"rejected": BranchSettings(weights={"adapt_direct": 1.0})})
    assert depends(expression="rank_adapt_causal - loss")
    assert not depends(weights={"loss": 1.0})
    assert not depends(select="all")
    assert not depends(select="random")
    assert depends(select="random", threshold=0.5)


def test_settings_of_branches_do_not_count_for_single_responses():
    plain, special = PolicySettings(), PolicySettings(branches={"rejected": BranchSettings(keep=0.1)})
    assert mask_identity(plain, "s", "t") == mask_identity(special, "s", "t")
    assert len({mask_identity(one, "s", "t", 0.1) for one in (plain, special, PolicySettings(across_branches=True))}) == 3


def test_without_a_beta_pairs_have_no_mask(warehouse):
    warehouse.con.execute("DELETE FROM record.pointers WHERE name = 'beta'")
    with pytest.raises(ValueError, match="the training data are pairs and the warehouse has no β"):
        mask_of(warehouse)
    write_beta(warehouse, 0.5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"branches": {"sft": BranchSettings()}}, "branches: got sft, expected chosen or rejected"),
        ({"branches": {"chosen": BranchSettings()}, "across_branches": True}, "got both"),
        ({"branches": {"chosen": BranchSettings(keep=2.0)}}, "keep: got 2.0"),
        ({"branches": {"chosen": BranchSettings(expression="nonsense")}}, "nonsense"),
    ],
)
def test_settings_of_branches_out_of_bounds_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        PolicySettings(**settings)


@pytest.mark.parametrize("normalization", ["none", "zscore"])
def test_a_tiny_weight_changes_no_order_within_a_response(warehouse, normalization):
    write_beta(warehouse, 100.0)
    try:
        assert min(mean_omega_at(name, 100.0) for name in VALUES) < 1e-60
        kept = mask_of(warehouse, weights={"adapt_direct": 1.0, "stab_causal": 1.0}, normalization=normalization, keep=1 / 3)
    finally:
        write_beta(warehouse, 0.5)
    assert kept == {name: [v == max(values) for v in values] for name, values in VALUES.items()}


@pytest.mark.parametrize("soft", ["rank", "score"])
def test_a_branch_that_is_kept_whole_has_full_weights_beside_one_with_soft_weights(warehouse, soft):
    mask_of(warehouse, soft=soft, branches={"rejected": BranchSettings(select="all")})
    mask_id = warehouse.pointer("mask:policy")
    assert warehouse.run("stream/check_weights", mask_id=mask_id).fetchall() == []
    weights = short(
        dict(
            warehouse.con.execute(
                "SELECT record.hex_id(sequence_id), weight FROM record.mask_values WHERE mask_id = ?", [mask_id]
            ).fetchall()
        )
    )
    assert weights["bad"] == weights["worse"] == [1.0, 1.0, 1.0]
    assert any(weight not in (0, 1) for weight in weights["good"] + weights["fine"]) or soft == "score"


def mean_omega_at(name, beta):
    of_pairs = [omega(chosen, rejected, beta) for _, chosen, rejected in PAIRS if name in (chosen, rejected)]
    return sum(of_pairs) / len(of_pairs)
