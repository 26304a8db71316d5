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

_NUM_BINS = 256
"""Steps of the densities: quantiles of the clean scores."""

_PRIOR_TOKENS = 3.0
"""Clean tokens that each step is taken to hold besides those seen, so that a few training tokens below all clean ones prove nothing."""

_CLEAN_SHARE = 0.3
"""π is measured on the best scores, on this share of the clean tokens at least."""


@dataclass(frozen=True)
class Contamination:
    """What a comparison found.

    Attributes:
        threshold: tokens that score lower are more likely not clean than clean; -inf where there are none.
        clean_share: π, the share of training tokens that score as clean ones do.
        below_threshold: share of the training tokens below the threshold.
        num_clean: clean tokens compared with.
    """

    threshold: float
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
    share = _share_of_clean(train, clean)
    prior = _PRIOR_TOKENS / len(clean_scores)
    below = 0
    for first, end in _rising(train, clean):
        if share * (clean[first:end].sum() + prior) < 0.5 * train[first:end].sum():
            below = end
    threshold = float(edges[below - 1]) if below else -np.inf
    return Contamination(threshold, share, float(train[:below].sum()), len(clean_scores))


def _share_of_clean(train: Floats, clean: Floats) -> float:
    """Estimate π: f is at least π v everywhere, and equal where only clean tokens score; so it is the least f / v, here of the best scores."""
    best_train, best_clean = (np.cumsum(density[::-1]) for density in (train, clean))
    enough = best_clean >= _CLEAN_SHARE
    return float(min(1.0, (best_train[enough] / best_clean[enough]).min()))


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
