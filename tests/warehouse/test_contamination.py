"""Laws of warehouse/contamination.py and of `keep: auto`: clean data are kept, the mask is that of the threshold found, what counts is compared."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.warehouse.ids import filled
from tests.warehouse.test_policies import Sequence, fill, mask_of
from warehouse.connect import Warehouse
from warehouse.contamination import compare
from warehouse.policies import PolicySettings, write_mask


def found_in(train, clean):
    return compare(lambda edges: np.bincount(np.searchsorted(edges, train, "right"), minlength=len(edges) + 1), clean)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_cauchy"])
@pytest.mark.parametrize("num_clean", [60, 3000])
def test_clean_data_are_kept_whatever_the_shape_of_the_scores(seed, draw, num_clean):
    rng = np.random.default_rng(seed)
    found = found_in(getattr(rng, draw)(size=20000), getattr(rng, draw)(size=num_clean))
    assert found.below_threshold < 0.005
    assert found.num_clean == num_clean


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_a_mixture_is_taken_apart_where_its_densities_are_equal(share):
    rng = np.random.default_rng(1)
    bad = round(share * 40000)
    train = np.r_[rng.normal(-4, 1, bad), rng.normal(0, 1, 40000 - bad)]
    found = found_in(train, rng.normal(size=8000))
    assert found.clean_share == pytest.approx(1 - share, abs=0.05)
    equal = -2 + math.log(share / (1 - share)) / 4  # where share · N(s; -4) = (1 - share) · N(s; 0)
    assert found.threshold == pytest.approx(equal, abs=0.25)
    assert found.below_threshold == np.mean(train < found.threshold)


def test_a_few_tokens_below_all_clean_ones_prove_nothing_and_many_do():
    clean = np.linspace(0, 1, 100)
    assert found_in(np.r_[np.linspace(0, 1, 1000), [-5.0] * 3], clean).threshold is None
    assert found_in(np.r_[np.linspace(0, 1, 1000), [-5.0] * 300], clean).threshold == 0


def test_scores_that_cannot_be_compared_are_told():
    for train, clean in ((np.empty(0), np.ones(3)), (np.ones(3), np.empty(0))):
        with pytest.raises(ValueError, match="no scores to compare"):
            found_in(train, clean)


def draw_sequences(rng, prefix, num, bad_share):
    """Responses of 12 tokens and an end of turn; bad tokens have a low loss column and a low direct value."""
    sequences = []
    for i in range(num):
        values = {name: rng.normal(size=13) for name in ("adapt_direct", "loss")}
        is_bad = rng.random(12) < bad_share
        for column in values.values():
            column[:12][is_bad] -= 6
        listed = {name: [round(float(v), 3) for v in column] for name, column in values.items()}
        listed["loss"][3] = None if i % 3 == 0 else listed["loss"][3]
        sequences.append(Sequence(f"{prefix}{i:03d}", list(range(1, 14)), listed, end_of_turn=(13,), sources=("s",)))
    return sequences


def fill_both(warehouse, train, clean):
    """Make training and validation data the whole content of the warehouse; adaptation values of the latter under an identity of their own."""
    fill(warehouse, [*clean, *train])
    members = "SELECT example_id FROM record.example_sequences WHERE record.hex_id(sequence_id) LIKE 'id:v%'"
    for statement in (
        f"UPDATE record.snapshot_examples SET snapshot_id = 'validation' WHERE example_id IN ({members})",
        "UPDATE record.direction_values SET values_id = 'H' WHERE values_id = 'A' AND record.hex_id(sequence_id) LIKE 'id:v%'",
    ):
        warehouse.con.execute(filled(statement))
    settings = json.dumps({"held_out_of": "scoring"})
    warehouse.con.execute(
        "INSERT INTO record.scorings VALUES ('held', 'tok', 'H', 'S', 'G', 'R', ?, 'run', TIMESTAMP '2026-01-01')", [settings]
    )
    warehouse.point("held_out", "held")
    warehouse.point("validation", "validation")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    rng = np.random.default_rng(3)
    with Warehouse(tmp_path_factory.mktemp("auto") / "wh") as opened:
        fill_both(opened, draw_sequences(rng, "t", 80, 0.25), draw_sequences(rng, "v", 40, 0.0))
        yield opened


AUTO = PolicySettings(weights={"adapt_direct": 2.0, "loss": 1.0}, keep="auto", min_kept=0)


@pytest.mark.parametrize("normalization", ["none", "zscore", "rank"])
@pytest.mark.parametrize(("over", "window", "scope"), [("dataset", 1, "response"), ("dataset", 3, "dataset"), ("response", 1, "response")])
def test_the_mask_is_that_of_the_threshold_which_is_found(warehouse, normalization, over, window, scope):
    auto = replace(AUTO, normalization=normalization, normalize_over=over, window=window, scope=scope)
    mask = mask_of(warehouse, auto)
    told = json.loads(
        warehouse.con.execute("SELECT settings FROM record.masks WHERE mask_id = ?", [warehouse.pointer("mask:policy")]).fetchone()[0]
    )
    assert told["auto"]["held_out_scoring"] == "held"
    assert told["auto"]["num_clean"] == 40 * 12 - 14  # without ends of turns, and without those that have no loss
    assert told["keep"] == "auto"
    threshold = told["auto"]["threshold"]
    assert mask == mask_of(warehouse, replace(auto, keep=0.5, threshold=-1e290 if threshold is None else threshold))
    kept = np.mean([k for row in mask.values() for k in row])
    if over == "dataset" and window == 1:  # in a response ranks and z-scores hide how many are bad, and a window blurs it
        assert kept == pytest.approx(0.75, abs=0.08)


def test_random_keeps_as_many_of_each_response(warehouse):
    by_value, at_random = mask_of(warehouse, AUTO), mask_of(warehouse, replace(AUTO, select="random"))
    assert {name: sum(row) for name, row in by_value.items()} == {name: sum(row) for name, row in at_random.items()}
    assert by_value != at_random


def test_a_mask_of_much_is_doubted_aloud(warehouse, tmp_path, told):
    mask_of(warehouse, replace(AUTO, seed=1))  # a quarter is bad
    assert "unlike the validation set" not in told.text
    rng = np.random.default_rng(6)
    with Warehouse(tmp_path / "wh") as bad:
        fill_both(bad, draw_sequences(rng, "t", 60, 0.6), draw_sequences(rng, "v", 40, 0.0))
        mask_of(bad, AUTO)
    assert "unlike the validation set" in told.text
    assert "kept_by_source" in told.text


def test_clean_training_data_are_kept(tmp_path):
    rng = np.random.default_rng(4)
    with Warehouse(tmp_path / "wh") as clean:
        fill_both(clean, draw_sequences(rng, "t", 60, 0.0), draw_sequences(rng, "v", 40, 0.0))
        mask = mask_of(clean, AUTO)
    dropped = sum(not k for row in mask.values() for k in row)
    assert dropped - 20 < 0.01 * 60 * 13  # 20 have no loss, hence no score


def test_values_of_the_validation_set_are_asked_for_where_they_are_missing(warehouse, tmp_path):
    with Warehouse(tmp_path / "wh") as other:
        rng = np.random.default_rng(5)
        fill_both(other, draw_sequences(rng, "t", 10, 0.0), draw_sequences(rng, "v", 10, 0.0))
        other.con.execute(filled("DELETE FROM record.direction_values WHERE values_id = 'H' AND sequence_id = 'id:v003'"))
        with pytest.raises(ValueError, match="9 of the 10 sequences of the validation set have values"):
            write_mask(other, "auto", AUTO, "run")
        other.point("held_out", "another")
        with pytest.raises(ValueError, match="run `alphatoken value` with this policy in the configuration"):
            write_mask(other, "auto", AUTO, "run")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"keep": "some"}, "expected a share between 0 and 1, such as 0.7 for seven tokens in ten, or auto"),
        ({"keep": "auto", "threshold": 0.0}, "keep and threshold: got auto and a threshold"),
        ({"keep": "auto", "normalize_over": "source"}, "may have other sources"),
    ],
)
def test_what_auto_cannot_be_is_told(settings, told):
    with pytest.raises((ValueError, TypeError), match=told):
        PolicySettings(**settings)
