"""What is taken over responses, sources or the data set: sums, statistics and ranks of columns, block by block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warehouse.blocks import Block
from warehouse.policy_settings import Group
from warehouse.ranking import Parts, ranked
from warehouse.selection import Floats, Integers, ranks_in_rows, responses
from warehouse.token_columns import TokenColumns


@dataclass(frozen=True)
class Statistics:
    """Mean and 1 / population deviation of a column, by group; factor 0, so that the column contributes 0, where all values are equal."""

    means: Floats
    factors: Floats


@dataclass(frozen=True)
class Groups:
    """What statistics, ranks and selections are taken over.

    Attributes:
        over: response, source or dataset.
        of_sequence: ordinal of the group of each sequence.
    """

    over: Group
    of_sequence: Integers

    @classmethod
    def make(cls, columns: TokenColumns, over: Group) -> "Groups":
        """Group the sequences."""
        size = len(columns.lengths)
        return cls(over, {"response": np.arange(size), "source": columns.sources, "dataset": np.zeros(size, np.int64)}[over])

    @property
    def num(self) -> int:
        """Number of groups."""
        return int(self.of_sequence.max(initial=-1)) + 1

    def per_token(self, block: Block, values: NDArray[Any]) -> NDArray[Any]:
        """Give each token of a block what its group has; the data set has one value for all."""
        return values[:1] if self.over == "dataset" else block.per_token(values[self.of_sequence[block.sequences]])

    def members(self, columns: TokenColumns) -> Iterator[tuple[int, Callable[[], Iterator[Block]]]]:
        """Yield each group with a function that yields its blocks."""
        if self.over == "dataset":
            yield 0, columns.blocks
            return
        order = np.argsort(self.of_sequence, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(self.of_sequence[order])) + 1):
            yield int(self.of_sequence[members[0]]), partial(columns.blocks_of, members)


def per_sequence(add: np.ufunc, values: NDArray[Any], block: Block, empty: float = 0) -> NDArray[Any]:
    """Reduce the tokens of each sequence of a block; `empty` for a sequence without tokens."""
    found = np.full(len(block.lengths), empty, values.dtype)
    has_tokens = block.lengths > 0
    if has_tokens.any():
        starts = np.cumsum(block.lengths) - block.lengths
        found[has_tokens] = add.reduceat(values, starts[has_tokens])
    return found


Read = Callable[[Block], NDArray[np.floating]]


def statistics(columns: TokenColumns, read: Read, groups: Groups) -> Statistics:
    """Compute mean and deviation over every value of each group that is not NULL, those of protected tokens included.

    The same values must give the same mask on any machine, and a parallel sum depends in its last bits on who adds what first. So each
    sequence is added up by itself, and these sums in the order of sequence_id. Equality is tested on the values: a rounded mean would
    leave a tiny deviation to divide by.

    Returns:
        mean and factor of each group; NaN means where a group has no value.
    """

    def sums(block: Block) -> tuple[NDArray[Any], ...]:
        values = read(block)
        missing = np.isnan(values)
        counts: NDArray[Any] = block.lengths.astype(np.int64)
        filled = values.astype(np.float64)
        if missing.any():
            counts = counts - per_sequence(np.add, missing.astype(np.int64), block)
            filled[missing] = 0
        totals = per_sequence(np.add, filled, block)
        return counts, totals, per_sequence(np.fmin, values, block, np.nan), per_sequence(np.fmax, values, block, np.nan)

    counts, totals, low, high = (np.concatenate(parts) for parts in zip(*columns.each(sums), strict=True))
    num_values, total = _group_sums(columns, groups, counts.astype(np.float64)), _group_sums(columns, groups, totals)
    means = np.divide(total, num_values, out=np.full(groups.num, np.nan), where=num_values > 0)

    def squares(block: Block) -> NDArray[Any]:
        deviations = read(block) - groups.per_token(block, means)  # float64
        np.multiply(deviations, deviations, out=deviations)
        missing = np.isnan(deviations)
        if missing.any():
            deviations[missing] = 0
        return per_sequence(np.add, deviations, block)

    square = _group_sums(columns, groups, np.concatenate(columns.each(squares)))
    lowest, highest = np.full(groups.num, np.nan), np.full(groups.num, np.nan)
    np.fmin.at(lowest, groups.of_sequence, low)
    np.fmax.at(highest, groups.of_sequence, high)
    varies = lowest < highest
    return Statistics(
        means, np.divide(1, np.sqrt(np.divide(square, num_values, where=varies, out=square)), where=varies, out=np.zeros(groups.num))
    )


def _group_sums(columns: TokenColumns, groups: Groups, of_sequences: Floats) -> Floats:
    order = np.argsort(columns.numbers)
    sums: Floats = np.bincount(groups.of_sequence[order], weights=of_sequences[order], minlength=groups.num).astype(np.float64)
    return sums


def twice_ranks(columns: TokenColumns, read: Read, groups: Groups) -> tuple[NDArray[np.uint32], Integers]:
    """Rank a column in its groups.

    Returns:
        twice the average rank from 1 of equal values, an exact integer, 0 where the value is NULL, [T]; values of each group.
    """
    twice = np.zeros(columns.num_tokens, np.uint32)
    sizes = np.zeros(groups.num, np.int64)
    if groups.over == "response":

        def rank(block: Block) -> None:
            values = read(block)
            for rows in responses(block.lengths):
                values_RN = rows.take(values)
                first_RN, last_RN = ranks_in_rows(values_RN)
                sizes[block.sequences][rows.rows] = np.count_nonzero(~np.isnan(values_RN), axis=1)
                rows.put(twice[block.tokens], np.where(np.isnan(values_RN), 0, first_RN + last_RN))

        columns.each(rank)
        return twice, sizes
    for group, blocks in groups.members(columns):
        for places, first, last in ranked(parts_of(blocks, read), columns.num_tokens):
            twice[places] = first + last
            sizes[group] += len(places)
    return twice, sizes


def twice_ranks_among(columns: TokenColumns, read: Read, others: TokenColumns, read_others: Read) -> NDArray[np.uint32]:
    """Rank a column among the values of other tokens, as `twice_ranks` would rank a value of theirs; one between two of them lies halfway.

    Returns:
        twice the rank, 0 where the value is NULL, [T].
    """
    values = np.concatenate([np.empty(0), *columns.each(read)])
    edges = np.unique(values[~np.isnan(values)])

    def count(block: Block) -> Integers:
        found = np.sort(read_others(block))
        found = found[: len(found) - int(np.count_nonzero(np.isnan(found)))]
        return np.searchsorted(found, edges, "left") + np.searchsorted(found, edges, "right")

    twice = np.add.reduce([np.zeros(len(edges), np.int64), *others.each(count)]) + 1
    found = np.zeros(len(values), np.uint32)
    there = ~np.isnan(values)
    found[there] = twice[np.searchsorted(edges, values[there])]
    return found


def parts_of(blocks: Callable[[], Iterator[Block]], read: Read) -> Parts:
    """Give the values of blocks as `ranking` takes them."""
    return lambda: ((block.tokens, read(block)) for block in blocks())
