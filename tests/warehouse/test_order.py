"""Laws of warehouse/order.py: nothing is lost or doubled, budgets hold, ranks make equal numbers of steps, sources come by their weights."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.order import EpochPlan, Planner, StreamSettings, _cut

NAMES = (None, "books", "code", "web")


@dataclass(frozen=True)
class Case:
    settings: StreamSettings
    world_size: int
    lengths: np.ndarray
    codes: np.ndarray
    sources: tuple

    def planner(self, world_size=None, **changes) -> Planner:
        settings = StreamSettings(**{**vars(self.settings), **changes})
        return Planner(settings, world_size or self.world_size, self.lengths, self.codes, self.sources)


@st.composite
def cases(draw, weighted=None, sized=None):
    """Streams of a few sequences with every kind of setting."""
    num_sources = draw(st.integers(1, 4))
    has_weights = draw(st.booleans()) if weighted is None else weighted
    per_source = [draw(st.integers(6 if has_weights else 1, 25)) for _ in range(num_sources)]  # enough for the smallest weight
    codes = np.repeat(np.arange(num_sources, dtype=np.int16), per_source)
    seed = draw(st.integers(0, 2**64 - 1))
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, draw(st.sampled_from([2, 9, 60])), len(codes))
    generator.shuffle(codes)
    weights = {name: draw(st.sampled_from([0.5, 1, 2.25])) for name in NAMES[:num_sources]} if has_weights else None
    by_size = draw(st.booleans()) if sized is None else sized
    size = {"batch_size": draw(st.integers(1, 12))} if by_size else {"batch_tokens": draw(st.integers(1, 90))}
    settings = StreamSettings(seed=seed, bucket_window=draw(st.sampled_from([0, 0, 1, 7, 32, 1000])), source_weights=weights, **size)
    return Case(settings, draw(st.integers(1, 8)), lengths, codes, NAMES[:num_sources])


def steps_of(plan: EpochPlan) -> list[list[list[int]]]:
    """The rows of every step and rank."""
    return [[plan.rows(step, rank).tolist() for rank in range(plan.world_size)] for step in range(plan.num_batches)]


def flat(steps) -> list[int]:
    return [row for step in steps for rows in step for row in rows]


@given(cases(weighted=False), st.integers(0, 5))
def test_every_epoch_is_a_permutation_over_all_ranks_whatever_the_buckets_and_budgets(case, epoch):
    plan = case.planner().plan(epoch)
    assert sorted(flat(steps_of(plan))) == list(range(len(case.lengths)))


@given(cases(), st.integers(0, 3))
def test_the_same_epoch_is_the_same_plan_and_needs_no_other(case, epoch):
    planner = case.planner()
    for other in (epoch + 1, 0):
        planner.plan(other)
    assert steps_of(planner.plan(epoch)) == steps_of(case.planner().plan(epoch))


@given(cases(sized=False), st.integers(0, 3))
def test_the_token_budget_holds_but_for_a_single_long_sequence(case, epoch):
    planner = case.planner(world_size=1)
    plan = planner.plan(epoch)
    for (rows,) in steps_of(plan):
        padded = len(rows) * case.lengths[rows].max()
        assert padded <= case.settings.batch_tokens or len(rows) == 1
        assert rows


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 20), st.integers(1, 100))
def test_cuts_are_greedy(lengths, window, budget):
    cuts = _cut(np.array(lengths, dtype=np.int64), window, budget).tolist()
    assert cuts[0] == 0
    assert cuts[-1] == len(lengths)
    for begin, end in pairwise(cuts):
        assert begin < end
        assert begin // window == (end - 1) // window
        at_a_border = end == len(lengths) or end % window == 0
        assert at_a_border or (end + 1 - begin) * max(lengths[begin : end + 1]) > budget


@given(cases(sized=False), st.integers(0, 3))
def test_batches_of_a_token_budget_do_not_depend_on_the_number_of_ranks(case, epoch):
    alone = [rows for (rows,) in steps_of(case.planner(world_size=1).plan(epoch))]
    together = [rows for step in steps_of(case.planner().plan(epoch)) for rows in step]
    assert together[: len(alone)] == alone
    assert all(not rows for rows in together[len(alone) :])
    assert len(together) - len(alone) < case.world_size


@given(cases(sized=True), st.integers(0, 3))
def test_global_batches_of_a_size_depend_on_the_product_alone_and_are_shared_evenly(case, epoch):
    steps = steps_of(case.planner().plan(epoch))
    whole = steps_of(case.planner(world_size=1, batch_size=case.settings.batch_size * case.world_size).plan(epoch))
    assert [sorted(flat([step])) for step in steps] == [sorted(rows) for (rows,) in whole]
    for step in steps:
        sizes = [len(rows) for rows in step]
        assert max(sizes) <= case.settings.batch_size
        assert max(sizes) - min(sizes) <= 1
    assert all(len(rows) == case.settings.batch_size for step in steps[:-1] for rows in step)


@given(cases(weighted=False), st.integers(0, 3))
def test_a_bucket_holds_the_sequences_of_its_window_and_its_batches_do_not_overlap_in_length(case, epoch):
    window = case.settings.bucket_window
    plain = case.planner(bucket_window=0).plan(epoch).order
    plan = case.planner().plan(epoch)
    if window == 0:
        assert plan.order.tolist() == plain.tolist()
        return
    num_bucketed = len(plain)
    if case.settings.batch_size is not None:
        step = case.settings.batch_size * case.world_size
        window, num_bucketed = -(-window // step) * step, len(plain) // step * step
        assert plan.order[num_bucketed:].tolist() == plain[num_bucketed:].tolist()
    for begin in range(0, num_bucketed, window):
        end = min(begin + window, num_bucketed)
        assert sorted(plan.order[begin:end]) == sorted(plain[begin:end])
        inside = [(int(a), int(b)) for a, b in pairwise(plan.cuts) if begin <= a < end]
        ranges = sorted((case.lengths[plan.order[a:b]].min(), case.lengths[plan.order[a:b]].max()) for a, b in inside)
        assert all(one[1] <= other[0] for one, other in pairwise(ranges))


def test_buckets_save_padding_and_shuffle_their_batches():
    lengths = np.random.default_rng(0).integers(1, 500, 4000)
    codes, kinds = np.zeros(4000, np.int16), (None,)

    def padded(window):
        plan = Planner(StreamSettings(seed=1, batch_size=16, bucket_window=window), 1, lengths, codes, kinds).plan(0)
        longest = [lengths[plan.rows(step, 0)].max() for step in range(plan.num_batches)]
        return 16 * sum(longest), longest

    assert padded(0)[0] > 1.6 * lengths.sum()
    total, longest = padded(1024)
    assert total < 1.05 * lengths.sum()
    assert longest != sorted(longest)
    assert np.corrcoef(longest[:64], range(64))[0, 1] < 0.5  # not a ramp inside a window either


@given(cases(weighted=True), st.integers(1, 6))
def test_sources_come_by_their_weights_and_no_sequence_twice_before_all_of_its_source(case, num_epochs):
    weights = case.settings.source_weights
    planner = case.planner()
    total = sum(weights.values())
    seen = Counter()
    for epoch in range(num_epochs):
        rows = flat(steps_of(planner.plan(epoch)))
        assert len(rows) == len(case.lengths)
        for code, source in enumerate(case.sources):
            count = int((case.codes[rows] == code).sum())
            assert abs(count - len(rows) * weights[source] / total) < 1
        seen.update(rows)
        for code in range(len(case.sources)):
            times = [seen[row] for row in np.flatnonzero(case.codes == code)]
            assert max(times) - min(times) <= 1


def test_a_weight_of_0_leaves_a_source_out_and_order_depends_on_the_seed():
    lengths, codes = np.ones(40, np.int64), np.repeat(np.arange(2, dtype=np.int16), 20)

    def rows(seed, weights):
        settings = StreamSettings(seed=seed, batch_size=4, source_weights=weights)
        return flat(steps_of(Planner(settings, 1, lengths, codes, ("a", "b")).plan(0)))

    assert set(rows(0, {"a": 0, "b": 3})) == set(range(20, 40))
    assert rows(0, {"a": 1, "b": 1}) != rows(1, {"a": 1, "b": 1})
    assert sorted(rows(0, {"a": 1, "b": 1})) == list(range(40))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"a": 1.0}, r"source_weights name \['a'\].*of \['a', 'b'\].*give every one"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "give every one"),
        ({"a": 1.0, "b": 1e-9}, "weight of source 'b' gives it less than one of the 40 sequences"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, says):
    codes = np.repeat(np.arange(2, dtype=np.int16), 20)
    with pytest.raises(ValueError, match=says):
        Planner(StreamSettings(seed=0, batch_size=4, source_weights=weights), 1, np.ones(40, np.int64), codes, ("a", "b"))


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"batch_size": 1, "batch_tokens": 1}, {"batch_size": 0}, {"batch_tokens": 0}, {"batch_size": 1, "bucket_window": -1},
        {"batch_size": 1, "seed": -1}, {"batch_size": 1, "source_weights": {}}, {"batch_size": 1, "source_weights": {"a": -1.0, "b": 2.0}},
        {"batch_size": 1, "source_weights": {"a": math.inf}}, {"batch_size": 1, "source_weights": {"a": math.nan}},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="stream: "):
        StreamSettings(**{"seed": 0, **arguments})
