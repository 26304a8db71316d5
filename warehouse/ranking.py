"""Ranks over a source or the data set, in bounded memory: values are sorted range by range, each range small enough to be held.

Values become unsigned integers in the same order. Where there are more than `_RANGE_VALUES` of them, a histogram of their highest bits,
and of further ones where a bin is too full, cuts the integers into ranges; each range costs one more pass over the values.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Parts: TypeAlias = Callable[[], Iterator[tuple[slice | Integers, NDArray[np.floating]]]]
"""Gives the values part by part, each time it is called the same: (their places in an array, the values)."""

_RANGE_VALUES = 1 << 25
_HISTOGRAM_BITS = 16
_RUN_BLOCK = 1 << 20


def ranked(parts: Parts, num_places: int) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Rank values from low to high.

    Args:
        parts: the values.
        num_places: no place is as large.

    Yields:
        (place, first, last): for some of the values their places, and the first and last rank from 1 of those equal to each; NaN has no
        rank and comes in none.
    """
    before = 0
    for low, high, num in _ranges(parts):
        ordered, places = _sorted(parts, low, high, num, packs=num_places <= 1 << 32)
        begin = 0
        while begin < num:
            end = _run_end(ordered, min(begin + _RUN_BLOCK, num), num)
            block = ordered[begin:end]
            starts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))
            sizes = np.diff(starts, append=len(block))
            first = np.repeat(starts + (before + begin + 1), sizes)
            yield places[begin:end].astype(np.int64), first, first + np.repeat(sizes - 1, sizes)
            begin = end
        before += num


def _keys(values: NDArray[np.floating]) -> NDArray[np.unsignedinteger]:
    """Map values to integers in their order; what NaN becomes is of no meaning."""
    kind: type[np.unsignedinteger] = np.uint32 if values.dtype == np.float32 else np.uint64
    bits: NDArray[Any] = (values + values.dtype.type(0)).view(kind)  # -0 becomes 0
    sign = kind(1 << (8 * bits.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _inside(values: NDArray[np.floating], low: int, high: int) -> tuple[NDArray[np.unsignedinteger], Integers]:
    """Find the values whose keys are from `low` to below `high`; gives (their keys, their indices)."""
    keys, there = _keys(values), ~np.isnan(values)
    if low > 0:
        there &= keys >= keys.dtype.type(low)
    if high < 1 << 8 * keys.itemsize:
        there &= keys < keys.dtype.type(high)
    found = np.flatnonzero(there)
    return keys[found] if len(found) < len(keys) else keys, found


def _ranges(parts: Parts) -> Iterator[tuple[int, int, int]]:
    """Cut the keys into ranges of few values, or of one key that many values have; gives (low, high, number of values)."""
    num, bits = 0, 32
    for _, values in parts():
        num, bits = num + int(np.count_nonzero(~np.isnan(values))), 8 * values.itemsize
    if num:
        yield from _cut(parts, 0, 1 << bits, num)


def _cut(parts: Parts, low: int, high: int, num: int) -> Iterator[tuple[int, int, int]]:
    if num <= _RANGE_VALUES or high - low == 1:
        yield low, high, num
        return
    shift = max((high - low - 1).bit_length() - _HISTOGRAM_BITS, 0)
    counts = np.zeros(-(-(high - low) >> shift), np.int64)
    for _, values in parts():
        keys, _ = _inside(values, low, high)
        counts += np.bincount(((keys - keys.dtype.type(low)) >> keys.dtype.type(shift)).astype(np.int64), minlength=len(counts))
    begin, size = 0, 0
    for end, count in enumerate([*counts.tolist(), 0]):
        if size + count > _RANGE_VALUES or end == len(counts):
            if size:
                yield from _cut(parts, low + (begin << shift), min(low + (end << shift), high), size)
            begin, size = end, 0
        size += count


def _sorted(parts: Parts, low: int, high: int, num: int, *, packs: bool) -> tuple[NDArray[np.unsignedinteger], NDArray[np.integer]]:
    """Sort the values of a range.

    A key of 32 bits and its place fit in one integer, whose sort takes a third of the time and half the memory of an argsort.

    Returns:
        (keys in order, places of their values).
    """
    begin = 0
    all_keys: NDArray[np.unsignedinteger] | None = None
    places = np.empty(0, np.int64)
    for tokens, values in parts():
        if all_keys is None:
            packs = packs and values.dtype == np.float32
            all_keys, places = np.empty(num, "<u8"), np.empty(0 if packs else num, np.int64)
        for first in range(0, len(values), _RUN_BLOCK):
            keys, found = _inside(values[first : first + _RUN_BLOCK], low, high)
            here = found + (first + tokens.start) if isinstance(tokens, slice) else tokens[found + first]
            end = begin + len(keys)
            all_keys[begin:end] = keys.astype(np.uint64) << np.uint64(32) | here.astype(np.uint64) if packs else keys
            if not packs:
                places[begin:end] = here
            begin = end
    assert all_keys is not None, "a range has values"
    assert begin == num, "the values are those that were counted"
    if not packs:
        order = np.argsort(all_keys)
        return all_keys[order], places[order]
    all_keys.sort()
    halves = all_keys.view("<u4")
    return halves[1::2], halves[::2]


def _run_end(ordered: NDArray[np.generic], end: int, num_values: int) -> int:
    """Move the end of a block behind the values equal to its last one."""
    while end < num_values:
        others = np.flatnonzero(ordered[end : min(end + _RUN_BLOCK, num_values)] != ordered[end - 1])
        if len(others):
            return end + int(others[0])
        end = min(end + _RUN_BLOCK, num_values)
    return end
