"""The rule of DESIGN 3.6 on arrays: which tokens are the highest of their group, and their ranks among it.

NaN stands for NULL: a token without a value, or one that is not eligible. Two shapes of group need two ways, both exact:

- a response is a row of a matrix. Responses of about one length are put side by side, so that one vectorised sort serves them all;
- a source or the data set is one long array, of which only the k-th highest value is wanted (no sort); its ranks, which need one, are in
  ranking.py.

Letters: R rows, N places of a row, T tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_MATRIX_PLACES = 1 << 15
"""Places of a matrix of responses: 256 KB of scores, which stays in the processor's cache, and rows of about one length."""


@dataclass(frozen=True)
class Responses:
    """Responses of about one length, as rows.

    Attributes:
        rows: [R], which responses.
        places_RN: [R, N], index of each place among the tokens; a place behind the end of a response repeats its last token.
        there_RN: [R, N], whether the response has the place.
    """

    rows: Integers
    places_RN: Integers
    there_RN: Flags

    def take(self, tokens_T: NDArray[np.floating]) -> Floats:
        """Lay out values of tokens; NaN where a response has no such place."""
        taken_RN: Floats = np.where(self.there_RN, tokens_T[self.places_RN], np.nan)
        return taken_RN

    def put(self, tokens_T: NDArray[np.generic], values_RN: NDArray[np.generic]) -> None:
        """Write values back to their tokens."""
        tokens_T[self.places_RN[self.there_RN]] = values_RN[self.there_RN]


