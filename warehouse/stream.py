"""Streams masked batches out of a release: documented order, sharded over ranks, resumed at a cursor without replay.

Order. The sequences of the mask's snapshot, sorted by (example_id, branch), each repeated by its example's multiplicity, number
n per epoch. Epoch e goes through `Generator(Philox(key=(seed, e))).permutation(n)`. Global batch k is the k-th run of
`batch_size * world_size` of them and rank r gets every `world_size`-th one from its r-th on, so that the global batches depend
on that product alone. The last global batch is partial where n is no multiple; nothing is dropped and nothing comes twice.

Every rank delivers the same number of batches, none of them without rows (a rank that waited for nothing would hang the others in
their collective step): where the last global batch has fewer sequences than there are ranks, the surplus ranks get one row of
filler, a single token 0 that attends to itself (a row that attends to nothing is NaN in some attention kernels), without labels
and without a sequence id. Sequences of which nothing is kept stay in their place, with no label.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from warehouse import sql

_IGNORED_LABEL = -100
"""Label of a position that the loss leaves out (the convention of transformers)."""

_ROWS_PER_READ = 8192
"""Rows fetched at once: one row group."""


@dataclass(frozen=True, order=True)
class Cursor:
    """A place in the stream: the next batch to deliver. Batch number i of a whole run is `Cursor(*divmod(i, num_batches))`.

    Attributes:
        epoch: pass over the data, from 0.
        batch: batch within the epoch, from 0.
    """

    epoch: int
    batch: int


@dataclass(frozen=True)
class MaskedBatch:
    """Padded sequences with the labels that the mask leaves. The arrays are made for this batch and belong to the consumer.

    Attributes:
        input_ids: int64, [B, T]; right-padded with 0.
        attention_mask: int64, [B, T]; 1 on tokens, 0 on padding.
        labels: int64, [B, T]; the token itself where the mask keeps it, -100 elsewhere and on padding.
        sequence_ids: the sequence of each row; empty for a row of filler.
        num_supervised: tokens of this batch that the store says have a loss, from SQL: kept, at a position above 0.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    labels: NDArray[np.int64]
    sequence_ids: tuple[str, ...]
    num_supervised: int


