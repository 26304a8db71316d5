"""How much to keep when nobody says: the training data compared with clean ones, the validation set (`keep: auto`).

Training tokens are a mixture: a share π of them scores as clean tokens do, the rest does not. Where they crowd at low scores that clean
tokens rarely have, most of them are of the rest. With densities f of training and v of clean tokens, a token of score s is clean with
probability π v(s) / f(s), which is taken to rise with s. Kept are the scores where it is at least a half. That keeps nearly everything of
clean data, whatever the score, and needs no share to be set.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CODE_VERSION = 2
"""Bumped by hand when the same values would give another threshold, or other tokens are compared with."""

_NUM_BINS = 256
"""Steps of the densities: quantiles of the clean scores."""

_CLEAN_SHARE = 0.3
"""π is measured on the best scores, on this share of the clean tokens at least."""


@dataclass(frozen=True)
class Contamination:
    """What a comparison found.

    Attributes:
        threshold: tokens that score lower are more likely not clean than clean; None where there are none.
        clean_share: π, the share of training tokens that score as clean ones do.
        below_threshold: share of the training tokens below the threshold.
        num_clean: clean tokens compared with.
    """

    threshold: float | None
    clean_share: float
    below_threshold: float
    num_clean: int


def compare(count: Callable[[Floats], NDArray[np.int64]], clean_scores: Floats) -> Contamination:
    """Find the score below which training tokens are likelier not clean.

    Args:
        count: given rising edges, the number of training tokens below the first, between neighbours (lower edge included), and from the
            last one on: one number more than edges.
        clean_scores: scores of clean tokens, without NaN.

    Returns:
        the threshold, with what it follows from.

    Raises:
        ValueError: there are no scores to compare.
    """
    edges = (
        np.unique(np.quantile(clean_scores, np.linspace(0, 1, _NUM_BINS + 1)[:-1], method="lower")) if len(clean_scores) else np.empty(0)
    )
    counts = count(edges).astype(np.float64)
    if not len(edges) or not counts.sum():
        raise ValueError("keep: auto has no scores to compare: no token of the validation set, or none of the training set, has a score")
    clean = np.diff(np.searchsorted(np.sort(clean_scores), edges), prepend=0, append=len(clean_scores)).astype(np.float64)
    train, clean = counts / counts.sum(), clean / clean.sum()
    share = _share_of_clean(train, clean, len(clean_scores))
    below = _first_clean_step(train, clean, share, len(clean_scores))
    return Contamination(float(edges[below - 1]) if below else None, share, float(train[:below].sum()), len(clean_scores))


def _share_of_clean(train: Floats, clean: Floats, num_clean: int) -> float:
    """Estimate π: f is at least π v everywhere, and equal where only clean tokens score; so it is the least f / v, here of the best scores.

    The clean tokens counted there are taken for as few as may be expected, two deviations less, or the least ratio would be too low.

    Returns:
        π.
    """
    best_train, best_clean = (np.cumsum(density[::-1]) for density in (train, clean))
    at_least = np.maximum(np.sqrt(best_clean * num_clean) - 1, 0) ** 2 / num_clean
    enough = (best_clean >= _CLEAN_SHARE) & (at_least > 0)
    return float(min(1.0, (best_train[enough] / at_least[enough]).min(initial=1.0)))


def _first_clean_step(train: Floats, clean: Floats, share: float, num_clean: int) -> int:
    """Find the step from which on tokens are clean with probability a half and more; 0 where what lies below it may be chance.

    Chance: the share of training tokens below is not above that of clean ones by three deviations.

    Returns:
        the step.
    """
    ends = [end for first, end in _rising(train, clean) if share * clean[first:end].sum() < 0.5 * train[first:end].sum()]
    for end in reversed(ends):
        at_most = (np.sqrt(clean[:end].sum() * num_clean + 1) + 1.5) ** 2 / num_clean
        if train[:end].sum() > at_most:
            return end
    return 0


def _rising(train: Floats, clean: Floats) -> list[tuple[int, int]]:
    """Pool neighbouring steps until the ratio clean / train rises from pool to pool (isotonic regression).

    Returns:
        first and end step of each pool, from low to high scores.
    """
    pools: list[tuple[int, int, float, float]] = []
    for step, (of_train, of_clean) in enumerate(zip(train.tolist(), clean.tolist(), strict=True)):
        pools.append((step, step + 1, of_train, of_clean))
        while len(pools) > 1 and pools[-2][3] * pools[-1][2] >= pools[-1][3] * pools[-2][2]:
            (first, _, *below), (_, end, *above) = pools[-2:]
            pools[-2:] = [(first, end, below[0] + above[0], below[1] + above[1])]
    return [pool[:2] for pool in pools]
