"""Laws of the frontier: what training on every token reaches is never beaten by itself, and the verdict needs more than chance."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.frontier import Arm, Gain, frontier, gain, gains, interval, verdict

BEFORE, SCALE = (4.0, 1.0), (1.0, 1.0)
LINE = frontier(BEFORE, [(2.0, 2.0), (3.0, 1.2), (3.5, 1.9)])
losses = st.floats(0.5, 5.0)


def arm(policy, target, retention, seed=0, rate=1e-3):
    return Arm(policy, rate, seed, target, retention, 1.0)


def test_the_frontier_goes_from_the_untrained_model_over_the_trainings_that_nothing_dominates():
    assert LINE[0] == BEFORE
    assert LINE[-1] == (2.0, 2.0)
    assert (3.0, 1.2) in LINE
    assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in pairwise(LINE))
    assert all(point[1] <= 1.0 + 0.2 + 1e-9 for point in LINE if point[0] >= 3.0)


def test_a_gain_is_the_shift_that_brings_a_point_onto_the_frontier():
    for point in LINE:
        assert gain(point, LINE, SCALE) == pytest.approx(0.0, abs=1e-12)
        for shift in (0.01, 0.1):  # away from the corner, where target loss has no further frontier
            if point[0] - shift >= 2.0 + shift:
                assert gain((point[0] - shift, point[1] - shift), LINE, SCALE) == pytest.approx(shift, abs=0.02)
            assert gain((point[0] + shift, point[1] + shift), LINE, SCALE) == pytest.approx(-shift, abs=0.02)


@given(losses, losses, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_less_loss_is_never_less_gain(target, retention, better_target, better_retention):
    worse, better = gain((target, retention), LINE, SCALE), gain((target - better_target, retention - better_retention), LINE, SCALE)
    assert math.isnan(worse) or math.isnan(better) or better >= worse - 1e-12


def test_nothing_is_said_of_a_point_behind_the_largest_learning_rate():
    assert math.isnan(gain((1.9, 2.1), LINE, SCALE))
    assert gain((1.9, 2.0), LINE, SCALE) > 0


def test_every_token_gains_nothing_and_units_are_what_it_changes():
    arms = [arm("full", 2.0, 2.0, seed) for seed in (0, 1)] + [arm("full", 3.0, 1.3, seed, 1e-4) for seed in (0, 1)]
    masked = [arm("mask", 2.5, 1.4, seed) for seed in (0, 1)]
    (found,) = gains(BEFORE, arms + masked)
    doubled = [Arm(a.policy, a.learning_rate, a.seed, 2 * a.target, 2 * a.retention, 1.0) for a in arms + masked]
    (same,) = gains((8.0, 2.0), doubled)
    assert found.by_seed == pytest.approx(same.by_seed)
    copies = [Arm("copy", a.learning_rate, a.seed, a.target, a.retention, 1.0) for a in arms]
    assert gains(BEFORE, arms + copies)[0].by_seed == pytest.approx((0.0, 0.0))


def test_an_axis_that_training_does_not_move_has_a_unit_that_its_noise_does_not_fill():
    arms = [arm("full", 2.0, 1.0001), arm("mask", 2.0, 0.999)]
    assert gains(BEFORE, arms)[0].mean == pytest.approx(0.0, abs=0.12)


def test_without_a_frontier_there_is_an_error_that_says_what_to_add():
    with pytest.raises(ValueError, match=r"policy 'full', which draws the frontier; add it to study\.policies"):
        gains(BEFORE, [arm("mask", 2.0, 2.0)])


def test_the_interval_is_students():
    low, high = interval([1.0, 2.0, 3.0], 0.95)
    assert (low + high) / 2 == pytest.approx(2.0)
    assert high - low == pytest.approx(2 * 4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom, from a table
    assert interval([1.0], 0.95) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("mask", "chance", "answer"),
    [
        ((0.10, 0.05, 0.15), 0.0, "yes"),
        ((0.10, -0.05, 0.25), 0.0, "not distinguishable"),
        ((-0.10, -0.15, -0.05), 0.0, "no ("),
        ((0.10, 0.05, 0.15), 0.12, "not distinguishable"),  # no better than random
    ],
)
def test_the_verdict(mask, chance, answer):
    best, control = Gain("mask", (mask[0],), mask[1], mask[2]), Gain("random", (chance,), chance - 0.01, chance + 0.01)
    assert f"on this data: {answer}" in verdict(sorted((best, control), key=lambda g: -g.mean))


def test_the_best_of_several_controls_is_the_bar_and_no_control_is_a_mask():
    gains_ = [Gain("random_more", (0.2,), 0.19, 0.21), Gain("mask", (0.1,), 0.05, 0.15), Gain("random", (0.0,), -0.01, 0.01)]
    told = verdict(gains_, ("random", "random_more"))
    assert ": no (best is 'mask', +0.100 [+0.050, +0.150] beyond it; random_more +0.200)" in told
    assert ": yes (best is 'mask'" in verdict(gains_[1:], ("random", "random_more"))
    assert "no random control" in verdict(gains_[1:2], ())
