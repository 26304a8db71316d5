"""Scores of tokens under a policy: stored columns normalised by vectorised arithmetic, put together by the policy's SQL expression.

The expression, ours or a user's, is evaluated by DuckDB on flat columns in a database of its own that has nothing in it.
"""

from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from warehouse import sql
from warehouse.blocks import Block
from warehouse.expressions import Expression, connect_closed
from warehouse.groups import Groups, Statistics, statistics, twice_ranks, twice_ranks_among
from warehouse.policy_settings import COLUMNS, DIRECTIONAL, KNOWN, PolicySettings
from warehouse.pooling import pooled
from warehouse.selection import Floats, Integers
from warehouse.token_columns import TokenColumns, by_group

_MANY_TOKENS = 1 << 26
"""Beyond that many tokens, columns are normalised one after the other: ranking one takes 4 bytes per token and half a gigabyte."""


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

    def __init__(self, columns: TokenColumns, settings: PolicySettings, among: "ValueScores | None" = None) -> None:
        """Read and normalise the columns that the policy names.

        Args:
            columns: where the columns are put aside.
            settings: the policy.
            among: take means, deviations and ranks beyond a response from these scores, of other tokens; the columns are read then.
        """
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
            for group, stored in by_group(wanted).items():
                if among is None:
                    columns.read_group(group, stored)
                prepared += [pool.submit(self._prepare, column, wanted[column], among) for column in stored.values()]
                if columns.num_tokens > _MANY_TOKENS:
                    wait(prepared)
            for future in prepared:
                future.result()
        if settings.window > 1 and among is None:
            read_positions(columns)
        # A macro's body takes no parameters. It is a sum of names from our own tables, or what DuckDB printed of a tree that was checked
        # node by node (expressions.py); the weights are parameters of the statement that calls it.
        parameters = ", ".join([*KNOWN, *(f"weight_{column}" for column in COLUMNS)])
        self._macro = f"CREATE TEMP MACRO mask_score({parameters}) AS ({self._expression.text})"
        self._weights = {column: settings.weights.get(column, 0.0) / settings.scale() for column in COLUMNS}

    def _prepare(self, column: str, forms: set[str], among: "ValueScores | None") -> None:
        if among is not None and self._groups.over != "response":
            self._prepare_among(column, forms, among)
            return
        if "zscore" in forms:
            self._statistics[column] = statistics(self._columns, partial(self._columns.values, column), self._groups)
        if "rank" in forms:  # within a response a weight changes no rank, and the values as stored have few enough bits to be packed
            ranked_values = self._columns.of if self._groups.over == "response" else self._columns.values
            twice, self._sizes[column] = twice_ranks(self._columns, partial(ranked_values, column), self._groups)
            self._columns.keep(f"rank_{column}", twice)
        if forms == {"rank"} and not self._settings.compares:
            self._columns.drop(column)

    def _prepare_among(self, column: str, forms: set[str], others: "ValueScores") -> None:
        if "zscore" in forms:
            self._statistics[column] = others._statistics[column]
        if "rank" in forms:
            read, read_others = (partial(one._columns.values, column) for one in (self, others))
            self._columns.keep(f"rank_{column}", twice_ranks_among(self._columns, read, others._columns, read_others))
            self._sizes[column] = others._sizes[column]

    def _values(self, column: str, block: Block) -> NDArray[np.floating]:
        """Give a column as the score takes it: without ω where only the order counts."""
        return self._columns.of(column, block) if self._order_alone else self._columns.values(column, block)

    def of(self, block: Block) -> Floats:
        """Compute the scores of a block, rounded: sums that are equal on paper (the ranks 0.2 + 0.4 and 0 + 0.6) differ in the last of 53 bits.

        37 bits keep apart whatever 24-bit values keep apart.

        Returns:
            [T], NaN where the expression is NULL or not a number of at most 1e300 in size.
        """
        scores = self._evaluate(block)
        finite = np.abs(scores) <= 1e300
        if not finite.all():
            scores[~finite] = np.nan
        if self._settings.window > 1:
            scores = pooled(scores, block, self._columns.of("positions", block), self._settings.window // 2)
        return to_37_bits(scores)

    def _evaluate(self, block: Block) -> Floats:
        absent = pa.nulls(block.num_tokens, pa.float64())  # one for all that the expression does not name
        values = {name: _nullable(self._column(name, block)) for name in self._expression.columns}
        with connect_closed() as con:
            con.execute(self._macro)
            con.register("token", pa.table({name: values.get(name, absent) for name in KNOWN}))
            scores: Floats = np.ma.filled(con.execute(sql.load("masks/score_tokens"), self._weights).fetchnumpy()["score"], np.nan)
        return scores

    def _column(self, name: str, block: Block) -> NDArray[np.floating]:
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
            values: Floats = np.subtract(self._values(column, block), means, dtype=np.float64)
            values *= self._groups.per_token(block, found.factors)
            return values
        return self._values(name, block)


class RandomScores:
    """Scores at random: 37 bits of a keyed digest of (seed, sequence_id, position), so that an append never reshuffles others.

    The key is 64 bits of the MD5 of "seed:sequence_id"; SplitMix64 digests the position with it. NaN where the token has no loss.
    """

    def __init__(self, columns: TokenColumns, settings: PolicySettings) -> None:
        self._columns = columns
        columns.read_values(["adapt_direct"])
        read_positions(columns)
        keys = columns.warehouse.run("masks/read_keys", seed=str(settings.seed)).fetchnumpy()["key"]
        self._keys = np.asarray(keys, dtype=np.uint64)

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
    """Put the response positions aside, where they are not yet."""
    if not columns.holds("positions"):
        columns.read({"response_positions": "positions"}, "masks/read_positions", np.int32, first_row=columns.stored.first_rows["contents"])


def to_37_bits(scores: Floats) -> Floats:
    """Round to 37 bits (Veltkamp)."""
    wide = scores * 65537
    return wide - (wide - scores)


def _nullable(values: NDArray[np.floating]) -> pa.Array:
    """Wrap values; NaN becomes NULL. A search for NaN costs a tenth of the conversion that most columns do not need."""
    return pa.array(values, from_pandas=bool(np.isnan(values).any()))