def responses(lengths: Integers, chosen: Integers | None = None) -> Iterator[Responses]:
    """Group responses that lie one behind the other into matrices.

    Args:
        lengths: tokens of each response.
        chosen: which responses; None for all.

    Yields:
        the matrices; responses without tokens are in none.
    """
    starts = np.cumsum(lengths) - lengths
    order = np.flatnonzero(lengths) if chosen is None else chosen[lengths[chosen] > 0]
    order = order[np.argsort(lengths[order], kind="stable")]
    begin = 0
    while begin < len(order):
        size = max(1, _MATRIX_PLACES // int(lengths[order[begin]]))
        rows = order[begin : begin + size]
        rows = rows[: max(1, int(np.searchsorted(lengths[rows] * np.arange(1, len(rows) + 1), 2 * _MATRIX_PLACES)))]
        places_N, lengths_R = np.arange(lengths[rows[-1]]), lengths[rows]
        places_RN = starts[rows][:, None] + np.minimum(places_N, lengths_R[:, None] - 1)
        yield Responses(rows, places_RN, places_N < lengths_R[:, None])
        begin += len(rows)


def num_of_share(keep: float, num_eligible: Integers) -> Integers:
    """Return ceil(keep * eligible).

    0.07 * 100 is 7.000000000000001 in binary; a relative 1e-12 is taken off first, far above that noise and far below one token.
    """
    counts: Integers = np.ceil(keep * num_eligible * (1 - 1e-12)).astype(np.int64)
    return counts


_SAMPLED = 61
"""Of so many values one is in the sample of `kth_highest`."""


def highest(scores_RN: Floats, num_kept_R: Integers) -> Flags:
    """Tell the `num_kept` highest of each row, at most as many as are eligible; of equal scores those further left.

    Returns:
        [R, N], never true where the score is NaN.
    """
    filled_RN = np.where(np.isnan(scores_RN), -np.inf, scores_RN)
    num_kept_R = np.minimum(num_kept_R, np.isfinite(filled_RN).sum(1))
    ordered_RN = np.sort(filled_RN, axis=1)
    last = filled_RN.shape[1] - 1
    thresholds_R = np.take_along_axis(ordered_RN, np.minimum(last + 1 - num_kept_R, last)[:, None], axis=1)
    above_RN, tied_RN = filled_RN > thresholds_R, filled_RN == thresholds_R
    room_R = (num_kept_R - above_RN.sum(1))[:, None]
    if (tied_RN.sum(1)[:, None] > room_R).any():
        tied_RN &= np.cumsum(tied_RN, axis=1) <= room_R
    kept_RN: Flags = above_RN | tied_RN
    return kept_RN


def kth_highest(each: Callable[[Callable[[Floats], Any]], list[Any]], num_values: int, k: int) -> tuple[float, int, int]:
    """Find the k-th highest of values that come in parts and are never held together.

    A sorted sample tells between which two values it lies; only those between are gathered. A sample that misleads, as that of values in an
    odd order may, is noticed by the counts, and all values are gathered then.

    Args:
        each: applies a function to every part, NaN included, and lists the results.
        num_values: values that are not NaN.
        k: from 1 to `num_values`.

    Returns:
        (the value, how many are above it, how many equal it).
    """
    sample = np.sort(np.concatenate(each(_sampled)))
    place, spread = len(sample) * (1 - k / num_values), 3 * len(sample) ** 0.5 + 1  # six deviations at the least
    first, last = int(place - spread), int(place + spread) + 1
    low = sample[first] if first >= 0 else -np.inf
    high = sample[last] if last < len(sample) else np.inf
    if low == high:  # many values are equal: none is gathered
        num_above, num_tied = (sum(nums) for nums in zip(*each(partial(_compared, low)), strict=True))
        if num_above < k <= num_above + num_tied:
            return float(low), num_above, num_tied
    num_above, inside = _between(each, low, high)
    if not num_above < k <= num_above + len(inside):
        num_above, inside = _between(each, -np.inf, np.inf)
    index = len(inside) - (k - num_above)
    inside.partition(index)
    value = float(inside[index])
    return value, num_above + int(np.count_nonzero(inside[index:] > value)), int(np.count_nonzero(inside == value))


def _sampled(values: Floats) -> Floats:
    found = values[::_SAMPLED]
    return found[~np.isnan(found)]


def _compared(threshold: float, values: Floats) -> tuple[int, int]:
    return int(np.count_nonzero(values > threshold)), int(np.count_nonzero(values == threshold))


def _between(each: Callable[[Callable[[Floats], Any]], list[Any]], low: float, high: float) -> tuple[int, Floats]:
    """Count the values above `high`, and gather those from `low` to `high`."""
    found = each(lambda values: (int(np.count_nonzero(values > high)), values[(values >= low) & (values <= high)]))
    return sum(num for num, _ in found), np.concatenate([inside for _, inside in found])


def ranks_in_rows(values_RN: Floats) -> tuple[Integers, Integers]:
    """Rank each row from low to high.

    A value and its place are sorted as one integer, which takes a fifth of the time of an argsort.

    Args:
        values_RN: [R, N], at most 37 significant bits, as float32 and scores have: the last 16 of the 64 bits hold the place.

    Returns:
        (first, last) rank from 1 among the row's values of those equal to each value, [R, N]; of no meaning where it is NaN.
    """
    num_places = values_RN.shape[1]
    if num_places > 1 << _PLACE_BITS:  # no room for places beside values
        ordered_RN = np.sort(values_RN, axis=1)
        first_RN, last_RN = (
            np.stack([np.searchsorted(ordered, row, side) for ordered, row in zip(ordered_RN, values_RN, strict=True)])
            for side in ("left", "right")
        )
        return first_RN + 1, last_RN
    packed_RN = (values_RN.astype(np.float64) + 0.0).view(np.int64)  # -0 becomes 0
    packed_RN ^= (packed_RN >> 63) & np.int64(0x7FFFFFFFFFFFFFFF)  # integers in the order of the values, NaN last
    packed_RN &= ~np.int64((1 << _PLACE_BITS) - 1)
    packed_RN |= np.arange(num_places)
    packed_RN.sort(axis=1)
    order_RN = packed_RN & np.int64((1 << _PLACE_BITS) - 1)
    packed_RN >>= _PLACE_BITS
    places_N = np.arange(num_places)
    differs_RN = packed_RN[:, 1:] != packed_RN[:, :-1]
    first_RN, last_RN = np.zeros_like(order_RN), np.full_like(order_RN, num_places - 1)
    first_RN[:, 1:] = np.maximum.accumulate(np.where(differs_RN, places_N[1:], 0), axis=1)
    before_RN = np.where(differs_RN, places_N[:-1], num_places - 1)
    last_RN[:, :-1] = np.minimum.accumulate(before_RN[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(order_RN), np.empty_like(order_RN)
    for rank_RN, found_RN in zip(ranks, (first_RN, last_RN), strict=True):
        np.put_along_axis(rank_RN, order_RN, found_RN + 1, axis=1)
    return ranks


_PLACE_BITS = 16
