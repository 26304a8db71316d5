"""The arithmetic of a mask (DESIGN 3.6): from stored values to flags and weights of every response token.

Total order: score from high to low, then position, then sequence_id. Kept are the highest of each scope, the minimum of each response, and
the protected tokens. Within a response everything happens block by block; wider scopes need the scores of all tokens at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from warehouse import contamination
from warehouse.blocks import Block
from warehouse.contamination import Contamination
from warehouse.groups import Groups, parts_of, per_sequence
from warehouse.policy_settings import PolicySettings
from warehouse.ranking import ranked
from warehouse.scores import AnyScores, RandomScores, ValueScores, read_positions, to_37_bits
from warehouse.selection import Floats, Integers, highest, kth_highest, num_of_share, ranks_in_rows, responses
from warehouse.token_columns import T, TokenColumns


@dataclass(frozen=True)
class Mask:
    """A computed mask.

    Attributes:
        columns: whose tokens.
        keep: whether a token is kept, [T].
        weights: of a soft policy: 0 where a token is not kept, [T]; None for a hard one.
        found: what `keep: auto` found; None for another policy.
    """

    columns: TokenColumns
    keep: NDArray[np.bool_]
    weights: NDArray[np.float32] | None
    found: Contamination | None = None

    def rows(self) -> pa.Table:
        """Give the rows of record.mask_values, with `place` for the sequence."""
        schema = pa.schema([
            ("place", pa.int64()), ("keep", pa.list_(pa.bool_())), ("weight", pa.list_(pa.float32())),
            ("num_tokens", pa.uint32()), ("num_kept", pa.uint32()),
        ])  # fmt: skip
        return pa.Table.from_batches(self._batches(schema), schema)

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        first = 0
        for block in self.columns.blocks():
            offsets = pa.array(np.concatenate([[0], np.cumsum(block.lengths)]).astype(np.int32))
            keep = self.keep[block.tokens]
            num_kept = per_sequence(np.add, keep.astype(np.uint32), block)
            weight = pa.nulls(len(block.lengths), pa.list_(pa.float32()))
            if self.weights is not None:
                weight = pa.ListArray.from_arrays(offsets, pa.array(self.weights[block.tokens]))
            places = pa.array(np.arange(first, first + len(block.lengths)))
            lists = pa.ListArray.from_arrays(offsets, pa.array(keep))
            counts = (pa.array(block.lengths.astype(np.uint32)), pa.array(num_kept))
            yield pa.RecordBatch.from_arrays([places, lists, weight, *counts], schema=schema)
            first += len(block.lengths)


@dataclass(frozen=True)
class HeldOut:
    """The validation set, valued as training data are, and read.

    Attributes:
        columns: its sequences with the columns that the policy names.
        protected: which of its tokens are protected.
    """

    columns: TokenColumns
    protected: NDArray[np.bool_]

    @classmethod
    def read(cls, columns: TokenColumns, settings: PolicySettings) -> "HeldOut":
        """Read what the policy names, while mask_sequences holds the validation set."""
        columns.read_values(settings.stored_columns())
        if settings.window > 1:
            read_positions(columns)
        return cls(columns, _protected(columns, settings))


def compute(columns: TokenColumns, settings: PolicySettings, held_out: HeldOut | None = None) -> Mask:
    """Compute the mask of the sequences in mask_sequences.

    Args:
        columns: of these sequences.
        settings: what the policy does.
        held_out: what `keep: auto` compares with.

    Returns:
        the mask.

    Raises:
        ValueError: no token has a score that could be compared.
    """
    if settings.select == "all" or columns.num_tokens == 0:
        return Mask(columns, np.ones(columns.num_tokens, np.bool_), np.zeros(0, np.float32) if settings.gives_weights else None)
    protected = _protected(columns, settings)
    counts, found = None, None
    by_value = ValueScores(columns, settings) if settings.reads_values else None
    if held_out is not None and by_value is not None:
        found = _compare(columns, by_value, protected, held_out, settings)
        threshold = -_LARGEST_SCORE if found.threshold is None else found.threshold * settings.scale()
        settings = replace(settings, keep=1.0, threshold=threshold)
        found = replace(found, threshold=None if found.threshold is None else threshold)
    if by_value is not None and settings.select == "random":  # as many as by value
        counts = np.concatenate([_no_counts(), *columns.each(lambda block: _num_reaching(by_value, settings, block, protected))])
    scores = by_value if by_value is not None and settings.select == "value" else RandomScores(columns, settings)
    selection = _Selection(columns, settings, scores, protected, counts)
    keep, weights = selection.of_responses() if settings.scope == "response" else selection.of_groups()
    if settings.soft == "score":
        weights = np.concatenate([
            np.empty(0, np.float32),
            *columns.each(lambda block: _as_weights(scores.of(block) * settings.scale())),
        ])
        keep &= weights > 0
    keep |= protected
    if weights is not None:
        weights[protected] = 1
        weights[~keep] = 0
    return Mask(columns, keep, weights, found)


_LARGEST_SCORE = 1e300 / 65537
"""Beyond all scores, and still rounded without overflow."""


def _compare(
    columns: TokenColumns, scores: ValueScores, protected: NDArray[np.bool_], held_out: HeldOut, settings: PolicySettings
) -> Contamination:
    """Compare the scores of eligible training tokens with those of the validation set."""
    others = ValueScores(held_out.columns, settings, among=scores)
    clean = np.concatenate([np.empty(0), *held_out.columns.each(others.of)])[~held_out.protected]

    def count(edges: Floats) -> Integers:
        counts = np.zeros(len(edges) + 1, np.int64)
        for of_block in columns.each(lambda block: _between(edges, scores.of(block)[~protected[block.tokens]])):
            counts += of_block
        return counts

    return contamination.compare(count, clean[~np.isnan(clean)])


def _as_weights(scores: Floats) -> NDArray[np.float32]:
    return np.clip(np.nan_to_num(scores, nan=0.0), 0, 1).astype(np.float32)


def _between(edges: Floats, scores: Floats) -> Integers:
    return np.bincount(np.searchsorted(edges, scores[~np.isnan(scores)], "right"), minlength=len(edges) + 1)


def _no_counts() -> Integers:
    return np.zeros(0, np.int64)


def _protected(columns: TokenColumns, settings: PolicySettings) -> NDArray[np.bool_]:
    protected = np.zeros(columns.num_tokens, np.bool_)
    if settings.protect_end_of_turn:
        found = columns.warehouse.run("masks/read_protected", first_row=columns.stored.first_rows["contents"]).fetchnumpy()
        protected[columns.starts[np.asarray(found["place"])] + np.asarray(found["token"]) - 1] = True
    return protected


def _threshold(settings: PolicySettings) -> float:
    """Return the threshold in units of the scores, rounded as they are."""
    assert settings.threshold is not None, "asked for only where there is one"
    return float(to_37_bits(np.array([settings.threshold / settings.scale()]))[0])


def _num_reaching(scores: AnyScores, settings: PolicySettings, block: Block, protected: NDArray[np.bool_]) -> Integers:
    reaches = (scores.of(block) >= _threshold(settings)) & ~protected[block.tokens]
    return per_sequence(np.add, reaches.astype(np.int64), block)


class _Selection:
    """One selection: scores, how many are kept, and which."""

    def __init__(
        self, columns: TokenColumns, settings: PolicySettings, scores: AnyScores, protected: NDArray[np.bool_], counts: Integers | None
    ) -> None:
        self.columns, self.settings, self.scores, self.protected, self.counts = columns, settings, scores, protected, counts
        self.keep = np.zeros(columns.num_tokens, np.bool_)
        self.weights = np.zeros(columns.num_tokens, np.float32) if settings.soft == "rank" else None

    def of_responses(self) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
        """Select in each response; returns (keep, weights)."""
        self.columns.each(self._of_block)
        return self.keep, self.weights

    def _eligible(self, block: Block) -> Floats:
        scores = self.scores.of(block)
        scores[self.protected[block.tokens]] = np.nan
        return scores

    def _of_block(self, block: Block) -> None:
        scores = self._eligible(block)
        counts = None if self.counts is None else self.counts[block.sequences]
        for rows in responses(block.lengths):
            scores_RN = rows.take(scores)
            num_eligible_R = np.count_nonzero(~np.isnan(scores_RN), axis=1)
            num_kept_R = self._num_kept(scores_RN, num_eligible_R, None if counts is None else counts[rows.rows])
            rows.put(self.keep[block.tokens], highest(scores_RN, np.maximum(num_kept_R, self.settings.min_kept)))
            if self.weights is not None:
                _, last_RN = ranks_in_rows(scores_RN)
                rows.put(self.weights[block.tokens], last_RN / np.maximum(num_eligible_R, 1)[:, None])

    def _num_kept(self, scores_RN: Floats, num_eligible_R: Integers, counts_R: Integers | None) -> Integers:
        if counts_R is not None:
            return counts_R
        if self.settings.threshold is not None:
            reaching_R: Integers = np.count_nonzero(scores_RN >= _threshold(self.settings), axis=1)
            return reaching_R
        assert self.settings.keep != "auto", "auto became a threshold"
        return num_of_share(self.settings.keep, num_eligible_R)

    def of_groups(self) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
        """Select in sources or the data set; returns (keep, weights)."""
        self.columns.fill("scores", np.float64, self._eligible)
        groups = Groups.make(self.columns, self.settings.scope)
        counts = None if self.counts is None else np.bincount(groups.of_sequence, self.counts, groups.num).astype(np.int64)
        for group, blocks in groups.members(self.columns):
            self._of_group(blocks, None if counts is None else int(counts[group]))
        self._keep_minimum()
        return self.keep, self.weights

    def _read(self, block: Block) -> Floats:
        scores: Floats = self.columns.of("scores", block)
        return scores

    def _of_group(self, blocks: Callable[[], Iterator[Block]], count: int | None) -> None:
        def each(work: Callable[[Floats], T]) -> list[T]:
            return self.columns.each(lambda block: work(self._read(block)), blocks())

        size = sum(each(lambda scores: int(np.count_nonzero(~np.isnan(scores)))))
        num_kept = min(self._num_of_group(each, size) if count is None else count, size)
        if num_kept:
            threshold, num_above, num_tied = kth_highest(each, size, num_kept)
            fits = num_above + num_tied == num_kept

            def keep(block: Block) -> None:
                scores = self._read(block)
                self.keep[block.tokens] = scores >= threshold if fits else scores > threshold

            self.columns.each(keep, blocks())
            if not fits:
                self._keep_tied(blocks, threshold, num_kept - num_above)
        if self.weights is not None:
            for places, _, last in ranked(parts_of(blocks, self._read), self.columns.num_tokens):
                self.weights[places] = last / size

    def _num_of_group(self, each: Callable[[Callable[[Floats], int]], list[int]], size: int) -> int:
        if self.settings.threshold is not None:
            threshold = _threshold(self.settings)
            return sum(each(lambda scores: int(np.count_nonzero(scores >= threshold))))
        assert self.settings.keep != "auto", "auto became a threshold"
        return int(num_of_share(self.settings.keep, np.array(size)))

    def _keep_tied(self, blocks: Callable[[], Iterator[Block]], threshold: float, room: int) -> None:
        """Keep the first `room` of the tokens with a score of `threshold` by position, then sequence_id."""
        read_positions(self.columns)

        def tied() -> Iterator[tuple[Block, Integers, NDArray[np.int32]]]:
            for block in blocks():
                found = np.flatnonzero(self._read(block) == threshold)
                yield block, found, self.columns.of("positions", block)[found]

        counts = np.zeros(1, np.int64)
        for _, _, positions in tied():
            more = np.bincount(positions, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        last = int(np.searchsorted(np.cumsum(counts), room))  # the position at which there is no room for all
        numbers, tokens = [], []
        for block, found, positions in tied():
            self.keep[block.indices(found[positions < last])] = True
            at_last = found[positions == last]
            tokens.append(block.indices(at_last))
            numbers.append(block.per_token(self.columns.numbers[block.sequences])[at_last])
        first = np.argsort(np.concatenate(numbers))[: room - int(counts[:last].sum())]
        self.keep[np.concatenate(tokens)[first]] = True

    def _keep_minimum(self) -> None:
        """Keep the `min_kept` highest of the responses that have fewer: both rules keep a beginning of the response's own order."""

        def keep_more(block: Block) -> None:
            lacking = np.flatnonzero(per_sequence(np.add, self.keep[block.tokens].astype(np.int64), block) < self.settings.min_kept)
            if not len(lacking):
                return
            scores = self.columns.of("scores", block)
            for rows in responses(block.lengths, lacking):
                rows.put(self.keep[block.tokens], highest(rows.take(scores), np.full(len(rows.rows), self.settings.min_kept)))

        self.columns.each(keep_more)
