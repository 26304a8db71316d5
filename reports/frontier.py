"""Does a mask beat what costs nothing? Trainings on every token at several learning rates draw a frontier; masks are measured against it.

Both axes are losses, in nats per token: target (the new task) and retention (what the pre-trained model could do); low is good.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
"""(target loss, retention loss)."""

_STEPS = 64
"""Points put between two neighbours of the frontier."""

_LEAST_UNIT = 0.01
"""Share of the loss before training that counts as a change at least: where training moves an axis less, its noise is no unit."""


@dataclass(frozen=True)
class Arm:
    """One training of a study.

    Attributes:
        policy: whose mask.
        learning_rate: its peak.
        seed: of order and dropout.
        target: target loss after training.
        retention: retention loss after training.
        kept_share: share of the response tokens it learned from.
    """

    policy: str
    learning_rate: float
    seed: int
    target: float
    retention: float
    kept_share: float

    @property
    def point(self) -> Point:
        """Where it ended."""
        return (self.target, self.retention)


@dataclass(frozen=True)
class Gain:
    """How far a policy lies beyond the frontier, over seeds.

    Attributes:
        policy: the policy.
        by_seed: gain of its best learning rate, per seed; in units of what training on every token changes (see `gain`).
        low, high: ends of the confidence interval of the mean; infinite with one seed.
    """

    policy: str
    by_seed: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.by_seed)


def frontier(before: Point, full: Iterable[Point]) -> list[Point]:
    """Connect the untrained model and the trainings on every token by lines: what can be had for free.

    Returns:
        the points in the order of falling target loss, `_STEPS` of them between neighbours; dominated trainings are left out.
    """
    ends = sorted({before, *full}, key=lambda p: (-p[0], p[1]))
    ends = [p for p in ends if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in ends)]
    line = [
        (a[0] + (b[0] - a[0]) * i / _STEPS, a[1] + (b[1] - a[1]) * i / _STEPS)
        for a, b in pairwise(ends) for i in range(_STEPS)
    ]  # fmt: skip
    return [*line, ends[-1]]


def gain(point: Point, line: Sequence[Point], scale: Point) -> float:
    """Measure how far a point lies beyond the frontier: the additive epsilon indicator.

    Above 0: against every point of the frontier it is better on one axis by at least so much. Below 0: some point of the frontier is better
    on both axes by so much. A point with less target loss than any of the frontier counts only if it has no more retention loss than the
    frontier's end either: what a larger learning rate would have reached there is not known.

    Args:
        point: where a training ended.
        line: of `frontier`.
        scale: unit of each axis.

    Returns:
        the gain, in units of `scale`; NaN where nothing can be said.
    """
    end = line[-1]
    if point[0] < end[0] and point[1] > end[1]:
        return math.nan
    return min(max((f[0] - point[0]) / scale[0], (f[1] - point[1]) / scale[1]) for f in line)


def gains(before: Point, arms: Sequence[Arm], full: str = "full", confidence: float = 0.95) -> list[Gain]:
    """Measure every policy against the frontier of its seed.

    The unit of each axis is what training on every token at the first learning rate changes there, over all seeds, at least a hundredth of the loss. A policy's learning rate is
    chosen after the fact, per seed, the same freedom that the frontier and the random control have. Intervals are Student's, at a level that
    allows for the number of policies (Bonferroni).

    Args:
        before: losses of the untrained model.
        arms: the trainings.
        full: the policy that keeps every token.
        confidence: joint level of the intervals.

    Returns:
        the gains, best mean first.

    Raises:
        ValueError: no training kept every token.
    """
    seeds, policies = sorted({a.seed for a in arms}), sorted({a.policy for a in arms} - {full})
    free = [a for a in arms if a.policy == full]
    if not free:
        raise ValueError(f"there is no training with the policy {full!r}, which draws the frontier; add it to study.policies")
    rate = next(a.learning_rate for a in arms if a.policy == full)
    scale = _scale(before, [a.point for a in free if a.learning_rate == rate])
    found = []
    for policy in policies:
        by_seed = []
        for seed in seeds:
            line = frontier(before, [a.point for a in free if a.seed == seed])
            own = [gain(a.point, line, scale) for a in arms if a.policy == policy and a.seed == seed]
            by_seed.append(max((g for g in own if not math.isnan(g)), default=math.nan))
        if not any(map(math.isnan, by_seed)):
            found.append(Gain(policy, tuple(by_seed), *interval(by_seed, 1 - (1 - confidence) / len(policies))))
    return sorted(found, key=lambda g: -g.mean)


def _scale(before: Point, full: Sequence[Point]) -> Point:
    changes = [abs(statistics.fmean(p[axis] for p in full) - before[axis]) for axis in (0, 1)]
    return (max(changes[0], _LEAST_UNIT * before[0]), max(changes[1], _LEAST_UNIT * before[1]))


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return Student's confidence interval of the mean; infinite for one value."""
    from scipy.stats import t  # type: ignore[import-untyped]  # heavy, and needed here alone

    if len(values) < 2:
        return (-math.inf, math.inf)
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return (statistics.fmean(values) - half, statistics.fmean(values) + half)


def verdict(measured: Sequence[Gain], controls: Sequence[str] = ("random",)) -> str:
    """Say in one sentence whether masks beat the frontier.

    `yes` needs a policy whose whole interval lies above 0 and above the mean gain of every random control.

    Args:
        measured: the gains, best mean first.
        controls: the policies among them that select at random.

    Returns:
        the sentence, with the figures behind it.
    """
    masks = [g for g in measured if g.policy not in controls]
    chance = next((g for g in measured if g.policy in controls), None)
    if not masks:
        return "Masks beat the frontier on this data: not measured; no policy but the control could be compared."
    best, bar = masks[0], max(0.0, chance.mean) if chance is not None else 0.0
    by_chance = f"{chance.policy} {chance.mean:+.3f}" if chance is not None else "no random control"
    figures = f"best is {best.policy!r}, {best.mean:+.3f} [{best.low:+.3f}, {best.high:+.3f}] beyond it; {by_chance}"
    if best.low > bar:
        return f"Masks beat the frontier on this data: yes ({figures})."
    if all(g.high < bar for g in masks):
        return f"Masks beat the frontier on this data: no ({figures})."
    return f"Masks beat the frontier on this data: not distinguishable ({figures})."
