"""Scores of tokens under a policy: stored columns normalised by vectorised arithmetic, put together by the policy's SQL expression.

The expression, ours or a user's, is evaluated by DuckDB on flat columns in a database of its own that has nothing in it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from warehouse import sql
from warehouse.expressions import CLOSED, Expression
from warehouse.policy_settings import COLUMNS, DIRECTIONAL, KNOWN, Group, PolicySettings
from warehouse.pooling import pooled
from warehouse.selection import Floats, Integers, ranks_in_rows, ranks_of_all, responses
from warehouse.token_columns import Block, TokenColumns

_MANY_TOKENS = 1 << 26
"""Beyond that many tokens, columns are normalised one after the other: ranking one takes 12 bytes per token."""


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

    def tokens(self, columns: TokenColumns) -> Iterator[tuple[int, slice | Integers]]:
        """Yield each group with the indices of its tokens."""
        if self.over == "dataset":
            yield 0, slice(None)
            return
        order = np.argsort(self.of_sequence, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(self.of_sequence[order])) + 1):
            lengths = columns.lengths[members]
            within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield int(self.of_sequence[members[0]]), np.repeat(columns.starts[members], lengths) + within


def per_sequence(add: np.ufunc, values: NDArray[Any], block: Block, empty: float = 0) -> NDArray[Any]:
    """Reduce the tokens of each sequence of a block; `empty` for a sequence without tokens."""
    found = np.full(len(block.lengths), empty, values.dtype)
    has_tokens = block.lengths > 0
    if has_tokens.any():
        starts = np.cumsum(block.lengths) - block.lengths
        found[has_tokens] = add.reduceat(values, starts[has_tokens])
    return found


def statistics(columns: TokenColumns, flat: NDArray[np.floating], groups: Groups) -> Statistics:
    """Compute mean and deviation over every value of each group that is not NULL, those of protected tokens included.

    The same values must give the same mask on any machine, and a parallel sum depends in its last bits on who adds what first. So each
    sequence is added up by itself, and these sums in the order of sequence_id. Equality is tested on the values: a rounded mean would
    leave a tiny deviation to divide by.

    Returns:
        mean and factor of each group; NaN means where a group has no value.
    """

    def sums(block: Block) -> tuple[NDArray[Any], ...]:
        values = flat[block.tokens]
        has_value = ~np.isnan(values)
        counts = per_sequence(np.add, has_value.astype(np.int64), block)
        totals = per_sequence(np.add, np.where(has_value, values, 0).astype(np.float64), block)
        return counts, totals, per_sequence(np.fmin, values, block, np.nan), per_sequence(np.fmax, values, block, np.nan)

    counts, totals, low, high = (np.concatenate(parts) for parts in zip(*columns.each(sums), strict=True))
    num_values, total = _group_sums(columns, groups, counts.astype(np.float64)), _group_sums(columns, groups, totals)
    means = np.divide(total, num_values, out=np.full(groups.num, np.nan), where=num_values > 0)

    def squares(block: Block) -> NDArray[Any]:
        deviations = flat[block.tokens] - groups.per_token(block, means)  # float64
        return per_sequence(np.add, np.nan_to_num(deviations * deviations, nan=0.0, posinf=np.inf), block)

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


def twice_ranks(columns: TokenColumns, flat: NDArray[np.floating], groups: Groups) -> tuple[NDArray[np.uint32], Integers]:
    """Rank a column in its groups.

    Returns:
        twice the average rank from 1 of equal values, an exact integer, 0 where the value is NULL, [T]; values of each group.
    """
    twice = np.zeros(len(flat), np.uint32)
    sizes = np.zeros(groups.num, np.int64)
    if groups.over == "response":

        def rank(block: Block) -> None:
            for rows in responses(block.lengths):
                values_RN = rows.take(flat[block.tokens])
                first_RN, last_RN = ranks_in_rows(values_RN)
                sizes[block.sequences][rows.rows] = np.count_nonzero(~np.isnan(values_RN), axis=1)
                rows.put(twice[block.tokens], np.where(np.isnan(values_RN), 0, first_RN + last_RN))

        columns.each(rank)
        return twice, sizes
    for group, tokens in groups.tokens(columns):
        for places, first, last in ranks_of_all(flat[tokens]):
            twice[places if isinstance(tokens, slice) else tokens[places]] = first + last
            sizes[group] += len(places)
    return twice, sizes


def _is_order_alone(settings: PolicySettings, expression: Expression) -> bool:
    """Whether tokens are only compared with others of their response, by sums of directional columns.

    Then the weight of the pair and the means are the same for all that are compared, and are left out: a weight of 1e-80, that of a pair with
    a large margin, would drown the differences in the means.

    Returns:
        whether it is so.
    """
    compared = settings.scope == "response" and settings.threshold is None and settings.expression is None
    names = {name.removeprefix("zscore_") for name in expression.columns}
    return compared and names <= set(DIRECTIONAL)


class ValueScores:
    """Scores by value, of blocks of tokens; NaN where a token has none."""

    def __init__(self, columns: TokenColumns, settings: PolicySettings) -> None:
        """Read and normalise the columns that the policy names."""
        self._columns, self._settings = columns, settings
        self._expression = settings.checked_expression()
        self._groups = Groups.make(columns, settings.normalize_over)
        self._order_alone = columns.weights is not None and _is_order_alone(settings, self._expression)
        self._statistics: dict[str, Statistics] = {}
        self._sizes: dict[str, Integers] = {}
        wanted: dict[str, set[str]] = {}
        for name in self._expression.columns:
            form, _, column = name.partition("_")
            form, column = (form, column) if form in ("zscore", "rank") else ("none", name)
            wanted.setdefault(column, set()).add(form)
        with ThreadPoolExecutor(columns.num_workers if columns.num_tokens <= _MANY_TOKENS else 1) as pool:
            prepared = []
            for column, forms in wanted.items():
                flat = columns.read_values(column)
                prepared.append(pool.submit(self._prepare, column, flat, forms))
                del flat
                if columns.num_tokens > _MANY_TOKENS:
                    wait(prepared)
            for future in prepared:
                future.result()
        if settings.window > 1:
            read_positions(columns)
        self._con = duckdb.connect(config=CLOSED | {"threads": 1})
        # A macro takes no parameters. Its body is a sum of names from our own tables, or what DuckDB printed of a tree that was checked
        # node by node (expressions.py); the weights are parameters of the statement that calls it.
        parameters = ", ".join([*KNOWN, *(f"weight_{column}" for column in COLUMNS)])
        self._con.execute(f"CREATE MACRO mask_score({parameters}) AS ({self._expression.text})")
        self._weights = {column: settings.weights.get(column, 0.0) / settings.scale() for column in COLUMNS}

    def _prepare(self, column: str, flat: NDArray[np.float32], forms: set[str]) -> None:
        values = self._columns.weighted(column, flat)
        if "zscore" in forms:
            self._statistics[column] = statistics(self._columns, values, self._groups)
        if "rank" in forms:  # within a response a weight changes no rank, and the values as stored have few enough bits to be packed
            ranked = flat if self._groups.over == "response" else values
            twice, self._sizes[column] = twice_ranks(self._columns, ranked, self._groups)
            self._columns.keep(f"rank_{column}", twice)
        if forms != {"rank"}:
            self._columns.keep(column, flat if self._order_alone else values)

    def close(self) -> None:
        """Close the database of the expression."""
        self._con.close()

    def of(self, block: Block) -> Floats:
        """Compute the scores of a block, rounded: sums that are equal on paper (the ranks 0.2 + 0.4 and 0 + 0.6) differ in the last of 53 bits.

        37 bits keep apart whatever 24-bit values keep apart.

        Returns:
            [T], NaN where the expression is NULL or not a number of at most 1e300 in size.
        """
        scores = self._evaluate(block)
        scores[~(np.abs(scores) <= 1e300)] = np.nan
        if self._settings.window > 1:
            scores = pooled(scores, block, self._columns.of("positions", block), self._settings.window // 2)
        return to_37_bits(scores)

    def _evaluate(self, block: Block) -> Floats:
        absent = pa.nulls(block.num_tokens, pa.float64())  # one for all that the expression does not name
        values = {name: pa.array(self._column(name, block), from_pandas=True) for name in self._expression.columns}
        cursor = self._con.cursor()
        cursor.register("token", pa.table({name: values.get(name, absent) for name in KNOWN}))
        found = cursor.sql(sql.load("masks/score_tokens"), params=self._weights).to_arrow_table()
        scores: Floats = found.column(0).combine_chunks().to_numpy(zero_copy_only=False)
        return scores if scores.flags.writeable else scores.copy()

    def _column(self, name: str, block: Block) -> Floats:
        if name.startswith("rank_"):
            twice = self._columns.of(name, block)
            others = self._groups.per_token(block, self._sizes[name.removeprefix("rank_")] - 1)
            ranks: Floats = (twice / 2 - 1) / np.where(others > 0, others, np.nan)
            ranks[np.broadcast_to(others == 0, ranks.shape)] = 0.5
            ranks[twice == 0] = np.nan
            return ranks
        if name.startswith("zscore_"):
            column = name.removeprefix("zscore_")
            found = self._statistics[column]
            means = 0.0 if self._order_alone else self._groups.per_token(block, found.means)
            values: Floats = self._columns.of(column, block) - np.asarray(means, np.float64)
            values *= self._groups.per_token(block, found.factors)
            return values
        stored: Floats = self._columns.of(name, block).astype(np.float64)
        return stored


class RandomScores:
    """Scores at random: 37 bits of a keyed digest of (seed, sequence_id, position), so that an append never reshuffles others.

    The key is 64 bits of the MD5 of "seed:sequence_id"; SplitMix64 digests the position with it. NaN where the token has no loss.
    """

    def __init__(self, columns: TokenColumns, settings: PolicySettings) -> None:
        self._columns = columns
        columns.keep("adapt_direct", columns.read_values("adapt_direct"))
        read_positions(columns)
        keys = columns.warehouse.run("masks/read_keys", seed=str(settings.seed)).fetchnumpy()["key"]
        self._keys = np.asarray(keys, dtype=np.uint64)

    def close(self) -> None:
        """Nothing is open."""

    def of(self, block: Block) -> Floats:
        """Compute the scores of a block."""
        positions = self._columns.of("positions", block).astype(np.uint64)
        mixed = block.per_token(self._keys[block.sequences]) + (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        scores: Floats = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(27)).astype(np.float64)
        scores[np.isnan(self._columns.of("adapt_direct", block))] = np.nan
        return scores


AnyScores = ValueScores | RandomScores


def read_positions(columns: TokenColumns) -> None:
    """Put the response positions aside."""
    columns.keep("positions", columns.read("masks/read_positions", np.zeros(columns.num_tokens, np.int32)))


def to_37_bits(scores: Floats) -> Floats:
    """Round to 37 bits (Veltkamp)."""
    wide = scores * 65537
    return wide - (wide - scores)
