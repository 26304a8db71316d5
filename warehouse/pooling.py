"""Means of scores over neighbouring response positions."""

import numpy as np
from numpy.typing import NDArray

from warehouse.blocks import Block

Floats = NDArray[np.float64]


def pooled(scores: Floats, block: Block, positions: NDArray[np.int32], reach: int) -> Floats:
    """Replace each score by the mean of those at most `reach` positions away in its response, added up in the order of positions.

    Returns:
        means, [T]; scores that are NaN are left out, and stay NaN.
    """
    # One number tells position and sequence apart: those of two sequences are further away than any window reaches.
    stride = int(positions.max(initial=0)) + reach + 1
    keys = positions + block.per_token(np.arange(len(block.lengths))) * stride
    has_score: NDArray[np.bool_] = ~np.isnan(scores)
    values, totals, counts = np.where(has_score, scores, 0.0), np.zeros(len(scores)), np.zeros(len(scores), np.int32)
    furthest = min(reach, len(scores) - 1)
    for distance in range(-furthest, furthest + 1):
        here, there = slice(max(0, -distance), len(scores) - max(0, distance)), slice(max(0, distance), len(scores) + min(0, distance))
        near = np.abs(keys[there] - keys[here]) <= reach
        totals[here] += np.where(near, values[there], 0.0)
        counts[here] += near & has_score[there]
    means: Floats = np.divide(totals, counts, out=np.full(len(scores), np.nan), where=has_score)
    return means
