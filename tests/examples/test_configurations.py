"""Laws of the configurations in examples/: each can be loaded, and policies named after a method keep what its formula says."""

from pathlib import Path

import numpy as np
import pytest

from bench.worlds.selections import keep_share, pooled, rank, zscore
from bench.worlds.values import TokenTable
from tasks.settings import load
from tests.warehouse.ids import full, short
from tests.warehouse.test_policies import Sequence, append, fill, mask_of, weights_of
from warehouse.connect import Warehouse
from warehouse.policies import COLUMNS, PolicySettings, write_mask
from warehouse.write import write_beta

EXAMPLES = Path(__file__).parents[2] / "examples"
BASELINES = load(EXAMPLES / "baselines.yaml").policy
LENGTHS = (1, 4, 12, 20)
FOUR = ("adapt_direct", "adapt_causal", "stab_direct", "stab_causal")


def four(columns, normalise):
    return sum(normalise(columns[name]) for name in FOUR)


def suspicion(columns):
    return rank(columns["adapt_causal"]) - rank(columns["ref_loss"])


FORMULAS = {
    **{name: lambda c, t, name=name: c[name] for name in (*FOUR, "el2n", "grad_norm", "entropy")},
    "four_zscores": lambda c, t: four(c, zscore),
    "four_zscores_pooled": lambda c, t: pooled(four(c, zscore), t, 9),
    "four_zscores_keep_90": lambda c, t: four(c, zscore),
    "four_ranks": lambda c, t: four(c, rank),
    "four_ranks_soft": lambda c, t: four(c, rank),
    "causal_minus_ref": lambda c, t: suspicion(c),
    "causal_minus_ref_pooled": lambda c, t: pooled(suspicion(c), t, 9),
    "causal_minus_ref_dataset": lambda c, t: pooled(suspicion(c), t, 9),
    "high_loss": lambda c, t: c["loss"],
    "low_loss": lambda c, t: -c["loss"],
    "low_ref_loss": lambda c, t: -c["ref_loss"],
    "excess_loss": lambda c, t: c["loss"] - c["ref_loss"],
    "loss_fall": lambda c, t: c["ref_loss"] - c["loss"],
    "likely_soft": lambda c, t: -c["loss"],
}
SHARES = {"four_zscores_keep_90": 0.9, "causal_minus_ref_dataset": 0.85, "four_ranks_soft": 1.0, "likely_soft": 1.0}


@pytest.fixture(scope="module")
def table():
    """Values of tokens without ties; the last token of each response ends its turn."""
    rng = np.random.default_rng(5)
    row = np.repeat(range(len(LENGTHS)), LENGTHS)
    columns = {name: np.float32(rng.normal(size=len(row))).astype(float) for name in COLUMNS}
    is_end = np.r_[row[1:] != row[:-1], True]
    place = np.concatenate([np.arange(n) for n in LENGTHS])
    return TokenTable(row=row, place=place, is_bad=np.zeros(len(row), bool), is_end=is_end, columns=columns)


@pytest.fixture(scope="module")
def warehouse(table, tmp_path_factory):
    """The same values in a warehouse."""
    sequences = [
        Sequence(f"s{i}", list(range(1, n + 1)), {name: c[table.row == i].tolist() for name, c in table.columns.items()}, end_of_turn=(n,))
        for i, n in enumerate(LENGTHS)
    ]
    with Warehouse(tmp_path_factory.mktemp("baselines") / "wh") as opened:
        fill(opened, sequences)
        yield opened


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_can_be_loaded_and_its_study_names_policies_there_are(path):
    config = load(path)
    assert all(config.policy_named(name) for name in (*config.study.policies, *config.policies()))


def test_every_baseline_has_a_formula():
    assert FORMULAS.keys() == {name for name, policy in BASELINES.items() if policy.select == "value" and not policy.compares}


@pytest.mark.parametrize("name", list(FORMULAS))
def test_a_baseline_keeps_the_tokens_that_its_formula_puts_first(warehouse, table, name):
    scope = "dataset" if name.endswith("dataset") else "response"
    expected = keep_share(FORMULAS[name](table.columns, table), table, SHARES.get(name, 0.7), scope)
    stored = mask_of(warehouse, BASELINES[name])
    flat = np.concatenate([stored[f"s{i}"] for i in range(len(LENGTHS))])
    least_one = np.array([any(expected[(table.row == r) & ~table.is_end]) or n == 1 for r, n in enumerate(LENGTHS)])
    assert least_one.all(), "min_kept decides nothing here"
    assert flat.tolist() == expected.tolist()


def test_soft_baselines_weigh_by_the_rank_of_the_score_in_its_response(warehouse, table):
    for name in ("four_ranks_soft", "likely_soft"):
        score, stored = FORMULAS[name](table.columns, table), weights_of(warehouse, BASELINES[name])
        for i, n in enumerate(LENGTHS):
            own = score[table.row == i][:-1]
            expected = [float((own <= value + 1e-9).mean()) for value in own] + [1.0]  # sums of ranks may tie
            assert stored[f"s{i}"] == pytest.approx(expected), f"{name}, response of {n}"


def test_sepo_keeps_the_tokens_of_highest_reward_of_chosen_and_of_lowest_of_rejected_responses(tmp_path):
    policies = load(EXAMPLES / "preference_baselines.yaml").policy
    rewards = {"good": [3.0, -2.0, 1.0, 0.5], "bad": [2.0, -1.0, -3.0, 0.0]}  # log π_oracle - log π_ref
    with Warehouse(tmp_path / "wh") as opened:
        fill(opened, [])
        values = dict.fromkeys(FOUR, [1.0] * 4)
        append(opened, [
            Sequence(name, [3, 4, 5, 6], {**values, "loss": [4.0 - r for r in reward], "ref_loss": [4.0] * 4}, sources=())
            for name, reward in rewards.items()
        ])  # fmt: skip
        opened.con.execute("INSERT INTO record.snapshot_examples VALUES ('snapshot', ?, 1, NULL, NULL, 'f', 1)", [full("a")])
        for branch, name in (("chosen", "good"), ("rejected", "bad")):
            opened.con.execute(
                "INSERT INTO record.example_sequences VALUES ('tok', ?, ?, ?, 0, 0, NULL, NULL)", [full("a"), branch, full(name)]
            )
        opened.con.execute(
            "INSERT INTO record.snapshots VALUES ('snapshot', 'train', 'preference', 1, 1, 0, 'run', TIMESTAMP '2026-01-01')"
        )
        opened.con.execute("INSERT INTO record.tokenizations VALUES ('tok', 'v', '{}', 'run', TIMESTAMP '2026-01-01')")
        write_beta(opened, 0.1)
        kept, weights = _pair_rows(opened, policies["sepo"]), _pair_rows(opened, policies["tis_ranks"])
    assert {name: [w > 0 for w in row] for name, row in kept.items()} == {
        "good": [True, False, True, False], "bad": [False, True, True, False],
    }  # fmt: skip
    assert weights == {"good": [1.0, 0.25, 0.75, 0.5], "bad": [0.25, 0.75, 1.0, 0.5]}


def _pair_rows(opened: Warehouse, settings: PolicySettings) -> dict[str, list[float]]:
    receipt = write_mask(opened, "policy", settings, "run")
    rows = opened.con.execute(
        "SELECT record.hex_id(sequence_id), coalesce(weight, keep::FLOAT[]) FROM record.mask_rows WHERE mask_id = ?", [receipt.mask_id]
    )
    return short(dict(rows.fetchall()))