class MaskedStream:
    """Masked batches of one mask for one rank.

    All tokens are read once, when the stream is made, into flat arrays of 5 bytes per token (100 MB for 20 million tokens);
    afterwards the connection is not needed.

    Attributes:
        num_batches: batches per epoch, the same on every rank.
        num_sequences: sequences per epoch over all ranks, duplicates counted.
        num_supervised_tokens: tokens with a loss per epoch over all ranks, from SQL: kept, at a position above 0, duplicates counted.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, mask_id: str, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Read a mask and its sequences.

        Args:
            con: connection to a release, or to any warehouse nobody writes meanwhile; read only.
            mask_id: the mask to train on.
            batch_size: sequences per batch and rank.
            seed: seed of the order, from 0 to 2**64 - 1.
            rank: which share to deliver, from 0.
            world_size: number of shares.

        Raises:
            ValueError: a number out of range; a mask that is unknown, has no sequences or does not decide on all of them.
        """
        if batch_size < 1 or not 0 <= rank < world_size or not 0 <= seed < 2**64:
            raise ValueError(
                f"stream: batch_size {batch_size} (at least 1), rank {rank} (from 0 to world_size - 1), world_size {world_size}, "
                f"seed {seed} (from 0 to 2**64 - 1)"
            )
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._rows_per_step = batch_size * world_size
        _check_mask(con, mask_id)
        self._tokens = _read_tokens(con, mask_id)
        self._order = _read_order(con, mask_id, self._tokens)
        self.num_sequences = len(self._order)
        if self.num_sequences == 0:
            raise ValueError(f"mask {mask_id}: its snapshot has no sequences; see the view rejected_rows for the reasons")
        self.num_batches = -(-self.num_sequences // self._rows_per_step)
        self.num_supervised_tokens = int(_query(con, "stream/count_supervised", mask_id).fetchall()[0][0])

    def batches(self, cursor: Cursor = Cursor(0, 0), epochs: int | None = None) -> Iterator[tuple[MaskedBatch, Cursor]]:
        """Deliver batches from a cursor on; the same cursor always gives the same next batches, at no cost.

        Args:
            cursor: the next batch to deliver.
            epochs: epochs of the whole run, those before the cursor included; None = endless.

        Yields:
            (batch, cursor after it).

        Raises:
            ValueError: the cursor is outside of an epoch.
        """
        if cursor.epoch < 0 or not 0 <= cursor.batch < self.num_batches:
            raise ValueError(f"{cursor} is no place in this stream: an epoch has batches 0 to {self.num_batches - 1}")
        epoch, first = cursor.epoch, cursor.batch
        while epochs is None or epoch < epochs:
            order = self._order[_permutation(self.num_sequences, self._seed, epoch)]
            for batch in range(first, self.num_batches):
                begin = batch * self._rows_per_step
                rows = order[begin + self._rank : min(begin + self._rows_per_step, len(order)) : self._world_size]
                after = Cursor(epoch, batch + 1) if batch + 1 < self.num_batches else Cursor(epoch + 1, 0)
                yield self._tokens.batch(rows), after
            epoch, first = epoch + 1, 0


@dataclass(frozen=True)
class _Tokens:
    """All sequences of a mask behind one another; sequence i has the tokens from offsets[i] to offsets[i + 1].

    Attributes:
        sequence_ids: the sequences, each once.
        offsets: int64, one more than sequences.
        token_ids: int32, one per token.
        keep: bool, one per token; whether the mask keeps it (False for prompts).
        num_supervised: int64, one per sequence, from SQL.
    """

    sequence_ids: pa.Array
    offsets: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    keep: NDArray[np.bool_]
    num_supervised: NDArray[np.int64]

    def batch(self, rows: NDArray[np.int64]) -> MaskedBatch:
        """Pad some sequences to the longest of them; a row of filler where there are none."""
        if len(rows) == 0:
            filler = np.zeros((1, 1), dtype=np.int64)
            return MaskedBatch(filler, np.ones_like(filler), np.full_like(filler, _IGNORED_LABEL), (), 0)
        begins, ends = self.offsets[rows], self.offsets[rows + 1]
        shape = (len(rows), int((ends - begins).max()))
        input_ids = np.zeros(shape, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, _IGNORED_LABEL, dtype=np.int64)
        for row, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            length = end - begin
            input_ids[row, :length] = self.token_ids[begin:end]
            attention_mask[row, :length] = 1
            np.copyto(labels[row, :length], self.token_ids[begin:end], where=self.keep[begin:end])
        sequence_ids = tuple(self.sequence_ids.take(pa.array(rows)).to_pylist())
        return MaskedBatch(input_ids, attention_mask, labels, sequence_ids, int(self.num_supervised[rows].sum()))


def _permutation(num_sequences: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Draw the order of an epoch: Philox with the key (seed, epoch), so that no epoch needs the ones before it."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))).permutation(num_sequences)


def _query(con: duckdb.DuckDBPyConnection, name: str, mask_id: str) -> Any:
    """Make a relation, not a result: DuckDB hands its rows to Arrow without another copy (untyped, as pyarrow is)."""
    return con.sql(sql.load(name), params={"mask_id": mask_id})


def _check_mask(con: duckdb.DuckDBPyConnection, mask_id: str) -> None:
    """Refuse a mask that is unknown, or that leaves a sequence of its snapshot undecided.

    Raises:
        ValueError: so it is; names the known masks, or the first sequence.
    """
    known = con.execute(sql.load("stream/known_masks")).fetchall()
    if mask_id not in {row[0] for row in known}:
        names = ", ".join(f"{identity} ({policy})" for identity, policy in known) or "none; make one first"
        raise ValueError(f"there is no mask {mask_id} in this warehouse; it has: {names}")
    if offending := _query(con, "stream/check_mask", mask_id).fetchall():
        example_id, branch, sequence_id, num_tokens, num_flags = offending[0]
        raise ValueError(
            f"mask {mask_id} does not decide on {len(offending)} sequences, the first is {sequence_id} (example {example_id}, {branch}): "
            f"{num_flags or 0} keep flags, or some of them NULL, for {num_tokens or 0} response tokens; make the mask again"
        )


def _read_order(con: duckdb.DuckDBPyConnection, mask_id: str, tokens: _Tokens) -> NDArray[np.int64]:
    """Read which sequences an epoch has before it is shuffled: int64 places in `tokens`, duplicates repeated."""
    table = _query(con, "stream/order", mask_id).to_arrow_table()
    places = pc.index_in(table["sequence_id"], value_set=tokens.sequence_ids).to_numpy().astype(np.int64)
    return np.repeat(places, table["multiplicity"].to_numpy())


def _read_tokens(con: duckdb.DuckDBPyConnection, mask_id: str) -> _Tokens:
    """Read the tokens and flags of a mask's sequences, a row group at a time."""
    sequence_ids, lengths, token_ids, keep, num_supervised = [], [], [], [], []
    for rows in _query(con, "stream/tokens", mask_id).to_arrow_reader(_ROWS_PER_READ):
        lengths.append(_lengths(rows["token_ids"]))
        flat_token_ids = rows["token_ids"].flatten().to_numpy()
        begins = np.cumsum(lengths[-1]) - lengths[-1]
        flags = np.zeros(len(flat_token_ids), dtype=np.bool_)
        flags[np.repeat(begins, _lengths(rows["kept_positions"])) + rows["kept_positions"].flatten().to_numpy()] = True
        token_ids.append(flat_token_ids)
        keep.append(flags)
        sequence_ids.append(rows["sequence_id"])
        num_supervised.append(rows["num_supervised"].to_numpy())
    empty = np.zeros(0, dtype=np.int64)
    return _Tokens(
        pa.concat_arrays(sequence_ids) if sequence_ids else pa.array([], pa.string()),
        np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate([*lengths, empty]))]),
        np.concatenate([*token_ids, empty.astype(np.int32)]),
        np.concatenate([*keep, empty.astype(np.bool_)]),
        np.concatenate([*num_supervised, empty]),
    )


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    return np.asarray(lists.value_lengths().to_numpy(), dtype=np.int64)
